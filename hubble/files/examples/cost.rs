//! Prints what it costs to count, export and keep a flow: `cargo run --release -p hubble-files --example cost`.

use hubble_api::flow::{TraceReason, TrafficDirection, Verdict};
use hubble_files::{
    export::{Exporter, FlowLog, Rotation},
    history::{Limits, Recorder},
};
use hubble_metrics::{Format, Metrics, options};
use hubble_model::{
    EndpointInfo, Event, FilterList, FlowRecord, LabelList, NodeInfo, ServiceInfo, Side, WorkloadInfo,
    packet::{Headers, L4},
};
use hubble_server::{History as _, Past, Tap as _};
use nix::time::{ClockId, clock_gettime};
use std::{
    hint::black_box,
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    time::{Duration, Instant},
};

const FLOWS: usize = 400_000;
const LONG: Duration = Duration::from_secs(60);
/// Events of the queue that are offered before the writer is waited for, so that none is lost.
const STEP: usize = 8_000;

fn side(n: usize) -> Side {
    let labels =
        ["k8s:app=shop", "k8s:io.kubernetes.pod.namespace=default", "k8s:io.cilium.k8s.policy.cluster=default"];
    let labels = Arc::new(LabelList::new(labels.map(str::to_owned)));
    let info = EndpointInfo {
        id: 1,
        identity: 1000,
        cluster_name: "default".into(),
        namespace: "default".into(),
        pod_name: format!("shop-7d9f8c6b5-{n:05}").into(),
        workloads: [WorkloadInfo { kind: "Deployment".into(), name: "shop".into() }].into(),
        labels: labels.clone(),
    };
    Side { identity: 1000, info: Some(Arc::new(info)), labels: Some(labels) }
}

/// Traces of TCP between a hundred pods: every fourth a SYN, every eighth an answer.
fn events() -> Vec<Arc<Event>> {
    let sides: Vec<Side> = (0..100).map(side).collect();
    let service = Arc::new(ServiceInfo { namespace: "default".into(), name: "shop".into() });
    let ip = |n: usize| IpAddr::V4(Ipv4Addr::new(10, 0, 0, u8::try_from(n).unwrap_or(0)));
    let record = |n: usize| FlowRecord {
        time_ns: 1_700_000_000_000_000_000 + i64::try_from(n).unwrap_or(0) * 1_000_000,
        uuid: u128::try_from(n).unwrap_or(0).wrapping_mul(0x9e37_79b9_7f4a_7c15_9e37_79b9_7f4a_7c15),
        verdict: Verdict::Forwarded,
        drop_code: 0,
        event_type: 4,
        sub_type: 0,
        headers: Headers {
            ethernet: Some([[2; 6], [4; 6]]),
            ip: Some((ip(n % 100), ip(n / 7 % 100))),
            l4: L4::Tcp { source: 40_000, destination: 8_080, flags: if n.is_multiple_of(4) { 2 } else { 16 } },
        },
        source_xlated: None,
        encrypted: false,
        source: sides[n % 100].clone(),
        destination: sides[n / 7 % 100].clone(),
        source_names: None,
        destination_names: None,
        source_service: None,
        destination_service: Some(service.clone()),
        direction: TrafficDirection::Egress,
        is_reply: Some(n.is_multiple_of(8)),
        match_type: 0,
        trace_reason: TraceReason::New,
        ifindex: 7,
        interface: Some("lxc0123456789".into()),
        proxy_port: 0,
        auth_type: 0,
        file: (0, 0),
        policies: None,
        socket: None,
    };
    (0..16_384).map(|n| Arc::new(Event::Record(record(n)))).collect()
}

/// Processor time of the whole process, in nanoseconds.
fn cpu_ns() -> i64 {
    clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID).map_or(0, |at| at.tv_sec() * 1_000_000_000 + at.tv_nsec())
}

fn line(what: &str, count: usize, work: impl FnOnce()) {
    let (began, cpu) = (Instant::now(), cpu_ns());
    work();
    let per = |ns: f64| ns / count as f64;
    let (wall, cpu) = (per(began.elapsed().as_nanos() as f64), per((cpu_ns() - cpu) as f64));
    println!("{what:<58} {wall:>9.0} ns {cpu:>9.0} ns");
}

fn count(what: &str, events: &[Arc<Event>], node: &NodeInfo, plugins: &str) {
    let metrics = Metrics::new(options::parse(plugins).expect("they are well formed"), hubble_metrics::SERIES_MAX);
    events.iter().for_each(|event| metrics.observe(event, node));
    line(what, FLOWS, || {
        events.iter().cycle().take(FLOWS).for_each(|event| metrics.observe(black_box(event), node));
    });
    if plugins.contains("source_pod") {
        let text = metrics.render(Format::Text, |_| {});
        let lines = text.lines().count();
        line(&format!("  a line of the scrape, of {lines}"), lines, || {
            black_box(metrics.render(Format::Text, |_| {}));
        });
    }
}

fn main() {
    let node = NodeInfo { name: "default/node-1".into(), labels: Vec::new() };
    let events = events();
    let folder = tempfile::tempdir().expect("a folder");
    println!("{:<58} {:>12} {:>12}", "per flow", "wall", "processor");
    const ALL: &str = "dns,drop,flow,flows-to-world,httpV2,icmp,kafka,policy,port-distribution,sctp,tcp";
    count("metrics, all plugins, no contexts", &events, &node, ALL);
    let pods = "sourceContext=pod|ip;destinationContext=pod|dns|ip;labelsContext=source_pod,source_namespace";
    let with_pods: Vec<String> = ALL.split(',').map(|plugin| format!("{plugin}:{pods}")).collect();
    count("metrics, all plugins, pods on both ends", &events, &node, &with_pods.join(" "));

    let log = FlowLog {
        name: "measure".into(),
        path: folder.path().join("events.log"),
        mask: Vec::new(),
        include: Vec::new(),
        exclude: Vec::new(),
        end_ns: None,
        rotation: Rotation { bytes_max: 100 << 20, ..Rotation::default() },
    };
    let export = |what: &str, log: FlowLog| {
        let exporter = Exporter::start(log, node.clone()).expect("a thread");
        line(&format!("{what}: offered"), STEP, || events[..STEP].iter().for_each(|event| exporter.offer(event)));
        exporter.flush(LONG);
        line(&format!("{what}: written"), FLOWS, || {
            for chunk in 0..FLOWS / STEP {
                events.iter().cycle().skip(chunk * STEP).take(STEP).for_each(|event| exporter.offer(event));
                exporter.flush(LONG);
            }
        });
        assert_eq!(exporter.report().lost, 0);
    };
    export("export, whole flows", log.clone());
    export(
        "export, five fields",
        FlowLog {
            mask: ["time", "source.pod_name", "destination.pod_name", "verdict", "l4"].map(str::to_owned).to_vec(),
            path: folder.path().join("masked.log"),
            ..log
        },
    );

    let limits = Limits { bytes_max: 1 << 30, age_max: Duration::from_secs(4_000_000_000), ..Limits::default() };
    let recorder = Recorder::open(&folder.path().join("history"), limits, node.clone()).expect("a folder");
    let offer = |recorder: &Recorder, from: usize| {
        for (at, event) in events.iter().cycle().skip(from).take(STEP).enumerate() {
            recorder.event((from + at) as u64, event, &node);
        }
    };
    line("history: offered", STEP, || offer(&recorder, 0));
    recorder.flush(LONG);
    line("history: written", FLOWS, || {
        for chunk in 0..FLOWS / STEP {
            offer(&recorder, chunk * STEP);
            recorder.flush(LONG);
        }
    });
    let report = recorder.report();
    let read = |last| {
        let filters = Arc::new(FilterList::new(&[], &[]).expect("no filters"));
        let mut pages = recorder.read(Past { since_ns: None, until_ns: None, before: u64::MAX, last, filters });
        let mut flows = 0;
        while let Some(page) = pages.next_page() {
            flows += page.events.len();
        }
        flows
    };
    let kept = usize::try_from(report.written).expect("not that many");
    line("history: read back", kept, || assert_eq!(read(None), kept));
    line("history: the last hundred found", 1, || assert_eq!(read(Some(100)), 100));
    println!(
        "history: {:.1} bytes a flow on disk, {} flows",
        report.bytes as f64 / report.written as f64,
        report.written
    );
}
