//! The agent's writes onto kernel maps, and the kernel's events into the agent.
//!
//! The agent decides in `abi::write::MapWrite` values; [`apply`] carries them out in order and says which was the first
//! that failed, so that the agent can decide again. [`dump`] reads back what an earlier agent left, as the same
//! values. [`Attachments`] attaches programs without making a pod wait. [`sweep`] removes what connections and translations left behind, and [`Departures`] sees in the writes what
//! went. [`events`] moves records from the kernel's ring into a bounded channel and counts what did not fit.
//! Nothing here decides what a map should hold or retries on its own.

mod attachments;
mod departures;
pub mod events;
pub mod sweep;
mod writes;

pub use attachments::Attachments;
pub use departures::{Departed, Departures};
pub use events::{BATCH_RECORDS_MAX, Batch, EventReader, EventSource};
pub use writes::{Tables, apply, dump};
