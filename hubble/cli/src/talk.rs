//! Who talked to whom: a flow as an edge from the one that opened the connection to the one that was asked.
//!
//! Replies are turned around, so that both directions of a connection are one edge and the port is the server's. What
//! an end is called depends on what is wanted of it; an end without such a name is called by what is known instead.

use hubble_api::flow::{Endpoint, Flow, Service, Verdict, layer4::Protocol, layer7::Record};
use hubble_model::text;

/// What ends are called by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum By {
    /// The object that made the pod.
    #[default]
    Workload,
    /// The pod.
    Pod,
    /// The namespace.
    Namespace,
    /// The service, else the workload.
    Service,
    /// The security identity.
    Identity,
    /// The address.
    Ip,
}

/// Names of [`By`], as flags have them.
pub const BY: [(&str, By); 6] = [
    ("workload", By::Workload),
    ("pod", By::Pod),
    ("namespace", By::Namespace),
    ("service", By::Service),
    ("identity", By::Identity),
    ("ip", By::Ip),
];

impl By {
    /// Reads the value of `--by`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let names = BY.map(|(name, _)| name).join(", ");
        let found = BY.iter().find(|(name, _)| *name == text).map(|(_, by)| *by);
        found.ok_or_else(|| format!("invalid --by value {}: want one of {names}", text::quote(text)))
    }
}

/// A flow as an edge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Talk {
    /// Who opened the connection.
    pub client: String,
    /// Who was asked.
    pub server: String,
    /// Transport and port of the server: `TCP/80`; the transport alone where there are no ports.
    pub port: String,
    /// `HTTP`, `DNS` or `Kafka` when the message was seen.
    pub application: Option<&'static str>,
    /// What became of it.
    pub verdict: Verdict,
    /// Why it was dropped.
    pub reason: Option<String>,
}

/// The edge of a flow; none when the flow has no two ends.
pub fn talk(flow: &Flow, by: By) -> Option<Talk> {
    if flow.ip.is_none() && flow.source.is_none() && flow.destination.is_none() {
        return None;
    }
    let reply = flow.is_reply == Some(true);
    let (source, destination) = (source(flow, by), destination(flow, by));
    let (client, server) = if reply { (destination, source) } else { (source, destination) };
    let verdict = flow.verdict();
    let reason = (verdict == Verdict::Dropped).then(|| {
        let code = u8::try_from(flow.drop_reason_desc).ok().filter(|code| *code != 0);
        code.and_then(text::drop_reason).unwrap_or("unknown reason").to_owned()
    });
    Some(Talk { client, server, port: port(flow, reply), application: application(flow), verdict, reason })
}

fn port(flow: &Flow, reply: bool) -> String {
    let Some(protocol) = flow.l4.as_ref().and_then(|l4| l4.protocol.as_ref()) else { return "other".into() };
    let (name, from, to) = match protocol {
        Protocol::Tcp(tcp) => ("TCP", tcp.source_port, tcp.destination_port),
        Protocol::Udp(udp) => ("UDP", udp.source_port, udp.destination_port),
        Protocol::Sctp(sctp) => ("SCTP", sctp.source_port, sctp.destination_port),
        Protocol::IcmPv4(_) => return "ICMPv4".into(),
        Protocol::IcmPv6(_) => return "ICMPv6".into(),
        Protocol::Vrrp(_) => return "VRRP".into(),
        Protocol::Igmp(_) => return "IGMP".into(),
    };
    format!("{name}/{}", if reply { from } else { to })
}

fn application(flow: &Flow) -> Option<&'static str> {
    match flow.l7.as_ref()?.record.as_ref()? {
        Record::Http(_) => Some("HTTP"),
        Record::Dns(_) => Some("DNS"),
        Record::Kafka(_) => Some("Kafka"),
    }
}

fn source(flow: &Flow, by: By) -> String {
    let ip = flow.ip.as_ref().map_or("", |ip| &ip.source);
    name(flow.source.as_ref(), flow.source_service.as_ref(), &flow.source_names, ip, by)
}

fn destination(flow: &Flow, by: By) -> String {
    let ip = flow.ip.as_ref().map_or("", |ip| &ip.destination);
    name(flow.destination.as_ref(), flow.destination_service.as_ref(), &flow.destination_names, ip, by)
}

fn join(namespace: &str, name: &str) -> String {
    if namespace.is_empty() { name.into() } else { format!("{namespace}/{name}") }
}

fn name(end: Option<&Endpoint>, service: Option<&Service>, names: &[String], ip: &str, by: By) -> String {
    let empty = Endpoint::default();
    let end = end.unwrap_or(&empty);
    let pod = || (!end.pod_name.is_empty()).then(|| join(&end.namespace, &end.pod_name));
    let workload = || end.workloads.first().map(|work| join(&end.namespace, &work.name));
    let service = || service.filter(|service| !service.name.is_empty()).map(|of| join(&of.namespace, &of.name));
    let namespace = || (!end.namespace.is_empty()).then(|| end.namespace.clone());
    let address = || (!ip.is_empty()).then(|| ip.to_owned());
    let wanted = match by {
        By::Workload => workload().or_else(pod).or_else(service),
        By::Pod => pod().or_else(service),
        By::Namespace => namespace(),
        By::Service => service().or_else(workload).or_else(pod),
        By::Identity => (end.identity != 0).then(|| identity(end.identity)),
        By::Ip => address(),
    };
    wanted
        .or_else(|| names.first().cloned())
        .or_else(|| outside(end))
        .or_else(address)
        .unwrap_or_else(|| "unknown".into())
}

fn identity(number: u32) -> String {
    text::reserved_identity(number).map_or_else(|| number.to_string(), str::to_owned)
}

/// The reserved name of what is no pod: the world, a host, the health check.
fn outside(end: &Endpoint) -> Option<String> {
    (end.identity != 0).then(|| text::reserved_identity(end.identity)).flatten().map(str::to_owned)
}
