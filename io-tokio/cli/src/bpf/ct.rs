//! `cilium bpf ct`: connections as the kernel tracks them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use abi::ct::Connection;
use abi::ct::{
    CT_AUDITED, CT_INBOUND, CT_LB_LOOPBACK, CT_RX_CLOSING, CT_SEEN_NON_SYN, CT_SERVICE, CT_TX_CLOSING, CtEntry4,
    CtEntry6, CtKey4, CtKey6, SIDE_A,
};
use loader::Maps;
use serde::Serialize;

use super::policy::protocol;
use crate::CliError;
use crate::arguments::BpfCt;
use crate::output::{Screen, Table};

/// One connection, seen from the local endpoint.
#[derive(Debug, Serialize)]
struct Row {
    protocol: String,
    direction: &'static str,
    local: SocketAddr,
    remote: SocketAddr,
    #[serde(rename = "expiresSeconds")]
    expires: u32,
    /// From now; below 0: it ended and is not swept yet. `None`: nobody asked.
    #[serde(rename = "remainingSeconds", skip_serializing_if = "Option::is_none")]
    remaining: Option<i64>,
    #[serde(rename = "sourceIdentity")]
    source_identity: u32,
    #[serde(rename = "peerIdentity")]
    peer_identity: u32,
    #[serde(rename = "policyRevision")]
    policy_revision: u32,
    #[serde(rename = "revNat")]
    rev_nat: u16,
    backend: u32,
    #[serde(rename = "txFlags")]
    tx_flags: u8,
    #[serde(rename = "rxFlags")]
    rx_flags: u8,
    flags: Vec<&'static str>,
}

pub(super) fn run(maps: &Maps, command: &BpfCt, screen: &mut Screen<'_>) -> Result<(), CliError> {
    match command {
        BpfCt::List { scope, endpoint, time_diff } => {
            let whose = whose(maps, "list", scope, *endpoint)?;
            let mut rows = rows(maps)?;
            rows.retain(|row| whose.as_ref().is_none_or(|addresses| addresses.contains(&row.local.ip())));
            if *time_diff {
                let now = monotonic_seconds();
                rows.iter_mut().for_each(|row| row.remaining = Some(i64::from(row.expires) - now));
            }
            show(rows, screen)
        }
        BpfCt::Get { end } => {
            let found: Box<dyn Fn(&SocketAddr) -> bool> = match (end.parse::<SocketAddr>(), end.parse::<IpAddr>()) {
                (Ok(end), _) => Box::new(move |have| *have == end),
                (_, Ok(ip)) => Box::new(move |have| have.ip() == ip),
                _ => {
                    let why = format!("{end:?} is neither an address nor an address and port such as 10.0.0.1:80");
                    return Err(CliError::Invalid(why));
                }
            };
            let mut rows = rows(maps)?;
            rows.retain(|row| found(&row.local) || found(&row.remote));
            if rows.is_empty() {
                return Err(CliError::NotFound(format!("there is no connection of {end}; see cilium bpf ct list")));
            }
            show(rows, screen)
        }
        BpfCt::Flush { scope, endpoint } => {
            let removed = match whose(maps, "flush", scope, *endpoint)? {
                None => maps.ct4.clear()? + maps.ct_any4.clear()? + maps.ct6.clear()? + maps.ct_any6.clear()?,
                Some(addresses) => flush(maps, &addresses)?,
            };
            if screen.is_json() {
                return screen.json(&serde_json::json!({ "removed": removed }));
            }
            screen.line(&format!("{removed} connections are removed"))
        }
    }
}

/// The clock of the programs, by which connections end.
fn monotonic_seconds() -> i64 {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC);
    now.expect("Linux always has a monotonic clock").tv_sec()
}

/// The addresses whose connections are meant; `None`: everybody's.
fn whose(maps: &Maps, verb: &str, scope: &str, endpoint: Option<u16>) -> Result<Option<Vec<IpAddr>>, CliError> {
    if scope != "endpoint" {
        return Ok(None);
    }
    let wanted =
        endpoint.ok_or_else(|| CliError::Invalid(format!("say which: cilium bpf ct {verb} endpoint NUMBER")))?;
    let own = |info: &abi::endpoint::EndpointInfo| info.lxc_id == wanted;
    let lxc = maps.lxc.entries()?;
    let addresses: Vec<IpAddr> = lxc.iter().filter(|(_, info)| own(info)).filter_map(|(key, _)| key.ip()).collect();
    if addresses.is_empty() {
        return Err(CliError::NotFound(format!("the kernel knows no endpoint {wanted}; see cilium bpf endpoint list")));
    }
    Ok(Some(addresses))
}

fn flush(maps: &Maps, addresses: &[IpAddr]) -> Result<usize, CliError> {
    let mut removed = 0;
    for table in [&maps.ct4, &maps.ct_any4] {
        for entry in table.entries()?.iter().filter(|entry| addresses.contains(&row4(entry).local.ip())) {
            removed += usize::from(table.remove(&entry.0)?);
        }
    }
    for table in [&maps.ct6, &maps.ct_any6] {
        for entry in table.entries()?.iter().filter(|entry| addresses.contains(&row6(entry).local.ip())) {
            removed += usize::from(table.remove(&entry.0)?);
        }
    }
    Ok(removed)
}

fn rows(maps: &Maps) -> Result<Vec<Row>, CliError> {
    let mut rows = Vec::new();
    rows.extend(maps.ct4.entries()?.iter().chain(&maps.ct_any4.entries()?).map(row4));
    rows.extend(maps.ct6.entries()?.iter().chain(&maps.ct_any6.entries()?).map(row6));
    Ok(rows)
}

fn show(mut rows: Vec<Row>, screen: &mut Screen<'_>) -> Result<(), CliError> {
    rows.sort_by(|a, b| (&a.protocol, a.local, a.remote).cmp(&(&b.protocol, b.local, b.remote)));
    screen.show(&rows, || {
        let mut table = Table::without_headings();
        for row in &rows {
            table.row([
                format!("{} {}", row.protocol, row.direction),
                format!("{} {} {}", row.local, if row.direction == "IN" { "<-" } else { "->" }, row.remote),
                row.remaining.map_or_else(|| format!("expires={}", row.expires), |left| format!("expires={left}s")),
                format!("SourceSecurityID={}", row.source_identity),
                format!("PeerSecurityID={}", row.peer_identity),
                format!("RevNAT={} BackendID={}", row.rev_nat, row.backend),
                format!("TxFlags=0x{:02x} RxFlags=0x{:02x}", row.tx_flags, row.rx_flags),
                format!("Flags=[{}]", row.flags.join(" ")),
            ]);
        }
        table
    })
}

fn row4((key, entry): &(CtKey4, CtEntry4)) -> Row {
    let ip = |addr| IpAddr::V4(Ipv4Addr::from(addr));
    let (a, b) = (SocketAddr::new(ip(key.a), key.a_port.host()), SocketAddr::new(ip(key.b), key.b_port.host()));
    row(key.protocol, key.side, a, b, &entry.connection)
}

fn row6((key, entry): &(CtKey6, CtEntry6)) -> Row {
    let ip = |addr| IpAddr::V6(Ipv6Addr::from(addr));
    let (a, b) = (SocketAddr::new(ip(key.a), key.a_port.host()), SocketAddr::new(ip(key.b), key.b_port.host()));
    row(key.protocol, key.side, a, b, &entry.connection)
}

fn row(number: u8, side: u8, a: SocketAddr, b: SocketAddr, connection: &Connection) -> Row {
    let (local, remote) = if side == SIDE_A { (a, b) } else { (b, a) };
    let has = |bit| connection.flags & bit != 0;
    let names = [
        (CT_RX_CLOSING, "RxClosing"),
        (CT_TX_CLOSING, "TxClosing"),
        (CT_LB_LOOPBACK, "LBLoopback"),
        (CT_SEEN_NON_SYN, "SeenNonSyn"),
        (CT_AUDITED, "Audited"),
    ];
    Row {
        protocol: protocol(number),
        direction: match (has(CT_SERVICE), has(CT_INBOUND)) {
            (true, _) => "SVC",
            (_, true) => "IN",
            _ => "OUT",
        },
        local,
        remote,
        expires: connection.lifetime,
        remaining: None,
        source_identity: connection.source_identity,
        peer_identity: connection.peer_identity,
        policy_revision: connection.policy_revision,
        rev_nat: connection.rev_nat_index.host(),
        backend: connection.backend_id,
        tx_flags: connection.tx_flags_seen,
        rx_flags: connection.rx_flags_seen,
        flags: names.into_iter().filter(|(bit, _)| has(*bit)).map(|(_, name)| name).collect(),
    }
}
