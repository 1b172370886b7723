//! Address prefixes.

use core::fmt;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use core::str::FromStr;

use serde::{Deserialize, Serialize};

/// An IP prefix whose host bits are zero.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cidr {
    addr: IpAddr,
    len: u8,
}

/// Why something is no prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CidrError {
    /// The part before the slash is no address.
    #[error("the part before '/' must be an IPv4 or IPv6 address")]
    Address,
    /// The part after the slash is no length of this family.
    #[error("the prefix length must be a number from 0 to {max}")]
    Length {
        /// 32 or 128.
        max: u8,
    },
    /// There is no slash.
    #[error("a prefix is written ADDRESS/LENGTH, such as 10.0.0.0/8")]
    NoLength,
    /// Bits behind the prefix are set.
    #[error("bits behind the prefix are set; the prefix is {prefix}")]
    HostBits {
        /// What was probably meant.
        prefix: Cidr,
    },
}

impl Cidr {
    /// The prefix of `addr` with `len` bits. Set bits behind it are an error.
    pub fn new(addr: IpAddr, len: u8) -> Result<Self, CidrError> {
        let prefix = Self::containing(addr, len)?;
        if prefix.addr == addr { Ok(prefix) } else { Err(CidrError::HostBits { prefix }) }
    }
    /// The prefix with `len` bits in which `addr` lies.
    pub fn containing(addr: IpAddr, len: u8) -> Result<Self, CidrError> {
        let max = family_bits(addr);
        if len > max {
            return Err(CidrError::Length { max });
        }
        Ok(Self { addr: mask(addr, len), len })
    }
    /// The prefix of exactly one address.
    pub const fn host(addr: IpAddr) -> Self {
        Self { addr, len: family_bits(addr) }
    }
    /// First address.
    pub const fn addr(&self) -> IpAddr {
        self.addr
    }
    /// Length in bits.
    pub const fn bits(&self) -> u8 {
        self.len
    }
    /// Whether it holds every address of its family.
    pub const fn is_default(&self) -> bool {
        self.len == 0
    }
    /// Whether it holds one address.
    pub const fn is_host(&self) -> bool {
        self.len == family_bits(self.addr)
    }
    /// Whether it is an IPv4 prefix.
    pub const fn is_ipv4(&self) -> bool {
        self.addr.is_ipv4()
    }
    /// Whether `addr` lies in it.
    pub fn contains(&self, addr: IpAddr) -> bool {
        self.addr.is_ipv4() == addr.is_ipv4() && mask(addr, self.len) == self.addr
    }
    /// Whether all of `other` lies in it.
    pub fn covers(&self, other: &Self) -> bool {
        self.len <= other.len && self.contains(other.addr)
    }
    /// The prefix one bit shorter, or `None` of a default prefix.
    pub fn parent(&self) -> Option<Self> {
        let len = self.len.checked_sub(1)?;
        Some(Self { addr: mask(self.addr, len), len })
    }
    /// Both halves, or `None` of a single address.
    pub fn halves(&self) -> Option<(Self, Self)> {
        let max = family_bits(self.addr);
        let len = self.len.checked_add(1).filter(|len| *len <= max)?;
        let upper = match self.addr {
            IpAddr::V4(ip) => IpAddr::V4(Ipv4Addr::from_bits(ip.to_bits() | 1 << (32 - u32::from(len)))),
            IpAddr::V6(ip) => IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() | 1 << (128 - u32::from(len)))),
        };
        Some((Self { addr: self.addr, len }, Self { addr: upper, len }))
    }
}

const fn family_bits(addr: IpAddr) -> u8 {
    if addr.is_ipv4() { 32 } else { 128 }
}

fn mask(addr: IpAddr, len: u8) -> IpAddr {
    match addr {
        IpAddr::V4(ip) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(len)).unwrap_or(0);
            IpAddr::V4(Ipv4Addr::from_bits(ip.to_bits() & mask))
        }
        IpAddr::V6(ip) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(len)).unwrap_or(0);
            IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() & mask))
        }
    }
}

impl FromStr for Cidr {
    type Err = CidrError;
    fn from_str(text: &str) -> Result<Self, CidrError> {
        let (addr, len) = text.split_once('/').ok_or(CidrError::NoLength)?;
        let addr: IpAddr = addr.parse().map_err(|_| CidrError::Address)?;
        let max = family_bits(addr);
        let digits = !len.is_empty() && len.bytes().all(|b| b.is_ascii_digit());
        let len = digits.then(|| len.parse().ok()).flatten().ok_or(CidrError::Length { max })?;
        Self::new(addr, len)
    }
}
impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.addr, self.len)
    }
}
impl fmt::Debug for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
impl Serialize for Cidr {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
impl<'de> Deserialize<'de> for Cidr {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl serde::de::Visitor<'_> for Text {
            type Value = Cidr;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a prefix such as 10.0.0.0/8")
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Cidr, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_str(Text)
    }
}

#[cfg(test)]
mod tests;
