//! The per-packet pipeline, written once for the kernel and the simulator.
#![no_std]
#![forbid(unsafe_code)]

pub mod checksum;
pub mod env;
pub mod family;
pub mod hash;
pub mod verdict;

pub use env::{Env, FamilyMaps, Notification};
pub use family::{End, Family, V4, V6};
pub use verdict::{Action, DropReason, Verdict};
