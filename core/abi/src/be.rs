//! Numbers that are kept in network order, as types of their own so that nobody compares them unswapped.

use core::net::{Ipv4Addr, Ipv6Addr};

use crate::shared;

/// Generates a transparent wrapper around a number stored in network order.
macro_rules! network_order {
    ($(#[$meta:meta])* $name:ident, $raw:ty) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
        #[derive(zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::Immutable, zerocopy::KnownLayout)]
        #[repr(transparent)]
        pub struct $name {
            /// As it lies in memory: network order.
            pub raw: $raw,
        }
        impl $name {
            /// From a number in host order.
            #[inline(always)]
            pub const fn new(host: $raw) -> Self {
                Self { raw: host.to_be() }
            }
            /// From a number as it lies in a packet.
            #[inline(always)]
            pub const fn from_raw(raw: $raw) -> Self {
                Self { raw }
            }
            /// The number in host order.
            #[inline(always)]
            pub const fn host(self) -> $raw {
                <$raw>::from_be(self.raw)
            }
        }
        impl PartialOrd for $name {
            fn partial_cmp(&self, other: &Self) -> Option<core::cmp::Ordering> {
                Some(self.cmp(other))
            }
        }
        impl Ord for $name {
            fn cmp(&self, other: &Self) -> core::cmp::Ordering {
                self.host().cmp(&other.host())
            }
        }
    };
}

network_order!(
    /// A transport port (or ICMP identifier, or ICMP type in a policy key) in network order.
    Port, u16
);
network_order!(
    /// An IPv4 address in network order.
    Addr4, u32
);

shared! {
    /// An IPv6 address in network order, as four words so that it is copied and compared in words.
    pub struct Addr6 {
        /// As it lies in memory.
        pub words: [u32; 4],
    }
}

shared! {
    /// An IPv6 address in network order, as two long words: what is compared and kept much, and lies aligned.
    pub struct Wide6 {
        /// As it lies in memory.
        pub halves: [u64; 2],
    }
}

impl From<Addr6> for Wide6 {
    #[inline(always)]
    fn from(addr: Addr6) -> Self {
        zerocopy::transmute!(addr)
    }
}
impl From<Wide6> for Addr6 {
    #[inline(always)]
    fn from(addr: Wide6) -> Self {
        zerocopy::transmute!(addr)
    }
}
impl From<Ipv6Addr> for Wide6 {
    fn from(ip: Ipv6Addr) -> Self {
        Addr6::from(ip).into()
    }
}
impl From<Wide6> for Ipv6Addr {
    fn from(addr: Wide6) -> Self {
        Addr6::from(addr).into()
    }
}

impl From<Ipv4Addr> for Addr4 {
    fn from(ip: Ipv4Addr) -> Self {
        Self { raw: u32::from_ne_bytes(ip.octets()) }
    }
}
impl From<Addr4> for Ipv4Addr {
    fn from(addr: Addr4) -> Self {
        Self::from(addr.raw.to_ne_bytes())
    }
}
impl From<Ipv6Addr> for Addr6 {
    fn from(ip: Ipv6Addr) -> Self {
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = ip.octets();
        Self {
            words: [
                u32::from_ne_bytes([a, b, c, d]),
                u32::from_ne_bytes([e, f, g, h]),
                u32::from_ne_bytes([i, j, k, l]),
                u32::from_ne_bytes([m, n, o, p]),
            ],
        }
    }
}
impl From<Addr6> for Ipv6Addr {
    fn from(addr: Addr6) -> Self {
        let mut octets = [0; 16];
        for (out, word) in octets.chunks_exact_mut(4).zip(addr.words) {
            out.copy_from_slice(&word.to_ne_bytes());
        }
        Self::from(octets)
    }
}
