//! The hook in XDP.

use abi::config::LB_NODE_PORT;

use super::env::{NodeportEnv, NodeportMaps};
use super::family::Balanced;
use crate::config;
use crate::conntrack::Moment;
use crate::events::Report;
use crate::family::{V4, V6};
use crate::hooks::{ethertype, finish};
use crate::parse::{self, L3};
use crate::verdict::{DropReason, Verdict};

/// A packet reaches the node from outside, before the kernel has made a buffer of it (`cil_xdp_entry`).
#[inline(always)]
pub fn early<E: NodeportEnv>(env: &mut E) -> Verdict {
    if !config::balances(env.node(), LB_NODE_PORT) {
        return Verdict::PASS;
    }
    let mut report = Report::new(true);
    let handled = match ethertype(env) {
        Some(wire::ETHERTYPE_IPV4) => early_with::<V4, E>(env, &mut report),
        Some(wire::ETHERTYPE_IPV6) => {
            report.set_ipv6();
            early_with::<V6, E>(env, &mut report)
        }
        _ => return Verdict::PASS,
    };
    finish(env, &mut report, handled)
}

#[inline(always)]
fn early_with<F: Balanced, E: NodeportEnv + NodeportMaps<F>>(
    env: &mut E,
    report: &mut Report,
) -> Result<Verdict, DropReason> {
    // What cannot be read is for no service; whether it is good for anything else is not decided here.
    let Ok(network) = F::network(env, L3) else { return Ok(Verdict::PASS) };
    let Ok(mut flow) = parse::transport::<F, E>(env, &network) else { return Ok(Verdict::PASS) };
    report.set_hash(flow.hash(config::seed(env.node())));
    let now = Moment::read(env);
    Ok(super::balance(env, &mut flow, &now)?.verdict)
}
