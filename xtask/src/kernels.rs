//! `cargo xtask kernels`: the eBPF object on other kernels than this machine's own.
//!
//! Debian's cloud kernels are fetched as packages (with a private apt configuration, unpacked, never installed) and
//! booted under QEMU with an initial file system made here: busybox, the programs to run, their libraries and the
//! few kernel modules that attachments and tests need. The guests share nothing with this machine; results come back over a
//! second serial port. What a kernel lacks is written here, and the tests of that are skipped there by name; any other
//! test that does not run is a failure.

mod debian;
mod guest;
mod newc;
mod suite;

use std::path::Path;

use anyhow::{Result, bail};

use crate::bpf;
use crate::shell::step;
use crate::toolchain::Toolchain;
use guest::{File, Guest};
use suite::Suite;

/// A kernel line the datapath must load on.
struct Kernel {
    /// As users name it.
    line: &'static str,
    /// Debian's suites that have it, newest package first.
    suites: &'static [&'static str],
    /// What it has not: a test says `skipped: this kernel has no …`.
    lacks: &'static [&'static str],
}

const KERNELS: &[Kernel] = &[
    Kernel { line: "6.1", suites: &["debian bookworm", "debian-security bookworm-security"], lacks: &["TCX"] },
    Kernel { line: "6.12", suites: &["debian bookworm-backports"], lacks: &[] },
];

/// Loads the object and runs the tests on each of these kernel lines, on all when none is named. Where tests are named, only those
/// run, or those of their tests whose names contain `filter`, and nothing is loaded for its figures.
pub fn check(toolchain: &Toolchain, lines: &[String], tests: &[String], filter: &str) -> Result<()> {
    for line in lines {
        if !KERNELS.iter().any(|kernel| kernel.line == line) {
            let known: Vec<_> = KERNELS.iter().map(|kernel| kernel.line).collect();
            bail!("no kernel `{line}` is set up here; there are {}", known.join(", "));
        }
    }
    let object = bpf::build(toolchain)?;
    let suite = Suite::build(&object, tests, filter)?;
    let mut failed = Vec::new();
    for kernel in KERNELS.iter().filter(|kernel| lines.is_empty() || lines.iter().any(|line| line == kernel.line)) {
        let outcome = step(&format!("kernel {}", kernel.line), || on_kernel(kernel, &object, &suite, tests.is_empty()));
        if let Err(why) = outcome {
            eprintln!("error: kernel {}: {why:#}", kernel.line);
            failed.push(kernel.line);
        }
    }
    if !failed.is_empty() {
        bail!("failed on {}", failed.join(", "));
    }
    Ok(())
}

fn on_kernel(kernel: &Kernel, object: &Path, suite: &Suite, all: bool) -> Result<()> {
    let image = debian::image(kernel.line, kernel.suites)?;
    let guest = Guest::new(&image, kernel.line)?;
    if all {
        verify(&guest, object, &suite.checker)?;
    }
    let mut failed = Vec::new();
    for test in &suite.tests {
        if let Err(why) = suite.run(&guest, test, kernel.lacks) {
            println!("    FAILED");
            failed.push(format!("{}: {why:#}", test.name));
        }
    }
    if !failed.is_empty() {
        bail!("{}", failed.join("\n"));
    }
    Ok(())
}

/// Loads each program alone, and shows what that took.
fn verify(guest: &Guest<'_>, object: &Path, checker: &Path) -> Result<()> {
    let answer = guest.run(&[File::in_bin(checker), File::in_bin(object)], "bpf-check /bin/cilium.o")?;
    if answer.status != 0 {
        bail!("bpf-check ended with {} on Linux {}:\n{}", answer.status, answer.release, bpf::refusals(&answer.output));
    }
    let programs = bpf::parse_loaded(&answer.output)?;
    for program in &programs {
        println!(
            "  {:<32} {:>8} instructions verified, {:>4} bytes of stack",
            program.program, program.verified, program.stack
        );
    }
    let largest = programs.iter().max_by_key(|program| program.verified);
    let largest = largest.map_or_else(String::new, |one| format!("; the largest, {}, {}", one.program, one.verified));
    println!("Linux {}: {} programs load{largest} instructions verified", answer.release, programs.len());
    Ok(())
}
