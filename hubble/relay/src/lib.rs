//! The relay: flows of all nodes through one address.
//!
//! A peer service says which nodes there are; the relay keeps a connection to each and answers for all of them. What is
//! asked of it is asked of every node that answers; their flows are merged by time, and nodes that do not answer are
//! named instead of being waited for. Decisions are in [`peers`], [`answer`] and [`status`]: they take time as an
//! argument and know no network. The rest carries them out.
//!
//! A relay keeps nothing: no flow outlives its stream, and a restart loses nothing but open streams.
#![forbid(unsafe_code)]

pub mod answer;
mod flows;
pub mod metrics;
pub mod options;
pub mod peers;
pub mod pool;
mod serve;
mod service;
pub mod status;
pub mod wire;

pub use serve::{Relay, Settings, Stopped};

use hubble_transport::Clock;
use std::sync::{Arc, atomic::AtomicUsize};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// What all streams share.
#[derive(Debug)]
pub struct Shared {
    settings: Settings,
    view: watch::Receiver<Arc<pool::View>>,
    clock: Clock,
    metrics: metrics::Metrics,
    /// Cancelled when the relay is about to end.
    closing: CancellationToken,
    streams: AtomicUsize,
}
