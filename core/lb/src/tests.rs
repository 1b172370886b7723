//! A naive reader of the maps, and what it must find.

mod kubernetes;
mod prefixes;
mod redirects;
mod table;

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::net::IpAddr;

use abi::be::Port;
use abi::lb::{self, LbService};
use abi::write::MapWrite;

use crate::maglev::{Recipe, TableId};
use crate::{Backend, Frontend, L4Addr, Planned, Scope, ServiceName, ServiceSpec, Services, Transport};

fn addr(text: &str, port: u16) -> L4Addr {
    L4Addr { ip: text.parse().expect("a literal"), port, protocol: Transport::Tcp }
}

fn backend(n: u8) -> Backend {
    Backend::new(addr(&alloc::format!("10.0.1.{n}"), 8080))
}

fn spec(frontend: u8, backends: &[u8]) -> ServiceSpec {
    ServiceSpec {
        name: ServiceName { namespace: "default".into(), name: "web".into() },
        ..ServiceSpec::new(
            addr(&alloc::format!("172.16.0.{frontend}"), 80),
            backends.iter().map(|n| backend(*n)).collect(),
        )
    }
}

/// Maps of a kernel, and the Maglev tables that were computed for it.
#[derive(Debug, Clone, Default)]
struct Maps {
    entries: BTreeMap<MapWrite, MapWrite>,
    tables: BTreeMap<u64, Vec<u32>>,
}

/// Where a packet can get to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Seen {
    head: LbService,
    /// By slot.
    backends: BTreeSet<(IpAddr, u16)>,
    /// By the Maglev table, if there is one.
    table: Option<BTreeSet<(IpAddr, u16)>>,
    /// Where clients may come back to.
    affine: BTreeSet<(IpAddr, u16)>,
}

impl Maps {
    fn compute(&mut self, tables: &[(TableId, Arc<Recipe>)]) {
        self.tables.extend(tables.iter().map(|(id, recipe)| (id.as_u64(), recipe.table())));
    }
    fn apply(&mut self, write: MapWrite) {
        if let MapWrite::Maglev4(_, Some(table)) | MapWrite::Maglev6(_, Some(table)) = write {
            assert!(self.tables.contains_key(&table.id), "nobody said what is in table {}", table.id);
        }
        match write.value() {
            Some(_) => self.entries.insert(write.deletion(), write),
            None => self.entries.remove(&write),
        };
    }
    fn carry_out(&mut self, planned: &Planned) {
        self.compute(&planned.tables);
        planned.writes.iter().for_each(|write| self.apply(*write));
    }
    /// An earlier life's tables lie in the kernel under no number: here, under one that a new life does not give.
    fn forget_numbers(&mut self) {
        let above = self.tables.keys().max().copied().unwrap_or_default() + (1 << 32);
        self.tables = self.tables.iter().map(|(id, table)| (id + above, table.clone())).collect();
        for write in self.entries.values_mut() {
            if let MapWrite::Maglev4(_, Some(table)) | MapWrite::Maglev6(_, Some(table)) = write {
                table.id += above;
            }
        }
    }
    fn get(&self, key: MapWrite) -> Option<MapWrite> {
        self.entries.get(&key).copied()
    }

    fn service(&self, key: &Frontend, slot: u16) -> Option<LbService> {
        match self.get(crate::entries::slot(key, slot, None))? {
            MapWrite::Service4(_, value) | MapWrite::Service6(_, value) => value,
            _ => None,
        }
    }
    fn backend(&self, v4: bool, id: u32) -> Option<(IpAddr, u16)> {
        let key = if v4 { MapWrite::Backend4(id, None) } else { MapWrite::Backend6(id, None) };
        match self.get(key)? {
            MapWrite::Backend4(_, Some(value)) => Some((IpAddr::V4(value.address.into()), Port::host(value.port))),
            MapWrite::Backend6(_, Some(value)) => Some((IpAddr::V6(value.address.into()), Port::host(value.port))),
            _ => None,
        }
    }

    /// What a packet to the frontend finds. `None`: no service. Panics where it would find something half made.
    fn look(&self, key: &Frontend) -> Option<Seen> {
        let v4 = key.addr.ip.is_ipv4();
        let head = self.service(key, 0)?;
        let index = head.rev_nat_index;
        let way_back = if v4 { MapWrite::RevNat4(index, None) } else { MapWrite::RevNat6(index, None) };
        assert!(self.get(way_back).is_some(), "a packet could go out whose reply finds no way back");
        let mut seen = Seen { head, ..Seen::default() };
        for slot in 1..=head.count + head.qcount {
            let member = self.service(key, slot).unwrap_or_else(|| panic!("slot {slot} is counted and not there"));
            let end = self.backend(v4, member.backend_id);
            let end = end.unwrap_or_else(|| panic!("slot {slot} names a backend that is not there"));
            if slot <= head.count {
                seen.backends.insert(end);
                let key = lb::LbAffinityMatch { backend_id: member.backend_id, rev_nat_index: index, pad: 0 };
                if self.get(MapWrite::AffinityMatch(key, None)).is_some() {
                    seen.affine.insert(end);
                }
            }
        }
        let table = if v4 { MapWrite::Maglev4(index, None) } else { MapWrite::Maglev6(index, None) };
        if let Some(MapWrite::Maglev4(_, Some(table)) | MapWrite::Maglev6(_, Some(table))) = self.get(table) {
            let ids: BTreeSet<u32> = self.tables[&table.id].iter().copied().collect();
            let end = |id: &u32| self.backend(v4, *id).expect("a table names a backend that is not there");
            seen.table = Some(ids.iter().map(end).collect());
        }
        Some(seen)
    }

    /// Whether the service's ranges let a client in (only IPv4 here).
    fn lets_in(&self, key: &Frontend, client: [u8; 4]) -> Option<bool> {
        let head = self.service(key, 0)?;
        if head.flags & lb::SERVICE_SOURCE_RANGE == 0 {
            return Some(true);
        }
        let covers = |entry: &MapWrite| match entry {
            MapWrite::SourceRange4(range, Some(_)) if range.rev_nat_index == head.rev_nat_index => {
                let bits = range.prefixlen - lb::SOURCE_RANGE_STATIC_BITS;
                let number = |bytes: [u8; 4]| u64::from(u32::from_be_bytes(bytes)) >> (32 - bits);
                number(core::net::Ipv4Addr::from(range.addr).octets()) == number(client)
            }
            _ => false,
        };
        Some(self.entries.values().any(covers))
    }
}

fn key(frontend: &L4Addr) -> Frontend {
    Frontend { addr: *frontend, scope: Scope::External }
}

/// The maps hold exactly what the table says.
fn assert_same(maps: &Maps, services: &Services) {
    let all: BTreeMap<MapWrite, MapWrite> = services.entries().map(|write| (write.deletion(), write)).collect();
    assert_eq!(maps.entries, all, "maps and table differ");
}
