//! What rules mean together: merging, deny over allow, port blocks; and the questions asked about it.
#![allow(clippy::unwrap_used, reason = "a test stops where its setting cannot be made")]

use policy::{
    Config, Direction, EndpointFacts, Engine, PolicyObject, RuleName, Verdict,
    engine::{Fit, PeerQuestion, Question},
    lint::{Suspicion, lint},
    preview::{Outcome, RecordedFlow, changed, preview},
    rule::{PortPrefix, PortRange},
};
use types::{EndpointId, Labels, NumericIdentity};

const FOO: u32 = 1000;
const OTHER: u32 = 1001;

fn labels(app: &str) -> Labels {
    Labels::parse([&*format!("k8s:app={app}"), "k8s:io.kubernetes.pod.namespace=default"])
}

fn web() -> EndpointId {
    EndpointId::new(1).unwrap()
}

fn engine() -> Engine {
    let (mut engine, _) = Engine::new(Config { allow_localhost: false, ..Config::default() });
    engine.upsert_identity(NumericIdentity::new(FOO), &labels("foo")).unwrap();
    engine.upsert_identity(NumericIdentity::new(OTHER), &labels("other")).unwrap();
    engine.upsert_endpoint(web(), EndpointFacts { labels: labels("web"), ..EndpointFacts::default() });
    engine
}

fn objects(name: &str, rules: &str) -> PolicyObject {
    let text = format!(
        "apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {{name: {name}, namespace: default}}
spec:
  endpointSelector: {{matchLabels: {{app: web}}}}
{rules}"
    );
    policy::parse(&text).unwrap_or_else(|e| panic!("{}", e[0])).remove(0)
}

fn put(engine: &mut Engine, name: &str, rules: &str) {
    engine.upsert_object(objects(name, rules)).unwrap();
}

fn verdict(engine: &Engine, peer: u32, port: u16) -> &'static str {
    let class = engine.class_of(NumericIdentity::new(peer), None);
    match engine.verdict(web(), Direction::Ingress, class, 6, port).unwrap().verdict {
        Verdict::Allow => "allow",
        Verdict::Deny => "deny",
        Verdict::Redirect(_) => "proxy",
    }
}

#[test]
fn ranges_become_the_fewest_aligned_blocks() {
    for (first, last, want) in [
        (1, 7, &[(1, 16), (2, 15), (4, 14)][..]),
        (0, 1023, &[(0, 6)]),
        (0, 65535, &[(0, 0)]),
        (22, 23, &[(22, 15)]),
        (23, 24, &[(23, 16), (24, 16)]),
        (5, 10, &[(5, 16), (6, 15), (8, 15), (10, 16)]),
        (16, 391, &[(16, 12), (32, 11), (64, 10), (128, 9), (256, 9), (384, 13)]),
        (65535, 65535, &[(65535, 16)]),
        (32767, 32768, &[(32767, 16), (32768, 16)]),
    ] {
        let want: Vec<PortPrefix> = want.iter().map(|&(port, bits)| PortPrefix { port, bits }).collect();
        assert_eq!(PortRange { first, last }.prefixes(), want, "{first}-{last}");
    }
    bolero::check!().with_type::<(u16, u16, u16)>().cloned().for_each(|(a, b, port)| {
        let range = PortRange { first: a.min(b), last: a.max(b) };
        let blocks = range.prefixes();
        let hits = blocks.iter().filter(|p| p.contains(port)).count();
        assert_eq!(hits, usize::from(range.contains(port)), "{range} {port}");
        assert!(blocks.len() <= 30);
    });
}

const L3: &str = "  - fromEndpoints: [{matchLabels: {app: foo}}]\n";
const L4: &str = "  - toPorts: [{ports: [{port: '80', protocol: TCP}]}]\n";
const L3L4: &str =
    "  - fromEndpoints: [{matchLabels: {app: foo}}]\n    toPorts: [{ports: [{port: '80', protocol: TCP}]}]\n";
const L4L7: &str = "  - toPorts: [{ports: [{port: '80', protocol: TCP}], rules: {http: [{method: GET, path: /}]}}]\n";
const L3L4L7: &str = "  - fromEndpoints: [{matchLabels: {app: foo}}]\n    toPorts: [{ports: [{port: '80', protocol: \
                      TCP}], rules: {http: [{method: GET, path: /}]}}]\n";

/// Every combination of five rules. Upstream's merge vectors say: a rule for anyone with a proxy takes a named peer's
/// plain rule about the same port with it; a named peer's proxy rule holds against a plain rule for anyone.
#[test]
fn rules_about_one_port_merge_as_upstream_merges_them() {
    for set in 1u8..32 {
        let has = |bit: u8| set & (1 << bit) != 0;
        let mut engine = engine();
        let mut text = "  ingress:\n".to_string();
        for (bit, rule) in [L3, L4, L3L4, L4L7, L3L4L7].iter().enumerate() {
            if has(bit as u8) {
                text += rule;
            }
        }
        put(&mut engine, "merge", &text);
        let (l3, l4, l3l4, l4l7, l3l4l7) = (has(0), has(1), has(2), has(3), has(4));
        let foo80 = if l4l7 || l3l4l7 {
            "proxy"
        } else if l3 || l4 || l3l4 {
            "allow"
        } else {
            "deny"
        };
        let other80 = if l4l7 {
            "proxy"
        } else if l4 {
            "allow"
        } else {
            "deny"
        };
        let found = [verdict(&engine, FOO, 80), verdict(&engine, OTHER, 80), verdict(&engine, FOO, 81)];
        assert_eq!(found, [foo80, other80, if l3 { "allow" } else { "deny" }], "{text}");
        assert_eq!(verdict(&engine, OTHER, 81), "deny");
    }
}

#[test]
fn deny_beats_allow_at_every_layer() {
    let allows = format!("  ingress:\n{L4L7}{L3}  - toPorts: [{{ports: [{{port: '81', protocol: TCP}}]}}]\n");
    for (deny, want81, want80) in [
        ("", "allow", "proxy"),
        ("  ingressDeny:\n  - toPorts: [{ports: [{port: '80', protocol: TCP}]}]\n", "allow", "deny"),
        ("  ingressDeny:\n  - fromEndpoints: [{matchLabels: {app: foo}}]\n", "deny", "deny"),
        ("  ingressDeny:\n  - toPorts: [{ports: [{port: '1', endPort: 100, protocol: TCP}]}]\n", "deny", "deny"),
    ] {
        let mut engine = engine();
        put(&mut engine, "deny", &format!("{allows}{deny}"));
        assert_eq!((verdict(&engine, FOO, 81), verdict(&engine, FOO, 80)), (want81, want80), "{deny}");
    }
}

fn ask(peer: u32, port: u16) -> Question {
    let peer = PeerQuestion { identity: Some(NumericIdentity::new(peer)), ..PeerQuestion::default() };
    Question { direction: Direction::Ingress, peer, protocol: 6, port }
}

fn paths(rules: &[RuleName]) -> Vec<String> {
    rules
        .iter()
        .map(|rule| match rule {
            RuleName::Rule { object, path, .. } => format!("{object} {path}"),
            other => format!("{other:?}"),
        })
        .collect()
}

#[test]
fn an_explanation_names_what_decides_and_what_nearly_did() {
    let mut engine = engine();
    put(&mut engine, "a", &format!("  ingress:\n{L3L4}  - toPorts: [{{ports: [{{port: '443', protocol: TCP}}]}}]\n"));
    put(
        &mut engine,
        "b",
        "  ingressDeny:\n  - fromEndpoints: [{matchLabels: {app: foo}}]\n    toPorts: [{ports: [{port: '443', protocol: TCP}]}]\n",
    );
    let why = engine.explain(web(), &ask(FOO, 443)).unwrap();
    assert_eq!(why.verdict, Verdict::Deny);
    assert_eq!(paths(&why.deciding), ["CiliumNetworkPolicy default/b spec.ingressDeny[0]"]);
    let first = &why.considered[0];
    assert_eq!(
        (paths(core::slice::from_ref(&first.rule)), first.fit),
        (vec!["CiliumNetworkPolicy default/a spec.ingress[1]".into()], Fit::Overruled)
    );
    let nobody = engine.explain(web(), &ask(OTHER, 80)).unwrap();
    assert_eq!((nobody.verdict, nobody.deciding.len()), (Verdict::Deny, 0));
    assert_eq!(paths(&nobody.default_deny).len(), 2, "both objects switch default deny on");
    assert!(nobody.considered.iter().any(|c| c.fit == Fit::OtherPeers));
    let hypothetical = Question {
        peer: PeerQuestion {
            labels: Some(Labels::parse(["k8s:app=foo", "k8s:io.kubernetes.pod.namespace=default", "k8s:new=1"])),
            ..PeerQuestion::default()
        },
        ..ask(FOO, 80)
    };
    assert_eq!(engine.explain(web(), &hypothetical).unwrap().verdict, Verdict::Allow);
}

#[test]
fn the_cookie_of_an_entry_names_its_rule_and_survives_other_changes() {
    let mut engine = engine();
    put(&mut engine, "a", &format!("  ingress:\n{L3L4}"));
    let class = engine.class_of(NumericIdentity::new(FOO), None);
    let cookie = engine.verdict(web(), Direction::Ingress, class, 6, 80).unwrap().cookie;
    assert_eq!(paths(&engine.rules_of(cookie)), ["CiliumNetworkPolicy default/a spec.ingress[0]"]);
    let delta = engine.upsert_object(objects("a", &format!("  description: other words\n  ingress:\n{L3L4}"))).unwrap();
    assert!(delta.entry_writes() <= 1, "{delta:?}");
    put(&mut engine, "b", "  egress:\n  - toEndpoints: [{matchLabels: {app: foo}}]\n");
    let class = engine.class_of(NumericIdentity::new(FOO), None);
    let after = engine.verdict(web(), Direction::Ingress, class, 6, 80).unwrap().cookie;
    assert_eq!(paths(&engine.rules_of(after)), ["CiliumNetworkPolicy default/a spec.ingress[0]"]);
}

#[test]
fn a_preview_shows_what_would_newly_be_denied_and_by_what() {
    let now = engine();
    let then = changed(&now, &[objects("a", &format!("  ingress:\n{L3L4}"))], &[]).unwrap();
    let flow = |peer: u32, source: &str, count| RecordedFlow {
        subject: EndpointFacts { labels: labels("web"), ..EndpointFacts::default() },
        question: ask(peer, 80),
        source: source.into(),
        destination: "default/web".into(),
        count,
    };
    let flows = [flow(FOO, "default/foo", 3), flow(OTHER, "default/other", 2), flow(OTHER, "default/other", 5)];
    let changes = preview(&now, &then, &flows);
    assert_eq!(changes.len(), 1);
    let change = &changes[0];
    assert_eq!((change.before, change.after, change.count), (Outcome::Allowed, Outcome::Denied, 7));
    assert_eq!((change.source.as_str(), change.port), ("default/other", 80));
    assert_eq!(paths(&change.rules), ["CiliumNetworkPolicy default/a spec.ingress[0]"]);
    assert!(preview(&now, &now, &flows).is_empty());
}

#[test]
fn lint_finds_what_was_probably_not_meant() {
    let mut engine = engine();
    let suspect = objects(
        "suspect",
        "  ingress:
  - fromEndpoints: []
  - fromEndpoints: [{matchLabels: {app: nobody}}]
  - toPorts: [{ports: [{port: '80', protocol: TCP}]}]
  - icmps: [{fields: [{type: 0}]}]
    fromEntities: [world]
  ingressDeny:
  - fromEntities: [world]
",
    );
    put(&mut engine, "twin", "  ingress:\n  - toPorts: [{ports: [{port: '80', protocol: TCP}]}]\n");
    let found = lint(&engine, &suspect);
    let has = |path: &str, wanted: fn(&Suspicion) -> bool| found.iter().any(|f| f.path == path && wanted(&f.what));
    assert!(has("spec.ingress[0]", |s| *s == Suspicion::EmptyPeers), "{found:?}");
    assert!(has("spec.ingress[1]", |s| matches!(s, Suspicion::PeerIsNobody { .. })), "{found:?}");
    assert!(has("spec.ingress[2]", |s| *s == Suspicion::Everyone), "{found:?}");
    assert!(has("spec.ingress[2]", |s| matches!(s, Suspicion::Repeated { .. })), "{found:?}");
    assert!(has("spec.ingress[3]", |s| *s == Suspicion::EveryIcmpType), "{found:?}");
    assert!(has("spec.ingress[3]", |s| matches!(s, Suspicion::Denied { .. })), "{found:?}");
    // What other objects in force say counts, too.
    put(&mut engine, "wide", "  ingress:\n  - fromEndpoints: [{matchLabels: {app: foo}}]\n");
    put(
        &mut engine,
        "deny",
        "  ingressDeny:\n  - fromEntities: [all]\n    toPorts: [{ports: [{port: '443', protocol: TCP}]}]\n",
    );
    let narrow = "  ingress:\n  - fromEndpoints: [{matchLabels: {app: foo}}]\n    toPorts: [{ports: [{port: 'PORT', protocol: TCP}]}]\n";
    let found = |port: &str| lint(&engine, &objects("narrow", &narrow.replace("PORT", port)));
    let by = |found: &[policy::lint::Finding]| found.iter().map(|f| f.what.to_string()).collect::<Vec<_>>().join("; ");
    assert!(by(&found("82")).contains("adds nothing, since CiliumNetworkPolicy default/wide spec.ingress[0]"));
    assert!(by(&found("443")).contains("since CiliumNetworkPolicy default/deny spec.ingressDeny[0] denies all of it"));
    let l7 = |rules: &str| {
        let peers = "  ingress:\n  - fromEndpoints: [{matchLabels: {app: foo}}]\n";
        format!("{peers}    toPorts: [{{ports: [{{port: '90', protocol: TCP}}], rules: {{{rules}}}}}]\n")
    };
    put(&mut engine, "http", &l7("http: [{path: /a}]"));
    let contradicting = by(&lint(&engine, &objects("kafka", &l7("kafka: [{topic: t}]"))));
    assert!(contradicting.contains("default/http spec.ingress[0], which demands another parser"), "{contradicting}");
    let (mut engine, _) = Engine::new(Config::default());
    engine.upsert_identity(NumericIdentity::new(FOO), &labels("foo")).unwrap();
    engine.upsert_endpoint(web(), EndpointFacts { labels: labels("web"), ..EndpointFacts::default() });
    assert!(lint(&engine, &objects("fine", &format!("  ingress:\n{L3}"))).is_empty());
}

#[test]
fn readers_never_panic() {
    let seed = "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: a}\nspec: {endpointSelector: {}, ingress: [{fromCIDRSet: [{cidr: 10.0.0.0/8, except: [10.1.0.0/16]}]}]}\n";
    bolero::check!().with_iterations(3000).with_max_len(256).for_each(|bytes| {
        let _ = policy::parse(&String::from_utf8_lossy(bytes));
        // And near what is valid: pieces of a document, with pieces of noise.
        let mut text = seed.as_bytes().to_vec();
        for change in bytes.chunks(3) {
            if let [a, b, value] = change {
                let at = (usize::from(*a) << 8 | usize::from(*b)) % text.len();
                text[at] = *value;
            }
        }
        let _ = policy::parse(&String::from_utf8_lossy(&text));
    });
}

#[test]
fn what_demands_authentication_is_refused_while_nothing_fulfils_it() {
    let rule = format!("  ingress:\n{L3L4}    authentication: {{mode: required}}\n{L3}");
    for (mutual_auth, want) in [(false, "deny"), (true, "allow")] {
        let (mut engine, _) = Engine::new(Config { allow_localhost: false, mutual_auth, ..Config::default() });
        engine.upsert_identity(NumericIdentity::new(FOO), &labels("foo")).unwrap();
        engine.upsert_endpoint(web(), EndpointFacts { labels: labels("web"), ..EndpointFacts::default() });
        put(&mut engine, "auth", &rule);
        assert_eq!((verdict(&engine, FOO, 80), verdict(&engine, FOO, 81)), (want, "allow"));
    }
}
