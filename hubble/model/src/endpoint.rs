//! What is known about the ends of a flow, shared between all flows that have the end.

use alloc::{boxed::Box, string::String, sync::Arc, vec::Vec};
use core::net::IpAddr;
use hubble_api::flow;

/// What the agent knows and a packet does not say. Called for every event: answers should be shared, not built.
pub trait Lookup {
    /// Who has an address: an endpoint of this node, else what the ipcache holds.
    fn endpoint(&self, ip: IpAddr) -> Option<Arc<EndpointInfo>>;
    /// The labels of an identity.
    fn identity(&self, identity: u32) -> Option<Arc<LabelList>>;
    /// The service behind a frontend or backend address.
    fn service(&self, ip: IpAddr, port: u16) -> Option<Arc<ServiceInfo>>;
    /// The policies behind a rule cookie of a verdict or drop at an endpoint of this node.
    fn policies(&self, endpoint: u16, cookie: u32) -> Option<Arc<[PolicyInfo]>>;
    /// The name of an interface.
    fn interface(&self, ifindex: u32) -> Option<Arc<str>> {
        let _ = ifindex;
        None
    }
    /// The DNS names under which an endpoint of this node learned an address.
    fn names(&self, endpoint: u16, ip: IpAddr) -> Option<Arc<[Box<str>]>> {
        let _ = (endpoint, ip);
        None
    }
    /// An endpoint of this node by its id.
    fn local(&self, endpoint: u16) -> Option<Arc<EndpointInfo>> {
        let _ = endpoint;
        None
    }
    /// The address of the pod a control group belongs to.
    fn cgroup(&self, id: u64, family: Family) -> Option<IpAddr> {
        let _ = (id, family);
        None
    }
}

/// A family of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// Labels as flows carry them: `source:key=value`, sorted; of an address's labels the longest prefix alone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LabelList(Box<[String]>);

impl LabelList {
    /// Sorts the labels and leaves out all `cidr:` labels but the one with the longest prefix.
    pub fn new(labels: impl IntoIterator<Item = String>) -> Self {
        let mut all: Vec<String> = labels.into_iter().collect();
        let prefix = |label: &String| -> Option<u8> {
            label.strip_prefix("cidr:")?.trim_end_matches('=').rsplit_once('/')?.1.parse().ok()
        };
        if let Some(longest) = all.iter().filter_map(prefix).max() {
            all.retain(|label| prefix(label).is_none_or(|bits| bits == longest));
        }
        all.sort_unstable();
        Self(all.into())
    }

    /// The labels in order.
    pub fn as_slice(&self) -> &[String] {
        &self.0
    }

    /// The value of a label, whatever its source.
    fn value(&self, key: &str) -> Option<&str> {
        self.0.iter().find_map(|label| label.split_once(':')?.1.strip_prefix(key)?.strip_prefix('='))
    }

    /// The cluster the labelled workload belongs to.
    pub fn cluster(&self) -> Option<&str> {
        self.value("io.cilium.k8s.policy.cluster")
    }
}

/// The object that made a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkloadInfo {
    /// `Deployment`, `DaemonSet` and so on.
    pub kind: Box<str>,
    /// Its name.
    pub name: Box<str>,
}

/// One end of a flow, as the agent knows it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EndpointInfo {
    /// Endpoint id on this node; 0 for the ends of other nodes and of the world.
    pub id: u16,
    /// Security identity.
    pub identity: u32,
    /// Cluster of the pod; empty for the world.
    pub cluster_name: Box<str>,
    /// Namespace of the pod; empty when it is none.
    pub namespace: Box<str>,
    /// Name of the pod; empty when it is none.
    pub pod_name: Box<str>,
    /// What made the pod.
    pub workloads: Box<[WorkloadInfo]>,
    /// Labels of the identity.
    pub labels: Arc<LabelList>,
}

/// A service by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceInfo {
    /// Its namespace; may be empty.
    pub namespace: Box<str>,
    /// Its name.
    pub name: Box<str>,
}

/// A policy that decided a verdict.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PolicyInfo {
    /// Name of the policy object.
    pub name: Box<str>,
    /// Namespace of the object; empty for cluster-wide ones.
    pub namespace: Box<str>,
    /// `CiliumNetworkPolicy`, `CiliumClusterwideNetworkPolicy`, `NetworkPolicy`.
    pub kind: Box<str>,
    /// Labels of the rule.
    pub labels: Box<[String]>,
    /// Revision of the policy repository the verdict was given under.
    pub revision: u64,
}

impl From<&PolicyInfo> for flow::Policy {
    fn from(info: &PolicyInfo) -> Self {
        Self {
            name: info.name.as_ref().into(),
            namespace: info.namespace.as_ref().into(),
            labels: info.labels.to_vec(),
            revision: info.revision,
            kind: info.kind.as_ref().into(),
        }
    }
}

impl From<&ServiceInfo> for flow::Service {
    fn from(info: &ServiceInfo) -> Self {
        Self { name: info.name.as_ref().into(), namespace: info.namespace.as_ref().into() }
    }
}

/// The observing node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeInfo {
    /// As flows name it: `cluster/node`.
    pub name: String,
    /// Labels of the node, `key=value`.
    pub labels: Vec<String>,
}

impl<L: Lookup + ?Sized> Lookup for &L {
    fn endpoint(&self, ip: IpAddr) -> Option<Arc<EndpointInfo>> {
        (**self).endpoint(ip)
    }
    fn identity(&self, identity: u32) -> Option<Arc<LabelList>> {
        (**self).identity(identity)
    }
    fn service(&self, ip: IpAddr, port: u16) -> Option<Arc<ServiceInfo>> {
        (**self).service(ip, port)
    }
    fn policies(&self, endpoint: u16, cookie: u32) -> Option<Arc<[PolicyInfo]>> {
        (**self).policies(endpoint, cookie)
    }
    fn interface(&self, ifindex: u32) -> Option<Arc<str>> {
        (**self).interface(ifindex)
    }
    fn names(&self, endpoint: u16, ip: IpAddr) -> Option<Arc<[Box<str>]>> {
        (**self).names(endpoint, ip)
    }
    fn local(&self, endpoint: u16) -> Option<Arc<EndpointInfo>> {
        (**self).local(endpoint)
    }
    fn cgroup(&self, id: u64, family: Family) -> Option<IpAddr> {
        (**self).cgroup(id, family)
    }
}
