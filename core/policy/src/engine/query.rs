//! Reading the engine: verdicts, names of rules, the whole desired state.

use super::{Engine, NamedPort, Origin, terms::Term};
use crate::{
    delta::{ClassId, EndpointPolicy, EntryKey, EntryValue, MatchType, PolicyId, RuleCookie, Verdict, Write},
    rule::{Action, Direction, ObjectKey, PolicyObject},
};
use alloc::{format, string::String, sync::Arc, vec::Vec};
use core::net::IpAddr;
use types::{Cidr, EndpointId, Labels, NumericIdentity};

/// Which rule decided, by the names users know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RuleName {
    /// An entry of a rule of an object.
    Rule {
        /// The object.
        object: ObjectKey,
        /// `metadata.uid`.
        uid: String,
        /// Labels of the rule.
        labels: Labels,
        /// Path in the document: `spec.ingress[0]`.
        path: String,
    },
    /// The node may always reach its endpoints.
    LocalHost,
    /// No rule switches default deny on.
    NoDefaultDeny,
}

/// Sizes of the engine's tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stats {
    /// Policy objects.
    pub objects: usize,
    /// Identities.
    pub identities: usize,
    /// Prefixes.
    pub prefixes: usize,
    /// Terms in use.
    pub terms: usize,
    /// Classes.
    pub classes: usize,
    /// Policies in use.
    pub policies: usize,
    /// Policy-map entries.
    pub entries: usize,
}

impl Engine {
    /// The class of a peer: by its address if it is known, else by its identity.
    #[must_use]
    pub fn class_of(&self, identity: NumericIdentity, addr: Option<IpAddr>) -> ClassId {
        let by_address = addr.and_then(|a| self.facts.longest(a)).and_then(|state| state.class);
        by_address.or_else(|| self.facts.identities.get(&identity).map(|s| s.class)).unwrap_or(ClassId::UNKNOWN)
    }

    /// Identity and class the ipcache holds for an address.
    #[must_use]
    pub fn lookup_address(&self, addr: IpAddr) -> Option<(Cidr, NumericIdentity, ClassId)> {
        let state = self.facts.longest(addr)?;
        Some((state.cidr, state.identity, state.class?))
    }

    /// How an endpoint is judged.
    #[must_use]
    pub fn endpoint_policy(&self, id: EndpointId) -> Option<EndpointPolicy> {
        self.endpoints.get(&id).map(|e| e.policy)
    }

    /// The entry that decides, as the kernel's look-up finds it; `None`: refused, since no rule allows.
    #[must_use]
    pub fn lookup(
        &self,
        policy: PolicyId,
        class: ClassId,
        direction: Direction,
        protocol: u8,
        port: u16,
    ) -> Option<(EntryKey, EntryValue)> {
        let entries = self.tables.get(&(policy, class))?;
        let matching = entries.iter().filter(|((d, l4), _)| *d == direction && l4.contains(protocol, port));
        let ((_, l4), value) = matching.max_by_key(|((_, l4), _)| l4.bits)?;
        Some((EntryKey { policy, class, direction, l4: *l4 }, *value))
    }

    /// The verdict an endpoint's traffic gets; `None` of an endpoint that is not known. Audit mode is not applied.
    #[must_use]
    pub fn verdict(
        &self,
        endpoint: EndpointId,
        direction: Direction,
        class: ClassId,
        protocol: u8,
        port: u16,
    ) -> Option<EntryValue> {
        let judged = self.endpoint_policy(endpoint)?;
        let enforced = match direction {
            Direction::Ingress => judged.ingress,
            Direction::Egress => judged.egress,
        };
        let value = |verdict, matched| EntryValue { verdict, auth: None, matched, cookie: RuleCookie::NONE };
        if !enforced {
            return Some(value(Verdict::Allow, MatchType::All));
        }
        let found = self.lookup(judged.policy, class, direction, protocol, port);
        Some(found.map_or(value(Verdict::Deny, MatchType::None), |(_, value)| value))
    }

    /// The rules a cookie names. Empty for a cookie that is not known (any more).
    #[must_use]
    pub fn rules_of(&self, cookie: RuleCookie) -> Vec<RuleName> {
        let origins = self.cookies.origins(cookie).cloned().unwrap_or_default();
        origins.iter().filter_map(|origin| self.name_of(origin)).collect()
    }

    pub(crate) fn name_of(&self, origin: &Origin) -> Option<RuleName> {
        match origin {
            Origin::LocalHost => Some(RuleName::LocalHost),
            Origin::NoDefaultDeny => Some(RuleName::NoDefaultDeny),
            Origin::Rule(id, direction, action, index) => {
                let stored = self.rules.get(id)?;
                let deny = if *action == Action::Deny { "Deny" } else { "" };
                let place = stored.rule().place;
                Some(RuleName::Rule {
                    object: stored.object.key.clone(),
                    uid: stored.object.uid.clone().into(),
                    labels: stored.object.labels.clone(),
                    path: format!("{place}.{direction}{deny}[{index}]"),
                })
            }
        }
    }

    /// The objects held, in the order of their keys.
    pub fn objects(&self) -> impl Iterator<Item = &Arc<PolicyObject>> {
        self.objects.values().map(|s| &s.object)
    }

    /// The object of a key.
    #[must_use]
    pub fn object(&self, key: &ObjectKey) -> Option<&Arc<PolicyObject>> {
        self.objects.get(key).map(|s| &s.object)
    }

    /// The endpoints an object's rules select.
    #[must_use]
    pub fn endpoints_of(&self, key: &ObjectKey) -> Vec<EndpointId> {
        let Some(stored) = self.objects.get(key) else { return Vec::new() };
        let rules = &stored.object.rules;
        let selected = self.endpoints.iter().filter(|(_, e)| rules.iter().any(|r| super::selects(r, &e.facts)));
        selected.map(|(id, _)| *id).collect()
    }

    /// Whether an identity that is known matches the selector.
    #[must_use]
    pub fn matches_anyone(&self, selector: &types::selector::Selector) -> bool {
        !self.facts.matching(selector).is_empty() || self.endpoints.values().any(|e| selector.matches(&e.facts.labels))
    }

    /// The labels of an identity.
    #[must_use]
    pub fn labels_of(&self, id: NumericIdentity) -> Option<&Labels> {
        self.facts.identities.get(&id).map(|s| &s.labels)
    }

    /// The identities and prefixes of a class, for showing entries as users know them.
    #[must_use]
    pub fn members(&self, class: ClassId) -> (Vec<NumericIdentity>, Vec<Cidr>) {
        if !self.classes.exists(class) {
            return (Vec::new(), Vec::new());
        }
        let peers = self.classes.peers(class);
        let mut prefixes: Vec<Cidr> = peers.prefixes().map(|id| self.facts.prefixes.state(id).cidr).collect();
        prefixes.sort_unstable();
        (peers.identities().collect(), prefixes)
    }

    /// The selectors in use, as text, each with the identities it selects.
    #[must_use]
    pub fn selectors(&self) -> Vec<(String, Vec<NumericIdentity>)> {
        let used: alloc::collections::BTreeSet<_> =
            self.policies.by_id.values().flat_map(|p| p.content.by_term.keys().copied()).collect();
        used.into_iter()
            .filter_map(|id| match &**self.terms.term(id) {
                Term::Labels(selector) => {
                    let ids = self.facts.matching(selector).into_iter().map(NumericIdentity::new).collect();
                    Some((format!("{selector}"), ids))
                }
                Term::Cidrs(rules) => {
                    let texts: Vec<String> = rules.iter().map(|r| format!("cidr:{}", r.cidr)).collect();
                    let ids = rules.iter().flat_map(|r| self.facts.identities_inside(&r.cidr)).collect();
                    Some((texts.join(","), ids))
                }
                Term::NamedPort(_) => None,
            })
            .collect()
    }

    /// Entries of one policy, in the order of their keys.
    pub fn entries_of(&self, policy: PolicyId) -> impl Iterator<Item = (EntryKey, EntryValue)> + '_ {
        let range = (policy, ClassId(0))..=(policy, ClassId(u32::MAX));
        self.tables.range(range).flat_map(|(&(policy, class), entries)| {
            entries.iter().map(move |((direction, l4), value)| {
                (EntryKey { policy, class, direction: *direction, l4: *l4 }, *value)
            })
        })
    }

    /// Everything the maps must hold, as writes from nothing in a safe order: what a restarted agent reconciles with.
    #[must_use]
    pub fn desired(&self) -> Vec<Write> {
        let mut writes = Vec::new();
        for policy in self.policies.by_id.keys() {
            writes.extend(self.entries_of(*policy).map(|(key, value)| Write::PutEntry(key, value)));
        }
        writes.extend(self.facts.identities.iter().map(|(id, s)| Write::PutIdentity(*id, s.class)));
        let mut prefixes: Vec<_> = self.facts.prefixes.iter().collect();
        prefixes.sort_by_key(|s| core::cmp::Reverse(s.cidr.bits()));
        writes.extend(prefixes.into_iter().filter_map(|s| Some(Write::PutPrefix(s.cidr, s.identity, s.class?))));
        writes.extend(self.endpoints.iter().map(|(id, e)| Write::PutEndpoint(*id, e.policy)));
        writes
    }

    /// Prefixes rules in use name, for which a node-local identity is wanted.
    pub fn wanted_prefixes(&self) -> impl Iterator<Item = Cidr> + '_ {
        let wanted = self.facts.prefixes.iter().filter(|s| s.wanted > 0 && !s.cidr.is_default());
        wanted.map(|s| s.cidr)
    }

    /// Named ports of an endpoint, as it was told.
    #[must_use]
    pub fn named_ports(&self, id: EndpointId) -> &[NamedPort] {
        self.endpoints.get(&id).map_or(&[], |e| &e.facts.named_ports)
    }

    /// Named ports of the workload at an address, as was told.
    #[must_use]
    pub fn named_ports_at(&self, addr: IpAddr) -> &[NamedPort] {
        let told = self.facts.longest(addr).and_then(|state| state.told.as_ref());
        told.map_or(&[], |(_, ports)| ports)
    }

    /// Sizes of the tables.
    #[must_use]
    pub fn stats(&self) -> Stats {
        Stats {
            objects: self.objects.len(),
            identities: self.facts.identities.len(),
            prefixes: self.facts.prefixes.len(),
            terms: self.terms.len(),
            classes: self.classes.len(),
            policies: self.policies.by_id.len(),
            entries: self.tables.values().map(Vec::len).sum(),
        }
    }
}
