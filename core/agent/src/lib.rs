//! One node's agent: the feature machines composed into one.
//!
//! Why it exists: addresses, identities, endpoints, prefixes, policy and services depend on each other, and the kernel's
//! maps must change in an order that no packet can trip over. Everything that decides about that is here, as one
//! [`machine::Machine`]: inputs in, effects out.
//!
//! Never: does IO, reads a clock, keeps a key-value store's or a kernel's state without having been told.
#![no_std]
#![forbid(unsafe_code)]
extern crate alloc;

pub mod config;
pub mod effect;
pub mod input;

pub use config::{AllowLocalhost, Audit, Backoff, Config, ConfigError, Enforcement, FamilyConfig, MapSizes};
pub use effect::{AgentEvent, Device, Effect, Refusal, Response, StateFile};
pub use input::{
    AddressOwner, AnswerWhen, ConfigChange, CreateEndpoint, EndpointRequest, Failure, Input, IpamRequest, PolicyFile,
    PolicyFiles, PolicyRequest, Replace, Request, RequestId, ServiceRequest, Snapshot,
};
