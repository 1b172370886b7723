//! The entry points: one function for each hook, from the bare packet to the verdict.
//!
//! Whatever goes wrong is dropped, counted and reported here, in one place.

use abi::endpoint::ENDPOINT_HOST;
use wire::header;

use crate::config;
use crate::conntrack::Moment;
use crate::egress;
use crate::env::{Env, FamilyMaps};
use crate::events::{self, Report};
use crate::family::{Family, V4, V6};
use crate::icmp::{self, Complaint};
use crate::ingress;
use crate::neighbour::{self, Discovery};
use crate::parse::{self, L3, Network};
use crate::policy::{self, Local};
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

/// Counts and reports what became of a packet.
#[inline(always)]
pub fn finish<E: Env>(env: &mut E, report: &mut Report, handled: Result<Verdict, DropReason>) -> Verdict {
    report.forget(env);
    match handled {
        Ok(verdict) => {
            events::forwarded(env, report);
            verdict
        }
        Err(_) => {
            let reason = reason(env, &handled);
            events::dropped(env, report, reason)
        }
    }
}

/// A packet leaves a pod: ingress of its host-side interface (`cil_from_container`).
#[inline(always)]
pub fn from_pod<E: Env>(env: &mut E) -> Verdict {
    let mut report = Report::new(false);
    let handled = leave_pod(env, &mut report);
    let verdict = finish(env, &mut report, handled);
    if verdict.action != Action::Drop {
        return verdict;
    }
    let complaint = if verdict.argument == DropReason::NoBackend as u32 {
        Complaint::Unreachable
    } else if verdict.argument == DropReason::TtlExceeded as u32 {
        Complaint::TimeExceeded
    } else {
        return verdict;
    };
    let complained = if report.ipv6() { icmp::complain6(env, complaint) } else { icmp::complain4(env, complaint) };
    match complained {
        Some(()) => Verdict::redirect(env.ifindex()),
        None => verdict,
    }
}

#[inline(always)]
fn leave_pod<E: Env>(env: &mut E, report: &mut Report) -> Result<Verdict, DropReason> {
    let Some(device) = env.device(env.ifindex()) else { return Err(DropReason::NotReady) };
    let local = Local::of(device);
    let (ipv4, ipv6) = (device.ipv4, device.ipv6.into());
    report.set_endpoint(local.lxc_id);
    report.set_src_identity(local.identity);
    if local.is_closed() {
        return Err(DropReason::NotReady);
    }
    match ethertype(env) {
        Some(wire::ETHERTYPE_IPV4) => {
            let network = V4::network(env, L3)?;
            egress::forward(env, &local, &ipv4, &network, report)
        }
        Some(wire::ETHERTYPE_IPV6) => {
            report.set_ipv6();
            let network = V6::network(env, L3)?;
            match neighbour::discovery(env, &network) {
                Discovery::No => egress::forward(env, &local, &ipv6, &network, report),
                Discovery::Stack => Ok(Verdict::PASS),
                Discovery::Solicitation => neighbour::solicited(env, &network),
            }
        }
        Some(wire::ETHERTYPE_ARP) => neighbour::arp(env),
        Some(_) => Err(DropReason::UnknownNetwork),
        None => Err(DropReason::Invalid),
    }
}

/// A packet reaches a pod from the host's stack: egress of its host-side interface (`cil_to_container`).
#[inline(always)]
pub fn to_pod<E: Env>(env: &mut E) -> Verdict {
    let mut report = Report::new(true);
    let handled = reach_pod(env, &mut report);
    finish(env, &mut report, handled)
}

#[inline(always)]
fn reach_pod<E: Env>(env: &mut E, report: &mut Report) -> Result<Verdict, DropReason> {
    let Some(device) = env.device(env.ifindex()) else { return Err(DropReason::NotReady) };
    let local = Local::of(device);
    report.set_endpoint(local.lxc_id);
    report.set_dst_endpoint(local.lxc_id);
    report.set_dst_identity(local.identity);
    if local.is_closed() {
        return Err(DropReason::NotReady);
    }
    match ethertype(env) {
        Some(wire::ETHERTYPE_IPV4) => {
            let network = V4::network(env, L3)?;
            reach_pod_with(env, &local, &network, report)
        }
        Some(wire::ETHERTYPE_IPV6) => {
            report.set_ipv6();
            let network = V6::network(env, L3)?;
            // Between neighbours no policy applies.
            if neighbour::discovery(env, &network) != Discovery::No {
                return Ok(Verdict::PASS);
            }
            reach_pod_with(env, &local, &network, report)
        }
        Some(wire::ETHERTYPE_ARP) => Ok(Verdict::PASS),
        Some(_) => Err(DropReason::UnknownNetwork),
        None => Err(DropReason::Invalid),
    }
}

#[inline(always)]
fn reach_pod_with<F: Family, E: Env + FamilyMaps<F>>(
    env: &mut E,
    local: &Local,
    network: &Network<F>,
    report: &mut Report,
) -> Result<Verdict, DropReason> {
    let mut flow = parse::transport::<F, E>(env, network)?;
    report.set_hash(flow.hash(config::seed(env.node())));
    let now = Moment::read(env);
    let peer = policy::peer::<F, E>(env, &flow.src.addr);
    let proxy = ingress::admit(env, local, &mut flow, &peer, report, &now)?;
    if proxy != 0 {
        return Ok(Verdict::proxy(proxy));
    }
    Ok(Verdict::PASS)
}

/// A packet reaches the node from outside: ingress of the host's device (`cil_from_netdev`).
///
/// What is for a pod of this node is policed and delivered; the rest is the stack's.
#[inline(always)]
pub fn from_netdev<E: Env>(env: &mut E) -> Verdict {
    let mut report = Report::new(true);
    let handled = match ethertype(env) {
        Some(wire::ETHERTYPE_IPV4) => from_netdev_with::<V4, E>(env, &mut report),
        Some(wire::ETHERTYPE_IPV6) => from_netdev_with::<V6, E>(env, &mut report),
        _ => return Verdict::PASS,
    };
    finish(env, &mut report, handled)
}

#[inline(always)]
fn from_netdev_with<F: Family, E: Env + FamilyMaps<F>>(
    env: &mut E,
    report: &mut Report,
) -> Result<Verdict, DropReason> {
    if F::IPV6 {
        report.set_ipv6();
    }
    let network = F::network(env, L3)?;
    let Some(endpoint) = env.endpoint(&F::endpoint_key(&network.dst)) else { return Ok(Verdict::PASS) };
    if endpoint.flags & ENDPOINT_HOST != 0 {
        return Ok(Verdict::PASS);
    }
    let (ifindex, lxc_id) = (endpoint.ifindex, endpoint.lxc_id);
    report.set_dst_endpoint(lxc_id);
    // Nobody outside has an address of this node.
    if env.endpoint(&F::endpoint_key(&network.src)).is_some() {
        return Err(DropReason::InvalidSource);
    }
    let mut flow = parse::transport::<F, E>(env, &network)?;
    report.set_hash(flow.hash(config::seed(env.node())));
    let now = Moment::read(env);
    let peer = policy::peer::<F, E>(env, &flow.src.addr);
    egress::deliver_local(env, &mut flow, &peer, report, &now, ifindex)
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
