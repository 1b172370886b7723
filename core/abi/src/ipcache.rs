//! `cilium_ipcache`: the identity and class behind an address prefix (longest prefix wins).

use core::net::IpAddr;

use crate::be::{Addr4, Addr6};
use crate::endpoint::{FAMILY_IPV4, FAMILY_IPV6};
use crate::shared;

shared! {
    /// Key of `cilium_ipcache`. The first four bytes are the LPM prefix length in bits, which counts
    /// the 32 bits of cluster id, pad and family and then those of the address (IPv4 /24 = 56).
    pub struct IpcacheKey {
        /// Bits that count, from `cluster_id` on.
        pub prefixlen: u32,
        /// Zero on a single cluster.
        pub cluster_id: u16,
        /// Zero.
        pub pad: u8,
        /// [`FAMILY_IPV4`] or [`FAMILY_IPV6`].
        pub family: u8,
        /// Address in network order; IPv4 in `words[0]`.
        pub addr: Addr6,
    }

    /// Value of `cilium_ipcache`.
    pub struct IpcacheEntry {
        /// Security identity.
        pub identity: u32,
        /// Identity class, third part of the key of `cilium_policy` (design: peers that nothing in use can tell apart).
        pub class: u32,
        /// IPv4 address of the node behind which the prefix lives, in network order; 0: this node or native routing.
        pub tunnel_endpoint: Addr4,
        /// Zero.
        pub pad: u16,
        /// Encryption key number, 0: none.
        pub key: u8,
        /// [`IPCACHE_SKIP_TUNNEL`].
        pub flags: u8,
    }
}

/// Do not encapsulate although a tunnel endpoint is known.
pub const IPCACHE_SKIP_TUNNEL: u8 = 1;
/// Bits of the key before the address.
pub const STATIC_PREFIX_BITS: u32 = 32;

impl IpcacheKey {
    /// The key of an IPv4 prefix. `bits` is 0..=32; host bits must already be zero.
    #[inline(always)]
    pub const fn v4(addr: Addr4, bits: u32) -> Self {
        Self {
            prefixlen: STATIC_PREFIX_BITS + bits,
            cluster_id: 0,
            pad: 0,
            family: FAMILY_IPV4,
            addr: Addr6 { words: [addr.raw, 0, 0, 0] },
        }
    }
    /// The key of an IPv6 prefix. `bits` is 0..=128; host bits must already be zero.
    #[inline(always)]
    pub const fn v6(addr: Addr6, bits: u32) -> Self {
        Self { prefixlen: STATIC_PREFIX_BITS + bits, cluster_id: 0, pad: 0, family: FAMILY_IPV6, addr }
    }
    /// Address and prefix length, or `None` when the key is none that this software writes.
    pub fn prefix(&self) -> Option<(IpAddr, u32)> {
        let bits = self.prefixlen.checked_sub(STATIC_PREFIX_BITS)?;
        match self.family {
            FAMILY_IPV4 if bits <= 32 => Some((IpAddr::V4(Addr4::from_raw(self.addr.words[0]).into()), bits)),
            FAMILY_IPV6 if bits <= 128 => Some((IpAddr::V6(self.addr.into()), bits)),
            _ => None,
        }
    }
}
