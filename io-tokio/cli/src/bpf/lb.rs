//! `cilium bpf lb` and `cilium lb`: services and backends as the kernel has them.

mod tables;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use abi::lb::{self, BACKEND_ACTIVE, BACKEND_QUARANTINED, BACKEND_TERMINATING, LbService};
use loader::Maps;
use serde::Serialize;

use super::policy::protocol;
use crate::CliError;
use crate::arguments::{BpfLb, BpfLbList, BpfMaglev};
use crate::output::{Screen, Table};

/// Frontend, protocol, scope and slot.
type Slot = (SocketAddr, u8, u8, u16);
/// Address, protocol and state.
type Backend = (SocketAddr, u8, u8);

/// A service as it is shown.
#[derive(Debug, Serialize)]
struct Row {
    frontend: String,
    protocol: String,
    scope: &'static str,
    #[serde(rename = "revNat")]
    rev_nat: u16,
    #[serde(rename = "type")]
    kind: &'static str,
    flags: Vec<String>,
    count: u16,
    quarantined: u16,
    #[serde(rename = "affinityTimeoutSeconds")]
    affinity: u32,
    backends: Vec<Member>,
}

/// A slot of a service.
#[derive(Debug, Serialize)]
struct Member {
    slot: u16,
    id: u32,
    /// `None`: the slot names nobody.
    address: Option<String>,
    state: &'static str,
}

pub(super) fn run(maps: &Maps, command: &BpfLb, screen: &mut Screen<'_>) -> Result<(), CliError> {
    match command {
        BpfLb::List(BpfLbList { revnat: true, .. }) => tables::reverse_nat(maps, screen),
        BpfLb::List(BpfLbList { backends: true, .. }) => tables::backends(&known_backends(maps)?, screen),
        BpfLb::List(BpfLbList { source_ranges: true, .. }) => tables::source_ranges(maps, screen),
        BpfLb::List(BpfLbList { affinity: true, .. }) => tables::affinity(maps, screen),
        BpfLb::List(BpfLbList { maglev: true, .. }) | BpfLb::Maglev(BpfMaglev::List) => {
            tables::maglev(maps, None, screen)
        }
        BpfLb::Maglev(BpfMaglev::Get { id }) => tables::maglev(maps, Some(*id), screen),
        BpfLb::List(BpfLbList { frontends, .. }) => show(&rows(maps, |_, _| true)?, *frontends, screen),
        BpfLb::Get { service } => {
            let wanted = wanted(service)?;
            let rows = rows(maps, |slot, service| match &wanted {
                Wanted::Index(index) => service.rev_nat_index.host() == *index,
                Wanted::Frontend(addr) => slot.0 == *addr,
            })?;
            if rows.is_empty() {
                return Err(CliError::NotFound(format!("the kernel has no service {service}; see cilium bpf lb list")));
            }
            show(&rows, false, screen)
        }
    }
}

enum Wanted {
    Index(u16),
    Frontend(SocketAddr),
}

fn wanted(text: &str) -> Result<Wanted, CliError> {
    let bare = text.split('/').next().unwrap_or(text);
    let index = text.parse().map(Wanted::Index);
    index.or_else(|_| bare.parse().map(Wanted::Frontend)).map_err(|_| {
        CliError::Invalid(format!(
            "{text:?} is neither a reverse NAT index nor a frontend such as 10.96.0.10:80 or [fd00::10]:80"
        ))
    })
}

fn show(rows: &[Row], frontends_only: bool, screen: &mut Screen<'_>) -> Result<(), CliError> {
    screen.show(&rows, || {
        let mut table = Table::new(["SERVICE ADDRESS", "TYPE", "BACKEND ADDRESS (ID) (SLOT) (STATE)"]);
        for row in rows {
            let member = |member: &Member| match &member.address {
                Some(at) => format!("{at} ({}) ({}) ({})", member.id, member.slot, member.state),
                None => format!("backend {} does not exist ({})", member.id, member.slot),
            };
            let scope = if row.scope == "internal" { "/i" } else { "" };
            let backends: Vec<String> = row.backends.iter().map(member).collect();
            table.row([
                format!("{}/{}{scope} ({})", row.frontend, row.protocol, row.rev_nat),
                format!("{} [{}]", row.kind, row.flags.join(", ")),
                if frontends_only { String::new() } else { backends.join("\n") },
            ]);
        }
        table
    })
}

fn rows(maps: &Maps, wanted: impl Fn(&Slot, &LbService) -> bool) -> Result<Vec<Row>, CliError> {
    let (slots, known) = (slots(maps)?, known_backends(maps)?);
    let heads = slots.iter().filter(|((.., slot), _)| *slot == 0).filter(|(slot, head)| wanted(slot, head));
    Ok(heads
        .map(|((front, proto, scope, _), head)| {
            let members = slots.range((*front, *proto, *scope, 1)..=(*front, *proto, *scope, u16::MAX));
            let member = |((.., slot), value): (&Slot, &LbService)| {
                let found = known.get(&(front.is_ipv4(), value.backend_id));
                Member {
                    slot: *slot,
                    id: value.backend_id,
                    address: found.map(|(at, proto, _)| format!("{at}/{}", protocol(*proto))),
                    state: found.map_or("missing", |(.., state)| state_name(*state)),
                }
            };
            Row {
                frontend: front.to_string(),
                protocol: protocol(*proto),
                scope: if *scope == lb::SCOPE_INTERNAL { "internal" } else { "external" },
                rev_nat: head.rev_nat_index.host(),
                kind: kind(head),
                flags: flags(head),
                count: head.count,
                quarantined: head.qcount,
                affinity: head.backend_id & lb::AFFINITY_TIMEOUT_MASK,
                backends: members.map(member).collect(),
            }
        })
        .collect())
}

/// What the flags say a service is.
fn kind(head: &LbService) -> &'static str {
    let bits = [
        (lb::SERVICE_EXTERNAL_IP, "ExternalIPs"),
        (lb::SERVICE_NODE_PORT, "NodePort"),
        (lb::SERVICE_HOST_PORT, "HostPort"),
        (lb::SERVICE_LOAD_BALANCER, "LoadBalancer"),
    ];
    if head.flags2 & lb::SERVICE_LOCAL_REDIRECT != 0 {
        return "LocalRedirect";
    }
    bits.into_iter().find(|(bit, _)| head.flags & bit != 0).map_or("ClusterIP", |(_, name)| name)
}

fn flags(head: &LbService) -> Vec<String> {
    let mut list: Vec<String> = Vec::new();
    if head.flags & lb::SERVICE_ROUTABLE == 0 {
        list.push("non-routable".into());
    }
    for (bit, name) in [(lb::SERVICE_EXTERNAL_LOCAL, "Local"), (lb::SERVICE_SOURCE_RANGE, "check source-range")] {
        if head.flags & bit != 0 {
            list.push(name.into());
        }
    }
    if head.flags & lb::SERVICE_AFFINITY != 0 {
        list.push(format!("sessionAffinity {}s", head.backend_id & lb::AFFINITY_TIMEOUT_MASK));
    }
    for (bit, name) in [
        (lb::SERVICE_LOOPBACK_HOST_PORT, "loopback"),
        (lb::SERVICE_INTERNAL_LOCAL, "InternalLocal"),
        (lb::SERVICE_TWO_SCOPES, "two-scopes"),
        (lb::SERVICE_FORWARD_DSR, "dsr"),
        (lb::SERVICE_L7_LB, "l7-load-balancer"),
        (lb::SERVICE_NAT46X64, "46x64"),
    ] {
        if head.flags2 & bit != 0 {
            list.push(name.into());
        }
    }
    list
}

fn slots(maps: &Maps) -> Result<BTreeMap<Slot, LbService>, CliError> {
    let mut out = BTreeMap::new();
    for (key, service) in maps.lb4_services.entries()? {
        let front = SocketAddr::new(IpAddr::V4(Ipv4Addr::from(key.address)), key.dport.host());
        out.insert((front, key.proto, key.scope, key.backend_slot), service);
    }
    for (key, service) in maps.lb6_services.entries()? {
        let front = SocketAddr::new(IpAddr::V6(Ipv6Addr::from(key.address)), key.dport.host());
        out.insert((front, key.proto, key.scope, key.backend_slot), service);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_named() {
        let head = |flags, flags2, backend_id| LbService { flags, flags2, backend_id, ..LbService::default() };
        let plain = head(0, 0, 0);
        assert_eq!((kind(&plain), flags(&plain)), ("ClusterIP", vec!["non-routable".to_owned()]));
        let all = head(
            lb::SERVICE_NODE_PORT | lb::SERVICE_ROUTABLE | lb::SERVICE_EXTERNAL_LOCAL | lb::SERVICE_AFFINITY,
            lb::SERVICE_TWO_SCOPES | lb::SERVICE_FORWARD_DSR,
            10_800,
        );
        assert_eq!(kind(&all), "NodePort");
        assert_eq!(flags(&all), ["Local", "sessionAffinity 10800s", "two-scopes", "dsr"]);
    }

    #[test]
    fn a_service_is_named_by_its_index_or_its_frontend() {
        assert!(matches!(wanted("17"), Ok(Wanted::Index(17))));
        assert!(matches!(wanted("[fd00::1]:80/TCP"), Ok(Wanted::Frontend(addr)) if addr.port() == 80));
        assert!(wanted("web").is_err() && wanted("10.0.0.1").is_err());
    }
}
