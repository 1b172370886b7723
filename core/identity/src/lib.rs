//! Numbers for sets of labels.
//!
//! Why: packets cannot carry labels, so every set of labels that matters gets a number the whole cluster agrees on
//! ([`Allocator`], over a key-value store), and every prefix that policy names gets one of this node ([`Local`]).
//!
//! Never: decides which labels matter, talks to a store, reads a clock.
//!
//! Invariant: a cluster-wide number belongs to one set of labels: its master key is only ever created where none is,
//! and the number is used only after its master key was seen.
#![no_std]
#![forbid(unsafe_code)]
extern crate alloc;

mod allocator;
mod keys;
mod local;

pub use allocator::{Allocator, Config, Effect, Input, Trouble};
pub use keys::Keys;
pub use local::{Local, LocalRefusal, SavedLocal};

use types::{Labels, NumericIdentity};

/// The reserved identity these labels are, if they are exactly one of the reserved sets.
pub fn reserved(labels: &Labels) -> Option<NumericIdentity> {
    if !labels.iter().all(types::Label::is_reserved) {
        return None;
    }
    NumericIdentity::all_reserved().find(|id| id.reserved_labels().as_ref() == Some(labels))
}

#[cfg(test)]
mod tests;
