//! The core's effects, carried out: kernel maps, programs, the store, state files, answers, news.
//!
//! Effects are carried out in the order in which they were decided. Map writes and attachments are system calls and done
//! at once; the store and the files are slower, do their work elsewhere and report through the queue. Nothing here
//! retries or decides: an outcome goes back to the core.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant as WallInstant};

use abi::write::MapWrite;
use agent_core::{Device, Effect, Failure, Input};
use bpf::{Attachments, Departures};
use kvstore::Store;
use loader::{AttachError, Datapath, Direction, Interface, Program};
use machine::{Instant, Machine, OpId};
use metrics::{Metrics, Outcome};
use runtime::World;

use crate::cleanup::Cleanup;
use crate::news::News;
use crate::replies::Replies;
use crate::state::{Task, Writer};

/// The kernel as the agent sees it.
pub trait Kernel: Send {
    /// Writes in order up to the first failure. `tables` says what is in the Maglev tables they name.
    ///
    /// # Errors
    /// The first that failed.
    fn write(&mut self, writes: &[MapWrite], tables: &bpf::Tables) -> Result<(), abi::write::WriteError>;
    /// Attaches the programs of a pod's device.
    ///
    /// # Errors
    /// When the device is gone or the kernel refuses.
    fn attach(&mut self, device: &Device) -> Result<(), AttachError>;
    /// Detaches them.
    ///
    /// # Errors
    /// When the kernel refuses.
    fn detach(&mut self, device: &Device) -> Result<(), AttachError>;
    /// Sees to it that connections are forgotten whose way is in no map any more.
    fn purge(&mut self, purge: &[lb::Purge]);
}

/// The programs of a pod's device, and at which side of its host end they are.
const POD_PROGRAMS: [(Program, Direction); 2] =
    [(Program::FromContainer, Direction::Ingress), (Program::ToContainer, Direction::Egress)];

/// The real one.
#[derive(Debug)]
pub struct Bpf {
    datapath: Arc<Datapath>,
    attachments: Attachments,
    departures: Departures,
    cleanup: Cleanup,
}

impl Bpf {
    /// Takes the loaded programs, what their maps hold, and where to say what went.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn new(datapath: Arc<Datapath>, maps: &[MapWrite], cleanup: Cleanup) -> std::io::Result<Self> {
        let attachments = Attachments::new(datapath.clone())?;
        Ok(Self { attachments, datapath, departures: Departures::new(maps), cleanup })
    }
}

impl Kernel for Bpf {
    fn write(&mut self, writes: &[MapWrite], tables: &bpf::Tables) -> Result<(), abi::write::WriteError> {
        let outcome = bpf::apply(self.datapath.maps(), writes, tables);
        let done = outcome.as_ref().err().map_or(writes.len(), |error| error.index);
        self.departures.see(writes.get(..done).unwrap_or(writes), |gone| self.cleanup.departed(gone));
        outcome
    }
    fn attach(&mut self, device: &Device) -> Result<(), AttachError> {
        let interface = Interface::by_index(device.ifindex)?;
        for (program, direction) in POD_PROGRAMS {
            self.attachments.attach(program, &interface, direction)?;
        }
        Ok(())
    }
    fn detach(&mut self, device: &Device) -> Result<(), AttachError> {
        match Interface::by_index(device.ifindex) {
            Ok(interface) => {
                for (program, direction) in POD_PROGRAMS {
                    self.attachments.detach(program, &interface, direction)?;
                }
                Ok(())
            }
            // The device is gone, and the programs with it; their pins are not.
            Err(_) => self.datapath.remove_stale_links().map(drop),
        }
    }
    fn purge(&mut self, purge: &[lb::Purge]) {
        self.cleanup.purged(purge);
    }
}

/// Publishes tables, and spends at most a tenth of the time on it.
pub struct Publisher<M> {
    publish: Box<dyn FnMut(&M) + Send>,
    /// When it last began, and how long it took.
    last: Option<(WallInstant, Duration)>,
}

impl<M> Publisher<M> {
    /// Publishes by this.
    pub fn new(publish: impl FnMut(&M) + Send + 'static) -> Self {
        Self { publish: Box::new(publish), last: None }
    }
    fn may(&self) -> bool {
        self.last.is_none_or(|(began, took)| began.elapsed() >= 10 * took)
    }
    fn publish(&mut self, machine: &M) {
        let began = WallInstant::now();
        (self.publish)(machine);
        self.last = Some((began, began.elapsed()));
    }
}

/// Everything effects go to.
pub struct AgentWorld<K, M> {
    /// Maps and programs.
    pub kernel: K,
    /// The key-value store.
    pub store: Arc<dyn Store>,
    /// State files.
    pub files: Writer,
    /// Who waits for an answer.
    pub replies: Replies,
    /// Who wants to know what happens.
    pub news: News,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// Publishes the tables that readers see, when they changed.
    pub publisher: Publisher<M>,
    /// What is in the Maglev tables that the next writes name.
    pub tables: bpf::Tables,
    /// Ports that are asked whether this node has backends of a service.
    pub health: tokio::sync::watch::Sender<HealthPorts>,
}

/// Services that are asked for, by port.
pub type HealthPorts = BTreeMap<u16, lb::HealthPort>;

impl<K: Kernel, M> AgentWorld<K, M> {
    fn write_maps(&mut self, op: OpId, writes: &[MapWrite]) -> Input {
        let outcome = self.kernel.write(writes, &self.tables);
        self.tables.clear();
        let done = outcome.as_ref().err().map_or(writes.len(), |error| error.index);
        for chunk in writes.get(..done).unwrap_or(writes).chunk_by(|one, other| {
            std::ptr::eq(one.map(), other.map()) && one.value().is_some() == other.value().is_some()
        }) {
            self.count(chunk, Outcome::Success);
        }
        if let Some(failed) = writes.get(done) {
            self.count(std::slice::from_ref(failed), Outcome::Fail);
        }
        Input::Wrote(op, outcome)
    }

    fn count(&self, writes: &[MapWrite], outcome: Outcome) {
        let [first, ..] = writes else { return };
        let operation = if first.value().is_some() { "update" } else { "delete" };
        self.metrics.map_operations(first.map().name, operation, outcome, writes.len() as u64);
    }

    fn attach(&mut self, op: OpId, device: &Device) -> Input {
        let began = WallInstant::now();
        let outcome = self.kernel.attach(device).map_err(|why| Failure { message: why.to_string().into() });
        tracing::debug!(endpoint = %device.endpoint, device = %device.ifname, took = ?began.elapsed(), ?outcome, "attached");
        Input::Finished(op, outcome)
    }

    fn files(&mut self, task: Task, outcomes: &mut VecDeque<Input>) {
        if let Err(Task::Save(op, file, _) | Task::Forget(op, file)) = self.files.submit(task) {
            let message = format!("{}: too many files wait to be written", file.path()).into();
            outcomes.push_back(Input::Finished(op, Err(Failure { message })));
        }
    }
}

impl<K: Kernel, M: Machine<Input = Input, Effect = Effect>> World<M> for AgentWorld<K, M> {
    fn apply(&mut self, _now: Instant, effect: Effect, outcomes: &mut VecDeque<Input>) {
        match effect {
            Effect::Reply(request, answer) => self.replies.answer(request, answer),
            Effect::Kv(op, request) => {
                if let Err(why) = self.store.submit(op, request) {
                    tracing::warn!(%why, "a request to the key-value store was not taken");
                    outcomes.push_back(Input::Kv(kv::Event::Done(op, Err(kv::Failure::Unavailable))));
                }
            }
            Effect::WriteMaps(op, writes) => {
                let outcome = self.write_maps(op, &writes);
                outcomes.push_back(outcome);
            }
            Effect::Tables(tables) => self.tables = tables.into_iter().collect(),
            Effect::Purge(purge) => {
                tracing::debug!(count = purge.len(), "backends or services went; connections to them are swept");
                self.kernel.purge(&purge);
            }
            Effect::HealthPorts(ports) => drop(self.health.send_replace(ports)),
            Effect::Attach(op, device) => {
                let outcome = self.attach(op, &device);
                outcomes.push_back(outcome);
            }
            Effect::Detach(device) => {
                if let Err(why) = self.kernel.detach(&device) {
                    tracing::warn!(device = %device.ifname, %why, "programs were not detached");
                }
            }
            Effect::Save(op, file, content) => self.files(Task::Save(op, file, content), outcomes),
            Effect::Forget(op, file) => self.files(Task::Forget(op, file), outcomes),
            Effect::Notify(event) => {
                if let agent_core::AgentEvent::StateFileUnusable { file, .. } = &event {
                    // A full queue only means that the file is looked at again at the next start.
                    let _later = self.files.submit(Task::Quarantine(*file));
                }
                self.news.tell(event);
            }
        }
    }
    fn settled(&mut self, _now: Instant, machine: &M) {
        let stale = &self.news.stale;
        if stale.load(Ordering::Relaxed) && self.publisher.may() {
            stale.store(false, Ordering::Relaxed);
            self.publisher.publish(machine);
        }
    }
}
