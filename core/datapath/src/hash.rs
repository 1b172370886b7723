//! The hash that spreads flows over backends and names a flow in events.

/// Bob Jenkins' final mix of three words (lookup3), the function the reference's maglev look-up uses.
#[inline(always)]
pub const fn mix(a: u32, b: u32, c: u32) -> u32 {
    seeded(a, b, c, 0)
}

/// [`mix`] with a seed.
#[inline(always)]
pub const fn seeded(a: u32, b: u32, c: u32, seed: u32) -> u32 {
    let start = 0xdead_beef_u32.wrapping_add(3 << 2).wrapping_add(seed);
    last(a.wrapping_add(start), b.wrapping_add(start), c.wrapping_add(start))
}

/// The final mix.
#[inline(always)]
const fn last(mut a: u32, mut b: u32, mut c: u32) -> u32 {
    c = (c ^ b).wrapping_sub(b.rotate_left(14));
    a = (a ^ c).wrapping_sub(c.rotate_left(11));
    b = (b ^ a).wrapping_sub(a.rotate_left(25));
    c = (c ^ b).wrapping_sub(b.rotate_left(16));
    a = (a ^ c).wrapping_sub(c.rotate_left(4));
    b = (b ^ a).wrapping_sub(a.rotate_left(14));
    (c ^ b).wrapping_sub(b.rotate_left(24))
}

/// Bob Jenkins' mixing round.
#[inline(always)]
const fn round(mut a: u32, mut b: u32, mut c: u32) -> [u32; 3] {
    a = a.wrapping_sub(c) ^ c.rotate_left(4);
    c = c.wrapping_add(b);
    b = b.wrapping_sub(a) ^ a.rotate_left(6);
    a = a.wrapping_add(c);
    c = c.wrapping_sub(b) ^ b.rotate_left(8);
    b = b.wrapping_add(a);
    a = a.wrapping_sub(c) ^ c.rotate_left(16);
    c = c.wrapping_add(b);
    b = b.wrapping_sub(a) ^ a.rotate_left(19);
    a = a.wrapping_add(c);
    c = c.wrapping_sub(b) ^ b.rotate_left(4);
    b = b.wrapping_add(a);
    [a, b, c]
}

/// The reference's hash of six words: two mixing rounds, then the final mix with a seed.
#[inline(always)]
pub const fn two_rounds(words: [u32; 6], seed: u32) -> u32 {
    let [a, b, c, d, e, f] = words;
    let [a, b, c] = round(a, b, c);
    let [a, b, c] = round(a.wrapping_add(d), b.wrapping_add(e), c.wrapping_add(f));
    last(a.wrapping_add(seed), b, c)
}
