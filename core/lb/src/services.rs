//! The tables of services and backends, and the plan of writes that leads from one state of them to the next.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;

use abi::write::MapWrite;

use crate::entries::{self, Known};
use crate::{
    Backend, BackendId, BackendState, Config, L4Addr, Refusal, ServiceId, ServiceName, ServiceSpec, Transport,
};

/// One service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// Its number.
    pub id: ServiceId,
    /// Where clients go.
    pub frontend: L4Addr,
    /// Who answers, with their numbers, in the order of slots: active, quarantined, then those without a slot.
    pub backends: Vec<(BackendId, Backend)>,
    /// Its name.
    pub name: ServiceName,
}

/// A change, as writes to be made in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Planned {
    /// The service.
    pub id: ServiceId,
    /// Whether it is new.
    pub created: bool,
    /// The writes. After each of them a packet finds the old service or the new one.
    pub writes: Vec<MapWrite>,
}

#[derive(Debug, Clone)]
struct Shared {
    id: BackendId,
    /// As it was last said by any of its services: the kernel has one entry for all of them.
    state: BackendState,
    users: BTreeSet<ServiceId>,
}

/// All services of a node.
#[derive(Debug, Clone)]
pub struct Services {
    config: Config,
    services: BTreeMap<ServiceId, Service>,
    by_frontend: BTreeMap<L4Addr, ServiceId>,
    backends: BTreeMap<L4Addr, Shared>,
    backend_ids: BTreeMap<BackendId, L4Addr>,
    /// Numbers that an earlier life gave, until they are taken up or [`Self::forget_remembered`].
    old_services: BTreeMap<L4Addr, ServiceId>,
    old_backends: BTreeMap<L4Addr, BackendId>,
    next_service: u16,
    next_backend: u32,
}

impl Services {
    /// None yet.
    pub const fn new(config: Config) -> Self {
        Self {
            config,
            services: BTreeMap::new(),
            by_frontend: BTreeMap::new(),
            backends: BTreeMap::new(),
            backend_ids: BTreeMap::new(),
            old_services: BTreeMap::new(),
            old_backends: BTreeMap::new(),
            next_service: 1,
            next_backend: 1,
        }
    }

    /// Learns the numbers in use from what the kernel's maps hold, so that the same frontends and backends get them again.
    pub fn remember<'a>(&mut self, maps: impl IntoIterator<Item = &'a MapWrite>) {
        for known in maps.into_iter().filter_map(entries::known) {
            match known {
                Known::Service(frontend, id) => {
                    self.old_services.insert(frontend, id);
                }
                Known::Backend(addr, id) => {
                    self.old_backends.insert(addr, id);
                }
            }
        }
    }

    /// Gives the numbers free that nobody took up again.
    pub fn forget_remembered(&mut self) {
        self.old_services.clear();
        self.old_backends.clear();
    }

    /// Creates a service or replaces it.
    pub fn put(&mut self, spec: ServiceSpec) -> Result<Planned, Refusal> {
        self.validate(&spec)?;
        let (id, created) = self.number(&spec)?;
        let old = self.services.get(&id).map_or_else(Vec::new, |service| service.backends.clone());
        self.check_room(&spec, created, &old)?;

        let ServiceSpec { frontend, backends, name, .. } = spec;
        let mut members: Vec<(BackendId, Backend)> =
            backends.into_iter().map(|backend| (self.share(id, &backend), backend)).collect();
        members.sort_by_key(|(number, backend)| (rank(backend.state), *number));

        let mut writes: Vec<MapWrite> =
            members.iter().map(|(number, backend)| entries::backend(*number, backend)).collect();
        writes.push(entries::rev_nat(id, &frontend));
        let (active, quarantined) = slots(&members);
        let (old_active, old_quarantined) = slots(&old);
        for (at, (number, _)) in (1..=active + quarantined).zip(&members) {
            if at == active + 1 && old_active > active {
                // Quarantined backends go where active ones were: nobody may pick there any more.
                writes.push(entries::slot(&frontend, 0, Some(entries::head(id, active, 0))));
            }
            writes.push(entries::slot(&frontend, at, Some(entries::member(id, *number))));
        }
        writes.push(entries::slot(&frontend, 0, Some(entries::head(id, active, quarantined))));
        for at in (active + quarantined + 1..=old_active + old_quarantined).rev() {
            writes.push(entries::slot(&frontend, at, None));
        }
        for (number, backend) in &old {
            if members.iter().all(|(have, _)| have != number) && self.unshare(id, &backend.addr) {
                writes.push(entries::backend(*number, backend).deletion());
            }
        }
        self.by_frontend.insert(frontend, id);
        self.services.insert(id, Service { id, frontend, backends: members, name });
        Ok(Planned { id, created, writes })
    }

    /// Deletes a service.
    pub fn delete(&mut self, id: ServiceId) -> Result<Planned, Refusal> {
        let service = self.services.remove(&id).ok_or(Refusal::NotFound(id))?;
        self.by_frontend.remove(&service.frontend);
        let (active, quarantined) = slots(&service.backends);
        let mut writes: Vec<MapWrite> =
            (0..=active + quarantined).map(|at| entries::slot(&service.frontend, at, None)).collect();
        writes.push(entries::rev_nat(id, &service.frontend).deletion());
        for (number, backend) in &service.backends {
            if self.unshare(id, &backend.addr) {
                writes.push(entries::backend(*number, backend).deletion());
            }
        }
        Ok(Planned { id, created: false, writes })
    }

    /// Every entry the maps should hold.
    pub fn entries(&self) -> impl Iterator<Item = MapWrite> + '_ {
        self.services.values().flat_map(|service| {
            let (active, quarantined) = slots(&service.backends);
            let members = service.backends.iter().map(|(number, backend)| {
                let state = self.backends.get(&backend.addr).map_or(backend.state, |shared| shared.state);
                entries::backend(*number, &Backend { state, ..backend.clone() })
            });
            let taken = (1..=active + quarantined).zip(&service.backends);
            let slots = taken.map(|(at, (number, _))| {
                entries::slot(&service.frontend, at, Some(entries::member(service.id, *number)))
            });
            let head = entries::head(service.id, active, quarantined);
            let ends =
                [entries::rev_nat(service.id, &service.frontend), entries::slot(&service.frontend, 0, Some(head))];
            members.chain(slots).chain(ends)
        })
    }

    /// The services, ordered by number.
    pub fn iter(&self) -> impl Iterator<Item = &Service> {
        self.services.values()
    }

    /// The service of that number.
    pub fn by_id(&self, id: ServiceId) -> Option<&Service> {
        self.services.get(&id)
    }

    /// The service of that frontend.
    pub fn by_frontend(&self, frontend: &L4Addr) -> Option<&Service> {
        self.services.get(self.by_frontend.get(frontend)?)
    }

    fn validate(&self, spec: &ServiceSpec) -> Result<(), Refusal> {
        let (name, frontend) = (spec.name.clone(), spec.frontend);
        if frontend.port == 0 {
            return Err(Refusal::FrontendPort { name, frontend });
        }
        if frontend.ip.is_unspecified() || frontend.ip.is_multicast() {
            return Err(Refusal::FrontendAddress { name, frontend });
        }
        let max = self.config.backends_per_service_max.min(usize::from(u16::MAX));
        if spec.backends.len() > max {
            return Err(Refusal::TooManyBackends { name, frontend, given: spec.backends.len(), max });
        }
        let mut seen = BTreeSet::new();
        for (index, Backend { addr, .. }) in spec.backends.iter().enumerate() {
            if addr.port == 0 {
                return Err(Refusal::BackendPort { name, frontend, index });
            }
            if addr.ip.is_ipv4() != frontend.ip.is_ipv4() {
                return Err(Refusal::BackendFamily { name, frontend, index });
            }
            if frontend.protocol != Transport::Any && addr.protocol != frontend.protocol {
                return Err(Refusal::BackendProtocol { name, frontend, index, protocol: addr.protocol });
            }
            if !seen.insert(*addr) {
                return Err(Refusal::BackendTwice { name, frontend, index });
            }
        }
        Ok(())
    }

    /// The number the service has or gets, and whether it is new.
    fn number(&mut self, spec: &ServiceSpec) -> Result<(ServiceId, bool), Refusal> {
        let (name, frontend) = (spec.name.clone(), spec.frontend);
        match (spec.id, self.by_frontend.get(&frontend)) {
            (None, Some(owner)) => return Ok((*owner, false)),
            (Some(id), Some(owner)) if id == *owner => return Ok((id, false)),
            (Some(_), Some(owner)) => return Err(Refusal::FrontendTaken { name, frontend, owner: *owner }),
            (Some(id), None) => {
                return match self.services.get(&id) {
                    Some(other) => Err(Refusal::IdTaken { name, frontend, id, owner: other.frontend }),
                    None => Ok((id, true)),
                };
            }
            (None, None) => {}
        }
        if let Some(id) = self.old_services.remove(&frontend).filter(|id| !self.services.contains_key(id)) {
            return Ok((id, true));
        }
        let remembered: BTreeSet<_> = self.old_services.values().copied().collect();
        let free = |from: u16| {
            let free = |id: &ServiceId| !self.services.contains_key(id) && !remembered.contains(id);
            (from..=u16::MAX).filter_map(ServiceId::new).find(free)
        };
        let full = Refusal::Full { name, frontend, table: "service", max: usize::from(u16::MAX) };
        let id = free(self.next_service).or_else(|| free(1)).ok_or(full)?;
        self.next_service = id.as_u16().checked_add(1).unwrap_or(1);
        Ok((id, true))
    }

    fn check_room(&self, spec: &ServiceSpec, created: bool, old: &[(BackendId, Backend)]) -> Result<(), Refusal> {
        let v4 = spec.frontend.ip.is_ipv4();
        let of_family = |ip: core::net::IpAddr| ip.is_ipv4() == v4;
        let full = |table, max| Err(Refusal::Full { name: spec.name.clone(), frontend: spec.frontend, table, max });
        let (mut services, mut used) = (usize::from(created), 0);
        for service in self.services.values().filter(|service| of_family(service.frontend.ip)) {
            services += 1;
            used += 1 + slot_count(&service.backends);
        }
        if services > self.config.services_max {
            return full("service", self.config.services_max);
        }
        // Slots are written before the old ones are deleted, and the old service's own are reused.
        let given = spec.backends.iter().filter(|backend| has_slot(backend.state)).count();
        let slots = used + usize::from(created) + given.saturating_sub(slot_count(old));
        if slots > self.config.slots_max {
            return full("slot", self.config.slots_max);
        }
        let have = self.backends.keys().filter(|addr| of_family(addr.ip)).count();
        let new = spec.backends.iter().filter(|backend| !self.backends.contains_key(&backend.addr)).count();
        if have + new > self.config.backends_max {
            return full("backend", self.config.backends_max);
        }
        Ok(())
    }

    /// The number of a backend, which one more service uses from now on.
    fn share(&mut self, user: ServiceId, backend: &Backend) -> BackendId {
        let (addr, state) = (&backend.addr, backend.state);
        if let Some(shared) = self.backends.get_mut(addr) {
            shared.users.insert(user);
            shared.state = state;
            return shared.id;
        }
        let free = |id: &BackendId| !self.backend_ids.contains_key(id);
        let id = self.old_backends.remove(addr).filter(free).unwrap_or_else(|| self.free_backend());
        self.backend_ids.insert(id, *addr);
        self.backends.insert(*addr, Shared { id, state, users: [user].into() });
        id
    }

    fn free_backend(&mut self) -> BackendId {
        let remembered: BTreeSet<_> = self.old_backends.values().copied().collect();
        let free = |id: &BackendId| !self.backend_ids.contains_key(id) && !remembered.contains(id);
        let id = (self.next_backend..=u32::MAX)
            .chain(1..self.next_backend)
            .filter_map(BackendId::new)
            .find(free)
            .expect("the table is far smaller than the number space");
        self.next_backend = id.as_u32().checked_add(1).unwrap_or(1);
        id
    }

    /// One service less uses the backend. Says whether it was the last.
    fn unshare(&mut self, user: ServiceId, addr: &L4Addr) -> bool {
        let Some(shared) = self.backends.get_mut(addr) else { return false };
        shared.users.remove(&user);
        if !shared.users.is_empty() {
            return false;
        }
        let id = shared.id;
        self.backends.remove(addr);
        self.backend_ids.remove(&id);
        true
    }
}

const fn rank(state: BackendState) -> u8 {
    match state {
        BackendState::Active => 0,
        BackendState::Quarantined => 1,
        BackendState::Terminating => 2,
        BackendState::Maintenance => 3,
    }
}

const fn has_slot(state: BackendState) -> bool {
    matches!(state, BackendState::Active | BackendState::Quarantined)
}

fn slot_count(backends: &[(BackendId, Backend)]) -> usize {
    backends.iter().filter(|(_, backend)| has_slot(backend.state)).count()
}

/// How many active and quarantined backends there are; at most [`u16::MAX`] together (checked when taken up).
fn slots(backends: &[(BackendId, Backend)]) -> (u16, u16) {
    let count = |state| backends.iter().filter(|(_, backend)| backend.state == state).count() as u16;
    (count(BackendState::Active), count(BackendState::Quarantined))
}
