//! One export at work: a queue, a thread, a file.

use super::{ConfigError, FlowLog, rotate::Rotating};
use crate::{RETRY, now_ns, queue::Queue};
use hubble_api::{
    flow::{AgentEvent, CiliumEventType, DebugEvent, Flow, LostEvent, LostEventSource},
    json::{self, Mask, Message as _},
    observer::{ExportEvent, export_event::ResponseTypes},
    time,
};
use hubble_model::{Event, FilterList, NodeInfo};
use std::{
    collections::VecDeque,
    io::{self, Write as _},
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

/// Events that may wait for the disk.
const QUEUE_MAX: usize = 16_384;
/// Bytes written at once.
const CHUNK: usize = 64 << 10;
/// How often an idle thread looks around.
const IDLE: Duration = Duration::from_secs(10);

/// What an export did so far.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Lines written.
    pub written: u64,
    /// Events that found the queue full.
    pub lost: u64,
    /// Lines that could not be written.
    pub failed: u64,
    /// Why the last write did not go well; none when it did.
    pub error: Option<String>,
}

#[derive(Debug, Default)]
struct Counts {
    written: AtomicU64,
    lost: AtomicU64,
    failed: AtomicU64,
    error: Mutex<Option<String>>,
}

/// An export at work. Ends when it is dropped; the thread then writes what is in the queue, and nobody waits for it:
/// whoever publishes may be the last to hold an export.
#[derive(Debug)]
pub struct Exporter {
    /// What it is.
    pub log: FlowLog,
    queue: Arc<Queue<Arc<Event>>>,
    counts: Arc<Counts>,
}

/// Why an export does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Its configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// No thread.
    #[error("cannot start a thread: {0}")]
    Thread(#[from] io::Error),
}

impl Exporter {
    /// Starts an export of what this node sees.
    ///
    /// # Errors
    /// See [`StartError`]. A file that cannot be written is none: that may change.
    pub fn start(log: FlowLog, node: NodeInfo) -> Result<Self, StartError> {
        let (filters, mask) = log.compile()?;
        let queue = Arc::new(Queue::new(QUEUE_MAX));
        let counts = Arc::new(Counts::default());
        let sink = match log.path.as_path() == Path::new("stdout") {
            true => Sink::Stdout,
            false => Sink::File(Rotating::new(log.path.clone(), log.rotation.clone())),
        };
        let chunk = usize::try_from(log.rotation.bytes_max / 4).unwrap_or(CHUNK).clamp(1, CHUNK);
        let mut worker = Worker {
            name: log.name.clone(),
            encoder: Encoder { filters, mask, node },
            sink,
            chunk,
            retry_at: None,
            lines: String::new(),
            pending: 0,
            counts: Arc::clone(&counts),
        };
        let work = {
            let queue = Arc::clone(&queue);
            move || worker.run(&queue)
        };
        std::thread::Builder::new().name("hubble-export".into()).spawn(work)?;
        Ok(Self { log, queue, counts })
    }

    /// Leaves an event for the thread. Never waits for the disk.
    pub fn offer(&self, event: &Arc<Event>) {
        if self.is_active(event.time_ns()) && !self.queue.push(Arc::clone(event)) {
            self.counts.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Whether events of this time are exported.
    pub fn is_active(&self, at_ns: i64) -> bool {
        self.log.end_ns.is_none_or(|end_ns| at_ns <= end_ns)
    }

    /// What it did so far.
    pub fn report(&self) -> Report {
        let number = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Report {
            written: number(&self.counts.written),
            lost: number(&self.counts.lost),
            failed: number(&self.counts.failed),
            error: self.counts.error.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }

    /// Waits until everything offered so far is written or given up, for so long at most.
    pub fn flush(&self, within: Duration) -> bool {
        self.queue.flush(within)
    }
}

impl Drop for Exporter {
    fn drop(&mut self) {
        self.queue.close();
    }
}

/// Makes lines of events.
struct Encoder {
    filters: FilterList,
    mask: Option<Mask>,
    node: NodeInfo,
}

impl Encoder {
    /// Appends an event's line. False when it is not asked for.
    fn line(&self, event: &Event, out: &mut String) -> bool {
        let Some(line) = self.event(event) else { return false };
        json::append(&line, out);
        out.push('\n');
        true
    }

    fn event(&self, event: &Event) -> Option<ExportEvent> {
        match event {
            Event::Record(_) | Event::Flow(_) => {
                if !event.is_asked_for(&self.filters, &self.node) {
                    return None;
                }
                let mut flow = event.to_flow(&self.node)?;
                if let Some(mask) = &self.mask {
                    flow.retain(mask);
                }
                Some(ExportEvent {
                    node_name: flow.node_name.clone(),
                    time: flow.time,
                    response_types: Some(ResponseTypes::Flow(flow)),
                })
            }
            Event::Lost { time_ns, event } => Some(self.other(*time_ns, ResponseTypes::LostEvents(*event))),
            Event::Agent { time_ns, event } => {
                let AgentEvent { r#type, .. } = event.as_ref();
                let wanted = self.wants(hubble_api::event_type::AGENT, *r#type);
                wanted.then(|| self.other(*time_ns, ResponseTypes::AgentEvent(event.as_ref().clone())))
            }
            Event::Debug { time_ns, event } => {
                let DebugEvent { r#type, .. } = event.as_ref();
                let wanted = self.wants(hubble_api::event_type::DEBUG, *r#type);
                wanted.then(|| self.other(*time_ns, ResponseTypes::DebugEvent(event.as_ref().clone())))
            }
        }
    }

    /// Filters see nothing of such an event but its type.
    fn wants(&self, kind: i32, sub_type: i32) -> bool {
        let event_type = Some(CiliumEventType { r#type: kind, sub_type });
        self.filters.matches(&Flow { event_type, ..Flow::default() })
    }

    fn other(&self, time_ns: i64, what: ResponseTypes) -> ExportEvent {
        // Flows name the node with its cluster; other events, as in the original, without.
        let name = self.node.name.rsplit('/').next().unwrap_or_default();
        ExportEvent { node_name: name.into(), time: Some(time::from_nanos(time_ns.into())), response_types: Some(what) }
    }
}

enum Sink {
    Stdout,
    File(Rotating),
}

struct Worker {
    name: String,
    encoder: Encoder,
    sink: Sink,
    chunk: usize,
    /// The disk refused a write: until then it is left alone.
    retry_at: Option<Instant>,
    lines: String,
    /// Lines in `lines`.
    pending: u64,
    counts: Arc<Counts>,
}

impl Worker {
    fn run(&mut self, queue: &Queue<Arc<Event>>) {
        let mut events = VecDeque::new();
        loop {
            let work = queue.take(&mut events, IDLE);
            let taken = events.len() as u64;
            if work.lost > 0 {
                self.add(&lost(work.lost));
            }
            for event in events.drain(..) {
                self.add(&event);
            }
            self.write();
            queue.done(taken);
            if work.closed {
                return;
            }
        }
    }

    fn add(&mut self, event: &Event) {
        if self.encoder.line(event, &mut self.lines) {
            self.pending += 1;
            if self.lines.len() >= self.chunk {
                self.write();
            }
        }
    }

    fn write(&mut self) {
        let count = std::mem::take(&mut self.pending);
        if count == 0 {
            return;
        }
        let waits = self.retry_at.is_some_and(|at| Instant::now() < at);
        let written = if waits { None } else { Some(self.sink.write(self.lines.as_bytes())) };
        self.lines.clear();
        let mut error = self.counts.error.lock().unwrap_or_else(PoisonError::into_inner);
        match written {
            Some(Ok(())) => {
                if error.take().is_some() {
                    tracing::info!(export = self.name, "the export is written again");
                }
                self.retry_at = None;
                self.counts.written.fetch_add(count, Ordering::Relaxed);
            }
            Some(Err(why)) => {
                if error.is_none() {
                    tracing::warn!(export = self.name, %why, "the export cannot be written; flows are lost");
                }
                *error = Some(why.to_string());
                self.retry_at = Some(Instant::now() + RETRY);
                self.counts.failed.fetch_add(count, Ordering::Relaxed);
            }
            None => _ = self.counts.failed.fetch_add(count, Ordering::Relaxed),
        }
    }
}

/// What the file itself says about events that found no place.
fn lost(count: u64) -> Event {
    let source = LostEventSource::ObserverEventsQueue.into();
    Event::Lost { time_ns: now_ns(), event: LostEvent { source, num_events_lost: count, ..LostEvent::default() } }
}

impl Sink {
    fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        match self {
            Self::Stdout => {
                let mut out = io::stdout().lock();
                out.write_all(lines)?;
                out.flush()
            }
            Self::File(file) => file.write(lines, now_ns()),
        }
    }
}
