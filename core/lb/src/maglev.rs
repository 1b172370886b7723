//! Maglev tables: which backend serves which place of a table of prime size, identical to the reference's.
//!
//! Why: whichever node a packet of a connection reaches, it must find the same backend, without the nodes talking to
//! each other, and when a backend goes, only its own connections may move (and few others). Each backend walks the table
//! in an order of its own, which two hashes of its name give; the backends take turns, and each takes the next free place
//! on its way.
//!
//! How: a way is not stored (the reference's N × M buffer), it is two numbers and walked when needed. Free places are
//! bits, so that the table of the largest size stays in the first-level cache while it is filled. When few places are
//! left, walking would meet taken places nearly always: there the order in which a backend meets the free ones is
//! computed instead, with the inverse of its stride.
//!
//! Never: decides who is a member, touches a map, or uses a thread. [`Recipe`] is a value; whoever writes tables computes
//! many at once in parallel.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use core::fmt;
use core::num::NonZeroU64;

use crate::murmur3;

/// The hash that names become ways by (MurmurHash3, x64, 128 bits): its two halves.
pub use crate::murmur3::hash128 as name_hash;

/// Places of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TableSize(u32);

impl TableSize {
    /// The sizes the reference knows: primes near powers of two.
    pub const ALLOWED: [u32; 10] = [251, 509, 1_021, 2_039, 4_093, 8_191, 16_381, 32_749, 65_521, 131_071];

    /// A size, if it is one of [`Self::ALLOWED`].
    pub const fn new(places: u32) -> Result<Self, SizeRefusal> {
        let mut at = 0;
        while at < Self::ALLOWED.len() {
            if Self::ALLOWED[at] == places {
                return Ok(Self(places));
            }
            at += 1;
        }
        Err(SizeRefusal(places))
    }
    /// How many places.
    pub const fn places(self) -> u32 {
        self.0
    }
}

impl Default for TableSize {
    /// The reference's (`--bpf-lb-maglev-table-size`).
    fn default() -> Self {
        Self(16_381)
    }
}

/// The size is none of those allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "a Maglev table cannot have {0} places; it can have 251, 509, 1021, 2039, 4093, 8191, 16381, 32749, 65521 or 131071"
)]
pub struct SizeRefusal(pub u32);

/// Twelve bytes that all nodes of a cluster must share (`--bpf-lb-maglev-hash-seed`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seed {
    /// Of the hash of backends' names.
    pub names: u32,
    /// Of the hash of IPv4 flows.
    pub flows4: u32,
    /// Of the hash of IPv6 flows.
    pub flows6: u32,
}

impl Seed {
    /// The three seeds in their bytes.
    pub const fn from_bytes(bytes: [u8; 12]) -> Self {
        let [a, b, c, d, e, f, g, h, i, j, k, l] = bytes;
        Self {
            names: u32::from_be_bytes([a, b, c, d]),
            flows4: u32::from_be_bytes([e, f, g, h]),
            flows6: u32::from_be_bytes([i, j, k, l]),
        }
    }
}

impl Default for Seed {
    /// The reference's, `JLfvgnHc2kaSUFaI` in base64.
    fn default() -> Self {
        Self { names: 0x24b7_ef82, flows4: 0x71dc_da46, flows6: 0x9250_5688 }
    }
}

/// The way of one backend through a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Way {
    start: u32,
    stride: u32,
}

impl Way {
    /// The way of a backend of that name.
    pub fn of(name: &[u8], seed: u32, size: TableSize) -> Self {
        let (h1, h2) = murmur3::hash128(name, seed);
        let places = u64::from(size.0);
        // Both are below `places`, which is 32 bits wide.
        Self { start: (h1 % places) as u32, stride: (h2 % (places - 1)) as u32 + 1 }
    }
}

/// One backend of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Member {
    /// What stands in the table.
    pub id: u32,
    /// Its weight.
    pub weight: u16,
    /// Its way.
    pub way: Way,
}

/// Names a table in map writes; what is in it, its [`Recipe`] says. In one life no two tables have the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TableId(NonZeroU64);

impl TableId {
    /// The id of that number; `None` for zero, which stands for a table of an earlier life.
    pub const fn new(number: u64) -> Option<Self> {
        match NonZeroU64::new(number) {
            Some(number) => Some(Self(number)),
            None => None,
        }
    }
    /// The number.
    pub const fn as_u64(self) -> u64 {
        self.0.get()
    }
}

/// Everything a table depends on. Equal recipes make equal tables.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Recipe {
    size: TableSize,
    members: Arc<[Member]>,
}

impl fmt::Debug for Recipe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a table of {} places for {} backends", self.size.0, self.members.len())
    }
}

impl Recipe {
    /// A table for these members, which are in the order of their names.
    pub fn new(size: TableSize, members: Vec<Member>) -> Self {
        Self { size, members: members.into() }
    }
    /// The size of the table.
    pub const fn size(&self) -> TableSize {
        self.size
    }
    /// The table: an id for each place. Empty if there are no members.
    pub fn table(&self) -> Vec<u32> {
        let Some(turns) = Turns::new(&self.members) else { return Vec::new() };
        let mut filling = Filling::new(self.size, &self.members);
        match turns {
            Turns::Even => filling.fill(|_, next| next),
            Turns::Weighted(mut scale) => filling.fill(|n, next| scale.turn(n, next, &self.members)),
        }
        filling.table
    }
}

/// Who takes the next place.
enum Turns {
    Even,
    Weighted(Scale),
}

impl Turns {
    /// `None`: nobody is there. Weights that are all the same are no weights.
    fn new(members: &[Member]) -> Option<Self> {
        let [first, ..] = members else { return None };
        let sum: u64 = members.iter().map(|member| u64::from(member.weight)).sum();
        let weighted = sum / members.len() as u64 > 1 && members.iter().any(|member| member.weight != first.weight);
        Some(if weighted {
            let share = |member: &Member| f64::from(member.weight) / members.len() as f64;
            Self::Weighted(Scale { sum: sum as f64, taken: members.iter().map(share).collect() })
        } else {
            Self::Even
        })
    }
}

/// How much each weighted member has taken.
struct Scale {
    sum: f64,
    taken: Vec<f64>,
}

impl Scale {
    /// Whose turn it is in round `n`, beginning with the member at `at`.
    fn turn(&mut self, n: usize, mut at: usize, members: &[Member]) -> usize {
        // Somebody is always behind his share; the bound only keeps a rounding error from turning for ever.
        for _ in 1..members.len() {
            let due = (n as u64 + 1) * u64::from(members[at].weight);
            if due >= self.taken[at] as u64 {
                break;
            }
            at = if at + 1 == members.len() { 0 } else { at + 1 };
        }
        self.taken[at] += self.sum;
        at
    }
}

/// Words of a bit for each place of the largest table.
const WORDS: usize = (131_071_usize).div_ceil(64);

/// A table on its way.
struct Filling<'a> {
    size: u32,
    /// 2^64 / `size`, rounded down: dividing by it is multiplying with this.
    reciprocal: u64,
    members: &'a [Member],
    table: Vec<u32>,
    /// Where each member goes on.
    next: Vec<u32>,
    /// A bit for each taken place. A power of two of them, so that no index needs a check.
    taken: Box<[u64; WORDS]>,
}

impl<'a> Filling<'a> {
    fn new(size: TableSize, members: &'a [Member]) -> Self {
        Self {
            size: size.0,
            reciprocal: u64::MAX / u64::from(size.0),
            members,
            table: vec![0; size.0 as usize],
            next: members.iter().map(|member| member.way.start).collect(),
            taken: Box::new([0; WORDS]),
        }
    }

    /// Fills all places. `turn` says who takes one in which round; it is told who would without weights.
    fn fill(&mut self, mut turn: impl FnMut(usize, usize) -> usize) {
        let places = self.size as usize;
        // Computing the order of `few` places costs about as much as walking past `places / few` taken ones.
        let few = places.isqrt() * 3 / 4;
        let mut next = 0;
        let mut whose = |n: usize| {
            let who = turn(n, next);
            next = if next + 1 == self.members.len() { 0 } else { next + 1 };
            who
        };
        let whose = &mut whose;
        // In a table that is nearly empty the next place is nearly always free.
        let sparse = places / 4;
        for n in 0..sparse {
            let who = whose(n);
            walk(self.size, &self.members[who], &mut self.next[who], &mut self.taken, &mut self.table);
        }
        for n in sparse..places - few {
            let who = whose(n);
            stride(self.size, &self.members[who], &mut self.next[who], &mut self.taken, &mut self.table);
        }
        let mut free: Vec<u32> = (0..self.size).filter(|at| !is_taken(&self.taken, *at)).collect();
        for n in places - few..places {
            let member = &self.members[whose(n)];
            let at = free.swap_remove(self.first(member.way, &free));
            self.table[at as usize] = member.id;
        }
    }

    /// Which of the free places comes first on a way.
    fn first(&self, way: Way, free: &[u32]) -> usize {
        let size = u64::from(self.size);
        let (inverse, start) = (u64::from(inverse(way.stride, self.size)), u64::from(way.start));
        let when = |at: u32| {
            let product = (u64::from(at) + size - start) * inverse;
            let quotient = ((u128::from(product) * u128::from(self.reciprocal)) >> 64) as u64;
            // The reciprocal is rounded down, so the quotient may be one too small.
            let rest = product - quotient * size;
            if rest >= size { rest - size } else { rest }
        };
        (0..free.len()).min_by_key(|index| when(free[*index])).expect("a turn has a free place")
    }
}

#[inline(always)]
const fn is_taken(taken: &[u64; WORDS], at: u32) -> bool {
    taken[at as usize >> 6 & (WORDS - 1)] >> (at & 63) & 1 != 0
}

/// Goes on from place to place to the first that is free, and takes it.
#[inline(always)]
fn walk(size: u32, member: &Member, next: &mut u32, taken: &mut [u64; WORDS], table: &mut [u32]) {
    let stride = member.way.stride;
    let mut at = *next;
    while is_taken(taken, at) {
        at = step(at, stride, size);
    }
    taken[at as usize >> 6 & (WORDS - 1)] |= 1 << (at & 63);
    table[at as usize] = member.id;
    *next = step(at, stride, size);
}

/// The same, four places at a time: how many are taken is not to be guessed, and a wrong guess of the CPU costs more.
#[inline(always)]
fn stride(size: u32, member: &Member, next: &mut u32, taken: &mut [u64; WORDS], table: &mut [u32]) {
    let stride = member.way.stride;
    let mut at = *next;
    let free = loop {
        let second = step(at, stride, size);
        let third = step(second, stride, size);
        let fourth = step(third, stride, size);
        let bit = |at: u32| !(taken[at as usize >> 6 & (WORDS - 1)] >> (at & 63)) as u32 & 1;
        let found = bit(at) | bit(second) << 1 | bit(third) << 2 | bit(fourth) << 3;
        if found != 0 {
            // At most three strides on, so less than four times around.
            let passed = at + found.trailing_zeros() * stride;
            let passed = passed.min(passed.wrapping_sub(2 * size));
            break passed.min(passed.wrapping_sub(size));
        }
        at = step(fourth, stride, size);
    };
    taken[free as usize >> 6 & (WORDS - 1)] |= 1 << (free & 63);
    table[free as usize] = member.id;
    *next = step(free, stride, size);
}

#[inline(always)]
const fn step(at: u32, stride: u32, size: u32) -> u32 {
    let next = at + stride;
    // Without a branch: what is below the size becomes huge.
    let around = next.wrapping_sub(size);
    if around < next { around } else { next }
}

/// The number with which `of` makes 1 modulo a prime.
const fn inverse(of: u32, prime: u32) -> u32 {
    // All of them stay between -prime and prime, which is far below 2^31.
    let (mut r, mut next_r) = (prime as i32, of as i32);
    let (mut t, mut next_t) = (0_i32, 1_i32);
    while next_r != 0 {
        let quotient = r / next_r;
        (r, next_r) = (next_r, r - quotient * next_r);
        (t, next_t) = (next_t, t - quotient * next_t);
    }
    (if t < 0 { t + prime as i32 } else { t }) as u32
}

#[cfg(test)]
mod tests;
