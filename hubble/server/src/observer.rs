//! The handle through which events come in, and the state all streams read.

pub(crate) mod herald;
mod recorded;

use crate::{Config, Extras, encode::Made, follow::Overwritten};
use hubble_api::{flow, time};
use hubble_model::{DecodeError, Decoder, Event, Kinds, KindsLog, Lookup, NodeInfo, Ring, Stamp};
use nix::time::{ClockId, clock_gettime};
use std::{
    collections::{BTreeMap, VecDeque},
    hash::{BuildHasher, Hasher, RandomState},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// How many events pass between looks at the wall clock's distance from the monotonic one.
const CLOCK_CHECK_EVENTS: u64 = 1024;

/// Publishes events and hands them to readers. Cloning is cheap and shares everything.
#[derive(Debug, Clone)]
pub struct Observer(Arc<Shared>);

#[derive(Debug)]
pub(crate) struct Shared {
    pub config: Config,
    pub node: NodeInfo,
    pub extras: Extras,
    state: Mutex<State>,
    /// Readers that wait for the next event.
    waiting: AtomicUsize,
    news: Notify,
    /// Who tells them.
    herald: herald::Herald,
    /// Followers that want to know how far the ring has come.
    pub guards: AtomicUsize,
    /// Says so at every quarter of the ring.
    pub strides: Notify,
    pub closed: CancellationToken,
    pub started_ns: i64,
    seen_flows: AtomicU64,
    pub streams: AtomicUsize,
    /// Events of the past that open streams hold, each counted for every stream that does.
    pub held: AtomicUsize,
    /// Events set aside for followers that are not read, counted alike.
    pub aside: AtomicUsize,
    /// Responses several streams ask for.
    pub made: Made,
    random: AtomicU64,
    wall_minus_monotonic_ns: AtomicI64,
}

#[derive(Debug)]
struct State {
    ring: Ring<Arc<Event>>,
    kinds: KindsLog,
    /// Namespace, then cluster, and when a flow last had them.
    namespaces: BTreeMap<String, BTreeMap<String, i64>>,
}

fn clock_ns(id: ClockId) -> i64 {
    clock_gettime(id).map_or(0, |at| at.tv_sec() * 1_000_000_000 + at.tv_nsec())
}

/// Nanoseconds since 1970 by the machine's clock.
pub(crate) fn now_ns() -> i64 {
    clock_ns(ClockId::CLOCK_REALTIME)
}

fn clock_distance() -> i64 {
    now_ns() - clock_ns(ClockId::CLOCK_MONOTONIC)
}

impl Observer {
    /// An observer without events.
    pub fn new(config: Config) -> Self {
        Self::with(config, Extras::default())
    }

    /// An observer without events, with others that see them and a memory beyond the ring.
    pub fn with(config: Config, extras: Extras) -> Self {
        let node = config.node();
        let state = State {
            ring: Ring::new(config.ring_capacity),
            kinds: KindsLog::new(config.ring_capacity),
            namespaces: BTreeMap::new(),
        };
        Self(Arc::new(Shared {
            node,
            extras,
            state: Mutex::new(state),
            waiting: AtomicUsize::new(0),
            news: Notify::new(),
            herald: herald::Herald::default(),
            guards: AtomicUsize::new(0),
            strides: Notify::new(),
            closed: CancellationToken::new(),
            started_ns: now_ns(),
            seen_flows: AtomicU64::new(0),
            streams: AtomicUsize::new(0),
            held: AtomicUsize::new(0),
            aside: AtomicUsize::new(0),
            made: Made::default(),
            random: AtomicU64::new(RandomState::new().build_hasher().finish()),
            wall_minus_monotonic_ns: AtomicI64::new(clock_distance()),
            config,
        }))
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.0
    }

    /// Takes one event. Never waits for readers.
    pub fn publish(&self, event: Event) {
        self.0.publish(event);
    }

    /// Decodes a record as it lies in the datapath's ring buffer, and takes it.
    pub fn publish_record<L: Lookup>(&self, decoder: &Decoder<L>, record: &[u8]) -> Result<(), DecodeError> {
        let event = decoder.decode(record, self.0.stamp())?;
        self.0.publish(event);
        Ok(())
    }

    /// Takes note of events that never came here, such as records the kernel had no room for.
    pub fn publish_lost(&self, source: flow::LostEventSource, count: u64, cpu: Option<i32>) {
        let event = flow::LostEvent { source: source.into(), num_events_lost: count, cpu, ..Default::default() };
        self.0.publish(Event::Lost { time_ns: now_ns(), event });
    }

    /// Takes note of events that were lost between a moment and now.
    pub fn publish_lost_since(&self, source: flow::LostEventSource, count: u64, since: SystemTime) {
        let last_ns = now_ns();
        let first = since.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos());
        let first = i128::try_from(first).unwrap_or(i128::MAX).min(last_ns.into());
        let event = flow::LostEvent {
            source: source.into(),
            num_events_lost: count,
            first: Some(time::from_nanos(first)),
            last: Some(time::from_nanos(last_ns.into())),
            ..Default::default()
        };
        self.0.publish(Event::Lost { time_ns: last_ns, event });
    }

    /// Takes an event of the agent itself; it happened now.
    pub fn publish_agent_event(&self, event: flow::AgentEvent) {
        self.0.publish(Event::Agent { time_ns: now_ns(), event: Box::new(event) });
    }

    /// Takes a flow that was built elsewhere, such as the proxy's record of a request.
    pub fn publish_flow(&self, mut flow: flow::Flow) {
        flow.time.get_or_insert_with(|| time::from_nanos(now_ns().into()));
        if flow.node_name.is_empty() {
            flow.node_name.clone_from(&self.0.node.name);
        }
        self.0.publish(Event::Flow(Box::new(flow)));
    }

    /// Ends all streams. Later events are still taken, but nobody sees them.
    pub fn close(&self) {
        self.0.closed.cancel();
    }

    /// Streams open now.
    pub fn streams(&self) -> usize {
        self.0.streams.load(Ordering::Relaxed)
    }

    /// Events that open streams hold, each counted for every stream that does.
    pub fn held_events(&self) -> usize {
        self.0.held.load(Ordering::Relaxed) + self.0.aside.load(Ordering::Relaxed)
    }

    /// Flows published so far.
    pub fn seen_flows(&self) -> u64 {
        self.0.seen_flows.load(Ordering::Relaxed)
    }
}

impl Shared {
    /// A reader that panicked has broken nothing here: the ring is valid after every statement.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stamp(&self) -> Stamp {
        let draw = self.random.fetch_add(2, Ordering::Relaxed);
        if draw % CLOCK_CHECK_EVENTS < 2 {
            self.wall_minus_monotonic_ns.store(clock_distance(), Ordering::Relaxed);
        }
        Stamp {
            wall_minus_monotonic_ns: self.wall_minus_monotonic_ns.load(Ordering::Relaxed),
            uuid: u128::from(mix(draw)) << 64 | u128::from(mix(draw.wrapping_add(1))),
        }
    }

    fn publish(&self, mut event: Event) {
        if let (Event::Flow(flow), Some(redact)) = (&mut event, &self.extras.redact) {
            redact.apply(flow);
        }
        if event.is_flow() {
            self.seen_flows.fetch_add(1, Ordering::Relaxed);
        }
        let kinds = Kinds::of_event(&event, &self.node);
        let event = Arc::new(event);
        let tapped = (!self.extras.taps.is_empty()).then(|| Arc::clone(&event));
        let (position, replaced) = {
            let mut state = self.state();
            state.note_namespaces(&event);
            state.kinds.push(kinds);
            state.ring.push(event)
        };
        drop(replaced); // Freed outside the lock.
        if let Some(event) = tapped {
            self.extras.taps.iter().for_each(|tap| tap.event(position, &event, &self.node));
        }
        if self.waiting.load(Ordering::SeqCst) > 0 {
            self.herald.tell();
        }
        if self.guards.load(Ordering::SeqCst) > 0 && position.is_multiple_of(self.stride()) {
            self.herald.tell_stride();
        }
    }

    /// A quarter of the ring.
    pub fn stride(&self) -> u64 {
        count(self.config.ring_capacity / 4).max(1)
    }

    /// Up to `max` events from a position on, and what is lost of those before them.
    pub fn read_batch(&self, position: u64, max: usize, into: &mut VecDeque<Arc<Event>>) -> Overwritten {
        let state = self.state();
        let oldest = state.ring.oldest().max(position);
        for at in (oldest..state.ring.next()).take(max) {
            into.extend(state.ring.peek(at).map(Arc::clone));
        }
        Overwritten { count: oldest - position, kinds: state.kinds.between(position, oldest) }
    }

    /// Oldest position still there, and the next to be written.
    pub fn bounds(&self) -> (u64, u64) {
        let state = self.state();
        (state.ring.oldest(), state.ring.next())
    }

    /// Waits until `position` is written. False when the observer was closed instead.
    pub async fn written(&self, position: u64) -> bool {
        loop {
            let news = self.news.notified();
            tokio::pin!(news);
            news.as_mut().enable();
            let _counted = Counted::new(&self.waiting);
            if self.bounds().1 > position {
                return true;
            }
            tokio::select! {
                () = &mut news => {}
                () = self.closed.cancelled() => return false,
            }
        }
    }

    pub fn num_flows(&self) -> (u64, u64) {
        let state = self.state();
        (count(state.ring.len()), count(state.ring.capacity()))
    }

    /// Flows of the last minute, by second; of a ring that does not reach back that far, since its oldest.
    pub fn flows_rate(&self, now_ns: i64) -> f64 {
        const MINUTE_NS: i64 = 60_000_000_000;
        let state = self.state();
        let (mut flows, mut oldest) = (0_u32, now_ns);
        let mut whole_minute = false;
        for at in (state.ring.oldest()..state.ring.next()).rev() {
            let Some(event) = state.ring.peek(at).filter(|event| event.is_flow()) else { continue };
            if now_ns - event.time_ns() > MINUTE_NS {
                whole_minute = true;
                break;
            }
            oldest = oldest.min(event.time_ns());
            flows += 1;
        }
        let span_ns = if whole_minute { MINUTE_NS } else { (now_ns - oldest).min(MINUTE_NS) };
        if span_ns <= 0 { 0.0 } else { f64::from(flows) / (span_ns as f64 / 1e9) }
    }

    pub fn seen_flows(&self) -> u64 {
        self.seen_flows.load(Ordering::Relaxed)
    }

    /// Cluster and namespace of every flow seen lately, sorted.
    pub fn namespaces(&self, now_ns: i64) -> Vec<(String, String)> {
        let ttl_ns = i64::try_from(self.config.namespace_ttl.as_nanos()).unwrap_or(i64::MAX);
        let mut state = self.state();
        state.namespaces.retain(|_, clusters| {
            clusters.retain(|_, seen| now_ns.saturating_sub(*seen) <= ttl_ns);
            !clusters.is_empty()
        });
        let pairs =
            state.namespaces.iter().flat_map(|(namespace, clusters)| clusters.keys().map(move |c| (c, namespace)));
        let mut all: Vec<(String, String)> =
            pairs.map(|(cluster, namespace)| (cluster.clone(), namespace.clone())).collect();
        all.sort_unstable();
        all
    }
}

/// Namespaces listed at most; a cluster has fewer, and a bound is a bound.
const NAMESPACES_MAX: usize = 10_000;

impl State {
    fn note_namespaces(&mut self, event: &Event) {
        let mut note = |cluster: &str, namespace: &str, time_ns: i64| {
            if namespace.is_empty() {
                return;
            }
            if let Some(seen) = self.namespaces.get_mut(namespace).and_then(|clusters| clusters.get_mut(cluster)) {
                *seen = time_ns.max(*seen);
            } else if self.namespaces.len() < NAMESPACES_MAX {
                self.namespaces.entry(namespace.into()).or_default().insert(cluster.into(), time_ns);
            }
        };
        match event {
            Event::Record(record) => {
                for side in [&record.source, &record.destination] {
                    if let Some(info) = &side.info {
                        note(side.cluster(), &info.namespace, record.time_ns);
                    }
                }
            }
            Event::Flow(flow) => {
                for end in [&flow.source, &flow.destination].into_iter().flatten() {
                    note(&end.cluster_name, &end.namespace, event.time_ns());
                }
            }
            _ => {}
        }
    }
}

/// Counts a waiting reader for as long as it lives.
struct Counted<'a>(&'a AtomicUsize);

impl<'a> Counted<'a> {
    fn new(counter: &'a AtomicUsize) -> Self {
        counter.fetch_add(1, Ordering::SeqCst);
        Self(counter)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

fn count(n: usize) -> u64 {
    u64::try_from(n).unwrap_or(u64::MAX)
}

/// SplitMix64: every counter value gives another number, and no two of them look alike.
fn mix(counter: u64) -> u64 {
    let z = counter.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ z >> 31
}
