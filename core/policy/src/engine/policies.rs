//! Policies: the rules of a group of endpoints, compiled to filters by term.
//!
//! Endpoints with the same rules, enforcement and named ports share one policy.

use super::terms::{NamedPort, TermId};
use crate::{
    delta::{PolicyId, RedirectId},
    rule::{Action, AuthMode, Direction, PortRange},
};
use alloc::{
    boxed::Box,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    vec::Vec,
};
use types::EndpointId;

/// Number of a rule of a stored object. Never reused while the engine lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RuleId(pub(crate) u32);

/// Where a filter comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Origin {
    /// An entry of a rule: direction, allow or deny, and index in the document's list.
    Rule(RuleId, Direction, Action, u16),
    /// The node may always talk to its endpoints (`allow-localhost`).
    LocalHost,
    /// No rule of this direction switches default deny on, so everything not denied is allowed.
    NoDefaultDeny,
}

/// The ports of a filter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum FilterPorts {
    /// Protocol (0: all, with all ports) and range.
    Range(u8, PortRange),
    /// The port the peer has under this name.
    NamedOfPeer(types::Protocol, Box<str>),
}

/// One compiled statement about a peer and ports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Filter {
    pub(crate) direction: Direction,
    pub(crate) action: Action,
    pub(crate) ports: FilterPorts,
    pub(crate) redirect: Option<RedirectId>,
    /// Rules disagree about the parser: refused until that is corrected.
    pub(crate) conflict: bool,
    pub(crate) auth: Option<AuthMode>,
    pub(crate) origin: Origin,
}

impl Filter {
    pub(crate) fn rule(&self) -> Option<RuleId> {
        match self.origin {
            Origin::Rule(rule, ..) => Some(rule),
            Origin::LocalHost | Origin::NoDefaultDeny => None,
        }
    }
}

/// What decides whether two endpoints share a policy.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PolicyKey {
    pub(crate) rules: Vec<RuleId>,
    pub(crate) enforced: [bool; 2],
    pub(crate) open: [bool; 2],
    pub(crate) audit: bool,
    /// It is the node's own: nothing is added for traffic of the node with itself.
    pub(crate) host: bool,
    pub(crate) ports: Vec<NamedPort>,
}

impl PolicyKey {
    /// True if the two differ in rules only, so that one can become the other entry by entry.
    pub(crate) fn same_frame(&self, other: &Self) -> bool {
        self.enforced == other.enforced
            && self.open == other.open
            && self.audit == other.audit
            && self.host == other.host
            && self.ports == other.ports
    }
}

/// Requirements per direction and action.
pub(crate) type Requires = [[Vec<types::selector::Selector>; 2]; 2];

/// Filters, by the term they ask.
#[derive(Debug, Clone, Default)]
pub(crate) struct Content {
    pub(crate) anyone: Vec<Filter>,
    pub(crate) by_term: BTreeMap<TermId, Vec<Filter>>,
    /// Terms and port names each rule holds a reference to; `None` is the policy itself.
    pub(crate) held: BTreeMap<Option<RuleId>, Held>,
    /// What rules say of prefixes, and so which prefixes need not be asked about.
    pub(crate) statements: super::implied::Statements,
    /// Requirements ANDed to label selectors, per direction, of allow rules and of deny rules.
    pub(crate) requires: Requires,
}

/// References a rule holds in a policy.
#[derive(Debug, Clone, Default)]
pub(crate) struct Held {
    pub(crate) terms: Vec<TermId>,
    pub(crate) names: Vec<Box<str>>,
}

/// A policy in use.
#[derive(Debug, Clone)]
pub(crate) struct Policy {
    pub(crate) key: Arc<PolicyKey>,
    pub(crate) content: Content,
    pub(crate) endpoints: BTreeSet<EndpointId>,
}

/// All policies.
#[derive(Debug, Clone, Default)]
pub(crate) struct Policies {
    pub(crate) by_id: BTreeMap<PolicyId, Policy>,
    pub(crate) by_key: BTreeMap<Arc<PolicyKey>, PolicyId>,
    free: BTreeSet<u32>,
    next: u32,
}

impl Policies {
    pub(crate) fn create(&mut self, key: Arc<PolicyKey>) -> PolicyId {
        let number = self.free.pop_first().unwrap_or_else(|| {
            self.next += 1;
            self.next
        });
        let id = PolicyId(number);
        self.by_key.insert(key.clone(), id);
        self.by_id.insert(id, Policy { key, content: Content::default(), endpoints: BTreeSet::new() });
        id
    }

    pub(crate) fn rekey(&mut self, id: PolicyId, key: Arc<PolicyKey>) {
        let policy = self.get_mut(id);
        let old = core::mem::replace(&mut policy.key, key.clone());
        if self.by_key.get(&old) == Some(&id) {
            self.by_key.remove(&old);
        }
        self.by_key.insert(key, id);
    }

    pub(crate) fn remove(&mut self, id: PolicyId) -> Option<Policy> {
        let policy = self.by_id.remove(&id)?;
        if self.by_key.get(&policy.key) == Some(&id) {
            self.by_key.remove(&policy.key);
        }
        self.free.insert(id.as_u32());
        Some(policy)
    }

    pub(crate) fn get(&self, id: PolicyId) -> &Policy {
        self.by_id.get(&id).expect("a policy id is only held while the policy exists")
    }

    pub(crate) fn get_mut(&mut self, id: PolicyId) -> &mut Policy {
        self.by_id.get_mut(&id).expect("a policy id is only held while the policy exists")
    }
}
