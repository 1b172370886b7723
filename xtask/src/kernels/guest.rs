//! A guest that boots, runs one command line and says how it ended.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::debian::Image;
use super::newc::Archive;
use crate::shell::{output, target_dir, which};

/// An emulated guest boots in seconds and runs its tests in a minute or two; this long means it hangs.
const PATIENCE: Duration = Duration::from_secs(600);

/// Modules the loader's attachments need, those they depend on first.
const MODULES: &[&str] = &["sch_ingress", "cls_bpf", "veth", "dummy"];

/// Stands in the result port's stream before the exit status.
const END: &str = "guest-exit-status";

/// One kernel, ready to boot.
pub struct Guest<'a> {
    image: &'a Image,
    dir: PathBuf,
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

    /// Boots with these files in `/bin` (programs with the libraries they name) and runs `line` in a shell.
    pub fn run(&self, files: &[&Path], line: &str) -> Result<Answer> {
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
        let began = Instant::now();
        let ended = loop {
            if let Some(status) = child.try_wait()? {
                break Some(status);
            }
            if began.elapsed() > PATIENCE {
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
            None => bail!("no answer after {} s; the guest's console:\n{}", PATIENCE.as_secs(), tail(&console)),
        }
    }

    fn file_system(&self, files: &[&Path], line: &str) -> Result<Vec<u8>> {
        let mut archive = Archive::default();
        for folder in ["bin", "dev", "lib", "lib64", "modules", "proc", "sys", "tmp", "run"] {
            archive.directory(folder);
        }
        let busybox = which("busybox").context("busybox is missing (package busybox-static)")?;
        let read = |path: &Path| std::fs::read(path).with_context(|| format!("cannot read {}", path.display()));
        archive.file("bin/busybox", &read(&busybox)?);
        let mut libraries = BTreeSet::new();
        for file in files {
            let name = file.file_name().and_then(|name| name.to_str()).context("a guest's file needs a name")?;
            archive.file(&format!("bin/{name}"), &read(file)?);
            libraries.extend(libraries_of(file));
        }
        let mut folders: BTreeSet<PathBuf> = ["lib", "lib64"].map(PathBuf::from).into();
        for library in &libraries {
            let path = library.strip_prefix("/").unwrap_or(library);
            let parents: Vec<_> = path.ancestors().skip(1).filter(|parent| !parent.as_os_str().is_empty()).collect();
            for parent in parents.into_iter().rev() {
                if folders.insert(parent.to_path_buf()) {
                    archive.directory(&parent.to_string_lossy());
                }
            }
            archive.file(&path.to_string_lossy(), &read(library)?);
        }
        let mut modules = Vec::new();
        for name in MODULES {
            let Some(path) = find_module(&self.image.modules, name) else { continue };
            let file = path.file_name().and_then(|file| file.to_str()).context("a module has a name")?;
            archive.file(&format!("modules/{file}"), &read(&path)?);
            let unpack = if file.ends_with(".xz") { "xzcat" } else { "cat" };
            modules.push(format!("{unpack} /modules/{file} > /tmp/module; insmod /tmp/module"));
        }
        archive.file("init", init(&modules, line).as_bytes());
        Ok(archive.finish())
    }
}

fn init(modules: &[String], line: &str) -> String {
    format!(
        "#!/bin/busybox sh\n\
         /bin/busybox --install -s /bin\n\
         export PATH=/bin\n\
         mount -t proc proc /proc; mount -t sysfs sysfs /sys; mount -t devtmpfs dev /dev\n\
         mount -t bpf bpf /sys/fs/bpf; mount -t cgroup2 cgroup2 /sys/fs/cgroup; ip link set lo up\n\
         {}\n\
         uname -r > /dev/ttyS1\n\
         ( {line} ) > /tmp/out; status=$?\n\
         cat /tmp/out > /dev/ttyS1\n\
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
