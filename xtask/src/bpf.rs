//! `cargo xtask bpf`: builds the eBPF object, refuses what must not be in it, and compares its cost with the budget.
//!
//! The object lies at `<target>/bpf/cilium.o`. Building and checking it needs no root; loading it, for the verified
//! instruction counts, does.

mod budget;
mod object;

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::shell::{cargo, is_root, root, run, target_dir};
use crate::toolchain::Toolchain;

pub use budget::Budget;

/// Where the built object lies.
pub fn object_path() -> PathBuf {
    target_dir().join("bpf/cilium.o")
}

/// Builds the programs and puts the object in its place if nothing forbidden is in it.
pub fn build(toolchain: &Toolchain) -> Result<PathBuf> {
    build_to(toolchain, &mut std::io::stdout())
}

/// The same, with what there is to say said there.
pub fn build_to(toolchain: &Toolchain, said: &mut dyn std::io::Write) -> Result<PathBuf> {
    let mut command = toolchain.cargo("bpf-build");
    command.current_dir(root().join("datapath-ebpf/programs")).args(["build", "--release"]);
    if std::env::var_os("CI").is_some() {
        command.arg("--locked");
    }
    run(&mut command).with_context(|| toolchain.compiler.by_hand(&command))?;
    let built = target_dir().join("bpf-build/bpfel-unknown-none/release/cilium");
    let bytes = std::fs::read(&built).with_context(|| format!("cannot read {}", built.display()))?;
    let contents = object::inspect(&bytes)?;
    if !contents.forbidden.is_empty() {
        bail!("the object calls what programs must not call:\n  {}", contents.forbidden.join("\n  "));
    }
    let path = object_path();
    std::fs::create_dir_all(path.parent().expect("the object lies in a folder"))?;
    // Renamed into place: a loader that reads meanwhile sees the old object or the new one.
    let part = path.with_extension("part");
    std::fs::write(&part, &bytes)?;
    std::fs::rename(&part, &path)?;
    writeln!(said, "{}: {} bytes, {} programs", path.display(), bytes.len(), contents.programs.len())?;
    Ok(path)
}

/// Builds, then loads every program and compares instructions and stack with the committed budget.
///
/// `accept` writes the budget anew from what was measured.
pub fn check(toolchain: &Toolchain, accept: bool) -> Result<()> {
    let path = build(toolchain)?;
    let contents = object::inspect(&std::fs::read(&path)?)?;
    let loaded = match load(&path)? {
        Some(loaded) => loaded,
        None => return Ok(()),
    };
    let measured = budget::Measured::new(&contents, &loaded)?;
    let file = root().join("datapath-ebpf/budget.json");
    let linux = std::fs::read_to_string("/proc/sys/kernel/osrelease").context("which kernel this is")?;
    let with = budget::MeasuredWith::new(&linux, &toolchain.compiler.release);
    if accept {
        std::fs::write(&file, Budget::from_measured(&measured, with.clone()).to_json()?)?;
        println!("wrote {}", file.display());
    }
    let budget = Budget::read(&file)?;
    print!("{}", measured.table(&budget));
    if budget.measured_with != with {
        let (then, now) = (&budget.measured_with, &with);
        println!(
            "the budget is of Linux {} and rustc {}; with Linux {} and rustc {} instructions are shown and not compared",
            then.linux, then.rustc, now.linux, now.rustc
        );
    }
    let excess = measured.excess(&budget, &with);
    if !excess.is_empty() {
        bail!(
            "over budget (make it cheaper, or accept it with `cargo xtask bpf --accept` and say why in the commit):\n  {}",
            excess.join("\n  ")
        );
    }
    Ok(())
}

/// Verified instructions by program, as the kernel counted them; `None`, said aloud, where loading is impossible.
fn load(path: &std::path::Path) -> Result<Option<Vec<budget::Loaded>>> {
    if !is_root() {
        if std::env::var_os("CI").is_some() {
            bail!("CI must load the programs, which needs root");
        }
        println!("skipped: loading the programs and comparing with the budget (this is not root)");
        return Ok(None);
    }
    run(cargo().args(["build", "--quiet", "--package", "cilium-datapath-loader", "--bin", "bpf-check"]))?;
    let checked =
        Command::new(target_dir().join("debug/bpf-check")).arg(path).output().context("cannot start bpf-check")?;
    let json = String::from_utf8_lossy(&checked.stdout);
    match checked.status.code() {
        Some(0) => parse_loaded(&json).map(Some),
        Some(1) => bail!("the kernel refuses programs:\n{}", refusals(&json)),
        _ => bail!("bpf-check: {}: {}", checked.status, String::from_utf8_lossy(&checked.stderr).trim_end()),
    }
}

/// What `bpf-check` said of refused programs, in lines that fit a terminal.
pub fn refusals(json: &str) -> String {
    let programs: Vec<serde_json::Value> = serde_json::from_str(json).unwrap_or_default();
    let mut told = String::new();
    for program in programs {
        let (Some(name), Some(error)) = (program["program"].as_str(), program["error"].as_str()) else { continue };
        told.push_str(name);
        for line in error.lines() {
            told.push_str("\n  ");
            told.extend(line.chars().take(160));
        }
        told.push('\n');
    }
    if told.is_empty() { json.to_owned() } else { told }
}

/// Reads what `bpf-check` printed.
pub fn parse_loaded(json: &str) -> Result<Vec<budget::Loaded>> {
    serde_json::from_str(json).with_context(|| format!("bpf-check printed {json}"))
}
