//! Names for Hubble: what the agent's tables say, as a snapshot that readers share.
//!
//! The drive loop replaces the snapshot when tables changed; whoever decodes events takes a reference. Neither waits for
//! the other for longer than a pointer is copied.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, PoisonError, RwLock};

use hubble_model::{EndpointInfo, Family, LabelList, Lookup, PolicyInfo, ServiceInfo};

use crate::cgroups::{Cgroups, Pods};

/// What is known, at one moment.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// Endpoints and the node's own addresses.
    pub endpoints: HashMap<IpAddr, Arc<EndpointInfo>>,
    /// Prefixes that are no endpoint's, by address and length.
    pub prefixes: BTreeMap<(IpAddr, u8), Arc<EndpointInfo>>,
    /// Identities' labels.
    pub identities: HashMap<u32, Arc<LabelList>>,
    /// Services by frontend and backend.
    pub services: HashMap<(IpAddr, u16), Arc<ServiceInfo>>,
    /// Policies behind the cookies of verdicts, for all endpoints alike.
    pub policies: HashMap<u32, Arc<[PolicyInfo]>>,
    /// Host-side devices of endpoints.
    pub interfaces: HashMap<u32, Arc<str>>,
    /// Addresses of endpoints by the uid of their pod, and by the id of its sandbox.
    pub pods: HashMap<Box<str>, Box<[IpAddr]>>,
}

/// Shared by the drive loop and all readers.
#[derive(Clone, Debug, Default)]
pub struct Names {
    snapshot: Arc<RwLock<Arc<Snapshot>>>,
    cgroups: Arc<Cgroups>,
}

impl Names {
    /// Puts a new snapshot in place of the old one.
    pub fn publish(&self, snapshot: Snapshot) {
        let old = {
            let mut current = self.snapshot.write().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *current, Arc::new(snapshot))
        };
        drop(old); // Freed outside the lock.
    }
    /// What is known now.
    pub fn current(&self) -> Arc<Snapshot> {
        self.snapshot.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
    /// Pods by their control groups.
    pub fn cgroups(&self) -> &Arc<Cgroups> {
        &self.cgroups
    }
}

impl Pods for Names {
    fn is_pod(&self, ip: IpAddr) -> bool {
        self.current().endpoints.get(&ip).is_some_and(|info| info.id != 0)
    }
    fn named(&self, name: &str) -> Option<Box<[IpAddr]>> {
        self.current().pods.get(name).cloned()
    }
}

impl Snapshot {
    /// The longest prefix around an address.
    fn covering(&self, ip: IpAddr) -> Option<&Arc<EndpointInfo>> {
        let longest = if ip.is_ipv4() { 32 } else { 128 };
        if self.prefixes.is_empty() {
            return None;
        }
        (0..=longest).rev().find_map(|bits| {
            let prefix = types::Cidr::containing(ip, bits).ok()?;
            self.prefixes.get(&(prefix.addr(), bits))
        })
    }
}

impl Lookup for Names {
    fn endpoint(&self, ip: IpAddr) -> Option<Arc<EndpointInfo>> {
        let known = self.current();
        known.endpoints.get(&ip).or_else(|| known.covering(ip)).cloned()
    }
    fn identity(&self, identity: u32) -> Option<Arc<LabelList>> {
        self.current().identities.get(&identity).cloned()
    }
    fn service(&self, ip: IpAddr, port: u16) -> Option<Arc<ServiceInfo>> {
        self.current().services.get(&(ip, port)).cloned()
    }
    fn policies(&self, _endpoint: u16, cookie: u32) -> Option<Arc<[PolicyInfo]>> {
        self.current().policies.get(&cookie).cloned()
    }
    fn interface(&self, ifindex: u32) -> Option<Arc<str>> {
        self.current().interfaces.get(&ifindex).cloned()
    }
    fn cgroup(&self, id: u64, family: Family) -> Option<IpAddr> {
        self.cgroups.address(id, family)
    }
    /// Searched for: only debug messages ask by id, and those are few.
    fn local(&self, endpoint: u16) -> Option<Arc<EndpointInfo>> {
        self.current().endpoints.values().find(|info| info.id == endpoint).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_wins_over_prefixes_and_a_longer_prefix_over_a_shorter() {
        let who = |identity| Arc::new(EndpointInfo { identity, ..EndpointInfo::default() });
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let names = Names::default();
        assert_eq!(names.endpoint(ip("10.0.0.1")), None);
        names.publish(Snapshot {
            endpoints: [(ip("10.0.0.1"), who(1))].into(),
            prefixes: [((ip("10.0.0.0"), 8), who(8)), ((ip("10.0.0.0"), 24), who(24)), ((ip("::"), 0), who(6))].into(),
            ..Snapshot::default()
        });
        for (address, want) in [("10.0.0.1", 1), ("10.0.0.2", 24), ("10.1.0.2", 8), ("2001:db8::1", 6)] {
            assert_eq!(names.endpoint(ip(address)).unwrap().identity, want, "{address}");
        }
        assert_eq!(names.endpoint(ip("192.0.2.1")), None);
        let own = Arc::new(EndpointInfo { id: 7, ..EndpointInfo::default() });
        names.publish(Snapshot { endpoints: [(ip("10.0.0.1"), own.clone())].into(), ..Snapshot::default() });
        assert_eq!((names.local(7), names.local(8)), (Some(own), None));
    }
}
