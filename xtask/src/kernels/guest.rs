//! A guest that boots, runs one command line and says how it ended.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::debian::Image;
use super::newc::Archive;
use crate::shell::{output, target_dir, which};

/// An emulated guest boots in seconds and says something with each test, which takes a minute or two on a busy machine; this
/// long without a word means it hangs.
const PATIENCE: Duration = Duration::from_secs(600);

/// Modules that the loader's attachments need, and those of the devices that its tests use; what one depends on comes first.
const MODULES: &[&str] =
    &["sch_ingress", "cls_bpf", "veth", "dummy", "tun", "ip_tunnel", "tunnel4", "ipip", "tunnel6", "ip6_tunnel"];

/// Stands in the result port's stream before the exit status.
const END: &str = "guest-exit-status";

/// One kernel, ready to boot.
pub struct Guest<'a> {
    image: &'a Image,
    dir: PathBuf,
}

/// A file of this machine in a guest.
#[derive(Debug, Clone)]
pub struct File {
    from: PathBuf,
    to: PathBuf,
}

impl File {
    /// Where the guest's shell finds it.
    pub fn in_bin(from: &Path) -> Self {
        Self { from: from.to_owned(), to: Path::new("/bin").join(from.file_name().unwrap_or_default()) }
    }

    /// A file somewhere else; `to` is absolute, and may have `..` in it, as paths have that were put together.
    pub fn at(from: &Path, to: PathBuf) -> Self {
        Self { from: from.to_owned(), to }
    }
}

/// What a guest sent back.
#[derive(Debug)]
pub struct Answer {
    /// The guest kernel's release.
    pub release: String,
    /// Standard output of the command.
    pub output: String,
    /// Its exit status.
    pub status: i32,
}

impl<'a> Guest<'a> {
    /// A guest whose files lie in the target folder.
    pub fn new(image: &'a Image, name: &str) -> Result<Self> {
        let dir = target_dir().join("kernels").join(name);
        std::fs::create_dir_all(&dir)?;
        Ok(Self { image, dir })
    }

    /// Boots with these files (programs with the libraries they name) and runs `line` in a shell.
    pub fn run(&self, files: &[File], line: &str) -> Result<Answer> {
        let initrd = self.dir.join("initrd");
        std::fs::write(&initrd, self.file_system(files, line)?)?;
        let (console, result) = (self.dir.join("console.log"), self.dir.join("result.log"));
        let mut qemu = Command::new("qemu-system-x86_64");
        // Always emulated: the same everywhere, while nested virtualisation fails in ways of its own.
        // Without -cx16, Linux 6.12 panics at cmpxchg16b on QEMU 7.2.
        qemu.args(["-accel", "tcg", "-cpu", "max,-cx16"]);
        qemu.args(["-m", "1024", "-display", "none", "-no-reboot", "-nodefaults"])
            .arg("-kernel")
            .arg(&self.image.vmlinuz)
            .arg("-initrd")
            .arg(&initrd)
            .args(["-append", "console=ttyS0 panic=-1 mitigations=off tsc=reliable loglevel=4"])
            .arg("-serial")
            .arg(format!("file:{}", console.display()))
            .arg("-serial")
            .arg(format!("file:{}", result.display()));
        let mut child = qemu
            .stdin(Stdio::null())
            .stdout(Stdio::inherit())
            .stderr(Stdio::inherit())
            .spawn()
            .context("cannot start qemu-system-x86_64")?;
        let said = || [&console, &result].map(|file| std::fs::metadata(file).map_or(0, |data| data.len()));
        let (mut so_far, mut heard) = (said(), Instant::now());
        let ended = loop {
            if let Some(status) = child.try_wait()? {
                break Some(status);
            }
            if said() != so_far {
                (so_far, heard) = (said(), Instant::now());
            }
            if heard.elapsed() > PATIENCE {
                child.kill().ok();
                child.wait().ok();
                break None;
            }
            std::thread::sleep(Duration::from_millis(50));
        };
        let tail = |file: &Path| {
            let text = String::from_utf8_lossy(&std::fs::read(file).unwrap_or_default()).replace('\r', "");
            let lines: Vec<_> = text.lines().collect();
            lines[lines.len().saturating_sub(30)..].join("\n")
        };
        match ended {
            Some(status) if status.success() => {
                let text = String::from_utf8_lossy(&std::fs::read(&result)?).replace('\r', "");
                parse(&text).with_context(|| format!("the guest said nothing; its console:\n{}", tail(&console)))
            }
            Some(status) => bail!("QEMU ended with {status}; the guest's console:\n{}", tail(&console)),
            None => bail!(
                "not a word for {} s; what it said last:\n{}\nits console:\n{}",
                PATIENCE.as_secs(),
                tail(&result),
                tail(&console)
            ),
        }
    }

    fn file_system(&self, files: &[File], line: &str) -> Result<Vec<u8>> {
        let mut tree = Tree::default();
        for folder in ["bin", "dev", "etc", "lib", "lib64", "modules", "proc", "sys", "tmp", "run", "var"] {
            tree.folder(Path::new(folder));
        }
        let busybox = which("busybox").context("busybox is missing (package busybox-static)")?;
        tree.copy(&busybox, Path::new("bin/busybox"))?;
        let mut libraries = BTreeSet::new();
        for file in files {
            tree.copy(&file.from, &file.to)?;
            libraries.extend(libraries_of(&file.from));
        }
        for library in &libraries {
            tree.copy(library, library)?;
        }
        let mut modules = Vec::new();
        for name in MODULES {
            let Some(path) = find_module(&self.image.modules, name) else { continue };
            let file = path.file_name().and_then(|file| file.to_str()).context("a module has a name")?;
            tree.copy(&path, &Path::new("modules").join(file))?;
            let unpack = if file.ends_with(".xz") { "xzcat" } else { "cat" };
            modules.push(format!("{unpack} /modules/{file} > /tmp/module; insmod /tmp/module"));
        }
        tree.archive.file("init", init(&modules, line).as_bytes());
        Ok(tree.archive.finish())
    }
}

/// A file system being written: each folder once, and before what is in it.
#[derive(Default)]
struct Tree {
    archive: Archive,
    folders: BTreeSet<PathBuf>,
}

impl Tree {
    fn folder(&mut self, path: &Path) {
        let path = path.strip_prefix("/").unwrap_or(path);
        let above: Vec<_> = path.ancestors().filter(|folder| !folder.as_os_str().is_empty()).collect();
        for folder in above.into_iter().rev() {
            // A step back needs no folder of its own, but the one it steps back from.
            if !folder.ends_with("..") && self.folders.insert(folder.to_path_buf()) {
                self.archive.directory(&folder.to_string_lossy());
            }
        }
    }

    fn copy(&mut self, from: &Path, to: &Path) -> Result<()> {
        let bytes = std::fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
        let to = to.strip_prefix("/").unwrap_or(to);
        self.folder(to.parent().unwrap_or(to));
        self.archive.file(&to.to_string_lossy(), &bytes);
        Ok(())
    }
}

fn init(modules: &[String], line: &str) -> String {
    format!(
        "#!/bin/busybox sh\n\
         /bin/busybox --install -s /bin\n\
         export PATH=/bin\n\
         ln -s /run /var/run; : > /etc/resolv.conf\n\
         mount -t proc proc /proc; mount -t sysfs sysfs /sys; mount -t devtmpfs dev /dev\n\
         mount -t bpf bpf /sys/fs/bpf; mount -t cgroup2 cgroup2 /sys/fs/cgroup; ip link set lo up\n\
         {}\n\
         uname -r > /dev/ttyS1\n\
         ( {line} ) > /dev/ttyS1; status=$?\n\
         echo; echo \"{END} $status\" > /dev/ttyS1\n\
         sync; poweroff -f\n",
        modules.join("\n")
    )
}

/// Release, output and status out of what came over the result port.
fn parse(text: &str) -> Option<Answer> {
    let (release, rest) = text.split_once('\n')?;
    let (output, status) = rest.rsplit_once(END)?;
    Some(Answer { release: release.to_owned(), output: output.trim().to_owned(), status: status.trim().parse().ok()? })
}

/// The shared libraries a program asks for, its interpreter included.
fn libraries_of(program: &Path) -> Vec<PathBuf> {
    let listed = output(Command::new("ldd").arg(program)).unwrap_or_default();
    let path = |line: &str| line.split_whitespace().find(|word| word.starts_with('/')).map(PathBuf::from);
    listed.lines().filter_map(path).collect()
}

/// Debian compresses modules from some kernel on.
fn is_module(file: &str, name: &str) -> bool {
    file.strip_prefix(name).is_some_and(|ending| ending == ".ko" || ending == ".ko.xz")
}

fn find_module(dir: &Path, name: &str) -> Option<PathBuf> {
    let mut folders = vec![dir.join("kernel/net"), dir.join("kernel/drivers/net")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.file_name().is_some_and(|file| is_module(&file.to_string_lossy(), name)) {
                return Some(path);
            }
        }
    }
    None
}

#[cfg(test)]
mod tests;
