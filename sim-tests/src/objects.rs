//! What users asked of the cluster, and what that means: the truth the checkers hold everybody to.
//!
//! Meaning is worked out here from the objects alone, by the obvious definition (some deny rule matches: no; some
//! allow rule matches: yes; otherwise no if any rule applies to the endpoint in that direction). Nothing is shared
//! with the policy engine, not even the reading of documents: rules are values here and are *printed* for it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde_json::{Value, json};
use types::Cidr;

/// Labels without their source, as users write them.
pub type Labels = BTreeMap<String, String>;

/// A pod as its user sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pod {
    /// Which node it runs on.
    pub node: usize,
    /// Its labels.
    pub labels: Labels,
    /// Its addresses.
    pub addrs: Vec<IpAddr>,
    /// The host's side of its link.
    pub ifindex: u32,
}

/// A direction, seen from the pod that a rule is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Direction {
    /// Towards it.
    Ingress,
    /// From it.
    Egress,
}

/// Who is at the other end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Peers {
    /// Pods with these labels.
    Pods(Labels),
    /// Addresses outside of the cluster in this prefix, without some.
    Cidr(Cidr, Vec<Cidr>),
    /// Everybody outside of the cluster.
    World,
    /// Everybody.
    All,
}

/// A rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Which direction.
    pub direction: Direction,
    /// Whether it denies.
    pub deny: bool,
    /// The other end.
    pub peers: Peers,
    /// Protocol name and first to last port; empty: everything.
    pub ports: Vec<(&'static str, u16, u16)>,
}

/// A policy: rules about the pods it selects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// Labels of the pods it is about.
    pub subject: Labels,
    /// Its rules.
    pub rules: Vec<Rule>,
}

/// A service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// Where clients go.
    pub frontend: (IpAddr, u16),
    /// Protocol name.
    pub protocol: &'static str,
    /// Who answers.
    pub backends: BTreeSet<(IpAddr, u16)>,
    /// Who is there and should not be given new clients.
    pub resting: BTreeMap<(IpAddr, u16), Resting>,
    /// Whether clients come back to whom they had.
    pub affinity: bool,
}

/// Why a backend rests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resting {
    /// It is about to end. Where nobody else is left, it answers.
    Terminating,
    /// It was taken out by hand.
    Maintenance,
}

impl Service {
    /// Who may be given a new client.
    pub fn serving(&self) -> BTreeSet<(IpAddr, u16)> {
        if !self.backends.is_empty() {
            return self.backends.clone();
        }
        self.resting.iter().filter(|(_, why)| **why == Resting::Terminating).map(|(end, _)| *end).collect()
    }
}

/// Everything users asked for, as far as one node is concerned.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Objects {
    /// Pods, by name.
    pub pods: BTreeMap<String, Pod>,
    /// Policies, by name.
    pub policies: BTreeMap<String, Policy>,
    /// Services, by name.
    pub services: BTreeMap<String, Service>,
}

/// The other end of a packet, as one node knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer<'a> {
    /// A pod, of this node or another.
    Pod(&'a Labels),
    /// The node itself.
    Host,
    /// An address it knows nothing of: the world, or a pod of another node that nobody told it of yet.
    Address(IpAddr),
}

fn selects(selector: &Labels, labels: &Labels) -> bool {
    selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}

impl Rule {
    fn matches(&self, direction: Direction, peer: Peer<'_>, protocol: &str, port: u16) -> bool {
        let peers = match (&self.peers, peer) {
            (Peers::All, _) => true,
            (Peers::Pods(selector), Peer::Pod(labels)) => selects(selector, labels),
            (Peers::Cidr(prefix, except), Peer::Address(ip)) => {
                prefix.contains(ip) && !except.iter().any(|hole| hole.contains(ip))
            }
            (Peers::World, Peer::Address(_)) => true,
            _ => false,
        };
        let ports = self.ports.is_empty()
            || self.ports.iter().any(|(name, first, last)| *name == protocol && (*first..=*last).contains(&port));
        direction == self.direction && peers && ports
    }

    fn json(&self) -> Value {
        let end = match self.direction {
            Direction::Ingress => "from",
            Direction::Egress => "to",
        };
        let mut rule = match &self.peers {
            Peers::Pods(labels) => json!({ format!("{end}Endpoints"): [{ "matchLabels": labels }] }),
            Peers::Cidr(prefix, except) => json!({ format!("{end}CIDRSet"): [{ "cidr": prefix, "except": except }] }),
            Peers::World => json!({ format!("{end}Entities"): ["world"] }),
            Peers::All => json!({ format!("{end}Entities"): ["all"] }),
        };
        if !self.ports.is_empty() {
            let port = |(protocol, first, last): &(&str, u16, u16)| {
                let mut port = json!({ "port": first.to_string(), "protocol": protocol });
                if last > first {
                    port["endPort"] = json!(last);
                }
                port
            };
            rule["toPorts"] = json!([{ "ports": self.ports.iter().map(port).collect::<Vec<_>>() }]);
        }
        rule
    }
}

impl Policy {
    /// As a document for an agent.
    pub fn json(&self, name: &str) -> String {
        let mut spec = json!({ "endpointSelector": { "matchLabels": self.subject } });
        for (section, direction, deny) in [
            ("ingress", Direction::Ingress, false),
            ("ingressDeny", Direction::Ingress, true),
            ("egress", Direction::Egress, false),
            ("egressDeny", Direction::Egress, true),
        ] {
            let chosen = self.rules.iter().filter(|rule| rule.direction == direction && rule.deny == deny);
            let rules: Vec<Value> = chosen.map(Rule::json).collect();
            if !rules.is_empty() {
                spec[section] = json!(rules);
            }
        }
        let metadata = json!({ "name": name, "namespace": "default" });
        json!({ "apiVersion": "cilium.io/v2", "kind": "CiliumNetworkPolicy", "metadata": metadata, "spec": spec })
            .to_string()
    }
}

impl Objects {
    /// Whether these objects let a packet pass at the side of a pod with `labels`.
    pub fn allows(&self, labels: &Labels, direction: Direction, peer: Peer<'_>, protocol: &str, port: u16) -> bool {
        let about = self.policies.values().filter(|policy| selects(&policy.subject, labels));
        let rules: Vec<&Rule> =
            about.flat_map(|policy| &policy.rules).filter(|rule| rule.direction == direction).collect();
        let matching =
            |deny: bool| rules.iter().any(|rule| rule.deny == deny && rule.matches(direction, peer, protocol, port));
        // The node may always reach its pods, unless a rule denies it.
        let host = peer == Peer::Host && direction == Direction::Ingress;
        !matching(true) && (rules.is_empty() || host || matching(false))
    }

    /// The pod that has this address.
    pub fn owner(&self, addr: IpAddr) -> Option<(&String, &Pod)> {
        self.pods.iter().find(|(_, pod)| pod.addrs.contains(&addr))
    }

    /// The service with this frontend.
    pub fn service(&self, addr: IpAddr, port: u16, protocol: &str) -> Option<&Service> {
        self.services.values().find(|service| service.frontend == (addr, port) && service.protocol == protocol)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(app: &str) -> Labels {
        [("app".to_owned(), app.to_owned())].into()
    }

    #[test]
    fn deny_wins_over_allow_and_nothing_wins_over_silence() {
        let rule = |deny, peers, ports| Rule { direction: Direction::Ingress, deny, peers, ports };
        let mut objects = Objects::default();
        let ask = |objects: &Objects, from: &Labels, port| {
            objects.allows(&labels("web"), Direction::Ingress, Peer::Pod(from), "TCP", port)
        };
        assert!(ask(&objects, &labels("a"), 80), "no policy: everything passes");
        let allow = Policy {
            subject: labels("web"),
            rules: vec![rule(false, Peers::Pods(labels("a")), vec![("TCP", 80, 90)])],
        };
        objects.policies.insert("allow".into(), allow);
        assert!(
            ask(&objects, &labels("a"), 90) && !ask(&objects, &labels("a"), 91) && !ask(&objects, &labels("b"), 80)
        );
        let deny = Policy { subject: Labels::new(), rules: vec![rule(true, Peers::All, vec![("TCP", 85, 85)])] };
        objects.policies.insert("deny".into(), deny);
        assert!(ask(&objects, &labels("a"), 84) && !ask(&objects, &labels("a"), 85));
        assert!(
            objects.allows(&labels("web"), Direction::Egress, Peer::Host, "TCP", 85),
            "the other direction is untouched"
        );
    }

    #[test]
    fn the_world_is_what_no_pod_is() {
        let except = vec!["192.0.2.0/25".parse().expect("a literal")];
        let cidr = Peers::Cidr("192.0.2.0/24".parse().expect("a literal"), except);
        let rule = Rule { direction: Direction::Egress, deny: false, peers: cidr, ports: vec![] };
        let asked = |ip: [u8; 4]| rule.matches(Direction::Egress, Peer::Address(IpAddr::from(ip)), "UDP", 53);
        assert!(asked([192, 0, 2, 128]) && !asked([192, 0, 2, 1]) && !asked([10, 0, 0, 1]));
        assert!(!rule.matches(Direction::Egress, Peer::Host, "UDP", 53));
    }
}
