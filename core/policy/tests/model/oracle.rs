//! Loops over rules and decides. Shares nothing with the engine but the parsed rules.

use crate::history::{CROWD, IDENTITIES, World};
use policy::{
    Config, Direction, EndpointFacts, Enforcement,
    rule::{Action, CidrRule, CidrScope, Entity, Peer, PeerRule, Peers, PortSpec, Ports, Rule, Subject},
};
use std::net::IpAddr;
use types::{
    Cidr, EndpointId, Labels, NumericIdentity, Protocol,
    selector::{Demand, Selector},
};

#[derive(Debug, Clone, Copy)]
pub enum PeerProbe {
    Identity(NumericIdentity),
    Address(IpAddr),
}

#[derive(Debug, Clone, Copy)]
pub struct Probe {
    pub endpoint: EndpointId,
    pub direction: Direction,
    pub peer: PeerProbe,
    pub protocol: u8,
    pub port: u16,
}

impl Probe {
    pub fn all() -> Vec<Self> {
        let ids = IDENTITIES.into_iter().chain(CROWD).chain([1, 9, 777]);
        let ids = ids.map(NumericIdentity::new).map(PeerProbe::Identity);
        let addrs = ["10.1.2.3", "10.1.2.4", "10.1.2.9", "10.1.9.9", "10.9.9.9", "192.0.2.1", "fd00::1", "2001::1"];
        let addrs = addrs.iter().map(|a| PeerProbe::Address(a.parse().expect("they are addresses")));
        let peers: Vec<PeerProbe> = ids.chain(addrs).collect();
        let mut all = Vec::new();
        for endpoint in [1, 2].map(|n| EndpointId::new(n).expect("not zero")) {
            for direction in Direction::BOTH {
                for &peer in &peers {
                    for (protocol, port) in [(6, 80), (6, 8080), (6, 53), (17, 53), (1, 8)] {
                        all.push(Self { endpoint, direction, peer, protocol, port });
                    }
                }
            }
        }
        all
    }
}

#[derive(Debug, PartialEq, Eq)]
pub enum Expect {
    NoEndpoint,
    Deny,
    Allow,
    Redirect,
    /// Some rule that allows redirects and some does not; which wins is upstream's order, tested elsewhere.
    AllowOrRedirect,
}

/// What is known of the other side.
struct Seen<'w> {
    labels: Option<&'w Labels>,
    addr: Option<IpAddr>,
    stands_for: Option<Cidr>,
    ports: Vec<(&'w str, Protocol, u16)>,
}

fn matches(selector: &Selector, labels: &Labels) -> bool {
    selector.requirements().iter().all(|r| {
        let any = &*r.key.source == "any";
        let found = labels.iter().find(|l| l.key() == &*r.key.key && (any || l.source() == &*r.key.source));
        match &r.demand {
            Demand::In(values) => found.is_some_and(|l| values.iter().any(|v| **v == *l.value())),
            Demand::NotIn(values) => found.is_none_or(|l| values.iter().all(|v| **v != *l.value())),
            Demand::Exists => found.is_some(),
            Demand::Absent => found.is_none(),
        }
    })
}

fn reserved(labels: &Labels, name: &str) -> bool {
    labels.iter().any(|l| l.source() == "reserved" && l.key() == name)
}

fn is_world(labels: &Labels) -> bool {
    ["world", "world-ipv4", "world-ipv6"].iter().any(|n| reserved(labels, n))
}

fn see<'w>(world: &'w World, probe: &Probe) -> Seen<'w> {
    match probe.peer {
        PeerProbe::Identity(id) => {
            let labels = world.identities.get(&id);
            let stands_for = labels.filter(|l| is_world(l)).and_then(|l| {
                let named = l.iter().find_map(|l| (l.source() == "cidr").then(|| l.key().parse().ok()).flatten());
                let all = |name: &str, text: &str| reserved(l, name).then(|| text.parse().expect("it is a prefix"));
                named.or_else(|| all("world-ipv4", "0.0.0.0/0")).or_else(|| all("world-ipv6", "::/0"))
            });
            Seen { labels, addr: None, stands_for, ports: Vec::new() }
        }
        PeerProbe::Address(addr) => {
            let told = world.addresses.iter().filter(|(p, _)| p.contains(addr)).max_by_key(|(p, _)| p.bits());
            let labels = told.and_then(|(_, (id, _))| world.identities.get(id));
            let ports = told.into_iter().flat_map(|(_, (_, ports))| ports).map(|p| (&*p.name, p.protocol, p.port));
            Seen { labels, addr: Some(addr), stands_for: None, ports: ports.collect() }
        }
    }
}

fn cidr_means(rule: &CidrRule, seen: &Seen<'_>) -> bool {
    let world = seen.labels.is_some_and(is_world);
    if !world && (rule.scope == CidrScope::World || seen.addr.is_none()) {
        return false;
    }
    match (seen.addr, seen.stands_for) {
        (Some(addr), _) => rule.cidr.contains(addr) && !rule.except.iter().any(|e| e.contains(addr)),
        (None, Some(prefix)) => {
            let touches = |e: &Cidr| e.covers(&prefix) || prefix.covers(e);
            rule.cidr.covers(&prefix) && !rule.except.iter().any(touches)
        }
        (None, None) => false,
    }
}

fn peer_matches(config: &Config, world: &World, peer: &Peer, requires: &[&Selector], seen: &Seen<'_>) -> bool {
    let has = |name: &str| seen.labels.is_some_and(|l| reserved(l, name));
    match peer {
        Peer::Labels(s) if s.is_everything() && requires.iter().all(|r| r.is_everything()) => true,
        Peer::Labels(s) => seen.labels.is_some_and(|l| matches(s, l) && requires.iter().all(|r| matches(r, l))),
        Peer::Nodes(s) => seen.labels.is_some_and(|l| matches(s, l)),
        Peer::Entity(Entity::All) => true,
        Peer::Entity(Entity::World) => seen.labels.is_some_and(is_world),
        Peer::Entity(Entity::Cluster) => {
            ["host", "remote-node", "init", "ingress", "health", "unmanaged", "kube-apiserver"].iter().any(|n| has(n))
                || seen.labels.is_some_and(|l| {
                    let mine = |l: &types::Label| {
                        l.key() == "io.cilium.k8s.policy.cluster" && l.value() == config.cluster_name
                    };
                    l.iter().any(mine)
                })
        }
        Peer::Entity(other) => has(other.name()),
        Peer::Cidr(rule) => cidr_means(rule, seen),
        Peer::CidrGroup { except, .. } => world.group.iter().any(|member| {
            let except = except.iter().filter(|e| member.covers(e)).copied().collect();
            cidr_means(&CidrRule { cidr: *member, except, scope: CidrScope::World }, seen)
        }),
        Peer::Fqdn(name) => seen.labels.is_some_and(|l| l.iter().any(|l| l.source() == "fqdn" && l.key() == &**name)),
        Peer::Service(_) => false,
    }
}

/// Whether the rule speaks of the port, and whether through a proxy.
fn port_matches(probe: &Probe, rule: &PeerRule, own: &EndpointFacts, seen: &Seen<'_>) -> Vec<bool> {
    let Ports::Listed(list) = &rule.ports else { return vec![false] };
    let mut hits = Vec::new();
    for port_rule in list {
        for port in &port_rule.ports {
            if port.protocol.number() != probe.protocol {
                continue;
            }
            let hit = match &port.port {
                PortSpec::Range(range) => range.contains(probe.port),
                PortSpec::Named(name) if probe.direction == Direction::Ingress => {
                    let mine =
                        |p: &policy::NamedPort| p.name == *name && p.protocol == port.protocol && p.port == probe.port;
                    own.named_ports.iter().any(mine)
                }
                PortSpec::Named(name) => seen.ports.contains(&(&**name, port.protocol, probe.port)),
            };
            if hit {
                hits.push(port_rule.l7.is_some());
            }
        }
    }
    hits
}

pub fn judge(config: &Config, world: &World, probe: &Probe) -> Expect {
    let Some(own) = world.endpoints.get(&probe.endpoint) else { return Expect::NoEndpoint };
    let rules: Vec<&Rule> = world
        .objects
        .values()
        .flat_map(|o| &o.rules)
        .filter(|r| match &r.subject {
            Subject::Endpoints(s) => !own.host && matches(s, &own.labels),
            Subject::Nodes(s) => own.host && matches(s, &own.labels),
        })
        .collect();
    let says: Vec<bool> = rules.iter().filter_map(|r| r.default_deny(probe.direction)).collect();
    let always = config.enforcement == Enforcement::Always;
    if !always && says.is_empty() {
        return Expect::Allow;
    }
    let seen = see(world, probe);
    let mut allows: Vec<bool> = Vec::new();
    if !always && says.iter().all(|deny| !deny) {
        allows.push(false);
    }
    if config.allow_localhost
        && !own.host
        && probe.direction == Direction::Ingress
        && seen.labels.is_some_and(|l| reserved(l, "host"))
    {
        allows.push(false);
    }
    let all: Vec<&PeerRule> = rules.iter().flat_map(|r| r.peer_rules(probe.direction)).collect();
    for rule in &all {
        let requires: Vec<&Selector> =
            all.iter().filter(|r| r.action == rule.action).flat_map(|r| &r.requires).collect();
        let peer = match &rule.peers {
            Peers::Unstated => rule.ports != Ports::All,
            Peers::Listed(list) => list.iter().any(|p| peer_matches(config, world, p, &requires, &seen)),
        };
        if !peer {
            continue;
        }
        let hits = port_matches(probe, rule, own, &seen);
        if !hits.is_empty() && rule.action == Action::Deny {
            return Expect::Deny;
        }
        allows.extend(hits);
    }
    match (allows.contains(&true), allows.contains(&false)) {
        (false, false) => Expect::Deny,
        (false, true) => Expect::Allow,
        (true, false) => Expect::Redirect,
        (true, true) => Expect::AllowOrRedirect,
    }
}
