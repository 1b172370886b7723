//! Cookies: small numbers for sets of deciding rules, as entries and events carry them.
//!
//! A cookie lives while an entry has it, and for some time after, so that events that are still under way can be told.

use super::policies::Origin;
use crate::delta::RuleCookie;
use alloc::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

/// How many cookies no entry has any more stay readable.
const RETIRED_MAX: usize = 4096;

#[derive(Debug, Clone)]
struct Slot {
    origins: Arc<[Origin]>,
    refs: u32,
}

/// All cookies.
#[derive(Debug, Clone, Default)]
pub(crate) struct Cookies {
    ids: BTreeMap<Arc<[Origin]>, RuleCookie>,
    slots: BTreeMap<RuleCookie, Slot>,
    retired: VecDeque<RuleCookie>,
    last: u32,
}

impl Cookies {
    /// The cookie of these rules (sorted). It must be taken or offered for retirement before the change ends.
    pub(crate) fn of(&mut self, origins: &[Origin]) -> RuleCookie {
        if origins.is_empty() {
            return RuleCookie::NONE;
        }
        if let Some(&id) = self.ids.get(origins) {
            return id;
        }
        let id = loop {
            self.last = self.last.wrapping_add(1).max(1);
            let id = RuleCookie::from_u32(self.last);
            if !self.slots.contains_key(&id) {
                break id;
            }
        };
        let origins: Arc<[Origin]> = Arc::from(origins);
        self.ids.insert(origins.clone(), id);
        self.slots.insert(id, Slot { origins, refs: 0 });
        id
    }

    pub(crate) fn take(&mut self, id: RuleCookie) {
        if let Some(slot) = self.slots.get_mut(&id) {
            slot.refs += 1;
        }
    }

    pub(crate) fn give_back(&mut self, id: RuleCookie) {
        if let Some(slot) = self.slots.get_mut(&id) {
            slot.refs -= 1;
            if slot.refs == 0 {
                self.retired.push_back(id);
            }
        }
    }

    /// Drops a cookie that was asked for and not taken.
    pub(crate) fn drop_unused(&mut self, id: RuleCookie) {
        if self.slots.get(&id).is_some_and(|s| s.refs == 0) && !self.retired.contains(&id) {
            self.forget(id);
        }
    }

    /// Forgets the oldest retired cookies beyond the bound.
    pub(crate) fn trim(&mut self) {
        while self.retired.len() > RETIRED_MAX {
            let Some(id) = self.retired.pop_front() else { break };
            if self.slots.get(&id).is_some_and(|s| s.refs == 0) {
                self.forget(id);
            }
        }
    }

    fn forget(&mut self, id: RuleCookie) {
        if let Some(slot) = self.slots.remove(&id) {
            self.ids.remove(&slot.origins);
        }
    }

    pub(crate) fn origins(&self, id: RuleCookie) -> Option<&Arc<[Origin]>> {
        self.slots.get(&id).map(|s| &s.origins)
    }
}
