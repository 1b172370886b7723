//! MurmurHash3, the 128-bit form for 64-bit machines: what names become before they become ways through a table.

const C1: u64 = 0x87c3_7b91_1142_53d5;
const C2: u64 = 0x4cf5_ad43_2745_937f;

/// The two halves of the hash.
pub fn hash128(bytes: &[u8], seed: u32) -> (u64, u64) {
    let (mut h1, mut h2) = (u64::from(seed), u64::from(seed));
    let (blocks, rest) = bytes.as_chunks::<16>();
    for block in blocks {
        let (k1, k2) = halves(*block);
        h1 ^= first(k1);
        h1 = h1.rotate_left(27).wrapping_add(h2).wrapping_mul(5).wrapping_add(0x52dc_e729);
        h2 ^= second(k2);
        h2 = h2.rotate_left(31).wrapping_add(h1).wrapping_mul(5).wrapping_add(0x3849_5ab5);
    }
    let mut last = [0; 16];
    last[..rest.len()].copy_from_slice(rest);
    // Zero bytes that are not there change nothing: zero times anything is zero.
    let (k1, k2) = halves(last);
    h1 ^= first(k1);
    h2 ^= second(k2);
    let len = bytes.len() as u64;
    h1 ^= len;
    h2 ^= len;
    h1 = h1.wrapping_add(h2);
    h2 = h2.wrapping_add(h1);
    h1 = finish(h1);
    h2 = finish(h2);
    h1 = h1.wrapping_add(h2);
    (h1, h2.wrapping_add(h1))
}

const fn halves(block: [u8; 16]) -> (u64, u64) {
    let all = u128::from_le_bytes(block);
    (all as u64, (all >> 64) as u64)
}

const fn first(k: u64) -> u64 {
    k.wrapping_mul(C1).rotate_left(31).wrapping_mul(C2)
}

const fn second(k: u64) -> u64 {
    k.wrapping_mul(C2).rotate_left(33).wrapping_mul(C1)
}

const fn finish(mut h: u64) -> u64 {
    h = (h ^ h >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd);
    h = (h ^ h >> 33).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    h ^ h >> 33
}

#[cfg(test)]
mod tests {
    use super::hash128;

    #[test]
    fn known_answers() {
        for (seed, text, h1, h2) in [
            (0, "", 0, 0),
            (1_234, "hello world", 0x1629_cce7_05a7_069c, 0x316c_1fbd_953a_aecd),
            (500, "lorem ipsum dolor sit amet", 0x188f_69f0_abbd_67de, 0x1b0e_eb31_b4c0_0cb6),
            (31, "this is a test of 31 bytes long", 0x24b0_5ffc_a412_286a, 0x7d81_ac91_4b62_fe96),
            (3_337, "The quick brown fox jumps over the lazy dog.", 0x5e0f_d714_b316_9ae6, 0x2f36_e811_c153_5dc7),
        ] {
            assert_eq!(hash128(text.as_bytes(), seed), (h1, h2), "{text}");
        }
    }
}
