//! `cargo xtask bench`: what is measured, in one table with the aims beside it.
//!
//! Each program that measures load balancing is run as it is, built for release, and its own output shown. A line that is
//! a JSON object is shown as names and values. A program that is not in the workspace is named and left out.

use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::shell::{cargo, metadata, shown};
use crate::toolchain::Toolchain;

/// A program that measures.
struct Program {
    /// What it measures.
    title: &'static str,
    /// Its package.
    package: &'static str,
    /// Its name, and whether it is an example or a benchmark.
    target: (&'static str, &'static str),
    /// What others measured, and what is aimed at (the issue's table).
    aims: &'static [&'static str],
}

/// The programs, in the order of the table. Another one is one more entry.
const LOAD_BALANCING: &[Program] = &[
    Program {
        title: "connections a second through a service",
        package: "cilium-datapath-loader",
        target: ("example", "connects"),
        aims: &[
            "socket LB with 1 / 1,000 / 10,000 services: aim at least 0.97 of direct at each",
            "elsewhere: nftables 0.68 / 0.70 / 0.67, iptables 0.63 / 0.46 / 0.11",
        ],
    },
    Program {
        title: "services into the kernel",
        package: "cilium-io-bpf",
        target: ("example", "load_services"),
        aims: &[
            "10,000 services loaded: aim 500 ms (nftables 17.5 s, iptables-nft 13.8 s)",
            "one service changed: aim 1 ms (0.6-0.8 s)",
        ],
    },
    Program {
        title: "nanoseconds a packet",
        package: "cilium-datapath-loader",
        target: ("example", "measure"),
        aims: &[
            "XDP IPIP DSR established / 64k flows / new: aim 60 / 120 / 500 (Katran 63 / 124-146 / 870, Cilium 112 / 200 / 770)",
            "XDP NodePort SNAT established / new: aim 100 / 1,200 (Cilium 193 / 3,230)",
            "tc NodePort SNAT established: aim 170 (Cilium 278)",
            "pod egress with service and policy, established / new: aim 140 / 350 (Cilium 233 / 580)",
        ],
    },
    Program {
        title: "Maglev tables",
        package: "cilium-benches",
        target: ("bench", "maglev"),
        aims: &[
            "M=16381, 100 / 1,000 backends; M=131071, 1,000: aim 0.3 / 0.35 / 3 ms (Cilium 10.6 / 107 / 787, Katran 0.35 / 0.40 / 3.8)",
            "1,000 services of 100 backends, one core: aim 0.25 s (Cilium 11.1 s)",
        ],
    },
];

/// Measures load balancing.
pub fn load_balancing(toolchain: &Toolchain) -> Result<()> {
    crate::bpf::build(toolchain)?;
    let known = targets()?;
    let mut failed = Vec::new();
    for program in LOAD_BALANCING {
        println!("\n{}", program.title);
        program.aims.iter().for_each(|aim| println!("  {aim}"));
        let (kind, name) = program.target;
        if !known.iter().any(|(package, of, target)| {
            (package.as_str(), of.as_str(), target.as_str()) == (program.package, kind, name)
        }) {
            println!("  skipped: {} has no {kind} `{name}`", program.package);
            continue;
        }
        if let Err(why) = run(program) {
            println!("  failed: {why:#}");
            failed.push(name);
        }
    }
    if failed.is_empty() { Ok(()) } else { bail!("not measured: {}", failed.join(", ")) }
}

fn run(program: &Program) -> Result<()> {
    let (kind, name) = program.target;
    let mut command = cargo();
    match kind {
        "bench" => command.args(["bench", "--quiet", "--package", program.package, "--bench", name]),
        _ => command.args(["run", "--quiet", "--release", "--package", program.package, "--example", name]),
    };
    let text = captured(&mut command)?;
    text.lines().for_each(|line| println!("  {}", row(line)));
    Ok(())
}

/// Runs with errors on the terminal; hands back what it printed.
fn captured(command: &mut Command) -> Result<String> {
    let line = shown(command);
    let out = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output();
    let out = out.with_context(|| format!("cannot start `{line}`"))?;
    if !out.status.success() {
        bail!("`{line}` failed: {}", out.status);
    }
    String::from_utf8(out.stdout).with_context(|| format!("`{line}` printed something that is not UTF-8"))
}

/// A line of output: an object as `name value` pairs, anything else as it is.
fn row(line: &str) -> String {
    match serde_json::from_str::<Value>(line) {
        Ok(Value::Object(members)) => {
            let shown = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            members.iter().map(|(name, value)| format!("{name} {}", shown(value))).collect::<Vec<_>>().join(", ")
        }
        _ => line.to_owned(),
    }
}

/// Package, kind and name of every example and benchmark.
fn targets() -> Result<Vec<(String, String, String)>> {
    let metadata = metadata()?;
    let packages = metadata["packages"].as_array().context("cargo metadata has no packages")?;
    let of = |package: &Value| {
        let name = package["name"].as_str().unwrap_or_default().to_owned();
        let list = package["targets"].as_array().cloned().unwrap_or_default();
        list.into_iter().map(move |target| {
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            (name.clone(), text(&target["kind"][0]), text(&target["name"]))
        })
    };
    Ok(packages.iter().flat_map(of).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_become_pairs_and_other_lines_stay() {
        assert_eq!(row(r#"{"ratio":0.98,"way":"socket LB"}"#), "ratio 0.98, way socket LB");
        assert_eq!(row("cil_from_container  120 ns"), "cil_from_container  120 ns");
        assert_eq!(row("[1]"), "[1]");
    }
}
