//! The service a packet from outside is for, and what is remembered about its connection.
//!
//! One entry in the connection map, keyed by frontend (the local end) and client, holds all that forwarding needs: backend,
//! allocated source port, whether the backend is here. An established flow costs that one look-up. As in [`crate::lb`],
//! the entry is believed until the load-balancer revision moves, then checked.

use abi::be::Port;
use abi::config::{LB_DSR, LB_EXTERNAL_CLUSTER_IP, LB_HYBRID, LB_MODE_BY_SERVICE, LB_SOURCE_RANGES};
use abi::ct::{CT_AFFINITY, CT_DSR, CT_INBOUND, CT_LOCAL_BACKEND, CT_NODE_PORT, CT_SERVICE};
use abi::endpoint::ENDPOINT_HOST;
use abi::lb::{LbService, SCOPE_EXTERNAL, SERVICE_FORWARD_DSR, SERVICE_ROUTABLE, SERVICE_SOURCE_RANGE};

use super::env::{NodeportEnv, NodeportMaps};
use super::family::Balanced;
use super::select::{self, Slots};
use super::{host, maps, snat};
use crate::config;
use crate::conntrack::{self, Moment};
use crate::events::Report;
use crate::family::End;
use crate::kept::Kept;
use crate::lb;
use crate::parse::Flow;
use crate::verdict::DropReason;

/// Where a connection from outside goes. Small parts are packed, as in [`conntrack::Found`].
#[derive(Clone, Copy, Debug)]
pub struct Served<F: Balanced> {
    /// The backend.
    pub backend: End<F::Addr>,
    /// `CT_*` bits (16; 0: no service), reverse NAT index (16), allocated source port (16), [`STALE`].
    bits: u64,
    /// Its id.
    id: u32,
}

/// Bit of [`Served`]: services have moved since the backend was last checked.
const STALE: u64 = 1 << 48;
/// Bit of [`Served`]: there is a service, but its way has to be made or checked first.
const UNMADE: u64 = 1 << 49;

impl<F: Balanced> Served<F> {
    #[inline(always)]
    fn nothing() -> Self {
        Self { backend: End { addr: F::UNSPECIFIED, port: Port::from_raw(0) }, bits: 0, id: 0 }
    }
    #[inline(always)]
    fn new(backend: End<F::Addr>, flags: u16, rev_nat: Port, snat_port: Port, id: u32) -> Self {
        Self { backend, bits: flags as u64 | (rev_nat.raw as u64) << 16 | (snat_port.raw as u64) << 32, id }
    }
    /// Whether there is a service at all.
    #[inline(always)]
    pub fn known(&self) -> bool {
        self.bits != 0
    }
    /// Whether the way has to be made or checked first ([`establish`]).
    #[inline(always)]
    pub fn unmade(&self) -> bool {
        self.bits & UNMADE != 0
    }
    /// Whether any of the `CT_*` bits is set.
    #[inline(always)]
    pub fn has(&self, mask: u16) -> bool {
        self.bits & mask as u64 != 0
    }
    /// Reverse NAT index.
    #[inline(always)]
    pub fn rev_nat(&self) -> Port {
        Port::from_raw((self.bits >> 16) as u16)
    }
    /// The source port that stands for the client.
    #[inline(always)]
    pub fn snat_port(&self) -> Port {
        Port::from_raw((self.bits >> 32) as u16)
    }
    #[inline(always)]
    fn stale(&self) -> bool {
        self.bits & STALE != 0
    }
}

/// Finds the way of a packet from outside. Of one whose way has to be made, all that was found is kept for the stage that makes it.
#[inline(always)]
pub fn serve<F: Balanced, E: NodeportEnv + NodeportMaps<F>>(
    env: &mut E,
    flow: &Flow<F>,
    now: &Moment,
) -> Result<Served<F>, DropReason> {
    let mut served = remembered(env, flow, now);
    served.bits = env.forget(served.bits);
    // Whoever opens anew may have to go elsewhere than what goes on, for which the entry was checked.
    let opens = flow.is_tcp() && conntrack::opens(flow.tcp_flags());
    if served.known() && !served.stale() && !opens {
        if served.has(CT_AFFINITY) {
            select::refresh::<F, E>(env, &flow.src.addr, served.rev_nat(), now);
        }
        return Ok(served);
    }
    let (service, slots) = look_up(env, flow);
    let mut unmade = Served::nothing();
    if service.rev_nat_index.raw != 0 {
        unmade.bits = UNMADE;
        let wanted = Wanted { service, slots, absent: !served.known() };
        Kept::of(flow, &Report::new(true), now).wanting(&wanted).leave(env)?;
    }
    Ok(unmade)
}

/// What a connection that opens is to be given.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// The service.
    pub service: LbService,
    /// Where its slots are.
    pub slots: Slots,
    /// The connection map knows nothing of client and frontend that holds.
    pub absent: bool,
}

/// Makes the way of a packet to a service: checks the backend that is remembered, or chooses one. The connection map has it then.
#[inline(always)]
pub fn establish<F: Balanced, E: NodeportEnv + NodeportMaps<F>>(
    env: &mut E,
    flow: &Flow<F>,
    wanted: &Wanted,
    now: &Moment,
) -> Result<Served<F>, DropReason> {
    let Wanted { service, slots, absent } = *wanted;
    admits(env, flow, &service)?;
    let key = F::ct_key(&flow.dst, &flow.src, flow.protocol());
    if !absent {
        let served = remembered(env, flow, now);
        if served.known()
            && service.rev_nat_index == served.rev_nat()
            && lb::still_serves::<F, E>(env, flow, served.id, &served.backend)
        {
            if let Some(entry) = crate::maps::connection::<F, E>(env, flow.is_tcp(), &key) {
                F::connection(entry).lb_revision = now.lb;
            }
            return Ok(served);
        }
    }
    open(env, flow, &key, &service, slots, now)
}

/// What the connection map knows about client and frontend, brought up to date with this packet.
#[inline(always)]
fn remembered<F: Balanced, E: NodeportEnv + NodeportMaps<F>>(env: &mut E, flow: &Flow<F>, now: &Moment) -> Served<F> {
    const OURS: u16 = CT_SERVICE | CT_NODE_PORT;
    let node = env.node();
    let key = F::ct_key(&flow.dst, &flow.src, flow.protocol());
    let Some(entry) = crate::maps::connection::<F, E>(env, flow.is_tcp(), &key) else { return Served::nothing() };
    let (backend, snat_port) = (F::nat(entry), F::snat_port(entry));
    let connection = F::connection(entry);
    if connection.flags & OURS != OURS {
        return Served::nothing();
    }
    let (flags, rev_nat, id) = (connection.flags, connection.rev_nat_index, connection.backend_id);
    let stale = if connection.lb_revision != now.lb { STALE } else { 0 };
    if conntrack::bring_up_to_date(node, connection, flow, false, now) == conntrack::STALE {
        return Served::nothing();
    }
    let mut served = Served::new(backend, flags, rev_nat, snat_port, id);
    served.bits |= stale;
    served
}

/// The service behind a frontend, as traffic from outside sees it. Reverse NAT index 0: none.
#[inline(always)]
fn look_up<F: Balanced, E: NodeportEnv + NodeportMaps<F>>(env: &E, flow: &Flow<F>) -> (LbService, Slots) {
    match lb::frontend::<F, E>(env, &flow.dst, flow.protocol()) {
        Some((service, protocol)) => (*service, Slots { protocol, scope: SCOPE_EXTERNAL }),
        None => (LbService::default(), Slots { protocol: 0, scope: SCOPE_EXTERNAL }),
    }
}

/// Whether this client may reach the service from outside.
#[inline(always)]
fn admits<F: Balanced, E: NodeportEnv + NodeportMaps<F>>(
    env: &E,
    flow: &Flow<F>,
    service: &LbService,
) -> Result<(), DropReason> {
    if service.flags & SERVICE_ROUTABLE == 0 && !config::balances(env.node(), LB_EXTERNAL_CLUSTER_IP) {
        return Err(DropReason::ClusterIp);
    }
    if service.flags & SERVICE_SOURCE_RANGE != 0
        && config::balances(env.node(), LB_SOURCE_RANGES)
        && !maps::in_source_range::<F, E>(env, &F::source_range(&flow.src.addr, service.rev_nat_index))
    {
        return Err(DropReason::SourceRange);
    }
    Ok(())
}

/// Whether connections of this protocol to the service go by direct server return.
#[inline(always)]
fn returns_directly<F: Balanced, E: NodeportEnv>(env: &E, flow: &Flow<F>, service: &LbService) -> bool {
    let flags = config::lb_flags(env.node());
    if flags & LB_MODE_BY_SERVICE != 0 {
        return service.flags2 & SERVICE_FORWARD_DSR != 0;
    }
    flags & LB_DSR != 0 || (flags & LB_HYBRID != 0 && flow.is_tcp())
}

/// Chooses a backend for a connection that opens, and remembers it.
#[inline(always)]
fn open<F: Balanced, E: NodeportEnv + NodeportMaps<F>>(
    env: &mut E,
    flow: &Flow<F>,
    key: &F::CtKey,
    service: &LbService,
    slots: Slots,
    now: &Moment,
) -> Result<Served<F>, DropReason> {
    let chosen = select::backend(env, flow, service, slots, true, now)?;
    let index = service.rev_nat_index;
    let mut flags = CT_SERVICE | CT_NODE_PORT | CT_INBOUND;
    if select::has_affinity(env, service) {
        flags |= CT_AFFINITY;
    }
    let mut snat_port = Port::from_raw(0);
    let mut of_host = false;
    if let Some(endpoint) = env.endpoint(&F::endpoint_key(&chosen.end.addr)) {
        flags |= CT_LOCAL_BACKEND;
        of_host = endpoint.flags & ENDPOINT_HOST != 0;
    }
    if flags & CT_LOCAL_BACKEND != 0 {
        // The side of a pod remembers by itself.
        if of_host {
            host::remember(env, flow, &chosen.end, &flow.dst, index, now)?;
        }
    } else if returns_directly(env, flow, service) {
        flags |= CT_DSR;
    } else {
        snat_port = snat::allocate(env, flow, &chosen.end, index, now)?;
    }
    let mut connection = conntrack::opening(env, flow, flags, now);
    connection.backend_id = chosen.id;
    connection.rev_nat_index = index;
    let entry = F::service_entry(connection, &chosen.end, snat_port);
    if crate::maps::track::<F, E>(env, flow.is_tcp(), key, &entry).is_none() {
        return Err(DropReason::ConnectionTableFull);
    }
    Ok(Served::new(chosen.end, flags, index, snat_port, chosen.id))
}
