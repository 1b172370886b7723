//! IPv4.

use core::net::Ipv4Addr;

use crate::error::{chunk, room, split};
use crate::{WireError, checksum};

/// Bytes of a header without options.
pub const LEN: usize = 20;
/// Bytes of options at most.
pub const OPTIONS_LEN_MAX: usize = 40;

/// An IPv4 header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header<'a> {
    /// DSCP and ECN.
    pub tos: u8,
    /// Identification.
    pub id: u16,
    /// Must not be fragmented.
    pub dont_fragment: bool,
    /// More fragments follow.
    pub more_fragments: bool,
    /// Where this fragment belongs, in bytes; a multiple of 8 below 65536.
    pub fragment_offset: u16,
    /// Time to live.
    pub ttl: u8,
    /// Transport protocol.
    pub protocol: u8,
    /// Source.
    pub src: Ipv4Addr,
    /// Destination.
    pub dst: Ipv4Addr,
    /// Options; a multiple of 4 bytes, at most [`OPTIONS_LEN_MAX`].
    pub options: &'a [u8],
    /// Bytes of payload.
    pub payload_len: u16,
}

impl<'a> Header<'a> {
    /// Reads a header and checks its checksum; the rest is its payload, without what comes after the datagram.
    pub fn parse(bytes: &'a [u8]) -> Result<(Self, &'a [u8]), WireError> {
        let field = |field, value| Err(WireError::Field { what: "IPv4", field, value });
        let (fixed, _) = chunk::<LEN>("IPv4", bytes)?;
        let [vihl, tos, l0, l1, i0, i1, f0, f1, ttl, protocol, _, _, addresses @ ..] = fixed;
        let (version, header_len) = (vihl >> 4, usize::from(vihl & 0xf) * 4);
        if version != 4 {
            return field("version", version.into());
        }
        if header_len < LEN {
            return field("header length", header_len as u32);
        }
        let total = usize::from(u16::from_be_bytes([*l0, *l1]));
        let Some(payload_len) = total.checked_sub(header_len) else { return field("total length", total as u32) };
        let (header, rest) = split("IPv4", bytes, header_len)?;
        if !checksum::is_right(checksum::sum(header)) {
            return Err(WireError::Checksum { what: "IPv4" });
        }
        let (payload, _) = split("IPv4", rest, payload_len)?;
        let bits = u16::from_be_bytes([*f0, *f1]);
        if bits & 0x8000 != 0 {
            return field("flags", u32::from(bits >> 13));
        }
        let [s0, s1, s2, s3, d0, d1, d2, d3] = addresses;
        let parsed = Self {
            tos: *tos,
            id: u16::from_be_bytes([*i0, *i1]),
            dont_fragment: bits & 0x4000 != 0,
            more_fragments: bits & 0x2000 != 0,
            fragment_offset: bits << 3,
            ttl: *ttl,
            protocol: *protocol,
            src: Ipv4Addr::new(*s0, *s1, *s2, *s3),
            dst: Ipv4Addr::new(*d0, *d1, *d2, *d3),
            options: header.get(LEN..).unwrap_or_default(),
            payload_len: payload_len as u16,
        };
        Ok((parsed, payload))
    }

    /// Bytes of this header.
    pub fn header_len(&self) -> usize {
        LEN + self.options.len()
    }

    /// Writes the header with its checksum; the rest is room for its payload.
    pub fn emit<'b>(&self, out: &'b mut [u8]) -> Result<&'b mut [u8], WireError> {
        let field = |field, value: usize| Err(WireError::Field { what: "IPv4", field, value: value as u32 });
        let len = self.header_len();
        if !self.options.len().is_multiple_of(4) || self.options.len() > OPTIONS_LEN_MAX {
            return field("options length", self.options.len());
        }
        if !self.fragment_offset.is_multiple_of(8) {
            return field("fragment offset", self.fragment_offset.into());
        }
        let total = len + usize::from(self.payload_len);
        let Ok(total) = u16::try_from(total) else { return field("total length", total) };
        let (header, payload) = room("IPv4", out, len)?;
        let flags = u16::from(self.dont_fragment) << 14 | u16::from(self.more_fragments) << 13;
        header[0] = 0x40 | (len / 4) as u8;
        header[1] = self.tos;
        header[2..4].copy_from_slice(&total.to_be_bytes());
        header[4..6].copy_from_slice(&self.id.to_be_bytes());
        header[6..8].copy_from_slice(&(flags | self.fragment_offset >> 3).to_be_bytes());
        header[8] = self.ttl;
        header[9] = self.protocol;
        header[10..12].fill(0);
        header[12..16].copy_from_slice(&self.src.octets());
        header[16..20].copy_from_slice(&self.dst.octets());
        header[20..].copy_from_slice(self.options);
        let sum = checksum::finish(checksum::sum(header));
        header[10..12].copy_from_slice(&sum.to_be_bytes());
        Ok(payload)
    }
}
