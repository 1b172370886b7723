use api::models::{ExplainRequest, Party};
use policy::{Config, Engine, NamedPort};
use types::{EndpointId, Labels, NumericIdentity, Protocol};

use super::*;

fn flow(port: u16) -> String {
    format!(
        r#"{{"flow":{{"IP":{{"source":"10.0.0.1","destination":"10.0.0.2"}},"l4":{{"TCP":{{"destination_port":{port}}}}},
        "Type":"L3_L4","is_reply":false,"traffic_direction":"INGRESS","source":{{"labels":["k8s:app=a"]}},
        "destination":{{"labels":["k8s:app=b"]}}}}}}"#
    )
}

/// Any text as a line of recorded flows and as one side of a question: nothing panics, each line is counted, passed over
/// or refused, and what was taken can be previewed.
#[test]
fn any_text_is_taken_or_refused() {
    let (engine, _) = Engine::new(Config::default());
    bolero::check!().with_iterations(2000).with_max_len(512).for_each(|bytes| {
        let text = String::from_utf8_lossy(bytes);
        let (mut tally, mut taken) = (Tally::default(), 0);
        for line in text.lines() {
            taken += u64::from(tally.line(line).is_ok() && !line.trim().is_empty());
        }
        let traffic = tally.finish();
        assert_eq!(traffic.skipped + traffic.flows.iter().map(|flow| flow.count).sum::<u64>(), taken);
        // Addresses and labels of a flow are text, so what was taken may still be refused, with a field.
        let _answer = preview(&engine, &Nobody, &[], &[], &traffic);
        let _question = question_of_flow(&text);
        if let Ok(from) = party("--from", &text) {
            let to = api::models::Party { labels: vec!["k8s:app=b".into()], ..Default::default() };
            let question = api::models::ExplainRequest { from, to, port: 80, ..Default::default() };
            let _answer = explain(&engine, &Nobody, &question);
        }
    });
}

#[test]
fn flows_that_differ_are_bounded() {
    let mut tally = Tally::default();
    for port in 0..=u16::MAX {
        tally.line(&flow(port)).expect("below the bound");
    }
    let other = |port| flow(port).replace("app=a", "app=c");
    let refused = (0..=u16::MAX).find_map(|port| tally.line(&other(port)).err());
    assert_eq!(refused, Some(FlowError::TooMany));
    assert_eq!(tally.finish().flows.len(), FLOWS_MAX);
}

#[test]
fn labels_recorded_with_a_flow_count_and_not_who_has_the_address_now() {
    let (mut engine, _) = Engine::new(Config::default());
    let now = Labels::parse(["k8s:app=new"]);
    engine.upsert_identity(NumericIdentity::new(1000), &now).expect("room");
    let addr = "10.0.0.1/32".parse().expect("a prefix");
    engine.upsert_address(addr, NumericIdentity::new(1000), &[]).expect("room");
    let text = "- endpointSelector: {matchLabels: {app: b}}\n  ingress: [{fromEndpoints: [{matchLabels: {app: a}}]}]";
    let documents = policy::parse::documents(text, &policy::parse::Limits::default()).expect("YAML");
    let objects = read("put", &documents, &policy::parse::Options::default()).expect("valid");
    let mut tally = Tally::default();
    tally.line(&flow(80)).expect("a flow");
    let answer = preview(&engine, &Nobody, &objects, &[], &tally.finish()).expect("answered");
    assert_eq!((answer.judged, answer.newly_denied), (1, 0), "the sender was a, and a is allowed: {answer:?}");
}

/// A node with one pod that gives its ports names.
struct OnePod;

impl Workloads for OnePod {
    fn endpoint(&self, _: EndpointId) -> Option<Known> {
        None
    }
    fn pod(&self, name: &str) -> Option<Known> {
        let port = |name: &str, protocol, port| NamedPort { name: name.into(), protocol, port };
        let facts = policy::EndpointFacts {
            labels: Labels::parse(["k8s:app=b"]),
            named_ports: vec![
                port("http", Protocol::Tcp, 8080),
                port("dns", Protocol::Udp, 53),
                port("dns", Protocol::Tcp, 54),
            ],
            ..policy::EndpointFacts::default()
        };
        let endpoint = EndpointId::new(7).expect("not zero");
        (name == "shop/b").then(|| Known { endpoint, pod: name.into(), addr: None, facts })
    }
    fn at(&self, _: std::net::IpAddr) -> Option<Known> {
        None
    }
    fn identity_at(&self, _: std::net::IpAddr) -> Option<NumericIdentity> {
        None
    }
    fn labels_of(&self, id: NumericIdentity) -> Option<Labels> {
        id.reserved_labels()
    }
}

#[test]
fn a_port_may_be_named_as_the_destination_names_it() {
    let (mut engine, _) = Engine::new(Config::default());
    let text = "- endpointSelector: {matchLabels: {app: b}}\n  ingress: [{toPorts: [{ports: [{port: '8080'}, {port: dns}]}]}]\n\
                - endpointSelector: {matchLabels: {app: a}}\n  egress: [{toPorts: [{ports: [{port: web}]}]}]";
    let documents = policy::parse::documents(text, &policy::parse::Limits::default()).expect("YAML");
    let objects = read("put", &documents, &policy::parse::Options::default()).expect("valid");
    engine.change_objects(objects, &[]).expect("room");
    engine.upsert_endpoint(EndpointId::new(7).expect("not zero"), OnePod.pod("shop/b").expect("there").facts);
    let id = NumericIdentity::new(1000);
    engine.upsert_identity(id, &Labels::parse(["k8s:app=remote"])).expect("room");
    let port = NamedPort { name: "web".into(), protocol: Protocol::Tcp, port: 8443 };
    engine.upsert_address("10.0.0.9/32".parse().expect("a prefix"), id, &[port]).expect("room");
    let labels = |text: &str| Party { labels: vec![text.into()], ..Party::default() };
    let pod = Party { pod: "shop/b".into(), ..Party::default() };
    let ask = |to: &Party, name: &str, protocol: &str| {
        let request = ExplainRequest {
            from: labels("k8s:app=a"),
            to: to.clone(),
            port_name: name.into(),
            protocol: protocol.into(),
            ..ExplainRequest::default()
        };
        explain(&engine, &OnePod, &request).map(|answer| answer.verdict).map_err(|bad| bad.to_string())
    };
    let ingress = |name: &str, protocol: &str| {
        let request = ExplainRequest {
            from: labels("k8s:app=c"),
            to: pod.clone(),
            port_name: name.into(),
            protocol: protocol.into(),
            ..ExplainRequest::default()
        };
        explain(&engine, &OnePod, &request).map(|answer| answer.verdict).map_err(|bad| bad.to_string())
    };
    assert_eq!(ingress("http", "").as_deref(), Ok("allowed"));
    assert_eq!(ingress("HTTP", "TCP").as_deref(), Ok("allowed"));
    assert_eq!(ingress("dns", "UDP").as_deref(), Ok("allowed"));
    let several = ingress("dns", "").expect_err("two ports");
    assert!(several.contains("several ports") && several.contains("53/UDP") && several.contains("54/TCP"), "{several}");
    for (name, protocol) in [("http", "UDP"), ("metrics", "")] {
        let unknown = ingress(name, protocol).expect_err("no such port");
        assert!(unknown.contains("gives no port the name") && unknown.contains("http is 8080/TCP"), "{unknown}");
    }
    let peer = Party { ip: "10.0.0.9".into(), ..Party::default() };
    assert_eq!(ask(&peer, "web", "").as_deref(), Ok("allowed"), "the address gives it the name");
    let nowhere = ask(&labels("k8s:app=z"), "http", "").expect_err("labels have no ports");
    assert!(nowhere.contains("no names of ports are known of k8s:app=z"), "{nowhere}");
    let both = ExplainRequest {
        from: labels("k8s:app=c"),
        to: pod.clone(),
        port: 80,
        port_name: "http".into(),
        ..ExplainRequest::default()
    };
    assert!(
        explain(&engine, &OnePod, &both).expect_err("one is enough").to_string().contains("a number and as a name")
    );
}
