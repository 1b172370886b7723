//! Node-local identities of prefixes.
//!
//! Invariant: a prefix has at most one number and a number at most one prefix; both live while anyone refers to them.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};
use types::{Cidr, Label, Labels, NumericIdentity};

/// Why a prefix gets no number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LocalRefusal {
    /// All numbers, or as many as configured, are in use.
    #[error("{max} node-local identities are in use, which is the limit; {prefix} stays part of the world")]
    Exhausted {
        /// The prefix.
        prefix: Cidr,
        /// The bound.
        max: usize,
    },
}

/// A number as it is kept over restarts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedLocal {
    /// The prefix.
    pub prefix: Cidr,
    /// Its number.
    pub id: NumericIdentity,
}

/// The node-local identities.
#[derive(Debug, Clone)]
pub struct Local {
    by_prefix: BTreeMap<Cidr, (NumericIdentity, usize)>,
    by_number: BTreeMap<NumericIdentity, Cidr>,
    /// Numbers of an earlier life that nobody has asked for again yet.
    remembered: BTreeMap<Cidr, NumericIdentity>,
    next: u32,
    max: usize,
    world: World,
}

/// Which of the world's labels prefixes outside the cluster carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum World {
    /// `reserved:world`
    Single,
    /// `reserved:world-ipv4` and `reserved:world-ipv6`
    Dual,
}

impl Local {
    /// None yet; at most `max`. `dual_stack`: both address families are enabled.
    pub const fn new(max: usize, dual_stack: bool) -> Self {
        Self {
            by_prefix: BTreeMap::new(),
            by_number: BTreeMap::new(),
            remembered: BTreeMap::new(),
            next: NumericIdentity::MIN_LOCAL.as_u32(),
            max,
            world: if dual_stack { World::Dual } else { World::Single },
        }
    }

    /// Keeps numbers of an earlier life for the prefixes they belonged to. Numbers outside of the local range are ignored.
    pub fn remember(&mut self, saved: impl IntoIterator<Item = SavedLocal>) {
        for SavedLocal { prefix, id } in saved {
            if (NumericIdentity::MIN_LOCAL..=NumericIdentity::MAX_LOCAL).contains(&id) {
                self.remembered.insert(prefix, id);
            }
        }
    }

    /// Frees the numbers that nobody asked for again.
    pub fn forget_remembered(&mut self) {
        self.remembered.clear();
    }

    /// The number of a prefix, with one reference more.
    pub fn acquire(&mut self, prefix: Cidr) -> Result<NumericIdentity, LocalRefusal> {
        if let Some((number, references)) = self.by_prefix.get_mut(&prefix) {
            *references += 1;
            return Ok(*number);
        }
        if self.by_prefix.len() >= self.max {
            return Err(LocalRefusal::Exhausted { prefix, max: self.max });
        }
        let known = self.remembered.remove(&prefix).filter(|number| !self.by_number.contains_key(number));
        let number = match known {
            Some(number) => number,
            None => self.free().ok_or(LocalRefusal::Exhausted { prefix, max: self.max })?,
        };
        self.by_number.insert(number, prefix);
        self.by_prefix.insert(prefix, (number, 1));
        Ok(number)
    }

    fn free(&mut self) -> Option<NumericIdentity> {
        let (min, max) = (NumericIdentity::MIN_LOCAL.as_u32(), NumericIdentity::MAX_LOCAL.as_u32());
        let free = |number: &NumericIdentity| {
            !self.by_number.contains_key(number) && self.remembered.values().all(|kept| kept != number)
        };
        let number = (self.next..=max).chain(min..self.next).map(NumericIdentity::new).find(free)?;
        self.next = if number.as_u32() == max { min } else { number.as_u32() + 1 };
        Some(number)
    }

    /// One reference less. Returns the number if it was the last.
    pub fn release(&mut self, prefix: Cidr) -> Option<NumericIdentity> {
        let (number, references) = self.by_prefix.get_mut(&prefix)?;
        *references -= 1;
        if *references > 0 {
            return None;
        }
        let number = *number;
        self.by_prefix.remove(&prefix);
        self.by_number.remove(&number);
        Some(number)
    }

    /// The labels of a prefix's identity.
    pub fn labels(&self, prefix: Cidr) -> Labels {
        let world = match (self.world, prefix.is_ipv4()) {
            (World::Single, _) => "world",
            (World::Dual, true) => "world-ipv4",
            (World::Dual, false) => "world-ipv6",
        };
        [Label::cidr(prefix.addr(), prefix.bits()), Label::reserved(world)].into_iter().collect()
    }

    /// The prefix of a number.
    pub fn prefix(&self, number: NumericIdentity) -> Option<Cidr> {
        self.by_number.get(&number).copied()
    }

    /// All numbers with their prefixes and references, ordered by prefix.
    pub fn iter(&self) -> impl Iterator<Item = (Cidr, NumericIdentity, usize)> + '_ {
        self.by_prefix.iter().map(|(prefix, (number, references))| (*prefix, *number, *references))
    }

    /// What to keep over restarts.
    pub fn save(&self) -> Vec<SavedLocal> {
        self.iter().map(|(prefix, id, _)| SavedLocal { prefix, id }).collect()
    }
}
