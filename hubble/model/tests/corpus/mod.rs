//! The published corpus of filters: every verdict of every filter on every flow. Read in place, never copied.
//!
//! Shared by the test of this crate and by its `conformance` example, which prints the numbers.
#![allow(dead_code, missing_docs, reason = "the test and the example each use a part")]

pub mod parts;

use parts::Score;

use hubble_api::{
    flow::{Flow, FlowFilter},
    json,
};
use hubble_model::{Filter, FilterList};
use serde_json::Value;

pub fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value.get(key).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

pub fn filters(values: &[Value]) -> Vec<FlowFilter> {
    values
        .iter()
        .map(|value| json::from_str(&value.to_string()).expect("filters of the corpus are FlowFilters"))
        .collect()
}

pub fn flows(corpus: &Value) -> Vec<Flow> {
    let read = |value: &Value| json::from_str(&value.to_string()).expect("flows of the corpus are Flows");
    list(corpus, "flows").iter().map(read).collect()
}

fn string(matches: impl Iterator<Item = bool>) -> String {
    matches.map(|is| if is { '1' } else { '0' }).collect()
}

/// Every filter on every flow; rejected ones must be rejected.
pub fn single_filters(corpus: &Value) -> Score {
    let flows = flows(corpus);
    let mut wrong = Vec::new();
    let cases = list(corpus, "filters");
    for case in cases {
        let filter = filters(std::slice::from_ref(&case["filter"])).remove(0);
        let got = Filter::new(&filter).map(|f| string(flows.iter().map(|flow| f.matches(flow))));
        let want = case["match"].as_str();
        match (&got, want) {
            (Ok(got), Some(want)) if got == want => {}
            (Err(_), None) => {}
            (Ok(got), Some(want)) => {
                let at = got.chars().zip(want.chars()).position(|(g, w)| g != w).unwrap_or_default();
                wrong.push(format!("{}: another verdict on {}", case["filter"], list(corpus, "flows")[at]));
            }
            (Err(error), Some(_)) => wrong.push(format!("{}: {error}", case["filter"])),
            (Ok(_), None) => wrong.push(format!("{}: accepted, want {}", case["filter"], case["error"])),
        }
    }
    Score { name: "filters", total: cases.len(), wrong }
}

/// Every allow and deny list on every flow.
pub fn lists_of_filters(corpus: &Value) -> Score {
    let flows = flows(corpus);
    let mut wrong = Vec::new();
    let cases = list(corpus, "lists");
    for case in cases {
        let got = FilterList::new(&filters(list(case, "allowlist")), &filters(list(case, "denylist")))
            .map(|f| string(flows.iter().map(|flow| f.matches(flow))));
        if got.as_deref().ok() != case["match"].as_str() {
            wrong.push(format!("{case}: {got:?}"));
        }
    }
    Score { name: "lists", total: cases.len(), wrong }
}
