//! The useful part of a verifier log: what was refused, and the instructions that led there.

use std::fmt;

/// Instructions and states kept before the error.
const CONTEXT_LINES: usize = 24;

/// Why the verifier refused a program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// The line that states the error, such as `R2 !read_ok`.
    pub error: String,
    /// The last instructions before it.
    pub context: Vec<String>,
    /// What was processed: `processed 12031 insns (limit 1000000) …`.
    pub stats: Option<String>,
    /// The kernel's error.
    pub errno: String,
    /// The whole log, for debugging.
    pub log: String,
}

impl Rejection {
    /// Reads the log the kernel gave.
    pub fn parse(errno: String, log: &str) -> Self {
        let mut lines: Vec<&str> = log.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
        let is_stats = |line: &&str| line.starts_with("processed ") && line.contains(" insns");
        let stats = lines.iter().rposition(is_stats).map(|at| {
            let line = lines[at].to_owned();
            lines.truncate(at);
            line
        });
        // With stats asked for, these two come after the error and before the figures.
        lines.retain(|line| !line.starts_with("verification time ") && !line.starts_with("stack depth "));
        let error = lines.pop().unwrap_or("the kernel gave no reason").to_owned();
        let from = lines.len().saturating_sub(CONTEXT_LINES);
        let context = lines.split_off(from).into_iter().map(str::to_owned).collect();
        Self { error, context, stats, errno, log: log.to_owned() }
    }
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.error, self.errno)?;
        if let Some(stats) = &self.stats {
            write!(f, "\n  {stats}")?;
        }
        if !self.context.is_empty() {
            write!(f, "\n  the last instructions before it:")?;
        }
        self.context.iter().try_for_each(|line| write!(f, "\n    {line}"))
    }
}

/// What the log of an accepted program says (log level 4).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Instructions the verifier walked.
    pub verified_insns: u64,
    /// Bytes of stack: the sum over the program and its subprograms.
    pub stack_bytes: u64,
    /// Most states it kept at once.
    pub peak_states: u64,
    /// Time it took, in microseconds.
    pub verification_us: u64,
}

impl Figures {
    /// Reads the figures; what is missing stays zero.
    pub fn parse(log: &str) -> Self {
        let mut out = Self::default();
        for line in log.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            let after = |name: &str| {
                let at = words.iter().position(|w| *w == name)?;
                words.get(at + 1)?.parse::<u64>().ok()
            };
            if line.starts_with("stack depth ") {
                out.stack_bytes =
                    words.get(2).map_or(0, |sum| sum.split('+').filter_map(|n| n.parse::<u64>().ok()).sum());
            } else if line.starts_with("verification time ") {
                out.verification_us = after("time").unwrap_or_default();
            } else if line.starts_with("processed ") {
                out.verified_insns = after("processed").unwrap_or_default();
                out.peak_states = after("peak_states").unwrap_or_default();
            }
        }
        out
    }
}

#[cfg(test)]
mod tests;
