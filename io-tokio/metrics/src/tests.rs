use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::*;

#[derive(Debug)]
struct Kernel;
impl Source for Kernel {
    fn samples(&self) -> Vec<Sample> {
        let dropped = |reason: &str, direction: &str, value| {
            let labels = [("reason", reason.to_owned()), ("direction", direction.to_owned())];
            Sample::counter("cilium_drop_count", "Dropped packets", labels, value)
        };
        vec![
            dropped("Policy denied", "INGRESS", 7.0),
            Sample::gauge("cilium_endpoint", "Endpoints", [], 3.0),
            dropped("Odd \"name\"\n", "EGRESS", 1.0),
        ]
    }
}

fn find<'a>(list: &'a [Reading], name: &str, labels: &[(&str, &str)]) -> Option<&'a Reading> {
    let labels: BTreeMap<String, String> = labels.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
    list.iter().find(|reading| reading.name == name && reading.labels == labels)
}

#[test]
fn names_and_labels_are_the_references() {
    let metrics = Metrics::new("0.1.0", vec![Arc::new(Kernel)]);
    metrics.regenerated(Outcome::Success, Duration::from_millis(3));
    metrics.policy_changed(Outcome::Fail);
    metrics.map_operations("cilium_ipcache", "update", Outcome::Success, 5);
    metrics.api_call(ApiCall { method: "PUT", path: "/v1/endpoint/{id}", status: 201, took: Duration::from_millis(9) });
    metrics.swept("ipv4", "TCP", Outcome::Success, (10, 2), Duration::from_millis(1));
    metrics.service("update");
    metrics.service_implemented("service-updated", Duration::from_millis(3));
    metrics.busiest_translation("ipv6", 0.25);
    let text = metrics.render();
    let list = readings(&text);
    for (name, labels, value) in [
        ("cilium_services_events_total", &[("action", "update")][..], 1.0),
        ("cilium_service_implementation_delay_count", &[("action", "service-updated")], 1.0),
        ("cilium_nat_endpoint_max_connection", &[("family", "ipv6")], 0.25),
        ("cilium_drop_count_total", &[("reason", "Policy denied"), ("direction", "INGRESS")][..], 7.0),
        ("cilium_drop_count_total", &[("reason", "Odd \"name\"\n"), ("direction", "EGRESS")], 1.0),
        ("cilium_endpoint", &[], 3.0),
        ("cilium_endpoint_regenerations_total", &[("outcome", "success")], 1.0),
        ("cilium_policy_change_total", &[("outcome", "fail")], 1.0),
        (
            "cilium_bpf_map_ops_total",
            &[("map_name", "cilium_ipcache"), ("operation", "update"), ("outcome", "success")],
            5.0,
        ),
        (
            "cilium_agent_api_process_time_seconds_count",
            &[("method", "PUT"), ("path", "/v1/endpoint/{id}"), ("return_code", "201")],
            1.0,
        ),
        (
            "cilium_datapath_conntrack_gc_entries",
            &[("family", "ipv4"), ("protocol", "TCP"), ("status", "deleted")],
            2.0,
        ),
    ] {
        let found = find(&list, name, labels).unwrap_or_else(|| panic!("{name} {labels:?} is not in\n{text}"));
        assert_eq!(found.value, value, "{name}");
    }
    assert!(find(&list, "process_resident_memory_bytes", &[]).is_some_and(|rss| rss.value > 100_000.0), "{text}");
    assert!(find(&list, "process_start_time_seconds", &[]).is_some_and(|at| at.value > 1.5e9), "{text}");
    assert_eq!(text.matches("# TYPE cilium_drop_count counter").count(), 1, "one descriptor for each name");
}

#[test]
fn addresses_are_parsed_or_named() {
    for (text, want) in [(":9962", "[::]:9962"), ("127.0.0.1:1", "127.0.0.1:1"), ("localhost:7", "127.0.0.1:7")] {
        assert_eq!(parse_address(text).unwrap().to_string(), want);
    }
    for bad in ["", "9962", ":", ":99999", "host:1", "1.2.3:4"] {
        assert!(parse_address(bad).unwrap_err().to_string().contains(":9962"), "{bad}");
    }
}

#[test]
fn the_endpoint_serves_the_text_and_a_taken_port_is_an_error_that_names_it() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let free = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = free.local_addr().unwrap();
        let metrics = Arc::new(Metrics::new("0.1.0", vec![]));
        let refused = serve(address, metrics.clone(), std::future::pending()).await.unwrap_err();
        assert!(refused.to_string().contains(&address.to_string()), "{refused}");
        drop(free);
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let server = tokio::spawn(serve(address, metrics, async move {
            let _dropped = stopped.await;
        }));
        let mut stream = loop {
            match tokio::net::TcpStream::connect(address).await {
                Ok(stream) => break stream,
                Err(_) => tokio::task::yield_now().await,
            }
        };
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        assert!(text.starts_with("HTTP/1.1 200") && text.contains("cilium_version{"), "{text}");
        stop.send(()).unwrap();
        server.await.unwrap().unwrap();
    });
}
