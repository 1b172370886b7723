//! Flows on disk: exported lines of JSON ([`export`]), and the history behind the ring ([`history`]).
//!
//! Each file has a thread of its own behind a bounded queue. Whoever publishes a flow leaves a reference in the queue
//! and goes on; when the disk does not keep up, the queue fills, and what finds no place is counted and reported. A disk
//! that is full or cannot be written is a state that is told and left again, never an end.
#![forbid(unsafe_code)]

pub mod export;
pub mod history;
mod queue;
#[cfg(test)]
mod testing;

/// How long to leave a disk alone that refused a write.
const RETRY: std::time::Duration = std::time::Duration::from_secs(1);

/// Nanoseconds since 1970.
fn now_ns() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}
