//! Services as map writes, for tests that put the same ones into the simulator and into the kernel.

use std::net::{IpAddr, SocketAddr};

use abi::be::Port;
use abi::lb::{
    BACKEND_ACTIVE, LbAffinityMatch, LbBackend4, LbBackend6, LbKey4, LbKey6, LbRevNat4, LbRevNat6, LbService,
    SERVICE_AFFINITY, SERVICE_TWO_SCOPES,
};
use abi::write::MapWrite;

/// A service's frontend with its backends.
#[derive(Debug, Clone)]
pub struct Frontend {
    /// Where clients go.
    pub at: SocketAddr,
    /// IP protocol; 0: any.
    pub proto: u8,
    /// Reverse NAT index.
    pub id: u16,
    /// `SERVICE_*` bits of `flags`, and of `flags2`.
    pub flags: (u8, u8),
    /// Seconds of session affinity; 0: none.
    pub affinity: u32,
    /// Backend ids, addresses and states.
    pub backends: Vec<(u32, SocketAddr, u8)>,
    /// Backends of the internal scope, where they are others.
    pub inner: Option<Vec<u32>>,
}

impl Frontend {
    /// A ClusterIP with active backends numbered by `id`.
    pub fn new(at: SocketAddr, proto: u8, id: u16, backends: &[SocketAddr]) -> Self {
        let numbered = (0..).zip(backends).map(|(n, at)| (u32::from(id) * 100 + n, *at, BACKEND_ACTIVE));
        Self { at, proto, id, flags: (0, 0), affinity: 0, backends: numbered.collect(), inner: None }
    }

    /// The writes that make it: backends, slots, then heads.
    pub fn writes(&self) -> Vec<MapWrite> {
        let mut out: Vec<MapWrite> = self.backends.iter().map(|(id, at, state)| backend(*id, *at, *state)).collect();
        out.push(reverse_nat(self.id, self.at));
        if self.affinity > 0 {
            out.extend(self.backends.iter().map(|(id, ..)| affinity_match(*id, self.id)));
        }
        let active = self.backends.iter().filter(|(.., state)| *state == BACKEND_ACTIVE).map(|(id, ..)| *id);
        self.scope(0, &active.collect::<Vec<_>>(), &mut out);
        if let Some(inner) = &self.inner {
            self.scope(1, inner, &mut out);
        }
        out
    }

    fn scope(&self, scope: u8, members: &[u32], out: &mut Vec<MapWrite>) {
        let (flags, mut flags2) = self.flags;
        if self.inner.is_some() {
            flags2 |= SERVICE_TWO_SCOPES;
        }
        let rev_nat_index = Port::new(self.id);
        for (slot, id) in (1..).zip(members) {
            let value = LbService { backend_id: *id, rev_nat_index, ..LbService::default() };
            out.push(service(self.at, self.proto, slot, scope, Some(value)));
        }
        let head = LbService {
            backend_id: self.affinity,
            count: members.len() as u16,
            rev_nat_index,
            flags: flags | if self.affinity > 0 { SERVICE_AFFINITY } else { 0 },
            flags2,
            qcount: 0,
        };
        out.push(service(self.at, self.proto, 0, scope, Some(head)));
    }

    /// The writes that take it away again.
    pub fn deletions(&self) -> Vec<MapWrite> {
        self.writes().iter().rev().map(MapWrite::deletion).collect()
    }
}

/// Slot 0 or a member of a service.
pub fn service(at: SocketAddr, proto: u8, slot: u16, scope: u8, value: Option<LbService>) -> MapWrite {
    let dport = Port::new(at.port());
    match at.ip() {
        IpAddr::V4(ip) => {
            MapWrite::Service4(LbKey4 { address: ip.into(), dport, backend_slot: slot, proto, scope, pad: 0 }, value)
        }
        IpAddr::V6(ip) => {
            MapWrite::Service6(LbKey6 { address: ip.into(), dport, backend_slot: slot, proto, scope, pad: 0 }, value)
        }
    }
}

/// A backend.
pub fn backend(id: u32, at: SocketAddr, flags: u8) -> MapWrite {
    let port = Port::new(at.port());
    match at.ip() {
        IpAddr::V4(ip) => {
            MapWrite::Backend4(id, Some(LbBackend4 { address: ip.into(), port, flags, ..LbBackend4::default() }))
        }
        IpAddr::V6(ip) => {
            MapWrite::Backend6(id, Some(LbBackend6 { address: ip.into(), port, flags, ..LbBackend6::default() }))
        }
    }
}

fn reverse_nat(id: u16, at: SocketAddr) -> MapWrite {
    let (index, port) = (Port::new(id), Port::new(at.port()));
    match at.ip() {
        IpAddr::V4(ip) => MapWrite::RevNat4(index, Some(LbRevNat4 { address: ip.into(), port, pad: 0 })),
        IpAddr::V6(ip) => MapWrite::RevNat6(index, Some(LbRevNat6 { address: ip.into(), port, pad: 0 })),
    }
}

/// A backend serves a service with session affinity.
pub fn affinity_match(backend_id: u32, service: u16) -> MapWrite {
    MapWrite::AffinityMatch(LbAffinityMatch { backend_id, rev_nat_index: Port::new(service), pad: 0 }, Some(1))
}
