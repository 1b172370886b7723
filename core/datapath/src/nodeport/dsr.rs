//! Direct server return: the packet goes to the backend with the client as its source, and something tells the backend's node
//! which frontend the client spoke to.
//!
//! - IPv4 option and IPv6 destination option (reference: encodings): on what opens a connection, and on every UDP datagram.
//! - IPIP and IP6IP6: the packet as it came, inside another. The backend owns the frontend's address, and listens at its port, or,
//!   with [`LB_DSR_XLATE_BACKEND`], at the backend's.
//! - Geneve: see [`geneve`].

use abi::be::{Addr4, Port, Wide6};
use abi::config::{LB_DSR_GENEVE, LB_DSR_IPIP, LB_DSR_XLATE_BACKEND};
use abi::ct::CT_DSR;
use core::mem::offset_of;
use wire::{header, protocol};

use super::env::{NodeportEnv, NodeportMaps, Room};
use super::family::Balanced;
use super::forward::{self, leads_on, leave, length};
use super::{Origin, geneve, ways};
use crate::checksum;
use crate::config;
use crate::conntrack::{self, Moment};
use crate::env::Env;
use crate::family::{End, V4, V6};
use crate::nat;
use crate::parse::{Flow, L3};
use crate::verdict::{DropReason, Verdict};

/// Type and length of the IPv4 option.
const OPTION4: u32 = 0x9a | OPTION4_LEN << 8;
/// Bytes of the IPv4 option.
const OPTION4_LEN: u32 = 8;
/// Bytes of the IPv6 extension header.
const EXTENSION_LEN: u32 = 24;
/// Its length field, and type and length of its option, as they lie in it after the next header's number.
const EXTENSION: [u8; 3] = [2, 0x1b, 20];

/// Sends a packet to a backend of another node.
#[inline(always)]
pub fn forward<F: Balanced, E: NodeportEnv + NodeportMaps<F>>(
    env: &mut E,
    flow: &mut Flow<F>,
    backend: &End<F::Addr>,
    now: &Moment,
) -> Result<Verdict, DropReason> {
    if config::balances(env.node(), LB_DSR_IPIP) {
        return encapsulate(env, flow, backend, now);
    }
    if config::balances(env.node(), LB_DSR_GENEVE) {
        return geneve::hand_over(env, flow, backend, now);
    }
    tell(env, flow, backend, now)
}

/// Puts the packet into another one for the backend.
#[inline(always)]
pub fn encapsulate<F: Balanced, E: NodeportEnv>(
    env: &mut E,
    flow: &Flow<F>,
    backend: &End<F::Addr>,
    now: &Moment,
) -> Result<Verdict, DropReason> {
    let source = F::rss_source(env.node(), flow.hash(config::seed(env.node())));
    let outer = if F::IPV6 { 40 } else { 20 };
    let next = if F::IPV6 { protocol::IPV6 } else { protocol::IPIP };
    let inner = length(env);
    let len = if inner == 0 { 0 } else { inner + outer };
    let hop = ways::next_hop::<F, E>(env, &source, &backend.addr, next, len, now);
    if !leads_on(env, &hop)? {
        return Ok(Verdict::PASS);
    }
    if config::balances(env.node(), LB_DSR_XLATE_BACKEND) && flow.has_ports() {
        let to = End { addr: flow.dst.addr, port: backend.port };
        nat::rewrite(env, &mut { *flow }, nat::Which::Destination, &to)?;
    }
    let len = env.packet_len().wrapping_sub(L3).wrapping_add(outer);
    let room = if F::IPV6 { env.grow::<40>(Room::OuterIpv6) } else { env.grow::<20>(Room::OuterIpv4) };
    if room.is_none() || !F::put_outer(env, &source, &backend.addr, next, len) {
        return Err(DropReason::Write);
    }
    leave(env, &hop)
}

/// [`Balanced::put_outer`] for IPv4.
#[inline(always)]
pub fn put_outer4<E: NodeportEnv>(env: &mut E, src: Addr4, dst: Addr4, protocol: u8, len: u32) -> bool {
    let mut ip = header::Ipv4 {
        version_ihl: 0x45,
        tos: 0,
        total_len_be: (len as u16).to_be(),
        id_be: 0,
        fragment_be: 0x4000_u16.to_be(),
        ttl: 64,
        protocol,
        checksum: 0,
        src: src.raw,
        dst: dst.raw,
    };
    let words: [u32; 5] = zerocopy::transmute!(ip);
    let [a, b, c, d, e] = words;
    let sum = checksum::add(checksum::add(checksum::add(a, b), checksum::add(c, d)), e);
    ip.checksum = checksum::fold(sum);
    env.store(L3, &ip).is_some()
}

/// [`Balanced::put_outer`] for IPv6.
#[inline(always)]
pub fn put_outer6<E: NodeportEnv>(env: &mut E, src: Wide6, dst: Wide6, protocol: u8, len: u32) -> bool {
    let ip = header::Ipv6 {
        version_class_flow_be: (6u32 << 28).to_be(),
        payload_len_be: (len.wrapping_sub(40) as u16).to_be(),
        next_header: protocol,
        hop_limit: 64,
        src: src.halves,
        dst: dst.halves,
    };
    env.store(L3, &ip).is_some()
}

/// Replaces the destination by the backend, and tells it of the frontend where it cannot know it yet.
#[inline(always)]
fn tell<F: Balanced, E: NodeportEnv>(
    env: &mut E,
    flow: &mut Flow<F>,
    backend: &End<F::Addr>,
    now: &Moment,
) -> Result<Verdict, DropReason> {
    if flow.ttl() <= 1 {
        return Err(DropReason::TtlExceeded);
    }
    let frontend = flow.dst;
    let told = !flow.is_later_fragment() && (!flow.is_tcp() || conntrack::opens(flow.tcp_flags()));
    let fixed = if F::IPV6 { 40 } else { 20 };
    let growth = if F::IPV6 { EXTENSION_LEN } else { OPTION4_LEN };
    // Other options or extension headers would have to come first, or be moved.
    if told && flow.l4 != L3 + fixed {
        return Err(DropReason::DsrUnsupported);
    }
    let mut len = length(env);
    if told && len != 0 {
        len += growth;
    }
    let hop = ways::next_hop::<F, E>(env, &flow.src.addr, &backend.addr, flow.protocol(), len, now);
    if !leads_on(env, &hop)? {
        return Ok(Verdict::PASS);
    }
    let source = flow.src;
    forward::translate(env, flow, &source, backend)?;
    if told && !F::put_frontend(env, &frontend) {
        return Err(DropReason::Write);
    }
    leave(env, &hop)
}

/// Inserts the IPv4 option. Its number are in the order of the machine that writes them (reference: little-endian machines).
#[inline(always)]
pub fn put_frontend4<E: NodeportEnv>(env: &mut E, frontend: &End<Addr4>) -> bool {
    let Some([start, len]) = env.load::<[u16; 2]>(L3) else { return false };
    let [ihl, tos] = start.to_ne_bytes();
    if env.grow::<OPTION4_LEN>(Room::Ipv4Options).is_none() {
        return false;
    }
    let longer = u16::from_be(len).wrapping_add(OPTION4_LEN as u16).to_be();
    let start_now = u16::from_ne_bytes([ihl.wrapping_add(2), tos]);
    let option = [OPTION4 | (frontend.port.host() as u32) << 16, frontend.addr.host()];
    let [first, second] = option;
    let old = checksum::add(start as u32, len as u32);
    let new = checksum::add(start_now as u32, longer as u32);
    let changed = checksum::add(checksum::difference(old, new), checksum::add(first, second));
    env.store(L3, &[start_now, longer]).is_some()
        && env.store(L3 + 20, &option).is_some()
        && nat::patch_header(env, L3, changed).is_ok()
}

/// Inserts the IPv6 destination options header.
#[inline(always)]
pub fn put_frontend6<E: NodeportEnv>(env: &mut E, frontend: &End<Wide6>) -> bool {
    let at = L3 + offset_of!(header::Ipv6, payload_len_be) as u32;
    let Some([l0, l1, next, hops]) = env.load::<[u8; 4]>(at) else { return false };
    if env.grow::<EXTENSION_LEN>(Room::Ipv6Extension).is_none() {
        return false;
    }
    let [l0, l1] = u16::from_be_bytes([l0, l1]).wrapping_add(EXTENSION_LEN as u16).to_be_bytes();
    let [len, kind, option_len] = EXTENSION;
    env.store(at, &u32::from_ne_bytes([l0, l1, protocol::DESTINATION, hops])).is_some()
        && env.store(L3 + 40, &u32::from_ne_bytes([next, len, kind, option_len])).is_some()
        && env.store(L3 + 44, &frontend.addr).is_some()
        && env.store(L3 + 60, &(frontend.port.raw as u32)).is_some()
}

/// What a packet to a backend of this node says of the frontend it was sent to.
#[inline(always)]
pub fn told<F: Balanced, E: Env>(env: &E, flow: &Flow<F>) -> Origin<F> {
    let opens = flow.is_tcp() && conntrack::opens(flow.tcp_flags());
    if flow.is_later_fragment() || (flow.is_tcp() && !opens) {
        return Origin::none();
    }
    F::told(env, flow)
}

/// Reads the IPv4 option, which is the first if it is there.
#[inline(always)]
pub fn told4<E: Env>(env: &E, flow: &Flow<V4>) -> Origin<V4> {
    if flow.l4 < L3 + 28 {
        return Origin::none();
    }
    match env.load::<[u32; 2]>(L3 + 20) {
        Some([first, address]) if first & 0xffff == OPTION4 => {
            Origin { flags: CT_DSR, frontend: End { addr: Addr4::new(address), port: Port::new((first >> 16) as u16) } }
        }
        _ => Origin::none(),
    }
}

/// Reads the IPv6 destination option, whose header is the first if it is there.
#[inline(always)]
pub fn told6<E: Env>(env: &E, flow: &Flow<V6>) -> Origin<V6> {
    if flow.l4 < L3 + 40 + EXTENSION_LEN
        || env.load::<u8>(L3 + offset_of!(header::Ipv6, next_header) as u32) != Some(protocol::DESTINATION)
    {
        return Origin::none();
    }
    let Some([_, len, kind, option_len]) = env.load::<[u8; 4]>(L3 + 40) else { return Origin::none() };
    if [len, kind, option_len] != EXTENSION {
        return Origin::none();
    }
    let (Some(addr), Some(raw)) = (env.load::<Wide6>(L3 + 44), env.load::<u16>(L3 + 60)) else {
        return Origin::none();
    };
    Origin { flags: CT_DSR, frontend: End { addr, port: Port::from_raw(raw) } }
}
