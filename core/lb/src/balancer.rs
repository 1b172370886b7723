//! Services of the API and of Kubernetes' objects, in one table: whose frontend is whose, and what is wrong.
//!
//! A frontend belongs to whoever asked first. Who asks later is told ([`Problem`]) and gets it when it becomes free.

use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;

use types::EndpointId;

use crate::derive::derive;
use crate::objects::{Object, ObjectKey, ObjectKind, Objects};
use crate::{Config, Frontend, LocalPod, Planned, Refusal, ServiceId, ServiceName, ServiceSpec, Services};

/// Something of an object that does not count.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// Whose.
    pub object: ObjectKey,
    /// Which field.
    pub field: String,
    /// What is wrong, and what to do.
    pub why: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.object, self.field, self.why)
    }
}

/// All that is balanced on a node.
#[derive(Debug, Clone)]
pub struct Balancer {
    services: Services,
    objects: Objects,
    /// Who made a frontend; those of the API are not in here.
    owners: BTreeMap<Frontend, ObjectKey>,
    frontends: BTreeMap<ObjectKey, BTreeSet<Frontend>>,
    problems: BTreeMap<ObjectKey, Vec<Problem>>,
    waiting: BTreeMap<Frontend, BTreeSet<ObjectKey>>,
}

impl Balancer {
    /// Nothing yet.
    pub fn new(config: Config) -> Self {
        Self {
            services: Services::new(config),
            objects: Objects::default(),
            owners: BTreeMap::new(),
            frontends: BTreeMap::new(),
            problems: BTreeMap::new(),
            waiting: BTreeMap::new(),
        }
    }

    /// The table.
    pub const fn services(&self) -> &Services {
        &self.services
    }
    /// The table, to remember and to forget an earlier life.
    pub const fn services_mut(&mut self) -> &mut Services {
        &mut self.services
    }
    /// The objects.
    pub const fn objects(&self) -> &Objects {
        &self.objects
    }
    /// Everything that does not count, object by object.
    pub fn problems(&self) -> impl Iterator<Item = &Problem> {
        self.problems.values().flatten()
    }
    /// The object that made a service; `None`: it came through the API.
    pub fn owner(&self, frontend: &Frontend) -> Option<&ObjectKey> {
        self.owners.get(frontend)
    }

    /// Creates or replaces a service of the API.
    pub fn put(&mut self, spec: ServiceSpec) -> Result<Planned, Refusal> {
        if let Some(owner) = self.owners.get(&spec.key()) {
            let (name, frontend, owner) = (spec.name.clone(), spec.frontend, owner.to_string());
            return Err(Refusal::FrontendOwned { name, frontend, owner: owner.into() });
        }
        if let Some(owner) = spec.id.and_then(|id| self.owner_of(id)) {
            let (name, frontend, owner) = (spec.name.clone(), spec.frontend, owner.to_string());
            return Err(Refusal::FrontendOwned { name, frontend, owner: owner.into() });
        }
        self.services.put(spec)
    }

    /// Deletes a service of the API; whoever waits for its frontend gets it.
    pub fn delete(&mut self, id: ServiceId) -> Result<Vec<Planned>, Refusal> {
        if let Some(owner) = self.owner_of(id) {
            return Err(Refusal::Owned { id, owner: owner.to_string().into() });
        }
        let frontend = self.services.by_id(id).map(crate::Service::key);
        let mut planned: Vec<Planned> = [self.services.delete(id)?].into();
        let next = frontend.and_then(|frontend| self.waiting.get(&frontend)).into_iter().flatten().cloned();
        let next: VecDeque<ObjectKey> = next.collect();
        self.sync_all(next, &mut planned);
        Ok(planned)
    }

    fn owner_of(&self, id: ServiceId) -> Option<&ObjectKey> {
        self.owners.get(&self.services.by_id(id)?.key())
    }

    /// Takes objects up and lets objects go, as one change. Objects beyond the bound are refused, each by name.
    pub fn change(&mut self, put: Vec<Object>, removed: Vec<ObjectKey>) -> Vec<Planned> {
        let mut touched: BTreeSet<ObjectKey> = BTreeSet::new();
        for key in &removed {
            touched.extend(self.objects.remove(key));
            self.problems.remove(key);
        }
        for object in put {
            let key = object.key();
            let max = self.services.config().objects_max;
            if self.objects.len() >= max && !self.objects.contains(&key) {
                let why = format!("there are {max} objects already, and no more are taken up");
                let field = "metadata.name".into();
                self.problems.insert(key.clone(), [Problem { object: key, field, why }].into());
                continue;
            }
            touched.extend(self.objects.put(object));
        }
        // Who is older comes first where two want the same.
        let age = |key: &ObjectKey| match key.kind {
            ObjectKind::Pod => self.objects.pod(&key.name).map(|pod| &pod.metadata),
            ObjectKind::LocalRedirect => self.objects.redirect(&key.name).map(|policy| &policy.metadata),
            _ => self.objects.service(&key.name).map(|service| &service.metadata),
        };
        let mut order: Vec<ObjectKey> = touched.into_iter().collect();
        order.sort_by_cached_key(|key| {
            let made = age(key).and_then(|metadata| metadata.creation_timestamp.clone());
            (made.is_none(), made, key.clone())
        });
        let mut planned = Vec::new();
        self.sync_all(order.into(), &mut planned);
        planned
    }

    /// A pod of this node came, changed or went (`None`): traffic that policies keep on the node follows it.
    pub fn set_local(&mut self, endpoint: EndpointId, pod: Option<LocalPod>) -> Vec<Planned> {
        let touched = self.objects.set_local(endpoint, pod);
        let mut planned = Vec::new();
        self.sync_all(touched.into(), &mut planned);
        planned
    }

    /// Brings objects' frontends about, and those of whoever waits for what becomes free.
    fn sync_all(&mut self, mut queue: VecDeque<ObjectKey>, planned: &mut Vec<Planned>) {
        while let Some(key) = queue.pop_front() {
            for freed in self.sync(&key, planned) {
                queue.extend(self.waiting.remove(&freed).into_iter().flatten());
            }
        }
    }

    /// Brings one object's frontends about; says which became free.
    fn sync(&mut self, key: &ObjectKey, planned: &mut Vec<Planned>) -> Vec<Frontend> {
        let derived = derive(&self.objects, key, self.services.config());
        let mut problems = derived.problems;
        let had = self.frontends.remove(key).unwrap_or_default();
        self.waiting.retain(|_, waiting| {
            waiting.remove(key);
            !waiting.is_empty()
        });
        let mut have = BTreeSet::new();
        for spec in derived.specs {
            let frontend = spec.key();
            match self.claim(key, spec) {
                Ok(one) => {
                    planned.extend(one.filter(|one| !one.writes.is_empty()));
                    self.owners.insert(frontend, key.clone());
                    have.insert(frontend);
                }
                Err(why) => {
                    if had.contains(&frontend) {
                        // What it last was stays in force.
                        have.insert(frontend);
                    } else {
                        self.waiting.entry(frontend).or_default().insert(key.clone());
                    }
                    let field = field(key.kind, &why).into();
                    problems.push(Problem { object: key.clone(), field, why: why.to_string() });
                }
            }
        }
        let gone: Vec<Frontend> = had.difference(&have).copied().collect();
        for frontend in &gone {
            self.owners.remove(frontend);
            if let Some(id) = self.services.by_key(frontend).map(|service| service.id) {
                planned.extend(self.services.delete(id).ok());
            }
        }
        if !have.is_empty() {
            self.frontends.insert(key.clone(), have);
        }
        match problems.is_empty() {
            true => self.problems.remove(key),
            false => self.problems.insert(key.clone(), problems),
        };
        gone
    }

    fn claim(&mut self, key: &ObjectKey, spec: ServiceSpec) -> Result<Option<Planned>, Refusal> {
        let frontend = spec.key();
        let owner: Option<ServiceName> = match (self.owners.get(&frontend), self.services.by_key(&frontend)) {
            (Some(owner), _) if owner == key => None,
            (Some(owner), _) => Some(owner.name.clone()),
            (None, Some(service)) => Some(service.name.clone()),
            (None, None) => None,
        };
        match owner {
            Some(owner) => {
                let (name, frontend, owner) = (spec.name, spec.frontend, owner.to_string());
                Err(Refusal::FrontendOwned { name, frontend, owner: owner.into() })
            }
            None => self.services.put(spec).map(Some),
        }
    }
}

/// Where in an object what was refused stands.
const fn field(kind: ObjectKind, refusal: &Refusal) -> &'static str {
    if matches!(kind, ObjectKind::LocalRedirect) {
        return "spec.redirectFrontend.addressMatcher";
    }
    match refusal {
        Refusal::BackendPort { .. }
        | Refusal::BackendAddress { .. }
        | Refusal::BackendFamily { .. }
        | Refusal::BackendProtocol { .. }
        | Refusal::BackendTwice { .. }
        | Refusal::TooManyBackends { .. } => "endpoints",
        Refusal::SourceRange { .. } => "spec.loadBalancerSourceRanges",
        _ => "spec",
    }
}
