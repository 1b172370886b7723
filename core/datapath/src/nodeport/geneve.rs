//! Direct server return by Geneve: the packet, its destination already replaced by the backend, inside another to the backend's node,
//! with an option that tells of the frontend (reference: encodings).
//!
//! ```text
//! Ethernet ─ IP ─ UDP ─ Geneve ─ option ─ Ethernet ─ IP ─ …
//!                                frontend            client ► backend
//! ```
//!
//! - **Each packet has the option**, where the original puts it into what opens a connection and into datagrams only (and encapsulates
//!   all). A receiver of the original's ignores it elsewhere. So the receiver here takes a packet apart only if it says
//!   itself what it is, the longest packet is the same for all of a connection, and a backend whose node has lost a connection's
//!   entry answers from the frontend again with the next packet.
//! - **The outer destination** is the node that the ipcache names for the backend, by IPv4 for both families, and otherwise the backend
//!   itself: where no node is known pods' addresses are routed.
//! - **No checksum in the outer UDP header**: what is inside has its own, and to sum up a packet takes all its bytes (RFC 6935, 6936).
//!
//! There is no device for it: the receiver's own program takes the packet apart ([`take_apart`]), and everything that it does not know
//! for certain goes on to the stack as it came.

use abi::be::Port;
use abi::ct::CT_DSR;
use abi::endpoint::ENDPOINT_HOST;
use core::mem::{offset_of, size_of};
use wire::{header, protocol};

use super::env::{NodeportEnv, NodeportMaps, Room};
use super::family::Balanced;
use super::forward::{self, leads_on, leave, length};
use super::{Origin, hooks, host, ways};
use crate::config;
use crate::conntrack::Moment;
use crate::env::Env;
use crate::events::Report;
use crate::family::{End, Family, V4, V6};
use crate::kept::Kept;
use crate::parse::{self, Flow, L3};
use crate::policy;
use crate::stages;
use crate::verdict::{DropReason, Verdict};

/// Bytes of the UDP header, of the fixed Geneve header and of an option's header.
const HEADERS: u32 = 8 + 8 + 4;
/// The Geneve header's second byte: this is no control packet, but there is an option that must be understood.
const CRITICAL: u8 = 0x40;
/// Number of an Ethernet frame as payload.
const BRIDGED: [u8; 2] = [0x65, 0x58];
/// Class and type of the option.
const OPTION: [u8; 3] = [0x01, 0x4b, 0x81];
/// First of the source ports, and how many there are: the dynamic ones (RFC 8926, 3.3).
const SOURCE_PORTS: (u16, u32) = (0xc000, 0x3fff);
/// Identity of everybody outside the cluster, whatever the family.
const IDENTITY_WORLD: u32 = 2;

/// Words of the option's payload: address, port, two zero bytes.
const fn option_words(ipv6: bool) -> u8 {
    if ipv6 { 5 } else { 2 }
}

/// Bytes from the outer UDP header to the inner IP header.
const fn before_inner(ipv6: bool) -> u32 {
    HEADERS + option_words(ipv6) as u32 * 4 + wire::ETHERNET_LEN
}

/// Offset of the outer UDP header.
const fn udp_at(outer_ipv6: bool) -> u32 {
    L3 + if outer_ipv6 { 40 } else { 20 }
}

/// Bytes that carrying a packet adds to it.
pub const fn overhead(ipv6: bool, outer_ipv6: bool) -> u32 {
    udp_at(outer_ipv6) - L3 + before_inner(ipv6)
}

/// Hands a packet for a backend of another node to the stage that carries it there.
#[inline(always)]
pub fn hand_over<F: Balanced, E: NodeportEnv>(
    env: &mut E,
    flow: &Flow<F>,
    backend: &End<F::Addr>,
    now: &Moment,
) -> Result<Verdict, DropReason> {
    let to = Origin::<F> { flags: CT_DSR, frontend: *backend };
    Kept::of(flow, &Report::new(true), now).through(&to).leave(env)?;
    Ok(Verdict::go_on(stages::of::<F>().wrap))
}

/// Carries a packet to its backend, as [`hand_over`] has left it.
#[inline(always)]
pub fn carry<F: Balanced, E: NodeportEnv>(env: &mut E, flow: &mut Flow<F>, kept: &Kept) -> Result<Verdict, DropReason> {
    if flow.ttl() <= 1 {
        return Err(DropReason::TtlExceeded);
    }
    let (backend, now) = (kept.origin::<F>().frontend, kept.moment());
    let node = match env.ipcache(&F::ipcache_key(&backend.addr)) {
        Some(entry) => entry.tunnel_endpoint,
        None => V4::UNSPECIFIED,
    };
    if !F::IPV6 {
        let to = if node == V4::UNSPECIFIED { V4::narrow(&F::widen(&backend.addr)) } else { node };
        return wrap::<F, V4, E>(env, flow, &backend, &to, &now);
    }
    if node == V4::UNSPECIFIED || V4::snat_address(env.node()) == V4::UNSPECIFIED {
        return wrap::<F, F, E>(env, flow, &backend, &backend.addr, &now);
    }
    wrap::<F, V4, E>(env, flow, &backend, &node, &now)
}

/// Puts a packet of family `F` into one of family `O` and sends it.
#[inline(always)]
fn wrap<F: Balanced, O: Balanced, E: NodeportEnv>(
    env: &mut E,
    flow: &mut Flow<F>,
    backend: &End<F::Addr>,
    to: &O::Addr,
    now: &Moment,
) -> Result<Verdict, DropReason> {
    let from = O::snat_address(env.node());
    let inner = length(env);
    let len = if inner == 0 { 0 } else { inner + overhead(F::IPV6, O::IPV6) };
    let hop = ways::next_hop::<O, E>(env, &from, to, protocol::UDP, len, now);
    if !leads_on(env, &hop)? {
        return Ok(Verdict::PASS);
    }
    let identity = policy::peer::<F, E>(env, &flow.src.addr).identity;
    let outside = policy::is_outside::<F, E>(env, identity) || identity >> 24 != 0;
    let vni = if outside { IDENTITY_WORLD } else { identity };
    let (hash, source, frontend) = (flow.hash(config::seed(env.node())), flow.src, flow.dst);
    forward::translate(env, flow, &source, backend)?;
    let Some(ethernet) = env.load::<[u16; 7]>(0) else { return Err(DropReason::Write) };
    let udp_len = env.packet_len().wrapping_add(before_inner(F::IPV6) - wire::ETHERNET_LEN);
    if make_room::<F, O, E>(env).is_none()
        || !O::put_outer(env, &from, to, protocol::UDP, udp_len.wrapping_add(udp_at(O::IPV6) - L3))
        || put_headers::<F, O, E>(env, udp_len as u16, hash, vni, &frontend).is_none()
        || env.store(udp_at(O::IPV6) + before_inner(F::IPV6) - wire::ETHERNET_LEN, &ethernet).is_none()
        || put_ethertype::<F, O, E>(env).is_none()
    {
        return Err(DropReason::Write);
    }
    leave(env, &hop)
}

/// Makes room for everything before the inner IP header.
#[inline(always)]
fn make_room<F: Family, O: Family, E: NodeportEnv>(env: &mut E) -> Option<()> {
    match (F::IPV6, O::IPV6) {
        (false, _) => env.grow::<{ overhead(false, false) }>(Room::TunnelIpv4),
        (true, false) => env.grow::<{ overhead(true, false) }>(Room::TunnelIpv4),
        (true, true) => env.grow::<{ overhead(true, true) }>(Room::TunnelIpv6),
    }
}

/// Writes UDP and Geneve header and the option.
#[inline(always)]
fn put_headers<F: Family, O: Family, E: NodeportEnv>(
    env: &mut E,
    udp_len: u16,
    hash: u32,
    vni: u32,
    frontend: &End<F::Addr>,
) -> Option<()> {
    let (first, mask) = SOURCE_PORTS;
    let [p0, p1] = config::geneve_port(env.node()).raw.to_ne_bytes();
    let [s0, s1] = (first | (hash & mask) as u16).to_be_bytes();
    let [l0, l1] = udp_len.to_be_bytes();
    let ([b0, b1], [o0, o1, o2]) = (BRIDGED, OPTION);
    let words = option_words(F::IPV6);
    let at = udp_at(O::IPV6);
    let start = [
        u32::from_ne_bytes([s0, s1, p0, p1]),
        u32::from_ne_bytes([l0, l1, 0, 0]),
        u32::from_ne_bytes([words + 1, CRITICAL, b0, b1]),
        (vni << 8).to_be(),
        u32::from_ne_bytes([o0, o1, o2, words]),
    ];
    env.store(at, &start)?;
    env.store(at + HEADERS, &frontend.addr)?;
    env.store(at + HEADERS + size_of::<F::Addr>() as u32, &u32::from_ne_bytes(two(frontend.port)))
}

/// A port and two zero bytes.
#[inline(always)]
fn two(port: Port) -> [u8; 4] {
    let [a, b] = port.raw.to_ne_bytes();
    [a, b, 0, 0]
}

/// The frame is of family `O` now, where it was of `F`.
#[inline(always)]
fn put_ethertype<F: Family, O: Family, E: Env>(env: &mut E) -> Option<()> {
    if F::IPV6 == O::IPV6 {
        return Some(());
    }
    env.store(offset_of!(header::Ethernet, ethertype_be) as u32, &ethertype::<O>())
}

/// The EtherType of a family, in network order.
const fn ethertype<F: Family>() -> u16 {
    if F::IPV6 { wire::ETHERTYPE_IPV6.to_be() } else { wire::ETHERTYPE_IPV4.to_be() }
}

/// Whether a packet that is for no service may be one to take apart.
#[inline(always)]
pub fn may_carry<F: Balanced, E: NodeportEnv>(env: &E, flow: &Flow<F>) -> bool {
    config::balances(env.node(), abi::config::LB_DSR_GENEVE)
        && flow.protocol() == protocol::UDP
        && flow.dst.port == config::geneve_port(env.node())
        && !flow.is_fragment()
}

/// Takes apart what another node sent to a backend of this one, and takes it there by policy. What is anything else goes where it would
/// have gone.
#[inline(always)]
pub fn take_apart<O: Balanced, E: NodeportEnv + NodeportMaps<O>>(
    env: &mut E,
    kept: &Kept,
    report: &mut Report,
) -> Result<Verdict, DropReason> {
    let (outer, now) = (kept.flow::<O>(), kept.moment());
    if carries::<O, V6, E>(env, &outer) {
        return take_out::<O, V6, E>(env, &outer, report, &now);
    }
    // IPv4 in IPv6 is sent by nobody.
    if !O::IPV6 && carries::<O, V4, E>(env, &outer) {
        return take_out::<O, V4, E>(env, &outer, report, &now);
    }
    hooks::reach(env, &outer, Origin::none(), report, &now)
}

/// Whether a packet of family `O` carries one of family `I` for a backend of this node, as [`wrap`] makes it. The node, or the backend
/// itself, is whom it was sent to; no length contradicts another; and only nodes may send to what is the host's own.
#[inline(always)]
fn carries<O: Balanced, I: Balanced, E: NodeportEnv>(env: &E, outer: &Flow<O>) -> bool {
    let at = udp_at(O::IPV6);
    let inner = at + before_inner(I::IPV6);
    // No options, no extension headers.
    if outer.l4 != at || !is_ours::<O, I, E>(env) || !lengths_agree::<O, I, E>(env) {
        return false;
    }
    let Some(dst) = env.load::<I::Addr>(inner + I::DST) else { return false };
    let to_itself = O::IPV6 == I::IPV6 && O::widen(&outer.dst.addr) == I::widen(&dst);
    if !to_itself && !is_host::<O, E>(env, &outer.dst.addr) {
        return false;
    }
    match env.endpoint(&I::endpoint_key(&dst)) {
        Some(endpoint) if endpoint.flags & ENDPOINT_HOST == 0 => true,
        Some(_) => is_from_node::<O, E>(env, outer),
        None => false,
    }
}

/// Whether Geneve header, option and inner Ethernet header are such.
#[inline(always)]
fn is_ours<O: Family, I: Family, E: Env>(env: &E) -> bool {
    let at = udp_at(O::IPV6);
    let Some([kind, _, option]) = env.load::<[[u8; 4]; 3]>(at + 8) else { return false };
    let ([options, flags, b0, b1], [o0, o1, o2, words]) = (kind, option);
    let last = at + before_inner(I::IPV6) - 2;
    options == option_words(I::IPV6) + 1
        && flags & !CRITICAL == 0
        && [b0, b1] == BRIDGED
        && [o0, o1, o2] == OPTION
        && words & 0x1f == option_words(I::IPV6)
        && env.load::<u16>(last) == Some(ethertype::<I>())
}

/// Whether the inner packet fills the outer one, and both lie wholly in what there is. A packet that stands for several has outer lengths
/// that say nothing.
#[inline(always)]
fn lengths_agree<O: Family, I: Family, E: NodeportEnv>(env: &E) -> bool {
    let at = udp_at(O::IPV6);
    let inner = at + before_inner(I::IPV6);
    let Some(udp) = env.load::<u16>(at + offset_of!(header::Udp, len_be) as u32) else { return false };
    let (udp, outer, carried) =
        (u16::from_be(udp) as u32, total_length::<O, E>(env, L3), total_length::<I, E>(env, inner));
    if inner + carried > env.packet_len() {
        return false;
    }
    env.is_aggregate() || (udp == carried + before_inner(I::IPV6) && outer == udp + (at - L3))
}

/// What the IP header at `offset` says of its packet's length; 0: there is none.
#[inline(always)]
fn total_length<F: Family, E: Env>(env: &E, offset: u32) -> u32 {
    let (field, more) = if F::IPV6 {
        (offset_of!(header::Ipv6, payload_len_be), 40)
    } else {
        (offset_of!(header::Ipv4, total_len_be), 0)
    };
    match env.load::<u16>(offset + field as u32) {
        Some(len) => u16::from_be(len) as u32 + more,
        None => 0,
    }
}

/// Whether an address is the host's own.
#[inline(always)]
fn is_host<F: Family, E: Env>(env: &E, addr: &F::Addr) -> bool {
    match env.endpoint(&F::endpoint_key(addr)) {
        Some(endpoint) => endpoint.flags & ENDPOINT_HOST != 0,
        None => false,
    }
}

/// Whether another node that is known sent a packet.
#[inline(always)]
fn is_from_node<F: Family, E: Env>(env: &E, flow: &Flow<F>) -> bool {
    policy::is_node(policy::peer::<F, E>(env, &flow.src.addr).identity)
}

/// Takes the inner packet out, and to its backend.
#[inline(always)]
fn take_out<O: Balanced, I: Balanced, E: NodeportEnv + NodeportMaps<I>>(
    env: &mut E,
    outer: &Flow<O>,
    report: &mut Report,
    now: &Moment,
) -> Result<Verdict, DropReason> {
    let at = udp_at(O::IPV6) + HEADERS;
    let (Some(addr), Some(raw)) = (env.load::<I::Addr>(at), env.load::<u16>(at + size_of::<I::Addr>() as u32)) else {
        return Err(DropReason::Invalid);
    };
    let frontend = End { addr, port: Port::from_raw(raw) };
    let by_node = is_from_node::<O, E>(env, outer);
    if remove_room::<O, I, E>(env).is_none() || put_ethertype::<O, I, E>(env).is_none() {
        return Err(DropReason::Write);
    }
    if I::IPV6 {
        report.set_ipv6();
    }
    let network = I::network(env, L3)?;
    let flow = parse::transport::<I, E>(env, &network)?;
    report.set_hash(flow.hash(config::seed(env.node())));
    if !flow.has_ports() {
        return Err(DropReason::UnknownTransport);
    }
    // Who is not known as a node may carry packets of the world alone, and gives nobody of the cluster its name.
    let identity = policy::peer::<I, E>(env, &flow.src.addr).identity;
    if !by_node && !policy::is_outside::<I, E>(env, identity) {
        return Err(DropReason::InvalidSource);
    }
    if is_host::<I, E>(env, &flow.dst.addr) {
        // Nobody outside has an address of this node.
        if env.endpoint(&I::endpoint_key(&flow.src.addr)).is_some() {
            return Err(DropReason::InvalidSource);
        }
        host::remember(env, &flow, &flow.dst, &frontend, Port::from_raw(0), now)?;
        return Ok(Verdict::PASS);
    }
    hooks::reach(env, &flow, Origin { flags: CT_DSR, frontend }, report, now)
}

/// Takes away everything before the inner IP header.
#[inline(always)]
fn remove_room<O: Family, I: Family, E: NodeportEnv>(env: &mut E) -> Option<()> {
    match (I::IPV6, O::IPV6) {
        (false, _) => env.shrink::<{ overhead(false, false) }>(false),
        (true, false) => env.shrink::<{ overhead(true, false) }>(true),
        (true, true) => env.shrink::<{ overhead(true, true) }>(false),
    }
}
