//! Prefixes that add nothing: a rule about `10.1.0.0/16` says nothing new beside one that says the same of `10.0.0.0/8`.
//!
//! Why: each prefix a policy asks about cuts its peers into more classes, and each class has entries of its own. Rules
//! about nested prefixes with the same ports would multiply entries without changing a verdict. So within a policy a
//! prefix is left out of a rule if, for each thing the rule says, a *wider* prefix of the policy says the same.
//!
//! The outcome depends on the rules alone, not on the order in which they came: a prefix is left out if and only if such
//! wider statements exist, whether those are themselves left out or not (the widest never are). When rules come or go,
//! those whose prefixes lie inside theirs are compiled anew.
//!
//! Only plain statements take part: the same action on exactly the same ports, without L7 rules or authentication. For
//! those a wider statement gives the same entry, so that leaving the narrower one out is not visible but in the rules a
//! verdict is said to come from.

use super::policies::{Content, Filter, FilterPorts, Origin, RuleId};
use crate::rule::{Action, CidrRule, CidrScope, Direction, PortRange};
use alloc::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    vec::Vec,
};
use core::net::IpAddr;
use types::Cidr;

/// What a rule says about a peer, as far as one statement can stand for another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Plain {
    direction: Direction,
    action: Action,
    protocol: u8,
    range: PortRange,
}

impl Plain {
    /// `None` of filters that no other can stand for.
    pub(crate) fn of(filter: &Filter) -> Option<Self> {
        match filter.ports {
            FilterPorts::Range(protocol, range)
                if filter.redirect.is_none() && filter.auth.is_none() && !filter.conflict =>
            {
                Some(Self { direction: filter.direction, action: filter.action, protocol, range })
            }
            _ => None,
        }
    }

    pub(crate) fn speaks_of(&self, direction: Direction, protocol: u8, port: u16) -> bool {
        self.direction == direction && (self.protocol == 0 || (self.protocol == protocol && self.range.contains(port)))
    }
}

/// What an entry of a rule says, of all its prefixes alike.
pub(crate) type Said = Arc<[Plain]>;

/// An entry of a rule and the prefixes it is about.
#[derive(Debug, Clone)]
pub(crate) struct Statement {
    pub(crate) cidrs: Vec<CidrRule>,
    pub(crate) said: Said,
    pub(crate) origin: Origin,
}

/// The statements of a policy about prefixes, those left out included.
#[derive(Debug, Clone, Default)]
pub(crate) struct Statements {
    by_prefix: BTreeMap<Cidr, BTreeMap<Said, Vec<(CidrRule, Origin)>>>,
    of_rule: BTreeMap<RuleId, Vec<(Cidr, Said, Origin)>>,
    /// How many prefixes of each length there are: IPv4 first, then IPv6.
    lengths: BTreeMap<(bool, u8), u32>,
}

impl Statements {
    /// Takes a rule's statements in. The rules inside whose prefixes they are made are added to `affected`, if it is
    /// asked for.
    pub(crate) fn insert(
        &mut self,
        rule: RuleId,
        statements: Vec<Statement>,
        mut affected: Option<&mut BTreeSet<RuleId>>,
    ) {
        for Statement { cidrs, said, origin } in statements {
            for cidr in cidrs {
                if let Some(affected) = affected.as_deref_mut() {
                    self.inside(&cidr, &said, affected);
                }
                let prefix = cidr.cidr;
                let at = self.by_prefix.entry(prefix).or_insert_with(|| {
                    *self.lengths.entry((prefix.is_ipv4(), prefix.bits())).or_default() += 1;
                    BTreeMap::new()
                });
                at.entry(said.clone()).or_default().push((cidr, origin));
                self.of_rule.entry(rule).or_default().push((prefix, said.clone(), origin));
            }
        }
    }

    /// Forgets a rule's statements; the rules inside whose prefixes they were made are added to `affected`.
    pub(crate) fn remove(&mut self, rule: RuleId, affected: &mut BTreeSet<RuleId>) {
        for (prefix, said, origin) in self.of_rule.remove(&rule).unwrap_or_default() {
            let Some(at) = self.by_prefix.get_mut(&prefix) else { continue };
            let Some(list) = at.get_mut(&said) else { continue };
            let mut gone = Vec::new();
            list.retain(|(cidr, of)| {
                let keep = *of != origin;
                if !keep {
                    gone.push(cidr.clone());
                }
                keep
            });
            if list.is_empty() {
                at.remove(&said);
            }
            if at.is_empty() {
                self.by_prefix.remove(&prefix);
                self.drop_length(prefix);
            }
            for cidr in gone {
                self.inside(&cidr, &said, affected);
            }
        }
    }

    fn drop_length(&mut self, prefix: Cidr) {
        let length = (prefix.is_ipv4(), prefix.bits());
        if let Some(count) = self.lengths.get_mut(&length) {
            *count -= 1;
            if *count == 0 {
                self.lengths.remove(&length);
            }
        }
    }

    /// The rules that say some of the same of what lies inside a prefix.
    fn inside(&self, outer: &CidrRule, said: &Said, affected: &mut BTreeSet<RuleId>) {
        for (prefix, at) in self.by_prefix.range(super::facts::bounds(&outer.cidr)) {
            if !outer.cidr.covers(prefix) {
                continue;
            }
            for (_, list) in at.iter().filter(|(other, _)| other.iter().any(|plain| said.contains(plain))) {
                for (inner, origin) in list {
                    if let (true, Origin::Rule(rule, ..)) = (stands_for(outer, inner), origin) {
                        affected.insert(*rule);
                    }
                }
            }
        }
    }

    /// Whether wider statements say all of this, too.
    pub(crate) fn implies(&self, cidr: &CidrRule, said: &[Plain]) -> bool {
        let lengths = (cidr.cidr.is_ipv4(), 0)..=(cidr.cidr.is_ipv4(), cidr.cidr.bits());
        let mut left: Vec<Plain> = said.to_vec();
        for &(_, bits) in self.lengths.range(lengths).map(|(length, _)| length) {
            let outer =
                Cidr::containing(cidr.cidr.addr(), bits).expect("the length is no longer than the prefix's own");
            for (wider, list) in self.by_prefix.get(&outer).into_iter().flatten() {
                let says = |plain: &Plain| wider.contains(plain);
                if left.iter().any(says) && list.iter().any(|(wider, _)| stands_for(wider, cidr)) {
                    left.retain(|plain| !says(plain));
                }
                if left.is_empty() {
                    return true;
                }
            }
        }
        left.is_empty()
    }

    /// Everything that is said of an address, the widest first.
    pub(crate) fn of_address(&self, addr: IpAddr) -> impl Iterator<Item = (&Said, &CidrRule, Origin)> {
        let host = Cidr::host(addr);
        let lengths = self.lengths.range((host.is_ipv4(), 0)..=(host.is_ipv4(), host.bits()));
        let outer = lengths.filter_map(move |((_, bits), _)| Cidr::containing(addr, *bits).ok());
        let said = outer.filter_map(|prefix| self.by_prefix.get(&prefix)).flatten();
        said.flat_map(move |(said, list)| {
            let meant = list.iter().filter(move |(rule, _)| rule.covers(&host));
            meant.map(move |(rule, origin)| (said, rule, *origin))
        })
    }
}

/// Whether every address `inner` means is meant by `wider`, which means more.
fn stands_for(wider: &CidrRule, inner: &CidrRule) -> bool {
    let strictly = wider.cidr.bits() < inner.cidr.bits()
        || (wider.cidr == inner.cidr && wider.except.is_empty() && !inner.except.is_empty());
    let scope = wider.scope == CidrScope::Everyone || wider.scope == inner.scope;
    strictly && scope && wider.covers_wholly(&inner.cidr)
}

impl Content {
    /// The prefixes of a rule that must be asked about, of those it names. A rule that says anything no other can stand
    /// for keeps them all.
    pub(crate) fn telling(&self, cidrs: Vec<CidrRule>, filters: &[Filter]) -> Vec<CidrRule> {
        let said: Option<Vec<Plain>> = filters.iter().map(Plain::of).collect();
        match said {
            Some(said) => cidrs.into_iter().filter(|cidr| !self.statements.implies(cidr, &said)).collect(),
            None => cidrs,
        }
    }
}
