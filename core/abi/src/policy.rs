//! `cilium_policy`: one longest-prefix look-up decides (policy, class, direction, protocol, port prefix).

use crate::be::Port;
use crate::shared;

shared! {
    /// Key of `cilium_policy`. The first four bytes are the LPM prefix length in bits, counted from `policy` on:
    /// 72 (any protocol), 80 (any port of one protocol), or 80 + port bits.
    pub struct PolicyKey {
        /// Bits that count.
        pub prefixlen: u32,
        /// Policy id of the endpoint ([`crate::endpoint::Device::policy`]).
        pub policy: u32,
        /// Class of the peer ([`crate::ipcache::IpcacheEntry::class`]).
        pub class: u32,
        /// [`INGRESS`] or [`EGRESS`].
        pub direction: u8,
        /// IP protocol number.
        pub protocol: u8,
        /// Destination port; for ICMP and ICMPv6 the type as a number.
        pub dport: Port,
    }

    /// Value of `cilium_policy`: the final verdict, deny already applied.
    pub struct PolicyEntry {
        /// Port of the proxy listener to redirect to; 0: none.
        pub proxy_port: Port,
        /// `POLICY_*` bits.
        pub flags: u8,
        /// Required authentication type; 0: none.
        pub auth_type: u8,
        /// Bits of protocol and port in this entry's key: 0, 8, or 9..=24.
        pub lpm_prefix_length: u8,
        /// What the deciding rule named, for events ([`MatchType`] numbers).
        pub match_type: u8,
        /// Zero.
        pub pad: u16,
        /// Which rule decided; the agent expands it to names. 0: none.
        pub cookie: u32,
        /// Zero.
        pub reserved: u32,
    }
}

/// Traffic towards the endpoint.
pub const INGRESS: u8 = 0;
/// Traffic from the endpoint (bit 0, as in the reference's policy key).
pub const EGRESS: u8 = 1;

/// The entry denies.
pub const POLICY_DENY: u8 = 1 << 0;

/// Bits of the key before the protocol.
pub const STATIC_PREFIX_BITS: u32 = 72;
/// Prefix length of a key that names protocol and a whole port.
pub const FULL_PREFIX_BITS: u32 = 96;

/// What the deciding rule named (numbers of the reference's policy match types).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum MatchType {
    /// No rule.
    None = 0,
    /// Peer only.
    L3Only = 1,
    /// Peer, protocol and port.
    L3L4 = 2,
    /// Protocol and port.
    L4Only = 3,
    /// Everything.
    All = 4,
    /// Peer and protocol.
    L3Proto = 5,
    /// Protocol.
    ProtoOnly = 6,
}

impl PolicyKey {
    /// The key with which a packet looks its verdict up.
    #[inline(always)]
    pub const fn lookup(policy: u32, class: u32, direction: u8, protocol: u8, dport: Port) -> Self {
        Self { prefixlen: FULL_PREFIX_BITS, policy, class, direction, protocol, dport }
    }
    /// The key of an entry. `l4_bits` is 0 (any protocol), 8 (any port) or 8 + port prefix bits (1..=16).
    pub const fn entry(policy: u32, class: u32, direction: u8, protocol: u8, dport: Port, l4_bits: u8) -> Self {
        Self { prefixlen: STATIC_PREFIX_BITS + l4_bits as u32, policy, class, direction, protocol, dport }
    }
}
