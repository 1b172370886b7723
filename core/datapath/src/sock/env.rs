//! Everything a socket hook may touch, as [`crate::Env`] is for packets.
//!
//! The rules are those of [`crate::Env`]: look-ups count as use for LRU maps, writes to a full hash map fail with `None`,
//! an LRU map evicts, nothing panics, blocks or allocates, and the same world gives the same answer.

use abi::endpoint::{EndpointInfo, EndpointKey};
use abi::event::TraceSockNotify;
use abi::ipcache::{IpcacheEntry, IpcacheKey};
use abi::lb::{LbAffinity, LbAffinityMatch, LbService};
use abi::metrics::MetricsKey;

use crate::env::NodeFields;
use crate::family::{V4, V6};
use crate::sock::SockFamily;

/// The world of one socket call.
pub trait SockEnv: SockMaps<V4> + SockMaps<V6> {
    /// How the node's configuration is read.
    type Node: NodeFields;

    /// The node's configuration. Apart from `self`, so that it can be read while a map's value is borrowed.
    fn node(&self) -> Self::Node;

    /// The socket's IP protocol.
    fn protocol(&self) -> u8;

    /// The socket's number, unique until reboot.
    fn socket_cookie(&self) -> u64;

    /// The number of the socket's network namespace, unique until reboot.
    fn netns_cookie(&self) -> u64;

    /// The number of the caller's control group.
    fn cgroup_id(&self) -> u64;

    /// Seconds of the monotonic clock.
    fn now_seconds(&self) -> u32;

    /// A number drawn at random.
    fn random(&mut self) -> u32;

    /// `cilium_lxc`.
    fn endpoint(&self, key: &EndpointKey) -> Option<&EndpointInfo>;

    /// `cilium_ipcache`, longest prefix.
    fn ipcache(&self, key: &IpcacheKey) -> Option<&IpcacheEntry>;

    /// `cilium_lb_affinity_match`: whether there is such an entry.
    fn affinity_match(&self, key: &LbAffinityMatch) -> bool;

    /// Adds one to a counter of `cilium_metrics`. Losing a count on a full map is no error.
    fn count(&mut self, key: &MetricsKey);

    /// Writes an event record: prefix (time in nanoseconds, CPU) and `notification`. A full buffer loses it.
    fn event(&mut self, notification: &TraceSockNotify);

    /// Counts under a `REASON_LB_*` and a direction.
    #[inline(always)]
    fn count_socket(&mut self, reason: u8, dir: u8) {
        self.count(&MetricsKey::new(reason, dir));
    }
}

/// The maps that exist once for each address family.
pub trait SockMaps<F: SockFamily> {
    /// Services: a frontend (slot 0) or one of its backends.
    fn service(&self, key: &F::LbKey) -> Option<&LbService>;

    /// Backends by id.
    fn backend(&self, id: u32) -> Option<&F::Backend>;

    /// Frontends of translated sockets.
    fn reverse(&mut self, key: &F::ReverseKey) -> Option<&F::ReverseEntry>;

    /// Remembers the frontend of a translated socket. `None` when the map refuses.
    fn remember(&mut self, key: &F::ReverseKey, entry: &F::ReverseEntry) -> Option<()>;

    /// Forgets it.
    fn forget(&mut self, key: &F::ReverseKey);

    /// The backend a client of a service with session affinity had.
    fn affinity(&mut self, key: &F::AffinityKey) -> Option<&mut LbAffinity>;

    /// Remembers it. `None` when the map refuses.
    fn keep_affinity(&mut self, key: &F::AffinityKey, entry: &LbAffinity) -> Option<()>;

    /// Forgets it.
    fn drop_affinity(&mut self, key: &F::AffinityKey);
}
