//! Key-value stores behind the protocol of [`kv`]: for now one that is embedded, later etcd.
//!
//! A store takes requests without blocking and tells outcomes and changes on one bounded channel, in order. It never
//! interprets keys or values. The embedded store's invariant: what it answered `Written` or `Deleted` to is on disk, so
//! that it is there after `kill -9` and after a power cut.

mod embedded;
mod engine;

pub use embedded::{Config, Embedded, Events};
pub use engine::{KEY_BYTES_MAX, OpenError, VALUE_BYTES_MAX};

use machine::OpId;

/// Why a request was not taken: nothing was done, and no [`kv::Event::Done`] will come for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotTaken {
    /// Too many requests wait.
    #[error("the key-value store has too much to do")]
    Busy,
    /// The store is closed.
    #[error("the key-value store is closed")]
    Closed,
}

/// What every store offers.
pub trait Store: Send + Sync {
    /// Starts one request. Never blocks. What becomes of it comes on the store's channel of [`Events`].
    ///
    /// # Errors
    /// When the queue is full or the store closed.
    fn submit(&self, op: OpId, request: kv::Request) -> Result<(), NotTaken>;
}

#[cfg(test)]
mod tests;
