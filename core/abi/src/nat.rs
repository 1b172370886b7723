//! Source NAT: which port of this node stands for whom (`cilium_snat_v4_external`, `cilium_snat_v6_external`).
//!
//! Keys hold the fields of the packet that is looked up, in that packet's order. A [`SNAT_IN`] entry is asked about a reply: its
//! destination is an address of this node and an allocated port, its source the far end; the value says whom the reply is
//! for. A [`SNAT_OUT`] entry is asked about a packet on its way out: the value is the source it gets.
//!
//! Two kinds of traffic use the map:
//! - *North-south services in SNAT mode* have an `IN` entry alone, with a reverse NAT index. The way out is in the connection
//!   entry of client and frontend (`CT_SERVICE | CT_NODE_PORT`), which also holds the allocated port. The `IN` entry
//!   is of use exactly as long as that connection entry lives and holds this port.
//! - *Masqueraded traffic* of pods (and of the node itself, against collisions) has `OUT` and `IN` entry and no reverse NAT
//!   index; `needs_ct` says that a pod's connection entry (local end: the pod) decides how long they are of use.

use crate::be::{Addr4, Addr6, Port, Wide6};
use crate::shared;

/// Defines key and value of one family.
macro_rules! family {
    ($key:ident, $entry:ident, $key_addr:ty, $addr:ty, $tail:ty, $name:literal) => {
        shared! {
            #[doc = concat!("Key of `cilium_snat_v", $name, "_external`: the reference's fields in its order, padded to whole words.")]
            pub struct $key {
                /// Destination of the packet that is looked up.
                pub daddr: $key_addr,
                /// Its source.
                pub saddr: $key_addr,
                /// Its destination port; for ICMP the identifier of a reply, otherwise 0.
                pub dport: Port,
                /// Its source port; for ICMP the identifier of a request, otherwise 0.
                pub sport: Port,
                /// IP protocol number.
                pub nexthdr: u8,
                /// [`SNAT_OUT`] or [`SNAT_IN`].
                pub flags: u8,
                /// Zero.
                pub pad: u16,
            }

            #[doc = concat!("Value of `cilium_snat_v", $name, "_external`.")]
            pub struct $entry {
                /// When it was made, seconds of the monotonic clock.
                pub created: u64,
                /// [`SNAT_NEEDS_CT`] or 0.
                pub needs_ct: u64,
                /// Zero.
                pub pad1: u64,
                /// Zero.
                pub pad2: u64,
                /// `OUT`: the new source. `IN`: the new destination.
                pub to_addr: $addr,
                /// Its port.
                pub to_port: Port,
                /// Reverse NAT index of the service, network order; 0: none (in the reference's tail padding).
                pub rev_nat_index: Port,
                /// Zero.
                pub tail: $tail,
            }
        }
    };
}
family!(SnatKey4, SnatEntry4, Addr4, Addr4, [u32; 0], "4");
family!(SnatKey6, SnatEntry6, Wide6, Addr6, [u32; 1], "6");

/// The packet goes out: its source is translated.
pub const SNAT_OUT: u8 = 0;
/// The packet is a reply: its destination is translated back.
pub const SNAT_IN: u8 = 1;

/// The entry lives with a pod's connection.
pub const SNAT_NEEDS_CT: u64 = 1;

/// How many ports are tried for a new connection before it is dropped with reason 167 (reference).
pub const SNAT_ATTEMPTS: u32 = 128;
