//! Ethernet II.

use crate::WireError;
use crate::error::{chunk, room};

/// Bytes of the header.
pub const LEN: usize = 14;

/// An Ethernet header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Destination.
    pub dst: [u8; 6],
    /// Source.
    pub src: [u8; 6],
    /// EtherType.
    pub ethertype: u16,
}

impl Header {
    /// Reads a header; the rest is its payload.
    pub fn parse(bytes: &[u8]) -> Result<(Self, &[u8]), WireError> {
        let ([d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5, high, low], payload) = chunk::<LEN>("Ethernet", bytes)?;
        let header = Self {
            dst: [*d0, *d1, *d2, *d3, *d4, *d5],
            src: [*s0, *s1, *s2, *s3, *s4, *s5],
            ethertype: u16::from_be_bytes([*high, *low]),
        };
        Ok((header, payload))
    }

    /// Writes the header; the rest is room for its payload.
    pub fn emit<'a>(&self, out: &'a mut [u8]) -> Result<&'a mut [u8], WireError> {
        let (header, payload) = room("Ethernet", out, LEN)?;
        header[..6].copy_from_slice(&self.dst);
        header[6..12].copy_from_slice(&self.src);
        header[12..].copy_from_slice(&self.ethertype.to_be_bytes());
        Ok(payload)
    }
}
