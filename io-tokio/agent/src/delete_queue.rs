//! What the CNI plugin could not tell while no agent ran (reference: the deletion queue).
//!
//! The agent holds the queue's lock exclusively from before it restores endpoints until the API answers, so that a
//! plugin either leaves its file before the agent looks, or finds the agent. Files that make no sense are reported and
//! removed: the endpoint they meant is found gone by its interface anyway.

use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use endpoint::EndpointName;
use nix::fcntl::{Flock, FlockArg};
use serde::Deserialize;

/// Files in the queue at most, with room for plugins of other versions (reference: 256).
const FILES_MAX: usize = 4096;
/// A request is a few hundred bytes.
const FILE_BYTES_MAX: u64 = 64 << 10;

/// Why the queue cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("the deletion queue: cannot {step} {}: {source}", path.display())]
pub struct QueueError {
    step: &'static str,
    path: PathBuf,
    source: io::Error,
}

/// What a plugin asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Deletion {
    /// All endpoints of a container.
    Container(Box<str>),
    /// One endpoint.
    Endpoint(EndpointName),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Batch {
    #[serde(rename = "container-id")]
    container_id: Box<str>,
}

impl Deletion {
    /// Parses a file's content.
    fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        if text.starts_with('{') {
            let batch: Batch = serde_json::from_str(text).ok()?;
            return (!batch.container_id.is_empty()).then_some(Self::Container(batch.container_id));
        }
        text.parse().ok().map(Self::Endpoint)
    }
}

/// The queue, locked against plugins until it is dropped.
#[derive(Debug)]
pub struct DeleteQueue {
    dir: PathBuf,
    _lock: Flock<OwnedFd>,
}

impl DeleteQueue {
    /// Takes the lock; waits for plugins that are about to leave a file.
    ///
    /// # Errors
    /// When directory or lock file cannot be made.
    pub fn lock(dir: &Path) -> Result<Self, QueueError> {
        let failed = |step| move |source: io::Error| QueueError { step, path: dir.to_owned(), source };
        fs::create_dir_all(dir).map_err(failed("make"))?;
        let file = File::options().create(true).truncate(false).write(true).open(dir.join("lockfile"));
        let file = file.map_err(failed("open the lock of"))?;
        let lock =
            Flock::lock(OwnedFd::from(file), FlockArg::LockExclusive).map_err(|(_, why)| failed("lock")(why.into()))?;
        Ok(Self { dir: dir.to_owned(), _lock: lock })
    }

    /// Everything that was left, with the file it is in.
    ///
    /// # Errors
    /// When the directory cannot be listed.
    pub fn deletions(&self) -> Result<Vec<(PathBuf, Deletion)>, QueueError> {
        let failed = |source| QueueError { step: "list", path: self.dir.clone(), source };
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.dir).map_err(failed)?.take(FILES_MAX) {
            let path = entry.map_err(failed)?.path();
            if path.extension().is_none_or(|extension| extension != "delete") {
                continue;
            }
            match read(&path) {
                Ok(deletion) => found.push((path, deletion)),
                Err(why) => {
                    tracing::error!(file = %path.display(), why, "a queued deletion makes no sense; it is dropped");
                    self.done(&path);
                }
            }
        }
        found.sort_by(|one, other| one.0.cmp(&other.0));
        Ok(found)
    }

    /// Removes a file whose deletion took place.
    pub fn done(&self, path: &Path) {
        if let Err(why) = fs::remove_file(path) {
            tracing::warn!(file = %path.display(), %why, "a queued deletion stays in the queue");
        }
    }
}

fn read(path: &Path) -> Result<Deletion, &'static str> {
    let metadata = fs::symlink_metadata(path).map_err(|_| "it cannot be read")?;
    if !metadata.is_file() || metadata.len() > FILE_BYTES_MAX {
        return Err("it is no small regular file");
    }
    let text = fs::read_to_string(path).map_err(|_| "it is not UTF-8 text")?;
    Deletion::parse(&text).ok_or("neither {\"container-id\":…} nor an endpoint's name")
}

#[cfg(test)]
mod tests;
