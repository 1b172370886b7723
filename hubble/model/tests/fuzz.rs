//! Text from outside: whatever it is, it is read or refused, and what was read is written back the same.

use hubble_api::{
    flow::{Flow, FlowFilter},
    json::{self, Unknown},
    observer::GetFlowsResponse,
    time,
};
use hubble_model::{Filter, filter::Selector};

/// Pieces from which texts that are nearly right are made.
const PIECES: [&str; 40] = [
    "{",
    "}",
    "[",
    "]",
    ":",
    ",",
    "\"",
    "\\u00e9",
    "\\",
    "null",
    "true",
    "1e3",
    "-0",
    "\"flow\"",
    "\"time\"",
    "\"l4\"",
    "\"TCP\"",
    "\"flags\"",
    "\"SYN\"",
    "\"verdict\"",
    "\"DROPPED\"",
    "\"2024-02-30T00:00:00Z\"",
    "\"source_label\"",
    "\"IP\"",
    "é",
    " ",
    "k8s:",
    "app",
    " in ",
    "(",
    ")",
    "!",
    "=",
    "==",
    "<",
    "/",
    "*",
    ".",
    "notin",
    "\u{1b}",
];

fn text(choice: &[u8]) -> String {
    choice.iter().map(|at| PIECES[usize::from(*at) % PIECES.len()]).collect()
}

fn try_all(text: &str) {
    for unknown in [Unknown::Reject, Unknown::Discard] {
        if let Ok(response) = json::read::<GetFlowsResponse>(text, unknown) {
            let again = json::to_string(&response);
            assert_eq!(json::from_str::<GetFlowsResponse>(&again).as_ref(), Ok(&response), "{again}");
        }
    }
    if let Ok(selector) = Selector::parse(text) {
        let labels = ["k8s:app=a".to_owned(), text.to_owned()];
        assert_eq!(selector.matches(&labels), selector.matches(&labels));
    }
    if let Some(at) = time::parse_rfc3339(text) {
        assert_eq!(time::parse_rfc3339(&time::Rfc3339(&at).to_string()), Some(at));
    }
    let all = || vec![text.to_owned()];
    let flow = Flow { uuid: text.into(), node_name: text.into(), source_names: all(), ..Flow::default() };
    for filter in [
        FlowFilter { source_ip: all(), ..FlowFilter::default() },
        FlowFilter { source_fqdn: all(), ..FlowFilter::default() },
        FlowFilter { node_name: all(), ..FlowFilter::default() },
        FlowFilter { http_status_code: all(), ..FlowFilter::default() },
        FlowFilter { destination_port: all(), ..FlowFilter::default() },
        FlowFilter { protocol: all(), ..FlowFilter::default() },
        FlowFilter { uuid: all(), ..FlowFilter::default() },
    ] {
        if let Ok(compiled) = Filter::new(&filter) {
            let matches = compiled.matches(&flow);
            assert!(matches || filter.uuid.is_empty(), "a flow has its own uuid");
        }
    }
}

#[test]
fn any_bytes() {
    bolero::check!().with_iterations(5_000).for_each(|bytes: &[u8]| try_all(&String::from_utf8_lossy(bytes)));
}

#[test]
fn texts_that_are_nearly_right() {
    bolero::check!().with_iterations(20_000).with_type::<Vec<u8>>().for_each(|choice: &Vec<u8>| try_all(&text(choice)));
}
