//! The Internet checksum over all bytes it covers. Slow, plain, and independent of anybody's incremental updates.

use core::net::IpAddr;

/// The sum of `data` as big-endian 16-bit words, a last odd byte padded with zero, not yet folded.
pub fn sum(data: &[u8]) -> u64 {
    let words = data.chunks(2).map(|word| match word {
        [high, low] => u64::from(u16::from_be_bytes([*high, *low])),
        [last] => u64::from(*last) << 8,
        _ => 0,
    });
    words.sum()
}

/// The sum of the pseudo header that TCP, UDP and ICMPv6 cover. `len` is that of the transport header and payload.
pub fn pseudo(src: IpAddr, dst: IpAddr, protocol: u8, len: usize) -> u64 {
    let address = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => sum(&ip.octets()),
        IpAddr::V6(ip) => sum(&ip.octets()),
    };
    let len = len as u64;
    address(src) + address(dst) + u64::from(protocol) + (len >> 16) + (len & 0xffff)
}

/// Folds a sum and complements it: what goes into the header.
pub fn finish(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// Whether a sum over bytes that include their checksum is right.
pub fn is_right(sum: u64) -> bool {
    finish(sum) == 0
}
