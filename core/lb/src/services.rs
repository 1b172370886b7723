//! The tables of services and backends.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;

use abi::write::MapWrite;
use types::Cidr;

use crate::backends::Backends;
use crate::entries::{self, Known};
use crate::maglev::{Member, Recipe, TableId};
use crate::plan::{self, Change, Planned, Purge, Usage};
use crate::recipes::Recipes;
use crate::{
    Algorithm, Attributes, Backend, BackendId, BackendState, Config, Frontend, L4Addr, Refusal, Scope, ServiceId,
    ServiceName, ServiceSpec, Transport,
};

/// Clients are remembered for a day at most, as Kubernetes has it.
const AFFINITY_SECONDS_MAX: u32 = 86_400;

/// One service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// Its number.
    pub id: ServiceId,
    /// Where clients go.
    pub frontend: L4Addr,
    /// Which clients.
    pub scope: Scope,
    /// Who answers, with their numbers, in the order of slots: those who are chosen, quarantined, those without a slot.
    pub backends: Vec<(BackendId, Backend)>,
    /// How many of them are chosen.
    pub active: u16,
    /// How many of them are quarantined.
    pub quarantined: u16,
    /// Its Maglev table.
    pub table: Option<TableId>,
    /// Its name.
    pub name: ServiceName,
    /// The rest.
    pub attributes: Attributes,
}

impl Service {
    /// Its place in the tables.
    pub const fn key(&self) -> Frontend {
        Frontend { addr: self.frontend, scope: self.scope }
    }
    /// What would make it.
    pub fn spec(&self) -> ServiceSpec {
        ServiceSpec {
            id: Some(self.id),
            frontend: self.frontend,
            scope: self.scope,
            backends: self.backends.iter().map(|(_, backend)| backend.clone()).collect(),
            name: self.name.clone(),
            attributes: self.attributes.clone(),
        }
    }
}

/// A service that says at a port whether it has a backend on this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthPort {
    /// Its name.
    pub name: ServiceName,
    /// How many backends it has here.
    pub local: usize,
}

/// What an earlier life left of a service.
#[derive(Debug, Clone, Default)]
struct Remembered {
    id: Option<ServiceId>,
    counted: u16,
    slots: BTreeMap<u16, BackendId>,
}

/// How much of the maps of one family is used.
#[derive(Debug, Clone, Copy, Default)]
struct Used {
    services: usize,
    entries: Usage,
}

/// All services of a node.
#[derive(Debug, Clone)]
pub struct Services {
    config: Config,
    services: BTreeMap<ServiceId, Service>,
    by_frontend: BTreeMap<Frontend, ServiceId>,
    backends: Backends,
    recipes: Recipes,
    /// By family, IPv4 first.
    used: [Used; 2],
    /// What an earlier life gave, until it is taken up or [`Self::forget_remembered`].
    old: BTreeMap<Frontend, Remembered>,
    old_ids: BTreeSet<ServiceId>,
    next: u16,
    /// Services with a health-check port.
    health: BTreeSet<ServiceId>,
}

impl Services {
    /// None yet.
    pub fn new(config: Config) -> Self {
        Self {
            config,
            services: BTreeMap::new(),
            by_frontend: BTreeMap::new(),
            backends: Backends::default(),
            recipes: Recipes::default(),
            used: [Used::default(); 2],
            old: BTreeMap::new(),
            old_ids: BTreeSet::new(),
            next: 1,
            health: BTreeSet::new(),
        }
    }

    /// What it was told.
    pub const fn config(&self) -> &Config {
        &self.config
    }

    /// Learns numbers and slots in use from what the kernel's maps hold, so that the same frontends and backends get them
    /// again.
    pub fn remember<'a>(&mut self, maps: impl IntoIterator<Item = &'a MapWrite>) {
        for known in maps.into_iter().filter_map(entries::known) {
            match known {
                Known::Service(frontend, id, counted) => {
                    let old = self.old.entry(frontend).or_default();
                    (old.id, old.counted) = (Some(id), counted);
                    self.old_ids.insert(id);
                }
                Known::Slot(frontend, slot, backend) => {
                    self.old.entry(frontend).or_default().slots.insert(slot, backend);
                }
                Known::Backend(addr, id) => self.backends.remember(addr, id),
            }
        }
    }

    /// Gives the numbers free that nobody took up again.
    pub fn forget_remembered(&mut self) {
        self.old.clear();
        self.old_ids.clear();
        self.backends.forget_remembered();
    }

    /// Creates a service or replaces it.
    pub fn put(&mut self, mut spec: ServiceSpec) -> Result<Planned, Refusal> {
        self.validate(&spec)?;
        self.settle(&mut spec);
        let (id, created) = self.number(&spec)?;
        self.check_room(&spec, id)?;
        let (key, name) = (spec.key(), spec.name);
        let members: Vec<(BackendId, Backend)> =
            spec.backends.into_iter().map(|backend| (self.backends.share(id, &backend), backend)).collect();
        let old = self.services.remove(&id);
        let before: Vec<BackendId> = match (&old, self.old.get(&key)) {
            (Some(old), _) => old.backends.iter().take(old.active.into()).map(|(id, _)| *id).collect(),
            (None, Some(remembered)) => remembered.slots.values().copied().collect(),
            (None, None) => Vec::new(),
        };
        let arranged = plan::arrange(&before, members);
        let mut new = Service {
            id,
            frontend: key.addr,
            scope: key.scope,
            backends: arranged.backends,
            active: arranged.active,
            quarantined: arranged.quarantined,
            table: None,
            name,
            attributes: spec.attributes,
        };
        new.table = self.table(&new);
        let change = if created { Change::Created } else { Change::Updated };
        let mut planned =
            Planned { id, change, writes: Vec::new(), tables: self.recipes.of(new.table), purge: Vec::new() };
        if old.as_ref() != Some(&new) {
            planned.writes.extend(self.backends_of(&new));
            plan::change(old.as_ref(), &new, &self.config, &mut planned.writes);
        }
        self.count(&new, |have, more| have + more);
        if let Some(old) = &old {
            self.count(old, |have, less| have - less);
            self.let_go(old, Some(&new), &mut planned);
        }
        if self.config.health_checks && new.attributes.health_check_port != 0 {
            self.health.insert(id);
        } else {
            self.health.remove(&id);
        }
        self.by_frontend.insert(key, id);
        self.services.insert(id, new);
        Ok(planned)
    }

    /// Deletes a service.
    pub fn delete(&mut self, id: ServiceId) -> Result<Planned, Refusal> {
        let old = self.services.remove(&id).ok_or(Refusal::NotFound(id))?;
        self.by_frontend.remove(&old.key());
        self.health.remove(&id);
        self.count(&old, |have, less| have - less);
        let purge = [Purge::Service { service: id, frontend: old.key() }].into();
        let mut planned = Planned { id, change: Change::Deleted, writes: Vec::new(), tables: Vec::new(), purge };
        plan::removal(&old, &mut planned.writes);
        self.let_go(&old, None, &mut planned);
        Ok(planned)
    }

    /// Takes from the shared tables what a service does not use any more.
    fn let_go(&mut self, old: &Service, new: Option<&Service>, planned: &mut Planned) {
        if let Some(table) = old.table {
            self.recipes.unshare(table);
        }
        let stay: BTreeSet<BackendId> = new.into_iter().flat_map(|new| &new.backends).map(|(id, _)| *id).collect();
        for (backend, Backend { addr, state, .. }) in old.backends.iter().filter(|(id, _)| !stay.contains(id)) {
            planned.purge.push(Purge::Backend { service: old.id, frontend: old.key(), backend: *backend, addr: *addr });
            let last = self.backends.unshare(old.id, addr);
            let write = entries::backend(*backend, addr, *state);
            planned.writes.push(match self.backends.get(addr).filter(|_| !last) {
                Some(shared) => entries::backend(*backend, addr, shared.state()),
                None => write.deletion(),
            });
        }
    }

    /// Every entry the maps should hold, service by service, in the order in which they are written over what an earlier
    /// life left.
    pub fn entries(&self) -> impl Iterator<Item = MapWrite> + '_ {
        self.services.values().flat_map(|service| {
            let counted = self.old.get(&service.key()).map(|old| old.counted);
            self.backends_of(service).chain(plan::entries_of(counted, service, &self.config))
        })
    }

    /// The backends of a service, as the kernel is told of them.
    fn backends_of<'a>(&'a self, service: &'a Service) -> impl Iterator<Item = MapWrite> + 'a {
        service.backends.iter().filter_map(|(id, backend)| {
            let state = self.backends.get(&backend.addr)?.state();
            Some(entries::backend(*id, &backend.addr, state))
        })
    }

    /// What is in the Maglev tables that [`Self::entries`] names.
    pub fn tables(&self) -> Vec<(TableId, alloc::sync::Arc<Recipe>)> {
        let ids: BTreeSet<TableId> = self.services.values().filter_map(|service| service.table).collect();
        self.recipes.of(ids)
    }

    /// The services, ordered by number.
    pub fn iter(&self) -> impl Iterator<Item = &Service> {
        self.services.values()
    }

    /// Those that say whether they have a backend here, by the port at which they say it.
    pub fn health_ports(&self) -> BTreeMap<u16, HealthPort> {
        let asked = self.health.iter().filter_map(|id| self.services.get(id));
        asked
            .map(|service| {
                let local = usize::from(service.active);
                (service.attributes.health_check_port, HealthPort { name: service.name.clone(), local })
            })
            .collect()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.services.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.services.is_empty()
    }

    /// How many backends of a family there are.
    pub const fn backend_count(&self, v4: bool) -> usize {
        self.backends.count(v4)
    }

    /// The service of that number.
    pub fn by_id(&self, id: ServiceId) -> Option<&Service> {
        self.services.get(&id)
    }

    /// The service of that frontend, for traffic from outside and for all that no other is for.
    pub fn by_frontend(&self, frontend: &L4Addr) -> Option<&Service> {
        self.by_key(&Frontend { addr: *frontend, scope: Scope::External })
    }

    /// The service of that place in the tables.
    pub fn by_key(&self, key: &Frontend) -> Option<&Service> {
        self.services.get(self.by_frontend.get(key)?)
    }

    /// Checks what types cannot.
    pub(crate) fn validate(&self, spec: &ServiceSpec) -> Result<(), Refusal> {
        let (name, frontend) = (spec.name.clone(), spec.frontend);
        if frontend.port == 0 {
            return Err(Refusal::FrontendPort { name, frontend });
        }
        let nobody = frontend.ip.is_unspecified() && !spec.attributes.kind.has_wildcard();
        if nobody || frontend.ip.is_multicast() {
            return Err(Refusal::FrontendAddress { name, frontend });
        }
        if spec.attributes.affinity_seconds > AFFINITY_SECONDS_MAX {
            let why = "must be at most 86400 seconds";
            return Err(Refusal::Attribute { name, frontend, field: "sessionAffinityTimeoutSeconds", why });
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
            if addr.ip.is_unspecified() || addr.ip.is_multicast() {
                return Err(Refusal::BackendAddress { name, frontend, index });
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
        for (index, range) in spec.attributes.source_ranges.iter().enumerate() {
            let other =
                |(at, other): (usize, &Cidr)| at != index && other.covers(range) && (other != range || at < index);
            if spec.attributes.source_ranges.iter().enumerate().any(other) {
                let why = "lies in another range; leave it out";
                return Err(Refusal::SourceRange { name, frontend, index, range: *range, why });
            }
        }
        Ok(())
    }

    /// What the specification means on this node.
    fn settle(&self, spec: &mut ServiceSpec) {
        for backend in spec.backends.iter_mut().filter(|backend| backend.weight == 0) {
            backend.state = BackendState::Maintenance;
        }
        if spec.wants_local() {
            let here = |backend: &Backend| backend.node_name.is_empty() || backend.node_name == self.config.node.name;
            spec.backends.retain(here);
        }
        if !self.config.session_affinity {
            spec.attributes.affinity_seconds = 0;
        }
        if !self.config.source_ranges {
            spec.attributes.source_ranges.clear();
        }
    }

    /// The number the service has or gets, and whether it is new.
    fn number(&mut self, spec: &ServiceSpec) -> Result<(ServiceId, bool), Refusal> {
        let (name, frontend, key) = (spec.name.clone(), spec.frontend, spec.key());
        match (spec.id, self.by_frontend.get(&key)) {
            (None, Some(owner)) => return Ok((*owner, false)),
            (Some(id), Some(owner)) if id == *owner => return Ok((id, false)),
            (Some(_), Some(owner)) => return Err(Refusal::FrontendTaken { name, frontend, owner: *owner }),
            (Some(id), None) => {
                return match self.services.get(&id) {
                    Some(owner) => Err(Refusal::IdTaken { name, frontend, id, owner: owner.frontend }),
                    None => Ok((id, true)),
                };
            }
            (None, None) => {}
        }
        let before = self.old.get(&key).and_then(|old| old.id);
        if let Some(id) = before.filter(|id| !self.services.contains_key(id)) {
            return Ok((id, true));
        }
        let free = |from: u16| {
            let free = |id: &ServiceId| !self.services.contains_key(id) && !self.old_ids.contains(id);
            (from..=u16::MAX).filter_map(ServiceId::new).find(free)
        };
        let full = Refusal::Full { name, frontend, table: "service", max: usize::from(u16::MAX) };
        let id = free(self.next).or_else(|| free(1)).ok_or(full)?;
        self.next = id.as_u16().checked_add(1).unwrap_or(1);
        Ok((id, true))
    }

    /// Whether everything fits while old and new are there at once.
    fn check_room(&self, spec: &ServiceSpec, id: ServiceId) -> Result<(), Refusal> {
        let v4 = spec.frontend.ip.is_ipv4();
        let Used { services, entries } = self.used[usize::from(!v4)];
        let old = self.services.get(&id).map(plan::usage);
        let given = |states: &[BackendState]| spec.backends.iter().filter(|have| states.contains(&have.state)).count();
        let remembers = spec.attributes.affinity_seconds != 0;
        let ranges = spec.attributes.source_ranges.iter().filter(|range| range.is_ipv4() == v4).count();
        let terminating = if given(&[BackendState::Active]) == 0 { given(&[BackendState::Terminating]) } else { 0 };
        let new = Usage {
            slots: 1 + given(&[BackendState::Active, BackendState::Quarantined]) + terminating,
            ranges,
            affinity: if remembers { given(&[BackendState::Active]) + terminating } else { 0 },
        };
        let had = old.unwrap_or_default();
        let new_backends = spec.backends.iter().filter(|backend| self.backends.get(&backend.addr).is_none()).count();
        // Slots are reused; ranges and pairs are written before the old ones are deleted.
        for (table, used, max) in [
            ("service", services + usize::from(old.is_none()), self.config.services_max),
            ("slot", entries.slots - had.slots + had.slots.max(new.slots), self.config.slots_max),
            ("backend", self.backends.count(v4) + new_backends, self.config.backends_max),
            ("source range", entries.ranges + new.ranges, self.config.source_ranges_max),
            ("affinity", self.affinity() + new.affinity, self.config.affinity_max),
        ] {
            if used > max {
                return Err(Refusal::Full { name: spec.name.clone(), frontend: spec.frontend, table, max });
            }
        }
        Ok(())
    }

    /// Pairs of service and backend that remember clients: one map for both families.
    const fn affinity(&self) -> usize {
        self.used[0].entries.affinity + self.used[1].entries.affinity
    }

    fn count(&mut self, service: &Service, apply: impl Fn(usize, usize) -> usize) {
        let more = plan::usage(service);
        let Used { services, entries } = &mut self.used[usize::from(service.frontend.ip.is_ipv6())];
        *services = apply(*services, 1);
        entries.slots = apply(entries.slots, more.slots);
        entries.ranges = apply(entries.ranges, more.ranges);
        entries.affinity = apply(entries.affinity, more.affinity);
    }

    /// The service's Maglev table, if it has one.
    fn table(&mut self, service: &Service) -> Option<TableId> {
        let Algorithm::Maglev { size, seed } = self.config.algorithm else { return None };
        if !plan::has_table(service, &self.config) {
            return None;
        }
        let chosen = &service.backends[..usize::from(service.active)];
        let mut members: Vec<(&[u8], Member)> = Vec::with_capacity(chosen.len());
        for (_, backend) in chosen {
            self.backends.ensure_way(&backend.addr, backend.state, size, seed);
        }
        for (id, backend) in chosen {
            let (name, way) = self.backends.way(&backend.addr)?;
            members.push((name.as_bytes(), Member { id: id.as_u32(), weight: backend.weight, way }));
        }
        members.sort_unstable_by_key(|(name, _)| *name);
        let recipe = Recipe::new(size, members.into_iter().map(|(_, member)| member).collect());
        Some(self.recipes.share(recipe))
    }
}
