//! Services and backends, in the layouts of the reference's `cilium_lb*` maps.

use crate::be::{Addr4, Addr6, Port};
use crate::shared;

/// Defines the maps of one family.
macro_rules! family {
    ($key:ident, $backend:ident, $rev:ident, $addr:ty, $name:literal) => {
        shared! {
            #[doc = concat!("Key of `cilium_lb", $name, "_services_v2`. Slot 0 is the service itself, slots 1..=count its backends.")]
            pub struct $key {
                /// Frontend address.
                pub address: $addr,
                /// Frontend port.
                pub dport: Port,
                /// Slot number, host order.
                pub backend_slot: u16,
                /// IP protocol number; 0: any.
                pub proto: u8,
                /// [`SCOPE_EXTERNAL`] or [`SCOPE_INTERNAL`].
                pub scope: u8,
                /// Zero.
                pub pad: u16,
            }

            #[doc = concat!("Value of `cilium_lb", $name, "_backends_v3`, keyed by backend id (u32).")]
            pub struct $backend {
                /// Address.
                pub address: $addr,
                /// Port.
                pub port: Port,
                /// IP protocol number.
                pub proto: u8,
                /// State: `BACKEND_*`.
                pub flags: u8,
                /// Zero on a single cluster.
                pub cluster_id: u16,
                /// Zone number; 0: none.
                pub zone: u8,
                /// Zero.
                pub pad: u8,
            }

            #[doc = concat!("Value of `cilium_lb", $name, "_reverse_nat`, keyed by the reverse NAT index (u16, network order).")]
            pub struct $rev {
                /// Frontend address.
                pub address: $addr,
                /// Frontend port.
                pub port: Port,
                /// Zero.
                pub pad: u16,
            }
        }
    };
}
family!(LbKey4, LbBackend4, LbRevNat4, Addr4, "4");
family!(LbKey6, LbBackend6, LbRevNat6, Addr6, "6");

shared! {
    /// Value of `cilium_lb4_services_v2` and `cilium_lb6_services_v2`.
    pub struct LbService {
        /// Slot 0: affinity timeout in seconds (low 24 bits); other slots: backend id.
        pub backend_id: u32,
        /// Slot 0: number of active backends.
        pub count: u16,
        /// Reverse NAT index, network order.
        pub rev_nat_index: Port,
        /// `SERVICE_*` bits (reference `flags`).
        pub flags: u8,
        /// Reference `flags2`.
        pub flags2: u8,
        /// Slot 0: number of quarantined backends.
        pub qcount: u16,
    }
}

/// Traffic from outside the cluster.
pub const SCOPE_EXTERNAL: u8 = 0;
/// Traffic from inside the cluster.
pub const SCOPE_INTERNAL: u8 = 1;

/// The backend takes new connections.
pub const BACKEND_ACTIVE: u8 = 0;
/// The backend finishes what it has.
pub const BACKEND_TERMINATING: u8 = 1;
/// Health checks failed.
pub const BACKEND_QUARANTINED: u8 = 2;
/// Taken out by hand.
pub const BACKEND_MAINTENANCE: u8 = 3;

/// The same client keeps its backend.
pub const SERVICE_AFFINITY: u8 = 0x10;
/// The frontend may be reached from outside.
pub const SERVICE_ROUTABLE: u8 = 0x40;

/// Source address of a pod that reaches itself through a service (reference: `ipv4-service-loopback-address`).
pub const SERVICE_LOOPBACK_IPV4: core::net::Ipv4Addr = core::net::Ipv4Addr::new(169, 254, 42, 1);
/// The same for IPv6, which the reference has not: the IPv4 address within the prefix for local use of RFC 8215,
/// so that no pod, node or peer can own it.
pub const SERVICE_LOOPBACK_IPV6: core::net::Ipv6Addr =
    core::net::Ipv6Addr::new(0x64, 0xff9b, 1, 0, 0, 0, 0xa9fe, 0x2a01);
