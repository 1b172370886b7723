//! The hooks of a network device: XDP, and the stage of tc.

use abi::config::{LB_DSR, LB_DSR_GENEVE, LB_DSR_IPIP, LB_HYBRID, LB_MODE_BY_SERVICE, LB_NODE_PORT};
use abi::endpoint::ENDPOINT_HOST;

use super::env::{NodeportEnv, NodeportMaps};
use super::family::Balanced;
use super::{Origin, Step, dsr, geneve, service};
use crate::config;
use crate::conntrack::Moment;
use crate::events::{self, Report};
use crate::family::{V4, V6};
use crate::hooks::ethertype;
use crate::kept::Kept;
use crate::parse::{self, Flow, L3};
use crate::policy;
use crate::stages;
use crate::verdict::{DropReason, Verdict};

/// A packet reaches the node from outside, before the kernel has made a buffer of it (`cil_xdp_entry`).
#[inline(always)]
pub fn early<E: NodeportEnv>(env: &mut E) -> Verdict {
    if !config::balances(env.node(), LB_NODE_PORT) {
        return Verdict::PASS;
    }
    match ethertype(env) {
        Some(wire::ETHERTYPE_IPV4) => early_with::<V4, E>(env),
        Some(wire::ETHERTYPE_IPV6) => early_with::<V6, E>(env),
        _ => Verdict::PASS,
    }
}

#[inline(always)]
fn early_with<F: Balanced, E: NodeportEnv + NodeportMaps<F>>(env: &mut E) -> Verdict {
    // What cannot be read is for no service; whether it is good for anything else is not decided here.
    let Ok(network) = F::network(env, L3) else { return Verdict::PASS };
    let Ok(mut flow) = parse::transport::<F, E>(env, &network) else { return Verdict::PASS };
    let now = Moment::of_services(env);
    let balanced = super::balance(env, &mut flow, &now);
    conclude(env, &flow, balanced)
}

/// A connection to a service opens where there is no buffer yet: its way is made and gone at once.
#[inline(always)]
pub fn open_early<F: Balanced, E: NodeportEnv + NodeportMaps<F>>(env: &mut E) -> Verdict {
    let Some(kept) = env.kept().copied() else { return Verdict::PASS };
    let (mut flow, now) = (kept.flow::<F>(), kept.moment());
    let carried = match service::establish(env, &flow, &kept.wanted(), &now) {
        Ok(served) => super::carry(env, &mut flow, &served, &now),
        Err(reason) => Err(reason),
    };
    conclude(env, &flow, carried)
}

/// A packet is carried to its backend inside another where there is no buffer yet.
#[inline(always)]
pub fn carry_early<F: Balanced, E: NodeportEnv + NodeportMaps<F>>(env: &mut E) -> Verdict {
    let Some(kept) = env.kept().copied() else { return Verdict::PASS };
    let mut flow = kept.flow::<F>();
    let carried = geneve::carry(env, &mut flow, &kept).map(Step::done);
    conclude(env, &flow, carried)
}

/// The verdict of the early hook.
#[inline(always)]
fn conclude<F: Balanced, E: NodeportEnv>(env: &mut E, flow: &Flow<F>, step: Result<Step, DropReason>) -> Verdict {
    match step {
        Ok(step) => step.verdict,
        // Whoever sent it is told, which the later hook does.
        Err(DropReason::NoBackend | DropReason::TtlExceeded | DropReason::FragmentationNeeded) => Verdict::PASS,
        Err(reason) => {
            let mut report = Report::new(true);
            report.set_hash(flow.hash(config::seed(env.node())));
            events::dropped(env, &report, reason as u8)
        }
    }
}

/// A packet reaches the node from outside (the stage of `cil_from_netdev`).
///
/// What is for a service is balanced, what is for a pod of this node policed and delivered; the rest is the stack's.
#[inline(always)]
pub fn arrive<F: Balanced, E: NodeportEnv + NodeportMaps<F>>(
    env: &mut E,
    report: &mut Report,
) -> Result<Verdict, DropReason> {
    let network = F::network(env, L3)?;
    let mut flow = match parse::transport::<F, E>(env, &network) {
        Ok(flow) => flow,
        // For no service. A pod must be able to be named for what reaches it; the host may do with it what it can.
        Err(_) if pod_at::<F, E>(env, &network.dst) == 0 => return Ok(Verdict::PASS),
        Err(reason) => return Err(reason),
    };
    report.set_hash(flow.hash(config::seed(env.node())));
    let now = Moment::read(env);
    let mut origin = Origin::none();
    if config::lb_flags(env.node()) & (LB_NODE_PORT | F::MASQUERADE) != 0 {
        let step = super::balance(env, &mut flow, &now)?;
        if step.done {
            return Ok(step.verdict);
        }
        origin = Origin::service(step.rev_nat);
    }
    if origin.flags == 0 && geneve::may_carry(env, &flow) {
        Kept::of(&flow, report, &now).leave(env)?;
        return Ok(Verdict::go_on(stages::of::<F>().unwrap));
    }
    reach(env, &flow, origin, report, &now)
}

/// A connection to a service opens (the stage after that of `cil_from_netdev`): its way is made and gone at once.
#[inline(always)]
pub fn open<F: Balanced, E: NodeportEnv + NodeportMaps<F>>(
    env: &mut E,
    kept: &Kept,
    report: &mut Report,
) -> Result<Verdict, DropReason> {
    let (mut flow, now) = (kept.flow::<F>(), kept.moment());
    report.set_hash(flow.hash(config::seed(env.node())));
    let served = service::establish(env, &flow, &kept.wanted(), &now)?;
    let step = super::carry(env, &mut flow, &served, &now)?;
    if step.done {
        return Ok(step.verdict);
    }
    reach(env, &flow, Origin::service(step.rev_nat), report, &now)
}

/// To a pod of this node, if it is for one. `origin`: the service it came by, as far as is known.
#[inline(always)]
pub fn reach<F: Balanced, E: NodeportEnv>(
    env: &mut E,
    flow: &Flow<F>,
    origin: Origin<F>,
    report: &mut Report,
    now: &Moment,
) -> Result<Verdict, DropReason> {
    let Some(endpoint) = env.endpoint(&F::endpoint_key(&flow.dst.addr)) else { return Ok(Verdict::PASS) };
    let (ifindex, lxc_id, flags) = (endpoint.ifindex, endpoint.lxc_id, endpoint.flags);
    if flags & ENDPOINT_HOST != 0 {
        return Ok(Verdict::PASS);
    }
    report.set_dst_endpoint(lxc_id);
    // Nobody outside has an address of this node.
    if env.endpoint(&F::endpoint_key(&flow.src.addr)).is_some() {
        return Err(DropReason::InvalidSource);
    }
    let mut origin = origin;
    if origin.flags == 0 && tells(env) {
        origin = dsr::told(env, flow);
    }
    let peer = policy::peer::<F, E>(env, &flow.src.addr);
    let kept = Kept::of(flow, report, now).towards(&peer, ifindex);
    kept.through(&origin).leave(env)?;
    Ok(Verdict::go_on(stages::of::<F>().deliver))
}

/// The interface of the pod with this address; 0: it is none of a pod of this node.
#[inline(always)]
fn pod_at<F: Balanced, E: NodeportEnv>(env: &E, addr: &F::Addr) -> u32 {
    match env.endpoint(&F::endpoint_key(addr)) {
        Some(endpoint) if endpoint.flags & ENDPOINT_HOST == 0 => endpoint.ifindex,
        _ => 0,
    }
}

/// Whether other nodes of this configuration tell of frontends by options.
#[inline(always)]
fn tells<E: NodeportEnv>(env: &E) -> bool {
    let flags = config::lb_flags(env.node());
    flags & (LB_DSR | LB_HYBRID | LB_MODE_BY_SERVICE) != 0 && flags & (LB_DSR_IPIP | LB_DSR_GENEVE) == 0
}
