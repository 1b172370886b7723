//! L7 parts of port rules: `rules`, `serverNames`, `listener`, TLS contexts.

use super::{
    ctx::{Ctx, Path, Problem},
    peers::check_dns_selector,
    ports::Where,
    regex,
};
use crate::rule::{
    Direction, HttpRule, L7Parser, L7Rules, PortMatch, PortSpec,
    l7::{DnsRule, HeaderMatch, KafkaRule, Listener, Mismatch},
};
use crate::schema;
use alloc::{boxed::Box, collections::BTreeMap, string::String, vec::Vec};
use serde_json::{Map, Value};
use types::Protocol;

const KAFKA_KEYS: &[&str] = &[
    "produce",
    "fetch",
    "offsets",
    "metadata",
    "leaderandisr",
    "stopreplica",
    "updatemetadata",
    "controlledshutdown",
    "offsetcommit",
    "offsetfetch",
    "findcoordinator",
    "joingroup",
    "heartbeat",
    "leavegroup",
    "syncgroup",
    "describegroups",
    "listgroups",
    "saslhandshake",
    "apiversions",
    "createtopics",
    "deletetopics",
    "deleterecords",
    "initproducerid",
    "offsetforleaderepoch",
    "addpartitionstotxn",
    "addoffsetstotxn",
    "endtxn",
    "writetxnmarkers",
    "txnoffsetcommit",
    "describeacls",
    "createacls",
    "deleteacls",
    "describeconfigs",
    "alterconfigs",
];
const PRODUCE_KEYS: &[i16] = &[0, 3, 18];
const CONSUME_KEYS: &[i16] = &[1, 2, 3, 8, 9, 10, 11, 12, 13, 14, 18];

/// Longest expression: few bytes of one may demand much memory of a proxy.
const REGEX_BYTES_MAX: usize = 4096;

/// Reads the L7 part of a port rule; `None` if there is none.
pub(super) fn rules(
    cx: &mut Ctx<'_>,
    path: &Path<'_>,
    map: &Map<String, Value>,
    ports: &[PortMatch],
    place: Where,
) -> Option<L7Rules> {
    let mut l7 = L7Rules {
        parser: L7Parser::Tls,
        http: Vec::new(),
        kafka: Vec::new(),
        dns: Vec::new(),
        custom: Vec::new(),
        server_names: Vec::new(),
        listener: None,
    };
    let parser = match map.get("rules").filter(|v| !v.is_null()) {
        Some(value) => l7_rules(cx, &path.field("rules"), value, &mut l7),
        None => None,
    };
    let list = path.field("serverNames");
    for (i, item) in cx.list_field(path, map, "serverNames").unwrap_or_default().iter().enumerate() {
        match cx.text(&list.index(i), item) {
            Some("") => cx.error(&list.index(i), Problem::Missing { expected: "a server name" }),
            Some(name) => l7.server_names.push(name.into()),
            None => {}
        }
    }
    let terminating = tls(cx, path, map, "terminatingTLS");
    let originating = tls(cx, path, map, "originatingTLS");
    if !l7.server_names.is_empty() && parser.is_some() && !terminating {
        cx.error(&list, Problem::Combined { a: "serverNames", b: "rules without terminatingTLS" });
    }
    let before = cx.errors_so_far();
    l7.listener = listener(cx, path, map, parser.is_some(), place);
    let by_listener = l7.listener.is_some() && cx.errors_so_far() == before;
    let parser = match parser {
        Some(parser) => parser,
        None if !l7.server_names.is_empty() || terminating || originating => L7Parser::Tls,
        None if by_listener => L7Parser::Crd,
        None => return None,
    };
    check_place(cx, path, &parser, ports, place);
    l7.parser = parser;
    Some(l7)
}

fn check_place(cx: &mut Ctx<'_>, path: &Path<'_>, parser: &L7Parser, ports: &[PortMatch], place: Where) {
    let at = path.field("rules");
    if !cx.options.l7_proxy {
        cx.error(&at, Problem::Unsupported { what: "an L7 rule while the L7 proxy is not enabled" });
    }
    match (place.host, place.direction, parser) {
        (true, Direction::Ingress, _) => {
            cx.error(&at, Problem::Unsupported { what: "an L7 rule on ingress of a node" });
        }
        (true, Direction::Egress, L7Parser::Dns) => {}
        (true, Direction::Egress, _) => {
            cx.error(&at, Problem::Unsupported { what: "an L7 rule other than DNS on egress of a node" });
        }
        (false, Direction::Ingress, L7Parser::Dns) => {
            cx.error(&at, Problem::Unsupported { what: "a DNS rule on ingress" });
        }
        _ => {}
    }
    let dns = *parser == L7Parser::Dns;
    if dns && ports.is_empty() {
        cx.error(&path.field("ports"), Problem::Missing { expected: "port 53 for DNS rules" });
    }
    let list = path.field("ports");
    for (i, port) in ports.iter().enumerate() {
        let at = list.index(i);
        if let PortSpec::Range(range) = &port.port {
            if range.first == 0 {
                cx.invalid(&at, "0", "L7 rules need a port other than 0");
            } else if dns && range.last > range.first {
                cx.error(&at, Problem::Combined { a: "DNS rules", b: "endPort" });
            }
        }
        if !dns && port.protocol != Protocol::Tcp {
            cx.invalid(&at, "a protocol other than TCP", "L7 rules other than DNS apply to TCP only");
        }
    }
}

fn l7_rules(cx: &mut Ctx<'_>, path: &Path<'_>, value: &Value, out: &mut L7Rules) -> Option<L7Parser> {
    let map = cx.object(path, value)?;
    cx.only_fields(path, map, schema::L7_RULES.names);
    let http = cx.list_field(path, map, "http");
    let kafka = cx.list_field(path, map, "kafka");
    let dns = cx.list_field(path, map, "dns");
    let custom = cx.list_field(path, map, "l7");
    let proto = cx.text_field(path, map, "l7proto");
    let kinds = [http.is_some(), kafka.is_some(), dns.is_some(), !proto.is_empty()];
    if kinds.into_iter().filter(|k| *k).count() > 1 {
        cx.error(path, Problem::Combined { a: "one of http, kafka, dns, l7proto", b: "another of them" });
    }
    if !kinds.contains(&true) {
        cx.error(path, Problem::Missing { expected: "one of http, kafka, dns and l7proto" });
    }
    if custom.is_some() && proto.is_empty() {
        cx.error(&path.field("l7proto"), Problem::Missing { expected: "the parser's name, as l7 is there" });
    }
    each(cx, &path.field("http"), http, |cx, at, v| out.http.extend(http_rule(cx, at, v)));
    each(cx, &path.field("kafka"), kafka, |cx, at, v| out.kafka.extend(kafka_rule(cx, at, v)));
    each(cx, &path.field("dns"), dns, |cx, at, v| out.dns.extend(dns_rule(cx, at, v)));
    each(cx, &path.field("l7"), custom, |cx, at, v| out.custom.extend(custom_rule(cx, at, v)));
    let some = |list: Option<&[Value]>| list.is_some_and(|l| !l.is_empty());
    if some(http) {
        Some(L7Parser::Http)
    } else if some(kafka) {
        Some(L7Parser::Kafka)
    } else if some(dns) {
        Some(L7Parser::Dns)
    } else if proto.is_empty() {
        None
    } else {
        Some(L7Parser::Custom(proto.into()))
    }
}

fn each(
    cx: &mut Ctx<'_>,
    list: &Path<'_>,
    items: Option<&[Value]>,
    mut read: impl FnMut(&mut Ctx<'_>, &Path<'_>, &Value),
) {
    for (i, item) in items.unwrap_or_default().iter().enumerate() {
        read(cx, &list.index(i), item);
    }
}

fn regex_field(cx: &mut Ctx<'_>, path: &Path<'_>, map: &Map<String, Value>, name: &str) -> Box<str> {
    let text = cx.text_field(path, map, name);
    if text.len() > REGEX_BYTES_MAX {
        cx.error(
            &path.field(name),
            Problem::TooMuch { limit: "policy-expression-bytes-max", allowed: REGEX_BYTES_MAX },
        );
    } else if !regex::is_expression(text) {
        cx.invalid(&path.field(name), text, "this must be a regular expression in RE2 syntax");
    }
    text.into()
}

fn http_rule(cx: &mut Ctx<'_>, path: &Path<'_>, value: &Value) -> Option<HttpRule> {
    let map = cx.object(path, value)?;
    cx.only_fields(path, map, schema::HTTP.names);
    let mut rule = HttpRule {
        path: regex_field(cx, path, map, "path"),
        method: regex_field(cx, path, map, "method"),
        host: cx.text_field(path, map, "host").into(),
        ..HttpRule::default()
    };
    let headers = cx.list_field(path, map, "headers");
    each(cx, &path.field("headers"), headers, |cx, at, v| rule.headers.extend(cx.text(at, v).map(Into::into)));
    let matches = cx.list_field(path, map, "headerMatches");
    each(cx, &path.field("headerMatches"), matches, |cx, at, v| rule.header_matches.extend(header_match(cx, at, v)));
    Some(rule)
}

fn header_match(cx: &mut Ctx<'_>, path: &Path<'_>, value: &Value) -> Option<HeaderMatch> {
    let map = cx.object(path, value)?;
    cx.only_fields(path, map, schema::HEADER_MATCH.names);
    let name = cx.required_text(path, map, "name");
    if name == Some("") {
        cx.error(&path.field("name"), Problem::Missing { expected: "a header name" });
    }
    let mismatch = match cx.text_field(path, map, "mismatch") {
        "" => Mismatch::Fail,
        "LOG" => Mismatch::Log,
        "ADD" => Mismatch::Add,
        "DELETE" => Mismatch::Delete,
        "REPLACE" => Mismatch::Replace,
        other => {
            let allowed = schema::MISMATCHES;
            cx.error(&path.field("mismatch"), Problem::NotOneOf { found: other.into(), allowed });
            Mismatch::Fail
        }
    };
    let secret = map.get("secret").filter(|v| !v.is_null()).and_then(|v| secret(cx, &path.field("secret"), v));
    let value = cx.text_field(path, map, "value").into();
    Some(HeaderMatch { name: name?.into(), value, secret, mismatch })
}

fn secret(cx: &mut Ctx<'_>, path: &Path<'_>, value: &Value) -> Option<(Box<str>, Box<str>)> {
    let map = cx.object(path, value)?;
    cx.only_fields(path, map, schema::SECRET.names);
    let name = cx.required_text(path, map, "name")?;
    if name.is_empty() {
        cx.error(&path.field("name"), Problem::Missing { expected: "the secret's name" });
    }
    Some((cx.text_field(path, map, "namespace").into(), name.into()))
}

fn kafka_rule(cx: &mut Ctx<'_>, path: &Path<'_>, value: &Value) -> Option<KafkaRule> {
    let map = cx.object(path, value)?;
    cx.only_fields(path, map, schema::KAFKA.names);
    let role = cx.text_field(path, map, "role").to_ascii_lowercase();
    let key = cx.text_field(path, map, "apiKey").to_ascii_lowercase();
    if !role.is_empty() && !key.is_empty() {
        cx.error(path, Problem::Combined { a: "role", b: "apiKey" });
    }
    let mut api_keys = Vec::new();
    match role.as_str() {
        "" => {}
        "produce" => api_keys.extend(PRODUCE_KEYS),
        "consume" => api_keys.extend(CONSUME_KEYS),
        _ => {
            let allowed = schema::ROLES;
            cx.error(&path.field("role"), Problem::NotOneOf { found: role, allowed });
        }
    }
    if !key.is_empty() {
        match KAFKA_KEYS.iter().position(|k| **k == *key).and_then(|n| i16::try_from(n).ok()) {
            Some(number) => api_keys.push(number),
            None => cx.error(&path.field("apiKey"), Problem::NotOneOf { found: key, allowed: KAFKA_KEYS }),
        }
    }
    let version = cx.text_field(path, map, "apiVersion");
    let api_version = version.parse::<i16>().ok().filter(|v| *v >= 0);
    if !version.is_empty() && api_version.is_none() {
        cx.invalid(&path.field("apiVersion"), version, "a Kafka API version is a number from 0 to 32767, in quotes");
    }
    let topic = cx.text_field(path, map, "topic");
    if topic.len() > schema::TOPIC_MAX || !topic.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b)) {
        let why = "a Kafka topic has up to 255 letters, digits, '.', '_' and '-'";
        cx.invalid(&path.field("topic"), topic, why);
    }
    let client_id = cx.text_field(path, map, "clientID").into();
    Some(KafkaRule { api_keys, api_version, client_id, topic: topic.into() })
}

fn dns_rule(cx: &mut Ctx<'_>, path: &Path<'_>, value: &Value) -> Option<DnsRule> {
    let map = cx.object(path, value)?;
    cx.only_fields(path, map, schema::DNS_NAMES.names);
    let name = cx.text_field(path, map, "matchName");
    let pattern = cx.text_field(path, map, "matchPattern");
    check_dns_selector(cx, path, name, pattern);
    if !name.is_empty() && !pattern.is_empty() {
        cx.error(path, Problem::Combined { a: "matchName", b: "matchPattern" });
    }
    if name.is_empty() && pattern.is_empty() {
        cx.error(path, Problem::Missing { expected: "one of matchName and matchPattern" });
    }
    Some(if name.is_empty() { DnsRule::Pattern(pattern.into()) } else { DnsRule::Name(name.into()) })
}

fn custom_rule(cx: &mut Ctx<'_>, path: &Path<'_>, value: &Value) -> Option<BTreeMap<Box<str>, Box<str>>> {
    let map = cx.object(path, value)?;
    let mut rule = BTreeMap::new();
    for (key, value) in map {
        if key.is_empty() {
            cx.invalid(path, "", "keys must not be empty");
        }
        if let Some(value) = cx.text(&path.field(key), value) {
            rule.insert(key.as_str().into(), value.into());
        }
    }
    Some(rule)
}

fn tls(cx: &mut Ctx<'_>, path: &Path<'_>, map: &Map<String, Value>, name: &'static str) -> bool {
    let Some(value) = map.get(name).filter(|v| !v.is_null()) else { return false };
    let path = path.field(name);
    if let Some(map) = cx.object(&path, value) {
        cx.only_fields(&path, map, schema::TLS.names);
        for item in ["trustedCA", "certificate", "privateKey"] {
            cx.text_field(&path, map, item);
        }
        match map.get("secret").filter(|v| !v.is_null()) {
            Some(value) => {
                secret(cx, &path.field("secret"), value);
            }
            None => cx.error(&path.field("secret"), Problem::Missing { expected: "a secret's name" }),
        }
        cx.notice(&path, "TLS is not intercepted; connections are sent to the proxy as they are");
    }
    true
}

fn listener(
    cx: &mut Ctx<'_>,
    path: &Path<'_>,
    map: &Map<String, Value>,
    with_rules: bool,
    place: Where,
) -> Option<Listener> {
    let value = map.get("listener").filter(|v| !v.is_null())?;
    let path = path.field("listener");
    let map = cx.object(&path, value)?;
    cx.only_fields(&path, map, schema::LISTENER.names);
    if place.direction == Direction::Ingress {
        cx.error(&path, Problem::Unsupported { what: "a listener on ingress" });
    }
    if with_rules {
        cx.error(&path, Problem::Combined { a: "listener", b: "rules" });
    }
    let name = cx.name_field(&path, map);
    let priority = match map.get("priority") {
        None | Some(Value::Null) => 0,
        Some(v) => match v.as_i64().filter(|n| (schema::PRIORITY.0..=schema::PRIORITY.1).contains(n)) {
            Some(n) => u8::try_from(n).unwrap_or(u8::MAX),
            None => {
                cx.expected(&path.field("priority"), "a number from 1 to 100", v);
                0
            }
        },
    };
    let config = path.field("envoyConfig");
    let value = match map.get("envoyConfig") {
        Some(value) => value,
        None => {
            cx.error(&config, Problem::Missing { expected: "the name of a CiliumEnvoyConfig" });
            return None;
        }
    };
    let map = cx.object(&config, value)?;
    cx.only_fields(&config, map, schema::ENVOY_CONFIG.names);
    let kind = cx.text_field(&config, map, "kind");
    if !matches!(kind, "" | "CiliumEnvoyConfig" | "CiliumClusterwideEnvoyConfig") {
        let allowed = schema::ENVOY_KINDS;
        cx.error(&config.field("kind"), Problem::NotOneOf { found: kind.into(), allowed });
    }
    let config_name = cx.name_field(&config, map)?;
    Some(Listener { kind: kind.into(), config: config_name.into(), name: name?.into(), priority })
}
