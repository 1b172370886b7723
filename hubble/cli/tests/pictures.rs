//! `hubble top` and `hubble graph`, from files and from a server.

mod common;

use common::{Lab, Tap, hubble};
use hubble_api::{
    flow::Flow,
    json,
    observer::{GetFlowsResponse, get_flows_response::ResponseTypes},
};
use hubble_cli::{Io, run, settings::Environment};

/// One flow as a line of a file.
fn line(second: u32, from: &str, to: &str, more: &str) -> String {
    let end = |name: &str| match name.split_once('/') {
        Some((namespace, pod)) => {
            let workload = pod.split('-').next().unwrap_or_default();
            format!(
                r#"{{"identity":1000,"namespace":"{namespace}","pod_name":"{pod}","workloads":[{{"name":"{workload}","kind":"Deployment"}}]}}"#
            )
        }
        None => r#"{"identity":2,"labels":["reserved:world"]}"#.into(),
    };
    let flow = format!(
        r#"{{"time":"2024-03-01T12:00:{second:02}Z","IP":{{"source":"10.0.0.1","destination":"10.0.0.2","ipVersion":"IPv4"}},"source":{},"destination":{},"Type":"L3_L4",{more}}}"#,
        end(from),
        end(to)
    );
    format!(r#"{{"flow":{flow},"time":"2024-03-01T12:00:{second:02}Z"}}"#)
}

/// A shop: the front asks the cart, the cart its database and the world, which is forbidden.
fn shop() -> String {
    let tcp = |from: u16, to: u16| format!(r#""l4":{{"TCP":{{"source_port":{from},"destination_port":{to}}}}}"#);
    let fine = |ports: &str, reply: bool| format!(r#"{ports},"verdict":"FORWARDED","is_reply":{reply}"#);
    let mut lines = Vec::new();
    for n in 0..3 {
        lines.push(line(n, "shop/front-1", "shop/cart-1", &fine(&tcp(4000, 80), false)));
        lines.push(line(n, "shop/cart-1", "shop/front-1", &fine(&tcp(80, 4000), true)));
        lines.push(line(n, "shop/cart-1", "shop/db-0", &fine(&tcp(4001, 5432), false)));
    }
    let dropped = r#""verdict":"DROPPED","drop_reason_desc":"POLICY_DENIED""#;
    lines.push(line(4, "shop/cart-2", "world", &format!("{},{dropped}", tcp(4002, 443))));
    lines.push(line(5, "shop/cart-2", "world", &format!("{},{dropped}", tcp(4003, 443))));
    let http = r#""verdict":"FORWARDED","is_reply":false,"l7":{"type":"REQUEST","http":{"method":"GET","url":"/"}}"#;
    lines.push(line(6, "shop/front-2", "shop/cart-1", &format!("{},{http}", tcp(4004, 80))));
    lines.push(r#"{"lost_events":{"source":"HUBBLE_RING_BUFFER","num_events_lost":"7"}}"#.into());
    lines.push("not json".into());
    lines.join("\n")
}

/// The flow of a line.
fn flow(line: &str) -> Flow {
    let response: GetFlowsResponse = json::from_str(line).expect("a line");
    match response.response_types {
        Some(ResponseTypes::Flow(flow)) => flow,
        other => panic!("{other:?} is no flow"),
    }
}

async fn of_shop(args: &[&str]) -> (String, String) {
    let args = [args, &["--input-file", "-"]].concat();
    let (code, out, err) = hubble(&args, &shop(), &Environment::default()).await;
    assert_eq!(code, 0, "{args:?}: {err}");
    (out, err)
}

#[tokio::test]
async fn top_of_a_file() {
    let (out, err) = of_shop(&["top"]).await;
    let want = "\
Mar  1 12:00:06.000: 12 flows, 2 dropped, 7 lost

SOURCE       DESTINATION   PORT       FLOWS/S   FLOWS   DROPPED
shop/front   shop/cart     TCP/80     -         7       0
shop/cart    shop/db       TCP/5432   -         3       0
shop/cart    world         TCP/443    -         2       2

REASON          SOURCE      DESTINATION   PORT      FLOWS/S   FLOWS   DROPPED
Policy denied   shop/cart   world         TCP/443   -         2       2

WORKLOAD     OUT/S   IN/S   OUT   IN   DROPPED
shop/cart    -       -      5     7    2
shop/front   -       -      7     0    0
shop/db      -       -      0     3    0
world        -       -      0     2    2

";
    assert_eq!(out, want);
    assert_eq!(err, "warning: -: line 14 is skipped: expected an object (at byte 0)\n");
    let (out, _) = of_shop(&["top", "talkers", "--by", "pod", "--limit", "1", "-o", "json"]).await;
    let want = concat!(
        r#"{"time":"2024-03-01T12:00:06Z","flows":12,"dropped":2,"lost":7,"talkers":"#,
        r#"[{"source":"shop/front-1","destination":"shop/cart-1","port":"TCP/80","flows":6,"dropped":0}]}"#,
        "\n"
    );
    assert_eq!(out, want);
    let (out, _) = of_shop(&["top", "drops", "--verdict", "FORWARDED", "-o", "json"]).await;
    assert!(out.contains(r#""flows":10,"dropped":0,"lost":0,"drops":[]}"#), "filters apply: {out}");
}

#[tokio::test]
async fn top_of_a_server_that_goes_on() {
    let lab = Lab::start().await;
    let publish = async {
        while lab.observer.streams() == 0 {
            tokio::task::yield_now().await;
        }
        shop().lines().take(12).for_each(|line| lab.observer.publish_flow(flow(line)));
    };
    let tap = Tap::default();
    let line = format!("--server {} top workloads --interval 100ms -o json", lab.server());
    let args: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
    let (env, mut out, mut err) = (lab.environment(), tap.clone(), Vec::new());
    let watch = async {
        let mut io = Io { input: &mut &b""[..], out: &mut out, err: &mut err, terminal: false };
        run(&args, &env, &mut io).await
    };
    let end = async {
        publish.await;
        tap.wait_until(|text| text.contains(r#""flows":12,"#)).await;
        lab.stop.cancel();
    };
    let (code, ()) = tokio::join!(watch, end);
    assert_eq!((code, err), (0, Vec::new()));
    let out = tap.text();
    let looks: Vec<serde_json::Value> = out.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let last = looks.last().expect("a look");
    assert_eq!(last["workloads"][0]["workload"], "shop/cart");
    // Each flow is in the rate of exactly one look.
    let rates: f64 = looks.iter().map(|look| look["flows_per_second"].as_f64().expect("a rate")).sum();
    assert!((rates * 0.1 - 12.0).abs() < 1e-6, "{out}");
}

#[tokio::test]
async fn top_of_the_past_of_a_server() {
    let lab = Lab::start().await;
    shop().lines().take(12).for_each(|line| lab.observer.publish_flow(flow(line)));
    let (code, past, _) = lab.hubble("top --last 1 talkers -o json").await;
    assert_eq!(code, 0);
    assert!(past.contains(r#""flows":1,"#) && past.lines().count() == 1, "{past}");
    let (_, all, _) = lab.hubble("graph").await;
    assert_eq!(all, of_shop(&["graph"]).await.0, "a graph is of everything there is");
    let (_, one, _) = lab.hubble("graph --first 1").await;
    assert_eq!(one, "shop/front\n└─> shop/cart   TCP/80   1 forwarded\n");
    lab.stop.cancel();
}

#[tokio::test]
async fn graph_in_every_language() {
    let (text, err) = of_shop(&["graph"]).await;
    let want = "\
shop/cart
├─> shop/db   TCP/5432   3 forwarded
└─> world     TCP/443    2 dropped (Policy denied)
shop/front
└─> shop/cart   TCP/80 (HTTP)   7 forwarded
";
    assert_eq!(text, want);
    assert!(err.ends_with("warning: 7 events were lost on the way and are not in the graph\n"), "{err}");
    let (dot, _) = of_shop(&["graph", "-o", "dot"]).await;
    assert!(dot.starts_with("digraph flows {\n  rankdir=LR;\n"), "{dot}");
    assert!(dot.contains(
        "  \"shop/cart\" -> \"world\" [label=\"TCP/443 | 2 dropped (Policy denied)\", color=\"#c62828\"];\n"
    ));
    let (mermaid, _) = of_shop(&["graph", "-o", "mermaid"]).await;
    let want = "\
flowchart LR
  n0[\"shop/cart\"]
  n1[\"shop/db\"]
  n2[\"shop/front\"]
  n3[\"world\"]
  n0 -->|\"TCP/5432, 3 forwarded\"| n1
  linkStyle 0 stroke:#2e7d32
  n0 -->|\"TCP/443, 2 dropped (Policy denied)\"| n3
  linkStyle 1 stroke:#c62828
  n2 -->|\"TCP/80 (HTTP), 7 forwarded\"| n0
  linkStyle 2 stroke:#2e7d32
";
    assert_eq!(mermaid, want);
    let (json, _) = of_shop(&["graph", "-o", "json", "--by", "namespace"]).await;
    let graph: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(graph["nodes"], serde_json::json!(["shop", "world"]));
    assert_eq!(graph["edges"][0]["ports"], serde_json::json!({"TCP/5432": 3, "TCP/80": 7}));
    assert_eq!(graph["edges"][0]["applications"], serde_json::json!(["HTTP"]));
    assert_eq!(graph["edges"][1]["drop_reasons"], serde_json::json!({"Policy denied": 2}));
    assert_eq!((graph["flows"].as_u64(), graph["lost"].as_u64()), (Some(12), Some(7)));
    let (denied, _) = of_shop(&["graph", "--where", "_flow.verdict == Verdict.DROPPED"]).await;
    assert_eq!(denied, "shop/cart\n└─> world   TCP/443   2 dropped (Policy denied)\n");
}

/// Attributes of the boxes of a picture, by name.
fn boxes(svg: &str) -> Vec<(String, usize, usize)> {
    let number = |text: &str, key: &str| {
        let rest = text.split_once(&format!("{key}=\"")).expect("the attribute").1;
        rest.split('"').next().expect("a value").parse().expect("a number")
    };
    let boxes = svg.lines().filter(|line| line.starts_with("<rect x="));
    boxes
        .map(|line| {
            let name = line.rsplit_once("\">").expect("a text").1.trim_end_matches("</text>");
            (name.to_owned(), number(line, " x"), number(line, " y"))
        })
        .collect()
}

#[tokio::test]
async fn pictures_are_the_same_whatever_the_order_of_flows() {
    let (svg, _) = of_shop(&["graph", "-o", "svg"]).await;
    assert!(svg.starts_with("<svg xmlns=\"http://www.w3.org/2000/svg\"") && svg.ends_with("</svg>\n"), "{svg}");
    let placed = boxes(&svg);
    let x = |name: &str| placed.iter().find(|(known, ..)| known == name).map(|(_, x, _)| *x).expect("a box");
    assert!(x("shop/front") < x("shop/cart") && x("shop/cart") < x("shop/db"), "clients are left of servers");
    assert_eq!(x("shop/db"), x("world"));
    assert!(svg.contains(">2 dropped (Policy denied)</text>"));
    let backwards: Vec<String> = shop().lines().rev().map(str::to_owned).collect();
    let args = ["graph", "-o", "svg", "--input-file", "-"];
    let (_, again, _) = hubble(&args, &backwards.join("\n"), &Environment::default()).await;
    assert_eq!(again, svg);
}

#[tokio::test]
async fn names_from_outside_do_not_leave_their_place() {
    let evil = "a\u{1b}[31m<b>&\"|#\\";
    let flow = Flow {
        ip: Some(hubble_api::flow::Ip { source: evil.into(), destination: "d\tn\nx".into(), ..Default::default() }),
        verdict: 1,
        ..Flow::default()
    };
    let line = format!("{{\"flow\":{}}}", json::to_string(&flow));
    let args = |output: &'static str| ["graph", "-o", output, "--input-file", "-", "--by", "ip"];
    for output in ["text", "dot", "mermaid", "svg"] {
        let (code, out, _) = hubble(&args(output), &line, &Environment::default()).await;
        assert_eq!(code, 0);
        assert!(!out.contains('\u{1b}') && !out.contains("d\tn"), "{output}: {out}");
        assert!(output == "text" || output == "dot" || !out.contains("<b>"), "{output}: {out}");
    }
    let (_, dot, _) = hubble(&args("dot"), &line, &Environment::default()).await;
    assert!(dot.contains(r#""a^[[31m<b>&\"|#\\""#), "{dot}");
    let (_, top, _) = hubble(&["top", "--by", "ip", "--input-file", "-"], &line, &Environment::default()).await;
    assert!(!top.contains('\u{1b}') && top.contains("d n x"), "{top}");
}

/// A circle, a node that asks itself, and one that nobody asks.
#[tokio::test]
async fn circles_have_a_picture_too() {
    let fine = r#""verdict":"FORWARDED""#;
    let lines = [
        line(1, "a/x-1", "a/y-1", fine),
        line(1, "a/y-1", "a/z-1", fine),
        line(1, "a/z-1", "a/x-1", fine),
        line(1, "a/z-1", "a/z-2", fine),
        line(1, "a/w-1", "a/x-1", fine),
    ];
    let (_, svg, _) =
        hubble(&["graph", "-o", "svg", "--input-file", "-"], &lines.join("\n"), &Environment::default()).await;
    let placed = boxes(&svg);
    assert_eq!(placed.len(), 4, "{svg}");
    let mut spots: Vec<_> = placed.iter().map(|(_, x, y)| (x, y)).collect();
    spots.sort_unstable();
    spots.dedup();
    assert_eq!(spots.len(), 4, "no two boxes lie on each other: {placed:?}");
    assert_eq!(svg.matches("marker-end").count(), 5);
    let (code, empty, _) = hubble(&["graph", "-o", "svg", "--input-file", "-"], "", &Environment::default()).await;
    assert!(code == 0 && empty.ends_with("</svg>\n"));
    let (_, nothing, _) = hubble(&["graph", "--input-file", "-"], "", &Environment::default()).await;
    assert_eq!(nothing, "");
}

#[tokio::test]
async fn what_is_wrong_is_named() {
    for (args, want) in [
        (
            &["top", "everything"][..],
            "unknown list \"everything\" for \"hubble top\": want talkers, drops or workloads",
        ),
        (
            &["top", "--by", "color"],
            "invalid --by value \"color\": want one of workload, pod, namespace, service, identity, ip",
        ),
        (&["top", "--interval", "0s"], "invalid --interval: want at least 100ms"),
        (
            &["top", "--interval", "soon"],
            "invalid argument \"soon\" for \"--interval\" flag: time: invalid duration \"soon\"",
        ),
        (&["top", "--limit", "0"], "invalid --limit: want at least 1"),
        (&["top", "-o", "xml"], "invalid output format: xml: want text or json"),
        (&["top", "--first", "1", "--last", "1"], "cannot set both --first and --last"),
        (&["graph", "-o", "png"], "invalid output format: png: want text, dot, mermaid, svg or json"),
        (&["graph", "--by", ""], "invalid --by value \"\": want one of"),
        (&["graph", "all"], "unknown command \"all\" for \"hubble graph\""),
        (&["graph", "--input-file", "/nonexistent"], "failed to open /nonexistent: "),
        (
            &["graph", "--where", "_flow.verdikt == 1"],
            "invalid argument \"_flow.verdikt == 1\" for \"--where\" flag: column 7: flow.Flow has no field verdikt",
        ),
    ] {
        let (code, out, err) = hubble(args, "", &Environment::default()).await;
        assert_eq!((code, out.as_str()), (1, ""), "{args:?}");
        assert!(err.starts_with(want) && err.lines().count() == 1, "{args:?}: {err}");
    }
}
