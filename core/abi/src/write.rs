//! One write to one map, as a value: what the agent decides, what an adapter carries out, what a dump is made of.
//!
//! The writes of a batch are applied in order, each idempotent: an upsert of what is already there and a delete of
//! what is not there both succeed. The first failure ends the batch ([`WriteError::index`]).
//!
//! A Maglev table is no small plain value, and lies in a map of its own: a write names it by a number
//! ([`MaglevTable`](crate::lb::MaglevTable)), and whoever carries the write out is told what is in the table.

use zerocopy::{FromBytes, IntoBytes};

use crate::be::Port;
use crate::endpoint::{Device, EndpointInfo, EndpointKey};
use crate::ipcache::{IpcacheEntry, IpcacheKey};
use crate::lb::{
    IpMasqKey4, IpMasqKey6, LbAffinityMatch, LbBackend4, LbBackend6, LbKey4, LbKey6, LbRevNat4, LbRevNat6, LbService,
    LbSourceRange4, LbSourceRange6, MaglevTable,
};
use crate::maps::{self, MapSpec};
use crate::policy::{PolicyEntry, PolicyKey};

/// Declares one variant for each map the agent writes, with its bytes and how to read it back.
macro_rules! writes {
    ($($(#[$meta:meta])* $variant:ident($key:ty, $value:ty) in $spec:ident;)*) => {
        /// One write: a key and its new value, or `None` to delete it.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum MapWrite {
            $($(#[$meta])* $variant($key, Option<$value>),)*
        }

        impl MapWrite {
            /// The map it goes to.
            pub const fn map(&self) -> &'static MapSpec {
                match self {
                    $(Self::$variant(..) => &maps::$spec,)*
                }
            }
            /// The key's bytes, as they lie in the map.
            pub fn key(&self) -> &[u8] {
                match self {
                    $(Self::$variant(key, _) => key.as_bytes(),)*
                }
            }
            /// The value's bytes; `None`: the key is to be deleted.
            pub fn value(&self) -> Option<&[u8]> {
                match self {
                    $(Self::$variant(_, value) => value.as_ref().map(IntoBytes::as_bytes),)*
                }
            }
            /// The same key, to be deleted.
            #[must_use]
            pub const fn deletion(&self) -> Self {
                match self {
                    $(Self::$variant(key, _) => Self::$variant(*key, None),)*
                }
            }
            /// Reads an entry of a dump back. `None` for a map the agent does not write, or bytes of another size.
            pub fn from_dump(map: &str, key: &[u8], value: &[u8]) -> Option<Self> {
                match map {
                    $(name if name == maps::$spec.name => Some(Self::$variant(
                        <$key>::read_from_bytes(key).ok()?,
                        Some(<$value>::read_from_bytes(value).ok()?),
                    )),)*
                    _ => None,
                }
            }
            /// Every map the agent writes.
            pub const MAPS: &'static [&'static MapSpec] = &[$(&maps::$spec),*];
        }
    };
}

writes! {
    /// Where an address of this node lives.
    Lxc(EndpointKey, EndpointInfo) in LXC;
    /// Who is behind a device, by interface index.
    Device(u32, Device) in DEVICES;
    /// Identity and class of a prefix.
    Ipcache(IpcacheKey, IpcacheEntry) in IPCACHE;
    /// One verdict.
    Policy(PolicyKey, PolicyEntry) in POLICY;
    /// An IPv4 service or one slot of it.
    Service4(LbKey4, LbService) in LB4_SERVICES;
    /// An IPv6 service or one slot of it.
    Service6(LbKey6, LbService) in LB6_SERVICES;
    /// An IPv4 backend, by id.
    Backend4(u32, LbBackend4) in LB4_BACKENDS;
    /// An IPv6 backend, by id.
    Backend6(u32, LbBackend6) in LB6_BACKENDS;
    /// The frontend of an IPv4 service, by reverse NAT index.
    RevNat4(Port, LbRevNat4) in LB4_REVERSE_NAT;
    /// The frontend of an IPv6 service, by reverse NAT index.
    RevNat6(Port, LbRevNat6) in LB6_REVERSE_NAT;
    /// A backend serves a service with session affinity.
    AffinityMatch(LbAffinityMatch, u8) in LB_AFFINITY_MATCH;
    /// Clients that may reach an IPv4 service.
    SourceRange4(LbSourceRange4, u8) in LB4_SOURCE_RANGE;
    /// Clients that may reach an IPv6 service.
    SourceRange6(LbSourceRange6, u8) in LB6_SOURCE_RANGE;
    /// The Maglev table of an IPv4 service, by reverse NAT index.
    Maglev4(Port, MaglevTable) in LB4_MAGLEV;
    /// The Maglev table of an IPv6 service, by reverse NAT index.
    Maglev6(Port, MaglevTable) in LB6_MAGLEV;
    /// IPv4 destinations that are not masqueraded.
    IpMasq4(IpMasqKey4, u8) in IPMASQ4;
    /// IPv6 destinations that are not masqueraded.
    IpMasq6(IpMasqKey6, u8) in IPMASQ6;
    /// A value the programs read while they run, by [`crate::config::Runtime`] as a number. Never deleted.
    Runtime(u32, u64) in RUNTIME_CONFIG;
}

/// Why a write was not applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteErrorKind {
    /// The map has no room for another key (`E2BIG`, or `ENOSPC` of a longest-prefix map).
    Full,
    /// The kernel had no memory (`ENOMEM`).
    NoMemory,
    /// Anything else, by its number.
    Errno(i32),
}

/// The first write of a batch that was not applied; those before it were, those after it were not tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WriteError {
    /// Its place in the batch.
    pub index: usize,
    /// Why.
    pub kind: WriteErrorKind,
}

impl core::fmt::Display for WriteErrorKind {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Full => f.write_str("the map is full"),
            Self::NoMemory => f.write_str("the kernel has no memory for the entry"),
            Self::Errno(number) => write!(f, "the kernel refused it (errno {number})"),
        }
    }
}
