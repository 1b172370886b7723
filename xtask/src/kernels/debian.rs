//! Kernel packages from Debian's archive, through apt and past the machine's own package state.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::shell::{output, run};
use crate::toolchain::cache_dir;

const META_PACKAGE: &str = "linux-image-cloud-amd64";
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// An unpacked kernel package.
#[derive(Debug)]
pub struct Image {
    /// The bootable kernel.
    pub vmlinuz: PathBuf,
    /// Its modules: `…/lib/modules/RELEASE`.
    pub modules: PathBuf,
}

/// The newest cloud kernel of these suites, fetched once and kept in the cache.
pub fn image(line: &str, suites: &[&str]) -> Result<Image> {
    let dir = cache_dir()?.join("kernels").join(line);
    if let Some(image) = unpacked(&dir.join("root")) {
        return Ok(image);
    }
    if !Path::new(KEYRING).exists() || crate::shell::which("apt-get").is_none() {
        bail!("fetching Debian's kernels needs apt and the package debian-archive-keyring");
    }
    println!("kernels: fetching Debian's {line} cloud kernel (once)");
    let apt = Apt::new(&dir, suites)?;
    run(apt.command("apt-get").args(["-qq", "update"]))?;
    let depends = output(apt.command("apt-cache").args(["depends", META_PACKAGE]))?;
    let package = depends
        .lines()
        .find_map(|line| line.trim().strip_prefix("Depends: linux-image-"))
        .map(|rest| format!("linux-image-{rest}"))
        .with_context(|| format!("{META_PACKAGE} of {} names no kernel", suites.join(", ")))?;
    run(apt.command("apt-get").args(["-qq", "download", &package]).current_dir(&dir))?;
    let deb = find(&dir, |name| name.starts_with(&package) && name.ends_with(".deb"))
        .with_context(|| format!("apt did not leave {package} in {}", dir.display()))?;
    let part = dir.join("root.unfinished");
    std::fs::remove_dir_all(&part).ok();
    run(Command::new("dpkg-deb").arg("-x").arg(&deb).arg(&part))?;
    std::fs::rename(&part, dir.join("root"))?;
    std::fs::remove_file(&deb).ok();
    unpacked(&dir.join("root")).with_context(|| format!("{package} has no kernel in it"))
}

fn unpacked(root: &Path) -> Option<Image> {
    let vmlinuz = find(&root.join("boot"), |name| name.starts_with("vmlinuz-"))?;
    let modules = ["lib/modules", "usr/lib/modules"].iter().find_map(|dir| find(&root.join(dir), |_| true))?;
    Some(Image { vmlinuz, modules })
}

fn find(dir: &Path, wanted: impl Fn(&str) -> bool) -> Option<PathBuf> {
    let entries = std::fs::read_dir(dir).ok()?;
    entries.flatten().find(|entry| entry.file_name().to_str().is_some_and(&wanted)).map(|entry| entry.path())
}

/// An apt with lists, cache and sources of its own.
struct Apt {
    dir: PathBuf,
}

impl Apt {
    fn new(dir: &Path, suites: &[&str]) -> Result<Self> {
        for folder in ["apt/lists/partial", "apt/cache/archives/partial"] {
            std::fs::create_dir_all(dir.join(folder))?;
        }
        let source = |suite: &&str| {
            let (archive, suite) = suite.split_once(' ').expect("a suite is written `archive suite`");
            format!("deb [arch=amd64 signed-by={KEYRING}] http://deb.debian.org/{archive} {suite} main\n")
        };
        std::fs::write(dir.join("apt/sources.list"), suites.iter().map(source).collect::<String>())?;
        std::fs::write(dir.join("apt/status"), "")?;
        Ok(Self { dir: dir.join("apt") })
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let dir = self.dir.display();
        for option in [
            format!("Dir::State={dir}"),
            format!("Dir::State::lists={dir}/lists"),
            format!("Dir::State::status={dir}/status"),
            format!("Dir::Cache={dir}/cache"),
            format!("Dir::Etc::sourcelist={dir}/sources.list"),
            "Dir::Etc::sourceparts=-".to_owned(),
            "APT::Sandbox::User=root".to_owned(),
            "APT::Architecture=amd64".to_owned(),
        ] {
            command.args(["-o", &option]);
        }
        command
    }
}
