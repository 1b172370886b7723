//! From changed facts to ordered writes.
//!
//! The order, and why at every point each packet is judged by the old or by the new state:
//! 1. *Fresh classes* get entries under every policy. No peer has them yet.
//! 2. *Peers move*, longer prefixes first. A fresh class answers old questions as the class it was split from and new
//!    ones in the new way, and policies that change in place already speak for it in the new way, so a peer goes from
//!    old to new in one write.
//! 3. *Fresh policies* get entries under every class. No endpoint has them yet.
//! 4. *Policies that keep their endpoints change in place*: puts from the longest block to the shortest, then deletes
//!    from the shortest to the longest. For any port the longest entry is then first the old, then the new one.
//! 5. *Endpoints move* to their policies, one write each.
//! 6. *Policies without endpoints go.*
//! 7. *Terms out of use go*: classes that differed in them only are merged; both say the same by now.
//! 8. *Classes without peers go.*
//! 9. If anything that was visible changed, *the revision moves*.

use super::{
    Conflict, Engine,
    classes::Peer,
    compile::Touched,
    facts::{IdentityState, PrefixState},
    flatten::{Entries, flatten},
    policies::{Content, Filter, FilterPorts, PolicyKey},
    terms::{NamedPort, Term, TermId},
};
use crate::{
    delta::{ClassId, Delta, EndpointPolicy, EntryKey, L4Prefix, PolicyId, Verdict, Write},
    rule::{CidrRule, Direction, Peer as RulePeer, Peers, PortRange},
};
use alloc::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    vec::Vec,
};
use types::{Cidr, EndpointId, Labels, NumericIdentity};

/// A change under way.
#[derive(Debug, Default)]
struct Txn {
    delta: Delta,
    /// Something a packet could see has changed.
    visible: bool,
    /// Classes peers have left.
    left: BTreeSet<ClassId>,
}

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

    // ---- identities and addresses -------------------------------------------------------------------------------

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
        let answers = self.terms.of_labels(labels);
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
        self.facts.identities.insert(id, IdentityState { labels: labels.clone(), answers, address, class });
        let mut dirty = BTreeSet::from([Peer::Identity(id)]);
        dirty.extend(self.facts.prefixes_of.get(&id).into_iter().flatten().map(|p| Peer::Prefix(*p)));
        self.move_peers(&dirty, false, &mut txn);
        if fresh && self.facts.identities.get(&id).is_some_and(|s| s.class == ClassId::UNKNOWN) {
            txn.delta.writes.push(Write::PutIdentity(id, ClassId::UNKNOWN));
        }
        self.finish(txn)
    }

    pub(super) fn commit_identity_removal(&mut self, id: NumericIdentity) -> Delta {
        let Some(state) = self.facts.identities.remove(&id) else { return self.no_change() };
        let mut txn = Txn { visible: true, ..Txn::default() };
        self.facts.unpost(id, &state.labels);
        self.drop_identity_at(id, state.address);
        let dirty = self.facts.prefixes_of.get(&id).into_iter().flatten().map(|p| Peer::Prefix(*p)).collect();
        self.move_peers(&dirty, false, &mut txn);
        txn.delta.writes.push(Write::DeleteIdentity(id));
        self.classes.leave(state.class, Peer::Identity(id));
        txn.left.insert(state.class);
        self.finish(txn)
    }

    fn drop_identity_at(&mut self, id: NumericIdentity, address: Option<Cidr>) {
        let Some(prefix) = address else { return };
        if let Some(ids) = self.facts.identities_at.get_mut(&prefix) {
            ids.remove(&id);
            if ids.is_empty() {
                self.facts.identities_at.remove(&prefix);
            }
        }
    }

    /// The prefix an identity of the world stands for: the one its label names, or all of its family.
    fn address_of(&self, labels: &Labels) -> Option<Cidr> {
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
    fn is_outside(&self, labels: &Labels) -> bool {
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
        let state = self.facts.prefixes.entry(prefix).or_insert_with(|| PrefixState {
            told: None,
            wanted: 0,
            identity: NumericIdentity::UNKNOWN,
            class: None,
        });
        state.told = told;
        for port in &distinct {
            self.facts.prefixes_with_port.entry(port.name.clone()).or_default().insert(prefix);
        }
        self.hold_named_ports(distinct.iter().filter(|p| self.terms.name_in_use(&p.name)).cloned().collect());
        let dirty = self.inherit(prefix, identity);
        self.move_peers(&dirty, false, &mut txn);
        self.retire_terms(Touched { released, ..Touched::default() }, &mut txn);
        self.finish(txn)
    }

    pub(super) fn commit_address_removal(&mut self, prefix: Cidr) -> Delta {
        let mut txn = Txn { visible: true, ..Txn::default() };
        if self.facts.prefixes.get(&prefix).is_none_or(|s| s.told.is_none()) {
            return self.no_change();
        }
        let released = self.unindex_ports(prefix);
        let inherited = self.facts.inherited(&prefix);
        let state = self.facts.prefixes.get_mut(&prefix).expect("it was there a moment ago");
        state.told = None;
        let wanted = state.wanted > 0;
        let mut dirty = self.inherit(prefix, inherited);
        if !wanted {
            dirty.remove(&Peer::Prefix(prefix));
        }
        self.move_peers(&dirty, false, &mut txn);
        if !wanted {
            self.delete_prefix(prefix, &mut txn);
        }
        self.retire_terms(Touched { released, ..Touched::default() }, &mut txn);
        self.finish(txn)
    }

    fn delete_prefix(&mut self, prefix: Cidr, txn: &mut Txn) {
        let Some(state) = self.facts.prefixes.remove(&prefix) else { return };
        self.facts.drop_prefix_of(state.identity, &prefix);
        if let Some(class) = state.class {
            txn.delta.writes.push(Write::DeletePrefix(prefix));
            self.classes.leave(class, Peer::Prefix(prefix));
            txn.left.insert(class);
        }
    }

    /// Forgets the named ports of a prefix; returns the terms it held for them.
    fn unindex_ports(&mut self, prefix: Cidr) -> Vec<TermId> {
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
    fn inherit(&mut self, prefix: Cidr, identity: NumericIdentity) -> BTreeSet<Peer> {
        let cuts: Vec<Cidr> = self
            .facts
            .inside(&prefix)
            .filter(|(p, state)| **p != prefix && state.told.is_none())
            .map(|(p, _)| *p)
            .collect();
        self.facts.set_identity(prefix, identity);
        let mut dirty = BTreeSet::from([Peer::Prefix(prefix)]);
        for cut in cuts {
            let inherited = self.facts.inherited(&cut);
            if self.facts.prefixes.get(&cut).is_some_and(|s| s.identity != inherited) {
                self.facts.set_identity(cut, inherited);
                dirty.insert(Peer::Prefix(cut));
            }
        }
        dirty
    }

    // ---- rules and endpoints ------------------------------------------------------------------------------------

    pub(super) fn commit_endpoint_removal(&mut self, id: EndpointId) -> Delta {
        let Some(endpoint) = self.endpoints.remove(&id) else { return self.no_change() };
        let mut txn = Txn::default();
        txn.delta.writes.push(Write::DeleteEndpoint(id));
        let mut touched = Touched::default();
        let policy = endpoint.policy.policy;
        if policy != PolicyId::NONE {
            self.policies.get_mut(policy).endpoints.remove(&id);
            self.drop_policy_if_unused(policy, &mut touched, &mut txn);
        }
        self.retire_terms(touched, &mut txn);
        self.finish(txn)
    }

    /// Recompiles every rule with a peer for which `meant` says so.
    pub(super) fn recompile_rules(&mut self, meant: impl Fn(&RulePeer) -> bool) -> Delta {
        let rules: BTreeSet<_> = self
            .rules
            .iter()
            .filter(|(_, stored)| {
                let rule = stored.rule();
                let all = rule.ingress.iter().chain(&rule.egress);
                all.filter_map(|p| match &p.peers {
                    Peers::Listed(list) => Some(list),
                    Peers::Unstated => None,
                })
                .flatten()
                .any(&meant)
            })
            .map(|(id, _)| *id)
            .collect();
        let mut txn = Txn::default();
        let mut touched = Touched::default();
        let policies: Vec<PolicyId> = self
            .policies
            .by_id
            .iter()
            .filter(|(_, p)| p.key.rules.iter().any(|r| rules.contains(r)))
            .map(|(id, _)| *id)
            .collect();
        let mut changed = BTreeMap::new();
        for id in policies {
            let key = self.policies.get(id).key.clone();
            let mut content = core::mem::take(&mut self.policies.get_mut(id).content);
            let mut mine = Touched::default();
            for rule in key.rules.iter().filter(|r| rules.contains(r)) {
                self.remove_rule(Some(*rule), &mut content, &mut mine);
                self.compile_rule(&key, *rule, &mut content, &mut mine);
            }
            self.policies.get_mut(id).content = content;
            changed.insert(id, (mine.anyone, mine.terms.clone()));
            absorb(&mut touched, mine);
        }
        self.activate(&mut touched, &mut txn);
        self.change_in_place(&changed, &mut txn);
        self.retire_terms(touched, &mut txn);
        self.finish(txn)
    }

    /// Brings endpoints whose rules or facts changed to the policy they must have.
    pub(super) fn commit_rules(&mut self, dirty: &BTreeSet<EndpointId>) -> Delta {
        let mut txn = Txn::default();
        let mut touched = Touched::default();
        let wanted: BTreeMap<EndpointId, Arc<PolicyKey>> = dirty
            .iter()
            .filter_map(|id| Some((*id, Arc::new(self.desired_key(&self.endpoints.get(id)?.facts)))))
            .collect();
        let in_place = self.plan_in_place(&wanted);
        let mut changed = BTreeMap::new();
        for (policy, old, new) in in_place {
            let mine = self.update_content(policy, &old, &new);
            changed.insert(policy, (mine.anyone, mine.terms.clone()));
            absorb(&mut touched, mine);
        }
        let mut flips: Vec<(EndpointId, PolicyId)> = Vec::new();
        let mut fresh: Vec<PolicyId> = Vec::new();
        for (endpoint, key) in &wanted {
            let now = self.endpoints[endpoint].policy.policy;
            if now != PolicyId::NONE && self.policies.get(now).key == *key {
                continue;
            }
            let target = match self.policies.by_key.get(key) {
                Some(known) => *known,
                None => {
                    let id = self.policies.create(key.clone());
                    let content = self.compile_policy(key, &mut touched);
                    self.policies.get_mut(id).content = content;
                    fresh.push(id);
                    id
                }
            };
            flips.push((*endpoint, target));
        }
        self.activate_for(&mut touched, &fresh, &mut txn);
        for id in &fresh {
            self.report_conflicts(*id, &mut txn);
            for class in self.classes.all().collect::<Vec<_>>() {
                self.refresh(*id, class, &mut txn);
            }
        }
        for id in changed.keys() {
            self.report_conflicts(*id, &mut txn);
        }
        self.change_in_place(&changed, &mut txn);
        let mut left = BTreeSet::new();
        for (endpoint, target) in flips {
            left.insert(self.flip(endpoint, target, &mut txn));
        }
        for policy in left.into_iter().filter(|p| *p != PolicyId::NONE) {
            self.drop_policy_if_unused(policy, &mut touched, &mut txn);
        }
        self.drop_orphan_rules();
        self.retire_terms(touched, &mut txn);
        self.finish(txn)
    }

    /// Policies all of whose endpoints want the same other rules, which no other policy has: they become it.
    fn plan_in_place(
        &mut self,
        wanted: &BTreeMap<EndpointId, Arc<PolicyKey>>,
    ) -> Vec<(PolicyId, Arc<PolicyKey>, Arc<PolicyKey>)> {
        let touched: BTreeSet<PolicyId> =
            wanted.keys().map(|e| self.endpoints[e].policy.policy).filter(|p| *p != PolicyId::NONE).collect();
        let mut plan = Vec::new();
        for id in touched {
            let policy = self.policies.get(id);
            let mut targets = policy.endpoints.iter().map(|e| wanted.get(e).unwrap_or(&policy.key));
            let Some(first) = targets.next().cloned() else { continue };
            let agreed = targets.all(|t| *t == first);
            if !agreed
                || first == policy.key
                || !first.same_frame(&policy.key)
                || self.policies.by_key.contains_key(&first)
            {
                continue;
            }
            let old = policy.key.clone();
            self.policies.rekey(id, first.clone());
            plan.push((id, old, first));
        }
        plan
    }

    fn update_content(&mut self, id: PolicyId, old: &PolicyKey, new: &PolicyKey) -> Touched {
        let mut touched = Touched::default();
        let requires = self.requirements(new);
        let mut content = core::mem::take(&mut self.policies.get_mut(id).content);
        if content.requires == requires {
            let gone: Vec<_> = old.rules.iter().filter(|r| new.rules.binary_search(r).is_err()).copied().collect();
            let come: Vec<_> = new.rules.iter().filter(|r| old.rules.binary_search(r).is_err()).copied().collect();
            for rule in gone {
                self.remove_rule(Some(rule), &mut content, &mut touched);
            }
            for rule in come {
                self.compile_rule(new, rule, &mut content, &mut touched);
            }
        } else {
            touched.anyone = true;
            touched.terms.extend(content.by_term.keys().copied());
            let before = core::mem::take(&mut content);
            content = self.compile_policy(new, &mut touched);
            self.release_content(before, &mut touched);
        }
        self.policies.get_mut(id).content = content;
        touched
    }

    fn flip(&mut self, endpoint: EndpointId, target: PolicyId, txn: &mut Txn) -> PolicyId {
        let policy = self.policies.get_mut(target);
        policy.endpoints.insert(endpoint);
        let [ingress, egress] = policy.key.enforced;
        let now = EndpointPolicy { policy: target, ingress, egress, audit: policy.key.audit };
        let state = self.endpoints.get_mut(&endpoint).expect("only endpoints that exist are moved");
        let before = core::mem::replace(&mut state.policy, now);
        if before.policy != PolicyId::NONE {
            self.policies.get_mut(before.policy).endpoints.remove(&endpoint);
            txn.visible = true;
        }
        txn.delta.writes.push(Write::PutEndpoint(endpoint, now));
        before.policy
    }

    fn drop_policy_if_unused(&mut self, id: PolicyId, touched: &mut Touched, txn: &mut Txn) {
        if !self.policies.get(id).endpoints.is_empty() {
            return;
        }
        let tables: Vec<ClassId> =
            self.tables.range((id, ClassId(0))..=(id, ClassId(u32::MAX))).map(|((_, class), _)| *class).collect();
        for class in tables {
            self.delete_table(id, class, txn);
        }
        if let Some(policy) = self.policies.remove(id) {
            self.release_content(policy.content, touched);
        }
    }

    /// Rules of removed objects stay readable while a policy holds them; after a change none does.
    fn drop_orphan_rules(&mut self) {
        for id in core::mem::take(&mut self.unfiled) {
            self.rules.remove(&id);
        }
    }

    // ---- terms and classes --------------------------------------------------------------------------------------

    fn activate(&mut self, touched: &mut Touched, txn: &mut Txn) {
        self.activate_for(touched, &[], txn);
    }

    /// Makes peers answer the terms that came into use, and moves those that do so with yes.
    fn activate_for(&mut self, touched: &mut Touched, fresh: &[PolicyId], txn: &mut Txn) {
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
    fn hold_named_ports(&mut self, ports: Vec<NamedPort>) {
        for port in ports {
            let name = port.name.clone();
            let (id, _) = self.terms.acquire(Term::NamedPort(port));
            self.named_terms.entry(name).or_default().push(id);
        }
    }

    fn want_prefix(&mut self, prefix: Cidr, dirty: &mut BTreeSet<Peer>, txn: &mut Txn) {
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

    fn move_peers(&mut self, dirty: &BTreeSet<Peer>, may_rekey: bool, txn: &mut Txn) {
        self.move_peers_except(dirty, may_rekey, &[], txn);
    }

    /// Puts peers into the classes of their answers. With `may_rekey`, only new terms made answers change, so a class
    /// all of whose peers go the same way keeps its number.
    fn move_peers_except(&mut self, dirty: &BTreeSet<Peer>, may_rekey: bool, skip: &[PolicyId], txn: &mut Txn) {
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

    fn place(&mut self, peer: Peer, now: Option<ClassId>, target: ClassId, txn: &mut Txn) {
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
    fn identity_moved(&self, peer: &Peer) -> bool {
        match peer {
            Peer::Identity(_) => false,
            Peer::Prefix(prefix) => {
                let identity = self.facts.prefixes.get(prefix).map(|s| s.identity);
                self.written.get(prefix).copied() != identity
            }
        }
    }

    fn class_of_peer(&self, peer: &Peer) -> Option<ClassId> {
        match peer {
            Peer::Identity(id) => self.facts.identities.get(id).map(|s| s.class),
            Peer::Prefix(prefix) => self.facts.prefixes.get(prefix).and_then(|s| s.class),
        }
    }

    fn answers_of(&self, peer: &Peer) -> Vec<TermId> {
        match peer {
            Peer::Identity(id) => self.facts.identity_answers(&self.terms, *id),
            Peer::Prefix(prefix) => self.facts.prefix_answers(&self.terms, prefix, |l| self.is_outside(l)),
        }
    }

    /// Drops the terms nobody refers to any more and merges the classes that differed only in them.
    fn retire_terms(&mut self, touched: Touched, txn: &mut Txn) {
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

    fn unwant_prefix(&mut self, prefix: Cidr, unwanted: &mut BTreeSet<Cidr>, txn: &mut Txn) {
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

    fn merge_class(&mut self, class: ClassId, dead: &BTreeSet<TermId>, unwanted: &BTreeSet<Cidr>, txn: &mut Txn) {
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

    // ---- tables -------------------------------------------------------------------------------------------------

    fn change_in_place(&mut self, changed: &BTreeMap<PolicyId, (bool, BTreeSet<TermId>)>, txn: &mut Txn) {
        for (policy, (anyone, terms)) in changed {
            let classes: BTreeSet<ClassId> = if *anyone {
                self.classes.all().collect()
            } else {
                terms.iter().flat_map(|t| self.classes.of_term(*t)).collect()
            };
            let before = txn.delta.writes.len();
            for class in classes {
                self.refresh(*policy, class, txn);
            }
            txn.visible |= txn.delta.writes.len() != before;
        }
    }

    /// Computes the entries of a policy for a class and writes the difference.
    fn refresh(&mut self, policy: PolicyId, class: ClassId, txn: &mut Txn) {
        let mut made = Vec::new();
        let entries = {
            let content = &self.policies.get(policy).content;
            let filters = gather(content, self.classes.answers(class), &self.terms);
            let cookies = &mut self.cookies;
            let mut cookie_of = |origins: &[super::Origin]| {
                let id = cookies.of(origins);
                made.push(id);
                id
            };
            let mut entries = Entries::new();
            for direction in Direction::BOTH {
                let all = filters.iter().map(|(specific, f)| (*specific, f.as_ref()));
                flatten(direction, all, &mut cookie_of, &mut entries);
            }
            if !self.config.mutual_auth {
                for (_, value) in entries.iter_mut().filter(|(_, value)| value.auth.is_some()) {
                    value.verdict = Verdict::Deny;
                }
            }
            entries
        };
        self.replace_table(policy, class, entries, txn);
        for id in made {
            self.cookies.drop_unused(id);
        }
    }

    fn delete_table(&mut self, policy: PolicyId, class: ClassId, txn: &mut Txn) {
        self.replace_table(policy, class, Entries::new(), txn);
    }

    fn replace_table(&mut self, policy: PolicyId, class: ClassId, new: Entries, txn: &mut Txn) {
        let old = self.tables.remove(&(policy, class)).unwrap_or_default();
        for (_, value) in &new {
            self.cookies.take(value.cookie);
        }
        let key = |(direction, l4): &(Direction, L4Prefix)| EntryKey { policy, class, direction: *direction, l4: *l4 };
        let have = |list: &Entries, at: &(Direction, L4Prefix)| list.binary_search_by_key(at, |(k, _)| *k).ok();
        let mut puts: Vec<_> =
            new.iter().filter(|(k, v)| have(&old, k).is_none_or(|i| old[i].1 != *v)).copied().collect();
        puts.sort_by_key(|((_, l4), _)| core::cmp::Reverse(l4.bits));
        let mut deletes: Vec<_> = old.iter().filter(|(k, _)| have(&new, k).is_none()).map(|(k, _)| *k).collect();
        deletes.sort_by_key(|(_, l4)| l4.bits);
        txn.delta.writes.extend(puts.iter().map(|(k, v)| Write::PutEntry(key(k), *v)));
        txn.delta.writes.extend(deletes.iter().map(|k| Write::DeleteEntry(key(k))));
        for (_, value) in &old {
            self.cookies.give_back(value.cookie);
        }
        if !new.is_empty() {
            self.tables.insert((policy, class), new);
        }
    }

    fn finish(&mut self, mut txn: Txn) -> Delta {
        for class in core::mem::take(&mut txn.left) {
            if self.classes.exists(class) && self.classes.is_deserted(class) {
                for policy in self.policies.by_id.keys().copied().collect::<Vec<_>>() {
                    self.delete_table(policy, class, &mut txn);
                }
                self.classes.remove(class);
            }
        }
        self.cookies.trim();
        if txn.visible {
            self.revision = self.revision.next();
        }
        txn.delta.revision = self.revision;
        txn.delta
    }

    fn report_conflicts(&self, policy: PolicyId, txn: &mut Txn) {
        let content = &self.policies.get(policy).content;
        let mut seen: BTreeMap<(Direction, u8, PortRange), crate::delta::RedirectId> = BTreeMap::new();
        for filter in content.anyone.iter().chain(content.by_term.values().flatten()) {
            let (Some(redirect), FilterPorts::Range(protocol, ports)) = (filter.redirect, &filter.ports) else {
                continue;
            };
            let first = *seen.entry((filter.direction, *protocol, *ports)).or_insert(redirect);
            let parser = |id| self.redirect(id).map(|r| r.parser.clone());
            if let (true, Some(a), Some(b)) = (first != redirect, parser(first), parser(redirect))
                && a != b
            {
                txn.delta.conflicts.push(Conflict {
                    policy,
                    direction: filter.direction,
                    protocol: *protocol,
                    ports: *ports,
                    parsers: [a, b],
                });
            }
        }
        txn.delta.conflicts.dedup();
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

fn remove_one(items: &mut Vec<TermId>, item: TermId) {
    if let Some(at) = items.iter().position(|i| *i == item) {
        items.swap_remove(at);
    }
}

fn absorb(all: &mut Touched, mine: Touched) {
    all.activated.extend(mine.activated);
    all.terms.extend(mine.terms);
    all.anyone |= mine.anyone;
    all.names.extend(mine.names);
    all.released.extend(mine.released);
    all.released_names.extend(mine.released_names);
}

/// The filters of a policy that speak of a class; those about named ports with the ports the class has.
pub(super) fn gather<'c>(
    content: &'c Content,
    answers: &[TermId],
    terms: &super::Terms,
) -> Vec<(bool, alloc::borrow::Cow<'c, Filter>)> {
    let mut named: Vec<NamedPort> = Vec::new();
    let mut lists: Vec<(bool, &'c Vec<Filter>)> = alloc::vec![(false, &content.anyone)];
    for term in answers {
        if let Some(filters) = content.by_term.get(term) {
            lists.push((true, filters));
        }
        if let Term::NamedPort(port) = &**terms.term(*term) {
            named.push(port.clone());
        }
    }
    let mut found = Vec::new();
    for (specific, filters) in lists {
        for filter in filters {
            match &filter.ports {
                FilterPorts::Range(..) => found.push((specific, alloc::borrow::Cow::Borrowed(filter))),
                FilterPorts::NamedOfPeer(protocol, name) => {
                    for port in named.iter().filter(|p| p.name == *name && p.protocol == *protocol) {
                        let ports = FilterPorts::Range(protocol.number(), PortRange::single(port.port));
                        found.push((specific, alloc::borrow::Cow::Owned(Filter { ports, ..filter.clone() })));
                    }
                }
            }
        }
    }
    found
}
