use super::*;
use crate::flow::{Flow, FlowFilter};
use crate::observer::GetFlowsResponse;

const LINE: &str = r#"{"flow":{"time":"2024-03-01T12:00:03.757Z","verdict":"DROPPED","IP":{"source":"10.0.1.7","source_xlated":"10.0.1.9","ipVersion":"IPv4"},"l4":{"TCP":{"source_port":1,"flags":{"SYN":true}}},"source":{"ID":4,"labels":["k8s:a=\u003cb\u003e"]},"Type":"L7","l7":{"latency_ns":"12345","http":{"code":200,"url":"http://x/?a\u0026b"}},"is_reply":false,"socket_cookie":"99","Summary":"x"},"node_name":"n","time":"2024-03-01T12:00:03.757Z"}"#;

#[test]
fn a_line_survives_reading_and_writing() {
    let response: GetFlowsResponse = from_str(LINE).expect("a good line");
    assert_eq!(to_string(&response), LINE);
}

#[test]
fn unknown_numbers_stay_and_unknown_names_are_refused_or_dropped() {
    let flow: Flow = from_str(r#"{"verdict":77,"dropReasonDesc":"POLICY_DENIED"}"#).expect("numbers are open");
    assert_eq!(to_string(&flow), r#"{"verdict":77,"drop_reason_desc":"POLICY_DENIED"}"#);
    assert!(from_str::<Flow>(r#"{"verdict":"MAYBE"}"#).is_err());
    let flow: Flow = read(r#"{"verdict":"MAYBE","novel":[{"x":1}],"uuid":"u"}"#, Unknown::Discard).expect("tolerant");
    assert_eq!(to_string(&flow), r#"{"uuid":"u"}"#);
}

#[test]
fn errors_name_the_field() {
    let error = from_str::<FlowFilter>(r#"{"source_pods":["a"]}"#).expect_err("no such field");
    assert_eq!(error.to_string(), r#"unknown field "source_pods" in flow.FlowFilter (at byte 1)"#);
    for bad in [
        "",
        "{",
        "[]",
        "{}}",
        r#"{"uuid":1}"#,
        r#"{"uuid":"\ud800"}"#,
        r#"{"proxy_port":-1}"#,
        r#"{"proxy_port":01}"#,
        "{\"uuid\":\"\n\"}",
    ] {
        assert!(from_str::<Flow>(bad).is_err(), "{bad}");
    }
    let deep = format!("{{\"extensions\":{{\"x\":{}", "[".repeat(100_000));
    assert_eq!(from_str::<Flow>(&deep).expect_err("too deep").kind, ErrorKind::Depth);
}

#[test]
fn several_messages_in_one_text() {
    let filters: Vec<FlowFilter> = read_all(r#"{"uuid":["a"]} {"reply":[true]}"#, Unknown::Reject).expect("two");
    assert_eq!(filters.len(), 2);
}

#[test]
fn a_mask_keeps_what_it_names() {
    let response: GetFlowsResponse = from_str(LINE).expect("a good line");
    let Some(crate::observer::get_flows_response::ResponseTypes::Flow(mut flow)) = response.response_types else {
        panic!("the line holds a flow")
    };
    let paths = ["source.ID", "l7.http", "is_reply", "l4.UDP", "ethernet.source"].map(String::from);
    flow.retain(&Mask::new::<Flow>(&paths).expect("all are fields"));
    assert_eq!(
        to_string(&flow),
        r#"{"l4":{},"source":{"ID":4},"l7":{"http":{"code":200,"url":"http://x/?a\u0026b"}},"is_reply":false}"#
    );
    assert!(Mask::new::<Flow>(&["source.pod".to_owned()]).is_err());
    assert!(Mask::new::<Flow>(&["time.seconds".to_owned()]).is_err());
}
