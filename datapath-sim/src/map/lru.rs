//! `BPF_MAP_TYPE_LRU_HASH`.

use std::collections::BTreeMap;

use super::{MapError, Update};

/// A hash map that makes room by dropping what was used least recently.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lru<K, V> {
    entries: BTreeMap<K, (u64, V)>,
    by_use: BTreeMap<u64, K>,
    tick: u64,
    max_entries: u32,
    evicted: u64,
}

impl<K: Ord + Copy, V> Lru<K, V> {
    /// An empty map for `max_entries` entries.
    pub fn new(max_entries: u32) -> Self {
        Self { entries: BTreeMap::new(), by_use: BTreeMap::new(), tick: 0, max_entries, evicted: 0 }
    }
    /// `bpf_map_lookup_elem` from a program: counts as a use, and the value may be written through.
    pub fn lookup_mut(&mut self, key: &K) -> Option<&mut V> {
        self.tick += 1;
        let (used, value) = self.entries.get_mut(key)?;
        self.by_use.remove(used);
        *used = self.tick;
        self.by_use.insert(self.tick, *key);
        Some(value)
    }
    /// Looks without counting as a use (as the system call does).
    pub fn peek(&self, key: &K) -> Option<&V> {
        self.entries.get(key).map(|(_, value)| value)
    }
    /// `bpf_map_update_elem`. Never refuses for lack of room, unless the map has none at all.
    pub fn update(&mut self, key: K, value: V, mode: Update) -> Result<(), MapError> {
        let there = self.entries.contains_key(&key);
        mode.admits(there)?;
        if self.max_entries == 0 {
            return Err(MapError::Full);
        }
        if there {
            self.delete(&key)?;
        } else if self.entries.len() >= self.max_entries as usize
            && let Some((_, oldest)) = self.by_use.pop_first()
        {
            self.entries.remove(&oldest);
            self.evicted += 1;
        }
        self.tick += 1;
        self.entries.insert(key, (self.tick, value));
        self.by_use.insert(self.tick, key);
        Ok(())
    }
    /// `bpf_map_delete_elem`
    pub fn delete(&mut self, key: &K) -> Result<(), MapError> {
        let (used, _) = self.entries.remove(key).ok_or(MapError::NoEntry)?;
        self.by_use.remove(&used);
        Ok(())
    }
    /// All entries, in key order; not a use.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.entries.iter().map(|(key, (_, value))| (key, value))
    }
    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
    /// How many entries were dropped to make room, since the map was made.
    pub fn evicted(&self) -> u64 {
        self.evicted
    }
}
