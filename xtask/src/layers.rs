//! `cargo xtask layers`: the dependency law, read from `cargo metadata` and never from a list kept by hand.
//!
//! A package's place in the tree says what it may depend on. Development dependencies are under the same law: a test
//! that needs a runtime belongs to the ring that has one.

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::shell::{metadata, metadata_of, root};

/// What stands below everything else in core.
const BASE: &[&str] = &["core/abi", "core/kv", "core/machine", "core/types", "core/wire", "core/table"];

/// Nothing may depend on these.
const TOP: &[&str] = &["sim-tests", "benches", "xtask"];

/// Who may name an outside crate of the first list (whole names, or the part before a dash).
const WRAPPED: &[(&[&str], &[&str])] = &[
    (
        &["tokio"],
        &[
            "io-tokio",
            "hubble/transport",
            "hubble/server",
            "hubble/relay",
            "hubble/cli",
            "hubble/ui",
            "cni/plugin",
            "sim-tests",
            "benches",
        ],
    ),
    (
        &["tonic"],
        &[
            "io-tokio",
            "hubble/transport",
            "hubble/server",
            "hubble/relay",
            "hubble/cli",
            "hubble/ui",
            "hubble/api",
            "cni/plugin",
            "sim-tests",
            "benches",
        ],
    ),
    (&["kube"], &["io-tokio", "hubble/server", "hubble/relay", "hubble/cli", "hubble/ui", "cni/plugin", "sim-tests"]),
    (&["aya"], &["datapath-ebpf", "io-tokio/bpf"]),
];

/// A package and what it names.
#[derive(Debug)]
struct Package {
    /// Its folder, relative to the workspace's root.
    folder: String,
    /// Folders of ours it depends on.
    ours: Vec<String>,
    /// Names of everything else it depends on.
    others: Vec<String>,
}

/// Checks the workspace and the eBPF programs beside it.
pub fn check() -> Result<()> {
    let root = root();
    let programs = metadata_of(&root.join("datapath-ebpf/programs"))?;
    let root = root.to_string_lossy();
    let mut packages = packages(&metadata()?, &root)?;
    packages.extend(self::packages(&programs, &root)?);
    let found = violations(&packages);
    if !found.is_empty() {
        bail!("the dependency law is broken:\n  {}", found.join("\n  "));
    }
    println!("layers: {} packages keep the dependency law", packages.len());
    Ok(())
}

/// The workspace's packages out of `cargo metadata`.
fn packages(metadata: &Value, root: &str) -> Result<Vec<Package>> {
    let folder = |path: &str| path.strip_prefix(root).unwrap_or(path).trim_start_matches('/').to_owned();
    let list = metadata["packages"].as_array().context("cargo metadata has no packages")?;
    list.iter()
        .map(|package| {
            let manifest = package["manifest_path"].as_str().context("a package has no manifest_path")?;
            let dependencies = package["dependencies"].as_array().context("a package has no dependencies")?;
            let (mut ours, mut others) = (Vec::new(), Vec::new());
            for dependency in dependencies {
                match dependency["path"].as_str() {
                    Some(path) => ours.push(folder(path)),
                    None => others.push(dependency["name"].as_str().context("a dependency has no name")?.to_owned()),
                }
            }
            Ok(Package { folder: folder(manifest.trim_end_matches("Cargo.toml").trim_end_matches('/')), ours, others })
        })
        .collect()
}

fn violations(packages: &[Package]) -> Vec<String> {
    let mut found = Vec::new();
    for package in packages {
        let from = package.folder.as_str();
        for to in &package.ours {
            if let Err(law) = may_depend(from, to) {
                found.push(format!("{from} depends on {to}: {law}"));
            }
        }
        for name in &package.others {
            for (wrapped, owners) in WRAPPED {
                let is_wrapped = wrapped.iter().any(|crate_| {
                    name == crate_ || name.strip_prefix(crate_).is_some_and(|rest| rest.starts_with('-'))
                });
                if is_wrapped && !owners.iter().any(|owner| is_within(from, owner)) {
                    found.push(format!("{from} depends on {name}: only {} may", owners.join(", ")));
                }
            }
        }
    }
    found
}

fn is_within(folder: &str, owner: &str) -> bool {
    folder == owner || folder.strip_prefix(owner).is_some_and(|rest| rest.starts_with('/'))
}

/// The law for one edge between packages of ours.
fn may_depend(from: &str, to: &str) -> Result<(), &'static str> {
    let law = |holds: bool, law: &'static str| if holds { Ok(()) } else { Err(law) };
    // A package may name itself to switch on its own test kit.
    if from == to {
        return Ok(());
    }
    law(!TOP.contains(&to), "nothing depends on simulations, benchmarks or developer tasks")?;
    match from {
        "core/abi" | "core/machine" => Err("it depends on nothing of ours"),
        "core/types" | "core/wire" | "core/kv" => law(to == "core/machine", "it depends on core/machine at most"),
        "core/table" => law(BASE.contains(&to), "it depends on core/{abi,kv,machine,types,wire} at most"),
        "core/datapath" | "datapath-ebpf/programs" => law(
            ["core/abi", "core/wire"].contains(&to) || from != "core/datapath" && to == "core/datapath",
            "packet code sees core/{abi,wire} (and the programs core/datapath) only",
        ),
        "core/agent" | "core/operator" => law(
            is_within(to, "core") && !["core/agent", "core/operator"].contains(&to),
            "a composed machine is made of core's other crates only",
        ),
        _ if is_within(from, "core") => {
            law(BASE.contains(&to), "a feature crate of core sees core/{abi,kv,machine,types,wire,table} only")
        }
        "datapath-ebpf/loader" | "datapath-sim" => {
            law(is_within(to, "core") || to == "datapath-sim", "it sees core and the simulated host only")
        }
        "cni/netconf" => law(is_within(to, "core"), "pure code sees core only"),
        "hubble/api" => Err("the protocol's types depend on nothing of ours"),
        "hubble/model" => law(is_within(to, "core") || to == "hubble/api", "pure code sees core and hubble/api only"),
        "sim-tests" | "benches" | "xtask" => Ok(()),
        _ if ["io-tokio", "hubble", "cni"].iter().any(|ring| is_within(from, ring)) => Ok(()),
        _ => Err("this folder has no place in the dependency law; give it one in xtask/src/layers.rs"),
    }
}

#[cfg(test)]
mod tests;
