//! One range of one family.
//!
//! Invariant: `loans` holds offsets from the first address of the range, every one of them lendable; `next` is where
//! the search for a free one begins, so that an address that was just returned is not the next one lent.

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use machine::Instant;
use types::Cidr;

use crate::{Family, Loan, LoanId, Refusal};

#[derive(Debug, Clone, PartialEq, Eq)]
struct Lent {
    owner: Box<str>,
    expires: Option<(Instant, LoanId)>,
    node: bool,
}

/// The lendable addresses of one range.
#[derive(Debug, Clone)]
pub struct Pool {
    range: Cidr,
    /// First and last lendable offset.
    bounds: Option<(u64, u64)>,
    loans: BTreeMap<u64, Lent>,
    expiring: BTreeSet<(Instant, u64)>,
    next: u64,
    loans_max: usize,
}

impl Pool {
    /// All of the range but its first and its last address. A range of one or two addresses lends nothing.
    ///
    /// Of a range with more than 2^32 addresses only the first 2^32 are lent.
    pub fn new(range: Cidr, loans_max: usize) -> Self {
        let host_bits = if range.is_ipv4() { 32 - range.bits() } else { 128 - range.bits() };
        let size = 1_u64 << host_bits.min(32);
        let bounds = (size > 2).then(|| (1, size - 2));
        Self { range, bounds, loans: BTreeMap::new(), expiring: BTreeSet::new(), next: 1, loans_max }
    }

    fn family(&self) -> Family {
        Family::of(self.range.addr())
    }

    fn addr(&self, offset: u64) -> IpAddr {
        match self.range.addr() {
            IpAddr::V4(first) => IpAddr::V4(Ipv4Addr::from_bits(first.to_bits() + offset as u32)),
            IpAddr::V6(first) => IpAddr::V6(Ipv6Addr::from_bits(first.to_bits() + u128::from(offset))),
        }
    }

    fn offset(&self, addr: IpAddr) -> Result<u64, Refusal> {
        let distance = match (self.range.addr(), addr) {
            (IpAddr::V4(first), IpAddr::V4(ip)) => ip.to_bits().checked_sub(first.to_bits()).map(u128::from),
            (IpAddr::V6(first), IpAddr::V6(ip)) => ip.to_bits().checked_sub(first.to_bits()),
            _ => None,
        };
        let lendable = |offset: &u64| self.bounds.is_some_and(|(low, high)| (low..=high).contains(offset));
        distance
            .and_then(|distance| u64::try_from(distance).ok())
            .filter(lendable)
            .ok_or(Refusal::OutOfRange { addr, range: self.range })
    }

    /// The first free offset at or after `next`, else from the start.
    fn free(&self) -> Option<u64> {
        let (low, high) = self.bounds?;
        self.free_in(self.next.max(low), high).or_else(|| self.free_in(low, self.next.saturating_sub(1)))
    }

    fn free_in(&self, low: u64, high: u64) -> Option<u64> {
        if low > high {
            return None;
        }
        let mut candidate = low;
        for taken in self.loans.range(low..=high).map(|(offset, _)| *offset) {
            if taken != candidate {
                break;
            }
            candidate += 1;
        }
        (candidate <= high).then_some(candidate)
    }

    pub(crate) fn allocate(&mut self, owner: &str, expires: Option<(Instant, LoanId)>) -> Result<Loan, Refusal> {
        let exhausted = Refusal::Exhausted { family: self.family(), range: self.range, total: self.usage().1 };
        let offset = self.free().ok_or(exhausted)?;
        self.insert(offset, owner, expires, false)?;
        self.next = offset + 1;
        Ok(Loan { addr: self.addr(offset), owner: owner.into(), expires })
    }

    pub(crate) fn reserve(&mut self, addr: IpAddr, owner: &str) -> Result<(), Refusal> {
        let offset = self.offset(addr)?;
        self.insert(offset, owner, None, false)
    }

    pub(crate) fn reserve_for_node(&mut self, addr: IpAddr, owner: &str) -> Result<(), Refusal> {
        let offset = self.offset(addr)?;
        self.insert(offset, owner, None, true)
    }

    fn insert(
        &mut self,
        offset: u64,
        owner: &str,
        expires: Option<(Instant, LoanId)>,
        node: bool,
    ) -> Result<(), Refusal> {
        if self.loans.contains_key(&offset) {
            return Err(Refusal::InUse(self.addr(offset)));
        }
        if self.loans.len() >= self.loans_max {
            return Err(Refusal::TooManyLoans { max: self.loans_max });
        }
        if let Some((at, _)) = expires {
            self.expiring.insert((at, offset));
        }
        self.loans.insert(offset, Lent { owner: owner.into(), expires, node });
        Ok(())
    }

    pub(crate) fn confirm(&mut self, addr: IpAddr, id: LoanId) -> Result<(), Refusal> {
        let offset = self.offset(addr)?;
        let lent = self.loans.get_mut(&offset).ok_or(Refusal::Expired(addr))?;
        match lent.expires {
            Some((at, known)) if known == id => {
                lent.expires = None;
                self.expiring.remove(&(at, offset));
                Ok(())
            }
            Some(_) => Err(Refusal::Expired(addr)),
            None => Ok(()),
        }
    }

    pub(crate) fn release(&mut self, addr: IpAddr) -> Result<(), Refusal> {
        let offset = self.offset(addr)?;
        match self.loans.get(&offset) {
            None => Err(Refusal::NotLent(addr)),
            Some(lent) if lent.node => Err(Refusal::OwnedByNode(addr)),
            Some(_) => {
                self.remove(offset);
                Ok(())
            }
        }
    }

    fn remove(&mut self, offset: u64) -> Option<Loan> {
        let Lent { owner, expires, .. } = self.loans.remove(&offset)?;
        if let Some((at, _)) = expires {
            self.expiring.remove(&(at, offset));
        }
        Some(Loan { addr: self.addr(offset), owner, expires })
    }

    pub(crate) fn expire(&mut self, now: Instant) -> Vec<Loan> {
        let mut gone = Vec::new();
        while let Some(&(at, offset)) = self.expiring.first() {
            if at > now {
                break;
            }
            self.expiring.pop_first();
            gone.extend(self.remove(offset));
        }
        gone
    }

    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.expiring.first().map(|(at, _)| *at)
    }

    pub(crate) fn loan(&self, addr: IpAddr) -> Option<Loan> {
        let offset = self.offset(addr).ok()?;
        let lent = self.loans.get(&offset)?;
        Some(Loan { addr, owner: lent.owner.clone(), expires: lent.expires })
    }

    pub(crate) fn loans(&self) -> impl Iterator<Item = Loan> + '_ {
        self.loans.iter().map(|(offset, lent)| Loan {
            addr: self.addr(*offset),
            owner: lent.owner.clone(),
            expires: lent.expires,
        })
    }

    pub(crate) fn usage(&self) -> (u64, u64) {
        let total = self.bounds.map_or(0, |(low, high)| high - low + 1);
        (self.loans.len() as u64, total)
    }
}
