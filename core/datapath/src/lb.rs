//! ClusterIP services: which backend serves this client, remembered for as long as it serves.
//!
//! A service entry in the connection map, keyed by client and frontend, holds the backend once chosen. It is believed
//! until the load-balancer revision moves, then checked: a backend that is gone, or that finishes up while the
//! client opens a new connection, is replaced. The choice is the flow's hash modulo the number of backends:
//! as even as a random draw, and the same in the kernel and the simulator. A client with session affinity keeps its backend, and a
//! service with two scopes is asked for its internal one.

use abi::be::Port;
use abi::config::Runtime;
use abi::ct::{CT_AFFINITY, CT_SERVICE};
use abi::lb::{BACKEND_ACTIVE, LbService, SCOPE_EXTERNAL, SCOPE_INTERNAL, SERVICE_TWO_SCOPES};

use crate::conntrack::{self, Found, Moment};
use crate::env::{Env, FamilyMaps};
use crate::family::{End, Family};
use crate::maps;
use crate::nodeport::env::{NodeportEnv, NodeportMaps};
use crate::nodeport::family::Balanced;
use crate::nodeport::select::{self, Slots};
use crate::parse::Flow;
use crate::verdict::DropReason;

/// Where a service sends a packet.
#[derive(Clone, Copy, Debug)]
pub struct Target<F: Family> {
    /// Whether it is a service's, and the backend known; otherwise nothing below means anything.
    pub service: bool,
    /// It may be a service's whose way has to be made first ([`open`]).
    pub unmade: bool,
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
            unmade: false,
            backend: End { addr: F::UNSPECIFIED, port: Port::from_raw(0) },
            rev_nat: Port::from_raw(0),
        }
    }
}

/// The service behind a frontend, as traffic from outside sees it, and the protocol under which it stands: this one, or 0, any. The
/// second look-up is made only where such services are: most packets go to no service and would pay for it.
#[inline(always)]
pub fn frontend<'a, F: Family, E: Env + FamilyMaps<F>>(
    env: &'a E,
    at: &End<F::Addr>,
    protocol: u8,
) -> Option<(&'a LbService, u8)> {
    if let Some(service) = maps::service::<F, E>(env, &F::lb_key(at, protocol, 0)) {
        return Some((service, protocol));
    }
    if env.runtime(Runtime::AnyProtocol) == 0 {
        return None;
    }
    Some((maps::service::<F, E>(env, &F::lb_key(at, 0, 0))?, 0))
}

/// The service behind a frontend as clients in the cluster see it, and where its slots are.
#[inline(always)]
fn service<F: Balanced, E: Env + FamilyMaps<F>>(
    env: &E,
    at: &End<F::Addr>,
    protocol: u8,
) -> Option<(LbService, Slots)> {
    let (service, protocol) = frontend::<F, E>(env, at, protocol)?;
    if service.flags2 & SERVICE_TWO_SCOPES == 0 {
        return Some((*service, Slots { protocol, scope: SCOPE_EXTERNAL }));
    }
    let inner = maps::service::<F, E>(env, &F::scoped_key(at, protocol, 0, SCOPE_INTERNAL))?;
    Some((*inner, Slots { protocol, scope: SCOPE_INTERNAL }))
}

/// Whether `flow` may go to a service: there is an entry for somebody.
#[inline(always)]
pub fn is_service<F: Family, E: Env + FamilyMaps<F>>(env: &E, flow: &Flow<F>) -> bool {
    frontend::<F, E>(env, &flow.dst, flow.protocol()).is_some()
}

/// Resolves the destination of a packet from a client. `found` is what the connection map knows about client and destination; `made`:
/// [`open`] has just seen to it.
#[inline(always)]
pub fn resolve<F: Balanced, E: Env + FamilyMaps<F>>(
    env: &E,
    flow: &Flow<F>,
    found: &Found<F>,
    made: bool,
) -> Target<F> {
    // Whoever opens anew may have to go elsewhere than what goes on, for which the entry was checked; and clients with affinity are
    // seen each time.
    let opens = flow.is_tcp() && conntrack::opens(flow.tcp_flags());
    let settled = made || !(found.lb_stale() || opens || found.has(CT_AFFINITY));
    if found.has(CT_SERVICE) && settled {
        return Target { service: true, unmade: false, backend: found.nat, rev_nat: found.rev_nat() };
    }
    Target { unmade: !made && is_service::<F, E>(env, flow), ..Target::none() }
}

/// Makes the way of a packet to a service, or checks the one there is; the connection map has it then.
#[inline(always)]
pub fn open<F: Balanced, E: NodeportEnv + NodeportMaps<F>>(
    env: &mut E,
    flow: &Flow<F>,
    now: &Moment,
) -> Result<(), DropReason> {
    // One for others is none for this client.
    let Some((service, slots)) = service::<F, E>(env, &flow.dst, flow.protocol()) else { return Ok(()) };
    let key = F::ct_key(&flow.src, &flow.dst, flow.protocol());
    if let Some(entry) = maps::connection::<F, E>(env, flow.is_tcp(), &key) {
        let nat = F::nat(entry);
        let connection = F::connection(entry);
        let (flags, index, id) = (connection.flags, connection.rev_nat_index, connection.backend_id);
        let lives = conntrack::stands_for(connection, flow, now);
        if flags & CT_SERVICE != 0
            && lives
            && index == service.rev_nat_index
            && still_serves::<F, E>(env, flow, id, &nat)
            && let Some(entry) = maps::connection::<F, E>(env, flow.is_tcp(), &key)
        {
            F::connection(entry).lb_revision = now.lb;
            if flags & CT_AFFINITY != 0 {
                select::refresh::<F, E>(env, &flow.src.addr, index, now);
            }
            return Ok(());
        }
    }
    choose(env, flow, &key, &service, slots, now)
}

/// Whether the remembered backend may go on serving this connection: it exists, and takes what is new or has what is not.
#[inline(always)]
pub fn still_serves<F: Family, E: Env + FamilyMaps<F>>(env: &E, flow: &Flow<F>, id: u32, at: &End<F::Addr>) -> bool {
    let Some(backend) = maps::backend::<F, E>(env, id) else { return false };
    let (end, state) = F::backend(backend);
    end == *at && (state == BACKEND_ACTIVE || !(flow.is_tcp() && conntrack::opens(flow.tcp_flags())))
}

/// Chooses a backend and remembers it.
#[inline(always)]
fn choose<F: Balanced, E: NodeportEnv + NodeportMaps<F>>(
    env: &mut E,
    flow: &Flow<F>,
    key: &F::CtKey,
    service: &LbService,
    slots: Slots,
    now: &Moment,
) -> Result<(), DropReason> {
    let chosen = select::backend(env, flow, service, slots, false, now)?;
    let affinity = if select::has_affinity(env, service) { CT_AFFINITY } else { 0 };
    let mut connection = conntrack::opening(env, flow, CT_SERVICE | affinity, now);
    connection.backend_id = chosen.id;
    connection.rev_nat_index = service.rev_nat_index;
    if maps::track::<F, E>(env, flow.is_tcp(), key, &F::ct_entry(connection, &chosen.end)).is_none() {
        return Err(DropReason::ConnectionTableFull);
    }
    Ok(())
}
