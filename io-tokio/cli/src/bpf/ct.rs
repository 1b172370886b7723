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

pub(super) fn run(
    maps: &Maps,
    BpfCt::List { scope, endpoint }: &BpfCt,
    screen: &mut Screen<'_>,
) -> Result<(), CliError> {
    let mut rows = Vec::new();
    rows.extend(maps.ct4.entries()?.iter().chain(&maps.ct_any4.entries()?).map(row4));
    rows.extend(maps.ct6.entries()?.iter().chain(&maps.ct_any6.entries()?).map(row6));
    if scope == "endpoint" {
        let wanted =
            endpoint.ok_or_else(|| CliError::Invalid("say which: cilium bpf ct list endpoint NUMBER".into()))?;
        let own = |info: &abi::endpoint::EndpointInfo| info.lxc_id == wanted;
        let lxc = maps.lxc.entries()?;
        let addresses: Vec<IpAddr> = lxc.iter().filter(|(_, info)| own(info)).filter_map(|(key, _)| key.ip()).collect();
        if addresses.is_empty() {
            return Err(CliError::NotFound(format!(
                "the kernel knows no endpoint {wanted}; see cilium bpf endpoint list"
            )));
        }
        rows.retain(|row| addresses.contains(&row.local.ip()));
    }
    rows.sort_by(|a, b| (&a.protocol, a.local, a.remote).cmp(&(&b.protocol, b.local, b.remote)));
    screen.show(&rows, || {
        let mut table = Table::without_headings();
        for row in &rows {
            table.row([
                format!("{} {}", row.protocol, row.direction),
                format!("{} {} {}", row.local, if row.direction == "IN" { "<-" } else { "->" }, row.remote),
                format!("expires={}", row.expires),
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
