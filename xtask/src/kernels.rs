//! `cargo xtask kernels`: the eBPF object on other kernels than this machine's own.
//!
//! Debian's cloud kernels are fetched as packages (with a private apt configuration, unpacked, never installed) and
//! booted under QEMU with an initial file system made here: busybox, the programs to run, their libraries and the
//! few kernel modules that eBPF attachment needs. The guests share nothing with this machine; results come back over a
//! second serial port.

mod debian;
mod guest;
mod newc;

use std::path::Path;

use anyhow::{Result, bail};

use crate::bpf;
use crate::shell::{cargo, run, step, target_dir};
use crate::toolchain::Toolchain;

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
    run(cargo().args(["build", "--quiet", "--package", "cilium-datapath-loader", "--bin", "bpf-check"]))?;
    let checker = target_dir().join("debug/bpf-check");
    let mut failed = Vec::new();
    for kernel in KERNELS.iter().filter(|kernel| lines.is_empty() || lines.iter().any(|line| line == kernel.line)) {
        let outcome = step(&format!("kernel {}", kernel.line), || on_kernel(kernel, &object, &checker));
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

fn on_kernel(kernel: &Kernel, object: &Path, checker: &Path) -> Result<()> {
    let image = debian::image(kernel.line, kernel.suites)?;
    let guest = guest::Guest::new(&image, kernel.line)?;
    let answer = guest.run(&[checker, object], "/bin/bpf-check /bin/cilium.o")?;
    if answer.status != 0 {
        bail!("bpf-check ended with {} on Linux {}:\n{}", answer.status, answer.release, answer.output);
    }
    let programs = bpf::parse_loaded(&answer.output)?;
    println!("Linux {}: {} programs load", answer.release, programs.len());
    for program in &programs {
        println!(
            "  {:<32} {:>8} instructions verified, {:>4} bytes of stack",
            program.program, program.verified, program.stack
        );
    }
    Ok(())
}
