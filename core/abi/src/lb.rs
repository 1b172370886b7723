//! Services and backends, in the layouts of the reference's `cilium_lb*` maps.

use crate::be::{Addr4, Addr6, Port, Wide6};
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

/// Defines the maps of one family that hold what is special about a service.
macro_rules! special {
    ($affinity:ident, $range:ident, $sk:ident, $sk_value:ident, $client:ty, $addr:ty, $sk_pad:ty, $bits:literal, $name:literal) => {
        shared! {
            #[doc = concat!("Key of `cilium_lb", $name, "_affinity`.")]
            pub struct $affinity {
                /// The client's address in network order, in the first bytes, or its network namespace's cookie.
                pub client: $client,
                /// Reverse NAT index of the service, network order.
                pub rev_nat_index: Port,
                /// 1: `client` is a cookie.
                pub netns_cookie: u8,
                /// Zero.
                pub pad: u8,
                /// Zero.
                pub pad2: u32,
            }

            #[doc = concat!("Key of `cilium_lb", $name, "_source_range` (value u8, 1). The prefix length counts 32 bits of index and padding,")]
            #[doc = concat!("then those of the address (", $bits, " at most).")]
            pub struct $range {
                /// Bits that count, from `rev_nat_index` on.
                pub prefixlen: u32,
                /// Reverse NAT index of the service, network order.
                pub rev_nat_index: Port,
                /// Zero.
                pub pad: u16,
                /// Address of the range.
                pub addr: $addr,
            }

            #[doc = concat!("Key of `cilium_lb", $name, "_reverse_sk`: a socket and the backend it was sent to.")]
            pub struct $sk {
                /// The socket's cookie.
                pub cookie: u64,
                /// Backend address.
                pub address: $addr,
                /// Backend port.
                pub port: Port,
                /// Zero.
                pub pad: u16,
                /// Zero.
                pub tail: $sk_pad,
            }

            #[doc = concat!("Value of `cilium_lb", $name, "_reverse_sk`: the frontend the socket thinks it talks to.")]
            pub struct $sk_value {
                /// Frontend address.
                pub address: $addr,
                /// Frontend port.
                pub port: Port,
                /// Reverse NAT index, network order.
                pub rev_nat_index: Port,
            }
        }
    };
}
special!(LbAffinityKey4, LbSourceRange4, LbRevSkKey4, LbRevSk4, u64, Addr4, [u32; 0], "32", "4");
special!(LbAffinityKey6, LbSourceRange6, LbRevSkKey6, LbRevSk6, Wide6, Addr6, [u32; 1], "128", "6");

shared! {
    /// Value of `cilium_lb4_affinity` and `cilium_lb6_affinity`.
    pub struct LbAffinity {
        /// When the client last used it, seconds of the monotonic clock.
        pub last_used: u64,
        /// Backend id.
        pub backend_id: u32,
        /// Zero.
        pub pad: u32,
    }

    /// Key of `cilium_lb_affinity_match` (value u8, 1): this backend serves this service.
    pub struct LbAffinityMatch {
        /// Backend id.
        pub backend_id: u32,
        /// Reverse NAT index, network order.
        pub rev_nat_index: Port,
        /// Zero.
        pub pad: u16,
    }

    /// Key of `cilium_ratelimit`.
    pub struct RateKey {
        /// What is limited: [`RATE_ICMPV6`].
        pub usage: u32,
        /// Interface; 0: all.
        pub ifindex: u32,
    }

    /// Value of `cilium_ratelimit`: a bucket of tokens.
    pub struct RateBucket {
        /// When it was last filled up, nanoseconds.
        pub last_topup: u64,
        /// Tokens left.
        pub tokens: u64,
    }

    /// Key of `cilium_ipmasq_v4` (value u8, 1): destinations that are not masqueraded.
    pub struct IpMasqKey4 {
        /// Prefix length.
        pub prefixlen: u32,
        /// Address.
        pub addr: Addr4,
    }

    /// Key of `cilium_ipmasq_v6` (value u8, 1): destinations that are not masqueraded.
    pub struct IpMasqKey6 {
        /// Prefix length.
        pub prefixlen: u32,
        /// Address.
        pub addr: Addr6,
    }
}

shared! {
    /// Stands for a Maglev table in [`crate::write::MapWrite`]; it is in no map.
    pub struct MaglevTable {
        /// Its number; 0: a table that an earlier life left, whose content nobody has looked at.
        pub id: u64,
    }
}

/// Bits of a source range's key before the address.
pub const SOURCE_RANGE_STATIC_BITS: u32 = 32;
/// ICMP errors of the node's own.
pub const RATE_ICMPV6: u32 = 1;

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

/// [`LbService::flags`]: the frontend is an external IP.
pub const SERVICE_EXTERNAL_IP: u8 = 0x01;
/// [`LbService::flags`]: the frontend is a node port.
pub const SERVICE_NODE_PORT: u8 = 0x02;
/// [`LbService::flags`]: external traffic goes to backends of this node only.
pub const SERVICE_EXTERNAL_LOCAL: u8 = 0x04;
/// [`LbService::flags`]: the frontend is a host port.
pub const SERVICE_HOST_PORT: u8 = 0x08;
/// [`LbService::flags`]: the same client keeps its backend.
pub const SERVICE_AFFINITY: u8 = 0x10;
/// [`LbService::flags`]: the frontend is a load balancer's address.
pub const SERVICE_LOAD_BALANCER: u8 = 0x20;
/// [`LbService::flags`]: the frontend may be reached from outside.
pub const SERVICE_ROUTABLE: u8 = 0x40;
/// [`LbService::flags`]: only clients in `cilium_lb{4,6}_source_range` may reach it from outside.
pub const SERVICE_SOURCE_RANGE: u8 = 0x80;

/// [`LbService::flags2`]: redirected to a backend of this node by a local redirect policy.
pub const SERVICE_LOCAL_REDIRECT: u8 = 0x01;
/// [`LbService::flags2`]: translates between the families.
pub const SERVICE_NAT46X64: u8 = 0x02;
/// [`LbService::flags2`]: the L7 load balancer serves it.
pub const SERVICE_L7_LB: u8 = 0x04;
/// [`LbService::flags2`]: a host port on the loopback address.
pub const SERVICE_LOOPBACK_HOST_PORT: u8 = 0x08;
/// [`LbService::flags2`]: internal traffic goes to backends of this node only.
pub const SERVICE_INTERNAL_LOCAL: u8 = 0x10;
/// [`LbService::flags2`]: there is one entry for external and one for internal traffic.
pub const SERVICE_TWO_SCOPES: u8 = 0x20;
/// [`LbService::flags2`] of a backend's slot: the backend is quarantined.
pub const SERVICE_QUARANTINED: u8 = 0x40;
/// [`LbService::flags2`]: forwarded with direct server return, where the mode is chosen by annotation.
pub const SERVICE_FORWARD_DSR: u8 = 0x80;

/// Bits of [`LbService::backend_id`] of slot 0 that hold the affinity timeout in seconds.
pub const AFFINITY_TIMEOUT_MASK: u32 = 0xff_ffff;
/// Upper eight bits of [`LbService::backend_id`] of slot 0: how the backend is chosen; 0: as configured.
pub const ALGORITHM_SHIFT: u32 = 24;
/// Chosen at random.
pub const ALGORITHM_RANDOM: u32 = 1;
/// Chosen by the Maglev table.
pub const ALGORITHM_MAGLEV: u32 = 2;

/// Sizes of Maglev tables that may be configured.
pub const MAGLEV_SIZES: [u32; 10] = [251, 509, 1021, 2039, 4093, 8191, 16_381, 32_749, 65_521, 131_071];
/// Entries of a Maglev table by default.
pub const MAGLEV_SIZE_DEFAULT: u32 = 16_381;

/// Source address of a pod that reaches itself through a service (reference: `ipv4-service-loopback-address`).
pub const SERVICE_LOOPBACK_IPV4: core::net::Ipv4Addr = core::net::Ipv4Addr::new(169, 254, 42, 1);
/// The same for IPv6, which the reference has not: the IPv4 address within the prefix for local use of RFC 8215,
/// so that no pod, node or peer can own it.
pub const SERVICE_LOOPBACK_IPV6: core::net::Ipv6Addr =
    core::net::Ipv6Addr::new(0x64, 0xff9b, 1, 0, 0, 0, 0xa9fe, 0x2a01);
