//! Lint: rules that are valid, and yet probably not what was meant.

use crate::{
    engine::Engine,
    rule::{
        Action, Direction, Entity, L7Parser, Peer, PeerRule, Peers, PolicyObject, PortMatch, PortRange, PortRule,
        PortSpec, Ports, Rule, Subject,
    },
};
use alloc::{
    format,
    string::{String, ToString},
    vec::Vec,
};
use types::Protocol;

/// What lint found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Path in the document.
    pub path: String,
    /// What it is.
    pub what: Suspicion,
}

/// What may be wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Suspicion {
    /// The subject selects no workload that is known.
    SelectsNobody,
    /// A peer selector matches no identity that is known.
    PeerIsNobody {
        /// The selector.
        selector: String,
    },
    /// A member is there and empty, so the rule selects no peer at all.
    EmptyPeers,
    /// No peer is named, so everyone is meant, the world included.
    Everyone,
    /// Every ICMP type is meant, because type 0 stands for all.
    EveryIcmpType,
    /// A deny rule about the same subject refuses all this rule allows.
    Denied {
        /// The deny rule: its object, if it is another, and its path.
        by: String,
    },
    /// A wider rule about the same subject allows all this rule allows.
    Shadowed {
        /// The wider rule.
        by: String,
    },
    /// Another rule about the same subject and ports demands another parser, so what both allow is refused.
    Contradicted {
        /// The other rule.
        by: String,
    },
    /// Another rule says exactly the same.
    Repeated {
        /// The object and path of the other.
        by: String,
    },
    /// Another rule allows the same without looking at L7, so the L7 part restricts nothing.
    L7Lost {
        /// Path of the other.
        by: String,
    },
}

impl core::fmt::Display for Suspicion {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::SelectsNobody => f.write_str("selects no workload that is known"),
            Self::PeerIsNobody { selector } => write!(f, "no known identity matches {selector}"),
            Self::EmptyPeers => {
                f.write_str("an empty list of peers selects nobody; leave the field out to mean everyone")
            }
            Self::Everyone => f.write_str("names ports but no peer, so everyone is meant, the world included"),
            Self::EveryIcmpType => f.write_str("ICMP type 0 stands for every type of the family"),
            Self::Denied { by } => write!(f, "has no effect, since {by} denies all of it"),
            Self::Shadowed { by } => write!(f, "adds nothing, since {by} allows at least the same"),
            Self::Contradicted { by } => {
                write!(f, "is refused where it meets {by}, which demands another parser for the same ports")
            }
            Self::Repeated { by } => write!(f, "says the same as {by}"),
            Self::L7Lost { by } => write!(f, "restricts nothing at L7, since {by} allows the same without"),
        }
    }
}

/// Looks at one object as part of what the engine holds. The object itself need not be held.
#[must_use]
pub fn lint(engine: &Engine, object: &PolicyObject) -> Vec<Finding> {
    let mut findings = Vec::new();
    for rule in &object.rules {
        let at = rule.place.to_string();
        let (Subject::Endpoints(selector) | Subject::Nodes(selector)) = &rule.subject;
        if !engine.matches_anyone(selector) {
            findings.push(Finding { path: at.clone(), what: Suspicion::SelectsNobody });
        }
        for direction in Direction::BOTH {
            for peer_rule in rule.peer_rules(direction) {
                let path = path_of(rule, direction, peer_rule);
                let mut find = |what| findings.push(Finding { path: path.clone(), what });
                peers(engine, peer_rule, &mut find);
                ports(peer_rule, &mut find);
                relations(engine, object, rule, direction, peer_rule, &mut find);
                repeated(engine, object, rule, direction, peer_rule, &mut find);
            }
        }
    }
    findings
}

fn path_of(rule: &Rule, direction: Direction, peer_rule: &PeerRule) -> String {
    let deny = if peer_rule.action == Action::Deny { "Deny" } else { "" };
    format!("{}.{direction}{deny}[{}]", rule.place, peer_rule.index)
}

fn peers(engine: &Engine, rule: &PeerRule, find: &mut impl FnMut(Suspicion)) {
    match &rule.peers {
        Peers::Unstated if rule.ports != Ports::All && rule.action == Action::Allow => find(Suspicion::Everyone),
        Peers::Unstated => {}
        Peers::Listed(list) if list.is_empty() => find(Suspicion::EmptyPeers),
        Peers::Listed(list) => {
            for peer in list {
                match peer {
                    Peer::Labels(selector) | Peer::Nodes(selector) if !engine.matches_anyone(selector) => {
                        find(Suspicion::PeerIsNobody { selector: selector.to_string() });
                    }
                    Peer::Entity(Entity::None) => find(Suspicion::EmptyPeers),
                    _ => {}
                }
            }
        }
    }
}

fn ports(rule: &PeerRule, find: &mut impl FnMut(Suspicion)) {
    let Ports::Listed(list) = &rule.ports else { return };
    let every_type = list
        .iter()
        .flat_map(|r| &r.ports)
        .any(|p| matches!(p.protocol, Protocol::Icmp | Protocol::Icmpv6) && p.port == PortSpec::Range(PortRange::ALL));
    if every_type {
        find(Suspicion::EveryIcmpType);
    }
}

/// How the rule stands to other rules about the same subject, of its own object and of those in force.
fn relations(
    engine: &Engine,
    object: &PolicyObject,
    rule: &Rule,
    direction: Direction,
    mine: &PeerRule,
    find: &mut impl FnMut(Suspicion),
) {
    if mine.action == Action::Deny {
        return;
    }
    for other in rule.peer_rules(direction).iter().filter(|other| !core::ptr::eq(*other, mine)) {
        relation(other, mine, &path_of(rule, direction, other), find);
    }
    for held in engine.objects() {
        let another = |r: &&Rule| r.subject == rule.subject && (held.key != object.key || r.place != rule.place);
        for held_rule in held.rules.iter().filter(another) {
            for other in held_rule.peer_rules(direction) {
                relation(other, mine, &format!("{} {}", held.key, path_of(held_rule, direction, other)), find);
            }
        }
    }
}

fn relation(other: &PeerRule, mine: &PeerRule, by: &str, find: &mut impl FnMut(Suspicion)) {
    let by = || by.to_string();
    let peers = covers_peers(&other.peers, &mine.peers) && other.requires.iter().all(|r| mine.requires.contains(r));
    let ports = covers_ports(&other.ports, &mine.ports);
    if other.action == Action::Deny {
        if peers && ports {
            find(Suspicion::Denied { by: by() });
        }
        return;
    }
    let same_peers = other.peers == mine.peers;
    if same_peers && parsers(mine).any(|(ports, parser)| parsers(other).any(|(p, q)| p == ports && q != parser)) {
        find(Suspicion::Contradicted { by: by() });
    } else if same_peers && has_l7(mine) && !has_l7(other) && other.ports != Ports::All && ports {
        find(Suspicion::L7Lost { by: by() });
    } else if peers && ports && !has_l7(mine) && !has_l7(other) && mine.auth == other.auth {
        let equal = same_peers && covers_ports(&mine.ports, &other.ports);
        // Rules that say the same are reported as repeated.
        if !equal {
            find(Suspicion::Shadowed { by: by() });
        }
    }
}

/// The ports of a rule that are read by a parser.
fn parsers(rule: &PeerRule) -> impl Iterator<Item = (&PortMatch, &L7Parser)> {
    let list: &[PortRule] = match &rule.ports {
        Ports::Listed(list) => list,
        Ports::All => &[],
    };
    let read = list.iter().filter_map(|r| Some((r, &r.l7.as_ref()?.parser)));
    read.flat_map(|(rule, parser)| rule.ports.iter().map(move |port| (port, parser)))
}

fn repeated(
    engine: &Engine,
    object: &PolicyObject,
    rule: &Rule,
    direction: Direction,
    mine: &PeerRule,
    find: &mut impl FnMut(Suspicion),
) {
    let same = |other: &PeerRule| {
        (other.action, &other.peers, &other.ports, &other.requires)
            == (mine.action, &mine.peers, &mine.ports, &mine.requires)
    };
    for other in engine.objects() {
        for held in other.rules.iter().filter(|r| r.subject == rule.subject) {
            for peer_rule in held.peer_rules(direction).iter().filter(|p| same(p)) {
                let itself = other.key == object.key && held.place == rule.place && peer_rule.index == mine.index;
                if !itself {
                    let by = format!("{} {}", other.key, path_of(held, direction, peer_rule));
                    find(Suspicion::Repeated { by });
                    return;
                }
            }
        }
    }
}

fn has_l7(rule: &PeerRule) -> bool {
    matches!(&rule.ports, Ports::Listed(list) if list.iter().any(|r| r.l7.is_some()))
}

fn covers_peers(outer: &Peers, inner: &Peers) -> bool {
    match (outer, inner) {
        (Peers::Listed(outer), _) if outer.contains(&Peer::Entity(Entity::All)) => true,
        (Peers::Listed(outer), Peers::Listed(inner)) => inner.iter().all(|p| outer.contains(p)),
        (Peers::Unstated, _) => true,
        (Peers::Listed(_), Peers::Unstated) => false,
    }
}

fn covers_ports(outer: &Ports, inner: &Ports) -> bool {
    match (outer, inner) {
        (Ports::All, _) => true,
        (Ports::Listed(_), Ports::All) => false,
        (Ports::Listed(outer), Ports::Listed(inner)) => {
            let covered = |p: &crate::rule::PortMatch| {
                outer.iter().flat_map(|r| &r.ports).any(|o| {
                    o.protocol == p.protocol
                        && match (&o.port, &p.port) {
                            (PortSpec::Range(o), PortSpec::Range(p)) => o.first <= p.first && p.last <= o.last,
                            (o, p) => o == p,
                        }
                })
            };
            inner.iter().flat_map(|r| &r.ports).all(covered)
        }
    }
}
