//! One node's agent: the feature machines composed.
#![no_std]
#![forbid(unsafe_code)]
extern crate alloc;
