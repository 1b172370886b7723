//! Finds, and where it can installs, what compiles Rust to BPF.
//!
//! `core` for `bpfel-unknown-none` is built from source, so three things must fit together: a rustc, the library
//! sources *of that rustc*, and a bpf-linker made with the same major version of LLVM. What is built is cached per LLVM
//! version; nothing outside the cache folder is written here.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::shell::{cargo, output, run, shown, succeeds};

/// The version everything was measured with; a newer one is a decision, not an accident.
const BPF_LINKER: &str = "0.13.0";

/// Where Debian's `rustc-web` puts its compiler.
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";

/// A compiler with the sources of its own library.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compiler {
    /// The program to run, or the bare name `rustc` for the one rustup chooses.
    pub rustc: PathBuf,
    /// Such as `1.96.0`.
    pub release: String,
    /// LLVM's major version.
    pub llvm: u32,
}

impl fmt::Display for Compiler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} (LLVM {})", self.rustc.display(), self.release, self.llvm)
    }
}

/// Everything a BPF build needs.
#[derive(Debug)]
pub struct Toolchain {
    /// Compiler and library sources.
    pub compiler: Compiler,
    /// The matching linker.
    pub linker: PathBuf,
}

/// `release:` and `LLVM version:` out of `rustc -vV`.
fn versions(verbose: &str) -> Option<(String, u32)> {
    let field = |name: &str| verbose.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let llvm = field("LLVM version:")?.split('.').next()?.parse().ok()?;
    Some((field("release:")?.to_owned(), llvm))
}

/// Whether `release` (such as `1.96.0` or `1.97.0-nightly`) is at least the version the workspace asks for.
pub fn new_enough(release: &str) -> bool {
    let parse = |text: &str| {
        let mut parts = text.split(['.', '-', '+']).map_while(|part| part.parse::<u32>().ok());
        (parts.next().unwrap_or(0), parts.next().unwrap_or(0))
    };
    parse(release) >= parse(env!("CARGO_PKG_RUST_VERSION"))
}

/// The compiler at `rustc`, if it is there, new enough, and has its library's sources beside it.
fn compiler(rustc: &Path) -> Option<Compiler> {
    let verbose = output(Command::new(rustc).arg("-vV").env_remove("LD_LIBRARY_PATH")).ok()?;
    let (release, llvm) = versions(&verbose)?;
    let sysroot = output(Command::new(rustc).args(["--print", "sysroot"]).env_remove("LD_LIBRARY_PATH")).ok()?;
    let sources = Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/core/Cargo.toml");
    (new_enough(&release) && sources.is_file()).then(|| Compiler { rustc: rustc.to_path_buf(), release, llvm })
}

/// The compilers that could build `core`, the preferred one first.
pub fn compilers() -> Vec<Compiler> {
    let mut found: Vec<_> = ["rustc", DEBIAN_RUSTC].iter().filter_map(|rustc| compiler(Path::new(rustc))).collect();
    // One whose linker is already there costs nothing.
    found.sort_by_key(|compiler| cached_linker(compiler.llvm).is_none());
    found
}

/// A toolchain that needs nothing installed or built.
pub fn ready() -> Option<Toolchain> {
    compilers().into_iter().find_map(|compiler| {
        let linker = cached_linker(compiler.llvm)?;
        Some(Toolchain { compiler, linker })
    })
}

/// `${XDG_CACHE_HOME:-~/.cache}/cilium-rs`.
pub fn cache_dir() -> Result<PathBuf> {
    let base = match std::env::var_os("XDG_CACHE_HOME").filter(|dir| !dir.is_empty()) {
        Some(dir) => PathBuf::from(dir),
        None => {
            PathBuf::from(std::env::var_os("HOME").context("neither XDG_CACHE_HOME nor HOME is set")?).join(".cache")
        }
    };
    Ok(base.join("cilium-rs"))
}

fn linker_dir(llvm: u32) -> Result<PathBuf> {
    Ok(cache_dir()?.join(format!("bpf-linker-{BPF_LINKER}-llvm{llvm}")))
}

/// The linker made earlier for this LLVM, if it still runs (its LLVM library may have been removed since).
fn cached_linker(llvm: u32) -> Option<PathBuf> {
    let linker = linker_dir(llvm).ok()?.join("bin/bpf-linker");
    succeeds(Command::new(&linker).arg("--version").env_remove("LD_LIBRARY_PATH")).then_some(linker)
}

/// Where LLVM's development files of this major version lie.
pub fn llvm_prefix(llvm: u32) -> Option<PathBuf> {
    let named = std::env::var_os("LLVM_PREFIX").map(PathBuf::from);
    let usual = [format!("/usr/lib/llvm-{llvm}"), format!("/usr/lib64/llvm{llvm}"), "/usr".to_owned()];
    named.into_iter().chain(usual.map(PathBuf::from)).find(|prefix| {
        let config = prefix.join("bin/llvm-config");
        output(Command::new(config).arg("--version"))
            .is_ok_and(|version| version.trim().starts_with(&format!("{llvm}.")))
    })
}

/// The linker for this compiler: the cached one, else built now (about forty seconds on two cores).
pub fn linker_for(compiler: &Compiler) -> Result<PathBuf> {
    let llvm = compiler.llvm;
    if let Some(linker) = cached_linker(llvm) {
        return Ok(linker);
    }
    let Some(prefix) = llvm_prefix(llvm) else {
        bail!(
            "the development files of LLVM {llvm} are missing, which bpf-linker needs to fit {compiler}; on Debian and \
             Ubuntu: {}; elsewhere install them and set LLVM_PREFIX to the folder that has bin/llvm-config",
            llvm_packages(llvm).join(" ")
        );
    };
    let root = linker_dir(llvm)?;
    println!("setup: building bpf-linker {BPF_LINKER} against {} into {} (once)", prefix.display(), root.display());
    let path = std::env::join_paths(
        std::iter::once(prefix.join("bin")).chain(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())),
    )?;
    // Built beside the final place and moved there whole: an interrupted build leaves nothing that looks finished.
    let unfinished = root.with_extension("unfinished");
    let mut install = cargo();
    install
        .args(["install", "bpf-linker", "--version", BPF_LINKER, "--locked", "--no-default-features"])
        .args(["--features", &format!("llvm-{llvm}"), "--force", "--quiet", "--root"])
        .arg(&unfinished)
        // Outside the workspace: its .cargo/config.toml is not meant for this build.
        .current_dir("/")
        .env("CARGO_TARGET_DIR", unfinished.join("build"))
        .env("LLVM_PREFIX", &prefix)
        .env("RUSTFLAGS", format!("-L native={}", prefix.join("lib").display()))
        .env("PATH", path)
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .env_remove("CARGO_BUILD_TARGET");
    run(&mut install)?;
    std::fs::remove_dir_all(unfinished.join("build")).ok();
    std::fs::remove_dir_all(&root).ok();
    std::fs::rename(&unfinished, &root).with_context(|| format!("cannot move the linker to {}", root.display()))?;
    cached_linker(llvm).with_context(|| format!("{} was built but does not run", root.join("bin/bpf-linker").display()))
}

/// Debian's packages from which bpf-linker is built.
pub fn llvm_packages(llvm: u32) -> Vec<String> {
    let mut packages = vec![format!("llvm-{llvm}-dev"), format!("libpolly-{llvm}-dev")];
    packages.extend(["libzstd-dev", "libxml2-dev"].map(str::to_owned));
    packages
}

impl Toolchain {
    /// Cargo, driving this compiler for a target whose `core` is built from source.
    ///
    /// Nothing of the caller's environment that changes code generation reaches it, and its results lie apart.
    pub fn cargo(&self, results: &str) -> Command {
        let mut command = self.compiler.cargo(results);
        command.env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", &self.linker);
        command
    }
}

impl Compiler {
    /// As [`Toolchain::cargo`], for targets that need no BPF linker.
    pub fn cargo(&self, results: &str) -> Command {
        let mut command = cargo();
        command
            .env("RUSTC", &self.rustc)
            .env("RUSTC_BOOTSTRAP", "1")
            .env("CARGO_TARGET_DIR", crate::shell::target_dir().join(results))
            .env("CARGO_RESOLVER_INCOMPATIBLE_RUST_VERSIONS", "fallback");
        for ambient in
            ["RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "CARGO_BUILD_TARGET", "LD_LIBRARY_PATH", "RUSTC_WORKSPACE_WRAPPER"]
        {
            command.env_remove(ambient);
        }
        command
    }

    /// What a person would have to type to build the same by hand.
    pub fn by_hand(&self, command: &Command) -> String {
        format!("RUSTC={} RUSTC_BOOTSTRAP=1 {}", self.rustc.display(), shown(command))
    }
}

#[cfg(test)]
mod tests;
