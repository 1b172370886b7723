//! The list of all maps: name, kind, sizes. The loader checks pinned maps against it, the simulator and the CLI read it.

use core::mem::size_of;

use crate::{config, ct, endpoint, frag, ipcache, lb, metrics, nat, policy};

/// Kernel map types in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapKind {
    /// `BPF_MAP_TYPE_HASH`
    Hash,
    /// `BPF_MAP_TYPE_LRU_HASH`
    LruHash,
    /// `BPF_MAP_TYPE_LPM_TRIE`
    LpmTrie,
    /// `BPF_MAP_TYPE_ARRAY`
    Array,
    /// `BPF_MAP_TYPE_PERCPU_ARRAY`
    PerCpuArray,
    /// `BPF_MAP_TYPE_HASH_OF_MAPS`: each value (an id of four bytes) is an array of one value, [`MaglevSize`] words long.
    ///
    /// [`MaglevSize`]: config::Runtime::MaglevSize
    HashOfMaps,
    /// `BPF_MAP_TYPE_RINGBUF` (`max_entries` is its size in bytes)
    RingBuf,
}

/// One map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapSpec {
    /// Name, of the map and of its pin.
    pub name: &'static str,
    /// Kind.
    pub kind: MapKind,
    /// Bytes of a key.
    pub key_size: usize,
    /// Bytes of a value.
    pub value_size: usize,
    /// Entries at most, by default.
    pub max_entries: u32,
}

/// Declares map names as constants and collects them in [`ALL`].
macro_rules! maps {
    ($($(#[$meta:meta])* $id:ident = $name:literal, $kind:ident, $key:expr, $value:expr, $max:expr;)*) => {
        $($(#[$meta])* pub const $id: MapSpec =
            MapSpec { name: $name, kind: MapKind::$kind, key_size: $key, value_size: $value, max_entries: $max };)*
        /// Every map.
        pub const ALL: &[MapSpec] = &[$($id),*];
    };
}

maps! {
    /// Addresses of this node: [`endpoint::EndpointKey`] to [`endpoint::EndpointInfo`].
    LXC = "cilium_lxc", Hash, size_of::<endpoint::EndpointKey>(), size_of::<endpoint::EndpointInfo>(), 65_535;
    /// Host-side interface index (u32) to [`endpoint::Device`].
    DEVICES = "cilium_devices", Hash, size_of::<u32>(), size_of::<endpoint::Device>(), 65_535;
    /// [`ipcache::IpcacheKey`] to [`ipcache::IpcacheEntry`].
    IPCACHE = "cilium_ipcache", LpmTrie, size_of::<ipcache::IpcacheKey>(), size_of::<ipcache::IpcacheEntry>(), 512_000;
    /// [`policy::PolicyKey`] to [`policy::PolicyEntry`].
    POLICY = "cilium_policy", LpmTrie, size_of::<policy::PolicyKey>(), size_of::<policy::PolicyEntry>(), 131_072;
    /// TCP over IPv4.
    CT4 = "cilium_ct4_global", LruHash, size_of::<ct::CtKey4>(), size_of::<ct::CtEntry4>(), 524_288;
    /// Everything else over IPv4.
    CT_ANY4 = "cilium_ct_any4_global", LruHash, size_of::<ct::CtKey4>(), size_of::<ct::CtEntry4>(), 262_144;
    /// TCP over IPv6.
    CT6 = "cilium_ct6_global", LruHash, size_of::<ct::CtKey6>(), size_of::<ct::CtEntry6>(), 524_288;
    /// Everything else over IPv6.
    CT_ANY6 = "cilium_ct_any6_global", LruHash, size_of::<ct::CtKey6>(), size_of::<ct::CtEntry6>(), 262_144;
    /// Services, IPv4.
    LB4_SERVICES = "cilium_lb4_services_v2", Hash, size_of::<lb::LbKey4>(), size_of::<lb::LbService>(), 65_536;
    /// Services, IPv6.
    LB6_SERVICES = "cilium_lb6_services_v2", Hash, size_of::<lb::LbKey6>(), size_of::<lb::LbService>(), 65_536;
    /// Backends, IPv4.
    LB4_BACKENDS = "cilium_lb4_backends_v3", Hash, size_of::<u32>(), size_of::<lb::LbBackend4>(), 65_536;
    /// Backends, IPv6.
    LB6_BACKENDS = "cilium_lb6_backends_v3", Hash, size_of::<u32>(), size_of::<lb::LbBackend6>(), 65_536;
    /// Reverse NAT, IPv4.
    LB4_REVERSE_NAT = "cilium_lb4_reverse_nat", Hash, size_of::<u16>(), size_of::<lb::LbRevNat4>(), 65_536;
    /// Reverse NAT, IPv6.
    LB6_REVERSE_NAT = "cilium_lb6_reverse_nat", Hash, size_of::<u16>(), size_of::<lb::LbRevNat6>(), 65_536;
    /// Maglev tables, IPv4: reverse NAT index (u16, network order) to backend ids.
    LB4_MAGLEV = "cilium_lb4_maglev", HashOfMaps, size_of::<u16>(), size_of::<u32>(), 65_536;
    /// Maglev tables, IPv6.
    LB6_MAGLEV = "cilium_lb6_maglev", HashOfMaps, size_of::<u16>(), size_of::<u32>(), 65_536;
    /// Session affinity, IPv4.
    LB4_AFFINITY = "cilium_lb4_affinity", LruHash, size_of::<lb::LbAffinityKey4>(), size_of::<lb::LbAffinity>(), 65_536;
    /// Session affinity, IPv6.
    LB6_AFFINITY = "cilium_lb6_affinity", LruHash, size_of::<lb::LbAffinityKey6>(), size_of::<lb::LbAffinity>(), 65_536;
    /// Backends that serve services with session affinity.
    LB_AFFINITY_MATCH = "cilium_lb_affinity_match", Hash, size_of::<lb::LbAffinityMatch>(), size_of::<u8>(), 65_536;
    /// Source ranges, IPv4.
    LB4_SOURCE_RANGE = "cilium_lb4_source_range", LpmTrie, size_of::<lb::LbSourceRange4>(), size_of::<u8>(), 65_536;
    /// Source ranges, IPv6.
    LB6_SOURCE_RANGE = "cilium_lb6_source_range", LpmTrie, size_of::<lb::LbSourceRange6>(), size_of::<u8>(), 65_536;
    /// Frontends of translated sockets, IPv4.
    LB4_REVERSE_SK = "cilium_lb4_reverse_sk", LruHash, size_of::<lb::LbRevSkKey4>(), size_of::<lb::LbRevSk4>(), 262_144;
    /// Frontends of translated sockets, IPv6.
    LB6_REVERSE_SK = "cilium_lb6_reverse_sk", LruHash, size_of::<lb::LbRevSkKey6>(), size_of::<lb::LbRevSk6>(), 262_144;
    /// Source NAT, IPv4.
    SNAT4 = "cilium_snat_v4_external", LruHash, size_of::<nat::SnatKey4>(), size_of::<nat::SnatEntry4>(), 524_288;
    /// Source NAT, IPv6.
    SNAT6 = "cilium_snat_v6_external", LruHash, size_of::<nat::SnatKey6>(), size_of::<nat::SnatEntry6>(), 524_288;
    /// Destinations that are not masqueraded, IPv4.
    IPMASQ4 = "cilium_ipmasq_v4", LpmTrie, size_of::<lb::IpMasqKey4>(), size_of::<u8>(), 16_384;
    /// Destinations that are not masqueraded, IPv6.
    IPMASQ6 = "cilium_ipmasq_v6", LpmTrie, size_of::<lb::IpMasqKey6>(), size_of::<u8>(), 16_384;
    /// How often the node answers by itself.
    RATELIMIT = "cilium_ratelimit", LruHash, size_of::<lb::RateKey>(), size_of::<lb::RateBucket>(), 1_024;
    /// Fragments, IPv4.
    FRAG4 = "cilium_ipv4_frag_datagrams", LruHash, size_of::<frag::FragKey4>(), size_of::<frag::FragPorts>(), 8_192;
    /// Fragments, IPv6.
    FRAG6 = "cilium_ipv6_frag_datagrams", LruHash, size_of::<frag::FragKey6>(), size_of::<frag::FragPorts>(), 8_192;
    /// Counters, by [`metrics::MetricsKey::index`].
    METRICS = "cilium_metrics", PerCpuArray, size_of::<u32>(), size_of::<metrics::MetricsValue>(), metrics::METRICS_ENTRIES;
    /// Values that move while the programs run.
    RUNTIME_CONFIG = "cilium_runtime_config", Array, size_of::<u32>(), size_of::<u64>(), config::RUNTIME_CONFIG_ENTRIES;
    /// Event records.
    EVENTS = "cilium_events", RingBuf, 0, 0, 1 << 22;
}
