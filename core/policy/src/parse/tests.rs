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
    for (text, limit) in [
        (deep.as_str(), "policy-depth-max"),
        (yaml_deep.as_str(), "policy-depth-max"),
        (bomb, "policy-nodes-max"),
        (big.as_str(), "policy-bytes-max"),
    ] {
        let found = errors(text);
        assert!(found.len() == 1 && found[0].contains(limit), "{limit}: {found:?}");
    }
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
