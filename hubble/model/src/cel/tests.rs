//! What expressions mean, which are refused, and that records and messages answer alike.

use super::{Program, Subject};
use alloc::{format, string::String, vec, vec::Vec};
use hubble_api::{Timestamp, flow, json};

fn sample() -> flow::Flow {
    json::from_str(
        r#"{"time":"2024-03-01T12:30:05.250Z","uuid":"u-1","verdict":"DROPPED","drop_reason":133,
        "drop_reason_desc":"POLICY_DENIED","IP":{"source":"10.0.0.1","destination":"8.8.8.8","ipVersion":"IPv4"},
        "l4":{"TCP":{"source_port":40000,"destination_port":80,"flags":{"SYN":true}}},
        "source":{"ID":7,"identity":1234,"namespace":"shop","labels":["k8s:app=cart","k8s:tier=front"],
        "pod_name":"cart-1","workloads":[{"name":"cart","kind":"Deployment"}]},
        "destination":{"identity":2,"labels":["reserved:world"]},"node_name":"c1/n1","is_reply":false,
        "l7":{"type":"REQUEST","latency_ns":"1500000","http":{"code":503,"method":"GET","url":"http://x/a",
        "headers":[{"key":"A","value":"b"}]}},"event_type":{"type":1,"sub_type":133},
        "destination_names":["one.example","two.example"],"Summary":"TCP Flags: SYN"}"#,
    )
    .expect("a flow")
}

fn eval(text: &str) -> Option<bool> {
    let program = Program::new(text).unwrap_or_else(|error| panic!("{text}: {error}"));
    program.matches(Subject::Flow(&sample()))
}

#[test]
fn true_expressions() {
    for text in [
        "_flow.verdict == Verdict.DROPPED",
        "_flow.verdict == flow.Verdict.DROPPED && _flow.verdict != .flow.Verdict.FORWARDED",
        "_flow.verdict in [Verdict.DROPPED, Verdict.ERROR]",
        "!(_flow.verdict in [1, 5])",
        "_flow.drop_reason_desc == DropReason.POLICY_DENIED && _flow.drop_reason == 133u",
        "has(_flow.l4.TCP) && _flow.l4.TCP.destination_port == uint(80) && !has(_flow.l4.UDP)",
        "_flow.l4.UDP.destination_port == 0u",
        "_flow.l4.TCP.flags.SYN && !_flow.l4.TCP.flags.ACK",
        "_flow.source.namespace == 'shop' && _flow.source.pod_name.startsWith(\"cart-\")",
        "_flow.source.labels.exists(l, l == 'k8s:app=cart')",
        "_flow.source.labels.all(l, l.startsWith('k8s:'))",
        "_flow.source.labels.exists_one(l, l.contains('app='))",
        "'k8s:app=cart' in _flow.source.labels && !('x' in _flow.source.labels)",
        "_flow.source.workloads[0].kind == 'Deployment' && _flow.source.workloads.exists(w, w.name == 'cart')",
        "_flow.source.workloads.map(w, w.name) == ['cart']",
        "_flow.source.labels.filter(l, l.endsWith('front')).size() == 1",
        "_flow.source.labels.map(l, l.contains('app'), size(l)) == [12]",
        "size(_flow.destination_names) == 2 && _flow.destination_names[1] == 'two.example'",
        "_flow.is_reply == false && _flow.is_reply != null && !_flow.is_reply",
        "_flow.l7.http.code >= 500u && _flow.l7.http.url.matches('^http://x/[a-z]$')",
        "_flow.l7.latency_ns > uint(1000000) && _flow.l7.type == L7FlowType.REQUEST",
        "_flow.l7.http.headers.exists(h, h.key == 'A' && h.value == 'b') && has(_flow.l7.http) && !has(_flow.l7.dns)",
        "_flow.time > timestamp('2024-03-01T00:00:00Z') && _flow.time - timestamp('2024-03-01T12:00:00Z') < duration('31m')",
        "_flow.time.getHours() == 12 && _flow.time.getFullYear() == 2024 && _flow.time.getMonth() == 2",
        "_flow.time.getDate() == 1 && _flow.time.getDayOfMonth() == 0 && _flow.time.getDayOfYear() == 60",
        "_flow.time.getDayOfWeek() == 5 && _flow.time.getMilliseconds() == 250",
        "_flow.tunnel.protocol == Tunnel.Protocol.UNKNOWN && _flow.interface.name == ''",
        "has(_flow.source.labels) && !has(_flow.node_labels) && has(_flow.source.ID) && !has(_flow.destination.ID)",
        "(_flow.l7.http.code == 200u ? 1 : 2) == 2",
        "1 + 2 * 3 == 7 && (1 + 2) * 3 == 9 && 7 / 2 == 3 && -7 % 4 == -3 && 10 - 2 - 3 == 5",
        "-9223372036854775808 < 9223372036854775807 && 0x1F == 31 && 0xfu == 15u && 1e3 == 1000.0 && .5 < 1.0",
        "- - 1 == 1 && !!true && -(-2) == 2",
        "'a' + 'b' == 'ab' && [1] + [2] == [1, 2] && b'a' + b'\\xff' == b'a\\377'",
        "'\\u00e9\\n\\t' == \"\"\"é\n\t\"\"\"",
        "r'\\d' == '\\\\d' && '''a\n'b' ''' == 'a\\n\\'b\\' ' && R\"x\" == 'x' // and a comment",
        "size('é€') == 2 && size(b'é') == 2 && size({'a': 1}) == 1",
        "{'a': 1, 'b': 2}['b'] == 2 && 'a' in {'a': 1} && {1: 'x'}.all(k, k == 1) && {'a': 1} == {'a': 1}",
        "int('5') == 5 && int(5.9) == 5 && uint('5') == 5u && double(1) == 1.0 && string(5u) == '5' && bool('true')",
        "string(1.5) == '1.5' && string(true) == 'true' && string(b'x') == 'x' && bytes('x') == b'x'",
        "string(timestamp('2024-03-01T12:00:00+01:00')) == '2024-03-01T11:00:00Z' && int(timestamp('1970-01-01T00:01:00Z')) == 60",
        "duration('1h30m').getMinutes() == 90 && duration('1.5s').getMilliseconds() == 500 && duration('-1m') < duration('0')",
        "type(1) == int && type(_flow.uuid) == string && type(1u) != int && type(_flow.source.labels) == list",
        "dyn(1) == 1u && dyn(1.0) == 1 && dyn('a') != 1 && dyn(_flow.is_reply) == false",
        "true || 1 / int(_flow.drop_reason - 133u) == 1",
        "1 / int(_flow.drop_reason - 133u) == 1 || true",
        "!(false && 1 / int(_flow.drop_reason - 133u) == 1)",
        "[1, 2, 3].exists(x, 1 / (x - 1) == 1) && [3, 2, 1].exists(a, [1, 2].exists(b, a == b))",
        "_flow == _flow && _flow.source != _flow.destination && _flow.l4 != null",
        "_flow.source.labels == _flow.source.labels && _flow.ethernet == _flow.ethernet",
        "null == null && _flow.trace_context.parent.trace_id == ''",
        "[1, 2,] == [1, 2] && {'a': 1,} == {'a': 1} && [] == []",
        "_flow.IP.ipVersion == IPVersion.IPv4 && _flow.IP.source == '10.0.0.1' && _flow.IP.source.startsWith('10.')",
    ] {
        assert_eq!(eval(text), Some(true), "{text}");
    }
}

#[test]
fn expressions_that_fail_on_a_flow_do_not_match_it() {
    for text in [
        "_flow.source.workloads[7].name == ''",
        "_flow.source.labels[-1] == ''",
        "1 / int(_flow.drop_reason - 133u) == 1",
        "int(_flow.uuid) == 1",
        "9223372036854775807 + int(_flow.drop_reason) > 0",
        "_flow.drop_reason - 200u == 0u",
        "{'a': 1}[_flow.uuid] == 1",
        "{_flow.uuid: 1, 'u-1': 2}.size() == 2",
        "dyn(_flow.uuid) && true",
        "_flow.source.labels.exists_one(l, int(l) == 1)",
        "_flow.source.labels.all(l, int(l) == 1)",
    ] {
        assert_eq!(eval(text), None, "{text}");
    }
    let unknown = flow::Flow { is_reply: None, ..sample() };
    let program = Program::new("_flow.is_reply || false").expect("a bool that may be unset is a bool");
    assert_eq!(program.matches(Subject::Flow(&unknown)), None, "it is null");
    let equal = Program::new("_flow.is_reply == null && !(_flow.is_reply == true)").expect("good");
    assert_eq!(equal.matches(Subject::Flow(&unknown)), Some(true));
}

#[test]
fn what_is_wrong_is_named_with_its_place() {
    let mut wrong = Vec::new();
    for (text, want) in [
        ("", "column 1: the expression ends where a value is expected"),
        ("something-invalid", "column 1: undeclared reference to 'something'"),
        ("_flow", "column 1: the expression must be a bool, not flow.Flow"),
        ("_flow.verdict", "column 7: the expression must be a bool, not int"),
        ("_flow.verdikt == 1", "column 7: flow.Flow has no field verdikt; it has time, uuid, verdict, "),
        ("_flow.source.pod == ''", "column 14: flow.Endpoint has no field pod; it has ID, identity, "),
        ("_flow.uuid.x == ''", "column 12: string has no fields"),
        (
            "_flow.verdict == Verdict.DROPED",
            "column 26: flow.Verdict has no value DROPED; it has VERDICT_UNKNOWN, FORWARDED, ",
        ),
        ("Verdikt.DROPPED == 1", "column 9: undeclared reference to 'Verdikt.DROPPED'"),
        (
            "_flow.l4.TCP.destination_port == 80",
            "column 31: no matching overload for uint == int; numbers of different types do not mix: write 80u or uint(80)",
        ),
        ("_flow.uuid == 1", "column 12: no matching overload for string == int"),
        ("_flow.uuid && true", "column 7: the expression must be a bool, not string"),
        ("1 ? true : false", "column 1: the expression must be a bool, not int"),
        ("true ? 1 : 'a'", "column 6: no matching overload for _?_:_(bool, int, string)"),
        ("_flow.uuid.size(1) == 1", "column 12: no matching overload for string.size(int)"),
        ("startsWith('a', 'b')", "column 1: no matching overload for startsWith(string, string)"),
        ("_flow.uuid.upper() == ''", "column 12: there is no function upper"),
        ("_flow.uuid.matches('[')", "column 20: invalid regular expression: unclosed character class"),
        ("_flow.uuid.matches(_flow.uuid)", "column 26: a pattern that is not constant is not supported"),
        ("has(_flow)", "column 1: has() takes a field"),
        ("_flow.source.labels.all(1, true)", "column 25: the first argument must be the name of a variable"),
        ("TCPFlags{SYN: true} == _flow.l4.TCP.flags", "column 9: making messages is not supported"),
        ("_flow.extensions == null", "column 7: a packed message is not supported"),
        ("_flow.time.getHours('UTC') == 1", "column 12: a time zone is not supported"),
        ("1 == ", "column 6: the expression ends where a value is expected"),
        ("(1 == 1", "column 8: expected \")\", found the end"),
        ("1 == 1)", "column 7: unexpected )"),
        ("1 == 'a", "column 6: the text has no closing quote"),
        ("'\\q' == ''", "column 1: invalid escape \\q"),
        ("_flow.uuid = 'a'", "column 12: unexpected ="),
        ("a # b", "column 3: unexpected character '#'"),
        ("99999999999999999999 == 1", "column 1: 99999999999999999999 is no number that fits 64 bits"),
        ("9223372036854775808 == 1", "column 1: 9223372036854775808 is no number that fits 64 bits"),
        ("for == 1", "column 1: for is a reserved word"),
        ("_flow.1 == 1", "column 6: unexpected 0.1"),
        ("_flow. == 1", "column 8: expected a field name behind the dot, found =="),
        ("1 / 0 == 1", "column 3: this always fails: division by zero"),
        ("timestamp('yesterday') < _flow.time", "column 1: this always fails: the text is no RFC 3339 time"),
        ("é", "column 1: unexpected character 'é'"),
    ] {
        let shown = Program::new(text).map_or_else(|error| format!("{error}"), |_| "no error".into());
        if !shown.starts_with(want) {
            wrong.push(format!("{text}\n got {shown}\nwant {want}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn size_depth_and_work_are_bounded() {
    let refused = |text: &str| format!("{}", Program::new(text).map(drop).expect_err("refused"));
    let deep = |n: usize| format!("{}true{}", "(".repeat(n), ")".repeat(n));
    assert!(Program::new(&deep(90)).is_ok());
    assert!(refused(&deep(5_000)).ends_with("nests deeper than 100 levels"));
    assert!(refused(&format!("1{} == 1", " + 1".repeat(3_000))).ends_with("nests deeper than 100 levels"));
    assert!(refused(&format!("_flow{} == 1", ".a".repeat(3_000))).ends_with("nests deeper than 100 levels"));
    assert!(refused(&format!("x{}", "[0]".repeat(3_000))).ends_with("nests deeper than 100 levels"));
    assert!(refused(&format!("'{}' == ''", "a".repeat(20_000))).ends_with("longer than 16384 bytes"));
    let wide = vec!["_flow.verdict == Verdict.DROPPED"; 300].join(" || ");
    assert_eq!(eval(&wide), Some(true), "many alternatives are one level");
    let list = "[1, 2, 3, 4, 5, 6, 7, 8, 9, 10]";
    let nested = (0..8).fold(String::from("true"), |inner, n| format!("{list}.all(x{n}, {inner})"));
    assert_eq!(eval(&nested), None, "a hundred million visits");
    let growing = (0..60).fold(String::from("[_flow.uuid]"), |inner, _| format!("{inner}.map(x, x + x)"));
    assert_eq!(eval(&format!("{growing}.size() == 1")), None, "a text of 2^60 bytes");
}

/// Pieces of which expressions that are nearly right are made.
const PIECES: [&str; 44] = [
    "_flow",
    ".",
    "verdict",
    "source",
    "labels",
    "l4",
    "TCP",
    "flags",
    "SYN",
    "IP",
    "uuid",
    "is_reply",
    "==",
    "!=",
    "<",
    "&&",
    "||",
    "!",
    "-",
    "+",
    "*",
    "/",
    "%",
    "in",
    "?",
    ":",
    "(",
    ")",
    "[",
    "]",
    "{",
    "}",
    ",",
    "1",
    "2u",
    "1.5",
    "'a'",
    "true",
    "null",
    "has",
    "size",
    ".exists(x, x == 'a')",
    ".map(y, y)",
    "Verdict.DROPPED",
];

#[test]
fn no_text_breaks_the_compiler_and_no_program_the_evaluator() {
    let flows = [flow::Flow::default(), sample()];
    let attempt = |text: &str| {
        if let Ok(program) = Program::new(text) {
            flows.iter().for_each(|flow| {
                let _ = program.matches(Subject::Flow(flow));
            });
        }
    };
    bolero::check!().with_iterations(20_000).for_each(|choice: &[u8]| {
        attempt(&String::from_utf8_lossy(choice));
        let text: Vec<&str> = choice.iter().map(|at| PIECES[usize::from(*at) % PIECES.len()]).collect();
        attempt(&text.concat());
        attempt(&format!("_flow.uuid == string({})", text.join(" ")));
    });
}

#[test]
fn times_are_compared_whole() {
    let flow = flow::Flow { time: Some(Timestamp { seconds: -1, nanos: 999_999_999 }), ..flow::Flow::default() };
    let program = Program::new("_flow.time < timestamp('1970-01-01T00:00:00Z')").expect("good");
    assert_eq!(program.matches(Subject::Flow(&flow)), Some(true));
}
