//! What balancing traffic from outside needs beyond [`Env`]: more maps, the routing table, and room in the packet.

use abi::be::Port;
use abi::lb::{LbAffinity, LbAffinityMatch, RateBucket, RateKey};

use super::family::Balanced;
use super::snat::Wish;
use super::ways::KnownWay;
use crate::env::{Env, FamilyMaps};
use crate::family::{End, V4, V6};

/// The world of one packet at a hook of a network device.
pub trait NodeportEnv: Env + NodeportMaps<V4> + NodeportMaps<V6> {
    /// Whether the hook comes before the kernel has made a buffer of the packet (XDP). What cannot be finished there is passed
    /// on as it came; the later hook of the same device does it.
    fn is_early(&self) -> bool;

    /// Asks the routing and neighbour tables for the way of a packet of `len` bytes (from the IP header on) that came in at
    /// this hook's device and now goes from `src` to `dst`.
    fn next_hop<F: Balanced>(&mut self, src: &F::Addr, dst: &F::Addr, protocol: u8, len: u32) -> Hop;

    /// Whether the host has a socket, other than one that listens, which a packet from `remote` to `local` would reach.
    fn has_socket<F: Balanced>(&mut self, local: &End<F::Addr>, remote: &End<F::Addr>, protocol: u8) -> bool;

    /// Memory of this CPU for ways found before, by place, below [`super::ways::WAYS`].
    fn known_way(&mut self, place: u32) -> Option<&mut KnownWay>;

    /// Makes room for `len` bytes: after the Ethernet header, or after the fixed IP header (which is then `ip` bytes long). What
    /// lies before moves forward, the room's content is undefined; at an early hook, which addresses frames anew, so are the MAC
    /// addresses behind all kinds of room but the last two. `None`: the packet cannot grow.
    fn grow<const LEN: u32>(&mut self, room: Room) -> Option<()>;

    /// Takes away `LEN` bytes after the Ethernet header. With `to_ipv6` they were the IPv4 header and more before an IPv6 packet.
    fn shrink<const LEN: u32>(&mut self, to_ipv6: bool) -> Option<()>;

    /// The packet's mark; 0 where there is none yet.
    fn mark(&self) -> u32;

    /// Whether the packet stands for several on the wire, so that its length says nothing about theirs.
    fn is_aggregate(&self) -> bool;

    /// Whether this backend serves this service (`cilium_lb_affinity_match`).
    fn serves(&self, key: &LbAffinityMatch) -> bool;

    /// `cilium_ratelimit`.
    fn bucket(&mut self, key: &RateKey) -> Option<&mut RateBucket>;

    /// Writes a bucket of `cilium_ratelimit`.
    fn set_bucket(&mut self, key: &RateKey, bucket: &RateBucket) -> Option<()>;

    /// Nanoseconds of the monotonic clock. May be as coarse as a timer tick.
    fn now_ns(&self) -> u64;
}

/// Where [`NodeportEnv::grow`] makes room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// After the Ethernet header, for an IPv4 header and what may follow it.
    OuterIpv4,
    /// After the Ethernet header, for an IPv6 header and what may follow it.
    OuterIpv6,
    /// After the Ethernet header, for an IPv4 header, UDP, and what may follow it up to an Ethernet header.
    TunnelIpv4,
    /// After the Ethernet header, for an IPv6 header, UDP, and what may follow it up to an Ethernet header.
    TunnelIpv6,
    /// After the 20 bytes of an IPv4 header.
    Ipv4Options,
    /// After the 40 bytes of an IPv6 header.
    Ipv6Extension,
}

/// The maps of one family that only north-south traffic needs.
pub trait NodeportMaps<F: Balanced>: FamilyMaps<F> {
    /// `cilium_snat_v4_external` or `cilium_snat_v6_external`.
    fn snat(&mut self, key: &F::SnatKey) -> Option<&F::SnatEntry>;

    /// Writes an entry unless there is one. `None` when there is, or when the map refuses.
    fn snat_new(&mut self, key: &F::SnatKey, entry: &F::SnatEntry) -> Option<()>;

    /// [`super::snat::find_port`], which an implementation for the kernel calls as a function of its own.
    fn allocate(&mut self, wish: &Wish<F>) -> u16;

    /// Removes an entry.
    fn snat_forget(&mut self, key: &F::SnatKey);

    /// Entry `slot` of the Maglev table of the service with reverse NAT index `index`; 0 or `None`: no backend, or no table.
    fn maglev(&self, index: Port, slot: u32) -> Option<u32>;

    /// The backend a client has kept.
    fn affinity(&mut self, key: &F::AffinityKey) -> Option<&mut LbAffinity>;

    /// Remembers the backend of a client.
    fn keep(&mut self, key: &F::AffinityKey, affinity: &LbAffinity) -> Option<()>;

    /// Whether traffic to a destination is not masqueraded (`cilium_ipmasq_v4`, `cilium_ipmasq_v6`).
    fn is_excluded(&self, key: &F::Exclusion) -> bool;

    /// Whether a source range covers the client.
    fn in_source_range(&self, key: &F::SourceRange) -> bool;
}

/// The way out for a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hop {
    /// [`hop::OK`] and so on, as the kernel numbers them.
    pub code: u32,
    /// Interface; 0: none.
    pub ifindex: u32,
    /// Destination and source MAC address, as they lie in the packet; only with [`hop::OK`].
    pub macs: [u32; 3],
    /// Longest packet that can go this way, from the IP header on; 0: not known. Only with [`hop::OK`].
    pub mtu: u32,
}

/// Numbers of [`Hop::code`] (`BPF_FIB_LKUP_RET_*`).
pub mod hop {
    /// Route and neighbour are known.
    pub const OK: u32 = 0;
    /// No route to elsewhere: the destination is this node, or nobody.
    pub const NOT_FORWARDED: u32 = 4;
    /// Route, but no neighbour yet.
    pub const NO_NEIGHBOUR: u32 = 7;
    /// The packet is longer than the way's MTU.
    pub const FRAGMENTATION_NEEDED: u32 = 8;
}

impl Hop {
    /// No way, for this reason.
    #[inline(always)]
    pub const fn none(code: u32) -> Self {
        Self { code, ifindex: 0, macs: [0; 3], mtu: 0 }
    }
}
