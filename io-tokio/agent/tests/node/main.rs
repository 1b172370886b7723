//! A real agent on the real kernel, with pods in network namespaces: what it lets through, what it refuses, and what
//! survives it. Needs root, BPF, iproute2 and the object file; prints `skipped: …` without.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod bad_input;
mod balancing;
mod hubble;
mod life;
mod questions;
mod restart;
mod services;
mod sinks;
mod sockets;
mod support;
mod traffic;
