//! What an agent can put into effect of what a policy may ask for.
//!
//! Why: a policy can be understood and still do nothing, since nobody tells the agent of groups, services or names, or a
//! family of addresses is off. An allow rule that lets nobody through is safe, and is said aloud. A deny rule that refuses
//! nobody is a hole, and is refused; so are prefixes of a family that is off, which are always a mistake.

use crate::rule::{Action, Direction, Notice, Peer, PeerRule, Peers, PortSpec, Ports, Rule, Subject};
use alloc::{format, string::String, vec::Vec};
use core::fmt;
use types::Cidr;

/// What an agent has, or is told of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools, reason = "each is one thing an agent has or has not")]
pub struct Abilities {
    /// IPv4 is enabled.
    pub ipv4: bool,
    /// IPv6 is enabled.
    pub ipv6: bool,
    /// It is told of CIDR groups.
    pub cidr_groups: bool,
    /// It is told of services of the cluster.
    pub services: bool,
    /// It learns the addresses of DNS names.
    pub dns_names: bool,
    /// It is told the names of containers' ports.
    pub port_names: bool,
    /// It judges traffic of the node itself.
    pub host_firewall: bool,
}

impl Default for Abilities {
    /// Everything.
    fn default() -> Self {
        Self {
            ipv4: true,
            ipv6: true,
            cidr_groups: true,
            services: true,
            dns_names: true,
            port_names: true,
            host_firewall: true,
        }
    }
}

/// A rule that cannot be put into effect and must not be taken for one that is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {why}")]
pub struct Unable {
    /// Path in the document: `spec.egressDeny[0]`.
    pub path: String,
    /// What is wrong and what to do.
    pub why: Inability,
}

/// What an agent lacks for a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Inability {
    /// A prefix is of a family that is off.
    Family(Cidr),
    /// A deny rule is about what the agent is not told of.
    Denial(Unknown),
}

/// What an agent is not told of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unknown {
    /// CIDR groups.
    Groups,
    /// Services of the cluster.
    Services,
    /// Addresses of DNS names.
    Names,
    /// Names of containers' ports.
    PortNames,
}

impl fmt::Display for Inability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Family(cidr) => {
                let family = if cidr.is_ipv4() { "IPv4" } else { "IPv6" };
                write!(f, "{cidr} is {family}, which is not enabled on this node; remove the prefix or enable {family}")
            }
            Self::Denial(unknown) => {
                let (what, instead) = match unknown {
                    Unknown::Groups => ("is told of no CIDR group", "prefixes"),
                    Unknown::Services => ("is told of no service of the cluster", "prefixes"),
                    Unknown::Names => ("learns no DNS names", "prefixes"),
                    Unknown::PortNames => ("is told no names of ports", "numbers"),
                };
                write!(f, "this agent {what}, so the rule would deny nobody; name the {instead} instead")
            }
        }
    }
}

const fn allows_nobody(unknown: Unknown) -> &'static str {
    match unknown {
        Unknown::Groups => "this agent is told of no CIDR group, so the group allows nobody; name the prefixes",
        Unknown::Services => "this agent is told of no service of the cluster, so it allows nobody; name the prefixes",
        Unknown::Names => "this agent learns no DNS names, so the name allows nobody; name the prefixes",
        Unknown::PortNames => "this agent is told no names of ports, so the name allows nobody; name the numbers",
    }
}

const NO_HOST_FIREWALL: &str =
    "the host firewall is not enabled, so rules about nodes are not enforced; traffic of the node passes";

/// What of an object's rules an agent does not put into effect, to be said aloud.
///
/// # Errors
/// Every rule that must not be taken, since it would seem to be in effect.
pub fn check<'r>(rules: impl IntoIterator<Item = &'r Rule>, abilities: &Abilities) -> Result<Vec<Notice>, Vec<Unable>> {
    let (mut notices, mut unable) = (Vec::new(), Vec::new());
    for rule in rules {
        if matches!(rule.subject, Subject::Nodes(_)) && !abilities.host_firewall {
            notices.push(Notice { path: format!("{}.nodeSelector", rule.place), what: NO_HOST_FIREWALL });
        }
        for direction in Direction::BOTH {
            for peer_rule in rule.peer_rules(direction) {
                let deny = if peer_rule.action == Action::Deny { "Deny" } else { "" };
                let path = || format!("{}.{direction}{deny}[{}]", rule.place, peer_rule.index);
                if let Some(cidr) = off(peer_rule, abilities) {
                    unable.push(Unable { path: path(), why: Inability::Family(cidr) });
                }
                for unknown in unknown(peer_rule, abilities) {
                    if peer_rule.action == Action::Deny {
                        unable.push(Unable { path: path(), why: Inability::Denial(unknown) });
                    } else {
                        notices.push(Notice { path: path(), what: allows_nobody(unknown) });
                    }
                }
            }
        }
    }
    if unable.is_empty() { Ok(notices) } else { Err(unable) }
}

/// The first prefix of a family that is off.
fn off(rule: &PeerRule, abilities: &Abilities) -> Option<Cidr> {
    let Peers::Listed(list) = &rule.peers else { return None };
    list.iter().find_map(|peer| match peer {
        Peer::Cidr(rule) if !(if rule.cidr.is_ipv4() { abilities.ipv4 } else { abilities.ipv6 }) => Some(rule.cidr),
        _ => None,
    })
}

fn unknown(rule: &PeerRule, abilities: &Abilities) -> impl Iterator<Item = Unknown> {
    let peers = match &rule.peers {
        Peers::Listed(list) => list.as_slice(),
        Peers::Unstated => &[],
    };
    let named = match &rule.ports {
        Ports::Listed(list) => list.iter().flat_map(|r| &r.ports).any(|p| matches!(p.port, PortSpec::Named(_))),
        Ports::All => false,
    };
    let any = |wanted: fn(&Peer) -> bool| peers.iter().any(wanted);
    [
        (any(|p| matches!(p, Peer::CidrGroup { .. })) && !abilities.cidr_groups, Unknown::Groups),
        (any(|p| matches!(p, Peer::Service(_))) && !abilities.services, Unknown::Services),
        (any(|p| matches!(p, Peer::Fqdn(_))) && !abilities.dns_names, Unknown::Names),
        (named && !abilities.port_names, Unknown::PortNames),
    ]
    .into_iter()
    .filter_map(|(lacks, what)| lacks.then_some(what))
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    fn rules(section: &str) -> Vec<Rule> {
        let text = format!(
            "apiVersion: cilium.io/v2\nkind: CiliumClusterwideNetworkPolicy\nmetadata: {{name: a}}\nspec: {{{section}}}\n"
        );
        crate::parse(&text).unwrap_or_else(|errors| panic!("{}", errors[0])).remove(0).rules
    }

    const NOTHING: Abilities = Abilities {
        ipv4: false,
        ipv6: false,
        cidr_groups: false,
        services: false,
        dns_names: false,
        port_names: false,
        host_firewall: false,
    };

    #[test]
    fn what_nobody_tells_of_is_said_aloud_where_it_allows_and_refused_where_it_denies() {
        for (section, members, word) in [
            ("egress", "toFQDNs: [{matchName: a.io}]", "DNS"),
            ("egress", "toCIDRSet: [{cidrGroupRef: g}]", "CIDR group"),
            ("egress", "toServices: [{k8sService: {serviceName: s}}]", "service"),
            ("egress", "toPorts: [{ports: [{port: '80'}, {port: http}]}]", "names of ports"),
            ("ingress", "toPorts: [{ports: [{port: http}]}]", "names of ports"),
        ] {
            let allowing = rules(&format!("endpointSelector: {{}}, {section}: [{{}}, {{{members}}}]"));
            let notices = check(&allowing, &NOTHING).expect("it is taken");
            assert!(notices.len() == 1 && notices[0].what.contains(word), "{members}: {notices:?}");
            assert_eq!(notices[0].path, format!("spec.{section}[1]"));
            assert_eq!(check(&allowing, &Abilities::default()), Ok(Vec::new()));
            if members.starts_with("toFQDNs") {
                continue;
            }
            let denying = rules(&format!("endpointSelector: {{}}, {section}Deny: [{{}}, {{{members}}}]"));
            let unable = check(&denying, &NOTHING).expect_err("a hole");
            let text = unable[0].to_string();
            assert!(unable.len() == 1 && text.starts_with(&format!("spec.{section}Deny[1]: ")), "{text}");
            assert!(text.contains(word) && text.contains("deny nobody"), "{text}");
        }
        let plain = rules("endpointSelector: {}, ingressDeny: [{fromEntities: [world]}]");
        assert_eq!(check(&plain, &NOTHING), Ok(Vec::new()));
    }

    #[test]
    fn a_family_that_is_off_and_rules_about_nodes_are_told() {
        let both =
            rules("endpointSelector: {}, egress: [{toCIDR: [10.0.0.0/8]}], egressDeny: [{toCIDR: ['fd00::/8']}]");
        let told = |abilities: &Abilities| {
            let unable = check(&both, abilities).err().unwrap_or_default();
            unable.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        let only4 = told(&Abilities { ipv6: false, ..Abilities::default() });
        assert!(only4.len() == 1 && only4[0].starts_with("spec.egressDeny[0]: fd00::/8 is IPv6"), "{only4:?}");
        let only6 = told(&Abilities { ipv4: false, ..Abilities::default() });
        assert!(only6.len() == 1 && only6[0].starts_with("spec.egress[0]: 10.0.0.0/8 is IPv4"), "{only6:?}");
        assert_eq!(told(&Abilities::default()), Vec::<String>::new());
        let node = rules("nodeSelector: {}, ingress: [{}]");
        let notices = check(&node, &NOTHING).expect("it is taken");
        assert!(notices.len() == 1 && notices[0].what.contains("host firewall"), "{notices:?}");
        assert_eq!(check(&node, &Abilities::default()), Ok(Vec::new()));
    }
}
