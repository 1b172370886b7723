//! `BPF_MAP_TYPE_HASH`.

use std::collections::BTreeMap;

use super::{MapError, Update};

/// A hash map that refuses to grow past its bound.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hash<K, V> {
    entries: BTreeMap<K, V>,
    max_entries: u32,
}

impl<K: Ord + Copy, V> Hash<K, V> {
    /// An empty map for `max_entries` entries.
    pub fn new(max_entries: u32) -> Self {
        Self { entries: BTreeMap::new(), max_entries }
    }
    /// `bpf_map_lookup_elem`
    pub fn lookup(&self, key: &K) -> Option<&V> {
        self.entries.get(key)
    }
    /// `bpf_map_lookup_elem`, to write through.
    pub fn lookup_mut(&mut self, key: &K) -> Option<&mut V> {
        self.entries.get_mut(key)
    }
    /// `bpf_map_update_elem`. A new entry in a full map is refused; a known one is replaced.
    pub fn update(&mut self, key: K, value: V, mode: Update) -> Result<(), MapError> {
        let there = self.entries.contains_key(&key);
        mode.admits(there)?;
        if !there && self.entries.len() >= self.max_entries as usize {
            return Err(MapError::Full);
        }
        self.entries.insert(key, value);
        Ok(())
    }
    /// `bpf_map_delete_elem`
    pub fn delete(&mut self, key: &K) -> Result<(), MapError> {
        self.entries.remove(key).map(drop).ok_or(MapError::NoEntry)
    }
    /// All entries, in key order.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.entries.iter()
    }
    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}
