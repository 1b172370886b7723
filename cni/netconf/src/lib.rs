//! CNI network configuration and results: parsing and printing, no IO.
#![no_std]
#![forbid(unsafe_code)]
extern crate alloc;
