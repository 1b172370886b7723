//! Compiling: a rule's peers to terms, its ports to filters.

use super::{
    Engine, Redirect,
    implied::{Plain, Statement},
    policies::{Content, Filter, FilterPorts, Held, Origin, PolicyKey, Requires, RuleId},
    terms::{Term, TermId},
};
use crate::rule::{
    Action, CidrRule, CidrScope, Direction, Entity, L7Parser, Peer, PeerRule, Peers, PortRange, PortSpec, Ports,
    ServicePeer,
};
use alloc::{boxed::Box, collections::BTreeSet, vec::Vec};
use types::{
    Cidr, Label,
    labels::{FQDN, K8S, POLICY_CLUSTER, RESERVED},
    selector::{Demand, Requirement, Selector, SelectorKey},
};

/// What compiling touched.
#[derive(Debug, Default)]
pub(crate) struct Touched {
    /// Terms that came into use.
    pub(crate) activated: Vec<TermId>,
    /// Terms whose filters changed.
    pub(crate) terms: BTreeSet<TermId>,
    /// Filters for anyone changed.
    pub(crate) anyone: bool,
    /// Port names of peers that came into use.
    pub(crate) names: Vec<Box<str>>,
    /// Terms that lost a reference and have none left, maybe.
    pub(crate) released: Vec<TermId>,
    /// Port names that lost a reference.
    pub(crate) released_names: Vec<Box<str>>,
}

/// A compiled peer: everyone, or those who answer a term.
enum Whom {
    Anyone,
    Term(Term),
}

impl Engine {
    /// Compiles all of a policy into empty content.
    pub(crate) fn compile_policy(&mut self, key: &PolicyKey, touched: &mut Touched) -> Content {
        let mut content = Content { requires: self.requirements(key), ..Content::default() };
        self.compile_frame(key, &mut content, touched);
        self.change_rules(key, &[], &key.rules, &mut content, touched);
        content
    }

    /// Takes rules out of a policy and others in. A rule that is in both lists is compiled anew, and so are those whose
    /// prefixes lie inside prefixes of these.
    pub(crate) fn change_rules(
        &mut self,
        key: &PolicyKey,
        gone: &[RuleId],
        come: &[RuleId],
        content: &mut Content,
        touched: &mut Touched,
    ) {
        let mut affected = BTreeSet::new();
        for rule in gone {
            content.statements.remove(*rule, &mut affected);
        }
        // Whether there are rules that neither come nor go, and so may be affected.
        let others = content.held.keys().flatten().any(|rule| !gone.contains(rule));
        for rule in come {
            let statements = self.statements(key, *rule);
            content.statements.insert(*rule, statements, others.then_some(&mut affected));
        }
        for rule in gone.iter().chain(come) {
            affected.remove(rule);
        }
        for rule in gone.iter().chain(&affected) {
            self.remove_rule(Some(*rule), content, touched);
        }
        for rule in come.iter().chain(&affected) {
            self.compile_rule(key, *rule, content, touched);
        }
    }

    /// What a rule says of prefixes.
    fn statements(&mut self, key: &PolicyKey, id: RuleId) -> Vec<Statement> {
        let stored = self.rules[&id].clone();
        let mut statements = Vec::new();
        for direction in Direction::BOTH.into_iter().filter(|d| key.enforced[*d as usize]) {
            for peer_rule in stored.rule().peer_rules(direction) {
                let cidrs = self.cidrs_of(peer_rule);
                if cidrs.is_empty() {
                    continue;
                }
                let origin = Origin::Rule(id, direction, peer_rule.action, peer_rule.index);
                let filters = self.filters(key, direction, peer_rule, origin);
                let mut said: Vec<Plain> = filters.iter().filter_map(Plain::of).collect();
                said.sort_unstable();
                said.dedup();
                if !said.is_empty() {
                    statements.push(Statement { cidrs, said: said.into(), origin });
                }
            }
        }
        statements
    }

    /// The requirements of all rules of a policy. Those of deny rules hold for deny rules only.
    pub(crate) fn requirements(&self, key: &PolicyKey) -> Requires {
        Direction::BOTH.map(|direction| {
            [Action::Allow, Action::Deny].map(|action| {
                let rules = key.rules.iter().map(|id| self.rules[id].rule());
                let peer_rules = rules.flat_map(|r| r.peer_rules(direction)).filter(|p| p.action == action);
                let mut all: Vec<Selector> = peer_rules.flat_map(|p| p.requires.iter().cloned()).collect();
                all.sort_unstable();
                all.dedup();
                all
            })
        })
    }

    /// What a policy says beside its rules.
    fn compile_frame(&mut self, key: &PolicyKey, content: &mut Content, touched: &mut Touched) {
        let ports = || FilterPorts::Range(0, PortRange::ALL);
        for direction in Direction::BOTH {
            if key.open[direction as usize] {
                let origin = Origin::NoDefaultDeny;
                let filter = plain_filter(direction, Action::Allow, ports(), origin);
                self.add_filter(Whom::Anyone, filter, None, content, touched);
            }
        }
        if self.config.allow_localhost && !key.host && key.enforced[Direction::Ingress as usize] {
            let filter = plain_filter(Direction::Ingress, Action::Allow, ports(), Origin::LocalHost);
            let host = Whom::Term(Term::Labels(Selector::reserved(Entity::Host.name())));
            self.add_filter(host, filter, None, content, touched);
        }
    }

    /// Adds what one rule says.
    pub(crate) fn compile_rule(&mut self, key: &PolicyKey, id: RuleId, content: &mut Content, touched: &mut Touched) {
        let stored = self.rules[&id].clone();
        for direction in Direction::BOTH {
            if !key.enforced[direction as usize] {
                continue;
            }
            for peer_rule in stored.rule().peer_rules(direction) {
                let origin = Origin::Rule(id, direction, peer_rule.action, peer_rule.index);
                let filters = self.filters(key, direction, peer_rule, origin);
                if filters.is_empty() {
                    continue;
                }
                let requires = content.requires[direction as usize][peer_rule.action as usize].clone();
                let cidrs = content.telling(self.cidrs_of(peer_rule), &filters);
                for whom in self.whom(peer_rule, &requires, cidrs) {
                    for filter in &filters {
                        let whom = match &whom {
                            Whom::Anyone => Whom::Anyone,
                            Whom::Term(term) => Whom::Term(term.clone()),
                        };
                        self.add_filter(whom, filter.clone(), Some(id), content, touched);
                    }
                }
            }
        }
    }

    fn add_filter(
        &mut self,
        whom: Whom,
        filter: Filter,
        holder: Option<RuleId>,
        content: &mut Content,
        touched: &mut Touched,
    ) {
        let held = content.held.entry(holder).or_default();
        if let FilterPorts::NamedOfPeer(_, name) = &filter.ports {
            held.names.push(name.clone());
            if self.terms.use_name(name) {
                touched.names.push(name.clone());
            }
        }
        match whom {
            Whom::Anyone => {
                touched.anyone = true;
                content.anyone.push(filter);
            }
            Whom::Term(term) => {
                let (id, new) = self.terms.acquire(term);
                held.terms.push(id);
                touched.terms.insert(id);
                if new {
                    touched.activated.push(id);
                }
                content.by_term.entry(id).or_default().push(filter);
            }
        }
    }

    /// Takes out what one rule (or the frame: `None`) said.
    pub(crate) fn remove_rule(&mut self, holder: Option<RuleId>, content: &mut Content, touched: &mut Touched) {
        let Some(held) = content.held.remove(&holder) else { return };
        let before = content.anyone.len();
        content.anyone.retain(|f| f.rule() != holder);
        touched.anyone |= content.anyone.len() != before;
        let distinct: BTreeSet<TermId> = held.terms.iter().copied().collect();
        for term in distinct {
            touched.terms.insert(term);
            if let Some(filters) = content.by_term.get_mut(&term) {
                filters.retain(|f| f.rule() != holder);
                if filters.is_empty() {
                    content.by_term.remove(&term);
                }
            }
        }
        self.release_held(held, touched);
    }

    /// Gives back the references of a whole policy.
    pub(crate) fn release_content(&mut self, content: Content, touched: &mut Touched) {
        for held in content.held.into_values() {
            self.release_held(held, touched);
        }
    }

    fn release_held(&mut self, held: Held, touched: &mut Touched) {
        for term in held.terms {
            if self.terms.release(term) {
                touched.released.push(term);
            }
        }
        for name in held.names {
            if self.terms.drop_name(&name) {
                touched.released_names.push(name);
            }
        }
    }

    fn filters(&mut self, key: &PolicyKey, direction: Direction, peer_rule: &PeerRule, origin: Origin) -> Vec<Filter> {
        let auth = peer_rule.auth;
        let of = |ports, redirect| Filter {
            direction,
            action: peer_rule.action,
            ports,
            redirect,
            conflict: false,
            auth,
            origin,
        };
        let list = match &peer_rule.ports {
            Ports::All => return alloc::vec![of(FilterPorts::Range(0, PortRange::ALL), None)],
            Ports::Listed(list) => list,
        };
        let mut filters = Vec::new();
        for port_rule in list {
            let redirect = port_rule.l7.as_ref().map(|l7| {
                let listener = match (&l7.parser, &l7.listener) {
                    (L7Parser::Crd, Some(l)) => alloc::format!("{}/{}", l.config, l.name).into(),
                    _ => Box::default(),
                };
                self.redirect_id(Redirect { direction, parser: l7.parser.clone(), listener })
            });
            for port in &port_rule.ports {
                match &port.port {
                    PortSpec::Range(range) => {
                        filters.push(of(FilterPorts::Range(port.protocol.number(), *range), redirect));
                    }
                    PortSpec::Named(name) if direction == Direction::Egress => {
                        filters.push(of(FilterPorts::NamedOfPeer(port.protocol, name.clone()), redirect));
                    }
                    PortSpec::Named(name) => {
                        let mine = key.ports.iter().filter(|p| p.name == *name && p.protocol == port.protocol);
                        filters.extend(mine.map(|p| {
                            let range = PortRange::single(p.port);
                            of(FilterPorts::Range(port.protocol.number(), range), redirect)
                        }));
                    }
                }
            }
        }
        filters
    }

    /// Whom a rule is about; `cidrs` are the prefixes of it that need to be asked about.
    fn whom(&self, peer_rule: &PeerRule, requires: &[Selector], cidrs: Vec<CidrRule>) -> Vec<Whom> {
        let list = match &peer_rule.peers {
            Peers::Unstated if peer_rule.ports == Ports::All => return Vec::new(),
            Peers::Unstated => return alloc::vec![Whom::Anyone],
            Peers::Listed(list) => list,
        };
        let mut whom = Vec::new();
        for peer in list {
            self.peer(peer, requires, &mut whom);
        }
        if !cidrs.is_empty() {
            whom.push(Whom::Term(Term::Cidrs(cidrs)));
        }
        if self.config.ipv4 && self.config.ipv6 && both_defaults(list) {
            whom.push(Whom::Term(Term::Labels(Selector::reserved("world"))));
        }
        whom
    }

    /// The prefixes a rule names, itself or by way of groups and services; sorted.
    fn cidrs_of(&self, peer_rule: &PeerRule) -> Vec<CidrRule> {
        let Peers::Listed(list) = &peer_rule.peers else { return Vec::new() };
        let mut cidrs = Vec::new();
        for peer in list {
            match peer {
                Peer::Cidr(rule) => cidrs.push(rule.clone()),
                Peer::CidrGroup { name, except } => {
                    for member in self.groups.get(name).into_iter().flatten() {
                        let except = except.iter().filter(|e| member.covers(e)).copied().collect();
                        cidrs.push(CidrRule { cidr: *member, except, scope: CidrScope::World });
                    }
                }
                Peer::Service(service) => {
                    for ((namespace, name), facts) in &self.services {
                        let any = |wanted: &str| wanted.is_empty() || *wanted == **namespace;
                        let meant = match service {
                            ServicePeer::Named { namespace: n, name: wanted } => any(n) && wanted == name,
                            ServicePeer::Labelled { namespace: n, selector } => {
                                any(n) && selector.matches(&facts.labels)
                            }
                        };
                        if meant {
                            let rule =
                                |addr| CidrRule { cidr: Cidr::host(addr), except: Vec::new(), scope: CidrScope::World };
                            cidrs.extend(facts.backends.iter().map(|addr| rule(*addr)));
                        }
                    }
                }
                Peer::Labels(_) | Peer::Nodes(_) | Peer::Entity(_) | Peer::Fqdn(_) => {}
            }
        }
        cidrs.sort_unstable();
        cidrs.dedup();
        cidrs
    }

    fn peer(&self, peer: &Peer, requires: &[Selector], out: &mut Vec<Whom>) {
        let labels = |selector: Selector| {
            if selector.is_everything() { Whom::Anyone } else { Whom::Term(Term::Labels(selector)) }
        };
        match peer {
            Peer::Labels(selector) => {
                let both = requires.iter().flat_map(Selector::requirements).cloned();
                let all: Selector = selector.requirements().iter().cloned().chain(both).collect();
                if self.config.ipv4 && self.config.ipv6 && is_lone_world(&all) {
                    out.push(labels(Selector::reserved("world-ipv4")));
                    out.push(labels(Selector::reserved("world-ipv6")));
                }
                out.push(labels(all));
            }
            Peer::Nodes(selector) => out.push(labels(selector.clone())),
            Peer::Entity(entity) => out.extend(self.entity(*entity).into_iter().map(labels)),
            Peer::Fqdn(name) => out.push(labels(Selector::has_label(&Label::new(FQDN, name, "")))),
            Peer::Cidr(_) | Peer::CidrGroup { .. } | Peer::Service(_) => {}
        }
    }

    fn entity(&self, entity: Entity) -> Vec<Selector> {
        let reserved = |names: &[Entity]| names.iter().map(|e| Selector::reserved(e.name())).collect();
        match entity {
            Entity::All => alloc::vec![Selector::everything()],
            Entity::World => reserved(&[Entity::World, Entity::WorldIpv4, Entity::WorldIpv6]),
            Entity::Cluster => {
                let mut all: Vec<Selector> = reserved(&[
                    Entity::Host,
                    Entity::RemoteNode,
                    Entity::Init,
                    Entity::Ingress,
                    Entity::Health,
                    Entity::Unmanaged,
                    Entity::KubeApiserver,
                ]);
                let cluster = SelectorKey::new(K8S, POLICY_CLUSTER);
                all.push([Requirement::equals(cluster, &self.config.cluster_name)].into_iter().collect());
                all
            }
            other => reserved(&[other]),
        }
    }
}

fn plain_filter(direction: Direction, action: Action, ports: FilterPorts, origin: Origin) -> Filter {
    Filter { direction, action, ports, redirect: None, conflict: false, auth: None, origin }
}

fn both_defaults(list: &[Peer]) -> bool {
    let has = |ipv4: bool| {
        list.iter().any(|p| {
            matches!(p, Peer::Cidr(CidrRule { cidr, except, scope: CidrScope::World })
                if cidr.is_default() && except.is_empty() && cidr.is_ipv4() == ipv4)
        })
    };
    has(true) && has(false)
}

/// A selector that asks for nothing but `reserved:world`.
fn is_lone_world(selector: &Selector) -> bool {
    match selector.requirements() {
        [one] => {
            &*one.key.source == RESERVED
                && &*one.key.key == "world"
                && match &one.demand {
                    Demand::Exists => true,
                    Demand::In(values) => values.iter().any(|v| v.is_empty()),
                    Demand::NotIn(_) | Demand::Absent => false,
                }
        }
        _ => false,
    }
}
