//! The machine: its parts, who hears which input, and how decisions become writes.

use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::format;
use alloc::vec::Vec;

use abi::config::Runtime;
use abi::write::MapWrite;
use machine::{Effects, Instant, Machine, OpId, OpIds, Rng};
use policy::{Delta, Engine, Refused, Write};
use types::{Cidr, EndpointId, NumericIdentity, Revision};

use crate::config::{Audit, Config, ConfigError, Enforcement};
use crate::effect::{AgentEvent, Effect, Refusal, Response, StateFile};
use crate::endpoints::Progress;
use crate::files::Files;
use crate::input::{ConfigChange, Input, Request, RequestId};
use crate::kernel::{self, Kernel, Mark, Numbers, Operation};
use crate::policies::Documents;
use crate::services::ServiceFiles;

/// Operations of the parts are numbered in ranges of their own.
const RANGE: u64 = 1 << 56;

/// Where an agent is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// It has not been told what an earlier life left.
    Cold,
    /// It takes everything in and writes nothing: the kernel does what it did before.
    Restoring,
    /// The kernel follows.
    Live,
}

/// One node's agent. See the [crate documentation](crate).
#[derive(Debug)]
pub struct Agent {
    pub(crate) config: Config,
    pub(crate) phase: Phase,
    pub(crate) enforcement: Enforcement,
    pub(crate) audit: Audit,
    /// The imported policies could not be read back: until somebody says what holds, nothing is open.
    pub(crate) policies_lost: bool,
    pub(crate) services_lost: bool,
    pub(crate) ops: OpIds,
    pub(crate) allocator: identity::Allocator,
    pub(crate) local: identity::Local,
    pub(crate) sync: ipcache::Sync,
    pub(crate) ipam: ipam::HostScope,
    pub(crate) endpoints: endpoint::Endpoints,
    pub(crate) progress: BTreeMap<EndpointId, Progress>,
    pub(crate) attaching: BTreeMap<OpId, EndpointId>,
    pub(crate) deleting: BTreeMap<RequestId, Deleting>,
    pub(crate) ipcache: ipcache::Ipcache,
    pub(crate) engine: Engine,
    pub(crate) numbers: Numbers,
    pub(crate) balancer: lb::Balancer,
    pub(crate) files_of_services: ServiceFiles,
    pub(crate) problems_told: BTreeSet<lb::Problem>,
    pub(crate) health_told: BTreeMap<u16, lb::HealthPort>,
    pub(crate) kernel: Kernel,
    pub(crate) documents: Documents,
    pub(crate) files: Files,
    pub(crate) parked: VecDeque<(RequestId, Request)>,
    pub(crate) revision_base: u64,
    pub(crate) published: Revision,
    pub(crate) realized: Revision,
    pub(crate) lb_revision: u64,
}

/// A request that waits for endpoints to go.
#[derive(Debug, Clone, Default)]
pub(crate) struct Deleting {
    pub(crate) waiting: BTreeSet<EndpointId>,
    pub(crate) gone: Vec<EndpointId>,
}

impl Agent {
    /// An agent that has not been told anything.
    pub fn new(config: Config) -> Result<Self, ConfigError> {
        config.validate()?;
        let mut rng = Rng::new(config.seed);
        let node = format!("{}", config.node_ip);
        let range = |family: &Option<crate::FamilyConfig>| family.as_ref().map(|family| family.pod_cidr);
        let pools = ipam::Config {
            ipv4: range(&config.ipv4),
            ipv6: range(&config.ipv6),
            loans_max: config.ipam_loans_max,
            ..ipam::Config::default()
        };
        let (engine, _) = Engine::new(engine_config(&config));
        let dual_stack = config.ipv4.is_some() && config.ipv6.is_some();
        Ok(Self {
            phase: Phase::Cold,
            enforcement: config.enforcement,
            audit: config.audit,
            policies_lost: false,
            services_lost: false,
            ops: OpIds::default(),
            allocator: identity::Allocator::new(
                identity::Config { min: config.identity_min, max: config.identity_max, ..identity::Config::new(&node) },
                rng.split("identity"),
                OpIds::after(RANGE),
            ),
            local: identity::Local::new(config.local_identities_max, dual_stack),
            sync: ipcache::Sync::new(ipcache::Config::new(config.node_ip), OpIds::after(2 * RANGE)),
            ipam: ipam::HostScope::new(&pools, rng.split("ipam")),
            endpoints: endpoint::Endpoints::new(config.endpoints),
            progress: BTreeMap::new(),
            attaching: BTreeMap::new(),
            deleting: BTreeMap::new(),
            ipcache: ipcache::Ipcache::new(),
            engine,
            numbers: Numbers::default(),
            balancer: lb::Balancer::new(balancer_config(&config)),
            files_of_services: ServiceFiles::default(),
            problems_told: BTreeSet::new(),
            health_told: BTreeMap::new(),
            kernel: Kernel::new(&config, OpIds::after(3 * RANGE), []),
            documents: Documents::default(),
            files: Files::default(),
            parked: VecDeque::new(),
            revision_base: 0,
            published: Revision(0),
            realized: Revision(0),
            lb_revision: 0,
            config,
        })
    }

    /// Whether the kernel follows what is decided.
    pub(crate) fn is_live(&self) -> bool {
        self.phase == Phase::Live
    }

    /// Asks for a map write, once the kernel follows; before that the reconciliation will ask for it.
    pub(crate) fn put(&mut self, write: MapWrite) {
        if self.is_live() {
            self.kernel.put(write);
        }
    }

    fn request(&mut self, now: Instant, id: RequestId, request: Request, fx: &mut Effects<Effect>) {
        let answer = match request {
            Request::Ipam(request) => Some(self.ipam_request(now, request)),
            Request::Endpoint(request) => self.endpoint_request(now, id, request, fx),
            Request::Service(request) => self.service_request(id, request, fx),
            Request::Policy(request) => match self.policy_request(now, request, fx) {
                Ok(response) => {
                    self.answer_once_kept(id, response, StateFile::Policies, fx);
                    None
                }
                refused => Some(refused),
            },
            Request::Config(change) => self.change_config(now, id, change, fx),
        };
        if let Some(answer) = answer {
            fx.push(Effect::Reply(id, answer));
        }
    }

    fn change_config(
        &mut self,
        now: Instant,
        id: RequestId,
        change: ConfigChange,
        fx: &mut Effects<Effect>,
    ) -> Option<Result<Response, Refusal>> {
        let enforcement = change.enforcement.unwrap_or(self.enforcement);
        let audit = change.audit.unwrap_or(self.audit);
        let mode = (self.engine_enforcement(enforcement), audit == Audit::Report);
        let changed = self.change(fx, "the mode stays as it was", |engine| Ok(engine.set_mode(mode.0, mode.1)));
        if let Err(refusal) = changed {
            return Some(Err(refusal));
        }
        (self.enforcement, self.audit) = (enforcement, audit);
        self.regenerate(now, "configuration changed");
        self.kernel.mark(Mark::Answer(id, Response::Done));
        None
    }

    pub(crate) fn engine_enforcement(&self, enforcement: Enforcement) -> policy::Enforcement {
        match enforcement {
            Enforcement::Never => policy::Enforcement::Never,
            Enforcement::Default if !self.policies_lost => policy::Enforcement::Default,
            Enforcement::Default | Enforcement::Always => policy::Enforcement::Always,
        }
    }

    /// Changes the policy engine, unless the outcome does not fit into the policy map; then nothing has changed.
    pub(crate) fn change(
        &mut self,
        fx: &mut Effects<Effect>,
        consequence: &'static str,
        change: impl FnOnce(&mut Engine) -> Result<Delta, Refused>,
    ) -> Result<(), Refusal> {
        let (used, max) = self.kernel.policy_room();
        let spare = (self.is_live() && (used * 2 >= max || max < 8_192)).then(|| self.engine.clone());
        let delta = change(&mut self.engine).map_err(|refused| {
            let Refused::Full { bound, max } = refused;
            let map = if bound == "prefixes_max" { abi::maps::IPCACHE.name } else { bound };
            Refusal::MapFull { map, max, needed: 1, consequence }
        })?;
        let peak = used + self.growth(&delta);
        if self.is_live() && peak > max {
            fx.push(Effect::Notify(AgentEvent::MapFull { map: abi::maps::POLICY.name, max }));
            if let Some(spare) = spare {
                self.engine = spare;
                return Err(kernel::policy_map_full(max, peak - max, consequence));
            }
        }
        self.apply(delta, fx);
        Ok(())
    }

    /// The most entries by which a change lets the policy map grow on its way.
    fn growth(&self, delta: &Delta) -> usize {
        let mut known: BTreeMap<policy::EntryKey, bool> = BTreeMap::new();
        let (mut now, mut peak) = (0_isize, 0_isize);
        for write in &delta.writes {
            let (key, there) = match write {
                Write::PutEntry(key, _) => (key, true),
                Write::DeleteEntry(key) => (key, false),
                _ => continue,
            };
            let before = known
                .insert(*key, there)
                .unwrap_or_else(|| self.kernel.value(MapWrite::Policy(self.numbers.policy_key(key), None)).is_some());
            now += isize::from(there) - isize::from(before);
            peak = peak.max(now);
        }
        peak.unsigned_abs()
    }

    /// Carries out what a change of the engine means, and what follows from that.
    pub(crate) fn apply(&mut self, delta: Delta, fx: &mut Effects<Effect>) {
        for write in delta.writes {
            if let Some(write) = self.translate(write) {
                self.put(write);
            }
        }
        for conflict in delta.conflicts {
            fx.push(Effect::Notify(AgentEvent::Warning(format!(
                "{} {:?}: rules read protocol {} ports {:?} as {:?} and as {:?}; what they allow there is refused",
                conflict.policy,
                conflict.direction,
                conflict.protocol,
                conflict.ports,
                conflict.parsers[0],
                conflict.parsers[1]
            ))));
        }
        for prefix in &delta.unwanted {
            self.unname_prefix(*prefix, fx);
        }
        for prefix in &delta.wanted {
            self.name_prefix(*prefix, fx);
        }
        if !delta.wanted.is_empty() || !delta.unwanted.is_empty() {
            self.store(StateFile::LocalIdentities, fx);
        }
        self.publish_policy();
    }

    /// Moves the revision by which established flows are judged anew, if the policy moved.
    pub(crate) fn publish_policy(&mut self) {
        let revision = self.engine.revision();
        if self.is_live() && revision != self.published {
            self.published = revision;
            self.put(MapWrite::Runtime(Runtime::PolicyRevision as u32, Some(self.revision_base + revision.0)));
            self.kernel.mark(Mark::Realized(revision));
        }
    }

    /// Gives a prefix that rules name an identity of its own.
    fn name_prefix(&mut self, prefix: Cidr, fx: &mut Effects<Effect>) {
        let number = match self.local.acquire(prefix) {
            Ok(number) => number,
            Err(refusal) => {
                fx.push(Effect::Notify(AgentEvent::Warning(format!("{refusal}"))));
                return;
            }
        };
        let labels = self.local.labels(prefix);
        let named =
            self.change(fx, "the prefix has no identity of its own", |engine| engine.upsert_identity(number, &labels));
        if let Err(refusal) = named {
            self.local.release(prefix);
            fx.push(Effect::Notify(AgentEvent::Warning(format!("{prefix}: {refusal}"))));
            return;
        }
        self.say(prefix, ipcache::Source::Generated, ipcache::Entry::of(number), fx);
    }

    fn unname_prefix(&mut self, prefix: Cidr, fx: &mut Effects<Effect>) {
        self.unsay(prefix, ipcache::Source::Generated, fx);
        if let Some(number) = self.local.release(prefix) {
            let delta = self.engine.remove_identity(number);
            self.apply(delta, fx);
        }
    }

    /// Takes a statement about a prefix, and tells the engine if what is believed changed.
    pub(crate) fn say(
        &mut self,
        prefix: Cidr,
        source: ipcache::Source,
        entry: ipcache::Entry,
        fx: &mut Effects<Effect>,
    ) -> bool {
        let Some(believed) = self.ipcache.upsert(prefix, source, entry) else { return true };
        let identity = believed.identity;
        let consequence = "the address counts as part of what is around it";
        match self.change(fx, consequence, |engine| engine.upsert_address(prefix, identity, &[])) {
            Ok(()) => {
                fx.push(Effect::Notify(AgentEvent::IpcacheChanged(prefix, Some(identity))));
                true
            }
            Err(refusal) => {
                self.ipcache.remove(prefix, source);
                fx.push(Effect::Notify(AgentEvent::Warning(format!("{prefix}: {refusal}"))));
                false
            }
        }
    }

    /// Takes a statement back.
    pub(crate) fn unsay(&mut self, prefix: Cidr, source: ipcache::Source, fx: &mut Effects<Effect>) {
        let Some(believed) = self.ipcache.remove(prefix, source) else { return };
        let identity = believed.map(|entry| entry.identity);
        let delta = match identity {
            Some(identity) => self.engine.upsert_address(prefix, identity, &[]).unwrap_or_default(),
            None => self.engine.remove_address(prefix),
        };
        self.apply(delta, fx);
        fx.push(Effect::Notify(AgentEvent::IpcacheChanged(prefix, identity)));
    }

    /// The kernel's form of a write of the engine's.
    pub(crate) fn translate(&self, write: Write) -> Option<MapWrite> {
        let numbers = &self.numbers;
        Some(match write {
            Write::PutEntry(key, value) => {
                MapWrite::Policy(numbers.policy_key(&key), Some(kernel::policy_entry(&key, &value)))
            }
            Write::DeleteEntry(key) => MapWrite::Policy(numbers.policy_key(&key), None),
            Write::PutPrefix(prefix, identity, class) => MapWrite::Ipcache(
                kernel::ipcache_key(&prefix),
                Some(kernel::ipcache_entry(identity, numbers.class(class))),
            ),
            Write::DeletePrefix(prefix) => MapWrite::Ipcache(kernel::ipcache_key(&prefix), None),
            Write::PutEndpoint(id, judged) => self.device(self.endpoints.by_id(id)?, judged)?,
            Write::DeleteEndpoint(id) => MapWrite::Device(self.endpoints.by_id(id)?.spec.ifindex, None),
            // Identities without address arrive through tunnels, which this form does not have.
            Write::PutIdentity(..) | Write::DeleteIdentity(_) => return None,
        })
    }

    fn kv(&mut self, now: Instant, event: kv::Event, fx: &mut Effects<Effect>) {
        match event.op().map(|op| op.0 / RANGE) {
            Some(1) => self.tell_allocator(now, identity::Input::Kv(event), fx),
            Some(2) => self.tell_sync(now, ipcache::Input::Kv(event), fx),
            Some(_) => {}
            None => {
                self.tell_allocator(now, identity::Input::Kv(event.clone()), fx);
                self.tell_sync(now, ipcache::Input::Kv(event), fx);
            }
        }
    }

    pub(crate) fn tell_allocator(&mut self, now: Instant, input: identity::Input, fx: &mut Effects<Effect>) {
        let mut said = Effects::new();
        self.allocator.handle(now, input, &mut said);
        self.hear_allocator(now, said, fx);
    }

    fn hear_allocator(&mut self, now: Instant, said: Effects<identity::Effect>, fx: &mut Effects<Effect>) {
        for effect in said {
            match effect {
                identity::Effect::Kv(op, request) => fx.push(Effect::Kv(op, request)),
                identity::Effect::Acquired(labels, number) => self.number_known(now, &labels, number, fx),
                identity::Effect::Lost(labels, number) => {
                    for progress in self.progress.values_mut().filter(|progress| progress.labels == labels) {
                        progress.grace = crate::endpoints::Grace::None;
                    }
                    fx.push(Effect::Notify(AgentEvent::Warning(format!(
                        "{number} was given to other labels; {labels} get a new number"
                    ))));
                }
                identity::Effect::Learned(number, labels) => {
                    let consequence = "peers with this identity match no label selector";
                    let learned = self.change(fx, consequence, |engine| engine.upsert_identity(number, &labels));
                    if let Err(refusal) = learned {
                        fx.push(Effect::Notify(AgentEvent::Warning(format!("{number}: {refusal}"))));
                    }
                }
                identity::Effect::Forgotten(number) => {
                    if self.endpoints.iter().all(|endpoint| endpoint.identity != Some(number)) {
                        let delta = self.engine.remove_identity(number);
                        self.apply(delta, fx);
                    }
                }
                identity::Effect::Synced => {}
                identity::Effect::Waiting(labels, trouble) => {
                    for progress in self.progress.values_mut().filter(|progress| progress.labels == labels) {
                        progress.trouble = Some(trouble);
                    }
                    fx.push(Effect::Notify(AgentEvent::Warning(format!("no identity for {labels} yet: {trouble}"))));
                }
            }
        }
    }

    pub(crate) fn tell_sync(&mut self, now: Instant, input: ipcache::Input, fx: &mut Effects<Effect>) {
        let mut said = Effects::new();
        self.sync.handle(now, input, &mut said);
        self.hear_sync(said, fx);
    }

    fn hear_sync(&mut self, said: Effects<ipcache::Effect>, fx: &mut Effects<Effect>) {
        for effect in said {
            match effect {
                ipcache::Effect::Kv(op, request) => fx.push(Effect::Kv(op, request)),
                ipcache::Effect::Learned(prefix, entry) => {
                    self.say(prefix, ipcache::Source::KvStore, entry, fx);
                }
                ipcache::Effect::Forgotten(prefix) => self.unsay(prefix, ipcache::Source::KvStore, fx),
                ipcache::Effect::Synced => {}
            }
        }
    }

    fn wrote(&mut self, now: Instant, op: OpId, result: &Result<(), abi::write::WriteError>, fx: &mut Effects<Effect>) {
        let (marks, failed) = self.kernel.settle(now, op, result);
        for mark in marks {
            self.reached(now, mark, fx);
        }
        if let (Some(write), Err(error)) = (failed, result) {
            let map = write.map();
            fx.push(Effect::Notify(match error.kind {
                abi::write::WriteErrorKind::Full => {
                    AgentEvent::MapFull { map: map.name, max: map.max_entries as usize }
                }
                kind => AgentEvent::WriteFailed { map: map.name, kind },
            }));
            self.stalled(now, map.name, error.kind, fx);
        }
    }

    pub(crate) fn reached(&mut self, now: Instant, mark: Mark, fx: &mut Effects<Effect>) {
        match mark {
            Mark::Written(id, revision) => self.endpoint_written(now, id, revision, fx),
            Mark::Gone(id) => self.endpoint_gone(now, id, fx),
            Mark::Answer(id, response) => fx.push(Effect::Reply(id, Ok(response))),
            Mark::AnswerKept(id, response, file) => self.answer_once_kept(id, response, file, fx),
            Mark::Service(id, lb::Change::Created) => fx.push(Effect::Notify(AgentEvent::ServiceCreated(id))),
            Mark::Service(id, lb::Change::Updated) => fx.push(Effect::Notify(AgentEvent::ServiceUpdated(id))),
            Mark::Service(id, lb::Change::Deleted) => fx.push(Effect::Notify(AgentEvent::ServiceDeleted(id))),
            Mark::Purge(purge) => fx.push(Effect::Purge(purge)),
            Mark::Realized(revision) => {
                self.realized = revision;
                self.endpoints_realized(now, revision, fx);
                fx.push(Effect::Notify(AgentEvent::Realized(revision)));
            }
        }
    }

    /// Starts whatever can be started now.
    fn pump(&mut self, now: Instant, fx: &mut Effects<Effect>) {
        if self.phase == Phase::Restoring && self.allocator.is_synced() && self.sync.is_synced() {
            self.go_live(now, fx);
        }
        while self.is_live() && !self.parked.is_empty() {
            if let Some((id, request)) = self.parked.pop_front() {
                self.request(now, id, request, fx);
            }
        }
        while self.is_live() {
            let (op, marks) = self.kernel.advance(now);
            if let Some(Operation { op, writes, tables }) = op {
                if !tables.is_empty() {
                    fx.push(Effect::Tables(tables));
                }
                fx.push(Effect::WriteMaps(op, writes));
            }
            if marks.is_empty() {
                break;
            }
            for mark in marks {
                self.reached(now, mark, fx);
            }
        }
    }
}

impl Machine for Agent {
    type Input = Input;
    type Effect = Effect;

    fn handle(&mut self, now: Instant, input: Input, fx: &mut Effects<Effect>) {
        match input {
            Input::Restored(snapshot) if self.phase == Phase::Cold => self.restore(now, *snapshot, fx),
            Input::Restored(_) => {}
            Input::Request(id, request) if self.is_live() => self.request(now, id, request, fx),
            Input::Request(id, request) => {
                if self.parked.len() < self.config.requests_max {
                    self.parked.push_back((id, request));
                } else {
                    fx.push(Effect::Reply(id, Err(Refusal::Busy { max: self.config.requests_max })));
                }
            }
            Input::Kv(event) => self.kv(now, event, fx),
            Input::Wrote(op, result) => self.wrote(now, op, &result, fx),
            Input::Finished(op, result) => self.finished(now, op, result, fx),
            Input::LinkVanished(ifindex) => self.link_vanished(now, ifindex, fx),
            Input::PolicyFiles(files) => self.policy_files(now, files, fx),
            Input::ServiceFiles(files) => self.service_files(files, fx),
        }
        self.pump(now, fx);
    }

    fn next_deadline(&self) -> Option<Instant> {
        let parts = [
            self.ipam.next_deadline(),
            self.allocator.next_deadline(),
            self.sync.next_deadline(),
            self.files.next_deadline(),
            if self.is_live() { self.kernel.next_deadline() } else { None },
        ];
        parts.into_iter().flatten().chain(self.progress.values().filter_map(Progress::next_deadline)).min()
    }

    fn on_deadline(&mut self, now: Instant, fx: &mut Effects<Effect>) {
        self.ipam.expire(now);
        if self.allocator.next_deadline().is_some_and(|at| at <= now) {
            let mut said = Effects::new();
            self.allocator.on_deadline(now, &mut said);
            self.hear_allocator(now, said, fx);
        }
        if self.sync.next_deadline().is_some_and(|at| at <= now) {
            let mut said = Effects::new();
            self.sync.on_deadline(now, &mut said);
            self.hear_sync(said, fx);
        }
        self.store_again(now, fx);
        self.endpoints_due(now, fx);
        self.pump(now, fx);
    }
}

/// What the load balancer is told.
fn balancer_config(config: &Config) -> lb::Config {
    let mut told = config.lb.clone();
    told.node.name = config.node_name.clone();
    (told.node.ipv4, told.node.ipv6) = (config.ipv4.is_some(), config.ipv6.is_some());
    told
}

/// What the policy engine is told.
pub(crate) fn engine_config(config: &Config) -> policy::Config {
    policy::Config {
        enforcement: match config.enforcement {
            Enforcement::Default => policy::Enforcement::Default,
            Enforcement::Always => policy::Enforcement::Always,
            Enforcement::Never => policy::Enforcement::Never,
        },
        allow_localhost: config.allow_localhost == crate::AllowLocalhost::Always,
        ipv4: config.ipv4.is_some(),
        ipv6: config.ipv6.is_some(),
        cluster_name: (*config.cluster_name).into(),
        audit: config.audit == Audit::Report,
        prefixes_max: config.maps.ipcache,
        ..policy::Config::default()
    }
}

/// Identity of the node itself.
pub(crate) const HOST: NumericIdentity = NumericIdentity::HOST;
