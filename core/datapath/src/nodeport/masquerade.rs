//! Packets that leave the node: pods' traffic to the world gets an address of the node (reference: masquerading), and answers of
//! the host's own backends the address of their frontend.
//!
//! Not masqueraded: what is translated already, answers, destinations to which pods' addresses are routed or that the
//! agent excludes, other nodes.

use abi::config::{LB_IP_MASQ_AGENT, LB_NODE_PORT, LB_TUNNEL};
use abi::endpoint::ENDPOINT_HOST;
use abi::event::reason;
use abi::nat::{SNAT_IN, SNAT_NEEDS_CT, SNAT_OUT};
use core::mem::offset_of;
use wire::header;

use super::env::{NodeportEnv, NodeportMaps};
use super::family::Balanced;
use super::forward::MARK_SNAT_DONE;
use super::snat::Wish;
use super::{errors, host, maps, snat};
use crate::config;
use crate::conntrack::{self, Moment};
use crate::env::Env;
use crate::family::End;
use crate::nat;
use crate::parse::{self, Flow, L3, Network};
use crate::policy;
use crate::verdict::{DropReason, Verdict};

/// Bits of a mark that say what it is.
const MARK_MASK: u32 = 0x0f00;

/// A packet leaves by a network device (the stage of `cil_to_netdev`).
#[inline(always)]
pub fn depart<F: Balanced, E: NodeportEnv + NodeportMaps<F>>(env: &mut E) -> Result<Verdict, DropReason> {
    let on = config::lb_flags(env.node());
    if env.mark() & MARK_MASK == MARK_SNAT_DONE || on & (LB_NODE_PORT | F::MASQUERADE) == 0 {
        return Ok(Verdict::PASS);
    }
    // What cannot be read is no pod's: its own hook would have dropped it.
    let Ok(network) = F::network(env, L3) else { return Ok(Verdict::PASS) };
    let Some(endpoint) = env.endpoint(&F::endpoint_key(&network.src)) else { return Ok(Verdict::PASS) };
    if endpoint.flags & ENDPOINT_HOST != 0 {
        return of_host(env, &network);
    }
    if on & F::MASQUERADE == 0 {
        return Ok(Verdict::PASS);
    }
    if is_excluded::<F, E>(env, &network.dst) {
        return Ok(Verdict::PASS);
    }
    let mut flow = parse::transport::<F, E>(env, &network)?;
    if flow.is_icmp_error() {
        errors::depart(env, &mut flow)?;
        return Ok(Verdict::PASS);
    }
    // What is neither asked by an echo nor by a port cannot be told apart on its way back.
    if flow.src.port.raw == 0 {
        return Ok(Verdict::PASS);
    }
    let now = Moment::read(env);
    let key = F::ct_key(&flow.src, &flow.dst, flow.protocol());
    if conntrack::state_of::<F, E>(env, &key, &flow, &now) == reason::REPLY {
        return Ok(Verdict::PASS);
    }
    let address = F::masquerade_address(env.node());
    exchange(env, &mut flow, &address, SNAT_NEEDS_CT, &now)?;
    Ok(Verdict::PASS)
}

/// A packet of the host itself leaves.
#[inline(always)]
fn of_host<F: Balanced, E: NodeportEnv + NodeportMaps<F>>(
    env: &mut E,
    network: &Network<F>,
) -> Result<Verdict, DropReason> {
    if !config::balances(env.node(), LB_NODE_PORT) {
        return Ok(Verdict::PASS);
    }
    let Ok(mut flow) = parse::transport::<F, E>(env, network) else { return Ok(Verdict::PASS) };
    if flow.is_icmp_error() {
        errors::depart(env, &mut flow)?;
    } else if flow.has_ports() {
        host::depart(env, &mut flow)?;
    }
    Ok(Verdict::PASS)
}

/// Whether traffic to a destination keeps its source.
#[inline(always)]
fn is_excluded<F: Balanced, E: NodeportEnv + NodeportMaps<F>>(env: &E, dst: &F::Addr) -> bool {
    let node = env.node();
    if F::is_natively_routed(node, dst) {
        return true;
    }
    if config::balances(node, LB_IP_MASQ_AGENT) && maps::is_excluded::<F, E>(env, dst) {
        return true;
    }
    !config::balances(node, LB_TUNNEL) && policy::peer::<F, E>(env, dst).identity == policy::IDENTITY_REMOTE_NODE
}

/// Gives a packet this address of the node as its source, and an allocated port.
#[inline(always)]
pub fn exchange<F: Balanced, E: NodeportEnv + NodeportMaps<F>>(
    env: &mut E,
    flow: &mut Flow<F>,
    address: &F::Addr,
    needs_ct: u64,
    now: &Moment,
) -> Result<(), DropReason> {
    let address = *address;
    let out = F::snat_key(&flow.src, &flow.dst, flow.protocol(), SNAT_OUT);
    let known = match maps::snat::<F, E>(env, &out) {
        Some(entry) => F::snat_target(entry).0,
        None => End { addr: F::UNSPECIFIED, port: abi::be::Port::from_raw(0) },
    };
    let mut port = known.port;
    if known.addr != address {
        port = snat::grant(
            env,
            &mut Wish::<F> {
                address,
                client: flow.src.addr,
                backend: flow.dst.addr,
                hash: flow.hash(config::seed(env.node())),
                seconds: now.seconds,
                client_port: flow.src.port,
                backend_port: flow.dst.port,
                index: abi::be::Port::from_raw(0),
                protocol: flow.protocol(),
                needs_ct: needs_ct as u8,
            },
        )?;
        let to = End { addr: address, port };
        let entry = F::snat_entry(&to, abi::be::Port::from_raw(0), needs_ct, now.seconds);
        if maps::snat_new::<F, E>(env, &out, &entry).is_none() {
            let back = F::snat_key(&End { addr: flow.dst.addr, port: flow.dst.port }, &to, flow.protocol(), SNAT_IN);
            maps::snat_forget::<F, E>(env, &back);
            return Err(DropReason::NoMapping);
        }
    }
    if flow.protocol() == F::ICMP {
        rename_echo(env, flow, port)?;
        let to = End { addr: address, port: flow.src.port };
        return nat::rewrite(env, flow, nat::Which::Source, &to);
    }
    nat::rewrite(env, flow, nat::Which::Source, &End { addr: address, port })
}

/// Replaces the identifier of an echo.
#[inline(always)]
pub fn rename_echo<F: Balanced, E: Env>(env: &mut E, flow: &Flow<F>, id: abi::be::Port) -> Result<(), DropReason> {
    let old = if flow.src.port.raw != 0 { flow.src.port } else { flow.dst.port };
    let (at, sum) = (offset_of!(header::Icmp, id) as u32, offset_of!(header::Icmp, checksum) as u32);
    let own = nat::port_difference(old, id);
    let done = env.store(flow.l4 + at, &id).is_some() && env.patch_l4_checksum(flow.l4 + sum, 0, own, false).is_some();
    if done { Ok(()) } else { Err(DropReason::Write) }
}
