//! All maps of one node, as the packet programs and the agent see them.

use abi::be::Port;
use abi::config::{RUNTIME_CONFIG_ENTRIES, Runtime};
use abi::ct::{CtEntry4, CtEntry6, CtKey4, CtKey6};
use abi::endpoint::{Device, EndpointInfo, EndpointKey};
use abi::frag::{FragKey4, FragKey6, FragPorts};
use abi::ipcache::{IpcacheEntry, IpcacheKey};
use abi::lb::{
    IpMasqKey4, IpMasqKey6, LbAffinity, LbAffinityKey4, LbAffinityKey6, LbAffinityMatch, LbBackend4, LbBackend6,
    LbKey4, LbKey6, LbRevNat4, LbRevNat6, LbRevSk4, LbRevSk6, LbRevSkKey4, LbRevSkKey6, LbService, LbSourceRange4,
    LbSourceRange6, MaglevTable, RateBucket, RateKey,
};
use abi::maps::{self, MapSpec};
use abi::metrics::{MetricsKey, MetricsValue};
use abi::nat::{SnatEntry4, SnatEntry6, SnatKey4, SnatKey6};
use abi::policy::{PolicyEntry, PolicyKey};
use abi::write::{MapWrite, WriteError, WriteErrorKind};

use crate::map::{Hash, Lpm, LpmKey, Lru, MapError, Update};
use crate::ring::Ring;

/// Every map of [`abi::maps`], empty at first. Agents write through [`Maps::apply`]; programs through [`crate::Run`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are the maps of abi::maps under the same names")]
pub struct Maps {
    pub lxc: Hash<EndpointKey, EndpointInfo>,
    pub devices: Hash<u32, Device>,
    pub ipcache: Lpm<IpcacheKey, IpcacheEntry>,
    pub policy: Lpm<PolicyKey, PolicyEntry>,
    pub ct4: Lru<CtKey4, CtEntry4>,
    pub ct_any4: Lru<CtKey4, CtEntry4>,
    pub ct6: Lru<CtKey6, CtEntry6>,
    pub ct_any6: Lru<CtKey6, CtEntry6>,
    pub lb4_services: Hash<LbKey4, LbService>,
    pub lb6_services: Hash<LbKey6, LbService>,
    pub lb4_backends: Hash<u32, LbBackend4>,
    pub lb6_backends: Hash<u32, LbBackend6>,
    pub lb4_reverse_nat: Hash<Port, LbRevNat4>,
    pub lb6_reverse_nat: Hash<Port, LbRevNat6>,
    pub lb4_maglev: Hash<Port, Vec<u32>>,
    pub lb6_maglev: Hash<Port, Vec<u32>>,
    /// Maglev tables that writes may name, by number.
    pub tables: std::collections::BTreeMap<u64, Vec<u32>>,
    pub lb4_affinity: Lru<LbAffinityKey4, LbAffinity>,
    pub lb6_affinity: Lru<LbAffinityKey6, LbAffinity>,
    pub lb_affinity_match: Hash<LbAffinityMatch, u8>,
    pub lb4_source_range: Lpm<LbSourceRange4, u8>,
    pub lb6_source_range: Lpm<LbSourceRange6, u8>,
    pub lb4_reverse_sk: Lru<LbRevSkKey4, LbRevSk4>,
    pub lb6_reverse_sk: Lru<LbRevSkKey6, LbRevSk6>,
    pub snat4: Lru<SnatKey4, SnatEntry4>,
    pub snat6: Lru<SnatKey6, SnatEntry6>,
    pub ipmasq4: Lpm<IpMasqKey4, u8>,
    pub ipmasq6: Lpm<IpMasqKey6, u8>,
    pub ratelimit: Lru<RateKey, RateBucket>,
    pub frag4: Lru<FragKey4, FragPorts>,
    pub frag6: Lru<FragKey6, FragPorts>,
    /// One map for each CPU.
    pub metrics: Vec<Hash<MetricsKey, MetricsValue>>,
    pub runtime: Vec<u64>,
    pub events: Ring,
    /// What one stage of the pipeline leaves for the next: the programs' own memory, no map of [`abi::maps`].
    pub kept: datapath::Kept,
    /// Ways found before: the programs' own memory too.
    pub known_ways: Vec<datapath::KnownWay>,
}

impl Maps {
    /// Empty maps with the default sizes, for a machine with `cpus` CPUs.
    pub fn new(cpus: usize) -> Self {
        Self::with_sizes(cpus, |spec| spec.max_entries)
    }

    /// Empty maps whose sizes `size_of` says (a small map shows what happens when it is full).
    pub fn with_sizes(cpus: usize, size_of: impl Fn(&MapSpec) -> u32) -> Self {
        Self {
            lxc: Hash::new(size_of(&maps::LXC)),
            devices: Hash::new(size_of(&maps::DEVICES)),
            ipcache: Lpm::new(size_of(&maps::IPCACHE)),
            policy: Lpm::new(size_of(&maps::POLICY)),
            ct4: Lru::new(size_of(&maps::CT4)),
            ct_any4: Lru::new(size_of(&maps::CT_ANY4)),
            ct6: Lru::new(size_of(&maps::CT6)),
            ct_any6: Lru::new(size_of(&maps::CT_ANY6)),
            lb4_services: Hash::new(size_of(&maps::LB4_SERVICES)),
            lb6_services: Hash::new(size_of(&maps::LB6_SERVICES)),
            lb4_backends: Hash::new(size_of(&maps::LB4_BACKENDS)),
            lb6_backends: Hash::new(size_of(&maps::LB6_BACKENDS)),
            lb4_reverse_nat: Hash::new(size_of(&maps::LB4_REVERSE_NAT)),
            lb6_reverse_nat: Hash::new(size_of(&maps::LB6_REVERSE_NAT)),
            lb4_maglev: Hash::new(size_of(&maps::LB4_MAGLEV)),
            lb6_maglev: Hash::new(size_of(&maps::LB6_MAGLEV)),
            tables: std::collections::BTreeMap::new(),
            lb4_affinity: Lru::new(size_of(&maps::LB4_AFFINITY)),
            lb6_affinity: Lru::new(size_of(&maps::LB6_AFFINITY)),
            lb_affinity_match: Hash::new(size_of(&maps::LB_AFFINITY_MATCH)),
            lb4_source_range: Lpm::new(size_of(&maps::LB4_SOURCE_RANGE)),
            lb6_source_range: Lpm::new(size_of(&maps::LB6_SOURCE_RANGE)),
            lb4_reverse_sk: Lru::new(size_of(&maps::LB4_REVERSE_SK)),
            lb6_reverse_sk: Lru::new(size_of(&maps::LB6_REVERSE_SK)),
            snat4: Lru::new(size_of(&maps::SNAT4)),
            snat6: Lru::new(size_of(&maps::SNAT6)),
            ipmasq4: Lpm::new(size_of(&maps::IPMASQ4)),
            ipmasq6: Lpm::new(size_of(&maps::IPMASQ6)),
            ratelimit: Lru::new(size_of(&maps::RATELIMIT)),
            frag4: Lru::new(size_of(&maps::FRAG4)),
            frag6: Lru::new(size_of(&maps::FRAG6)),
            metrics: vec![Hash::new(size_of(&maps::METRICS)); cpus.max(1)],
            runtime: vec![0; RUNTIME_CONFIG_ENTRIES as usize],
            events: Ring::new(size_of(&maps::EVENTS)),
            kept: datapath::Kept::default(),
            known_ways: vec![datapath::KnownWay::default(); datapath::WAYS as usize],
        }
    }

    /// Applies a batch in order, as the adapter does on a real kernel: deletes of what is not there succeed, the
    /// first refusal ends the batch.
    pub fn apply(&mut self, batch: &[MapWrite]) -> Result<(), WriteError> {
        for (index, write) in batch.iter().enumerate() {
            self.apply_one(write).map_err(|kind| WriteError { index, kind })?;
        }
        Ok(())
    }

    /// Applies one write.
    pub fn apply_one(&mut self, write: &MapWrite) -> Result<(), WriteErrorKind> {
        let done = match *write {
            MapWrite::Lxc(key, value) => hash(&mut self.lxc, key, value),
            MapWrite::Device(key, value) => hash(&mut self.devices, key, value),
            MapWrite::Ipcache(key, value) => lpm(&mut self.ipcache, key, value),
            MapWrite::Policy(key, value) => lpm(&mut self.policy, key, value),
            MapWrite::Service4(key, value) => hash(&mut self.lb4_services, key, value),
            MapWrite::Service6(key, value) => hash(&mut self.lb6_services, key, value),
            MapWrite::Backend4(key, value) => hash(&mut self.lb4_backends, key, value),
            MapWrite::Backend6(key, value) => hash(&mut self.lb6_backends, key, value),
            MapWrite::RevNat4(key, value) => hash(&mut self.lb4_reverse_nat, key, value),
            MapWrite::RevNat6(key, value) => hash(&mut self.lb6_reverse_nat, key, value),
            MapWrite::Maglev4(index, table) => return maglev(&self.tables, &mut self.lb4_maglev, index, table),
            MapWrite::Maglev6(index, table) => return maglev(&self.tables, &mut self.lb6_maglev, index, table),
            MapWrite::AffinityMatch(key, value) => hash(&mut self.lb_affinity_match, key, value),
            MapWrite::SourceRange4(key, value) => lpm(&mut self.lb4_source_range, key, value),
            MapWrite::SourceRange6(key, value) => lpm(&mut self.lb6_source_range, key, value),
            MapWrite::IpMasq4(key, value) => lpm(&mut self.ipmasq4, key, value),
            MapWrite::IpMasq6(key, value) => lpm(&mut self.ipmasq6, key, value),
            MapWrite::Runtime(index, value) => match self.runtime.get_mut(index as usize) {
                Some(slot) => {
                    *slot = value.unwrap_or(0);
                    Ok(())
                }
                None => Err(MapError::Full),
            },
        };
        done.map_err(kind)
    }

    /// What the agent's maps hold, as writes that would put it there: what an agent reads after a restart.
    pub fn dump(&self) -> Vec<MapWrite> {
        let mut all = Vec::new();
        all.extend(self.lxc.iter().map(|(k, v)| MapWrite::Lxc(*k, Some(*v))));
        all.extend(self.devices.iter().map(|(k, v)| MapWrite::Device(*k, Some(*v))));
        all.extend(self.ipcache.iter().map(|(k, v)| MapWrite::Ipcache(*k, Some(*v))));
        all.extend(self.policy.iter().map(|(k, v)| MapWrite::Policy(*k, Some(*v))));
        all.extend(self.lb4_services.iter().map(|(k, v)| MapWrite::Service4(*k, Some(*v))));
        all.extend(self.lb6_services.iter().map(|(k, v)| MapWrite::Service6(*k, Some(*v))));
        all.extend(self.lb4_backends.iter().map(|(k, v)| MapWrite::Backend4(*k, Some(*v))));
        all.extend(self.lb6_backends.iter().map(|(k, v)| MapWrite::Backend6(*k, Some(*v))));
        all.extend(self.lb4_reverse_nat.iter().map(|(k, v)| MapWrite::RevNat4(*k, Some(*v))));
        all.extend(self.lb6_reverse_nat.iter().map(|(k, v)| MapWrite::RevNat6(*k, Some(*v))));
        // What is in them nobody has looked at.
        let unknown = Some(MaglevTable::default());
        all.extend(self.lb4_maglev.iter().map(|(index, _)| MapWrite::Maglev4(*index, unknown)));
        all.extend(self.lb6_maglev.iter().map(|(index, _)| MapWrite::Maglev6(*index, unknown)));
        all.extend(self.lb_affinity_match.iter().map(|(k, v)| MapWrite::AffinityMatch(*k, Some(*v))));
        all.extend(self.lb4_source_range.iter().map(|(k, v)| MapWrite::SourceRange4(*k, Some(*v))));
        all.extend(self.lb6_source_range.iter().map(|(k, v)| MapWrite::SourceRange6(*k, Some(*v))));
        all.extend(self.ipmasq4.iter().map(|(k, v)| MapWrite::IpMasq4(*k, Some(*v))));
        all.extend(self.ipmasq6.iter().map(|(k, v)| MapWrite::IpMasq6(*k, Some(*v))));
        let set = self.runtime.iter().enumerate().filter(|(_, value)| **value != 0);
        all.extend(set.map(|(index, value)| MapWrite::Runtime(index as u32, Some(*value))));
        all
    }

    /// A value of the runtime configuration.
    pub fn runtime(&self, which: Runtime) -> u64 {
        self.runtime[which as usize]
    }

    /// Packets and bytes counted under `key`, over all CPUs.
    pub fn counted(&self, key: &MetricsKey) -> MetricsValue {
        self.metrics.iter().filter_map(|cpu| cpu.lookup(key)).fold(MetricsValue::default(), |sum, one| MetricsValue {
            count: sum.count.wrapping_add(one.count),
            bytes: sum.bytes.wrapping_add(one.bytes),
        })
    }
}

fn hash<K: Ord + Copy, V>(map: &mut Hash<K, V>, key: K, value: Option<V>) -> Result<(), MapError> {
    match value {
        Some(value) => map.update(key, value, Update::Any),
        None => map.delete(&key).or_else(absent_is_fine),
    }
}

/// Puts a table in place that was made known before; one that was not is no entry.
fn maglev(
    known: &std::collections::BTreeMap<u64, Vec<u32>>,
    map: &mut Hash<Port, Vec<u32>>,
    index: Port,
    table: Option<MaglevTable>,
) -> Result<(), WriteErrorKind> {
    let value = match table {
        Some(table) => Some(known.get(&table.id).cloned().ok_or(WriteErrorKind::Errno(2))?),
        None => None,
    };
    hash(map, index, value).map_err(kind)
}

const fn kind(error: MapError) -> WriteErrorKind {
    match error {
        MapError::Full => WriteErrorKind::Full,
        MapError::NoEntry => WriteErrorKind::Errno(2),
        MapError::Exists => WriteErrorKind::Errno(17),
        MapError::Invalid => WriteErrorKind::Errno(22),
    }
}

fn lpm<K: LpmKey, V>(map: &mut Lpm<K, V>, key: K, value: Option<V>) -> Result<(), MapError> {
    match value {
        Some(value) => map.update(key, value, Update::Any),
        None => map.delete(&key).or_else(absent_is_fine),
    }
}

/// A delete of what is not there has done its work.
fn absent_is_fine(error: MapError) -> Result<(), MapError> {
    if error == MapError::NoEntry { Ok(()) } else { Err(error) }
}
