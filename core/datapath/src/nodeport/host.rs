//! Backends in the host's own network namespace on the node that balances, and the node's own ports.
//!
//! Whom such a backend answers leaves by the stack with the backend's address as its source. An entry of the NAT map, made when the
//! connection opens, says which frontend the client knows.

use abi::be::Port;
use abi::nat::SNAT_OUT;

use super::env::{NodeportEnv, NodeportMaps};
use super::family::Balanced;
use super::{maps, masquerade, snat};
use crate::conntrack::{self, Moment};
use crate::family::End;
use crate::nat;
use crate::parse::Flow;
use crate::verdict::DropReason;

/// Remembers that what `backend`, of the host, answers `flow`'s client comes from `frontend`.
#[inline(always)]
pub fn remember<F: Balanced, E: NodeportEnv + NodeportMaps<F>>(
    env: &mut E,
    flow: &Flow<F>,
    backend: &End<F::Addr>,
    frontend: &End<F::Addr>,
    index: Port,
    now: &Moment,
) -> Result<(), DropReason> {
    let key = F::snat_key(backend, &flow.src, flow.protocol(), SNAT_OUT);
    if let Some(known) = maps::snat::<F, E>(env, &key)
        && F::snat_target(known) == (*frontend, index)
    {
        return Ok(());
    }
    let entry = F::snat_entry(frontend, index, 0, now.seconds);
    // An older one is of a connection between the same ends through another frontend: the newest counts.
    maps::snat_forget::<F, E>(env, &key);
    match maps::snat_new::<F, E>(env, &key, &entry) {
        Some(()) => Ok(()),
        None => Err(DropReason::NoMapping),
    }
}

/// A packet of the host leaves: if it answers a client of a frontend, from there; if it opens a connection from a port that stands for
/// a client to the same far end, from another.
#[inline(always)]
pub fn depart<F: Balanced, E: NodeportEnv + NodeportMaps<F>>(
    env: &mut E,
    flow: &mut Flow<F>,
) -> Result<(), DropReason> {
    let key = F::snat_key(&flow.src, &flow.dst, flow.protocol(), SNAT_OUT);
    if let Some(entry) = maps::snat::<F, E>(env, &key) {
        let (source, _) = F::snat_target(entry);
        return nat::rewrite(env, flow, nat::Which::Source, &source);
    }
    let opens = !flow.is_tcp() || conntrack::opens(flow.tcp_flags());
    if !opens || !snat::is_allocated::<F, E>(env, &flow.src) {
        return Ok(());
    }
    let (_, index) = snat::standing_for::<F, E>(env, &flow.dst, &flow.src, flow.protocol());
    if index.raw == 0 {
        return Ok(());
    }
    let now = Moment::of_services(env);
    let own = flow.src.addr;
    masquerade::exchange(env, flow, &own, 0, &now)
}
