//! One agent in a world that obeys at once, unless it is told not to.
#![allow(dead_code, reason = "each file of tests uses its part")]

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

use abi::write::{MapWrite, WriteError, WriteErrorKind};
use agent_core::{
    Agent, AgentEvent, AnswerWhen, Config, CreateEndpoint, Effect, EndpointRequest, Failure, FamilyConfig, Input,
    IpamRequest, PolicyFiles, Refusal, Request, RequestId, Response, Snapshot, StateFile,
};
use endpoint::{Attachment, EndpointSpec, Pod};
use machine::{Driven, Instant, OpId};
use types::{Labels, MacAddr};

/// What the world does with effects that can fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mood {
    /// It does them.
    #[default]
    Obeys,
    /// It keeps them until [`World::release`].
    Holds,
    /// It fails.
    Fails,
}

/// The world around one agent.
pub struct World {
    pub agent: Driven<Agent>,
    pub config: Config,
    pub now: Instant,
    pub maps: BTreeMap<MapWrite, MapWrite>,
    /// Every write that was made, in order.
    pub writes: Vec<MapWrite>,
    pub policy_room: usize,
    pub files: BTreeMap<StateFile, Vec<u8>>,
    pub store: BTreeMap<String, Vec<u8>>,
    pub attached: Vec<u32>,
    pub links: BTreeMap<u32, Box<str>>,
    pub replies: BTreeMap<RequestId, Result<Response, Refusal>>,
    pub events: Vec<AgentEvent>,
    pub attach: Mood,
    pub save: Mood,
    pub write: Mood,
    pub kv: Mood,
    /// The watched directory of services, as a restarted agent finds it.
    pub service_files: Option<PolicyFiles>,
    /// Maglev tables of which the agent said what is in them.
    tables: BTreeSet<u64>,
    pub purged: Vec<lb::Purge>,
    pub health: BTreeMap<u16, lb::HealthPort>,
    held: Vec<Effect>,
    inputs: VecDeque<Input>,
    watches: Vec<(OpId, String)>,
    next_request: u64,
}

/// What an agent reads of an entry: it does not look into Maglev tables.
fn unknown_table(mut write: MapWrite) -> MapWrite {
    if let MapWrite::Maglev4(_, Some(table)) | MapWrite::Maglev6(_, Some(table)) = &mut write {
        table.id = 0;
    }
    write
}

pub fn ip(text: &str) -> IpAddr {
    text.parse().expect("a literal")
}

pub fn config() -> Config {
    let mut config = Config::new("node-1", ip("192.168.0.1"), 7);
    config.ipv4 = Some(FamilyConfig {
        pod_cidr: "10.0.0.0/24".parse().expect("a literal"),
        router: ip("10.0.0.1"),
        node_addrs: vec![ip("192.168.0.1")],
    });
    config
}

impl World {
    /// A world in which nothing was there before, and an agent that is live.
    pub fn new(config: Config) -> Self {
        let mut world = Self::without_agent(config);
        world.start(|_| {});
        world
    }

    fn without_agent(config: Config) -> Self {
        Self {
            agent: Driven::new(Agent::new(config.clone()).expect("a valid configuration")),
            config,
            now: Instant::from_secs(1),
            maps: BTreeMap::new(),
            writes: Vec::new(),
            policy_room: usize::MAX,
            files: BTreeMap::new(),
            store: BTreeMap::new(),
            attached: Vec::new(),
            links: BTreeMap::new(),
            replies: BTreeMap::new(),
            events: Vec::new(),
            attach: Mood::Obeys,
            save: Mood::Obeys,
            write: Mood::Obeys,
            kv: Mood::Obeys,
            service_files: None,
            tables: BTreeSet::new(),
            purged: Vec::new(),
            health: BTreeMap::new(),
            held: Vec::new(),
            inputs: VecDeque::new(),
            watches: Vec::new(),
            next_request: 0,
        }
    }

    /// Kills the agent and starts another, after something was done to what it finds.
    pub fn restart(&mut self, tamper: impl FnOnce(&mut Self)) {
        self.agent = Driven::new(Agent::new(self.config.clone()).expect("a valid configuration"));
        self.held.clear();
        self.inputs.clear();
        self.watches.clear();
        self.events.clear();
        self.writes.clear();
        self.start(tamper);
    }

    fn start(&mut self, tamper: impl FnOnce(&mut Self)) {
        tamper(self);
        let snapshot = Snapshot {
            files: self.files.iter().map(|(file, bytes)| (*file, Ok(bytes.clone()))).collect(),
            maps: self.maps.values().map(|write| unknown_table(*write)).collect(),
            links: self.links.iter().map(|(ifindex, name)| (*ifindex, name.clone())).collect(),
            policy_files: None,
            service_files: self.service_files.clone(),
        };
        self.tell(Input::Restored(Box::new(snapshot)));
    }

    /// Tells the agent something, and lets the world react until nothing moves.
    pub fn tell(&mut self, input: Input) {
        self.inputs.push_back(input);
        while let Some(input) = self.inputs.pop_front() {
            let mut effects = Vec::new();
            self.agent.step(self.now, Some(input), |effect| effects.push(effect));
            effects.into_iter().for_each(|effect| self.obey(effect));
        }
    }

    /// Lets time pass, serving every deadline.
    pub fn pass(&mut self, time: Duration) {
        let until = self.now + time;
        while let Some(due) = self.agent.next_deadline().filter(|due| *due <= until) {
            self.now = self.now.max(due);
            let mut effects = Vec::new();
            self.agent.step(self.now, None, |effect| effects.push(effect));
            effects.into_iter().for_each(|effect| self.obey(effect));
            while let Some(input) = self.inputs.pop_front() {
                self.tell(input);
            }
        }
        self.now = until;
    }

    /// Lets go of what was held.
    pub fn release(&mut self) {
        (self.attach, self.save, self.write, self.kv) = Default::default();
        for effect in std::mem::take(&mut self.held) {
            self.obey(effect);
        }
        while let Some(input) = self.inputs.pop_front() {
            self.tell(input);
        }
    }

    pub fn ask(&mut self, request: Request) -> RequestId {
        self.next_request += 1;
        let id = RequestId(self.next_request);
        self.tell(Input::Request(id, request));
        id
    }

    /// Asks and expects the answer at once.
    pub fn answer(&mut self, request: Request) -> Result<Response, Refusal> {
        let id = self.ask(request);
        self.replies.get(&id).cloned().expect("the world obeys at once")
    }

    pub fn live(&self) -> &Agent {
        self.agent.machine()
    }

    fn obey(&mut self, effect: Effect) {
        let mood = match &effect {
            Effect::Attach(..) => self.attach,
            Effect::Save(..) => self.save,
            Effect::WriteMaps(..) => self.write,
            Effect::Kv(..) => self.kv,
            _ => Mood::Obeys,
        };
        if mood == Mood::Holds {
            return self.held.push(effect);
        }
        let outcome = || match mood {
            Mood::Fails => Err(Failure { message: "the world says no".into() }),
            Mood::Obeys | Mood::Holds => Ok(()),
        };
        match effect {
            Effect::Reply(id, answer) => {
                assert!(self.replies.insert(id, answer).is_none(), "{id:?} was answered twice");
            }
            Effect::Kv(op, request) => self.kv(op, request),
            Effect::WriteMaps(op, batch) => {
                let result = self.write_all(&batch);
                self.inputs.push_back(Input::Wrote(op, result));
            }
            Effect::Attach(op, device) => {
                if mood == Mood::Obeys {
                    self.attached.push(device.ifindex);
                }
                self.inputs.push_back(Input::Finished(op, outcome()));
            }
            Effect::Detach(device) => self.attached.retain(|ifindex| *ifindex != device.ifindex),
            Effect::Save(op, file, bytes) => {
                if mood == Mood::Obeys {
                    self.files.insert(file, bytes);
                }
                self.inputs.push_back(Input::Finished(op, outcome()));
            }
            Effect::Forget(op, file) => {
                self.files.remove(&file);
                self.inputs.push_back(Input::Finished(op, Ok(())));
            }
            Effect::Notify(event) => self.events.push(event),
            Effect::Tables(tables) => self.tables = tables.iter().map(|(id, _)| id.as_u64()).collect(),
            Effect::Purge(purge) => self.purged.extend(purge),
            Effect::HealthPorts(ports) => self.health = ports,
        }
    }

    fn write_all(&mut self, batch: &[MapWrite]) -> Result<(), WriteError> {
        for (index, write) in batch.iter().enumerate() {
            if self.write == Mood::Fails {
                return Err(WriteError { index, kind: WriteErrorKind::NoMemory });
            }
            if let MapWrite::Maglev4(_, Some(table)) | MapWrite::Maglev6(_, Some(table)) = write {
                assert!(self.tables.contains(&table.id), "nobody said what is in table {}", table.id);
            }
            let key = write.deletion();
            let policies = self.maps.keys().filter(|key| matches!(key, MapWrite::Policy(..))).count();
            let full = matches!(write, MapWrite::Policy(_, Some(_)))
                && !self.maps.contains_key(&key)
                && policies >= self.policy_room;
            if full {
                return Err(WriteError { index, kind: WriteErrorKind::Full });
            }
            match write.value() {
                Some(_) => self.maps.insert(key, *write),
                None => self.maps.remove(&key),
            };
            self.writes.push(*write);
        }
        Ok(())
    }

    fn kv(&mut self, op: OpId, request: kv::Request) {
        use kv::{Event, Outcome, Request};
        let outcome = match request {
            Request::Get(key) => Outcome::Value(self.store.get(&key).cloned()),
            Request::List(prefix) => {
                let all = self.store.iter().filter(|(key, _)| key.starts_with(&prefix));
                Outcome::Listed(all.map(|(key, value)| (key.clone(), value.clone())).collect())
            }
            Request::CreateIfExists { condition, .. } if !self.store.contains_key(&condition) => {
                Outcome::ConditionAbsent
            }
            Request::Create(entry) | Request::CreateIfExists { entry, .. } => match self.store.get(&entry.key) {
                Some(value) => Outcome::Exists(value.clone()),
                None => {
                    self.changed(&entry.key, Some(entry.value));
                    Outcome::Written
                }
            },
            Request::Put(entry) => {
                self.changed(&entry.key, Some(entry.value));
                Outcome::Written
            }
            Request::Delete(key) => {
                self.changed(&key, None);
                Outcome::Deleted
            }
            Request::Watch(prefix) => {
                self.inputs.push_back(Input::Kv(Event::Done(op, Ok(Outcome::Watching))));
                for (key, value) in self.store.iter().filter(|(key, _)| key.starts_with(&prefix)) {
                    let event = Event::Changed { watch: op, key: key.clone(), value: Some(value.clone()) };
                    self.inputs.push_back(Input::Kv(event));
                }
                self.watches.push((op, prefix));
                return self.inputs.push_back(Input::Kv(Event::Synced(op)));
            }
        };
        self.inputs.push_back(Input::Kv(Event::Done(op, Ok(outcome))));
    }

    fn changed(&mut self, key: &str, value: Option<Vec<u8>>) {
        match &value {
            Some(value) => self.store.insert(key.to_owned(), value.clone()),
            None => self.store.remove(key),
        };
        for (watch, _) in self.watches.iter().filter(|(_, prefix)| key.starts_with(prefix)) {
            let event = kv::Event::Changed { watch: *watch, key: key.to_owned(), value: value.clone() };
            self.inputs.push_back(Input::Kv(event));
        }
    }

    /// What `PUT /endpoint` asks for the `n`th pod, with labels.
    pub fn pod(&mut self, n: u8, labels: &[&str]) -> Request {
        let ifindex = 10 + u32::from(n);
        let ifname: Box<str> = format!("lxc{n}").into();
        self.links.insert(ifindex, ifname.clone());
        let request = IpamRequest::Allocate { family: None, owner: format!("default/p{n}").into(), expires: true };
        let Ok(Response::Allocated(loans)) = self.answer(Request::Ipam(request)) else { panic!("an address is free") };
        let IpAddr::V4(addr) = loans[0].addr else { panic!("an IPv4 world") };
        let create = CreateEndpoint {
            spec: EndpointSpec {
                attachment: Some(Attachment { container_id: format!("c{n}").into(), ifname: "eth0".into() }),
                pod: Some(Pod { namespace: "default".into(), name: format!("p{n}").into(), uid: "".into() }),
                ifname,
                ifindex,
                mac: MacAddr([2, 0, 0, 0, 0, n]),
                host_mac: MacAddr([2, 0, 0, 0, 1, n]),
                ipv4: Some(addr),
                labels: Labels::parse(labels.iter().copied()),
                ..EndpointSpec::default()
            },
            ipv4_loan: loans[0].expires.map(|(_, id)| id),
            answer: AnswerWhen::Ready,
            ..CreateEndpoint::default()
        };
        Request::Endpoint(EndpointRequest::Create(Box::new(create)))
    }

    /// Adds a pod and expects it to become ready.
    pub fn add(&mut self, n: u8, labels: &[&str]) -> types::EndpointId {
        let request = self.pod(n, labels);
        match self.answer(request) {
            Ok(Response::Endpoint(id)) => id,
            other => panic!("{other:?}"),
        }
    }

    /// The device entry of the `n`th pod.
    pub fn device(&self, n: u8) -> Option<abi::endpoint::Device> {
        match self.maps.get(&MapWrite::Device(10 + u32::from(n), None)) {
            Some(MapWrite::Device(_, device)) => *device,
            _ => None,
        }
    }

    /// Writes to the maps that decide about packets; the revisions are left out.
    pub fn deciding_writes(&self) -> Vec<MapWrite> {
        self.writes.iter().filter(|write| !matches!(write, MapWrite::Runtime(..))).copied().collect()
    }
}
