use serde_json::{Value, json};

use super::{packages, violations};

/// `cargo metadata` of a workspace with one package, which names these folders of ours and these outside crates.
fn workspace(folder: &str, ours: &[&str], others: &[&str]) -> Value {
    let ours = ours.iter().map(|path| json!({ "name": "ours", "path": format!("/ws/{path}"), "kind": null }));
    let others = others.iter().map(|name| json!({ "name": name, "kind": "dev" }));
    let dependencies: Vec<_> = ours.chain(others).collect();
    json!({ "packages": [{ "manifest_path": format!("/ws/{folder}/Cargo.toml"), "dependencies": dependencies }] })
}

fn broken(folder: &str, ours: &[&str], others: &[&str]) -> usize {
    violations(&packages(&workspace(folder, ours, others), "/ws").expect("the metadata is well formed")).len()
}

#[test]
fn planted_violations_are_caught() {
    for (folder, ours, others) in [
        ("core/abi", &["core/machine"][..], &[][..]),
        ("core/types", &["core/table"], &[]),
        ("core/ipam", &["core/policy"], &[]),
        ("core/datapath", &["core/types"], &[]),
        ("core/lb", &["io-tokio/runtime"], &[]),
        ("core/agent", &["core/operator"], &[]),
        ("datapath-ebpf/programs", &["core/policy"], &[]),
        ("hubble/model", &["hubble/server"], &[]),
        ("io-tokio/agent", &["sim-tests"], &[]),
        ("core/identity", &[], &["tokio"]),
        ("hubble/model", &[], &["tokio-stream"]),
        ("hubble/api", &[], &["tokio"]),
        ("cni/netconf", &[], &["kube-client"]),
        ("io-tokio/agent", &[], &["aya"]),
        ("core/datapath", &[], &["aya-ebpf"]),
        ("elsewhere", &["core/abi"], &[]),
    ] {
        assert_eq!(broken(folder, ours, others), 1, "{folder} -> {ours:?} {others:?}");
    }
}

#[test]
fn the_designs_own_edges_are_allowed() {
    for (folder, ours, others) in [
        ("core/wire", &["core/machine"][..], &["zerocopy"][..]),
        ("core/policy", &["core/types", "core/machine", "core/table", "core/abi"], &["serde"]),
        ("core/agent", &["core/policy", "core/ipam", "core/machine"], &[]),
        ("datapath-ebpf/programs", &["core/abi", "core/wire", "core/datapath"], &["aya-ebpf"]),
        ("datapath-ebpf/loader", &["core/abi", "datapath-sim"], &["aya"]),
        ("io-tokio/bpf", &["datapath-ebpf/loader", "core/agent"], &["aya", "tokio"]),
        ("hubble/api", &[], &["tonic", "tonic-prost"]),
        ("cni/plugin", &["cni/netconf", "io-tokio/api"], &["tokio"]),
        ("sim-tests", &["core/agent", "datapath-sim"], &["turmoil", "tokio"]),
        ("benches", &["hubble/relay", "hubble/cli"], &["tokio", "tonic"]),
        ("core/machine", &["core/machine"], &[]),
    ] {
        assert_eq!(broken(folder, ours, others), 0, "{folder} -> {ours:?} {others:?}");
    }
}
