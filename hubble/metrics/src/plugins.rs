//! What each plugin counts.

use crate::{
    options::{Plugin, PluginConfig, Switches},
    series::{Addition, Family, Sort},
    view::Observed,
};
use hubble_api::{
    event_type,
    flow::{DropReason, IpVersion, L7FlowType, Layer7, TrafficDirection, Verdict, layer7::Record},
};
use hubble_model::{
    text,
    view::{End, proto},
};
use std::fmt::Write as _;

const HOST: u32 = 1;
const FIN: u16 = 1;
const SYN: u16 = 1 << 1;
const RST: u16 = 1 << 2;
const ACK: u16 = 1 << 4;

/// A plugin at work.
#[derive(Debug)]
pub(crate) struct Active {
    pub config: PluginConfig,
    pub families: Vec<Family>,
    number: String,
}

impl Active {
    pub fn new(config: PluginConfig, series_max: usize) -> Self {
        let mut active = Self { config, families: Vec::new(), number: String::new() };
        let Switches { query, port, .. } = active.config.switches;
        let with = |labels: &[&'static str], extra: Option<&'static str>| {
            labels.iter().copied().chain(extra).collect::<Vec<&'static str>>()
        };
        let query = query.then_some("query");
        let (count, time) = (Sort::Counter, Sort::Histogram);
        let families: Vec<(&'static str, &'static str, Sort, Vec<&'static str>)> = match active.config.plugin {
            Plugin::Dns => vec![
                ("dns_queries_total", "DNS queries", count, with(&["rcode", "qtypes", "ips_returned"], query)),
                ("dns_responses_total", "DNS answers", count, with(&["rcode", "qtypes", "ips_returned"], query)),
                ("dns_response_types_total", "DNS records in answers", count, with(&["type", "qtypes"], query)),
            ],
            Plugin::Drop => vec![("drop_total", "Dropped packets", count, with(&["reason", "protocol"], None))],
            Plugin::Flow => {
                let labels = with(&["protocol", "type", "subtype", "verdict"], None);
                vec![("flows_processed_total", "Flows seen", count, labels)]
            }
            Plugin::FlowsToWorld => {
                let labels = with(&["protocol", "verdict"], port.then_some("port"));
                vec![("flows_to_world_total", "Flows that leave the cluster", count, labels)]
            }
            Plugin::Http => vec![
                ("http_requests_total", "HTTP requests", count, with(&["method", "protocol", "reporter"], None)),
                (
                    "http_responses_total",
                    "HTTP answers",
                    count,
                    with(&["method", "protocol", "status", "reporter"], None),
                ),
                ("http_request_duration_seconds", "Time of HTTP requests", time, with(&["method", "reporter"], None)),
            ],
            Plugin::HttpV2 => vec![
                (
                    "http_requests_total",
                    "HTTP requests that were answered",
                    count,
                    with(&["method", "protocol", "status", "reporter"], None),
                ),
                ("http_request_duration_seconds", "Time of HTTP requests", time, with(&["method", "reporter"], None)),
            ],
            Plugin::Icmp => vec![("icmp_total", "ICMP messages", count, with(&["family", "type"], None))],
            Plugin::Kafka => vec![
                (
                    "kafka_requests_total",
                    "Kafka requests",
                    count,
                    with(&["topic", "api_key", "error_code", "reporter"], None),
                ),
                (
                    "kafka_request_duration_seconds",
                    "Time of Kafka requests",
                    time,
                    with(&["topic", "api_key", "reporter"], None),
                ),
            ],
            Plugin::Policy => {
                let labels = with(&["direction", "match", "action"], None);
                vec![("policy_verdicts_total", "Verdicts of policies", count, labels)]
            }
            Plugin::PortDistribution => {
                let labels = with(&["protocol", "port"], None);
                vec![("port_distribution_total", "Packets by destination port", count, labels)]
            }
            Plugin::Sctp => {
                vec![(
                    "sctp_chunk_types_total",
                    "SCTP packets by first chunk",
                    count,
                    with(&["chunk_type", "family"], None),
                )]
            }
            Plugin::Tcp => vec![("tcp_flags_total", "TCP packets by flag", count, with(&["flag", "family"], None))],
        };
        active.families = families
            .into_iter()
            .map(|(name, help, sort, own)| {
                Family::new(full_name(name), help, sort, &own, &active.config.contexts, series_max)
            })
            .collect();
        active
    }

    /// Counts a flow, if it is one that the plugin counts.
    pub fn observe<V: Observed>(&mut self, flow: &V) {
        if self.config.filters.as_ref().is_some_and(|filters| !filters.matches(flow)) {
            return;
        }
        match self.config.plugin {
            Plugin::Dns => self.dns(flow),
            Plugin::Drop => self.drop(flow),
            Plugin::Flow => self.flow(flow),
            Plugin::FlowsToWorld => self.flows_to_world(flow),
            Plugin::Http => self.http(flow),
            Plugin::HttpV2 => self.http_v2(flow),
            Plugin::Icmp => self.icmp(flow),
            Plugin::Kafka => self.kafka(flow),
            Plugin::Policy => self.policy(flow),
            Plugin::PortDistribution => self.port_distribution(flow),
            Plugin::Sctp => self.sctp(flow),
            Plugin::Tcp => self.tcp(flow),
        }
    }

    fn add<V: Observed>(&mut self, family: usize, own: &[&str], flow: &V) {
        self.add_to(family, own, (flow, false), Addition::ONE);
    }

    fn add_to<V: Observed>(&mut self, family: usize, own: &[&str], flow: (&V, bool), what: Addition<'_>) {
        if let Some(family) = self.families.get_mut(family) {
            family.add(own, &self.config.contexts, flow, what);
        }
    }

    /// A number as text, in a buffer that is kept; give it back with [`Self::keep`].
    fn number(&mut self, number: impl std::fmt::Display) -> String {
        let mut text = std::mem::take(&mut self.number);
        text.clear();
        write!(text, "{number}").expect("a String takes every write");
        text
    }

    fn keep(&mut self, text: String) {
        self.number = text;
    }

    fn dns<V: Observed>(&mut self, flow: &V) {
        let Some(Record::Dns(dns)) = flow.l7().and_then(|l7| l7.record.as_ref()) else { return };
        if self.config.switches.ignore_aaaa && matches!(dns.qtypes.as_slice(), [only] if only == "AAAA") {
            return;
        }
        let qtypes = dns.qtypes.join(",");
        let ips = self.number(dns.ips.len());
        let is_reply = flow.is_reply() == Some(true);
        let (family, rcode) = match verdict(flow) {
            Verdict::Dropped => (0, "Policy denied"),
            _ if is_reply => (1, rcode(dns.rcode)),
            _ => (0, ""),
        };
        self.add(family, &[rcode, &qtypes, &ips, &dns.query], flow);
        if family == 1 {
            for kind in &dns.rrtypes {
                self.add(2, &[kind, &qtypes, &dns.query], flow);
            }
        }
        self.keep(ips);
    }

    fn drop<V: Observed>(&mut self, flow: &V) {
        if verdict(flow) != Verdict::Dropped {
            return;
        }
        let reason = DropReason::try_from(flow.drop_reason()).map_or("DROP_REASON_UNKNOWN", |r| r.as_str_name());
        self.add(0, &[reason, protocol(flow)], flow);
    }

    fn flow<V: Observed>(&mut self, flow: &V) {
        let (kind, sub) = flow.event_type().unwrap_or_default();
        let unknown;
        let (name, sub) = match kind {
            event_type::L7 => ("L7", flow.l7().map_or("", |l7| l7_name(l7).0)),
            event_type::DROP => ("Drop", ""),
            event_type::CAPTURE => ("Capture", ""),
            event_type::TRACE => ("Trace", text::observation_point(sub).unwrap_or_default()),
            event_type::POLICY_VERDICT => ("PolicyVerdict", ""),
            other => {
                unknown = other.to_string();
                ("Unknown", unknown.as_str())
            }
        };
        self.add(0, &[protocol(flow), name, sub, verdict(flow).as_str_name()], flow);
    }

    fn flows_to_world<V: Observed>(&mut self, flow: &V) {
        let Switches { any_drop, port, syn_only, .. } = self.config.switches;
        let transport = flow.transport();
        if transport.protocol == 0 || flow.event_type().is_none() || !is_world(flow.labels(End::Destination)) {
            return;
        }
        let (verdict, is_reply) = (verdict(flow), flow.is_reply() == Some(true));
        let denied = flow.drop_reason() == DropReason::PolicyDenied as i32;
        let skip = match verdict {
            Verdict::Dropped => !any_drop && !denied,
            _ => is_reply,
        };
        let is_syn = transport.flags.is_some_and(|flags| flags & SYN != 0) && !is_reply;
        if skip || syn_only && !is_syn {
            return;
        }
        let number = match transport.ports {
            Some((_, to)) if port => self.number(to),
            _ => String::new(),
        };
        self.add(0, &[protocol(flow), verdict.as_str_name(), &number], flow);
        self.keep(number);
    }

    fn http<V: Observed>(&mut self, flow: &V) {
        let Some((l7, Record::Http(http))) = flow.l7().and_then(|l7| Some((l7, l7.record.as_ref()?))) else { return };
        let (reporter, trace) = (reporter(flow), self.trace(flow));
        let what = Addition { seconds: seconds(l7), trace };
        match L7FlowType::try_from(l7.r#type) {
            Ok(L7FlowType::Request) => {
                self.add_to(0, &[&http.method, &http.protocol, reporter], (flow, false), what);
            }
            Ok(L7FlowType::Response) => {
                let status = self.number(http.code);
                self.add_to(1, &[&http.method, &http.protocol, &status, reporter], (flow, true), what);
                self.add_to(2, &[&http.method, reporter], (flow, true), what);
                self.keep(status);
            }
            _ => {}
        }
    }

    fn http_v2<V: Observed>(&mut self, flow: &V) {
        let Some((l7, Record::Http(http))) = flow.l7().and_then(|l7| Some((l7, l7.record.as_ref()?))) else { return };
        if L7FlowType::try_from(l7.r#type) != Ok(L7FlowType::Response) {
            return;
        }
        let (reporter, trace) = (reporter(flow), self.trace(flow));
        let what = Addition { seconds: seconds(l7), trace };
        let status = self.number(http.code);
        self.add_to(0, &[&http.method, &http.protocol, &status, reporter], (flow, true), what);
        self.add_to(1, &[&http.method, reporter], (flow, true), what);
        self.keep(status);
    }

    fn trace<'a, V: Observed>(&self, flow: &'a V) -> Option<(&'a str, i64)> {
        self.config.switches.exemplars.then(|| (flow.trace_id(), flow.time_ns()))
    }

    fn icmp<V: Observed>(&mut self, flow: &V) {
        if let Some((_, message)) = flow.icmp() {
            // The original says IPv4 of both families, and dashboards were made for that.
            self.add(0, &["IPv4", &message], flow);
        }
    }

    fn kafka<V: Observed>(&mut self, flow: &V) {
        let Some((l7, Record::Kafka(kafka))) = flow.l7().and_then(|l7| Some((l7, l7.record.as_ref()?))) else { return };
        // The proxy reports a Kafka request once it is answered, with its latency, and calls that a request.
        if L7FlowType::try_from(l7.r#type) != Ok(L7FlowType::Request) {
            return;
        }
        let (reporter, code) = (reporter(flow), self.number(kafka.error_code));
        self.add(0, &[&kafka.topic, &kafka.api_key, &code, reporter], flow);
        let what = Addition { seconds: seconds(l7), trace: None };
        self.add_to(1, &[&kafka.topic, &kafka.api_key, reporter], (flow, false), what);
        self.keep(code);
    }

    fn policy<V: Observed>(&mut self, flow: &V) {
        let by = match flow.event_type() {
            // The host may reach every endpoint of its own, whatever policy says.
            Some((event_type::POLICY_VERDICT, _)) if flow.identity(End::Source) != Some(HOST) => {
                match flow.match_type() {
                    1 => "l3-only",
                    2 => "l3-l4",
                    3 => "l4-only",
                    4 => "all",
                    5 => "l3-proto",
                    6 => "proto-only",
                    0 => "none",
                    _ => "unknown",
                }
            }
            Some((event_type::L7, _)) => match flow.l7() {
                Some(l7) if L7FlowType::try_from(l7.r#type) == Ok(L7FlowType::Request) => l7_name(l7).1,
                _ => return,
            },
            _ => return,
        };
        let direction = match TrafficDirection::try_from(flow.direction()) {
            Ok(TrafficDirection::Ingress) => "ingress",
            Ok(TrafficDirection::Egress) => "egress",
            _ => "traffic_direction_unknown",
        };
        let action = verdict(flow).as_str_name().to_lowercase();
        self.add(0, &[direction, by, &action], flow);
    }

    fn port_distribution<V: Observed>(&mut self, flow: &V) {
        let transport = flow.transport();
        if !passed(flow) || flow.is_reply() != Some(false) {
            return;
        }
        let Some(name) = transport_name(transport.protocol) else { return };
        let number = self.number(transport.ports.map_or(0, |(_, to)| to));
        self.add(0, &[name, &number], flow);
        self.keep(number);
    }

    fn sctp<V: Observed>(&mut self, flow: &V) {
        let Some(chunk) = flow.sctp_chunk().filter(|_| passed(flow)) else { return };
        let name = match chunk {
            1 => "INIT",
            2 => "INIT_ACK",
            6 => "ABORT",
            7 => "SHUTDOWN",
            8 => "SHUTDOWN_ACK",
            14 => "SHUTDOWN_COMPLETE",
            _ => return,
        };
        self.add(0, &[name, family(flow)], flow);
    }

    fn tcp<V: Observed>(&mut self, flow: &V) {
        let Some(flags) = flow.transport().flags.filter(|_| passed(flow) && flow.ip_version() != 0) else { return };
        let family = family(flow);
        if flags & FIN != 0 {
            self.add(0, &["FIN", family], flow);
        }
        if flags & SYN != 0 {
            self.add(0, &[if flags & ACK != 0 { "SYN-ACK" } else { "SYN" }, family], flow);
        }
        if flags & RST != 0 {
            self.add(0, &["RST", family], flow);
        }
    }
}

/// Names with the prefix that all have.
fn full_name(name: &'static str) -> &'static str {
    macro_rules! prefixed {
        ($($name:literal)*) => { match name { $($name => concat!("hubble_", $name),)* other => other } };
    }
    prefixed!(
        "dns_queries_total" "dns_responses_total" "dns_response_types_total" "drop_total" "flows_processed_total"
        "flows_to_world_total" "http_requests_total" "http_responses_total" "http_request_duration_seconds" "icmp_total"
        "kafka_requests_total" "kafka_request_duration_seconds" "policy_verdicts_total" "port_distribution_total"
        "sctp_chunk_types_total" "tcp_flags_total"
    )
}

fn verdict<V: Observed>(flow: &V) -> Verdict {
    Verdict::try_from(flow.verdict()).unwrap_or(Verdict::Unknown)
}

fn passed<V: Observed>(flow: &V) -> bool {
    matches!(verdict(flow), Verdict::Forwarded | Verdict::Redirected)
}

fn family<V: Observed>(flow: &V) -> &'static str {
    IpVersion::try_from(flow.ip_version()).unwrap_or_default().as_str_name()
}

fn seconds(l7: &Layer7) -> f64 {
    l7.latency_ns as f64 / 1e9
}

fn reporter<V: Observed>(flow: &V) -> &'static str {
    match TrafficDirection::try_from(flow.direction()) {
        Ok(TrafficDirection::Egress) => "client",
        Ok(TrafficDirection::Ingress) => "server",
        _ => "unknown",
    }
}

fn is_world(labels: &[String]) -> bool {
    let is = |label: &String| {
        matches!(
            label.strip_suffix('=').unwrap_or(label),
            "reserved:world" | "reserved:world-ipv4" | "reserved:world-ipv6"
        )
    };
    labels.iter().any(is)
}

/// The kind of an application message, and how a policy verdict on it is named.
fn l7_name(l7: &Layer7) -> (&'static str, &'static str) {
    match l7.record {
        Some(Record::Dns(_)) => ("DNS", "l7/dns"),
        Some(Record::Http(_)) => ("HTTP", "l7/http"),
        Some(Record::Kafka(_)) => ("Kafka", "l7/kafka"),
        None => ("", "l7/"),
    }
}

fn transport_name(protocol: u16) -> Option<&'static str> {
    Some(match protocol {
        proto::TCP => "TCP",
        proto::UDP => "UDP",
        proto::ICMP4 => "ICMPv4",
        proto::ICMP6 => "ICMPv6",
        proto::SCTP => "SCTP",
        _ => return None,
    })
}

fn protocol<V: Observed>(flow: &V) -> &'static str {
    match flow.event_type().unwrap_or_default().0 {
        event_type::L7 => match flow.l7().map_or("", |l7| l7_name(l7).0) {
            "" => "Unknown L7",
            name => name,
        },
        event_type::DROP | event_type::TRACE | event_type::POLICY_VERDICT | event_type::CAPTURE => {
            transport_name(flow.transport().protocol).unwrap_or("Unknown L4")
        }
        _ => "Unknown flow",
    }
}

/// What a DNS server said, in words.
fn rcode(code: u32) -> &'static str {
    match code {
        0 => "No Error",
        1 => "Format Error",
        2 => "Server Failure",
        3 => "Non-Existent Domain",
        4 => "Not Implemented",
        5 => "Query Refused",
        6 => "Name Exists when it should not",
        7 => "RR Set Exists when it should not",
        8 => "RR Set that should exist does not",
        9 => "Not Authorized",
        10 => "Name not contained in zone",
        11 => "DSO-TYPE Not Implemented",
        16 => "Bad OPT Version",
        17 => "Key not recognized",
        18 => "Signature out of time window",
        19 => "Bad TKEY Mode",
        20 => "Duplicate key name",
        21 => "Algorithm not supported",
        22 => "Bad Truncation",
        23 => "Bad/missing Server Cookie",
        _ => "",
    }
}
