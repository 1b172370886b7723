//! Addresses in the key-value store: this node's told to others, others' learned (reference:
//! `cilium/state/ip/v1/default/<ip>`).
//!
//! Invariant: in the end the store holds what [`Input::Announce`] said last of each address and nothing else of this
//! node, whatever was lost, delayed or left by an earlier life.

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::net::IpAddr;
use core::time::Duration;

use kv::{Event, Lifetime, Request};
use machine::{Effects, Instant, Machine, OpId, OpIds};
use serde::{Deserialize, Serialize};
use types::{Cidr, NumericIdentity};

use crate::Entry;

const BASE: &str = "cilium/state/ip/v1/default/";

/// Waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    /// This node's address, as others reach it.
    pub node: IpAddr,
    /// First wait after a failure.
    pub retry_first: Duration,
    /// The longest wait.
    pub retry_max: Duration,
}

impl Config {
    /// Usual waits.
    pub const fn new(node: IpAddr) -> Self {
        Self { node, retry_first: Duration::from_millis(50), retry_max: Duration::from_secs(5) }
    }
}

/// What a node tells of one of its addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Announcement {
    /// Identity of the endpoint.
    pub identity: NumericIdentity,
    /// Namespace and name of its pod.
    pub pod: Option<(Box<str>, Box<str>)>,
}

/// Facts and requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// Begin to watch.
    Start,
    /// Tell others of an address; `None`: take it back.
    Announce(IpAddr, Option<Announcement>),
    /// The store says something. Events of other operations than this machine's are ignored.
    Kv(Event),
}

/// What is wanted or found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// To the store.
    Kv(OpId, Request),
    /// Another node says this of a prefix.
    Learned(Cidr, Entry),
    /// No other node speaks of the prefix any more.
    Forgotten(Cidr),
    /// Everything others say is known.
    Synced,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Value {
    #[serde(rename = "IP")]
    ip: IpAddr,
    #[serde(rename = "Mask", default)]
    mask: Option<String>,
    #[serde(rename = "HostIP", default)]
    host: Option<IpAddr>,
    #[serde(rename = "ID")]
    id: u32,
    #[serde(rename = "Key", default)]
    key: u8,
    #[serde(rename = "Metadata", default)]
    metadata: String,
    #[serde(rename = "K8sNamespace", default, skip_serializing_if = "str::is_empty")]
    namespace: Box<str>,
    #[serde(rename = "K8sPodName", default, skip_serializing_if = "str::is_empty")]
    pod: Box<str>,
}

#[derive(Debug, Clone, Default)]
struct Slot {
    /// What should be there; `None`: nothing.
    wanted: Option<Vec<u8>>,
    /// Whether the store is known to hold it.
    confirmed: bool,
    op: Option<OpId>,
    failures: u32,
    due: Option<Instant>,
}

/// The machine. See the [module documentation](self).
#[derive(Debug, Clone)]
pub struct Sync {
    config: Config,
    ops: OpIds,
    slots: BTreeMap<String, Slot>,
    ops_of: BTreeMap<OpId, String>,
    learned: BTreeMap<String, Cidr>,
    watch: Option<OpId>,
    told: Option<BTreeSet<String>>,
    synced: bool,
    watch_failures: u32,
    watch_retry: Option<Instant>,
}

impl Sync {
    /// Nothing known, nothing told.
    pub const fn new(config: Config, ops: OpIds) -> Self {
        Self {
            config,
            ops,
            slots: BTreeMap::new(),
            ops_of: BTreeMap::new(),
            learned: BTreeMap::new(),
            watch: None,
            told: None,
            synced: false,
            watch_failures: 0,
            watch_retry: None,
        }
    }

    /// Whether everything others say was known once.
    pub const fn is_synced(&self) -> bool {
        self.synced
    }

    fn backoff(&self, failures: u32) -> Duration {
        let factor = 1_u32.checked_shl(failures.min(16)).unwrap_or(u32::MAX);
        self.config.retry_first.saturating_mul(factor).min(self.config.retry_max)
    }

    fn announce(&mut self, addr: IpAddr, what: Option<Announcement>, fx: &mut Effects<Effect>) {
        let key = format!("{BASE}{addr}");
        let wanted = what.map(|what| {
            let (namespace, pod) = what.pod.unwrap_or_default();
            let value = Value {
                ip: addr,
                mask: None,
                host: Some(self.config.node),
                id: what.identity.as_u32(),
                key: 0,
                metadata: String::new(),
                namespace,
                pod,
            };
            serde_json::to_vec(&value).expect("plain fields are JSON")
        });
        let slot = self.slots.entry(key.clone()).or_default();
        if slot.wanted != wanted || !slot.confirmed {
            slot.wanted = wanted;
            slot.confirmed = false;
            self.write(key, fx);
        }
    }

    /// Brings one key about, unless an operation on it is under way.
    fn write(&mut self, key: String, fx: &mut Effects<Effect>) {
        let Some(slot) = self.slots.get_mut(&key).filter(|slot| slot.op.is_none()) else { return };
        slot.due = None;
        let op = self.ops.fresh();
        slot.op = Some(op);
        // Confirmed when the outcome comes, unless something else is wanted by then.
        slot.confirmed = true;
        let request = match slot.wanted.clone() {
            Some(value) => Request::Put(kv::Entry { key: key.clone(), value, lifetime: Lifetime::Leased }),
            None => Request::Delete(key.clone()),
        };
        self.ops_of.insert(op, key);
        fx.push(Effect::Kv(op, request));
    }

    fn done(&mut self, now: Instant, op: OpId, ok: bool, fx: &mut Effects<Effect>) {
        let Some(key) = self.ops_of.remove(&op) else { return };
        let failures = self.slots.get(&key).map_or(0, |slot| slot.failures + 1);
        let wait = self.backoff(failures);
        let Some(slot) = self.slots.get_mut(&key).filter(|slot| slot.op == Some(op)) else { return };
        slot.op = None;
        if !ok {
            slot.confirmed = false;
            slot.failures = failures;
            slot.due = Some(now + wait);
        } else {
            slot.failures = 0;
            if !slot.confirmed {
                self.write(key, fx);
            } else if slot.wanted.is_none() {
                self.slots.remove(&key);
            }
        }
    }

    fn start_watch(&mut self, fx: &mut Effects<Effect>) {
        let op = self.ops.fresh();
        self.watch = Some(op);
        self.told = Some(BTreeSet::new());
        self.watch_retry = None;
        fx.push(Effect::Kv(op, Request::Watch(BASE.to_string())));
    }

    fn watch_event(&mut self, now: Instant, event: Event, fx: &mut Effects<Effect>) {
        match event {
            Event::Changed { key, value, .. } => self.changed(key, value, fx),
            Event::Synced(_) => {
                self.watch_failures = 0;
                let told = self.told.take().unwrap_or_default();
                let stale: Vec<_> = self.learned.keys().filter(|key| !told.contains(*key)).cloned().collect();
                stale.into_iter().for_each(|key| self.forget(&key, fx));
                let missing: Vec<_> = self
                    .slots
                    .iter()
                    .filter(|(key, slot)| slot.wanted.is_some() && !told.contains(*key))
                    .map(|(key, _)| key.clone())
                    .collect();
                missing.into_iter().for_each(|key| self.rewrite(key, fx));
                if !self.synced {
                    self.synced = true;
                    fx.push(Effect::Synced);
                }
            }
            Event::Broken(_) | Event::Done(_, Err(_)) => {
                self.watch = None;
                self.watch_failures += 1;
                self.watch_retry = Some(now + self.backoff(self.watch_failures));
            }
            Event::Done(..) | Event::LeaseLost => {}
        }
    }

    fn rewrite(&mut self, key: String, fx: &mut Effects<Effect>) {
        if let Some(slot) = self.slots.get_mut(&key) {
            slot.confirmed = false;
        }
        self.write(key, fx);
    }

    fn changed(&mut self, key: String, value: Option<Vec<u8>>, fx: &mut Effects<Effect>) {
        if value.is_some()
            && let Some(told) = &mut self.told
        {
            told.insert(key.clone());
        }
        // A key this node speaks for must be what it said; an operation under way will make it so.
        if let Some(slot) = self.slots.get(&key) {
            if slot.op.is_none() && slot.wanted != value {
                self.rewrite(key, fx);
            }
            return;
        }
        let Some(value) = value else { return self.forget(&key, fx) };
        let Ok(value) = serde_json::from_slice::<Value>(&value) else { return self.forget(&key, fx) };
        if value.host == Some(self.config.node) {
            // Left by an earlier life.
            self.slots.insert(key.clone(), Slot::default());
            return self.write(key, fx);
        }
        let Some(prefix) = prefix_of(&value) else { return self.forget(&key, fx) };
        if self.learned.get(&key).is_some_and(|have| *have != prefix) {
            self.forget(&key, fx);
        }
        self.learned.insert(key, prefix);
        let pod = (!value.pod.is_empty()).then_some((value.namespace, value.pod));
        fx.push(Effect::Learned(prefix, Entry { identity: NumericIdentity::new(value.id), host: value.host, pod }));
    }

    fn forget(&mut self, key: &str, fx: &mut Effects<Effect>) {
        if let Some(prefix) = self.learned.remove(key) {
            fx.push(Effect::Forgotten(prefix));
        }
    }
}

/// The prefix a value is about: an address, or one with a mask (base64 of the mask's bytes) that is not read here.
fn prefix_of(value: &Value) -> Option<Cidr> {
    value.mask.is_none().then(|| Cidr::host(value.ip))
}

impl Machine for Sync {
    type Input = Input;
    type Effect = Effect;

    fn handle(&mut self, now: Instant, input: Input, fx: &mut Effects<Effect>) {
        match input {
            Input::Start => self.start_watch(fx),
            Input::Announce(addr, what) => self.announce(addr, what, fx),
            Input::Kv(Event::LeaseLost) => {
                let keys: Vec<_> = self.slots.keys().cloned().collect();
                keys.into_iter().for_each(|key| self.rewrite(key, fx));
            }
            Input::Kv(event) if event.op().is_some() && event.op() == self.watch => self.watch_event(now, event, fx),
            Input::Kv(Event::Done(op, result)) => self.done(now, op, result.is_ok(), fx),
            Input::Kv(_) => {}
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        self.slots.values().filter_map(|slot| slot.due).chain(self.watch_retry).min()
    }

    fn on_deadline(&mut self, now: Instant, fx: &mut Effects<Effect>) {
        if self.watch_retry.is_some_and(|at| at <= now) {
            self.start_watch(fx);
        }
        let due = self.slots.iter().filter(|(_, slot)| slot.due.is_some_and(|at| at <= now));
        let due: Vec<_> = due.map(|(key, _)| key.clone()).collect();
        due.into_iter().for_each(|key| self.write(key, fx));
    }
}
