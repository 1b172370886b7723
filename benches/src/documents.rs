//! Policy documents of any size, of shapes users write and of shapes meant to hurt a reader.

use std::fmt::Write as _;

/// A document's name, and how one of about so many bytes is made.
pub struct Shape {
    /// What it looks like.
    pub name: &'static str,
    /// Makes one of about so many bytes.
    pub make: fn(usize) -> String,
}

const HEAD: &str = "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: a, namespace: b}\n";

/// Every shape.
pub const SHAPES: &[Shape] = &[
    Shape { name: "YAML documents", make: documents },
    Shape { name: "a Kubernetes List in JSON", make: json_list },
    Shape { name: "a Kubernetes List in YAML", make: yaml_list },
    Shape { name: "bare rules with labels, JSON", make: bare_rules },
    Shape { name: "specs with labels", make: specs },
    Shape { name: "labels in falling order", make: labels },
    Shape { name: "matchLabels in falling order", make: match_labels },
    Shape { name: "values of one matchExpression", make: values },
    Shape { name: "toCIDR", make: cidrs },
    Shape { name: "except", make: excepts },
    Shape { name: "ports", make: ports },
    Shape { name: "regular expressions", make: expressions },
    Shape { name: "ipBlocks of a NetworkPolicy", make: ip_blocks },
    Shape { name: "one long plain scalar", make: |n| format!("{HEAD}spec: {}", "x".repeat(n)) },
    Shape { name: "one long plain scalar of many lines", make: |n| format!("{HEAD}spec:\n{}", " x\n".repeat(n / 3)) },
    Shape { name: "one long quoted scalar of escapes", make: |n| format!("{HEAD}spec: \"{}\"", "\\n".repeat(n / 2)) },
    Shape {
        name: "one long JSON string of escapes",
        make: |n| format!("{{\"kind\": \"{}\"}}", "\\u0041".repeat(n / 6)),
    },
    Shape { name: "one long block scalar", make: |n| format!("{HEAD}spec: |\n{}", "  x\n".repeat(n / 4)) },
    Shape {
        name: "one long folded scalar with empty lines",
        make: |n| format!("{HEAD}spec: >\n{}", "  x\n\n".repeat(n / 5)),
    },
    Shape { name: "one long key", make: |n| format!("{HEAD}{}: 1", "k".repeat(n)) },
    Shape { name: "comments", make: |n| format!("{HEAD}{}spec: {{}}", "# a comment\n".repeat(n / 12)) },
    Shape { name: "empty lines", make: |n| format!("{HEAD}{}spec: {{}}", "\n".repeat(n)) },
    Shape { name: "empty documents", make: |n| "---\n".repeat(n / 4) },
    Shape { name: "empty JSON documents", make: |n| "[]".repeat(n / 2) },
    Shape { name: "deep lists, one after the other", make: deep },
    Shape { name: "deep JSON lists, one after the other", make: deep_json },
    Shape { name: "open brackets", make: |n| "[".repeat(n) },
    Shape { name: "open braces", make: |n| "{\"a\":".repeat(n / 5) },
    Shape { name: "anchors and aliases", make: |n| format!("a: &a x\nb: [{}*a]", "*a, ".repeat(n / 4)) },
    Shape { name: "an anchor each", make: anchors },
    Shape { name: "anchors in anchors", make: nested_anchors },
    Shape { name: "an alias bomb", make: bomb },
    Shape { name: "unknown fields", make: unknown_fields },
    Shape { name: "a long name and many mistakes", make: long_name },
    Shape { name: "long fields and many mistakes", make: long_fields },
    Shape { name: "objects of unknown kinds", make: |n| format!("[{}{{}}]", "{\"kind\":\"X\"},".repeat(n / 13)) },
    Shape { name: "flow-style YAML", make: |n| format!("{{a: [{}x]}}", "x, ".repeat(n / 3)) },
    Shape { name: "explicit keys", make: explicit_keys },
    Shape { name: "one key twice at the end", make: |n| format!("{}k0: 2\n", keys(n)) },
    Shape { name: "no YAML at all", make: |n| "\u{1f980}: @%`\u{0}\t".repeat(n / 10) },
];

/// Repeats what `one` writes until there are so many bytes.
fn repeat(bytes: usize, start: &str, end: &str, mut one: impl FnMut(&mut String, usize)) -> String {
    let mut text = String::with_capacity(bytes + 1024);
    text.push_str(start);
    let mut count = 0;
    while text.len() < bytes {
        one(&mut text, count);
        count += 1;
    }
    text.push_str(end);
    text
}

macro_rules! add {
    ($text:expr, $($rest:tt)*) => {
        write!($text, $($rest)*).expect("a String takes every text")
    };
}

fn documents(bytes: usize) -> String {
    repeat(bytes, "", "", |text, n| {
        add!(
            text,
            "---\napiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {{name: policy-{n}, namespace: shop}}\n\
             spec:\n  endpointSelector: {{matchLabels: {{app: web}}}}\n  ingress:\n  - fromEndpoints:\n    - matchLabels:\n        \
             app: front\n    toPorts:\n    - ports:\n      - {{port: '80', protocol: TCP}}\n"
        );
    })
}

fn json_list(bytes: usize) -> String {
    repeat(bytes, r#"{"apiVersion":"v1","kind":"List","items":["#, "{}]}", |text, n| {
        add!(
            text,
            r#"{{"apiVersion":"networking.k8s.io/v1","kind":"NetworkPolicy","metadata":{{"name":"n{n}","namespace":"x"}},
               "spec":{{"podSelector":{{}},"ingress":[{{"from":[{{"podSelector":{{"matchLabels":{{"a":"b"}}}}}}]}}]}}}},"#
        );
    })
}

fn yaml_list(bytes: usize) -> String {
    repeat(bytes, "apiVersion: v1\nkind: List\nitems:\n", "", |text, n| {
        add!(
            text,
            "- apiVersion: cilium.io/v2\n  kind: CiliumNetworkPolicy\n  metadata: {{name: n{n}}}\n  spec: {{endpointSelector: \
             {{}}, egress: [{{toEntities: [world]}}]}}\n"
        );
    })
}

fn bare_rules(bytes: usize) -> String {
    let text = repeat(bytes, "[", "", |text, n| {
        add!(text, r#"{{"endpointSelector":{{}},"labels":["user:rule-{:09}"]}},"#, 999_999_999 - n);
    });
    format!("{}]", text.trim_end_matches(','))
}

fn specs(bytes: usize) -> String {
    repeat(bytes, &format!("{HEAD}specs:\n"), "", |text, n| {
        add!(text, "- {{endpointSelector: {{}}, labels: ['user:rule-{:09}']}}\n", 999_999_999 - n);
    })
}

fn labels(bytes: usize) -> String {
    let start = format!("{HEAD}spec:\n  endpointSelector: {{}}\n  labels:\n");
    repeat(bytes, &start, "", |text, n| add!(text, "  - user:l{:09}=v\n", 999_999_999 - n))
}

fn match_labels(bytes: usize) -> String {
    let start = format!("{HEAD}spec:\n  endpointSelector:\n    matchLabels:\n");
    repeat(bytes, &start, "", |text, n| add!(text, "      l{:09}: v\n", 999_999_999 - n))
}

fn values(bytes: usize) -> String {
    let start = format!(
        "{HEAD}spec:\n  endpointSelector:\n    matchExpressions:\n    - key: a\n      operator: In\n      values:\n"
    );
    repeat(bytes, &start, "", |text, n| add!(text, "      - v{:09}\n", 999_999_999 - n))
}

fn cidrs(bytes: usize) -> String {
    let start = format!("{HEAD}spec:\n  endpointSelector: {{}}\n  egress:\n  - toCIDR:\n");
    repeat(bytes, &start, "", |text, n| {
        add!(text, "    - 10.{}.{}.{}\n", 255 - n % 256, n / 256 % 256, n / 65_536 % 256)
    })
}

fn excepts(bytes: usize) -> String {
    let start = format!(
        "{HEAD}spec:\n  endpointSelector: {{}}\n  egress:\n  - toCIDRSet:\n    - cidr: 10.0.0.0/8\n      except:\n"
    );
    repeat(bytes, &start, "", |text, n| {
        add!(text, "      - 10.{}.{}.{}/32\n", 255 - n % 256, n / 256 % 256, n / 65_536 % 256);
    })
}

fn ports(bytes: usize) -> String {
    let start = format!("{HEAD}spec:\n  endpointSelector: {{}}\n  ingress:\n  - toPorts:\n");
    repeat(bytes, &start, "", |text, n| {
        add!(text, "    - ports: [{{port: '{}', protocol: ANY, endPort: 65535}}, {{port: http}}]\n", 1 + n % 65_535);
    })
}

/// Three bytes of an expression may stand for hundreds of ranges of characters.
fn expressions(bytes: usize) -> String {
    let path = "\\pL".repeat(1365);
    let start = format!(
        "{HEAD}spec:\n  endpointSelector: {{}}\n  ingress:\n  - toPorts:\n    - ports: [{{port: '80', protocol: TCP}}]\n      rules:\n        http:\n"
    );
    repeat(bytes, &start, "", |text, _| add!(text, "        - path: '{path}'\n"))
}

fn ip_blocks(bytes: usize) -> String {
    let start = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: a, namespace: b}\nspec:\n  \
                 podSelector: {}\n  ingress:\n  - from:\n";
    repeat(bytes, start, "", |text, n| {
        add!(text, "    - ipBlock: {{cidr: 10.{}.0.0/16, except: [10.{}.1.0/24]}}\n", n % 256, n % 256);
    })
}

fn deep(bytes: usize) -> String {
    repeat(bytes, "", "", |text, _| add!(text, "- {}x{}\n", "[".repeat(30), "]".repeat(30)))
}

fn deep_json(bytes: usize) -> String {
    repeat(bytes, "[", "[]]", |text, _| add!(text, "{}{},", "[".repeat(30), "]".repeat(30)))
}

fn anchors(bytes: usize) -> String {
    repeat(bytes, "", "", |text, n| add!(text, "- &a{n} x\n"))
}

fn nested_anchors(bytes: usize) -> String {
    repeat(bytes, "", "", |text, n| {
        text.push_str("- ");
        (0..30).for_each(|depth| add!(text, "&a{n}x{depth} ["));
        add!(text, "{}\n", "]".repeat(30));
    })
}

fn bomb(bytes: usize) -> String {
    let mut text = format!("a0: &a0 [{}x]\n", "x,".repeat(bytes / 2));
    (1..8).for_each(|n| add!(text, "a{n}: &a{n} [{}*a{}]\n", format!("*a{},", n - 1).repeat(9), n - 1));
    text
}

fn unknown_fields(bytes: usize) -> String {
    repeat(bytes, &format!("{HEAD}spec:\n  endpointSelector: {{}}\n"), "", |text, n| add!(text, "  f{n}: 1\n"))
}

fn long_name(bytes: usize) -> String {
    let start = format!(
        "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {{name: {}}}\nspec:\n  endpointSelector: {{}}\n",
        "n".repeat(bytes / 2)
    );
    repeat(bytes, &start, "", |text, n| add!(text, "  f{n}: 1\n"))
}

fn long_fields(bytes: usize) -> String {
    let long = "f".repeat(4_000);
    repeat(bytes, &format!("{HEAD}spec:\n  endpointSelector: {{}}\n"), "", |text, n| add!(text, "  {long}{n}: 1\n"))
}

fn explicit_keys(bytes: usize) -> String {
    repeat(bytes, "", "", |text, n| add!(text, "? k{n}\n: v\n"))
}

fn keys(bytes: usize) -> String {
    repeat(bytes, "", "", |text, n| add!(text, "k{n}: v\n"))
}
