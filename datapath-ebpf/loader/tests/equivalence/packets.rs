//! Packets from a description, with right checksums; and what can be made of a packet: its reply, an error about it.
//! Written apart from the pipeline's own parsing, so that a mistake there is not repeated here.

use std::net::IpAddr;

pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
pub const SCTP: u8 = 132;
pub const ICMP: u8 = 1;
pub const ICMP6: u8 = 58;

pub const FIN: u8 = 1;
pub const SYN: u8 = 2;
pub const RST: u8 = 4;
pub const ACK: u8 = 16;

/// Where IP begins.
const L3: usize = 14;

/// A packet to be built.
#[derive(Clone, Debug)]
pub struct Spec {
    pub src: IpAddr,
    pub dst: IpAddr,
    pub protocol: u8,
    /// Ports; for ICMP type and code, and the identifier.
    pub ports: (u16, u16),
    pub tcp_flags: u8,
    pub payload: usize,
    pub ttl: u8,
    /// Words of IPv4 options, or IPv6 extension headers as (protocol, eight-byte units beyond the first).
    pub options: usize,
    pub extensions: Vec<(u8, u8)>,
    /// Identification, offset in eight-byte units, more fragments.
    pub fragment: Option<(u16, u16, bool)>,
    /// ICMP identifier, or what follows its checksum.
    pub icmp_id: u16,
}

impl Spec {
    pub fn new(src: IpAddr, dst: IpAddr, protocol: u8, ports: (u16, u16)) -> Self {
        let (tcp_flags, payload, ttl, options) = (SYN, 8, 64, 0);
        Self {
            src,
            dst,
            protocol,
            ports,
            tcp_flags,
            payload,
            ttl,
            options,
            extensions: vec![],
            fragment: None,
            icmp_id: 7,
        }
    }

    pub fn build(&self) -> Vec<u8> {
        let transport = self.transport();
        let mut packet = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
        match (self.src, self.dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                packet.extend([0x08, 0x00]);
                let header = 20 + self.options * 4;
                packet.extend([0x40 | (header / 4) as u8, 0]);
                packet.extend(((header + transport.len()) as u16).to_be_bytes());
                let (id, offset, more) = self.fragment.unwrap_or((0x1234, 0, false));
                packet.extend(id.to_be_bytes());
                packet.extend((offset | if more { 0x2000 } else { 0 }).to_be_bytes());
                packet.extend([self.ttl, self.protocol, 0, 0]);
                packet.extend(src.octets());
                packet.extend(dst.octets());
                packet.extend(std::iter::repeat_n(1, self.options * 4));
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                let (first, extensions) = self.extension_headers();
                packet.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
                packet.extend(((extensions.len() + transport.len()) as u16).to_be_bytes());
                packet.extend([first, self.ttl]);
                packet.extend(src.octets());
                packet.extend(dst.octets());
                packet.extend(extensions);
            }
            _ => unreachable!("both ends are of one family"),
        }
        packet.extend(transport);
        fix_checksums(&mut packet);
        packet
    }

    fn transport(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let (sport, dport) = (self.ports.0.to_be_bytes(), self.ports.1.to_be_bytes());
        match self.protocol {
            TCP => {
                out.extend([sport, dport].concat());
                out.extend([0, 0, 0, 1, 0, 0, 0, 2, 0x50, self.tcp_flags, 0xff, 0xff, 0, 0, 0, 0]);
            }
            UDP => {
                out.extend([sport, dport].concat());
                out.extend(((8 + self.payload) as u16).to_be_bytes());
                out.extend([0, 0]);
            }
            SCTP => {
                out.extend([sport, dport].concat());
                out.extend([0, 0, 0, 9, 0xde, 0xad, 0xbe, 0xef]);
            }
            ICMP | ICMP6 => {
                out.extend([self.ports.0 as u8, self.ports.1 as u8, 0, 0]);
                out.extend(self.icmp_id.to_be_bytes());
                out.extend([0, 1]);
            }
            _ => {}
        }
        out.extend((0..self.payload).map(|n| n as u8));
        out
    }

    fn extension_headers(&self) -> (u8, Vec<u8>) {
        let mut kinds: Vec<(u8, Vec<u8>)> = self
            .extensions
            .iter()
            .map(|(kind, units)| match kind {
                51 => (51, vec![0; (usize::from(*units) + 2) * 4]),
                kind => (*kind, vec![0; (usize::from(*units) + 1) * 8]),
            })
            .collect();
        for ((_, units), (_, bytes)) in self.extensions.iter().zip(&mut kinds) {
            bytes[1] = *units;
        }
        if let Some((id, offset, more)) = self.fragment {
            let bits = offset << 3 | u16::from(more);
            kinds.push((44, [&[0, 0], &bits.to_be_bytes()[..], &[0, 0], &id.to_be_bytes()].concat()));
        }
        let first = kinds.first().map_or(self.protocol, |(kind, _)| *kind);
        let nexts: Vec<u8> = kinds.iter().skip(1).map(|(kind, _)| *kind).chain([self.protocol]).collect();
        let chain = kinds.into_iter().zip(nexts).flat_map(|((_, mut bytes), next)| {
            bytes[0] = next;
            bytes
        });
        (first, chain.collect())
    }
}

/// Where things lie in a whole packet.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    pub ipv6: bool,
    pub protocol: u8,
    pub l4: usize,
    /// First byte after the IP payload.
    pub end: usize,
    /// Part of a fragmented datagram.
    pub fragment: bool,
    /// Not its first part.
    pub later: bool,
}

fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

/// Reads a packet's layout; `None` for what is no whole IP packet.
pub fn layout(packet: &[u8]) -> Option<Layout> {
    match be16(packet, 12)? {
        0x0800 => {
            let first = *packet.get(L3)?;
            let header = usize::from(first & 15) * 4;
            let total = usize::from(be16(packet, L3 + 2)?);
            let bits = be16(packet, L3 + 6)?;
            let fits = first >> 4 == 4 && header >= 20 && total >= header && L3 + total <= packet.len();
            let (fragment, later) = (bits & 0x3fff != 0, bits & 0x1fff != 0);
            let protocol = *packet.get(L3 + 9)?;
            fits.then_some(Layout { ipv6: false, protocol, l4: L3 + header, end: L3 + total, fragment, later })
        }
        0x86dd => layout6(packet),
        _ => None,
    }
}

fn layout6(packet: &[u8]) -> Option<Layout> {
    let end = L3 + 40 + usize::from(be16(packet, L3 + 4)?);
    if packet.get(L3)? >> 4 != 6 || end > packet.len() {
        return None;
    }
    let mut out =
        Layout { ipv6: true, protocol: *packet.get(L3 + 6)?, l4: L3 + 40, end, fragment: false, later: false };
    while matches!(out.protocol, 0 | 43 | 44 | 51 | 60) && !out.later {
        let (next, units) = (*packet.get(out.l4)?, usize::from(*packet.get(out.l4 + 1)?));
        let length = match out.protocol {
            44 => {
                out.fragment = true;
                out.later = be16(packet, out.l4 + 2)? & 0xfff8 != 0;
                8
            }
            51 => (units + 2) * 4,
            _ => (units + 1) * 8,
        };
        out.protocol = next;
        out.l4 += length;
    }
    (out.l4 <= end).then_some(out)
}

/// Whether the Ethernet header, or the fixed IP header after it, is not whole.
pub fn is_short(packet: &[u8]) -> bool {
    match be16(packet, 12) {
        Some(0x0800) => packet.len() < L3 + 20,
        Some(0x86dd) => packet.len() < L3 + 40,
        other => other.is_none(),
    }
}

fn sum(bytes: &[u8]) -> u64 {
    let words = bytes.chunks(2).map(|pair| u64::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)])));
    words.sum()
}

fn fold(mut sum: u64) -> u16 {
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// Offset of the transport checksum, and whether it covers the addresses; `None`: there is none to compute.
fn checksum_at(layout: &Layout) -> Option<(usize, bool)> {
    if layout.fragment {
        return None;
    }
    let (offset, pseudo) = match (layout.protocol, layout.ipv6) {
        (TCP, _) => (16, true),
        (UDP, _) => (6, true),
        (ICMP, false) => (2, false),
        (ICMP6, true) => (2, true),
        _ => return None,
    };
    (layout.l4 + offset + 2 <= layout.end).then_some((layout.l4 + offset, pseudo))
}

/// Sum over transport header, payload and, where it is covered, the pseudo header.
fn transport_sum(packet: &[u8], layout: &Layout, pseudo: bool) -> u16 {
    let mut total = sum(&packet[layout.l4..layout.end]);
    if pseudo {
        let addresses = if layout.ipv6 { &packet[L3 + 8..L3 + 40] } else { &packet[L3 + 12..L3 + 20] };
        total += sum(addresses) + u64::from(layout.protocol) + (layout.end - layout.l4) as u64;
    }
    fold(total)
}

/// Writes the right checksums.
pub fn fix_checksums(packet: &mut [u8]) {
    let Some(layout) = layout(packet) else { return };
    if !layout.ipv6 {
        packet[L3 + 10..L3 + 12].fill(0);
        let header = !fold(sum(&packet[L3..layout.l4]));
        packet[L3 + 10..L3 + 12].copy_from_slice(&header.to_be_bytes());
    }
    if let Some((at, pseudo)) = checksum_at(&layout) {
        packet[at..at + 2].fill(0);
        let mut value = !transport_sum(packet, &layout, pseudo);
        if layout.protocol == UDP && value == 0 {
            value = 0xffff;
        }
        packet[at..at + 2].copy_from_slice(&value.to_be_bytes());
    }
}

/// Whether every checksum is right (none in a UDP packet over IPv4 is right).
pub fn checksums_hold(packet: &[u8]) -> bool {
    let Some(layout) = layout(packet) else { return true };
    if !layout.ipv6 && fold(sum(&packet[L3..layout.l4])) != 0xffff {
        return false;
    }
    match checksum_at(&layout) {
        Some((at, _)) if layout.protocol == UDP && packet[at..at + 2] == [0, 0] => {
            // Over IPv6 there must be one, but around what carries others (RFC 6935).
            !layout.ipv6 || be16(packet, layout.l4 + 2) == Some(6081)
        }
        Some((_, pseudo)) => transport_sum(packet, &layout, pseudo) == 0xffff,
        None => true,
    }
}

/// The folded sum of an IPv4 header: all ones if its checksum is right.
pub fn ipv4_sum(header: &[u8]) -> u16 {
    fold(sum(header))
}

/// Source and destination.
pub fn addresses(packet: &[u8]) -> Option<(IpAddr, IpAddr)> {
    let ip = |at: usize, len: usize| -> Option<IpAddr> {
        let bytes = packet.get(at..at + len)?;
        match len {
            4 => Some(IpAddr::from(<[u8; 4]>::try_from(bytes).ok()?)),
            _ => Some(IpAddr::from(<[u8; 16]>::try_from(bytes).ok()?)),
        }
    };
    match be16(packet, 12)? {
        0x0800 => Some((ip(L3 + 12, 4)?, ip(L3 + 16, 4)?)),
        0x86dd => Some((ip(L3 + 8, 16)?, ip(L3 + 24, 16)?)),
        _ => None,
    }
}

/// The packet that answers this one: ends exchanged, ICMP requests turned into replies.
pub fn reply(packet: &[u8], tcp_flags: u8) -> Option<Vec<u8>> {
    let layout = layout(packet)?;
    let mut out = packet.to_vec();
    swap(&mut out, 0, 6, 6);
    let (at, len) = if layout.ipv6 { (L3 + 8, 16) } else { (L3 + 12, 4) };
    swap(&mut out, at, at + len, len);
    if layout.later {
        fix_checksums(&mut out);
        return Some(out);
    }
    match layout.protocol {
        TCP if layout.l4 + 20 <= layout.end => {
            swap(&mut out, layout.l4, layout.l4 + 2, 2);
            out[layout.l4 + 13] = tcp_flags;
        }
        UDP | SCTP if layout.l4 + 8 <= layout.end => swap(&mut out, layout.l4, layout.l4 + 2, 2),
        ICMP | ICMP6 if layout.l4 + 8 <= layout.end => {
            let kind = &mut out[layout.l4];
            *kind = match *kind {
                8 => 0,
                128 => 129,
                other => other,
            };
        }
        _ => return None,
    }
    fix_checksums(&mut out);
    Some(out)
}

/// The same flow again, with other TCP flags.
pub fn again(packet: &[u8], tcp_flags: u8) -> Option<Vec<u8>> {
    let layout = layout(packet)?;
    let mut out = packet.to_vec();
    if layout.protocol == TCP && !layout.later && layout.l4 + 20 <= layout.end {
        out[layout.l4 + 13] = tcp_flags;
    }
    fix_checksums(&mut out);
    Some(out)
}

/// An ICMP error about `packet`, sent by `from`, or by the packet's destination.
pub fn error_about(packet: &[u8], from: Option<IpAddr>, kind: u8, code: u8) -> Option<Vec<u8>> {
    let layout = layout(packet)?;
    let (src, dst) = addresses(packet)?;
    let quoted = &packet[L3..layout.end.min(L3 + 128)];
    let protocol = if layout.ipv6 { ICMP6 } else { ICMP };
    let mut spec = Spec::new(from.unwrap_or(dst), src, protocol, (u16::from(kind), u16::from(code)));
    spec.payload = quoted.len();
    spec.icmp_id = 0;
    let mut out = spec.build();
    let at = out.len() - quoted.len();
    out[at..].copy_from_slice(quoted);
    fix_checksums(&mut out);
    Some(out)
}

/// Who has `target`? asked by `sender`.
pub fn arp(sender: std::net::Ipv4Addr, target: std::net::Ipv4Addr, operation: u8) -> Vec<u8> {
    let mut out = vec![0xff; 6];
    out.extend([2, 0, 0, 0, 0, 2, 0x08, 0x06, 0, 1, 8, 0, 6, 4, 0, operation, 2, 0, 0, 0, 0, 2]);
    out.extend(sender.octets());
    out.extend([0; 6]);
    out.extend(target.octets());
    out
}

/// Neighbour solicitation (135) or another discovery message about `target`.
pub fn discovery(src: std::net::Ipv6Addr, target: std::net::Ipv6Addr, kind: u8) -> Vec<u8> {
    let mut spec = Spec::new(src.into(), target.into(), ICMP6, (u16::from(kind), 0));
    (spec.ttl, spec.payload, spec.icmp_id) = (255, 24, 0);
    let mut out = spec.build();
    let at = out.len() - 24;
    out[at - 4..at].fill(0);
    out[at..at + 16].copy_from_slice(&target.octets());
    out[at + 16..].copy_from_slice(&[1, 1, 2, 0, 0, 0, 0, 2]);
    fix_checksums(&mut out);
    out
}

fn swap(bytes: &mut [u8], a: usize, b: usize, len: usize) {
    for i in 0..len {
        bytes.swap(a + i, b + i);
    }
}

#[test]
fn what_is_built_holds_its_checksums_and_so_does_its_reply() {
    let four: (IpAddr, IpAddr) = ("10.0.0.5".parse().expect("v4"), "10.0.0.6".parse().expect("v4"));
    let six: (IpAddr, IpAddr) = ("fd00::5".parse().expect("v6"), "fd00::6".parse().expect("v6"));
    for (src, dst) in [four, six] {
        let icmp = if src.is_ipv4() { ICMP } else { ICMP6 };
        for protocol in [TCP, UDP, SCTP, icmp] {
            for payload in [0, 1, 40] {
                let mut spec = Spec::new(src, dst, protocol, (1000, 80));
                spec.payload = payload;
                spec.options = if src.is_ipv4() { 3 } else { 0 };
                spec.extensions = if src.is_ipv6() { vec![(0, 0), (51, 1), (60, 1)] } else { vec![] };
                let packet = spec.build();
                let layout = layout(&packet).unwrap_or_else(|| panic!("{spec:?}"));
                assert_eq!((layout.protocol, layout.end), (protocol, packet.len()), "{spec:?}");
                assert!(checksums_hold(&packet), "{spec:?}");
                let back = reply(&packet, ACK).unwrap_or_else(|| panic!("{spec:?}"));
                assert!(checksums_hold(&back), "{spec:?}");
                assert_eq!(addresses(&back), Some((dst, src)));
                let mut broken = packet.clone();
                *broken.last_mut().expect("not empty") ^= 1;
                let summed = protocol != SCTP && !(protocol == TCP && payload == 0);
                assert!(!summed || !checksums_hold(&broken), "{spec:?}");
                let error = error_about(&packet, None, 3, 1).unwrap_or_else(|| panic!("{spec:?}"));
                assert!(checksums_hold(&error), "{spec:?}");
            }
        }
    }
}
