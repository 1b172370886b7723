//! Small records count like the messages made of them, and the option readers take any text.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

use abi::event::{NOTIFY_TRACE, PAYLOAD_LEN, Prefix, TraceNotify, TraceRecord};
use hubble_api::flow::{TrafficDirection, Verdict};
use hubble_metrics::{Format, Metrics, config, options};
use hubble_model::{
    Decoder, EndpointInfo, Event, FlowRecord, LabelList, Lookup, NodeInfo, PolicyInfo, ServiceInfo, Side, Stamp,
    packet::{self, Headers, L4},
};
use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};
use zerocopy::IntoBytes as _;

const ALL: &str = "dns,drop,flow,flows-to-world:any-drop;port,httpV2,icmp,kafka,policy,port-distribution,tcp";
const CONTEXTS: &str =
    "sourceContext=pod|ip;destinationContext=identity|reserved-identity;labelsContext=source_ip|traffic_direction";

struct Names;

impl Lookup for Names {
    fn endpoint(&self, ip: IpAddr) -> Option<Arc<EndpointInfo>> {
        let info = EndpointInfo { namespace: "ns".into(), pod_name: ip.to_string().into(), ..EndpointInfo::default() };
        ip.is_ipv4().then(|| Arc::new(info))
    }
    fn identity(&self, identity: u32) -> Option<Arc<LabelList>> {
        Some(Arc::new(LabelList::new([if identity.is_multiple_of(2) {
            "reserved:world".into()
        } else {
            format!("k8s:id={identity}")
        }])))
    }
    fn service(&self, _: IpAddr, _: u16) -> Option<Arc<ServiceInfo>> {
        None
    }
    fn policies(&self, _: u16, _: u32) -> Option<Arc<[PolicyInfo]>> {
        None
    }
}

/// A forwarded packet as the datapath reports it.
fn base() -> FlowRecord {
    let notify =
        TraceNotify { kind: NOTIFY_TRACE, version: 1, src_label: 1001, dst_label: 2, ..TraceNotify::default() };
    let prefix = Prefix { time_ns: 1, cookie: 0, cpu: 0 };
    let record = TraceRecord { prefix, notify, payload: [0; PAYLOAD_LEN] };
    let stamp = Stamp { wall_minus_monotonic_ns: 0, uuid: 0 };
    match Decoder::new(Names).decode(record.as_bytes(), stamp) {
        Ok(Event::Record(record)) => record,
        other => panic!("{other:?}"),
    }
}

/// A record with everything that plugins look at changed by these bytes.
fn changed([event, sub, verdict, l4, bits, reply, direction, matched, drop, family, from, to]: [u8; 12]) -> FlowRecord {
    let any = |list: &[u8], at: u8| list[usize::from(at) % list.len()];
    let side = |n: u8| {
        let info = EndpointInfo { namespace: "ns".into(), pod_name: format!("p{n}").into(), ..EndpointInfo::default() };
        let label = if n.is_multiple_of(3) { "reserved:world".to_owned() } else { format!("k8s:id={n}") };
        let labels = Some(Arc::new(LabelList::new([label])));
        Side { identity: u32::from(n % 4), info: (!n.is_multiple_of(5)).then(|| Arc::new(info)), labels }
    };
    let (source, destination) = (u16::from(from), u16::from(to));
    let ip = |n: u8| match family % 3 {
        0 => IpAddr::V4(Ipv4Addr::new(10, 0, 0, n)),
        _ => IpAddr::V6(Ipv6Addr::from_bits(n.into())),
    };
    FlowRecord {
        event_type: any(&[1, 3, 4, 5, 7], event),
        sub_type: sub % 16,
        verdict: Verdict::try_from(i32::from(verdict % 9)).unwrap_or(Verdict::Unknown),
        drop_code: drop,
        headers: Headers {
            ethernet: None,
            ip: (family % 5 > 0).then(|| (ip(from), ip(to))),
            l4: match l4 % 6 {
                0 => L4::None,
                1 => L4::Tcp { source, destination, flags: bits.into() },
                2 => L4::Udp { source, destination },
                3 => L4::Icmp4 { kind: bits, code: 0 },
                4 => L4::Icmp6 { kind: bits, code: 0 },
                _ => L4::Sctp { source, destination, chunk: Some(1) },
            },
        },
        source: side(from),
        destination: side(to),
        direction: TrafficDirection::try_from(i32::from(direction % 3)).unwrap_or(TrafficDirection::Unknown),
        is_reply: [None, Some(true), Some(false)][usize::from(reply % 3)],
        match_type: matched % 8,
        ..base()
    }
}

/// A record and the message made of it count alike, whatever they say.
#[test]
fn a_record_counts_like_its_message() {
    let node = NodeInfo { name: "default/n".into(), labels: Vec::new() };
    let every =
        ALL.split(',').map(|plugin| format!("{plugin}{}{CONTEXTS}", if plugin.contains(':') { ";" } else { ":" }));
    let options: String = every.collect::<Vec<_>>().join(" ");
    bolero::check!().with_type::<[u8; 12]>().for_each(|bytes: &[u8; 12]| {
        let count = |event: &Event| {
            let metrics = Metrics::new(options::parse(&options).unwrap(), 50);
            metrics.observe(event, &node);
            metrics.render(Format::Text, |_| {})
        };
        let record = Event::Record(changed(*bytes));
        let message = Event::Flow(Box::new(record.to_flow(&node).unwrap()));
        let text = count(&record);
        assert!(text.contains("hubble_flows_processed_total{"), "{text}");
        assert_eq!(text, count(&message));
    });
}

const PIECES: [&str; 32] = [
    "dns",
    "httpV2",
    "flow",
    ":",
    ";",
    "=",
    ",",
    "|",
    " ",
    "query",
    "sourceContext",
    "labelsContext",
    "source_ip",
    "pod",
    "traffic_direction",
    "exemplars",
    "true",
    "metrics",
    "\n",
    "- ",
    "name: ",
    "contextOptions: ",
    "values: ",
    "[",
    "]",
    "{",
    "}",
    "includeFilters: ",
    "source_pod",
    "\"",
    "&a",
    "*a",
];

fn try_all(text: &str) {
    match options::parse(text) {
        Ok(plugins) => drop(Metrics::new(plugins, 1)),
        Err(why) => assert!(!why.to_string().is_empty()),
    }
    if let Err(why) = config::parse(text) {
        assert!(!why.to_string().is_empty());
    }
}

/// Any text is read or refused with words; what is read can be put to work. The corpus holds texts that are right.
#[test]
fn any_text_of_options_is_read_or_refused() {
    bolero::check!().for_each(|bytes: &[u8]| try_all(&String::from_utf8_lossy(bytes)));
}

/// Texts that are nearly right.
#[test]
fn pieces_of_options_are_read_or_refused() {
    bolero::check!().with_type::<Vec<u8>>().for_each(|choice: &Vec<u8>| {
        try_all(&choice.iter().map(|at| PIECES[usize::from(*at) % PIECES.len()]).collect::<String>());
    });
}

/// Of SCTP the first chunk is counted, which only records know.
#[test]
fn sctp_packets_count_by_their_first_chunk() {
    let metrics = Metrics::new(options::parse("sctp").unwrap(), 50);
    let mut packet = vec![0_u8; 14 + 20];
    packet[12..14].copy_from_slice(&[8, 0]);
    (packet[14], packet[23]) = (0x45, 132);
    packet.extend([0, 80, 0, 90, 0, 0, 0, 0, 0, 0, 0, 0]);
    for chunk in [Some(1), Some(1), Some(14), Some(0), None] {
        let bytes: Vec<u8> = packet.iter().copied().chain(chunk).collect();
        let headers = packet::parse(&bytes);
        assert_eq!(headers.l4, L4::Sctp { source: 80, destination: 90, chunk });
        let record = FlowRecord { headers, ..base() };
        metrics.observe(&Event::Record(record), &NodeInfo::default());
    }
    let text = metrics.render(Format::Text, |_| {});
    assert!(text.contains("hubble_sctp_chunk_types_total{chunk_type=\"INIT\",family=\"IPv4\"} 2\n"), "{text}");
    assert!(text.contains("{chunk_type=\"SHUTDOWN_COMPLETE\",family=\"IPv4\"} 1\n"), "{text}");
    assert_eq!(text.matches("hubble_sctp_chunk_types_total{").count(), 2, "{text}");
}
