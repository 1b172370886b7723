//! One packet's run: [`datapath::Env`] on plain memory.

use std::net::IpAddr;

use abi::Plain;
use abi::be::{Addr4, Addr6, Port};
use abi::config::{NodeConfig, Runtime};
use abi::ct::{CtEntry4, CtEntry6, CtKey4, CtKey6};
use abi::endpoint::{Device, EndpointInfo, EndpointKey};
use abi::event::Prefix;
use abi::frag::{FragKey4, FragKey6, FragPorts};
use abi::ipcache::{IpcacheEntry, IpcacheKey};
use abi::lb::{
    LbAffinity, LbAffinityMatch, LbBackend4, LbBackend6, LbKey4, LbKey6, LbRevNat4, LbRevNat6, LbService, RateBucket,
    RateKey,
};
use abi::metrics::{MetricsKey, MetricsValue};
use abi::policy::{PolicyEntry, PolicyKey};
use datapath::{
    Balanced, End, Env, FamilyMaps, Hop, Kept, KnownWay, NodeportEnv, NodeportMaps, Notification, Room, V4, V6, Wish,
};
use zerocopy::IntoBytes;

use crate::map::Update;
use crate::maps::Maps;
use crate::ways::Ways;

/// Longest packet a device here carries, as the kernel's `IP_MAX_MTU` and an Ethernet header.
const PACKET_LEN_MAX: usize = 65_535 + 14;

/// A packet at a hook, with the maps of its node.
#[derive(Debug)]
pub struct Run<'a> {
    /// The node's maps.
    pub maps: &'a mut Maps,
    /// What the programs were loaded with.
    pub config: &'a NodeConfig,
    /// The packet, from the Ethernet header on.
    pub packet: Vec<u8>,
    /// Interface whose hook it is at.
    pub ifindex: u32,
    /// Monotonic clock, nanoseconds.
    pub now_ns: u64,
    /// CPU it runs on.
    pub cpu: u32,
    /// The packet's mark.
    pub mark: u32,
    /// Routes and neighbours.
    pub ways: &'a Ways,
    /// Whether the hook comes before the kernel has made a buffer of the packet (XDP).
    pub early: bool,
}

impl<'a> Env for Run<'a> {
    type Node = &'a NodeConfig;
    fn node(&self) -> &'a NodeConfig {
        self.config
    }
    fn packet_len(&self) -> u32 {
        self.packet.len() as u32
    }
    fn ifindex(&self) -> u32 {
        self.ifindex
    }
    fn load<T: Plain>(&self, offset: u32) -> Option<T> {
        let start = offset as usize;
        T::read_from_bytes(self.packet.get(start..start.checked_add(size_of::<T>())?)?).ok()
    }
    fn store<T: Plain>(&mut self, offset: u32, value: &T) -> Option<()> {
        let start = offset as usize;
        self.packet.get_mut(start..start.checked_add(size_of::<T>())?)?.copy_from_slice(value.as_bytes());
        Some(())
    }
    fn resize(&mut self, len: u32) -> Option<()> {
        let len = usize::try_from(len).ok().filter(|len| *len <= PACKET_LEN_MAX)?;
        self.packet.resize(len, 0);
        Some(())
    }
    fn set_mark(&mut self, mark: u32) {
        self.mark = mark;
    }
    fn now_seconds(&self) -> u32 {
        (self.now_ns / 1_000_000_000) as u32
    }
    fn runtime(&self, value: Runtime) -> u64 {
        self.maps.runtime(value)
    }
    fn keep(&mut self, kept: &Kept) -> Option<()> {
        self.maps.kept = *kept;
        Some(())
    }
    fn kept(&self) -> Option<&Kept> {
        Some(&self.maps.kept)
    }
    fn device(&self, ifindex: u32) -> Option<&Device> {
        self.maps.devices.lookup(&ifindex)
    }
    fn endpoint(&self, key: &EndpointKey) -> Option<&EndpointInfo> {
        self.maps.lxc.lookup(key)
    }
    fn ipcache(&self, key: &IpcacheKey) -> Option<&IpcacheEntry> {
        self.maps.ipcache.lookup(key)
    }
    fn policy(&self, key: &PolicyKey) -> Option<&PolicyEntry> {
        self.maps.policy.lookup(key)
    }
    fn count(&mut self, key: &MetricsKey, bytes: u32) {
        let cpu = self.cpu as usize % self.maps.metrics.len();
        let counters = &mut self.maps.metrics[cpu];
        let old = counters.lookup(key).copied().unwrap_or_default();
        let new = MetricsValue { count: old.count.wrapping_add(1), bytes: old.bytes.wrapping_add(u64::from(bytes)) };
        // A full map loses the count, as in the kernel.
        let _ = counters.update(*key, new, Update::Any);
    }
    fn event<N: Notification>(&mut self, cookie: u32, notification: &N) {
        let prefix = Prefix { time_ns: self.now_ns, cookie, cpu: self.cpu };
        let captured = usize::from(notification.captured()).min(self.packet.len());
        let mut record = Vec::with_capacity(size_of::<N::Record>());
        record.extend_from_slice(prefix.as_bytes());
        record.extend_from_slice(notification.as_bytes());
        record.extend_from_slice(&self.packet[..captured]);
        record.resize(size_of::<N::Record>(), 0);
        self.maps.events.push(record);
    }
}

impl NodeportEnv for Run<'_> {
    fn is_early(&self) -> bool {
        self.early
    }

    fn next_hop<F: Balanced>(&mut self, _src: &F::Addr, dst: &F::Addr, _protocol: u8, len: u32) -> Hop {
        self.ways.next_hop(ip::<F>(dst), len)
    }
    fn has_socket<F: Balanced>(&mut self, local: &End<F::Addr>, _remote: &End<F::Addr>, protocol: u8) -> bool {
        self.ways.has_socket(ip::<F>(&local.addr), local.port.host(), protocol)
    }
    fn known_way(&mut self, place: u32) -> Option<&mut KnownWay> {
        self.maps.known_ways.get_mut(place as usize)
    }
    fn grow<const LEN: u32>(&mut self, room: Room) -> Option<()> {
        let at = match room {
            Room::OuterIpv4 | Room::OuterIpv6 | Room::TunnelIpv4 | Room::TunnelIpv6 => 14,
            Room::Ipv4Options => 34,
            Room::Ipv6Extension => 54,
        };
        if self.packet.len() < at || self.packet.len() + LEN as usize > PACKET_LEN_MAX {
            return None;
        }
        self.packet.splice(at..at, std::iter::repeat_n(0, LEN as usize));
        Some(())
    }
    fn shrink<const LEN: u32>(&mut self, _to_ipv6: bool) -> Option<()> {
        if self.packet.len() < 14 + LEN as usize {
            return None;
        }
        self.packet.drain(14..14 + LEN as usize);
        Some(())
    }
    fn mark(&self) -> u32 {
        self.mark
    }
    fn is_aggregate(&self) -> bool {
        false
    }
    fn serves(&self, key: &LbAffinityMatch) -> bool {
        self.maps.lb_affinity_match.lookup(key).is_some()
    }
    fn bucket(&mut self, key: &RateKey) -> Option<&mut RateBucket> {
        self.maps.ratelimit.lookup_mut(key)
    }
    fn set_bucket(&mut self, key: &RateKey, bucket: &RateBucket) -> Option<()> {
        self.maps.ratelimit.update(*key, *bucket, Update::Any).ok()
    }
    fn now_ns(&self) -> u64 {
        self.now_ns
    }
}

fn ip<F: Balanced>(addr: &F::Addr) -> IpAddr {
    let [a, b, c, d] = F::words(addr);
    if F::IPV6 { IpAddr::V6(Addr6 { words: [a, b, c, d] }.into()) } else { IpAddr::V4(Addr4::from_raw(a).into()) }
}

/// The north-south maps of one family behind the trait.
macro_rules! nodeport_maps {
    ($family:ty, $snat:ident, $maglev:ident, $affinity:ident, $ranges:ident, $excluded:ident) => {
        impl NodeportMaps<$family> for Run<'_> {
            fn snat(&mut self, key: &<$family as Balanced>::SnatKey) -> Option<&<$family as Balanced>::SnatEntry> {
                self.maps.$snat.lookup_mut(key).map(|entry| &*entry)
            }
            fn snat_new(
                &mut self,
                key: &<$family as Balanced>::SnatKey,
                entry: &<$family as Balanced>::SnatEntry,
            ) -> Option<()> {
                self.maps.$snat.update(*key, *entry, Update::NoExist).ok()
            }
            fn allocate(&mut self, wish: &Wish<$family>) -> u16 {
                datapath::find_port::<$family, Self>(self, wish)
            }
            fn snat_forget(&mut self, key: &<$family as Balanced>::SnatKey) {
                let _ = self.maps.$snat.delete(key);
            }
            fn maglev(&self, index: Port, slot: u32) -> Option<u32> {
                self.maps.$maglev.lookup(&index)?.get(slot as usize).copied()
            }
            fn affinity(&mut self, key: &<$family as Balanced>::AffinityKey) -> Option<&mut LbAffinity> {
                self.maps.$affinity.lookup_mut(key)
            }
            fn keep(&mut self, key: &<$family as Balanced>::AffinityKey, affinity: &LbAffinity) -> Option<()> {
                self.maps.$affinity.update(*key, *affinity, Update::Any).ok()
            }
            fn is_excluded(&self, key: &<$family as Balanced>::Exclusion) -> bool {
                self.maps.$excluded.lookup(key).is_some()
            }
            fn in_source_range(&self, key: &<$family as Balanced>::SourceRange) -> bool {
                self.maps.$ranges.lookup(key).is_some()
            }
        }
    };
}
nodeport_maps!(V4, snat4, lb4_maglev, lb4_affinity, lb4_source_range, ipmasq4);
nodeport_maps!(V6, snat6, lb6_maglev, lb6_affinity, lb6_source_range, ipmasq6);

/// The maps of one family behind the trait.
macro_rules! family_maps {
    ($family:ty, $key:ty, $entry:ty, $lb:ty, $backend:ty, $rev:ty, $frag:ty,
     $services:ident, $backends:ident, $revs:ident, $tcp:ident, $any:ident, $frags:ident) => {
        impl FamilyMaps<$family> for Run<'_> {
            fn service(&self, key: &$lb) -> Option<&LbService> {
                self.maps.$services.lookup(key)
            }
            fn backend(&self, id: u32) -> Option<&$backend> {
                self.maps.$backends.lookup(&id)
            }
            fn reverse_nat(&self, index: Port) -> Option<&$rev> {
                self.maps.$revs.lookup(&index)
            }
            fn connection(&mut self, tcp: bool, key: &$key) -> Option<&mut $entry> {
                if tcp { self.maps.$tcp.lookup_mut(key) } else { self.maps.$any.lookup_mut(key) }
            }
            fn track(&mut self, tcp: bool, key: &$key, entry: &$entry) -> Option<()> {
                let map = if tcp { &mut self.maps.$tcp } else { &mut self.maps.$any };
                map.update(*key, *entry, Update::Any).ok()
            }
            fn fragment(&self, key: &$frag) -> Option<&FragPorts> {
                self.maps.$frags.peek(key)
            }
            fn track_fragment(&mut self, key: &$frag, ports: &FragPorts) -> Option<()> {
                self.maps.$frags.update(*key, *ports, Update::Any).ok()
            }
        }
    };
}
family_maps!(
    V4,
    CtKey4,
    CtEntry4,
    LbKey4,
    LbBackend4,
    LbRevNat4,
    FragKey4,
    lb4_services,
    lb4_backends,
    lb4_reverse_nat,
    ct4,
    ct_any4,
    frag4
);
family_maps!(
    V6,
    CtKey6,
    CtEntry6,
    LbKey6,
    LbBackend6,
    LbRevNat6,
    FragKey6,
    lb6_services,
    lb6_backends,
    lb6_reverse_nat,
    ct6,
    ct_any6,
    frag6
);
