//! Changes of facts about peers: identities and the prefixes that have them.

use super::{
    Engine,
    classes::Peer,
    commit::Txn,
    compile::Touched,
    facts::IdentityState,
    moves::Dirty,
    prefixes::PrefixId,
    terms::{NamedPort, TermId},
};
use crate::delta::{ClassId, Delta, Write};
use alloc::{collections::BTreeSet, sync::Arc, vec::Vec};
use types::{Cidr, Labels, NumericIdentity};

impl Engine {
    pub(super) fn seed(&mut self) -> Delta {
        let mut delta = Delta::default();
        for id in NumericIdentity::all_reserved().filter(|id| *id != NumericIdentity::UNKNOWN) {
            if let Some(labels) = id.reserved_labels() {
                delta.append(self.commit_identity(id, &labels));
            }
        }
        let dual = self.config.ipv4 && self.config.ipv6;
        let world = |specific| if dual { specific } else { NumericIdentity::WORLD };
        for (on, prefix, identity) in [
            (self.config.ipv4, "0.0.0.0/0", world(NumericIdentity::WORLD_IPV4)),
            (self.config.ipv6, "::/0", world(NumericIdentity::WORLD_IPV6)),
        ] {
            if on {
                let prefix: Cidr = prefix.parse().expect("a default prefix is a prefix");
                delta.append(self.commit_address(prefix, identity, &[]));
            }
        }
        delta
    }

    pub(super) fn commit_identity(&mut self, id: NumericIdentity, labels: &Labels) -> Delta {
        let mut txn = Txn::default();
        match self.facts.identities.get(&id) {
            Some(state) if state.labels == *labels => return self.no_change(),
            Some(state) => {
                let (old, address) = (state.labels.clone(), state.address);
                self.facts.unpost(id, &old);
                self.drop_identity_at(id, address);
            }
            None => {}
        }
        let answers: Arc<[TermId]> = self.terms.of_labels(labels).into();
        let address = self.address_of(labels);
        if let Some(prefix) = address {
            self.facts.identities_at.entry(prefix).or_default().insert(id);
        }
        self.facts.post(id, labels);
        let class = match self.facts.identities.get(&id) {
            Some(state) => state.class,
            None => {
                self.classes.join(ClassId::UNKNOWN, Peer::Identity(id));
                ClassId::UNKNOWN
            }
        };
        let fresh = !self.facts.identities.contains_key(&id);
        let state = IdentityState { labels: labels.clone(), answers, address, class, prefixes: None };
        self.facts.put_identity(id, state);
        let prefixes = self.facts.prefixes_of(id).map(Peer::Prefix);
        let dirty = Dirty::anew(core::iter::once(Peer::Identity(id)).chain(prefixes));
        self.move_peers(dirty, false, &[], &mut txn);
        self.share_answers(id);
        if fresh && self.facts.identities.get(&id).is_some_and(|s| s.class == ClassId::UNKNOWN) {
            txn.delta.writes.push(Write::PutIdentity(id, ClassId::UNKNOWN));
        }
        self.finish(txn)
    }

    pub(super) fn commit_identity_removal(&mut self, id: NumericIdentity) -> Delta {
        let Some(state) = self.facts.take_identity(id) else { return self.no_change() };
        let mut txn = Txn { visible: true, ..Txn::default() };
        self.facts.unpost(id, &state.labels);
        self.drop_identity_at(id, state.address);
        let dirty = Dirty::anew(self.facts.prefixes_of(id).map(Peer::Prefix));
        self.move_peers(dirty, false, &[], &mut txn);
        txn.delta.writes.push(Write::DeleteIdentity(id));
        self.classes.leave(state.class, Peer::Identity(id));
        txn.left.insert(state.class);
        self.finish(txn)
    }

    /// Most identities answer no prefix term, so they can hold the list of their class instead of a copy.
    fn share_answers(&mut self, id: NumericIdentity) {
        let Some(state) = self.facts.identities.get_mut(&id) else { return };
        let answers = self.classes.answers(state.class);
        if state.answers == *answers {
            state.answers = answers.clone();
        }
    }

    pub(super) fn drop_identity_at(&mut self, id: NumericIdentity, address: Option<Cidr>) {
        let Some(prefix) = address else { return };
        if let Some(ids) = self.facts.identities_at.get_mut(&prefix) {
            ids.remove(&id);
            if ids.is_empty() {
                self.facts.identities_at.remove(&prefix);
            }
        }
    }

    /// The prefix an identity of the world stands for: the one its label names, or all of its family.
    pub(super) fn address_of(&self, labels: &Labels) -> Option<Cidr> {
        if !self.is_outside(labels) {
            return None;
        }
        if let Some((addr, len)) = labels.cidr() {
            return Cidr::containing(addr, len).ok();
        }
        let all = |ipv4: bool| if ipv4 { "0.0.0.0/0".parse().ok() } else { "::/0".parse().ok() };
        match (self.config.ipv4, self.config.ipv6) {
            (true, true) if labels.has_reserved("world-ipv4") => all(true),
            (true, true) if labels.has_reserved("world-ipv6") => all(false),
            (true, false) if labels.has_reserved("world") => all(true),
            (false, true) if labels.has_reserved("world") => all(false),
            _ => None,
        }
    }

    /// Whether CIDR rules may select this identity.
    pub(super) fn is_outside(&self, labels: &Labels) -> bool {
        let world = ["world", "world-ipv4", "world-ipv6"].iter().any(|name| labels.has_reserved(name));
        let node =
            self.config.cidr_selects_nodes && (labels.has_reserved("remote-node") || labels.has_reserved("host"));
        world || node
    }

    pub(super) fn commit_address(
        &mut self,
        prefix: Cidr,
        identity: NumericIdentity,
        named_ports: &[NamedPort],
    ) -> Delta {
        let mut txn = Txn::default();
        let distinct: BTreeSet<NamedPort> = named_ports.iter().cloned().collect();
        let told = Some((identity, distinct.iter().cloned().collect::<Arc<[NamedPort]>>()));
        let known = self.facts.prefixes.get(&prefix);
        if known.is_some_and(|s| s.told == told) {
            return self.no_change();
        }
        let released = self.unindex_ports(prefix);
        let id = self.facts.prefixes.id_or_new(prefix);
        self.facts.prefixes.state_mut(id).told = told;
        for port in &distinct {
            self.facts.prefixes_with_port.entry(port.name.clone()).or_default().insert(prefix);
        }
        self.hold_named_ports(distinct.iter().filter(|p| self.terms.name_in_use(&p.name)).cloned().collect());
        let dirty = self.inherit(id, identity);
        self.move_peers(dirty, false, &[], &mut txn);
        self.retire_terms(Touched { released, ..Touched::default() }, &mut txn);
        self.finish(txn)
    }

    pub(super) fn commit_address_removal(&mut self, prefix: Cidr) -> Delta {
        let mut txn = Txn { visible: true, ..Txn::default() };
        let Some(id) = self.facts.prefixes.id(&prefix) else { return self.no_change() };
        if self.facts.prefixes.state(id).told.is_none() {
            return self.no_change();
        }
        let released = self.unindex_ports(prefix);
        let inherited = self.facts.inherited(&prefix);
        let state = self.facts.prefixes.state_mut(id);
        state.told = None;
        let wanted = state.wanted > 0;
        let mut dirty = self.inherit(id, inherited);
        if !wanted {
            dirty.anew.remove(&Peer::Prefix(id));
        }
        self.move_peers(dirty, false, &[], &mut txn);
        if !wanted {
            self.delete_prefix(id, &mut txn);
        }
        self.retire_terms(Touched { released, ..Touched::default() }, &mut txn);
        self.finish(txn)
    }

    pub(super) fn delete_prefix(&mut self, id: PrefixId, txn: &mut Txn) {
        let Some(state) = self.facts.remove_prefix(id) else { return };
        if let Some(class) = state.class {
            txn.delta.writes.push(Write::DeletePrefix(state.cidr));
            self.classes.leave(class, Peer::Prefix(id));
            txn.left.insert(class);
        }
    }

    /// Forgets the named ports of a prefix; returns the terms it held for them.
    pub(super) fn unindex_ports(&mut self, prefix: Cidr) -> Vec<TermId> {
        let told = self.facts.prefixes.get(&prefix).and_then(|s| s.told.clone());
        let mut released = Vec::new();
        for port in told.iter().flat_map(|(_, ports)| ports.iter()) {
            if let Some(set) = self.facts.prefixes_with_port.get_mut(&port.name) {
                set.remove(&prefix);
                if set.is_empty() {
                    self.facts.prefixes_with_port.remove(&port.name);
                }
            }
            if let (true, Some(term)) = (self.terms.name_in_use(&port.name), self.terms.named_port(port)) {
                if let Some(held) = self.named_terms.get_mut(&port.name) {
                    remove_one(held, term);
                }
                self.terms.release(term);
                released.push(term);
            }
        }
        released
    }

    /// Sets the identity of a prefix, and of the cuts inside it that have theirs from it.
    pub(super) fn inherit(&mut self, prefix: PrefixId, identity: NumericIdentity) -> Dirty {
        let outer = self.facts.prefixes.state(prefix).cidr;
        let inside = self.facts.prefixes.inside(&outer);
        let cuts: Vec<PrefixId> =
            inside.filter(|(id, state)| *id != prefix && state.told.is_none()).map(|(id, _)| id).collect();
        self.facts.set_identity(prefix, identity);
        let mut dirty = Dirty::anew([Peer::Prefix(prefix)]);
        for cut in cuts {
            let state = self.facts.prefixes.state(cut);
            let inherited = self.facts.inherited(&state.cidr);
            if state.identity != inherited {
                self.facts.set_identity(cut, inherited);
                dirty.anew.insert(Peer::Prefix(cut));
            }
        }
        dirty
    }
}

fn remove_one(items: &mut Vec<TermId>, item: TermId) {
    if let Some(at) = items.iter().position(|i| *i == item) {
        items.swap_remove(at);
    }
}
