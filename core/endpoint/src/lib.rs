//! The life of an endpoint.
#![no_std]
#![forbid(unsafe_code)]
extern crate alloc;
