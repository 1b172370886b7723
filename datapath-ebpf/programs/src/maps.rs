//! The maps, under the names and sizes of `abi::maps`.

use abi::config::NodeConfig;
use abi::ct::{CtEntry4, CtEntry6, CtKey4, CtKey6};
use abi::endpoint::{Device, EndpointInfo, EndpointKey};
use abi::frag::{FragKey4, FragKey6, FragPorts};
use abi::ipcache::{IpcacheEntry, IpcacheKey};
use abi::lb::{
    IpMasqKey4, IpMasqKey6, LbAffinity, LbAffinityKey4, LbAffinityKey6, LbAffinityMatch, LbBackend4, LbBackend6,
    LbKey4, LbKey6, LbRevNat4, LbRevNat6, LbRevSk4, LbRevSk6, LbRevSkKey4, LbRevSkKey6, LbService, LbSourceRange4,
    LbSourceRange6, RateBucket, RateKey,
};
use abi::maps as spec;
use abi::metrics::{EVENTS_LOST, MetricsValue};
use abi::nat::{SnatEntry4, SnatEntry6, SnatKey4, SnatKey6};
use abi::policy::{PolicyEntry, PolicyKey};
use abi::stage::CALLS_ENTRIES;
use datapath::{Kept, KnownWay, WAYS};

use crate::maglev::Maglev;
use crate::map::{Array, Calls, Hash, LpmTrie, LruHash, PerCpuArray, RingBuf};

/// Declares one static for each map; the number of entries comes from the list the loader and the simulator read.
macro_rules! maps {
    ($($name:ident = $symbol:literal: $kind:ident<$($ty:ty),*>;)*) => { $(
        #[doc = concat!("`", $symbol, "`")]
        #[unsafe(link_section = ".maps")]
        #[unsafe(export_name = $symbol)]
        pub static $name: $kind<$($ty,)* { spec::$name.max_entries as usize }> = <$kind<_, _, _>>::new();
    )* };
}

maps! {
    LXC = "cilium_lxc": Hash<EndpointKey, EndpointInfo>;
    DEVICES = "cilium_devices": Hash<u32, Device>;
    IPCACHE = "cilium_ipcache": LpmTrie<IpcacheKey, IpcacheEntry>;
    POLICY = "cilium_policy": LpmTrie<PolicyKey, PolicyEntry>;
    CT4 = "cilium_ct4_global": LruHash<CtKey4, CtEntry4>;
    CT_ANY4 = "cilium_ct_any4_global": LruHash<CtKey4, CtEntry4>;
    CT6 = "cilium_ct6_global": LruHash<CtKey6, CtEntry6>;
    CT_ANY6 = "cilium_ct_any6_global": LruHash<CtKey6, CtEntry6>;
    LB4_SERVICES = "cilium_lb4_services_v2": Hash<LbKey4, LbService>;
    LB6_SERVICES = "cilium_lb6_services_v2": Hash<LbKey6, LbService>;
    LB4_BACKENDS = "cilium_lb4_backends_v3": Hash<u32, LbBackend4>;
    LB6_BACKENDS = "cilium_lb6_backends_v3": Hash<u32, LbBackend6>;
    LB4_REVERSE_NAT = "cilium_lb4_reverse_nat": Hash<u16, LbRevNat4>;
    LB6_REVERSE_NAT = "cilium_lb6_reverse_nat": Hash<u16, LbRevNat6>;
    LB4_AFFINITY = "cilium_lb4_affinity": LruHash<LbAffinityKey4, LbAffinity>;
    LB6_AFFINITY = "cilium_lb6_affinity": LruHash<LbAffinityKey6, LbAffinity>;
    LB_AFFINITY_MATCH = "cilium_lb_affinity_match": Hash<LbAffinityMatch, u8>;
    LB4_SOURCE_RANGE = "cilium_lb4_source_range": LpmTrie<LbSourceRange4, u8>;
    LB6_SOURCE_RANGE = "cilium_lb6_source_range": LpmTrie<LbSourceRange6, u8>;
    SNAT4 = "cilium_snat_v4_external": LruHash<SnatKey4, SnatEntry4>;
    SNAT6 = "cilium_snat_v6_external": LruHash<SnatKey6, SnatEntry6>;
    IPMASQ4 = "cilium_ipmasq_v4": LpmTrie<IpMasqKey4, u8>;
    IPMASQ6 = "cilium_ipmasq_v6": LpmTrie<IpMasqKey6, u8>;
    RATELIMIT = "cilium_ratelimit": LruHash<RateKey, RateBucket>;
    LB4_REVERSE_SK = "cilium_lb4_reverse_sk": LruHash<LbRevSkKey4, LbRevSk4>;
    LB6_REVERSE_SK = "cilium_lb6_reverse_sk": LruHash<LbRevSkKey6, LbRevSk6>;
    FRAG4 = "cilium_ipv4_frag_datagrams": LruHash<FragKey4, FragPorts>;
    FRAG6 = "cilium_ipv6_frag_datagrams": LruHash<FragKey6, FragPorts>;
}

/// `cilium_lb4_maglev`
#[unsafe(link_section = ".maps")]
#[unsafe(export_name = "cilium_lb4_maglev")]
pub static LB4_MAGLEV: Maglev<{ spec::LB4_MAGLEV.max_entries as usize }> = Maglev::new();

/// `cilium_lb6_maglev`
#[unsafe(link_section = ".maps")]
#[unsafe(export_name = "cilium_lb6_maglev")]
pub static LB6_MAGLEV: Maglev<{ spec::LB6_MAGLEV.max_entries as usize }> = Maglev::new();

/// `cilium_runtime_config`
#[unsafe(link_section = ".maps")]
#[unsafe(export_name = "cilium_runtime_config")]
pub static RUNTIME_CONFIG: Array<u64, { spec::RUNTIME_CONFIG.max_entries as usize }> = Array::new();

/// Memory of this CPU for what one stage leaves for the next. Not shared with user space.
#[unsafe(link_section = ".maps")]
#[unsafe(export_name = "cilium_kept")]
pub static KEPT: PerCpuArray<Kept, 1> = PerCpuArray::new();

/// Memory of this CPU for the wish for a port. Not shared with user space.
#[unsafe(link_section = ".maps")]
#[unsafe(export_name = "cilium_wish")]
pub static WISH: PerCpuArray<[u64; 8], 1> = PerCpuArray::new();

/// Memory of this CPU for ways found before. Not shared with user space.
#[unsafe(link_section = ".maps")]
#[unsafe(export_name = "cilium_ways")]
pub static KNOWN_WAYS: PerCpuArray<KnownWay, { WAYS as usize }> = PerCpuArray::new();

/// The programs of the stages of packets without a buffer, as [`CALLS`].
#[unsafe(link_section = ".maps")]
#[unsafe(export_name = "cilium_calls_xdp")]
pub static CALLS_XDP: Calls<{ CALLS_ENTRIES as usize }> = Calls::new();

/// The programs of the stages, by number. The loader fills it before a packet meets any of these programs.
#[unsafe(link_section = ".maps")]
#[unsafe(export_name = "cilium_calls")]
pub static CALLS: Calls<{ CALLS_ENTRIES as usize }> = Calls::new();

/// `cilium_metrics`
#[unsafe(link_section = ".maps")]
#[unsafe(export_name = "cilium_metrics")]
pub static METRICS: PerCpuArray<MetricsValue, { spec::METRICS.max_entries as usize }> = PerCpuArray::new();

/// `cilium_events`
#[unsafe(link_section = ".maps")]
#[unsafe(export_name = "cilium_events")]
pub static EVENTS: RingBuf<{ spec::EVENTS.max_entries as usize }> = RingBuf::new();

/// What the loader sets when it loads the programs.
#[unsafe(no_mangle)]
pub static NODE_CONFIG: NodeConfig = abi::config::NODE_CONFIG_ZERO;

/// Counts a record the ring had no room for.
#[inline(always)]
pub fn count_lost_event() {
    if let Some(lost) = METRICS.get_mut(&EVENTS_LOST.index()) {
        lost.count = lost.count.wrapping_add(1);
    }
}
