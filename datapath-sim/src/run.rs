//! One packet's run: [`datapath::Env`] on plain memory.

use abi::Plain;
use abi::be::Port;
use abi::config::{NodeConfig, Runtime};
use abi::ct::{CtEntry4, CtEntry6, CtKey4, CtKey6};
use abi::endpoint::{Device, EndpointInfo, EndpointKey};
use abi::event::Prefix;
use abi::frag::{FragKey4, FragKey6, FragPorts};
use abi::ipcache::{IpcacheEntry, IpcacheKey};
use abi::lb::{LbBackend4, LbBackend6, LbKey4, LbKey6, LbRevNat4, LbRevNat6, LbService};
use abi::metrics::{MetricsKey, MetricsValue};
use abi::policy::{PolicyEntry, PolicyKey};
use datapath::{Env, FamilyMaps, Kept, Notification, V4, V6};
use zerocopy::IntoBytes;

use crate::map::Update;
use crate::maps::Maps;

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
