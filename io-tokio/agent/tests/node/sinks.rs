//! What becomes of real flows: scraped, exported, kept over a `kill -9`.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use api::models::StatusResponse;
use hubble_api::Timestamp;
use hubble_api::flow::FlowFilter;
use hubble_api::observer::observer_client::ObserverClient;
use hubble_api::observer::{GetFlowsRequest, get_flows_response::ResponseTypes};

use crate::support::Node;

const PORT: u16 = 9965;

/// The text a scraper reads in the node's namespace.
fn scrape(node: &Node) -> String {
    node.within(|| {
        let mut stream = TcpStream::connect(("127.0.0.1", PORT)).unwrap();
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    })
}

/// Flows from a pod since the first second of 1970, by uuid, as `hubble observe` asks for them.
fn flows_from(node: &Node, pod: &str) -> Vec<String> {
    let socket = node.dir.path().join("run/hubble.sock");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let address = format!("unix://{}", socket.display());
        let mut client = ObserverClient::connect(address).await.unwrap();
        let from = FlowFilter { source_pod: vec![format!("default/{pod}")], ..FlowFilter::default() };
        let since = Some(Timestamp { seconds: 1, nanos: 0 });
        let request = GetFlowsRequest { since, whitelist: vec![from], ..GetFlowsRequest::default() };
        let mut stream = client.get_flows(request).await.unwrap().into_inner();
        let mut all = Vec::new();
        while let Some(response) = stream.message().await.unwrap() {
            match response.response_types {
                Some(ResponseTypes::Flow(flow)) => all.push(flow.uuid),
                other => panic!("{other:?}"),
            }
        }
        all
    })
}

#[test]
fn flows_are_scraped_exported_and_kept_over_a_kill() {
    let Some(mut node) = Node::without_agent(&[]) else { return };
    let path = |node: &Node, name: &str| node.dir.path().join(name).to_str().unwrap().to_owned();
    for option in [
        "--hubble-metrics=flow tcp:sourceContext=pod;destinationContext=pod port-distribution policy".to_owned(),
        format!("--hubble-metrics-server=:{PORT}"),
        format!("--hubble-export-file-path={}", path(&node, "events.log")),
        "--hubble-export-fieldmask=source.pod_name,verdict".into(),
        format!("--hubble-history-path={}", path(&node, "history")),
        "--hubble-history-sync-interval=200ms".into(),
    ] {
        node.add(option);
    }
    node.start();
    node.wait_ready();
    let web = node.pod("web", &["k8s:app=web"]);
    let client = node.pod("client", &["k8s:app=client"]);
    web.echo(80);
    assert!(client.reaches((web.ipv4, 80)));

    let syn =
        "hubble_tcp_flags_total{destination=\"default/web\",family=\"IPv4\",flag=\"SYN\",source=\"default/client\"}";
    node.eventually("the SYN is counted", || scrape(&node).contains(syn));
    let text = scrape(&node);
    for part in ["hubble_flows_processed_total{", "hubble_port_distribution_total{port=\"80\",protocol=\"TCP\"}"] {
        assert!(text.contains(part), "{part} is not in\n{text}");
    }
    assert!(text.contains("hubble_exporter_events_total{name=\"static\"}"), "{text}");
    let line = r#"{"flow":{"verdict":"FORWARDED","source":{"pod_name":"client"}}}"#;
    let events = || fs::read_to_string(node.dir.path().join("events.log")).unwrap_or_default();
    node.eventually("the flow is exported", || events().lines().any(|have| have == line));
    let status: StatusResponse = node.client.get("/healthz").unwrap();
    let metrics = status.hubble.unwrap().metrics.unwrap();
    assert_eq!(metrics.msg, "flow, tcp, port-distribution, policy");

    let before = flows_from(&node, "client");
    assert!(!before.is_empty());
    // What was asked for is on disk; the agent has no chance to write more.
    node.kill();
    node.start();
    node.wait_ready();
    let after = flows_from(&node, "client");
    assert!(after.starts_with(&before), "{before:?} is not the beginning of {after:?}");

    // A disk that refuses is told, and the agent goes on.
    let until = Instant::now() + Duration::from_secs(20);
    fs::remove_file(node.dir.path().join("events.log")).unwrap();
    assert_eq!(node.stop(), Some(0), "{}", node.log());
    fs::create_dir(node.dir.path().join("events.log")).unwrap();
    node.start();
    node.wait_ready();
    let warned = || {
        client.reaches((web.ipv4, 80));
        let status: StatusResponse = node.client.get("/healthz").unwrap();
        status.cilium.is_some_and(|own| own.msg.contains("export static cannot be written"))
    };
    while !warned() {
        assert!(Instant::now() < until, "{}", node.log());
    }
    assert!(client.reaches((web.ipv4, 80)));
}
