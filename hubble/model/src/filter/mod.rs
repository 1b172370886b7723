//! Which flows someone asked for.
//!
//! A [`Filter`] is compiled once from a `FlowFilter`; evaluating it allocates nothing. All populated fields must
//! match, the values of one field are alternatives. A filter that cannot mean anything is an error that names the
//! field and the value, never a filter that matches nothing.

mod address;
mod http;
mod label;
mod list;
mod pattern;

use crate::{
    FlowView,
    cel::{CelError, Program, Subject},
    view::{End, flag_bits, proto},
};
use alloc::{
    boxed::Box,
    string::{String, ToString},
    vec::Vec,
};
use hubble_api::flow::{FlowFilter, Verdict, layer7::Record};

pub use label::{Selector, SelectorError};
pub use list::FilterList;

/// Why a filter was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    /// Neither an address nor, with a slash, a prefix.
    #[error("invalid IP address {0:?} in filter: want an IPv4 or IPv6 address")]
    Address(String),
    /// Not an address prefix.
    #[error("invalid IP prefix {0:?} in filter: want an address, a slash and a length")]
    Prefix(String),
    /// A pod or service name without anything in it.
    #[error("invalid {field} filter: name must not be empty")]
    EmptyName {
        /// The filter field.
        field: &'static str,
    },
    /// A cluster name without anything in it.
    #[error("invalid {field} filter: cluster name must not be empty")]
    EmptyCluster {
        /// The filter field.
        field: &'static str,
    },
    /// A name pattern without anything in it.
    #[error("empty pattern")]
    EmptyPattern,
    /// One dot at the end is the root; two are a mistake.
    #[error("multiple trailing dots in pattern {0:?}")]
    PatternDots(String),
    /// A character that no name has.
    #[error("{0:?}: invalid rune in pattern")]
    PatternRune(char),
    /// `cluster/node` has one slash at most.
    #[error("too many slashes in pattern")]
    PatternSlashes,
    /// Not the grammar of label selectors.
    #[error("invalid {field} filter: unable to parse requirement: {source}")]
    Label {
        /// The filter field.
        field: &'static str,
        /// What the grammar asks for.
        source: SelectorError,
    },
    /// Not a regular expression.
    #[error("invalid {field} filter: failed to compile regexp {pattern:?}: {why}")]
    Regex {
        /// The filter field.
        field: &'static str,
        /// The expression.
        pattern: String,
        /// The parser's words.
        why: String,
    },
    /// Neither a status code nor a prefix of one.
    #[error("invalid http status code filter: invalid status code prefix: {0:?}")]
    StatusCode(String),
    /// HTTP fields select nothing among events that are not of the application layer.
    #[error("filtering by {field} requires the event type filter to only match 'l7' events")]
    NeedsL7 {
        /// The filter field.
        field: &'static str,
    },
    /// Not a protocol flows describe.
    #[error("invalid protocol filter: unknown protocol: {0:?}")]
    Protocol(String),
    /// Not a port number.
    #[error("invalid {field} filter: invalid port {port:?}: want a number from 0 to 65535")]
    Port {
        /// The filter field.
        field: &'static str,
        /// The text given.
        port: String,
    },
    /// Not an expression over flows.
    #[error("invalid CEL expression filter {expression:?}: {source}")]
    Cel {
        /// The expression.
        expression: String,
        /// What is wrong with it, and where.
        source: CelError,
    },
}

/// One populated field of a filter.
#[derive(Debug)]
enum Check {
    Uuid(Box<[String]>),
    Address(Option<End>, address::Matcher),
    Pod(End, Box<[pattern::Named]>),
    Service(End, Box<[pattern::Named]>),
    Names(End, pattern::Pattern),
    Labels(Option<End>, Box<[Selector]>),
    Workload(End, Box<[(String, String)]>),
    Cluster(End, Box<[String]>),
    Identity(End, Box<[u32]>),
    Direction(Numbers),
    Verdict(Numbers),
    DropReason(Numbers),
    Interface(Box<[(u32, String)]>),
    EventType(Box<[(i32, Option<i32>)]>),
    Http(http::Check),
    Protocol(u16),
    Port(End, Box<[u16]>),
    Reply(Box<[bool]>),
    DnsQuery(Box<[regex::Regex]>),
    TcpFlags(Box<[u16]>),
    NodeName(pattern::NodePattern),
    IpVersion(Numbers),
    TraceId(Box<[String]>),
    IpTraceId(Box<[u64]>),
    Encrypted(Box<[bool]>),
    Cel(Box<[Program]>),
}

/// A compiled `FlowFilter`.
#[derive(Debug, Default)]
pub struct Filter {
    checks: Box<[Check]>,
}

impl Filter {
    /// Compiles a filter. Without populated fields it matches every flow.
    pub fn new(filter: &FlowFilter) -> Result<Self, FilterError> {
        let mut checks = Vec::new();
        ends(filter, &mut checks)?;
        flow_fields(filter, &mut checks)?;
        http::compile(filter, &mut checks)?;
        // Last, as all else is cheaper.
        let expressions = filter.experimental.as_ref().map_or(&[][..], |more| &more.cel_expression);
        if !expressions.is_empty() {
            checks.push(Check::Cel(programs(expressions)?));
        }
        Ok(Self { checks: checks.into() })
    }

    /// True when all fields match.
    pub fn matches<V: FlowView + ?Sized>(&self, flow: &V) -> bool {
        self.checks.iter().all(|check| check.matches(flow))
    }
}

/// A set of enum numbers; the small ones, which are all that have names in most enums, are one word.
#[derive(Debug, Default)]
struct Numbers {
    small: u64,
    others: Box<[i32]>,
}

impl Numbers {
    fn new(list: &[i32]) -> Self {
        let is_small = |number: &i32| (0..64).contains(number);
        Self {
            small: list.iter().copied().filter(is_small).fold(0, |set, number| set | 1 << number),
            others: list.iter().copied().filter(|number| !is_small(number)).collect(),
        }
    }

    #[inline]
    fn contains(&self, number: i32) -> bool {
        if (0..64).contains(&number) { self.small >> number & 1 == 1 } else { self.others.contains(&number) }
    }
}

fn boxed<T: Clone>(values: &[T]) -> Box<[T]> {
    values.into()
}

/// Fields that come once for the source and once for the destination.
fn ends(filter: &FlowFilter, checks: &mut Vec<Check>) -> Result<(), FilterError> {
    let f = filter;
    for (end, ips, pods, services, fqdns, labels, workloads, clusters, identities, ports) in [
        (
            End::Source,
            (&f.source_ip, "source IP"),
            (&f.source_pod, "source pod"),
            (&f.source_service, "source service"),
            &f.source_fqdn,
            (&f.source_label, "source label"),
            &f.source_workload,
            (&f.source_cluster_name, "source cluster name"),
            &f.source_identity,
            (&f.source_port, "source port"),
        ),
        (
            End::Destination,
            (&f.destination_ip, "destination IP"),
            (&f.destination_pod, "destination pod"),
            (&f.destination_service, "destination service"),
            &f.destination_fqdn,
            (&f.destination_label, "destination label"),
            &f.destination_workload,
            (&f.destination_cluster_name, "destination cluster name"),
            &f.destination_identity,
            (&f.destination_port, "destination port"),
        ),
    ] {
        if !ips.0.is_empty() {
            checks.push(Check::Address(Some(end), address::Matcher::new(ips.0)?));
        }
        if !pods.0.is_empty() {
            checks.push(Check::Pod(end, pattern::Named::list(pods.0, pods.1)?));
        }
        if !services.0.is_empty() {
            checks.push(Check::Service(end, pattern::Named::list(services.0, services.1)?));
        }
        if !fqdns.is_empty() {
            checks.push(Check::Names(end, pattern::Pattern::names(fqdns)?));
        }
        if !labels.0.is_empty() {
            checks.push(Check::Labels(Some(end), selectors(labels.0, labels.1)?));
        }
        if !workloads.is_empty() {
            let list = workloads.iter().map(|work| (work.kind.clone(), work.name.clone())).collect();
            checks.push(Check::Workload(end, list));
        }
        if !clusters.0.is_empty() {
            if clusters.0.iter().any(String::is_empty) {
                return Err(FilterError::EmptyCluster { field: clusters.1 });
            }
            checks.push(Check::Cluster(end, boxed(clusters.0)));
        }
        if !identities.is_empty() {
            checks.push(Check::Identity(end, boxed(identities)));
        }
        if !ports.0.is_empty() {
            checks.push(Check::Port(end, parse_ports(ports.0, ports.1)?));
        }
    }
    if !f.source_ip_xlated.is_empty() {
        checks.push(Check::Address(None, address::Matcher::new(&f.source_ip_xlated)?));
    }
    if !f.node_labels.is_empty() {
        checks.push(Check::Labels(None, selectors(&f.node_labels, "node label")?));
    }
    Ok(())
}

fn flow_fields(f: &FlowFilter, checks: &mut Vec<Check>) -> Result<(), FilterError> {
    macro_rules! exact {
        ($($field:ident => $check:ident),*) => { $(if !f.$field.is_empty() {
            checks.push(Check::$check(boxed(&f.$field)));
        })* };
    }
    exact!(
        reply => Reply, trace_id => TraceId, ip_trace_id => IpTraceId, encrypted => Encrypted, uuid => Uuid
    );
    for (list, check) in [
        (&f.verdict, Check::Verdict as fn(Numbers) -> Check),
        (&f.traffic_direction, Check::Direction),
        (&f.drop_reason_desc, Check::DropReason),
        (&f.ip_version, Check::IpVersion),
    ] {
        if !list.is_empty() {
            checks.push(check(Numbers::new(list)));
        }
    }
    if !f.event_type.is_empty() {
        let kind =
            |kind: &hubble_api::flow::EventTypeFilter| (kind.r#type, kind.match_sub_type.then_some(kind.sub_type));
        checks.push(Check::EventType(f.event_type.iter().map(kind).collect()));
    }
    if !f.interface.is_empty() {
        let list = f.interface.iter().map(|interface| (interface.index, interface.name.clone())).collect();
        checks.push(Check::Interface(list));
    }
    if !f.protocol.is_empty() {
        checks.push(Check::Protocol(protocols(&f.protocol)?));
    }
    if !f.tcp_flags.is_empty() {
        checks.push(Check::TcpFlags(f.tcp_flags.iter().map(flag_bits).collect()));
    }
    if !f.node_name.is_empty() {
        checks.push(Check::NodeName(pattern::NodePattern::new(&f.node_name)?));
    }
    if !f.dns_query.is_empty() {
        checks.push(Check::DnsQuery(regexes(&f.dns_query, "DNS query")?));
    }
    Ok(())
}

fn programs(list: &[String]) -> Result<Box<[Program]>, FilterError> {
    let compile =
        |text: &String| Program::new(text).map_err(|source| FilterError::Cel { expression: text.clone(), source });
    list.iter().map(compile).collect()
}

/// One expression must be true; one that fails before that decides that the flow does not match.
fn any_true(list: &[Program], subject: Subject<'_>) -> bool {
    list.iter().map(|program| program.matches(subject)).find(|found| *found != Some(false)) == Some(Some(true))
}

fn selectors(list: &[String], field: &'static str) -> Result<Box<[Selector]>, FilterError> {
    list.iter().map(|text| Selector::parse(text).map_err(|source| FilterError::Label { field, source })).collect()
}

fn parse_ports(list: &[String], field: &'static str) -> Result<Box<[u16]>, FilterError> {
    let digits = |text: &String| !text.is_empty() && text.bytes().all(|c| c.is_ascii_digit());
    let port = |text: &String| text.parse().ok().filter(|_| digits(text));
    list.iter().map(|text| port(text).ok_or_else(|| FilterError::Port { field, port: text.clone() })).collect()
}

fn regexes(list: &[String], field: &'static str) -> Result<Box<[regex::Regex]>, FilterError> {
    let compile = |pattern: &String| {
        regex::Regex::new(pattern).map_err(|error| FilterError::Regex {
            field,
            pattern: pattern.clone(),
            why: last_line(&error.to_string()),
        })
    };
    list.iter().map(compile).collect()
}

/// The parser draws a picture of several lines; the last one says what is wrong.
pub(crate) fn last_line(error: &str) -> String {
    let last = error.lines().last().unwrap_or_default();
    last.strip_prefix("error: ").unwrap_or(last).into()
}

pub(crate) fn protocols(list: &[String]) -> Result<u16, FilterError> {
    let mut mask = 0;
    for name in list {
        mask |= match name.to_lowercase().as_str() {
            "icmp" => proto::ICMP4 | proto::ICMP6,
            "icmpv4" => proto::ICMP4,
            "icmpv6" => proto::ICMP6,
            "tcp" => proto::TCP,
            "udp" => proto::UDP,
            "sctp" => proto::SCTP,
            "vrrp" => proto::VRRP,
            "igmp" => proto::IGMP,
            "dns" => proto::DNS,
            "http" => proto::HTTP,
            "kafka" => proto::KAFKA,
            _ => return Err(FilterError::Protocol(name.clone())),
        };
    }
    Ok(mask)
}

pub(crate) fn application<V: FlowView + ?Sized>(flow: &V) -> u16 {
    match flow.l7().and_then(|l7| l7.record.as_ref()) {
        None => 0,
        Some(Record::Dns(_)) => proto::DNS,
        Some(Record::Http(_)) => proto::HTTP,
        Some(Record::Kafka(_)) => proto::KAFKA,
    }
}

impl Check {
    /// What is decided by a load and a comparison is decided here; all else is called, so that this stays small.
    #[inline]
    fn matches<V: FlowView + ?Sized>(&self, flow: &V) -> bool {
        match self {
            Self::Verdict(list) => list.contains(flow.verdict()),
            Self::Direction(list) => list.contains(flow.direction()),
            Self::IpVersion(list) => list.contains(flow.ip_version()),
            Self::DropReason(list) => flow.verdict() == Verdict::Dropped as i32 && list.contains(flow.drop_reason()),
            Self::Encrypted(list) => list.contains(&flow.encrypted()),
            Self::Identity(end, list) => flow.identity(*end).is_some_and(|identity| list.contains(&identity)),
            Self::Port(end, list) => flow.transport().ports.is_some_and(|(source, destination)| {
                let port = if *end == End::Source { source } else { destination };
                list.iter().any(|want| u32::from(*want) == port)
            }),
            Self::TcpFlags(list) => {
                flow.transport().flags.is_some_and(|flags| list.iter().any(|want| flags & want == *want))
            }
            other => other.matches_more(flow),
        }
    }

    #[inline(never)]
    fn matches_more<V: FlowView + ?Sized>(&self, flow: &V) -> bool {
        match self {
            Self::Uuid(list) => list.iter().any(|uuid| flow.has_uuid(uuid)),
            Self::Address(Some(end), list) => list.matches(flow.address(*end)),
            Self::Address(None, list) => list.matches(flow.source_xlated()),
            Self::Pod(end, list) => pattern::Named::any(list, flow.pod(*end)),
            Self::Service(end, list) => pattern::Named::any(list, flow.service(*end)),
            Self::Names(end, pattern) => flow.any_name(*end, &mut |name| pattern.matches(name)),
            Self::Labels(Some(end), list) => list.iter().any(|selector| selector.matches(flow.labels(*end))),
            Self::Labels(None, list) => list.iter().any(|selector| selector.matches(flow.node_labels())),
            Self::Workload(end, list) => flow.any_workload(*end, &mut |kind, name| {
                list.iter().any(|(k, n)| (k.is_empty() || k == kind) && (n.is_empty() || n == name))
            }),
            Self::Cluster(end, list) => list.iter().any(|name| name == flow.cluster(*end)),
            Self::Interface(list) => flow.interface().is_some_and(|(index, name)| {
                list.iter().any(|(i, n)| (*i == 0 || *i == index) && (n.is_empty() || n == name))
            }),
            Self::EventType(list) => flow.event_type().is_some_and(|(kind, sub)| {
                list.iter().any(|(k, s)| (*k == 0 || *k == kind) && s.is_none_or(|s| s == sub))
            }),
            Self::Http(check) => check.matches(flow),
            Self::Protocol(mask) => mask & (flow.transport().protocol | application(flow)) != 0,
            Self::Reply(list) => match flow.is_reply() {
                Some(reply) => list.contains(&reply),
                None => flow.verdict() == Verdict::Dropped as i32 && list.contains(&false),
            },
            Self::DnsQuery(list) => match flow.l7().and_then(|l7| l7.record.as_ref()) {
                Some(Record::Dns(dns)) => list.iter().any(|regex| regex.is_match(&dns.query)),
                _ => false,
            },
            Self::NodeName(pattern) => pattern.matches(flow.node_name()),
            Self::TraceId(list) => list.iter().any(|want| want == flow.trace_id()),
            Self::IpTraceId(list) => list.contains(&flow.ip_trace_id()),
            Self::Cel(list) => any_true(list, flow.subject()),
            Self::Verdict(_)
            | Self::Direction(_)
            | Self::IpVersion(_)
            | Self::DropReason(_)
            | Self::Encrypted(_)
            | Self::Identity(..)
            | Self::Port(..)
            | Self::TcpFlags(_) => self.matches(flow),
        }
    }
}
