//! `cargo xtask bare`: compiles the pure crates for a target that has no operating system.
//!
//! `#![no_std]` alone does not keep std out: a dependency's feature can bring it back. Here there is none to bring.
//! Compiled, not turned into machine code: that is enough to find std, and this target has no vector registers,
//! without which the code generator gives up on one dependency (roaring).

use anyhow::{Context, Result};

use crate::shell::{metadata, root, run};
use crate::toolchain::Compiler;

const TARGET: &str = "x86_64-unknown-none";

/// The crates outside core that promise the same. (hubble/model holds protobuf types whose crate carries the gRPC
/// service code with it, and that needs std.)
const PURE: &[&str] = &["cni/netconf"];

/// Compiles every crate of core and [`PURE`] for [`TARGET`].
pub fn build(compiler: &Compiler) -> Result<()> {
    let names = names()?;
    let mut command = compiler.cargo("bare");
    command.args(["check", "--quiet", "--target", TARGET, "-Zbuild-std=core,alloc"]);
    for name in &names {
        command.args(["--package", name]);
    }
    run(&mut command).with_context(|| compiler.by_hand(&command))?;
    println!("bare: {} crates compile for {TARGET}: {}", names.len(), names.join(" "));
    Ok(())
}

fn names() -> Result<Vec<String>> {
    let (metadata, root) = (metadata()?, root());
    let mut names = Vec::new();
    for package in metadata["packages"].as_array().context("cargo metadata has no packages")? {
        let manifest = package["manifest_path"].as_str().context("a package has no manifest_path")?;
        let folder = std::path::Path::new(manifest).parent().and_then(|folder| folder.strip_prefix(&root).ok());
        let Some(folder) = folder else { continue };
        if folder.starts_with("core") || PURE.iter().any(|pure| folder == std::path::Path::new(pure)) {
            names.push(package["name"].as_str().context("a package has no name")?.to_owned());
        }
    }
    Ok(names)
}
