//! Facts about peers: identities with their labels, prefixes with their identities.
//!
//! A prefix is here because someone said whose it is (`told`), or because a rule in use names it (`wanted`: a cut). A
//! cut nobody has told about has the identity of the longest told prefix around it.

use super::{
    prefixes::{Place, PrefixId, PrefixState, Prefixes},
    terms::{TermId, Terms},
};
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
    labels::{ANY, CIDR, K8S},
    selector::{Demand, Selector},
};

/// An identity.
#[derive(Debug, Clone)]
pub(crate) struct IdentityState {
    pub(crate) labels: Labels,
    /// Label terms it answers with yes, sorted. Identities of one class hold the same list.
    pub(crate) answers: Arc<[TermId]>,
    /// The prefix it stands for where CIDR rules are concerned.
    pub(crate) address: Option<Cidr>,
    pub(crate) class: ClassId,
    /// The first of the prefixes that have it, told or inherited.
    pub(crate) prefixes: Option<PrefixId>,
}

/// The identities that have a label, or a key.
#[derive(Debug, Clone)]
struct Posting {
    ids: RoaringBitmap,
    /// All of them have it from the source `k8s`.
    k8s: bool,
}

impl Default for Posting {
    fn default() -> Self {
        Self { ids: RoaringBitmap::new(), k8s: true }
    }
}

impl Posting {
    fn insert(&mut self, id: u32, source: &str) {
        self.ids.insert(id);
        self.k8s &= source == K8S;
    }

    /// Whether having the key from this source is the same as being listed here.
    fn is_exact_for(&self, source: &str) -> bool {
        source == ANY || (source == K8S && self.k8s)
    }
}

/// All facts about peers.
#[derive(Debug, Clone, Default)]
pub(crate) struct Facts {
    pub(crate) identities: BTreeMap<NumericIdentity, IdentityState>,
    pub(crate) prefixes: Prefixes,
    /// The first of the prefixes of each identity that is not known.
    strays: BTreeMap<NumericIdentity, PrefixId>,
    /// Identities by the prefix they stand for.
    pub(crate) identities_at: BTreeMap<Cidr, BTreeSet<NumericIdentity>>,
    /// Prefixes by a port name of theirs.
    pub(crate) prefixes_with_port: BTreeMap<Box<str>, BTreeSet<Cidr>>,
    by_label: BTreeMap<(Box<str>, Box<str>), Posting>,
    by_key: BTreeMap<Box<str>, Posting>,
    all: RoaringBitmap,
}

impl Facts {
    pub(crate) fn post(&mut self, id: NumericIdentity, labels: &Labels) {
        let bit = id.as_u32();
        self.all.insert(bit);
        for label in labels {
            let place = (label.key().into(), label.value().into());
            self.by_label.entry(place).or_default().insert(bit, label.source());
            self.by_key.entry(label.key().into()).or_default().insert(bit, label.source());
        }
    }

    pub(crate) fn unpost(&mut self, id: NumericIdentity, labels: &Labels) {
        let bit = id.as_u32();
        self.all.remove(bit);
        for label in labels {
            let place = (Box::from(label.key()), Box::from(label.value()));
            if let Some(posting) = self.by_label.get_mut(&place) {
                posting.ids.remove(bit);
                if posting.ids.is_empty() {
                    self.by_label.remove(&place);
                }
            }
            if let Some(posting) = self.by_key.get_mut(&place.0) {
                posting.ids.remove(bit);
                if posting.ids.is_empty() {
                    self.by_key.remove(&place.0);
                }
            }
        }
    }

    /// The identities a selector matches, by intersecting what is known of each label it demands. Labels are read only
    /// where that does not settle it.
    pub(crate) fn matching(&self, selector: &Selector) -> RoaringBitmap {
        let mut narrowed: Option<RoaringBitmap> = None;
        let mut settled = true;
        for requirement in selector.requirements() {
            let (source, key) = (&*requirement.key.source, &requirement.key.key);
            let set = match &requirement.demand {
                Demand::In(_) | Demand::Exists if source == CIDR => None,
                Demand::In(values) => {
                    let mut set = RoaringBitmap::new();
                    for value in values {
                        if let Some(posting) = self.by_label.get(&(key.clone(), value.clone())) {
                            settled &= posting.is_exact_for(source);
                            set |= &posting.ids;
                        }
                    }
                    Some(set)
                }
                Demand::Exists => {
                    let posting = self.by_key.get(key);
                    settled &= posting.is_none_or(|p| p.is_exact_for(source));
                    Some(posting.map(|p| p.ids.clone()).unwrap_or_default())
                }
                Demand::NotIn(_) | Demand::Absent => None,
            };
            match (&mut narrowed, set) {
                (Some(have), Some(set)) => *have &= set,
                (None, Some(set)) => narrowed = Some(set),
                (_, None) => settled = false,
            }
        }
        let candidates = narrowed.unwrap_or_else(|| self.all.clone());
        if settled {
            return candidates;
        }
        let matches = |id: &u32| {
            let state = self.identities.get(&NumericIdentity::new(*id));
            state.is_some_and(|s| selector.matches(&s.labels))
        };
        candidates.into_iter().filter(matches).collect()
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

    /// The identities that stand for prefixes inside `outer`.
    pub(crate) fn identities_inside(&self, outer: &Cidr) -> impl Iterator<Item = NumericIdentity> {
        let inside = self.identities_at.range(bounds(outer)).filter(|(p, _)| outer.covers(p));
        inside.flat_map(|(_, ids)| ids.iter().copied())
    }

    /// The longest prefix an address lies in.
    pub(crate) fn longest(&self, addr: IpAddr) -> Option<&PrefixState> {
        let mut at = Some(Cidr::host(addr));
        while let Some(prefix) = at {
            if let Some(found) = self.prefixes.get(&prefix) {
                return Some(found);
            }
            at = prefix.parent();
        }
        None
    }

    /// The prefixes of an identity, told or inherited.
    pub(crate) fn prefixes_of(&self, id: NumericIdentity) -> impl Iterator<Item = PrefixId> + '_ {
        self.prefixes.list(self.first_of(id))
    }

    fn first_of(&self, id: NumericIdentity) -> Option<PrefixId> {
        match self.identities.get(&id) {
            Some(state) => state.prefixes,
            None => self.strays.get(&id).copied(),
        }
    }

    fn set_first_of(&mut self, id: NumericIdentity, first: Option<PrefixId>) {
        match (self.identities.get_mut(&id), first) {
            (Some(state), first) => state.prefixes = first,
            (None, Some(first)) => drop(self.strays.insert(id, first)),
            (None, None) => drop(self.strays.remove(&id)),
        }
    }

    /// Takes an identity in. It keeps the prefixes it had, known or not.
    pub(crate) fn put_identity(&mut self, id: NumericIdentity, mut state: IdentityState) {
        state.prefixes = self.first_of(id);
        self.strays.remove(&id);
        self.identities.insert(id, state);
    }

    /// Forgets an identity, but not which prefixes have it.
    pub(crate) fn take_identity(&mut self, id: NumericIdentity) -> Option<IdentityState> {
        let state = self.identities.remove(&id)?;
        self.set_first_of(id, state.prefixes);
        Some(state)
    }

    /// Sets the identity of a prefix, and puts it into that one's list.
    pub(crate) fn set_identity(&mut self, prefix: PrefixId, identity: NumericIdentity) {
        let state = self.prefixes.state(prefix);
        if state.place.is_some() && state.identity == identity {
            return;
        }
        self.take_out(prefix);
        let after = self.first_of(identity);
        if let Some(place) = after.and_then(|next| self.prefixes.state_mut(next).place.as_mut()) {
            place.before = Some(prefix);
        }
        let state = self.prefixes.state_mut(prefix);
        (state.identity, state.place) = (identity, Some(Place { before: None, after }));
        self.set_first_of(identity, Some(prefix));
    }

    /// Takes a prefix out of the list of its identity.
    fn take_out(&mut self, prefix: PrefixId) {
        let state = self.prefixes.state_mut(prefix);
        let (identity, Some(place)) = (state.identity, state.place.take()) else { return };
        match place.before {
            None => self.set_first_of(identity, place.after),
            Some(before) => {
                if let Some(previous) = &mut self.prefixes.state_mut(before).place {
                    previous.after = place.after;
                }
            }
        }
        if let Some(next) = place.after.and_then(|after| self.prefixes.state_mut(after).place.as_mut()) {
            next.before = place.before;
        }
    }

    pub(crate) fn remove_prefix(&mut self, prefix: PrefixId) -> Option<PrefixState> {
        self.take_out(prefix);
        self.prefixes.remove(prefix)
    }

    /// Terms the identity answers with yes, without an address.
    pub(crate) fn identity_answers(&self, terms: &Terms, id: NumericIdentity) -> Vec<TermId> {
        let Some(state) = self.identities.get(&id) else { return Vec::new() };
        let mut answers = state.answers.to_vec();
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
        prefix: PrefixId,
        outside: impl Fn(&Labels) -> bool,
    ) -> Vec<TermId> {
        let state = self.prefixes.state(prefix);
        let identity = self.identities.get(&state.identity);
        let mut answers = identity.map(|i| i.answers.to_vec()).unwrap_or_default();
        let world = identity.is_some_and(|i| outside(&i.labels));
        terms.of_prefix(&state.cidr, |term, rule| {
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
