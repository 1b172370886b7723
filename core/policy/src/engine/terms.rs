//! Terms: the questions rules in use ask about a peer, each held once.
//!
//! A term is a label selector, a prefix with exceptions, or "has this named port". Rules share terms; a term is in use
//! while a policy of this node refers to it. Peers with the same answers to all terms in use are one class.

use super::anchor::{AnchorIndex, insert_sorted, remove_sorted};
use crate::rule::CidrRule;
use alloc::{boxed::Box, collections::BTreeMap, sync::Arc, vec::Vec};
use types::{Cidr, Labels, Protocol, selector::Selector};

/// Number of a term.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct TermId(u32);

impl TermId {
    pub(crate) const fn slot(self) -> usize {
        self.0 as usize
    }
}

/// A question about a peer.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Term {
    /// Do its labels match?
    Labels(Selector),
    /// Is its address meant by one of these (sorted)? The prefixes of one rule are one question, however many they
    /// are: peers all of them mean are one class.
    Cidrs(Vec<CidrRule>),
    /// Is its port of this name this one?
    NamedPort(NamedPort),
}

/// A port a workload gives a name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NamedPort {
    /// The name, in lower case.
    pub name: Box<str>,
    /// Its protocol.
    pub protocol: Protocol,
    /// Its number.
    pub port: u16,
}

#[derive(Debug, Clone)]
struct Slot {
    term: Arc<Term>,
    refs: u32,
}

/// All terms in use.
#[derive(Debug, Clone, Default)]
pub(crate) struct Terms {
    slots: Vec<Option<Slot>>,
    free: Vec<u32>,
    ids: BTreeMap<Arc<Term>, TermId>,
    labels: AnchorIndex<TermId>,
    /// Terms and the index of their rule, by prefix.
    cidrs: BTreeMap<Cidr, Vec<(TermId, u32)>>,
    /// How many prefixes of each length are in `cidrs`: IPv4 first, then IPv6.
    lengths: BTreeMap<(bool, u8), u32>,
    /// How often each port name is used by egress rules.
    names: BTreeMap<Box<str>, u32>,
}

impl Terms {
    /// Takes one more reference to a term; true if it was not in use before.
    pub(crate) fn acquire(&mut self, term: Term) -> (TermId, bool) {
        if let Some(&id) = self.ids.get(&term) {
            self.slot_mut(id).refs += 1;
            return (id, false);
        }
        let number = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            u32::try_from(self.slots.len() - 1).expect("fewer than 2^32 terms fit in memory")
        });
        let id = TermId(number);
        let term = Arc::new(term);
        match &*term {
            Term::Labels(selector) => self.labels.insert(selector, id),
            Term::Cidrs(rules) => {
                for (rule, index) in rules.iter().zip(0..) {
                    insert_sorted(self.cidrs.entry(rule.cidr).or_default(), (id, index));
                    *self.lengths.entry((rule.cidr.is_ipv4(), rule.cidr.bits())).or_default() += 1;
                }
            }
            Term::NamedPort(_) => {}
        }
        self.slots[id.slot()] = Some(Slot { term: term.clone(), refs: 1 });
        self.ids.insert(term, id);
        (id, true)
    }

    /// Gives a reference back; true if it was the last. The term stays readable until [`Terms::forget`].
    pub(crate) fn release(&mut self, id: TermId) -> bool {
        let slot = self.slot_mut(id);
        slot.refs -= 1;
        slot.refs == 0
    }

    pub(crate) fn in_use(&self, id: TermId) -> bool {
        self.slots.get(id.slot()).and_then(Option::as_ref).is_some_and(|s| s.refs > 0)
    }

    /// Drops a term without references.
    pub(crate) fn forget(&mut self, id: TermId) {
        let Some(slot) = self.slots[id.slot()].take() else { return };
        match &*slot.term {
            Term::Labels(selector) => self.labels.remove(selector, id),
            Term::Cidrs(rules) => {
                for (rule, index) in rules.iter().zip(0..) {
                    self.unfile_cidr(rule.cidr, (id, index));
                }
            }
            Term::NamedPort(_) => {}
        }
        self.ids.remove(&slot.term);
        self.free.push(id.0);
    }

    fn unfile_cidr(&mut self, cidr: Cidr, place: (TermId, u32)) {
        if let Some(places) = self.cidrs.get_mut(&cidr) {
            remove_sorted(places, place);
            if places.is_empty() {
                self.cidrs.remove(&cidr);
            }
        }
        let length = (cidr.is_ipv4(), cidr.bits());
        if let Some(count) = self.lengths.get_mut(&length) {
            *count -= 1;
            if *count == 0 {
                self.lengths.remove(&length);
            }
        }
    }

    pub(crate) fn term(&self, id: TermId) -> &Arc<Term> {
        &self.slots[id.slot()].as_ref().expect("a term id is only handed out while the term is held").term
    }

    fn slot_mut(&mut self, id: TermId) -> &mut Slot {
        self.slots[id.slot()].as_mut().expect("a term id is only handed out while the term is held")
    }

    /// The label terms that match, sorted.
    pub(crate) fn of_labels(&self, labels: &Labels) -> Vec<TermId> {
        let mut found = Vec::new();
        self.labels.candidates(labels, |id| {
            if let Term::Labels(selector) = &**self.term(id)
                && selector.matches(labels)
            {
                found.push(id);
            }
        });
        found.sort_unstable();
        found.dedup();
        found
    }

    /// Calls `found` with every rule of a prefix term that means `prefix`; a term may come more than once.
    pub(crate) fn of_prefix(&self, prefix: &Cidr, mut found: impl FnMut(TermId, &CidrRule)) {
        let range = (prefix.is_ipv4(), 0)..=(prefix.is_ipv4(), prefix.bits());
        for &(_, bits) in self.lengths.range(range).map(|(k, _)| k) {
            let outer = Cidr::containing(prefix.addr(), bits).expect("the length is no longer than the prefix's own");
            for &(id, index) in self.cidrs.get(&outer).into_iter().flatten() {
                if let Term::Cidrs(rules) = &**self.term(id)
                    && let Some(rule) = rules.get(index as usize)
                    && rule.covers(prefix)
                {
                    found(id, rule);
                }
            }
        }
    }

    /// The term of a named port, if it is in use.
    pub(crate) fn named_port(&self, port: &NamedPort) -> Option<TermId> {
        self.ids.get(&Term::NamedPort(port.clone())).copied()
    }

    /// One more egress rule uses this port name; true if it is the first.
    pub(crate) fn use_name(&mut self, name: &str) -> bool {
        let count = self.names.entry(name.into()).or_default();
        *count += 1;
        *count == 1
    }

    /// One egress rule less uses this port name; true if it was the last.
    pub(crate) fn drop_name(&mut self, name: &str) -> bool {
        let Some(count) = self.names.get_mut(name) else { return false };
        *count -= 1;
        let last = *count == 0;
        if last {
            self.names.remove(name);
        }
        last
    }

    pub(crate) fn name_in_use(&self, name: &str) -> bool {
        self.names.contains_key(name)
    }

    pub(crate) fn len(&self) -> usize {
        self.ids.len()
    }
}
