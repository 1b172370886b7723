//! Host-scope address management: one node's pod addresses, lent to that node's endpoints.
//!
//! Why: a pod's address must be its own from the moment the CNI plugin asks until the pod is gone, whatever crashes in
//! between. So a loan that nobody confirms goes back after a while, and a restored endpoint takes its address back.
//!
//! Never: reads a clock, knows endpoints, or lends the network address, the broadcast address or the router's.
//!
//! Invariant: an address is free or in exactly one loan.
#![no_std]
#![forbid(unsafe_code)]
extern crate alloc;

mod pool;

pub use pool::Pool;

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::fmt;
use core::net::IpAddr;
use core::time::Duration;

use machine::{Instant, Rng};
use types::Cidr;

/// A loan with an expiration that nobody confirms within this time goes back (reference: IPAM expiration).
pub const CONFIRM_WITHIN: Duration = Duration::from_mins(10);

/// An address family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    /// IPv4
    V4,
    /// IPv6
    V6,
}

impl Family {
    /// The family of an address.
    pub const fn of(addr: IpAddr) -> Self {
        match addr {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }
}
impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// Names one loan until it is confirmed. Shown as a UUID.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct LoanId(u128);

impl LoanId {
    fn draw(rng: &mut Rng) -> Self {
        let raw = (u128::from(rng.next_u64()) << 64) | u128::from(rng.next_u64());
        // Version 4, variant 1 (RFC 9562).
        Self(raw & !(0xf << 76) & !(0x3 << 62) | (0x4 << 76) | (0x2 << 62))
    }
}
impl fmt::Display for LoanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let n = self.0;
        write!(
            f,
            "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
            (n >> 96) as u32,
            (n >> 80) as u16,
            (n >> 64) as u16,
            (n >> 48) as u16,
            n & 0xffff_ffff_ffff
        )
    }
}
impl core::str::FromStr for LoanId {
    type Err = LoanIdError;
    fn from_str(text: &str) -> Result<Self, LoanIdError> {
        let mut digits = 0;
        let mut number = 0_u128;
        for (at, c) in text.char_indices() {
            match (at, c.to_digit(16)) {
                (8 | 13 | 18 | 23, None) if c == '-' => {}
                (8 | 13 | 18 | 23, _) | (_, None) => return Err(LoanIdError),
                (_, Some(digit)) => {
                    digits += 1;
                    number = number.wrapping_mul(16) | u128::from(digit);
                }
            }
        }
        if digits == 32 { Ok(Self(number)) } else { Err(LoanIdError) }
    }
}

/// The text is no loan id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an expiration id is a UUID such as 01234567-89ab-4def-8123-456789abcdef")]
pub struct LoanIdError;

/// Why an address was not lent, confirmed or taken back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Nothing is free.
    #[error("all {total} {family} addresses of the pod range {range} are in use")]
    Exhausted {
        /// Of which family.
        family: Family,
        /// The pod range.
        range: Cidr,
        /// How many addresses it can lend.
        total: u64,
    },
    /// The family is not configured.
    #[error("{0} is not enabled on this node")]
    FamilyOff(Family),
    /// The address is lent.
    #[error("address {0} is in use")]
    InUse(IpAddr),
    /// The address is not in the pod range, or never lent (network, broadcast).
    #[error("address {addr} cannot be lent from the pod range {range}")]
    OutOfRange {
        /// The address.
        addr: IpAddr,
        /// The pod range.
        range: Cidr,
    },
    /// Nobody holds the address.
    #[error("address {0} is not in use")]
    NotLent(IpAddr),
    /// The address belongs to the node itself.
    #[error("address {0} belongs to the node itself and cannot be released")]
    OwnedByNode(IpAddr),
    /// The loan is not the one that was named; it ended, and the address may have been lent anew.
    #[error("the reservation of address {0} has expired; allocate a new address")]
    Expired(IpAddr),
    /// The table of loans is at its bound.
    #[error("{max} addresses are lent, which is the configured limit")]
    TooManyLoans {
        /// The bound.
        max: usize,
    },
}

/// One address that is lent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loan {
    /// The address.
    pub addr: IpAddr,
    /// Who holds it, as users see it (`router`, `default/pod-1`).
    pub owner: Box<str>,
    /// When it ends by itself, and the id that confirms it.
    pub expires: Option<(Instant, LoanId)>,
}

/// Bounds and ranges.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// IPv4 pod range.
    pub ipv4: Option<Cidr>,
    /// IPv6 pod range.
    pub ipv6: Option<Cidr>,
    /// How long an unconfirmed loan lasts.
    pub confirm_within: Duration,
    /// Loans of one family at most.
    pub loans_max: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self { ipv4: None, ipv6: None, confirm_within: CONFIRM_WITHIN, loans_max: 65_536 }
    }
}

/// Both families of one node.
#[derive(Debug, Clone)]
pub struct HostScope {
    pools: [Option<Pool>; 2],
    confirm_within: Duration,
    rng: Rng,
}

impl HostScope {
    /// Everything free. The generator names loans.
    pub fn new(config: &Config, rng: Rng) -> Self {
        let pool = |range: Option<Cidr>| range.map(|range| Pool::new(range, config.loans_max));
        Self { pools: [pool(config.ipv4), pool(config.ipv6)], confirm_within: config.confirm_within, rng }
    }

    fn pool(&mut self, family: Family) -> Result<&mut Pool, Refusal> {
        self.pools[family as usize].as_mut().ok_or(Refusal::FamilyOff(family))
    }

    /// Whether a family is configured.
    pub const fn has(&self, family: Family) -> bool {
        self.pools[family as usize].is_some()
    }

    /// Lends a free address; with `expires`, until it is confirmed or the time is over.
    pub fn allocate(&mut self, now: Instant, family: Family, owner: &str, expires: bool) -> Result<Loan, Refusal> {
        let end = expires.then(|| (now + self.confirm_within, LoanId::draw(&mut self.rng)));
        self.pool(family)?.allocate(owner, end)
    }

    /// Lends one certain address for good.
    pub fn reserve(&mut self, addr: IpAddr, owner: &str) -> Result<(), Refusal> {
        self.pool(Family::of(addr))?.reserve(addr, owner)
    }

    /// Takes an address for the node itself; it is never released.
    pub fn reserve_for_node(&mut self, addr: IpAddr, owner: &str) -> Result<(), Refusal> {
        self.pool(Family::of(addr))?.reserve_for_node(addr, owner)
    }

    /// Makes an expiring loan lasting. A loan that already lasts stays (a retried request).
    pub fn confirm(&mut self, addr: IpAddr, id: LoanId) -> Result<(), Refusal> {
        self.pool(Family::of(addr))?.confirm(addr, id)
    }

    /// Takes an address back.
    pub fn release(&mut self, addr: IpAddr) -> Result<(), Refusal> {
        self.pool(Family::of(addr))?.release(addr)
    }

    /// Takes back what nobody confirmed in time.
    pub fn expire(&mut self, now: Instant) -> Vec<Loan> {
        self.pools.iter_mut().flatten().flat_map(|pool| pool.expire(now)).collect()
    }

    /// When [`Self::expire`] has something to do.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.pools.iter().flatten().filter_map(Pool::next_deadline).min()
    }

    /// Who holds an address.
    pub fn loan(&self, addr: IpAddr) -> Option<Loan> {
        self.pools[Family::of(addr) as usize].as_ref()?.loan(addr)
    }

    /// All loans, IPv4 first, ordered by address.
    pub fn loans(&self) -> impl Iterator<Item = Loan> + '_ {
        self.pools.iter().flatten().flat_map(Pool::loans)
    }

    /// Lent and lendable addresses of a family: `cilium status` shows both.
    pub fn usage(&self, family: Family) -> Option<(u64, u64)> {
        self.pools[family as usize].as_ref().map(Pool::usage)
    }
}

#[cfg(test)]
mod tests;
