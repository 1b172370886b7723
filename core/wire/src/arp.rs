//! ARP for IPv4 over Ethernet.

use core::net::Ipv4Addr;

use crate::WireError;
use crate::error::{chunk, room};

/// Bytes of a message.
pub const LEN: usize = 28;

/// What an ARP message wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Who has the target address?
    Request,
    /// The sender has.
    Reply,
    /// Something else.
    Other(u16),
}

impl From<u16> for Operation {
    fn from(number: u16) -> Self {
        match number {
            1 => Self::Request,
            2 => Self::Reply,
            other => Self::Other(other),
        }
    }
}
impl From<Operation> for u16 {
    fn from(operation: Operation) -> Self {
        match operation {
            Operation::Request => 1,
            Operation::Reply => 2,
            Operation::Other(other) => other,
        }
    }
}

/// An ARP message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    /// What it wants.
    pub operation: Operation,
    /// Sender's MAC address.
    pub sender_mac: [u8; 6],
    /// Sender's address.
    pub sender_ip: Ipv4Addr,
    /// Target's MAC address.
    pub target_mac: [u8; 6],
    /// Target's address.
    pub target_ip: Ipv4Addr,
}

/// Hardware type Ethernet, protocol type IPv4, address lengths.
const START: [u8; 6] = [0, 1, 8, 0, 6, 4];

impl Message {
    /// Reads a message; the rest is padding.
    pub fn parse(bytes: &[u8]) -> Result<(Self, &[u8]), WireError> {
        let (all, rest) = chunk::<LEN>("ARP", bytes)?;
        let field = |field, high, low| {
            let value = u32::from(u16::from_be_bytes([high, low]));
            Err(WireError::Field { what: "ARP", field, value })
        };
        let [h0, h1, p0, p1, hl, pl, o0, o1, tail @ ..] = all;
        if [*h0, *h1] != [0, 1] {
            return field("hardware type", *h0, *h1);
        }
        if [*p0, *p1] != [8, 0] {
            return field("protocol type", *p0, *p1);
        }
        if [*hl, *pl] != [6, 4] {
            return field("address lengths", *hl, *pl);
        }
        let [a, b, c, d, e, f, i, j, k, l, m, n, o, p, q, r, s, t, u, v] = tail;
        let message = Self {
            operation: u16::from_be_bytes([*o0, *o1]).into(),
            sender_mac: [*a, *b, *c, *d, *e, *f],
            sender_ip: Ipv4Addr::new(*i, *j, *k, *l),
            target_mac: [*m, *n, *o, *p, *q, *r],
            target_ip: Ipv4Addr::new(*s, *t, *u, *v),
        };
        Ok((message, rest))
    }

    /// Writes the message; the rest is room for padding.
    pub fn emit<'a>(&self, out: &'a mut [u8]) -> Result<&'a mut [u8], WireError> {
        let (message, rest) = room("ARP", out, LEN)?;
        message[..6].copy_from_slice(&START);
        message[6..8].copy_from_slice(&u16::from(self.operation).to_be_bytes());
        message[8..14].copy_from_slice(&self.sender_mac);
        message[14..18].copy_from_slice(&self.sender_ip.octets());
        message[18..24].copy_from_slice(&self.target_mac);
        message[24..].copy_from_slice(&self.target_ip.octets());
        Ok(rest)
    }
}
