//! Terms that come into use and go out of it.

use super::{
    Engine,
    classes::{Peer, PeerSet},
    commit::Txn,
    compile::Touched,
    moves::Dirty,
    prefixes::PrefixId,
    terms::{NamedPort, Term, TermId},
};
use crate::{
    delta::{ClassId, PolicyId},
    rule::CidrRule,
};
use alloc::{collections::BTreeSet, sync::Arc, vec::Vec};
use types::{Cidr, NumericIdentity};

impl Engine {
    pub(super) fn activate(&mut self, touched: &mut Touched, txn: &mut Txn) {
        self.activate_for(touched, &[], txn);
    }

    /// Makes peers answer the terms that came into use, and moves those that do so with yes.
    pub(super) fn activate_for(&mut self, touched: &mut Touched, fresh: &[PolicyId], txn: &mut Txn) {
        let mut dirty = Dirty::default();
        let mut spanned: BTreeSet<Cidr> = BTreeSet::new();
        for term in core::mem::take(&mut touched.activated) {
            match &*self.terms.term(term).clone() {
                Term::Labels(selector) => {
                    let ids = self.facts.matching(selector);
                    dirty.gained.extend(ids.iter().map(|id| (NumericIdentity::new(id), term)));
                }
                Term::Cidrs(rules) => {
                    for cut in cuts(rules) {
                        self.want_prefix(cut, &mut dirty, txn);
                    }
                    spanned.extend(rules.iter().map(|r| r.cidr));
                }
                Term::NamedPort(_) => {}
            }
        }
        for outer in outermost(&spanned) {
            dirty.anew.extend(self.facts.prefixes.inside(&outer).map(|(id, _)| Peer::Prefix(id)));
            dirty.anew.extend(self.facts.identities_inside(&outer).map(Peer::Identity));
        }
        for name in core::mem::take(&mut touched.names) {
            // A name given up and taken again in one change is still held.
            if self.named_terms.contains_key(&name) {
                continue;
            }
            let prefixes: Vec<Cidr> = self.facts.prefixes_with_port.get(&name).into_iter().flatten().copied().collect();
            for prefix in prefixes {
                let Some(id) = self.facts.prefixes.id(&prefix) else { continue };
                let told = self.facts.prefixes.state(id).told.clone();
                let ports: Vec<NamedPort> =
                    told.iter().flat_map(|(_, ports)| ports.iter()).filter(|p| p.name == name).cloned().collect();
                self.hold_named_ports(ports);
                dirty.anew.insert(Peer::Prefix(id));
            }
        }
        // Entries of policies that are only now being made are written later, for all classes at once.
        self.move_peers(dirty, true, fresh, txn);
    }

    /// Takes a reference to the terms of an address's named ports, whose names rules in use mention.
    pub(super) fn hold_named_ports(&mut self, ports: Vec<NamedPort>) {
        for port in ports {
            let name = port.name.clone();
            let (id, _) = self.terms.acquire(Term::NamedPort(port));
            self.named_terms.entry(name).or_default().push(id);
        }
    }

    fn want_prefix(&mut self, prefix: Cidr, dirty: &mut Dirty, txn: &mut Txn) {
        let ours = if prefix.is_ipv4() { self.config.ipv4 } else { self.config.ipv6 };
        if !ours {
            return;
        }
        let known = self.facts.prefixes.id(&prefix);
        let id = self.facts.prefixes.id_or_new(prefix);
        let state = self.facts.prefixes.state_mut(id);
        state.wanted += 1;
        if state.wanted == 1 && !prefix.is_default() && state.told.is_none() {
            txn.delta.wanted.push(prefix);
        }
        if known.is_none() {
            let inherited = self.facts.inherited(&prefix);
            self.facts.set_identity(id, inherited);
            dirty.anew.insert(Peer::Prefix(id));
        }
    }

    /// Drops the terms nobody refers to any more and merges the classes that differed only in them.
    pub(super) fn retire_terms(&mut self, touched: Touched, txn: &mut Txn) {
        let mut dead: BTreeSet<TermId> = touched.released.into_iter().filter(|t| !self.terms.in_use(*t)).collect();
        for name in touched.released_names {
            if !self.terms.name_in_use(&name) {
                for term in self.named_terms.remove(&name).unwrap_or_default() {
                    self.terms.release(term);
                    dead.insert(term);
                }
            }
        }
        if dead.is_empty() {
            return;
        }
        let mut unwanted: Vec<(u8, PrefixId)> = Vec::new();
        for term in &dead {
            if let Term::Cidrs(rules) = &*self.terms.term(*term).clone() {
                for cut in cuts(rules) {
                    unwanted.extend(self.unwant_prefix(cut, txn).map(|id| (cut.bits(), id)));
                }
            }
        }
        let mut going = PeerSet::default();
        unwanted.iter().for_each(|(_, id)| going.insert(Peer::Prefix(*id)));
        let classes: BTreeSet<ClassId> = dead.iter().flat_map(|t| self.classes.of_term(*t)).collect();
        for class in classes {
            self.merge_class(class, &dead, &going, txn);
        }
        // Shorter prefixes first: what is behind them says the same by now.
        unwanted.sort_unstable();
        for (_, prefix) in unwanted {
            self.delete_prefix(prefix, txn);
        }
        for term in dead {
            self.terms.forget(term);
        }
    }

    /// One term less names the prefix; its number if it is to go.
    fn unwant_prefix(&mut self, prefix: Cidr, txn: &mut Txn) -> Option<PrefixId> {
        let id = self.facts.prefixes.id(&prefix)?;
        let state = self.facts.prefixes.state_mut(id);
        state.wanted = state.wanted.saturating_sub(1);
        if state.wanted > 0 {
            return None;
        }
        if !prefix.is_default() {
            txn.delta.unwanted.push(prefix);
        }
        state.told.is_none().then_some(id)
    }

    /// Brings a class whose terms go out of use together with the one it differs from in them only. The smaller of the
    /// two moves.
    fn merge_class(&mut self, class: ClassId, dead: &BTreeSet<TermId>, going: &PeerSet, txn: &mut Txn) {
        let alive = |list: &[TermId]| list.iter().filter(|t| !dead.contains(t)).copied().collect::<Arc<[TermId]>>();
        let left = alive(self.classes.answers(class));
        let mut peers = self.classes.peers(class).clone();
        let mut shared: Option<Arc<[TermId]>> = None;
        for id in peers.identities() {
            if let Some(state) = self.facts.identities.get_mut(&id) {
                state.answers = shared.get_or_insert_with(|| alive(&state.answers)).clone();
            }
        }
        let Some(into) = self.classes.find(&left) else {
            self.classes.rekey(class, left);
            return;
        };
        peers.subtract(going);
        let others = self.classes.peers(into);
        if into != ClassId::UNKNOWN && others.len() < peers.len() {
            let others = others.clone();
            self.classes.rekey(class, left);
            self.relocate(alloc::vec![(Some(into), class, others)], txn);
            txn.left.insert(into);
            return;
        }
        self.relocate(alloc::vec![(Some(class), into, peers)], txn);
        txn.left.insert(class);
        self.classes.strip(class, dead);
    }
}

/// The prefixes at which the answer to a prefix term may change, each once.
fn cuts(rules: &[CidrRule]) -> BTreeSet<Cidr> {
    rules.iter().flat_map(|rule| core::iter::once(&rule.cidr).chain(&rule.except)).copied().collect()
}

/// The prefixes that lie in no other one of the set.
fn outermost(prefixes: &BTreeSet<Cidr>) -> Vec<Cidr> {
    let mut outer: Vec<Cidr> = Vec::new();
    // In the order of address and length what contains a prefix comes before it.
    for prefix in prefixes {
        if outer.last().is_none_or(|last| !last.covers(prefix)) {
            outer.push(*prefix);
        }
    }
    outer
}
