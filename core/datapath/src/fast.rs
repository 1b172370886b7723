//! The short way of packets of connections about which nothing is new.
//!
//! Most packets belong to a connection that was judged and reported before. For these the stages of the hook would look
//! a few entries up, find that there is nothing to decide, to remember or to tell, and forward. Here the
//! same is done with the same parts, without whatever else could have been: first everything is
//! looked at, then the packet is rewritten. A packet about which anything is unusual, or for which a stage would do anything else, is left as
//! it is, to the stages: [`from_pod`] says `None`. So this module decides nothing, and switching it off
//! (`NODE_NO_SHORT_WAY`) changes no packet, no entry and no counter; the tests hold it to that.
//!
//! A feature that treats packets of a known connection in a way of its own marks its entries with a flag of
//! [`abi::ct`]; a flag that is not in [`USUAL`] keeps the connection off the short way.

use abi::be::Port;
use abi::config::{NODE_HOST_ROUTING, NODE_NO_SHORT_WAY};
use abi::ct::{CT_AUDITED, CT_FAR_AWAY, CT_INBOUND, CT_SEEN_NON_SYN, CT_SERVICE};
use abi::endpoint::ENDPOINT_HOST;
use abi::event::reason;
use wire::tcp_flags::{FIN, RST, SYN};
use wire::{header, protocol};

use crate::config;
use crate::conntrack::{self, Moment, Steady};
use crate::egress::identity_mark;
use crate::env::{Env, FamilyMaps};
use crate::events;
use crate::family::{End, Family};
use crate::ingress;
use crate::maps;
use crate::nat::{self, Which};
use crate::parse::{Flow, Fragment, Network};
use crate::policy::Local;
use crate::verdict::{DropReason, Verdict};

/// The flags an entry may have on the short way.
pub const USUAL: u16 = CT_SEEN_NON_SYN | CT_INBOUND | CT_SERVICE | CT_AUDITED | CT_FAR_AWAY;

/// Monitor aggregation from which on packets of known connections are not reported.
const QUIET: u32 = 3;

/// Whether there is a short way at all.
#[inline(always)]
fn is_open<E: Env>(env: &E) -> bool {
    config::aggregation(env.node()) >= QUIET && !config::enabled(env.node(), NODE_NO_SHORT_WAY)
}

/// The flow of a TCP segment that neither opens nor closes, or of a UDP datagram, in one piece and behind a header without options.
#[inline(always)]
fn usual<F: Family, E: Env>(env: &E, network: &Network<F>) -> Option<Flow<F>> {
    if network.l4 != F::FIXED || network.fragment != Fragment::No {
        return None;
    }
    let mut flow = Flow::<F>::of(network);
    // At offsets known when this is compiled: the verifier need not follow sums.
    let at = F::FIXED;
    if network.protocol == protocol::TCP {
        let tcp = env.load::<header::Tcp>(at)?;
        if tcp.data_offset < 0x50 || tcp.flags & (SYN | FIN | RST) != 0 {
            return None;
        }
        flow.set_tcp(tcp.flags);
        flow.src.port = Port::from_raw(tcp.sport);
        flow.dst.port = Port::from_raw(tcp.dport);
    } else if network.protocol == protocol::UDP {
        let udp = env.load::<header::Udp>(at)?;
        flow.src.port = Port::from_raw(udp.sport);
        flow.dst.port = Port::from_raw(udp.dport);
    } else {
        return None;
    }
    flow.l4 = at;
    Some(flow)
}

/// Where a packet goes.
#[derive(Clone, Copy)]
struct Way<F: Family> {
    /// Interface of a pod of this node; 0: the stack.
    ifindex: u32,
    /// Whether the packet answers one that came from the pod, through the service of `rev_nat`, 0: none.
    frontend: End<F::Addr>,
    /// Whether `frontend` replaces the source.
    translated: bool,
}

/// The short way from a pod: `None`, with nothing changed that the stages would not change alike, when the packet
/// must take the long one; `absent` then says whether its connection was looked for and is not there.
#[inline(always)]
pub fn from_pod<F: Family, E: Env + FamilyMaps<F>>(
    env: &mut E,
    local: &Local,
    own: &F::Addr,
    absent: &mut bool,
) -> Option<Result<Verdict, DropReason>> {
    if !is_open(env) || local.is_closed() {
        return None;
    }
    let network = F::fixed(env)?;
    if network.src != *own || *own == F::UNSPECIFIED {
        return None;
    }
    let mut flow = usual::<F, E>(env, &network)?;
    let now = Moment::read(env);
    let key = F::ct_key(&flow.src, &flow.dst, flow.protocol());
    let mut steady = conntrack::steady::<F, E>(env, &key, &flow, true, &now, absent)?;
    let service = steady.has(CT_SERVICE);
    let mut dst = flow.dst;
    if service {
        dst = steady.nat;
        if !steady.lb_fresh() || dst.addr == flow.src.addr {
            return None;
        }
        let key = F::ct_key(&flow.src, &dst, flow.protocol());
        steady = conntrack::steady::<F, E>(env, &key, &flow, true, &now, &mut false)?;
        if steady.has(CT_SERVICE) {
            return None;
        }
    } else if !steady.lb_fresh() && steady.state() == reason::ESTABLISHED && steady.rev_nat().raw == 0 {
        return None;
    }
    if !steady.policy_fresh() {
        return None;
    }
    let way = way::<F, E>(env, &flow, &dst, &steady, &now)?;
    Some(carry(env, local, &mut flow, service.then_some(dst), &way))
}

/// Finds the way to `dst`; `None` when it is not steady to its end.
#[inline(always)]
fn way<F: Family, E: Env + FamilyMaps<F>>(
    env: &mut E,
    flow: &Flow<F>,
    dst: &End<F::Addr>,
    steady: &Steady<F>,
    now: &Moment,
) -> Option<Way<F>> {
    let nowhere = End { addr: F::UNSPECIFIED, port: Port::from_raw(0) };
    let stack = Way { ifindex: 0, frontend: nowhere, translated: false };
    if steady.has(CT_FAR_AWAY) {
        return Some(stack);
    }
    // Of a destination that is not on this node the entry is to say so: the long way sees to it.
    let endpoint = env.endpoint(&F::endpoint_key(&dst.addr))?;
    let ifindex = endpoint.ifindex;
    if endpoint.flags & ENDPOINT_HOST != 0 || !config::enabled(env.node(), NODE_HOST_ROUTING) {
        return Some(stack);
    }
    if env.device(ifindex).is_none_or(|device| Local::of(device).is_closed()) || flow.ttl() <= 1 {
        return None;
    }
    let key = F::ct_key(dst, &flow.src, flow.protocol());
    let there = conntrack::steady::<F, E>(env, &key, flow, false, now, &mut false)?;
    if there.has(CT_SERVICE) || !there.policy_fresh() {
        return None;
    }
    let mut way = Way { ifindex, ..stack };
    if there.state() == reason::REPLY
        && there.rev_nat().raw != 0
        && let Some(entry) = maps::reverse_nat::<F, E>(env, there.rev_nat())
    {
        way.frontend = F::frontend(entry);
        way.translated = true;
    }
    Some(way)
}

/// Rewrites the packet and sends it on its way. Everything it needs is known to be there.
#[inline(always)]
fn carry<F: Family, E: Env + FamilyMaps<F>>(
    env: &mut E,
    local: &Local,
    flow: &mut Flow<F>,
    backend: Option<End<F::Addr>>,
    way: &Way<F>,
) -> Result<Verdict, DropReason> {
    if let Some(backend) = backend {
        nat::rewrite(env, flow, Which::Destination, &backend)?;
    }
    if way.ifindex == 0 {
        env.set_mark(identity_mark(local.identity));
        events::count(env, 0, false);
        return Ok(Verdict::PASS);
    }
    if way.translated {
        nat::rewrite(env, flow, Which::Source, &way.frontend)?;
    }
    let verdict = ingress::deliver(env, flow, way.ifindex)?;
    events::count(env, 0, true);
    Ok(verdict)
}
