//! A flow in its small form, and how the protobuf message is made from it.

use crate::{
    EndpointInfo, LabelList, Lookup, NodeInfo, PolicyInfo, ServiceInfo,
    packet::{Headers, L4},
    text,
};
use alloc::{
    boxed::Box,
    format,
    string::{String, ToString},
    sync::Arc,
    vec::Vec,
};
use core::net::IpAddr;
use hubble_api::{flow, time};

/// One end of a flow: the identity the packet was judged by and what is known about who has the address.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Side {
    /// Security identity; the datapath's when it named one.
    pub identity: u32,
    /// Who has the address.
    pub info: Option<Arc<EndpointInfo>>,
    /// Labels of the identity.
    pub labels: Option<Arc<LabelList>>,
}

impl Side {
    /// Endpoint id on this node; 0 for all others.
    pub fn id(&self) -> u16 {
        self.info.as_ref().map_or(0, |info| info.id)
    }

    /// The labels in order; none when the identity is not known.
    pub fn labels(&self) -> &[String] {
        self.labels.as_ref().map_or(&[], |labels| labels.as_slice())
    }

    /// The cluster the end belongs to; empty when it is not known.
    pub fn cluster(&self) -> &str {
        let of_pod = self.info.as_ref().map(|info| info.cluster_name.as_ref()).filter(|name| !name.is_empty());
        of_pod.or_else(|| self.labels.as_ref()?.cluster()).unwrap_or_default()
    }

    /// Who has an address. What judged a packet did so by an identity, so that one is shown when it is not 0; the
    /// address tells which pod it was.
    pub(crate) fn resolve<L: Lookup>(lookup: &L, ip: Option<IpAddr>, identity: u32) -> Self {
        let info = ip.and_then(|ip| lookup.endpoint(ip));
        let identity = if identity == 0 { info.as_ref().map_or(0, |info| info.identity) } else { identity };
        let labels: Option<Arc<LabelList>> = match &info {
            Some(info) if info.id != 0 || info.identity == identity => Some(Arc::clone(&info.labels)),
            _ => lookup.identity(identity),
        };
        Self { identity, info, labels }
    }

    pub(crate) fn to_endpoint(&self) -> flow::Endpoint {
        let mut endpoint = flow::Endpoint {
            id: self.id().into(),
            identity: self.identity,
            cluster_name: self.cluster().to_owned_string(),
            labels: self.labels().to_vec(),
            ..flow::Endpoint::default()
        };
        if let Some(info) = &self.info {
            endpoint.namespace = info.namespace.to_owned_string();
            endpoint.pod_name = info.pod_name.to_owned_string();
            endpoint.workloads = info
                .workloads
                .iter()
                .map(|work| flow::Workload { name: work.name.to_owned_string(), kind: work.kind.to_owned_string() })
                .collect();
        }
        endpoint
    }
}

trait ToOwnedString {
    fn to_owned_string(&self) -> String;
}

impl ToOwnedString for str {
    fn to_owned_string(&self) -> String {
        String::from(self)
    }
}

/// The policies behind a verdict, and on which list they belong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policies {
    /// Direction the policy applied in.
    pub direction: flow::TrafficDirection,
    /// True on the `denied_by` lists.
    pub denied: bool,
    /// The policies.
    pub list: Arc<[PolicyInfo]>,
}

/// A drop, trace or policy verdict in its small form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FlowRecord {
    /// Nanoseconds since 1970.
    pub time_ns: i64,
    /// Random; shown as a version 4 UUID.
    pub uuid: u128,
    /// What became of the packet.
    pub verdict: flow::Verdict,
    /// Drop code; 0 for none.
    pub drop_code: u8,
    /// Monitor message type.
    pub event_type: u8,
    /// Drop code or observation point as the monitor numbers it.
    pub sub_type: u8,
    /// Packet headers. The source address is the one before translation.
    pub headers: Headers,
    /// The source address on the wire, when translation changed it.
    pub source_xlated: Option<IpAddr>,
    /// The packet was or will be encrypted.
    pub encrypted: bool,
    /// Where the packet came from.
    pub source: Side,
    /// Where it went.
    pub destination: Side,
    /// DNS names of the source.
    pub source_names: Option<Arc<[Box<str>]>>,
    /// DNS names of the destination.
    pub destination_names: Option<Arc<[Box<str>]>>,
    /// Service at the source address.
    pub source_service: Option<Arc<ServiceInfo>>,
    /// Service at the destination address.
    pub destination_service: Option<Arc<ServiceInfo>>,
    /// Seen from the endpoint the event belongs to.
    pub direction: flow::TrafficDirection,
    /// Against the opener's direction; none when tracking did not say.
    pub is_reply: Option<bool>,
    /// What the deciding rule named; verdicts only.
    pub match_type: u8,
    /// What connection tracking thought; traces only.
    pub trace_reason: flow::TraceReason,
    /// Interface index; 0 for none.
    pub ifindex: u32,
    /// Interface name.
    pub interface: Option<Arc<str>>,
    /// Proxy listener a trace to the proxy went to, or a capture was taken at.
    pub proxy_port: u32,
    /// How the ends authenticated; verdicts only.
    pub auth_type: u8,
    /// Datapath source file and line of a drop; 0 for none.
    pub file: (u8, u16),
    /// Which policies decided; verdicts only.
    pub policies: Option<Box<Policies>>,
    /// Whose socket it was; socket operations only.
    pub socket: Option<Box<Socket>>,
}

/// The socket of an operation that was translated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Socket {
    /// The kernel's number of the socket.
    pub cookie: u64,
    /// The control group it belongs to.
    pub cgroup: u64,
}

impl FlowRecord {
    /// The version 4 UUID made of the record's random bits.
    pub fn uuid_text(&self) -> String {
        let hex = format!("{:032x}", self.uuid & !(0xf << 76) & !(0x3 << 62) | 0x4 << 76 | 0x2 << 62);
        format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
    }

    /// What kind of event it was.
    pub(crate) fn flow_type(&self) -> flow::FlowType {
        if self.socket.is_some() { flow::FlowType::Sock } else { flow::FlowType::L3L4 }
    }

    /// The sub type when the event is of a kind, else 0.
    fn sub_type_of(&self, kind: i32) -> i32 {
        if i32::from(self.event_type) == kind { self.sub_type.into() } else { 0 }
    }

    /// The protobuf message.
    pub fn to_flow(&self, node: &NodeInfo) -> flow::Flow {
        let observation_point = match (i32::from(self.event_type), self.sub_type) {
            (hubble_api::event_type::TRACE, 0) => flow::TraceObservationPoint::ToEndpoint as i32,
            (hubble_api::event_type::TRACE, point) => point.into(),
            _ => 0,
        };
        let mut flow = flow::Flow {
            time: Some(time::from_nanos(self.time_ns.into())),
            uuid: self.uuid_text(),
            verdict: self.verdict.into(),
            drop_reason: self.drop_code.into(),
            drop_reason_desc: text::drop_reason_enum(self.drop_code),
            auth_type: self.auth_type.into(),
            ethernet: self
                .headers
                .ethernet
                .map(|[source, destination]| flow::Ethernet { source: mac(source), destination: mac(destination) }),
            ip: self.ip(),
            l4: self.l4(),
            source: Some(self.source.to_endpoint()),
            destination: Some(self.destination.to_endpoint()),
            r#type: self.flow_type().into(),
            node_name: node.name.clone(),
            node_labels: node.labels.clone(),
            source_names: names(self.source_names.as_deref()),
            destination_names: names(self.destination_names.as_deref()),
            event_type: Some(flow::CiliumEventType { r#type: self.event_type.into(), sub_type: self.sub_type.into() }),
            source_service: self.source_service.as_deref().map(Into::into),
            destination_service: self.destination_service.as_deref().map(Into::into),
            traffic_direction: self.direction.into(),
            policy_match_type: self.match_type.into(),
            trace_observation_point: observation_point,
            trace_reason: self.trace_reason.into(),
            is_reply: self.is_reply,
            reply: self.is_reply == Some(true),
            proxy_port: self.proxy_port,
            debug_capture_point: self.sub_type_of(hubble_api::event_type::CAPTURE),
            sock_xlate_point: self.sub_type_of(hubble_api::event_type::TRACE_SOCK),
            socket_cookie: self.socket.as_ref().map_or(0, |socket| socket.cookie),
            cgroup_id: self.socket.as_ref().map_or(0, |socket| socket.cgroup),
            summary: self.summary(),
            ..flow::Flow::default()
        };
        if self.file.0 != 0 {
            flow.file = Some(flow::FileInfo { name: text::source_file(self.file.0), line: self.file.1.into() });
        }
        if self.ifindex != 0 {
            let name = self.interface.as_deref().map(str::to_owned_string).unwrap_or_default();
            flow.interface = Some(flow::NetworkInterface { index: self.ifindex, name });
        }
        self.list_policies(&mut flow);
        flow
    }

    fn list_policies(&self, flow: &mut flow::Flow) {
        let Some(policies) = &self.policies else { return };
        let list: Vec<flow::Policy> = policies.list.iter().map(Into::into).collect();
        match (policies.direction, policies.denied) {
            (flow::TrafficDirection::Ingress, false) => flow.ingress_allowed_by = list,
            (flow::TrafficDirection::Ingress, true) => flow.ingress_denied_by = list,
            (flow::TrafficDirection::Egress, false) => flow.egress_allowed_by = list,
            (flow::TrafficDirection::Egress, true) => flow.egress_denied_by = list,
            (flow::TrafficDirection::Unknown, _) => {}
        }
    }

    fn ip(&self) -> Option<flow::Ip> {
        let (source, destination) = self.headers.ip?;
        let version = if source.is_ipv4() { flow::IpVersion::IPv4 } else { flow::IpVersion::IPv6 };
        Some(flow::Ip {
            source: source.to_string(),
            source_xlated: self.source_xlated.map(|ip| ip.to_string()).unwrap_or_default(),
            destination: destination.to_string(),
            ip_version: version.into(),
            encrypted: self.encrypted,
        })
    }

    fn l4(&self) -> Option<flow::Layer4> {
        use flow::layer4::Protocol;
        let protocol = match self.headers.l4 {
            L4::None => return None,
            L4::Tcp { source, destination, flags } => Protocol::Tcp(flow::Tcp {
                source_port: source.into(),
                destination_port: destination.into(),
                flags: self.socket.is_none().then(|| tcp_flags(flags)),
            }),
            L4::Udp { source, destination } => {
                Protocol::Udp(flow::Udp { source_port: source.into(), destination_port: destination.into() })
            }
            L4::Sctp { source, destination, .. } => {
                Protocol::Sctp(flow::Sctp { source_port: source.into(), destination_port: destination.into() })
            }
            L4::Icmp4 { kind, code } => Protocol::IcmPv4(flow::IcmPv4 { r#type: kind.into(), code: code.into() }),
            L4::Icmp6 { kind, code } => Protocol::IcmPv6(flow::IcmPv6 { r#type: kind.into(), code: code.into() }),
            L4::Vrrp { kind, vrid, priority } => {
                Protocol::Vrrp(flow::Vrrp { r#type: kind.into(), vrid: vrid.into(), priority: priority.into() })
            }
            L4::Igmp { kind, group } => {
                Protocol::Igmp(flow::Igmp { r#type: kind.into(), group_address: group.to_string() })
            }
        };
        Some(flow::Layer4 { protocol: Some(protocol) })
    }

    /// The innermost header in words.
    fn summary(&self) -> String {
        match self.headers.l4 {
            L4::Tcp { .. } if self.socket.is_some() => "TCP".into(),
            L4::None if self.socket.is_some() => "Unknown".into(),
            L4::Tcp { flags, .. } => text::tcp_summary(flags),
            L4::Udp { .. } => "UDP".into(),
            L4::Sctp { .. } => "SCTP".into(),
            L4::Icmp4 { kind, code } => format!("ICMPv4 {}", text::icmp4(kind, code)),
            L4::Icmp6 { kind, code } => format!("ICMPv6 {}", text::icmp6(kind, code)),
            L4::Vrrp { .. } => "VRRP".into(),
            L4::Igmp { .. } => "IGMP".into(),
            L4::None => match self.headers.ip {
                Some((IpAddr::V4(_), _)) => "IPv4".into(),
                Some((IpAddr::V6(_), _)) => "IPv6".into(),
                None if self.headers.ethernet.is_some() => "Ethernet".into(),
                None => String::new(),
            },
        }
    }
}

/// All nine TCP flags.
pub(crate) const FLAG_BITS: u16 = 0x1ff;

/// Flags as protobuf has them, from their bits on the wire.
pub(crate) fn tcp_flags(bits: u16) -> flow::TcpFlags {
    let set = |bit: u16| bits >> bit & 1 == 1;
    flow::TcpFlags {
        fin: set(0),
        syn: set(1),
        rst: set(2),
        psh: set(3),
        ack: set(4),
        urg: set(5),
        ece: set(6),
        cwr: set(7),
        ns: set(8),
    }
}

fn mac([a, b, c, d, e, f]: [u8; 6]) -> String {
    format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
}

fn names(names: Option<&[Box<str>]>) -> Vec<String> {
    names.unwrap_or_default().iter().map(|name| name.to_owned_string()).collect()
}
