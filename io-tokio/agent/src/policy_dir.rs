//! The watched directories of policies (`--static-cnp-path`) and of services (`--static-service-path`).
//!
//! Files are read when they are closed after writing, renamed or removed; what they mean is the core's business. What a
//! file that makes no sense last said stays in force, so that an editor that saves in two steps does not open a hole.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use agent_core::{Failure, PolicyFile, PolicyFiles};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use tokio::io::unix::AsyncFd;

/// A policy file at most.
const FILE_BYTES_MAX: u64 = 16 << 20;
/// Files of the directory at most.
const FILES_MAX: usize = 10_000;
/// How long to wait for more changes once there is one.
const GATHER: Duration = Duration::from_millis(20);
/// The directory is looked through this often even if nobody says that it changed.
const LOOK_EVERY: Duration = Duration::from_secs(30);

/// Why the directory cannot be watched.
#[derive(Debug, thiserror::Error)]
#[error("--{option}: cannot {step} {}: {source}; check that it is a readable directory", path.display())]
pub struct WatchError {
    option: &'static str,
    step: &'static str,
    path: PathBuf,
    source: io::Error,
}

/// What tells one version of a file from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Version {
    modified: SystemTime,
    length: u64,
    inode: u64,
}

/// The directory as it was last seen.
#[derive(Debug)]
pub struct PolicyDir {
    option: &'static str,
    path: PathBuf,
    seen: BTreeMap<PathBuf, Version>,
}

impl PolicyDir {
    /// A directory nobody has looked at yet.
    pub fn new(option: &'static str, path: &Path) -> Self {
        Self { option, path: path.to_owned(), seen: BTreeMap::new() }
    }

    /// What changed since the last look.
    ///
    /// # Errors
    /// When the directory cannot be listed. A single file that cannot be read is a change with an error in it.
    pub fn look(&mut self) -> Result<PolicyFiles, WatchError> {
        let now = self.list()?;
        let mut changes = Vec::new();
        for path in self.seen.keys().filter(|path| !now.contains_key(*path)) {
            changes.push(PolicyFile { path: name(path), content: Ok(None) });
        }
        for (path, version) in &now {
            if self.seen.get(path) != Some(version) {
                changes.push(PolicyFile { path: name(path), content: read(path).map(Some) });
            }
        }
        self.seen = now;
        Ok(PolicyFiles { changes })
    }

    fn list(&self) -> Result<BTreeMap<PathBuf, Version>, WatchError> {
        use std::os::unix::fs::MetadataExt;
        let failed = |source| WatchError { option: self.option, step: "list", path: self.path.clone(), source };
        let mut found = BTreeMap::new();
        for entry in fs::read_dir(&self.path).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            if !is_policy(&path) {
                continue;
            }
            // A file may go between the listing and this look.
            let Ok(metadata) = fs::metadata(&path) else { continue };
            if metadata.is_file() {
                let modified = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
                found.insert(path, Version { modified, length: metadata.len(), inode: metadata.ino() });
            }
            if found.len() > FILES_MAX {
                let source = io::Error::other(format!("there are more than {FILES_MAX} files"));
                return Err(failed(source));
            }
        }
        Ok(found)
    }
}

fn name(path: &Path) -> Box<str> {
    path.to_string_lossy().into()
}

fn is_policy(path: &Path) -> bool {
    let hidden = path.file_name().and_then(|name| name.to_str()).is_none_or(|name| name.starts_with('.'));
    let known =
        path.extension().is_some_and(|extension| ["yaml", "yml", "json"].iter().any(|known| extension == *known));
    known && !hidden
}

fn read(path: &Path) -> Result<String, Failure> {
    let failure = |why: String| Failure { message: why.into() };
    let length = fs::metadata(path).map_err(|why| failure(format!("it cannot be read: {why}")))?.len();
    if length > FILE_BYTES_MAX {
        return Err(failure(format!("it has {length} bytes, more than {FILE_BYTES_MAX}")));
    }
    let bytes = fs::read(path).map_err(|why| failure(format!("it cannot be read: {why}")))?;
    String::from_utf8(bytes).map_err(|_| failure("it is not UTF-8 text".into()))
}

/// Waits for changes.
#[derive(Debug)]
pub struct Watch {
    dir: PolicyDir,
    inotify: AsyncFd<Notifier>,
}

#[derive(Debug)]
struct Notifier(Inotify);
impl std::os::fd::AsRawFd for Notifier {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

impl Watch {
    /// Begins to watch and takes the first look: nothing that changes after it is missed. Needs a tokio runtime.
    ///
    /// # Errors
    /// When the directory cannot be watched or listed.
    pub fn begin(option: &'static str, path: &Path) -> Result<(Self, PolicyFiles), WatchError> {
        let failed =
            |step| move |why: nix::Error| WatchError { option, step, path: path.to_owned(), source: why.into() };
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC).map_err(failed("watch"))?;
        let events = AddWatchFlags::IN_CLOSE_WRITE
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_MOVED_FROM
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_ATTRIB
            | AddWatchFlags::IN_ONLYDIR;
        inotify.add_watch(path, events).map_err(failed("watch"))?;
        let mut dir = PolicyDir::new(option, path);
        let first = dir.look()?;
        // SAFETY: the notifier owns its descriptor, which is neither replaced nor closed while the `AsyncFd` owns it.
        let inotify = unsafe { AsyncFd::register(Notifier(inotify)) };
        let broken = |source| WatchError { option, step: "watch", path: path.to_owned(), source };
        let inotify = inotify.map_err(|why| broken(io::Error::from(why)))?;
        Ok((Self { dir, inotify }, first))
    }

    /// Waits until something changed. Errors of listing are retried: a directory may be gone for a moment while it
    /// is replaced.
    pub async fn changed(&mut self) -> PolicyFiles {
        loop {
            let told = tokio::time::timeout(LOOK_EVERY, self.inotify.readable()).await;
            if let Ok(Ok(mut ready)) = told {
                ready.clear_ready();
                tokio::time::sleep(GATHER).await;
                // Which file it was does not matter: the look finds out.
                while self.inotify.get_ref().0.read_events().is_ok() {}
            }
            match self.dir.look() {
                Ok(files) if files.changes.is_empty() => {}
                Ok(files) => return files,
                Err(why) => tracing::error!(%why, "what its files last said stays in force"),
            }
        }
    }
}

#[cfg(test)]
mod tests;
