//! The delete queue: what the agent must forget, left on disk while it is away.
//!
//! Plugins hold the queue's lock shared while they write; the agent holds it alone while it reads everything at its
//! start. So a request is either written before the agent reads, or its plugin finds the agent there.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use api::models::EndpointBatchDeleteRequest;
use netconf::{Code, DELETE_QUEUE_FILES_MAX, DELETE_QUEUE_LOCK, DELETE_QUEUE_SUFFIX, Failure, delete_queue_file_name};

/// How long to wait for an agent that reads the queue (reference).
const LOCK_PATIENCE: Duration = Duration::from_secs(10);

/// The queue, with its lock held shared.
pub(crate) struct Queue {
    dir: PathBuf,
    _lock: File,
}

impl Queue {
    /// Opens the queue under the agent's run directory, making it where it is missing.
    pub(crate) fn open(run_dir: &Path) -> Result<Self, Failure> {
        let dir = run_dir.join("deleteQueue");
        let failed = |step: &str, e: io::Error| {
            Failure::new(Code::TryAgainLater, format!("cannot {step} the delete queue {}", dir.display()))
                .with_details(e)
        };
        fs::create_dir_all(&dir).map_err(|e| failed("make", e))?;
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(dir.join(DELETE_QUEUE_LOCK))
            .map_err(|e| failed("open the lock of", e))?;
        let deadline = Instant::now() + LOCK_PATIENCE;
        loop {
            // SAFETY: the descriptor is open; flock takes no pointers.
            if unsafe { libc::flock(lock.as_raw_fd(), libc::LOCK_SH | libc::LOCK_NB) } == 0 {
                return Ok(Self { dir, _lock: lock });
            }
            let error = io::Error::last_os_error();
            if error.raw_os_error() != Some(libc::EWOULDBLOCK) || Instant::now() >= deadline {
                return Err(failed("lock", error));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Leaves word that a container is gone.
    pub(crate) fn push(&self, container_id: &str) -> Result<(), Failure> {
        let request = EndpointBatchDeleteRequest { container_id: container_id.to_owned() };
        let content = serde_json::to_vec(&request).expect("a string in a struct is always JSON");
        let name = delete_queue_file_name(&content);
        let failed = |e: io::Error| {
            let msg = format!("cannot write to the delete queue {}", self.dir.display());
            Failure::new(Code::TryAgainLater, msg).with_details(e)
        };
        let path = self.dir.join(&name);
        if path.exists() {
            return Ok(());
        }
        if self.len().map_err(failed)? >= DELETE_QUEUE_FILES_MAX {
            let msg = format!(
                "the delete queue {} is full ({DELETE_QUEUE_FILES_MAX} requests): start the Cilium agent, which empties it",
                self.dir.display()
            );
            return Err(Failure::new(Code::TryAgainLater, msg));
        }
        // Written aside and renamed: the agent never sees half a request, also after a power cut.
        let aside = self.dir.join(format!(".{name}.{}", std::process::id()));
        let write = || {
            let mut file = File::create(&aside)?;
            file.write_all(&content)?;
            file.sync_all()?;
            fs::rename(&aside, &path)
        };
        write().map_err(|e| {
            let _ = fs::remove_file(&aside);
            failed(e)
        })
    }

    fn len(&self) -> io::Result<usize> {
        let queued = |entry: &fs::DirEntry| {
            entry.file_name().to_str().is_some_and(|name| name.ends_with(DELETE_QUEUE_SUFFIX) && !name.starts_with('.'))
        };
        Ok(fs::read_dir(&self.dir)?.filter_map(Result::ok).filter(queued).count())
    }
}
