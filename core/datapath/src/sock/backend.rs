//! Which backend a socket gets.

use abi::be::Port;
use abi::lb::{BACKEND_ACTIVE, SERVICE_AFFINITY};
use abi::metrics::{DIR_EGRESS, REASON_LB_NO_BACKEND, REASON_LB_NO_BACKEND_SLOT};
use wire::protocol::TCP;

use crate::family::End;
use crate::sock::frontend::{self, Frontend};
use crate::sock::{SockEnv, SockFamily, SockMaps, affinity};

/// A backend and the number of its service.
#[derive(Clone, Copy, Debug)]
pub struct Chosen<A> {
    /// Whether there is one; otherwise nothing else here means anything.
    pub found: bool,
    /// Backend.
    pub end: End<A>,
    /// Reverse NAT index of the service.
    pub rev_nat: Port,
}

/// How often a service is read again that changed while it was read.
const ATTEMPTS: u32 = 3;

/// Chooses a backend of the service `to` names: the one this client had, else at random for TCP and by socket for UDP, so
/// that the datagrams of a socket stay together.
///
/// A service may shrink between the reads of its head, its slot and its backend. That is no reason to refuse
/// the call: the service is read again.
#[inline(always)]
pub fn choose<F: SockFamily, E: SockEnv + SockMaps<F>>(
    env: &mut E,
    to: &End<F::Addr>,
    protocol: u8,
    in_host: bool,
    frontend: Frontend,
) -> Chosen<F::Addr> {
    let mut frontend = frontend;
    let mut missing = 0;
    let mut attempt = 0;
    while attempt < ATTEMPTS {
        if !frontend.found || frontend.service.count == 0 {
            return none(to);
        }
        let (id, remembered) = pick::<F, E>(env, to, protocol, &frontend);
        missing = if id == 0 { REASON_LB_NO_BACKEND_SLOT } else { REASON_LB_NO_BACKEND };
        if let Some(backend) = <E as SockMaps<F>>::backend(env, id) {
            let (end, state) = F::backend(backend);
            // A backend that finishes up keeps what it has and gets nothing new, whoever remembers it.
            if state == BACKEND_ACTIVE || !remembered {
                if frontend.service.flags & SERVICE_AFFINITY != 0 && !remembered {
                    affinity::remember::<F, E>(env, &frontend.service, id);
                }
                return Chosen { found: true, end, rev_nat: frontend.service.rev_nat_index };
            }
        }
        if remembered {
            <E as SockMaps<F>>::drop_affinity(
                env,
                &F::affinity_key(env.netns_cookie(), frontend.service.rev_nat_index),
            );
        }
        frontend = frontend::find::<F, E>(env, to, protocol, in_host);
        attempt += 1;
    }
    env.count_socket(missing, DIR_EGRESS);
    none(to)
}

/// A backend's number, 0 when its slot is gone, and whether it was this client's before.
#[inline(always)]
fn pick<F: SockFamily, E: SockEnv + SockMaps<F>>(
    env: &mut E,
    to: &End<F::Addr>,
    protocol: u8,
    frontend: &Frontend,
) -> (u32, bool) {
    let service = &frontend.service;
    if service.flags & SERVICE_AFFINITY != 0 {
        let known = affinity::recall::<F, E>(env, service);
        if known != 0 {
            return (known, true);
        }
    }
    let number = if protocol == TCP { env.random() } else { env.socket_cookie() as u32 };
    let slot = (number % service.count as u32) as u16 + 1;
    let addr = if frontend.wildcard { F::UNSPECIFIED } else { to.addr };
    let at = End { addr, port: to.port };
    let member = <E as SockMaps<F>>::service(env, &F::scoped_key(&at, frontend.protocol, slot, frontend.scope));
    (member.map_or(0, |member| member.backend_id), false)
}

#[inline(always)]
const fn none<A: Copy>(to: &End<A>) -> Chosen<A> {
    Chosen { found: false, end: *to, rev_nat: Port::from_raw(0) }
}
