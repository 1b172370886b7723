//! What a flow costs in the model, beside the figures of the original: README.md.
//!
//! First what criterion cannot say: allocations of a decoded event, and the memory of a full ring. Then its statistics.

#![allow(missing_docs, reason = "a benchmark's parts are its own")]

use abi::event::{NOTIFY_TRACE, PAYLOAD_LEN, Prefix, TraceNotify, TraceRecord};
use cilium_benches::counting::{Counting, count};
use criterion::{Criterion, Throughput, criterion_group};
use hubble_api::{
    flow::{Flow, FlowFilter, Http, HttpHeader, Layer7, TcpFlags, Workload, flow_filter::Experimental, layer7::Record},
    json,
};
use hubble_model::{
    Decoder, EndpointInfo, Event, FanIn, Filter, FilterList, FlowRecord, LabelList, Lookup, NodeInfo, PolicyInfo, Ring,
    Seen, ServiceInfo, Stamp, merge::Limits,
};
use hubble_server::{Config, Observer};
use std::{
    collections::BTreeMap,
    hint::black_box,
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    time::Duration,
};
use zerocopy::IntoBytes;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

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

const STAMP: Stamp = Stamp { wall_minus_monotonic_ns: 0, uuid: 7 };

fn node() -> NodeInfo {
    NodeInfo { name: "default/node".into(), labels: Vec::new() }
}

/// The record decoded, and the message made of it.
fn both() -> (FlowRecord, Flow) {
    let bytes = record();
    let Ok(Event::Record(record)) = Decoder::new(Tables::new()).decode(bytes.as_bytes(), STAMP) else {
        panic!("a good record decodes")
    };
    let flow = record.to_flow(&node());
    (record, flow)
}

fn print_memory() {
    let (bytes, decoder) = (record(), Decoder::new(Tables::new()));
    const ROUNDS: usize = 1_000;
    let ((), used) = count(|| (0..ROUNDS).for_each(|_| drop(black_box(decoder.decode(bytes.as_bytes(), STAMP)))));
    let each = used.calls as f64 / ROUNDS as f64;
    println!("decode and enrich: {each:.1} allocations   original: 17, without enrichment");
    println!("an event in the ring: {} bytes", size_of::<Event>());
    let (_observer, used) = count(|| {
        let observer = Observer::new(Config::default());
        for _ in 0..2 * Config::default().ring_capacity {
            observer.publish_record(&decoder, bytes.as_bytes()).expect("a good record");
        }
        observer
    });
    println!("a full ring of 4,095 flows: {} KiB", used.kept >> 10);
}

fn way_in(c: &mut Criterion) {
    let bytes = record();
    let decoder = Decoder::new(Tables::new());
    let (record, flow) = both();
    let event = Arc::new(Event::Record(record.clone()));
    let mut group = c.benchmark_group("hubble_way_in");
    group.throughput(Throughput::Elements(1));
    group.bench_function("decode_and_enrich", |b| b.iter(|| decoder.decode(black_box(bytes.as_bytes()), STAMP)));
    let mut ring = Ring::new(4_095);
    group.bench_function("ring_write", |b| b.iter(|| ring.push(Arc::clone(&event))));
    (0..5_000).for_each(|_| drop(ring.push(Arc::clone(&event))));
    let mut at = 0;
    group.bench_function("ring_read", |b| {
        b.iter(|| {
            at = (at + 1) % 4_000;
            ring.read(ring.oldest() + at)
        });
    });
    let observer = Observer::new(Config::default());
    group.bench_function("decode_enrich_ring", |b| {
        b.iter(|| observer.publish_record(&decoder, black_box(bytes.as_bytes())).is_ok());
    });
    let node = node();
    group.bench_function("message_of_a_record", |b| b.iter(|| record.to_flow(&node)));
    group.bench_function("message_to_json", |b| b.iter(|| json::to_string(&flow)));
    let line = json::to_string(&flow);
    group.bench_function("message_from_json", |b| b.iter(|| json::from_str::<Flow>(black_box(&line)).is_ok()));
    group.finish();
}

fn filter(change: impl FnOnce(&mut FlowFilter)) -> Filter {
    let mut filter = FlowFilter::default();
    change(&mut filter);
    Filter::new(&filter).expect("a good filter")
}

/// A flow of the proxy, for the filters that look into requests.
fn request(flow: &Flow) -> Flow {
    let headers = vec![HttpHeader { key: "Host".into(), value: "shop.example".into() }];
    let http = Http { method: "GET".into(), url: "http://shop.example/cart/7?a=b".into(), headers, ..Http::default() };
    Flow { l7: Some(Layer7 { record: Some(Record::Http(http)), ..Layer7::default() }), ..flow.clone() }
}

fn filters(c: &mut Criterion) {
    let (record, flow) = both();
    let (node, request) = (node(), request(&flow));
    let seen = Seen { record: &record, node: &node };
    let words = |list: &[&str]| -> Vec<String> { list.iter().map(|word| (*word).to_owned()).collect() };
    let kind = hubble_api::flow::EventTypeFilter { r#type: 4, ..Default::default() };
    let mut group = c.benchmark_group("hubble_filter");
    group.throughput(Throughput::Elements(1));
    for (name, filter) in [
        ("verdict", filter(|f| f.verdict = vec![1])),
        ("event_type", filter(|f| f.event_type = vec![kind])),
        ("pod_prefix", filter(|f| f.source_pod = words(&["default/shop"]))),
        ("address_prefix", filter(|f| f.source_ip = words(&["10.0.0.0/8"]))),
        ("label_selector", filter(|f| f.source_label = words(&["k8s:app in (shop,web),!canary"]))),
        ("tcp_flags", filter(|f| f.tcp_flags = vec![TcpFlags { syn: true, ..TcpFlags::default() }])),
        ("port", filter(|f| f.destination_port = words(&["80"]))),
        ("node_name", filter(|f| f.node_name = words(&["default/no*"]))),
        ("service", filter(|f| f.destination_service = words(&["default/shop"]))),
    ] {
        assert!(filter.matches(&seen) && filter.matches(&flow), "{name}");
        group.bench_function(format!("{name}_record"), |b| b.iter(|| filter.matches(black_box(&seen))));
        group.bench_function(format!("{name}_message"), |b| b.iter(|| filter.matches(black_box(&flow))));
    }
    let path = filter(|f| f.http_path = words(&["^/cart/[0-9]+"]));
    assert!(path.matches(&request), "http path");
    group.bench_function("http_path_message", |b| b.iter(|| path.matches(black_box(&request))));
    let work = Workload { kind: "Deployment".into(), name: "shop".into() };
    let nobody = filter(|f| f.source_workload = vec![work]);
    group.bench_function("workload_no_match_record", |b| b.iter(|| nobody.matches(black_box(&seen))));
    let list = |change: fn(&mut FlowFilter, usize)| {
        let one = |n| {
            let mut filter = FlowFilter::default();
            change(&mut filter, n);
            filter
        };
        FilterList::new(&(0..100).map(one).collect::<Vec<_>>(), &[]).expect("good filters")
    };
    for (name, hundred) in [
        ("one_field", list(|f, _| f.verdict = vec![2])),
        ("two_fields", list(|f, n| (f.verdict, f.source_pod) = (vec![2], vec![format!("default/web-{n}")]))),
        ("pods", list(|f, n| f.source_pod = vec![format!("default/web-{n}")])),
        (
            "pairs_of_pods",
            list(|f, n| {
                (f.source_pod, f.destination_pod) = (vec!["default/shop".into()], vec![format!("default/web-{n}")]);
            }),
        ),
    ] {
        assert!(!hundred.matches(&seen), "{name}");
        group.bench_function(format!("hundred_{name}_record"), |b| b.iter(|| hundred.matches(black_box(&seen))));
    }
    let hundred: Vec<Filter> = (0..100).map(|_| filter(|f| f.verdict = vec![2])).collect();
    group.bench_function("hundred_apart_record", |b| {
        b.iter(|| {
            let seen = black_box(&seen);
            hundred.iter().any(|filter| filter.matches(seen))
        });
    });
    group.finish();
}

fn expressions(c: &mut Criterion) {
    let (record, flow) = both();
    let node = node();
    let seen = Seen { record: &record, node: &node };
    let mut group = c.benchmark_group("hubble_cel");
    group.throughput(Throughput::Elements(1));
    for (name, text) in [
        ("verdict", "_flow.verdict == Verdict.FORWARDED || _flow.verdict == Verdict.TRANSLATED"),
        ("address", "_flow.IP.source == '1.1.1.1' || _flow.IP.destination == '10.0.0.2'"),
        (
            "port",
            "has(_flow.l4.TCP) && (_flow.l4.TCP.destination_port == uint(80) || _flow.l4.TCP.destination_port == 443u)",
        ),
        ("pod", "_flow.source.namespace == 'default' && _flow.source.pod_name.startsWith('shop-')"),
        ("labels", "_flow.source.labels.exists(l, l == 'k8s:app=shop')"),
    ] {
        let filter = filter(|f| f.experimental = Some(Experimental { cel_expression: vec![text.to_owned()] }));
        assert!(filter.matches(&seen) && filter.matches(&flow), "{text}");
        group.bench_function(format!("{name}_record"), |b| b.iter(|| filter.matches(black_box(&seen))));
        group.bench_function(format!("{name}_message"), |b| b.iter(|| filter.matches(black_box(&flow))));
    }
    group.finish();
}

/// Flows pushed by each source at once, as they come from the network.
const BATCH: i64 = 64;

fn merge(c: &mut Criterion) {
    const LIMITS: Limits = Limits { window_ns: 1_000_000_000, length_max: 100, source_max: 256 };
    let (_, flow) = both();
    let flow = Arc::new(flow);
    let mut group = c.benchmark_group("hubble_merge");
    for sources in [2, 10, 100] {
        group.throughput(Throughput::Elements(sources * BATCH.unsigned_abs()));
        let mut merge = FanIn::new(LIMITS, false);
        let ids: Vec<_> = (0..sources).map(|_| merge.join(0)).collect();
        let mut at = 0;
        group.bench_function(format!("{sources}_sources"), |b| {
            b.iter(|| {
                for id in &ids {
                    for step in 0..BATCH {
                        at += 1;
                        merge.push(1, *id, at - step % 7, Arc::clone(&flow));
                    }
                }
                while let Some(popped) = merge.pop(1) {
                    black_box(popped);
                }
            });
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    // There are sixty of them.
    config = Criterion::default()
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(600))
        .sample_size(20);
    targets = way_in, filters, expressions, merge
}

fn main() {
    print_memory();
    benches();
    Criterion::default().configure_from_args().final_summary();
}
