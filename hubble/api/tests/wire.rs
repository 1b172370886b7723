//! Messages encoded by hand from the published field numbers, not by our encoder.

mod common;

use common::{both_ways, bytes, number, varint};
use hubble_api::{
    flow::{Flow, FlowFilter, IpVersion, Verdict},
    json,
    observer::{GetFlowsRequest, GetFlowsResponse, ServerStatusResponse, get_flows_response::ResponseTypes},
    peer::ChangeNotification,
};
use prost::Message as _;

#[test]
fn a_flow_with_a_field_of_every_range() {
    let tcp = [number(1, 40_000), number(2, 80), bytes(3, [number(2, 1), number(5, 1)].concat())].concat();
    let http = [number(1, 200), bytes(2, "GET"), bytes(3, "http://x/")].concat();
    let policy = [bytes(1, "p"), bytes(2, "ns"), number(4, 7), bytes(5, "CiliumNetworkPolicy")].concat();
    let wire = [
        bytes(1, [number(1, 1_700_000_000), number(2, 5)].concat()),
        number(2, 2),
        number(3, 133),
        bytes(4, [bytes(1, "aa:bb:cc:dd:ee:01"), bytes(2, "aa:bb:cc:dd:ee:02")].concat()),
        bytes(5, [bytes(1, "fd00::1"), bytes(2, "fd00::2"), number(3, 2), number(4, 1), bytes(5, "fd00::3")].concat()),
        bytes(6, bytes(1, tcp)),
        bytes(
            8,
            [number(1, 11), number(2, 1234), bytes(3, "ns"), bytes(4, "k8s:a=b"), bytes(5, "pod"), bytes(7, "c1")]
                .concat(),
        ),
        bytes(9, bytes(6, [bytes(1, "web"), bytes(2, "Deployment")].concat())),
        number(10, 1),
        bytes(11, "c1/n1"),
        bytes(15, [number(1, 2), number(2, 1_500), bytes(101, http)].concat()),
        bytes(19, [number(1, 129), number(2, 3)].concat()),
        number(22, 1),
        number(25, 133),
        bytes(26, number(1, 1)),
        bytes(34, "u-1"),
        bytes(38, [bytes(1, "bpf_lxc.c"), number(2, 99)].concat()),
        number(33, u64::MAX),
        bytes(21_001, &policy),
        bytes(100_000, "HTTP/1.1 200"),
    ]
    .concat();
    let flow: Flow = both_ways(&wire);
    assert_eq!(flow.verdict(), Verdict::Dropped);
    assert_eq!(flow.ip.as_ref().expect("set").ip_version(), IpVersion::IPv6);
    let want = concat!(
        r#"{"time":"2023-11-14T22:13:20.000000005Z","uuid":"u-1","verdict":"DROPPED","drop_reason":133,"#,
        r#""ethernet":{"source":"aa:bb:cc:dd:ee:01","destination":"aa:bb:cc:dd:ee:02"},"#,
        r#""IP":{"source":"fd00::1","source_xlated":"fd00::3","destination":"fd00::2","ipVersion":"IPv6","encrypted":true},"#,
        r#""l4":{"TCP":{"source_port":40000,"destination_port":80,"flags":{"SYN":true,"ACK":true}}},"#,
        r#""source":{"ID":11,"identity":1234,"cluster_name":"c1","namespace":"ns","labels":["k8s:a=b"],"pod_name":"pod"},"#,
        r#""destination":{"workloads":[{"name":"web","kind":"Deployment"}]},"Type":"L3_L4","node_name":"c1/n1","#,
        r#""l7":{"type":"RESPONSE","latency_ns":"1500","http":{"code":200,"method":"GET","url":"http://x/"}},"#,
        r#""event_type":{"type":129,"sub_type":3},"traffic_direction":"INGRESS","file":{"name":"bpf_lxc.c","line":99},"#,
        r#""drop_reason_desc":"POLICY_DENIED","is_reply":true,"cgroup_id":"18446744073709551615","Summary":"HTTP/1.1 200","#,
        r#""egress_allowed_by":[{"name":"p","namespace":"ns","revision":"7","kind":"CiliumNetworkPolicy"}]}"#,
    );
    assert_eq!(json::to_string(&flow), want);
}

#[test]
fn requests_and_responses() {
    let filter =
        [bytes(2, "ns/pod"), bytes(5, [2]), bytes(6, [number(1, 4), number(2, 1)].concat()), bytes(36, "a=b")].concat();
    let wire = [
        number(1, 20),
        number(3, 1),
        bytes(5, bytes(30, [1])),
        bytes(6, filter),
        bytes(7, number(1, 1)),
        bytes(8, number(1, 2)),
        bytes(10, [bytes(1, "time"), bytes(1, "source.ID")].concat()),
    ]
    .concat();
    let request: GetFlowsRequest = both_ways(&wire);
    let want = r#"{"number":"20","follow":true,"blacklist":[{"traffic_direction":["INGRESS"]}],"whitelist":[{"source_pod":["ns/pod"],"verdict":["DROPPED"],"event_type":[{"type":4,"match_sub_type":true}],"node_labels":["a=b"]}],"since":"1970-01-01T00:00:01Z","until":"1970-01-01T00:00:02Z","field_mask":"time,source.ID"}"#;
    assert_eq!(json::to_string(&request), want);
    // Numbers in a list may come one by one or packed.
    let one_by_one: FlowFilter = FlowFilter::decode(&[number(5, 1), number(5, 2)].concat()[..]).expect("decodes");
    let packed: FlowFilter = both_ways(&bytes(5, [1, 2]));
    assert_eq!(one_by_one, packed);

    let lost = [number(1, 3), number(2, 12), bytes(3, number(1, 4))].concat();
    let wire = [bytes(3, lost), bytes(1000, "n1"), bytes(1001, number(1, 9))].concat();
    let response: GetFlowsResponse = both_ways(&wire);
    assert!(matches!(&response.response_types, Some(ResponseTypes::LostEvents(lost)) if lost.cpu == Some(4)));
    assert_eq!(
        json::to_string(&response),
        r#"{"lost_events":{"source":"HUBBLE_RING_BUFFER","num_events_lost":"12","cpu":4},"node_name":"n1","time":"1970-01-01T00:00:09Z"}"#
    );
    let status = [bytes(2, [number(1, 4), bytes(2, "n2"), bytes(3, "gone")].concat()), bytes(1000, "relay")].concat();
    let response: GetFlowsResponse = both_ways(&status);
    assert_eq!(
        json::to_string(&response),
        r#"{"node_status":{"state_change":"NODE_ERROR","node_names":["n2"],"message":"gone"},"node_name":"relay"}"#
    );
    let rate = [varint(9 << 3 | 1), 1.5_f64.to_le_bytes().to_vec()].concat();
    let wire = [number(1, 5), number(2, 4095), number(4, 1), bytes(5, number(1, 2)), bytes(8, "v1"), rate].concat();
    let status: ServerStatusResponse = both_ways(&wire);
    assert_eq!(
        json::to_string(&status),
        r#"{"num_flows":"5","max_flows":"4095","uptime_ns":"1","num_connected_nodes":2,"version":"v1","flows_rate":1.5}"#
    );
    let wire = [bytes(1, "n1"), bytes(2, "10.0.0.1:4244"), number(3, 1), bytes(4, bytes(1, "n1.c1"))].concat();
    let change: ChangeNotification = both_ways(&wire);
    assert_eq!(
        json::to_string(&change),
        r#"{"name":"n1","address":"10.0.0.1:4244","type":"PEER_ADDED","tls":{"server_name":"n1.c1"}}"#
    );
}

#[test]
fn flows_of_sockets_and_of_applications() {
    let dns = [
        bytes(1, "a.example."),
        bytes(2, "1.1.1.1"),
        number(3, 30),
        bytes(4, "b.example."),
        bytes(5, "proxy"),
        number(6, 3),
        bytes(7, "A"),
        bytes(8, "CNAME"),
    ]
    .concat();
    let wire = [
        number(2, 7),
        number(10, 3),
        bytes(15, [number(1, 2), bytes(100, dns)].concat()),
        bytes(30, bytes(1, bytes(1, "4bf92f3577b34da6a3ce929d0e0e4736"))),
        number(31, 2),
        number(32, 57_005),
        bytes(39, [number(1, 1), number(4, 7)].concat()),
        bytes(40, [number(1, 9), number(2, 68)].concat()),
        bytes(41, [bytes(1, "Hubble"), bytes(2, "1.19.4")].concat()),
        bytes(21_006, "log"),
        bytes(21_007, [number(1, 2), number(2, 3), number(3, 4)].concat()),
    ]
    .concat();
    let flow: Flow = both_ways(&wire);
    let want = concat!(
        r#"{"verdict":"TRANSLATED","tunnel":{"protocol":"VXLAN","vni":7},"Type":"SOCK","l7":{"type":"RESPONSE","dns":"#,
        r#"{"query":"a.example.","ips":["1.1.1.1"],"ttl":30,"cnames":["b.example."],"observation_source":"proxy","rcode":3,"qtypes":["A"],"rrtypes":["CNAME"]}},"#,
        r#""ip_trace_id":{"trace_id":"9","ip_option_type":68},"trace_context":{"parent":{"trace_id":"4bf92f3577b34da6a3ce929d0e0e4736"}},"#,
        r#""sock_xlate_point":"SOCK_XLATE_POINT_POST_DIRECTION_FWD","socket_cookie":"57005","policy_log":["log"],"#,
        r#""emitter":{"name":"Hubble","version":"1.19.4"},"aggregate":{"ingress_flow_count":2,"egress_flow_count":3,"unknown_direction_flow_count":4}}"#,
    );
    assert_eq!(json::to_string(&flow), want);
    let expression = bytes(999, bytes(1, "_flow.verdict == 1"));
    let filter: FlowFilter =
        both_ways(&[bytes(35, [number(1, 5), bytes(2, "eth0")].concat()), bytes(39, [7]), expression].concat());
    assert_eq!(filter.experimental.map(|more| more.cel_expression), Some(vec!["_flow.verdict == 1".to_owned()]));
}

#[test]
fn debug_events_and_recordings() {
    use hubble_api::{
        flow::DebugEvent,
        recorder::{RecordRequest, RecordResponse, record_request::RequestType, record_response::ResponseType},
    };
    let wire = [
        number(1, 15),
        bytes(2, number(1, 11)),
        bytes(3, number(1, 48_879)),
        bytes(4, number(1, 1)),
        bytes(7, "message"),
        bytes(8, number(1, 3)),
    ]
    .concat();
    let event: DebugEvent = both_ways(&wire);
    assert_eq!(
        json::to_string(&event),
        r#"{"type":"DBG_CT_VERDICT","source":{"ID":11},"hash":48879,"arg1":1,"message":"message","cpu":3}"#
    );
    let filter = [bytes(1, "10.0.0.0/8"), number(2, 1), bytes(3, "0.0.0.0/0"), number(4, 443), number(5, 6)].concat();
    let stop = [number(1, 100), number(2, 3), bytes(3, number(1, 90))].concat();
    let start = [bytes(1, bytes(1, "hubble")), bytes(2, filter), number(3, 96), bytes(4, stop)].concat();
    let request: RecordRequest = both_ways(&bytes(1, start));
    let Some(RequestType::Start(start)) = request.request_type else { panic!("a start") };
    let limits = start.stop_condition.expect("limits");
    assert_eq!((limits.bytes_captured_count, limits.packets_captured_count), (100, 3));
    assert_eq!((start.include[0].destination_port, start.include[0].protocol().as_str_name()), (443, "PROTOCOL_TCP"));
    let stats = [number(1, 60), number(2, 1), number(3, 2), number(4, 120)].concat();
    let stopped = [bytes(1, stats), bytes(2, bytes(1, "/x.pcap"))].concat();
    let response: RecordResponse = both_ways(&[bytes(1, "n"), bytes(2, number(1, 5)), bytes(4, stopped)].concat());
    let Some(ResponseType::Stopped(stopped)) = response.response_type else { panic!("an end") };
    assert_eq!(stopped.filesink.map(|sink| sink.file_path).as_deref(), Some("/x.pcap"));
    assert_eq!(stopped.stats.map(|stats| (stats.packets_lost, stats.bytes_lost)), Some((2, 120)));
}
