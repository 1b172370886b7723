//! Security identities: the number space and its reserved parts (reference: control plane, section 1).

use core::fmt;
use core::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::labels::{Label, Labels};

/// The number that stands for one set of identity-relevant labels.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NumericIdentity(u32);

/// Where an identity number is valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// In the whole cluster, reserved numbers included.
    Global,
    /// On this node only: CIDR and DNS-derived identities.
    Local,
    /// Remote nodes, when nodes have identities of their own.
    RemoteNode,
}

impl NumericIdentity {
    /// Not known.
    pub const UNKNOWN: Self = Self(0);
    /// The node itself.
    pub const HOST: Self = Self(1);
    /// Outside the cluster (single stack).
    pub const WORLD: Self = Self(2);
    /// In the cluster, but not managed.
    pub const UNMANAGED: Self = Self(3);
    /// The health endpoint.
    pub const HEALTH: Self = Self(4);
    /// An endpoint whose labels are not known yet.
    pub const INIT: Self = Self(5);
    /// Another node.
    pub const REMOTE_NODE: Self = Self(6);
    /// A Kubernetes API server.
    pub const KUBE_APISERVER: Self = Self(7);
    /// The ingress proxy.
    pub const INGRESS: Self = Self(8);
    /// Outside the cluster, IPv4, in dual stack.
    pub const WORLD_IPV4: Self = Self(9);
    /// Outside the cluster, IPv6, in dual stack.
    pub const WORLD_IPV6: Self = Self(10);

    /// First number allocatable in cluster 0.
    pub const MIN_ALLOCATED: Self = Self(256);
    /// Last number allocatable in cluster 0.
    pub const MAX_ALLOCATED: Self = Self(65_535);
    /// First node-local number.
    pub const MIN_LOCAL: Self = Self(0x0100_0001);
    /// Last node-local number.
    pub const MAX_LOCAL: Self = Self(0x01ff_ffff);

    /// Any number, as it was read from a map, a store or a packet.
    pub const fn new(number: u32) -> Self {
        Self(number)
    }
    /// The number.
    pub const fn as_u32(self) -> u32 {
        self.0
    }
    /// Where it is valid, or `None` for a scope byte nobody has defined.
    pub const fn scope(self) -> Option<Scope> {
        match self.0 >> 24 {
            0 => Some(Scope::Global),
            1 => Some(Scope::Local),
            2 => Some(Scope::RemoteNode),
            _ => None,
        }
    }
    /// Reserved numbers have a fixed meaning and are never allocated.
    pub const fn is_reserved(self) -> bool {
        self.0 != 0 && self.0 < 128
    }
    /// The labels of a reserved identity, or `None` where the number has none.
    pub fn reserved_labels(self) -> Option<Labels> {
        let names: &[&str] = match self.0 {
            7 => &["kube-apiserver", "remote-node"],
            _ => core::slice::from_ref(&RESERVED.iter().find(|(number, _)| *number == self.0)?.1),
        };
        Some(names.iter().map(|name| Label::reserved(name)).collect())
    }
    /// The identity of a reserved name (`host`, `world`, …).
    pub fn from_reserved_name(name: &str) -> Option<Self> {
        RESERVED.iter().find(|(_, known)| *known == name).map(|(number, _)| Self(*number))
    }
    /// All reserved identities that have a name.
    pub fn all_reserved() -> impl Iterator<Item = Self> {
        RESERVED.iter().map(|(number, _)| Self(*number))
    }
}

const RESERVED: &[(u32, &str)] = &[
    (0, "unknown"),
    (1, "host"),
    (2, "world"),
    (3, "unmanaged"),
    (4, "health"),
    (5, "init"),
    (6, "remote-node"),
    (7, "kube-apiserver"),
    (8, "ingress"),
    (9, "world-ipv4"),
    (10, "world-ipv6"),
];

impl fmt::Display for NumericIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}
impl fmt::Debug for NumericIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "identity {}", self.0)
    }
}

/// Why a text is no identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an identity is a number below 2^32 or the name of a reserved identity such as 'host' or 'world'")]
pub struct ParseIdentityError;

impl FromStr for NumericIdentity {
    type Err = ParseIdentityError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let name = text.strip_prefix("reserved:").unwrap_or(text);
        Self::from_reserved_name(name).or_else(|| text.parse().ok().map(Self)).ok_or(ParseIdentityError)
    }
}
