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
