//! `cilium bpf nat`: source NAT as the kernel has it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use abi::be::{Addr6, Port};
use abi::nat::{SNAT_IN, SNAT_NEEDS_CT};
use loader::Maps;
use serde::Serialize;

use super::policy::protocol;
use crate::CliError;
use crate::arguments::BpfNat;
use crate::output::{Screen, Table};

/// One translation.
#[derive(Debug, Serialize)]
struct Row {
    protocol: String,
    direction: &'static str,
    source: SocketAddr,
    destination: SocketAddr,
    /// The new destination of what comes in, the new source of what goes out.
    to: SocketAddr,
    #[serde(rename = "createdSeconds")]
    created: u64,
    #[serde(rename = "needsCT")]
    needs_ct: bool,
    #[serde(rename = "revNat")]
    rev_nat: u16,
}

pub(super) fn run(maps: &Maps, command: &BpfNat, screen: &mut Screen<'_>) -> Result<(), CliError> {
    match command {
        BpfNat::List => show(&rows(maps)?, screen),
        BpfNat::Get { end } => {
            let end: SocketAddr = end.parse().map_err(|_| {
                CliError::Invalid(format!("{end:?} is no address and port such as 10.0.0.1:80 or [fd00::1]:80"))
            })?;
            let mut rows = rows(maps)?;
            rows.retain(|row| [row.source, row.destination, row.to].contains(&end));
            if rows.is_empty() {
                return Err(CliError::NotFound(format!(
                    "nothing is translated from or to {end}; see cilium bpf nat list"
                )));
            }
            show(&rows, screen)
        }
        BpfNat::Flush => {
            let removed = maps.snat4.clear()? + maps.snat6.clear()?;
            if screen.is_json() {
                return screen.json(&serde_json::json!({ "removed": removed }));
            }
            screen.line(&format!("{removed} translations are removed"))
        }
    }
}

fn show(rows: &[Row], screen: &mut Screen<'_>) -> Result<(), CliError> {
    screen.show(&rows, || {
        let mut table = Table::without_headings();
        for row in rows {
            let what = if row.direction == "IN" { "XLATE_DST" } else { "XLATE_SRC" };
            table.row([
                format!("{} {}", row.protocol, row.direction),
                format!("{} -> {}", row.source, row.destination),
                format!("{what} {}", row.to),
                format!("Created={}s", row.created),
                format!("NeedsCT={}", u8::from(row.needs_ct)),
                if row.rev_nat == 0 { String::new() } else { format!("RevNAT={}", row.rev_nat) },
            ]);
        }
        table
    })
}

fn rows(maps: &Maps) -> Result<Vec<Row>, CliError> {
    let mut rows = Vec::new();
    for (key, entry) in maps.snat4.entries()? {
        let ip = |addr| IpAddr::V4(Ipv4Addr::from(addr));
        let (from, to) = (end(ip(key.saddr), key.sport), end(ip(key.daddr), key.dport));
        rows.push(Row {
            created: entry.created,
            needs_ct: entry.needs_ct & SNAT_NEEDS_CT != 0,
            rev_nat: entry.rev_nat_index.host(),
            ..row(key.nexthdr, key.flags, [from, to, end(ip(entry.to_addr), entry.to_port)])
        });
    }
    for (key, entry) in maps.snat6.entries()? {
        let ip = |addr: Addr6| IpAddr::V6(Ipv6Addr::from(addr));
        let (from, to) = (end(ip(key.saddr.into()), key.sport), end(ip(key.daddr.into()), key.dport));
        rows.push(Row {
            created: entry.created,
            needs_ct: entry.needs_ct & SNAT_NEEDS_CT != 0,
            rev_nat: entry.rev_nat_index.host(),
            ..row(key.nexthdr, key.flags, [from, to, end(ip(entry.to_addr), entry.to_port)])
        });
    }
    rows.sort_by(|a, b| {
        (&a.protocol, a.direction, a.source, a.destination).cmp(&(&b.protocol, b.direction, b.source, b.destination))
    });
    Ok(rows)
}

fn end(ip: IpAddr, port: Port) -> SocketAddr {
    SocketAddr::new(ip, port.host())
}

fn row(number: u8, flags: u8, [source, destination, to]: [SocketAddr; 3]) -> Row {
    let direction = if flags & SNAT_IN != 0 { "IN" } else { "OUT" };
    Row { protocol: protocol(number), direction, source, destination, to, created: 0, needs_ct: false, rev_nat: 0 }
}
