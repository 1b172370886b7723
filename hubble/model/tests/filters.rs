//! The published corpus of filters: every verdict of every filter on every flow.

mod corpus;

use corpus::{filters, parts::Score};
use hubble_api::{
    flow::{Flow, FlowFilter},
    json,
};
use hubble_model::{Filter, FilterList, Interest, Kinds};
use serde_json::Value;

fn check(evaluate: fn(&Value) -> Score) {
    let Some(folder) = corpus::parts::shared("conformance") else { return };
    for part in corpus::parts::parts(&folder, "hubble-filters") {
        let Score { name, total, wrong } = evaluate(&part);
        println!("{name}: {}/{total}", total - wrong.len());
        assert!(total > 0, "{name}: nothing was compared");
        assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
    }
}

#[test]
fn single_filters() {
    check(corpus::single_filters);
}

#[test]
fn lists_of_filters() {
    check(corpus::lists_of_filters);
}

/// A flow that matches is of a kind its filter is about: otherwise a loss could go untold.
#[test]
fn no_filter_matches_what_it_is_not_about() {
    let Some(folder) = corpus::parts::shared("conformance") else { return };
    for part in corpus::parts::parts(&folder, "hubble-filters") {
        let flows = corpus::flows(&part);
        let (mut matching, mut ruled_out) = (0, 0);
        for case in corpus::list(&part, "filters") {
            let filter = filters(std::slice::from_ref(&case["filter"]));
            let Ok(compiled) = Filter::new(&filter[0]) else { continue };
            let interest = Interest::of(&filter);
            for flow in &flows {
                let (matches, may) = (compiled.matches(flow), interest.may_be_in(Kinds::of(flow)));
                assert!(!matches || may, "{} on {}", case["filter"], json::to_string(flow));
                matching += u32::from(matches);
                ruled_out += u32::from(!may);
            }
        }
        println!("{matching} match, {ruled_out} were ruled out by their kind");
        assert!(matching > 0 && ruled_out > 0, "nothing was compared");
    }
}

fn vectors() -> Option<Value> {
    let path = corpus::parts::shared("reference/data/hubble-filter-vectors.json")?;
    Some(serde_json::from_str(&std::fs::read_to_string(path).expect("readable")).expect("vectors are JSON"))
}

/// Cases of the original's own tests: filters, events, and which of them match.
#[test]
fn published_vectors() {
    let Some(groups) = vectors() else { return };
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
    let Some(groups) = vectors() else { return };
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
