//! The per-packet pipeline, written once for the kernel and the simulator.
#![no_std]
#![forbid(unsafe_code)]
