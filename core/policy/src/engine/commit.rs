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

use super::{Engine, compile::Touched, policies::PolicyKey};
use crate::{
    delta::{ClassId, Delta, EndpointPolicy, PolicyId, Write},
    rule::{Peer as RulePeer, Peers},
};
use alloc::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    vec::Vec,
};
use types::EndpointId;

/// A change under way.
#[derive(Debug, Default)]
pub(super) struct Txn {
    pub(super) delta: Delta,
    /// Something a packet could see has changed.
    pub(super) visible: bool,
    /// Classes peers have left.
    pub(super) left: BTreeSet<ClassId>,
}

impl Engine {
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
            let again: Vec<_> = key.rules.iter().filter(|r| rules.contains(r)).copied().collect();
            self.change_rules(&key, &again, &again, &mut content, &mut mine);
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
    pub(super) fn plan_in_place(
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

    pub(super) fn update_content(&mut self, id: PolicyId, old: &PolicyKey, new: &PolicyKey) -> Touched {
        let mut touched = Touched::default();
        let requires = self.requirements(new);
        let mut content = core::mem::take(&mut self.policies.get_mut(id).content);
        if content.requires == requires {
            let gone: Vec<_> = old.rules.iter().filter(|r| new.rules.binary_search(r).is_err()).copied().collect();
            let come: Vec<_> = new.rules.iter().filter(|r| old.rules.binary_search(r).is_err()).copied().collect();
            self.change_rules(new, &gone, &come, &mut content, &mut touched);
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

    pub(super) fn flip(&mut self, endpoint: EndpointId, target: PolicyId, txn: &mut Txn) -> PolicyId {
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

    pub(super) fn drop_policy_if_unused(&mut self, id: PolicyId, touched: &mut Touched, txn: &mut Txn) {
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
    pub(super) fn drop_orphan_rules(&mut self) {
        for id in core::mem::take(&mut self.unfiled) {
            self.rules.remove(&id);
        }
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
