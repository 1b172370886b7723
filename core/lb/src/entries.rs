//! Map entries of services and backends, both families behind one face.

use core::net::IpAddr;

use abi::be::Port;
use abi::lb::{LbBackend4, LbBackend6, LbKey4, LbKey6, LbRevNat4, LbRevNat6, LbService, SCOPE_EXTERNAL};
use abi::write::MapWrite;

use crate::{Backend, BackendId, L4Addr, ServiceId, Transport};

/// Slot 0 (the service itself) or a backend's slot.
pub fn slot(frontend: &L4Addr, slot: u16, value: Option<LbService>) -> MapWrite {
    let (dport, proto, scope, pad) =
        (Port::new(frontend.port), frontend.protocol.number(), SCOPE_EXTERNAL, Default::default());
    match frontend.ip {
        IpAddr::V4(ip) => {
            MapWrite::Service4(LbKey4 { address: ip.into(), dport, backend_slot: slot, proto, scope, pad }, value)
        }
        IpAddr::V6(ip) => {
            MapWrite::Service6(LbKey6 { address: ip.into(), dport, backend_slot: slot, proto, scope, pad }, value)
        }
    }
}

/// The value of slot 0.
pub fn head(id: ServiceId, count: u16, quarantined: u16) -> LbService {
    LbService { count, qcount: quarantined, rev_nat_index: Port::new(id.as_u16()), ..LbService::default() }
}

/// The value of a backend's slot.
pub fn member(id: ServiceId, backend: BackendId) -> LbService {
    LbService { backend_id: backend.as_u32(), rev_nat_index: Port::new(id.as_u16()), ..LbService::default() }
}

/// A backend.
pub fn backend(id: BackendId, backend: &Backend) -> MapWrite {
    let (port, proto) = (Port::new(backend.addr.port), backend.addr.protocol.number());
    let flags = backend.state.number();
    match backend.addr.ip {
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

/// What an entry of a dump says about numbers in use.
pub enum Known {
    /// A service has this number.
    Service(L4Addr, ServiceId),
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
    match *entry {
        MapWrite::Service4(key, Some(value)) if key.backend_slot == 0 => Some(Known::Service(
            addr(v4(key.address), key.dport, key.proto)?,
            ServiceId::new(value.rev_nat_index.host())?,
        )),
        MapWrite::Service6(key, Some(value)) if key.backend_slot == 0 => Some(Known::Service(
            addr(v6(key.address), key.dport, key.proto)?,
            ServiceId::new(value.rev_nat_index.host())?,
        )),
        MapWrite::Backend4(id, Some(value)) => {
            Some(Known::Backend(addr(v4(value.address), value.port, value.proto)?, BackendId::new(id)?))
        }
        MapWrite::Backend6(id, Some(value)) => {
            Some(Known::Backend(addr(v6(value.address), value.port, value.proto)?, BackendId::new(id)?))
        }
        _ => None,
    }
}
