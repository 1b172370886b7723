//! Which identity stands behind an address.
#![no_std]
#![forbid(unsafe_code)]
extern crate alloc;
