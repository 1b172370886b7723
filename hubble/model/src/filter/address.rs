//! Addresses and prefixes.

use super::FilterError;
use crate::view::Address;
use alloc::{
    boxed::Box,
    string::{String, ToString},
    vec::Vec,
};
use core::net::IpAddr;

/// Address filters: single addresses are compared as text, as flows carry text; prefixes by containment.
#[derive(Debug)]
pub(super) struct Matcher {
    /// The text, and the address when the text is its canonical form.
    exact: Box<[(String, Option<IpAddr>)]>,
    prefixes: Box<[Prefix]>,
}

#[derive(Debug, Clone, Copy)]
struct Prefix {
    ip: IpAddr,
    bits: u8,
}

impl Prefix {
    fn parse(text: &str) -> Option<Self> {
        let (ip, bits) = text.split_once('/')?;
        let plain = bits == "0" || (!bits.starts_with('0') && bits.bytes().all(|c| c.is_ascii_digit()));
        let ip: IpAddr = ip.parse().ok()?;
        let bits: u8 = bits.parse().ok().filter(|_| plain)?;
        let max = if ip.is_ipv4() { 32 } else { 128 };
        (bits <= max).then_some(Self { ip, bits })
    }

    fn contains(self, ip: IpAddr) -> bool {
        match (self.ip, ip) {
            (IpAddr::V4(net), IpAddr::V4(ip)) => {
                let shift = 32 - u32::from(self.bits);
                (u32::from(net) ^ u32::from(ip)).checked_shr(shift).unwrap_or(0) == 0
            }
            (IpAddr::V6(net), IpAddr::V6(ip)) => {
                let shift = 128 - u32::from(self.bits);
                (u128::from(net) ^ u128::from(ip)).checked_shr(shift).unwrap_or(0) == 0
            }
            _ => false,
        }
    }
}

impl Matcher {
    pub fn new(list: &[String]) -> Result<Self, FilterError> {
        let (mut exact, mut prefixes) = (Vec::new(), Vec::new());
        for text in list {
            if text.contains('/') {
                prefixes.push(Prefix::parse(text).ok_or_else(|| FilterError::Prefix(text.clone()))?);
                continue;
            }
            // A zone is allowed on IPv6 addresses, and no flow has one.
            let bare = text.split_once('%').filter(|(_, zone)| !zone.is_empty()).map_or(text.as_str(), |(ip, _)| ip);
            let zoned = bare.len() != text.len();
            let ip: IpAddr = bare.parse().map_err(|_| FilterError::Address(text.clone()))?;
            if zoned && ip.is_ipv4() {
                return Err(FilterError::Address(text.clone()));
            }
            let canonical = !zoned && ip.to_string() == *text;
            exact.push((text.clone(), canonical.then_some(ip)));
        }
        Ok(Self { exact: exact.into(), prefixes: prefixes.into() })
    }

    pub fn matches(&self, address: Address<'_>) -> bool {
        match address {
            Address::Text("") | Address::Ip(None) => false,
            Address::Text(text) => {
                self.exact.iter().any(|(want, _)| want == text)
                    || (!self.prefixes.is_empty() && text.parse().is_ok_and(|ip| self.contains(ip)))
            }
            Address::Ip(Some(ip)) => self.exact.iter().any(|(_, want)| *want == Some(ip)) || self.contains(ip),
        }
    }

    fn contains(&self, ip: IpAddr) -> bool {
        self.prefixes.iter().any(|prefix| prefix.contains(ip))
    }
}
