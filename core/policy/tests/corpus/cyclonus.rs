//! Kubernetes NetworkPolicy truth tables: who reaches whom, per port.

use super::{ByEngine, Judge, Probe, Score, list, text};
use policy::{
    Config, Direction, EndpointFacts, Engine, NamedPort, Verdict,
    parse::{Options, parse_value},
    rule::CidrScope,
};
use serde_json::Value;
use std::net::IpAddr;
use types::{Cidr, EndpointId, Label, Labels, NumericIdentity, Protocol};

struct Pod {
    name: String,
    endpoint: EndpointId,
    identity: NumericIdentity,
    addr: Option<IpAddr>,
    ports: Vec<(u16, Protocol, String)>,
}

/// Outcome: cells against the tables, and steps whose differing cells with upstream's CIDR meaning are as marked.
pub fn run(corpus: &Value) -> (Score, Score) {
    run_by(corpus, &mut ByEngine)
}

/// The same, with verdicts from somewhere else.
pub fn run_by(corpus: &Value, judge: &mut dyn Judge) -> (Score, Score) {
    let mut cells = Score::new("cyclonus cells");
    let mut marked = Score::new("cyclonus steps with upstream's CIDR meaning");
    for case in list(&corpus["cases"]) {
        let tags: Vec<&str> = list(&case["tags"]).iter().map(text).collect();
        for (number, step) in list(&case["steps"]).iter().enumerate() {
            let id = format!("{} step {number}", text(&case["id"]));
            run_step(step, CidrScope::Everyone, judge, &mut |passed, what| {
                cells.count(passed, &tags, || {
                    format!("{id}: {what}; policies {}, resources {}", step["policies"], step["resources"])
                });
            });
            let mut differing = 0;
            run_step(step, CidrScope::World, judge, &mut |passed, _| differing += u64::from(!passed));
            let want = step["cilium_engine_differing_cells"].as_u64().unwrap_or(0);
            marked.count(differing == want, &[], || format!("{id}: {differing} cells differ, marked {want}"));
        }
    }
    (cells, marked)
}

fn protocol(name: &str) -> Protocol {
    match name {
        "UDP" => Protocol::Udp,
        "SCTP" => Protocol::Sctp,
        _ => Protocol::Tcp,
    }
}

fn run_step(step: &Value, scope: CidrScope, judge: &mut dyn Judge, cell: &mut impl FnMut(bool, String)) {
    let (mut engine, _) = Engine::new(Config { allow_localhost: false, ..Config::default() });
    let resources = &step["resources"];
    let mut pods = Vec::new();
    for (i, pod) in list(&resources["pods"]).iter().enumerate() {
        pods.push(add_pod(&mut engine, i, pod, &resources["namespaces"]));
    }
    let options = Options { ip_block_scope: scope, ..Options::default() };
    for value in list(&step["policies"]) {
        for object in parse_value(value, &options).unwrap_or_else(|e| panic!("{value}: {e:?}")) {
            engine.upsert_object(object).expect("far below the bound");
        }
    }
    judge.load(&engine);
    for table in list(&step["tables"]).iter().chain(list(&step["probe_tables"])) {
        check_table(&engine, &pods, table, judge, cell);
    }
}

fn add_pod(engine: &mut Engine, i: usize, pod: &Value, namespaces: &Value) -> Pod {
    let namespace = text(&pod["namespace"]);
    let mut labels: Labels = Labels::default();
    for (key, value) in pod["labels"].as_object().into_iter().flatten() {
        labels.insert(Label::k8s(key, text(value)));
    }
    for (key, value) in namespaces[namespace].as_object().into_iter().flatten() {
        labels.insert(Label::k8s(&format!("io.cilium.k8s.namespace.labels.{key}"), text(value)));
    }
    labels.insert(Label::k8s("io.kubernetes.pod.namespace", namespace));
    let identity = NumericIdentity::new(1000 + i as u32);
    engine.upsert_identity(identity, &labels).expect("far below the bound");
    let ports: Vec<(u16, Protocol, String)> = list(&pod["ports"])
        .iter()
        .map(|p| (p["port"].as_u64().unwrap() as u16, protocol(text(&p["protocol"])), text(&p["portName"]).to_string()))
        .collect();
    let named_ports: Vec<NamedPort> = ports
        .iter()
        .filter(|(_, _, name)| !name.is_empty())
        .map(|(port, protocol, name)| NamedPort { name: name.as_str().into(), protocol: *protocol, port: *port })
        .collect();
    // Pods of recipes have no address in the tables; give them one no rule speaks of.
    let addr: IpAddr = text(&pod["ip"]).parse().unwrap_or_else(|_| format!("fd99::{}", i + 1).parse().unwrap());
    engine.upsert_address(Cidr::host(addr), identity, &named_ports).expect("far below the bound");
    let endpoint = EndpointId::new(1 + i as u16).unwrap();
    engine.upsert_endpoint(endpoint, EndpointFacts { labels, named_ports, ..EndpointFacts::default() });
    Pod { name: format!("{namespace}/{}", text(&pod["name"])), endpoint, identity, addr: Some(addr), ports }
}

fn check_table(
    engine: &Engine,
    pods: &[Pod],
    table: &Value,
    judge: &mut dyn Judge,
    cell: &mut impl FnMut(bool, String),
) {
    let proto = protocol(text(&table["protocol"]));
    for (s, src) in pods.iter().enumerate() {
        for (d, dst) in pods.iter().enumerate() {
            let wanted = |kind: &str| text(&table[kind][s]).chars().nth(d).unwrap_or('-');
            let served = match &table["port"] {
                Value::String(name) => dst.ports.iter().find(|(_, p, n)| *p == proto && n == name).map(|p| p.0),
                number => {
                    let number = number.as_u64().unwrap_or(0) as u16;
                    dst.ports.iter().find(|(n, p, _)| *p == proto && *n == number).map(|p| p.0)
                }
            };
            let absent = if table["port"].is_string() { 'N' } else { 'P' };
            let mut ask = |pod: &Pod, peer: &Pod, direction, port| {
                let (identity, addr) = (peer.identity, peer.addr);
                let probe = Probe { endpoint: pod.endpoint, direction, identity, addr, protocol: proto, port };
                if judge.verdict(engine, &probe).0 == Verdict::Deny { 'X' } else { '.' }
            };
            let (ingress, egress) = match served {
                None => (absent, '?'),
                Some(port) => (ask(dst, src, Direction::Ingress, port), ask(src, dst, Direction::Egress, port)),
            };
            for (kind, found) in [("ingress", ingress), ("egress", egress)] {
                let want = wanted(kind);
                if want != '-' {
                    let what = || {
                        format!(
                            "{kind} {} -> {} port {} {proto}: want {want}, found {found}",
                            src.name, dst.name, table["port"]
                        )
                    };
                    cell(want == found, if want == found { String::new() } else { what() });
                }
            }
        }
    }
}
