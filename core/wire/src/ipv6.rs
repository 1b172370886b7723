//! IPv6 and its extension headers.

use core::net::Ipv6Addr;

use crate::error::{chunk, room, split};
use crate::{WireError, protocol};

/// Bytes of the fixed header.
pub const LEN: usize = 40;

/// The fixed IPv6 header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Traffic class.
    pub traffic_class: u8,
    /// Flow label, 20 bits.
    pub flow_label: u32,
    /// Protocol number of what follows.
    pub next_header: u8,
    /// Hop limit.
    pub hop_limit: u8,
    /// Source.
    pub src: Ipv6Addr,
    /// Destination.
    pub dst: Ipv6Addr,
    /// Bytes of everything after this header.
    pub payload_len: u16,
}

impl Header {
    /// Reads a header; the rest is its payload, without what comes after the datagram.
    pub fn parse(bytes: &[u8]) -> Result<(Self, &[u8]), WireError> {
        let (fixed, rest) = chunk::<LEN>("IPv6", bytes)?;
        let [v0, v1, v2, v3, l0, l1, next_header, hop_limit, addresses @ ..] = fixed;
        let first = u32::from_be_bytes([*v0, *v1, *v2, *v3]);
        if first >> 28 != 6 {
            return Err(WireError::Field { what: "IPv6", field: "version", value: first >> 28 });
        }
        let payload_len = u16::from_be_bytes([*l0, *l1]);
        let (payload, _) = split("IPv6", rest, payload_len.into())?;
        let (src, dst) = addresses.split_at(16);
        let address = |octets: &[u8]| Ipv6Addr::from(<[u8; 16]>::try_from(octets).unwrap_or_default());
        let header = Self {
            traffic_class: (first >> 20) as u8,
            flow_label: first & 0xf_ffff,
            next_header: *next_header,
            hop_limit: *hop_limit,
            src: address(src),
            dst: address(dst),
            payload_len,
        };
        Ok((header, payload))
    }

    /// Writes the header; the rest is room for its payload.
    pub fn emit<'a>(&self, out: &'a mut [u8]) -> Result<&'a mut [u8], WireError> {
        if self.flow_label > 0xf_ffff {
            return Err(WireError::Field { what: "IPv6", field: "flow label", value: self.flow_label });
        }
        let (header, payload) = room("IPv6", out, LEN)?;
        let first = 6 << 28 | u32::from(self.traffic_class) << 20 | self.flow_label;
        header[..4].copy_from_slice(&first.to_be_bytes());
        header[4..6].copy_from_slice(&self.payload_len.to_be_bytes());
        header[6] = self.next_header;
        header[7] = self.hop_limit;
        header[8..24].copy_from_slice(&self.src.octets());
        header[24..].copy_from_slice(&self.dst.octets());
        Ok(payload)
    }
}

/// An extension header that IPv6 allows before the transport header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extension<'a> {
    /// Hop-by-hop options, routing or destination options; the bytes after the length field.
    Options {
        /// Protocol number of what follows.
        next_header: u8,
        /// Content; its length plus 2 is a multiple of 8 and at most 2048.
        content: &'a [u8],
    },
    /// Fragment header.
    Fragment {
        /// Protocol number of what follows.
        next_header: u8,
        /// Where this fragment belongs, in bytes; a multiple of 8.
        offset: u16,
        /// More fragments follow.
        more: bool,
        /// Identification.
        id: u32,
    },
}

impl<'a> Extension<'a> {
    /// Reads the extension header of the given kind (a protocol number); `None` when that is no extension header.
    pub fn parse(kind: u8, bytes: &'a [u8]) -> Result<Option<(Self, &'a [u8])>, WireError> {
        match kind {
            protocol::HOP_BY_HOP | protocol::ROUTING | protocol::DESTINATION => {
                let ([next_header, len], _) = chunk::<2>("IPv6 extension", bytes)?;
                let (header, rest) = split("IPv6 extension", bytes, (usize::from(*len) + 1) * 8)?;
                let content = header.get(2..).unwrap_or_default();
                Ok(Some((Self::Options { next_header: *next_header, content }, rest)))
            }
            protocol::FRAGMENT => {
                let ([next_header, _, o0, o1, i0, i1, i2, i3], rest) = chunk::<8>("IPv6 fragment", bytes)?;
                let bits = u16::from_be_bytes([*o0, *o1]);
                let fragment = Self::Fragment {
                    next_header: *next_header,
                    offset: bits & 0xfff8,
                    more: bits & 1 != 0,
                    id: u32::from_be_bytes([*i0, *i1, *i2, *i3]),
                };
                Ok(Some((fragment, rest)))
            }
            _ => Ok(None),
        }
    }

    /// Protocol number of what follows.
    pub fn next_header(&self) -> u8 {
        match self {
            Self::Options { next_header, .. } | Self::Fragment { next_header, .. } => *next_header,
        }
    }

    /// Bytes of this header.
    pub fn header_len(&self) -> usize {
        match self {
            Self::Options { content, .. } => content.len() + 2,
            Self::Fragment { .. } => 8,
        }
    }

    /// Writes the header; the rest is room for what follows.
    pub fn emit<'b>(&self, out: &'b mut [u8]) -> Result<&'b mut [u8], WireError> {
        let len = self.header_len();
        if !len.is_multiple_of(8) || len > 2048 {
            return Err(WireError::Field { what: "IPv6 extension", field: "length", value: len as u32 });
        }
        let (header, rest) = room("IPv6 extension", out, len)?;
        match self {
            Self::Options { next_header, content } => {
                header[0] = *next_header;
                header[1] = (len / 8 - 1) as u8;
                header[2..].copy_from_slice(content);
            }
            Self::Fragment { next_header, offset, more, id } => {
                if !offset.is_multiple_of(8) {
                    let value = (*offset).into();
                    return Err(WireError::Field { what: "IPv6 fragment", field: "offset", value });
                }
                header[0] = *next_header;
                header[1] = 0;
                header[2..4].copy_from_slice(&(offset | u16::from(*more)).to_be_bytes());
                header[4..].copy_from_slice(&id.to_be_bytes());
            }
        }
        Ok(rest)
    }
}
