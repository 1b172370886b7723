//! Services: from frontends and backends to the load balancer's map entries.
//!
//! Why: a packet may arrive between any two writes. What it finds must be the old service or the new one, never a slot
//! without its backend, a count beyond its slots, or a table that names who is gone. So this crate decides not only what
//! is written, but in which order ([`Planned`]). And all nodes must choose alike without talking to each other
//! ([`maglev`]).
//!
//! Two layers: [`Services`] holds frontends, one entry each, as the API speaks of them. [`Objects`] holds Kubernetes'
//! Services, EndpointSlices and Pods, policies of local redirection and the pods of this node, and says which frontends
//! they ask for; [`Balancer`] brings the two together and knows whose frontend is whose.
//!
//! Never: picks a backend for a packet (programs do), reads a clock, knows of an endpoint more than labels and addresses,
//! computes a Maglev table (who writes it does).
//!
//! Invariant: numbers of services and backends, and the slots of backends, are stable while they exist, and over a restart
//! when the kernel's maps are still there: connection tracking remembers them.
#![no_std]
#![forbid(unsafe_code)]
extern crate alloc;

mod address;
mod backends;
mod balancer;
mod config;
mod derive;
mod entries;
pub mod maglev;
mod murmur3;
pub mod objects;
mod plan;
mod recipes;
pub mod redirect;
mod refusal;
mod services;
mod spec;

pub use address::{BackendId, L4Addr, ServiceId, Transport};
pub use balancer::{Balancer, Problem};
pub use config::{Algorithm, Config, ForwardingMode, Node};
pub use objects::{Object, ObjectKey, ObjectKind, Objects};
pub use plan::{Change, Planned, Purge, together};
pub use redirect::{LocalPod, LocalRedirect};
pub use refusal::Refusal;
pub use services::{HealthPort, Service, Services};
pub use spec::{
    Attributes, Backend, BackendState, Forwarding, Frontend, Scope, ServiceName, ServiceSpec, ServiceType,
    TrafficPolicy, WEIGHT_DEFAULT,
};

#[cfg(test)]
mod tests;
