//! `cargo xtask test`: everything there is to test, in one command, with the time of each step.
//!
//! A failed step does not hide the later ones; the end lists which failed.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::shell::{cargo, is_root, root, run, step};
use crate::{bare, bpf, forward, layers, setup};

/// Seeds of the cluster simulation in one run.
const SEEDS: u32 = 200;

/// The steps so far.
#[derive(Default)]
struct Report {
    steps: Vec<(&'static str, Duration, bool)>,
}

impl Report {
    fn step(&mut self, name: &'static str, work: impl FnOnce() -> Result<()>) {
        let began = Instant::now();
        let result = step(name, work);
        if let Err(why) = &result {
            eprintln!("error: {name}: {why:#}");
        }
        self.steps.push((name, began.elapsed(), result.is_ok()));
    }
}

/// Runs all steps.
pub fn all() -> Result<()> {
    let mut report = Report::default();
    let toolchain = step("setup", setup::ensure)?;
    if !is_root() {
        println!("this is not root: tests that load eBPF or make network namespaces say `skipped` and why");
    }
    report.step("layers", layers::check);
    report.step("bpf object and budget", || bpf::check(&toolchain, false));
    report.step("tests", || {
        // The equivalence tests load the object built in the step before.
        run(cargo()
            .args(["test", "--workspace", "--quiet", "--no-fail-fast"])
            .env("CILIUM_BPF_OBJECT", bpf::object_path()))
    });
    report.step("bare target", || bare::build(&toolchain.compiler));
    report.step("cluster simulation", || {
        forward::sim(&["--seed".into(), "1".into(), "--seeds".into(), SEEDS.to_string()])
    });
    println!();
    for (name, took, passed) in &report.steps {
        println!("{:>8.1} s  {}  {name}", took.as_secs_f32(), if *passed { "ok    " } else { "FAILED" });
    }
    let failed: Vec<_> = report.steps.iter().filter(|(_, _, passed)| !passed).map(|(name, ..)| *name).collect();
    if !failed.is_empty() {
        bail!("failed: {}", failed.join(", "));
    }
    Ok(())
}

/// What a change must pass: the script that the project's own gate runs.
pub fn ci() -> Result<()> {
    run(&mut Command::new(root().join(".ci/run")))
}
