//! The whole cluster as one queue of events in virtual time.

mod effects;
mod heal;
mod probes;
mod users;

use std::collections::BTreeMap;
use std::net::IpAddr;

use abi::write::{MapWrite, WriteError};
use agent_core::{Agent, Device, Failure, Input, PolicyFiles, StateFile};
use machine::{Driven, Instant, OpId, Rng};

use crate::check::{Violation, Window};
use crate::node::{Fault, Node};
use crate::objects::Objects;
use crate::plan;
use crate::store::{Client, Said, Store};
use crate::trace::Trace;

const MILLI: u64 = 1_000_000;

/// What a run is to be.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// Makes everything.
    pub seed: u64,
    /// How many nodes.
    pub nodes: usize,
    /// How many things users do while there are faults.
    pub actions: u32,
    /// A bug to plant.
    pub fault: Option<Fault>,
    /// Lines of the trace to keep for a failure's report.
    pub keep_trace: usize,
}

impl Settings {
    /// Three nodes and a run of ordinary length.
    pub fn new(seed: u64) -> Self {
        Self { seed, nodes: 3, actions: 60, fault: None, keep_trace: 0 }
    }
}

/// What a run came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Outcome {
    /// Hash of everything that happened.
    pub trace_hash: u64,
    /// Packets sent.
    pub probes: u64,
    /// Of these, delivered.
    pub delivered: u64,
    /// Of these, answered through a service.
    pub through_services: u64,
    /// Single map writes, each followed by packets.
    pub writes: u64,
    /// Lives of agents that ended in a crash.
    pub crashes: u64,
    /// Pods that became ready.
    pub pods: u64,
    /// Virtual time, milliseconds.
    pub virtual_ms: u64,
}

/// A run that broke a rule.
#[derive(Debug, thiserror::Error)]
#[error("seed {seed}: {violation} (at {at:?}; replay: cargo xtask sim --seed {seed})")]
pub struct Failed {
    /// The seed that replays it.
    pub seed: u64,
    /// When.
    pub at: Instant,
    /// What happened.
    pub violation: Violation,
    /// The last lines of the trace.
    pub recent: Vec<String>,
}

/// Something that will happen.
#[derive(Debug)]
enum Event {
    Act,
    Probe,
    Heard(Said),
    Asked(Client, OpId, kv::Request),
    Write { node: usize, life: u32, op: OpId, batch: Vec<MapWrite>, next: usize },
    Disk { node: usize, life: u32, op: OpId, file: StateFile, bytes: Option<Vec<u8>> },
    Attach { node: usize, life: u32, op: OpId, device: Device },
    Files { node: usize, life: u32, files: PolicyFiles },
    Wake { node: usize, life: u32 },
    Restart(usize),
    Again { node: usize, request: agent_core::Request },
}

/// A cluster in the middle of a run.
pub struct Cluster {
    settings: Settings,
    rng: Rng,
    now_ns: u64,
    queue: BTreeMap<(u64, u64), Event>,
    next_event: u64,
    nodes: Vec<Node>,
    store: Store,
    objects: Objects,
    /// Since all nodes were settled at once.
    window: Window,
    /// Addresses that are given out: to whom.
    holders: BTreeMap<IpAddr, String>,
    identities: BTreeMap<String, Vec<u8>>,
    flows: Vec<probes::Flow>,
    next_pod: u32,
    next_port: u16,
    actions_left: u32,
    outcome: Outcome,
    trace: Trace,
}

impl Cluster {
    /// Runs a cluster from its first agent to the healed end.
    pub fn run(settings: Settings) -> Result<Outcome, Box<Failed>> {
        let mut cluster = Self::new(settings);
        match cluster.play() {
            Ok(()) => {
                cluster.outcome.trace_hash = cluster.trace.hash();
                cluster.outcome.virtual_ms = cluster.now_ns / MILLI;
                Ok(cluster.outcome)
            }
            Err(violation) => Err(Box::new(Failed {
                seed: settings.seed,
                at: Instant::from_nanos(cluster.now_ns),
                violation,
                recent: cluster.trace.recent().map(str::to_owned).collect(),
            })),
        }
    }

    fn new(settings: Settings) -> Self {
        let mut rng = Rng::new(settings.seed);
        let mut store = Store::new(rng.split("store"));
        store.create_overwrites = settings.fault == Some(Fault::CreateOverwrites);
        Self {
            settings,
            now_ns: 1_000 * MILLI,
            queue: BTreeMap::new(),
            next_event: 0,
            nodes: (0..settings.nodes).map(Node::new).collect(),
            store,
            objects: Objects::default(),
            window: Window::new(Objects::default()),
            holders: BTreeMap::new(),
            identities: BTreeMap::new(),
            flows: Vec::new(),
            next_pod: 0,
            next_port: 20_000,
            actions_left: settings.actions,
            outcome: Outcome::default(),
            trace: Trace::new(settings.keep_trace),
            rng,
        }
    }

    /// The phase of faults, then the healed one.
    fn play(&mut self) -> Result<(), Violation> {
        for node in 0..self.nodes.len() {
            self.at(MILLI, Event::Restart(node));
        }
        self.at(50 * MILLI, Event::Act);
        self.at(60 * MILLI, Event::Probe);
        while self.actions_left > 0 {
            self.next()?;
        }
        self.heal()
    }

    /// Puts an event `delay_ns` into the future.
    fn at(&mut self, delay_ns: u64, event: Event) {
        self.next_event += 1;
        self.queue.insert((self.now_ns + delay_ns, self.next_event), event);
    }

    /// The next event. The queue never runs dry during the phase of faults: users keep acting.
    fn next(&mut self) -> Result<(), Violation> {
        let ((at, _), event) = self.queue.pop_first().expect("somebody always acts");
        self.now_ns = at;
        self.happen(event)
    }

    fn happen(&mut self, event: Event) -> Result<(), Violation> {
        match event {
            Event::Act => {
                self.actions_left -= 1;
                let mut rng = self.rng.split("act");
                let action = plan::draw(&mut rng, &self.objects, self.nodes.len(), true);
                self.act(action)?;
                let pause = rng.below(400) * MILLI + MILLI;
                self.at(pause, Event::Act);
            }
            Event::Probe => {
                self.probe_somewhere()?;
                self.settle();
                let pause = self.rng.below(30) * MILLI + MILLI;
                self.at(pause, Event::Probe);
            }
            Event::Heard(said) => {
                let (node, life) = said.to;
                self.arrived(node, life);
                self.feed_life(node, life, Input::Kv(said.event))?;
            }
            Event::Asked(client, op, request) => {
                self.arrived(client.0, client.1);
                let said = self.store.ask(client, op, request, self.now_ns);
                self.check_identities()?;
                self.deliver(said);
            }
            Event::Write { node, life, op, batch, next } => self.write(node, life, op, batch, next)?,
            Event::Disk { node, life, op, file, bytes } => {
                self.arrived(node, life);
                if self.lives(node, life) {
                    match bytes {
                        Some(bytes) => self.nodes[node].disk.insert(file, bytes),
                        None => self.nodes[node].disk.remove(&file),
                    };
                    self.feed(node, Input::Finished(op, Ok(())))?;
                }
            }
            Event::Attach { node, life, op, device } => {
                self.arrived(node, life);
                if self.lives(node, life) {
                    let attached = self.nodes[node].host.attach(device.ifindex);
                    let gone = || Failure { message: format!("{} is gone", device.ifname).into() };
                    self.feed(node, Input::Finished(op, if attached { Ok(()) } else { Err(gone()) }))?;
                }
            }
            Event::Files { node, life, files } => {
                self.arrived(node, life);
                self.feed_life(node, life, Input::PolicyFiles(files))?;
            }
            Event::Wake { node, life } => {
                if self.lives(node, life) {
                    self.nodes[node].wake_at = None;
                    self.step(node, None)?;
                }
            }
            Event::Restart(node) => self.start_agent(node)?,
            Event::Again { node, request } => {
                self.nodes[node].under_way -= 1;
                self.request(node, crate::node::Waiting::Again(request.clone()), request)?;
            }
        }
        Ok(())
    }

    /// Whether this life of the node's agent goes on.
    fn lives(&self, node: usize, life: u32) -> bool {
        self.nodes[node].life == life && self.nodes[node].agent.is_some()
    }

    /// Something that was on its way to this life of a node's agent has come.
    fn arrived(&mut self, node: usize, life: u32) {
        if self.nodes[node].life == life {
            self.nodes[node].under_way -= 1;
        }
    }

    /// Sends something on its way to this life of a node's agent.
    fn on_its_way(&mut self, node: usize, delay_ns: u64, event: Event) {
        self.nodes[node].under_way += 1;
        self.at(delay_ns, event);
    }

    fn deliver(&mut self, said: Vec<Said>) {
        for said in said {
            let (node, life) = said.to;
            if self.nodes[node].life == life {
                self.on_its_way(node, said.delay_ns, Event::Heard(said));
            }
        }
    }

    fn feed_life(&mut self, node: usize, life: u32, input: Input) -> Result<(), Violation> {
        if self.lives(node, life) { self.feed(node, input) } else { Ok(()) }
    }

    /// Tells a living agent something and carries out what it wants done.
    fn feed(&mut self, node: usize, input: Input) -> Result<(), Violation> {
        self.step(node, Some(input))
    }

    fn start_agent(&mut self, node: usize) -> Result<(), Violation> {
        let seed = self.rng.next_u64();
        let state = &mut self.nodes[node];
        if state.agent.is_some() {
            return Ok(());
        }
        state.life += 1;
        state.under_way = 0;
        state.wake_at = None;
        let agent = Agent::new(state.agent_config(seed)).expect("the simulator's configuration is valid");
        state.agent = Some(Driven::new(agent));
        let snapshot = state.snapshot();
        self.trace.record(format_args!("{} node {node} starts life {}", self.now_ns, self.nodes[node].life));
        self.feed(node, Input::Restored(Box::new(snapshot)))?;
        self.ask_again(node)
    }

    fn crash_agent(&mut self, node: usize) -> Result<(), Violation> {
        let state = &mut self.nodes[node];
        if state.agent.take().is_none() {
            return Ok(());
        }
        let life = state.life;
        self.store.forget((node, life));
        self.outcome.crashes += 1;
        self.trace.record(format_args!("{} node {node} crashes", self.now_ns));
        self.clean_up_after_crash(node)?;
        let pause = self.rng.below(2_000) * MILLI + MILLI;
        self.at(pause, Event::Restart(node));
        Ok(())
    }

    /// Nodes that have caught up with all objects forget what was before.
    fn settle(&mut self) {
        for node in 0..self.nodes.len() {
            if self.is_settled(node).is_ok() {
                self.nodes[node].window.settled();
            }
        }
        if (0..self.nodes.len()).all(|node| self.is_settled(node).is_ok()) {
            self.window.settled();
        }
    }

    /// Whether a node has caught up; otherwise what it waits for.
    fn is_settled(&self, node: usize) -> Result<(), String> {
        let state = &self.nodes[node];
        let Some(agent) = &state.agent else { return Err("its agent is down".into()) };
        if state.under_way > 0 {
            return Err(format!("{} things are on their way to it", state.under_way));
        }
        if let Some((_, waiting)) = state.waiting.iter().find(|(_, waiting)| **waiting != crate::node::Waiting::Nothing)
        {
            return Err(format!("somebody waits for {waiting:?}"));
        }
        // What it still means to do, it does within seconds; expiring loans and leases take minutes.
        match agent.next_deadline() {
            Some(due) if due < Instant::from_nanos(self.now_ns + 40_000 * MILLI) => Err(format!("it acts at {due:?}")),
            _ => Ok(()),
        }
    }

    fn check_identities(&mut self) -> Result<(), Violation> {
        const MASTER: &str = "cilium/state/identities/v1/id/";
        let now: BTreeMap<String, Vec<u8>> =
            self.store.list(MASTER).map(|(key, value)| (key.clone(), value.to_vec())).collect();
        for (key, value) in &now {
            if let Some(before) = self.identities.get(key).filter(|before| *before != value) {
                let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                let number = key.trim_start_matches(MASTER).to_owned();
                return Err(Violation::IdentityTwice { number, first: text(before), second: text(value) });
            }
        }
        self.identities = now;
        Ok(())
    }

    fn objects_changed(&mut self) {
        self.window.changed(&self.objects);
        for node in &mut self.nodes {
            node.window.changed(&self.objects);
        }
    }
}

/// The first failure of a batch on a simulated kernel.
type Applied = Result<(), WriteError>;
