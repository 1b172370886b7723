//! Headers of captured bytes: as far as they reach, and no further.
//!
//! Why not the datapath's own parser: that one decides verdicts and refuses what it does not understand; this one
//! describes refused packets too, so it keeps whatever could be read before the capture ended.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The headers found, outermost first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Headers {
    /// Source and destination MAC address.
    pub ethernet: Option<[[u8; 6]; 2]>,
    /// Source and destination address, of one family.
    pub ip: Option<(IpAddr, IpAddr)>,
    /// The transport header.
    pub l4: L4,
}

/// A transport header.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum L4 {
    /// Absent, cut off, or of a protocol that flows do not describe.
    #[default]
    None,
    /// TCP.
    Tcp {
        /// Source port.
        source: u16,
        /// Destination port.
        destination: u16,
        /// The low nine bits are FIN, SYN, RST, PSH, ACK, URG, ECE, CWR, NS.
        flags: u16,
    },
    /// UDP.
    Udp {
        /// Source port.
        source: u16,
        /// Destination port.
        destination: u16,
    },
    /// SCTP.
    Sctp {
        /// Source port.
        source: u16,
        /// Destination port.
        destination: u16,
        /// Type of the first chunk, when the capture reaches it.
        chunk: Option<u8>,
    },
    /// ICMP for IPv4.
    Icmp4 {
        /// Message type.
        kind: u8,
        /// Code within the type.
        code: u8,
    },
    /// ICMP for IPv6.
    Icmp6 {
        /// Message type.
        kind: u8,
        /// Code within the type.
        code: u8,
    },
    /// The Virtual Router Redundancy Protocol.
    Vrrp {
        /// Message type.
        kind: u8,
        /// Number of the virtual router.
        vrid: u8,
        /// Priority of the sender.
        priority: u8,
    },
    /// The Internet Group Management Protocol.
    Igmp {
        /// Message type.
        kind: u8,
        /// The group.
        group: Ipv4Addr,
    },
}

impl L4 {
    /// Source and destination port, of the protocols that have ports.
    pub fn ports(&self) -> Option<(u16, u16)> {
        match *self {
            Self::Tcp { source, destination, .. }
            | Self::Udp { source, destination }
            | Self::Sctp { source, destination, .. } => Some((source, destination)),
            _ => None,
        }
    }
}

const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
const VLAN: [u16; 2] = [0x8100, 0x88a8];
/// More extension headers than this belong to no honest packet.
const EXTENSIONS_MAX: usize = 8;

/// Reads headers from the Ethernet header on.
pub fn parse(bytes: &[u8]) -> Headers {
    let mut headers = Headers::default();
    let Some((ethernet, mut rest)) = bytes.split_first_chunk::<14>() else { return headers };
    let [d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5, t0, t1] = *ethernet;
    headers.ethernet = Some([[s0, s1, s2, s3, s4, s5], [d0, d1, d2, d3, d4, d5]]);
    let mut kind = u16::from_be_bytes([t0, t1]);
    for _ in 0..2 {
        if !VLAN.contains(&kind) {
            break;
        }
        let Some((tag, behind)) = rest.split_first_chunk::<4>() else { return headers };
        kind = u16::from_be_bytes([tag[2], tag[3]]);
        rest = behind;
    }
    match kind {
        IPV4 => ipv4(rest, &mut headers),
        IPV6 => ipv6(rest, &mut headers),
        _ => {}
    }
    headers
}

fn ipv4(bytes: &[u8], headers: &mut Headers) {
    let Some(fixed) = bytes.first_chunk::<20>() else { return };
    let length = usize::from(fixed[0] & 0xf) * 4;
    if fixed[0] >> 4 != 4 || length < 20 {
        return;
    }
    let address = |at: usize| IpAddr::V4(Ipv4Addr::new(fixed[at], fixed[at + 1], fixed[at + 2], fixed[at + 3]));
    headers.ip = Some((address(12), address(16)));
    let fragment_offset = u16::from_be_bytes([fixed[6], fixed[7]]) & 0x1fff;
    if let Some(payload) = bytes.get(length..).filter(|_| fragment_offset == 0) {
        headers.l4 = transport(fixed[9], payload);
    }
}

fn ipv6(bytes: &[u8], headers: &mut Headers) {
    let Some((fixed, mut rest)) = bytes.split_first_chunk::<40>() else { return };
    if fixed[0] >> 4 != 6 {
        return;
    }
    let address = |at: usize| {
        let mut octets = [0; 16];
        octets.copy_from_slice(&fixed[at..at + 16]);
        IpAddr::V6(Ipv6Addr::from(octets))
    };
    headers.ip = Some((address(8), address(24)));
    let mut next = fixed[6];
    for _ in 0..EXTENSIONS_MAX {
        let length = match next {
            0 | 43 | 60 => rest.get(1).map(|n| (usize::from(*n) + 1) * 8),
            51 => rest.get(1).map(|n| (usize::from(*n) + 2) * 4),
            44 => match rest.first_chunk::<8>() {
                Some(fragment) if u16::from_be_bytes([fragment[2], fragment[3]]) & 0xfff8 == 0 => Some(8),
                _ => return,
            },
            _ => break,
        };
        let Some(behind) = length.and_then(|length| rest.get(length..)) else { return };
        next = rest[0];
        rest = behind;
    }
    headers.l4 = transport(next, rest);
}

fn transport(protocol: u8, bytes: &[u8]) -> L4 {
    let port = |at: usize| bytes.get(at..at + 2).map(|b| u16::from_be_bytes([b[0], b[1]]));
    let found = match protocol {
        6 => port(0).zip(port(2)).zip(bytes.get(..20)).map(|((source, destination), tcp)| L4::Tcp {
            source,
            destination,
            flags: u16::from(tcp[13]) | u16::from(tcp[12] & 1) << 8,
        }),
        17 => port(0)
            .zip(port(2))
            .filter(|_| bytes.len() >= 8)
            .map(|(source, destination)| L4::Udp { source, destination }),
        132 => port(0).zip(port(2)).filter(|_| bytes.len() >= 12).map(|(source, destination)| L4::Sctp {
            source,
            destination,
            chunk: bytes.get(12).copied(),
        }),
        1 => bytes.get(..2).map(|b| L4::Icmp4 { kind: b[0], code: b[1] }),
        2 => bytes.first_chunk::<8>().map(|b| L4::Igmp { kind: b[0], group: Ipv4Addr::new(b[4], b[5], b[6], b[7]) }),
        58 => bytes.get(..2).map(|b| L4::Icmp6 { kind: b[0], code: b[1] }),
        112 => bytes.first_chunk::<8>().map(|b| L4::Vrrp { kind: b[0] & 0xf, vrid: b[1], priority: b[2] }),
        _ => None,
    };
    found.unwrap_or_default()
}
