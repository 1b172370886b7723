//! Local endpoints: by address (`cilium_lxc`) and by host-side interface (`cilium_devices`).

use core::net::IpAddr;

use crate::be::{Addr4, Addr6};
use crate::shared;

/// Address family of a key: IPv4 (numbers of the reference's `endpoint_key`).
pub const FAMILY_IPV4: u8 = 1;
/// Address family of a key: IPv6.
pub const FAMILY_IPV6: u8 = 2;

shared! {
    /// Key of `cilium_lxc`: an address of this node or of one of its pods. IPv4 lies in the first word.
    pub struct EndpointKey {
        /// The address in network order; IPv4 in `words[0]`, the rest zero.
        pub addr: Addr6,
        /// [`FAMILY_IPV4`] or [`FAMILY_IPV6`].
        pub family: u8,
        /// Zero.
        pub key: u8,
        /// Zero on a single cluster.
        pub cluster_id: u16,
    }

    /// Value of `cilium_lxc`: where an address of this node lives.
    pub struct EndpointInfo {
        /// Host-side interface of the pod, 0 for the host itself.
        pub ifindex: u32,
        /// Zero.
        pub unused: u16,
        /// Endpoint id (`EndpointId`), 1..=65535.
        pub lxc_id: u16,
        /// [`ENDPOINT_HOST`] or 0.
        pub flags: u32,
        /// Security identity.
        pub identity: u32,
        /// The pod's own MAC address, then two zero bytes.
        pub mac: [u8; 8],
        /// MAC address of the host side, then two zero bytes.
        pub node_mac: [u8; 8],
        /// Zero.
        pub reserved: [u32; 4],
    }

    /// Value of `cilium_devices`, keyed by the host-side interface index (u32): who is behind a device and how it is policed.
    ///
    /// This is the only place that says which policy an endpoint has, so replacing it moves an endpoint
    /// from one policy to another at one instant. A device without an entry passes nothing.
    pub struct Device {
        /// Security identity of the endpoint.
        pub identity: u32,
        /// Policy id, first part of the key of `cilium_policy`.
        pub policy: u32,
        /// Endpoint id.
        pub lxc_id: u16,
        /// `DEVICE_*` bits.
        pub flags: u16,
        /// The only IPv4 source address it may use; 0: none.
        pub ipv4: Addr4,
        /// The only IPv6 source address it may use (besides its link-local one for neighbour discovery); zero: none.
        pub ipv6: Addr6,
        /// The pod's own MAC address, then two zero bytes.
        pub mac: [u8; 8],
        /// MAC address of the host side, then two zero bytes.
        pub node_mac: [u8; 8],
    }
}

/// The address belongs to the host itself ([`EndpointInfo::flags`]).
pub const ENDPOINT_HOST: u32 = 1;

/// Ingress policy applies: without an entry in the policy map the packet is dropped.
pub const DEVICE_ENFORCE_INGRESS: u16 = 1 << 0;
/// Egress policy applies.
pub const DEVICE_ENFORCE_EGRESS: u16 = 1 << 1;
/// Policy is only audited: what would be denied passes, and the verdict event says so.
pub const DEVICE_AUDIT: u16 = 1 << 2;
/// The endpoint's policy is not known yet: nothing passes (drop reason 203).
pub const DEVICE_CLOSED: u16 = 1 << 3;
/// Source addresses are not checked.
pub const DEVICE_ANY_SOURCE: u16 = 1 << 4;

impl EndpointKey {
    /// The key of one address.
    pub fn new(addr: IpAddr) -> Self {
        match addr {
            IpAddr::V4(ip) => Self::v4(ip.into()),
            IpAddr::V6(ip) => Self::v6(ip.into()),
        }
    }
    /// The key of an IPv4 address.
    #[inline(always)]
    pub const fn v4(addr: Addr4) -> Self {
        Self { addr: Addr6 { words: [addr.raw, 0, 0, 0] }, family: FAMILY_IPV4, key: 0, cluster_id: 0 }
    }
    /// The key of an IPv6 address.
    #[inline(always)]
    pub const fn v6(addr: Addr6) -> Self {
        Self { addr, family: FAMILY_IPV6, key: 0, cluster_id: 0 }
    }
    /// The address, or `None` when the family field holds neither number.
    pub fn ip(&self) -> Option<IpAddr> {
        match self.family {
            FAMILY_IPV4 => Some(IpAddr::V4(Addr4::from_raw(self.addr.words[0]).into())),
            FAMILY_IPV6 => Some(IpAddr::V6(self.addr.into())),
            _ => None,
        }
    }
}
