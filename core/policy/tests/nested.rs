//! Nested prefixes in the rules of one policy: entries do not multiply, verdicts stay, and the outcome does not depend on
//! the order in which rules came and went.
#![allow(clippy::unwrap_used, reason = "a test stops where its setting cannot be made")]

use policy::{
    Config, Direction, EndpointFacts, Engine, ObjectKey, ObjectKind, PolicyObject, Verdict,
    engine::{Fit, PeerQuestion, Question},
};
use std::net::IpAddr;
use types::{EndpointId, Labels, NumericIdentity};

fn web() -> EndpointId {
    EndpointId::new(1).unwrap()
}

fn engine() -> Engine {
    let (mut engine, _) = Engine::new(Config::default());
    let labels = Labels::parse(["k8s:app=web", "k8s:io.kubernetes.pod.namespace=default"]);
    engine.upsert_endpoint(web(), EndpointFacts { labels, ..EndpointFacts::default() });
    engine
}

fn object(name: &str, section: &str) -> PolicyObject {
    let text = format!(
        "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {{name: {name}, namespace: default}}\nspec:\n  \
         endpointSelector: {{matchLabels: {{app: web}}}}\n  {section}\n"
    );
    policy::parse(&text).unwrap_or_else(|e| panic!("{}", e[0])).remove(0)
}

fn to(name: &str, cidr: &str, port: u16) -> PolicyObject {
    object(name, &format!("egress: [{{toCIDR: [{cidr}], toPorts: [{{ports: [{{port: '{port}', protocol: TCP}}]}}]}}]"))
}

fn key(name: &str) -> ObjectKey {
    ObjectKey { kind: ObjectKind::CiliumNetworkPolicy, namespace: "default".into(), name: name.into() }
}

fn allowed(engine: &Engine, addr: &str, port: u16) -> bool {
    let addr: IpAddr = addr.parse().unwrap();
    let class = engine.class_of(NumericIdentity::UNKNOWN, Some(addr));
    engine.verdict(web(), Direction::Egress, class, 6, port).unwrap().verdict != Verdict::Deny
}

/// The shape of the original's CIDR rules: five lengths nested in three of eight bits, 97 ports.
#[test]
fn rules_about_nested_prefixes_need_the_entries_of_the_widest() {
    let rules: Vec<String> = (1..=10_000u32)
        .map(|n| {
            let base = ["10", "192", "244"][(n % 3) as usize];
            let (second, third) = (n % 17, n % 121);
            let cidr = match n % 5 {
                0 => format!("{base}.0.0.0/8"),
                1 => format!("{base}.{second}.0.0/16"),
                2 => format!("{base}.{second}.{third}.0/24"),
                3 => format!("{base}.{second}.{third}.{}/28", (n % 16) << 4),
                _ => format!("{base}.{second}.{third}.{}/32", n % 255),
            };
            format!("  - {{toCIDR: [{cidr}], toPorts: [{{ports: [{{port: '{}', protocol: TCP}}]}}]}}", 80 + n % 97)
        })
        .collect();
    let mut engine = engine();
    engine.upsert_object(object("many", &format!("egress:\n{}", rules.join("\n")))).unwrap();
    let stats = engine.stats();
    assert!(stats.entries <= 3 * 97, "{stats:?}");
    for addr in ["10.1.2.3", "192.200.0.1", "244.16.120.5"] {
        assert!((80..177).all(|port| allowed(&engine, addr, port)), "{addr}");
        assert!(!allowed(&engine, addr, 177) && !allowed(&engine, addr, 79), "{addr}");
    }
    assert!(!allowed(&engine, "11.0.0.1", 80));
}

#[test]
fn what_a_wider_rule_said_is_said_again_when_it_goes() {
    let mut engine = engine();
    for (name, cidr, port) in [
        ("narrow", "10.1.2.0/24", 80),
        ("wide", "10.0.0.0/8", 80),
        ("middle", "10.1.0.0/16", 80),
        ("other", "10.1.0.0/16", 81),
    ] {
        engine.upsert_object(to(name, cidr, port)).unwrap();
    }
    let all = engine.stats();
    let probes =
        |engine: &Engine| ["10.1.2.3", "10.1.9.9", "10.9.9.9"].map(|a| [80, 81].map(|p| allowed(engine, a, p)));
    let before = probes(&engine);
    assert_eq!(before, [[true, true], [true, true], [true, false]]);
    // Port 81 of 10.1.0.0/16 is all that is said besides 10.0.0.0/8.
    assert_eq!(all.entries, 3, "{all:?}");

    engine.remove_object(&key("wide"));
    assert_eq!(probes(&engine), [[true, true], [true, true], [false, false]]);
    engine.remove_object(&key("middle"));
    assert_eq!(probes(&engine), [[true, true], [false, true], [false, false]]);
    engine.upsert_object(to("wide", "10.0.0.0/8", 80)).unwrap();
    engine.upsert_object(to("middle", "10.1.0.0/16", 80)).unwrap();
    assert_eq!((probes(&engine), engine.stats()), (before, all));
}

#[test]
fn an_exception_other_ports_and_denials_are_not_spoken_for() {
    let mut engine = engine();
    engine.upsert_object(to("inside", "10.1.0.0/16", 80)).unwrap();
    let except = "egress: [{toCIDRSet: [{cidr: 10.0.0.0/8, except: [10.1.1.0/24]}], toPorts: [{ports: [{port: '80', protocol: TCP}]}]}]";
    engine.upsert_object(object("except", except)).unwrap();
    assert!(allowed(&engine, "10.1.1.1", 80), "the exception is within what another rule allows");
    engine.remove_object(&key("inside"));
    assert!(!allowed(&engine, "10.1.1.1", 80) && allowed(&engine, "10.1.2.1", 80));
    engine.upsert_object(object("deny", "egressDeny: [{toCIDR: [10.2.0.0/16]}]")).unwrap();
    assert!(!allowed(&engine, "10.2.0.1", 80) && allowed(&engine, "10.3.0.1", 80));
}

#[test]
fn an_explanation_knows_the_rules_that_were_left_out() {
    let mut engine = engine();
    engine.upsert_object(to("narrow", "10.1.0.0/16", 80)).unwrap();
    engine.upsert_object(to("wide", "10.0.0.0/8", 80)).unwrap();
    let peer = PeerQuestion { addr: Some("10.1.2.3".parse().unwrap()), ..PeerQuestion::default() };
    let question = Question { direction: Direction::Egress, peer, protocol: 6, port: 80 };
    let why = engine.explain(web(), &question).unwrap();
    assert_eq!(why.deciding.len(), 1);
    let narrow = why
        .considered
        .iter()
        .find(|c| matches!(&c.rule, policy::RuleName::Rule { object, .. } if &*object.name == "narrow"));
    assert_eq!(narrow.map(|c| c.fit), Some(Fit::SaidByWider), "{why:?}");
    engine.upsert_object(object("deny", "egressDeny: [{toCIDR: [10.1.2.0/24]}]")).unwrap();
    let why = engine.explain(web(), &question).unwrap();
    assert_eq!(why.verdict, Verdict::Deny);
    assert!(why.considered.iter().filter(|c| c.fit == Fit::Overruled).count() == 2, "{why:?}");
}
