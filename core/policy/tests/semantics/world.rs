//! A small cluster to ask about, and policies in short form.

use policy::{Config, Direction, EndpointFacts, Engine, NamedPort, ObjectKind, PolicyObject, Verdict, parse};
use std::net::IpAddr;
use types::{Cidr, EndpointId, Label, Labels, NumericIdentity, Protocol};

/// Name, identity, address, labels. Who has no address is asked about by identity alone.
const PEERS: &[(&str, u32, &str, &[&str])] = &[
    (
        "client",
        1000,
        "10.0.1.1",
        &["k8s:app=client", "k8s:version=2", "ns=default", "nslabel:team=red", "cluster=default"],
    ),
    ("stranger", 1001, "10.0.1.2", &["k8s:app=client", "ns=other", "nslabel:team=blue", "cluster=default"]),
    ("east", 1002, "10.0.1.3", &["k8s:app=client", "ns=default", "cluster=east"]),
    ("container", 1003, "10.0.1.4", &["container:app=client", "ns=default", "cluster=default"]),
    ("host", 1, "192.168.0.1", &["reserved:host"]),
    ("unmanaged", 3, "", &["reserved:unmanaged"]),
    ("health", 4, "10.0.1.5", &["reserved:health"]),
    ("init", 5, "", &["reserved:init"]),
    ("node", 6, "192.168.0.2", &["reserved:remote-node"]),
    ("api", 7, "192.168.0.3", &["reserved:kube-apiserver", "reserved:remote-node"]),
    ("ingress", 8, "10.0.1.6", &["reserved:ingress"]),
    (
        "api-outside",
        0x0100_0005,
        "203.0.113.9",
        &["cidr:203.0.113.9/32", "reserved:world-ipv4", "reserved:kube-apiserver"],
    ),
    ("example.com", 0x0100_0006, "203.0.113.20", &["cidr:203.0.113.20/32", "reserved:world-ipv4", "fqdn:example.com"]),
];

/// Others, who are of the world: name and address.
const WORLD: &[(&str, &str)] =
    &[("world", "8.8.8.8"), ("world6", "2001:db8::1"), ("ten-one", "10.1.2.3"), ("ten-two", "10.2.2.3")];

fn labels(texts: &[&str]) -> Labels {
    let of = |text: &&str| match text.split_once('=') {
        Some(("ns", name)) => Label::k8s("io.kubernetes.pod.namespace", name),
        Some(("cluster", name)) => Label::k8s("io.cilium.k8s.policy.cluster", name),
        _ => match text.strip_prefix("nslabel:").and_then(|rest| rest.split_once('=')) {
            Some((key, value)) => Label::k8s(&format!("io.cilium.k8s.namespace.labels.{key}"), value),
            None => Label::parse(text),
        },
    };
    texts.iter().map(of).collect()
}

pub fn web() -> EndpointId {
    EndpointId::new(1).unwrap()
}

fn port(name: &str, protocol: Protocol, port: u16) -> NamedPort {
    NamedPort { name: name.into(), protocol, port }
}

/// The endpoint that is asked about: a pod `web`, unless other labels are given.
pub fn subject(labels_: &[&str]) -> EndpointFacts {
    let labels =
        if labels_.is_empty() { labels(&["k8s:app=web", "ns=default", "cluster=default"]) } else { labels(labels_) };
    let named_ports = vec![port("http", Protocol::Tcp, 8080), port("dns", Protocol::Udp, 5353)];
    EndpointFacts { host: labels.has_reserved("host"), labels, named_ports, audit: false }
}

/// An engine that knows everybody, with these policies in force.
pub fn engine(config: Config, subject: EndpointFacts, policies: &[&str]) -> Engine {
    let (mut engine, _) = Engine::new(config);
    for (_, id, addr, texts) in PEERS {
        let id = NumericIdentity::new(*id);
        engine.upsert_identity(id, &labels(texts)).unwrap();
        if !addr.is_empty() {
            let ports = match id.as_u32() {
                1000 => vec![port("http", Protocol::Tcp, 8001)],
                1001 => vec![port("http", Protocol::Tcp, 8002), port("http", Protocol::Sctp, 8003)],
                _ => Vec::new(),
            };
            engine.upsert_address(Cidr::host(addr.parse().unwrap()), id, &ports).unwrap();
        }
    }
    engine.upsert_endpoint(web(), subject);
    for policy in policies {
        for object in objects(policy) {
            engine.upsert_object(object).unwrap();
        }
    }
    engine
}

/// Reads `KIND NAMESPACE/NAME SPEC`, where SPEC is flow-style YAML.
pub fn read(policy: &str) -> Result<Vec<PolicyObject>, Vec<policy::DocError>> {
    let mut parts = policy.splitn(3, ' ');
    let (kind, name, spec) = (parts.next().unwrap(), parts.next().unwrap(), parts.next().unwrap());
    let (version, kind) = match kind {
        "cnp" => ("cilium.io/v2", ObjectKind::CiliumNetworkPolicy.name()),
        "ccnp" => ("cilium.io/v2", ObjectKind::CiliumClusterwideNetworkPolicy.name()),
        "knp" => ("networking.k8s.io/v1", ObjectKind::NetworkPolicy.name()),
        other => panic!("{other} is no kind"),
    };
    let metadata = match name.split_once('/') {
        Some((namespace, name)) => format!("{{namespace: {namespace}, name: {name}}}"),
        None => format!("{{name: {name}}}"),
    };
    let text = format!("apiVersion: {version}\nkind: {kind}\nmetadata: {metadata}\nspec: {spec}\n");
    parse::parse_with(&text, &parse::Options { node_selectors: true, ..parse::Options::default() })
}

fn objects(policy: &str) -> Vec<PolicyObject> {
    read(policy).unwrap_or_else(|errors| panic!("{policy}: {}", errors[0]))
}

/// A policy about the pod `web` in the namespace `default`.
pub fn cnp(rules: &str) -> String {
    format!("cnp default/web {{endpointSelector: {{matchLabels: {{app: web}}}}, {rules}}}")
}

/// What becomes of traffic: `allow`, `deny` or `proxy`. `what`: `80`, `80/UDP`, `8/ICMP`.
pub fn verdict(engine: &Engine, direction: Direction, peer: &str, what: &str) -> &'static str {
    let (port, protocol) = what.split_once('/').unwrap_or((what, "TCP"));
    let protocol = match protocol {
        "TCP" => 6,
        "UDP" => 17,
        "SCTP" => 132,
        "ICMP" => 1,
        "ICMPv6" => 58,
        other => panic!("{other} is no protocol"),
    };
    let judge = |id: NumericIdentity, addr: Option<IpAddr>| {
        let class = engine.class_of(id, addr);
        match engine.verdict(web(), direction, class, protocol, port.parse().unwrap()).unwrap().verdict {
            Verdict::Allow => "allow",
            Verdict::Deny => "deny",
            Verdict::Redirect(_) => "proxy",
        }
    };
    if let Some((_, addr)) = WORLD.iter().find(|(name, _)| *name == peer) {
        return judge(NumericIdentity::UNKNOWN, Some(addr.parse().unwrap()));
    }
    let (_, id, addr, _) = PEERS.iter().find(|(name, ..)| *name == peer).unwrap_or_else(|| panic!("nobody is {peer}"));
    judge(NumericIdentity::new(*id), (!addr.is_empty()).then(|| addr.parse().unwrap()))
}

/// Everybody there is.
pub fn everybody() -> impl Iterator<Item = &'static str> {
    PEERS.iter().map(|(name, ..)| *name).chain(WORLD.iter().map(|(name, _)| *name))
}

/// Asserts who is let through, on one port; everybody else is not.
#[track_caller]
pub fn only(engine: &Engine, direction: Direction, what: &str, allowed: &[&str]) {
    let found: Vec<&str> = everybody().filter(|peer| verdict(engine, direction, peer, what) != "deny").collect();
    let mut wanted: Vec<&str> = everybody().filter(|peer| allowed.contains(peer)).collect();
    assert_eq!(wanted.len(), allowed.len(), "{allowed:?} are not all there");
    wanted.sort_by_key(|peer| everybody().position(|p| p == *peer));
    assert_eq!(found, wanted, "{direction} {what}");
}
