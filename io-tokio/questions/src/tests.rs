use policy::{Config, Engine};
use types::{Labels, NumericIdentity};

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
