//! The embedded store: one thread that owns the file.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use kv::{Event, Request};
use machine::OpId;
use tokio::sync::mpsc;

use crate::engine::{Engine, OpenError};
use crate::{NotTaken, Store};

/// Requests in one transaction at most.
const BATCH_MAX: usize = 128;

/// Outcomes and changes, in order.
pub type Events = mpsc::Receiver<Event>;

/// Where the file is and how long leases last.
#[derive(Clone, Debug)]
pub struct Config {
    /// The database file.
    pub path: PathBuf,
    /// Whose keys [`kv::Lifetime::Leased`] are: the node's name.
    pub holder: String,
    /// How long leased keys outlive their holder (reference: `kvstore-lease-ttl`, 15 minutes).
    pub lease_ttl: Duration,
    /// Requests that may wait.
    pub requests_max: usize,
    /// Events that may wait.
    pub events_max: usize,
}

impl Config {
    /// The reference's lease and bounds that suit one node.
    pub fn new(path: impl Into<PathBuf>, holder: impl Into<String>) -> Self {
        Self {
            path: path.into(),
            holder: holder.into(),
            lease_ttl: Duration::from_mins(15),
            requests_max: 4096,
            events_max: 1024,
        }
    }
}

/// A store in a file of its own. Dropping it finishes what was taken and closes the file.
#[derive(Debug)]
pub struct Embedded {
    requests: Option<SyncSender<(OpId, Request)>>,
    thread: Option<JoinHandle<()>>,
}

impl Embedded {
    /// Opens the store, making the file if there is none.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open(config: &Config) -> Result<(Self, Events), OpenError> {
        if let Some(dir) = config.path.parent() {
            std::fs::create_dir_all(dir).map_err(|source| OpenError::Io { path: config.path.clone(), source })?;
        }
        let engine = Engine::open(&config.path, &config.holder, config.lease_ttl, unix_ms())?;
        let (requests, taken) = sync_channel(config.requests_max);
        let (events, told) = mpsc::channel(config.events_max);
        let keep_alive = (config.lease_ttl / 3).max(Duration::from_millis(1));
        let thread = std::thread::Builder::new()
            .name("kvstore".into())
            .stack_size(256 << 10)
            .spawn(move || run(engine, &taken, &events, keep_alive))
            .map_err(|source| OpenError::Io { path: config.path.clone(), source })?;
        Ok((Self { requests: Some(requests), thread: Some(thread) }, told))
    }
    /// Whether a store file is there.
    pub fn exists(path: &Path) -> bool {
        path.exists()
    }
}

impl Store for Embedded {
    fn submit(&self, op: OpId, request: Request) -> Result<(), NotTaken> {
        let requests = self.requests.as_ref().ok_or(NotTaken::Closed)?;
        requests.try_send((op, request)).map_err(|full| match full {
            TrySendError::Full(_) => NotTaken::Busy,
            TrySendError::Disconnected(_) => NotTaken::Closed,
        })
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        drop(self.requests.take());
        if let Some(thread) = self.thread.take() {
            // A panic of the thread has been printed by then, and there is nobody to return it to.
            let _ended = thread.join();
        }
    }
}

/// Serves until the store is dropped. Events nobody reads any more are dropped; requests are still carried out.
fn run(mut engine: Engine, taken: &Receiver<(OpId, Request)>, events: &mpsc::Sender<Event>, keep_alive: Duration) {
    let mut next = Instant::now() + keep_alive;
    loop {
        match taken.recv_timeout(next.saturating_duration_since(Instant::now())) {
            Ok(first) => {
                let batch = std::iter::once(first).chain(taken.try_iter()).take(BATCH_MAX).collect();
                tell(events, engine.serve(batch));
            }
            Err(RecvTimeoutError::Disconnected) => return,
            Err(RecvTimeoutError::Timeout) => {}
        }
        if Instant::now() >= next {
            next = Instant::now() + keep_alive;
            // A failure here is met again, and told, by the next request.
            if let Ok((lost, changes)) = engine.keep_alive(unix_ms()) {
                tell(events, changes);
                if lost {
                    tell(events, vec![Event::LeaseLost]);
                }
            }
        }
    }
}

fn tell(events: &mpsc::Sender<Event>, list: Vec<Event>) {
    for event in list {
        // Nobody reads any more while the agent shuts down.
        let _unread = events.blocking_send(event);
    }
}

fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
