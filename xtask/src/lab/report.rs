//! The tutorial's voice: what is done, what was seen, whether that is right.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use anyhow::{Result, bail};

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// From here on Ctrl-C and a polite kill end the lab at its next breath, and everything is taken down.
pub(super) fn hear_interrupts() {
    extern "C" fn note(_: libc::c_int) {
        INTERRUPTED.store(true, Ordering::Relaxed);
    }
    let handler = note as extern "C" fn(libc::c_int);
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        // SAFETY: the handler stores one atomic and does nothing else, which any thread may do at any time.
        unsafe { libc::signal(signal, handler as libc::sighandler_t) };
    }
}

/// An error once somebody has asked the lab to end.
pub(super) fn breathe() -> Result<()> {
    if INTERRUPTED.load(Ordering::Relaxed) { bail!("interrupted") } else { Ok(()) }
}

/// What passed and what did not.
pub(super) struct Report {
    began: Instant,
    steps: Vec<(String, bool)>,
    wrong: usize,
}

impl Report {
    pub(super) fn new() -> Self {
        Self { began: Instant::now(), steps: Vec::new(), wrong: 0 }
    }

    /// One step of the tutorial. A step that fails does not keep later ones from being tried; an interrupt does.
    pub(super) fn step(&mut self, title: &str, work: impl FnOnce(&mut Self) -> Result<()>) -> Result<()> {
        breathe()?;
        println!("\n── {}. {title}", self.steps.len() + 1);
        self.wrong = 0;
        let outcome = work(self);
        breathe()?;
        if let Err(why) = &outcome {
            println!("   error: {why:#}");
        }
        let passed = outcome.is_ok() && self.wrong == 0;
        println!("   {}", if passed { "PASS" } else { "FAIL" });
        self.steps.push((title.to_owned(), passed));
        Ok(())
    }

    /// What is explained before it is done.
    #[allow(clippy::unused_self, reason = "all of the tutorial's words go through here")]
    pub(super) fn say(&self, text: &str) {
        for line in text.lines() {
            println!("   {line}");
        }
    }

    /// What was seen, and whether it is what it should be.
    pub(super) fn saw(&mut self, right: bool, text: &str) {
        println!("   {} {text}", if right { "ok   " } else { "WRONG" });
        self.wrong += usize::from(!right);
    }

    pub(super) fn failed(&self) -> usize {
        self.steps.iter().filter(|(_, passed)| !passed).count()
    }

    /// The summary; returns the titles of the steps that failed.
    pub(super) fn conclude(&self) -> Vec<String> {
        println!();
        for (at, (title, passed)) in self.steps.iter().enumerate() {
            println!("{}  {:>2}. {title}", if *passed { "PASS" } else { "FAIL" }, at + 1);
        }
        let failed: Vec<String> =
            self.steps.iter().filter(|(_, passed)| !passed).map(|(title, _)| title.clone()).collect();
        let passed = self.steps.len() - failed.len();
        println!("{passed} of {} steps passed in {:.1} s", self.steps.len(), self.began.elapsed().as_secs_f32());
        failed
    }
}
