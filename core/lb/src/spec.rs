//! Services as they are asked for, one frontend each.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::fmt;

use serde::{Deserialize, Serialize};
use types::Cidr;

use crate::{L4Addr, ServiceId};

/// Whether a backend takes new connections (names and numbers of the reference), the best state first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BackendState {
    /// It does.
    #[default]
    Active,
    /// It finishes what it has. Where nobody is active, it also takes new connections.
    Terminating,
    /// Its health checks fail.
    Quarantined,
    /// It was taken out by hand.
    Maintenance,
}

impl BackendState {
    /// The number in the backend map.
    pub const fn number(self) -> u8 {
        match self {
            Self::Active => abi::lb::BACKEND_ACTIVE,
            Self::Terminating => abi::lb::BACKEND_TERMINATING,
            Self::Quarantined => abi::lb::BACKEND_QUARANTINED,
            Self::Maintenance => abi::lb::BACKEND_MAINTENANCE,
        }
    }
    /// Its name, as the API has it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Terminating => "terminating",
            Self::Quarantined => "quarantined",
            Self::Maintenance => "maintenance",
        }
    }
}

/// What a backend weighs unless somebody says otherwise.
pub const WEIGHT_DEFAULT: u16 = 100;

const fn weight_default() -> u16 {
    WEIGHT_DEFAULT
}

/// One backend of a service.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Backend {
    /// Where it listens.
    pub addr: L4Addr,
    /// Its state.
    #[serde(default)]
    pub state: BackendState,
    /// Its share of a Maglev table, against the others'. 0: it is in maintenance.
    #[serde(default = "weight_default")]
    pub weight: u16,
    /// Its node; empty: not known, which counts as this one.
    #[serde(default)]
    pub node_name: Box<str>,
    /// Its zone; empty: not known.
    #[serde(default)]
    pub zone: Box<str>,
}

impl Backend {
    /// An active backend of the default weight, of which nothing else is known.
    pub fn new(addr: L4Addr) -> Self {
        Self { addr, state: BackendState::Active, weight: WEIGHT_DEFAULT, node_name: "".into(), zone: "".into() }
    }
}

/// A service's name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub struct ServiceName {
    /// Namespace; empty: none.
    pub namespace: Box<str>,
    /// Name; empty: none.
    pub name: Box<str>,
}
impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// How clients reach a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub enum ServiceType {
    /// At an address of the cluster's own.
    #[default]
    #[serde(rename = "ClusterIP")]
    ClusterIp,
    /// At a port of every node.
    NodePort,
    /// At an address somebody leads to the nodes.
    #[serde(rename = "ExternalIPs")]
    ExternalIps,
    /// At a port of the one node the pod is on.
    HostPort,
    /// At a load balancer's address.
    LoadBalancer,
    /// At an address whose traffic stays on the node.
    LocalRedirect,
}

impl ServiceType {
    /// Its name, as the API has it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::ClusterIp => "ClusterIP",
            Self::NodePort => "NodePort",
            Self::ExternalIps => "ExternalIPs",
            Self::HostPort => "HostPort",
            Self::LoadBalancer => "LoadBalancer",
            Self::LocalRedirect => "LocalRedirect",
        }
    }
    /// Whether its frontend may be the wildcard that stands for every address of the node.
    pub const fn has_wildcard(self) -> bool {
        matches!(self, Self::NodePort | Self::HostPort)
    }
}
impl fmt::Display for ServiceType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Whose traffic an entry is for. There are two of one frontend where traffic from outside and from inside goes to
/// different backends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scope {
    /// From outside of the cluster, and everything else unless there is an entry for it.
    #[default]
    External,
    /// From inside.
    Internal,
}

/// Which backends traffic may go to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub enum TrafficPolicy {
    /// All.
    #[default]
    Cluster,
    /// Those on the node it arrives at.
    Local,
}

impl TrafficPolicy {
    /// Its name, as the API has it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Cluster => "Cluster",
            Self::Local => "Local",
        }
    }
}

/// How traffic from outside gets to a backend on another node, and back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Forwarding {
    /// Both ways through this node, which takes the client's place.
    Snat,
    /// The backend answers the client.
    Dsr,
}

/// A frontend's place in the tables: an address is one frontend for each scope.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Frontend {
    /// Where clients go.
    pub addr: L4Addr,
    /// Which clients.
    pub scope: Scope,
}
impl fmt::Display for Frontend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.addr.fmt(f)?;
        match self.scope {
            Scope::External => Ok(()),
            Scope::Internal => f.write_str("/i"),
        }
    }
}

/// What is said of a service besides who answers.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Attributes {
    /// How clients reach it.
    #[serde(default)]
    pub kind: ServiceType,
    /// Where traffic from outside may go.
    #[serde(default)]
    pub external_policy: TrafficPolicy,
    /// Where traffic from inside may go.
    #[serde(default)]
    pub internal_policy: TrafficPolicy,
    /// How long a client keeps its backend, in seconds since it was last seen; 0: a client is not remembered.
    #[serde(default)]
    pub affinity_seconds: u32,
    /// Who may come from outside; none: everybody.
    #[serde(default)]
    pub source_ranges: Vec<Cidr>,
    /// The port at which the node says whether it has a backend; 0: none.
    #[serde(default)]
    pub health_check_port: u16,
    /// How this service's traffic is forwarded; `None`: as the node's is.
    #[serde(default)]
    pub forwarding: Option<Forwarding>,
    /// Its host port is for the node itself (hostIP 127.0.0.1).
    #[serde(default)]
    pub loopback: bool,
}

/// A service as it is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceSpec {
    /// Its number; `None`: that of the service with this frontend, or else a free one.
    #[serde(default)]
    pub id: Option<ServiceId>,
    /// Where clients go.
    pub frontend: L4Addr,
    /// Which clients.
    #[serde(default)]
    pub scope: Scope,
    /// Who answers.
    #[serde(default)]
    pub backends: Vec<Backend>,
    /// What it is called.
    #[serde(default)]
    pub name: ServiceName,
    /// The rest.
    #[serde(flatten)]
    pub attributes: Attributes,
}

impl ServiceSpec {
    /// A ClusterIP service without a name.
    pub fn new(frontend: L4Addr, backends: Vec<Backend>) -> Self {
        Self {
            id: None,
            frontend,
            scope: Scope::External,
            backends,
            name: ServiceName::default(),
            attributes: Attributes::default(),
        }
    }
    /// Its frontend's place in the tables.
    pub const fn key(&self) -> Frontend {
        Frontend { addr: self.frontend, scope: self.scope }
    }
    /// Whether only backends on this node serve it.
    pub fn wants_local(&self) -> bool {
        let Attributes { kind, external_policy, internal_policy, .. } = self.attributes;
        match (kind, self.scope) {
            (ServiceType::LocalRedirect, _) => true,
            (ServiceType::ClusterIp, _) | (_, Scope::Internal) => internal_policy == TrafficPolicy::Local,
            (_, Scope::External) => external_policy == TrafficPolicy::Local,
        }
    }
}
