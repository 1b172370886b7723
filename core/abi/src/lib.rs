//! What the kernel and user space share: map keys, map values, event records, and the list of maps.
//!
//! Every type here is `repr(C)`, has no implicit padding (checked when it is compiled, by zerocopy's
//! `IntoBytes`), and is valid for any bit pattern, so that what a map holds can be read without trust.
//! Multi-byte fields are in host order unless their type says otherwise ([`be::Port`], [`be::Addr4`],
//! [`be::Addr6`]). This crate never allocates, never decides anything and depends on nothing of ours.
//!
//! A change of any layout must raise [`SCHEMA_VERSION`]: the loader compares it with the version stored
//! beside pinned maps and migrates or refuses, but never silently recreates.
#![no_std]
#![forbid(unsafe_code)]

pub mod be;
pub mod config;
pub mod ct;
pub mod endpoint;
pub mod event;
pub mod frag;
pub mod ipcache;
pub mod lb;
pub mod maps;
pub mod metrics;
pub mod nat;
pub mod policy;
pub mod stage;
pub mod write;

/// Version of all layouts in this crate together, stored in [`config::Runtime::SchemaVersion`].
pub const SCHEMA_VERSION: u64 = 2;

/// What every shared type is: plain bytes, no padding, any bit pattern valid.
pub trait Plain:
    Copy + Eq + core::fmt::Debug + zerocopy::FromBytes + zerocopy::IntoBytes + zerocopy::Immutable + 'static
{
}
impl<T> Plain for T where
    T: Copy + Eq + core::fmt::Debug + zerocopy::FromBytes + zerocopy::IntoBytes + zerocopy::Immutable + 'static
{
}

/// Declares shared types with the derives all of them have.
macro_rules! shared {
    ($($(#[$meta:meta])* pub struct $name:ident { $($(#[$fmeta:meta])* pub $field:ident: $ty:ty,)* })*) => { $(
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[derive(zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::Immutable, zerocopy::KnownLayout)]
        #[repr(C)]
        pub struct $name { $($(#[$fmeta])* pub $field: $ty,)* }
        impl Default for $name {
            /// All bytes zero.
            #[inline(always)]
            fn default() -> Self {
                zerocopy::FromZeros::new_zeroed()
            }
        }
    )* };
}
pub(crate) use shared;

#[cfg(test)]
mod tests;
