//! What happened, boiled down to one number, so that two runs can be compared.

use std::fmt::{self, Write};

/// A running hash (FNV-1a, 64 bits) of everything recorded, and the last lines for whoever has to look into a failure.
#[derive(Debug, Clone)]
pub struct Trace {
    hash: u64,
    recent: std::collections::VecDeque<String>,
    keep: usize,
}

impl Trace {
    /// An empty trace that keeps the last `keep` lines.
    pub fn new(keep: usize) -> Self {
        Self { hash: 0xcbf2_9ce4_8422_2325, recent: std::collections::VecDeque::new(), keep }
    }

    /// Records one line.
    pub fn record(&mut self, line: fmt::Arguments<'_>) {
        if self.keep == 0 {
            // Hashing needs no buffer; writing to a hasher cannot fail.
            let _ = Hasher(&mut self.hash).write_fmt(line);
            return;
        }
        let text = line.to_string();
        let _ = Hasher(&mut self.hash).write_str(&text);
        if self.recent.len() == self.keep {
            self.recent.pop_front();
        }
        self.recent.push_back(text);
    }

    /// The hash of all lines so far.
    pub fn hash(&self) -> u64 {
        self.hash
    }
    /// The last lines.
    pub fn recent(&self) -> impl Iterator<Item = &str> {
        self.recent.iter().map(String::as_str)
    }
}

struct Hasher<'a>(&'a mut u64);

impl Write for Hasher<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        *self.0 = text.bytes().fold(*self.0, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
        Ok(())
    }
}
