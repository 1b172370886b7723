//! What a scrape shows, to the byte: flows in, text out.

use hubble_api::{
    Timestamp,
    flow::{
        self, CiliumEventType, Dns, DropReason, Endpoint, Flow, Http, Ip, IpVersion, Kafka, L7FlowType, Layer4, Layer7,
        LostEvent, LostEventSource, Tcp, TcpFlags, TraceContext, TraceParent, TrafficDirection, Udp, Verdict, Workload,
        layer4::Protocol, layer7::Record,
    },
};
use hubble_metrics::{Format, Metrics, options};
use hubble_model::{Event, NodeInfo};

fn end(pod: &str, labels: &[&str]) -> Endpoint {
    Endpoint {
        identity: 1000,
        namespace: if pod.is_empty() { String::new() } else { "shop".into() },
        pod_name: pod.into(),
        labels: labels.iter().map(|label| (*label).into()).collect(),
        workloads: if pod.is_empty() {
            Vec::new()
        } else {
            vec![Workload { name: format!("{pod}-deploy"), kind: "Deployment".into() }]
        },
        ..Endpoint::default()
    }
}

fn tcp(port: u32, syn: bool, ack: bool) -> Option<Layer4> {
    let flags = TcpFlags { syn, ack, ..TcpFlags::default() };
    let tcp = Tcp { source_port: 40_000, destination_port: port, flags: Some(flags) };
    Some(Layer4 { protocol: Some(Protocol::Tcp(tcp)) })
}

/// A SYN from `web` to `db`, forwarded to the endpoint.
fn base() -> Flow {
    Flow {
        time: Some(Timestamp { seconds: 1_700_000_000, nanos: 250_000_000 }),
        verdict: Verdict::Forwarded.into(),
        ip: Some(Ip {
            source: "10.0.0.1".into(),
            destination: "10.0.0.2".into(),
            ip_version: IpVersion::IPv4.into(),
            ..Ip::default()
        }),
        l4: tcp(5432, true, false),
        source: Some(end("web", &["k8s:app=web"])),
        destination: Some(end("db", &["k8s:app=db", "k8s:app.kubernetes.io/name=database"])),
        event_type: Some(CiliumEventType { r#type: 4, sub_type: 0 }),
        traffic_direction: TrafficDirection::Egress.into(),
        is_reply: Some(false),
        ..Flow::default()
    }
}

fn l7(kind: L7FlowType, record: Record, latency_ns: u64) -> Flow {
    Flow {
        event_type: Some(CiliumEventType { r#type: 129, sub_type: 0 }),
        l7: Some(Layer7 { r#type: kind.into(), latency_ns, record: Some(record) }),
        l4: tcp(80, false, true),
        ..base()
    }
}

fn http(kind: L7FlowType, code: u32, latency_ns: u64) -> Flow {
    let http = Http { code, method: "GET".into(), protocol: "HTTP/1.1".into(), ..Http::default() };
    let flow = l7(kind, Record::Http(http), latency_ns);
    let trace = TraceContext { parent: Some(TraceParent { trace_id: "4bf9".into() }) };
    match kind {
        // An answer goes the other way.
        L7FlowType::Response => Flow {
            source: flow.destination.clone(),
            destination: flow.source.clone(),
            is_reply: Some(true),
            traffic_direction: TrafficDirection::Ingress.into(),
            trace_context: Some(trace),
            ..flow
        },
        _ => flow,
    }
}

fn seen(options: &str, flows: &[Flow]) -> Metrics {
    let metrics = Metrics::new(options::parse(options).unwrap(), 100);
    for flow in flows {
        metrics.observe(&Event::Flow(Box::new(flow.clone())), &NodeInfo::default());
    }
    metrics
}

/// The text without what metrics say about themselves.
fn text(metrics: &Metrics, format: Format) -> String {
    let text = metrics.render(format, |_| {});
    let own = |line: &&str| !line.contains("hubble_metrics_") || line.contains("hubble_metrics_http");
    text.lines().filter(own).map(|line| format!("{line}\n")).collect()
}

fn series(options: &str, flows: &[Flow]) -> Vec<String> {
    let text = text(&seen(options, flows), Format::Text);
    text.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect()
}

#[test]
fn the_plugins_of_packets() {
    let dropped = Flow {
        verdict: Verdict::Dropped.into(),
        drop_reason_desc: DropReason::PolicyDenied.into(),
        event_type: Some(CiliumEventType { r#type: 1, sub_type: 133 }),
        ..base()
    };
    let answer = Flow { l4: tcp(40_000, true, true), is_reply: Some(true), ..base() };
    let verdict = Flow {
        event_type: Some(CiliumEventType { r#type: 5, sub_type: 0 }),
        policy_match_type: 1,
        traffic_direction: TrafficDirection::Ingress.into(),
        ..base()
    };
    let ping = flow::IcmPv6 { r#type: 128, code: 0 };
    let ping = Flow { l4: Some(Layer4 { protocol: Some(Protocol::IcmPv6(ping)) }), ..base() };
    let metrics = seen(
        "drop,flow,tcp,port-distribution,policy,icmp",
        &[base(), base(), answer, dropped, verdict, ping, Flow::default()],
    );
    let want = r#"# HELP hubble_drop_total Dropped packets
# TYPE hubble_drop_total counter
hubble_drop_total{protocol="TCP",reason="POLICY_DENIED"} 1
# HELP hubble_flows_processed_total Flows seen
# TYPE hubble_flows_processed_total counter
hubble_flows_processed_total{protocol="ICMPv6",subtype="to-endpoint",type="Trace",verdict="FORWARDED"} 1
hubble_flows_processed_total{protocol="TCP",subtype="",type="Drop",verdict="DROPPED"} 1
hubble_flows_processed_total{protocol="TCP",subtype="",type="PolicyVerdict",verdict="FORWARDED"} 1
hubble_flows_processed_total{protocol="TCP",subtype="to-endpoint",type="Trace",verdict="FORWARDED"} 3
hubble_flows_processed_total{protocol="Unknown flow",subtype="0",type="Unknown",verdict="VERDICT_UNKNOWN"} 1
# HELP hubble_tcp_flags_total TCP packets by flag
# TYPE hubble_tcp_flags_total counter
hubble_tcp_flags_total{family="IPv4",flag="SYN"} 3
hubble_tcp_flags_total{family="IPv4",flag="SYN-ACK"} 1
# HELP hubble_port_distribution_total Packets by destination port
# TYPE hubble_port_distribution_total counter
hubble_port_distribution_total{port="0",protocol="ICMPv6"} 1
hubble_port_distribution_total{port="5432",protocol="TCP"} 3
# HELP hubble_policy_verdicts_total Verdicts of policies
# TYPE hubble_policy_verdicts_total counter
hubble_policy_verdicts_total{action="forwarded",direction="ingress",match="l3-only"} 1
# HELP hubble_icmp_total ICMP messages
# TYPE hubble_icmp_total counter
hubble_icmp_total{family="IPv4",type="EchoRequest"} 1
"#;
    assert_eq!(text(&metrics, Format::Text), want);
}

#[test]
fn http_with_buckets_and_exemplars() {
    let options = "httpV2:exemplars=true;sourceContext=workload-name;destinationContext=workload-name";
    let metrics = seen(options, &[http(L7FlowType::Request, 0, 0), http(L7FlowType::Response, 200, 30_000_000)]);
    let labels = r#"destination="db-deploy",method="GET",reporter="server",source="web-deploy""#;
    let counted = r#"destination="db-deploy",method="GET",protocol="HTTP/1.1",reporter="server",source="web-deploy",status="200""#;
    let mut want = format!(
        "# HELP hubble_http_requests HTTP requests that were answered\n# TYPE hubble_http_requests counter\n\
         hubble_http_requests_total{{{counted}}} 1.0 # {{traceID=\"4bf9\"}} 1.0 1700000000.250\n\
         # HELP hubble_http_request_duration_seconds Time of HTTP requests\n\
         # TYPE hubble_http_request_duration_seconds histogram\n"
    );
    for (bound, count) in ["0.005", "0.01", "0.025", "0.05", "0.1", "0.25", "0.5", "1.0", "2.5", "5.0", "10.0", "+Inf"]
        .iter()
        .zip([0, 0, 0].into_iter().chain(std::iter::repeat(1)))
    {
        let exemplar = if *bound == "0.05" { " # {traceID=\"4bf9\"} 0.03 1700000000.250" } else { "" };
        want += &format!("hubble_http_request_duration_seconds_bucket{{{labels},le=\"{bound}\"}} {count}{exemplar}\n");
    }
    want += &format!("hubble_http_request_duration_seconds_sum{{{labels}}} 0.03\n");
    want += &format!("hubble_http_request_duration_seconds_count{{{labels}}} 1\n# EOF\n");
    assert_eq!(text(&metrics, Format::OpenMetrics), want);
    let plain = text(&metrics, Format::Text);
    assert!(plain.contains(&format!("hubble_http_requests_total{{{counted}}} 1\n")), "{plain}");
    assert!(plain.contains("le=\"1\"} 1\n") && !plain.contains("traceID"), "{plain}");
}

#[test]
fn http_counts_both_ways_and_names_who_asked() {
    let flows = [http(L7FlowType::Request, 0, 0), http(L7FlowType::Response, 503, 1)];
    let all = series("http:labelsContext=source_pod,source_workload_kind,destination_app,traffic_direction", &flows);
    let ends = r#"destination_app="database""#;
    assert_eq!(
        all[0],
        format!(
            "hubble_http_requests_total{{{ends},method=\"GET\",protocol=\"HTTP/1.1\",reporter=\"client\",source_pod=\"web\",\
             source_workload_kind=\"Deployment\",traffic_direction=\"egress\"}} 1"
        )
    );
    assert_eq!(
        all[1],
        format!(
            "hubble_http_responses_total{{{ends},method=\"GET\",protocol=\"HTTP/1.1\",reporter=\"server\",source_pod=\"web\",\
             source_workload_kind=\"Deployment\",status=\"503\",traffic_direction=\"ingress\"}} 1"
        )
    );
}

#[test]
fn dns_questions_answers_and_refusals() {
    let dns = |qtypes: &[&str], rcode, ips: &[&str], rrtypes: &[&str]| {
        let own = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        let dns = Dns {
            query: "a.b.".into(),
            qtypes: own(qtypes),
            rcode,
            ips: own(ips),
            rrtypes: own(rrtypes),
            ..Dns::default()
        };
        l7(L7FlowType::Request, Record::Dns(dns), 0)
    };
    let answer = Flow { is_reply: Some(true), ..dns(&["A"], 3, &["1.1.1.1", "2.2.2.2"], &["A", "CNAME"]) };
    let refused = Flow { verdict: Verdict::Dropped.into(), ..dns(&["A"], 0, &[], &[]) };
    let all = series(
        "dns:query;ignoreAAAA",
        &[dns(&["A", "AAAA"], 0, &[], &[]), dns(&["AAAA"], 0, &[], &[]), answer, refused],
    );
    assert_eq!(
        all,
        [
            r#"hubble_dns_queries_total{ips_returned="0",qtypes="A",query="a.b.",rcode="Policy denied"} 1"#,
            r#"hubble_dns_queries_total{ips_returned="0",qtypes="A,AAAA",query="a.b.",rcode=""} 1"#,
            r#"hubble_dns_responses_total{ips_returned="2",qtypes="A",query="a.b.",rcode="Non-Existent Domain"} 1"#,
            r#"hubble_dns_response_types_total{qtypes="A",query="a.b.",type="A"} 1"#,
            r#"hubble_dns_response_types_total{qtypes="A",query="a.b.",type="CNAME"} 1"#,
        ]
    );
}

#[test]
fn kafka_and_l7_verdicts() {
    let kafka = Kafka { error_code: 0, api_key: "fetch".into(), topic: "orders".into(), ..Kafka::default() };
    let all = series("kafka,policy", &[l7(L7FlowType::Request, Record::Kafka(kafka), 20_000_000)]);
    assert_eq!(
        all[0],
        r#"hubble_kafka_requests_total{api_key="fetch",error_code="0",reporter="client",topic="orders"} 1"#
    );
    let labels = r#"api_key="fetch",reporter="client",topic="orders""#;
    assert!(all.contains(&format!("hubble_kafka_request_duration_seconds_bucket{{{labels},le=\"0.025\"}} 1")));
    assert!(all.contains(&format!("hubble_kafka_request_duration_seconds_sum{{{labels}}} 0.02")));
    assert_eq!(
        all.last().unwrap(),
        r#"hubble_policy_verdicts_total{action="forwarded",direction="egress",match="l7/kafka"} 1"#
    );
}

#[test]
fn flows_to_world_by_its_options() {
    let world = Flow { destination: Some(end("", &["reserved:world-ipv4"])), ..base() };
    let udp = Udp { source_port: 1, destination_port: 53 };
    let udp = Flow { l4: Some(Layer4 { protocol: Some(Protocol::Udp(udp)) }), ..world.clone() };
    let reply = Flow { is_reply: Some(true), ..world.clone() };
    let drop = |reason: DropReason| Flow {
        verdict: Verdict::Dropped.into(),
        drop_reason_desc: reason.into(),
        event_type: Some(CiliumEventType { r#type: 1, sub_type: 0 }),
        ..world.clone()
    };
    let flows =
        [world.clone(), udp, reply, drop(DropReason::PolicyDenied), drop(DropReason::CtMapInsertionFailed), base()];
    let line = |labels: &str, count| format!("hubble_flows_to_world_total{{{labels}}} {count}");
    assert_eq!(
        series("flows-to-world", &flows),
        [
            line(r#"protocol="TCP",verdict="DROPPED""#, 1),
            line(r#"protocol="TCP",verdict="FORWARDED""#, 1),
            line(r#"protocol="UDP",verdict="FORWARDED""#, 1)
        ]
    );
    assert_eq!(
        series("flows-to-world:any-drop;port;syn-only", &flows),
        [
            line(r#"port="5432",protocol="TCP",verdict="DROPPED""#, 2),
            line(r#"port="5432",protocol="TCP",verdict="FORWARDED""#, 1)
        ]
    );
}

#[test]
fn contexts_fall_back_and_differ_by_direction() {
    let world = Flow { destination: Some(end("", &["reserved:world", "reserved:kube-apiserver"])), ..base() };
    let named = Flow { destination_names: vec!["a.org".into(), "b.org".into()], ..world.clone() };
    let drop = |flow: Flow| Flow { verdict: Verdict::Dropped.into(), ..flow };
    for (options, flow, want) in [
        ("sourceContext=pod;destinationContext=dns|ip", named.clone(), ("a.org,b.org", "shop/web")),
        ("sourceContext=pod-name;destinationContext=dns|ip", world.clone(), ("10.0.0.2", "web")),
        (
            "sourceContext=app;destinationContext=reserved-identity|pod",
            world.clone(),
            ("reserved:kube-apiserver", "web"),
        ),
        ("sourceContext=identity;destinationContext=app", base(), ("database", "k8s:app=web")),
        ("sourceContext=workload;destinationContext=workload-name", base(), ("db-deploy", "shop/web-deploy")),
        (
            "sourceContext=namespace;destinationContext=namespace|identity",
            world.clone(),
            ("reserved:world,reserved:kube-apiserver", "shop"),
        ),
        (
            "sourceContext=pod;sourceEgressContext=ip;destinationContext=pod;destinationIngressContext=ip",
            base(),
            ("shop/db", "10.0.0.1"),
        ),
        ("sourceIngressContext=pod;destinationContext=dns", base(), ("", "")),
    ] {
        let want = format!(
            "hubble_drop_total{{destination=\"{}\",protocol=\"TCP\",reason=\"DROP_REASON_UNKNOWN\",source=\"{}\"}} 1",
            want.0, want.1
        );
        assert_eq!(series(&format!("drop:{options}"), &[drop(flow)]), [want], "{options}");
    }
}

#[test]
fn text_of_flows_cannot_break_lines_or_labels() {
    let odd = "a\"b\\c\nd,source=\"x\"";
    let flow = Flow { source: Some(end(odd, &[])), verdict: Verdict::Dropped.into(), ..base() };
    let metrics = seen("drop:sourceContext=pod-name;labelsContext=source_pod,source_namespace", &[flow]);
    let lines = text(&metrics, Format::Text);
    let escaped = r#"a\"b\\c\nd,source=\"x\""#;
    assert!(lines.contains(&format!("source=\"{escaped}\",source_namespace=\"shop\",source_pod=\"{escaped}\"}} 1\n")));
    metrics.pod_gone("shop", "x", 0);
    metrics.sweep(i64::MAX);
    assert_eq!(text(&metrics, Format::Text), lines, "a value that looks like a label is none");
    metrics.pod_gone("shop", odd, 0);
    metrics.sweep(i64::MAX);
    assert_eq!(text(&metrics, Format::Text), "");
}

#[test]
fn series_are_bounded_and_the_rest_is_counted_by_name() {
    let flows: Vec<Flow> = (0..250_u32).map(|port| Flow { l4: tcp(port, true, false), ..base() }).collect();
    let metrics = seen("port-distribution", &flows);
    let all = metrics.render(Format::Text, |_| {});
    let lines = all.lines().filter(|line| line.starts_with("hubble_port_distribution_total{")).count();
    assert_eq!(lines, 101);
    for line in [
        r#"hubble_port_distribution_total{port="overflow",protocol="overflow"} 150"#,
        r#"hubble_metrics_overflow_total{metric="hubble_port_distribution_total"} 150"#,
        r#"hubble_metrics_series{metric="hubble_port_distribution_total"} 101"#,
    ] {
        assert!(all.lines().any(|have| have == line), "{line} is not in\n{all}");
    }
}

#[test]
fn a_pods_series_go_a_minute_after_it_unless_it_comes_back() {
    const MINUTE: i64 = 60_000_000_000;
    let other = Flow { source: Some(end("web2", &[])), ..base() };
    let metrics = seen(
        "tcp:sourceContext=pod;destinationContext=pod flow:labelsContext=destination_pod,destination_namespace",
        &[base(), other],
    );
    let lines = |metrics: &Metrics| {
        text(metrics, Format::Text).lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect::<Vec<_>>()
    };
    let all = lines(&metrics);
    assert_eq!(all.len(), 3);
    metrics.pod_gone("shop", "web", 0);
    metrics.sweep(MINUTE - 1);
    assert_eq!(lines(&metrics), all);
    metrics.pod_there("shop", "web");
    metrics.sweep(MINUTE);
    assert_eq!(lines(&metrics), all, "it came back");
    metrics.pod_gone("shop", "web", 0);
    metrics.sweep(MINUTE);
    assert_eq!(lines(&metrics), all[1..], "web2 and db are still there");
    metrics.pod_gone("shop", "db", 0);
    metrics.sweep(MINUTE);
    assert_eq!(lines(&metrics).len(), 0);
    assert!(metrics.render(Format::Text, |_| {}).contains("hubble_metrics_removed_series_total 3\n"));
}

#[test]
fn another_configuration_keeps_what_stays_the_same() {
    let metrics = seen("tcp,drop,icmp", &[base()]);
    let count = |metrics: &Metrics| text(metrics, Format::Text).lines().filter(|line| !line.starts_with('#')).count();
    let applied = metrics
        .apply_text("metrics:\n- {name: tcp, excludeFilters: [{source_pod: [shop/web]}]}\n- {name: drop, contextOptions: [{name: sourceContext, values: [ip]}]}\n- name: flow\n")
        .unwrap();
    assert_eq!((applied.kept, applied.added.len(), applied.renewed.len(), applied.removed.len()), (1, 1, 1, 1));
    assert_eq!(count(&metrics), 1, "the count of before is kept");
    metrics.observe(&Event::Flow(Box::new(base())), &NodeInfo::default());
    let text = text(&metrics, Format::Text);
    assert!(text.contains("hubble_tcp_flags_total{family=\"IPv4\",flag=\"SYN\"} 1\n"), "filtered: {text}");
    assert!(text.contains("hubble_flows_processed_total"), "{text}");
    let before = metrics.plugins();
    metrics.apply_text("metrics: [{name: nothing}]").unwrap_err();
    metrics.apply_text("metrics: [{name: http}, {name: httpV2}]").unwrap_err();
    assert_eq!(metrics.plugins(), before);
}

#[test]
fn losses_and_scrapes_are_counted() {
    let metrics = seen("", &[]);
    let source = LostEventSource::ObserverEventsQueue.into();
    let event = LostEvent { source, num_events_lost: 7, ..LostEvent::default() };
    metrics.observe(&Event::Lost { time_ns: 0, event }, &NodeInfo::default());
    metrics.scraped(200, 0.004);
    let text = text(&metrics, Format::Text);
    assert!(text.contains("hubble_lost_events_total{source=\"observer_events_queue\"} 7\n"), "{text}");
    assert!(text.contains("hubble_metrics_http_handler_requests_total{code=\"200\"} 1\n"), "{text}");
    let bucket = "hubble_metrics_http_handler_request_duration_seconds_bucket{code=\"200\",le=\"0.005\"} 1\n";
    assert!(text.contains(bucket), "{text}");
}
