//! The maps beside the services: backends, reverse NAT, source ranges, affinity, Maglev tables.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use abi::lb::SOURCE_RANGE_STATIC_BITS;
use loader::{MaglevTables, Maps};
use serde_json::json;

use super::{Backend, protocol, state_name};
use crate::CliError;
use crate::output::{Screen, Table};

pub(super) fn backends(known: &BTreeMap<(bool, u32), Backend>, screen: &mut Screen<'_>) -> Result<(), CliError> {
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

pub(super) fn reverse_nat(maps: &Maps, screen: &mut Screen<'_>) -> Result<(), CliError> {
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

pub(super) fn source_ranges(maps: &Maps, screen: &mut Screen<'_>) -> Result<(), CliError> {
    let bits = |prefixlen: u32| prefixlen.saturating_sub(SOURCE_RANGE_STATIC_BITS);
    let mut rows: Vec<(u16, IpAddr, u32)> = Vec::new();
    for (key, _) in maps.lb4_source_range.entries()? {
        rows.push((key.rev_nat_index.host(), IpAddr::V4(Ipv4Addr::from(key.addr)), bits(key.prefixlen)));
    }
    for (key, _) in maps.lb6_source_range.entries()? {
        rows.push((key.rev_nat_index.host(), IpAddr::V6(Ipv6Addr::from(key.addr)), bits(key.prefixlen)));
    }
    rows.sort();
    let value: Vec<_> =
        rows.iter().map(|(id, ip, bits)| json!({ "revNat": id, "range": format!("{ip}/{bits}") })).collect();
    screen.show(&value, || {
        let mut table = Table::new(["SERVICE ID", "SOURCE RANGE"]);
        for (id, ip, bits) in &rows {
            table.row([id.to_string(), format!("{ip}/{bits}")]);
        }
        table
    })
}

/// Who comes back to which backend, and which backends that is allowed for.
pub(super) fn affinity(maps: &Maps, screen: &mut Screen<'_>) -> Result<(), CliError> {
    let mut clients: Vec<(u16, String, u32, u64)> = Vec::new();
    for (key, value) in maps.lb4_affinity.entries()? {
        let bytes = key.client.to_ne_bytes();
        let client = match key.netns_cookie {
            0 => Ipv4Addr::new(bytes[0], bytes[1], bytes[2], bytes[3]).to_string(),
            _ => format!("network namespace {}", key.client),
        };
        clients.push((key.rev_nat_index.host(), client, value.backend_id, value.last_used));
    }
    for (key, value) in maps.lb6_affinity.entries()? {
        let address = Ipv6Addr::from(abi::be::Addr6::from(key.client));
        let client = match key.netns_cookie {
            0 => address.to_string(),
            _ => format!("network namespace {}", cookie(address)),
        };
        clients.push((key.rev_nat_index.host(), client, value.backend_id, value.last_used));
    }
    clients.sort();
    let mut allowed: BTreeMap<u16, Vec<u32>> = BTreeMap::new();
    for (key, _) in maps.lb_affinity_match.entries()? {
        allowed.entry(key.rev_nat_index.host()).or_default().push(key.backend_id);
    }
    allowed.values_mut().for_each(|list| list.sort_unstable());
    let value = json!({
        "clients": clients.iter().map(|(id, client, backend, used)| json!({
            "revNat": id, "client": client, "backend": backend, "lastUsedSeconds": used,
        })).collect::<Vec<_>>(),
        "backends": allowed.iter().map(|(id, list)| json!({ "revNat": id, "backends": list })).collect::<Vec<_>>(),
    });
    screen.show(&value, || {
        let mut table = Table::new(["SERVICE ID", "BACKENDS", "CLIENT", "BACKEND", "LAST USED"]);
        for (id, list) in &allowed {
            let list = list.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
            table.row([id.to_string(), list, String::new(), String::new(), String::new()]);
        }
        for (id, client, backend, used) in &clients {
            table.row([id.to_string(), String::new(), client.clone(), backend.to_string(), format!("{used}s")]);
        }
        table
    })
}

/// A namespace's cookie in the place of an address: a word in the machine's order.
fn cookie(address: Ipv6Addr) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = address.octets();
    u64::from_ne_bytes([a, b, c, d, e, f, g, h])
}

/// How many places each backend has; of one service, or of all.
pub(super) fn maglev(maps: &Maps, wanted: Option<u16>, screen: &mut Screen<'_>) -> Result<(), CliError> {
    let mut rows: Vec<(u16, &'static str, Vec<u32>)> = Vec::new();
    for (tables, family) in [(&maps.lb4_maglev, "IPv4"), (&maps.lb6_maglev, "IPv6")] {
        read(tables, family, wanted, &mut rows)?;
    }
    if let Some(id) = wanted.filter(|_| rows.is_empty()) {
        return Err(CliError::NotFound(format!("service {id} has no Maglev table; see cilium bpf lb maglev list")));
    }
    rows.sort();
    let shares = |table: &[u32]| {
        let mut shares: BTreeMap<u32, usize> = BTreeMap::new();
        table.iter().for_each(|id| *shares.entry(*id).or_default() += 1);
        shares
    };
    let value: Vec<_> = rows
        .iter()
        .map(|(id, family, table)| {
            let shares: BTreeMap<String, usize> =
                shares(table).into_iter().map(|(id, n)| (id.to_string(), n)).collect();
            let whole = wanted.map(|_| table);
            json!({ "revNat": id, "family": family, "places": table.len(), "backends": shares, "table": whole })
        })
        .collect();
    screen.show(&value, || {
        let mut table = Table::new(["SERVICE ID", "FAMILY", "PLACES", "BACKEND=PLACES"]);
        for (id, family, places) in &rows {
            let list: Vec<String> = shares(places).into_iter().map(|(id, count)| format!("{id}={count}")).collect();
            let lines: Vec<String> = list.chunks(8).map(|chunk| chunk.join(" ")).collect();
            table.row([id.to_string(), (*family).into(), places.len().to_string(), lines.join("\n")]);
        }
        table
    })
}

fn read(
    tables: &MaglevTables,
    family: &'static str,
    wanted: Option<u16>,
    rows: &mut Vec<(u16, &'static str, Vec<u32>)>,
) -> Result<(), CliError> {
    for index in tables.indexes()? {
        if wanted.is_none_or(|wanted| wanted == index.host())
            && let Some(table) = tables.get(index)?
        {
            rows.push((index.host(), family, table));
        }
    }
    Ok(())
}
