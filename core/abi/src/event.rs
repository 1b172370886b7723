//! Records in the `cilium_events` ring buffer.
//!
//! Each starts with a [`Prefix`], continues with the notification in the reference's layout (its first byte is
//! the message type) and ends with the first bytes of the packet, `cap_len` of which are valid.

use crate::shared;

/// Packet bytes kept in a record at most.
pub const PAYLOAD_LEN: usize = 128;

/// Message type of [`DropNotify`].
pub const NOTIFY_DROP: u8 = 1;
/// Message type of [`TraceNotify`].
pub const NOTIFY_TRACE: u8 = 4;
/// Message type of [`PolicyVerdictNotify`].
pub const NOTIFY_POLICY_VERDICT: u8 = 5;
/// Message type of [`TraceSockNotify`].
pub const NOTIFY_TRACE_SOCK: u8 = 7;

shared! {
    /// What comes before each notification.
    pub struct Prefix {
        /// Monotonic clock, nanoseconds.
        pub time_ns: u64,
        /// Cookie of the policy rule that decided; 0: none.
        pub cookie: u32,
        /// CPU it was written on.
        pub cpu: u32,
    }

    /// A dropped packet (36 bytes, reference: Drop).
    pub struct DropNotify {
        /// [`NOTIFY_DROP`].
        pub kind: u8,
        /// Drop code.
        pub subtype: u8,
        /// Endpoint id of the program that dropped.
        pub source: u16,
        /// Packet hash.
        pub hash: u32,
        /// Length of the packet.
        pub orig_len: u32,
        /// Bytes captured.
        pub cap_len: u16,
        /// Zero.
        pub version: u16,
        /// Identity of the source.
        pub src_label: u32,
        /// Identity of the destination.
        pub dst_label: u32,
        /// Endpoint id of the destination; 0 for egress.
        pub dst_id: u32,
        /// Source line; 0: none.
        pub line: u16,
        /// Source file id; 0: none.
        pub file: u8,
        /// Error of a helper; 0: none.
        pub ext_error: i8,
        /// Interface.
        pub ifindex: u32,
    }

    /// A forwarded packet (48 bytes, reference: Trace v1).
    pub struct TraceNotify {
        /// [`NOTIFY_TRACE`].
        pub kind: u8,
        /// Observation point (`TRACE_*`).
        pub subtype: u8,
        /// Endpoint id of the program.
        pub source: u16,
        /// Packet hash.
        pub hash: u32,
        /// Length of the packet.
        pub orig_len: u32,
        /// Bytes captured.
        pub cap_len: u16,
        /// 1.
        pub version: u16,
        /// Identity of the source.
        pub src_label: u32,
        /// Identity of the destination.
        pub dst_label: u32,
        /// Endpoint id of the destination.
        pub dst_id: u16,
        /// `REASON_*`.
        pub reason: u8,
        /// Bit 0: IPv6 (of `orig_ip`).
        pub flags: u8,
        /// Interface.
        pub ifindex: u32,
        /// Source address before translation, network order; zero: not translated.
        pub orig_ip: [u8; 16],
    }

    /// A policy decision (32 bytes, reference: Policy verdict).
    pub struct PolicyVerdictNotify {
        /// [`NOTIFY_POLICY_VERDICT`].
        pub kind: u8,
        /// Zero.
        pub subtype: u8,
        /// Endpoint id.
        pub source: u16,
        /// Packet hash.
        pub hash: u32,
        /// Length of the packet.
        pub orig_len: u32,
        /// Bytes captured.
        pub cap_len: u16,
        /// Zero.
        pub version: u16,
        /// Identity of the peer.
        pub remote_label: u32,
        /// Below 0: minus the drop code; 0: allowed; above 0: redirected to this proxy port.
        pub verdict: i32,
        /// Destination port, host order.
        pub dst_port: u16,
        /// IP protocol number.
        pub proto: u8,
        /// Bits 0-1 direction (1 ingress, 2 egress), bit 2 IPv6, bits 3-5 match type, bit 6 audited.
        pub flags: u8,
        /// Authentication type.
        pub auth_type: u8,
        /// Zero.
        pub pad: u8,
        /// Zero.
        pub pad2: u16,
    }

    /// A socket call that names a service, or is told one (38 bytes and two of padding, reference: Trace sock).
    pub struct TraceSockNotify {
        /// [`NOTIFY_TRACE_SOCK`].
        pub kind: u8,
        /// One of [`xlate`].
        pub xlate_point: u8,
        /// The address before or after its translation; IPv4 in the first four bytes.
        pub dst_ip: [u8; 16],
        /// Its port, host order.
        pub dst_port: u16,
        /// The socket's cookie, low half first.
        pub sock_cookie: [u32; 2],
        /// Number of the caller's control group, low half first.
        pub cgroup_id: [u32; 2],
        /// 0 unknown, 1 TCP, 2 UDP.
        pub l4_proto: u8,
        /// Bit 0: IPv6.
        pub flags: u8,
        /// Zero.
        pub pad: u16,
    }

    /// A whole socket record. No packet, so no payload.
    pub struct TraceSockRecord {
        /// See [`Prefix`].
        pub prefix: Prefix,
        /// See [`TraceSockNotify`].
        pub notify: TraceSockNotify,
    }

    /// A whole drop record.
    pub struct DropRecord {
        /// See [`Prefix`].
        pub prefix: Prefix,
        /// See [`DropNotify`].
        pub notify: DropNotify,
        /// Packet bytes, from the Ethernet header on.
        pub payload: [u8; PAYLOAD_LEN],
        /// Zero.
        pub pad: u32,
    }

    /// A whole trace record.
    pub struct TraceRecord {
        /// See [`Prefix`].
        pub prefix: Prefix,
        /// See [`TraceNotify`].
        pub notify: TraceNotify,
        /// Packet bytes.
        pub payload: [u8; PAYLOAD_LEN],
    }

    /// A whole policy verdict record.
    pub struct PolicyVerdictRecord {
        /// See [`Prefix`].
        pub prefix: Prefix,
        /// See [`PolicyVerdictNotify`].
        pub notify: PolicyVerdictNotify,
        /// Packet bytes.
        pub payload: [u8; PAYLOAD_LEN],
    }
}

/// Observation points of [`TraceNotify::subtype`] (reference: trace observation points).
pub mod point {
    /// To an endpoint.
    pub const TO_ENDPOINT: u8 = 0;
    /// To a proxy.
    pub const TO_PROXY: u8 = 1;
    /// To the host.
    pub const TO_HOST: u8 = 2;
    /// To the host's network stack.
    pub const TO_STACK: u8 = 3;
    /// To the overlay.
    pub const TO_OVERLAY: u8 = 4;
    /// From an endpoint.
    pub const FROM_ENDPOINT: u8 = 5;
    /// From a proxy.
    pub const FROM_PROXY: u8 = 6;
    /// From the host.
    pub const FROM_HOST: u8 = 7;
    /// From the host's network stack.
    pub const FROM_STACK: u8 = 8;
    /// From the overlay.
    pub const FROM_OVERLAY: u8 = 9;
    /// From the network.
    pub const FROM_NETWORK: u8 = 10;
    /// To the network.
    pub const TO_NETWORK: u8 = 11;
}

/// Trace reasons of [`TraceNotify::reason`].
pub mod reason {
    /// First packet of a connection.
    pub const NEW: u8 = 0;
    /// In the opener's direction.
    pub const ESTABLISHED: u8 = 1;
    /// Against the opener's direction.
    pub const REPLY: u8 = 2;
    /// An error about a known connection.
    pub const RELATED: u8 = 3;
    /// Not tracked here.
    pub const UNKNOWN: u8 = 5;
}

/// Points of a socket call's translation ([`TraceSockNotify::xlate_point`]).
pub mod xlate {
    /// What the program asked for.
    pub const PRE_FORWARD: u8 = 1;
    /// The backend it gets.
    pub const POST_FORWARD: u8 = 2;
    /// The peer the kernel knows.
    pub const PRE_REVERSE: u8 = 3;
    /// The peer the program is told.
    pub const POST_REVERSE: u8 = 4;
}

/// [`TraceSockNotify::l4_proto`]: neither TCP nor UDP.
pub const SOCK_UNKNOWN: u8 = 0;
/// [`TraceSockNotify::l4_proto`]: TCP.
pub const SOCK_TCP: u8 = 1;
/// [`TraceSockNotify::l4_proto`]: UDP.
pub const SOCK_UDP: u8 = 2;

impl TraceSockNotify {
    /// A record about a socket's address. `addr` is in network order, `port` in host order, `l4_proto` a `SOCK_*`.
    #[inline(always)]
    pub const fn new(
        xlate_point: u8,
        addr: [u32; 4],
        port: u16,
        sock_cookie: u64,
        cgroup_id: u64,
        l4_proto: u8,
        ipv6: bool,
    ) -> Self {
        // By words: an array of bytes at an odd place is copied by a call in BPF. Each word of the address lies across two.
        let [a, b, c, d] = addr;
        let head = u16::from_ne_bytes([NOTIFY_TRACE_SOCK, xlate_point]);
        let tail = u16::from_ne_bytes([l4_proto, ipv6 as u8]);
        zerocopy::transmute!([
            join(head, low(a)),
            join(high(a), low(b)),
            join(high(b), low(c)),
            join(high(c), low(d)),
            join(high(d), port),
            sock_cookie as u32,
            (sock_cookie >> 32) as u32,
            cgroup_id as u32,
            (cgroup_id >> 32) as u32,
            join(tail, 0),
        ])
    }

    /// The socket's cookie.
    pub const fn cookie(&self) -> u64 {
        self.sock_cookie[0] as u64 | (self.sock_cookie[1] as u64) << 32
    }

    /// Number of the caller's control group.
    pub const fn cgroup(&self) -> u64 {
        self.cgroup_id[0] as u64 | (self.cgroup_id[1] as u64) << 32
    }
}

/// The half of a word that lies first in memory.
#[inline(always)]
const fn low(word: u32) -> u16 {
    if cfg!(target_endian = "little") { word as u16 } else { (word >> 16) as u16 }
}

/// The half of a word that lies second in memory.
#[inline(always)]
const fn high(word: u32) -> u16 {
    if cfg!(target_endian = "little") { (word >> 16) as u16 } else { word as u16 }
}

/// The word in which these lie one after the other.
#[inline(always)]
const fn join(first: u16, second: u16) -> u32 {
    if cfg!(target_endian = "little") {
        first as u32 | (second as u32) << 16
    } else {
        (first as u32) << 16 | second as u32
    }
}
