//! One node's agent: the feature machines composed into one.
//!
//! Why it exists: addresses, identities, endpoints, prefixes, policy and services depend on each other, and the kernel's
//! maps must change in an order that no packet can trip over. Everything that decides about that is here, as one
//! [`machine::Machine`]: inputs in, effects out.
//!
//! ```text
//!  Restored ─▶ everything is taken in, nothing written ─▶ key-value store synced ─▶ reconciled once ─▶ live
//! ```
//! Requests that come before it is live wait. While it is not there, or not live, the kernel does what it did.
//!
//! Never: does IO, reads a clock, keeps a key-value store's or a kernel's state without having been told.
//!
//! Invariants: map writes are made in the order in which they were decided, one operation at a time, and retried until
//! they are there; nothing passes an endpoint's device before its policy is written; every request is answered once.
#![no_std]
#![forbid(unsafe_code)]
extern crate alloc;

mod addresses;
mod agent;
pub mod config;
pub mod effect;
mod endpoints;
mod files;
pub mod input;
mod kernel;
mod layout;
mod policies;
mod query;
mod reconcile;
mod restore;
mod services;

pub use agent::{Agent, Phase};
pub use config::{AllowLocalhost, Audit, Backoff, Config, ConfigError, Enforcement, FamilyConfig, MapSizes};
pub use effect::{AgentEvent, Device, Effect, Refusal, Response, StateFile};
pub use input::{
    AddressOwner, AnswerWhen, ConfigChange, CreateEndpoint, EndpointRequest, Failure, Input, IpamRequest, PolicyFile,
    PolicyFiles, PolicyRequest, Replace, Request, RequestId, ServiceRequest, Snapshot,
};
pub use policies::parse_options;
pub use query::{IdentityInfo, IpInfo, Status};
