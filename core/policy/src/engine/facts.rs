//! Facts about peers: identities with their labels, prefixes with their identities.
//!
//! A prefix is here because someone said whose it is (`told`), or because a rule in use names it (`wanted`: a cut). A
//! cut nobody has told about has the identity of the longest told prefix around it.

use super::terms::{NamedPort, TermId, Terms};
use crate::{delta::ClassId, rule::CidrScope};
use alloc::{
    boxed::Box,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    vec::Vec,
};
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use roaring::RoaringBitmap;
use types::{
    Cidr, Labels, NumericIdentity,
    labels::CIDR,
    selector::{Demand, Selector},
};

/// An identity.
#[derive(Debug, Clone)]
pub(crate) struct IdentityState {
    pub(crate) labels: Labels,
    /// Label terms it answers with yes, sorted.
    pub(crate) answers: Vec<TermId>,
    /// The prefix it stands for where CIDR rules are concerned.
    pub(crate) address: Option<Cidr>,
    pub(crate) class: ClassId,
}

/// A prefix.
#[derive(Debug, Clone)]
pub(crate) struct PrefixState {
    /// What was said of it.
    pub(crate) told: Option<(NumericIdentity, Arc<[NamedPort]>)>,
    /// How many terms in use name it.
    pub(crate) wanted: u32,
    /// Its identity, told or inherited.
    pub(crate) identity: NumericIdentity,
    /// Its class; `None` until it is written.
    pub(crate) class: Option<ClassId>,
}

/// All facts about peers.
#[derive(Debug, Clone, Default)]
pub(crate) struct Facts {
    pub(crate) identities: BTreeMap<NumericIdentity, IdentityState>,
    pub(crate) prefixes: BTreeMap<Cidr, PrefixState>,
    /// Prefixes by identity, told or inherited.
    pub(crate) prefixes_of: BTreeMap<NumericIdentity, BTreeSet<Cidr>>,
    /// Identities by the prefix they stand for.
    pub(crate) identities_at: BTreeMap<Cidr, BTreeSet<NumericIdentity>>,
    /// Prefixes by a port name of theirs.
    pub(crate) prefixes_with_port: BTreeMap<Box<str>, BTreeSet<Cidr>>,
    by_label: BTreeMap<(Box<str>, Box<str>), RoaringBitmap>,
    by_key: BTreeMap<Box<str>, RoaringBitmap>,
    all: RoaringBitmap,
}

impl Facts {
    pub(crate) fn post(&mut self, id: NumericIdentity, labels: &Labels) {
        let bit = id.as_u32();
        self.all.insert(bit);
        for label in labels {
            self.by_label.entry((label.key().into(), label.value().into())).or_default().insert(bit);
            self.by_key.entry(label.key().into()).or_default().insert(bit);
        }
    }

    pub(crate) fn unpost(&mut self, id: NumericIdentity, labels: &Labels) {
        let bit = id.as_u32();
        self.all.remove(bit);
        for label in labels {
            let place = (Box::from(label.key()), Box::from(label.value()));
            if let Some(ids) = self.by_label.get_mut(&place) {
                ids.remove(bit);
                if ids.is_empty() {
                    self.by_label.remove(&place);
                }
            }
            if let Some(ids) = self.by_key.get_mut(&place.0) {
                ids.remove(bit);
                if ids.is_empty() {
                    self.by_key.remove(&place.0);
                }
            }
        }
    }

    /// The identities a selector matches, by intersecting what is known of each label it demands.
    pub(crate) fn matching(&self, selector: &Selector) -> Vec<NumericIdentity> {
        let mut narrowed: Option<RoaringBitmap> = None;
        for requirement in selector.requirements() {
            if &*requirement.key.source == CIDR {
                continue;
            }
            let key = &requirement.key.key;
            let set = match &requirement.demand {
                Demand::In(values) => {
                    let mut set = RoaringBitmap::new();
                    for value in values {
                        if let Some(ids) = self.by_label.get(&(key.clone(), value.clone())) {
                            set |= ids;
                        }
                    }
                    set
                }
                Demand::Exists => self.by_key.get(key).cloned().unwrap_or_default(),
                Demand::NotIn(_) | Demand::Absent => continue,
            };
            match &mut narrowed {
                Some(have) => *have &= set,
                None => narrowed = Some(set),
            }
        }
        let candidates = narrowed.as_ref().unwrap_or(&self.all);
        let ids = candidates.iter().map(NumericIdentity::new);
        ids.filter(|id| self.identities.get(id).is_some_and(|s| selector.matches(&s.labels))).collect()
    }

    /// The told identity of the longest prefix around `prefix`, itself excluded.
    pub(crate) fn inherited(&self, prefix: &Cidr) -> NumericIdentity {
        let mut outer = prefix.parent();
        while let Some(at) = outer {
            if let Some((identity, _)) = self.prefixes.get(&at).and_then(|s| s.told.as_ref()) {
                return *identity;
            }
            outer = at.parent();
        }
        NumericIdentity::UNKNOWN
    }

    /// The prefixes inside `outer`, itself included.
    pub(crate) fn inside(&self, outer: &Cidr) -> impl Iterator<Item = (&Cidr, &PrefixState)> {
        self.prefixes.range(bounds(outer)).filter(|(p, _)| outer.covers(p))
    }

    /// The identities that stand for prefixes inside `outer`.
    pub(crate) fn identities_inside(&self, outer: &Cidr) -> impl Iterator<Item = NumericIdentity> {
        let inside = self.identities_at.range(bounds(outer)).filter(|(p, _)| outer.covers(p));
        inside.flat_map(|(_, ids)| ids.iter().copied())
    }

    /// The longest prefix an address lies in.
    pub(crate) fn longest(&self, addr: IpAddr) -> Option<(&Cidr, &PrefixState)> {
        let mut at = Some(Cidr::host(addr));
        while let Some(prefix) = at {
            if let Some(found) = self.prefixes.get_key_value(&prefix) {
                return Some(found);
            }
            at = prefix.parent();
        }
        None
    }

    /// Sets the identity of a prefix and keeps the index.
    pub(crate) fn set_identity(&mut self, prefix: Cidr, identity: NumericIdentity) {
        let Some(state) = self.prefixes.get_mut(&prefix) else { return };
        let old = core::mem::replace(&mut state.identity, identity);
        if old != identity {
            self.drop_prefix_of(old, &prefix);
        }
        self.prefixes_of.entry(identity).or_default().insert(prefix);
    }

    pub(crate) fn drop_prefix_of(&mut self, identity: NumericIdentity, prefix: &Cidr) {
        if let Some(set) = self.prefixes_of.get_mut(&identity) {
            set.remove(prefix);
            if set.is_empty() {
                self.prefixes_of.remove(&identity);
            }
        }
    }

    /// Terms the identity answers with yes, without an address.
    pub(crate) fn identity_answers(&self, terms: &Terms, id: NumericIdentity) -> Vec<TermId> {
        let Some(state) = self.identities.get(&id) else { return Vec::new() };
        let mut answers = state.answers.clone();
        if let Some(prefix) = &state.address {
            // Without an address, only what holds for every address the identity may have.
            terms.of_prefix(prefix, |term, rule| {
                if rule.covers_wholly(prefix) {
                    answers.push(term);
                }
            });
            answers.sort_unstable();
            answers.dedup();
        }
        answers
    }

    /// Terms the addresses of a prefix answer with yes. `outside`: its identity is one CIDR rules may select.
    pub(crate) fn prefix_answers(
        &self,
        terms: &Terms,
        prefix: &Cidr,
        outside: impl Fn(&Labels) -> bool,
    ) -> Vec<TermId> {
        let Some(state) = self.prefixes.get(prefix) else { return Vec::new() };
        let identity = self.identities.get(&state.identity);
        let mut answers = identity.map(|i| i.answers.clone()).unwrap_or_default();
        let world = identity.is_some_and(|i| outside(&i.labels));
        terms.of_prefix(prefix, |term, rule| {
            if world || rule.scope == CidrScope::Everyone {
                answers.push(term);
            }
        });
        if let Some((_, ports)) = &state.told {
            answers.extend(ports.iter().filter_map(|p| terms.named_port(p)));
        }
        answers.sort_unstable();
        answers.dedup();
        answers
    }
}

/// The keys between which every prefix inside `outer` lies.
pub(super) fn bounds(outer: &Cidr) -> core::ops::RangeInclusive<Cidr> {
    let last = match outer.addr() {
        IpAddr::V4(addr) => {
            let host_bits = u32::MAX.checked_shr(u32::from(outer.bits())).unwrap_or(0);
            IpAddr::V4(Ipv4Addr::from_bits(addr.to_bits() | host_bits))
        }
        IpAddr::V6(addr) => {
            let host_bits = u128::MAX.checked_shr(u32::from(outer.bits())).unwrap_or(0);
            IpAddr::V6(Ipv6Addr::from_bits(addr.to_bits() | host_bits))
        }
    };
    *outer..=Cidr::host(last)
}
