//! Verdicts upstream's own engine gave for CiliumNetworkPolicies and CiliumClusterwideNetworkPolicies.

use super::{ByEngine, Judge, Probe, Score, list, text};
use policy::{
    Config, Direction, EndpointFacts, Enforcement, Engine, MatchType, Verdict,
    parse::{Options, parse_value},
};
use serde_json::Value;
use std::{collections::BTreeMap, net::IpAddr};
use types::{Cidr, EndpointId, Labels, NumericIdentity, Protocol};

/// Scores of the corpus.
#[derive(Debug)]
pub struct Outcome {
    /// Flows of cases without a `q:` tag: verdict and parser.
    pub plain: Score,
    /// Flows of the rest.
    pub quirks: Score,
    /// Enforcement flags of all cases.
    pub enforcement: Score,
    /// What the deciding rule named, where the verdict is right.
    pub matched: Score,
    /// Policies that must be rejected.
    pub rejected: Score,
    /// Entries, ours and upstream's, of the cases that list the latter.
    pub entries: (u64, u64),
}

pub fn run(corpus: &Value) -> Outcome {
    run_by(corpus, &mut ByEngine)
}

/// The same, with verdicts from somewhere else.
pub fn run_by(corpus: &Value, judge: &mut dyn Judge) -> Outcome {
    let bases: BTreeMap<&str, Engine> =
        list(&corpus["configs"]).iter().map(|c| (text(&c["name"]), base(c, &corpus["identities"]))).collect();
    let mut out = Outcome {
        plain: Score::new("cilium-oracle flows without q:"),
        quirks: Score::new("cilium-oracle flows with q:"),
        enforcement: Score::new("cilium-oracle enforcement flags"),
        matched: Score::new("cilium-oracle match types"),
        rejected: Score::new("cilium-oracle rejected policies"),
        entries: (0, 0),
    };
    for case in list(&corpus["cases"]) {
        run_case(&bases[text(&case["config"])], case, judge, &mut out);
    }
    for case in list(&corpus["invalid"]) {
        // Contradicting L7 rules are taken in, reported, and refused on the ports they are about.
        let rejected = load(&bases[text(&case["config"])], case).is_none_or(|(_, _, conflicts)| conflicts);
        out.rejected.count(rejected, &[text(&case["stage"])], || format!("{}: {}", text(&case["id"]), case));
    }
    out
}

fn base(config: &Value, identities: &Value) -> Engine {
    let settings = Config {
        allow_localhost: text(&config["allow_localhost"]) == "always",
        enforcement: match text(&config["policy_enforcement"]) {
            "always" => Enforcement::Always,
            _ => Enforcement::Default,
        },
        host_firewall: config["host_firewall"] == true,
        ipv4: config["ipv4"] == true,
        ipv6: config["ipv6"] == true,
        cluster_name: text(&config["cluster_name"]).into(),
        ..Config::default()
    };
    let (mut engine, _) = Engine::new(settings);
    for identity in list(identities) {
        let id = NumericIdentity::new(identity["id"].as_u64().unwrap() as u32);
        let labels = Labels::parse(list(&identity["labels"]).iter().map(text));
        engine.upsert_identity(id, &labels).expect("far below the bound");
    }
    engine
}

fn load(base: &Engine, case: &Value) -> Option<(Engine, EndpointId, bool)> {
    let mut engine = base.clone();
    for identity in list(&case["local_identities"]) {
        let labels: Vec<&str> = list(&identity["labels"]).iter().map(text).collect();
        if labels.iter().any(|l| l.starts_with("fqdn:")) {
            let id = NumericIdentity::new(identity["id"].as_u64().unwrap() as u32);
            let prefix: Cidr = text(&identity["prefix"]).parse().ok()?;
            engine.upsert_identity(id, &Labels::parse(labels)).expect("far below the bound");
            engine.upsert_address(prefix, id, &[]).expect("far below the bound");
        }
    }
    let subject = NumericIdentity::new(case["subject"].as_u64().unwrap() as u32);
    let labels = engine.labels_of(subject).cloned().unwrap_or_default();
    let endpoint = EndpointId::new(1).unwrap();
    let host = subject == NumericIdentity::HOST;
    engine.upsert_endpoint(endpoint, EndpointFacts { labels, host, ..EndpointFacts::default() });
    let mut conflicts = false;
    for value in list(&case["policies"]) {
        for object in parse_value(value, &Options::default()).ok()? {
            conflicts |= !engine.upsert_object(object).expect("far below the bound").conflicts.is_empty();
        }
    }
    Some((engine, endpoint, conflicts))
}

fn run_case(base: &Engine, case: &Value, judge: &mut dyn Judge, out: &mut Outcome) {
    let tags: Vec<&str> =
        list(&case["tags"]).iter().map(text).filter(|t| t.starts_with("f:") || t.starts_with("q:")).collect();
    let quirky = tags.iter().any(|t| t.starts_with("q:"));
    let id = text(&case["id"]);
    let loaded = load(base, case);
    if let Some((engine, endpoint, _)) = &loaded {
        judge.load(engine);
        let judged = engine.endpoint_policy(*endpoint).unwrap();
        for (name, is) in [("ingress", judged.ingress), ("egress", judged.egress)] {
            let want = case["enforcement"][name] == true;
            out.enforcement.count(want == is, &tags, || format!("{id}: {name} enforced: want {want}, found {is}"));
        }
        if case["map_state"].is_array() {
            out.entries.0 += engine.stats().entries as u64;
            out.entries.1 += list(&case["map_state"]).len() as u64;
        }
    }
    for flow in list(&case["flows"]) {
        let score = if quirky { &mut out.quirks } else { &mut out.plain };
        let Some((engine, endpoint, _)) = &loaded else {
            score.count(false, &tags, || format!("{id}: refused"));
            continue;
        };
        let (found, matched) = found(engine, *endpoint, flow, judge);
        let want = format!("{} {}", text(&flow[5]), text(&flow[6]));
        let passed = want.trim() == found;
        score.count(passed, &tags, || {
            let inputs = inputs(case, engine, *endpoint);
            format!("{id} {tags:?}: {flow} found {found} ({matched:?}); {inputs}")
        });
        if let (true, Some(matched)) = (passed, matched) {
            let right = text(&flow[7]) == matched || (found == "deny" && matched == "none");
            let pair = format!("{} is {matched}", text(&flow[7]));
            out.matched.count(right, &[&pair], || format!("{id}: {flow} found {matched}"));
        }
    }
}

/// All that a verdict follows from, besides the flow.
fn inputs(case: &Value, engine: &Engine, endpoint: EndpointId) -> String {
    let config = text(&case["config"]);
    let (subject, local, policies) = (&case["subject"], &case["local_identities"], &case["policies"]);
    let judged = engine.endpoint_policy(endpoint);
    format!("config {config}, subject {subject} ({judged:?}), local identities {local}, policies {policies}")
}

fn found(engine: &Engine, endpoint: EndpointId, flow: &Value, judge: &mut dyn Judge) -> (String, Option<&'static str>) {
    let direction = if text(&flow[0]) == "ingress" { Direction::Ingress } else { Direction::Egress };
    let (identity, addr) = match &flow[1] {
        Value::String(addr) => (NumericIdentity::UNKNOWN, Some(addr.parse::<IpAddr>().unwrap())),
        id => (NumericIdentity::new(id.as_u64().unwrap() as u32), None),
    };
    let protocol = match text(&flow[3]) {
        "UDP" => Protocol::Udp,
        "SCTP" => Protocol::Sctp,
        "ICMP" => Protocol::Icmp,
        "ICMPv6" => Protocol::Icmpv6,
        _ => Protocol::Tcp,
    };
    let port = flow[4].as_u64().unwrap() as u16;
    let (verdict, matched) = judge.verdict(engine, &Probe { endpoint, direction, identity, addr, protocol, port });
    let found = match verdict {
        Verdict::Allow => "allow".to_string(),
        Verdict::Deny => "deny".to_string(),
        Verdict::Redirect(id) => format!("redirect {}", engine.redirect(id).unwrap().parser.name()),
    };
    let matched = matched.map(|matched| match matched {
        MatchType::None => "none",
        MatchType::L3Only => "l3-only",
        MatchType::L3L4 => "l3-l4",
        MatchType::L4Only => "l4-only",
        MatchType::All => "all",
        MatchType::L3Proto => "l3-proto",
        MatchType::ProtoOnly => "proto-only",
    });
    (found, matched)
}
