//! Cluster simulations: real agents, simulated hosts running the real packet pipeline, a simulated key-value store,
//! and checkers that know the cluster's objects and nothing of anybody's tables.
//!
//! One seed makes everything: the cluster, its options, what users do, what fails and when. Each run has a phase of
//! faults, in which safety is checked after every single map write, and a healed phase, after which everything must
//! be as the objects say within a bound of virtual time. The same seed gives the same trace, bit for bit.

pub mod check;
pub mod cluster;
pub mod frame;
mod node;
pub mod objects;
mod plan;
mod store;
pub mod trace;

pub use check::Violation;
pub use cluster::{Cluster, Outcome, Settings};
pub use node::Fault;
