//! Port ranges, and the aligned blocks of a longest-prefix table that cover them.

use alloc::vec::Vec;
use core::fmt;

/// An inclusive range of ports.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortRange {
    /// First port.
    pub first: u16,
    /// Last port, not below `first`.
    pub last: u16,
}

/// An aligned block of ports: those whose first `bits` bits are those of `port`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortPrefix {
    /// First port of the block.
    pub port: u16,
    /// Bits that count, 0 (all ports) to 16 (one port).
    pub bits: u8,
}

impl PortPrefix {
    /// All ports.
    pub const ALL: Self = Self { port: 0, bits: 0 };

    /// The mask of the bits that count.
    #[must_use]
    pub const fn mask(self) -> u16 {
        match u16::MAX.checked_shl(16 - self.bits as u32) {
            Some(mask) => mask,
            None => 0,
        }
    }

    /// True if `port` lies in the block.
    #[must_use]
    pub const fn contains(self, port: u16) -> bool {
        port & self.mask() == self.port
    }

    /// True if all of `other` lies in the block.
    #[must_use]
    pub const fn covers(self, other: Self) -> bool {
        self.bits <= other.bits && self.contains(other.port)
    }
}

impl PortRange {
    /// Every port.
    pub const ALL: Self = Self { first: 0, last: u16::MAX };

    /// One port.
    #[must_use]
    pub const fn single(port: u16) -> Self {
        Self { first: port, last: port }
    }

    /// True if `port` lies in the range.
    #[must_use]
    pub const fn contains(self, port: u16) -> bool {
        self.first <= port && port <= self.last
    }

    /// True for every port.
    #[must_use]
    pub const fn is_all(self) -> bool {
        self.first == 0 && self.last == u16::MAX
    }

    /// The fewest aligned blocks that together are the range, in ascending order (at most 30).
    #[must_use]
    pub fn prefixes(self) -> Vec<PortPrefix> {
        let mut blocks = Vec::new();
        let mut at = u32::from(self.first);
        let end = u32::from(self.last);
        while at <= end {
            let aligned = if at == 0 { 16 } else { at.trailing_zeros().min(16) };
            let fits = (end - at + 1).ilog2();
            let free_bits = aligned.min(fits);
            #[allow(clippy::cast_possible_truncation, reason = "at <= 65535 and free_bits <= 16")]
            blocks.push(PortPrefix { port: at as u16, bits: 16 - free_bits as u8 });
            at += 1 << free_bits;
        }
        blocks
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_all() {
            f.write_str("any")
        } else if self.first == self.last {
            write!(f, "{}", self.first)
        } else {
            write!(f, "{}-{}", self.first, self.last)
        }
    }
}

impl fmt::Debug for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// RFC 6335: up to 15 letters, digits and hyphens, at least one letter, no hyphen at an edge or beside another.
#[must_use]
pub fn is_port_name(text: &str) -> bool {
    text.len() <= 15
        && text.bytes().any(|b| b.is_ascii_alphabetic())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        && !text.starts_with('-')
        && !text.ends_with('-')
        && !text.contains("--")
}
