//! TCP, UDP, SCTP, ICMP and ICMPv6 headers.
//!
//! `bytes` is always the whole IP payload, header and data, because checksums cover both. The pseudo header's
//! addresses come from the caller.

use core::net::IpAddr;

use crate::error::{chunk, room, split};
use crate::{WireError, checksum, protocol};

/// A TCP header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tcp<'a> {
    /// Source port.
    pub sport: u16,
    /// Destination port.
    pub dport: u16,
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgement number.
    pub ack: u32,
    /// Flags, see [`crate::tcp_flags`].
    pub flags: u8,
    /// Window.
    pub window: u16,
    /// Urgent pointer.
    pub urgent: u16,
    /// Options; a multiple of 4 bytes, at most 40.
    pub options: &'a [u8],
}

impl<'a> Tcp<'a> {
    /// Bytes of a header without options.
    pub const LEN: usize = 20;

    /// Reads a segment and checks its checksum. Returns header and data.
    pub fn parse(bytes: &'a [u8], src: IpAddr, dst: IpAddr) -> Result<(Self, &'a [u8]), WireError> {
        let (fixed, _) = chunk::<20>("TCP", bytes)?;
        let [s0, s1, d0, d1, q0, q1, q2, q3, a0, a1, a2, a3, offset, flags, w0, w1, _, _, u0, u1] = fixed;
        let len = usize::from(offset >> 4) * 4;
        if len < Self::LEN {
            return Err(WireError::Field { what: "TCP", field: "data offset", value: len as u32 });
        }
        if offset & 0xf != 0 {
            return Err(WireError::Field { what: "TCP", field: "reserved bits", value: (offset & 0xf).into() });
        }
        let (header, data) = split("TCP", bytes, len)?;
        let sum = checksum::pseudo(src, dst, protocol::TCP, bytes.len()) + checksum::sum(bytes);
        if !checksum::is_right(sum) {
            return Err(WireError::Checksum { what: "TCP" });
        }
        let parsed = Self {
            sport: u16::from_be_bytes([*s0, *s1]),
            dport: u16::from_be_bytes([*d0, *d1]),
            seq: u32::from_be_bytes([*q0, *q1, *q2, *q3]),
            ack: u32::from_be_bytes([*a0, *a1, *a2, *a3]),
            flags: *flags,
            window: u16::from_be_bytes([*w0, *w1]),
            urgent: u16::from_be_bytes([*u0, *u1]),
            options: header.get(Self::LEN..).unwrap_or_default(),
        };
        Ok((parsed, data))
    }

    /// Bytes of this header.
    pub fn header_len(&self) -> usize {
        Self::LEN + self.options.len()
    }

    /// Writes the segment, header, data and checksum; `out` is exactly as long.
    pub fn emit(&self, out: &mut [u8], data: &[u8], src: IpAddr, dst: IpAddr) -> Result<(), WireError> {
        let len = self.header_len();
        if !self.options.len().is_multiple_of(4) || self.options.len() > 40 {
            return Err(WireError::Field { what: "TCP", field: "options length", value: self.options.len() as u32 });
        }
        let out = exactly("TCP", out, len + data.len())?;
        out[..2].copy_from_slice(&self.sport.to_be_bytes());
        out[2..4].copy_from_slice(&self.dport.to_be_bytes());
        out[4..8].copy_from_slice(&self.seq.to_be_bytes());
        out[8..12].copy_from_slice(&self.ack.to_be_bytes());
        out[12] = ((len / 4) as u8) << 4;
        out[13] = self.flags;
        out[14..16].copy_from_slice(&self.window.to_be_bytes());
        out[16..18].fill(0);
        out[18..20].copy_from_slice(&self.urgent.to_be_bytes());
        out[20..len].copy_from_slice(self.options);
        out[len..].copy_from_slice(data);
        let sum = checksum::finish(checksum::pseudo(src, dst, protocol::TCP, out.len()) + checksum::sum(out));
        out[16..18].copy_from_slice(&sum.to_be_bytes());
        Ok(())
    }
}

/// A UDP header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Udp {
    /// Source port.
    pub sport: u16,
    /// Destination port.
    pub dport: u16,
}

impl Udp {
    /// Bytes of a header.
    pub const LEN: usize = 8;

    /// Reads a datagram and checks its checksum, if it has one (over IPv6 it must). Returns header and data.
    pub fn parse(bytes: &[u8], src: IpAddr, dst: IpAddr) -> Result<(Self, &[u8]), WireError> {
        let ([s0, s1, d0, d1, l0, l1, c0, c1], _) = chunk::<8>("UDP", bytes)?;
        let len = usize::from(u16::from_be_bytes([*l0, *l1]));
        if len < Self::LEN {
            return Err(WireError::Field { what: "UDP", field: "length", value: len as u32 });
        }
        let (datagram, _) = split("UDP", bytes, len)?;
        let absent = [*c0, *c1] == [0, 0];
        let sum = checksum::pseudo(src, dst, protocol::UDP, len) + checksum::sum(datagram);
        if (absent && src.is_ipv6()) || (!absent && !checksum::is_right(sum)) {
            return Err(WireError::Checksum { what: "UDP" });
        }
        let header = Self { sport: u16::from_be_bytes([*s0, *s1]), dport: u16::from_be_bytes([*d0, *d1]) };
        Ok((header, datagram.get(Self::LEN..).unwrap_or_default()))
    }

    /// Writes the datagram, header, data and checksum; `out` is exactly as long.
    pub fn emit(&self, out: &mut [u8], data: &[u8], src: IpAddr, dst: IpAddr) -> Result<(), WireError> {
        let out = exactly("UDP", out, Self::LEN + data.len())?;
        let Ok(len) = u16::try_from(out.len()) else {
            return Err(WireError::Field { what: "UDP", field: "length", value: out.len() as u32 });
        };
        out[..2].copy_from_slice(&self.sport.to_be_bytes());
        out[2..4].copy_from_slice(&self.dport.to_be_bytes());
        out[4..6].copy_from_slice(&len.to_be_bytes());
        out[6..8].fill(0);
        out[8..].copy_from_slice(data);
        let sum = checksum::finish(checksum::pseudo(src, dst, protocol::UDP, out.len()) + checksum::sum(out));
        let sum = if sum == 0 { 0xffff } else { sum };
        out[6..8].copy_from_slice(&sum.to_be_bytes());
        Ok(())
    }
}

/// An SCTP common header. Its CRC-32c is not computed here: nothing in this project changes what it covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sctp {
    /// Source port.
    pub sport: u16,
    /// Destination port.
    pub dport: u16,
    /// Verification tag.
    pub tag: u32,
    /// CRC-32c, as it is.
    pub checksum: u32,
}

impl Sctp {
    /// Bytes of a header.
    pub const LEN: usize = 12;

    /// Reads a header; the rest are its chunks.
    pub fn parse(bytes: &[u8]) -> Result<(Self, &[u8]), WireError> {
        let ([s0, s1, d0, d1, t0, t1, t2, t3, c0, c1, c2, c3], rest) = chunk::<12>("SCTP", bytes)?;
        let header = Self {
            sport: u16::from_be_bytes([*s0, *s1]),
            dport: u16::from_be_bytes([*d0, *d1]),
            tag: u32::from_be_bytes([*t0, *t1, *t2, *t3]),
            checksum: u32::from_be_bytes([*c0, *c1, *c2, *c3]),
        };
        Ok((header, rest))
    }

    /// Writes the header; the rest is room for its chunks.
    pub fn emit<'a>(&self, out: &'a mut [u8]) -> Result<&'a mut [u8], WireError> {
        let (header, rest) = room("SCTP", out, Self::LEN)?;
        header[..2].copy_from_slice(&self.sport.to_be_bytes());
        header[2..4].copy_from_slice(&self.dport.to_be_bytes());
        header[4..8].copy_from_slice(&self.tag.to_be_bytes());
        header[8..].copy_from_slice(&self.checksum.to_be_bytes());
        Ok(rest)
    }
}

/// An ICMP or ICMPv6 header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Icmp {
    /// Type.
    pub kind: u8,
    /// Code.
    pub code: u8,
    /// The four bytes after the checksum: identifier and sequence number of an echo, otherwise by type.
    pub rest: [u8; 4],
}

impl Icmp {
    /// Bytes of a header.
    pub const LEN: usize = 8;

    /// Reads a message and checks its checksum. `pseudo` holds the addresses for ICMPv6, `None` is ICMP.
    pub fn parse(bytes: &[u8], pseudo: Option<(IpAddr, IpAddr)>) -> Result<(Self, &[u8]), WireError> {
        let ([kind, code, _, _, a, b, c, d], data) = chunk::<8>("ICMP", bytes)?;
        if !checksum::is_right(Self::pseudo(pseudo, bytes.len()) + checksum::sum(bytes)) {
            return Err(WireError::Checksum { what: "ICMP" });
        }
        Ok((Self { kind: *kind, code: *code, rest: [*a, *b, *c, *d] }, data))
    }

    /// Writes the message, header, data and checksum; `out` is exactly as long.
    pub fn emit(&self, out: &mut [u8], data: &[u8], pseudo: Option<(IpAddr, IpAddr)>) -> Result<(), WireError> {
        let out = exactly("ICMP", out, Self::LEN + data.len())?;
        out[..4].copy_from_slice(&[self.kind, self.code, 0, 0]);
        out[4..8].copy_from_slice(&self.rest);
        out[8..].copy_from_slice(data);
        let sum = checksum::finish(Self::pseudo(pseudo, out.len()) + checksum::sum(out));
        out[2..4].copy_from_slice(&sum.to_be_bytes());
        Ok(())
    }

    fn pseudo(addresses: Option<(IpAddr, IpAddr)>, len: usize) -> u64 {
        addresses.map_or(0, |(src, dst)| checksum::pseudo(src, dst, protocol::ICMPV6, len))
    }
}

/// `out` if it is exactly `need` bytes.
fn exactly<'a>(what: &'static str, out: &'a mut [u8], need: usize) -> Result<&'a mut [u8], WireError> {
    let have = out.len();
    if have == need { Ok(out) } else { Err(WireError::Truncated { what, need, have }) }
}
