//! The history behind the ring: flows in files, for as long as bytes and age allow, over restarts of the agent.
//!
//! ```text
//!  publish ──queue──▶ thread ──▶ block (64 KiB of flows, LZ4, CRC) ──▶ segment 00…7.seg (append only)
//!                                                                       … index at its end, then the next
//!  read: wait for the thread, look the times up in the indexes, decode block by block, filter
//! ```
//!
//! What a `kill -9` costs: the block that was being filled, one second of flows at most. What a power cut costs: what was
//! not synced yet, [`Limits::sync_every`] at most. The next start cuts a torn end off and reports it; bytes that are not
//! what was written are skipped and reported by file and place. The log is locked: two agents cannot write one.

mod block;
mod reading;
mod recorder;
mod segment;
mod store;

pub use recorder::{Recorder, Report};
pub use store::{Limits, OpenError};

#[cfg(test)]
mod tests;
