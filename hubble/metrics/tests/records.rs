//! Small records count like the messages made of them, and the option readers take any text.

use hubble_metrics::{Format, Metrics, config, options};
use hubble_model::{Decoder, EndpointInfo, Event, LabelList, Lookup, NodeInfo, PolicyInfo, ServiceInfo, Stamp};
use std::{net::IpAddr, sync::Arc};

const ALL: &str = "dns,drop,flow,flows-to-world:any-drop;port,httpV2,icmp,kafka,policy,port-distribution,tcp:\
                   sourceContext=pod|ip;destinationContext=identity|reserved-identity;labelsContext=source_ip,traffic_direction";

struct Names;

impl Lookup for Names {
    fn endpoint(&self, ip: IpAddr) -> Option<Arc<EndpointInfo>> {
        let info = EndpointInfo { namespace: "ns".into(), pod_name: ip.to_string().into(), ..EndpointInfo::default() };
        ip.is_ipv4().then(|| Arc::new(info))
    }
    fn identity(&self, identity: u32) -> Option<Arc<LabelList>> {
        Some(Arc::new(LabelList::new([if identity % 2 == 0 {
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

/// Bytes of the datapath's events: records and messages give the same text, whatever they hold.
#[test]
fn a_record_counts_like_its_message() {
    bolero::check!().with_type::<(u8, Vec<u8>)>().for_each(|(kind, body): &(u8, Vec<u8>)| {
        let (records, messages) =
            (Metrics::new(options::parse(ALL).unwrap(), 50), Metrics::new(options::parse(ALL).unwrap(), 50));
        let node = NodeInfo { name: "default/n".into(), labels: Vec::new() };
        let mut bytes = vec![[1, 4, 5][usize::from(kind % 3)]];
        bytes.extend_from_slice(body);
        bytes.resize(bytes.len().max(160), 0);
        let stamp = Stamp { wall_minus_monotonic_ns: 0, uuid: 0 };
        let Ok(event) = Decoder::new(Names).decode(&bytes, stamp) else { return };
        records.observe(&event, &node);
        if let Some(flow) = event.to_flow(&node) {
            messages.observe(&Event::Flow(Box::new(flow)), &node);
        }
        assert_eq!(records.render(Format::Text, |_| {}), messages.render(Format::Text, |_| {}));
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
    use hubble_model::packet::{self, L4};
    let metrics = Metrics::new(options::parse("sctp").unwrap(), 50);
    let mut packet = vec![0_u8; 14 + 20];
    packet[12..14].copy_from_slice(&[8, 0]);
    (packet[14], packet[23]) = (0x45, 132);
    packet.extend([0, 80, 0, 90, 0, 0, 0, 0, 0, 0, 0, 0]);
    let mut bytes = vec![4_u8];
    bytes.resize(256, 0);
    let stamp = Stamp { wall_minus_monotonic_ns: 0, uuid: 0 };
    let Event::Record(record) = Decoder::new(Names).decode(&bytes, stamp).unwrap() else { panic!("a trace") };
    for chunk in [Some(1), Some(1), Some(14), Some(0), None] {
        let bytes: Vec<u8> = packet.iter().copied().chain(chunk).collect();
        let headers = packet::parse(&bytes);
        assert_eq!(headers.l4, L4::Sctp { source: 80, destination: 90, chunk });
        let record = hubble_model::FlowRecord { headers, ..record.clone() };
        metrics.observe(&Event::Record(record), &NodeInfo::default());
    }
    let text = metrics.render(Format::Text, |_| {});
    assert!(text.contains("hubble_sctp_chunk_types_total{chunk_type=\"INIT\",family=\"IPv4\"} 2\n"), "{text}");
    assert!(text.contains("{chunk_type=\"SHUTDOWN_COMPLETE\",family=\"IPv4\"} 1\n"), "{text}");
    assert_eq!(text.matches("hubble_sctp_chunk_types_total{").count(), 2, "{text}");
}
