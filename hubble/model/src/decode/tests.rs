use super::*;
use crate::{EndpointInfo, Family, Filter, LabelList, NodeInfo, PolicyInfo, Seen, ServiceInfo, WorkloadInfo};
use abi::event::{DropRecord, PolicyVerdictRecord, TraceRecord};
use alloc::{format, string::String, sync::Arc, vec, vec::Vec};
use core::sync::atomic::{AtomicU32, Ordering};
use hubble_api::{
    flow::{Flow, FlowFilter, TcpFlags},
    json,
};
use zerocopy::IntoBytes;

/// One node with two pods, and the world.
struct Fixture;

fn pod(id: u16, identity: u32, name: &str) -> Arc<EndpointInfo> {
    Arc::new(EndpointInfo {
        id,
        identity,
        cluster_name: "default".into(),
        namespace: "ns".into(),
        pod_name: name.into(),
        workloads: [WorkloadInfo { kind: "Deployment".into(), name: name.into() }].into(),
        labels: labels(identity),
    })
}

fn labels(identity: u32) -> Arc<LabelList> {
    Arc::new(LabelList::new(match identity {
        2 => vec!["reserved:world".into()],
        16_777_217 => vec!["reserved:world".into(), "cidr:1.0.0.0/8".into(), "cidr:1.1.1.0/24".into()],
        other => vec![format!("k8s:id={other}"), "k8s:app=x".into()],
    }))
}

impl Lookup for Fixture {
    fn endpoint(&self, ip: IpAddr) -> Option<Arc<EndpointInfo>> {
        match ip.to_string().as_str() {
            "10.0.0.1" | "fd00::1" => Some(pod(11, 1001, "client")),
            "10.0.0.2" | "fd00::2" => Some(pod(22, 1002, "server")),
            "10.9.0.3" => Some(pod(0, 1003, "elsewhere")),
            _ => None,
        }
    }
    fn identity(&self, identity: u32) -> Option<Arc<LabelList>> {
        (identity != 0).then(|| labels(identity))
    }
    fn service(&self, ip: IpAddr, port: u16) -> Option<Arc<ServiceInfo>> {
        let found = ip.to_string() == "10.0.0.2" && port == 80;
        found.then(|| Arc::new(ServiceInfo { namespace: "ns".into(), name: "web".into() }))
    }
    fn policies(&self, endpoint: u16, cookie: u32) -> Option<Arc<[PolicyInfo]>> {
        (endpoint == 22 && cookie == 7).then(|| {
            let policy = PolicyInfo {
                name: "p".into(),
                namespace: "ns".into(),
                kind: "CiliumNetworkPolicy".into(),
                ..PolicyInfo::default()
            };
            Arc::from([policy])
        })
    }
    fn interface(&self, ifindex: u32) -> Option<Arc<str>> {
        (ifindex == 5).then(|| "lxc5".into())
    }
    fn names(&self, endpoint: u16, ip: IpAddr) -> Option<Arc<[Box<str>]>> {
        (endpoint == 11 && ip.to_string() == "1.1.1.1").then(|| Arc::from([Box::from("one.example")]))
    }
    fn local(&self, endpoint: u16) -> Option<Arc<EndpointInfo>> {
        (endpoint == 11).then(|| pod(11, 1001, "client"))
    }
    fn cgroup(&self, id: u64, family: Family) -> Option<IpAddr> {
        let own = if family == Family::V4 { "10.0.0.1" } else { "fd00::1" };
        (id % 2 == 1).then(|| own.parse().expect("an address"))
    }
}

use alloc::string::ToString as _;

const STAMP: Stamp =
    Stamp { wall_minus_monotonic_ns: 1_000_000_000_000, uuid: 0x0123_4567_89ab_cdef_0123_4567_89ab_cdef };

fn node() -> NodeInfo {
    NodeInfo { name: "default/n1".into(), labels: vec!["zone=z".into()] }
}

fn prefix(cookie: u32) -> Prefix {
    Prefix { time_ns: 500_000_000, cookie, cpu: 1 }
}

/// Ethernet, IPv4 and the first 20 bytes of TCP.
fn tcp4(source: [u8; 4], destination: [u8; 4], ports: (u16, u16), flags: u8) -> Vec<u8> {
    let mut bytes = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0];
    bytes.extend([0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0]);
    bytes.extend(source);
    bytes.extend(destination);
    bytes.extend(ports.0.to_be_bytes());
    bytes.extend(ports.1.to_be_bytes());
    bytes.extend([0, 0, 0, 1, 0, 0, 0, 2, 0x50, flags, 0, 0, 0, 0, 0, 0]);
    bytes
}

fn capture(packet: &[u8]) -> ([u8; abi::event::PAYLOAD_LEN], u16) {
    let mut payload = [0; abi::event::PAYLOAD_LEN];
    payload[..packet.len()].copy_from_slice(packet);
    (payload, u16::try_from(packet.len()).expect("small"))
}

fn decode(record: &[u8]) -> FlowRecord {
    match Decoder::new(Fixture).decode(record, STAMP) {
        Ok(Event::Record(record)) => record,
        other => panic!("{other:?}"),
    }
}

fn text(record: &[u8]) -> String {
    json::to_string(&decode(record).to_flow(&node()))
}

fn trace(packet: &[u8], change: impl FnOnce(&mut TraceNotify)) -> TraceRecord {
    let (payload, cap_len) = capture(packet);
    let mut notify = TraceNotify { kind: NOTIFY_TRACE, cap_len, version: 1, ..TraceNotify::default() };
    change(&mut notify);
    TraceRecord { prefix: prefix(0), notify, payload }
}

fn verdict(packet: &[u8], cookie: u32, change: impl FnOnce(&mut PolicyVerdictNotify)) -> PolicyVerdictRecord {
    let (payload, cap_len) = capture(packet);
    let mut notify = PolicyVerdictNotify { kind: NOTIFY_POLICY_VERDICT, cap_len, ..PolicyVerdictNotify::default() };
    change(&mut notify);
    PolicyVerdictRecord { prefix: prefix(cookie), notify, payload }
}

#[test]
fn a_trace_with_everything_known() {
    let packet = tcp4([10, 0, 0, 1], [10, 0, 0, 2], (40_000, 80), 0x02);
    let record = trace(&packet, |n| {
        (n.source, n.src_label, n.dst_label, n.dst_id, n.reason, n.ifindex) = (22, 1001, 1002, 22, 0, 5);
    });
    let want = concat!(
        r#"{"time":"1970-01-01T00:16:40.500Z","uuid":"01234567-89ab-4def-8123-456789abcdef","verdict":"FORWARDED","#,
        r#""ethernet":{"source":"02:00:00:00:00:01","destination":"02:00:00:00:00:02"},"#,
        r#""IP":{"source":"10.0.0.1","destination":"10.0.0.2","ipVersion":"IPv4"},"#,
        r#""l4":{"TCP":{"source_port":40000,"destination_port":80,"flags":{"SYN":true}}},"#,
        r#""source":{"ID":11,"identity":1001,"cluster_name":"default","namespace":"ns","labels":["k8s:app=x","k8s:id=1001"],"pod_name":"client","workloads":[{"name":"client","kind":"Deployment"}]},"#,
        r#""destination":{"ID":22,"identity":1002,"cluster_name":"default","namespace":"ns","labels":["k8s:app=x","k8s:id=1002"],"pod_name":"server","workloads":[{"name":"server","kind":"Deployment"}]},"#,
        r#""Type":"L3_L4","node_name":"default/n1","node_labels":["zone=z"],"event_type":{"type":4},"#,
        r#""destination_service":{"name":"web","namespace":"ns"},"traffic_direction":"INGRESS","#,
        r#""trace_observation_point":"TO_ENDPOINT","trace_reason":"NEW","is_reply":false,"interface":{"index":5,"name":"lxc5"},"Summary":"TCP Flags: SYN"}"#,
    );
    assert_eq!(text(record.as_bytes()), want);
}

#[test]
fn direction_and_reply_of_traces() {
    let there = tcp4([10, 0, 0, 1], [10, 0, 0, 2], (40_000, 80), 0x10);
    let back = tcp4([10, 0, 0, 2], [10, 0, 0, 1], (80, 40_000), 0x10);
    use TrafficDirection::{Egress, Ingress, Unknown};
    for (packet, source, why, direction, is_reply) in [
        (&there, 11, reason::NEW, Egress, Some(false)),
        (&there, 22, reason::ESTABLISHED, Ingress, Some(false)),
        (&back, 22, reason::REPLY, Ingress, Some(true)),
        (&back, 11, reason::REPLY, Egress, Some(true)),
        (&there, 11, reason::NEW | ENCRYPTED, Egress, Some(false)),
        (&there, 11, reason::UNKNOWN, Unknown, None),
        (&there, 0, reason::NEW, Unknown, Some(false)),
    ] {
        let flow = decode(trace(packet, |n| (n.source, n.reason) = (source, why)).as_bytes());
        assert_eq!((flow.direction, flow.is_reply), (direction, is_reply), "from {source} because {why}");
        assert_eq!(flow.encrypted, why & ENCRYPTED != 0);
    }
}

#[test]
fn the_address_before_translation_is_the_source() {
    let packet = tcp4([10, 96, 0, 1], [10, 0, 0, 2], (1, 2), 0x02);
    let flow = decode(trace(&packet, |n| n.orig_ip[..4].copy_from_slice(&[10, 0, 0, 1])).as_bytes());
    assert_eq!(flow.headers.ip.map(|(source, _)| source.to_string()).as_deref(), Some("10.0.0.1"));
    assert_eq!(flow.source_xlated.map(|ip| ip.to_string()).as_deref(), Some("10.96.0.1"));
    assert_eq!(flow.source.id(), 11);
    let same = decode(trace(&packet, |n| n.orig_ip[..4].copy_from_slice(&[10, 96, 0, 1])).as_bytes());
    assert_eq!(same.source_xlated, None);
}

#[test]
fn a_drop_names_reason_ends_and_place() {
    let packet = tcp4([10, 0, 0, 1], [1, 1, 1, 1], (1, 443), 0x02);
    let (payload, cap_len) = capture(&packet);
    let notify = DropNotify {
        kind: NOTIFY_DROP,
        subtype: 133,
        source: 11,
        cap_len,
        src_label: 1001,
        dst_label: 16_777_217,
        line: 99,
        file: 2,
        ..DropNotify::default()
    };
    let record = DropRecord { prefix: prefix(0), notify, payload, pad: 0 };
    let flow = decode(record.as_bytes()).to_flow(&node());
    assert_eq!(flow.drop_reason_desc().as_str_name(), "POLICY_DENIED");
    assert_eq!((flow.drop_reason, flow.traffic_direction()), (133, TrafficDirection::Egress));
    assert_eq!(flow.destination.as_ref().expect("an end").labels, ["cidr:1.1.1.0/24", "reserved:world"]);
    assert_eq!(flow.destination_names, ["one.example"]);
    assert_eq!(flow.is_reply, None);
    let file = flow.file.expect("a place");
    assert_eq!((file.name.as_str(), file.line), ("bpf_lxc.c", 99));
}

#[test]
fn verdicts_and_the_policies_behind_them() {
    let packet = tcp4([10, 0, 0, 1], [10, 0, 0, 2], (1, 80), 0x02);
    for (result, flags, cookie, want) in [
        (0, 0b01, 7, (Verdict::Forwarded, 0, Some(false), Some(false))),
        (15_001, 0b01, 7, (Verdict::Redirected, 0, Some(false), Some(false))),
        (0, 0b100_0001, 7, (Verdict::Audit, 0, Some(false), None)),
        (-133, 0b01, 7, (Verdict::Dropped, 133, None, None)),
        (-181, 0b01, 7, (Verdict::Dropped, 181, None, Some(true))),
        (-181, 0b01, 0, (Verdict::Dropped, 181, None, None)),
        (i32::MIN, 0b01, 0, (Verdict::Dropped, 0, None, None)),
    ] {
        let record = verdict(&packet, cookie, |n| {
            (n.source, n.remote_label, n.verdict, n.flags) = (22, 1001, result, flags | 2 << 3);
        });
        let flow = decode(record.as_bytes());
        let denied = flow.policies.as_ref().map(|policies| policies.denied);
        assert_eq!((flow.verdict, flow.drop_code, flow.is_reply, denied), want, "verdict {result}, flags {flags:#b}");
        assert_eq!((flow.direction, flow.match_type), (TrafficDirection::Ingress, 2));
        assert_eq!((flow.source.identity, flow.destination.identity), (1001, 1002));
    }
    let allowed = verdict(&packet, 7, |n| (n.source, n.flags) = (22, 1)).as_bytes().to_vec();
    let flow = decode(&allowed).to_flow(&node());
    assert_eq!((flow.ingress_allowed_by[0].name.as_str(), flow.egress_allowed_by.len()), ("p", 0));
}

#[test]
fn the_identity_the_datapath_judged_by_is_shown_with_its_labels() {
    let packet = tcp4([10, 9, 0, 3], [10, 0, 0, 2], (1, 80), 0x02);
    let stale = decode(trace(&packet, |n| (n.src_label, n.dst_label) = (2, 0)).as_bytes());
    assert_eq!((stale.source.identity, stale.source.labels()), (2, &["reserved:world".to_string()][..]));
    assert_eq!(stale.destination.identity, 1002, "the endpoint's own, when the datapath names none");
    let agreed = decode(trace(&packet, |n| n.src_label = 1003).as_bytes());
    assert_eq!(agreed.source.labels()[1], "k8s:id=1003");
}

#[test]
fn records_that_cannot_be_understood_are_refused() {
    let decoder = Decoder::new(Fixture);
    let good = trace(&tcp4([10, 0, 0, 1], [10, 0, 0, 2], (1, 2), 2), |_| ());
    for len in 0..16 + 48 {
        let error = decoder.decode(&good.as_bytes()[..len], STAMP);
        assert!(matches!(error, Err(DecodeError::Short { .. })), "{len}: {error:?}");
    }
    let mut bytes = good.as_bytes().to_vec();
    bytes[16] = 99;
    assert_eq!(decoder.decode(&bytes, STAMP), Err(DecodeError::Kind(99)));
    let old = trace(&[], |n| n.version = 9);
    assert_eq!(decoder.decode(old.as_bytes(), STAMP), Err(DecodeError::TraceVersion(9)));
}

/// A record put together byte by byte from the published offsets, behind our prefix.
fn by_hand(size: usize, fields: &[(usize, &[u8])]) -> Vec<u8> {
    let mut bytes = vec![0; size];
    for (at, field) in fields {
        bytes[*at..at + field.len()].copy_from_slice(field);
    }
    [prefix(0).as_bytes(), &bytes].concat()
}

#[test]
fn socket_operations_by_hand() {
    let record = |point: u8, protocol: u8, cgroup: u64| {
        by_hand(
            38,
            &[
                (0, &[7, point]),
                (2, &[10, 96, 0, 7]),
                (18, &80_u16.to_ne_bytes()),
                (20, &0xdead_u64.to_ne_bytes()),
                (28, &cgroup.to_ne_bytes()),
                (36, &[protocol, 0]),
            ],
        )
    };
    let flow = decode(&record(1, 1, 33)).to_flow(&node());
    let want = concat!(
        r#"{"time":"1970-01-01T00:16:40.500Z","uuid":"01234567-89ab-4def-8123-456789abcdef","verdict":"TRACED","#,
        r#""IP":{"source":"10.0.0.1","destination":"10.96.0.7","ipVersion":"IPv4"},"l4":{"TCP":{"destination_port":80}},"#,
        r#""source":{"ID":11,"identity":1001,"cluster_name":"default","namespace":"ns","labels":["k8s:app=x","k8s:id=1001"],"pod_name":"client","workloads":[{"name":"client","kind":"Deployment"}]},"#,
        r#""destination":{},"Type":"SOCK","node_name":"default/n1","node_labels":["zone=z"],"event_type":{"type":7,"sub_type":1},"#,
        r#""sock_xlate_point":"SOCK_XLATE_POINT_PRE_DIRECTION_FWD","socket_cookie":"57005","cgroup_id":"33","Summary":"TCP"}"#,
    );
    assert_eq!(json::to_string(&flow), want);
    for (point, protocol, verdict, source, ports, summary) in [
        (2, 2, Verdict::Translated, "10.0.0.1", Some((0, 80)), "UDP"),
        (3, 1, Verdict::Traced, "10.96.0.7", Some((80, 0)), "TCP"),
        (4, 2, Verdict::Translated, "10.96.0.7", Some((80, 0)), "UDP"),
        (1, 0, Verdict::Traced, "10.0.0.1", None, "Unknown"),
        (9, 1, Verdict::Unknown, "10.0.0.1", Some((0, 80)), "TCP"),
    ] {
        let found = decode(&record(point, protocol, 33));
        let flow = found.to_flow(&node());
        assert_eq!((found.verdict, found.headers.l4.ports(), flow.summary.as_str()), (verdict, ports, summary));
        assert_eq!(flow.ip.as_ref().map(|ip| ip.source.as_str()), Some(source));
        assert_eq!((flow.is_reply, flow.traffic_direction()), (None, TrafficDirection::Unknown));
    }
    let six = by_hand(
        38,
        &[
            (0, &[7, 1]),
            (2, &Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2).octets()),
            (28, &1_u64.to_ne_bytes()),
            (36, &[1, 1]),
        ],
    );
    assert_eq!(
        decode(&six).headers.ip.map(|(from, to)| (from.to_string(), to.to_string())),
        Some(("fd00::1".into(), "fd00::2".into()))
    );
    // As the programs write it.
    let words = [u32::from_ne_bytes([10, 96, 0, 7]), 0, 0, 0];
    let (cookie, cgroup) = (0xdead, 33);
    let notify = abi::event::TraceSockNotify::new(
        abi::event::xlate::PRE_FORWARD,
        words,
        80,
        cookie,
        cgroup,
        abi::event::SOCK_TCP,
        false,
    );
    let written = abi::event::TraceSockRecord { prefix: prefix(0), notify };
    assert_eq!(decode(written.as_bytes()), decode(&record(1, 1, 33)));
    let decoder = Decoder::new(Fixture);
    assert_eq!(decoder.decode(&record(1, 1, 34), STAMP), Err(DecodeError::Cgroup(34)));
    let short = decoder.decode(&record(1, 1, 33)[..16 + 37], STAMP);
    assert_eq!(short, Err(DecodeError::Short { len: 37, need: 38 }));
}

#[test]
fn captures_by_hand() {
    let packet = tcp4([10, 0, 0, 1], [10, 0, 0, 2], (40_000, 80), 0x02);
    let record = |point: u8, arg1: u32, length: u32| {
        let head = by_hand(24, &[(0, &[3, point]), (8, &length.to_ne_bytes()), (16, &arg1.to_ne_bytes())]);
        [head, packet.clone()].concat()
    };
    let flow = decode(&record(4, 5, 54)).to_flow(&node());
    assert_eq!((flow.verdict(), flow.debug_capture_point().as_str_name()), (Verdict::Unknown, "DBG_CAPTURE_DELIVERY"));
    assert_eq!(flow.interface.as_ref().map(|i| (i.index, i.name.as_str())), Some((5, "lxc5")));
    assert_eq!((flow.proxy_port, flow.summary.as_str(), flow.is_reply), (0, "TCP Flags: SYN", None));
    let kind = flow.event_type.expect("a kind");
    assert_eq!((kind.r#type, kind.sub_type, flow.r#type().as_str_name()), (3, 4, "L3_L4"));
    let proxy = decode(&record(8, 10_001_u32.to_be(), 54));
    assert_eq!((proxy.proxy_port, proxy.ifindex), (10_001, 0));
    assert_eq!(decode(&record(5, 0, 14)).headers.ip, None, "no more than was captured");
    assert_eq!(
        decode(&record(5, 0, u32::MAX)).headers.ip.map(|(from, _)| from.to_string()).as_deref(),
        Some("10.0.0.1")
    );
}

#[test]
fn debug_messages_by_hand() {
    let record = by_hand(
        20,
        &[
            (0, &[2, 5]),
            (2, &11_u16.to_ne_bytes()),
            (4, &0xbeef_u32.to_ne_bytes()),
            (8, &1_u32.to_ne_bytes()),
            (12, &2_u32.to_ne_bytes()),
            (16, &u32::MAX.to_ne_bytes()),
        ],
    );
    let Ok(Event::Debug { time_ns, event }) = Decoder::new(Fixture).decode(&record, STAMP) else { panic!("a message") };
    assert_eq!(time_ns, 1_000_500_000_000);
    let want = concat!(
        r#"{"type":"DBG_POLICY_DENIED","source":{"ID":11,"identity":1001,"cluster_name":"default","namespace":"ns","labels":["k8s:app=x","k8s:id=1001"],"pod_name":"client"},"#,
        r#""hash":48879,"arg1":1,"arg2":2,"arg3":4294967295,"message":"DBG_POLICY_DENIED: arg1=1 (0x1) arg2=2 (0x2) arg3=4294967295 (0xffffffff)","cpu":1}"#,
    );
    assert_eq!(json::to_string(event.as_ref()), want);
}

#[test]
fn traces_of_both_versions_by_hand() {
    let packet = tcp4([10, 0, 0, 1], [10, 0, 0, 2], (40_000, 80), 0x02);
    let fields: [(usize, &[u8]); 5] = [
        (0, &[4, 11]),
        (2, &11_u16.to_ne_bytes()),
        (12, &54_u16.to_ne_bytes()),
        (16, &1001_u32.to_ne_bytes()),
        (28, &5_u32.to_ne_bytes()),
    ];
    let old = [by_hand(32, &fields), packet.clone()].concat();
    let mut new = [by_hand(48, &fields), packet].concat();
    new[16 + 14..16 + 16].copy_from_slice(&1_u16.to_ne_bytes());
    let flow = decode(&old);
    assert_eq!(flow, decode(&new));
    assert_eq!((flow.sub_type, flow.ifindex, flow.source.identity), (11, 5, 1001));
    assert_eq!(flow.headers.l4.ports(), Some((40_000, 80)));
}

#[test]
fn routers_and_groups() {
    let ip = |protocol: u8, payload: &[u8]| {
        let mut packet = tcp4([10, 0, 0, 1], [224, 0, 0, 18], (0, 0), 0);
        packet.truncate(34);
        packet[23] = protocol;
        [&packet[..], payload].concat()
    };
    let show = |packet: &[u8]| {
        let flow = decode(trace(packet, |_| ()).as_bytes()).to_flow(&node());
        (json::to_string(&flow.l4.expect("a transport")), flow.summary)
    };
    let vrrp = show(&ip(112, &[0x21, 7, 100, 1, 0, 0, 0, 0]));
    assert_eq!(vrrp, (r#"{"VRRP":{"type":1,"vrid":7,"priority":100}}"#.into(), "VRRP".into()));
    let igmp = show(&ip(2, &[0x16, 0, 0, 0, 239, 1, 2, 3]));
    assert_eq!(igmp, (r#"{"IGMP":{"type":22,"group_address":"239.1.2.3"}}"#.into(), "IGMP".into()));
}

/// Filters a random flow may or may not pass; none of them may tell a record from the message made of it.
fn probes() -> Vec<Filter> {
    let one = |change: &dyn Fn(&mut FlowFilter)| {
        let mut filter = FlowFilter::default();
        change(&mut filter);
        Filter::new(&filter).expect("a good filter")
    };
    [
        one(&|f| f.source_ip = vec!["10.0.0.1".into(), "fd00::/16".into()]),
        one(&|f| f.destination_ip = vec!["0.0.0.0/1".into()]),
        one(&|f| f.source_pod = vec!["ns/cl".into()]),
        one(&|f| f.destination_pod = vec!["/".into()]),
        one(&|f| f.destination_service = vec!["ns/w".into()]),
        one(&|f| f.source_label = vec!["k8s:app=x,!canary".into()]),
        one(&|f| f.destination_label = vec!["reserved:world".into()]),
        one(&|f| f.node_labels = vec!["zone in (z)".into()]),
        one(&|f| f.node_name = vec!["n*".into()]),
        one(&|f| f.verdict = vec![1]),
        one(&|f| f.drop_reason_desc = vec![133]),
        one(&|f| f.source_identity = vec![1001, 0]),
        one(&|f| f.destination_identity = vec![2]),
        one(&|f| f.protocol = vec!["tcp".into(), "icmp".into()]),
        one(&|f| f.source_port = vec!["0".into(), "80".into()]),
        one(&|f| f.tcp_flags = vec![TcpFlags { syn: true, ..TcpFlags::default() }]),
        one(&|f| f.reply = vec![false]),
        one(&|f| f.traffic_direction = vec![1]),
        one(&|f| f.ip_version = vec![2]),
        one(&|f| f.encrypted = vec![true]),
        one(&|f| {
            f.source_workload = vec![hubble_api::flow::Workload { kind: "Deployment".into(), name: String::new() }]
        }),
        one(&|f| f.destination_cluster_name = vec!["default".into()]),
        one(&|f| f.interface = vec![hubble_api::flow::NetworkInterface { index: 0, name: "lxc5".into() }]),
        one(&|f| f.destination_fqdn = vec!["*.example".into()]),
        one(&|f| f.http_method = vec!["GET".into()]),
        one(&|f| f.uuid = vec!["01234567-89ab-4def-8123-456789abcdef".into()]),
        one(&|f| {
            let sub_type = 0;
            f.event_type = vec![hubble_api::flow::EventTypeFilter { r#type: 4, match_sub_type: true, sub_type }];
        }),
    ]
    .into_iter()
    .chain(EXPRESSIONS.map(|text| {
        let experimental = hubble_api::flow::flow_filter::Experimental { cel_expression: vec![text.into()] };
        one(&|f| f.experimental = Some(experimental.clone()))
    }))
    .collect()
}

/// Every field a record keeps, by itself, and some that only the message has.
const EXPRESSIONS: [&str; 46] = [
    "_flow.time > timestamp('1970-01-01T00:00:01Z')",
    "_flow.verdict == Verdict.DROPPED || _flow.verdict == Verdict.AUDIT",
    "_flow.drop_reason > 140u",
    "_flow.drop_reason_desc != DropReason.DROP_REASON_UNKNOWN",
    "has(_flow.ethernet) && has(_flow.time) && has(_flow.event_type)",
    "has(_flow.IP)",
    "_flow.IP.source == '10.0.0.1' || _flow.IP.source == 'fd00::1'",
    "_flow.IP.destination.startsWith('10.') || size(_flow.IP.destination) > 8",
    "_flow.IP.source_xlated != '' && has(_flow.IP.source_xlated)",
    "_flow.IP.ipVersion == IPVersion.IPv6",
    "_flow.IP.encrypted",
    "has(_flow.l4)",
    "has(_flow.l4.TCP) || has(_flow.l4.SCTP) || has(_flow.l4.ICMPv6)",
    "has(_flow.l4.UDP) || has(_flow.l4.ICMPv4) || has(_flow.l4.VRRP)",
    "has(_flow.l4.IGMP) || _flow.debug_capture_point == DebugCapturePoint.DBG_CAPTURE_DELIVERY",
    "_flow.Type == FlowType.SOCK && _flow.cgroup_id > 3u",
    "_flow.destination_names.exists(n, n.endsWith('.example')) || size(_flow.source_names) == 1",
    "has(_flow.destination_names) && has(_flow.source.workloads) && _flow.source.workloads[0].name == 'client'",
    "_flow.destination.workloads.map(w, w.kind + '/' + w.name) == ['Deployment/server']",
    "_flow.source.workloads == _flow.destination.workloads",
    "_flow.l4.TCP.source_port == 80u || _flow.l4.UDP.destination_port > 1000u",
    "_flow.l4.SCTP.source_port < 300u",
    "_flow.l4.TCP.flags.SYN && !_flow.l4.TCP.flags.ACK || _flow.l4.TCP.flags.NS",
    "has(_flow.l4.TCP.flags)",
    "_flow.source.ID == 5u || _flow.destination.ID == 5u",
    "_flow.source.identity in [1001u, 2u]",
    "_flow.destination.namespace == 'ns' || _flow.source.namespace != ''",
    "_flow.source.labels.exists(l, l.contains('app')) || size(_flow.destination.labels) == 1",
    "_flow.source.pod_name.startsWith('cl') && _flow.destination.pod_name != ''",
    "_flow.source.cluster_name == _flow.destination.cluster_name",
    "has(_flow.source) && _flow.source.workloads.exists(w, w.kind == 'Deployment')",
    "_flow.Type == FlowType.L3_L4 && _flow.node_name.contains('n')",
    "_flow.node_labels.exists(l, l == 'zone=z')",
    "_flow.event_type.type == 4 && _flow.event_type.sub_type in [0, 5]",
    "has(_flow.source_service) || has(_flow.destination_service)",
    "_flow.destination_service.name == 'web' && _flow.source_service.namespace == ''",
    "_flow.traffic_direction == TrafficDirection.EGRESS",
    "_flow.policy_match_type > 2u",
    "_flow.trace_reason == TraceReason.REPLY || _flow.trace_reason == TraceReason.NEW",
    "_flow.is_reply == true",
    "_flow.is_reply == null || _flow.reply",
    "_flow.proxy_port > 0u || has(_flow.interface)",
    "_flow.interface.index > 1u && _flow.interface.name != ''",
    "_flow.auth_type == AuthType.SPIRE || has(_flow.file)",
    "has(_flow.l7) || has(_flow.tunnel) || has(_flow.trace_context) || _flow.Summary.contains('SYN')",
    "_flow.uuid.endsWith('0') || _flow.trace_observation_point == TraceObservationPoint.TO_ENDPOINT",
];

fn agree(record: &FlowRecord, probes: &[Filter]) {
    let node = node();
    let flow: Flow = record.to_flow(&node);
    for (at, filter) in probes.iter().enumerate() {
        let of_record = filter.matches(&Seen { record, node: &node });
        assert_eq!(of_record, filter.matches(&flow), "probe {at} on {}", json::to_string(&flow));
    }
    let line = json::to_string(&flow);
    assert_eq!(json::from_str::<Flow>(&line).expect("our own line"), flow);
}

/// Any bytes decode or are refused, and whatever decodes can be shown, filtered and printed.
#[test]
fn no_bytes_break_the_decoder() {
    let probes = probes();
    let decoder = Decoder::new(Fixture);
    bolero::check!().with_iterations(20_000).for_each(|bytes: &[u8]| {
        if let Ok(Event::Record(record)) = decoder.decode(bytes, STAMP) {
            agree(&record, &probes);
        }
    });
}

/// Random notifications around random packets of every kind: most of these do decode.
#[test]
fn random_events_look_the_same_as_record_and_as_message() {
    let probes = probes();
    let decoded = AtomicU32::new(0);
    let total = AtomicU32::new(0);
    bolero::check!().with_iterations(20_000).with_type::<(u8, [u8; 40], u8, u8, [u8; 24], u8)>().for_each(
        |(kind, notify, hosts, protocol, l4, fragment)| {
            let mut bytes = vec![0; 16];
            bytes[8] = 7;
            let kinds = [NOTIFY_DROP, NOTIFY_TRACE, NOTIFY_POLICY_VERDICT, NOTIFY_CAPTURE, NOTIFY_TRACE_SOCK];
            let which = usize::from(kind % 5);
            bytes.push(kinds[which]);
            bytes.extend(&notify[1..]);
            bytes.resize(16 + [36, 48, 32, 24, 38][which], 0);
            match kinds[which] {
                NOTIFY_CAPTURE => bytes[16 + 8..16 + 12].copy_from_slice(&128_u32.to_ne_bytes()),
                // An odd number is a pod's control group.
                NOTIFY_TRACE_SOCK => bytes[16 + 28..16 + 36].copy_from_slice(&(u64::from(*kind) | 1).to_ne_bytes()),
                _ => bytes[16 + 12..16 + 16].copy_from_slice(&[128, 0, 1, 0]),
            }
            let ends: [[u8; 4]; 3] = [[10, 0, 0, 1], [10, 0, 0, 2], [1, 1, 1, 1]];
            let (from, to) = (ends[usize::from(hosts % 3)], ends[usize::from(hosts / 3 % 3)]);
            let mut packet = tcp4(from, to, (80, 80), 2);
            packet[14 + 9] = [6, 17, 132, 1, 58, 2, 112, *protocol][usize::from(protocol % 8)];
            packet[14 + 7] = if fragment % 8 == 0 { 1 } else { 0 };
            packet.truncate(34);
            packet.extend(l4);
            if hosts % 5 == 0 {
                // The same, as IPv6 with an extension header.
                packet.truncate(12);
                packet.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 32, 60, 64]);
                packet.extend(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, u16::from(hosts % 3)).octets());
                packet.extend(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2).octets());
                packet.extend([[6, 17, 132, 58, 59, 44][usize::from(protocol % 6)], 0, 1, 4, 0, 0, 0, 0]);
                packet.extend(l4);
            }
            bytes.extend(packet);
            total.fetch_add(1, Ordering::Relaxed);
            if let Ok(Event::Record(record)) = Decoder::new(Fixture).decode(&bytes, STAMP) {
                decoded.fetch_add(1, Ordering::Relaxed);
                agree(&record, &probes);
            }
        },
    );
    let (decoded, total) = (decoded.into_inner(), total.into_inner());
    assert!(decoded * 10 > total * 9, "{decoded} of {total} decoded");
}
