//! Why a verdict is what it is: the rules that decide, those that are overruled, and those that nearly apply.

use super::{
    EndpointFacts, Engine, Origin, RuleName,
    flatten::{Entries, flatten},
    policies::{Content, Filter, FilterPorts},
    tables::gather,
    terms::TermId,
};
use crate::{
    delta::{EndpointPolicy, EntryValue, MatchType, PolicyId, RuleCookie, Verdict},
    rule::{Action, AuthMode, CidrScope, Direction},
};
use alloc::{
    collections::{BTreeMap, BTreeSet},
    vec::Vec,
};
use core::net::IpAddr;
use types::{Cidr, EndpointId, Labels, NumericIdentity};

/// Most rules an explanation lists beside the deciding ones.
const CONSIDERED_MAX: usize = 64;

/// Who is on the other side, as far as it is known. Where labels are given they are the peer's, whatever its address or
/// identity stands for now; the address then adds what rules about prefixes say. Without labels the address counts
/// before the identity, as in the kernel.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PeerQuestion {
    /// Its address.
    pub addr: Option<IpAddr>,
    /// Its identity.
    pub identity: Option<NumericIdentity>,
    /// Its labels: recorded ones, or such as no identity has (yet).
    pub labels: Option<Labels>,
}

/// What is asked about an endpoint's traffic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// Direction, seen from the endpoint.
    pub direction: Direction,
    /// The other side.
    pub peer: PeerQuestion,
    /// IP protocol number.
    pub protocol: u8,
    /// Destination port, or ICMP type.
    pub port: u16,
}

/// How a rule that was considered relates to the question.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fit {
    /// It says the same of a prefix within the deciding rule's. Entries then name the wider rule alone.
    SaidByWider,
    /// Peer and port fit, but another rule decides.
    Overruled,
    /// The peer fits, the port does not.
    OtherPorts,
    /// The port fits, the peer does not.
    OtherPeers,
}

/// A rule that was considered and does not decide.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Considered {
    /// Which rule.
    pub rule: RuleName,
    /// Allow or deny.
    pub action: Action,
    /// Why it does not decide.
    pub fit: Fit,
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    /// How the endpoint is judged.
    pub judged: EndpointPolicy,
    /// Whether this direction is judged at all; if not, everything is allowed.
    pub enforced: bool,
    /// The verdict. With audit mode a refusal is let through all the same.
    pub verdict: Verdict,
    /// What the deciding rules named.
    pub matched: MatchType,
    /// Authentication the deciding rules demand. While nothing fulfils it (`Config::mutual_auth`), they refuse.
    pub auth: Option<AuthMode>,
    /// The rules that decide. Empty, and the verdict is deny: none allows, and default deny is on.
    pub deciding: Vec<RuleName>,
    /// The objects' rules that switch default deny on in this direction.
    pub default_deny: Vec<RuleName>,
    /// Other rules of the endpoint, the closest first.
    pub considered: Vec<Considered>,
}

impl Engine {
    /// Explains the verdict on an endpoint's traffic; `None` of an endpoint that is not known.
    #[must_use]
    pub fn explain(&self, endpoint: EndpointId, question: &Question) -> Option<Explanation> {
        self.explanation(endpoint, question, CONSIDERED_MAX)
    }

    /// The same with at most so many rules beside those that decide: looking for them is most of the work.
    pub(crate) fn explanation(
        &self,
        endpoint: EndpointId,
        question: &Question,
        considered_max: usize,
    ) -> Option<Explanation> {
        let judged = self.endpoint_policy(endpoint)?;
        let enforced = match question.direction {
            Direction::Ingress => judged.ingress,
            Direction::Egress => judged.egress,
        };
        if judged.policy == PolicyId::NONE || !enforced {
            return Some(Explanation {
                judged,
                enforced: false,
                verdict: Verdict::Allow,
                matched: MatchType::All,
                auth: None,
                deciding: Vec::new(),
                default_deny: Vec::new(),
                considered: Vec::new(),
            });
        }
        let answers = self.answers_to(&question.peer);
        let policy = self.policies.get(judged.policy);
        let (value, deciding) = self.decide(&policy.content, &answers, question);
        let (verdict, matched, auth) = value.map_or((Verdict::Deny, MatchType::None, None), |v| {
            let unfulfilled = v.auth.is_some() && !self.config.mutual_auth;
            (if unfulfilled { Verdict::Deny } else { v.verdict }, v.matched, v.auth)
        });
        let default_deny = policy
            .key
            .rules
            .iter()
            .filter(|id| self.rules[id].rule().default_deny(question.direction) == Some(true))
            .flat_map(|id| {
                let rule = self.rules[id].rule();
                let first = rule.peer_rules(question.direction).first();
                first.and_then(|p| self.name_of(&Origin::Rule(*id, question.direction, p.action, p.index)))
            })
            .collect();
        let considered = match considered_max {
            0 => Vec::new(),
            max => self.considered(&policy.content, &answers, question, &deciding, max),
        };
        let deciding = deciding.iter().filter_map(|o| self.name_of(o)).collect();
        Some(Explanation { judged, enforced, verdict, matched, auth, deciding, default_deny, considered })
    }

    /// Explains for an endpoint that does not exist (here), by its facts. Costs a copy of the engine.
    #[must_use]
    pub fn explain_for(&self, facts: EndpointFacts, question: &Question) -> Option<Explanation> {
        let id = EndpointId::new(u16::MAX)?;
        let mut engine = self.clone();
        engine.upsert_endpoint(id, facts);
        engine.explain(id, question)
    }

    /// The terms a peer answers with yes.
    fn answers_to(&self, peer: &PeerQuestion) -> Vec<TermId> {
        if let Some(labels) = &peer.labels {
            return self.answers_of_labels(labels, peer.addr);
        }
        let by_address = peer.addr.and_then(|a| self.facts.longest(a)).and_then(|s| s.class);
        let by_identity = || peer.identity.and_then(|id| self.facts.identities.get(&id)).map(|s| s.class);
        by_address.or_else(by_identity).map_or_else(Vec::new, |class| self.classes.answers(class).to_vec())
    }

    fn answers_of_labels(&self, labels: &Labels, addr: Option<IpAddr>) -> Vec<TermId> {
        let mut answers = self.terms.of_labels(labels);
        let outside = self.is_outside(labels);
        match addr.map(Cidr::host) {
            Some(host) => self.terms.of_prefix(&host, |term, rule| {
                if outside || rule.scope == CidrScope::Everyone {
                    answers.push(term);
                }
            }),
            None => {
                // Without an address, only what holds for every address these labels may have.
                if let Some(prefix) = self.address_of(labels) {
                    self.terms.of_prefix(&prefix, |term, rule| {
                        if rule.covers_wholly(&prefix) {
                            answers.push(term);
                        }
                    });
                }
            }
        }
        if let Some((_, ports)) =
            addr.and_then(|a| self.facts.prefixes.get(&Cidr::host(a))).and_then(|s| s.told.as_ref())
        {
            answers.extend(ports.iter().filter_map(|p| self.terms.named_port(p)));
        }
        answers.sort_unstable();
        answers.dedup();
        answers
    }

    fn decide(&self, content: &Content, answers: &[TermId], question: &Question) -> (Option<EntryValue>, Vec<Origin>) {
        let filters = gather(content, answers, &self.terms);
        let mut names: BTreeMap<Vec<Origin>, RuleCookie> = BTreeMap::new();
        let mut cookie_of = |origins: &[Origin]| {
            let next = RuleCookie::from_u32(u32::try_from(names.len() + 1).unwrap_or(u32::MAX));
            *names.entry(origins.to_vec()).or_insert(next)
        };
        let mut entries = Entries::new();
        let all = filters.iter().map(|(specific, f)| (*specific, f.as_ref()));
        flatten(question.direction, all, &mut cookie_of, &mut entries);
        let hit = entries.iter().filter(|((_, l4), _)| l4.contains(question.protocol, question.port));
        match hit.max_by_key(|((_, l4), _)| l4.bits) {
            None => (None, Vec::new()),
            Some((_, value)) => {
                let origins = names.into_iter().find(|(_, cookie)| *cookie == value.cookie).map(|(o, _)| o);
                (Some(*value), origins.unwrap_or_default())
            }
        }
    }

    fn considered(
        &self,
        content: &Content,
        answers: &[TermId],
        question: &Question,
        deciding: &[Origin],
        max: usize,
    ) -> Vec<Considered> {
        let mut best: BTreeMap<Origin, (Fit, Action)> = BTreeMap::new();
        let mut note = |filter: &Filter, fit: Fit| {
            let slot = best.entry(filter.origin).or_insert((fit, filter.action));
            slot.0 = slot.0.min(fit);
        };
        let mine = |f: &Filter| f.direction == question.direction && !deciding.contains(&f.origin);
        let port_fits = |f: &Filter| match &f.ports {
            FilterPorts::Range(protocol, range) => {
                *protocol == 0 || (*protocol == question.protocol && range.contains(question.port))
            }
            FilterPorts::NamedOfPeer(..) => false,
        };
        let fitting = gather(content, answers, &self.terms);
        for (_, filter) in fitting.iter().filter(|(_, f)| mine(f)) {
            note(filter, if port_fits(filter) { Fit::Overruled } else { Fit::OtherPorts });
        }
        let answered: BTreeSet<TermId> = answers.iter().copied().collect();
        for (_, filters) in content.by_term.iter().filter(|(term, _)| !answered.contains(term)) {
            for filter in filters.iter().filter(|f| mine(f) && port_fits(f)) {
                note(filter, Fit::OtherPeers);
            }
        }
        // Rules whose prefixes were left out because wider ones say the same.
        if let Some(addr) = question.peer.addr {
            let labels = question.peer.labels.as_ref();
            let told = || self.facts.longest(addr).and_then(|s| self.labels_of(s.identity));
            let outside = labels.or_else(told).is_some_and(|labels| self.is_outside(labels));
            for (said, rule, origin) in content.statements.of_address(addr) {
                let fits = said.iter().any(|p| p.speaks_of(question.direction, question.protocol, question.port));
                let scope = outside || rule.scope == CidrScope::Everyone;
                if let (true, true, Origin::Rule(_, _, action, _)) = (fits, scope, origin)
                    && !deciding.contains(&origin)
                {
                    let agrees = deciding.iter().any(|o| matches!(o, Origin::Rule(_, _, of, _) if *of == action));
                    let alike = agrees && content.statements.implies(rule, said);
                    let fit = if alike { Fit::SaidByWider } else { Fit::Overruled };
                    best.entry(origin).or_insert((fit, action)).0 = fit;
                }
            }
        }
        let mut all: Vec<(Fit, Origin, Action)> = best.into_iter().map(|(o, (fit, action))| (fit, o, action)).collect();
        all.sort_unstable();
        all.truncate(max);
        let named = |(fit, origin, action)| Some(Considered { rule: self.name_of(&origin)?, action, fit });
        all.into_iter().filter_map(named).collect()
    }
}
