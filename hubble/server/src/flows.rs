//! One stream of events to one client: what is there already, then, if asked, what comes.
//!
//! What the ring holds when the request arrives is referenced at once, so a question about the past loses nothing to
//! new events. Only a follower that reads too slowly is overtaken; it is told so, at most once per interval.

use crate::{
    losses::Concern,
    observer::{Shared, now_ns},
    past::{Earlier, Step},
    tap::Past,
};
use hubble_api::{
    Timestamp,
    flow::{AgentEvent, DebugEvent, LostEvent, LostEventSource},
    json::{Mask, Message as _},
    observer::{GetAgentEventsResponse, GetDebugEventsResponse, GetFlowsResponse, get_flows_response::ResponseTypes},
    time,
};
use hubble_model::{Event, FilterList};
use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};
use tonic::Status;

/// Events taken from the ring at once.
const BATCH: usize = 64;
/// Events looked at before other tasks get a turn.
const TURN: usize = 512;

/// The part of a request that is alike for flows, agent events and debug events.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Window {
    pub number: u64,
    pub first: bool,
    pub follow: bool,
    pub since_ns: Option<i64>,
    pub until_ns: Option<i64>,
}

impl Window {
    pub fn new(
        number: u64,
        (first, follow): (bool, bool),
        since: Option<&Timestamp>,
        until: Option<&Timestamp>,
    ) -> Result<Self, Status> {
        if first && follow {
            return Err(Status::invalid_argument("first cannot be specified with follow"));
        }
        let nanos = |name, at: Option<&Timestamp>| match at {
            None => Ok(None),
            Some(at) if !time::is_valid(at) => {
                Err(Status::invalid_argument(format!("{name}: seconds or nanos of the timestamp are out of range")))
            }
            Some(at) => {
                let ns = time::nanos(at);
                Ok(Some(i64::try_from(ns).unwrap_or(if ns < 0 { i64::MIN } else { i64::MAX })))
            }
        };
        Ok(Self { number, first, follow, since_ns: nanos("since", since)?, until_ns: nanos("until", until)? })
    }
}

/// What kind of event a stream is of.
pub(crate) trait Select: Send + 'static {
    type Response: Send;
    fn wants(&self, event: &Event, shared: &Shared) -> bool;
    fn response(&self, event: &Event, shared: &Shared) -> Option<Self::Response>;
    fn lost(&self, event: LostEvent, at_ns: i64, shared: &Shared) -> Option<Self::Response>;
    /// Whether an event asked for may have been in a loss.
    fn is_concerned(&self, _: &LostEvent, _: i64, _: &Window) -> bool {
        false
    }
    /// What to ask history for; none of what history does not keep.
    fn filters(&self) -> Option<Arc<FilterList>> {
        None
    }
}

fn timestamp(ns: i64) -> Option<Timestamp> {
    Some(time::from_nanos(ns.into()))
}

/// Flows through filters, thinned by a mask.
pub(crate) struct Flows {
    pub filters: Arc<FilterList>,
    pub mask: Option<Mask>,
    pub concern: Concern,
}

impl Select for Flows {
    type Response = GetFlowsResponse;

    fn wants(&self, event: &Event, shared: &Shared) -> bool {
        event.is_asked_for(&self.filters, &shared.node)
    }

    fn response(&self, event: &Event, shared: &Shared) -> Option<GetFlowsResponse> {
        let mut flow = event.to_flow(&shared.node)?;
        if let Some(mask) = &self.mask {
            flow.retain(mask);
        }
        Some(GetFlowsResponse {
            node_name: flow.node_name.clone(),
            time: flow.time,
            response_types: Some(ResponseTypes::Flow(flow)),
        })
    }

    fn lost(&self, event: LostEvent, at_ns: i64, shared: &Shared) -> Option<GetFlowsResponse> {
        Some(GetFlowsResponse {
            node_name: shared.node.name.clone(),
            time: timestamp(at_ns),
            response_types: Some(ResponseTypes::LostEvents(event)),
        })
    }

    fn is_concerned(&self, event: &LostEvent, at_ns: i64, window: &Window) -> bool {
        self.concern.is_told(event, at_ns, window)
    }

    fn filters(&self) -> Option<Arc<FilterList>> {
        Some(Arc::clone(&self.filters))
    }
}

/// Events of the agent.
pub(crate) struct AgentEvents;

impl Select for AgentEvents {
    type Response = GetAgentEventsResponse;

    fn wants(&self, event: &Event, _: &Shared) -> bool {
        matches!(event, Event::Agent { .. })
    }

    fn response(&self, event: &Event, shared: &Shared) -> Option<GetAgentEventsResponse> {
        let Event::Agent { time_ns, event } = event else { return None };
        let agent_event: AgentEvent = event.as_ref().clone();
        Some(GetAgentEventsResponse {
            agent_event: Some(agent_event),
            node_name: shared.node.name.clone(),
            time: timestamp(*time_ns),
        })
    }

    fn lost(&self, _: LostEvent, _: i64, _: &Shared) -> Option<GetAgentEventsResponse> {
        None
    }
}

/// Debug messages of the datapath.
pub(crate) struct DebugEvents;

impl Select for DebugEvents {
    type Response = GetDebugEventsResponse;

    fn wants(&self, event: &Event, _: &Shared) -> bool {
        matches!(event, Event::Debug { .. })
    }

    fn response(&self, event: &Event, shared: &Shared) -> Option<GetDebugEventsResponse> {
        let Event::Debug { time_ns, event } = event else { return None };
        let debug_event: DebugEvent = event.as_ref().clone();
        Some(GetDebugEventsResponse {
            debug_event: Some(debug_event),
            node_name: shared.node.name.clone(),
            time: timestamp(*time_ns),
        })
    }

    fn lost(&self, _: LostEvent, _: i64, _: &Shared) -> Option<GetDebugEventsResponse> {
        None
    }
}

/// A stream under way.
pub(crate) struct Reader<S> {
    shared: Arc<Shared>,
    select: S,
    window: Window,
    /// What is wanted of the time before the ring, while that is not read to its end.
    earlier: Option<Earlier>,
    /// A page of the time before.
    page: VecDeque<Arc<Event>>,
    pending: VecDeque<Arc<Event>>,
    /// Ring position behind `pending`.
    next: u64,
    delivered: u64,
    losses: Losses,
    ended: bool,
    /// How many of `pending` are in the account of all readers.
    accounted: usize,
}

impl<S: Select> Reader<S> {
    /// Opens a stream; refused when too many are open.
    pub fn open(shared: &Arc<Shared>, select: S, window: Window) -> Result<Self, Status> {
        let open = shared.streams.fetch_add(1, Ordering::Relaxed);
        let mut reader = Self {
            shared: Arc::clone(shared),
            select,
            window,
            earlier: None,
            page: VecDeque::new(),
            pending: VecDeque::new(),
            next: 0,
            delivered: 0,
            losses: Losses::new(shared.config.lost_event_interval),
            ended: false,
            accounted: 0,
        };
        if open >= shared.config.streams_max {
            return Err(Status::resource_exhausted(format!("{open} streams are open already: close some and retry")));
        }
        reader.rewind();
        reader.account();
        let held = shared.held.load(Ordering::Relaxed);
        if held > shared.config.held_events_max && held > reader.accounted {
            let why =
                format!("open streams hold {held} events already: ask for fewer with a number or a time, or later");
            return Err(Status::resource_exhausted(why));
        }
        Ok(reader)
    }

    /// Brings the account of all readers up to date.
    fn account(&mut self) {
        let (before, now) = (self.accounted, self.pending.len());
        if now > before {
            self.shared.held.fetch_add(now - before, Ordering::Relaxed);
        } else {
            self.shared.held.fetch_sub(before - now, Ordering::Relaxed);
        }
        self.accounted = now;
    }

    /// References everything of the past that may be delivered.
    fn rewind(&mut self) {
        let (oldest, head) = self.shared.bounds();
        self.next = head;
        let Window { number, first, follow, since_ns, .. } = self.window;
        if follow && number == 0 && since_ns.is_none() {
            return;
        }
        let length = usize::try_from(head - oldest).unwrap_or(usize::MAX);
        // The oldest may have been overwritten meanwhile; what is older than what was read, history has.
        let oldest = oldest + self.shared.read_batch(oldest, length, &mut self.pending);
        self.next = oldest + u64::try_from(self.pending.len()).expect("lengths fit 64 bits");
        if first && since_ns.is_none() {
            self.look_back(oldest, None);
            return;
        }
        let mut matched = 0;
        let start = self.pending.iter().rposition(|event| {
            if !self.select.wants(event, &self.shared) {
                return false;
            }
            match since_ns {
                Some(since_ns) => event.time_ns() < since_ns,
                None => {
                    matched += 1;
                    matched > number && number > 0
                }
            }
        });
        match start {
            Some(last_unwanted) => drop(self.pending.drain(..=last_unwanted)),
            None => {
                let bounded = since_ns.is_none() && number > 0;
                let missing = number.saturating_sub(matched);
                if !bounded || missing > 0 {
                    self.look_back(oldest, bounded.then_some(missing));
                }
            }
        }
    }

    /// The ring does not reach far enough back: notes what history is to add before it.
    fn look_back(&mut self, before: u64, last: Option<u64>) {
        let history = self.shared.extras.history.clone().zip(self.select.filters());
        self.earlier = history.map(|(history, filters)| {
            let Window { since_ns, until_ns, .. } = self.window;
            Earlier::NotBegun(history, Past { since_ns, until_ns, before, last, filters })
        });
    }

    /// The next event of the time before the ring, then of the ring; none when it is not there yet.
    async fn take(&mut self) -> Option<Arc<Event>> {
        if let Some(event) = self.page.pop_front() {
            return Some(event);
        }
        let Some(earlier) = &mut self.earlier else { return self.pending.pop_front() };
        match earlier.step().await {
            Step::Page(page, lost) => {
                self.page = page;
                if lost > 0 {
                    self.losses.add(LostEventSource::UnknownLostEventSource.into(), lost, None, now_ns());
                }
            }
            Step::Ended => {
                self.earlier = None;
                return self.pending.pop_front();
            }
        }
        self.page.pop_front()
    }

    /// The next response; none when the stream is over.
    pub async fn next(&mut self) -> Option<S::Response> {
        let mut looked_at = 0;
        self.account();
        loop {
            if self.shared.closed.is_cancelled() {
                return None;
            }
            if let Some(response) = self.losses.due(now_ns(), self.ended) {
                let (event, at_ns) = response;
                if let Some(response) = self.select.lost(event, at_ns, &self.shared) {
                    return Some(response);
                }
                continue;
            }
            if self.ended {
                return None;
            }
            match self.take().await {
                Some(event) => {
                    if let Some(response) = self.deliver(&event) {
                        return Some(response);
                    }
                }
                None if self.earlier.is_some() => {}
                None if self.window.follow => self.wait().await,
                None => self.ended = true,
            }
            looked_at += 1;
            if looked_at % TURN == 0 {
                tokio::task::yield_now().await;
            }
        }
    }

    fn deliver(&mut self, event: &Event) -> Option<S::Response> {
        if let Event::Lost { time_ns, event } = event {
            if self.select.is_concerned(event, *time_ns, &self.window) {
                self.losses.add(event.source, event.num_events_lost, event.cpu, *time_ns);
            }
            return None;
        }
        let Window { number, follow, since_ns, until_ns, .. } = self.window;
        let at_ns = event.time_ns();
        if since_ns.is_some_and(|since| at_ns < since) {
            return None;
        }
        if until_ns.is_some_and(|until| at_ns > until) {
            self.ended = true;
            return None;
        }
        if !self.select.wants(event, &self.shared) {
            return None;
        }
        self.delivered += 1;
        if !follow && number > 0 && self.delivered == number {
            self.ended = true;
        }
        self.select.response(event, &self.shared)
    }

    /// Waits for news, or until a loss is due to be told.
    async fn wait(&mut self) {
        let written = match self.losses.wait_ns(now_ns()) {
            None => self.shared.written(self.next).await,
            Some(ns) => tokio::select! {
                written = self.shared.written(self.next) => written,
                () = tokio::time::sleep(Duration::from_nanos(ns)) => return,
            },
        };
        if !written {
            self.ended = true;
            return;
        }
        let before = self.pending.len();
        let lost = self.shared.read_batch(self.next, BATCH, &mut self.pending);
        if lost > 0 {
            self.losses.add(LostEventSource::HubbleRingBuffer.into(), lost, None, now_ns());
        }
        let taken = u64::try_from(self.pending.len() - before).expect("a batch is small");
        self.next += lost + taken;
    }
}

impl<S> Drop for Reader<S> {
    fn drop(&mut self) {
        self.shared.streams.fetch_sub(1, Ordering::Relaxed);
        self.shared.held.fetch_sub(self.accounted, Ordering::Relaxed);
    }
}

/// Losses not yet told, by source.
struct Losses {
    by_source: BTreeMap<i32, (LostEvent, i64, i64)>,
    interval_ns: i64,
    told_ns: Option<i64>,
}

impl Losses {
    fn new(interval: Duration) -> Self {
        let interval_ns = i64::try_from(interval.as_nanos()).unwrap_or(i64::MAX);
        Self { by_source: BTreeMap::new(), interval_ns, told_ns: None }
    }

    fn add(&mut self, source: i32, count: u64, cpu: Option<i32>, at_ns: i64) {
        let fresh = || (LostEvent { source, cpu, ..LostEvent::default() }, at_ns, at_ns);
        let (event, first_ns, last_ns) = self.by_source.entry(source).or_insert_with(fresh);
        event.num_events_lost += count;
        event.cpu = event.cpu.filter(|_| event.cpu == cpu);
        *first_ns = at_ns.min(*first_ns);
        *last_ns = at_ns.max(*last_ns);
    }

    /// How long the oldest untold loss must still wait.
    fn wait_ns(&self, now_ns: i64) -> Option<u64> {
        let due_ns = self.told_ns.map_or(i64::MIN, |told_ns| told_ns.saturating_add(self.interval_ns));
        (!self.by_source.is_empty()).then(|| u64::try_from(due_ns.saturating_sub(now_ns)).unwrap_or(0))
    }

    /// A loss that is to be told now, and its time.
    fn due(&mut self, now_ns: i64, flush: bool) -> Option<(LostEvent, i64)> {
        if !flush && self.wait_ns(now_ns)? > 0 {
            return None;
        }
        let (_, (mut event, first_ns, last_ns)) = self.by_source.pop_first()?;
        if self.by_source.is_empty() {
            self.told_ns = Some(now_ns);
        }
        event.first = timestamp(first_ns);
        event.last = timestamp(last_ns);
        Some((event, last_ns))
    }
}
