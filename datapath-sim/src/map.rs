//! BPF maps on plain memory, with the semantics the kernel gives them.
//!
//! What differs from the kernel is what must: iteration is in key order (a run has to repeat), and an LRU map
//! evicts exactly the least recently used entry, where the kernel evicts one of the least recently used ones.

mod hash;
mod lpm;
mod lru;

pub use hash::Hash;
pub use lpm::{Lpm, LpmKey};
pub use lru::Lru;

/// Why the kernel refuses a write (errno of `bpf(2)`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MapError {
    /// `E2BIG` (hash) or `ENOSPC` (LPM): as many entries as the map may hold.
    Full,
    /// `ENOENT`: no such entry.
    NoEntry,
    /// `EEXIST`: there is an entry, and none was wanted.
    Exists,
    /// `EINVAL`: a prefix longer than the key.
    Invalid,
}

/// What an update wants to find (flags of `bpf_map_update_elem`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Update {
    /// `BPF_ANY`
    #[default]
    Any,
    /// `BPF_NOEXIST`
    NoExist,
    /// `BPF_EXIST`
    Exist,
}

impl Update {
    /// Whether an update may go on where an entry is (`there`) or is not.
    pub(crate) fn admits(self, there: bool) -> Result<(), MapError> {
        match (self, there) {
            (Self::NoExist, true) => Err(MapError::Exists),
            (Self::Exist, false) => Err(MapError::NoEntry),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
