//! What the kernel and user space share: map keys, map values, event records.
#![no_std]
#![forbid(unsafe_code)]
extern crate alloc;
