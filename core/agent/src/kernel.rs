//! The kernel's maps as the agent sees them: numbers, layouts, capacity, and the one sequence of writes.
//!
//! The policy engine numbers policies and classes anew in each life; the kernel's maps keep their numbers while traffic
//! flows. [`Numbers`] stands between the two (see the module `reconcile` for how it is found again after a restart).

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::net::IpAddr;

use abi::be::Port;
use abi::config::Runtime;
use abi::ipcache::{IpcacheEntry, IpcacheKey};
use abi::policy::{POLICY_DENY, PolicyEntry, PolicyKey};
use abi::write::{MapWrite, WriteError};
use lb::maglev::{Recipe, TableId};
use machine::{Instant, OpId, OpIds};
use policy::{ClassId, EntryKey, EntryValue, PolicyId, Verdict};
use types::{Cidr, EndpointId, NumericIdentity, Revision};

use crate::config::Config;
use crate::effect::{Refusal, Response, StateFile};
use crate::input::RequestId;

/// A place in the sequence of writes that somebody waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Mark {
    /// An endpoint's policy is in the kernel.
    Written(EndpointId, Revision),
    /// Nothing of an endpoint is in the kernel any more.
    Gone(EndpointId),
    /// A request can be answered.
    Answer(RequestId, Response),
    /// A request can be answered once what it changed is kept in this file.
    AnswerKept(RequestId, Response, StateFile),
    /// A service was written or removed.
    Service(lb::ServiceId, lb::Change),
    /// Nothing leads to these any more.
    Purge(Vec<lb::Purge>),
    /// Everything of this revision is in the kernel.
    Realized(Revision),
}

/// A map write as an element of the sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Element(pub MapWrite);

impl table::Write for Element {
    fn deletion(&self) -> Self {
        Self(self.0.deletion())
    }
    fn is_deletion(&self) -> bool {
        self.0.value().is_none()
    }
}

/// The maps and what is on its way to them.
#[derive(Debug, Clone)]
pub(crate) struct Kernel {
    sequence: table::Sequence<Element, Mark>,
    policy_entries: usize,
    policy_max: usize,
    tables: Tables,
}

/// One operation: writes, and what is in the Maglev tables that they name.
#[derive(Debug)]
pub(crate) struct Operation {
    pub(crate) op: OpId,
    pub(crate) writes: Vec<MapWrite>,
    pub(crate) tables: Vec<(TableId, Arc<Recipe>)>,
}

/// What is in the Maglev tables that queued writes name.
#[derive(Debug, Clone, Default)]
struct Tables {
    /// With the number of writes that wait.
    recipes: BTreeMap<TableId, (Arc<Recipe>, usize)>,
    /// Those that the operation under way names, each with the index of its write.
    in_flight: Vec<(usize, TableId)>,
}

/// The table a write names.
const fn table_of(write: &MapWrite) -> Option<TableId> {
    match write {
        MapWrite::Maglev4(_, Some(table)) | MapWrite::Maglev6(_, Some(table)) => TableId::new(table.id),
        _ => None,
    }
}

/// Whether a service of any protocol is written.
const fn is_of_any_protocol(write: &MapWrite) -> bool {
    match write {
        MapWrite::Service4(key, Some(_)) => key.proto == 0,
        MapWrite::Service6(key, Some(_)) => key.proto == 0,
        _ => false,
    }
}

impl Kernel {
    pub(crate) fn new(config: &Config, ops: OpIds, there: impl IntoIterator<Item = MapWrite>) -> Self {
        let pace =
            table::Config { retry_first: config.retry.first, retry_max: config.retry.max, batch_max: config.batch_max };
        let sequence = table::Sequence::new(pace, ops, there.into_iter().map(Element));
        let policy_entries =
            sequence.wanted().keys().filter(|element| matches!(element.0, MapWrite::Policy(..))).count();
        Self { sequence, policy_entries, policy_max: config.maps.policy, tables: Tables::default() }
    }

    pub(crate) fn put(&mut self, write: MapWrite) {
        if is_of_any_protocol(&write) {
            // Never taken back: a packet more looked up costs little, one that misses its service does not reach it.
            self.sequence.put(Element(MapWrite::Runtime(Runtime::AnyProtocol as u32, Some(1))));
        }
        let policy = matches!(write, MapWrite::Policy(..));
        let before = self.sequence.wanted().len();
        let queued = self.sequence.put(Element(write));
        if let Some((_, waiting)) = table_of(&write).and_then(|id| self.tables.recipes.get_mut(&id)) {
            *waiting += usize::from(queued);
        }
        if policy {
            // A put can only add or remove the one key.
            let after = self.sequence.wanted().len();
            self.policy_entries = self.policy_entries + after - before;
        }
    }

    /// Takes note of what is in tables, before writes that name them are asked for.
    pub(crate) fn learn(&mut self, tables: &[(TableId, Arc<Recipe>)]) {
        for (id, recipe) in tables {
            self.tables.recipes.entry(*id).or_insert_with(|| (recipe.clone(), 0));
        }
    }
    /// Forgets what is in tables that no write waits for.
    pub(crate) fn forget_unused(&mut self) {
        self.tables.recipes.retain(|_, (_, waiting)| *waiting > 0);
    }

    pub(crate) fn mark(&mut self, mark: Mark) {
        self.sequence.mark(mark);
    }

    /// Everything that will be there.
    pub(crate) fn wanted(&self) -> impl Iterator<Item = &MapWrite> {
        self.sequence.wanted().values().map(|element| &element.0)
    }

    /// What will be there under a key (given as a deletion).
    pub(crate) fn value(&self, key: MapWrite) -> Option<MapWrite> {
        self.sequence.wanted().get(&Element(key.deletion())).map(|element| element.0)
    }

    pub(crate) fn policy_room(&self) -> (usize, usize) {
        (self.policy_entries, self.policy_max)
    }

    pub(crate) fn advance(&mut self, now: Instant) -> (Option<Operation>, Vec<Mark>) {
        let (op, marks) = self.sequence.advance(now);
        let op = op.map(|(op, writes)| {
            let writes: Vec<MapWrite> = writes.into_iter().map(|element| element.0).collect();
            let named = writes.iter().enumerate().filter_map(|(at, write)| Some((at, table_of(write)?)));
            self.tables.in_flight = named.collect();
            let ids: BTreeSet<TableId> = self.tables.in_flight.iter().map(|(_, id)| *id).collect();
            let recipe = |id: TableId| Some((id, self.tables.recipes.get(&id)?.0.clone()));
            Operation { op, writes, tables: ids.into_iter().filter_map(recipe).collect() }
        });
        (op, marks)
    }

    /// Takes an outcome: marks reached, and the write that failed.
    pub(crate) fn settle(
        &mut self,
        now: Instant,
        op: OpId,
        result: &Result<(), WriteError>,
    ) -> (Vec<Mark>, Option<MapWrite>) {
        let failed_at = result.as_ref().err().map(|error| error.index);
        let Some(settled) = self.sequence.settle(now, op, failed_at) else { return (Vec::new(), None) };
        for (at, id) in core::mem::take(&mut self.tables.in_flight) {
            if failed_at.is_some_and(|failed| at >= failed) {
                continue;
            }
            if let Some((_, waiting)) = self.tables.recipes.get_mut(&id) {
                *waiting -= 1;
            }
        }
        self.forget_unused();
        (settled.reached, settled.failed.map(|element| element.0))
    }

    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.sequence.next_deadline()
    }

    pub(crate) fn pending(&self) -> usize {
        self.sequence.pending()
    }
}

/// Numbers of policies and classes in the kernel's maps.
#[derive(Debug, Clone, Default)]
pub(crate) struct Numbers {
    policies: BTreeMap<PolicyId, u32>,
    classes: BTreeMap<ClassId, u32>,
    policy_offset: u32,
    class_offset: u32,
}

impl Numbers {
    /// Fresh numbers begin behind these.
    pub(crate) fn after(policy: u32, class: u32) -> Self {
        Self { policy_offset: policy, class_offset: class, ..Self::default() }
    }
    pub(crate) fn keep_policy(&mut self, id: PolicyId, number: u32) {
        self.policies.insert(id, number);
    }
    pub(crate) fn keep_class(&mut self, id: ClassId, number: u32) {
        self.classes.insert(id, number);
    }
    pub(crate) fn forget_policy(&mut self, id: PolicyId) {
        self.policies.remove(&id);
    }
    pub(crate) fn is_class_kept(&self, id: ClassId) -> bool {
        id == ClassId::UNKNOWN || self.classes.contains_key(&id)
    }

    pub(crate) fn policy(&self, id: PolicyId) -> u32 {
        match id {
            PolicyId::NONE => 0,
            id => self.policies.get(&id).copied().unwrap_or(id.as_u32() + self.policy_offset),
        }
    }
    pub(crate) fn class(&self, id: ClassId) -> u32 {
        match id {
            ClassId::UNKNOWN => 0,
            id => self.classes.get(&id).copied().unwrap_or(id.as_u32() + self.class_offset),
        }
    }
    /// The engine's policy behind a number of the kernel's.
    pub(crate) fn policy_of(&self, number: u32) -> Option<PolicyId> {
        let kept = self.policies.iter().find(|(_, kept)| **kept == number).map(|(id, _)| *id);
        kept.or_else(|| number.checked_sub(self.policy_offset).filter(|n| *n > 0).map(PolicyId::from_u32))
    }
    /// The engine's class behind a number of the kernel's.
    pub(crate) fn class_of(&self, number: u32) -> Option<ClassId> {
        if number == 0 {
            return Some(ClassId::UNKNOWN);
        }
        let kept = self.classes.iter().find(|(_, kept)| **kept == number).map(|(id, _)| *id);
        kept.or_else(|| number.checked_sub(self.class_offset).filter(|n| *n > 0).map(ClassId::from_u32))
    }

    pub(crate) fn policy_key(&self, key: &EntryKey) -> PolicyKey {
        PolicyKey::entry(
            self.policy(key.policy),
            self.class(key.class),
            key.direction as u8,
            key.l4.protocol,
            Port::new(key.l4.port),
            key.l4.bits,
        )
    }
}

/// The layout of a verdict. Redirects have no proxy in this form: they refuse, rather than let pass what nobody reads.
pub(crate) fn policy_entry(key: &EntryKey, value: &EntryValue) -> PolicyEntry {
    let deny = !matches!(value.verdict, Verdict::Allow);
    PolicyEntry {
        flags: if deny { POLICY_DENY } else { 0 },
        auth_type: value.auth.map_or(0, |mode| mode as u8),
        lpm_prefix_length: key.l4.bits,
        match_type: value.matched as u8,
        cookie: value.cookie.as_u32(),
        ..PolicyEntry::default()
    }
}

/// The key of a prefix.
pub(crate) fn ipcache_key(prefix: &Cidr) -> IpcacheKey {
    let bits = u32::from(prefix.bits());
    match prefix.addr() {
        IpAddr::V4(ip) => IpcacheKey::v4(ip.into(), bits),
        IpAddr::V6(ip) => IpcacheKey::v6(ip.into(), bits),
    }
}

/// The value of a prefix. Other nodes are reached by the network's own routes in this form: no tunnel endpoint.
pub(crate) fn ipcache_entry(identity: NumericIdentity, class: u32) -> IpcacheEntry {
    IpcacheEntry { identity: identity.as_u32(), class, ..IpcacheEntry::default() }
}

/// A change that does not fit into the policy map.
pub(crate) fn policy_map_full(max: usize, needed: usize, consequence: &'static str) -> Refusal {
    Refusal::MapFull { map: abi::maps::POLICY.name, max, needed, consequence }
}
