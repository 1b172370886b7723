//! The port of this node that stands for a client, and the way back from it.

use abi::be::Port;
use abi::nat::{SNAT_ATTEMPTS, SNAT_IN};

use super::env::{NodeportEnv, NodeportMaps};
use super::family::Balanced;
use super::maps;
use crate::config;
use crate::conntrack::Moment;
use crate::family::End;
use crate::parse::Flow;
use crate::verdict::DropReason;

/// What an allocation needs to know. In memory and without padding, so that an implementation for the kernel can make a function of
/// its own of it.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Wish<F: Balanced> {
    /// The address whose port is wished for.
    pub address: F::Addr,
    /// The client.
    pub client: F::Addr,
    /// Whom it is to be forwarded to.
    pub backend: F::Addr,
    /// Hash of the flow.
    pub hash: u32,
    /// Seconds of the monotonic clock.
    pub seconds: u32,
    /// The client's port.
    pub client_port: Port,
    /// The backend's port.
    pub backend_port: Port,
    /// Reverse NAT index.
    pub index: Port,
    /// Transport protocol.
    pub protocol: u8,
    /// Low byte of the entry's field of this name, and [`ANOTHER`].
    pub needs_ct: u8,
}

/// Bit of [`Wish::needs_ct`]: any port but the client's own.
const ANOTHER: u8 = 1 << 7;

/// Allocates a source port for `flow` to `backend`: one at which no socket of the host speaks to it already.
#[inline(always)]
pub fn allocate<F: Balanced, E: NodeportEnv + NodeportMaps<F>>(
    env: &mut E,
    flow: &Flow<F>,
    backend: &End<F::Addr>,
    index: Port,
    now: &Moment,
) -> Result<Port, DropReason> {
    let mut wish = Wish::<F> {
        address: F::snat_address(env.node()),
        client: flow.src.addr,
        backend: backend.addr,
        client_port: flow.src.port,
        backend_port: backend.port,
        hash: flow.hash(config::seed(env.node())),
        seconds: now.seconds,
        index,
        protocol: flow.protocol(),
        needs_ct: 0,
    };
    // Here, and not as a function of its own: the caller is one.
    away_from_sockets::<F, E>(env, &mut wish, find_port::<F, E>)
}

/// Fulfils a wish, or says why not.
#[inline(always)]
pub fn grant<F: Balanced, E: NodeportEnv + NodeportMaps<F>>(
    env: &mut E,
    wish: &mut Wish<F>,
) -> Result<Port, DropReason> {
    away_from_sockets::<F, E>(env, wish, maps::allocate::<F, E>)
}

/// The port that `find` finds, or another where a socket of the host speaks from that port to the same far end already.
#[inline(always)]
fn away_from_sockets<F: Balanced, E: NodeportEnv + NodeportMaps<F>>(
    env: &mut E,
    wish: &mut Wish<F>,
    find: impl Fn(&mut E, &Wish<F>) -> u16,
) -> Result<Port, DropReason> {
    let backend = End { addr: wish.backend, port: wish.backend_port };
    let mut attempt = 0;
    while attempt < 2 {
        // 0: none was free, or another CPU was faster.
        let local = End { addr: wish.address, port: Port::from_raw(find(env, wish)) };
        if local.port.raw != 0 {
            if !env.has_socket::<F>(&local, &backend, wish.protocol) {
                return Ok(local.port);
            }
            maps::snat_forget::<F, E>(env, &F::snat_key(&backend, &local, wish.protocol, SNAT_IN));
        }
        // Far from there.
        wish.hash = wish.hash.rotate_left(16) ^ 0x5555;
        wish.needs_ct |= ANOTHER;
        attempt += 1;
    }
    Err(DropReason::NoMapping)
}

/// Tries ports for a wish until one is free, and takes it. 0: none of [`SNAT_ATTEMPTS`] was, or another CPU took it first.
///
/// The client's own port is kept when it is in the range and free; then one its hash points to, then those after it
/// (reference: SNAT). An entry that already stands for the same client and service is taken over: the connection's own
/// entry was evicted, and the backend still knows it by this port.
#[inline(always)]
pub fn find_port<F: Balanced, E: NodeportEnv + NodeportMaps<F>>(env: &mut E, wish: &Wish<F>) -> u16 {
    let node = env.node();
    let (first, last) = config::nat_ports(node);
    let client = End { addr: wish.client, port: wish.client_port };
    let backend = End { addr: wish.backend, port: wish.backend_port };
    let own = client.port.host();
    let count = (last as u32).wrapping_sub(first as u32).wrapping_add(1).max(1);
    // By the hash's high half: the low bits of all flows to one backend are alike, since they chose it.
    let drawn = (wish.hash >> 16).wrapping_mul(count) >> 16;
    let another = own < first || own > last || wish.needs_ct & ANOTHER != 0;
    let mut port = if another { first as u32 + drawn } else { own as u32 };
    let entry = F::snat_entry(&client, wish.index, (wish.needs_ct & !ANOTHER) as u64, wish.seconds);
    let key = |port: u32| {
        let local = End { addr: wish.address, port: Port::new(port as u16) };
        F::snat_key(&backend, &local, wish.protocol, SNAT_IN)
    };
    let mut free = match maps::snat::<F, E>(env, &key(port)) {
        Some(there) if F::snat_target(there) == (client, wish.index) => return Port::new(port as u16).raw,
        there => there.is_none(),
    };
    let mut attempt = 0;
    while !free && attempt < SNAT_ATTEMPTS {
        // Without a branch, which would be a path of its own for the verifier in each round.
        port = first as u32 + drawn.wrapping_add(attempt) % count;
        free = maps::snat::<F, E>(env, &key(port)).is_none();
        attempt += 1;
    }
    // Put once and only what is absent: a full map makes room for what is put before it finds the key taken.
    if free && maps::snat_new::<F, E>(env, &key(port), &entry).is_some() { Port::new(port as u16).raw } else { 0 }
}

/// Whether `end` is one that [`allocate`] gives away.
#[inline(always)]
pub fn is_allocated<F: Balanced, E: NodeportEnv>(env: &E, end: &End<F::Addr>) -> bool {
    let node = env.node();
    let (first, last) = config::nat_ports(node);
    let port = end.port.host();
    let ours = end.addr == F::snat_address(node) || end.addr == F::masquerade_address(node);
    ours && end.addr != F::UNSPECIFIED && port >= first && port <= last
}

/// For whom a packet from `src` to `dst`, an allocated end, is: the client and the service's reverse NAT index. Index 0 and port
/// 0: for nobody.
#[inline(always)]
pub fn standing_for<F: Balanced, E: NodeportEnv + NodeportMaps<F>>(
    env: &mut E,
    src: &End<F::Addr>,
    dst: &End<F::Addr>,
    protocol: u8,
) -> (End<F::Addr>, Port) {
    match maps::snat::<F, E>(env, &F::snat_key(src, dst, protocol, SNAT_IN)) {
        Some(entry) => F::snat_target(entry),
        None => (End { addr: F::UNSPECIFIED, port: Port::from_raw(0) }, Port::from_raw(0)),
    }
}
