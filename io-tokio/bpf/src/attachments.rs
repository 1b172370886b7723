//! Programs at devices, at once: what the kernel makes wait is done when nobody waits.
//!
//! The first TCX program at a device's hook costs some 15 ms, during which nobody else can change devices. A pod must
//! not wait for that: its programs run as filters at once ([`Datapath::attach_soon`]), and a thread here turns them
//! into pinned links after a quiet moment. A program that is not promoted in time still runs, also after the agent
//! died; the next agent's attachment promotes it.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use loader::{AttachError, Datapath, Direction, Interface, Outcome, Program};

/// Attachments are made into links when there was no new one for this long.
const QUIET: Duration = Duration::from_millis(300);

/// A program at one side of a device, by the device's index.
type Place = (u32, Program, Direction);

#[derive(Debug, Default)]
struct Pending {
    places: BTreeSet<Place>,
    last: Option<Instant>,
    closed: bool,
}

#[derive(Debug)]
struct Shared {
    datapath: Arc<Datapath>,
    pending: Mutex<Pending>,
    changed: Condvar,
    failed: AtomicU64,
}

/// Attaches and detaches, and promotes in the background until it is dropped.
#[derive(Debug)]
pub struct Attachments {
    shared: Arc<Shared>,
    worker: Option<thread::JoinHandle<()>>,
}

impl Attachments {
    /// Starts the thread.
    pub fn new(datapath: Arc<Datapath>) -> std::io::Result<Self> {
        let (pending, changed) = (Mutex::default(), Condvar::new());
        let shared = Arc::new(Shared { datapath, pending, changed, failed: AtomicU64::new(0) });
        let theirs = shared.clone();
        let worker = thread::Builder::new().name("promote-links".to_owned()).spawn(move || theirs.promote())?;
        Ok(Self { shared, worker: Some(worker) })
    }

    /// Attaches a program, or replaces that of an earlier agent. When this returns it runs.
    pub fn attach(
        &self,
        program: Program,
        interface: &Interface,
        direction: Direction,
    ) -> Result<Outcome, AttachError> {
        let outcome = self.shared.datapath.attach_soon(program, interface, direction)?.outcome;
        if outcome == Outcome::Provisional {
            let mut pending = self.shared.pending();
            pending.places.insert((interface.index, program, direction));
            pending.last = Some(Instant::now());
            drop(pending);
            self.shared.changed.notify_one();
        }
        Ok(outcome)
    }

    /// Detaches a program; says whether it was attached.
    pub fn detach(&self, program: Program, interface: &Interface, direction: Direction) -> Result<bool, AttachError> {
        // Under the lock, so that no promotion is under way that would bring it back.
        let mut pending = self.shared.pending();
        pending.places.remove(&(interface.index, program, direction));
        self.shared.datapath.detach(program, interface, direction)
    }

    /// Attachments that wait to be made into links.
    pub fn pending(&self) -> usize {
        self.shared.pending().places.len()
    }

    /// Attachments that could not be made into links although their device is there; they keep running as filters.
    pub fn failed(&self) -> u64 {
        self.shared.failed.load(Ordering::Relaxed)
    }
}

impl Drop for Attachments {
    fn drop(&mut self) {
        self.shared.pending().closed = true;
        self.shared.changed.notify_one();
        if let Some(worker) = self.worker.take() {
            let _ = worker.join();
        }
    }
}

impl Shared {
    /// What is inside is whole between any two statements, so a poisoned lock is as good as another.
    fn pending(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn promote(&self) {
        let mut pending = self.pending();
        while !pending.closed {
            let since = pending.last.map_or(QUIET, |last| last.elapsed());
            if pending.places.is_empty() {
                pending = self.changed.wait(pending).unwrap_or_else(PoisonError::into_inner);
            } else if since < QUIET {
                let waited = self.changed.wait_timeout(pending, QUIET - since);
                pending = waited.unwrap_or_else(PoisonError::into_inner).0;
            } else if let Some((ifindex, program, direction)) = pending.places.pop_first() {
                // One at a time: whoever detaches waits for this one only.
                let promoted = Interface::by_index(ifindex)
                    .and_then(|interface| self.datapath.attach(program, &interface, direction));
                let gone = matches!(promoted, Err(AttachError::Device { .. })) || Interface::by_index(ifindex).is_err();
                if let (Err(why), false) = (&promoted, gone) {
                    self.failed.fetch_add(1, Ordering::Relaxed);
                    tracing::warn!(ifindex, %program, %why, "the program goes on as a filter");
                }
                drop(pending);
                thread::yield_now();
                pending = self.pending();
            }
        }
    }
}
