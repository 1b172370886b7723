//! The policy engine: rules to classes to map entries, incrementally, with explanations.
#![no_std]
#![forbid(unsafe_code)]
extern crate alloc;
