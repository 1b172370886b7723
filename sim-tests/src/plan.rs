//! What users of a simulated cluster do: drawn from one seed.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use machine::Rng;

use crate::node::{pod_cidr, pod_cidr6};
use crate::objects::{Direction, Labels, Objects, Peers, Policy, Resting, Rule, Service};

/// Ports that rules, services and probes share, so that they meet.
pub(crate) const PORTS: [u16; 4] = [53, 80, 443, 8080];
/// Pods on one node, at most.
pub(crate) const PODS_PER_NODE: usize = 6;

/// Something a user does next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Action {
    AddPod { node: usize, labels: Labels },
    DeletePod(String),
    Relabel(String, Labels),
    PutPolicy(String, Policy),
    DeletePolicy(String),
    PutService(String, Service),
    DeleteService(String),
    CrashAgent(usize),
    ChangeWeather { delay_ms_max: u64, unknown_per_mille: u64 },
    EndLease(usize),
}

/// Draws the next action. `crashes` allows those that break things.
pub(crate) fn draw(rng: &mut Rng, objects: &Objects, nodes: usize, crashes: bool) -> Action {
    let pods: Vec<&String> = objects.pods.keys().collect();
    let pick = |rng: &mut Rng| rng.pick(&pods).map(|name| (*name).clone());
    match rng.below(if crashes { 100 } else { 78 }) {
        0..22 => AddPod(rng, nodes),
        22..30 => pick(rng).map_or_else(|| AddPod(rng, nodes), Action::DeletePod),
        30..40 => match pick(rng) {
            Some(pod) => Action::Relabel(pod, labels(rng)),
            None => AddPod(rng, nodes),
        },
        40..60 => Action::PutPolicy(format!("policy-{}", rng.below(5)), policy(rng)),
        60..65 => Action::DeletePolicy(format!("policy-{}", rng.below(5))),
        65..75 => {
            let number = rng.below(4);
            Action::PutService(format!("service-{number}"), service(rng, objects, number as u8))
        }
        75..78 => Action::DeleteService(format!("service-{}", rng.below(4))),
        78..88 => Action::CrashAgent(rng.below(nodes as u64) as usize),
        88..97 => Action::ChangeWeather { delay_ms_max: 1 + rng.below(400), unknown_per_mille: rng.below(150) },
        _ => Action::EndLease(rng.below(nodes as u64) as usize),
    }
}

#[expect(non_snake_case, reason = "it makes an action, and reads as one")]
fn AddPod(rng: &mut Rng, nodes: usize) -> Action {
    Action::AddPod { node: rng.below(nodes as u64) as usize, labels: labels(rng) }
}

/// Labels of a pod: few enough that selectors meet them.
pub(crate) fn labels(rng: &mut Rng) -> Labels {
    let mut labels = Labels::new();
    labels.insert("app".into(), ["red", "green", "blue"][rng.below(3) as usize].into());
    if rng.chance(1, 2) {
        labels.insert("tier".into(), ["front", "back"][rng.below(2) as usize].into());
    }
    labels
}

fn selector(rng: &mut Rng) -> Labels {
    let mut all = labels(rng);
    if rng.chance(1, 2) {
        all.remove("app");
    }
    all
}

fn policy(rng: &mut Rng) -> Policy {
    let rules = (0..1 + rng.below(3)).map(|_| rule(rng)).collect();
    Policy { subject: selector(rng), rules }
}

fn rule(rng: &mut Rng) -> Rule {
    let direction = if rng.chance(2, 3) { Direction::Ingress } else { Direction::Egress };
    let peers = match rng.below(10) {
        0..6 => Peers::Pods(selector(rng)),
        6 | 7 => cidr(rng),
        8 => Peers::World,
        _ => Peers::All,
    };
    let mut ports = Vec::new();
    if rng.chance(2, 3) {
        let first = PORTS[rng.below(4) as usize];
        let last = if rng.chance(1, 4) { first + rng.below(500) as u16 } else { first };
        ports.push((if rng.chance(2, 3) { "TCP" } else { "UDP" }, first, last));
    }
    Rule { direction, deny: rng.chance(1, 4), peers, ports }
}

fn cidr(rng: &mut Rng) -> Peers {
    let (prefix, except): (&str, &[&str]) = match rng.below(4) {
        0 => ("192.0.2.0/24", &[]),
        1 => ("192.0.2.0/24", &["192.0.2.0/28"]),
        2 => ("0.0.0.0/0", &["192.0.2.0/25"]),
        _ => ("2001:db8::/32", &["2001:db8:1::/48"]),
    };
    let parsed = |text: &&str| text.parse().expect("a literal");
    Peers::Cidr(prefix.parse().expect("a literal"), except.iter().map(parsed).collect())
}

/// An address outside of the cluster.
pub(crate) fn world(rng: &mut Rng, ipv6: bool) -> IpAddr {
    let low = rng.below(256) as u8;
    if ipv6 {
        IpAddr::from([0x2001, 0xdb8, rng.below(3) as u16, 0, 0, 0, 0, u16::from(low)])
    } else {
        IpAddr::from([192, 0, 2, low])
    }
}

/// Services are of one family each; their backends are pods of any node, and sometimes nobody.
fn service(rng: &mut Rng, objects: &Objects, number: u8) -> Service {
    let ipv6 = number % 2 == 1;
    let ip = if ipv6 {
        IpAddr::from([0xfd02, 0, 0, 0, 0, 0, 0, u16::from(number) + 1])
    } else {
        IpAddr::from([172, 20, 0, number + 1])
    };
    let port = PORTS[rng.below(4) as usize];
    let mut backends = BTreeSet::new();
    for pod in objects.pods.values().filter(|_| rng.chance(1, 2)) {
        backends.extend(pod.addrs.iter().filter(|addr| addr.is_ipv6() == ipv6).map(|addr| (*addr, port)));
    }
    let mut resting = BTreeMap::new();
    if rng.chance(1, 3) {
        let why = |rng: &mut Rng| if rng.chance(2, 3) { Resting::Terminating } else { Resting::Maintenance };
        for end in backends.clone() {
            if rng.chance(1, 2) {
                backends.remove(&end);
                resting.insert(end, why(rng));
            }
        }
    }
    let protocol = if number < 2 { "TCP" } else { "UDP" };
    // A service keeps its port, so that its frontend names it for good.
    Service { frontend: (ip, PORTS[usize::from(number) % 4]), protocol, backends, resting, affinity: rng.chance(1, 4) }
}

/// Whether an address is of a pod range.
pub(crate) fn node_of(addr: IpAddr, nodes: usize) -> Option<usize> {
    (0..nodes).find(|node| pod_cidr(*node).contains(addr) || pod_cidr6(*node).contains(addr))
}
