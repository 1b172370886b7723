//! Rewriting one end of a packet, and the checksums that cover it.
//!
//! Everything that could make a rewrite impossible is checked before the first byte is stored.

use abi::be::Port;
use core::mem::offset_of;
use wire::{header, protocol};

use crate::checksum;
use crate::env::Env;
use crate::family::{End, Family};
use crate::parse::{Flow, L3};
use crate::verdict::DropReason;

/// Which end of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// Source.
    Source,
    /// Destination.
    Destination,
}

/// The difference that replacing one port by another makes to a checksum.
#[inline(always)]
pub fn port_difference(old: Port, new: Port) -> u32 {
    checksum::difference(old.raw as u32, new.raw as u32)
}

/// Corrects the IPv4 header checksum at `offset`.
#[inline(always)]
pub fn patch_header<E: Env>(env: &mut E, header: u32, difference: u32) -> Result<u32, DropReason> {
    let offset = header + offset_of!(header::Ipv4, checksum) as u32;
    let Some(old) = env.load::<u16>(offset) else { return Err(DropReason::Invalid) };
    let new = checksum::apply(old, difference, false);
    if env.store(offset, &new).is_none() {
        return Err(DropReason::Write);
    }
    Ok(checksum::difference(old as u32, new as u32))
}

/// Replaces one end of `flow` by `new`, in the packet and in `flow`.
#[inline(always)]
pub fn rewrite<F: Family, E: Env>(
    env: &mut E,
    flow: &mut Flow<F>,
    which: Which,
    new: &End<F::Addr>,
) -> Result<(), DropReason> {
    let source = which == Which::Source;
    let old = if source { flow.src } else { flow.dst };
    // SCTP's checksum covers the ports and cannot be corrected incrementally.
    if flow.protocol() == protocol::SCTP && old.port != new.port {
        return Err(DropReason::UntranslatableProtocol);
    }
    let pseudo = F::difference(&old.addr, &new.addr);
    let at = L3 + if source { F::SRC } else { F::DST };
    if env.store(at, &new.addr).is_none() {
        return Err(DropReason::Write);
    }
    if !F::IPV6 {
        patch_header(env, L3, pseudo)?;
    }
    if !flow.is_later_fragment() {
        transport(env, flow, source, old.port, new.port, pseudo)?;
    }
    if source {
        flow.src = *new;
    } else {
        flow.dst = *new;
    }
    Ok(())
}

/// The transport header's part of [`rewrite`].
#[inline(always)]
fn transport<F: Family, E: Env>(
    env: &mut E,
    flow: &Flow<F>,
    source: bool,
    old: Port,
    new: Port,
    pseudo: u32,
) -> Result<(), DropReason> {
    let (checksum, udp) = match flow.protocol() {
        protocol::TCP => (offset_of!(header::Tcp, checksum) as u32, false),
        protocol::UDP => (offset_of!(header::Udp, checksum) as u32, true),
        // ICMPv6 covers the addresses, ICMP does not. Neither has ports to replace.
        protocol::ICMPV6 if F::IPV6 => (offset_of!(header::Icmp, checksum) as u32, false),
        _ => return Ok(()),
    };
    let own = if flow.protocol() == protocol::ICMPV6 || old == new { 0 } else { port_difference(old, new) };
    if own != 0 && env.store(flow.l4 + if source { 0 } else { 2 }, &new).is_none() {
        return Err(DropReason::Write);
    }
    match env.patch_l4_checksum(flow.l4 + checksum, pseudo, own, udp) {
        Some(()) => Ok(()),
        None => Err(DropReason::Write),
    }
}

/// Takes one from the time to live. The caller has seen that it is above 1.
#[inline(always)]
pub fn decrement_ttl<F: Family, E: Env>(env: &mut E, ttl: u8) -> Result<(), DropReason> {
    let left = ttl.wrapping_sub(1);
    if F::IPV6 {
        let offset = L3 + offset_of!(header::Ipv6, hop_limit) as u32;
        return if env.store(offset, &left).is_some() { Ok(()) } else { Err(DropReason::Write) };
    }
    let offset = L3 + offset_of!(header::Ipv4, ttl) as u32;
    if env.store(offset, &left).is_none() {
        return Err(DropReason::Write);
    }
    let word = |ttl: u8| u16::from_ne_bytes([ttl, 0]) as u32;
    patch_header(env, L3, checksum::difference(word(ttl), word(left)))?;
    Ok(())
}

/// Writes both MAC addresses: six bytes of each argument.
#[inline(always)]
pub fn write_macs<E: Env>(env: &mut E, dst: &[u8; 8], src: &[u8; 8]) -> Result<(), DropReason> {
    let (dst, src) = (u64::from_le_bytes(*dst), u64::from_le_bytes(*src));
    let middle = (dst >> 32) as u32 & 0xffff | ((src as u32) & 0xffff) << 16;
    let words = [(dst as u32).to_le(), middle.to_le(), ((src >> 16) as u32).to_le()];
    if env.store(0, &words).is_some() { Ok(()) } else { Err(DropReason::Write) }
}
