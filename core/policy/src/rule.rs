//! Parsed rules: what a policy document means, with names and paths kept and all defaults made explicit.
//!
//! Why: three kinds of object (CiliumNetworkPolicy, CiliumClusterwideNetworkPolicy, NetworkPolicy) and raw rules say
//! the same few things in different words. Here they are one shape: a subject, and for each direction a list of
//! [`PeerRule`]s. Namespace scoping has already been applied.
//!
//! Invariant: a value of these types came through validation; the engine needs to check nothing again.
//!
//! Never: depends on the state of a cluster. Entities, named ports, DNS names, CIDR groups and services stay names here.

pub mod icmp;
pub mod l7;
pub mod port;

use alloc::{boxed::Box, string::String, sync::Arc, vec::Vec};
use core::fmt;
use types::{Cidr, Labels, Protocol, selector::Selector};

pub use icmp::IcmpFamily;
pub use l7::{HttpRule, L7Parser, L7Rules};
pub use port::{PortPrefix, PortRange};

/// Which way traffic goes, seen from the endpoint a policy is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Direction {
    /// Towards the endpoint.
    Ingress = 0,
    /// From the endpoint.
    Egress = 1,
}

impl Direction {
    /// Both.
    pub const BOTH: [Self; 2] = [Self::Ingress, Self::Egress];
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        })
    }
}

/// Kind of a policy object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ObjectKind {
    /// `cilium.io/v2` CiliumNetworkPolicy.
    CiliumNetworkPolicy,
    /// `cilium.io/v2` CiliumClusterwideNetworkPolicy.
    CiliumClusterwideNetworkPolicy,
    /// `networking.k8s.io/v1` NetworkPolicy.
    NetworkPolicy,
    /// Bare rules, as the agent's REST API takes them.
    Rules,
}

impl ObjectKind {
    /// The name of the kind as it is written in documents.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::CiliumNetworkPolicy => "CiliumNetworkPolicy",
            Self::CiliumClusterwideNetworkPolicy => "CiliumClusterwideNetworkPolicy",
            Self::NetworkPolicy => "NetworkPolicy",
            Self::Rules => "Rules",
        }
    }
}

impl fmt::Display for ObjectKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What a policy object is known by. A later object with the same key replaces the earlier one.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKey {
    /// Its kind.
    pub kind: ObjectKind,
    /// Its namespace; empty for objects of the whole cluster.
    pub namespace: Box<str>,
    /// Its name.
    pub name: Box<str>,
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let slash = if self.namespace.is_empty() { "" } else { "/" };
        write!(f, "{} {}{slash}{}", self.kind, self.namespace, self.name)
    }
}

impl fmt::Debug for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// One policy object, valid and complete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyObject {
    /// What it is known by.
    pub key: ObjectKey,
    /// `metadata.uid`, empty if the document has none.
    pub uid: Box<str>,
    /// The labels rules of this object are reported with (`k8s:io.cilium.k8s.policy.name=…`, and its own).
    pub labels: Labels,
    /// Its rules, in order.
    pub rules: Vec<Rule>,
    /// What the document asks for that this software does not enforce (yet). Never empty silently.
    pub notices: Vec<Notice>,
}

/// Something a document asks for that is understood, but not enforced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// Path in the document, such as `spec.ingress[0].authentication`.
    pub path: String,
    /// What happens instead.
    pub what: &'static str,
}

/// Whom a rule is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// Endpoints with these labels.
    Endpoints(Selector),
    /// Nodes with these labels: the host endpoint.
    Nodes(Selector),
}

/// One rule: a subject and what it may and may not do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Where it stands in the object.
    pub place: Place,
    /// Whom it is about.
    pub subject: Subject,
    /// Allow and deny rules of ingress, in document order, allow before deny.
    pub ingress: Vec<PeerRule>,
    /// Allow and deny rules of egress.
    pub egress: Vec<PeerRule>,
    /// Whether it takes part in ingress at all, and if so, whether it switches default deny on.
    pub ingress_default_deny: Option<bool>,
    /// The same for egress.
    pub egress_default_deny: Option<bool>,
    /// `description`, if any.
    pub description: Box<str>,
}

impl Rule {
    /// The peer rules of one direction.
    #[must_use]
    pub fn peer_rules(&self, direction: Direction) -> &[PeerRule] {
        match direction {
            Direction::Ingress => &self.ingress,
            Direction::Egress => &self.egress,
        }
    }

    /// Whether this rule takes part in a direction, and if so, whether it switches default deny on there.
    #[must_use]
    pub const fn default_deny(&self, direction: Direction) -> Option<bool> {
        match direction {
            Direction::Ingress => self.ingress_default_deny,
            Direction::Egress => self.egress_default_deny,
        }
    }
}

/// Where a rule stands in its document.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Place {
    /// `spec`.
    Spec,
    /// `specs[n]`.
    Specs(u16),
    /// The n-th of a bare list.
    Item(u16),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Spec => f.write_str("spec"),
            Self::Specs(n) => write!(f, "specs[{n}]"),
            Self::Item(n) => write!(f, "[{n}]"),
        }
    }
}

/// Whether a peer rule allows or denies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Action {
    /// Lets through what matches.
    Allow,
    /// Refuses what matches, whatever else allows it.
    Deny,
}

/// One entry of `ingress`, `ingressDeny`, `egress` or `egressDeny`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerRule {
    /// Allow or deny.
    pub action: Action,
    /// Index in its list of the document.
    pub index: u16,
    /// Who is on the other side.
    pub peers: Peers,
    /// Which ports.
    pub ports: Ports,
    /// `fromRequires`/`toRequires`: what every label selector of the subject's rules must also match.
    pub requires: Vec<Selector>,
    /// `authentication.mode`.
    pub auth: Option<AuthMode>,
}

/// Who a peer rule is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Peers {
    /// No member says so: everyone, if ports are named; otherwise nobody.
    Unstated,
    /// The union of these. Empty (a member is there, but empty): nobody.
    Listed(Vec<Peer>),
}

/// One peer of a rule.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Peer {
    /// Identities with these labels.
    Labels(Selector),
    /// A well-known group.
    Entity(Entity),
    /// Addresses.
    Cidr(CidrRule),
    /// The members of a CiliumCIDRGroup, less exceptions.
    CidrGroup {
        /// Name of the group.
        name: Box<str>,
        /// Prefixes taken out.
        except: Vec<Cidr>,
    },
    /// Addresses learned for DNS names that match this name or pattern, as it is written in the rule.
    Fqdn(Box<str>),
    /// Backends of a service without selector.
    Service(ServicePeer),
    /// Nodes with these labels.
    Nodes(Selector),
}

/// A prefix, less exceptions.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CidrRule {
    /// What is meant.
    pub cidr: Cidr,
    /// What is taken out, sorted.
    pub except: Vec<Cidr>,
    /// Whose addresses it speaks of.
    pub scope: CidrScope,
}

impl CidrRule {
    /// True if `inner` is meant, apart from exceptions that are inside it.
    #[must_use]
    pub fn covers(&self, inner: &Cidr) -> bool {
        self.cidr.covers(inner) && !self.except.iter().any(|e| e.covers(inner))
    }

    /// True if every address of `inner` is meant.
    #[must_use]
    pub fn covers_wholly(&self, inner: &Cidr) -> bool {
        self.covers(inner) && !self.except.iter().any(|e| inner.covers(e))
    }

    /// The fewest prefixes that together hold what is meant, in ascending order. The engine does not need them (its
    /// ipcache knows exceptions); they are for showing.
    #[must_use]
    pub fn remaining(&self) -> Vec<Cidr> {
        let mut left = Vec::new();
        let mut open = alloc::vec![self.cidr];
        while let Some(prefix) = open.pop() {
            if self.except.iter().any(|e| e.covers(&prefix)) {
                continue;
            }
            match prefix.halves() {
                Some((low, high)) if self.except.iter().any(|e| prefix.covers(e)) => open.extend([high, low]),
                _ => left.push(prefix),
            }
        }
        left
    }
}

/// Whose addresses a CIDR rule speaks of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CidrScope {
    /// Only of what is outside the cluster: Cilium's meaning.
    World,
    /// Of every address, pods and nodes included: Kubernetes' meaning of `ipBlock`.
    Everyone,
}

/// `toServices`: by name or by labels.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ServicePeer {
    /// One service; an empty namespace means any.
    Named {
        /// Its namespace.
        namespace: Box<str>,
        /// Its name.
        name: Box<str>,
    },
    /// Services with these labels; an empty namespace means any.
    Labelled {
        /// Their namespace.
        namespace: Box<str>,
        /// Their labels.
        selector: Selector,
    },
}

/// `authentication.mode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum AuthMode {
    /// Explicitly none.
    Disabled = 0,
    /// Mutual authentication.
    Required = 1,
    /// For tests.
    AlwaysFail = 255,
}

/// Well-known peers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Entity {
    /// Everything.
    All,
    /// Everything outside the cluster.
    World,
    /// IPv4 outside, in dual stack.
    WorldIpv4,
    /// IPv6 outside, in dual stack.
    WorldIpv6,
    /// Everything of this cluster.
    Cluster,
    /// This node.
    Host,
    /// Endpoints without labels yet.
    Init,
    /// The ingress proxy.
    Ingress,
    /// Endpoints not managed by this software.
    Unmanaged,
    /// Other nodes.
    RemoteNode,
    /// Health endpoints.
    Health,
    /// Nobody.
    None,
    /// API servers of Kubernetes.
    KubeApiserver,
}

impl Entity {
    /// All, in the order the CRD lists them, then those only the engine knows.
    pub const ALL: [Self; 13] = [
        Self::All,
        Self::World,
        Self::Cluster,
        Self::Host,
        Self::Init,
        Self::Ingress,
        Self::Unmanaged,
        Self::RemoteNode,
        Self::Health,
        Self::None,
        Self::KubeApiserver,
        Self::WorldIpv4,
        Self::WorldIpv6,
    ];

    /// Its name in documents, which is also the name of its reserved label, except for `all` and `cluster`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::World => "world",
            Self::WorldIpv4 => "world-ipv4",
            Self::WorldIpv6 => "world-ipv6",
            Self::Cluster => "cluster",
            Self::Host => "host",
            Self::Init => "init",
            Self::Ingress => "ingress",
            Self::Unmanaged => "unmanaged",
            Self::RemoteNode => "remote-node",
            Self::Health => "health",
            Self::None => "none",
            Self::KubeApiserver => "kube-apiserver",
        }
    }

    /// The entity of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|e| e.name() == name)
    }
}

/// Which ports a peer rule is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ports {
    /// No ports are named: every protocol and port.
    All,
    /// The union of these; empty: none.
    Listed(Vec<PortRule>),
}

/// Ports that share L7 rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortRule {
    /// The ports.
    pub ports: Vec<PortMatch>,
    /// What is checked inside the connection.
    pub l7: Option<Arc<L7Rules>>,
}

/// One protocol and its ports. `ANY` has been expanded.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortMatch {
    /// The protocol.
    pub protocol: Protocol,
    /// The ports.
    pub port: PortSpec,
}

/// The ports of a [`PortMatch`].
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PortSpec {
    /// Numbers, or ICMP types.
    Range(PortRange),
    /// The port the peer (egress) or the subject (ingress) has under this name.
    Named(Box<str>),
}
