//! Connection tracking: one entry for each connection as seen at one endpoint's side.
//!
//! A key is the same for both directions of a connection: the two ends are ordered (address, then port,
//! compared as raw words), and `side` says which of them is the local endpoint. One look-up therefore
//! finds a connection from either direction; the entry says who opened it. A connection between two pods
//! of one node has two entries, one at each side, because each side is policed for itself.

use crate::be::{Addr4, Addr6, Port, Wide6};
use crate::shared;

shared! {
    /// What the connection tracking maps hold for either family.
    pub struct Connection {
        /// When it ends, in seconds of the monotonic clock.
        pub lifetime: u32,
        /// Policy revision under which the flow was last allowed.
        pub policy_revision: u32,
        /// Load-balancer revision under which the far end was last checked: that a [`CT_SERVICE`] entry's backend lives,
        /// or that the far end of another entry is no service.
        pub lb_revision: u32,
        /// Backend id; 0: none.
        pub backend_id: u32,
        /// Identity of who opened the connection.
        pub source_identity: u32,
        /// Identity of the remote end.
        pub peer_identity: u32,
        /// Cookie of the rule that decided.
        pub cookie: u32,
        /// When traffic from the opener was last reported, seconds.
        pub last_tx_report: u32,
        /// When traffic to the opener was last reported, seconds.
        pub last_rx_report: u32,
        /// `CT_*` bits.
        pub flags: u16,
        /// Reverse NAT index, network order; 0: none.
        pub rev_nat_index: Port,
        /// TCP flags seen from the opener.
        pub tx_flags_seen: u8,
        /// TCP flags seen towards the opener.
        pub rx_flags_seen: u8,
        /// Proxy port to redirect to, network order; 0: none.
        pub proxy_port: Port,
    }
}

/// Defines key and value of one family.
macro_rules! family {
    ($key:ident, $entry:ident, $key_addr:ty, $addr:ty, $name:literal) => {
        shared! {
            #[doc = concat!("Key of `cilium_ct", $name, "_global` (TCP) and `cilium_ct_any", $name, "_global` (the rest).")]
            pub struct $key {
                /// The smaller end's address.
                pub a: $key_addr,
                /// The larger end's address.
                pub b: $key_addr,
                /// The smaller end's port. An ICMP echo has its identifier at the end that asked and 0 at the other, so that
                /// a request from the far end is not taken for an answer.
                pub a_port: Port,
                /// The larger end's port.
                pub b_port: Port,
                /// IP protocol number.
                pub protocol: u8,
                /// [`SIDE_A`] or [`SIDE_B`]: which end is the local endpoint.
                pub side: u8,
                /// Zero.
                pub pad: u16,
            }

            #[doc = concat!("Value of `cilium_ct", $name, "_global` and `cilium_ct_any", $name, "_global`.")]
            pub struct $entry {
                /// What does not depend on the family.
                pub connection: Connection,
                /// Backend address a [`CT_SERVICE`] entry translates to; frontend address of a [`CT_DSR`] entry; otherwise zero.
                pub nat_addr: $addr,
                /// Backend port of a [`CT_SERVICE`] entry; frontend port of a [`CT_DSR`] entry; ICMP type that opened an ICMP
                /// entry, as policy keys hold it; otherwise zero.
                pub nat_port: Port,
                /// Source port that a [`CT_SERVICE`] entry of north-south traffic translates to (SNAT mode); 0: the source stays.
                pub snat_port: Port,
            }
        }
    };
}
family!(CtKey4, CtEntry4, Addr4, Addr4, "4");
family!(CtKey6, CtEntry6, Wide6, Addr6, "6");

/// The local endpoint is end `a`.
pub const SIDE_A: u8 = 0;
/// The local endpoint is end `b`.
pub const SIDE_B: u8 = 1;

/// The far end of the opener has closed (bit numbers 0..=10 as in the reference's flag word).
pub const CT_RX_CLOSING: u16 = 1 << 0;
/// The opener has closed.
pub const CT_TX_CLOSING: u16 = 1 << 1;
/// The pod reached itself through a service; its source is the loopback address of services.
pub const CT_LB_LOOPBACK: u16 = 1 << 3;
/// More than a SYN was seen.
pub const CT_SEEN_NON_SYN: u16 = 1 << 4;
/// Opened from outside through a service. With [`CT_SERVICE`]: an entry of client (remote end) and frontend (local end).
/// Without: an entry at the side of a backend of this node, whose replies get the frontend of `rev_nat_index` as their source.
pub const CT_NODE_PORT: u16 = 1 << 5;
/// Redirected to a proxy.
pub const CT_PROXY_REDIRECT: u16 = 1 << 6;
/// Arrived with direct server return: replies get `nat_addr` and `nat_port` as their source.
pub const CT_DSR: u16 = 1 << 7;
/// Came from an L7 load balancer.
pub const CT_FROM_L7LB: u16 = 1 << 8;
/// Came in through a tunnel.
pub const CT_FROM_TUNNEL: u16 = 1 << 10;
/// The remote end opened the connection (an `IN` entry); without it the local endpoint did (`OUT`).
pub const CT_INBOUND: u16 = 1 << 11;
/// The entry maps a service's frontend to the backend chosen for this client (an `SVC` entry).
pub const CT_SERVICE: u16 = 1 << 12;
/// The verdict was a denial that is only audited.
pub const CT_AUDITED: u16 = 1 << 13;
/// The backend of a `CT_SERVICE | CT_NODE_PORT` entry is on this node.
pub const CT_LOCAL_BACKEND: u16 = 1 << 9;
/// The client of a `CT_SERVICE` entry has session affinity, which its packets keep alive.
pub const CT_AFFINITY: u16 = 1 << 15;
/// The far end was no address of this node when the opener's side was last reported: it need not be looked for among them.
pub const CT_FAR_AWAY: u16 = 1 << 14;
