//! Hubble inside the agent: takes events, keeps the last few thousand, and answers questions about them.
//!
//! [`Observer`] is the handle the agent publishes through; [`Server`] answers gRPC on a unix socket and, if wanted, on
//! TCP. Publishing never waits and never fails for the sake of a reader: a reader that cannot keep up loses the oldest of
//! what it asked for and is told how many, and nobody else notices.
//!
//! This crate decides nothing about flows; decoding, filters and the ring are `hubble-model`'s.
#![forbid(unsafe_code)]

mod config;
mod encode;
mod flows;
mod follow;
mod listen;
mod losses;
mod observer;
mod past;
mod peers;
mod select;
mod service;
mod tap;

pub use config::Config;
pub use hubble_model as model;
pub use hubble_transport::tls;
pub use listen::{BindError, DEFAULT_PORT, Listen, ServeError, Server, serve_incoming};
pub use observer::Observer;
pub use peers::{Alone, Peer, PeerFile, PeerFileError, PeerSource, PeerTable};
pub use tap::{Extras, History, Page, Pages, Past, Tap};
