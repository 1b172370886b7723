//! Services for sockets: where a connection or datagram goes is decided once, by the socket call, not by its packets.
//!
//! One function for each hook of a control group. What a call names (a frontend) is replaced by a backend before the
//! kernel looks for a route, and an entry keyed by socket and backend remembers the frontend, so that the program is told
//! the address it asked for. Calls that name no service are left as they are, and a service without backends refuses.
//! Packets that sockets cannot cover (raw sockets, SCTP, sockets older than the hooks) meet [`crate::lb`].
//!
//! A socket of IPv6 may name an IPv4 address as `::ffff:a.b.c.d`: it is looked up as the IPv4 address it is.
//!
//! Programs that run at these hooks are interrupted by those of packets: nothing is kept outside stack and maps.

mod affinity;
mod backend;
mod env;
mod family;
mod frontend;
mod trace;

pub use env::{SockEnv, SockMaps};
pub use family::SockFamily;

use abi::be::{Addr4, Wide6};
use abi::config::{NODE_BIND_PROTECTION, NODE_SOCK_HOST_ONLY};
use abi::event::xlate;
use abi::lb::{SERVICE_EXTERNAL_IP, SERVICE_LOAD_BALANCER, SERVICE_NODE_PORT};
use abi::metrics::{DIR_EGRESS, DIR_INGRESS, REASON_LB_REVNAT_STALE, REASON_LB_REVNAT_UPDATE};
use wire::protocol::{TCP, UDP};

use crate::config;
use crate::family::{End, Family, V4, V6};

/// What the caller is to do with the socket call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Outcome {
    /// Nothing: it names no service.
    Untouched = 0,
    /// Put the address of [`Translation::to`] in place of the one it names.
    Translated = 1,
    /// Refuse it with `EHOSTUNREACH`: the service has no backend.
    Unreachable = 2,
    /// Refuse it with `ENOMEM`: the way back could not be remembered.
    NoMemory = 3,
}

/// The answer to a socket call. Always wholly initialised, see [`crate::Verdict`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a translation that nobody carries out leaves the call as it was"]
pub struct Translation<A> {
    /// What to do.
    pub outcome: Outcome,
    /// The other address; without meaning unless the outcome is [`Outcome::Translated`].
    pub to: End<A>,
}

impl<A> Translation<A> {
    #[inline(always)]
    const fn new(outcome: Outcome, to: End<A>) -> Self {
        Self { outcome, to }
    }
}

/// `connect` or, with an address, `sendmsg` of an IPv4 socket.
#[inline(always)]
pub fn outwards4<E: SockEnv>(env: &mut E, to: End<Addr4>) -> Translation<Addr4> {
    outwards::<V4, E>(env, to)
}

/// `connect` or, with an address, `sendmsg` of an IPv6 socket.
#[inline(always)]
pub fn outwards6<E: SockEnv>(env: &mut E, to: End<Wide6>) -> Translation<Wide6> {
    if is_mapped(&to.addr) { mapped(outwards::<V4, E>(env, unmapped(&to))) } else { outwards::<V6, E>(env, to) }
}

/// Whom `recvmsg` names as sender, or `getpeername` as peer, on an IPv4 socket.
#[inline(always)]
pub fn inwards4<E: SockEnv>(env: &mut E, from: End<Addr4>) -> Translation<Addr4> {
    inwards::<V4, E>(env, from)
}

/// Whom `recvmsg` names as sender, or `getpeername` as peer, on an IPv6 socket.
#[inline(always)]
pub fn inwards6<E: SockEnv>(env: &mut E, from: End<Wide6>) -> Translation<Wide6> {
    if is_mapped(&from.addr) { mapped(inwards::<V4, E>(env, unmapped(&from))) } else { inwards::<V6, E>(env, from) }
}

/// Whether an IPv4 socket may keep the address and port it was bound to.
#[inline(always)]
pub fn may_bind4<E: SockEnv>(env: &mut E, at: End<Addr4>) -> bool {
    may_bind::<V4, E>(env, at)
}

/// Whether an IPv6 socket may keep the address and port it was bound to. One bound to `::` takes IPv4 connections too.
#[inline(always)]
pub fn may_bind6<E: SockEnv>(env: &mut E, at: End<Wide6>) -> bool {
    if is_mapped(&at.addr) {
        return may_bind::<V4, E>(env, unmapped(&at));
    }
    let any = End { addr: V4::UNSPECIFIED, port: at.port };
    may_bind::<V6, E>(env, at) && (at.addr != V6::UNSPECIFIED || may_bind::<V4, E>(env, any))
}

#[inline(always)]
fn outwards<F: SockFamily, E: SockEnv + SockMaps<F>>(env: &mut E, to: End<F::Addr>) -> Translation<F::Addr> {
    let protocol = env.protocol();
    let in_host = env.netns_cookie() == config::host_netns_cookie(env.node());
    let left_out = !covers(protocol) || (!in_host && config::enabled(env.node(), NODE_SOCK_HOST_ONLY));
    // In a pod the unspecified address is the pod itself; on the host, all NodePorts are there.
    if left_out || (!in_host && to.addr == F::UNSPECIFIED) {
        return Translation::new(Outcome::Untouched, to);
    }
    let frontend = frontend::find::<F, E>(env, &to, protocol, in_host);
    if !frontend.found || frontend::is_elsewhere::<F, E>(env, &frontend.service, &to) {
        return Translation::new(Outcome::Untouched, to);
    }
    let chosen = backend::choose::<F, E>(env, &to, protocol, in_host, frontend);
    if !chosen.found {
        return Translation::new(Outcome::Unreachable, to);
    }
    let key = F::reverse_key(env.socket_cookie(), &chosen.end);
    let entry = F::reverse_entry(&to, chosen.rev_nat);
    let known = <E as SockMaps<F>>::reverse(env, &key).is_some_and(|known| *known == entry);
    // The look-up has kept it from being evicted; to write it again would cost more and say the same.
    if !known && <E as SockMaps<F>>::remember(env, &key, &entry).is_none() {
        env.count_socket(REASON_LB_REVNAT_UPDATE, DIR_EGRESS);
        return Translation::new(Outcome::NoMemory, to);
    }
    trace::told::<F, E>(env, xlate::PRE_FORWARD, &to, !known);
    trace::told::<F, E>(env, xlate::POST_FORWARD, &chosen.end, !known);
    Translation::new(Outcome::Translated, chosen.end)
}

#[inline(always)]
fn inwards<F: SockFamily, E: SockEnv + SockMaps<F>>(env: &mut E, from: End<F::Addr>) -> Translation<F::Addr> {
    let protocol = env.protocol();
    let untouched = Translation::new(Outcome::Untouched, from);
    let in_host = env.netns_cookie() == config::host_netns_cookie(env.node());
    if !covers(protocol) || (!in_host && config::enabled(env.node(), NODE_SOCK_HOST_ONLY)) {
        return untouched;
    }
    let key = F::reverse_key(env.socket_cookie(), &from);
    let Some(entry) = <E as SockMaps<F>>::reverse(env, &key) else { return untouched };
    let (to, rev_nat) = F::reversed(entry);
    let frontend = frontend::find::<F, E>(env, &to, protocol, in_host);
    // The service went, or its address is another service's now.
    if !frontend.found || frontend.service.count == 0 || frontend.service.rev_nat_index != rev_nat {
        <E as SockMaps<F>>::forget(env, &key);
        env.count_socket(REASON_LB_REVNAT_STALE, DIR_INGRESS);
        return untouched;
    }
    trace::told::<F, E>(env, xlate::PRE_REVERSE, &from, false);
    trace::told::<F, E>(env, xlate::POST_REVERSE, &to, false);
    Translation::new(Outcome::Translated, to)
}

/// A socket of the host must not take what a NodePort, an external address or a load balancer's address takes.
#[inline(always)]
fn may_bind<F: SockFamily, E: SockEnv + SockMaps<F>>(env: &mut E, at: End<F::Addr>) -> bool {
    let protocol = env.protocol();
    let in_host = env.netns_cookie() == config::host_netns_cookie(env.node());
    if !covers(protocol) || !in_host || !config::enabled(env.node(), NODE_BIND_PROTECTION) {
        return true;
    }
    let outside = SERVICE_NODE_PORT | SERVICE_EXTERNAL_IP | SERVICE_LOAD_BALANCER;
    let frontend = frontend::find_bound::<F, E>(env, &at, protocol);
    !frontend.found || frontend.service.flags & outside == 0
}

/// Whether services of this transport protocol are translated at sockets.
#[inline(always)]
const fn covers(protocol: u8) -> bool {
    protocol == TCP || protocol == UDP
}

/// Whether an IPv6 address stands for an IPv4 address (`::ffff:0:0/96`).
#[inline(always)]
fn is_mapped(addr: &Wide6) -> bool {
    let [a, b, prefix, _]: [u32; 4] = zerocopy::transmute!(*addr);
    a | b == 0 && prefix == 0xffff_u32.to_be()
}

#[inline(always)]
fn unmapped(end: &End<Wide6>) -> End<Addr4> {
    let [.., raw]: [u32; 4] = zerocopy::transmute!(end.addr);
    End { addr: Addr4::from_raw(raw), port: end.port }
}

#[inline(always)]
fn mapped(answer: Translation<Addr4>) -> Translation<Wide6> {
    let addr = zerocopy::transmute!([0, 0, 0xffff_u32.to_be(), answer.to.addr.raw]);
    Translation::new(answer.outcome, End { addr, port: answer.to.port })
}
