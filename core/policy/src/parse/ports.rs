//! `toPorts` and `icmps`.

use super::{
    ctx::{Ctx, Path, Problem},
    l7,
};
use crate::rule::{Direction, IcmpFamily, PortMatch, PortRange, PortRule, PortSpec, Ports, port::is_port_name};
use crate::schema;
use alloc::{
    string::{String, ToString},
    sync::Arc,
    vec::Vec,
};
use serde_json::{Map, Value};
use types::Protocol;

/// Where the ports stand, which decides what is allowed in them.
#[derive(Clone, Copy)]
pub(super) struct Where {
    pub(super) direction: Direction,
    pub(super) deny: bool,
    /// The rule is about a node, not about endpoints.
    pub(super) host: bool,
}

/// Reads `toPorts` and `icmps` of a peer rule.
pub(super) fn ports(cx: &mut Ctx<'_>, path: &Path<'_>, map: &Map<String, Value>, place: Where) -> Ports {
    let to_ports = cx.list_field(path, map, "toPorts").unwrap_or_default();
    let icmps = cx.list_field(path, map, "icmps").unwrap_or_default();
    if !to_ports.is_empty() && !icmps.is_empty() && !place.deny {
        cx.error(path, Problem::Combined { a: "toPorts", b: "icmps" });
    }
    if to_ports.is_empty() && icmps.is_empty() {
        return Ports::All;
    }
    let mut rules = Vec::new();
    let list = path.field("toPorts");
    for (i, item) in to_ports.iter().enumerate() {
        rules.extend(port_rule(cx, &list.index(i), item, place));
    }
    let list = path.field("icmps");
    if !icmps.is_empty() && !cx.options.icmp_rules {
        cx.error(&list, Problem::Unsupported { what: "an ICMP rule without enable-icmp-rules" });
    }
    for (i, item) in icmps.iter().enumerate() {
        rules.extend(icmp_rule(cx, &list.index(i), item));
    }
    Ports::Listed(rules)
}

fn port_rule(cx: &mut Ctx<'_>, path: &Path<'_>, value: &Value, place: Where) -> Option<PortRule> {
    let map = cx.object(path, value)?;
    let allowed = if place.deny { schema::PORT_DENY_RULE.names } else { schema::PORT_RULE.names };
    cx.only_fields(path, map, allowed);
    let items = cx.list_field(path, map, "ports").unwrap_or_default();
    let list = path.field("ports");
    if items.len() > schema::PORTS_MAX && !place.deny {
        cx.invalid(&list, &items.len().to_string(), "one entry of toPorts takes at most 40 ports");
    }
    let mut ports = Vec::new();
    for (i, item) in items.iter().enumerate() {
        port(cx, &list.index(i), item, &mut ports);
    }
    let l7 = if place.deny { None } else { l7::rules(cx, path, map, &ports, place).map(Arc::new) };
    Some(PortRule { ports, l7 })
}

fn port(cx: &mut Ctx<'_>, path: &Path<'_>, value: &Value, out: &mut Vec<PortMatch>) {
    let Some(map) = cx.object(path, value) else { return };
    cx.only_fields(path, map, schema::PORT_PROTOCOL.names);
    let protocols: &[Protocol] = match cx.text_field(path, map, "protocol").to_ascii_uppercase().as_str() {
        "" | "ANY" => &[Protocol::Tcp, Protocol::Udp, Protocol::Sctp],
        "TCP" => &[Protocol::Tcp],
        "UDP" => &[Protocol::Udp],
        "SCTP" => &[Protocol::Sctp],
        other => {
            let allowed = schema::PROTOCOLS;
            cx.error(&path.field("protocol"), Problem::NotOneOf { found: other.to_string(), allowed });
            &[]
        }
    };
    let end = match map.get("endPort") {
        None | Some(Value::Null) => None,
        Some(value) => {
            let end = value.as_u64().and_then(|n| u16::try_from(n).ok());
            if end.is_none() {
                cx.expected(&path.field("endPort"), "a number from 0 to 65535", value);
            }
            end
        }
    };
    let Some(text) = cx.required_text(path, map, "port") else { return };
    let Some(spec) = port_spec(text, end) else {
        let why = "a port is a number from 0 (all) to 65535, or a name of up to 15 letters, digits and single '-'";
        cx.invalid(&path.field("port"), text, why);
        return;
    };
    out.extend(protocols.iter().map(|&protocol| PortMatch { protocol, port: spec.clone() }));
}

/// A port's text and `endPort`: 0 is all ports, or with an end all up to it; an end not above the port is ignored.
fn port_spec(text: &str, end: Option<u16>) -> Option<PortSpec> {
    if is_port_name(text) {
        return Some(PortSpec::Named(text.to_ascii_lowercase().into()));
    }
    let plain = text.len() <= 5 && (text == "0" || !text.starts_with('0')) && text.bytes().all(|b| b.is_ascii_digit());
    let first: u16 = if plain { text.parse().ok()? } else { return None };
    let last = match end.unwrap_or(0) {
        0 if first == 0 => u16::MAX,
        end => end.max(first),
    };
    Some(PortSpec::Range(PortRange { first, last }))
}

fn icmp_rule(cx: &mut Ctx<'_>, path: &Path<'_>, value: &Value) -> Option<PortRule> {
    let map = cx.object(path, value)?;
    cx.only_fields(path, map, schema::ICMP_RULE.names);
    let items = cx.list_field(path, map, "fields").unwrap_or_default();
    let list = path.field("fields");
    if items.len() > schema::PORTS_MAX {
        cx.invalid(&list, &items.len().to_string(), "one entry of icmps takes at most 40 fields");
    }
    let mut ports = Vec::new();
    for (i, item) in items.iter().enumerate() {
        ports.extend(icmp_field(cx, &list.index(i), item));
    }
    Some(PortRule { ports, l7: None })
}

fn icmp_field(cx: &mut Ctx<'_>, path: &Path<'_>, value: &Value) -> Option<PortMatch> {
    let map = cx.object(path, value)?;
    cx.only_fields(path, map, schema::ICMP_FIELD.names);
    let (family, protocol) = match cx.text_field(path, map, "family") {
        "" | "IPv4" => (IcmpFamily::Ipv4, Protocol::Icmp),
        "IPv6" => (IcmpFamily::Ipv6, Protocol::Icmpv6),
        other => {
            let problem = Problem::NotOneOf { found: other.to_string(), allowed: schema::FAMILIES };
            cx.error(&path.field("family"), problem);
            return None;
        }
    };
    let at = path.field("type");
    let number = match map.get("type") {
        None | Some(Value::Null) => {
            cx.error(&at, Problem::Missing { expected: "an ICMP type: a number from 0 to 255 or a name" });
            return None;
        }
        Some(Value::Number(n)) => n.as_u64().and_then(|n| u8::try_from(n).ok()),
        Some(Value::String(text)) => text.parse::<u8>().ok().or_else(|| family.type_number(text)),
        Some(_) => None,
    };
    let Some(number) = number else {
        let found = map.get("type").map(ToString::to_string).unwrap_or_default();
        cx.invalid(&at, &found, "an ICMP type is a number from 0 to 255 or a name this family knows");
        return None;
    };
    // Type 0 becomes "port 0", which is every type of the family: upstream's meaning, kept, and reported by `lint`.
    let range = if number == 0 { PortRange::ALL } else { PortRange::single(u16::from(number)) };
    Some(PortMatch { protocol, port: PortSpec::Range(range) })
}
