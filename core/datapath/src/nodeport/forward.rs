//! Out again: translation of both ends at once, and the way by the routing table.

use abi::be::Port;
use core::mem::offset_of;
use wire::{header, protocol};

use super::env::{Hop, NodeportEnv, hop};
use super::family::Balanced;
use super::ways;
use crate::checksum;
use crate::conntrack::Moment;
use crate::env::Env;
use crate::family::{End, Family};
use crate::parse::{Flow, L3};
use crate::verdict::{DropReason, Verdict};

/// Mark of packets whose source is translated (reference: marks).
pub const MARK_SNAT_DONE: u32 = 0x0300;

/// Sends a packet on as one from `src` to `dst`, one hop further.
#[inline(always)]
pub fn send<F: Balanced, E: NodeportEnv>(
    env: &mut E,
    flow: &mut Flow<F>,
    src: &End<F::Addr>,
    dst: &End<F::Addr>,
    now: &Moment,
) -> Result<Verdict, DropReason> {
    if flow.ttl() <= 1 {
        return Err(DropReason::TtlExceeded);
    }
    let len = length(env);
    let hop = ways::next_hop::<F, E>(env, &src.addr, &dst.addr, flow.protocol(), len, now);
    if !leads_on(env, &hop)? {
        return Ok(Verdict::PASS);
    }
    translate(env, flow, src, dst)?;
    leave(env, &hop)
}

/// Bytes of the packet from the IP header on; 0 when they say nothing about what goes over the wire.
#[inline(always)]
pub fn length<E: NodeportEnv>(env: &E) -> u32 {
    if env.is_aggregate() { 0 } else { env.packet_len().wrapping_sub(L3) }
}

/// Whether a packet can leave this way now. At an early hook, what cannot is left to the later one.
#[inline(always)]
pub fn leads_on<E: NodeportEnv>(env: &E, hop: &Hop) -> Result<bool, DropReason> {
    match hop.code {
        hop::OK => Ok(true),
        hop::FRAGMENTATION_NEEDED => Err(DropReason::FragmentationNeeded),
        _ if env.is_early() => Ok(false),
        hop::NO_NEIGHBOUR => Ok(true),
        _ => Err(DropReason::NoRoute),
    }
}

/// Addresses the frame and sends it.
#[inline(always)]
pub fn leave<E: Env>(env: &mut E, hop: &Hop) -> Result<Verdict, DropReason> {
    env.set_mark(MARK_SNAT_DONE);
    if hop.code != hop::OK {
        return Ok(Verdict::redirect_neighbour(hop.ifindex));
    }
    if env.store(0, &hop.macs).is_none() {
        return Err(DropReason::Write);
    }
    Ok(Verdict::redirect(hop.ifindex))
}

/// Replaces both ends of `flow` in the packet and in `flow`, and spends a hop. Everything that could make it impossible is
/// checked before the first byte is stored.
#[inline(always)]
pub fn translate<F: Family, E: Env>(
    env: &mut E,
    flow: &mut Flow<F>,
    src: &End<F::Addr>,
    dst: &End<F::Addr>,
) -> Result<(), DropReason> {
    let (old_ports, new_ports) = ([flow.src.port, flow.dst.port], [src.port, dst.port]);
    let moved = old_ports != new_ports;
    if flow.protocol() == protocol::SCTP && moved {
        return Err(DropReason::UntranslatableProtocol);
    }
    let pseudo = checksum::add(F::difference(&flow.src.addr, &src.addr), F::difference(&flow.dst.addr, &dst.addr));
    network(env, flow, src, dst, pseudo)?;
    flow.src = *src;
    flow.dst = *dst;
    if flow.is_later_fragment() {
        return Ok(());
    }
    let (sum, udp) = match flow.protocol() {
        protocol::TCP => (offset_of!(header::Tcp, checksum) as u32, false),
        protocol::UDP => (offset_of!(header::Udp, checksum) as u32, true),
        protocol::ICMPV6 if F::IPV6 => (offset_of!(header::Icmp, checksum) as u32, false),
        _ => return Ok(()),
    };
    let mut own = 0;
    if moved && flow.has_ports() {
        own = checksum::difference(word(old_ports), word(new_ports));
        if env.store(flow.l4, &new_ports).is_none() {
            return Err(DropReason::Write);
        }
    }
    match env.patch_l4_checksum(flow.l4 + sum, pseudo, own, udp) {
        Some(()) => Ok(()),
        None => Err(DropReason::Write),
    }
}

/// Two ports as they lie in the packet.
#[inline(always)]
fn word(ports: [Port; 2]) -> u32 {
    zerocopy::transmute!(ports)
}

/// The network header's part of [`translate`].
#[inline(always)]
fn network<F: Family, E: Env>(
    env: &mut E,
    flow: &Flow<F>,
    src: &End<F::Addr>,
    dst: &End<F::Addr>,
    pseudo: u32,
) -> Result<(), DropReason> {
    let left = flow.ttl().wrapping_sub(1);
    let spent = if F::IPV6 {
        env.store(L3 + offset_of!(header::Ipv6, hop_limit) as u32, &left)
    } else {
        // Time to live, protocol, checksum.
        let at = L3 + offset_of!(header::Ipv4, ttl) as u32;
        let Some([_, proto, c0, c1]) = env.load::<[u8; 4]>(at) else { return Err(DropReason::Invalid) };
        let ttl = |ttl: u8| u16::from_ne_bytes([ttl, 0]) as u32;
        let changed = checksum::add(pseudo, checksum::difference(ttl(flow.ttl()), ttl(left)));
        let [c0, c1] = checksum::apply(u16::from_ne_bytes([c0, c1]), changed, false).to_ne_bytes();
        env.store(at, &u32::from_ne_bytes([left, proto, c0, c1]))
    };
    if spent.is_none() || env.store(L3 + F::SRC, &[src.addr, dst.addr]).is_none() {
        return Err(DropReason::Write);
    }
    Ok(())
}
