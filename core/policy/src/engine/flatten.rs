//! Flattening: what a policy says to one class, as the fewest entries of a longest-prefix table.
//!
//! Deny is applied here, so that one look-up of (protocol, port) gives the final verdict: under a deny no allow is
//! written, and an allow inside a wider deny is dropped. Among allows the longest protocol/port prefix decides; on a
//! tie, one that names the peer beats one that names anyone, and a redirect beats a plain allow. Rules about exactly
//! the same ports are taken together first: there a redirect for anyone also holds for a named peer's plain allow.

use super::policies::{Filter, FilterPorts, Origin};
use crate::{
    delta::{EntryValue, L4Prefix, MatchType, RedirectId, RuleCookie, Verdict},
    rule::{Action, AuthMode, Direction, PortRange},
};
use alloc::{collections::BTreeMap, vec::Vec};

/// Most rules one cookie names; where more decide the same, the first of them stand for all.
const ORIGINS_MAX: usize = 16;

/// An allow that applies to a block.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Candidate {
    specific: bool,
    redirect: Option<RedirectId>,
    conflict: bool,
    auth: Option<AuthMode>,
    origins: Vec<Origin>,
}

#[derive(Debug, Default)]
struct Node {
    allow: Option<Candidate>,
    deny: Option<(bool, Vec<Origin>)>,
}

/// All filters about exactly the same ports.
#[derive(Debug, Default)]
struct Group {
    anyone: Option<Candidate>,
    named: Option<Candidate>,
}

/// Entries of one direction, in the order of [`L4Prefix`].
pub(crate) type Entries = Vec<((Direction, L4Prefix), EntryValue)>;

/// Flattens what filters say in one direction. The flag of each filter tells whether it names the peer.
pub(crate) fn flatten<'f>(
    direction: Direction,
    filters: impl Iterator<Item = (bool, &'f Filter)>,
    cookie_of: &mut impl FnMut(&[Origin]) -> RuleCookie,
    out: &mut Entries,
) {
    let mut groups: BTreeMap<(u8, PortRange, bool), Group> = BTreeMap::new();
    let mut nodes: BTreeMap<L4Prefix, Node> = BTreeMap::new();
    let filters: Vec<(bool, &Filter)> = filters.filter(|(_, f)| f.direction == direction).collect();
    // Who may reach the endpoint anyway need not prove who he is.
    let exempt = filters.iter().any(|(_, f)| f.origin == Origin::LocalHost);
    for (specific, filter) in filters {
        let FilterPorts::Range(protocol, range) = filter.ports else { continue };
        match filter.action {
            Action::Deny => deny(&mut nodes, protocol, range, specific, filter.origin),
            Action::Allow => {
                let localhost = filter.origin == Origin::LocalHost;
                let group = groups.entry((protocol, range, localhost)).or_default();
                let auth = filter.auth.filter(|_| !exempt);
                merge(if specific { &mut group.named } else { &mut group.anyone }, filter, auth, specific);
            }
        }
    }
    for ((protocol, range, _), group) in groups {
        let Some(winner) = decide(group) else { continue };
        for block in blocks(protocol, range) {
            let node = nodes.entry(block).or_default();
            match &mut node.allow {
                Some(have) if rank(have) > rank(&winner) => {}
                Some(have) if rank(have) == rank(&winner) => {
                    have.origins.extend(winner.origins.iter().copied());
                    have.conflict |= winner.conflict || have.redirect != winner.redirect;
                    have.auth = have.auth.max(winner.auth);
                }
                slot => *slot = Some(winner.clone()),
            }
        }
    }
    emit(direction, nodes, cookie_of, out);
}

fn deny(nodes: &mut BTreeMap<L4Prefix, Node>, protocol: u8, range: PortRange, specific: bool, origin: Origin) {
    for block in blocks(protocol, range) {
        let deny = nodes.entry(block).or_default().deny.get_or_insert((false, Vec::new()));
        deny.0 |= specific;
        deny.1.push(origin);
    }
}

fn merge(slot: &mut Option<Candidate>, filter: &Filter, auth: Option<AuthMode>, specific: bool) {
    match slot {
        None => {
            *slot = Some(Candidate {
                specific,
                redirect: filter.redirect,
                conflict: filter.conflict,
                auth,
                origins: alloc::vec![filter.origin],
            });
        }
        Some(have) => {
            have.conflict |= filter.conflict;
            have.auth = have.auth.max(auth);
            if filter.redirect.is_some() {
                have.redirect = have.redirect.max(filter.redirect);
            }
            have.origins.push(filter.origin);
        }
    }
}

/// Rules for anyone and for this peer about the same ports: the rule for the peer counts only if it adds a redirect.
fn decide(group: Group) -> Option<Candidate> {
    match (group.anyone, group.named) {
        (Some(anyone), Some(named)) => {
            let adds = named.redirect.is_some() && anyone.redirect.is_none();
            Some(if adds || named.auth > anyone.auth { named } else { anyone })
        }
        (anyone, named) => anyone.or(named),
    }
}

fn rank(candidate: &Candidate) -> (bool, bool) {
    (candidate.specific, candidate.redirect.is_some())
}

fn blocks(protocol: u8, range: PortRange) -> impl Iterator<Item = L4Prefix> {
    let all = (protocol == 0).then_some(L4Prefix::ALL);
    let ports = if protocol == 0 { Vec::new() } else { range.prefixes() };
    let block = move |p: crate::rule::PortPrefix| L4Prefix { protocol, port: p.port, bits: 8 + p.bits };
    all.into_iter().chain(ports.into_iter().map(block))
}

struct Level {
    block: L4Prefix,
    denied: bool,
    value: Option<EntryValue>,
    auth: Option<AuthMode>,
}

fn emit(
    direction: Direction,
    nodes: BTreeMap<L4Prefix, Node>,
    cookie_of: &mut impl FnMut(&[Origin]) -> RuleCookie,
    out: &mut Entries,
) {
    // The order of the map is pre-order of the tree: a block comes before the blocks inside it.
    let mut above: Vec<Level> = Vec::new();
    for (block, node) in nodes {
        while above.last().is_some_and(|level| !level.block.covers(&block)) {
            above.pop();
        }
        let outer = above.last();
        if outer.is_some_and(|level| level.denied) {
            continue;
        }
        let inherited = outer.and_then(|level| level.value);
        let inherited_auth = outer.and_then(|level| level.auth);
        let (denied, value, auth) = if let Some((specific, mut origins)) = node.deny {
            let cookie = cookie(&mut origins, cookie_of);
            let matched = match_type(specific, block.bits);
            (true, Some(EntryValue { verdict: Verdict::Deny, auth: None, matched, cookie }), None)
        } else if let Some(mut allow) = node.allow {
            let cookie = cookie(&mut allow.origins, cookie_of);
            let auth = allow.auth.or(inherited_auth);
            let verdict = match allow.redirect {
                _ if allow.conflict => Verdict::Deny,
                Some(to) => Verdict::Redirect(to),
                None => Verdict::Allow,
            };
            let matched = match_type(allow.specific, block.bits);
            let demanded = auth.filter(|mode| *mode != AuthMode::Disabled);
            (false, Some(EntryValue { verdict, auth: demanded, matched, cookie }), auth)
        } else {
            (false, inherited, inherited_auth)
        };
        if value != inherited
            && let Some(value) = value
        {
            out.push(((direction, block), value));
        }
        above.push(Level { block, denied, value, auth });
    }
}

fn cookie(origins: &mut Vec<Origin>, cookie_of: &mut impl FnMut(&[Origin]) -> RuleCookie) -> RuleCookie {
    origins.sort_unstable();
    origins.dedup();
    origins.truncate(ORIGINS_MAX);
    cookie_of(origins)
}

fn match_type(specific: bool, bits: u8) -> MatchType {
    match (specific, bits) {
        (true, 0) => MatchType::L3Only,
        (true, 24) => MatchType::L3L4,
        // With a peer named, a block of ports is reported like all of them: what upstream's events say.
        (true, _) => MatchType::L3Proto,
        (false, 0) => MatchType::All,
        (false, 8) => MatchType::ProtoOnly,
        (false, _) => MatchType::L4Only,
    }
}
