//! Services: from frontends and backends to the load balancer's map entries.
//!
//! Why: a packet may arrive between any two writes. What it finds must be the old service or the new one, never a slot
//! without its backend or a count beyond its slots. So this crate decides not only what is written, but in which order.
//!
//! Never: picks a backend (packet programs do), reads a clock, knows endpoints or policy.
//!
//! Invariant: numbers of services and backends are stable while they exist, and over a restart when the kernel's maps
//! are still there: connection tracking remembers them.
#![no_std]
#![forbid(unsafe_code)]
extern crate alloc;

mod entries;
mod services;
mod spec;

pub use services::{Planned, Service, Services};
pub use spec::{Backend, BackendId, BackendState, L4Addr, Refusal, ServiceId, ServiceName, ServiceSpec, Transport};

/// Bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    /// Services of one family at most.
    pub services_max: usize,
    /// Backends of one family at most.
    pub backends_max: usize,
    /// Backends of one service at most.
    pub backends_per_service_max: usize,
    /// Entries of one family's service map: services and slots together.
    pub slots_max: usize,
}

impl Default for Config {
    /// The sizes of the maps.
    fn default() -> Self {
        Self { services_max: 65_535, backends_max: 65_536, backends_per_service_max: 4_096, slots_max: 65_536 }
    }
}

#[cfg(test)]
mod tests;
