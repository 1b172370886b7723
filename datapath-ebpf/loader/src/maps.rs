//! All maps of `abi::maps`, opened from their pins.

use std::{
    collections::BTreeMap,
    io,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
};

use abi::{
    be::Port,
    config::Runtime,
    ct::{CtEntry4, CtEntry6, CtKey4, CtKey6},
    endpoint::{Device, EndpointInfo, EndpointKey},
    frag::{FragKey4, FragKey6, FragPorts},
    ipcache::{IpcacheEntry, IpcacheKey},
    lb::{
        IpMasqKey4, IpMasqKey6, LbAffinity, LbAffinityKey4, LbAffinityKey6, LbAffinityMatch, LbBackend4, LbBackend6,
        LbKey4, LbKey6, LbRevNat4, LbRevNat6, LbRevSk4, LbRevSk6, LbRevSkKey4, LbRevSkKey6, LbService, LbSourceRange4,
        LbSourceRange6, MAGLEV_SIZE_DEFAULT, RateBucket, RateKey,
    },
    maps::{self, MapSpec},
    metrics::EVENTS_LOST,
    nat::{SnatEntry4, SnatEntry6, SnatKey4, SnatKey6},
    policy::{PolicyEntry, PolicyKey},
};

use crate::{
    error::{MapError, Operation},
    maglev::MaglevTables,
    schema, sys,
    table::{Counters, Table},
};

/// What a handle may be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// For the command line: writes are refused by the kernel.
    ReadOnly,
    /// For the agent.
    ReadWrite,
}

/// Handles to all maps but the event ring ([`crate::events::Events`]).
#[derive(Debug)]
pub struct Maps {
    /// `cilium_lxc`
    pub lxc: Table<EndpointKey, EndpointInfo>,
    /// `cilium_devices`
    pub devices: Table<u32, Device>,
    /// `cilium_ipcache`
    pub ipcache: Table<IpcacheKey, IpcacheEntry>,
    /// `cilium_policy`
    pub policy: Table<PolicyKey, PolicyEntry>,
    /// `cilium_ct4_global`
    pub ct4: Table<CtKey4, CtEntry4>,
    /// `cilium_ct_any4_global`
    pub ct_any4: Table<CtKey4, CtEntry4>,
    /// `cilium_ct6_global`
    pub ct6: Table<CtKey6, CtEntry6>,
    /// `cilium_ct_any6_global`
    pub ct_any6: Table<CtKey6, CtEntry6>,
    /// `cilium_lb4_services_v2`
    pub lb4_services: Table<LbKey4, LbService>,
    /// `cilium_lb6_services_v2`
    pub lb6_services: Table<LbKey6, LbService>,
    /// `cilium_lb4_backends_v3`
    pub lb4_backends: Table<u32, LbBackend4>,
    /// `cilium_lb6_backends_v3`
    pub lb6_backends: Table<u32, LbBackend6>,
    /// `cilium_lb4_reverse_nat`
    pub lb4_reverse_nat: Table<Port, LbRevNat4>,
    /// `cilium_lb6_reverse_nat`
    pub lb6_reverse_nat: Table<Port, LbRevNat6>,
    /// `cilium_lb4_maglev`
    pub lb4_maglev: MaglevTables,
    /// `cilium_lb6_maglev`
    pub lb6_maglev: MaglevTables,
    /// `cilium_lb4_affinity`
    pub lb4_affinity: Table<LbAffinityKey4, LbAffinity>,
    /// `cilium_lb6_affinity`
    pub lb6_affinity: Table<LbAffinityKey6, LbAffinity>,
    /// `cilium_lb_affinity_match`
    pub lb_affinity_match: Table<LbAffinityMatch, u8>,
    /// `cilium_lb4_source_range`
    pub lb4_source_range: Table<LbSourceRange4, u8>,
    /// `cilium_lb6_source_range`
    pub lb6_source_range: Table<LbSourceRange6, u8>,
    /// `cilium_lb4_reverse_sk`
    pub lb4_reverse_sk: Table<LbRevSkKey4, LbRevSk4>,
    /// `cilium_lb6_reverse_sk`
    pub lb6_reverse_sk: Table<LbRevSkKey6, LbRevSk6>,
    /// `cilium_snat_v4_external`
    pub snat4: Table<SnatKey4, SnatEntry4>,
    /// `cilium_snat_v6_external`
    pub snat6: Table<SnatKey6, SnatEntry6>,
    /// `cilium_ipmasq_v4`
    pub ipmasq4: Table<IpMasqKey4, u8>,
    /// `cilium_ipmasq_v6`
    pub ipmasq6: Table<IpMasqKey6, u8>,
    /// `cilium_ratelimit`
    pub ratelimit: Table<RateKey, RateBucket>,
    /// `cilium_ipv4_frag_datagrams`
    pub frag4: Table<FragKey4, FragPorts>,
    /// `cilium_ipv6_frag_datagrams`
    pub frag6: Table<FragKey6, FragPorts>,
    /// `cilium_metrics`
    pub metrics: Counters,
    /// `cilium_runtime_config`
    pub runtime: Table<u32, u64>,
    directory: PathBuf,
}

impl Maps {
    /// Opens the pinned maps in `directory` (such as `/sys/fs/bpf/tc/globals`), checking version and shape of each.
    pub fn open_pinned(directory: &Path, access: Access) -> Result<Self, MapError> {
        let maps = Self::assemble(directory, |spec| open_checked(directory, spec, access))?;
        maps.check_version()?;
        Ok(maps)
    }

    /// Opens every map pinned in `directory` and makes those that are missing, as [`crate::Datapath::open`] does before it
    /// loads programs. `sizes` gives the number of entries by map name where it should not be that of `abi::maps`.
    /// Maglev tables get the default number of entries.
    pub fn prepare(directory: &Path, sizes: &BTreeMap<String, u32>) -> Result<Self, MapError> {
        Ok(schema::prepare(directory, sizes, MAGLEV_SIZE_DEFAULT)?.maps)
    }

    pub(crate) fn assemble(
        directory: &Path,
        mut open: impl FnMut(&'static MapSpec) -> Result<OwnedFd, MapError>,
    ) -> Result<Self, MapError> {
        macro_rules! table {
            ($spec:ident) => {
                Table::new(open(&maps::$spec)?, &maps::$spec)?
            };
        }
        let runtime: Table<u32, u64> = table!(RUNTIME_CONFIG);
        let maglev_size = runtime.get(&(Runtime::MaglevSize as u32))?.unwrap_or_default();
        let maglev_size = u32::try_from(maglev_size & !abi::config::MAGLEV_IN_PLACE).unwrap_or_default();
        Ok(Self {
            runtime,
            lxc: table!(LXC),
            devices: table!(DEVICES),
            ipcache: table!(IPCACHE),
            policy: table!(POLICY),
            ct4: table!(CT4),
            ct_any4: table!(CT_ANY4),
            ct6: table!(CT6),
            ct_any6: table!(CT_ANY6),
            lb4_services: table!(LB4_SERVICES),
            lb6_services: table!(LB6_SERVICES),
            lb4_backends: table!(LB4_BACKENDS),
            lb6_backends: table!(LB6_BACKENDS),
            lb4_reverse_nat: table!(LB4_REVERSE_NAT),
            lb6_reverse_nat: table!(LB6_REVERSE_NAT),
            lb4_maglev: MaglevTables::new(open(&maps::LB4_MAGLEV)?, &maps::LB4_MAGLEV, maglev_size)?,
            lb6_maglev: MaglevTables::new(open(&maps::LB6_MAGLEV)?, &maps::LB6_MAGLEV, maglev_size)?,
            lb4_affinity: table!(LB4_AFFINITY),
            lb6_affinity: table!(LB6_AFFINITY),
            lb_affinity_match: table!(LB_AFFINITY_MATCH),
            lb4_source_range: table!(LB4_SOURCE_RANGE),
            lb6_source_range: table!(LB6_SOURCE_RANGE),
            lb4_reverse_sk: table!(LB4_REVERSE_SK),
            lb6_reverse_sk: table!(LB6_REVERSE_SK),
            snat4: table!(SNAT4),
            snat6: table!(SNAT6),
            ipmasq4: table!(IPMASQ4),
            ipmasq6: table!(IPMASQ6),
            ratelimit: table!(RATELIMIT),
            frag4: table!(FRAG4),
            frag6: table!(FRAG6),
            metrics: Counters::new(open(&maps::METRICS)?, &maps::METRICS)?,
            directory: directory.to_owned(),
        })
    }

    fn check_version(&self) -> Result<(), MapError> {
        let found = self.runtime(Runtime::SchemaVersion)?;
        if found == abi::SCHEMA_VERSION {
            return Ok(());
        }
        Err(MapError::Version { directory: self.directory.clone(), found, expected: abi::SCHEMA_VERSION })
    }

    /// Where the maps are pinned.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// A value that moves while the programs run.
    pub fn runtime(&self, index: Runtime) -> Result<u64, MapError> {
        Ok(self.runtime.get(&(index as u32))?.unwrap_or_default())
    }

    /// Sets a value that moves while the programs run.
    pub fn set_runtime(&self, index: Runtime, value: u64) -> Result<(), MapError> {
        self.runtime.insert(&(index as u32), &value)
    }

    /// Event records the ring had no room for, over all CPUs.
    pub fn events_lost(&self) -> Result<u64, MapError> {
        let by_cpu = self.metrics.get(&EVENTS_LOST)?.unwrap_or_default();
        Ok(by_cpu.iter().fold(0, |sum, value| sum.wrapping_add(value.count)))
    }
}

/// Opens one pin and checks that it is the map it should be; its number of entries may be another.
pub(crate) fn open_checked(directory: &Path, spec: &'static MapSpec, access: Access) -> Result<OwnedFd, MapError> {
    let path = directory.join(spec.name);
    let fd = sys::open_pin(&path, access == Access::ReadOnly).map_err(|source| MapError::Open {
        map: spec.name,
        path: path.clone(),
        source: hint(source),
    })?;
    let info = sys::map_info(fd.as_fd()).map_err(|e| MapError::system(spec, Operation::Inspect, e))?;
    schema::shape(spec, &info).map_err(|mismatch| MapError::Shape { map: spec.name, path, mismatch })?;
    Ok(fd)
}

/// A pin under a directory that is no bpffs opens with an error that says nothing.
fn hint(source: io::Error) -> io::Error {
    match source.raw_os_error() {
        Some(libc::EACCES) => io::Error::new(io::ErrorKind::PermissionDenied, "not a pinned BPF map, or not readable"),
        _ => source,
    }
}
