//! Bob Jenkins' lookup3, as the reference has it: the hashes that spread flows over backends and name a flow in events.
//! Packet programs and user space compute them alike.

/// What every hash starts from, besides its length and its seed.
const START: u32 = 0xdead_beef;

/// The final mix of three words (lookup3), without a seed.
#[inline(always)]
pub const fn mix(a: u32, b: u32, c: u32) -> u32 {
    seeded(a, b, c, 0)
}

/// The hash of three words with a seed (the reference's `jhash_3words`).
#[inline(always)]
pub const fn seeded(a: u32, b: u32, c: u32, seed: u32) -> u32 {
    let start = START.wrapping_add(3 << 2).wrapping_add(seed);
    finish(a.wrapping_add(start), b.wrapping_add(start), c.wrapping_add(start))
}

/// What picks a place of the Maglev table for an IPv4 flow: client, ports and protocol, not the frontend's address.
/// `client` and the ports are as they lie in memory (network order, loaded natively). The place is this modulo the
/// table's size.
#[inline(always)]
pub const fn tuple4(client: u32, client_port: u16, service_port: u16, protocol: u8, seed: u32) -> u32 {
    seeded(client, (service_port as u32) << 16 | client_port as u32, protocol as u32, seed)
}

/// The same for an IPv6 flow.
#[inline(always)]
pub const fn tuple6(client: [u32; 4], client_port: u16, service_port: u16, protocol: u8, seed: u32) -> u32 {
    let ports = (service_port as u32) << 16 | client_port as u32;
    let [a, b, c, d] = client;
    two_rounds([a, b, c, d, ports, protocol as u32], seed)
}

/// The hash of six words in two rounds, seeded at the end: what the reference makes of an IPv6 flow.
#[inline(always)]
pub const fn two_rounds(words: [u32; 6], seed: u32) -> u32 {
    let (a, b, c) = stir(words[0], words[1], words[2]);
    let (a, b, c) = stir(a.wrapping_add(words[3]), b.wrapping_add(words[4]), c.wrapping_add(words[5]));
    finish(a.wrapping_add(seed), b, c)
}

/// The hash of any bytes (lookup3 for unaligned keys on a little-endian machine).
pub fn bytes(key: &[u8], seed: u32) -> u32 {
    let start = START.wrapping_add(key.len() as u32).wrapping_add(seed);
    let (mut a, mut b, mut c) = (start, start, start);
    let word = |from: &[u8], at: usize| {
        let byte = |n: usize| u32::from(from.get(at * 4 + n).copied().unwrap_or(0));
        byte(0) | byte(1) << 8 | byte(2) << 16 | byte(3) << 24
    };
    let mut rest = key;
    while rest.len() > 12 {
        (a, b, c) = stir(a.wrapping_add(word(rest, 0)), b.wrapping_add(word(rest, 1)), c.wrapping_add(word(rest, 2)));
        rest = &rest[12..];
    }
    if rest.is_empty() {
        return c;
    }
    finish(a.wrapping_add(word(rest, 0)), b.wrapping_add(word(rest, 1)), c.wrapping_add(word(rest, 2)))
}

/// Mixes three words reversibly.
#[inline(always)]
const fn stir(mut a: u32, mut b: u32, mut c: u32) -> (u32, u32, u32) {
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
    (a, b, c)
}

/// Mixes three words into one.
#[inline(always)]
const fn finish(mut a: u32, mut b: u32, mut c: u32) -> u32 {
    c = (c ^ b).wrapping_sub(b.rotate_left(14));
    a = (a ^ c).wrapping_sub(c.rotate_left(11));
    b = (b ^ a).wrapping_sub(a.rotate_left(25));
    c = (c ^ b).wrapping_sub(b.rotate_left(16));
    a = (a ^ c).wrapping_sub(c.rotate_left(4));
    b = (b ^ a).wrapping_sub(a.rotate_left(14));
    (c ^ b).wrapping_sub(b.rotate_left(24))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lookup3's own example, and that both forms agree.
    #[test]
    fn known_answers() {
        assert_eq!(bytes(b"", 0), 0xdead_beef);
        assert_eq!(bytes(b"Four score and seven years ago", 0), 0x1777_0551);
        assert_eq!(bytes(b"Four score and seven years ago", 1), 0xcd62_8161);
        let words: [u8; 12] = core::array::from_fn(|at| at as u8);
        let word = |at: usize| u32::from_le_bytes([words[at], words[at + 1], words[at + 2], words[at + 3]]);
        assert_eq!(bytes(&words, 7), seeded(word(0), word(4), word(8), 7), "three words are twelve bytes");
    }
}
