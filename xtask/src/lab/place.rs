//! Where a lab keeps its things, so that any later run can take it down.

use std::fs::{self, File, OpenOptions};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::namespace;

/// Names and paths of one lab. While it is held no other run can use the same name.
#[derive(Debug)]
pub(super) struct Place {
    name: String,
    dir: PathBuf,
    _lock: File,
}

impl Place {
    /// Takes the name, unless a lab that runs has it.
    pub(super) fn claim(name: &str) -> Result<Self> {
        let legal = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if name.is_empty() || name.len() > 16 || !name.chars().all(legal) {
            bail!("--name {name:?} must have 1 to 16 lower-case letters, digits and dashes");
        }
        let dir = std::env::temp_dir().join(format!("cilium-{name}"));
        let file = dir.with_extension("lock");
        let options = OpenOptions::new().create(true).truncate(false).write(true).open(&file);
        let lock = options.with_context(|| format!("cannot open {}", file.display()))?;
        // SAFETY: the descriptor is open; flock takes no pointers.
        if unsafe { libc::flock(lock.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } != 0 {
            bail!("a lab named {name:?} is running; wait for it, or run another with --name");
        }
        Ok(Self { name: name.to_owned(), dir, _lock: lock })
    }
    pub(super) fn name(&self) -> &str {
        &self.name
    }
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }
    /// Name of a network namespace of this lab.
    pub(super) fn namespace(&self, part: &str) -> String {
        format!("cilium-{}-{part}", self.name)
    }
    /// Directory in the BPF file system.
    pub(super) fn bpf_root(&self) -> PathBuf {
        Path::new("/sys/fs/bpf").join(format!("cilium-{}", self.name))
    }
    /// Remembers a process, so that it can be ended later.
    pub(super) fn remember(&self, pid: u32) -> Result<()> {
        use std::io::Write;
        let path = self.dir.join("pids");
        let mut file = OpenOptions::new().create(true).append(true).open(&path)?;
        Ok(writeln!(file, "{pid} {}", start_time(pid).unwrap_or_default())?)
    }

    /// Ends and removes whatever a lab of this name left. Safe to call when there is nothing.
    pub(super) fn take_down(&self) {
        let pids = fs::read_to_string(self.dir.join("pids")).unwrap_or_default();
        for line in pids.lines() {
            let Some((pid, started)) = line.split_once(' ') else { continue };
            let Ok(pid) = pid.parse::<u32>() else { continue };
            // A number that was given to another process meanwhile started at another time.
            if start_time(pid).is_some_and(|now| now.to_string() == started) {
                // SAFETY: kill takes no pointers; the process is the one that was started here.
                unsafe { libc::kill(libc::pid_t::try_from(pid).expect("pids fit"), libc::SIGKILL) };
            }
        }
        let prefix = self.namespace("");
        for entry in fs::read_dir("/run/netns").into_iter().flatten().flatten() {
            if let Some(name) = entry.file_name().to_str().filter(|name| name.starts_with(&prefix)) {
                namespace::remove(name);
            }
        }
        remove_pins(&self.bpf_root());
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// Pins are removed one by one: the BPF file system has no other way.
fn remove_pins(dir: &Path) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            remove_pins(&path);
        } else {
            let _ = fs::remove_file(&path);
        }
    }
    let _ = fs::remove_dir(dir);
}

/// When a process started, in clock ticks since boot (field 22 of /proc/pid/stat).
fn start_time(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name is in parentheses and may hold anything; fields are counted from behind it.
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}
