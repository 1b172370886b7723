//! The endpoints of one node: what is known of each, which state it is in, and by which names it is found.
//!
//! Why: an endpoint goes through a life that users, orchestrators and dashboards know by name (reference: endpoint
//! states). Here that life is a table of allowed steps; whoever moves an endpoint asks the table, and every step is
//! written into the endpoint's log.
//!
//! Never: decides *when* a step is due (the agent does), reads a clock, or knows policy, identities' numbers' origin or
//! maps.
//!
//! Invariant: each external name (container id, attachment, address, pod) leads to one endpoint.
#![no_std]
#![forbid(unsafe_code)]
extern crate alloc;

mod log;
mod name;
mod spec;
mod state;
mod table;

pub use log::{Change, Code, Log};
pub use name::{EndpointName, NameError};
pub use spec::{Attachment, EndpointSpec, LabelRefusal, Pod, SourceCheck, SpecRefusal};
pub use state::{Mover, State};
pub use table::{Endpoint, Endpoints, Health, HealthStatus, InsertRefusal, PolicyStatus};

/// Bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    /// Endpoints at most (reference: the size of the endpoint map).
    pub endpoints_max: usize,
    /// Log entries kept for each endpoint.
    pub log_max: usize,
    /// Labels of one endpoint at most.
    pub labels_max: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self { endpoints_max: 65_535, log_max: 64, labels_max: 128 }
    }
}

#[cfg(test)]
mod tests;
