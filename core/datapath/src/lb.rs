//! ClusterIP services: which backend serves this client, remembered for as long as it serves.
//!
//! A service entry in the connection map, keyed by client and frontend, holds the backend once chosen. It is believed
//! until the load-balancer revision moves, then checked: a backend that is gone, or that finishes up while the
//! client opens a new connection, is replaced. The choice is the flow's hash modulo the number of backends:
//! as even as a random draw, and the same in the kernel and the simulator.

use abi::be::Port;
use abi::config::Runtime;
use abi::ct::CT_SERVICE;
use abi::lb::{BACKEND_ACTIVE, BACKEND_TERMINATING, LbService};

use crate::config;
use crate::conntrack::{self, Found, Moment};
use crate::env::{Env, FamilyMaps};
use crate::family::{End, Family};
use crate::maps;
use crate::parse::Flow;
use crate::verdict::DropReason;

/// Where a service sends a packet.
#[derive(Clone, Copy, Debug)]
pub struct Target<F: Family> {
    /// Whether the destination is a service at all; otherwise nothing else here means anything.
    pub service: bool,
    /// Backend.
    pub backend: End<F::Addr>,
    /// Reverse NAT index of the service.
    pub rev_nat: Port,
}

impl<F: Family> Target<F> {
    /// Not a service.
    #[inline(always)]
    const fn none() -> Self {
        Self {
            service: false,
            backend: End { addr: F::UNSPECIFIED, port: Port::from_raw(0) },
            rev_nat: Port::from_raw(0),
        }
    }
}

/// The service behind a frontend, if it is one: of this protocol, or of any. The second look-up is made only where such services
/// are: most packets go to no service and would pay for it.
#[inline(always)]
fn service<F: Family, E: Env + FamilyMaps<F>>(env: &E, frontend: &End<F::Addr>, protocol: u8) -> Option<LbService> {
    if let Some(service) = maps::service::<F, E>(env, &F::lb_key(frontend, protocol, 0)) {
        return Some(*service);
    }
    if env.runtime(Runtime::AnyProtocol) == 0 {
        return None;
    }
    maps::service::<F, E>(env, &F::lb_key(frontend, 0, 0)).copied()
}

/// Whether `flow` goes to a service.
#[inline(always)]
pub fn is_service<F: Family, E: Env + FamilyMaps<F>>(env: &E, flow: &Flow<F>) -> bool {
    service::<F, E>(env, &flow.dst, flow.protocol()).is_some()
}

/// Resolves the destination of a packet from a client. `found` is what the connection map knows about client and destination.
#[inline(always)]
pub fn resolve<F: Family, E: Env + FamilyMaps<F>>(
    env: &mut E,
    flow: &Flow<F>,
    key: &F::CtKey,
    found: &Found<F>,
    now: &Moment,
) -> Result<Target<F>, DropReason> {
    let known = found.has(CT_SERVICE);
    if known && !found.lb_stale() {
        return Ok(Target { service: true, backend: found.nat, rev_nat: found.rev_nat() });
    }
    let Some(service) = service::<F, E>(env, &flow.dst, flow.protocol()) else { return Ok(Target::none()) };
    if known && service.rev_nat_index == found.rev_nat() && still_serves::<F, E>(env, flow, found) {
        if let Some(entry) = maps::connection::<F, E>(env, flow.is_tcp(), key) {
            F::connection(entry).lb_revision = now.lb;
        }
        return Ok(Target { service: true, backend: found.nat, rev_nat: found.rev_nat() });
    }
    choose(env, flow, key, &service, now)
}

/// Whether the remembered backend may go on serving this connection.
#[inline(always)]
fn still_serves<F: Family, E: Env + FamilyMaps<F>>(env: &E, flow: &Flow<F>, found: &Found<F>) -> bool {
    let Some(backend) = maps::backend::<F, E>(env, found.backend_id()) else { return false };
    let (end, state) = F::backend(backend);
    if end != found.nat {
        return false;
    }
    state == BACKEND_ACTIVE || (state == BACKEND_TERMINATING && !(flow.is_tcp() && conntrack::opens(flow.tcp_flags())))
}

/// Chooses a backend and remembers it.
#[inline(always)]
fn choose<F: Family, E: Env + FamilyMaps<F>>(
    env: &mut E,
    flow: &Flow<F>,
    key: &F::CtKey,
    service: &LbService,
    now: &Moment,
) -> Result<Target<F>, DropReason> {
    let count = service.count as u32;
    if count == 0 {
        return Err(DropReason::NoBackend);
    }
    let slot = (flow.hash(config::seed(env.node())) % count) as u16 + 1;
    let id = match maps::service::<F, E>(env, &F::lb_key(&flow.dst, flow.protocol(), slot)) {
        Some(slot) => slot.backend_id,
        None => match maps::service::<F, E>(env, &F::lb_key(&flow.dst, 0, slot)) {
            Some(slot) => slot.backend_id,
            None => return Err(DropReason::NoBackend),
        },
    };
    let Some(backend) = maps::backend::<F, E>(env, id) else { return Err(DropReason::NoBackend) };
    let (end, _) = F::backend(backend);
    let mut connection = conntrack::opening(env, flow, CT_SERVICE, now);
    connection.backend_id = id;
    connection.rev_nat_index = service.rev_nat_index;
    if maps::track::<F, E>(env, flow.is_tcp(), key, &F::ct_entry(connection, &end)).is_none() {
        return Err(DropReason::ConnectionTableFull);
    }
    Ok(Target { service: true, backend: end, rev_nat: service.rev_nat_index })
}
