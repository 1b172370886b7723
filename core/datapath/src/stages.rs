//! The pipeline cut into stages, and the chains of them.
//!
//! In the kernel each stage is a program of its own, so that the verifier walks it alone and it has a stack of its own; one
//! goes on in the next by a tail call. Natively the same functions call one another in a loop ([`complete`]). A stage
//! ends with a verdict or with [`Verdict::go_on`]; what the next one needs is in [`Kept`].

use crate::conntrack::Moment;
use crate::egress;
use crate::env::{Env, FamilyMaps};
use crate::events::Report;
use crate::family::{Family, V4, V6};
use crate::hooks::{self, ethertype, finish};
use crate::icmp::{self, Complaint};
use crate::ingress;
use crate::kept::Kept;
use crate::lb;
use crate::neighbour::{self, Discovery};
use crate::nodeport::env::{NodeportEnv, NodeportMaps};
use crate::nodeport::family::Balanced;
use crate::nodeport::{self, Origin};
use crate::parse::{self, L3};
use crate::policy::{self, Local};
use crate::verdict::{Action, DropReason, Verdict};

pub use abi::stage::Stage;

/// Stages a packet goes through at most, as a guard against a chain that bites its tail. (The kernel's bound is 33.)
const CHAIN_MAX: usize = 8;

/// Runs one stage.
#[inline(always)]
pub fn run<E: NodeportEnv>(env: &mut E, stage: Stage) -> Verdict {
    match stage {
        Stage::PodIpv4 => pod::<V4, E>(env),
        Stage::PodIpv6 => pod::<V6, E>(env),
        Stage::PodOpen4 => pod_open::<V4, E>(env, Stage::PodIpv4),
        Stage::PodOpen6 => pod_open::<V6, E>(env, Stage::PodIpv6),
        Stage::Neighbour => neighbour(env),
        Stage::PodError4 => pod_error::<V4, E>(env),
        Stage::PodError6 => pod_error::<V6, E>(env),
        Stage::Hairpin4 => hairpin::<V4, E>(env),
        Stage::Hairpin6 => hairpin::<V6, E>(env),
        Stage::Deliver4 => deliver::<V4, E>(env),
        Stage::Deliver6 => deliver::<V6, E>(env),
        Stage::ToPod4 => to_pod_with::<V4, E>(env),
        Stage::ToPod6 => to_pod_with::<V6, E>(env),
        Stage::Net4 => net::<V4, E>(env),
        Stage::Net6 => net::<V6, E>(env),
        Stage::Open4 => open::<V4, E>(env),
        Stage::Open6 => open::<V6, E>(env),
        Stage::Wrap4 => wrap::<V4, E>(env),
        Stage::Wrap6 => wrap::<V6, E>(env),
        Stage::Unwrap4 => unwrap::<V4, E>(env),
        Stage::Unwrap6 => unwrap::<V6, E>(env),
        Stage::Return4 => to_client::<V4, E>(env),
        Stage::Return6 => to_client::<V6, E>(env),
        Stage::Out4 => out::<V4, E>(env),
        Stage::Out6 => out::<V6, E>(env),
        Stage::Complain => complain(env),
    }
}

/// Runs one of the stages that exist where there is no buffer yet (`abi::stage::EARLY`). The others leave the packet to tc.
#[inline(always)]
pub fn run_early<E: NodeportEnv>(env: &mut E, stage: Stage) -> Verdict {
    match stage {
        Stage::Open4 => nodeport::hooks::open_early::<V4, E>(env),
        Stage::Open6 => nodeport::hooks::open_early::<V6, E>(env),
        Stage::Wrap4 => nodeport::hooks::carry_early::<V4, E>(env),
        Stage::Wrap6 => nodeport::hooks::carry_early::<V6, E>(env),
        _ => Verdict::PASS,
    }
}

/// All of `cil_xdp_entry`.
pub fn early<E: NodeportEnv>(env: &mut E) -> Verdict {
    let mut verdict = nodeport::hooks::early(env);
    for _ in 0..CHAIN_MAX {
        match Stage::of(verdict.argument) {
            Some(stage) if verdict.action == Action::Continue => verdict = run_early(env, stage),
            _ => return verdict,
        }
    }
    // What goes round in circles is left to the later hook.
    Verdict::PASS
}

/// Carries a packet from its hook's first verdict through all further stages, by plain calls.
pub fn complete<E: NodeportEnv>(env: &mut E, first: Verdict) -> Verdict {
    let mut verdict = first;
    for _ in 0..CHAIN_MAX {
        if verdict.action != Action::Continue {
            return verdict;
        }
        verdict = match Stage::of(verdict.argument) {
            Some(stage) => run(env, stage),
            None => hooks::missed(env),
        };
    }
    hooks::missed(env)
}

/// All of `cil_from_container`.
pub fn from_pod<E: NodeportEnv>(env: &mut E) -> Verdict {
    let first = hooks::from_pod(env);
    complete(env, first)
}

/// All of `cil_to_container`.
pub fn to_pod<E: NodeportEnv>(env: &mut E) -> Verdict {
    let first = hooks::to_pod(env);
    complete(env, first)
}

/// All of `cil_from_netdev`.
pub fn from_netdev<E: NodeportEnv>(env: &mut E) -> Verdict {
    let first = hooks::from_netdev(env);
    complete(env, first)
}

/// All of `cil_to_netdev`.
pub fn to_netdev<E: NodeportEnv>(env: &mut E) -> Verdict {
    let first = hooks::to_netdev(env);
    complete(env, first)
}

/// All of `cil_from_host`.
pub fn from_host<E: NodeportEnv>(env: &mut E) -> Verdict {
    let first = hooks::from_host(env);
    complete(env, first)
}

/// The stages of one family.
#[derive(Clone, Copy, Debug)]
pub struct Stages {
    /// ICMP errors from a pod.
    pub error: Stage,
    /// A pod reaches itself.
    pub hairpin: Stage,
    /// Ingress policy and delivery.
    pub deliver: Stage,
    /// To a client outside.
    pub to_client: Stage,
    /// A connection to a service opens.
    pub open: Stage,
    /// A pod's connection to a service opens.
    pub pod_open: Stage,
    /// To a backend inside another packet.
    pub wrap: Stage,
    /// A packet that may have another inside.
    pub unwrap: Stage,
}

/// The stages of `F`.
#[inline(always)]
pub const fn of<F: Family>() -> Stages {
    if F::IPV6 {
        Stages {
            error: Stage::PodError6,
            hairpin: Stage::Hairpin6,
            deliver: Stage::Deliver6,
            to_client: Stage::Return6,
            open: Stage::Open6,
            pod_open: Stage::PodOpen6,
            wrap: Stage::Wrap6,
            unwrap: Stage::Unwrap6,
        }
    } else {
        Stages {
            error: Stage::PodError4,
            hairpin: Stage::Hairpin4,
            deliver: Stage::Deliver4,
            to_client: Stage::Return4,
            open: Stage::Open4,
            pod_open: Stage::PodOpen4,
            wrap: Stage::Wrap4,
            unwrap: Stage::Unwrap4,
        }
    }
}

/// The pod that sends a packet.
#[inline(always)]
fn sender<E: Env>(env: &E, report: &mut Report) -> Result<Local, DropReason> {
    let Some(device) = env.device(env.ifindex()) else { return Err(DropReason::NotReady) };
    let local = Local::of(device);
    report.set_endpoint(local.lxc_id);
    report.set_src_identity(local.identity);
    if local.is_closed() {
        return Err(DropReason::NotReady);
    }
    Ok(local)
}

/// A report about an IP packet of family `F`.
#[inline(always)]
fn about<F: Family>(ingress: bool) -> Report {
    let mut report = Report::new(ingress);
    if F::IPV6 {
        report.set_ipv6();
    }
    report
}

/// From a pod, which is kept.
#[inline(always)]
fn pod<F: Balanced, E: NodeportEnv + NodeportMaps<F>>(env: &mut E) -> Verdict {
    let Some(kept) = env.kept().copied() else { return hooks::missed(env) };
    let mut report = about::<F>(false);
    report.set_answered();
    let handled = leave_pod::<F, E>(env, &kept, &mut report);
    finish(env, &mut report, handled)
}

#[inline(always)]
fn leave_pod<F: Balanced, E: NodeportEnv + NodeportMaps<F>>(
    env: &mut E,
    kept: &Kept,
    report: &mut Report,
) -> Result<Verdict, DropReason> {
    let local = kept.local();
    report.set_endpoint(local.lxc_id);
    report.set_src_identity(local.identity);
    if local.is_closed() {
        return Err(DropReason::NotReady);
    }
    let network = F::network(env, L3)?;
    if F::discovery(env, &network) != Discovery::No {
        return Ok(Verdict::go_on(Stage::Neighbour));
    }
    egress::forward(env, &local, kept, &network, report)
}

/// From a pod to a service whose way is not made yet; then back to the stage that needs it.
#[inline(always)]
fn pod_open<F: Balanced, E: NodeportEnv + NodeportMaps<F>>(env: &mut E, back: Stage) -> Verdict {
    // What the first stage has kept of the pod is still there.
    let Some(kept) = env.kept().copied() else { return hooks::missed(env) };
    let mut report = about::<F>(false);
    report.set_answered();
    let handled = open_for_pod::<F, E>(env, &kept, &mut report, back);
    finish(env, &mut report, handled)
}

#[inline(always)]
fn open_for_pod<F: Balanced, E: NodeportEnv + NodeportMaps<F>>(
    env: &mut E,
    kept: &Kept,
    report: &mut Report,
    back: Stage,
) -> Result<Verdict, DropReason> {
    let local = kept.local();
    report.set_endpoint(local.lxc_id);
    report.set_src_identity(local.identity);
    let network = F::network(env, L3)?;
    let flow = parse::transport::<F, E>(env, &network)?;
    report.set_hash(flow.hash(crate::config::seed(env.node())));
    let now = Moment::read(env);
    lb::open::<F, E>(env, &flow, &now)?;
    kept.with_way().leave(env)?;
    Ok(Verdict::go_on(back))
}

/// From a pod: what is neither IPv4 nor IPv6 but neighbour discovery.
#[inline(always)]
fn neighbour<E: Env>(env: &mut E) -> Verdict {
    let mut report = Report::new(false);
    let handled = answer_neighbour(env, &mut report);
    finish(env, &mut report, handled)
}

#[inline(always)]
fn answer_neighbour<E: Env>(env: &mut E, report: &mut Report) -> Result<Verdict, DropReason> {
    sender(env, report)?;
    match ethertype(env) {
        Some(wire::ETHERTYPE_IPV6) => {
            report.set_ipv6();
            let network = V6::network(env, L3)?;
            match neighbour::discovery(env, &network) {
                Discovery::Solicitation => neighbour::solicited(env, &network),
                // Nothing else of IPv6 comes here.
                Discovery::Stack | Discovery::No => Ok(Verdict::PASS),
            }
        }
        Some(wire::ETHERTYPE_ARP) => neighbour::arp(env),
        Some(_) => Err(DropReason::UnknownNetwork),
        None => Err(DropReason::Invalid),
    }
}

/// From a pod: an ICMP error, with its flow kept.
#[inline(always)]
fn pod_error<F: Family, E: Env + FamilyMaps<F>>(env: &mut E) -> Verdict {
    resume(env, |env, kept, report| {
        let local = sender(env, report)?;
        egress::forward_error::<F, E>(env, &local, &mut kept.flow(), report, &kept.moment())
    })
}

/// From a pod to itself.
#[inline(always)]
fn hairpin<F: Family, E: Env + FamilyMaps<F>>(env: &mut E) -> Verdict {
    resume(env, |env, kept, report| {
        let local = sender(env, report)?;
        egress::hairpin::<F, E>(env, &local, kept, report)
    })
}

/// From the network.
#[inline(always)]
fn net<F: Balanced, E: NodeportEnv + NodeportMaps<F>>(env: &mut E) -> Verdict {
    let mut report = about::<F>(true);
    report.set_answered();
    let handled = nodeport::hooks::arrive::<F, E>(env, &mut report);
    finish(env, &mut report, handled)
}

/// From the network to a service whose way is not made yet.
#[inline(always)]
fn open<F: Balanced, E: NodeportEnv + NodeportMaps<F>>(env: &mut E) -> Verdict {
    resume(env, |env, kept, report| {
        report.set_answered();
        nodeport::hooks::open::<F, E>(env, kept, report)
    })
}

/// To a backend of another node inside another packet.
#[inline(always)]
fn wrap<F: Balanced, E: NodeportEnv + NodeportMaps<F>>(env: &mut E) -> Verdict {
    let Some(kept) = env.kept().copied() else { return hooks::missed(env) };
    let mut flow = kept.flow::<F>();
    let mut report = about::<F>(true);
    report.set_answered();
    report.set_hash(flow.hash(crate::config::seed(env.node())));
    let handled = nodeport::geneve::carry(env, &mut flow, &kept);
    finish(env, &mut report, handled)
}

/// From the network, perhaps with another packet inside.
#[inline(always)]
fn unwrap<F: Balanced, E: NodeportEnv + NodeportMaps<F>>(env: &mut E) -> Verdict {
    resume(env, |env, kept, report| nodeport::geneve::take_apart::<F, E>(env, kept, report))
}

/// To the network.
#[inline(always)]
fn out<F: Balanced, E: NodeportEnv + NodeportMaps<F>>(env: &mut E) -> Verdict {
    let handled = nodeport::masquerade::depart::<F, E>(env);
    finish(env, &mut about::<F>(false), handled)
}

/// From a pod to a client of a service outside, whose frontend is kept.
#[inline(always)]
fn to_client<F: Balanced, E: NodeportEnv + NodeportMaps<F>>(env: &mut E) -> Verdict {
    resume(env, |env, kept, _| nodeport::answer::<F, E>(env, &mut kept.flow(), &kept.origin(), &kept.moment()))
}

/// To a pod of this node, whose interface is kept.
#[inline(always)]
fn deliver<F: Family, E: Env + FamilyMaps<F>>(env: &mut E) -> Verdict {
    resume(env, |env, kept, report| {
        let Some(device) = env.device(kept.number) else { return Err(DropReason::NotReady) };
        let local = Local::of(device);
        let mut flow = kept.flow::<F>();
        let proxy = ingress::admit(env, &local, &mut flow, &kept.peer(), &kept.origin(), report, &kept.moment())?;
        if proxy != 0 {
            return Ok(Verdict::proxy(proxy));
        }
        ingress::deliver(env, &flow, kept.number)
    })
}

/// Goes on where the stage before has stopped.
#[inline(always)]
fn resume<E: Env>(
    env: &mut E,
    stage: impl FnOnce(&mut E, &Kept, &mut Report) -> Result<Verdict, DropReason>,
) -> Verdict {
    let Some(kept) = env.kept().copied() else { return hooks::missed(env) };
    let mut report = kept.report();
    let handled = stage(env, &kept, &mut report);
    finish(env, &mut report, handled)
}

#[inline(always)]
fn to_pod_with<F: Family, E: Env + FamilyMaps<F>>(env: &mut E) -> Verdict {
    let mut report = about::<F>(true);
    let handled = reach_pod::<F, E>(env, &mut report);
    finish(env, &mut report, handled)
}

#[inline(always)]
fn reach_pod<F: Family, E: Env + FamilyMaps<F>>(env: &mut E, report: &mut Report) -> Result<Verdict, DropReason> {
    let local = hooks::at_pod(env, report)?;
    let network = F::network(env, L3)?;
    // Between neighbours no policy applies.
    if F::discovery(env, &network) != Discovery::No {
        return Ok(Verdict::PASS);
    }
    let mut flow = parse::transport::<F, E>(env, &network)?;
    report.set_hash(flow.hash(crate::config::seed(env.node())));
    let now = Moment::read(env);
    let peer = policy::peer::<F, E>(env, &flow.src.addr);
    let proxy = ingress::admit(env, &local, &mut flow, &peer, &Origin::none(), report, &now)?;
    if proxy != 0 {
        return Ok(Verdict::proxy(proxy));
    }
    Ok(Verdict::PASS)
}

/// Tells a pod by ICMP why its packet was dropped, if the packet is one that is told of. The drop has been counted.
#[inline(always)]
fn complain<E: NodeportEnv>(env: &mut E) -> Verdict {
    let Some(kept) = env.kept() else { return hooks::missed(env) };
    let reason = kept.number as u8;
    let ipv6 = ethertype(env) == Some(wire::ETHERTYPE_IPV6);
    if !icmp::may_complain(env) {
        return Verdict::dropped(reason);
    }
    let complaint = Complaint::about(env, reason, ipv6);
    let complained = if ipv6 { icmp::complain6(env, complaint) } else { icmp::complain4(env, complaint) };
    match complained {
        Some(()) => Verdict::redirect(env.ifindex()),
        None => Verdict::dropped(reason),
    }
}
