//! A packet at its destination's side: known or allowed, translated back if it is a service's reply, and into the pod.

use abi::ct::{CT_LB_LOOPBACK, CT_SERVICE};
use abi::event::{point, reason};

use crate::conntrack::{self, Moment};
use crate::env::{Env, FamilyMaps};
use crate::events::{Outcome, Report};
use crate::family::Family;
use crate::icmp;
use crate::maps;
use crate::nat;
use crate::nodeport::Origin;
use crate::parse::Flow;
use crate::policy::{Local, Peer};
use crate::side::{self, Side};
use crate::verdict::{DropReason, Verdict};

/// Polices a packet towards the pod behind `local`. `peer` is who sent it, `origin` the service by which it came from outside.
///
/// Returns the proxy to redirect to, 0: none; the packet has then been translated as far as the pod must not notice a service.
#[inline(always)]
pub fn admit<F: Family, E: Env + FamilyMaps<F>>(
    env: &mut E,
    local: &Local,
    flow: &mut Flow<F>,
    peer: &Peer,
    origin: &Origin<F>,
    report: &mut Report,
    now: &Moment,
) -> Result<u16, DropReason> {
    report.set_ingress();
    flow.forget(env);
    report.set_endpoint(local.lxc_id);
    report.set_dst_endpoint(local.lxc_id);
    report.set_src_identity(peer.identity);
    report.set_dst_identity(local.identity);
    if local.is_closed() {
        return Err(DropReason::NotReady);
    }
    if flow.is_icmp_error() {
        let related = icmp::related(env, flow, local, false, now)?;
        if related.known {
            icmp::translate(env, flow, &related, false)?;
            report.set_outcome(Outcome::at(point::TO_ENDPOINT, reason::RELATED, true));
            return Ok(0);
        }
    }
    let key = F::ct_key(&flow.dst, &flow.src, flow.protocol());
    let found = conntrack::lookup::<F, E>(env, &key, flow, false, now);
    // Neither a service's frontend nor the loopback of services is anybody who could send this.
    if found.has(CT_SERVICE | CT_LB_LOOPBACK) {
        return Err(DropReason::InvalidSource);
    }
    // A connection that the pod opened itself does not come by a service, whatever the packet did.
    if origin.flags != 0 && found.state() == reason::ESTABLISHED {
        origin.mark::<E>(env, flow, &key, &found);
    }
    let mut proxy = found.proxy_port();
    if found.is_new() || found.policy_stale() {
        proxy = side::settle(env, &Side { local, peer, flow, key: &key, origin }, &found, report, now)?;
    }
    if found.state() == reason::REPLY
        && found.rev_nat().raw != 0
        && let Some(entry) = maps::reverse_nat::<F, E>(env, found.rev_nat())
    {
        let frontend = F::frontend(entry);
        nat::rewrite(env, flow, nat::Which::Source, &frontend)?;
    }
    report.set_outcome(Outcome::at(point::TO_ENDPOINT, found.state(), found.report()));
    Ok(proxy.raw)
}

/// Sends an admitted packet into the pod behind `ifindex`, one hop further.
#[inline(always)]
pub fn deliver<F: Family, E: Env>(env: &mut E, flow: &Flow<F>, ifindex: u32) -> Result<Verdict, DropReason> {
    if flow.ttl() <= 1 {
        return Err(DropReason::TtlExceeded);
    }
    nat::decrement_ttl::<F, E>(env, flow.ttl())?;
    // Asked again rather than kept: kept through all of the above, the addresses would crowd the stack.
    let Some(device) = env.device(ifindex) else { return Err(DropReason::NotReady) };
    let (mac, node_mac) = (device.mac, device.node_mac);
    nat::write_macs(env, &mac, &node_mac)?;
    Ok(Verdict::redirect_peer(ifindex))
}
