//! Which backend a new connection gets: the one its client has kept, else by Maglev table, else by the flow's hash.

use abi::be::Port;
use abi::config::{LB_AFFINITY, LB_MAGLEV};
use abi::lb::{
    AFFINITY_TIMEOUT_MASK, ALGORITHM_MAGLEV, ALGORITHM_RANDOM, ALGORITHM_SHIFT, LbAffinity, LbAffinityMatch, LbService,
    SERVICE_AFFINITY,
};

use super::env::{NodeportEnv, NodeportMaps};
use super::family::Balanced;
use super::maps;
use crate::config;
use crate::conntrack::Moment;
use crate::family::End;
use crate::parse::Flow;
use crate::verdict::DropReason;

/// A backend.
#[derive(Clone, Copy, Debug)]
pub struct Chosen<F: Balanced> {
    /// Its id.
    pub id: u32,
    /// Its address and port.
    pub end: End<F::Addr>,
}

/// Whether clients of a service keep their backend.
#[inline(always)]
pub fn has_affinity<E: NodeportEnv>(env: &E, service: &LbService) -> bool {
    service.flags & SERVICE_AFFINITY != 0 && config::balances(env.node(), LB_AFFINITY)
}

/// Chooses a backend of `service`, whose slots are where `slots` says; by the service's table only where `tables` are.
#[inline(always)]
pub fn backend<F: Balanced, E: NodeportEnv + NodeportMaps<F>>(
    env: &mut E,
    flow: &Flow<F>,
    service: &LbService,
    slots: Slots,
    tables: bool,
    now: &Moment,
) -> Result<Chosen<F>, DropReason> {
    if service.count == 0 {
        return Err(DropReason::NoBackend);
    }
    let affine = has_affinity(env, service);
    let mut id = if affine { kept(env, flow, service, now) } else { 0 };
    if tables && id == 0 && by_table(env, service) {
        let slot = F::maglev_hash(env.node(), flow) % config::maglev_size(env.node());
        id = maps::maglev::<F, E>(env, service.rev_nat_index, slot).unwrap_or(0);
    }
    id = env.forget(id as u64) as u32;
    let mut end = end_of::<F, E>(env, id);
    if end.port.raw == 0 {
        // No table, or a backend that went since it was written.
        id = by_slot(env, flow, service, slots);
        end = end_of::<F, E>(env, id);
    }
    let id = env.forget(id as u64) as u32;
    if end.port.raw == 0 {
        return Err(DropReason::NoBackend);
    }
    if affine {
        let key = F::affinity_key(&flow.src.addr, service.rev_nat_index);
        let affinity = LbAffinity { last_used: now.seconds as u64, backend_id: id, pad: 0 };
        // Without the entry the client may get another backend next time.
        let _ = maps::keep::<F, E>(env, &key, &affinity);
    }
    Ok(Chosen { id, end })
}

/// Where the slots of a service are.
#[derive(Clone, Copy, Debug)]
pub struct Slots {
    /// Protocol of their keys; 0: any.
    pub protocol: u8,
    /// Scope of their keys.
    pub scope: u8,
}

impl Slots {
    /// See [`crate::Env::forget`].
    #[inline(always)]
    pub fn forget<E: NodeportEnv>(self, env: &E) -> Self {
        let word = env.forget(self.protocol as u64 | (self.scope as u64) << 8);
        Self { protocol: word as u8, scope: (word >> 8) as u8 }
    }
}

/// The address of a backend; port 0: there is none. No backend has port 0.
#[inline(always)]
fn end_of<F: Balanced, E: NodeportEnv + NodeportMaps<F>>(env: &E, id: u32) -> End<F::Addr> {
    match crate::maps::backend::<F, E>(env, id) {
        Some(backend) => F::backend(backend).0,
        None => End { addr: F::UNSPECIFIED, port: Port::from_raw(0) },
    }
}

/// Whether the service's backends are chosen by Maglev table.
#[inline(always)]
fn by_table<E: NodeportEnv>(env: &E, service: &LbService) -> bool {
    match service.backend_id >> ALGORITHM_SHIFT {
        ALGORITHM_RANDOM => false,
        ALGORITHM_MAGLEV => true,
        _ => config::balances(env.node(), LB_MAGLEV),
    }
}

/// The backend in the slot the flow's hash points to; 0: none.
#[inline(always)]
fn by_slot<F: Balanced, E: NodeportEnv + NodeportMaps<F>>(
    env: &E,
    flow: &Flow<F>,
    service: &LbService,
    slots: Slots,
) -> u32 {
    let slot = (flow.hash(config::seed(env.node())) % service.count as u32) as u16 + 1;
    match crate::maps::service::<F, E>(env, &F::scoped_key(&flow.dst, slots.protocol, slot, slots.scope)) {
        Some(slot) => slot.backend_id,
        None => 0,
    }
}

/// The backend the client has kept and may go on using; 0: none.
#[inline(always)]
fn kept<F: Balanced, E: NodeportEnv + NodeportMaps<F>>(
    env: &mut E,
    flow: &Flow<F>,
    service: &LbService,
    now: &Moment,
) -> u32 {
    let timeout = (service.backend_id & AFFINITY_TIMEOUT_MASK) as u64;
    let key = F::affinity_key(&flow.src.addr, service.rev_nat_index);
    let id = match maps::affinity::<F, E>(env, &key) {
        Some(affinity) if (now.seconds as u64) < affinity.last_used.wrapping_add(timeout) => affinity.backend_id,
        _ => return 0,
    };
    let serves = env.serves(&LbAffinityMatch { backend_id: id, rev_nat_index: service.rev_nat_index, pad: 0 });
    if serves { id } else { 0 }
}

/// Keeps a client's affinity alive while it uses its backend.
#[inline(always)]
pub fn refresh<F: Balanced, E: NodeportEnv + NodeportMaps<F>>(
    env: &mut E,
    client: &F::Addr,
    index: Port,
    now: &Moment,
) {
    if let Some(affinity) = maps::affinity::<F, E>(env, &F::affinity_key(client, index)) {
        let seconds = now.seconds as u64;
        if affinity.last_used != seconds {
            affinity.last_used = seconds;
        }
    }
}
