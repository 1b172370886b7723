//! Ways found before: what the routing and neighbour tables said within the same second.
//!
//! To ask the kernel costs as much as all the rest of an established flow's packet, and the answer to the same question
//! seldom changes. So each CPU remembers the answers of this second, in a small table in which a later question may take an
//! earlier one's place. A change of routes or neighbours is seen when the next second begins, at the latest.

use super::env::{Hop, NodeportEnv, hop};
use super::family::Balanced;
use crate::conntrack::Moment;

/// Places in the table.
pub const WAYS: u32 = 1 << WAYS_BITS;
const WAYS_BITS: u32 = 10;

/// A question and its answer. 64 bytes: a line of the cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::Immutable)]
#[repr(C)]
pub struct KnownWay {
    src: [u64; 2],
    dst: [u64; 2],
    /// Protocol, family (bit 8), interface at which the packet came in (high half). Never 0 of an answer.
    asked: u64,
    /// When it was asked, seconds of the monotonic clock.
    seconds: u32,
    /// Longest packet, from the IP header on.
    mtu: u32,
    ifindex: u32,
    macs: [u32; 3],
}

/// The place of a question.
#[inline(always)]
fn place(src: &[u64; 2], dst: &[u64; 2]) -> u32 {
    let ([s0, s1], [d0, d1]) = (*src, *dst);
    let mixed = (d0 ^ d1 ^ ((s0 ^ s1) << 1)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> (64 - WAYS_BITS)) as u32
}

/// [`NodeportEnv::next_hop`], or what it said within this second.
#[inline(always)]
pub fn next_hop<F: Balanced, E: NodeportEnv>(
    env: &mut E,
    src: &F::Addr,
    dst: &F::Addr,
    protocol: u8,
    len: u32,
    now: &Moment,
) -> Hop {
    let (from, to) = (F::widen(src), F::widen(dst));
    let asked = protocol as u64 | (F::IPV6 as u64) << 8 | (env.ifindex() as u64) << 32;
    let slot = place(&from, &to);
    if let Some(known) = env.known_way(slot)
        && known.asked == asked
        && known.seconds == now.seconds
        && known.dst == to
        && known.src == from
    {
        let code = if len > known.mtu { hop::FRAGMENTATION_NEEDED } else { hop::OK };
        return Hop { code, ifindex: known.ifindex, macs: known.macs, mtu: known.mtu };
    }
    let hop = env.next_hop::<F>(src, dst, protocol, len);
    if hop.code == hop::OK
        && hop.mtu != 0
        && let Some(known) = env.known_way(slot)
    {
        let (seconds, mtu) = (now.seconds, hop.mtu);
        *known = KnownWay { src: from, dst: to, asked, seconds, mtu, ifindex: hop.ifindex, macs: hop.macs };
    }
    hop
}
