//! Finds the selectors that match a set of labels without trying them all.
//!
//! Each selector is filed under one thing a match cannot do without: a label's key and value, a key, or, where it
//! demands no key at all, under nothing. Labels then meet only selectors filed under what they hold. Where a selector
//! offers several places, the one with the fewest selectors is taken.

use alloc::{boxed::Box, collections::BTreeMap, vec::Vec};
use types::{
    Labels,
    selector::{Demand, Requirement, Selector},
};

/// An index from labels to items filed under a selector.
#[derive(Debug, Clone)]
pub(crate) struct AnchorIndex<T> {
    by_label: BTreeMap<(Box<str>, Box<str>), Vec<T>>,
    by_key: BTreeMap<Box<str>, Vec<T>>,
    anywhere: Vec<T>,
}

impl<T> Default for AnchorIndex<T> {
    fn default() -> Self {
        Self { by_label: BTreeMap::new(), by_key: BTreeMap::new(), anywhere: Vec::new() }
    }
}

impl<T: Copy + Ord> AnchorIndex<T> {
    /// Files an item under its selector.
    pub(crate) fn insert(&mut self, selector: &Selector, item: T) {
        match self.best_anchor(selector) {
            None => insert_sorted(&mut self.anywhere, item),
            Some(requirement) => self.file(requirement, item),
        }
    }

    /// Takes an item out again. Where it was filed depends on when, so every possible place is looked at.
    pub(crate) fn remove(&mut self, selector: &Selector, item: T) {
        remove_sorted(&mut self.anywhere, item);
        for requirement in selector.requirements() {
            let key = &requirement.key.key;
            match &requirement.demand {
                Demand::In(values) => {
                    for value in values {
                        let place = (key.clone(), value.clone());
                        if let Some(items) = self.by_label.get_mut(&place) {
                            remove_sorted(items, item);
                            if items.is_empty() {
                                self.by_label.remove(&place);
                            }
                        }
                    }
                }
                Demand::Exists => {
                    if let Some(items) = self.by_key.get_mut(key) {
                        remove_sorted(items, item);
                        if items.is_empty() {
                            self.by_key.remove(key);
                        }
                    }
                }
                Demand::NotIn(_) | Demand::Absent => {}
            }
        }
    }

    /// Calls `found` with every item whose selector may match; each once.
    pub(crate) fn candidates(&self, labels: &Labels, mut found: impl FnMut(T)) {
        self.anywhere.iter().copied().for_each(&mut found);
        let mut place = (Box::<str>::default(), Box::<str>::default());
        for label in labels {
            if let Some(items) = self.by_key.get(label.key()) {
                items.iter().copied().for_each(&mut found);
            }
            place.0 = label.key().into();
            place.1 = label.value().into();
            if let Some(items) = self.by_label.get(&place) {
                items.iter().copied().for_each(&mut found);
            }
        }
    }

    fn best_anchor<'s>(&self, selector: &'s Selector) -> Option<&'s Requirement> {
        let crowd = |r: &Requirement| match &r.demand {
            Demand::In(values) => Some(
                values
                    .iter()
                    .map(|v| 1 + self.by_label.get(&(r.key.key.clone(), v.clone())).map_or(0, Vec::len))
                    .sum::<usize>(),
            ),
            Demand::Exists => Some(1 + self.by_key.get(&r.key.key).map_or(0, Vec::len)),
            Demand::NotIn(_) | Demand::Absent => None,
        };
        // Containment of prefixes is not a question of equal keys.
        let usable = |r: &&Requirement| &*r.key.source != types::labels::CIDR;
        let ranked = selector.requirements().iter().filter(usable).filter_map(|r| Some((crowd(r)?, r)));
        ranked.min_by_key(|(crowd, _)| *crowd).map(|(_, r)| r)
    }

    fn file(&mut self, requirement: &Requirement, item: T) {
        let key = &requirement.key.key;
        match &requirement.demand {
            Demand::In(values) => {
                for value in values {
                    insert_sorted(self.by_label.entry((key.clone(), value.clone())).or_default(), item);
                }
            }
            _ => insert_sorted(self.by_key.entry(key.clone()).or_default(), item),
        }
    }
}

pub(crate) fn insert_sorted<T: Ord>(items: &mut Vec<T>, item: T) {
    if let Err(at) = items.binary_search(&item) {
        items.insert(at, item);
    }
}

pub(crate) fn remove_sorted<T: Ord>(items: &mut Vec<T>, item: T) {
    if let Ok(at) = items.binary_search(&item) {
        items.remove(at);
    }
}
