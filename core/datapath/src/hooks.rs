//! The first stage of each hook: who is at the interface, and which stage is the packet's.
//!
//! In the kernel these are the programs that are attached. Natively, whole chains are in [`crate::stages`].

use abi::config::LB_NO_BACKEND_DROP;
use abi::endpoint::{DEVICE_CLOSED, ENDPOINT_HOST};
use wire::header;

use crate::config;
use crate::env::{Env, FamilyMaps};
use crate::events::{self, Report};
use crate::family::{Family, V4, V6};
use crate::fast;
use crate::kept::Kept;
use crate::parse::L3;
use crate::policy::Local;
use crate::stages::Stage;
use crate::verdict::{Action, DropReason, Verdict};

/// The EtherType in host order.
#[inline(always)]
pub(crate) fn ethertype<E: Env>(env: &E) -> Option<u16> {
    Some(u16::from_be(env.load::<header::Ethernet>(0)?.ethertype_be))
}

/// The number of the reason for which a packet is dropped; 0: it is not.
#[inline(always)]
fn reason<E: Env>(env: &E, handled: &Result<Verdict, DropReason>) -> u8 {
    let number = match handled {
        Ok(_) => 0,
        Err(reason) => *reason as u8,
    };
    env.forget(number as u64) as u8
}

/// Whether whoever sent a packet hears by ICMP that it was dropped for this reason.
#[inline(always)]
const fn is_answered(reason: u8) -> bool {
    reason == DropReason::NoBackend as u8
        || reason == DropReason::TtlExceeded as u8
        || reason == DropReason::FragmentationNeeded as u8
}

/// Counts and reports what became of a packet. Whatever goes wrong in any stage ends here.
#[inline(always)]
pub fn finish<E: Env>(env: &mut E, report: &mut Report, handled: Result<Verdict, DropReason>) -> Verdict {
    report.forget(env);
    match handled {
        Ok(verdict) => {
            if verdict.action != Action::Continue {
                events::forwarded(env, report);
            }
            verdict
        }
        Err(_) => {
            let reason = reason(env, &handled);
            let verdict = events::dropped(env, report, reason);
            let kept = Kept::default().with(0, reason as u32);
            let silent = reason == DropReason::NoBackend as u8 && config::balances(env.node(), LB_NO_BACKEND_DROP);
            if report.answered() && is_answered(reason) && !silent && kept.leave(env).is_ok() {
                return Verdict::go_on(Stage::Complain);
            }
            verdict
        }
    }
}

/// The next stage's program is not there: the packet is dropped, counted and reported.
#[inline(always)]
pub fn missed<E: Env>(env: &mut E) -> Verdict {
    events::dropped(env, &Report::new(false), DropReason::MissedTailCall as u8)
}

/// A packet leaves a pod: ingress of its host-side interface (`cil_from_container`).
#[inline(always)]
pub fn from_pod<E: Env>(env: &mut E) -> Verdict {
    match ethertype(env) {
        Some(wire::ETHERTYPE_IPV4) => ip_leaves_pod::<V4, E>(env, Stage::PodIpv4),
        Some(wire::ETHERTYPE_IPV6) => ip_leaves_pod::<V6, E>(env, Stage::PodIpv6),
        _ => Verdict::go_on(Stage::Neighbour),
    }
}

/// The short way, or else the long one, which also drops what may not pass.
#[inline(always)]
fn ip_leaves_pod<F: Family, E: Env + FamilyMaps<F>>(env: &mut E, stage: Stage) -> Verdict {
    let Some(device) = env.device(env.ifindex()) else { return nobody::<F, E>(env, stage) };
    let (local, own) = (Local::of(device), F::own(device));
    let mut absent = false;
    match fast::from_pod::<F, E>(env, &local, &own, &mut absent) {
        Some(Ok(verdict)) => verdict,
        Some(Err(reason)) => events::dropped(env, &Report::new(false), reason as u8),
        None => {
            // Memory of the CPU is always there.
            let _ = Kept::sender::<F>(&local, &own, absent).leave(env);
            Verdict::go_on(stage)
        }
    }
}

/// Nobody is behind the interface: as if somebody were of whom nothing is known yet.
#[inline(always)]
fn nobody<F: Family, E: Env>(env: &mut E, stage: Stage) -> Verdict {
    let nobody = Local { identity: 0, policy: 0, lxc_id: 0, flags: DEVICE_CLOSED };
    let _ = Kept::sender::<F>(&nobody, &F::UNSPECIFIED, false).leave(env);
    Verdict::go_on(stage)
}

/// A packet reaches a pod from the host's stack: egress of its host-side interface (`cil_to_container`).
#[inline(always)]
pub fn to_pod<E: Env>(env: &mut E) -> Verdict {
    match ethertype(env) {
        Some(wire::ETHERTYPE_IPV4) => return Verdict::go_on(Stage::ToPod4),
        Some(wire::ETHERTYPE_IPV6) => return Verdict::go_on(Stage::ToPod6),
        _ => {}
    }
    let mut report = Report::new(true);
    let handled = other_to_pod(env, &mut report);
    finish(env, &mut report, handled)
}

/// What is not IP passes as ARP, or not at all.
#[inline(always)]
fn other_to_pod<E: Env>(env: &mut E, report: &mut Report) -> Result<Verdict, DropReason> {
    at_pod(env, report)?;
    match ethertype(env) {
        Some(wire::ETHERTYPE_ARP) => Ok(Verdict::PASS),
        Some(_) => Err(DropReason::UnknownNetwork),
        None => Err(DropReason::Invalid),
    }
}

/// The pod that a packet from the stack reaches.
#[inline(always)]
pub(crate) fn at_pod<E: Env>(env: &E, report: &mut Report) -> Result<Local, DropReason> {
    let Some(device) = env.device(env.ifindex()) else { return Err(DropReason::NotReady) };
    let local = Local::of(device);
    report.set_endpoint(local.lxc_id);
    report.set_dst_endpoint(local.lxc_id);
    report.set_dst_identity(local.identity);
    if local.is_closed() {
        return Err(DropReason::NotReady);
    }
    Ok(local)
}

/// A packet reaches the node from outside: ingress of the host's device (`cil_from_netdev`).
#[inline(always)]
pub fn from_netdev<E: Env>(env: &mut E) -> Verdict {
    match ethertype(env) {
        Some(wire::ETHERTYPE_IPV4) => Verdict::go_on(Stage::Net4),
        Some(wire::ETHERTYPE_IPV6) => Verdict::go_on(Stage::Net6),
        _ => Verdict::PASS,
    }
}

/// A packet leaves the node: egress of the host's device (`cil_to_netdev`).
#[inline(always)]
pub fn to_netdev<E: Env>(env: &mut E) -> Verdict {
    match ethertype(env) {
        Some(wire::ETHERTYPE_IPV4) => Verdict::go_on(Stage::Out4),
        Some(wire::ETHERTYPE_IPV6) => Verdict::go_on(Stage::Out6),
        _ => Verdict::PASS,
    }
}

/// A packet leaves the host by `cilium_host` (`cil_from_host`): into the pod's interface, whose own hook polices it.
#[inline(always)]
pub fn from_host<E: Env>(env: &mut E) -> Verdict {
    let handled = match ethertype(env) {
        Some(wire::ETHERTYPE_IPV4) => from_host_with::<V4, E>(env),
        Some(wire::ETHERTYPE_IPV6) => from_host_with::<V6, E>(env),
        _ => return Verdict::PASS,
    };
    finish(env, &mut Report::new(false), handled)
}

#[inline(always)]
fn from_host_with<F: Family, E: Env + FamilyMaps<F>>(env: &mut E) -> Result<Verdict, DropReason> {
    let network = F::network(env, L3)?;
    let Some(endpoint) = env.endpoint(&F::endpoint_key(&network.dst)) else { return Ok(Verdict::PASS) };
    if endpoint.flags & ENDPOINT_HOST != 0 {
        return Ok(Verdict::PASS);
    }
    let (ifindex, mac, node_mac) = (endpoint.ifindex, endpoint.mac, endpoint.node_mac);
    crate::nat::write_macs(env, &mac, &node_mac)?;
    Ok(Verdict::redirect(ifindex))
}
