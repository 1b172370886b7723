//! Allocation of security identities over a key-value-store protocol.
#![no_std]
#![forbid(unsafe_code)]
extern crate alloc;
