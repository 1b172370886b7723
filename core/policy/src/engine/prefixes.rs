//! Prefixes, found by address and by number.
//!
//! Why numbers: a class may hold thousands of prefixes, and a set of numbers is a bitmap. A number is reused after its
//! prefix has gone, so nothing may keep it longer than the prefix is here.

use super::{facts::bounds, terms::NamedPort};
use crate::delta::ClassId;
use alloc::{collections::BTreeMap, sync::Arc, vec::Vec};
use types::{Cidr, NumericIdentity};

/// Number of a prefix that is here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PrefixId(u32);

impl PrefixId {
    pub(crate) const fn as_u32(self) -> u32 {
        self.0
    }

    /// The number out of a bitmap.
    pub(crate) const fn from_u32(number: u32) -> Self {
        Self(number)
    }
}

/// A prefix.
#[derive(Debug, Clone)]
pub(crate) struct PrefixState {
    pub(crate) cidr: Cidr,
    /// What was said of it.
    pub(crate) told: Option<(NumericIdentity, Arc<[NamedPort]>)>,
    /// How many terms in use name it.
    pub(crate) wanted: u32,
    /// Its identity, told or inherited.
    pub(crate) identity: NumericIdentity,
    /// Its class; `None` until it is written.
    pub(crate) class: Option<ClassId>,
    /// The identity the ipcache shows for it, once it is written.
    pub(crate) shown: NumericIdentity,
    /// Its neighbours in the list of its identity's prefixes, once it is in one.
    pub(crate) place: Option<Place>,
}

/// A place in a list of prefixes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    pub(crate) before: Option<PrefixId>,
    pub(crate) after: Option<PrefixId>,
}

impl PrefixState {
    pub(crate) const fn new(cidr: Cidr) -> Self {
        let identity = NumericIdentity::UNKNOWN;
        Self { cidr, told: None, wanted: 0, identity, class: None, shown: identity, place: None }
    }
}

/// All prefixes.
#[derive(Debug, Clone, Default)]
pub(crate) struct Prefixes {
    ids: BTreeMap<Cidr, PrefixId>,
    slots: Vec<Option<PrefixState>>,
    free: Vec<u32>,
}

impl Prefixes {
    pub(crate) fn id(&self, cidr: &Cidr) -> Option<PrefixId> {
        self.ids.get(cidr).copied()
    }

    /// The prefix of a number.
    pub(crate) fn state(&self, id: PrefixId) -> &PrefixState {
        self.slots[id.0 as usize].as_ref().expect("a prefix's number is only held while the prefix is here")
    }

    pub(crate) fn state_mut(&mut self, id: PrefixId) -> &mut PrefixState {
        self.slots[id.0 as usize].as_mut().expect("a prefix's number is only held while the prefix is here")
    }

    pub(crate) fn get(&self, cidr: &Cidr) -> Option<&PrefixState> {
        self.id(cidr).map(|id| self.state(id))
    }

    /// The number of a prefix; one that is not here is made.
    pub(crate) fn id_or_new(&mut self, cidr: Cidr) -> PrefixId {
        if let Some(id) = self.id(&cidr) {
            return id;
        }
        let number = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            u32::try_from(self.slots.len() - 1).expect("fewer than 2^32 prefixes fit in memory")
        });
        self.slots[number as usize] = Some(PrefixState::new(cidr));
        self.ids.insert(cidr, PrefixId(number));
        PrefixId(number)
    }

    pub(crate) fn remove(&mut self, id: PrefixId) -> Option<PrefixState> {
        let state = self.slots[id.0 as usize].take()?;
        self.ids.remove(&state.cidr);
        self.free.push(id.0);
        Some(state)
    }

    /// The list that begins with a prefix.
    pub(crate) fn list(&self, first: Option<PrefixId>) -> impl Iterator<Item = PrefixId> + '_ {
        core::iter::successors(first, |id| self.state(*id).place.and_then(|place| place.after))
    }

    /// The prefixes inside `outer`, itself included, in the order of addresses.
    pub(crate) fn inside(&self, outer: &Cidr) -> impl Iterator<Item = (PrefixId, &PrefixState)> {
        let inside = self.ids.range(bounds(outer)).filter(|(cidr, _)| outer.covers(cidr));
        inside.map(|(_, id)| (*id, self.state(*id)))
    }

    /// Every prefix, in the order of addresses.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &PrefixState> {
        self.ids.values().map(|id| self.state(*id))
    }

    pub(crate) fn len(&self) -> usize {
        self.ids.len()
    }
}
