//! The vocabulary of every decision: time, machines, effects, seeded randomness and the one drive loop.
#![no_std]
#![forbid(unsafe_code)]
extern crate alloc;
