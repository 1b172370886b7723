//! Fragment tracking: the ports of a datagram whose first fragment was seen.

use crate::be::{Addr4, Addr6, Port};
use crate::shared;

shared! {
    /// Key of `cilium_ipv4_frag_datagrams`.
    pub struct FragKey4 {
        /// Destination.
        pub daddr: Addr4,
        /// Source.
        pub saddr: Addr4,
        /// Identification field, as in the packet.
        pub id: u16,
        /// IP protocol number.
        pub proto: u8,
        /// Zero.
        pub pad: u8,
    }
    /// Key of `cilium_ipv6_frag_datagrams`.
    pub struct FragKey6 {
        /// Destination.
        pub daddr: Addr6,
        /// Source.
        pub saddr: Addr6,
        /// Identification field, as in the packet.
        pub id: u32,
        /// IP protocol number.
        pub proto: u8,
        /// Zero.
        pub pad: u8,
        /// Zero.
        pub pad2: u16,
    }
    /// Value of both: the transport ports of the datagram.
    pub struct FragPorts {
        /// Source port.
        pub sport: Port,
        /// Destination port.
        pub dport: Port,
    }
}
