//! The published corpus of filters: every verdict of every filter on every flow.

use hubble_api::{
    flow::{Flow, FlowFilter},
    json,
};
use hubble_model::{Filter, FilterList};
use serde_json::Value;
use std::path::Path;

fn corpus() -> Option<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/conformance/hubble-filters.dev.json");
    match std::fs::read_to_string(&path) {
        Ok(text) => Some(serde_json::from_str(&text).expect("the corpus is JSON")),
        Err(error) => {
            println!("skipped: {} ({error})", path.display());
            None
        }
    }
}

fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value.get(key).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn filters(values: &[Value]) -> Vec<FlowFilter> {
    values
        .iter()
        .map(|value| json::from_str(&value.to_string()).expect("filters of the corpus are FlowFilters"))
        .collect()
}

fn flows(corpus: &Value) -> Vec<Flow> {
    let read = |value: &Value| json::from_str(&value.to_string()).expect("flows of the corpus are Flows");
    list(corpus, "flows").iter().map(read).collect()
}

fn string(matches: impl Iterator<Item = bool>) -> String {
    matches.map(|is| if is { '1' } else { '0' }).collect()
}

#[test]
fn single_filters() {
    let Some(corpus) = corpus() else { return };
    let flows = flows(&corpus);
    let mut wrong = Vec::new();
    let cases = list(&corpus, "filters");
    for case in cases {
        let filter = filters(std::slice::from_ref(&case["filter"])).remove(0);
        let got = Filter::new(&filter).map(|f| string(flows.iter().map(|flow| f.matches(flow))));
        let want = case["match"].as_str();
        match (&got, want) {
            (Ok(got), Some(want)) if got == want => {}
            (Err(_), None) => {}
            (Ok(got), Some(want)) => {
                let at = got.chars().zip(want.chars()).position(|(g, w)| g != w);
                wrong.push(format!("{} differs on flow {at:?} of {}", case["filter"], got.len()));
            }
            (Err(error), Some(_)) => wrong.push(format!("{}: {error}", case["filter"])),
            (Ok(_), None) => wrong.push(format!("{}: accepted, want {}", case["filter"], case["error"])),
        }
    }
    println!("filters: {}/{}", cases.len() - wrong.len(), cases.len());
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn lists_of_filters() {
    let Some(corpus) = corpus() else { return };
    let flows = flows(&corpus);
    let mut wrong = Vec::new();
    let cases = list(&corpus, "lists");
    for case in cases {
        let got = FilterList::new(&filters(list(case, "allowlist")), &filters(list(case, "denylist")))
            .map(|f| string(flows.iter().map(|flow| f.matches(flow))));
        if got.as_deref().ok() != case["match"].as_str() {
            wrong.push(format!("{case}: {got:?}"));
        }
    }
    println!("lists: {}/{}", cases.len() - wrong.len(), cases.len());
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

/// Cases of the original's own tests: filters, events, and which of them match.
#[test]
fn published_vectors() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/reference/data/hubble-filter-vectors.json");
    let Ok(text) = std::fs::read_to_string(&path) else {
        println!("skipped: {} is absent", path.display());
        return;
    };
    let groups: Value = serde_json::from_str(&text).expect("vectors are JSON");
    let (mut checked, mut wrong) = (0, Vec::new());
    for (group, cases) in groups.as_object().expect("groups by name") {
        for case in cases.as_array().into_iter().flatten() {
            let Some(given) = case["args"].get("f").and_then(Value::as_array) else { continue };
            let what = format!("{group} {}", case["name"]);
            let given = filters(given);
            let (allow, deny): (&[_], &[_]) = if group.ends_with("Exclude") { (&[], &given) } else { (&given, &[]) };
            let compiled = FilterList::new(allow, deny);
            if case["want_err"] == Value::Bool(true) {
                checked += 1;
                if compiled.is_ok() {
                    wrong.push(format!("{what}: accepted"));
                }
                continue;
            }
            let compiled = match compiled {
                Ok(compiled) => compiled,
                Err(error) => {
                    wrong.push(format!("{what}: {error}"));
                    continue;
                }
            };
            let (events, wants) = match (&case["args"]["ev"], &case["want"]) {
                (Value::Array(events), Value::Array(wants)) => (events.clone(), wants.clone()),
                (event, want) => (vec![event.clone()], vec![want.clone()]),
            };
            for (event, want) in events.iter().zip(&wants) {
                // Only flows are ever put to a filter.
                let Some(flow) = event.get("event").filter(|_| event.get("kind").is_none()) else { continue };
                let flow = flow.to_string().replace("\"ip_version\"", "\"ipVersion\"");
                let flow: Flow = match json::from_str(&flow) {
                    Ok(flow) => flow,
                    Err(error) => {
                        wrong.push(format!("{what}: {flow}: {error}"));
                        continue;
                    }
                };
                checked += 1;
                if Value::Bool(compiled.matches(&flow)) != *want {
                    wrong.push(format!("{what}: {event} is not {want}"));
                }
            }
        }
    }
    println!("vectors: {}/{checked}", checked - wrong.len());
    assert!(wrong.is_empty() && checked > 200, "{} of {checked} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

/// Patterns of names and selectors of labels, by what the original makes of them.
#[test]
fn published_patterns() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/reference/data/hubble-filter-vectors.json");
    let Ok(text) = std::fs::read_to_string(&path) else {
        println!("skipped: {} is absent", path.display());
        return;
    };
    let groups: Value = serde_json::from_str(&text).expect("vectors are JSON");
    let cases = |group: &str| groups[group].as_array().expect("a group").clone();
    let texts = |value: &Value| {
        value.as_array().into_iter().flatten().map(|text| text.as_str().expect("text").to_owned()).collect::<Vec<_>>()
    };
    for case in cases("nodename.TestNodeFilter") {
        let node_name = texts(&case["node_name"]);
        let filter = Filter::new(&FlowFilter { node_name, ..FlowFilter::default() });
        assert_eq!(filter.is_err(), case["want_err"] == Value::Bool(true), "{case}");
        for (name, want) in case["want"].as_object().into_iter().flatten() {
            let flow = Flow { node_name: name.clone(), ..Flow::default() };
            let is = filter.as_ref().expect("a good filter").matches(&flow);
            assert_eq!(Value::Bool(is), *want, "{name} in {case}");
        }
    }
    for case in cases("patterns.TestCompileFQDNPattern") {
        let filter = Filter::new(&FlowFilter { source_fqdn: texts(&case["fqdn_patterns"]), ..FlowFilter::default() });
        assert_eq!(filter.is_err(), case["want_err"] == Value::Bool(true), "{case}");
    }
    for case in cases("labels.Test_parseSelector") {
        let selector = case["args"]["selector"].as_str().expect("text");
        let parsed = hubble_model::filter::Selector::parse(selector);
        assert_eq!(parsed.is_err(), case["want_err"] == Value::Bool(true), "{case}: {parsed:?}");
    }
    for case in cases("tcp.TestFlowTCPFilter") {
        let filter = serde_json::json!({ "tcp_flags": case["argsf"] });
        let flow = serde_json::json!({ "l4": { "TCP": { "flags": case["argsev"] } } });
        let filter = Filter::new(&filters(&[filter])[0]).expect("a good filter");
        let flow: Flow = json::from_str(&flow.to_string()).expect("a flow");
        assert_eq!(Value::Bool(filter.matches(&flow)), case["want"], "{case}");
    }
}
