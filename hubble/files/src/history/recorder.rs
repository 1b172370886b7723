//! The thread that writes, and the handle others have on it.

use super::{
    block::Filling,
    reading::Reading,
    store::{Limits, OpenError, Segments, Store},
};
use crate::{RETRY, now_ns, queue::Queue};
use hubble_metrics::text::Values;
use hubble_model::{Event, NodeInfo};
use hubble_server::{History, Pages, Past, Tap};
use std::{
    collections::{BTreeSet, VecDeque},
    hash::{BuildHasher as _, Hasher as _, RandomState},
    io,
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

/// Events that may wait for the disk.
const QUEUE_MAX: usize = 16_384;
/// How long a block is filled at most.
const FILL: Duration = Duration::from_secs(1);
/// How long a question waits for what was published before it.
const FLUSH: Duration = Duration::from_secs(2);
/// How long the end waits for the disk.
const CLOSE: Duration = Duration::from_secs(10);
/// Places of damage that are told by name.
const DAMAGE_MAX: usize = 16;

/// What is known of a history.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Flows written in this life.
    pub written: u64,
    /// Flows that found the queue full.
    pub lost: u64,
    /// Flows that could not be written.
    pub failed: u64,
    /// Flows that were there and cannot be read any more.
    pub unreadable: u64,
    /// Places that cannot be read, the first few of them.
    pub damage: Vec<String>,
    /// Why the last write did not go well; none when it did.
    pub error: Option<String>,
    /// Bytes on disk.
    pub bytes: u64,
    /// Files.
    pub segments: usize,
    /// Time of the oldest flow, nanoseconds since 1970.
    pub oldest_ns: Option<i64>,
}

/// Counts and sentences the thread, readers and reports share.
#[derive(Debug, Default)]
pub(crate) struct Notes {
    written: AtomicU64,
    lost: AtomicU64,
    failed: AtomicU64,
    unreadable: AtomicU64,
    damage: Mutex<BTreeSet<String>>,
    error: Mutex<Option<String>>,
}

impl Notes {
    /// A place cannot be read. Each is told once.
    pub fn damaged(&self, place: String, flows: u32) {
        let mut known = self.damage.lock().unwrap_or_else(PoisonError::into_inner);
        if known.contains(&place) || known.len() >= DAMAGE_MAX {
            return;
        }
        tracing::warn!(place, flows, "a part of the flow history cannot be read and is skipped");
        known.insert(place);
        drop(known);
        self.unreadable.fetch_add(flows.into(), Ordering::Relaxed);
    }
}

/// A history at work. Ends, with everything written, when it is dropped.
#[derive(Debug)]
pub struct Recorder {
    queue: Arc<Queue<(u64, Arc<Event>)>>,
    segments: Arc<Segments>,
    notes: Arc<Notes>,
    epoch: u64,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Recorder {
    /// Opens or makes the history in a folder, for flows of this node.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open(folder: &Path, limits: Limits, node: NodeInfo) -> Result<Self, OpenError> {
        let sync_every = limits.sync_every;
        let (store, damage) = Store::open(folder, limits)?;
        let notes = Arc::new(Notes::default());
        for place in damage {
            notes.damaged(place, 0);
        }
        let queue = Arc::new(Queue::new(QUEUE_MAX));
        // Tells the flows of this life, of which the ring has some too, from those of others.
        let epoch = RandomState::new().build_hasher().finish();
        let segments = Arc::clone(store.segments());
        let now = Instant::now();
        let mut worker = Worker {
            store,
            node,
            epoch,
            sync_every,
            filling: Filling::default(),
            filling_since: now,
            synced: now,
            retry_at: None,
            unfinished: 0,
            notes: Arc::clone(&notes),
        };
        let work = {
            let queue = Arc::clone(&queue);
            move || worker.run(&queue)
        };
        let thread = std::thread::Builder::new().name("hubble-history".into()).spawn(work);
        let failed = |source: io::Error| OpenError::Io { step: "start a thread for", path: folder.to_owned(), source };
        let thread = Mutex::new(Some(thread.map_err(failed)?));
        Ok(Self { queue, segments, notes, epoch, thread })
    }

    /// What is known of it.
    pub fn report(&self) -> Report {
        let number = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let list = self.segments.list();
        let (bytes, segments) = (list.iter().map(|segment| segment.bytes).sum(), list.len());
        let oldest_ns = list.iter().find_map(|segment| Some(segment.span()?.0));
        drop(list);
        Report {
            written: number(&self.notes.written),
            lost: number(&self.notes.lost),
            failed: number(&self.notes.failed),
            unreadable: number(&self.notes.unreadable),
            damage: self.notes.damage.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect(),
            error: self.notes.error.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            bytes,
            segments,
            oldest_ns,
        }
    }

    /// What is wrong at the moment, in sentences.
    pub fn troubles(&self) -> Vec<String> {
        let report = self.report();
        let damage = report.damage.iter().map(|place| format!("flow history: cannot be read and is skipped: {place}"));
        let error =
            report.error.map(|why| format!("flow history cannot be written: {why}; {} flows are lost", report.failed));
        error.into_iter().chain(damage).collect()
    }

    /// Waits until everything published so far can be read, for so long at most.
    pub fn flush(&self, within: Duration) -> bool {
        self.queue.flush(within)
    }

    /// Writes the history's metrics.
    pub fn metrics(&self, out: &mut impl Values) {
        let report = self.report();
        let none = Vec::new;
        let head = ("hubble_history_flows_total", "Flows written into the history", "counter");
        out.values(head, [(none(), report.written as f64)]);
        let head = ("hubble_history_lost_flows_total", "Flows that should be in the history", "counter");
        let reason = |reason, count: u64| (vec![("reason", reason)], count as f64);
        let lost = [
            reason("queue_full", report.lost),
            reason("unreadable", report.unreadable),
            reason("write_failed", report.failed),
        ];
        out.values(head, lost);
        out.values(("hubble_history_bytes", "Bytes of the history on disk", "gauge"), [(none(), report.bytes as f64)]);
        let head = ("hubble_history_segments", "Files of the history", "gauge");
        out.values(head, [(none(), report.segments as f64)]);
        let oldest = report.oldest_ns.map(|oldest_ns| (none(), oldest_ns as f64 / 1e9));
        out.values(("hubble_history_oldest_timestamp_seconds", "Time of the oldest flow kept", "gauge"), oldest);
    }
}

impl Recorder {
    /// Ends the history: writes what there is, waiting for the disk so long at most. False when that was not enough.
    pub fn close(&self, within: Duration) -> bool {
        self.queue.close();
        let Some(thread) = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take() else { return true };
        let until = Instant::now() + within;
        while !thread.is_finished() {
            if Instant::now() >= until {
                return false;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        if thread.join().is_err() {
            tracing::error!("the flow history ended before its time");
        }
        true
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.close(CLOSE);
    }
}

impl Tap for Recorder {
    fn event(&self, position: u64, event: &Arc<Event>, _: &NodeInfo) {
        if event.is_flow() && !self.queue.push((position, Arc::clone(event))) {
            self.notes.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl History for Recorder {
    fn read(&self, past: Past) -> Box<dyn Pages> {
        if !self.flush(FLUSH) {
            tracing::warn!("the disk is slow: the newest flows of the history are not readable yet");
        }
        let segments = self.segments.list().clone();
        Box::new(Reading::new(segments, past, self.epoch, Arc::clone(&self.notes)))
    }
}

struct Worker {
    store: Store,
    node: NodeInfo,
    epoch: u64,
    sync_every: Duration,
    filling: Filling,
    filling_since: Instant,
    synced: Instant,
    /// The disk refused a write: until then it is left alone.
    retry_at: Option<Instant>,
    /// Taken from the queue and not yet on disk, or given up.
    unfinished: u64,
    notes: Arc<Notes>,
}

impl Worker {
    fn run(&mut self, queue: &Queue<(u64, Arc<Event>)>) {
        let mut events = VecDeque::new();
        self.store.forget(now_ns());
        loop {
            let work = queue.take(&mut events, FILL.min(self.sync_every));
            for (position, event) in events.drain(..) {
                self.add(position, &event);
            }
            if work.hurry || work.closed || self.filling_since.elapsed() >= FILL {
                self.write();
            }
            if self.filling.flows == 0 {
                queue.done(std::mem::take(&mut self.unfinished));
            }
            if work.closed {
                let finished = self.store.finish();
                self.note(finished);
                return;
            }
            if self.synced.elapsed() >= self.sync_every {
                self.synced = Instant::now();
                let synced = self.store.sync();
                self.note(synced);
                self.store.forget(now_ns());
            }
        }
    }

    fn add(&mut self, position: u64, event: &Event) {
        self.unfinished += 1;
        let Some(flow) = event.to_flow(&self.node) else { return };
        if self.filling.flows == 0 {
            self.filling_since = Instant::now();
        }
        if !self.filling.add(position, event.time_ns(), &flow) {
            self.notes.failed.fetch_add(1, Ordering::Relaxed);
        }
        if self.filling.is_full() {
            self.write();
        }
    }

    fn write(&mut self) {
        let Some((head, bytes)) = self.filling.close(self.epoch) else { return };
        let flows = u64::from(head.flows);
        if self.retry_at.is_some_and(|at| Instant::now() < at) {
            self.notes.failed.fetch_add(flows, Ordering::Relaxed);
            return;
        }
        let written = self.store.append(head, &bytes, now_ns());
        let count = if written.is_ok() { &self.notes.written } else { &self.notes.failed };
        count.fetch_add(flows, Ordering::Relaxed);
        self.retry_at = written.is_err().then(|| Instant::now() + RETRY);
        self.note(written);
    }

    fn note(&self, outcome: io::Result<()>) {
        let mut error = self.notes.error.lock().unwrap_or_else(PoisonError::into_inner);
        match outcome {
            Ok(()) => {
                if error.take().is_some() {
                    tracing::info!("the flow history is written again");
                }
            }
            Err(why) => {
                if error.is_none() {
                    tracing::warn!(%why, "the flow history cannot be written; flows are lost");
                }
                *error = Some(why.to_string());
            }
        }
    }
}
