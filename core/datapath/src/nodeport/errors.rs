//! ICMP errors about traffic that is translated here, path MTU messages among them, in both directions.

use abi::be::Port;
use abi::config::LB_DSR_IPIP;
use abi::ct::{CT_DSR, CT_LOCAL_BACKEND, CT_NODE_PORT, CT_SERVICE};
use abi::nat::SNAT_OUT;
use core::mem::offset_of;
use wire::header;

use super::env::{NodeportEnv, NodeportMaps};
use super::family::Balanced;
use super::forward::{self, leads_on, leave, length};
use super::{Step, dsr, maps, snat, ways};
use crate::checksum;
use crate::config;
use crate::conntrack::Moment;
use crate::env::Env;
use crate::family::{End, Family};
use crate::icmp::{self, Quotation};
use crate::nat;
use crate::parse::Flow;
use crate::verdict::{DropReason, Verdict};

/// What an error becomes: the ends of the quoted packet, and its own.
#[derive(Clone, Copy)]
struct Retold<F: Family> {
    /// The quoted packet's source and destination, as whoever gets the error knows them.
    quoted: [End<F::Addr>; 2],
    /// The error's own source and destination.
    own: [F::Addr; 2],
}

/// Translates an error about something that is translated here. [`Step::ON`]: it is about something else.
#[inline(always)]
pub fn translate<F: Balanced, E: NodeportEnv + NodeportMaps<F>>(
    env: &mut E,
    flow: &mut Flow<F>,
    now: &Moment,
) -> Result<Step, DropReason> {
    let quoted = icmp::quotation::<F, E>(env, flow);
    if !quoted.known {
        return Ok(Step::ON);
    }
    if snat::is_allocated::<F, E>(env, &quoted.sender) {
        let (client, index) = snat::standing_for::<F, E>(env, &quoted.receiver, &quoted.sender, quoted.protocol);
        if index.raw != 0 {
            return to_client(env, flow, &quoted, &client, index, now);
        }
        if client.port.raw != 0 {
            return to_pod(env, flow, &quoted, &client);
        }
    }
    to_backend(env, flow, &quoted, now)
}

/// About a packet that was sent to a backend for a client.
#[inline(always)]
fn to_client<F: Balanced, E: NodeportEnv + NodeportMaps<F>>(
    env: &mut E,
    flow: &mut Flow<F>,
    quoted: &Quotation<F>,
    client: &End<F::Addr>,
    index: Port,
    now: &Moment,
) -> Result<Step, DropReason> {
    let Some(entry) = crate::maps::reverse_nat::<F, E>(env, index) else { return Ok(Step::ON) };
    let frontend = F::frontend(entry);
    // The backend itself is not known to the client; a router between is left as it is.
    let source = if flow.src.addr == quoted.receiver.addr { frontend.addr } else { flow.src.addr };
    let retold = Retold::<F> { quoted: [*client, frontend], own: [source, client.addr] };
    Ok(Step::done(send(env, flow, quoted, &retold, now)?))
}

/// About a packet that a pod of this node sent, masqueraded: on to the pod, by policy.
#[inline(always)]
fn to_pod<F: Balanced, E: NodeportEnv>(
    env: &mut E,
    flow: &mut Flow<F>,
    quoted: &Quotation<F>,
    pod: &End<F::Addr>,
) -> Result<Step, DropReason> {
    if env.is_early() {
        return Ok(Step::ON);
    }
    requote(env, flow, quoted, &[*pod, quoted.receiver])?;
    let to = End { addr: pod.addr, port: flow.dst.port };
    nat::rewrite(env, flow, nat::Which::Destination, &to)?;
    Ok(Step::ON)
}

/// A pod's error about an answer to its masqueraded packet: whoever gets it knows the node's address.
#[inline(always)]
pub fn depart<F: Balanced, E: NodeportEnv + NodeportMaps<F>>(
    env: &mut E,
    flow: &mut Flow<F>,
) -> Result<(), DropReason> {
    let quoted = icmp::quotation::<F, E>(env, flow);
    if !quoted.known {
        return Ok(());
    }
    let key = F::snat_key(&quoted.receiver, &quoted.sender, quoted.protocol, SNAT_OUT);
    let Some(entry) = maps::snat::<F, E>(env, &key) else { return Ok(()) };
    let (to, _) = F::snat_target(entry);
    requote(env, flow, &quoted, &[quoted.sender, to])?;
    let source = End { addr: to.addr, port: flow.src.port };
    nat::rewrite(env, flow, nat::Which::Source, &source)
}

/// About a packet that reached a pod of this node through a frontend, by that pod: the client knows the frontend alone.
#[inline(always)]
pub fn answer<F: Balanced, E: NodeportEnv + NodeportMaps<F>>(
    env: &mut E,
    flow: &mut Flow<F>,
    frontend: &End<F::Addr>,
    now: &Moment,
) -> Result<Verdict, DropReason> {
    let quoted = icmp::quotation::<F, E>(env, flow);
    if !quoted.known {
        return Err(DropReason::Invalid);
    }
    let retold = Retold::<F> { quoted: [quoted.sender, *frontend], own: [frontend.addr, flow.dst.addr] };
    send(env, flow, &quoted, &retold, now)
}

/// About an answer that was sent to a client from a frontend.
#[inline(always)]
fn to_backend<F: Balanced, E: NodeportEnv + NodeportMaps<F>>(
    env: &mut E,
    flow: &mut Flow<F>,
    quoted: &Quotation<F>,
    now: &Moment,
) -> Result<Step, DropReason> {
    let key = F::ct_key(&quoted.sender, &quoted.receiver, quoted.protocol);
    let tcp = quoted.protocol == wire::protocol::TCP;
    let Some(entry) = crate::maps::connection::<F, E>(env, tcp, &key) else { return Ok(Step::ON) };
    let (backend, port) = (F::nat(entry), F::snat_port(entry));
    let (flags, index) = (F::connection(entry).flags, F::connection(entry).rev_nat_index);
    if flags & (CT_SERVICE | CT_NODE_PORT) != CT_SERVICE | CT_NODE_PORT {
        return Ok(Step::ON);
    }
    if flags & CT_LOCAL_BACKEND != 0 {
        if env.is_early() {
            return Ok(Step::ON);
        }
        requote(env, flow, quoted, &[backend, quoted.receiver])?;
        let to = End { addr: backend.addr, port: flow.dst.port };
        nat::rewrite(env, flow, nat::Which::Destination, &to)?;
        return Ok(Step { rev_nat: index, ..Step::ON });
    }
    if flags & CT_DSR != 0 {
        if config::balances(env.node(), LB_DSR_IPIP) {
            // The backend owns the frontend's address, and sent what is quoted from there.
            return Ok(Step::done(dsr::encapsulate(env, flow, &backend, now)?));
        }
        let retold = Retold::<F> { quoted: [backend, quoted.receiver], own: [flow.src.addr, backend.addr] };
        return Ok(Step::done(send(env, flow, quoted, &retold, now)?));
    }
    let node = F::snat_address(env.node());
    let retold = Retold::<F> { quoted: [backend, End { addr: node, port }], own: [node, backend.addr] };
    Ok(Step::done(send(env, flow, quoted, &retold, now)?))
}

/// Sends a retold error on its way.
#[inline(always)]
fn send<F: Balanced, E: NodeportEnv>(
    env: &mut E,
    flow: &mut Flow<F>,
    quoted: &Quotation<F>,
    retold: &Retold<F>,
    now: &Moment,
) -> Result<Verdict, DropReason> {
    if flow.ttl() <= 1 {
        return Err(DropReason::TtlExceeded);
    }
    let [src, dst] = retold.own;
    let len = length(env);
    let hop = ways::next_hop::<F, E>(env, &src, &dst, flow.protocol(), len, now);
    if !leads_on(env, &hop)? {
        return Ok(Verdict::PASS);
    }
    requote(env, flow, quoted, &retold.quoted)?;
    let (from, to) = (End { addr: src, port: flow.src.port }, End { addr: dst, port: flow.dst.port });
    forward::translate(env, flow, &from, &to)?;
    leave(env, &hop)
}

/// Replaces both ends of the quoted packet. Its transport checksum is not all there and stays as it is.
#[inline(always)]
fn requote<F: Family, E: Env>(
    env: &mut E,
    flow: &Flow<F>,
    quoted: &Quotation<F>,
    ends: &[End<F::Addr>; 2],
) -> Result<(), DropReason> {
    let [src, dst] = *ends;
    let at = flow.l4 + icmp::QUOTED;
    let pseudo =
        checksum::add(F::difference(&quoted.sender.addr, &src.addr), F::difference(&quoted.receiver.addr, &dst.addr));
    let mut changed = pseudo;
    if env.store(at + F::SRC, &[src.addr, dst.addr]).is_none() {
        return Err(DropReason::Write);
    }
    if !F::IPV6 {
        changed = checksum::add(changed, nat::patch_header(env, at, pseudo)?);
    }
    if quoted.protocol != F::ICMP {
        let word = |ports: [Port; 2]| -> u32 { zerocopy::transmute!(ports) };
        let (old, new) = ([quoted.sender.port, quoted.receiver.port], [src.port, dst.port]);
        changed = checksum::add(changed, checksum::difference(word(old), word(new)));
        if env.store(quoted.l4, &new).is_none() {
            return Err(DropReason::Write);
        }
    }
    let sum = flow.l4 + offset_of!(header::Icmp, checksum) as u32;
    match env.patch_l4_checksum(sum, 0, changed, false) {
        Some(()) => Ok(()),
        None => Err(DropReason::Write),
    }
}
