//! Newtypes: identities, labels, prefixes, addresses, endpoint and node ids.
#![no_std]
#![forbid(unsafe_code)]
extern crate alloc;
