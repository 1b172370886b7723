//! State files: what an agent keeps over restarts, written whole or not at all.
//!
//! A file is written beside its place, synced and renamed, so that `kill -9` leaves the old one or the new one. A file
//! that cannot be read is moved to `quarantine/` and reported; the others are restored. What a file says is the core's
//! business.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;

use agent_core::{Failure, StateFile};
use machine::OpId;

/// A state file at most: a numbering of hundreds of thousands of classes fits.
const FILE_BYTES_MAX: u64 = 64 << 20;
/// Writes that may wait.
const QUEUE: usize = 4096;
/// Where unusable files go, below the state directory.
const QUARANTINE: &str = "quarantine";

/// A directory of state files.
#[derive(Clone, Debug)]
pub struct StateDir {
    root: PathBuf,
}

/// Why the directory cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot {step} {}: {source}", path.display())]
pub struct StateError {
    step: &'static str,
    path: PathBuf,
    source: io::Error,
}

/// A file of an earlier life, or why it cannot be read.
pub type Found = (StateFile, Result<Vec<u8>, Failure>);

impl StateDir {
    /// Makes the directory if there is none.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn open(root: &Path) -> Result<Self, StateError> {
        let failed = |source| StateError { step: "make the state directory", path: root.to_owned(), source };
        fs::create_dir_all(root).map_err(failed)?;
        Ok(Self { root: root.to_owned() })
    }

    /// All state files. Leftovers of interrupted writes are removed; what is no state file is left alone.
    ///
    /// # Errors
    /// When the directory cannot be listed. A single file that cannot be read has an error in the list instead.
    pub fn read(&self) -> Result<Vec<Found>, StateError> {
        let mut found = Vec::new();
        for path in list(&self.root)? {
            if path.is_dir() {
                for inner in list(&path)? {
                    self.take(&inner, &mut found);
                }
            } else {
                self.take(&path, &mut found);
            }
        }
        found.sort_by_key(|(file, _)| *file);
        Ok(found)
    }

    fn take(&self, path: &Path, found: &mut Vec<Found>) {
        if path.extension().is_some_and(|extension| extension == "new") {
            // An interrupted write: nobody was told that it took place.
            let _gone = fs::remove_file(path);
            return;
        }
        let Some(relative) = path.strip_prefix(&self.root).ok().and_then(Path::to_str) else { return };
        let Some(file) = StateFile::from_path(relative) else { return };
        let content = read_bounded(path)
            .map_err(|why| Failure { message: format!("{} cannot be read: {why}", path.display()).into() });
        found.push((file, content));
    }

    /// Writes a file durably, in place of the old one.
    ///
    /// # Errors
    /// When the system refuses; the old content is then still there.
    pub fn write(&self, file: StateFile, content: &[u8]) -> Result<(), StateError> {
        let path = self.root.join(file.path());
        let new = path.with_extension("new");
        let failed = |step| {
            let path = path.clone();
            move |source| StateError { step, path, source }
        };
        let dir = path.parent().expect("a file's path has a directory");
        fs::create_dir_all(dir).map_err(failed("make the directory of"))?;
        let mut out = File::create(&new).map_err(failed("write"))?;
        out.write_all(content).map_err(failed("write"))?;
        out.sync_data().map_err(failed("sync"))?;
        fs::rename(&new, &path).map_err(failed("replace"))?;
        File::open(dir).and_then(|dir| dir.sync_all()).map_err(failed("sync the directory of"))
    }

    /// Removes a file; one that is not there is no error.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn remove(&self, file: StateFile) -> Result<(), StateError> {
        let path = self.root.join(file.path());
        match fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => Err(StateError { step: "remove", path, source }),
            _ => {
                if let StateFile::Endpoint(_) = file {
                    // Whatever else somebody put there keeps the directory.
                    let _kept = path.parent().map(fs::remove_dir);
                }
                Ok(())
            }
        }
    }

    /// Moves a file that is of no use out of the way, keeping it for people to look at.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn quarantine(&self, file: StateFile) -> Result<PathBuf, StateError> {
        let path = self.root.join(file.path());
        let to = self.root.join(QUARANTINE).join(file.path().replace('/', "-"));
        let failed = |step| {
            let path = path.clone();
            move |source| StateError { step, path, source }
        };
        fs::create_dir_all(self.root.join(QUARANTINE)).map_err(failed("make the quarantine for"))?;
        fs::rename(&path, &to).map_err(failed("move to quarantine"))?;
        Ok(to)
    }
}

fn list(dir: &Path) -> Result<Vec<PathBuf>, StateError> {
    let failed = |source| StateError { step: "list", path: dir.to_owned(), source };
    if dir.ends_with(QUARANTINE) {
        return Ok(Vec::new());
    }
    fs::read_dir(dir).map_err(failed)?.map(|entry| entry.map(|entry| entry.path()).map_err(failed)).collect()
}

fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    let found = fs::metadata(path)?;
    if !found.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    if found.len() > FILE_BYTES_MAX {
        return Err(io::Error::other(format!("it has {} bytes, more than {FILE_BYTES_MAX}", found.len())));
    }
    fs::read(path)
}

/// Something to be done to a file.
#[derive(Debug)]
pub enum Task {
    /// Write it.
    Save(OpId, StateFile, Vec<u8>),
    /// Remove it.
    Forget(OpId, StateFile),
    /// Move it to quarantine.
    Quarantine(StateFile),
}

/// A thread that does file work in order, so that nobody else waits for a disk.
#[derive(Debug)]
pub struct Writer {
    tasks: Option<SyncSender<Task>>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    /// Starts it. `done` is called on the thread with each outcome.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn start(dir: StateDir, done: impl Fn(OpId, Result<(), Failure>) + Send + 'static) -> io::Result<Self> {
        let (tasks, taken) = sync_channel(QUEUE);
        let thread = std::thread::Builder::new()
            .name("state-files".into())
            .stack_size(128 << 10)
            .spawn(move || run(&dir, &taken, done))?;
        Ok(Self { tasks: Some(tasks), thread: Some(thread) })
    }

    /// Hands over a task. Never blocks: `Err` gives it back when too many wait.
    ///
    /// # Errors
    /// When the queue is full.
    pub fn submit(&self, task: Task) -> Result<(), Task> {
        let Some(tasks) = &self.tasks else { return Err(task) };
        tasks.try_send(task).map_err(|full| match full {
            TrySendError::Full(task) | TrySendError::Disconnected(task) => task,
        })
    }
}

impl Drop for Writer {
    /// Finishes what was handed over.
    fn drop(&mut self) {
        drop(self.tasks.take());
        if let Some(thread) = self.thread.take() {
            // A panic of the thread has been printed by then.
            let _ended = thread.join();
        }
    }
}

fn run(dir: &StateDir, tasks: &Receiver<Task>, done: impl Fn(OpId, Result<(), Failure>)) {
    let failure = |why: StateError| Failure { message: why.to_string().into() };
    while let Ok(task) = tasks.recv() {
        match task {
            Task::Save(op, file, content) => done(op, dir.write(file, &content).map_err(failure)),
            Task::Forget(op, file) => done(op, dir.remove(file).map_err(failure)),
            Task::Quarantine(file) => match dir.quarantine(file) {
                Ok(to) => tracing::warn!(file = %file.path(), to = %to.display(), "state file moved to quarantine"),
                Err(why) => tracing::error!(%why, "state file stays where it is"),
            },
        }
    }
}

#[cfg(test)]
mod tests;
