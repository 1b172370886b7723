//! `cilium bpf`: what the kernel's maps hold, read from their pins and nowhere else.

mod ct;
mod lb;
pub(crate) mod map;
mod nat;
mod policy;

use api::client::Client;
use loader::{Access, Maps, maps_directory};
use serde_json::json;

use crate::arguments::{BpfCommand, BpfCt, BpfEndpoint, BpfIpcache, BpfLb, BpfMetrics, BpfNat};
use crate::output::{Screen, Table};
use crate::{Arguments, CliError};

pub(crate) fn open(arguments: &Arguments) -> Result<Maps, CliError> {
    Ok(Maps::open_pinned(&maps_directory(&arguments.bpf_root), Access::ReadOnly)?)
}

pub(crate) fn run(
    client: &Client,
    arguments: &Arguments,
    command: &BpfCommand,
    screen: &mut Screen<'_>,
) -> Result<(), CliError> {
    let changes = matches!(command, BpfCommand::Nat(BpfNat::Flush) | BpfCommand::Ct(BpfCt::Flush { .. }));
    let access = if changes { Access::ReadWrite } else { Access::ReadOnly };
    let maps = Maps::open_pinned(&maps_directory(&arguments.bpf_root), access)?;
    match command {
        BpfCommand::Endpoint(BpfEndpoint::List) => endpoints(&maps, None, screen),
        BpfCommand::Endpoint(BpfEndpoint::Get { address }) => endpoints(&maps, Some(*address), screen),
        BpfCommand::Ipcache(BpfIpcache::List) => ipcache(&maps, screen),
        BpfCommand::Ipcache(BpfIpcache::Get { address }) => ipcache_get(&maps, *address, screen),
        BpfCommand::Policy(command) => policy::run(client, &maps, command, screen),
        BpfCommand::Ct(command) => ct::run(&maps, command, screen),
        BpfCommand::Lb(command) => lb::run(&maps, command, screen),
        BpfCommand::Nat(command) => nat::run(&maps, command, screen),
        BpfCommand::Metrics(BpfMetrics::List) => metrics(&maps, None, screen),
        BpfCommand::Metrics(BpfMetrics::Get { reason }) => metrics(&maps, Some(reason), screen),
    }
}

/// `cilium lb`
pub(crate) fn lb(arguments: &Arguments, command: &BpfLb, screen: &mut Screen<'_>) -> Result<(), CliError> {
    lb::run(&open(arguments)?, command, screen)
}

fn mac(bytes: &[u8; 8]) -> String {
    bytes[..6].iter().map(|b| format!("{b:02x}")).collect::<Vec<_>>().join(":")
}

fn endpoints(maps: &Maps, wanted: Option<std::net::IpAddr>, screen: &mut Screen<'_>) -> Result<(), CliError> {
    let mut rows: Vec<_> = maps.lxc.entries()?.into_iter().filter_map(|(key, info)| Some((key.ip()?, info))).collect();
    if let Some(address) = wanted {
        rows.retain(|(ip, _)| *ip == address);
        if rows.is_empty() {
            let why = format!("{address} is no address of this node's endpoints; see cilium bpf endpoint list");
            return Err(CliError::NotFound(why));
        }
    }
    rows.sort_by_key(|(ip, _)| *ip);
    let value: Vec<_> = rows
        .iter()
        .map(|(ip, info)| {
            json!({
                "ip": ip, "id": info.lxc_id, "identity": info.identity, "ifindex": info.ifindex,
                "mac": mac(&info.mac), "nodeMac": mac(&info.node_mac),
                "host": info.flags & abi::endpoint::ENDPOINT_HOST != 0,
            })
        })
        .collect();
    screen.show(&value, || {
        let mut table = Table::new(["IP ADDRESS", "LOCAL ENDPOINT INFO"]);
        for (ip, info) in &rows {
            let text = if info.flags & abi::endpoint::ENDPOINT_HOST != 0 {
                "(localhost)".to_owned()
            } else {
                format!(
                    "id={} sec_id={} flags=0x{:04X} ifindex={} mac={} nodemac={}",
                    info.lxc_id,
                    info.identity,
                    info.flags,
                    info.ifindex,
                    mac(&info.mac),
                    mac(&info.node_mac)
                )
            };
            table.row([ip.to_string(), text]);
        }
        table
    })
}

fn ipcache(maps: &Maps, screen: &mut Screen<'_>) -> Result<(), CliError> {
    let prefixed = |(key, entry): (abi::ipcache::IpcacheKey, abi::ipcache::IpcacheEntry)| Some((key.prefix()?, entry));
    let mut rows: Vec<_> = maps.ipcache.entries()?.into_iter().filter_map(prefixed).collect();
    rows.sort_by_key(|(prefix, _)| *prefix);
    let value: Vec<_> = rows.iter().map(|((ip, bits), entry)| ipcache_value(&format!("{ip}/{bits}"), entry)).collect();
    screen.show(&value, || {
        let mut table =
            Table::new(["IP PREFIX/ADDRESS", "IDENTITY", "CLASS", "TUNNEL ENDPOINT", "ENCRYPT KEY", "FLAGS"]);
        for ((ip, bits), entry) in &rows {
            let flags = if entry.flags & abi::ipcache::IPCACHE_SKIP_TUNNEL != 0 { "skiptunnel" } else { "" };
            table.row([
                format!("{ip}/{bits}"),
                entry.identity.to_string(),
                entry.class.to_string(),
                std::net::Ipv4Addr::from(entry.tunnel_endpoint).to_string(),
                entry.key.to_string(),
                flags.to_owned(),
            ]);
        }
        table
    })
}

fn ipcache_value(prefix: &str, entry: &abi::ipcache::IpcacheEntry) -> serde_json::Value {
    json!({
        "prefix": prefix, "identity": entry.identity, "class": entry.class,
        "tunnelEndpoint": std::net::Ipv4Addr::from(entry.tunnel_endpoint), "encryptKey": entry.key,
        "flags": entry.flags,
    })
}

fn ipcache_get(maps: &Maps, address: std::net::IpAddr, screen: &mut Screen<'_>) -> Result<(), CliError> {
    use abi::ipcache::IpcacheKey;
    let key = match address {
        std::net::IpAddr::V4(ip) => IpcacheKey::v4(ip.into(), 32),
        std::net::IpAddr::V6(ip) => IpcacheKey::v6(ip.into(), 128),
    };
    let Some(entry) = maps.ipcache.get(&key)? else {
        return Err(CliError::NotFound(format!("{address} is in no prefix of the ipcache; it counts as world")));
    };
    if screen.is_json() {
        return screen.json(&ipcache_value(&address.to_string(), &entry));
    }
    screen.line(&format!("{address} maps to identity={} class={} flags={}", entry.identity, entry.class, entry.flags))
}

fn metrics(maps: &Maps, wanted: Option<&str>, screen: &mut Screen<'_>) -> Result<(), CliError> {
    let mut rows = maps.metrics.sums()?;
    rows.sort_by_key(|(key, _)| (key.reason, key.dir, key.file, key.line));
    let reason = |code: u8| hubble_model::text::drop_reason(code).map_or_else(|| code.to_string(), str::to_owned);
    if let Some(wanted) = wanted {
        let text = wanted.to_lowercase();
        rows.retain(|(key, _)| key.reason.to_string() == text || reason(key.reason).to_lowercase().contains(&text));
        if rows.is_empty() {
            return Err(CliError::NotFound(format!("nothing was counted under {wanted}; see cilium bpf metrics list")));
        }
    }
    let direction = |dir: u8| match dir {
        abi::metrics::DIR_INGRESS => "INGRESS",
        abi::metrics::DIR_EGRESS => "EGRESS",
        abi::metrics::DIR_SERVICE => "SERVICE",
        _ => "UNKNOWN",
    };
    let file = |id: u8| if id == 0 { String::new() } else { hubble_model::text::source_file(id) };
    let value: Vec<_> = rows
        .iter()
        .map(|(key, sum)| {
            json!({
                "reason": key.reason, "description": reason(key.reason), "direction": direction(key.dir),
                "packets": sum.count, "bytes": sum.bytes, "line": key.line, "file": file(key.file),
            })
        })
        .collect();
    screen.show(&value, || {
        let mut table = Table::new(["REASON", "DIRECTION", "PACKETS", "BYTES", "LINE", "FILE"]);
        for (key, sum) in &rows {
            table.row([
                reason(key.reason),
                direction(key.dir).to_owned(),
                sum.count.to_string(),
                sum.bytes.to_string(),
                key.line.to_string(),
                file(key.file),
            ]);
        }
        table
    })
}
