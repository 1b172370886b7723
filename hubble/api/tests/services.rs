//! Every message of the services, encoded by hand from the published field numbers.

mod common;

use common::{both_ways, bytes, number, varint};
use hubble_api::{
    flow, json,
    observer::{
        ExportEvent, GetAgentEventsRequest, GetAgentEventsResponse, GetDebugEventsRequest, GetDebugEventsResponse,
        GetFlowsRequest, GetFlowsResponse, GetNamespacesResponse, GetNodesResponse, ServerStatusResponse,
    },
    peer::{ChangeNotification, ChangeNotificationType},
    relay::NodeState,
};

/// Decodes bytes, compares the JSON form, and goes back.
macro_rules! is {
    ($message:ty, $wire:expr, $want:literal) => {
        let message: $message = both_ways(&$wire.concat());
        assert_eq!(json::to_string(&message), $want);
    };
}

fn time(seconds: u64) -> Vec<u8> {
    number(1, seconds)
}

#[test]
fn requests() {
    is!(
        GetFlowsRequest,
        [number(1, 7), number(9, 1), bytes(999, bytes(1, bytes(1, "uuid")))],
        r#"{"number":"7","first":true,"experimental":{"field_mask":"uuid"}}"#
    );
    let any = [bytes(1, "type.example/x"), bytes(2, [8, 1])].concat();
    let request: GetFlowsRequest = both_ways(&bytes(150_000, any));
    assert_eq!(request.extensions.expect("set").type_url, "type.example/x");
    is!(
        GetAgentEventsRequest,
        [number(1, 3), number(2, 1), bytes(7, time(1)), bytes(8, time(2)), number(9, 1)],
        r#"{"number":"3","follow":true,"since":"1970-01-01T00:00:01Z","until":"1970-01-01T00:00:02Z","first":true}"#
    );
    is!(
        GetDebugEventsRequest,
        [number(1, 3), number(2, 1), bytes(7, time(1)), bytes(8, time(2)), number(9, 1)],
        r#"{"number":"3","follow":true,"since":"1970-01-01T00:00:01Z","until":"1970-01-01T00:00:02Z","first":true}"#
    );
}

#[test]
fn flows_and_word_of_nodes_and_losses() {
    for (state, name) in [
        (NodeState::NodeConnected, "NODE_CONNECTED"),
        (NodeState::NodeUnavailable, "NODE_UNAVAILABLE"),
        (NodeState::NodeGone, "NODE_GONE"),
        (NodeState::NodeError, "NODE_ERROR"),
    ] {
        let status = [number(1, state as u64), bytes(2, "n1"), bytes(2, "n2"), bytes(3, "why")].concat();
        let wire = [bytes(2, status), bytes(1000, "relay"), bytes(1001, time(9))].concat();
        let response: GetFlowsResponse = both_ways(&wire);
        let want = format!(
            r#"{{"node_status":{{"state_change":"{name}","node_names":["n1","n2"],"message":"why"}},"node_name":"relay","time":"1970-01-01T00:00:09Z"}}"#
        );
        assert_eq!(json::to_string(&response), want);
    }
    for (source, name) in [(1, "PERF_EVENT_RING_BUFFER"), (2, "OBSERVER_EVENTS_QUEUE"), (3, "HUBBLE_RING_BUFFER")] {
        let lost =
            [number(1, source), number(2, 5), bytes(3, number(1, 2)), bytes(4, time(1)), bytes(5, time(2))].concat();
        let response: GetFlowsResponse = both_ways(&bytes(3, lost));
        let want = format!(
            r#"{{"lost_events":{{"source":"{name}","num_events_lost":"5","cpu":2,"first":"1970-01-01T00:00:01Z","last":"1970-01-01T00:00:02Z"}}}}"#
        );
        assert_eq!(json::to_string(&response), want);
    }
}

#[test]
fn what_servers_say_of_themselves() {
    let rate = [varint(9 << 3 | 1), 2.5_f64.to_le_bytes().to_vec()].concat();
    is!(
        ServerStatusResponse,
        [
            number(1, 1),
            number(2, 2),
            number(3, 3),
            number(4, 4),
            bytes(5, number(1, 5)),
            bytes(6, number(1, 6)),
            bytes(7, "n6"),
            bytes(8, "v"),
            rate
        ],
        r#"{"num_flows":"1","max_flows":"2","seen_flows":"3","uptime_ns":"4","num_connected_nodes":5,"num_unavailable_nodes":6,"unavailable_nodes":["n6"],"version":"v","flows_rate":2.5}"#
    );
    // A wrapper that is there and zero is not the same as none.
    is!(ServerStatusResponse, [bytes(5, b"")], r#"{"num_connected_nodes":0}"#);
    let node = [
        bytes(1, "c1/n1"),
        bytes(2, "v"),
        bytes(3, "10.0.0.1:4244"),
        number(4, 4),
        bytes(5, [number(1, 1), bytes(2, "n1.c1.hubble-grpc.cilium.io")].concat()),
        number(6, 6),
        number(7, 7),
        number(8, 8),
        number(9, 9),
    ]
    .concat();
    is!(
        GetNodesResponse,
        [bytes(1, node)],
        r#"{"nodes":[{"name":"c1/n1","version":"v","address":"10.0.0.1:4244","state":"NODE_ERROR","tls":{"enabled":true,"server_name":"n1.c1.hubble-grpc.cilium.io"},"uptime_ns":"6","num_flows":"7","max_flows":"8","seen_flows":"9"}]}"#
    );
    is!(
        GetNamespacesResponse,
        [bytes(1, [bytes(1, "c1"), bytes(2, "shop")].concat()), bytes(1, bytes(2, "ns"))],
        r#"{"namespaces":[{"cluster":"c1","namespace":"shop"},{"namespace":"ns"}]}"#
    );
}

#[test]
fn peers() {
    for (kind, name) in [(1, "PEER_ADDED"), (2, "PEER_DELETED"), (3, "PEER_UPDATED")] {
        let wire = [bytes(1, "n1"), bytes(2, "unix:///h.sock"), number(3, kind), bytes(4, bytes(1, "n1.x"))].concat();
        let change: ChangeNotification = both_ways(&wire);
        let want =
            format!(r#"{{"name":"n1","address":"unix:///h.sock","type":"{name}","tls":{{"server_name":"n1.x"}}}}"#);
        assert_eq!(json::to_string(&change), want);
    }
    let bare: ChangeNotification = both_ways(&bytes(1, "n1"));
    assert_eq!((bare.r#type(), bare.tls), (ChangeNotificationType::Unknown, None));
}

#[test]
fn events_of_agent_and_datapath() {
    let agent = [number(1, 2), bytes(101, bytes(1, time(5)))].concat();
    is!(
        GetAgentEventsResponse,
        [bytes(1, agent), bytes(1000, "n1"), bytes(1001, time(9))],
        r#"{"agent_event":{"type":"AGENT_STARTED","agent_start":{"time":"1970-01-01T00:00:05Z"}},"node_name":"n1","time":"1970-01-01T00:00:09Z"}"#
    );
    let debug = [
        number(1, 5),
        bytes(2, number(1, 7)),
        bytes(3, number(1, 1)),
        bytes(4, number(1, 2)),
        bytes(5, number(1, 3)),
        bytes(6, number(1, 4)),
        bytes(7, "m"),
        bytes(8, number(1, 6)),
    ]
    .concat();
    is!(
        GetDebugEventsResponse,
        [bytes(1, &debug), bytes(1000, "n1")],
        r#"{"debug_event":{"type":"DBG_POLICY_DENIED","source":{"ID":7},"hash":1,"arg1":2,"arg2":3,"arg3":4,"message":"m","cpu":6},"node_name":"n1"}"#
    );
    // What an exporter writes has the numbers of the responses, and its own for events.
    let event: ExportEvent = both_ways(&[bytes(5, debug), bytes(1000, "n1")].concat());
    assert!(json::to_string(&event).starts_with(r#"{"debug_event":{"type":"DBG_POLICY_DENIED""#));
    let event: ExportEvent = both_ways(&bytes(4, number(1, 2)));
    assert_eq!(json::to_string(&event), r#"{"agent_event":{"type":"AGENT_STARTED"}}"#);
    assert_eq!(flow::AgentEventType::AgentStarted as i32, 2);
}

#[test]
fn what_else_an_agent_has_to_say() {
    for (kind, name, field, payload, want) in [
        (0, "", 100, [bytes(1, "17"), bytes(2, "{}")].concat(), r#""unknown":{"type":"17","notification":"{}"}"#),
        (
            3,
            r#""type":"POLICY_UPDATED","#,
            102,
            [bytes(1, "k8s:a=b"), number(2, 7), number(3, 2)].concat(),
            r#""policy_update":{"labels":["k8s:a=b"],"revision":"7","rule_count":"2"}"#,
        ),
        (
            6,
            r#""type":"ENDPOINT_REGENERATE_FAILURE","#,
            103,
            [number(1, 9), bytes(2, "k8s:a=b"), bytes(3, "why")].concat(),
            r#""endpoint_regenerate":{"id":"9","labels":["k8s:a=b"],"error":"why"}"#,
        ),
        (
            7,
            r#""type":"ENDPOINT_CREATED","#,
            104,
            [number(1, 9), bytes(2, "l"), bytes(3, "e"), bytes(4, "pod"), bytes(5, "ns")].concat(),
            r#""endpoint_update":{"id":"9","labels":["l"],"error":"e","pod_name":"pod","namespace":"ns"}"#,
        ),
        (
            9,
            r#""type":"IPCACHE_UPSERTED","#,
            105,
            [
                bytes(1, "10.0.0.0/8"),
                number(2, 3),
                bytes(3, b""),
                bytes(4, "1.1.1.1"),
                bytes(5, "2.2.2.2"),
                number(6, 1),
                bytes(7, "ns"),
                bytes(8, "pod"),
            ]
            .concat(),
            r#""ipcache_update":{"cidr":"10.0.0.0/8","identity":3,"old_identity":0,"host_ip":"1.1.1.1","old_host_ip":"2.2.2.2","encrypt_key":1,"namespace":"ns","pod_name":"pod"}"#,
        ),
        (
            11,
            r#""type":"SERVICE_UPSERTED","#,
            106,
            [
                number(1, 5),
                bytes(2, [bytes(1, "10.96.0.1"), number(2, 80)].concat()),
                bytes(3, [bytes(1, "10.0.0.1"), number(2, 8080)].concat()),
                bytes(4, "ClusterIP"),
                bytes(5, "Cluster"),
                bytes(6, "web"),
                bytes(7, "ns"),
                bytes(8, "Local"),
                bytes(9, "Cluster"),
            ]
            .concat(),
            r#""service_upsert":{"id":5,"frontend_address":{"ip":"10.96.0.1","port":80},"backend_addresses":[{"ip":"10.0.0.1","port":8080}],"type":"ClusterIP","traffic_policy":"Cluster","name":"web","namespace":"ns","ext_traffic_policy":"Local","int_traffic_policy":"Cluster"}"#,
        ),
        (12, r#""type":"SERVICE_DELETED","#, 107, number(1, 5), r#""service_delete":{"id":5}"#),
    ] {
        let kind = if kind == 0 { Vec::new() } else { number(1, kind) };
        let event: flow::AgentEvent = both_ways(&[kind, bytes(field, payload)].concat());
        assert_eq!(json::to_string(&event), format!("{{{name}{want}}}"));
    }
}

#[test]
fn every_field_of_a_filter() {
    let texts =
        |fields: &[u64]| -> Vec<u8> { fields.iter().flat_map(|field| bytes(*field, format!("t{field}"))).collect() };
    let wire = [
        texts(&[1, 2, 3, 4]),
        bytes(5, [2, 4]),
        bytes(6, [number(1, 4), number(2, 1), number(3, 3)].concat()),
        texts(&[7, 8, 9, 10, 11, 12, 13, 14]),
        bytes(15, [1, 0]),
        texts(&[16, 17, 18]),
        bytes(19, varint(300)),
        bytes(20, [8]),
        texts(&[21, 22]),
        bytes(23, [number(1, 1), number(9, 1)].concat()),
        texts(&[24]),
        bytes(25, [2]),
        bytes(26, [bytes(1, "w"), bytes(2, "Deployment")].concat()),
        bytes(27, bytes(1, "v")),
        texts(&[28, 29]),
        bytes(30, [1, 2]),
        texts(&[31]),
        bytes(32, [bytes(1, "k"), bytes(2, "v")].concat()),
        bytes(33, varint(133)),
        texts(&[34]),
        bytes(35, [number(1, 5), bytes(2, "eth0")].concat()),
        texts(&[36, 37, 38]),
        bytes(39, varint(1 << 40)),
        bytes(40, [1]),
        bytes(999, bytes(1, "true")),
    ]
    .concat();
    let filter: flow::FlowFilter = both_ways(&wire);
    let want = flow::FlowFilter {
        source_ip: vec!["t1".into()],
        source_pod: vec!["t2".into()],
        destination_ip: vec!["t3".into()],
        destination_pod: vec!["t4".into()],
        verdict: vec![2, 4],
        event_type: vec![flow::EventTypeFilter { r#type: 4, match_sub_type: true, sub_type: 3 }],
        source_fqdn: vec!["t7".into()],
        destination_fqdn: vec!["t8".into()],
        http_status_code: vec!["t9".into()],
        source_label: vec!["t10".into()],
        destination_label: vec!["t11".into()],
        protocol: vec!["t12".into()],
        source_port: vec!["t13".into()],
        destination_port: vec!["t14".into()],
        reply: vec![true, false],
        source_service: vec!["t16".into()],
        destination_service: vec!["t17".into()],
        dns_query: vec!["t18".into()],
        source_identity: vec![300],
        destination_identity: vec![8],
        http_method: vec!["t21".into()],
        http_path: vec!["t22".into()],
        tcp_flags: vec![flow::TcpFlags { fin: true, ns: true, ..Default::default() }],
        node_name: vec!["t24".into()],
        ip_version: vec![2],
        source_workload: vec![flow::Workload { name: "w".into(), kind: "Deployment".into() }],
        destination_workload: vec![flow::Workload { name: "v".into(), kind: String::new() }],
        trace_id: vec!["t28".into()],
        uuid: vec!["t29".into()],
        traffic_direction: vec![1, 2],
        http_url: vec!["t31".into()],
        http_header: vec![flow::HttpHeader { key: "k".into(), value: "v".into() }],
        drop_reason_desc: vec![133],
        source_ip_xlated: vec!["t34".into()],
        interface: vec![flow::NetworkInterface { index: 5, name: "eth0".into() }],
        node_labels: vec!["t36".into()],
        source_cluster_name: vec!["t37".into()],
        destination_cluster_name: vec!["t38".into()],
        ip_trace_id: vec![1 << 40],
        encrypted: vec![true],
        experimental: Some(flow::flow_filter::Experimental { cel_expression: vec!["true".into()] }),
    };
    assert_eq!(filter, want);
}
