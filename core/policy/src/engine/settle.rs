//! Terms that come into use and go out of it, and the classes peers settle in.

use super::{
    Engine,
    classes::Peer,
    commit::Txn,
    compile::Touched,
    facts::PrefixState,
    terms::{NamedPort, Term, TermId},
};
use crate::{
    delta::{ClassId, PolicyId, Write},
    rule::CidrRule,
};
use alloc::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    vec::Vec,
};
use types::{Cidr, NumericIdentity};

impl Engine {
    pub(super) fn activate(&mut self, touched: &mut Touched, txn: &mut Txn) {
        self.activate_for(touched, &[], txn);
    }

    /// Makes peers answer the terms that came into use, and moves those that do so with yes.
    pub(super) fn activate_for(&mut self, touched: &mut Touched, fresh: &[PolicyId], txn: &mut Txn) {
        let mut dirty = BTreeSet::new();
        let mut spanned: BTreeSet<Cidr> = BTreeSet::new();
        for term in core::mem::take(&mut touched.activated) {
            match &*self.terms.term(term).clone() {
                Term::Labels(selector) => {
                    for id in self.facts.matching(selector) {
                        if let Some(state) = self.facts.identities.get_mut(&id) {
                            super::anchor::insert_sorted(&mut state.answers, term);
                        }
                        dirty.insert(Peer::Identity(id));
                        dirty.extend(self.facts.prefixes_of.get(&id).into_iter().flatten().map(|p| Peer::Prefix(*p)));
                    }
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
            dirty.extend(self.facts.inside(&outer).map(|(p, _)| Peer::Prefix(*p)));
            dirty.extend(self.facts.identities_inside(&outer).map(Peer::Identity));
        }
        for name in core::mem::take(&mut touched.names) {
            // A name given up and taken again in one change is still held.
            if self.named_terms.contains_key(&name) {
                continue;
            }
            let prefixes: Vec<Cidr> = self.facts.prefixes_with_port.get(&name).into_iter().flatten().copied().collect();
            for prefix in prefixes {
                let told = self.facts.prefixes.get(&prefix).and_then(|s| s.told.clone());
                let ports: Vec<NamedPort> =
                    told.iter().flat_map(|(_, ports)| ports.iter()).filter(|p| p.name == name).cloned().collect();
                self.hold_named_ports(ports);
                dirty.insert(Peer::Prefix(prefix));
            }
        }
        // Entries of policies that are only now being made are written later, for all classes at once.
        self.move_peers_except(&dirty, true, fresh, txn);
    }

    /// Takes a reference to the terms of an address's named ports, whose names rules in use mention.
    pub(super) fn hold_named_ports(&mut self, ports: Vec<NamedPort>) {
        for port in ports {
            let name = port.name.clone();
            let (id, _) = self.terms.acquire(Term::NamedPort(port));
            self.named_terms.entry(name).or_default().push(id);
        }
    }

    pub(super) fn want_prefix(&mut self, prefix: Cidr, dirty: &mut BTreeSet<Peer>, txn: &mut Txn) {
        let ours = if prefix.is_ipv4() { self.config.ipv4 } else { self.config.ipv6 };
        if !ours {
            return;
        }
        if let Some(state) = self.facts.prefixes.get_mut(&prefix) {
            state.wanted += 1;
            if state.wanted == 1 && !prefix.is_default() && state.told.is_none() {
                txn.delta.wanted.push(prefix);
            }
            return;
        }
        let state = PrefixState { told: None, wanted: 1, identity: NumericIdentity::UNKNOWN, class: None };
        self.facts.prefixes.insert(prefix, state);
        let inherited = self.facts.inherited(&prefix);
        self.facts.set_identity(prefix, inherited);
        dirty.insert(Peer::Prefix(prefix));
        if !prefix.is_default() {
            txn.delta.wanted.push(prefix);
        }
    }

    pub(super) fn move_peers(&mut self, dirty: &BTreeSet<Peer>, may_rekey: bool, txn: &mut Txn) {
        self.move_peers_except(dirty, may_rekey, &[], txn);
    }

    /// Puts peers into the classes of their answers. With `may_rekey`, only new terms made answers change, so a class
    /// all of whose peers go the same way keeps its number.
    pub(super) fn move_peers_except(
        &mut self,
        dirty: &BTreeSet<Peer>,
        may_rekey: bool,
        skip: &[PolicyId],
        txn: &mut Txn,
    ) {
        let mut moves: Vec<(Peer, Option<ClassId>, Arc<[TermId]>)> = Vec::with_capacity(dirty.len());
        let mut groups: BTreeMap<ClassId, (usize, Arc<[TermId]>, bool)> = BTreeMap::new();
        for peer in dirty {
            let answers: Arc<[TermId]> = Arc::from(self.answers_of(peer));
            let now = self.class_of_peer(peer);
            if now.is_some_and(|c| *self.classes.answers(c) == answers) && !self.identity_moved(peer) {
                continue;
            }
            if let (Some(class), true) = (now, may_rekey) {
                let group = groups.entry(class).or_insert_with(|| (0, answers.clone(), true));
                group.0 += 1;
                group.2 &= group.1 == answers;
            }
            moves.push((*peer, now, answers));
        }
        for (class, (count, answers, same)) in groups {
            let whole = same && class != ClassId::UNKNOWN && count == self.classes.peers(class).len();
            if whole && self.classes.find(&answers).is_none() {
                self.classes.rekey(class, answers);
            }
        }
        let mut fresh = Vec::new();
        let mut placed: Vec<(Peer, Option<ClassId>, ClassId)> = Vec::with_capacity(moves.len());
        for (peer, now, answers) in moves {
            let target = match self.classes.find(&answers) {
                Some(known) => known,
                None => {
                    let id = self.classes.create(answers);
                    fresh.push(id);
                    id
                }
            };
            placed.push((peer, now, target));
        }
        let policies: Vec<PolicyId> = self.policies.by_id.keys().copied().filter(|p| !skip.contains(p)).collect();
        for class in fresh {
            for policy in &policies {
                self.refresh(*policy, class, txn);
            }
        }
        // Longer prefixes first: a new prefix must not show before the exceptions inside it do.
        placed.sort_by_key(|(peer, ..)| match peer {
            Peer::Identity(_) => (0, 0),
            Peer::Prefix(p) => (1, u8::MAX - p.bits()),
        });
        txn.visible |= placed.iter().any(|(_, now, target)| now.is_some_and(|c| c != *target));
        for (peer, now, target) in placed {
            self.place(peer, now, target, txn);
        }
    }

    pub(super) fn place(&mut self, peer: Peer, now: Option<ClassId>, target: ClassId, txn: &mut Txn) {
        if let Some(class) = now.filter(|c| *c != target) {
            self.classes.leave(class, peer);
            txn.left.insert(class);
        }
        self.classes.join(target, peer);
        match peer {
            Peer::Identity(id) => {
                if let Some(state) = self.facts.identities.get_mut(&id)
                    && state.class != target
                {
                    state.class = target;
                    txn.delta.writes.push(Write::PutIdentity(id, target));
                }
            }
            Peer::Prefix(prefix) => {
                if let Some(state) = self.facts.prefixes.get_mut(&prefix) {
                    let identity = state.identity;
                    let written = self.written.insert(prefix, identity);
                    txn.visible |= now.is_none();
                    if state.class != Some(target) || written != Some(identity) {
                        state.class = Some(target);
                        txn.delta.writes.push(Write::PutPrefix(prefix, identity, target));
                    }
                }
            }
        }
    }

    /// True if the ipcache shows another identity for the prefix than the one it has.
    pub(super) fn identity_moved(&self, peer: &Peer) -> bool {
        match peer {
            Peer::Identity(_) => false,
            Peer::Prefix(prefix) => {
                let identity = self.facts.prefixes.get(prefix).map(|s| s.identity);
                self.written.get(prefix).copied() != identity
            }
        }
    }

    pub(super) fn class_of_peer(&self, peer: &Peer) -> Option<ClassId> {
        match peer {
            Peer::Identity(id) => self.facts.identities.get(id).map(|s| s.class),
            Peer::Prefix(prefix) => self.facts.prefixes.get(prefix).and_then(|s| s.class),
        }
    }

    pub(super) fn answers_of(&self, peer: &Peer) -> Vec<TermId> {
        match peer {
            Peer::Identity(id) => self.facts.identity_answers(&self.terms, *id),
            Peer::Prefix(prefix) => self.facts.prefix_answers(&self.terms, prefix, |l| self.is_outside(l)),
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
        let mut unwanted: BTreeSet<Cidr> = BTreeSet::new();
        for term in &dead {
            if let Term::Cidrs(rules) = &*self.terms.term(*term).clone() {
                for cut in cuts(rules) {
                    self.unwant_prefix(cut, &mut unwanted, txn);
                }
            }
        }
        let classes: BTreeSet<ClassId> = dead.iter().flat_map(|t| self.classes.of_term(*t)).collect();
        for class in classes {
            self.merge_class(class, &dead, &unwanted, txn);
        }
        // Shorter prefixes first: what is behind them says the same by now.
        let mut gone: Vec<Cidr> = unwanted.into_iter().collect();
        gone.sort_by_key(Cidr::bits);
        for prefix in gone {
            self.written.remove(&prefix);
            self.delete_prefix(prefix, txn);
        }
        for term in dead {
            self.terms.forget(term);
        }
    }

    pub(super) fn unwant_prefix(&mut self, prefix: Cidr, unwanted: &mut BTreeSet<Cidr>, txn: &mut Txn) {
        let Some(state) = self.facts.prefixes.get_mut(&prefix) else { return };
        state.wanted = state.wanted.saturating_sub(1);
        if state.wanted > 0 {
            return;
        }
        if state.told.is_none() {
            unwanted.insert(prefix);
        }
        if !prefix.is_default() {
            txn.delta.unwanted.push(prefix);
        }
    }

    pub(super) fn merge_class(
        &mut self,
        class: ClassId,
        dead: &BTreeSet<TermId>,
        unwanted: &BTreeSet<Cidr>,
        txn: &mut Txn,
    ) {
        let left: Vec<TermId> = self.classes.answers(class).iter().filter(|t| !dead.contains(t)).copied().collect();
        let peers: Vec<Peer> = self.classes.peers(class).iter().copied().collect();
        for peer in &peers {
            if let Peer::Identity(id) = peer
                && let Some(state) = self.facts.identities.get_mut(id)
            {
                state.answers.retain(|t| !dead.contains(t));
            }
        }
        let Some(into) = self.classes.find(&left) else {
            self.classes.rekey(class, Arc::from(left));
            return;
        };
        for peer in peers {
            let going = matches!(peer, Peer::Prefix(p) if unwanted.contains(&p));
            if !going {
                self.place(peer, Some(class), into, txn);
            }
        }
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
