//! `cargo xtask kernels`: the eBPF object on other kernels than this machine's own.
//!
//! Debian's cloud kernels are fetched as packages (with a private apt configuration, unpacked, never installed) and
//! booted under QEMU with an initial file system made here: busybox, the programs to run, their libraries and the
//! few kernel modules that eBPF attachment needs. The guests share nothing with this machine; results come back over a
//! second serial port.

mod debian;
mod guest;
mod newc;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::bpf;
use crate::shell::{cargo, output, run, step, target_dir, which};
use crate::toolchain::Toolchain;

const LOADER: &str = "cilium-datapath-loader";

/// Packets for each program in the equivalence test on a guest.
const PACKETS: u32 = 2000;

/// A kernel line the datapath must load on.
struct Kernel {
    /// As users name it.
    line: &'static str,
    /// Debian's suites that have it, newest package first.
    suites: &'static [&'static str],
}

const KERNELS: &[Kernel] = &[
    Kernel { line: "6.1", suites: &["debian bookworm", "debian-security bookworm-security"] },
    Kernel { line: "6.12", suites: &["debian bookworm-backports"] },
];

/// Loads the object on each of these kernel lines; on all when none is named.
pub fn check(toolchain: &Toolchain, lines: &[String]) -> Result<()> {
    for line in lines {
        if !KERNELS.iter().any(|kernel| kernel.line == line) {
            let known: Vec<_> = KERNELS.iter().map(|kernel| kernel.line).collect();
            bail!("no kernel `{line}` is set up here; there are {}", known.join(", "));
        }
    }
    let object = bpf::build(toolchain)?;
    run(cargo().args(["build", "--quiet", "--package", LOADER, "--bin", "bpf-check"]))?;
    let checker = target_dir().join("debug/bpf-check");
    let tests = test_programs()?;
    let mut failed = Vec::new();
    for kernel in KERNELS.iter().filter(|kernel| lines.is_empty() || lines.iter().any(|line| line == kernel.line)) {
        let outcome = step(&format!("kernel {}", kernel.line), || on_kernel(kernel, &object, &checker, &tests));
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

/// The loader's test programs that need a kernel.
fn test_programs() -> Result<Vec<PathBuf>> {
    let messages = output(cargo().args([
        "test",
        "--quiet",
        "--package",
        LOADER,
        "--test",
        "*",
        "--no-run",
        "--message-format=json",
    ]))?;
    let executable = |line: &str| -> Option<PathBuf> {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        Some(PathBuf::from(message["executable"].as_str()?))
    };
    Ok(messages
        .lines()
        .filter_map(executable)
        .filter(|path| path.parent().is_some_and(|dir| dir.ends_with("deps")))
        .collect())
}

fn on_kernel(kernel: &Kernel, object: &Path, checker: &Path, tests: &[PathBuf]) -> Result<()> {
    let image = debian::image(kernel.line, kernel.suites)?;
    let guest = guest::Guest::new(&image, kernel.line)?;
    let answer = guest.run(&[checker, object], "bpf-check /bin/cilium.o")?;
    if answer.status != 0 {
        bail!("bpf-check ended with {} on Linux {}:\n{}", answer.status, answer.release, bpf::refusals(&answer.output));
    }
    let programs = bpf::parse_loaded(&answer.output)?;
    println!("Linux {}: {} programs load", answer.release, programs.len());
    for program in &programs {
        println!(
            "  {:<32} {:>8} instructions verified, {:>4} bytes of stack",
            program.program, program.verified, program.stack
        );
    }
    let mut files = vec![object];
    let tools: Vec<_> = ["ip", "tc"].iter().filter_map(|tool| which(tool)).collect();
    files.extend(tools.iter().chain(tests).map(PathBuf::as_path));
    let mut failed = Vec::new();
    for test in tests {
        let name = test.file_name().and_then(|name| name.to_str()).context("a test program has a name")?;
        // Emulation is slow: the equivalence test compares enough packets to meet every branch, not its full number.
        let line = format!(
            "CILIUM_BPF_OBJECT=/bin/cilium.o EQUIVALENCE_PACKETS={PACKETS} {name} --test-threads=1 --nocapture 2>&1"
        );
        let answer = guest.run(&files, &line)?;
        if answer.status != 0 {
            failed.push(format!("{name} ended with {}:\n{}", answer.status, answer.output));
            continue;
        }
        println!("  {name}");
        let told = |line: &&str| line.contains("skipped: ") || line.starts_with("test result");
        answer.output.lines().filter(told).for_each(|line| println!("    {line}"));
    }
    if !failed.is_empty() {
        bail!("Linux {}: {}", kernel.line, failed.join("\n"));
    }
    Ok(())
}
