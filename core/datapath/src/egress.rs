//! A packet from a pod: its service, its connection, its policy, and where it goes.

use abi::be::Port;
use abi::config::NODE_HOST_ROUTING;
use abi::ct::{CT_DSR, CT_FAR_AWAY, CT_INBOUND, CT_LB_LOOPBACK, CT_NODE_PORT, CT_SERVICE};
use abi::endpoint::{DEVICE_ANY_SOURCE, ENDPOINT_HOST};
use abi::event::{point, reason};

use crate::config;
use crate::conntrack::{self, Found, Moment};
use crate::env::{Env, FamilyMaps};
use crate::events::{self, Outcome, Report};
use crate::family::{End, Family};
use crate::icmp;
use crate::ingress;
use crate::kept::Kept;
use crate::lb::{self, Target};
use crate::maps;
use crate::nat;
use crate::nodeport::Origin;
use crate::nodeport::env::{NodeportEnv, NodeportMaps};
use crate::nodeport::family::Balanced;
use crate::parse::{self, Flow, Network};
use crate::policy::{self, Local, Peer};
use crate::side::{self, Side};
use crate::stages;
use crate::verdict::{DropReason, Verdict};

/// Mark of packets whose identity is in the mark (reference: marks).
const MARK_IDENTITY: u32 = 0x0f00;

/// The mark that carries `identity` into the host's stack.
#[inline(always)]
pub(crate) const fn identity_mark(identity: u32) -> u32 {
    (identity & 0xffff) << 16 | (identity >> 16) & 0xff | MARK_IDENTITY
}

/// Whether the pod may send from this address.
#[inline(always)]
pub fn source_is_valid<F: Family>(local: &Local, own: &F::Addr, src: &F::Addr) -> bool {
    local.flags & DEVICE_ANY_SOURCE != 0 || (src == own && *own != F::UNSPECIFIED)
}

/// Carries a packet with network header `network` from the pod `local`. `kept` is what the first stage has found.
#[inline(always)]
pub fn forward<F: Balanced, E: NodeportEnv + NodeportMaps<F>>(
    env: &mut E,
    local: &Local,
    kept: &Kept,
    network: &Network<F>,
    report: &mut Report,
) -> Result<Verdict, DropReason> {
    if !source_is_valid::<F>(local, &kept.own::<F>(), &network.src) {
        return Err(DropReason::InvalidSource);
    }
    let mut flow = parse::transport::<F, E>(env, network)?;
    report.set_hash(flow.hash(config::seed(env.node())));
    if config::aggregation(env.node()) == 0 && !kept.made() {
        events::trace(env, report, Outcome::at(point::FROM_ENDPOINT, reason::UNKNOWN, false));
    }
    let now = Moment::read(env);
    if flow.is_icmp_error() {
        Kept::of(&flow, report, &now).leave(env)?;
        return Ok(Verdict::go_on(stages::of::<F>().error));
    }
    let mut key = F::ct_key(&flow.src, &flow.dst, flow.protocol());
    let mut found = Found::nothing();
    if !kept.absent() {
        found = conntrack::lookup::<F, E>(env, &key, &flow, true, &now);
    }
    found.forget(env);
    if found.has(CT_LB_LOOPBACK) {
        return to_itself(env, &flow, report, &now, Loop::reply(&found));
    }
    if may_be_service(env, &flow, &key, &mut found, &now) {
        let target = lb::resolve::<F, E>(env, &flow, &found, kept.made());
        if target.unmade {
            return Ok(Verdict::go_on(stages::of::<F>().pod_open));
        }
        found = Found::nothing();
        if target.service {
            if target.backend.addr == flow.src.addr {
                return to_itself(env, &flow, report, &now, Loop::request(&target));
            }
            nat::rewrite(env, &mut flow, nat::Which::Destination, &target.backend)?;
            key = F::ct_key(&flow.src, &flow.dst, flow.protocol());
            found = conntrack::lookup::<F, E>(env, &key, &flow, true, &now);
            if found.has(CT_LB_LOOPBACK | CT_SERVICE) {
                found = Found::nothing();
            }
            if found.is_new() {
                found = found.with_rev_nat(target.rev_nat);
            }
        }
    }
    flow.forget(env);
    let peer = unknown_peer(env, &flow, &found);
    let way = known_way(env, &flow, &key, &mut found, &peer);
    let way = env.forget(way as u64) as u32;
    found.forget(env);
    let proxy = police(env, local, &flow, &key, &found, &peer, report, &now)?;
    if proxy != 0 {
        return Ok(Verdict::proxy(proxy));
    }
    if found.state() == reason::REPLY && found.has(CT_NODE_PORT | CT_DSR) {
        return to_client(env, &flow, &found, report, &now);
    }
    route(env, local, &flow, report, &now, Route { way, state: found.state(), news: found.report() })
}

/// An answer to a client outside, who knows a service's address and not the pod's.
#[inline(always)]
fn to_client<F: Family, E: Env>(
    env: &mut E,
    flow: &Flow<F>,
    found: &Found<F>,
    report: &mut Report,
    now: &Moment,
) -> Result<Verdict, DropReason> {
    let mut origin = Origin::<F> { flags: CT_DSR, frontend: found.nat };
    if !found.has(CT_DSR) {
        origin = Origin::service(found.rev_nat());
    }
    report.set_outcome(Outcome::at(point::TO_NETWORK, reason::REPLY, found.report()));
    Kept::of(flow, report, now).through(&origin).leave(env)?;
    Ok(Verdict::go_on(stages::of::<F>().to_client))
}

/// Whether the service map must be asked: the connection is new, is a service's, or was last checked before services moved.
#[inline(always)]
fn may_be_service<F: Balanced, E: NodeportEnv + NodeportMaps<F>>(
    env: &mut E,
    flow: &Flow<F>,
    key: &F::CtKey,
    found: &mut Found<F>,
    now: &Moment,
) -> bool {
    if !flow.has_ports() {
        return false;
    }
    if found.is_new() || found.has(CT_SERVICE) {
        return true;
    }
    if found.lb_stale() && found.state() == reason::ESTABLISHED && found.rev_nat().raw == 0 {
        if lb::is_service::<F, E>(env, flow) {
            *found = Found::nothing();
            return true;
        }
        if let Some(entry) = maps::connection::<F, E>(env, flow.is_tcp(), key) {
            F::connection(entry).lb_revision = now.lb;
        }
    }
    false
}

/// Who is at the far end of a connection that is to be judged. Of any other nothing is asked.
#[inline(always)]
fn unknown_peer<F: Family, E: Env>(env: &E, flow: &Flow<F>, found: &Found<F>) -> Peer {
    if !found.is_new() && !found.policy_stale() {
        return Peer { identity: found.peer_identity(), class: 0 };
    }
    policy::peer::<F, E>(env, &flow.dst.addr)
}

/// Polices the packet at the sender's side. Returns the proxy to redirect to, 0: none.
#[inline(always)]
#[allow(clippy::too_many_arguments, reason = "inlined; a struct of references would live on the program's stack")]
fn police<F: Family, E: Env + FamilyMaps<F>>(
    env: &mut E,
    local: &Local,
    flow: &Flow<F>,
    key: &F::CtKey,
    found: &Found<F>,
    peer: &Peer,
    report: &mut Report,
    now: &Moment,
) -> Result<u16, DropReason> {
    report.set_dst_identity(peer.identity);
    if !found.is_new() && !found.policy_stale() {
        return Ok(found.proxy_port().raw);
    }
    let proxy = side::settle(env, &Side { local, peer, flow, key, origin: &Origin::none() }, found, report, now)?;
    Ok(proxy.raw)
}

/// The way to an address that is none of this node.
const FAR_AWAY: u32 = 0;
/// The way to an address of the node itself. Any other way is the interface of a pod of this node.
const TO_HOST: u32 = u32::MAX;

/// The way to a packet's destination.
#[inline(always)]
fn way<F: Family, E: Env>(env: &E, flow: &Flow<F>) -> u32 {
    match env.endpoint(&F::endpoint_key(&flow.dst.addr)) {
        Some(endpoint) if endpoint.flags & ENDPOINT_HOST != 0 => TO_HOST,
        Some(endpoint) => endpoint.ifindex,
        None => FAR_AWAY,
    }
}

/// The way, asked for only where neither the connection nor who is at its far end tells it. Of a destination that is not on this node
/// the entry keeps that until the connection is reported next; should a pod of this node get that address meanwhile,
/// or not be in the ipcache yet, the host's stack finds it, and `to_pod` polices.
#[inline(always)]
fn known_way<F: Family, E: Env + FamilyMaps<F>>(
    env: &mut E,
    flow: &Flow<F>,
    key: &F::CtKey,
    found: &mut Found<F>,
    peer: &Peer,
) -> u32 {
    let known_far = found.has(CT_FAR_AWAY);
    if known_far && !found.report() {
        return FAR_AWAY;
    }
    if found.is_new() && policy::is_outside::<F, E>(env, peer.identity) {
        *found = found.with_far_away();
        return FAR_AWAY;
    }
    let way = way::<F, E>(env, flow);
    if (way == FAR_AWAY) != known_far {
        if found.is_new() {
            *found = found.with_far_away();
        } else if let Some(entry) = maps::connection::<F, E>(env, flow.is_tcp(), key) {
            F::connection(entry).flags ^= CT_FAR_AWAY;
        }
    }
    way
}

/// Where a packet goes, and what is told of it.
#[derive(Clone, Copy)]
struct Route {
    way: u32,
    state: u8,
    news: bool,
}

/// Sends a packet on its way: to a pod of this node, this node, or the rest of the world.
#[inline(always)]
fn route<F: Family, E: Env + FamilyMaps<F>>(
    env: &mut E,
    local: &Local,
    flow: &Flow<F>,
    report: &mut Report,
    now: &Moment,
    route: Route,
) -> Result<Verdict, DropReason> {
    let Route { way, state, news } = route;
    let far = way == FAR_AWAY || way == TO_HOST;
    if !far && config::enabled(env.node(), NODE_HOST_ROUTING) {
        let peer = policy::local_peer::<F, E>(env, &flow.src.addr, local.identity);
        Kept::of(flow, report, now).towards(&peer, way).leave(env)?;
        return Ok(Verdict::go_on(stages::of::<F>().deliver));
    }
    let at = if way == TO_HOST { point::TO_HOST } else { point::TO_STACK };
    env.set_mark(identity_mark(local.identity));
    report.set_outcome(Outcome::at(at, state, news));
    Ok(Verdict::PASS)
}

/// Carries an ICMP error from a pod: with the connection it is about, or else by policy alone.
#[inline(always)]
pub fn forward_error<F: Family, E: Env + FamilyMaps<F>>(
    env: &mut E,
    local: &Local,
    flow: &mut Flow<F>,
    report: &mut Report,
    now: &Moment,
) -> Result<Verdict, DropReason> {
    let related = icmp::related(env, flow, local, true, now)?;
    if related.known {
        report.set_dst_identity(related.peer_identity);
        if related.through != 0 && !related.to_backend {
            let mut origin = Origin::<F> { flags: CT_DSR, frontend: related.backend };
            if related.through & CT_DSR == 0 {
                origin = Origin::service(related.rev_nat);
            }
            report.set_outcome(Outcome::at(point::TO_NETWORK, reason::RELATED, true));
            Kept::of(flow, report, now).through(&origin).leave(env)?;
            return Ok(Verdict::go_on(stages::of::<F>().to_client));
        }
        icmp::translate(env, flow, &related, true)?;
        let way = way::<F, E>(env, flow);
        return route(env, local, flow, report, now, Route { way, state: reason::RELATED, news: true });
    }
    let key = F::ct_key(&flow.src, &flow.dst, flow.protocol());
    let found = Found::nothing();
    let peer = policy::peer::<F, E>(env, &flow.dst.addr);
    let proxy = police(env, local, flow, &key, &found, &peer, report, now)?;
    if proxy != 0 {
        return Ok(Verdict::proxy(proxy));
    }
    let way = way::<F, E>(env, flow);
    route(env, local, flow, report, now, Route { way, state: found.state(), news: found.report() })
}

/// What the stage of packets to their own pod must know.
#[derive(Clone, Copy, Debug)]
struct Loop {
    /// Backend port (high half) and reverse NAT index.
    ports: u32,
    /// State (8 bits), whether the connection is news, whether it is a reply.
    bits: u32,
}

/// Bit of [`Loop`]: something about the connection is new.
const LOOP_NEWS: u32 = 1 << 8;
/// Bit of [`Loop`]: the packet answers one that went this way.
const LOOP_REPLY: u32 = 1 << 9;

impl Loop {
    #[inline(always)]
    fn request<F: Family>(target: &Target<F>) -> Self {
        Self { ports: (target.backend.port.raw as u32) << 16 | target.rev_nat.raw as u32, bits: 0 }
    }
    #[inline(always)]
    fn reply<F: Family>(found: &Found<F>) -> Self {
        let news = if found.report() { LOOP_NEWS } else { 0 };
        Self { ports: found.rev_nat().raw as u32, bits: found.state() as u32 | news | LOOP_REPLY }
    }
}

/// Goes on in the stage of packets to their own pod.
#[inline(always)]
fn to_itself<F: Family, E: Env>(
    env: &mut E,
    flow: &Flow<F>,
    report: &Report,
    now: &Moment,
    way: Loop,
) -> Result<Verdict, DropReason> {
    Kept::of(flow, report, now).with(way.ports, way.bits).leave(env)?;
    Ok(Verdict::go_on(stages::of::<F>().hairpin))
}

/// Carries a packet to the pod it came from, through a service or back from it.
#[inline(always)]
pub fn hairpin<F: Family, E: Env + FamilyMaps<F>>(
    env: &mut E,
    local: &Local,
    kept: &Kept,
    report: &mut Report,
) -> Result<Verdict, DropReason> {
    let mut flow = kept.flow::<F>();
    let way = Loop { ports: kept.identity, bits: kept.number };
    let rev_nat = Port::from_raw(way.ports as u16);
    if way.bits & LOOP_REPLY != 0 {
        let outcome = Outcome::at(point::TO_ENDPOINT, way.bits as u8, way.bits & LOOP_NEWS != 0);
        return loopback_reply(env, local, &mut flow, rev_nat, outcome, report);
    }
    let backend = End { addr: flow.src.addr, port: Port::from_raw((way.ports >> 16) as u16) };
    let target = Target { service: true, unmade: false, backend, rev_nat };
    loopback(env, local, &mut flow, &target, report, &kept.moment())
}

/// A pod reaches itself through a service: the packet comes back to it from the loopback address of services.
#[inline(always)]
fn loopback<F: Family, E: Env + FamilyMaps<F>>(
    env: &mut E,
    local: &Local,
    flow: &mut Flow<F>,
    target: &Target<F>,
    report: &mut Report,
    now: &Moment,
) -> Result<Verdict, DropReason> {
    let source = End { addr: F::LOOPBACK, port: flow.src.port };
    nat::rewrite(env, flow, nat::Which::Destination, &target.backend)?;
    nat::rewrite(env, flow, nat::Which::Source, &source)?;
    // The pod is the server here, the loopback address the client.
    let key = F::ct_key(&flow.dst, &flow.src, flow.protocol());
    let found = conntrack::lookup::<F, E>(env, &key, flow, false, now);
    if found.is_new() {
        let mut connection = conntrack::opening(env, flow, CT_INBOUND | CT_LB_LOOPBACK, now);
        connection.source_identity = local.identity;
        connection.peer_identity = local.identity;
        connection.rev_nat_index = target.rev_nat;
        let entry = F::ct_entry(connection, &End { addr: F::UNSPECIFIED, port: Port::from_raw(0) });
        if maps::track::<F, E>(env, flow.is_tcp(), &key, &entry).is_none() {
            return Err(DropReason::ConnectionTableFull);
        }
    }
    report.set_outcome(Outcome::at(point::TO_ENDPOINT, found.state(), found.report()).looped());
    deliver_to_itself(env, local, flow, report)
}

/// The answer of a pod that reached itself through a service: back to it, from the service.
#[inline(always)]
fn loopback_reply<F: Family, E: Env + FamilyMaps<F>>(
    env: &mut E,
    local: &Local,
    flow: &mut Flow<F>,
    rev_nat: Port,
    outcome: Outcome,
    report: &mut Report,
) -> Result<Verdict, DropReason> {
    let own = End { addr: flow.src.addr, port: flow.dst.port };
    let Some(entry) = maps::reverse_nat::<F, E>(env, rev_nat) else { return Err(DropReason::NoBackend) };
    let frontend = F::frontend(entry);
    nat::rewrite(env, flow, nat::Which::Source, &frontend)?;
    nat::rewrite(env, flow, nat::Which::Destination, &own)?;
    report.set_outcome(outcome);
    deliver_to_itself(env, local, flow, report)
}

/// Hands a packet back to the pod it came from. No policy stands between a pod and itself.
#[inline(always)]
fn deliver_to_itself<F: Family, E: Env>(
    env: &mut E,
    local: &Local,
    flow: &Flow<F>,
    report: &mut Report,
) -> Result<Verdict, DropReason> {
    report.set_ingress();
    report.set_dst_identity(local.identity);
    report.set_dst_endpoint(local.lxc_id);
    let ifindex = env.ifindex();
    ingress::deliver(env, flow, ifindex)
}
