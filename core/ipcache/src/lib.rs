//! Which identity stands behind an address.
//!
//! Why: several parties speak about the same address: the node about itself, its endpoints, other nodes through the
//! key-value store, policies that name a prefix. The best informed one is believed ([`Source`]), and when it falls
//! silent the next one is.
//!
//! Never: knows classes or maps (the policy engine and the agent do).
#![no_std]
#![forbid(unsafe_code)]
extern crate alloc;

mod sync;

pub use sync::{Announcement, Config, Effect, Input, Sync};

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use core::fmt;
use core::net::IpAddr;

use types::{Cidr, NumericIdentity};

/// Who says so; a greater one is believed rather than a smaller one (reference: ipcache sources).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// Policy names the prefix.
    Generated,
    /// Another node, through the key-value store.
    KvStore,
    /// This node knows: itself and its endpoints.
    Local,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Generated => "generated",
            Self::KvStore => "kvstore",
            Self::Local => "agent-local",
        })
    }
}

/// What is said about a prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its identity.
    pub identity: NumericIdentity,
    /// The node it is on, if that is another one.
    pub host: Option<IpAddr>,
    /// Namespace and name of the pod.
    pub pod: Option<(Box<str>, Box<str>)>,
}

impl Entry {
    /// An identity, and nothing more.
    pub const fn of(identity: NumericIdentity) -> Self {
        Self { identity, host: None, pod: None }
    }
}

/// What everyone says about every prefix.
#[derive(Debug, Clone, Default)]
pub struct Ipcache {
    prefixes: BTreeMap<Cidr, BTreeMap<Source, Entry>>,
}

impl Ipcache {
    /// Nobody says anything.
    pub fn new() -> Self {
        Self::default()
    }

    /// What is believed about a prefix, and who says so.
    pub fn entry(&self, prefix: &Cidr) -> Option<(Source, &Entry)> {
        self.prefixes.get(prefix)?.last_key_value().map(|(source, entry)| (*source, entry))
    }

    /// Takes a statement. Returns what is believed now, if that changed.
    pub fn upsert(&mut self, prefix: Cidr, source: Source, entry: Entry) -> Option<&Entry> {
        let said = self.prefixes.entry(prefix).or_default();
        let before = said.last_key_value().map(|(_, entry)| entry.clone());
        said.insert(source, entry);
        let (_, now) = said.last_key_value()?;
        if before.as_ref() == Some(now) { None } else { Some(now) }
    }

    /// Takes a statement back. Returns what is believed now, if that changed: `Some(None)` is nothing any more.
    pub fn remove(&mut self, prefix: Cidr, source: Source) -> Option<Option<&Entry>> {
        let said = self.prefixes.get_mut(&prefix)?;
        let before = said.last_key_value().map(|(_, entry)| entry.clone());
        said.remove(&source)?;
        if said.is_empty() {
            self.prefixes.remove(&prefix);
            return Some(None);
        }
        let now = self.entry(&prefix).map(|(_, entry)| entry);
        if before.as_ref() == now { None } else { Some(now) }
    }

    /// Everything that is believed, ordered by prefix.
    pub fn iter(&self) -> impl Iterator<Item = (Cidr, Source, &Entry)> {
        self.prefixes
            .iter()
            .filter_map(|(prefix, said)| said.last_key_value().map(|(source, entry)| (*prefix, *source, entry)))
    }

    /// What is believed about the longest prefix that holds an address.
    pub fn lookup(&self, addr: IpAddr) -> Option<(Cidr, Source, &Entry)> {
        let mut prefix = Some(Cidr::host(addr));
        while let Some(at) = prefix {
            if let Some((source, entry)) = self.entry(&at) {
                return Some((at, source, entry));
            }
            prefix = at.parent();
        }
        None
    }

    /// How many prefixes there are.
    pub fn len(&self) -> usize {
        self.prefixes.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.prefixes.is_empty()
    }
}

#[cfg(test)]
mod tests;
