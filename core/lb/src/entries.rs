//! Map entries of services and backends, both families behind one face.

use core::net::IpAddr;

use abi::be::Port;
use abi::lb::{self, LbAffinityMatch, LbBackend4, LbBackend6, LbKey4, LbKey6, LbRevNat4, LbRevNat6, LbService};
use abi::lb::{LbSourceRange4, LbSourceRange6, MaglevTable};
use abi::write::MapWrite;
use types::Cidr;

use crate::maglev::TableId;
use crate::{BackendId, BackendState, Frontend, L4Addr, Scope, ServiceId, Transport};

/// Slot 0 (the service itself) or a backend's slot.
pub fn slot(frontend: &Frontend, slot: u16, value: Option<LbService>) -> MapWrite {
    let addr = frontend.addr;
    let scope = match frontend.scope {
        Scope::External => lb::SCOPE_EXTERNAL,
        Scope::Internal => lb::SCOPE_INTERNAL,
    };
    let (dport, proto, pad) = (Port::new(addr.port), addr.protocol.number(), 0);
    match addr.ip {
        IpAddr::V4(ip) => {
            MapWrite::Service4(LbKey4 { address: ip.into(), dport, backend_slot: slot, proto, scope, pad }, value)
        }
        IpAddr::V6(ip) => {
            MapWrite::Service6(LbKey6 { address: ip.into(), dport, backend_slot: slot, proto, scope, pad }, value)
        }
    }
}

/// The value of a backend's slot.
pub fn member(id: ServiceId, backend: BackendId, quarantined: bool) -> LbService {
    LbService {
        backend_id: backend.as_u32(),
        rev_nat_index: Port::new(id.as_u16()),
        flags2: if quarantined { lb::SERVICE_QUARANTINED } else { 0 },
        ..LbService::default()
    }
}

/// A backend.
pub fn backend(id: BackendId, addr: &L4Addr, state: BackendState) -> MapWrite {
    let (port, proto, flags) = (Port::new(addr.port), addr.protocol.number(), state.number());
    match addr.ip {
        IpAddr::V4(ip) => {
            let value = LbBackend4 { address: ip.into(), port, proto, flags, ..LbBackend4::default() };
            MapWrite::Backend4(id.as_u32(), Some(value))
        }
        IpAddr::V6(ip) => {
            let value = LbBackend6 { address: ip.into(), port, proto, flags, ..LbBackend6::default() };
            MapWrite::Backend6(id.as_u32(), Some(value))
        }
    }
}

/// The way back from a service's number to its frontend.
pub fn rev_nat(id: ServiceId, frontend: &L4Addr) -> MapWrite {
    let (index, port) = (Port::new(id.as_u16()), Port::new(frontend.port));
    match frontend.ip {
        IpAddr::V4(ip) => MapWrite::RevNat4(index, Some(LbRevNat4 { address: ip.into(), port, pad: 0 })),
        IpAddr::V6(ip) => MapWrite::RevNat6(index, Some(LbRevNat6 { address: ip.into(), port, pad: 0 })),
    }
}

/// Lets clients of a service come back to a backend.
pub fn affinity(id: ServiceId, backend: BackendId) -> MapWrite {
    let key = LbAffinityMatch { backend_id: backend.as_u32(), rev_nat_index: Port::new(id.as_u16()), pad: 0 };
    MapWrite::AffinityMatch(key, Some(1))
}

/// Lets clients from a range in.
pub fn source_range(id: ServiceId, range: &Cidr) -> MapWrite {
    let prefixlen = lb::SOURCE_RANGE_STATIC_BITS + u32::from(range.bits());
    let rev_nat_index = Port::new(id.as_u16());
    match range.addr() {
        IpAddr::V4(ip) => {
            MapWrite::SourceRange4(LbSourceRange4 { prefixlen, rev_nat_index, pad: 0, addr: ip.into() }, Some(1))
        }
        IpAddr::V6(ip) => {
            MapWrite::SourceRange6(LbSourceRange6 { prefixlen, rev_nat_index, pad: 0, addr: ip.into() }, Some(1))
        }
    }
}

/// A service's Maglev table.
pub fn maglev(id: ServiceId, v4: bool, table: TableId) -> MapWrite {
    let (index, table) = (Port::new(id.as_u16()), Some(MaglevTable { id: table.as_u64() }));
    if v4 { MapWrite::Maglev4(index, table) } else { MapWrite::Maglev6(index, table) }
}

/// What an entry of a dump says about numbers in use.
pub enum Known {
    /// A service has this number and counts so many backends.
    Service(Frontend, ServiceId, u16),
    /// A backend stands in this slot of a service.
    Slot(Frontend, u16, BackendId),
    /// A backend has this number.
    Backend(L4Addr, BackendId),
}

/// Reads numbers out of an entry of a dump.
pub fn known(entry: &MapWrite) -> Option<Known> {
    let addr = |ip: IpAddr, port: Port, proto: u8| {
        Some(L4Addr { ip, port: port.host(), protocol: Transport::from_number(proto)? })
    };
    let v4 = |a: abi::be::Addr4| IpAddr::V4(a.into());
    let v6 = |a: abi::be::Addr6| IpAddr::V6(a.into());
    let (addr, scope, slot, value) = match *entry {
        MapWrite::Service4(key, Some(value)) => {
            (addr(v4(key.address), key.dport, key.proto)?, key.scope, key.backend_slot, value)
        }
        MapWrite::Service6(key, Some(value)) => {
            (addr(v6(key.address), key.dport, key.proto)?, key.scope, key.backend_slot, value)
        }
        MapWrite::Backend4(id, Some(value)) => {
            return Some(Known::Backend(addr(v4(value.address), value.port, value.proto)?, BackendId::new(id)?));
        }
        MapWrite::Backend6(id, Some(value)) => {
            return Some(Known::Backend(addr(v6(value.address), value.port, value.proto)?, BackendId::new(id)?));
        }
        _ => return None,
    };
    let scope = match scope {
        lb::SCOPE_EXTERNAL => Scope::External,
        lb::SCOPE_INTERNAL => Scope::Internal,
        _ => return None,
    };
    let frontend = Frontend { addr, scope };
    Some(match slot {
        0 => Known::Service(frontend, ServiceId::new(value.rev_nat_index.host())?, value.count),
        slot => Known::Slot(frontend, slot, BackendId::new(value.backend_id)?),
    })
}
