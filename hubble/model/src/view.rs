//! Flows as filters see them, whether small records or protobuf messages.

use crate::{FlowRecord, NodeInfo, Side, cel::Subject, packet::L4, record};
use alloc::string::String;
use core::net::IpAddr;
use hubble_api::flow::{self, Flow, layer4::Protocol};

/// Which end of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Where the packet came from.
    Source,
    /// Where it went.
    Destination,
}

/// An address as the flow has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Address<'a> {
    /// Text of a protobuf message; empty when there is none.
    Text(&'a str),
    /// An address of a record; none when there is none.
    Ip(Option<IpAddr>),
}

/// A transport header as filters need it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Transport {
    /// Bit of the protocol, see [`proto`]; 0 for none.
    pub protocol: u16,
    /// Source and destination port, of protocols that have them.
    pub ports: Option<(u32, u32)>,
    /// The nine TCP flags as on the wire.
    pub flags: Option<u16>,
}

/// Bits of protocols, so that a filter is one mask.
pub mod proto {
    /// TCP.
    pub const TCP: u16 = 1;
    /// UDP.
    pub const UDP: u16 = 1 << 1;
    /// ICMP for IPv4.
    pub const ICMP4: u16 = 1 << 2;
    /// ICMP for IPv6.
    pub const ICMP6: u16 = 1 << 3;
    /// SCTP.
    pub const SCTP: u16 = 1 << 4;
    /// VRRP.
    pub const VRRP: u16 = 1 << 5;
    /// IGMP.
    pub const IGMP: u16 = 1 << 6;
    /// DNS.
    pub const DNS: u16 = 1 << 7;
    /// HTTP.
    pub const HTTP: u16 = 1 << 8;
    /// Kafka.
    pub const KAFKA: u16 = 1 << 9;
}

/// Everything a filter can ask of a flow. Absent values are empty, zero or none.
pub trait FlowView {
    /// True when the flow's UUID is this text.
    fn has_uuid(&self, uuid: &str) -> bool;
    /// The address of an end.
    fn address(&self, end: End) -> Address<'_>;
    /// The source address on the wire, when translation changed it.
    fn source_xlated(&self) -> Address<'_>;
    /// Namespace and name of the pod of an end.
    fn pod(&self, end: End) -> (&str, &str);
    /// Namespace and name of the service of an end.
    fn service(&self, end: End) -> (&str, &str);
    /// DNS names of an end: true when `test` is for one of them.
    fn any_name(&self, end: End, test: &mut dyn FnMut(&str) -> bool) -> bool;
    /// Labels of an end.
    fn labels(&self, end: End) -> &[String];
    /// Workloads of an end, kind and name: true when `test` is for one of them.
    fn any_workload(&self, end: End, test: &mut dyn FnMut(&str, &str) -> bool) -> bool;
    /// Cluster of an end.
    fn cluster(&self, end: End) -> &str;
    /// Security identity of an end, when the flow has that end.
    fn identity(&self, end: End) -> Option<u32>;
    /// Number of the direction.
    fn direction(&self) -> i32;
    /// Number of the verdict.
    fn verdict(&self) -> i32;
    /// Number of the drop reason.
    fn drop_reason(&self) -> i32;
    /// Index and name of the interface, when the flow names one.
    fn interface(&self) -> Option<(u32, &str)>;
    /// Monitor message type and sub type.
    fn event_type(&self) -> Option<(i32, i32)>;
    /// The transport header.
    fn transport(&self) -> Transport;
    /// The application message.
    fn l7(&self) -> Option<&flow::Layer7>;
    /// Against the opener's direction.
    fn is_reply(&self) -> Option<bool>;
    /// The observing node.
    fn node_name(&self) -> &str;
    /// Labels of the observing node.
    fn node_labels(&self) -> &[String];
    /// Number of the address family.
    fn ip_version(&self) -> i32;
    /// Distributed trace.
    fn trace_id(&self) -> &str;
    /// Trace in the IP options.
    fn ip_trace_id(&self) -> u64;
    /// The packet was encrypted.
    fn encrypted(&self) -> bool;
    /// The flow as expressions read it.
    fn subject(&self) -> Subject<'_>;
}

fn endpoint(flow: &Flow, end: End) -> Option<&flow::Endpoint> {
    match end {
        End::Source => flow.source.as_ref(),
        End::Destination => flow.destination.as_ref(),
    }
}

impl FlowView for Flow {
    #[inline]
    fn has_uuid(&self, uuid: &str) -> bool {
        self.uuid == uuid
    }
    #[inline]
    fn address(&self, end: End) -> Address<'_> {
        Address::Text(match (&self.ip, end) {
            (None, _) => "",
            (Some(ip), End::Source) => &ip.source,
            (Some(ip), End::Destination) => &ip.destination,
        })
    }
    #[inline]
    fn source_xlated(&self) -> Address<'_> {
        Address::Text(self.ip.as_ref().map_or("", |ip| &ip.source_xlated))
    }
    #[inline]
    fn pod(&self, end: End) -> (&str, &str) {
        endpoint(self, end).map_or(("", ""), |end| (&end.namespace, &end.pod_name))
    }
    #[inline]
    fn service(&self, end: End) -> (&str, &str) {
        let service = match end {
            End::Source => self.source_service.as_ref(),
            End::Destination => self.destination_service.as_ref(),
        };
        service.map_or(("", ""), |service| (&service.namespace, &service.name))
    }
    #[inline]
    fn any_name(&self, end: End, test: &mut dyn FnMut(&str) -> bool) -> bool {
        let names = match end {
            End::Source => &self.source_names,
            End::Destination => &self.destination_names,
        };
        names.iter().any(|name| test(name))
    }
    #[inline]
    fn labels(&self, end: End) -> &[String] {
        endpoint(self, end).map_or(&[], |end| &end.labels)
    }
    #[inline]
    fn any_workload(&self, end: End, test: &mut dyn FnMut(&str, &str) -> bool) -> bool {
        endpoint(self, end).is_some_and(|end| end.workloads.iter().any(|work| test(&work.kind, &work.name)))
    }
    #[inline]
    fn cluster(&self, end: End) -> &str {
        endpoint(self, end).map_or("", |end| &end.cluster_name)
    }
    #[inline]
    fn identity(&self, end: End) -> Option<u32> {
        endpoint(self, end).map(|end| end.identity)
    }
    #[inline]
    fn direction(&self) -> i32 {
        self.traffic_direction
    }
    #[inline]
    fn verdict(&self) -> i32 {
        self.verdict
    }
    #[inline]
    fn drop_reason(&self) -> i32 {
        self.drop_reason_desc
    }
    #[inline]
    fn interface(&self) -> Option<(u32, &str)> {
        self.interface.as_ref().map(|interface| (interface.index, interface.name.as_str()))
    }
    #[inline]
    fn event_type(&self) -> Option<(i32, i32)> {
        self.event_type.as_ref().map(|kind| (kind.r#type, kind.sub_type))
    }
    #[inline]
    fn transport(&self) -> Transport {
        let Some(protocol) = self.l4.as_ref().and_then(|l4| l4.protocol.as_ref()) else { return Transport::default() };
        let (protocol, ports, flags) = match protocol {
            Protocol::Tcp(tcp) => {
                (proto::TCP, Some((tcp.source_port, tcp.destination_port)), tcp.flags.as_ref().map(flag_bits))
            }
            Protocol::Udp(udp) => (proto::UDP, Some((udp.source_port, udp.destination_port)), None),
            Protocol::Sctp(sctp) => (proto::SCTP, Some((sctp.source_port, sctp.destination_port)), None),
            Protocol::IcmPv4(_) => (proto::ICMP4, None, None),
            Protocol::IcmPv6(_) => (proto::ICMP6, None, None),
            Protocol::Vrrp(_) => (proto::VRRP, None, None),
            Protocol::Igmp(_) => (proto::IGMP, None, None),
        };
        Transport { protocol, ports, flags }
    }
    #[inline]
    fn l7(&self) -> Option<&flow::Layer7> {
        self.l7.as_ref()
    }
    #[inline]
    fn is_reply(&self) -> Option<bool> {
        self.is_reply
    }
    #[inline]
    fn node_name(&self) -> &str {
        &self.node_name
    }
    #[inline]
    fn node_labels(&self) -> &[String] {
        &self.node_labels
    }
    #[inline]
    fn ip_version(&self) -> i32 {
        self.ip.as_ref().map_or(0, |ip| ip.ip_version)
    }
    #[inline]
    fn trace_id(&self) -> &str {
        self.trace_context.as_ref().and_then(|context| context.parent.as_ref()).map_or("", |parent| &parent.trace_id)
    }
    #[inline]
    fn ip_trace_id(&self) -> u64 {
        self.ip_trace_id.as_ref().map_or(0, |trace| trace.trace_id)
    }
    #[inline]
    fn encrypted(&self) -> bool {
        self.ip.as_ref().is_some_and(|ip| ip.encrypted)
    }
    #[inline]
    fn subject(&self) -> Subject<'_> {
        Subject::Flow(self)
    }
}

/// TCP flags as bits on the wire.
pub(crate) fn flag_bits(flags: &flow::TcpFlags) -> u16 {
    let all = [flags.fin, flags.syn, flags.rst, flags.psh, flags.ack, flags.urg, flags.ece, flags.cwr, flags.ns];
    all.iter().enumerate().fold(0, |bits, (at, set)| bits | u16::from(*set) << at)
}

/// A record together with the node that saw it, which records need not repeat.
#[derive(Debug, Clone, Copy)]
pub struct Seen<'a> {
    /// The flow.
    pub record: &'a FlowRecord,
    /// The node.
    pub node: &'a NodeInfo,
}

impl Seen<'_> {
    #[inline]
    fn side(&self, end: End) -> &Side {
        match end {
            End::Source => &self.record.source,
            End::Destination => &self.record.destination,
        }
    }
}

impl FlowView for Seen<'_> {
    #[inline]
    fn has_uuid(&self, uuid: &str) -> bool {
        self.record.uuid_text() == uuid
    }
    #[inline]
    fn address(&self, end: End) -> Address<'_> {
        Address::Ip(self.record.headers.ip.map(|(source, destination)| match end {
            End::Source => source,
            End::Destination => destination,
        }))
    }
    #[inline]
    fn source_xlated(&self) -> Address<'_> {
        Address::Ip(self.record.source_xlated)
    }
    #[inline]
    fn pod(&self, end: End) -> (&str, &str) {
        self.side(end).info.as_ref().map_or(("", ""), |info| (&info.namespace, &info.pod_name))
    }
    #[inline]
    fn service(&self, end: End) -> (&str, &str) {
        let service = match end {
            End::Source => &self.record.source_service,
            End::Destination => &self.record.destination_service,
        };
        service.as_ref().map_or(("", ""), |service| (&service.namespace, &service.name))
    }
    #[inline]
    fn any_name(&self, end: End, test: &mut dyn FnMut(&str) -> bool) -> bool {
        let names = match end {
            End::Source => &self.record.source_names,
            End::Destination => &self.record.destination_names,
        };
        names.as_ref().is_some_and(|names| names.iter().any(|name| test(name)))
    }
    #[inline]
    fn labels(&self, end: End) -> &[String] {
        self.side(end).labels()
    }
    #[inline]
    fn any_workload(&self, end: End, test: &mut dyn FnMut(&str, &str) -> bool) -> bool {
        let info = self.side(end).info.as_ref();
        info.is_some_and(|info| info.workloads.iter().any(|work| test(&work.kind, &work.name)))
    }
    #[inline]
    fn cluster(&self, end: End) -> &str {
        self.side(end).cluster()
    }
    #[inline]
    fn identity(&self, end: End) -> Option<u32> {
        Some(self.side(end).identity)
    }
    #[inline]
    fn direction(&self) -> i32 {
        self.record.direction.into()
    }
    #[inline]
    fn verdict(&self) -> i32 {
        self.record.verdict.into()
    }
    #[inline]
    fn drop_reason(&self) -> i32 {
        crate::text::drop_reason_enum(self.record.drop_code)
    }
    #[inline]
    fn interface(&self) -> Option<(u32, &str)> {
        let name = self.record.interface.as_deref().unwrap_or_default();
        (self.record.ifindex != 0).then_some((self.record.ifindex, name))
    }
    #[inline]
    fn event_type(&self) -> Option<(i32, i32)> {
        Some((self.record.event_type.into(), self.record.sub_type.into()))
    }
    #[inline]
    fn transport(&self) -> Transport {
        let l4 = &self.record.headers.l4;
        let (protocol, flags) = match *l4 {
            L4::None => (0, None),
            L4::Tcp { flags, .. } => (proto::TCP, self.record.socket.is_none().then_some(flags & record::FLAG_BITS)),
            L4::Udp { .. } => (proto::UDP, None),
            L4::Sctp { .. } => (proto::SCTP, None),
            L4::Icmp4 { .. } => (proto::ICMP4, None),
            L4::Icmp6 { .. } => (proto::ICMP6, None),
            L4::Vrrp { .. } => (proto::VRRP, None),
            L4::Igmp { .. } => (proto::IGMP, None),
        };
        Transport { protocol, ports: l4.ports().map(|(from, to)| (from.into(), to.into())), flags }
    }
    #[inline]
    fn l7(&self) -> Option<&flow::Layer7> {
        None
    }
    #[inline]
    fn is_reply(&self) -> Option<bool> {
        self.record.is_reply
    }
    #[inline]
    fn node_name(&self) -> &str {
        &self.node.name
    }
    #[inline]
    fn node_labels(&self) -> &[String] {
        &self.node.labels
    }
    #[inline]
    fn ip_version(&self) -> i32 {
        match self.record.headers.ip {
            None => 0,
            Some((IpAddr::V4(_), _)) => flow::IpVersion::IPv4.into(),
            Some((IpAddr::V6(_), _)) => flow::IpVersion::IPv6.into(),
        }
    }
    #[inline]
    fn trace_id(&self) -> &str {
        ""
    }
    #[inline]
    fn ip_trace_id(&self) -> u64 {
        0
    }
    #[inline]
    fn encrypted(&self) -> bool {
        // Messages say so of the IP header, so what has none is not encrypted there.
        self.record.headers.ip.is_some() && self.record.encrypted
    }
    #[inline]
    fn subject(&self) -> Subject<'_> {
        Subject::Record(self.record, self.node)
    }
}
