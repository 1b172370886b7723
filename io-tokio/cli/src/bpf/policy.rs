//! `cilium bpf policy`: the kernel's entries by class, shown by the identities and prefixes in each class.

use std::collections::{BTreeMap, BTreeSet};

use abi::endpoint::{DEVICE_AUDIT, DEVICE_CLOSED, DEVICE_ENFORCE_EGRESS, DEVICE_ENFORCE_INGRESS, Device};
use abi::policy::{EGRESS, POLICY_DENY, PolicyEntry, PolicyKey, STATIC_PREFIX_BITS};
use api::client::Client;
use loader::Maps;
use serde::Serialize;

use crate::CliError;
use crate::arguments::BpfPolicy;
use crate::identity::{labels_of_all, name};
use crate::output::{Screen, Table};

pub(super) fn run(client: &Client, maps: &Maps, command: &BpfPolicy, screen: &mut Screen<'_>) -> Result<(), CliError> {
    let mut devices: Vec<Device> = maps.devices.entries()?.into_iter().map(|(_, device)| device).collect();
    devices.sort_by_key(|device| device.lxc_id);
    match command {
        BpfPolicy::List => list(&devices, screen),
        BpfPolicy::Get { endpoint, all, numeric } => {
            if let Some(wanted) = endpoint.filter(|_| !all) {
                devices.retain(|device| device.lxc_id == wanted);
                if devices.is_empty() {
                    return Err(CliError::NotFound(format!(
                        "the kernel knows no endpoint {wanted}; see cilium bpf policy list"
                    )));
                }
            }
            // Labels make it readable; the kernel's answer stands without them.
            let labels = if *numeric { BTreeMap::new() } else { labels_of_all(client).unwrap_or_default() };
            let rows = rows(maps, &devices, &labels)?;
            screen.show(&rows, || table(&rows))
        }
    }
}

fn flags(device: &Device) -> String {
    let names = [
        (DEVICE_ENFORCE_INGRESS, "ingress"),
        (DEVICE_ENFORCE_EGRESS, "egress"),
        (DEVICE_AUDIT, "audit"),
        (DEVICE_CLOSED, "closed"),
    ];
    let set: Vec<&str> = names.iter().filter(|(bit, _)| device.flags & bit != 0).map(|(_, name)| *name).collect();
    if set.is_empty() { "none".into() } else { set.join(",") }
}

fn list(devices: &[Device], screen: &mut Screen<'_>) -> Result<(), CliError> {
    let value: Vec<_> = devices
        .iter()
        .map(|d| serde_json::json!({ "endpoint": d.lxc_id, "identity": d.identity, "policy": d.policy, "enforced": flags(d) }))
        .collect();
    screen.show(&value, || {
        let mut table = Table::new(["ENDPOINT", "IDENTITY", "POLICY", "ENFORCED"]);
        for d in devices {
            table.row([d.lxc_id.to_string(), d.identity.to_string(), d.policy.to_string(), flags(d)]);
        }
        table
    })
}

/// One entry of one endpoint's policy.
#[derive(Debug, Serialize)]
struct Row {
    endpoint: u16,
    policy: u32,
    verdict: &'static str,
    direction: &'static str,
    class: u32,
    /// Identities in the class, as far as the ipcache says.
    identities: Vec<u32>,
    /// The same, by name.
    peers: Vec<String>,
    /// `ANY`, `80/TCP`, `8080-8095/TCP`.
    port: String,
    #[serde(rename = "proxyPort")]
    proxy_port: u16,
    #[serde(rename = "authType")]
    auth_type: u8,
    cookie: u32,
}

fn rows(maps: &Maps, devices: &[Device], labels: &BTreeMap<u32, Vec<String>>) -> Result<Vec<Row>, CliError> {
    let mut members: BTreeMap<u32, BTreeSet<u32>> = BTreeMap::new();
    for (_, entry) in maps.ipcache.entries()? {
        members.entry(entry.class).or_default().insert(entry.identity);
    }
    let mut entries: Vec<(PolicyKey, PolicyEntry)> = maps.policy.entries()?;
    entries.sort_by_key(|(key, _)| (key.policy, key.direction, key.class, key.protocol, key.dport, key.prefixlen));
    let mut rows = Vec::new();
    for device in devices {
        for (key, entry) in entries.iter().filter(|(key, _)| key.policy == device.policy) {
            let identities: Vec<u32> = members.get(&key.class).into_iter().flatten().copied().collect();
            rows.push(Row {
                endpoint: device.lxc_id,
                policy: key.policy,
                verdict: if entry.flags & POLICY_DENY != 0 { "Deny" } else { "Allow" },
                direction: if key.direction & 1 == EGRESS { "Egress" } else { "Ingress" },
                class: key.class,
                peers: identities.iter().map(|identity| name(*identity, labels).replace('\n', ",")).collect(),
                identities,
                port: port(key),
                proxy_port: entry.proxy_port.host(),
                auth_type: entry.auth_type,
                cookie: entry.cookie,
            });
        }
    }
    Ok(rows)
}

fn table(rows: &[Row]) -> Table {
    let mut table = Table::new([
        "ENDPOINT",
        "POLICY",
        "DIRECTION",
        "CLASS",
        "LABELS (source:key[=value])",
        "PORT/PROTO",
        "PROXY PORT",
    ]);
    for row in rows {
        let proxy = if row.proxy_port == 0 { "NONE".into() } else { row.proxy_port.to_string() };
        let peers = if row.peers.is_empty() { "(nobody yet)".into() } else { row.peers.join("\n") };
        table.row([
            row.endpoint.to_string(),
            row.verdict.into(),
            row.direction.into(),
            row.class.to_string(),
            peers,
            row.port.clone(),
            proxy,
        ]);
    }
    table
}

/// Ports of a key as people write them.
fn port(key: &PolicyKey) -> String {
    let bits = key.prefixlen.saturating_sub(STATIC_PREFIX_BITS);
    if bits == 0 {
        return "ANY".into();
    }
    let protocol = protocol(key.protocol);
    let first = key.dport.host();
    // A prefix of n bits covers 2^(16-n) ports.
    match bits.saturating_sub(8) {
        0 => format!("ANY/{protocol}"),
        16.. => format!("{first}/{protocol}"),
        n => format!("{first}-{}/{protocol}", first | (u16::MAX >> n)),
    }
}

/// Name of an IP protocol.
pub(super) fn protocol(number: u8) -> String {
    types::Protocol::from_number(number).map_or_else(|| number.to_string(), |p| p.to_string().to_uppercase())
}

#[cfg(test)]
mod tests {
    use super::*;
    use abi::be::Port;

    #[test]
    fn ports_print_as_they_are_written() {
        let key = |port, bits| PolicyKey::entry(1, 1, 0, 6, Port::new(port), bits);
        for (key, want) in [
            (key(0, 0), "ANY"),
            (key(0, 8), "ANY/TCP"),
            (key(80, 24), "80/TCP"),
            (key(8080, 20), "8080-8095/TCP"),
            (key(0, 9), "0-32767/TCP"),
        ] {
            assert_eq!(port(&key), want);
        }
    }
}
