//! `BPF_MAP_TYPE_LPM_TRIE`.

use std::collections::BTreeMap;

use abi::ipcache::IpcacheKey;
use abi::lb::{IpMasqKey4, IpMasqKey6, LbSourceRange4, LbSourceRange6};
use abi::policy::PolicyKey;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::{MapError, Update};

/// A key that begins with its prefix length as a `u32`, as the kernel demands.
pub trait LpmKey: IntoBytes + FromBytes + Immutable + Copy {}
impl LpmKey for IpcacheKey {}
impl LpmKey for PolicyKey {}
impl LpmKey for LbSourceRange4 {}
impl LpmKey for LbSourceRange6 {}
impl LpmKey for IpMasqKey4 {}
impl LpmKey for IpMasqKey6 {}

/// Longest prefix match, done the slow and obvious way: one ordered map for each prefix length.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lpm<K, V> {
    by_length: BTreeMap<u32, BTreeMap<Vec<u8>, (K, V)>>,
    len: usize,
    max_entries: u32,
}

impl<K: LpmKey, V> Lpm<K, V> {
    /// An empty map for `max_entries` entries.
    pub fn new(max_entries: u32) -> Self {
        Self { by_length: BTreeMap::new(), len: 0, max_entries }
    }
    /// `bpf_map_lookup_elem`: the entry with the longest prefix that covers the key, and is no longer than it.
    pub fn lookup(&self, key: &K) -> Option<&V> {
        let (bits, data) = split(key);
        self.by_length
            .range(..=bits)
            .rev()
            .find_map(|(length, entries)| entries.get(&masked(data, *length)).map(|(_, value)| value))
    }
    /// The entry of exactly this prefix.
    pub fn exact(&self, key: &K) -> Option<&V> {
        let (bits, data) = split(key);
        self.by_length.get(&bits)?.get(&masked(data, bits)).map(|(_, value)| value)
    }
    /// `bpf_map_update_elem`
    pub fn update(&mut self, key: K, value: V, mode: Update) -> Result<(), MapError> {
        let (bits, data) = split(&key);
        if bits as usize > data.len() * 8 {
            return Err(MapError::Invalid);
        }
        let there = self.exact(&key).is_some();
        mode.admits(there)?;
        if !there && self.len >= self.max_entries as usize {
            return Err(MapError::Full);
        }
        self.len += usize::from(!there);
        self.by_length.entry(bits).or_default().insert(masked(data, bits), (key, value));
        Ok(())
    }
    /// `bpf_map_delete_elem`
    pub fn delete(&mut self, key: &K) -> Result<(), MapError> {
        let (bits, data) = split(key);
        let entries = self.by_length.get_mut(&bits).ok_or(MapError::NoEntry)?;
        entries.remove(&masked(data, bits)).ok_or(MapError::NoEntry)?;
        if entries.is_empty() {
            self.by_length.remove(&bits);
        }
        self.len -= 1;
        Ok(())
    }
    /// All entries, shortest prefixes first.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.by_length.values().flat_map(|entries| entries.values().map(|(key, value)| (key, value)))
    }
    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.len
    }
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

/// The prefix length and the bytes behind it.
fn split<K: LpmKey>(key: &K) -> (u32, &[u8]) {
    let (bits, data) = key.as_bytes().split_first_chunk::<4>().expect("an LPM key has a prefix length");
    (u32::from_ne_bytes(*bits), data)
}

/// `data` with all bits behind the first `bits` cleared.
fn masked(data: &[u8], bits: u32) -> Vec<u8> {
    let mask = |i: usize| match (bits as usize).saturating_sub(i * 8) {
        0 => 0,
        left @ 1..8 => 0xff_u8 << (8 - left),
        _ => 0xff,
    };
    data.iter().enumerate().map(|(i, byte)| byte & mask(i)).collect()
}
