//! Messages of applications, as a proxy logged them, into flows.
//!
//! A proxy says what it saw in an [`AccessLog`]; the decoder adds who the ends are, how long a request waited for its
//! response and which distributed trace it belongs to. Requests are remembered by their `X-Request-Id`, up to a bound:
//! the oldest are forgotten, and a response whose request is forgotten has no latency.
//!
//! Whoever must hide parts of a message passes a function that does; it sees the message before the summary is
//! written, so nothing hidden comes back in words.

use crate::{Lookup, Side, text};
use alloc::{
    boxed::Box,
    collections::{BTreeMap, VecDeque},
    format,
    string::{String, ToString},
    sync::Arc,
    vec::Vec,
};
use core::net::{IpAddr, SocketAddr};
use hubble_api::{
    event_type,
    flow::{
        self, CiliumEventType, Dns, Flow, FlowType, Http, HttpHeader, Ip, IpVersion, Kafka, L7FlowType, Layer4, Layer7,
        TraceContext, TraceParent, TrafficDirection, Verdict, layer4::Protocol, layer7::Record,
    },
    time,
};

/// Requests remembered for their responses.
const REQUESTS_MAX: usize = 10_000;

/// One end of a logged message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoggedEnd {
    /// Address and port.
    pub address: SocketAddr,
    /// Security identity; 0 when the proxy does not know it.
    pub identity: u32,
}

/// A transport protocol that proxies speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

/// What a proxy did with a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Passed on.
    Forwarded,
    /// Refused by policy.
    Denied,
    /// Failed.
    Error,
    /// Passed on to another proxy.
    Redirected,
}

/// A message as a proxy logs it.
#[derive(Debug, Clone, PartialEq)]
pub struct AccessLog {
    /// Nanoseconds since 1970.
    pub time_ns: i64,
    /// Request, response, or a sample of either.
    pub kind: L7FlowType,
    /// Seen on the way out of an endpoint of this node rather than on the way in.
    pub egress: bool,
    /// What became of it.
    pub outcome: Outcome,
    /// Who sent this message: of a response, who answered.
    pub source: LoggedEnd,
    /// Whom it was for.
    pub destination: LoggedEnd,
    /// What carried it.
    pub transport: Transport,
    /// The message.
    pub message: Message,
}

/// A message of an application protocol.
#[derive(Debug, Clone, PartialEq)]
pub enum Message {
    /// HTTP.
    Http {
        /// Status; of responses.
        code: u32,
        /// Method of the request.
        method: String,
        /// URL of the request.
        url: String,
        /// `HTTP/1.1` and the like.
        protocol: String,
        /// Headers of this message.
        headers: Vec<(String, String)>,
    },
    /// DNS.
    Dns {
        /// The name asked for.
        query: String,
        /// Types asked for, as numbered by IANA.
        question_types: Vec<u16>,
        /// Types answered with; of responses.
        answer_types: Vec<u16>,
        /// Addresses answered; of responses.
        ips: Vec<IpAddr>,
        /// Names answered; of responses.
        cnames: Vec<String>,
        /// Seconds the answer is good for; of responses.
        ttl: u32,
        /// Response code; of responses.
        rcode: u16,
        /// Who observed it: `proxy`, or empty.
        source: String,
    },
    /// Kafka.
    Kafka {
        /// Error; of responses.
        error_code: i32,
        /// Version of the API.
        api_version: i32,
        /// The API by name.
        api_key: String,
        /// Which request a response is for.
        correlation_id: i32,
        /// The topic.
        topic: String,
    },
    /// Another protocol: its name and what the proxy made of the message.
    Other(String, BTreeMap<String, String>),
}

/// Hides what must not be shown of a message.
pub type Hide<'a> = &'a dyn Fn(&mut Layer7);

/// Hides nothing.
pub fn show_all(_: &mut Layer7) {}

/// A request that waits for its response.
#[derive(Debug)]
struct Request {
    time_ns: i64,
    trace: Option<Box<str>>,
    /// Which remembering it was, as an id may come again.
    order: u64,
}

/// Turns access logs into flows, asking `lookup` for what proxies do not say.
#[derive(Debug)]
pub struct L7Decoder<L> {
    lookup: L,
    requests: BTreeMap<Box<str>, Request>,
    oldest: VecDeque<(u64, Box<str>)>,
    remembered: u64,
}

impl<L: Lookup> L7Decoder<L> {
    /// A decoder over what the agent knows.
    pub fn new(lookup: L) -> Self {
        Self { lookup, requests: BTreeMap::new(), oldest: VecDeque::new(), remembered: 0 }
    }

    /// The flow of a message, without node and UUID, which whoever publishes it adds.
    pub fn decode(&mut self, log: &AccessLog, hide: Hide<'_>) -> Flow {
        let (latency_ns, trace) = self.request_of(log);
        let mut l7 = Layer7 { r#type: log.kind.into(), latency_ns, record: record(log) };
        hide(&mut l7);
        let (from, to) = (log.source.address, log.destination.address);
        let (source, destination) = (self.side(&log.source), self.side(&log.destination));
        let direction = if log.egress { TrafficDirection::Egress } else { TrafficDirection::Ingress };
        let reply = log.kind == L7FlowType::Response;
        let names = |of: &Side, ip| (of.id() != 0).then(|| self.lookup.names(of.id(), ip)).flatten();
        let strings =
            |names: Option<Arc<[Box<str>]>>| names.iter().flat_map(|n| n.iter()).map(|n| n.to_string()).collect();
        Flow {
            time: Some(time::from_nanos(log.time_ns.into())),
            verdict: verdict(log.outcome).into(),
            ip: Some(addresses(from.ip(), to.ip())),
            l4: Some(layer4(log.transport, from.port(), to.port())),
            source_names: strings(names(&destination, from.ip())),
            destination_names: strings(names(&source, to.ip())),
            source_service: self.lookup.service(from.ip(), from.port()).as_deref().map(Into::into),
            destination_service: self.lookup.service(to.ip(), to.port()).as_deref().map(Into::into),
            source: Some(source.to_endpoint()),
            destination: Some(destination.to_endpoint()),
            r#type: FlowType::L7.into(),
            event_type: Some(CiliumEventType { r#type: event_type::L7, sub_type: 0 }),
            traffic_direction: direction.into(),
            is_reply: Some(reply),
            reply,
            trace_context: trace.map(|id| TraceContext { parent: Some(TraceParent { trace_id: id.into() }) }),
            summary: summary(&l7, log),
            l7: Some(l7),
            ..Flow::default()
        }
    }

    fn side(&self, end: &LoggedEnd) -> Side {
        Side::resolve(&self.lookup, Some(end.address.ip()), end.identity)
    }

    /// How long a response took and which trace it belongs to; remembers requests.
    fn request_of(&mut self, log: &AccessLog) -> (u64, Option<Box<str>>) {
        let Message::Http { headers, .. } = &log.message else { return (0, None) };
        let header =
            |name: &str| headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str());
        let own = header("traceparent").and_then(trace_id).map(Box::from);
        let Some(id) = header("x-request-id").filter(|id| !id.is_empty()) else { return (0, own) };
        match log.kind {
            L7FlowType::Request => {
                self.remember(id, log.time_ns, own.clone());
                (0, own)
            }
            L7FlowType::Response => match self.requests.remove(id) {
                None => (0, own),
                Some(request) => {
                    let latency_ns = u64::try_from(log.time_ns.saturating_sub(request.time_ns)).unwrap_or(0);
                    (latency_ns, own.or(request.trace))
                }
            },
            _ => (0, own),
        }
    }

    fn remember(&mut self, id: &str, time_ns: i64, trace: Option<Box<str>>) {
        let order = self.remembered;
        self.remembered += 1;
        self.requests.insert(id.into(), Request { time_ns, trace, order });
        self.oldest.push_back((order, id.into()));
        while self.oldest.len() > REQUESTS_MAX {
            let Some((order, id)) = self.oldest.pop_front() else { break };
            // Answered since, or asked again under the same id.
            if self.requests.get(&id).is_some_and(|request| request.order == order) {
                self.requests.remove(&id);
            }
        }
    }
}

/// The trace id of a W3C `traceparent` header: version, trace, parent, flags.
fn trace_id(header: &str) -> Option<&str> {
    let mut parts = header.trim().split('-');
    let (version, trace, parent, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let hex = |text: &str, length| text.len() == length && text.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f'));
    let known = hex(version, 2) && version != "ff" && (version != "00" || parts.next().is_none());
    let set = |text: &str| text.bytes().any(|c| c != b'0');
    (known && hex(trace, 32) && hex(parent, 16) && hex(flags, 2) && set(trace) && set(parent)).then_some(trace)
}

fn verdict(outcome: Outcome) -> Verdict {
    match outcome {
        Outcome::Forwarded => Verdict::Forwarded,
        Outcome::Denied => Verdict::Dropped,
        Outcome::Error => Verdict::Error,
        Outcome::Redirected => Verdict::Redirected,
    }
}

fn addresses(source: IpAddr, destination: IpAddr) -> Ip {
    let version = if source.is_ipv4() { IpVersion::IPv4 } else { IpVersion::IPv6 };
    Ip { source: source.to_string(), destination: destination.to_string(), ip_version: version.into(), ..Ip::default() }
}

fn layer4(transport: Transport, source: u16, destination: u16) -> Layer4 {
    let (source_port, destination_port) = (source.into(), destination.into());
    let protocol = match transport {
        Transport::Tcp => Protocol::Tcp(flow::Tcp { source_port, destination_port, flags: None }),
        Transport::Udp => Protocol::Udp(flow::Udp { source_port, destination_port }),
        Transport::Sctp => Protocol::Sctp(flow::Sctp { source_port, destination_port }),
    };
    Layer4 { protocol: Some(protocol) }
}

/// The message as flows have it; requests without what only responses say.
fn record(log: &AccessLog) -> Option<Record> {
    let request = log.kind == L7FlowType::Request;
    let of_response = |n: u32| if request { 0 } else { n };
    Some(match &log.message {
        Message::Http { code, method, url, protocol, headers } => {
            let mut headers: Vec<HttpHeader> =
                headers.iter().map(|(key, value)| HttpHeader { key: key.clone(), value: value.clone() }).collect();
            headers.sort_by(|a, b| a.key.cmp(&b.key));
            Record::Http(Http {
                code: of_response(*code),
                method: method.clone(),
                url: url.clone(),
                protocol: protocol.clone(),
                headers,
            })
        }
        Message::Dns { query, question_types, answer_types, ips, cnames, ttl, rcode, source } => {
            let types = |list: &[u16]| list.iter().map(|number| text::dns_type(*number)).collect();
            let mut dns = Dns {
                query: query.clone(),
                observation_source: source.clone(),
                qtypes: types(question_types),
                ..Dns::default()
            };
            if !request {
                dns.ips = ips.iter().map(ToString::to_string).collect();
                dns.ttl = *ttl;
                dns.cnames.clone_from(cnames);
                dns.rcode = (*rcode).into();
                dns.rrtypes = types(answer_types);
            }
            Record::Dns(dns)
        }
        Message::Kafka { error_code, api_version, api_key, correlation_id, topic } => Record::Kafka(Kafka {
            error_code: if request { 0 } else { *error_code },
            api_version: *api_version,
            api_key: api_key.clone(),
            correlation_id: *correlation_id,
            topic: topic.clone(),
        }),
        Message::Other(..) => return None,
    })
}

fn summary(l7: &Layer7, log: &AccessLog) -> String {
    let request = log.kind == L7FlowType::Request;
    match &l7.record {
        Some(Record::Http(http)) if request => format!("{} {} {}", http.protocol, http.method, http.url),
        Some(Record::Http(http)) => {
            let millis = l7.latency_ns.saturating_add(500_000) / 1_000_000;
            format!("{} {} {millis}ms ({} {})", http.protocol, http.code, http.method, http.url)
        }
        Some(Record::Dns(dns)) => dns_summary(dns, request),
        Some(Record::Kafka(kafka)) => {
            let Kafka { api_key, correlation_id, topic, error_code, .. } = kafka;
            let half = if request { "request" } else { "response" };
            let code = if request { String::new() } else { format!(" return code {error_code}") };
            format!("Kafka {half} {api_key} correlation id {correlation_id} topic '{topic}'{code}")
        }
        None => match &log.message {
            Message::Other(protocol, fields) => {
                let fields: Vec<String> = fields.iter().map(|(key, value)| format!("{key}:{value}")).collect();
                format!("{protocol} Fields: map[{}]", fields.join(" "))
            }
            _ => String::new(),
        },
    }
}

fn dns_summary(dns: &Dns, request: bool) -> String {
    let types = dns.qtypes.join(",");
    if request {
        return format!("DNS Query {} {types}", dns.query);
    }
    let answer = if dns.rcode == 0 {
        let ips = (!dns.ips.is_empty()).then(|| text::quote(&dns.ips.join(",")));
        let names = (!dns.cnames.is_empty()).then(|| format!("CNAMEs: {}", text::quote(&dns.cnames.join(","))));
        ips.into_iter().chain(names).collect::<Vec<_>>().join(" ")
    } else {
        format!("RCode: {}", text::dns_rcode(dns.rcode))
    };
    let source = if dns.observation_source == "proxy" { "Proxy" } else { "Query" };
    format!("DNS Answer {answer} TTL: {} ({source} {} {types})", dns.ttl, dns.query)
}

#[cfg(test)]
mod tests;
