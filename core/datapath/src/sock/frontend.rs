//! Which service, if any, a socket's address names.
//!
//! Traffic of sockets comes from inside the cluster, so a service with two scopes is asked for its internal one. A NodePort
//! is named by any address of a node, and on the host by loopback: such addresses have no entry of their own but share that
//! of the unspecified address. The same holds for the host ports of this node.

use abi::be::Port;
use abi::endpoint::ENDPOINT_HOST;
use abi::lb::{
    LbService, SCOPE_EXTERNAL, SCOPE_INTERNAL, SERVICE_EXTERNAL_IP, SERVICE_HOST_PORT, SERVICE_LOOPBACK_HOST_PORT,
    SERVICE_NODE_PORT, SERVICE_TWO_SCOPES,
};

use crate::config;
use crate::family::End;
use crate::policy;
use crate::sock::{SockEnv, SockFamily, SockMaps};

/// A service entry, and where it was found.
#[derive(Clone, Copy, Debug)]
pub struct Frontend {
    /// Whether there is one; otherwise nothing else here means anything.
    pub found: bool,
    /// It was found under the unspecified address.
    pub wildcard: bool,
    /// Protocol of its key: the socket's, or 0.
    pub protocol: u8,
    /// Scope of its key.
    pub scope: u8,
    /// Slot 0.
    pub service: LbService,
}

impl Frontend {
    const NONE: Self = Self {
        found: false,
        wildcard: false,
        protocol: 0,
        scope: SCOPE_EXTERNAL,
        service: LbService {
            backend_id: 0,
            count: 0,
            rev_nat_index: Port::from_raw(0),
            flags: 0,
            flags2: 0,
            qcount: 0,
        },
    };
}

/// The service a socket that wants to reach `to` gets.
#[inline(always)]
pub fn find<F: SockFamily, E: SockEnv + SockMaps<F>>(
    env: &E,
    to: &End<F::Addr>,
    protocol: u8,
    in_host: bool,
) -> Frontend {
    let exact = entry::<F, E>(env, to, protocol);
    if exact.found {
        return exact;
    }
    let node_port = is_node_port(env, to.port);
    // Other nodes serve NodePorts too; their host ports are their own affair.
    if !is_of_node::<F, E>(env, &to.addr, in_host, node_port) {
        return Frontend::NONE;
    }
    let any = entry::<F, E>(env, &End { addr: F::UNSPECIFIED, port: to.port }, protocol);
    let kind = if node_port { SERVICE_NODE_PORT } else { SERVICE_HOST_PORT };
    let on_loopback_only = !node_port && any.service.flags2 & SERVICE_LOOPBACK_HOST_PORT != 0;
    if !any.found || any.service.flags & kind == 0 || (on_loopback_only && !F::is_loopback(&to.addr)) {
        return Frontend::NONE;
    }
    Frontend { wildcard: true, ..any }
}

/// The service that has the address a socket of the host was bound to.
#[inline(always)]
pub fn find_bound<F: SockFamily, E: SockEnv + SockMaps<F>>(env: &E, at: &End<F::Addr>, protocol: u8) -> Frontend {
    let exact = entry::<F, E>(env, at, protocol);
    if exact.found || !is_node_port(env, at.port) || !is_of_node::<F, E>(env, &at.addr, true, false) {
        return exact;
    }
    entry::<F, E>(env, &End { addr: F::UNSPECIFIED, port: at.port }, protocol)
}

/// Whether a frontend's address is not this node's although its service is about the node it is on: external addresses and
/// host ports are translated at their node only, or whoever may write services could draw any address to himself.
#[inline(always)]
pub fn is_elsewhere<F: SockFamily, E: SockEnv + SockMaps<F>>(env: &E, service: &LbService, to: &End<F::Addr>) -> bool {
    let bound = service.flags & SERVICE_EXTERNAL_IP != 0
        || (service.flags & SERVICE_HOST_PORT != 0 && !F::is_loopback(&to.addr));
    bound && !is_of_node::<F, E>(env, &to.addr, false, false)
}

/// Slot 0 of one address: of this protocol, else of any.
#[inline(always)]
fn entry<F: SockFamily, E: SockEnv + SockMaps<F>>(env: &E, at: &End<F::Addr>, protocol: u8) -> Frontend {
    let own = scoped::<F, E>(env, at, protocol);
    if own.found { own } else { scoped::<F, E>(env, at, 0) }
}

#[inline(always)]
fn scoped<F: SockFamily, E: SockEnv + SockMaps<F>>(env: &E, at: &End<F::Addr>, protocol: u8) -> Frontend {
    let Some(service) = <E as SockMaps<F>>::service(env, &F::scoped_key(at, protocol, 0, SCOPE_EXTERNAL)) else {
        return Frontend::NONE;
    };
    if service.flags2 & SERVICE_TWO_SCOPES == 0 {
        return Frontend { found: true, wildcard: false, protocol, scope: SCOPE_EXTERNAL, service: *service };
    }
    match <E as SockMaps<F>>::service(env, &F::scoped_key(at, protocol, 0, SCOPE_INTERNAL)) {
        Some(inner) => Frontend { found: true, wildcard: false, protocol, scope: SCOPE_INTERNAL, service: *inner },
        None => Frontend::NONE,
    }
}

#[inline(always)]
fn is_node_port<E: SockEnv>(env: &E, port: Port) -> bool {
    let (min, max) = config::node_ports(env.node());
    min <= port.host() && port.host() <= max
}

/// Whether an address is this node's, by loopback where `loopback` is set, or another node's where `remote` is.
#[inline(always)]
fn is_of_node<F: SockFamily, E: SockEnv + SockMaps<F>>(env: &E, addr: &F::Addr, loopback: bool, remote: bool) -> bool {
    if loopback && F::is_loopback(addr) {
        return true;
    }
    if let Some(endpoint) = env.endpoint(&F::endpoint_key(addr)) {
        return endpoint.flags & ENDPOINT_HOST != 0;
    }
    let Some(peer) = env.ipcache(&F::ipcache_key(addr)) else { return false };
    let identity = peer.identity;
    identity == policy::IDENTITY_HOST || remote && policy::is_node(identity)
}
