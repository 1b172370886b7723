//! What the programs are told: constants set when they are loaded, and values that move while they run.

use crate::be::{Addr4, Addr6, Port};
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
    /// Entries of the Maglev tables for which the pinned `cilium_lb{4,6}_maglev` were made (low 32 bits), and
    /// [`MAGLEV_IN_PLACE`]; 0: they were not made yet.
    MaglevSize = 5,
    /// Not 0: `cilium_lb{4,6}_services_v2` has, or had, services of any protocol. Set before the first of them is written.
    AnyProtocol = 6,
}

/// The Maglev tables are memory that user space maps and changes in place.
pub const MAGLEV_IN_PLACE: u64 = 1 << 32;

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
        /// `LB_*` bits.
        pub lb_flags: u32,
        /// First node port (30000).
        pub node_port_min: u16,
        /// Last node port (32767).
        pub node_port_max: u16,
        /// First source port that is allocated (32768: the first above the node ports).
        pub nat_port_min: u16,
        /// Last source port that is allocated (65535).
        pub nat_port_max: u16,
        /// Entries of a Maglev table, one of [`crate::lb::MAGLEV_SIZES`].
        pub maglev_size: u32,
        /// Seed of the hash of an IPv4 flow.
        pub maglev_seed_v4: u32,
        /// Seed of the hash of an IPv6 flow.
        pub maglev_seed_v6: u32,
        /// Interface by which backends on other nodes are reached; 0: whatever the routing table says.
        pub direct_routing_ifindex: u32,
        /// Its MTU; 0: not checked.
        pub direct_routing_mtu: u32,
        /// Its IPv4 address.
        pub direct_routing_ipv4: Addr4,
        /// Its IPv6 address.
        pub direct_routing_ipv6: Addr6,
        /// Source of north-south IPv4 traffic to backends on other nodes (SNAT mode).
        pub snat_ipv4: Addr4,
        /// Source of north-south IPv6 traffic to backends on other nodes (SNAT mode).
        pub snat_ipv6: Addr6,
        /// Source of masqueraded IPv4 traffic of pods; 0: not masqueraded.
        pub masquerade_ipv4: Addr4,
        /// Source of masqueraded IPv6 traffic of pods; zero: not masqueraded.
        pub masquerade_ipv6: Addr6,
        /// IPv4 destinations within which pods' addresses are routed, never masqueraded.
        pub native_routing_ipv4: Addr4,
        /// Mask of [`Self::native_routing_ipv4`]; 0: no such range.
        pub native_routing_mask_ipv4: Addr4,
        /// IPv6 destinations within which pods' addresses are routed, never masqueraded.
        pub native_routing_ipv6: Addr6,
        /// Mask of [`Self::native_routing_ipv6`]; zero: no such range.
        pub native_routing_mask_ipv6: Addr6,
        /// Prefix of the outer source of DSR with IPIP (`bpf-lb-rss-ipv4-src-cidr`).
        pub rss_ipv4: Addr4,
        /// Mask of [`Self::rss_ipv4`]; 0: the node's address is the source.
        pub rss_mask_ipv4: Addr4,
        /// Prefix of the outer source of DSR with IP6IP6 (`bpf-lb-rss-ipv6-src-cidr`).
        pub rss_ipv6: Addr6,
        /// Mask of [`Self::rss_ipv6`]; zero: the node's address is the source.
        pub rss_mask_ipv6: Addr6,
        /// UDP port of Geneve.
        pub geneve_port: Port,
        /// Zero.
        pub pad: u16,
        /// Cookie of the network namespace that is the host, low half first.
        pub host_netns_cookie: [u32; 2],
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
/// Services are translated at sockets of the host only; pods' packets are balanced one by one (`bpf-lb-sock-hostns-only`).
pub const NODE_SOCK_HOST_ONLY: u32 = 1 << 16;
/// Sockets of the host may not be bound to node ports (`node-port-bind-protection`).
pub const NODE_BIND_PROTECTION: u32 = 1 << 17;
/// Translated socket calls are reported (`trace-sock`).
pub const NODE_TRACE_SOCK: u32 = 1 << 18;

/// North-south traffic is balanced on network devices.
pub const LB_NODE_PORT: u32 = 1 << 0;
/// North-south backends are chosen by Maglev tables; without it at random.
pub const LB_MAGLEV: u32 = 1 << 1;
/// Direct server return for everything (mode `dsr`).
pub const LB_DSR: u32 = 1 << 2;
/// Direct server return for TCP, SNAT for the rest (mode `hybrid`).
pub const LB_HYBRID: u32 = 1 << 3;
/// [`crate::lb::SERVICE_FORWARD_DSR`] decides for each service (mode `annotation`).
pub const LB_MODE_BY_SERVICE: u32 = 1 << 4;
/// Direct server return by IPIP or IP6IP6.
pub const LB_DSR_IPIP: u32 = 1 << 5;
/// Direct server return by Geneve. Neither this nor [`LB_DSR_IPIP`]: by IPv4 option or IPv6 destination option.
pub const LB_DSR_GENEVE: u32 = 1 << 6;
/// ClusterIPs may be reached from outside.
pub const LB_EXTERNAL_CLUSTER_IP: u32 = 1 << 7;
/// A service without backends is dropped in silence (`service-no-backend-response=drop`); without it the client is told.
pub const LB_NO_BACKEND_DROP: u32 = 1 << 8;
/// Session affinity is honoured.
pub const LB_AFFINITY: u32 = 1 << 9;
/// Source ranges are honoured.
pub const LB_SOURCE_RANGES: u32 = 1 << 10;
/// IPv4 traffic of pods to the world is masqueraded.
pub const LB_MASQUERADE_IPV4: u32 = 1 << 11;
/// IPv6 traffic of pods to the world is masqueraded.
pub const LB_MASQUERADE_IPV6: u32 = 1 << 12;
/// `cilium_ipmasq_v4` and `cilium_ipmasq_v6` say what is not masqueraded (`enable-ip-masq-agent`).
pub const LB_IP_MASQ_AGENT: u32 = 1 << 13;
/// Other nodes' pods are reached by tunnel: their nodes are masqueraded for.
pub const LB_TUNNEL: u32 = 1 << 14;
/// DSR by IPIP puts the backend's port in the frontend's place (`bpf-lb-dsr-l4-xlate=backend`).
pub const LB_DSR_XLATE_BACKEND: u32 = 1 << 15;
/// Carry every packet through all stages, also those of connections about which nothing is new. For tests.
pub const NODE_NO_SHORT_WAY: u32 = 1 << 5;
