//! Packet formats: views and values, no allocation.
#![no_std]
#![forbid(unsafe_code)]
