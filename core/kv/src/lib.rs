//! The key-value-store protocol machines speak.
//!
//! Why it exists: identities, addresses and (later) clusters meet in a store that every node can reach. Machines say
//! what they want of it as values, so that the embedded store, etcd and the simulator's store (which delays, reorders
//! and loses) stand behind one interface.
//!
//! Never: connects, blocks, or interprets a value.
//!
//! What an adapter owes: each request gets exactly one [`Event::Done`]; each operation on one key is atomic; a
//! [`Failure`] means that nobody knows whether the operation took place, now or later. A watch first tells what there
//! is, then [`Event::Synced`], then every change of a key in the order in which the store made them.
#![no_std]
#![forbid(unsafe_code)]
extern crate alloc;

use alloc::string::String;
use alloc::vec::Vec;

use machine::OpId;

/// How long a key lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lifetime {
    /// Until it is deleted.
    Kept,
    /// Until it is deleted or its writer's lease ends (reference: 15 minutes after the node was last alive).
    Leased,
}

/// What a machine wants of the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// The value of one key: [`Outcome::Value`].
    Get(String),
    /// All keys that begin so, with values: [`Outcome::Listed`].
    List(String),
    /// Sets a key that does not exist: [`Outcome::Written`] or [`Outcome::Exists`].
    Create(Entry),
    /// Sets a key that does not exist while another does: [`Outcome::Written`], [`Outcome::Exists`] or
    /// [`Outcome::ConditionAbsent`].
    CreateIfExists {
        /// The key that must exist.
        condition: String,
        /// What to create.
        entry: Entry,
    },
    /// Sets a key whether it exists or not: [`Outcome::Written`].
    Put(Entry),
    /// Deletes a key, if it is there: [`Outcome::Deleted`].
    Delete(String),
    /// Tells all keys that begin so and then every change. Answered with [`Outcome::Watching`] before its first event;
    /// the watch is named by the request's operation.
    Watch(String),
}

/// A key with its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The key.
    pub key: String,
    /// The value.
    pub value: Vec<u8>,
    /// How long it lives.
    pub lifetime: Lifetime,
}

/// What became of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The value of the key, if it is there.
    Value(Option<Vec<u8>>),
    /// The keys and values, ordered by key.
    Listed(Vec<(String, Vec<u8>)>),
    /// It was written.
    Written,
    /// The key was there already, with this value.
    Exists(Vec<u8>),
    /// The key that must exist does not.
    ConditionAbsent,
    /// The key is not there any more.
    Deleted,
    /// The watch is set.
    Watching,
}

/// Why nobody knows what became of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The store could not be reached.
    #[error("the key-value store cannot be reached")]
    Unavailable,
    /// The store did not answer in time.
    #[error("the key-value store did not answer in time")]
    TimedOut,
    /// The store refused: permissions, size, quota.
    #[error("the key-value store refused the operation")]
    Refused,
}

/// What the store says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The outcome of a request.
    Done(OpId, Result<Outcome, Failure>),
    /// A watched key has this value now; `None`: it is gone.
    Changed {
        /// The watch.
        watch: OpId,
        /// The key.
        key: String,
        /// Its value.
        value: Option<Vec<u8>>,
    },
    /// Everything that was there when the watch began has been told.
    Synced(OpId),
    /// The watch has ended; what it told may be out of date. Whoever needs it watches anew.
    Broken(OpId),
    /// The lease ended: every leased key of this node may be gone.
    LeaseLost,
}

impl Event {
    /// The operation it belongs to, if it belongs to one.
    pub const fn op(&self) -> Option<OpId> {
        match self {
            Self::Done(op, _) | Self::Changed { watch: op, .. } | Self::Synced(op) | Self::Broken(op) => Some(*op),
            Self::LeaseLost => None,
        }
    }
}
