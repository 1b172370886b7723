use super::*;
use crate::context::Context;

#[test]
fn plugins_with_contexts_and_filters_are_read() {
    let text = r#"
metrics:
- name: flow
  contextOptions:
  - {name: destinationContext, values: [dns, ip]}
  - {name: labelsContext, values: [source_pod, source_namespace]}
  includeFilters:
  - source_pod: [allow/src]
  - destination_pod: [allow/dst]
  excludeFilters:
  - verdict: [DROPPED]
- name: dns
  contextOptions: [{name: query}]
"#;
    let all = parse(text).unwrap();
    assert_eq!(all.len(), 2);
    assert_eq!(all[0].contexts.destination.any, [Context::Dns, Context::Ip]);
    assert!(all[0].filters.is_some() && all[1].filters.is_none() && all[1].switches.query);
    for empty in ["", "# nothing\n", "metrics:\n", "metrics: []", "{}"] {
        assert_eq!(parse(empty).unwrap().len(), 0, "{empty:?}");
    }
}

#[test]
fn mistakes_say_where() {
    for (text, says) in [
        ("metrics: {}", "metrics: a list"),
        ("[]", "the document: a mapping"),
        ("metric: []", "\"metric\""),
        ("metrics: [{}]", "metrics[0].name: a text"),
        ("metrics: [{name: dns}, {name: nds}]", "metrics[1]: metric 'nds'"),
        ("metrics: [{name: dns}, {name: dns}]", "twice"),
        ("metrics: [{name: dns, filters: []}]", "metrics[0]: there is no field \"filters\""),
        (
            "metrics: [{name: dns, contextOptions: [{name: sourceContext, values: [pot]}]}]",
            "metrics[0].contextOptions[0]",
        ),
        ("metrics: [{name: dns, contextOptions: [{name: sourceContext, values: pod}]}]", ".values: a list"),
        ("metrics: [{name: dns, includeFilters: [{source_pods: [a]}]}]", "metrics[0].includeFilters[0]"),
        ("metrics: [{name: dns, excludeFilters: [{source_ip: [a]}]}]", "metrics[0]: filters: invalid IP address"),
        ("metrics: [", "not YAML"),
        ("a: 1\n---\nb: 2", "more than one document"),
    ] {
        let why = parse(text).map(|all| all.len()).unwrap_err().to_string();
        assert!(why.contains(says), "{text}: {why}");
    }
}
