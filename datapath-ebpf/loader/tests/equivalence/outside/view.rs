//! A packet as its ends see it. Read apart from the pipeline, with [`packets::layout`].

use std::net::IpAddr;

use super::geneve;
use crate::packets::{self, ICMP, ICMP6, SCTP, SYN, TCP, UDP};

/// Where IP begins.
const L3: usize = 14;

/// Who talks to whom over what.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tuple {
    pub src: (IpAddr, u16),
    pub dst: (IpAddr, u16),
    pub protocol: u8,
}

impl Tuple {
    pub fn back(self) -> Self {
        Self { src: self.dst, dst: self.src, protocol: self.protocol }
    }
}

/// A whole packet with ports, no fragment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct View {
    pub tuple: Tuple,
    pub tcp_flags: u8,
    pub ttl: u8,
    pub fragment: bool,
}

impl View {
    pub fn is_syn(&self) -> bool {
        self.tuple.protocol == TCP && self.tcp_flags & (SYN | packets::ACK) == SYN
    }
}

/// Reads a packet; `None`: it has no ports (or it cannot be seen which).
pub fn view(packet: &[u8]) -> Option<View> {
    let layout = packets::layout(packet)?;
    if layout.later || !matches!(layout.protocol, TCP | UDP | SCTP) {
        return None;
    }
    let (src, dst) = packets::addresses(packet)?;
    let port = |at: usize| Some(u16::from_be_bytes(packet.get(at..at + 2)?.try_into().ok()?));
    let tcp_flags = if layout.protocol == TCP { *packet.get(layout.l4 + 13)? } else { 0 };
    let ttl = *packet.get(L3 + if layout.ipv6 { 7 } else { 8 })?;
    let tuple = Tuple { src: (src, port(layout.l4)?), dst: (dst, port(layout.l4 + 2)?), protocol: layout.protocol };
    Some(View { tuple, tcp_flags, ttl, fragment: layout.fragment })
}

/// The ends of a packet that may be cut or lie about its length: where the ports are all the same.
pub fn loose(packet: &[u8]) -> Option<Tuple> {
    let (src, dst) = packets::addresses(packet)?;
    let (protocol, l4) = match src {
        IpAddr::V4(_) => (*packet.get(L3 + 9)?, L3 + usize::from(packet.get(L3)? & 15) * 4),
        IpAddr::V6(_) => {
            let (mut next, mut at) = (*packet.get(L3 + 6)?, L3 + 40);
            while matches!(next, 0 | 43 | 44 | 51 | 60) {
                let units = usize::from(*packet.get(at + 1)?);
                let length = match next {
                    44 => 8,
                    51 => (units + 2) * 4,
                    _ => (units + 1) * 8,
                };
                (next, at) = (*packet.get(at)?, at + length);
            }
            (next, at)
        }
    };
    let port = |at: usize| Some(u16::from_be_bytes(packet.get(at..at + 2)?.try_into().ok()?));
    Some(Tuple { src: (src, port(l4)?), dst: (dst, port(l4 + 2)?), protocol })
}

/// The packet inside an IPIP or IP6IP6 packet, behind the Ethernet header of the outer one; or the frame inside Geneve.
pub fn inner(packet: &[u8]) -> Option<Vec<u8>> {
    if let Some(carried) = geneve::read(packet) {
        return Some(carried.frame);
    }
    let (protocol, header) = match packet.get(12..14)? {
        [0x08, 0x00] => (*packet.get(L3 + 9)?, 20),
        _ => (*packet.get(L3 + 6)?, 40),
    };
    if !matches!(protocol, 4 | 41) {
        return None;
    }
    Some([packet.get(..L3)?, packet.get(L3 + header..)?].concat())
}

/// Whether a packet is ICMP of either family.
pub fn is_icmp(packet: &[u8]) -> bool {
    packets::layout(packet).is_some_and(|layout| matches!(layout.protocol, ICMP | ICMP6))
}

/// What is quoted in an ICMP error: the ends of the quoted packet.
pub fn quoted(packet: &[u8]) -> Option<Tuple> {
    let layout = packets::layout(packet)?;
    let kind = *packet.get(layout.l4)?;
    let is_error = match layout.protocol {
        ICMP => matches!(kind, 3 | 11 | 12),
        ICMP6 => (1..=4).contains(&kind),
        _ => false,
    };
    if !is_error || layout.fragment {
        return None;
    }
    // As a packet of its own, its length aside, which may say more than is quoted.
    let at = layout.l4 + 8;
    let ipv6 = layout.ipv6;
    let first = *packet.get(at)?;
    let header = if ipv6 { 40 } else { usize::from(first & 15) * 4 };
    let protocol = *packet.get(at + if ipv6 { 6 } else { 9 })?;
    if first >> 4 != if ipv6 { 6 } else { 4 } || !matches!(protocol, TCP | UDP | SCTP) {
        return None;
    }
    let ip = |at: usize| -> Option<IpAddr> {
        if ipv6 {
            Some(IpAddr::from(<[u8; 16]>::try_from(packet.get(at..at + 16)?).ok()?))
        } else {
            Some(IpAddr::from(<[u8; 4]>::try_from(packet.get(at..at + 4)?).ok()?))
        }
    };
    let port = |at: usize| Some(u16::from_be_bytes(packet.get(at..at + 2)?.try_into().ok()?));
    let (from, to) = if ipv6 { (at + 8, at + 24) } else { (at + 12, at + 16) };
    let l4 = at + header;
    Some(Tuple { src: (ip(from)?, port(l4)?), dst: (ip(to)?, port(l4 + 2)?), protocol })
}

/// The frontend of which a packet from another balancer tells (reference: DSR encodings).
pub fn told(packet: &[u8]) -> Option<(IpAddr, u16)> {
    match packet.get(12..14)? {
        [0x08, 0x00] => match packet.get(34..42)? {
            [0x9a, 8, p0, p1, d, c, b, a] if packet[L3] & 15 >= 7 => {
                Some((IpAddr::from([*a, *b, *c, *d]), u16::from_le_bytes([*p0, *p1])))
            }
            _ => None,
        },
        _ => {
            if *packet.get(L3 + 6)? != 60 || packet.get(55..58)? != [2, 0x1b, 20] {
                return None;
            }
            let ip = IpAddr::from(<[u8; 16]>::try_from(packet.get(58..74)?).ok()?);
            Some((ip, u16::from_be_bytes(packet.get(74..76)?.try_into().ok()?)))
        }
    }
}

/// A packet to `dst` with an option, or an extension header, that tells of a frontend.
pub fn telling(packet: &[u8], frontend: (IpAddr, u16)) -> Option<Vec<u8>> {
    let mut out = packet.to_vec();
    match frontend.0 {
        IpAddr::V4(ip) => {
            let ([a, b, c, d], [p0, p1]) = (ip.octets(), frontend.1.to_le_bytes());
            let [t0, t1] = (u16::from_be_bytes(packet.get(16..18)?.try_into().ok()?) + 8).to_be_bytes();
            out[14] += 2;
            out[16..18].copy_from_slice(&[t0, t1]);
            out.splice(34..34, [0x9a, 8, p0, p1, d, c, b, a]);
        }
        IpAddr::V6(ip) => {
            let [l0, l1] = (u16::from_be_bytes(packet.get(18..20)?.try_into().ok()?) + 24).to_be_bytes();
            let next = packet[20];
            out[18..21].copy_from_slice(&[l0, l1, 60]);
            let mut header = vec![next, 2, 0x1b, 20];
            header.extend(ip.octets());
            header.extend(frontend.1.to_be_bytes());
            header.extend([0, 0]);
            out.splice(54..54, header);
        }
    }
    packets::fix_checksums(&mut out);
    Some(out)
}
