use super::*;
use crate::{EndpointInfo, LabelList, PolicyInfo, ServiceInfo};
use alloc::vec;
use hubble_api::json;

/// A pod of this node, and the world.
struct Fixture;

impl Lookup for Fixture {
    fn endpoint(&self, ip: IpAddr) -> Option<Arc<EndpointInfo>> {
        (ip.to_string() == "10.0.0.1").then(|| {
            Arc::new(EndpointInfo {
                id: 11,
                identity: 1001,
                namespace: "shop".into(),
                pod_name: "cart-1".into(),
                labels: Arc::new(LabelList::new(["k8s:app=cart".into()])),
                ..EndpointInfo::default()
            })
        })
    }
    fn identity(&self, identity: u32) -> Option<Arc<LabelList>> {
        (identity == 2).then(|| Arc::new(LabelList::new(["reserved:world".into()])))
    }
    fn service(&self, _: IpAddr, port: u16) -> Option<Arc<ServiceInfo>> {
        (port == 80).then(|| Arc::new(ServiceInfo { namespace: "shop".into(), name: "web".into() }))
    }
    fn policies(&self, _: u16, _: u32) -> Option<Arc<[PolicyInfo]>> {
        None
    }
    fn names(&self, endpoint: u16, _: IpAddr) -> Option<Arc<[Box<str>]>> {
        (endpoint == 11).then(|| Arc::from([Box::from("api.example")]))
    }
}

fn end(text: &str, identity: u32) -> LoggedEnd {
    LoggedEnd { address: text.parse().expect("an address"), identity }
}

fn http(kind: L7FlowType, time_ns: i64, headers: &[(&str, &str)]) -> AccessLog {
    let (pod, world) = (end("10.0.0.1:4000", 1001), end("1.1.1.1:80", 2));
    let (source, destination) = if kind == L7FlowType::Response { (world, pod) } else { (pod, world) };
    AccessLog {
        time_ns,
        kind,
        egress: true,
        outcome: Outcome::Forwarded,
        source,
        destination,
        transport: Transport::Tcp,
        message: Message::Http {
            code: 503,
            method: "GET".into(),
            url: "http://api.example/a?key=secret".into(),
            protocol: "HTTP/1.1".into(),
            headers: headers.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect(),
        },
    }
}

const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

#[test]
fn a_response_knows_its_request() {
    let mut decoder = L7Decoder::new(Fixture);
    let request = decoder.decode(
        &http(L7FlowType::Request, 1_000_000_000, &[("X-Request-Id", "r1"), ("Traceparent", TRACE)]),
        &show_all,
    );
    let want = concat!(
        r#"{"time":"1970-01-01T00:00:01Z","verdict":"FORWARDED","#,
        r#""IP":{"source":"10.0.0.1","destination":"1.1.1.1","ipVersion":"IPv4"},"l4":{"TCP":{"source_port":4000,"destination_port":80}},"#,
        r#""source":{"ID":11,"identity":1001,"namespace":"shop","labels":["k8s:app=cart"],"pod_name":"cart-1"},"#,
        r#""destination":{"identity":2,"labels":["reserved:world"]},"Type":"L7","destination_names":["api.example"],"#,
        r#""l7":{"type":"REQUEST","http":{"method":"GET","url":"http://api.example/a?key=secret","protocol":"HTTP/1.1","#,
        r#""headers":[{"key":"Traceparent","value":"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"},{"key":"X-Request-Id","value":"r1"}]}},"#,
        r#""event_type":{"type":129},"destination_service":{"name":"web","namespace":"shop"},"traffic_direction":"EGRESS","is_reply":false,"#,
        r#""trace_context":{"parent":{"trace_id":"4bf92f3577b34da6a3ce929d0e0e4736"}},"Summary":"HTTP/1.1 GET http://api.example/a?key=secret"}"#,
    );
    assert_eq!(json::to_string(&request), want);
    let answered = http(L7FlowType::Response, 1_012_600_000, &[("x-request-id", "r1")]);
    let response = decoder.decode(&answered, &show_all);
    let l7 = response.l7.as_ref().expect("a message");
    assert_eq!((l7.latency_ns, response.is_reply, response.reply), (12_600_000, Some(true), true));
    assert_eq!(response.summary, "HTTP/1.1 503 13ms (GET http://api.example/a?key=secret)");
    let trace = response.trace_context.and_then(|context| context.parent).map(|parent| parent.trace_id);
    assert_eq!(trace.as_deref(), Some("4bf92f3577b34da6a3ce929d0e0e4736"));
    let again = decoder.decode(&answered, &show_all);
    assert_eq!(again.l7.map(|l7| l7.latency_ns), Some(0), "a request is answered once");
}

#[test]
fn requests_are_forgotten_beyond_the_bound() {
    let mut decoder = L7Decoder::new(Fixture);
    for n in 0..=REQUESTS_MAX {
        let id = n.to_string();
        decoder.decode(&http(L7FlowType::Request, 1, &[("x-request-id", &id)]), &show_all);
    }
    let latency = |decoder: &mut L7Decoder<Fixture>, id: &str| {
        decoder.decode(&http(L7FlowType::Response, 5, &[("x-request-id", id)]), &show_all).l7.map(|l7| l7.latency_ns)
    };
    assert_eq!((latency(&mut decoder, "0"), latency(&mut decoder, "1")), (Some(0), Some(4)));
    assert!(decoder.requests.len() <= REQUESTS_MAX && decoder.oldest.len() <= REQUESTS_MAX);
}

#[test]
fn what_is_hidden_is_in_no_summary() {
    let hide = |l7: &mut Layer7| {
        if let Some(Record::Http(http)) = &mut l7.record {
            http.url = http.url.split('?').next().unwrap_or_default().into();
        }
    };
    let flow = L7Decoder::new(Fixture).decode(&http(L7FlowType::Request, 1, &[]), &hide);
    assert!(!json::to_string(&flow).contains("secret"));
    assert_eq!(flow.summary, "HTTP/1.1 GET http://api.example/a");
}

#[test]
fn dns_kafka_and_others_in_words() {
    let dns = |rcode, source: &str| Message::Dns {
        query: "a.example.".into(),
        question_types: vec![1, 28],
        answer_types: vec![5, 1],
        ips: ["1.1.1.1".parse().expect("an address"), "fd00::1".parse().expect("an address")].into(),
        cnames: vec!["b.example.".into()],
        ttl: 30,
        rcode,
        source: source.into(),
    };
    let kafka = Message::Kafka {
        error_code: 3,
        api_version: 1,
        api_key: "fetch".into(),
        correlation_id: 17,
        topic: "orders".into(),
    };
    let other = Message::Other("memcached".into(), [("cmd".into(), "get".into()), ("key".into(), "x".into())].into());
    use L7FlowType::{Request, Response};
    for (kind, message, want) in [
        (Request, dns(0, "proxy"), "DNS Query a.example. A,AAAA"),
        (
            Response,
            dns(0, "proxy"),
            r#"DNS Answer "1.1.1.1,fd00::1" CNAMEs: "b.example." TTL: 30 (Proxy a.example. A,AAAA)"#,
        ),
        (Response, dns(3, ""), "DNS Answer RCode: Non-Existent Domain TTL: 30 (Query a.example. A,AAAA)"),
        (Request, kafka.clone(), "Kafka request fetch correlation id 17 topic 'orders'"),
        (Response, kafka, "Kafka response fetch correlation id 17 topic 'orders' return code 3"),
        (Request, other, "memcached Fields: map[cmd:get key:x]"),
    ] {
        let log = AccessLog { message, outcome: Outcome::Denied, transport: Transport::Udp, ..http(kind, 1, &[]) };
        let flow = L7Decoder::new(Fixture).decode(&log, &show_all);
        assert_eq!((flow.summary.as_str(), flow.verdict()), (want, Verdict::Dropped));
    }
}

#[test]
fn only_whole_trace_headers_count() {
    assert_eq!(trace_id(TRACE), Some("4bf92f3577b34da6a3ce929d0e0e4736"));
    for bad in [
        "",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
        "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
        "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
    ] {
        assert_eq!(trace_id(bad), None, "{bad}");
    }
}

/// Whatever a proxy logs becomes a flow that survives its JSON.
#[test]
fn any_log_becomes_a_flow() {
    let decoder = core::cell::RefCell::new(L7Decoder::new(Fixture));
    let run = core::panic::AssertUnwindSafe(|(which, n, texts): &(u8, u16, Vec<String>)| {
        let text = |at: usize| texts.get(at).cloned().unwrap_or_default();
        let headers = vec![("x-request-id".into(), text(0)), ("traceparent".into(), text(1)), (text(2), text(3))];
        let message = match which % 4 {
            0 => Message::Http { code: (*n).into(), method: text(4), url: text(5), protocol: text(6), headers },
            1 => Message::Dns {
                query: text(0),
                question_types: vec![*n],
                answer_types: vec![*n, 1],
                ips: Vec::new(),
                cnames: texts.clone(),
                ttl: (*n).into(),
                rcode: *n,
                source: text(1),
            },
            2 => Message::Kafka {
                error_code: (*n).into(),
                api_version: -1,
                api_key: text(0),
                correlation_id: i32::MIN,
                topic: text(1),
            },
            _ => Message::Other(text(0), [(text(1), text(2))].into()),
        };
        let kind = [L7FlowType::Request, L7FlowType::Response, L7FlowType::Sample][usize::from(which / 4 % 3)];
        let log = AccessLog { message, ..http(kind, i64::from(*n) - 5, &[]) };
        let flow = decoder.borrow_mut().decode(&log, &show_all);
        let line = json::to_string(&flow);
        assert_eq!(json::from_str::<Flow>(&line).expect("our own line"), flow);
    });
    bolero::check!().with_iterations(5_000).with_type::<(u8, u16, Vec<String>)>().for_each(|input| run(input));
}
