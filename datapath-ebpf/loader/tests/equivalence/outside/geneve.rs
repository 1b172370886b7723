//! Packets inside Geneve, with an option that tells of a frontend (reference: DSR encodings). Apart from the pipeline's own reading.

use std::net::IpAddr;

use super::world::Both;
use crate::packets::{self, UDP};

/// Where IP begins.
const L3: usize = 14;
/// Geneve's port.
const PORT: u16 = 6081;
/// What is before the frame inside, from the UDP header on, by family of what is in it.
const BEFORE: [usize; 2] = [8 + 8 + 12, 8 + 8 + 24];

/// A packet that carries another.
#[derive(Debug)]
pub struct Carried {
    /// Addresses of the outer packet.
    pub ends: (IpAddr, IpAddr),
    pub frontend: (IpAddr, u16),
    pub frame: Vec<u8>,
}

/// Reads what looks like one; its lengths, checksums and other fields may be wrong.
pub fn read(packet: &[u8]) -> Option<Carried> {
    let ends = packets::addresses(packet)?;
    let (protocol, udp) = if ends.0.is_ipv6() { (20, L3 + 40) } else { (23, L3 + 20) };
    let port = packet.get(udp + 2..udp + 4)?;
    if *packet.get(protocol)? != UDP || port != PORT.to_be_bytes() {
        return None;
    }
    let geneve = packet.get(udp + 8..)?;
    let ipv6 = match (geneve.first()?, geneve.get(8..12)?) {
        (3, [0x01, 0x4b, 0x81, 2]) => false,
        (6, [0x01, 0x4b, 0x81, 5]) => true,
        _ => return None,
    };
    if geneve.get(2..4)? != [0x65, 0x58] {
        return None;
    }
    let at = if ipv6 { 28 } else { 16 };
    let ip = if ipv6 {
        IpAddr::from(<[u8; 16]>::try_from(geneve.get(12..at)?).ok()?)
    } else {
        IpAddr::from(<[u8; 4]>::try_from(geneve.get(12..at)?).ok()?)
    };
    let port = u16::from_be_bytes(geneve.get(at..at + 2)?.try_into().ok()?);
    Some(Carried { ends, frontend: (ip, port), frame: geneve.get(at + 4..)?.to_vec() })
}

/// Whether a packet is what a balancer may send: lengths, checksum, fixed fields, the world as sender.
pub fn is_well_made(packet: &[u8]) -> bool {
    let udp = match packet[12..14] {
        [0x08, 0x00] => {
            let total = usize::from(u16::from_be_bytes([packet[16], packet[17]]));
            let whole = packet[14] == 0x45 && total == packet.len() - L3 && packet[20..22] == [0x40, 0];
            if !whole || packet[22] != 64 || packets::ipv4_sum(&packet[L3..L3 + 20]) != 0xffff {
                return false;
            }
            L3 + 20
        }
        _ => {
            let payload = usize::from(u16::from_be_bytes([packet[18], packet[19]]));
            if packet[14..18] != [0x60, 0, 0, 0] || payload != packet.len() - L3 - 40 || packet[21] != 64 {
                return false;
            }
            L3 + 40
        }
    };
    let len = usize::from(u16::from_be_bytes([packet[udp + 4], packet[udp + 5]]));
    let port = u16::from_be_bytes([packet[udp], packet[udp + 1]]);
    let ipv6 = packet[udp + 8] == 6;
    let pad = udp + 8 + 12 + if ipv6 { 18 } else { 6 };
    len == packet.len() - udp
        && packet[udp + 6..udp + 8] == [0, 0]
        && port >= 49_152
        && packet[udp + 9] == 0x40
        && packet[udp + 12..udp + 16] == [0, 0, 2, 0]
        && packet[pad..pad + 2] == [0, 0]
        && packet[udp + BEFORE[usize::from(ipv6)] + 12..][..2] == if ipv6 { [0x86, 0xdd] } else { [0x08, 0x00] }
}

/// What another balancer sends: a frame for a backend, from `ends.0` to `ends.1`.
pub fn carry(ends: (IpAddr, IpAddr), frontend: (IpAddr, u16), frame: &[u8]) -> Vec<u8> {
    let mut told = match frontend.0 {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    told.extend(frontend.1.to_be_bytes());
    told.extend([0, 0]);
    let words = (told.len() / 4) as u8;
    let len = (8 + 8 + 4 + told.len() + frame.len()) as u16;
    let mut out = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
    match ends {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            out.extend([0x08, 0x00, 0x45, 0]);
            out.extend((len + 20).to_be_bytes());
            out.extend([0, 0, 0x40, 0, 64, UDP, 0, 0]);
            out.extend(src.octets());
            out.extend(dst.octets());
            let sum = !packets::ipv4_sum(&out[L3..]);
            out[24..26].copy_from_slice(&sum.to_be_bytes());
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            out.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
            out.extend(len.to_be_bytes());
            out.extend([UDP, 64]);
            out.extend(src.octets());
            out.extend(dst.octets());
        }
        _ => unreachable!("both ends are of one family"),
    }
    out.extend(50_000_u16.to_be_bytes());
    out.extend(PORT.to_be_bytes());
    out.extend(len.to_be_bytes());
    // Whoever it says it is from: nobody believes it.
    out.extend([0, 0, words + 1, 0x40, 0x65, 0x58, 0, 0, 6, 0, 0x01, 0x4b, 0x81, words]);
    out.extend(told);
    out.extend(frame);
    out
}

/// The frames that may be inside a damaged packet.
pub fn may_be_inside(packet: &[u8]) -> Vec<Vec<u8>> {
    let starts = [L3 + 20 + BEFORE[0], L3 + 20 + BEFORE[1], L3 + 40 + BEFORE[1]];
    starts.iter().filter_map(|at| packet.get(*at..)).map(<[u8]>::to_vec).collect()
}

/// Whether an address is one of these.
pub fn is_any(all: &[Both], ip: IpAddr) -> bool {
    all.iter().any(|one| one.is(ip))
}
