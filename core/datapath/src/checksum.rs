//! One's complement arithmetic for incremental checksum updates, step for step as the kernel's helpers do it.

/// Adds two partial sums with end-around carry.
#[inline(always)]
pub const fn add(a: u32, b: u32) -> u32 {
    let sum = a as u64 + b as u64;
    (sum as u32).wrapping_add((sum >> 32) as u32)
}

/// Folds a partial sum to 16 bits and complements it.
#[inline(always)]
pub const fn fold(sum: u32) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    !(sum as u16)
}

/// The difference that replacing `old` by `new` makes.
#[inline(always)]
pub const fn difference(old: u32, new: u32) -> u32 {
    add(!old, new)
}

/// The checksum `sum` after a change of `difference`. With `udp`, zero is written as all ones.
#[inline(always)]
pub const fn apply(sum: u16, difference: u32, udp: bool) -> u16 {
    let new = fold(add(difference, !(sum as u32)));
    if udp && new == 0 { 0xffff } else { new }
}
