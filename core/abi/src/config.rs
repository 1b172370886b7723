//! What the programs are told: constants set when they are loaded, and values that move while they run.

use crate::be::{Addr4, Addr6};
use crate::shared;

/// Index into `cilium_runtime_config` (array of u64).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Runtime {
    /// Offset from the monotonic clock to UTC, nanoseconds divided by 512 (reference: utime offset).
    UtimeOffset = 0,
    /// Monotonic time at which the agent was last alive, nanoseconds.
    AgentLiveness = 1,
    /// Policy revision (low 32 bits). Moved after a policy or class change is complete: established flows are judged anew.
    PolicyRevision = 2,
    /// Load-balancer revision (low 32 bits). Moved after services or backends changed: cached backends are checked anew.
    LbRevision = 3,
    /// Layout version of all pinned maps ([`crate::SCHEMA_VERSION`]).
    SchemaVersion = 4,
}

/// Entries of `cilium_runtime_config`.
pub const RUNTIME_CONFIG_ENTRIES: u32 = 256;

shared! {
    /// Read-only data of the programs (`NODE_CONFIG`), set when they are loaded.
    pub struct NodeConfig {
        /// The router's IPv4 address (on `cilium_host`); 0: IPv4 is off.
        pub router_ipv4: Addr4,
        /// The router's IPv6 address; zero: IPv6 is off.
        pub router_ipv6: Addr6,
        /// Interface index of `cilium_host`.
        pub host_ifindex: u32,
        /// Interface index of `cilium_net`, its peer.
        pub net_ifindex: u32,
        /// MAC address of `cilium_host`, then two zero bytes.
        pub host_mac: [u8; 8],
        /// MTU of pod interfaces.
        pub mtu: u32,
        /// `NODE_*` bits.
        pub flags: u32,
        /// Identity of addresses outside the cluster, IPv4 (2, or 9 in dual stack).
        pub world_ipv4: u32,
        /// Identity of addresses outside the cluster, IPv6 (2, or 10 in dual stack).
        pub world_ipv6: u32,
        /// Monitor aggregation level: 0 none, 1 low, 3 medium and maximum (reference).
        pub monitor_aggregation: u32,
        /// Seconds between reports of one connection and direction.
        pub report_interval: u32,
        /// TCP flags whose first appearance is reported.
        pub report_tcp_flags: u32,
        /// Bytes of a packet copied into an event, at most [`crate::event::PAYLOAD_LEN`].
        pub capture_len: u32,
        /// Connection lifetimes in seconds: see [`Lifetime`].
        pub lifetimes: [u32; 8],
        /// Mixed into every hash.
        pub seed: u32,
        /// Ticks of the kernel a second; 0: not known, the clock is asked for. Set by the loader.
        pub ticks_per_second: u32,
        /// The kernel's count of ticks when the monotonic clock stood at zero, low word first. Set by the loader.
        pub ticks_base: [u32; 2],
    }
}

/// A configuration of zeros, which the loader replaces.
pub const NODE_CONFIG_ZERO: NodeConfig = zerocopy::transmute!([0u8; core::mem::size_of::<NodeConfig>()]);

/// Index into [`NodeConfig::lifetimes`] (reference: conntrack timers).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Lifetime {
    /// Established TCP, 8000 s.
    Tcp = 0,
    /// Everything but TCP, 60 s.
    Any = 1,
    /// TCP of which only a SYN was seen, 60 s.
    TcpSyn = 2,
    /// Closing TCP, 10 s.
    TcpFin = 3,
    /// TCP to a service, 8000 s.
    ServiceTcp = 4,
    /// The rest to a service, 60 s.
    ServiceAny = 5,
    /// TCP to a service whose backend went, 60 s.
    ServiceTcpGrace = 6,
}

/// Lifetimes of the reference, in the order of [`Lifetime`].
pub const DEFAULT_LIFETIMES: [u32; 8] = [8000, 60, 60, 10, 8000, 60, 60, 0];

/// Track fragments; without it every fragment that needs ports is dropped with reason 157.
pub const NODE_TRACK_FRAGMENTS: u32 = 1 << 0;
/// Emit policy verdict events.
pub const NODE_POLICY_VERDICTS: u32 = 1 << 1;
/// The host may always reach its pods (`--allow-localhost=always`); deny rules still hold.
pub const NODE_ALLOW_LOCALHOST: u32 = 1 << 2;
/// Audit instead of deny on the whole node.
pub const NODE_AUDIT: u32 = 1 << 3;
/// Deliver to local pods by `redirect_peer`, past the host's network stack.
pub const NODE_HOST_ROUTING: u32 = 1 << 4;
/// Carry every packet through all stages, also those of connections about which nothing is new. For tests.
pub const NODE_NO_SHORT_WAY: u32 = 1 << 5;
