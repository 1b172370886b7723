//! What a policy asks for that this agent understands and nobody tells it about: CIDR groups, services of the cluster, DNS
//! names.
//!
//! An allow rule about them lets nobody through, which is safe, and is said aloud. A deny rule about them would refuse
//! nobody, which is a hole: it is refused.

use alloc::format;
use alloc::string::{String, ToString};

use policy::PolicyObject;
use policy::rule::{Action, Notice, Peer, PeerRule, Peers};

use crate::effect::Refusal;

/// Adds notices for what allows nobody.
///
/// # Errors
/// [`Refusal::Policy`] for a deny rule that would refuse nobody.
pub(crate) fn check(object: &mut PolicyObject) -> Result<(), Refusal> {
    let mut notices = alloc::vec::Vec::new();
    for rule in &object.rules {
        for (direction, rules) in [("ingress", &rule.ingress), ("egress", &rule.egress)] {
            for peer_rule in rules {
                let Some(unknown) = unknown(peer_rule) else { continue };
                let deny = if peer_rule.action == Action::Deny { "Deny" } else { "" };
                let path = format!("{}.{direction}{deny}[{}]", rule.place, peer_rule.index);
                if peer_rule.action == Action::Deny {
                    return Err(Refusal::Policy { path: format!("{}: {path}", object.key), why: refused(unknown) });
                }
                notices.push(Notice { path, what: allowed(unknown) });
            }
        }
    }
    object.notices.extend(notices);
    Ok(())
}

#[derive(Clone, Copy)]
enum Unknown {
    Group,
    Service,
    Name,
}

fn unknown(rule: &PeerRule) -> Option<Unknown> {
    let Peers::Listed(list) = &rule.peers else { return None };
    list.iter().find_map(|peer| match peer {
        Peer::CidrGroup { .. } => Some(Unknown::Group),
        Peer::Service(_) => Some(Unknown::Service),
        Peer::Fqdn(_) => Some(Unknown::Name),
        _ => None,
    })
}

const fn allowed(unknown: Unknown) -> &'static str {
    match unknown {
        Unknown::Group => "this agent is told of no CIDR group, so the group allows nobody; name the prefixes",
        Unknown::Service => "this agent is told of no service of the cluster, so it allows nobody; name the prefixes",
        Unknown::Name => "this agent learns no DNS names, so the name allows nobody; name the prefixes",
    }
}

fn refused(unknown: Unknown) -> String {
    let what = match unknown {
        Unknown::Group => "this agent is told of no CIDR group",
        Unknown::Service => "this agent is told of no service of the cluster",
        Unknown::Name => "this agent learns no DNS names",
    };
    what.to_string() + ", so the rule would deny nobody; name the prefixes instead"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(section: &str) -> PolicyObject {
        let text = format!(
            "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {{name: a}}\nspec: {{endpointSelector: {{}}, {section}}}\n"
        );
        policy::parse(&text).expect("valid").remove(0)
    }

    #[test]
    fn what_nobody_tells_of_is_said_aloud_where_it_allows_and_refused_where_it_denies() {
        for (allow, deny, word) in [
            ("egress: [{toFQDNs: [{matchName: a.io}]}]", None, "DNS"),
            (
                "egress: [{}, {toCIDRSet: [{cidrGroupRef: g}]}]",
                Some("egressDeny: [{}, {toCIDRSet: [{cidrGroupRef: g}]}]"),
                "CIDR group",
            ),
            (
                "egress: [{toServices: [{k8sService: {serviceName: s}}]}]",
                Some("egressDeny: [{toServices: [{k8sService: {serviceName: s}}]}]"),
                "service",
            ),
        ] {
            let mut allowing = object(allow);
            assert_eq!(check(&mut allowing), Ok(()));
            assert!(allowing.notices.len() == 1 && allowing.notices[0].what.contains(word), "{:?}", allowing.notices);
            let Some(deny) = deny else { continue };
            let Err(Refusal::Policy { path, why }) = check(&mut object(deny)) else { panic!("{deny} was taken") };
            assert!(path.contains("spec.egressDeny[") && why.contains(word), "{path}: {why}");
        }
        let mut plain = object("egress: [{toCIDR: [10.0.0.0/8]}], ingressDeny: [{fromEntities: [world]}]");
        assert_eq!((check(&mut plain), plain.notices.len()), (Ok(()), 0));
    }
}
