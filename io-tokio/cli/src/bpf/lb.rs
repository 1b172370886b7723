//! `cilium bpf lb`: services and backends as the kernel has them.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use abi::lb::{BACKEND_ACTIVE, BACKEND_QUARANTINED, BACKEND_TERMINATING, LbService};
use loader::Maps;
use serde_json::json;

use super::policy::protocol;
use crate::CliError;
use crate::arguments::BpfLb;
use crate::output::{Screen, Table};

/// Frontend, protocol and slot.
type Slot = (SocketAddr, u8, u16);
/// Address, protocol and state.
type Backend = (SocketAddr, u8, u8);

pub(super) fn run(maps: &Maps, command: &BpfLb, screen: &mut Screen<'_>) -> Result<(), CliError> {
    let BpfLb::List { backends, frontends, revnat } = command;
    if *revnat {
        return reverse_nat(maps, screen);
    }
    let known = known_backends(maps)?;
    if *backends {
        return list_backends(&known, screen);
    }
    let slots = slots(maps)?;
    let fronts: Vec<_> = slots.iter().filter(|((_, _, slot), _)| *slot == 0).collect();
    let of = |front: &SocketAddr, proto: u8| -> Vec<String> {
        slots
            .range((*front, proto, 1)..=(*front, proto, u16::MAX))
            .map(|((_, _, slot), service)| match known.get(&(front.is_ipv4(), service.backend_id)) {
                Some((addr, proto, state)) => {
                    let state = state_name(*state);
                    format!("{addr}/{} ({}) ({slot}) ({state})", protocol(*proto), service.backend_id)
                }
                None => format!("backend {} does not exist ({slot})", service.backend_id),
            })
            .collect()
    };
    let value: Vec<_> = fronts
        .iter()
        .map(|((front, proto, _), service)| {
            json!({
                "frontend": front.to_string(), "protocol": protocol(*proto), "revNat": service.rev_nat_index.host(),
                "count": service.count, "backends": of(front, *proto),
            })
        })
        .collect();
    screen.show(&value, || {
        let mut table = Table::new(["SERVICE ADDRESS", "BACKEND ADDRESS (ID) (SLOT) (STATE)"]);
        for ((front, proto, _), service) in &fronts {
            let head = format!("{front}/{} ({})", protocol(*proto), service.rev_nat_index.host());
            table.row([head, if *frontends { String::new() } else { of(front, *proto).join("\n") }]);
        }
        table
    })
}

fn slots(maps: &Maps) -> Result<BTreeMap<Slot, LbService>, CliError> {
    let mut out = BTreeMap::new();
    for (key, service) in maps.lb4_services.entries()? {
        let front = SocketAddr::new(IpAddr::V4(Ipv4Addr::from(key.address)), key.dport.host());
        out.insert((front, key.proto, key.backend_slot), service);
    }
    for (key, service) in maps.lb6_services.entries()? {
        let front = SocketAddr::new(IpAddr::V6(Ipv6Addr::from(key.address)), key.dport.host());
        out.insert((front, key.proto, key.backend_slot), service);
    }
    Ok(out)
}

/// By family (IPv4 is true) and id.
fn known_backends(maps: &Maps) -> Result<BTreeMap<(bool, u32), Backend>, CliError> {
    let mut out = BTreeMap::new();
    for (id, backend) in maps.lb4_backends.entries()? {
        let at = SocketAddr::new(IpAddr::V4(Ipv4Addr::from(backend.address)), backend.port.host());
        out.insert((true, id), (at, backend.proto, backend.flags));
    }
    for (id, backend) in maps.lb6_backends.entries()? {
        let at = SocketAddr::new(IpAddr::V6(Ipv6Addr::from(backend.address)), backend.port.host());
        out.insert((false, id), (at, backend.proto, backend.flags));
    }
    Ok(out)
}

fn state_name(flags: u8) -> &'static str {
    match flags {
        BACKEND_ACTIVE => "active",
        BACKEND_TERMINATING => "terminating",
        BACKEND_QUARANTINED => "quarantined",
        _ => "maintenance",
    }
}

fn list_backends(known: &BTreeMap<(bool, u32), Backend>, screen: &mut Screen<'_>) -> Result<(), CliError> {
    let value: Vec<_> = known
        .iter()
        .map(|((_, id), (at, proto, state))| {
            json!({ "id": id, "address": at.to_string(), "protocol": protocol(*proto), "state": state_name(*state) })
        })
        .collect();
    screen.show(&value, || {
        let mut table = Table::new(["ID", "BACKEND ADDRESS", "STATE"]);
        for ((_, id), (at, proto, state)) in known {
            table.row([id.to_string(), format!("{at}/{}", protocol(*proto)), state_name(*state).into()]);
        }
        table
    })
}

fn reverse_nat(maps: &Maps, screen: &mut Screen<'_>) -> Result<(), CliError> {
    let mut rows: Vec<(u16, SocketAddr)> = Vec::new();
    for (index, front) in maps.lb4_reverse_nat.entries()? {
        rows.push((index.host(), SocketAddr::new(IpAddr::V4(Ipv4Addr::from(front.address)), front.port.host())));
    }
    for (index, front) in maps.lb6_reverse_nat.entries()? {
        rows.push((index.host(), SocketAddr::new(IpAddr::V6(Ipv6Addr::from(front.address)), front.port.host())));
    }
    rows.sort();
    let value: Vec<_> = rows.iter().map(|(id, front)| json!({ "id": id, "frontend": front.to_string() })).collect();
    screen.show(&value, || {
        let mut table = Table::new(["ID", "FRONTEND"]);
        for (id, front) in &rows {
            table.row([id.to_string(), front.to_string()]);
        }
        table
    })
}
