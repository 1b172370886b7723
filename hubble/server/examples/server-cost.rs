//! Prints what a flow costs on its way: `cargo run --release -p hubble-server --example server-cost`.

use abi::event::{NOTIFY_TRACE, PAYLOAD_LEN, Prefix, TraceNotify, TraceRecord};
use hubble_api::flow::{FlowFilter, TcpFlags, flow_filter::Experimental};
use hubble_model::{
    Decoder, EndpointInfo, Event, Filter, LabelList, Lookup, Merge, NodeInfo, PolicyInfo, Ring, Seen, ServiceInfo,
    Stamp,
};
use hubble_server::{Config, Observer};
use nix::time::{ClockId, clock_gettime};
use std::{
    collections::BTreeMap,
    hint::black_box,
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};
use zerocopy::IntoBytes;

/// A hundred pods and a service, as an agent would keep them.
struct Tables {
    endpoints: BTreeMap<IpAddr, Arc<EndpointInfo>>,
    services: BTreeMap<(IpAddr, u16), Arc<ServiceInfo>>,
}

impl Tables {
    fn new() -> Self {
        let endpoint = |n: u8| {
            let labels =
                ["k8s:app=shop", "k8s:io.kubernetes.pod.namespace=default", "k8s:io.cilium.k8s.policy.cluster=default"];
            Arc::new(EndpointInfo {
                id: n.into(),
                identity: 1000 + u32::from(n),
                cluster_name: "default".into(),
                namespace: "default".into(),
                pod_name: format!("shop-{n}").into(),
                labels: Arc::new(LabelList::new(labels.map(str::to_owned))),
                ..EndpointInfo::default()
            })
        };
        let service = Arc::new(ServiceInfo { namespace: "default".into(), name: "shop".into() });
        Self {
            endpoints: (1..=100).map(|n| (Ipv4Addr::new(10, 0, 0, n).into(), endpoint(n))).collect(),
            services: [((Ipv4Addr::new(10, 0, 0, 2).into(), 80), service)].into(),
        }
    }
}

impl Lookup for Tables {
    fn endpoint(&self, ip: IpAddr) -> Option<Arc<EndpointInfo>> {
        self.endpoints.get(&ip).cloned()
    }
    fn identity(&self, _: u32) -> Option<Arc<LabelList>> {
        None
    }
    fn service(&self, ip: IpAddr, port: u16) -> Option<Arc<ServiceInfo>> {
        self.services.get(&(ip, port)).cloned()
    }
    fn policies(&self, _: u16, _: u32) -> Option<Arc<[PolicyInfo]>> {
        None
    }
}

fn record() -> TraceRecord {
    let packet = [
        2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0, 0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2,
        0x9c, 0x40, 0, 80, 0, 0, 0, 1, 0, 0, 0, 2, 0x50, 2, 0, 0, 0, 0, 0, 0,
    ];
    let mut payload = [0; PAYLOAD_LEN];
    payload[..packet.len()].copy_from_slice(&packet);
    let notify = TraceNotify {
        kind: NOTIFY_TRACE,
        source: 2,
        cap_len: 54,
        version: 1,
        src_label: 1001,
        dst_label: 1002,
        dst_id: 2,
        ..TraceNotify::default()
    };
    TraceRecord { prefix: Prefix { time_ns: 1, cookie: 0, cpu: 0 }, notify, payload }
}

fn thread_ns() -> i64 {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(0, |at| at.tv_sec() * 1_000_000_000 + at.tv_nsec())
}

fn measure(what: &str, rounds: u32, mut work: impl FnMut(u32)) {
    (0..rounds / 10).for_each(&mut work);
    // The time this thread ran, so that a busy machine does not count.
    let start = thread_ns();
    (0..rounds).for_each(&mut work);
    println!("{what:<52} {:>9.1} ns", (thread_ns() - start) as f64 / f64::from(rounds));
}

fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

fn main() {
    let bytes = record();
    let bytes = bytes.as_bytes();
    let decoder = Decoder::new(Tables::new());
    let stamp = Stamp { wall_minus_monotonic_ns: 0, uuid: 7 };
    let node = NodeInfo { name: "default/node".into(), labels: Vec::new() };
    let Ok(Event::Record(record)) = decoder.decode(bytes, stamp) else { panic!("a good record decodes") };
    println!("size of an event in the ring: {} bytes", size_of::<Event>());
    measure("decode and enrich one trace", 1_000_000, |_| {
        black_box(decoder.decode(black_box(bytes), stamp).is_ok());
    });
    measure("build the protobuf message", 200_000, |_| drop(black_box(record.to_flow(&node))));
    let mut ring = Ring::new(4095);
    let event = Arc::new(Event::Record(record.clone()));
    measure("ring write", 10_000_000, |_| drop(black_box(ring.push(Arc::clone(&event)))));
    measure("ring read", 10_000_000, |at| drop(black_box(ring.read(ring.oldest() + u64::from(at % 4000)))));
    let one = |change: &dyn Fn(&mut FlowFilter)| {
        let mut filter = FlowFilter::default();
        change(&mut filter);
        Filter::new(&filter).expect("a good filter")
    };
    let flow = record.to_flow(&node);
    let seen = Seen { record: &record, node: &node };
    for (name, filter) in [
        ("verdict", one(&|f| f.verdict = vec![1])),
        ("source pod", one(&|f| f.source_pod = vec!["default/shop".into()])),
        ("source prefix", one(&|f| f.source_ip = vec!["10.0.0.0/8".into()])),
        ("label selector", one(&|f| f.source_label = vec!["k8s:app in (shop,web),!canary".into()])),
        ("TCP flags", one(&|f| f.tcp_flags = vec![TcpFlags { syn: true, ..TcpFlags::default() }])),
        ("port", one(&|f| f.destination_port = vec!["80".into()])),
    ] {
        measure(&format!("filter on a record: {name}"), 5_000_000, |_| {
            black_box(black_box(&filter).matches(&seen));
        });
        measure(&format!("filter on a message: {name}"), 5_000_000, |_| {
            black_box(black_box(&filter).matches(&flow));
        });
    }
    for (name, text) in [
        ("verdict", "_flow.verdict == Verdict.FORWARDED || _flow.verdict == Verdict.TRANSLATED"),
        ("address", "_flow.IP.source == '1.1.1.1' || _flow.IP.destination == '10.0.0.2'"),
        (
            "port",
            "has(_flow.l4.TCP) && (_flow.l4.TCP.destination_port == uint(80) || _flow.l4.TCP.destination_port == 443u)",
        ),
        ("pod and namespace", "_flow.source.namespace == 'default' && _flow.source.pod_name.startsWith('shop-')"),
        ("labels", "_flow.source.labels.exists(l, l == 'k8s:app=shop')"),
    ] {
        let experimental = Some(Experimental { cel_expression: vec![text.to_owned()] });
        let filter = one(&|f| f.experimental = experimental.clone());
        assert!(filter.matches(&seen) && filter.matches(&flow), "{text}");
        measure(&format!("CEL on a record: {name}"), 2_000_000, |_| {
            black_box(black_box(&filter).matches(&seen));
        });
        measure(&format!("CEL on a message: {name}"), 2_000_000, |_| {
            black_box(black_box(&filter).matches(&flow));
        });
    }
    let hundred: Vec<Filter> = (0..100).map(|_| one(&|f| f.verdict = vec![2])).collect();
    measure("100 filters, none matches", 200_000, |_| {
        black_box(hundred.iter().any(|filter| filter.matches(&seen)));
    });
    let mut merge = Merge::new(100);
    measure("time-ordered merge of 10 streams", 5_000_000, |at| {
        let jitter = i64::from(at.wrapping_mul(2_654_435_761) >> 27);
        drop(black_box(merge.push(i64::from(at) - jitter, Arc::clone(&event))));
    });
    let before = resident_kib();
    let observer = Observer::new(Config::default());
    measure("publish: decode, enrich, ring, nobody listens", 1_000_000, |_| {
        black_box(observer.publish_record(&decoder, bytes).is_ok());
    });
    println!("resident memory of a full ring of 4095 flows: {} KiB", resident_kib() - before);
    let line = hubble_api::json::to_string(&flow);
    measure("write a flow as JSON", 200_000, |_| drop(black_box(hubble_api::json::to_string(&flow))));
    measure("read a flow from JSON", 200_000, |_| {
        black_box(hubble_api::json::from_str::<hubble_api::flow::Flow>(black_box(&line)).is_ok());
    });
}
