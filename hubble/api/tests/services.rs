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
