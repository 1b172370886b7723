//! `cargo xtask setup`: installs what is missing, says what and why, and is quick when nothing is.
//!
//! It never touches what is already there, never adds a package source, and on a machine it cannot install on it ends
//! with the full list of what is missing.

use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::shell::{is_root, output, run, succeeds, which};
use crate::toolchain::{self, Compiler, Toolchain};

/// A Debian package, how to see whether it is needed, and why.
struct Package {
    name: &'static str,
    /// A program or a file; the package is needed when it is missing.
    provides: &'static str,
    why: &'static str,
}

const PACKAGES: &[Package] = &[
    Package { name: "gcc", provides: "cc", why: "C sources inside Rust crates" },
    Package { name: "libc6-dev", provides: "/usr/include/stdlib.h", why: "linking programs" },
    Package { name: "make", provides: "make", why: "libbpf, which the datapath tests load the programs with" },
    Package { name: "pkg-config", provides: "pkg-config", why: "finding libelf" },
    Package { name: "libelf-dev", provides: "/usr/include/libelf.h", why: "libbpf" },
    Package { name: "zlib1g-dev", provides: "/usr/include/zlib.h", why: "libbpf" },
    Package { name: "iproute2", provides: "ip", why: "the lab shows what it does in the words of ip and tc" },
    Package { name: "nftables", provides: "nft", why: "what connections through services are measured against" },
    Package { name: "iptables", provides: "iptables", why: "the same" },
    Package { name: "iputils-ping", provides: "ping", why: "the lab and its steps for you to try" },
];

/// What the guest kernels of `cargo xtask kernels` need on top.
const KERNEL_PACKAGES: &[Package] = &[
    Package { name: "qemu-system-x86", provides: "qemu-system-x86_64", why: "boots the guest kernels" },
    Package { name: "binutils", provides: "strip", why: "makes the guests' programs small" },
    Package { name: "busybox-static", provides: "busybox", why: "the guests' only user space" },
];

impl Package {
    fn is_missing(&self) -> bool {
        match self.provides.strip_prefix('/') {
            Some(_) => !std::path::Path::new(self.provides).exists(),
            None => which(self.provides).is_none(),
        }
    }
}

/// Installs what lab, tests and CI need. `Ok` means a BPF object can be built.
pub fn setup() -> Result<Toolchain> {
    let mut missing = Vec::new();
    install_all(PACKAGES, &mut missing)?;
    let toolchain = match bpf_toolchain() {
        Ok(toolchain) => Some(toolchain),
        Err(why) => {
            missing.push(format!("{why:#}"));
            None
        }
    };
    mount_bpffs();
    match toolchain {
        Some(toolchain) if missing.is_empty() => {
            println!("setup: BPF compiler {}, linker {}", toolchain.compiler, toolchain.linker.display());
            println!("setup: everything is there");
            Ok(toolchain)
        }
        _ => bail!("setup cannot go on by itself; missing:\n  - {}", missing.join("\n  - ")),
    }
}

/// The toolchain, with a full `setup` first when it is not ready.
pub fn ensure() -> Result<Toolchain> {
    match toolchain::ready() {
        Some(toolchain) if PACKAGES.iter().all(|package| !package.is_missing()) => {
            // What is installed stays; what is mounted goes with a reboot.
            mount_bpffs();
            Ok(toolchain)
        }
        _ => setup(),
    }
}

/// Installs what the kernel matrix needs on top of [`setup`].
pub fn setup_kernels() -> Result<()> {
    let mut missing = Vec::new();
    install_all(KERNEL_PACKAGES, &mut missing)?;
    if !missing.is_empty() {
        bail!("the kernel matrix needs:\n  - {}", missing.join("\n  - "));
    }
    Ok(())
}

fn install_all(packages: &[Package], missing: &mut Vec<String>) -> Result<()> {
    let wanted: Vec<_> = packages.iter().filter(|package| package.is_missing()).collect();
    if wanted.is_empty() {
        return Ok(());
    }
    for package in &wanted {
        println!("setup: {} is missing ({})", package.name, package.why);
    }
    let names: Vec<_> = wanted.iter().map(|package| package.name.to_owned()).collect();
    if let Err(why) = apt_install(&names) {
        missing.push(format!("{} ({why:#})", names.join(" ")));
    }
    Ok(())
}

/// Finds a toolchain; where there is none, installs the shortest thing that makes one.
fn bpf_toolchain() -> Result<Toolchain> {
    if let Some(toolchain) = toolchain::ready() {
        return Ok(toolchain);
    }
    if toolchain::compilers().is_empty() {
        println!("setup: no rustc here has its library's sources, which `core` for BPF is built from");
        install_compiler()?;
    }
    let mut refused = Vec::new();
    for compiler in toolchain::compilers() {
        match with_linker(compiler.clone()) {
            Ok(toolchain) => return Ok(toolchain),
            Err(why) => refused.push(format!("{compiler}: {why:#}")),
        }
    }
    bail!("no BPF toolchain: {}", refused.join("; "))
}

fn with_linker(compiler: Compiler) -> Result<Toolchain> {
    if toolchain::llvm_prefix(compiler.llvm).is_none() && which("apt-get").is_some() {
        println!("setup: LLVM {} development files are missing (bpf-linker is built with them)", compiler.llvm);
        apt_install(&toolchain::llvm_packages(compiler.llvm))?;
    }
    let linker = toolchain::linker_for(&compiler)?;
    Ok(Toolchain { compiler, linker })
}

/// Debian's rustc with its sources, else rustup's sources for the rustc in use.
fn install_compiler() -> Result<()> {
    let debian = debian_compiler();
    if debian.is_ok() && !toolchain::compilers().is_empty() {
        return Ok(());
    }
    let rustup = match which("rustup") {
        Some(rustup) => run(Command::new(rustup).args(["component", "add", "rust-src"])),
        None => Err(anyhow::anyhow!("rustup is not installed")),
    };
    if rustup.is_ok() && !toolchain::compilers().is_empty() {
        return Ok(());
    }
    let said =
        |result: Result<()>| result.err().map_or_else(|| "done, but of no use".to_owned(), |why| format!("{why:#}"));
    bail!(
        "a rustc of {} or newer with its own library sources: either Debian's packages `rustc-web rust-web-src` (tried: \
         {}) or `rustup component add rust-src` (tried: {})",
        env!("CARGO_PKG_RUST_VERSION"),
        said(debian),
        said(rustup)
    )
}

fn debian_compiler() -> Result<()> {
    apt_get()?;
    let packages = ["rustc-web".to_owned(), "rust-web-src".to_owned()];
    let offered = || -> Result<String> {
        let policy = output(Command::new("apt-cache").args(["policy", "rustc-web"]))?;
        let version = policy.lines().find_map(|line| line.trim().strip_prefix("Candidate:")).unwrap_or("(none)");
        Ok(version.trim().to_owned())
    };
    let mut version = offered()?;
    if !toolchain::new_enough(&version) {
        apt_update()?;
        version = offered()?;
    }
    if !toolchain::new_enough(&version) {
        bail!(
            "apt offers rustc-web {version}, too old; Debian 12 has a newer one in its security source: `deb \
             http://deb.debian.org/debian-security bookworm-security main`"
        );
    }
    println!("setup: installing Debian's rustc {version} and its library sources (compiles the eBPF programs)");
    apt_install(&packages)
}

/// `apt-get` as root, through sudo where this is not root and sudo asks for nothing.
fn apt_get() -> Result<Command> {
    if which("apt-get").is_none() {
        bail!("there is no apt-get here: install it with this system's own package tool");
    }
    let mut command = if is_root() {
        Command::new("apt-get")
    } else if succeeds(Command::new("sudo").args(["-n", "true"])) {
        let mut sudo = Command::new("sudo");
        sudo.args(["-n", "--preserve-env=DEBIAN_FRONTEND", "apt-get"]);
        sudo
    } else {
        bail!("this is not root: install it with apt-get as root, or run setup as root")
    };
    command.env("DEBIAN_FRONTEND", "noninteractive").arg("-q");
    Ok(command)
}

fn apt_update() -> Result<()> {
    println!("setup: refreshing apt's lists");
    output(apt_get()?.arg("update")).map(drop).context("apt-get update")
}

fn apt_install(packages: &[String]) -> Result<()> {
    let install = || -> Result<()> {
        let mut command = apt_get()?;
        command.args(["install", "-y", "--no-install-recommends"]).args(packages);
        output(&mut command).map(drop)
    };
    let known = || packages.iter().all(|name| output(Command::new("apt-cache").args(["show", name])).is_ok());
    apt_get()?;
    println!("setup: installing {}", packages.join(" "));
    // A fresh image has no lists, an old one has lists that name packages which are gone.
    if !known() {
        apt_update()?;
    } else if install().is_ok() {
        return Ok(());
    } else {
        apt_update()?;
    }
    install().with_context(|| format!("installing {}", packages.join(" ")))
}

/// Maps and links are pinned in the BPF file system; a container often has none mounted.
fn mount_bpffs() {
    let dir = std::path::Path::new("/sys/fs/bpf");
    let mounted = std::fs::read_to_string("/proc/self/mounts").is_ok_and(|mounts| mounts.contains(" /sys/fs/bpf bpf "));
    if mounted || !is_root() || !dir.is_dir() {
        return;
    }
    match run(Command::new("mount").args(["-t", "bpf", "bpf", "/sys/fs/bpf"])) {
        Ok(()) => println!("setup: mounted the BPF file system (pinned maps and links live there)"),
        Err(why) => {
            println!("setup: the BPF file system is not mounted and cannot be ({why:#}); the lab will not run here")
        }
    }
}
