//! Flow filters from flags.
//!
//! A flag that speaks of either end (`--pod`) becomes two filters, one for each end, of which either may match; flags
//! that speak of one end or of the flow go into both. A flag behind `--not` goes to the deny list.

use crate::flags::{parse_bool, parse_uint};
use hubble_api::{
    event_type,
    flow::{
        DropReason, EventTypeFilter, FlowFilter, HttpHeader, IpVersion, NetworkInterface, TcpFlags, TrafficDirection,
        Verdict, Workload, flow_filter::Experimental,
    },
};
use hubble_model::text;

/// Flags of which no two may be given together.
const CONFLICTS: &[&[&str]] = &[
    &["from-fqdn", "from-ip", "ip", "fqdn", "from-namespace", "namespace", "from-all-namespaces", "all-namespaces"],
    &["from-fqdn", "from-ip", "ip", "fqdn", "from-pod", "pod"],
    &["to-fqdn", "to-ip", "ip", "fqdn", "to-namespace", "namespace", "to-all-namespaces", "all-namespaces"],
    &["to-fqdn", "to-ip", "ip", "fqdn", "to-pod", "pod"],
    &["to-pod", "namespace", "all-namespaces"],
    &["from-pod", "namespace", "all-namespaces"],
    &["to-service", "namespace", "all-namespaces"],
    &["from-service", "namespace", "all-namespaces"],
    &["label", "from-label"],
    &["label", "to-label"],
    &["service", "from-service"],
    &["service", "to-service"],
    &["port", "to-port"],
    &["port", "from-port"],
    &["identity", "to-identity"],
    &["identity", "from-identity"],
    &["workload", "to-workload"],
    &["workload", "from-workload"],
    &["encrypted", "unencrypted"],
];

/// Event types by name.
pub const EVENT_TYPES: [(&str, i32); 8] = [
    ("capture", event_type::CAPTURE),
    ("debug", event_type::DEBUG),
    ("drop", event_type::DROP),
    ("l7", event_type::L7),
    ("policy-verdict", event_type::POLICY_VERDICT),
    ("trace", event_type::TRACE),
    ("trace-sock", event_type::TRACE_SOCK),
    ("agent", event_type::AGENT),
];

/// Agent events by name, as the monitor numbers them.
const AGENT_EVENTS: [(&str, i32); 11] = [
    ("unspecified", 0),
    ("message", 1),
    ("agent-started", 2),
    ("endpoint-regenerate-success", 3),
    ("endpoint-regenerate-failure", 4),
    ("policy-updated", 5),
    ("policy-deleted", 6),
    ("endpoint-created", 7),
    ("endpoint-deleted", 8),
    ("ipcache-upserted", 9),
    ("ipcache-deleted", 10),
];

/// The allow list and the deny list in the making.
#[derive(Debug, Default)]
pub struct Filters {
    allow: Tracker,
    deny: Tracker,
    not: bool,
}

impl Filters {
    /// Takes one flag.
    pub fn set(&mut self, name: &'static str, value: &str) -> Result<(), String> {
        if name == "not" {
            if self.not {
                return Err("consecutive --not statements".into());
            }
            self.not = parse_bool(value)?;
            return Ok(());
        }
        let tracker = if std::mem::take(&mut self.not) { &mut self.deny } else { &mut self.allow };
        tracker.set(name, value)
    }

    /// Both lists.
    pub fn finish(&self) -> Result<(Vec<FlowFilter>, Vec<FlowFilter>), String> {
        if self.not {
            return Err("trailing --not found in the arguments".into());
        }
        Ok((self.allow.filters()?, self.deny.filters()?))
    }
}

/// Namespaces by the end they speak of.
#[derive(Debug, Default)]
struct Namespaces {
    from: Vec<String>,
    to: Vec<String>,
    either: Vec<String>,
}

#[derive(Debug, Default)]
struct Tracker {
    left: FlowFilter,
    right: FlowFilter,
    namespaces: Namespaces,
    given: Vec<&'static str>,
}

impl Tracker {
    fn set(&mut self, name: &'static str, value: &str) -> Result<(), String> {
        if !self.given.contains(&name) {
            self.given.push(name);
        }
        for group in CONFLICTS {
            let mut present = group.iter().filter(|flag| self.given.contains(flag));
            if let (Some(first), Some(second)) = (present.next(), present.next()) {
                return Err(format!("filters --{first} and --{second} cannot be combined"));
            }
        }
        self.apply(name, value)?;
        self.filters().map(drop)
    }

    fn both(&mut self, apply: impl Fn(&mut FlowFilter)) {
        apply(&mut self.left);
        apply(&mut self.right);
    }

    fn apply(&mut self, name: &str, value: &str) -> Result<(), String> {
        let text = || value.to_owned();
        macro_rules! ends {
            ($source:ident, $destination:ident, $value:expr) => {{
                let value = $value;
                match name.split_once('-').map(|(end, _)| end) {
                    Some("from") => self.both(|filter| filter.$source.push(value.clone())),
                    Some("to") => self.both(|filter| filter.$destination.push(value.clone())),
                    _ => {
                        self.left.$source.push(value.clone());
                        self.right.$destination.push(value);
                    }
                }
            }};
        }
        match name {
            "fqdn" | "from-fqdn" | "to-fqdn" => ends!(source_fqdn, destination_fqdn, text()),
            "ip" | "from-ip" | "to-ip" => ends!(source_ip, destination_ip, text()),
            "pod" | "from-pod" | "to-pod" => ends!(source_pod, destination_pod, text()),
            "label" | "from-label" | "to-label" => ends!(source_label, destination_label, text()),
            "service" | "from-service" | "to-service" => ends!(source_service, destination_service, text()),
            "port" | "from-port" | "to-port" => ends!(source_port, destination_port, text()),
            "cluster" | "from-cluster" | "to-cluster" => {
                ends!(source_cluster_name, destination_cluster_name, text())
            }
            "workload" | "from-workload" | "to-workload" => {
                ends!(source_workload, destination_workload, workload(value))
            }
            "identity" | "from-identity" | "to-identity" => {
                ends!(source_identity, destination_identity, identity(value)?)
            }
            "namespace" => self.namespaces.either.push(text()),
            "from-namespace" => self.namespaces.from.push(text()),
            "to-namespace" => self.namespaces.to.push(text()),
            "all-namespaces" => all(&mut self.namespaces.either, value)?,
            "from-all-namespaces" => all(&mut self.namespaces.from, value)?,
            "to-all-namespaces" => all(&mut self.namespaces.to, value)?,
            _ => self.apply_flow_field(name, value)?,
        }
        Ok(())
    }

    /// Fields that take the text as it is. False when this is none.
    fn apply_text(&mut self, name: &str, value: &str) -> bool {
        let field: fn(&mut FlowFilter) -> &mut Vec<String> = match name {
            "uuid" => |f| &mut f.uuid,
            "node-name" => |f| &mut f.node_name,
            "node-label" => |f| &mut f.node_labels,
            "protocol" => |f| &mut f.protocol,
            "http-status" => |f| &mut f.http_status_code,
            "http-method" => |f| &mut f.http_method,
            "http-path" => |f| &mut f.http_path,
            "http-url" => |f| &mut f.http_url,
            "trace-id" => |f| &mut f.trace_id,
            "snat-ip" => |f| &mut f.source_ip_xlated,
            _ => return false,
        };
        self.both(|filter| field(filter).push(value.to_owned()));
        true
    }

    fn apply_flow_field(&mut self, name: &str, value: &str) -> Result<(), String> {
        if self.apply_text(name, value) {
            return Ok(());
        }
        let text = value.to_owned();
        match name {
            "tcp-flags" => {
                let flags = tcp_flags(value)?;
                self.both(|f| f.tcp_flags.push(flags));
            }
            "type" => {
                let kind = event_kind(value)?;
                self.both(|f| f.event_type.push(kind));
            }
            "verdict" => {
                let verdict =
                    Verdict::from_str_name(value).ok_or_else(|| format!("invalid --verdict value: {value}"))?;
                self.both(|f| f.verdict.push(verdict.into()));
            }
            "drop-reason-desc" => {
                if value.is_empty() {
                    return Err("empty --drop-reason-desc value".into());
                }
                let reason = DropReason::from_str_name(value)
                    .ok_or_else(|| format!("invalid --drop-reason-desc value: {value}"))?;
                self.both(|f| f.drop_reason_desc.push(reason.into()));
            }
            "http-header" => {
                let (key, value) = value.split_once(':').ok_or_else(|| {
                    format!("invalid http-header value {}, expected name:value", crate::times::quote(value))
                })?;
                let header = HttpHeader { key: key.into(), value: value.into() };
                self.both(|f| f.http_header.push(header.clone()));
            }
            "ip-trace-id" => {
                let id = parse_uint(value, 64, false)
                    .map_err(|why| format!("invalid --ip-trace-id value: {value}: {why}"))?;
                if id == 0 {
                    return Err("invalid --ip-trace-id value; must be greater than 0".into());
                }
                self.both(|f| f.ip_trace_id.push(id));
            }
            "ipv4" | "ipv6" | "ip-version" => {
                let version = ip_version(value);
                self.both(|f| f.ip_version.push(version.into()));
            }
            "traffic-direction" => {
                let direction = match value.to_lowercase().as_str() {
                    "ingress" => TrafficDirection::Ingress,
                    "egress" => TrafficDirection::Egress,
                    _ => return Err(format!("{value}: invalid traffic direction, expected ingress or egress")),
                };
                self.both(|f| f.traffic_direction.push(direction.into()));
            }
            "cel-expression" | "where" => {
                // What is written for this program is checked here and now; the other flag may say what only its
                // server understands.
                if name == "where" {
                    hubble_model::cel::Program::new(value).map_err(|error| error.to_string())?;
                }
                let add = |f: &mut FlowFilter| {
                    f.experimental.get_or_insert_with(Experimental::default).cel_expression.push(text.clone());
                };
                self.both(add);
            }
            "interface" => {
                let interface = NetworkInterface { index: 0, name: text };
                self.both(|f| f.interface.push(interface.clone()));
            }
            "encrypted" | "unencrypted" => {
                let encrypted = parse_bool(value)? == (name == "encrypted");
                self.both(|f| f.encrypted.push(encrypted));
            }
            other => return Err(format!("unknown filter {other}")),
        }
        Ok(())
    }

    /// The filters with namespaces put in; one when both ends ask for the same.
    fn filters(&self) -> Result<Vec<FlowFilter>, String> {
        if self.given.is_empty() {
            return Ok(Vec::new());
        }
        let (mut left, mut right) = (self.left.clone(), self.right.clone());
        let Namespaces { from, to, either } = &self.namespaces;
        for filter in [&mut left, &mut right] {
            scope(from, &mut filter.source_pod, &mut filter.source_service)?;
            scope(to, &mut filter.destination_pod, &mut filter.destination_service)?;
        }
        scope(either, &mut left.source_pod, &mut left.source_service)?;
        scope(either, &mut right.destination_pod, &mut right.destination_service)?;
        for filter in [&left, &right] {
            agree(&filter.source_pod, &filter.source_service)?;
            agree(&filter.destination_pod, &filter.destination_service)?;
        }
        Ok(if left == right { vec![left] } else { vec![left, right] })
    }
}

fn all(list: &mut Vec<String>, value: &str) -> Result<(), String> {
    if parse_bool(value)? {
        list.push(String::new());
    }
    Ok(())
}

/// Puts every namespace before every name that has none.
fn scope(namespaces: &[String], pods: &mut Vec<String>, services: &mut Vec<String>) -> Result<(), String> {
    if namespaces.is_empty() {
        return Ok(());
    }
    if pods.is_empty() && services.is_empty() {
        pods.push(String::new());
    }
    for list in [pods, services] {
        let mut scoped = Vec::with_capacity(list.len());
        for name in list.iter() {
            match name.split_once('/') {
                Some((namespace, _)) => {
                    if !namespaces.iter().any(|known| known.is_empty() || known == namespace) {
                        let known = namespaces.join(", ");
                        return Err(format!("namespace conflict: \"{known}\" does not contain \"{name}\""));
                    }
                    scoped.push(name.clone());
                }
                None => scoped.extend(namespaces.iter().map(|namespace| format!("{namespace}/{name}"))),
            }
        }
        *list = scoped;
    }
    Ok(())
}

/// A pod in one namespace is never behind a service of another.
fn agree(pods: &[String], services: &[String]) -> Result<(), String> {
    let namespaces: Vec<&str> = pods.iter().filter_map(|pod| pod.split_once('/')).map(|(ns, _)| ns).collect();
    let Some(first) = namespaces.first() else { return Ok(()) };
    for service in services {
        let Some((namespace, _)) = service.split_once('/') else { continue };
        if !namespaces.contains(&namespace) {
            return Err(format!("namespace of service \"{service}\" conflict with pod \"{first}\""));
        }
    }
    Ok(())
}

fn workload(value: &str) -> Workload {
    let (kind, name) = value.split_once('/').unwrap_or(("", value));
    Workload { name: name.into(), kind: kind.into() }
}

fn identity(value: &str) -> Result<u32, String> {
    let reserved = || (1..=10).filter_map(|number| Some((number, text::reserved_identity(number)?)));
    if let Some((number, _)) = reserved().find(|(_, name)| *name == value) {
        return Ok(number);
    }
    let number = parse_uint(value, 32, true).ok().and_then(|number| u32::try_from(number).ok());
    number.ok_or_else(|| {
        let names: Vec<_> = reserved().map(|(_, name)| name).collect();
        format!("invalid security identity, expected one of [{}] or a numeric value", names.join(" "))
    })
}

fn ip_version(value: &str) -> IpVersion {
    match value.to_lowercase().as_str() {
        "4" | "v4" | "ipv4" | "ip4" => IpVersion::IPv4,
        "6" | "v6" | "ipv6" | "ip6" => IpVersion::IPv6,
        _ => IpVersion::IpNotUsed,
    }
}

fn tcp_flags(value: &str) -> Result<TcpFlags, String> {
    let mut flags = TcpFlags::default();
    for name in value.split(',') {
        let flag = match name.to_uppercase().as_str() {
            "FIN" => &mut flags.fin,
            "SYN" => &mut flags.syn,
            "RST" => &mut flags.rst,
            "PSH" => &mut flags.psh,
            "ACK" => &mut flags.ack,
            "URG" => &mut flags.urg,
            "ECE" => &mut flags.ece,
            "CWR" => &mut flags.cwr,
            "NS" => &mut flags.ns,
            _ => return Err(format!("unknown tcp flag: {name}")),
        };
        *flag = true;
    }
    Ok(flags)
}

/// `trace`, `trace:to-endpoint`, `4` or `4:0`.
fn event_kind(value: &str) -> Result<EventTypeFilter, String> {
    let (name, sub_name) = value.split_once(':').map_or((value, None), |(name, sub)| (name, Some(sub)));
    let small = |text: &str| parse_uint(text, 8, false).and_then(|n| i32::try_from(n).map_err(|e| e.to_string()));
    let number = match EVENT_TYPES.iter().find(|(known, _)| *known == name) {
        Some((_, number)) => *number,
        None => small(name).map_err(|why| {
            format!("unable to parse type '{name}', not a known type name and unable to parse as numeric value: {why}")
        })?,
    };
    let Some(sub_name) = sub_name else {
        return Ok(EventTypeFilter { r#type: number, ..EventTypeFilter::default() });
    };
    let known = match number {
        event_type::TRACE => text::observation_point_number(sub_name),
        event_type::AGENT => AGENT_EVENTS.iter().find(|(known, _)| *known == sub_name).map(|(_, number)| *number),
        _ => None,
    };
    let sub_type = match known {
        Some(sub_type) => sub_type,
        None => small(sub_name).map_err(|why| {
            format!(
                "unable to parse event sub-type '{sub_name}', not a known sub-type name and unable to parse as numeric value: {why}"
            )
        })?,
    };
    Ok(EventTypeFilter { r#type: number, match_sub_type: true, sub_type })
}
