use super::*;
use alloc::string::ToString;

fn errors(text: &str) -> Vec<String> {
    parse(text).err().unwrap_or_default().iter().map(|e| alloc::format!("{}: {}", e.path, e.problem)).collect()
}

#[test]
fn every_mistake_is_reported_with_its_path() {
    let found = errors(
        "apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: bad}
spec:
  endpointSelector: {matchLabels: {'a b': c}}
  ingres: []
  egress:
  - toPorts:
    - ports:
      - {port: 80, protocol: TCP}
      - {port: '80', endPort: 70000}
      - {port: '90000'}
  - toEntities: [mars]
    toCIDR: [10.0.0.0/33]
",
    );
    let paths: Vec<&str> = found.iter().map(|e| e.split_once(": ").map_or("", |(p, _)| p)).collect();
    assert_eq!(
        paths,
        [
            "spec.ingres",
            "spec.endpointSelector.matchLabels.a b",
            "spec.egress[0].toPorts[0].ports[0].port",
            "spec.egress[0].toPorts[0].ports[1].endPort",
            "spec.egress[0].toPorts[0].ports[2].port",
            "spec.egress[1].toCIDR[0]",
            "spec.egress[1].toEntities[0]",
            "spec.egress[1]",
        ]
    );
    assert!(found[2].contains("found the number 80") && found[2].contains("quotes"), "{}", found[2]);
}

#[test]
fn depth_size_and_aliases_are_bounded_by_name() {
    let deep = "[".repeat(100) + &"]".repeat(100);
    let yaml_deep = "a:\n".to_string() + &(1..100).map(|i| " ".repeat(i) + "a:\n").collect::<String>();
    let bomb = "a: &a [x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b]\n\
                d: &d [*c,*c,*c,*c,*c,*c,*c,*c]\ne: &e [*d,*d,*d,*d,*d,*d,*d,*d]\nf: &f [*e,*e,*e,*e,*e,*e,*e,*e]\n\
                g: &g [*f,*f,*f,*f,*f,*f,*f,*f]\nh: [*g,*g,*g,*g,*g,*g,*g,*g]\n";
    let big = "#".repeat(10 << 20);
    let wide_json = alloc::format!("[{}0]", "0,".repeat(2 << 20));
    let wide_yaml = "- a\n".repeat(2 << 20);
    let documents = "---\n".repeat(2 << 20);
    // Few nodes, but each alias of the text would copy all of it.
    let text_bomb = alloc::format!("a: &a \"{}\"\nb: [{}*a]\n", "x".repeat(1 << 20), "*a, ".repeat(100));
    let key_bomb = alloc::format!("a: &a {{\"{}\": 1}}\nb: [{}*a]\n", "x".repeat(1 << 20), "*a, ".repeat(100));
    let mistakes = alloc::format!("[{}{{}}]", "{\"x\":1},".repeat(60_000));
    // Rules are numbered with 16 bits; a number that two have would name the wrong one.
    let rules = alloc::format!("[{}{{}}]", "{},".repeat(1 << 16));
    for (text, limit) in [
        (wide_json.as_str(), "policy-nodes-max"),
        (wide_yaml.as_str(), "policy-nodes-max"),
        (documents.as_str(), "policy-nodes-max"),
        (text_bomb.as_str(), "policy-expanded-bytes-max"),
        (key_bomb.as_str(), "policy-expanded-bytes-max"),
        (deep.as_str(), "policy-depth-max"),
        (yaml_deep.as_str(), "policy-depth-max"),
        (bomb, "policy-nodes-max"),
        (big.as_str(), "policy-bytes-max"),
        (rules.as_str(), "policy-rules-max"),
    ] {
        let found = errors(text);
        assert!(found.len() == 1 && found[0].contains(limit), "{limit}: {found:?}");
    }
    let found = errors(&mistakes);
    assert_eq!(found.len(), doc::MISTAKES_MAX + 1);
    assert!(found.last().unwrap().contains("policy-mistakes-max"), "{:?}", found.last());
}

#[test]
fn an_expression_is_bounded_and_must_be_one() {
    let rule = |path: &str| {
        errors(&alloc::format!(
            "[{{\"endpointSelector\": {{}}, \"ingress\": [{{\"toPorts\": [{{\"ports\": [{{\"port\": \"80\", \"protocol\": \
             \"TCP\"}}], \"rules\": {{\"http\": [{{\"path\": \"{path}\"}}]}}}}]}}]}}]"
        ))
    };
    assert!(rule("/api/.*").is_empty());
    assert!(rule("(").iter().any(|e| e.contains("RE2")), "{:?}", rule("("));
    let long = rule(&"\\\\pL".repeat(2000));
    assert!(long.len() == 1 && long[0].contains("policy-expression-bytes-max"), "{long:?}");
}

/// Nodes and bytes of text a value holds.
fn size(value: &serde_json::Value) -> (usize, usize) {
    let add = |(a, b): (usize, usize), (c, d): (usize, usize)| (a + c, b + d);
    match value {
        serde_json::Value::Array(items) => items.iter().map(size).fold((1, 0), add),
        serde_json::Value::Object(map) => map.iter().map(|(k, v)| add((1, k.len()), size(v))).fold((1, 0), add),
        serde_json::Value::String(text) => (1, text.len()),
        _ => (1, 0),
    }
}

fn depth(value: &serde_json::Value) -> usize {
    match value {
        serde_json::Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        serde_json::Value::Object(map) => 1 + map.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

/// Any bytes, read with limits so small that they are met: nothing panics, nothing exceeds a limit, and what is
/// understood as YAML is understood as the same when it is printed as JSON.
#[test]
fn readers_take_any_bytes_and_keep_within_their_limits() {
    let limits = Limits { bytes_max: 4096, depth_max: 16, nodes_max: 256, expanded_bytes_max: 4096 };
    let options = Options { limits, node_selectors: true, ..Options::default() };
    bolero::check!().with_iterations(4000).with_max_len(2048).for_each(|bytes| {
        let text = alloc::string::String::from_utf8_lossy(bytes);
        if let Ok(values) = documents(&text, &limits) {
            let (nodes, bytes) = values.iter().map(size).fold((0, 0), |(a, b), (c, d)| (a + c, b + d));
            assert!(nodes <= limits.nodes_max && bytes <= limits.expanded_bytes_max, "{nodes} nodes, {bytes} bytes");
            assert!(values.iter().all(|value| depth(value) <= limits.depth_max));
        }
        let _ = parse_rules(&text, &options);
        if let Ok(values) = documents(&text, &limits) {
            for value in &values {
                let direct = parse_value(value, &options);
                let printed = documents(&value.to_string(), &Limits::default()).expect("printed JSON is JSON");
                assert_eq!(printed.first().unwrap_or(&serde_json::Value::Null), value, "{value}");
                assert_eq!(parse_value(value, &options), direct);
            }
        }
        let _ = parse_with(&text, &options);
    });
}

#[test]
fn lists_many_documents_and_json_are_read() {
    let one = |name: &str| {
        alloc::format!(
            "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {{name: {name}}}\nspec: {{endpointSelector: {{}}}}\n"
        )
    };
    let both = alloc::format!("---\n{}---\n{}", one("a"), one("b"));
    assert_eq!(parse(&both).unwrap().len(), 2);
    let json = r#"{"apiVersion":"v1","kind":"List","items":[{"apiVersion":"networking.k8s.io/v1","kind":"NetworkPolicy",
        "metadata":{"name":"n","namespace":"x"},"spec":{"podSelector":{}}}]}"#;
    let objects = parse(json).unwrap();
    assert_eq!(objects[0].key.to_string(), "NetworkPolicy x/n");
    assert_eq!(objects[0].rules[0].ingress_default_deny, Some(true));
    assert_eq!(objects[0].rules[0].egress_default_deny, None);
}
