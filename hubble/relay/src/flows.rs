//! One `GetFlows` of one client: every node asked, the answers merged, and word of those that do not answer.

mod request;
mod source;

use crate::{
    Shared,
    answer::{Answer, Next, Shape},
    metrics::Call,
    peers::ConnectionId,
    pool::View,
    status::{self, Failures},
};
use hubble_api::{observer::GetFlowsRequest, relay::NodeState};
use hubble_model::merge::SourceId;
use machine::Instant;
use prost::bytes::Bytes;
use request::Asked;
use source::{Batch, CREDITS, Heard, Resume};
use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};
use tokio::{
    sync::{Semaphore, mpsc, watch},
    task::JoinSet,
};
use tonic::{Code, Status, metadata::MetadataMap, transport::Channel};

/// How long after its stream failed a node that is still connected is asked again.
const ASK_AGAIN: Duration = Duration::from_secs(2);
/// Batches that may wait for the merge; each node has [`CREDITS`] at most.
const BATCHES_MAX: usize = 256;
/// How often a node that says it is there may say nothing else before it is given up.
const PROBES_MAX: u32 = 30;
/// Responses handed out before other tasks get a turn and the end of the relay is looked for.
const TURN: u32 = 256;
/// Responses handed out before the clock is looked at again.
const GLANCE: u32 = 16;

/// A node in this answer.
struct Node {
    connection: ConnectionId,
    state: State,
    resume: Resume,
}

enum State {
    /// Its stream is open.
    Asked(Source),
    /// Its stream failed. It is asked again then, or, when it is not connected, once it is.
    Failed(Option<Instant>),
    /// It has said all that was asked for.
    Done,
}

struct Source {
    id: SourceId,
    /// Tells streams apart that had the same place one after the other.
    stream: u64,
    task: tokio::task::AbortHandle,
}

/// A place in the merge that is taken.
struct Place {
    node: String,
    credits: Arc<Semaphore>,
    /// Credits the node has used and not been given again.
    owed: usize,
    channel: Channel,
    /// How often it was asked whether it is there since it last sent a flow.
    probes: u32,
}

/// An answer under way.
pub struct Flows {
    shared: Arc<Shared>,
    asked: Asked,
    answer: Answer,
    nodes: BTreeMap<String, Node>,
    places: Vec<Option<Place>>,
    view: watch::Receiver<Arc<View>>,
    heard: mpsc::Receiver<Heard>,
    say: mpsc::Sender<Heard>,
    tasks: JoinSet<()>,
    failures: Failures,
    out: VecDeque<Bytes>,
    streams: u64,
    turn: u32,
    /// The time as far as it was looked at.
    now: Instant,
    /// Whether time has passed since.
    waited: bool,
    call: Call,
    ending: Option<Status>,
    over: bool,
}

impl Drop for Flows {
    fn drop(&mut self) {
        self.shared.streams.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Flows {
    /// Asks every node that is there.
    pub fn open(
        shared: &Arc<Shared>,
        request: GetFlowsRequest,
        metadata: &MetadataMap,
        mut call: Call,
    ) -> Result<Self, Status> {
        if request.first && request.follow {
            call.ended(Code::InvalidArgument);
            return Err(Status::invalid_argument("first cannot be specified with follow"));
        }
        let open = shared.streams.fetch_add(1, Ordering::Relaxed);
        let mut view = shared.view.clone();
        let now = shared.clock.now();
        let seen = view.borrow_and_update().clone();
        if !request.follow && seen.nodes.is_empty() && !seen.service_is_open {
            call.ended(Code::Unavailable);
            shared.streams.fetch_sub(1, Ordering::Relaxed);
            return Err(Status::unavailable("no node is known yet: the peer service does not answer"));
        }
        let shape = Shape::of(&request);
        let (say, heard) = mpsc::channel(BATCHES_MAX);
        let answer = Answer::new(shape, request.follow, shared.settings.bounds, now);
        let mut flows = Self {
            shared: shared.clone(),
            asked: Asked::new(request, metadata),
            answer,
            nodes: BTreeMap::new(),
            places: Vec::new(),
            view,
            heard,
            say,
            tasks: JoinSet::new(),
            failures: Failures::default(),
            out: VecDeque::new(),
            streams: 0,
            turn: 0,
            now,
            waited: false,
            call,
            ending: None,
            over: false,
        };
        if open >= shared.settings.streams_max {
            flows.call.ended(Code::ResourceExhausted);
            return Err(Status::resource_exhausted(format!("{open} streams are open already: close some and retry")));
        }
        flows.attach(now, &seen, true);
        let unavailable: Vec<_> = seen.unavailable().map(str::to_owned).collect();
        if !unavailable.is_empty() {
            flows.tell(NodeState::NodeUnavailable, unavailable, "");
        }
        Ok(flows)
    }

    fn tell(&mut self, state: NodeState, names: Vec<String>, message: &str) {
        let at_ns = self.shared.clock.wall_ns();
        self.out.push_back(status::node_status(&self.shared.settings.node_name, at_ns, state, names, message));
    }

    /// Asks nodes that are ready and not asked yet; lets go of those that are no longer there.
    fn attach(&mut self, now: Instant, view: &View, at_start: bool) {
        let mut connected = Vec::new();
        for (node, connection, channel) in view.ready() {
            let name = &node.peer.name;
            let resume = match self.nodes.get(name) {
                Some(Node { connection: same, state, .. }) if *same == connection => match state {
                    State::Failed(Some(again_at)) if *again_at <= now => self.release(name).begin_again(),
                    _ => continue,
                },
                Some(Node { state: State::Done, .. }) => continue,
                Some(_) => self.release(name).begin_again(),
                None => Resume::default(),
            };
            let id = self.answer.join(now);
            self.streams += 1;
            let credits = Arc::new(Semaphore::new(CREDITS));
            let request = self.asked.request(at_start, &resume);
            let stream = source::Stream { id, number: self.streams, credits: credits.clone(), strip: self.asked.strip };
            let task = self.tasks.spawn(source::read(stream, channel.clone(), request, self.say.clone()));
            let place = id.index();
            self.places.resize_with(self.places.len().max(place + 1), || None);
            let channel = channel.clone();
            self.places[place] = Some(Place { node: name.clone(), credits, owed: 0, channel, probes: 0 });
            let source = Source { id, stream: self.streams, task };
            self.nodes.insert(name.clone(), Node { connection, state: State::Asked(source), resume });
            connected.push(name.clone());
        }
        for name in &connected {
            while let Some((message, names)) = self.failures.of(now, name) {
                self.tell(NodeState::NodeError, names, &message);
            }
        }
        if !connected.is_empty() {
            self.tell(NodeState::NodeConnected, connected, "");
        }
        for node in self.nodes.values_mut() {
            if let State::Failed(again) = &mut node.state {
                *again = again.filter(|again_at| *again_at > now);
            }
        }
        let known = |name: &String| view.nodes.iter().any(|node| node.peer.name == *name);
        let gone: Vec<String> = self.nodes.keys().filter(|name| !known(name)).cloned().collect();
        for name in &gone {
            self.release(name);
        }
        if !gone.is_empty() {
            self.tell(NodeState::NodeGone, gone, "");
        }
    }

    /// Forgets a node's stream. What waits of it still goes out.
    fn release(&mut self, name: &str) -> Resume {
        let Some(Node { state, resume, .. }) = self.nodes.remove(name) else { return Resume::default() };
        if let State::Asked(source) = state {
            source.task.abort();
            self.answer.leave(source.id);
            self.places[source.id.index()] = None;
        }
        resume
    }

    /// The next response; none when the answer is over.
    pub async fn next(&mut self) -> Option<Result<Bytes, Status>> {
        loop {
            if let Some(out) = self.out.pop_front() {
                self.call.sent();
                return Some(Ok(out));
            }
            if self.over {
                let status = self.ending.take()?;
                self.call.ended(status.code());
                return Some(Err(status));
            }
            self.turn = self.turn.wrapping_add(1);
            if self.turn.is_multiple_of(TURN) {
                tokio::task::yield_now().await;
                self.look_for_the_end();
            }
            // To look at the clock for each of many flows would cost as much as to merge them.
            if self.waited || self.turn.is_multiple_of(GLANCE) {
                self.now = self.shared.clock.now();
                self.waited = false;
            }
            let now = self.now;
            match self.answer.next(now) {
                Next::Item(bytes, id) => {
                    if let Some(id) = id {
                        self.refill(id);
                    }
                    self.call.sent();
                    return Some(Ok(bytes));
                }
                Next::Lost(count) => {
                    let at_ns = self.shared.clock.wall_ns();
                    self.out.push_back(status::lost(&self.shared.settings.node_name, at_ns, count));
                }
                Next::End => self.finish(now),
                Next::Wait(due) => {
                    self.waited = true;
                    let now = self.shared.clock.now();
                    if let Ok(heard) = self.heard.try_recv() {
                        self.take(now, heard);
                    } else {
                        self.tell_failures(now, false);
                        if self.out.is_empty() {
                            self.wait(due).await;
                        }
                    }
                }
            }
        }
    }

    fn tell_failures(&mut self, now: Instant, flush: bool) {
        while let Some((message, names)) = self.failures.due(now, flush) {
            self.tell(NodeState::NodeError, names, &message);
        }
    }

    fn finish(&mut self, now: Instant) {
        self.tell_failures(now, true);
        self.over = true;
        self.tasks.abort_all();
        if self.ending.is_none() {
            self.call.ended(Code::Ok);
        }
    }

    /// Waits for a node, for time, or for a change among the nodes.
    async fn wait(&mut self, due: Option<Instant>) {
        let again = self.nodes.values().filter_map(|node| match node.state {
            State::Failed(again_at) if self.asked.follow => again_at,
            _ => None,
        });
        let due = again.chain(due).chain(self.failures.next_deadline()).chain(self.answer.silent_at()).min();
        let (clock, closing) = (self.shared.clock, self.shared.closing.clone());
        tokio::select! {
            biased;
            Some(heard) = self.heard.recv() => self.take(clock.now(), heard),
            changed = self.view.changed(), if self.asked.follow => match changed {
                Ok(()) => self.look(),
                Err(_) => self.end(),
            },
            () = closing.cancelled(), if self.asked.follow && self.ending.is_none() => self.end(),
            () = clock.sleep_until(due) => self.on_time(),
        }
    }

    fn look(&mut self) {
        let view = self.view.borrow_and_update().clone();
        self.attach(self.shared.clock.now(), &view, false);
    }

    fn on_time(&mut self) {
        let now = self.shared.clock.now();
        for id in self.answer.silent(now) {
            self.probe(now, id);
        }
        if self.asked.follow {
            self.look();
        }
    }

    /// A node says nothing. It may have much to look through: it is asked whether it is there, and is believed for a while.
    fn probe(&mut self, now: Instant, id: SourceId) {
        let Some(Some(place)) = self.places.get_mut(id.index()) else { return };
        let State::Asked(Source { stream, .. }) = &self.nodes[&place.node].state else { return };
        self.answer.heard(now, id);
        place.probes += 1;
        let within = self.shared.settings.bounds.answer_within;
        let probe = source::probe(id, *stream, place.channel.clone(), within, self.say.clone());
        if place.probes > PROBES_MAX {
            let name = place.node.clone();
            self.give_up(now, &name);
        } else {
            self.tasks.spawn(probe);
        }
    }

    fn give_up(&mut self, now: Instant, name: &str) {
        self.release(name);
        let within = self.shared.settings.bounds.answer_within;
        self.failures.add(now, name, &format!("no answer within {within:?}; flows of this node may be missing"));
    }

    fn look_for_the_end(&mut self) {
        if self.asked.follow && self.ending.is_none() && self.shared.closing.is_cancelled() {
            self.end();
        }
    }

    /// The relay ends: what is held back goes out, then the client is told.
    fn end(&mut self) {
        while let Ok(heard) = self.heard.try_recv() {
            self.take(self.shared.clock.now(), heard);
        }
        self.answer.flush();
        self.tasks.abort_all();
        self.ending = Some(Status::unavailable("the relay is shutting down"));
    }

    fn take(&mut self, now: Instant, heard: Heard) {
        let Heard { id, stream, batch } = heard;
        let Some(Some(place)) = self.places.get_mut(id.index()) else { return };
        let Some(node) = self.nodes.get_mut(&place.node) else { return };
        if !matches!(&node.state, State::Asked(source) if source.stream == stream) {
            return;
        }
        match batch {
            Batch::Alive(true) => {}
            Batch::Alive(false) => {
                let name = place.node.clone();
                self.give_up(now, &name);
            }
            Batch::Items(items) => {
                place.owed += 1;
                place.probes = 0;
                for item in items {
                    if !self.asked.follow || node.resume.takes(&item) {
                        self.answer.push(now, id, item);
                    }
                }
                self.refill(id);
            }
            Batch::End(ended) => {
                let name = place.node.clone();
                self.ended(now, &name, ended);
            }
        }
    }

    /// A node's stream ended: by itself, or with an error.
    fn ended(&mut self, now: Instant, name: &str, ended: Result<(), String>) {
        let connection = self.nodes[name].connection;
        let resume = self.release(name);
        let again_at = now + ASK_AGAIN;
        let state = match ended {
            Ok(()) if !self.asked.follow || self.asked.has_end => State::Done,
            Ok(()) => {
                self.tell(NodeState::NodeGone, vec![name.to_owned()], "the node ended its stream");
                State::Failed(Some(again_at))
            }
            Err(message) => {
                self.failures.add(now, name, &message);
                State::Failed(Some(again_at))
            }
        };
        self.nodes.insert(name.to_owned(), Node { connection, state, resume });
        let done = |node: &Node| matches!(node.state, State::Done);
        if self.asked.has_end && self.nodes.values().all(done) {
            self.answer.flush();
        }
    }

    /// A node may be read on when it has room again.
    fn refill(&mut self, id: SourceId) {
        let Some(Some(place)) = self.places.get_mut(id.index()) else { return };
        if place.owed > 0 && self.answer.wants(id) {
            place.credits.add_permits(std::mem::take(&mut place.owed));
        }
    }
}
