//! Revisioned tables with change streams, and the three-verb reconciler.
#![no_std]
#![forbid(unsafe_code)]
extern crate alloc;
