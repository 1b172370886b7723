//! Entries of a policy for a class: computed, compared with what is there, written in a safe order.

use super::{
    Conflict, Engine,
    commit::Txn,
    flatten::{Entries, flatten},
    policies::{Content, Filter, FilterPorts},
    terms::{NamedPort, Term, TermId},
};
use crate::{
    delta::{ClassId, Delta, EntryKey, L4Prefix, PolicyId, Verdict, Write},
    rule::{Direction, PortRange},
};
use alloc::{
    collections::{BTreeMap, BTreeSet},
    vec::Vec,
};

impl Engine {
    pub(super) fn change_in_place(&mut self, changed: &BTreeMap<PolicyId, (bool, BTreeSet<TermId>)>, txn: &mut Txn) {
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
    pub(super) fn refresh(&mut self, policy: PolicyId, class: ClassId, txn: &mut Txn) {
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

    pub(super) fn delete_table(&mut self, policy: PolicyId, class: ClassId, txn: &mut Txn) {
        self.replace_table(policy, class, Entries::new(), txn);
    }

    pub(super) fn replace_table(&mut self, policy: PolicyId, class: ClassId, new: Entries, txn: &mut Txn) {
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

    pub(super) fn finish(&mut self, mut txn: Txn) -> Delta {
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

    pub(super) fn report_conflicts(&self, policy: PolicyId, txn: &mut Txn) {
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
