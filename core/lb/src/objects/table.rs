//! All objects of a node's load balancing, its own pods, and whose frontends a change of one touches.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;

use types::EndpointId;

use super::{EndpointSlice, Object, ObjectKey, ObjectKind, Pod, Service};
use crate::ServiceName;
use crate::redirect::{LocalPod, LocalRedirect};

/// All objects.
#[derive(Debug, Clone, Default)]
pub struct Objects {
    services: BTreeMap<ServiceName, Service>,
    slices: BTreeMap<ServiceName, EndpointSlice>,
    slices_of: BTreeMap<ServiceName, BTreeSet<ServiceName>>,
    pods: BTreeMap<ServiceName, Pod>,
    redirects: BTreeMap<ServiceName, LocalRedirect>,
    redirects_of: BTreeMap<ServiceName, BTreeSet<ServiceName>>,
    /// Pods that run here, by endpoint.
    local: BTreeMap<EndpointId, LocalPod>,
}

fn of_kind(kind: ObjectKind, name: &ServiceName) -> ObjectKey {
    ObjectKey { kind, name: name.clone() }
}

impl Objects {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.services.len() + self.slices.len() + self.pods.len() + self.redirects.len()
    }
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Whether an object is there.
    pub fn contains(&self, key: &ObjectKey) -> bool {
        match key.kind {
            ObjectKind::Service => self.services.contains_key(&key.name),
            ObjectKind::EndpointSlice => self.slices.contains_key(&key.name),
            ObjectKind::Pod => self.pods.contains_key(&key.name),
            ObjectKind::LocalRedirect => self.redirects.contains_key(&key.name),
        }
    }
    /// A service.
    pub fn service(&self, name: &ServiceName) -> Option<&Service> {
        self.services.get(name)
    }
    /// A pod.
    pub fn pod(&self, name: &ServiceName) -> Option<&Pod> {
        self.pods.get(name)
    }
    /// A service's slices, by name.
    pub fn slices(&self, service: &ServiceName) -> impl Iterator<Item = (&ServiceName, &EndpointSlice)> {
        self.slices_of.get(service).into_iter().flatten().filter_map(|name| self.slices.get_key_value(name))
    }
    /// A policy that keeps traffic on the node.
    pub fn redirect(&self, name: &ServiceName) -> Option<&LocalRedirect> {
        self.redirects.get(name)
    }
    /// All of them.
    pub fn redirects(&self) -> impl Iterator<Item = &LocalRedirect> {
        self.redirects.values()
    }
    /// The policy that redirects a service: of several the oldest, and of those the first by name.
    pub fn redirect_of(&self, service: &ServiceName) -> Option<&LocalRedirect> {
        let named = self.redirects_of.get(service)?.iter().filter_map(|name| self.redirects.get(name));
        named.min_by_key(|policy| policy.metadata.age())
    }
    /// The pods of this node to which a policy's traffic may go.
    pub fn selected(&self, policy: &LocalRedirect) -> impl Iterator<Item = &LocalPod> {
        self.local.values().filter(|pod| policy.selects(pod))
    }

    /// Takes an object up in place of what has its name; says whose frontends may change.
    pub(crate) fn put(&mut self, object: Object) -> Vec<ObjectKey> {
        let key = object.key();
        match object {
            Object::Service(service) => {
                self.services.insert(key.name.clone(), *service);
                self.around(&key.name)
            }
            Object::Pod(pod) => {
                self.pods.insert(key.name.clone(), *pod);
                [key].into()
            }
            Object::EndpointSlice(slice) => {
                let mut touched = self.unlink(&key.name);
                if let Some(owner) = slice.service() {
                    self.slices_of.entry(owner.clone()).or_default().insert(key.name.clone());
                    touched.push(ObjectKey { kind: ObjectKind::Service, name: owner });
                }
                self.slices.insert(key.name, *slice);
                touched
            }
            Object::LocalRedirect(policy) => {
                let mut touched = self.drop_redirect(&key.name);
                let service = policy.service().cloned();
                self.redirects.insert(key.name.clone(), *policy);
                if let Some(service) = service {
                    self.redirects_of.entry(service.clone()).or_default().insert(key.name.clone());
                    touched.extend(self.around(&service));
                }
                touched.push(key);
                touched
            }
        }
    }

    /// Lets an object go; says whose frontends may change.
    pub(crate) fn remove(&mut self, key: &ObjectKey) -> Vec<ObjectKey> {
        match key.kind {
            ObjectKind::Service => self.services.remove(&key.name).map(|_| self.around(&key.name)).unwrap_or_default(),
            ObjectKind::Pod => self.pods.remove(&key.name).map(|_| key.clone()).into_iter().collect(),
            ObjectKind::EndpointSlice => {
                let touched = self.unlink(&key.name);
                self.slices.remove(&key.name);
                touched
            }
            ObjectKind::LocalRedirect => self.drop_redirect(&key.name),
        }
    }

    /// A pod of this node came, changed or went (`None`); says whose frontends may change.
    pub(crate) fn set_local(&mut self, endpoint: EndpointId, pod: Option<LocalPod>) -> Vec<ObjectKey> {
        let before = match pod.clone() {
            Some(pod) => self.local.insert(endpoint, pod),
            None => self.local.remove(&endpoint),
        };
        if before == pod {
            return Vec::new();
        }
        let pods = [before, pod];
        let concerned =
            self.redirects.iter().filter(|(_, policy)| pods.iter().flatten().any(|pod| policy.selects(pod)));
        concerned
            .flat_map(|(name, policy)| {
                let service = policy.service().map(|service| of_kind(ObjectKind::Service, service));
                [of_kind(ObjectKind::LocalRedirect, name)].into_iter().chain(service)
            })
            .collect()
    }

    /// A service and the policies that redirect it.
    fn around(&self, service: &ServiceName) -> Vec<ObjectKey> {
        let policies = self.redirects_of.get(service).into_iter().flatten();
        let policies = policies.map(|name| of_kind(ObjectKind::LocalRedirect, name));
        [of_kind(ObjectKind::Service, service)].into_iter().chain(policies).collect()
    }

    fn drop_redirect(&mut self, name: &ServiceName) -> Vec<ObjectKey> {
        let Some(policy) = self.redirects.remove(name) else { return Vec::new() };
        let mut touched = Vec::from([of_kind(ObjectKind::LocalRedirect, name)]);
        if let Some(service) = policy.service() {
            if let Some(policies) = self.redirects_of.get_mut(service) {
                policies.remove(name);
                if policies.is_empty() {
                    self.redirects_of.remove(service);
                }
            }
            touched.extend(self.around(service));
        }
        touched
    }

    fn unlink(&mut self, slice: &ServiceName) -> Vec<ObjectKey> {
        let Some(owner) = self.slices.get(slice).and_then(EndpointSlice::service) else { return Vec::new() };
        if let Some(slices) = self.slices_of.get_mut(&owner) {
            slices.remove(slice);
            if slices.is_empty() {
                self.slices_of.remove(&owner);
            }
        }
        [ObjectKey { kind: ObjectKind::Service, name: owner }].into()
    }
}
