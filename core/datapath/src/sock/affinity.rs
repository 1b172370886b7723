//! Session affinity at sockets: a client is a network namespace.

use abi::be::Port;
use abi::lb::{AFFINITY_TIMEOUT_MASK, LbAffinity, LbAffinityMatch, LbService};

use crate::sock::{SockEnv, SockFamily, SockMaps};

/// The backend this client had last; 0: none, too long ago, or it serves this service no more.
#[inline(always)]
pub fn recall<F: SockFamily, E: SockEnv + SockMaps<F>>(env: &mut E, service: &LbService) -> u32 {
    let now = env.now_seconds() as u64;
    let key = F::affinity_key(env.netns_cookie(), service.rev_nat_index);
    let timeout = (service.backend_id & AFFINITY_TIMEOUT_MASK) as u64;
    let Some(entry) = <E as SockMaps<F>>::affinity(env, &key) else { return 0 };
    let (backend, fresh) = (entry.backend_id, now < entry.last_used.wrapping_add(timeout));
    if fresh && serves(env, backend, service.rev_nat_index) {
        if let Some(entry) = <E as SockMaps<F>>::affinity(env, &key) {
            entry.last_used = now;
        }
        return backend;
    }
    <E as SockMaps<F>>::drop_affinity(env, &key);
    0
}

/// Remembers the backend chosen for this client. A full map forgets somebody: that is its eviction, and no error.
#[inline(always)]
pub fn remember<F: SockFamily, E: SockEnv + SockMaps<F>>(env: &mut E, service: &LbService, backend: u32) {
    let key = F::affinity_key(env.netns_cookie(), service.rev_nat_index);
    let entry = LbAffinity { last_used: env.now_seconds() as u64, backend_id: backend, pad: 0 };
    let _ = <E as SockMaps<F>>::keep_affinity(env, &key, &entry);
}

#[inline(always)]
fn serves<E: SockEnv>(env: &E, backend_id: u32, rev_nat_index: Port) -> bool {
    env.affinity_match(&LbAffinityMatch { backend_id, rev_nat_index, pad: 0 })
}
