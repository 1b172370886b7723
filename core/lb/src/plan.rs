//! The order of writes that leads from one state of a service to the next.
//!
//! What a packet follows is written from the far end: backends, the way back, who may come in and who may come back, the
//! Maglev table, slots, and at last the head with its counts. What nobody finds any more is deleted after the head, from
//! the near end. A backend that stays keeps its slot, so that at no instant it can't be found.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::sync::Arc;
use alloc::vec::Vec;

use abi::be::Port;
use abi::lb::{self, LbService};
use abi::write::MapWrite;
use types::Cidr;

use crate::maglev::{Recipe, TableId};
use crate::services::Service;
use crate::{
    Backend, BackendId, BackendState, Config, Forwarding, ForwardingMode, Frontend, L4Addr, Scope, ServiceId,
    ServiceType, TrafficPolicy, Transport, entries,
};

/// A change, as writes to be made in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Planned {
    /// The service.
    pub id: ServiceId,
    /// What becomes of it.
    pub change: Change,
    /// The writes. After each of them a packet finds the old service or the new one.
    pub writes: Vec<MapWrite>,
    /// What is in the Maglev tables that the writes name.
    pub tables: Vec<(TableId, Arc<Recipe>)>,
    /// What is to be forgotten of connections once the writes are made.
    pub purge: Vec<Purge>,
}

/// What becomes of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Change {
    /// It is new.
    Created,
    /// It was there.
    Updated,
    /// It goes.
    Deleted,
}

/// Connections that must not outlive what they went to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Purge {
    /// Those of a service to a backend that no longer serves it.
    Backend {
        /// The service.
        service: ServiceId,
        /// Its frontend.
        frontend: Frontend,
        /// The backend's number, as connections hold it.
        backend: BackendId,
        /// Where it listened.
        addr: L4Addr,
    },
    /// All those of a service that is gone.
    Service {
        /// The service.
        service: ServiceId,
        /// What was its frontend.
        frontend: Frontend,
    },
}

/// Brings the writes of many changes into one order, in which writes to one map lie together: one system call carries
/// out many. Backends first, then what leads from services to them, then services one after the other, then what nobody
/// finds any more. Where one change undoes what another does, they stay one after the other.
pub fn together(changes: impl IntoIterator<Item = Vec<MapWrite>>) -> Vec<MapWrite> {
    let all: Vec<MapWrite> = changes.into_iter().flatten().collect();
    let is_slot = |write: &MapWrite| matches!(write, MapWrite::Service4(..) | MapWrite::Service6(..));
    let deleted: BTreeSet<&MapWrite> = all.iter().filter(|write| write.value().is_none() && !is_slot(write)).collect();
    let undone =
        !deleted.is_empty() && all.iter().any(|write| write.value().is_some() && deleted.contains(&write.deletion()));
    if undone {
        return all;
    }
    let mut ordered = all;
    ordered.sort_by_key(|write| match (write, write.value().is_some()) {
        (MapWrite::Backend4(..) | MapWrite::Backend6(..), true) => (0, table(write)),
        (MapWrite::Service4(..) | MapWrite::Service6(..), _) => (2, 0),
        (MapWrite::Backend4(..) | MapWrite::Backend6(..), false) => (4, table(write)),
        (_, true) => (1, table(write)),
        (_, false) => (3, table(write)),
    });
    ordered
}

/// Which map, as a number to sort by.
const fn table(write: &MapWrite) -> u8 {
    match write {
        MapWrite::RevNat4(..) => 1,
        MapWrite::RevNat6(..) => 2,
        MapWrite::AffinityMatch(..) => 3,
        MapWrite::SourceRange4(..) => 4,
        MapWrite::SourceRange6(..) => 5,
        MapWrite::Maglev4(..) => 6,
        MapWrite::Maglev6(..) => 7,
        MapWrite::Backend4(..) => 8,
        MapWrite::Backend6(..) => 9,
        _ => 0,
    }
}

/// Who stands in which slot.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Arranged {
    /// Those who may be chosen, those who may be chosen if there is nobody else, those who can't be.
    pub(crate) backends: Vec<(BackendId, Backend)>,
    pub(crate) active: u16,
    pub(crate) quarantined: u16,
}

/// Which members may be chosen: the active ones; where there are none, those that are about to end.
fn selectable(members: &[(BackendId, Backend)]) -> BackendState {
    let any = |state| members.iter().any(|(_, backend)| backend.state == state);
    if !any(BackendState::Active) && any(BackendState::Terminating) {
        BackendState::Terminating
    } else {
        BackendState::Active
    }
}

/// Gives members their slots. Those who stood in a slot that still exists keep it.
pub(crate) fn arrange(before: &[BackendId], mut members: Vec<(BackendId, Backend)>) -> Arranged {
    members.sort_unstable_by_key(|(id, _)| *id);
    let chosen = selectable(&members);
    let (first, others): (Vec<_>, Vec<_>) = members.into_iter().partition(|(_, backend)| backend.state == chosen);
    let (quarantined, rest): (Vec<_>, Vec<_>) =
        others.into_iter().partition(|(_, backend)| backend.state == BackendState::Quarantined);
    let count = first.len();
    let mut newcomers: BTreeMap<BackendId, Backend> = first.into_iter().collect();
    // Who is named twice by an earlier life's slots gets the first of them.
    let mut places: Vec<Option<(BackendId, Backend)>> =
        (0..count).map(|at| before.get(at).and_then(|id| newcomers.remove_entry(id))).collect();
    for place in places.iter_mut().filter(|place| place.is_none()) {
        *place = newcomers.pop_first();
    }
    let size = |count: usize| u16::try_from(count).expect("as many backends as a service may have");
    let (active, waiting) = (size(places.len()), size(quarantined.len()));
    let backends = places.into_iter().flatten().chain(quarantined).chain(rest).collect();
    Arranged { backends, active, quarantined: waiting }
}

/// A frontend that stands for every address of the node.
const fn is_wildcard(service: &Service) -> bool {
    service.frontend.ip.is_unspecified()
}

/// Whether traffic from outside may come to it.
pub(crate) const fn is_routable(service: &Service, config: &Config) -> bool {
    !is_wildcard(service) && (config.external_cluster_ip || !matches!(service.attributes.kind, ServiceType::ClusterIp))
}

/// Whether it has a Maglev table: what comes from outside is chosen by it, nothing else.
pub(crate) fn has_table(service: &Service, config: &Config) -> bool {
    is_routable(service, config)
        && service.attributes.kind != ServiceType::LocalRedirect
        && service.scope == Scope::External
        && service.active > 0
}

/// Slot 0.
fn head(service: &Service, config: &Config, active: u16, quarantined: u16) -> LbService {
    let (flags, flags2) = flags(service, config);
    LbService {
        backend_id: service.attributes.affinity_seconds & lb::AFFINITY_TIMEOUT_MASK,
        count: active,
        qcount: quarantined,
        rev_nat_index: Port::new(service.id.as_u16()),
        flags,
        flags2,
    }
}

fn flags(service: &Service, config: &Config) -> (u8, u8) {
    let at = &service.attributes;
    let local = |policy| policy == TrafficPolicy::Local;
    let (external, internal) = (local(at.external_policy), local(at.internal_policy));
    let outside = at.kind != ServiceType::ClusterIp;
    let dsr = match (at.forwarding.filter(|_| config.forwarding_by_service), config.forwarding) {
        (Some(own), _) => own == Forwarding::Dsr,
        (None, ForwardingMode::Snat) => false,
        (None, ForwardingMode::Dsr) => true,
        (None, ForwardingMode::Hybrid) => service.frontend.protocol == Transport::Tcp,
    };
    let set = |pairs: &[(bool, u8)]| pairs.iter().filter(|(on, _)| *on).fold(0, |all, (_, bit)| all | bit);
    let first = set(&[
        (at.kind == ServiceType::ExternalIps, lb::SERVICE_EXTERNAL_IP),
        (at.kind == ServiceType::NodePort, lb::SERVICE_NODE_PORT),
        (outside && external, lb::SERVICE_EXTERNAL_LOCAL),
        (at.kind == ServiceType::HostPort, lb::SERVICE_HOST_PORT),
        (at.affinity_seconds != 0, lb::SERVICE_AFFINITY),
        (at.kind == ServiceType::LoadBalancer, lb::SERVICE_LOAD_BALANCER),
        (is_routable(service, config), lb::SERVICE_ROUTABLE),
        (!at.source_ranges.is_empty(), lb::SERVICE_SOURCE_RANGE),
    ]);
    let second = set(&[
        (at.kind == ServiceType::LocalRedirect, lb::SERVICE_LOCAL_REDIRECT),
        (at.loopback, lb::SERVICE_LOOPBACK_HOST_PORT),
        (internal, lb::SERVICE_INTERNAL_LOCAL),
        (outside && external != internal, lb::SERVICE_TWO_SCOPES),
        (outside && dsr, lb::SERVICE_FORWARD_DSR),
    ]);
    (first, second)
}

/// Backends that clients may come back to.
fn remembered(service: &Service) -> impl Iterator<Item = BackendId> + '_ {
    let any = service.attributes.affinity_seconds != 0;
    service.backends.iter().take(if any { usize::from(service.active) } else { 0 }).map(|(id, _)| *id)
}

/// Ranges of the frontend's family.
fn ranges(service: &Service) -> impl Iterator<Item = &Cidr> {
    let v4 = service.frontend.ip.is_ipv4();
    service.attributes.source_ranges.iter().filter(move |range| range.is_ipv4() == v4)
}

/// Map entries a service needs, by map.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Usage {
    pub(crate) slots: usize,
    pub(crate) ranges: usize,
    pub(crate) affinity: usize,
}

pub(crate) fn usage(service: &Service) -> Usage {
    Usage {
        slots: 1 + usize::from(service.active) + usize::from(service.quarantined),
        ranges: ranges(service).count(),
        affinity: remembered(service).count(),
    }
}

/// Everything the maps hold of a service besides its backends, in the order of a first write. `counted`: how many backends an earlier life's head
/// counts.
pub(crate) fn entries_of(counted: Option<u16>, service: &Service, config: &Config) -> impl Iterator<Item = MapWrite> {
    let mut writes = Vec::new();
    foundations(service, &mut writes);
    slots(counted, service, config, &mut writes);
    writes.into_iter()
}

/// The writes from an old state to a new one of the same service; its backends are written already.
pub(crate) fn change(old: Option<&Service>, new: &Service, config: &Config, writes: &mut Vec<MapWrite>) {
    foundations(new, writes);
    slots(old.map(|old| old.active), new, config, writes);
    let Some(old) = old else { return };
    let key = new.key();
    for at in (new.active + new.quarantined + 1..=old.active + old.quarantined).rev() {
        writes.push(entries::slot(&key, at, None));
    }
    leftovers(old, Some(new), writes);
}

/// The writes that take a service away.
pub(crate) fn removal(old: &Service, writes: &mut Vec<MapWrite>) {
    let key = old.key();
    writes.extend((0..=old.active + old.quarantined).map(|at| entries::slot(&key, at, None)));
    leftovers(old, None, writes);
    writes.push(entries::rev_nat(old.id, &old.frontend).deletion());
}

/// What must be there before a packet follows the head.
fn foundations(new: &Service, writes: &mut Vec<MapWrite>) {
    writes.push(entries::rev_nat(new.id, &new.frontend));
    writes.extend(remembered(new).map(|backend| entries::affinity(new.id, backend)));
    writes.extend(ranges(new).map(|range| entries::source_range(new.id, range)));
    if let Some(table) = new.table {
        writes.push(entries::maglev(new.id, new.frontend.ip.is_ipv4(), table));
    }
}

/// Slots, and the head after those it counts. `counted`: how many were before.
fn slots(counted: Option<u16>, new: &Service, config: &Config, writes: &mut Vec<MapWrite>) {
    let key = new.key();
    let (active, quarantined) = (new.active, new.quarantined);
    for (at, (backend, _)) in (1..=active + quarantined).zip(&new.backends) {
        if at == active + 1 && counted.is_some_and(|counted| counted > active) {
            // Quarantined backends go where active ones were: nobody may pick there any more.
            writes.push(entries::slot(&key, 0, Some(head(new, config, active, 0))));
        }
        writes.push(entries::slot(&key, at, Some(entries::member(new.id, *backend, at > active))));
    }
    writes.push(entries::slot(&key, 0, Some(head(new, config, active, quarantined))));
}

/// What only the old state needs.
fn leftovers(old: &Service, new: Option<&Service>, writes: &mut Vec<MapWrite>) {
    if let Some(table) = old.table.filter(|_| new.is_none_or(|new| new.table.is_none())) {
        writes.push(entries::maglev(old.id, old.frontend.ip.is_ipv4(), table).deletion());
    }
    let stay: BTreeSet<&Cidr> = new.into_iter().flat_map(ranges).collect();
    let gone = ranges(old).filter(|range| !stay.contains(range));
    writes.extend(gone.map(|range| entries::source_range(old.id, range).deletion()));
    let stay: BTreeSet<BackendId> = new.into_iter().flat_map(remembered).collect();
    let gone = remembered(old).filter(|backend| !stay.contains(backend));
    writes.extend(gone.map(|backend| entries::affinity(old.id, backend).deletion()));
}
