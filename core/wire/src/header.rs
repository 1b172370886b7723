//! Fixed headers as they lie in a packet, for code that loads and stores them whole.
//!
//! Multi-byte fields are in network order and say so in their names (`_be`); nothing here swaps, checks or decides.
//! The types are naturally aligned on purpose: byte-wise number types become byte loads in BPF. Readers of
//! untrusted bytes outside the pipeline want the checked views of the other modules instead.

/// Declares headers with the derives all of them have.
macro_rules! headers {
    ($($(#[$meta:meta])* pub struct $name:ident { $($(#[$fmeta:meta])* pub $field:ident: $ty:ty,)* })*) => { $(
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[derive(zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::Immutable, zerocopy::KnownLayout)]
        #[repr(C)]
        pub struct $name { $($(#[$fmeta])* pub $field: $ty,)* }
    )* };
}

headers! {
    /// Ethernet II, 14 bytes.
    pub struct Ethernet {
        /// Destination.
        pub dst: [u8; 6],
        /// Source.
        pub src: [u8; 6],
        /// EtherType.
        pub ethertype_be: u16,
    }
    /// ARP for IPv4 over Ethernet, 28 bytes. Addresses are bytes: they are not aligned.
    pub struct Arp {
        /// Hardware type, 1.
        pub hardware_be: u16,
        /// Protocol type, [`ETHERTYPE_IPV4`](crate::ETHERTYPE_IPV4).
        pub protocol_be: u16,
        /// Bytes of a hardware and of a protocol address: 6, 4.
        pub lengths: [u8; 2],
        /// 1 request, 2 reply.
        pub operation_be: u16,
        /// Sender's MAC address.
        pub sender_mac: [u8; 6],
        /// Sender's IPv4 address.
        pub sender_ip: [u8; 4],
        /// Target's MAC address.
        pub target_mac: [u8; 6],
        /// Target's IPv4 address.
        pub target_ip: [u8; 4],
    }
    /// IPv4 without options, 20 bytes.
    pub struct Ipv4 {
        /// Version (high four bits) and header length in words.
        pub version_ihl: u8,
        /// DSCP and ECN.
        pub tos: u8,
        /// Length of header and payload.
        pub total_len_be: u16,
        /// Identification.
        pub id_be: u16,
        /// Flags (high three bits) and fragment offset in eight-byte units.
        pub fragment_be: u16,
        /// Time to live.
        pub ttl: u8,
        /// Protocol number.
        pub protocol: u8,
        /// Header checksum.
        pub checksum: u16,
        /// Source.
        pub src: u32,
        /// Destination.
        pub dst: u32,
    }
    /// IPv6, 40 bytes.
    pub struct Ipv6 {
        /// Version, traffic class, flow label.
        pub version_class_flow_be: u32,
        /// Length of everything after this header.
        pub payload_len_be: u16,
        /// Protocol number of the next header.
        pub next_header: u8,
        /// Hop limit.
        pub hop_limit: u8,
        /// Source.
        pub src: [u64; 2],
        /// Destination.
        pub dst: [u64; 2],
    }
    /// IPv6 fragment header, 8 bytes.
    pub struct Ipv6Fragment {
        /// Protocol number of the next header.
        pub next_header: u8,
        /// Zero.
        pub reserved: u8,
        /// Offset in eight-byte units (high 13 bits), two reserved bits, more fragments.
        pub offset_be: u16,
        /// Identification.
        pub id: u32,
    }
    /// TCP without options, 20 bytes.
    pub struct Tcp {
        /// Source port.
        pub sport: u16,
        /// Destination port.
        pub dport: u16,
        /// Sequence number.
        pub seq_be: u32,
        /// Acknowledgement number.
        pub ack_be: u32,
        /// Header length in words (high four bits).
        pub data_offset: u8,
        /// Flags, see [`crate::tcp_flags`].
        pub flags: u8,
        /// Window.
        pub window_be: u16,
        /// Checksum.
        pub checksum: u16,
        /// Urgent pointer.
        pub urgent_be: u16,
    }
    /// UDP, 8 bytes.
    pub struct Udp {
        /// Source port.
        pub sport: u16,
        /// Destination port.
        pub dport: u16,
        /// Length of header and payload.
        pub len_be: u16,
        /// Checksum, 0 when there is none.
        pub checksum: u16,
    }
    /// SCTP common header, 12 bytes.
    pub struct Sctp {
        /// Source port.
        pub sport: u16,
        /// Destination port.
        pub dport: u16,
        /// Verification tag.
        pub tag: u32,
        /// CRC-32c.
        pub checksum: u32,
    }
    /// The first eight bytes of ICMP and ICMPv6.
    pub struct Icmp {
        /// Type.
        pub kind: u8,
        /// Code.
        pub code: u8,
        /// Checksum.
        pub checksum: u16,
        /// Identifier of an echo; otherwise depends on the type.
        pub id: u16,
        /// Sequence number of an echo; otherwise depends on the type.
        pub sequence: u16,
    }
}
