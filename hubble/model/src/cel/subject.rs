//! Where an expression reads a flow: from its record, or from its message.
//!
//! Records answer for the fields they keep as they are; a path they do not answer for is none here, and the program
//! that needs one asks for the message.

use super::value::Val;
use crate::{FlowRecord, NodeInfo, Side, WorkloadInfo, packet::L4, record, text};
use alloc::borrow::Cow;
use core::net::IpAddr;
use hubble_api::{
    flow::{Flow, IpVersion},
    reflect::{FieldInfo, Kind, MESSAGES, MessageInfo, Reflect, Value},
    time,
};

/// The flow an expression is about.
#[derive(Debug, Clone, Copy)]
pub enum Subject<'a> {
    /// A message.
    Flow(&'a Flow),
    /// A record and the node that saw it.
    Record(&'a FlowRecord, &'a NodeInfo),
}

/// A chain of fields from the flow on.
#[derive(Debug, Clone)]
pub(super) struct Path {
    pub fields: alloc::vec::Vec<&'static FieldInfo>,
    /// How a record answers; none when it cannot.
    pub leaf: Option<Leaf>,
}

/// A field a record keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Leaf {
    Time,
    Verdict,
    DropCode,
    DropReason,
    Ip(bool),
    SourceXlated,
    IpVersion,
    Encrypted,
    /// Protocol bit of [`crate::view::proto`], true for the source.
    Port(u16, bool),
    TcpFlag(u16),
    Id(bool),
    Identity(bool),
    Namespace(bool),
    Labels(bool),
    Pod(bool),
    Cluster(bool),
    Workloads(bool),
    Names(bool),
    FlowType,
    NodeName,
    NodeLabels,
    EventType,
    SubType,
    ServiceName(bool),
    ServiceNamespace(bool),
    Direction,
    MatchType,
    TraceReason,
    IsReply,
    Reply,
    ProxyPort,
    InterfaceIndex,
    InterfaceName,
    AuthType,
    /// A message, of which only the presence is asked.
    Presence(Presence),
}

/// A message that may be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Presence {
    Always,
    Never,
    Ethernet,
    Ip,
    L4,
    Protocol(u16),
    TcpFlags,
    Service(bool),
    Interface,
    File,
}

impl Path {
    pub fn new(fields: alloc::vec::Vec<&'static FieldInfo>) -> Self {
        let names: alloc::vec::Vec<&str> = fields.iter().map(|field| field.name).collect();
        let leaf = leaf(&names);
        Self { fields, leaf }
    }

    /// The last field of the chain.
    pub fn field(&self) -> &'static FieldInfo {
        self.fields.last().expect("a path has a field")
    }

    /// The value in a flow.
    #[inline]
    pub fn load<'a>(&'a self, subject: Subject<'a>) -> Val<'a> {
        match subject {
            Subject::Flow(flow) => Val::of_field(self.walk(flow), self.field()),
            Subject::Record(record, node) => match self.leaf {
                Some(leaf) => of_record(leaf, record, node),
                None => Val::default_of(self.field()),
            },
        }
    }

    #[inline]
    fn walk<'a>(&self, flow: &'a Flow) -> Value<'a> {
        let (first, rest) = self.fields.split_first().expect("a path has a field");
        let mut value = flow.field(first.number);
        for field in rest {
            let Value::Message(message) = value else { return Value::Absent };
            value = message.field(field.number);
        }
        value
    }

    /// True when the field is set; a plain value when it is not the default.
    pub fn is_set(&self, subject: Subject<'_>) -> bool {
        match (subject, self.leaf) {
            (Subject::Flow(flow), _) => value_is_set(self.walk(flow)),
            (Subject::Record(record, _), Some(Leaf::Presence(presence))) => is_present(presence, record),
            (Subject::Record(record, node), Some(leaf)) => val_is_set(&of_record(leaf, record, node)),
            (Subject::Record(..), None) => false,
        }
    }
}

pub(super) fn value_is_set(value: Value<'_>) -> bool {
    match value {
        Value::Absent => false,
        Value::Bool(v) => v,
        Value::Int(v) => v != 0,
        Value::Uint(v) => v != 0,
        Value::Double(v) => v != 0.0,
        Value::Str(v) => !v.is_empty(),
        Value::Time(_) | Value::Message(_) => true,
        Value::List(v) => !v.is_empty(),
    }
}

fn val_is_set(val: &Val<'_>) -> bool {
    match val {
        Val::Bool(v) => *v,
        Val::Int(v) => *v != 0,
        Val::Uint(v) => *v != 0,
        Val::Str(v) => !v.is_empty(),
        Val::Strings(_) | Val::Names(_) | Val::Workloads(_) => val.list_len() != Some(0),
        Val::Null => false,
        _ => true,
    }
}

/// How a record answers for a chain of fields.
fn leaf(names: &[&str]) -> Option<Leaf> {
    use crate::view::proto::{ICMP4, ICMP6, IGMP, SCTP, TCP, UDP, VRRP};
    use Presence::{Always, Never, Protocol};
    let presence = |presence| Some(Leaf::Presence(presence));
    Some(match names {
        ["time"] => Leaf::Time,
        ["verdict"] => Leaf::Verdict,
        ["drop_reason"] => Leaf::DropCode,
        ["drop_reason_desc"] => Leaf::DropReason,
        ["ethernet"] => return presence(Presence::Ethernet),
        ["IP"] => return presence(Presence::Ip),
        ["IP", "source"] => Leaf::Ip(true),
        ["IP", "destination"] => Leaf::Ip(false),
        ["IP", "source_xlated"] => Leaf::SourceXlated,
        ["IP", "ipVersion"] => Leaf::IpVersion,
        ["IP", "encrypted"] => Leaf::Encrypted,
        ["l4"] => return presence(Presence::L4),
        ["l4", "TCP"] => return presence(Protocol(TCP)),
        ["l4", "TCP", "flags"] => return presence(Presence::TcpFlags),
        ["l4", "UDP"] => return presence(Protocol(UDP)),
        ["l4", "SCTP"] => return presence(Protocol(SCTP)),
        ["l4", "ICMPv4"] => return presence(Protocol(ICMP4)),
        ["l4", "ICMPv6"] => return presence(Protocol(ICMP6)),
        ["l4", "VRRP"] => return presence(Protocol(VRRP)),
        ["l4", "IGMP"] => return presence(Protocol(IGMP)),
        ["l7" | "tunnel" | "ip_trace_id" | "trace_context"] => return presence(Never),
        ["l4", protocol @ ("TCP" | "UDP" | "SCTP"), port @ ("source_port" | "destination_port")] => {
            let bit = match *protocol {
                "TCP" => TCP,
                "UDP" => UDP,
                _ => SCTP,
            };
            Leaf::Port(bit, *port == "source_port")
        }
        ["l4", "TCP", "flags", flag] => {
            let all = ["FIN", "SYN", "RST", "PSH", "ACK", "URG", "ECE", "CWR", "NS"];
            Leaf::TcpFlag(1 << all.iter().position(|name| name == flag)?)
        }
        ["source" | "destination"] | ["event_type"] => return presence(Always),
        [end @ ("source" | "destination"), field] => return end_leaf(*end == "source", field),
        [end @ ("source_names" | "destination_names")] => Leaf::Names(end.starts_with('s')),
        ["Type"] => Leaf::FlowType,
        ["node_name"] => Leaf::NodeName,
        ["node_labels"] => Leaf::NodeLabels,
        ["event_type", "type"] => Leaf::EventType,
        ["event_type", "sub_type"] => Leaf::SubType,
        [end @ ("source_service" | "destination_service")] => return presence(Presence::Service(end.starts_with('s'))),
        [end @ ("source_service" | "destination_service"), "name"] => Leaf::ServiceName(end.starts_with('s')),
        [end @ ("source_service" | "destination_service"), "namespace"] => Leaf::ServiceNamespace(end.starts_with('s')),
        ["traffic_direction"] => Leaf::Direction,
        ["policy_match_type"] => Leaf::MatchType,
        ["trace_reason"] => Leaf::TraceReason,
        ["is_reply"] => Leaf::IsReply,
        ["reply"] => Leaf::Reply,
        ["proxy_port"] => Leaf::ProxyPort,
        ["interface"] => return presence(Presence::Interface),
        ["interface", "index"] => Leaf::InterfaceIndex,
        ["interface", "name"] => Leaf::InterfaceName,
        ["auth_type"] => Leaf::AuthType,
        ["file"] => return presence(Presence::File),
        _ => return None,
    })
}

/// How a record answers for a field of one of its ends.
fn end_leaf(source: bool, field: &str) -> Option<Leaf> {
    Some(match field {
        "ID" => Leaf::Id(source),
        "identity" => Leaf::Identity(source),
        "namespace" => Leaf::Namespace(source),
        "labels" => Leaf::Labels(source),
        "pod_name" => Leaf::Pod(source),
        "cluster_name" => Leaf::Cluster(source),
        "workloads" => Leaf::Workloads(source),
        _ => return None,
    })
}

fn protocol(record: &FlowRecord) -> u16 {
    use crate::view::proto;
    match record.headers.l4 {
        L4::None => 0,
        L4::Tcp { .. } => proto::TCP,
        L4::Udp { .. } => proto::UDP,
        L4::Sctp { .. } => proto::SCTP,
        L4::Icmp4 { .. } => proto::ICMP4,
        L4::Icmp6 { .. } => proto::ICMP6,
        L4::Vrrp { .. } => proto::VRRP,
        L4::Igmp { .. } => proto::IGMP,
    }
}

fn is_present(presence: Presence, record: &FlowRecord) -> bool {
    match presence {
        Presence::Always => true,
        Presence::Never => false,
        Presence::Ethernet => record.headers.ethernet.is_some(),
        Presence::Ip => record.headers.ip.is_some(),
        Presence::L4 => protocol(record) != 0,
        Presence::Protocol(bit) => protocol(record) == bit,
        Presence::TcpFlags => protocol(record) == crate::view::proto::TCP && record.socket.is_none(),
        Presence::Service(true) => record.source_service.is_some(),
        Presence::Service(false) => record.destination_service.is_some(),
        Presence::Interface => record.ifindex != 0,
        Presence::File => record.file.0 != 0,
    }
}

fn side(record: &FlowRecord, source: bool) -> &Side {
    if source { &record.source } else { &record.destination }
}

fn address<'a>(ip: Option<IpAddr>) -> Val<'a> {
    ip.map_or(Val::Str(Cow::Borrowed("")), Val::Ip)
}

/// The value of a kept field. Where nothing is kept it is what the message would have.
fn of_record<'a>(leaf: Leaf, record: &'a FlowRecord, node: &'a NodeInfo) -> Val<'a> {
    let text = |text: &'a str| Val::Str(Cow::Borrowed(text));
    let int = |number: i32| Val::Int(number.into());
    let info = |source: bool| side(record, source).info.as_deref();
    let service = |source: bool| if source { &record.source_service } else { &record.destination_service };
    match leaf {
        Leaf::Time => Val::Time(time::from_nanos(record.time_ns.into())),
        Leaf::Verdict => int(record.verdict.into()),
        Leaf::DropCode => Val::Uint(record.drop_code.into()),
        Leaf::DropReason => int(text::drop_reason_enum(record.drop_code)),
        Leaf::Ip(source) => address(record.headers.ip.map(|ends| if source { ends.0 } else { ends.1 })),
        Leaf::SourceXlated => address(record.headers.ip.and(record.source_xlated)),
        Leaf::IpVersion => match record.headers.ip {
            None => Val::Int(0),
            Some((IpAddr::V4(_), _)) => int(IpVersion::IPv4.into()),
            Some((IpAddr::V6(_), _)) => int(IpVersion::IPv6.into()),
        },
        Leaf::Encrypted => Val::Bool(record.headers.ip.is_some() && record.encrypted),
        Leaf::Port(bit, source) => {
            let ports = record.headers.l4.ports().filter(|_| protocol(record) == bit);
            Val::Uint(ports.map_or(0, |ports| if source { ports.0 } else { ports.1 }).into())
        }
        Leaf::TcpFlag(bit) => {
            let flags = if let L4::Tcp { flags, .. } = record.headers.l4 { flags } else { 0 };
            Val::Bool(flags & record::FLAG_BITS & bit != 0)
        }
        Leaf::Id(source) => Val::Uint(side(record, source).id().into()),
        Leaf::Identity(source) => Val::Uint(side(record, source).identity.into()),
        Leaf::Namespace(source) => text(info(source).map_or("", |info| &info.namespace)),
        Leaf::Labels(source) => Val::Strings(side(record, source).labels()),
        Leaf::Pod(source) => text(info(source).map_or("", |info| &info.pod_name)),
        Leaf::Cluster(source) => text(side(record, source).cluster()),
        Leaf::Workloads(source) => Val::Workloads(info(source).map_or(&[], |info| &info.workloads)),
        Leaf::Names(source) => {
            let names = if source { &record.source_names } else { &record.destination_names };
            Val::Names(names.as_deref().unwrap_or_default())
        }
        Leaf::FlowType => int(record.flow_type().into()),
        Leaf::NodeName => text(&node.name),
        Leaf::NodeLabels => Val::Strings(&node.labels),
        Leaf::EventType => Val::Int(record.event_type.into()),
        Leaf::SubType => Val::Int(record.sub_type.into()),
        Leaf::ServiceName(source) => text(service(source).as_ref().map_or("", |service| &service.name)),
        Leaf::ServiceNamespace(source) => text(service(source).as_ref().map_or("", |service| &service.namespace)),
        Leaf::Direction => int(record.direction.into()),
        Leaf::MatchType => Val::Uint(record.match_type.into()),
        Leaf::TraceReason => int(record.trace_reason.into()),
        Leaf::IsReply => record.is_reply.map_or(Val::Null, Val::Bool),
        Leaf::Reply => Val::Bool(record.is_reply == Some(true)),
        Leaf::ProxyPort => Val::Uint(record.proxy_port.into()),
        Leaf::InterfaceIndex => Val::Uint(record.ifindex.into()),
        Leaf::InterfaceName => text(record.interface.as_deref().filter(|_| record.ifindex != 0).unwrap_or_default()),
        Leaf::AuthType => Val::Int(record.auth_type.into()),
        // Only asked for its presence; as a value, a message is read from the message.
        Leaf::Presence(_) => Val::Null,
    }
}

/// As `flow.Workload`.
impl Reflect for WorkloadInfo {
    fn info(&self) -> &'static MessageInfo {
        MessageInfo::named("flow.Workload").expect("workloads are a message of the package")
    }

    fn field(&self, number: u32) -> Value<'_> {
        match number {
            1 => Value::Str(&self.name),
            2 => Value::Str(&self.kind),
            _ => Value::Absent,
        }
    }
}

/// The type of a message field, for paths that go on.
pub(super) fn message_of(field: &FieldInfo) -> Option<&'static MessageInfo> {
    match field.kind {
        Kind::Message(index) if !field.repeated => Some(&MESSAGES[index]),
        _ => None,
    }
}
