//! Packets as their ends see them, made and judged without the pipeline's help.

use std::net::IpAddr;

const ETHERNET: usize = 14;

/// TCP flags used here.
pub mod flag {
    /// Opens.
    pub const SYN: u8 = 2;
    /// Acknowledges.
    pub const ACK: u8 = 16;
}

/// One end of a conversation.
pub type End = (IpAddr, u16);

/// What an end sees of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// Who sent it.
    pub src: End,
    /// Whom to.
    pub dst: End,
    /// Protocol number: 6 or 17.
    pub protocol: u8,
    /// TCP flags, 0 for UDP.
    pub flags: u8,
}

/// Why a delivered packet is not what any sender would have sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// It is shorter than it says, or of a kind nobody here sends.
    #[error("cut short or of an unknown kind")]
    Shape,
    /// The IPv4 header's checksum is wrong.
    #[error("wrong IPv4 header checksum")]
    HeaderChecksum,
    /// The TCP or UDP checksum is wrong.
    #[error("wrong transport checksum")]
    TransportChecksum,
}

impl Seen {
    /// The packet on the wire. Both addresses must be of one family.
    pub fn emit(&self, src_mac: [u8; 6], dst_mac: [u8; 6]) -> Vec<u8> {
        let transport_len: usize = if self.protocol == 6 { 20 } else { 8 };
        let mut transport = vec![0; transport_len];
        transport[..2].copy_from_slice(&self.src.1.to_be_bytes());
        transport[2..4].copy_from_slice(&self.dst.1.to_be_bytes());
        let checksum_at = if self.protocol == 6 {
            transport[12] = 0x50;
            transport[13] = self.flags;
            16
        } else {
            transport[4..6].copy_from_slice(&(transport_len as u16).to_be_bytes());
            6
        };
        let sum = self.transport_sum(&transport);
        transport[checksum_at..checksum_at + 2].copy_from_slice(&sum.to_be_bytes());
        let mut packet = [dst_mac, src_mac].concat();
        match (self.src.0, self.dst.0) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                let mut header = vec![0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, self.protocol, 0, 0];
                header[2..4].copy_from_slice(&(20 + transport_len as u16).to_be_bytes());
                header.extend(src.octets());
                header.extend(dst.octets());
                let sum = !fold(&header, 0);
                header[10..12].copy_from_slice(&sum.to_be_bytes());
                packet.extend([8, 0]);
                packet.extend(header);
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                packet.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, transport_len as u8, self.protocol, 64]);
                packet.extend(src.octets());
                packet.extend(dst.octets());
            }
            _ => unreachable!("both ends of a conversation are of one family"),
        }
        packet.extend(transport);
        packet
    }

    /// What an end makes of a packet that reached it, checksums included.
    pub fn read(packet: &[u8]) -> Result<Self, Malformed> {
        let ip = packet.get(ETHERNET..).ok_or(Malformed::Shape)?;
        let (src, dst, protocol, transport) = match packet.get(12..14) {
            Some([8, 0]) => {
                // Options tell a node of a frontend; ends do not look at them.
                let length =
                    ip.first().filter(|first| **first >> 4 == 4).map_or(0, |first| usize::from(first & 15) * 4);
                let header = ip.get(..length).filter(|header| header.len() >= 20).ok_or(Malformed::Shape)?;
                if fold(header, 0) != 0xffff {
                    return Err(Malformed::HeaderChecksum);
                }
                let addr = |at: usize| IpAddr::from(<[u8; 4]>::try_from(&header[at..at + 4]).expect("four bytes"));
                (addr(12), addr(16), header[9], &ip[length..])
            }
            Some([0x86, 0xdd]) => {
                let header = ip.get(..40).ok_or(Malformed::Shape)?;
                let addr = |at: usize| IpAddr::from(<[u8; 16]>::try_from(&header[at..at + 16]).expect("sixteen bytes"));
                // A destination options header does the same.
                let behind = match header[6] {
                    60 => 8 + usize::from(*ip.get(41).ok_or(Malformed::Shape)?) * 8,
                    _ => 0,
                };
                let protocol = if behind == 0 { header[6] } else { ip[40] };
                (addr(8), addr(24), protocol, ip.get(40 + behind..).ok_or(Malformed::Shape)?)
            }
            _ => return Err(Malformed::Shape),
        };
        let port = |at: usize| transport.get(at..at + 2).map(|two| u16::from_be_bytes([two[0], two[1]]));
        let (Some(sport), Some(dport)) = (port(0), port(2)) else { return Err(Malformed::Shape) };
        let flags = if protocol == 6 { *transport.get(13).ok_or(Malformed::Shape)? } else { 0 };
        let seen = Self { src: (src, sport), dst: (dst, dport), protocol, flags };
        // A right checksum, summed with everything it covers, gives all ones.
        if seen.transport_sum(transport) != 0 {
            return Err(Malformed::TransportChecksum);
        }
        Ok(seen)
    }

    /// Whether a packet tells its receiver that what it asked for is not there: a service without backends.
    pub fn is_refusal(packet: &[u8]) -> bool {
        let ip = packet.get(ETHERNET..).unwrap_or_default();
        match packet.get(12..14) {
            Some([0x08, 0x00]) => ip.get(9) == Some(&1) && ip.get(20) == Some(&3),
            Some([0x86, 0xdd]) => ip.get(6) == Some(&58) && ip.get(40) == Some(&1),
            _ => false,
        }
    }

    /// The packet that answers this one.
    pub fn answer(&self) -> Self {
        let flags = if self.protocol == 6 { flag::SYN | flag::ACK } else { 0 };
        Self { src: self.dst, dst: self.src, flags, ..*self }
    }

    /// The complement of the sum over pseudo header and transport.
    fn transport_sum(&self, transport: &[u8]) -> u16 {
        let mut pseudo = Vec::new();
        for addr in [self.src.0, self.dst.0] {
            match addr {
                IpAddr::V4(ip) => pseudo.extend(ip.octets()),
                IpAddr::V6(ip) => pseudo.extend(ip.octets()),
            }
        }
        let start = u32::from(self.protocol) + transport.len() as u32 + u32::from(fold(&pseudo, 0));
        !fold(transport, start)
    }
}

/// One's complement sum (RFC 1071).
fn fold(bytes: &[u8], start: u32) -> u16 {
    let pair = |two: &[u8]| u32::from(two[0]) << 8 | u32::from(two.get(1).copied().unwrap_or(0));
    let mut sum = start + bytes.chunks(2).map(pair).sum::<u32>();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_emitted_reads_back_and_any_changed_byte_is_noticed() {
        for (a, b) in [("10.0.0.1", "10.0.0.2"), ("fd00::1", "fd00::2")] {
            for protocol in [6, 17] {
                let flags = if protocol == 6 { flag::SYN } else { 0 };
                let end = |text: &str, port| (text.parse().expect("a literal"), port);
                let seen = Seen { src: end(a, 1234), dst: end(b, 80), protocol, flags };
                let packet = seen.emit([1; 6], [2; 6]);
                assert_eq!(Seen::read(&packet), Ok(seen));
                // From the addresses on, every byte is covered by a checksum.
                for at in packet.len() - if protocol == 6 { 20 } else { 8 }..packet.len() {
                    let mut bad = packet.clone();
                    bad[at] ^= 0x10;
                    assert!(Seen::read(&bad) != Ok(seen), "byte {at}");
                }
            }
        }
    }
}
