//! The engine: facts in, ordered map writes out.
//!
//! Why: the kernel needs one table in which one look-up gives the final verdict; users write rules about labels, names
//! and prefixes that change all the time. The engine keeps both in step, doing for each change only the work that
//! change causes.
//!
//! It holds facts (identities, addresses, endpoints, rule objects), the terms rules in use ask about peers, the classes
//! these terms cut the peers into, and per policy and class the flattened entries. Every public change returns a
//! [`Delta`]; applied in order to the maps it never shows a packet a verdict that neither the state before nor the
//! state after gives (see `commit`).
//!
//! It is a data structure: no clock, no effects that can fail. A write that fails is the caller's to retry; the whole
//! desired state can be read at any time with [`Engine::desired`].

mod anchor;
mod classes;
mod commit;
mod compile;
mod cookies;
mod explain;
mod facts;
mod flatten;
mod implied;
mod moves;
mod peers;
mod policies;
mod prefixes;
mod query;
mod settle;
mod tables;
mod terms;

use crate::{
    delta::{ClassId, Delta, EndpointPolicy, PolicyId, RedirectId},
    rule::{Direction, L7Parser, ObjectKey, PolicyObject, Rule, Subject},
};
use alloc::{
    boxed::Box,
    collections::{BTreeMap, BTreeSet},
    string::String,
    sync::Arc,
    vec::Vec,
};
use anchor::AnchorIndex;
use classes::Classes;
use cookies::Cookies;
use facts::Facts;
use flatten::Entries;
use policies::{Policies, PolicyKey};
use terms::Terms;
use types::{Cidr, EndpointId, Labels, NumericIdentity, Revision};

pub use explain::{Considered, Explanation, Fit, PeerQuestion, Question};
pub use policies::{Origin, RuleId};
pub use query::{RuleName, Stats};
pub use terms::NamedPort;

/// When endpoints are judged (`--enable-policy`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Enforcement {
    /// Per direction, once a rule that selects the endpoint speaks of that direction.
    #[default]
    Default,
    /// Always, in both directions.
    Always,
    /// Never.
    Never,
}

/// Settings of the engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// When endpoints are judged.
    pub enforcement: Enforcement,
    /// Whether the node may always reach its endpoints (`--allow-localhost`; in Kubernetes: yes).
    pub allow_localhost: bool,
    /// Whether rules about nodes are enforced (`--enable-host-firewall`).
    pub host_firewall: bool,
    /// Whether IPv4 is on.
    pub ipv4: bool,
    /// Whether IPv6 is on.
    pub ipv6: bool,
    /// Name of this cluster, which the entity `cluster` means.
    pub cluster_name: String,
    /// Whether CIDR rules also select nodes (`--policy-cidr-match-mode=nodes`).
    pub cidr_selects_nodes: bool,
    /// Whether refusals are only reported (`--policy-audit-mode`).
    pub audit: bool,
    /// Whether something fulfils `authentication.mode`. While nothing does, what such rules allow is refused.
    pub mutual_auth: bool,
    /// Most objects held.
    pub objects_max: usize,
    /// Most identities held. 65,536 cluster-wide and as many node-local ones, by default.
    pub identities_max: usize,
    /// Most prefixes held (`--bpf-ipcache-map-max`).
    pub prefixes_max: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            enforcement: Enforcement::Default,
            allow_localhost: true,
            host_firewall: false,
            ipv4: true,
            ipv6: true,
            cluster_name: "default".into(),
            cidr_selects_nodes: false,
            audit: false,
            mutual_auth: false,
            objects_max: 65_536,
            identities_max: 131_072,
            prefixes_max: 512_000,
        }
    }
}

/// Why a fact was not taken. Nothing has changed then.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// A bound of [`Config`] was met.
    #[error("the bound {bound} of {max} is reached")]
    Full {
        /// Name of the field.
        bound: &'static str,
        /// Its value.
        max: usize,
    },
}

/// Rules that contradict each other about how a port is to be read. What they allow there is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    /// The policy in which they meet.
    pub policy: PolicyId,
    /// Direction.
    pub direction: Direction,
    /// Protocol number.
    pub protocol: u8,
    /// Ports.
    pub ports: crate::rule::PortRange,
    /// The parsers they demand.
    pub parsers: [L7Parser; 2],
}

/// What the engine needs to know of an endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct EndpointFacts {
    /// Its identity's labels.
    pub labels: Labels,
    /// Ports its containers give names.
    pub named_ports: Vec<NamedPort>,
    /// It is the node itself.
    pub host: bool,
    /// Its own option PolicyAuditMode.
    pub audit: bool,
}

/// Where a redirect goes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Redirect {
    /// Direction of the traffic, seen from the endpoint.
    pub direction: Direction,
    /// Who reads it.
    pub parser: L7Parser,
    /// The listener a rule names, or empty.
    pub listener: Box<str>,
}

#[derive(Debug, Clone)]
struct StoredObject {
    object: Arc<PolicyObject>,
    rules: Vec<RuleId>,
}

#[derive(Debug, Clone)]
struct StoredRule {
    object: Arc<PolicyObject>,
    index: usize,
}

impl StoredRule {
    fn rule(&self) -> &Rule {
        &self.object.rules[self.index]
    }
}

#[derive(Debug, Clone)]
struct Endpoint {
    facts: EndpointFacts,
    policy: EndpointPolicy,
}

/// See the [module documentation](self).
#[derive(Debug, Clone)]
pub struct Engine {
    config: Config,
    facts: Facts,
    terms: Terms,
    classes: Classes,
    objects: BTreeMap<ObjectKey, StoredObject>,
    rules: BTreeMap<RuleId, StoredRule>,
    next_rule: u32,
    subjects: AnchorIndex<RuleId>,
    node_rules: BTreeSet<RuleId>,
    endpoints: BTreeMap<EndpointId, Endpoint>,
    policies: Policies,
    tables: BTreeMap<(PolicyId, ClassId), Entries>,
    cookies: Cookies,
    redirects: Vec<Redirect>,
    /// Rules of objects that were removed in the change under way.
    unfiled: Vec<RuleId>,
    /// Terms held for named ports, by name.
    named_terms: BTreeMap<Box<str>, Vec<terms::TermId>>,
    groups: BTreeMap<Box<str>, Vec<Cidr>>,
    services: BTreeMap<(Box<str>, Box<str>), ServiceFacts>,
    revision: Revision,
}

/// What the engine needs to know of a service without selector.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ServiceFacts {
    /// Labels of the service object.
    pub labels: Labels,
    /// Addresses of its backends.
    pub backends: Vec<core::net::IpAddr>,
}

impl Engine {
    /// An engine without rules, and what the maps must hold then: the reserved identities and the default prefixes.
    #[must_use]
    pub fn new(config: Config) -> (Self, Delta) {
        let mut engine = Self {
            config,
            facts: Facts::default(),
            terms: Terms::default(),
            classes: Classes::default(),
            objects: BTreeMap::new(),
            rules: BTreeMap::new(),
            next_rule: 0,
            subjects: AnchorIndex::default(),
            node_rules: BTreeSet::new(),
            endpoints: BTreeMap::new(),
            policies: Policies::default(),
            tables: BTreeMap::new(),
            cookies: Cookies::default(),
            redirects: Vec::new(),
            unfiled: Vec::new(),
            named_terms: BTreeMap::new(),
            groups: BTreeMap::new(),
            services: BTreeMap::new(),
            revision: Revision(1),
        };
        let delta = engine.seed();
        (engine, delta)
    }

    /// The settings.
    #[must_use]
    pub const fn config(&self) -> &Config {
        &self.config
    }

    /// The revision reached.
    #[must_use]
    pub const fn revision(&self) -> Revision {
        self.revision
    }

    /// Takes a policy object in; one with the same key is replaced.
    ///
    /// # Errors
    /// [`Refused::Full`] if a new object would exceed `objects_max`.
    pub fn upsert_object(&mut self, object: PolicyObject) -> Result<Delta, Refused> {
        let known = self.objects.get(&object.key);
        if known.is_some_and(|have| *have.object == object) {
            return Ok(self.no_change());
        }
        if known.is_none() && self.objects.len() >= self.config.objects_max {
            return Err(Refused::Full { bound: "objects_max", max: self.config.objects_max });
        }
        let mut dirty = BTreeSet::new();
        self.replace_object(object, &mut dirty);
        Ok(self.commit_rules(&dirty))
    }

    /// Removes a policy object; nothing happens if there is none.
    pub fn remove_object(&mut self, key: &ObjectKey) -> Delta {
        let mut dirty = BTreeSet::new();
        self.unfile_object(key, &mut dirty);
        self.commit_rules(&dirty)
    }

    /// Takes objects in and removes others, as one change: endpoints go from before to after in one step, and the work is
    /// done once, however many objects there are. Of two objects with one key the later one counts.
    ///
    /// # Errors
    /// [`Refused::Full`] if the objects would exceed `objects_max`.
    pub fn change_objects(&mut self, upsert: Vec<PolicyObject>, remove: &[ObjectKey]) -> Result<Delta, Refused> {
        let mut after: BTreeSet<&ObjectKey> = self.objects.keys().collect();
        remove.iter().for_each(|key| {
            after.remove(key);
        });
        after.extend(upsert.iter().map(|object| &object.key));
        if after.len() > self.config.objects_max.max(self.objects.len()) {
            return Err(Refused::Full { bound: "objects_max", max: self.config.objects_max });
        }
        let mut dirty = BTreeSet::new();
        for key in remove {
            self.unfile_object(key, &mut dirty);
        }
        for object in upsert {
            if self.objects.get(&object.key).is_some_and(|have| *have.object == object) {
                continue;
            }
            self.replace_object(object, &mut dirty);
        }
        Ok(self.commit_rules(&dirty))
    }

    /// Takes an endpoint in, or changed facts about it.
    pub fn upsert_endpoint(&mut self, id: EndpointId, facts: EndpointFacts) -> Delta {
        match self.endpoints.get_mut(&id) {
            Some(endpoint) if endpoint.facts == facts => return self.no_change(),
            Some(endpoint) => endpoint.facts = facts,
            None => {
                let policy = EndpointPolicy { policy: PolicyId::NONE, ingress: false, egress: false, audit: false };
                self.endpoints.insert(id, Endpoint { facts, policy });
            }
        }
        self.commit_rules(&BTreeSet::from([id]))
    }

    /// Forgets an endpoint.
    pub fn remove_endpoint(&mut self, id: EndpointId) -> Delta {
        self.commit_endpoint_removal(id)
    }

    /// Changes when endpoints are judged and whether refusals are only reported.
    pub fn set_mode(&mut self, enforcement: Enforcement, audit: bool) -> Delta {
        if (self.config.enforcement, self.config.audit) == (enforcement, audit) {
            return self.no_change();
        }
        (self.config.enforcement, self.config.audit) = (enforcement, audit);
        let all = self.endpoints.keys().copied().collect();
        self.commit_rules(&all)
    }

    /// Sets the members of a CIDR group.
    pub fn upsert_cidr_group(&mut self, name: &str, mut members: Vec<Cidr>) -> Delta {
        members.sort_unstable();
        members.dedup();
        if self.groups.insert(name.into(), members.clone()).as_ref() == Some(&members) {
            return self.no_change();
        }
        self.recompile_rules(|peer| matches!(peer, crate::rule::Peer::CidrGroup { name: n, .. } if **n == *name))
    }

    /// Forgets a CIDR group: it has no members then.
    pub fn remove_cidr_group(&mut self, name: &str) -> Delta {
        if self.groups.remove(name).is_none() {
            return self.no_change();
        }
        self.recompile_rules(|peer| matches!(peer, crate::rule::Peer::CidrGroup { name: n, .. } if **n == *name))
    }

    /// Sets what is known of a service without selector.
    pub fn upsert_service(&mut self, namespace: &str, name: &str, facts: ServiceFacts) -> Delta {
        if self.services.insert((namespace.into(), name.into()), facts.clone()).as_ref() == Some(&facts) {
            return self.no_change();
        }
        self.recompile_rules(|peer| matches!(peer, crate::rule::Peer::Service(_)))
    }

    /// Forgets a service.
    pub fn remove_service(&mut self, namespace: &str, name: &str) -> Delta {
        if self.services.remove(&(namespace.into(), name.into())).is_none() {
            return self.no_change();
        }
        self.recompile_rules(|peer| matches!(peer, crate::rule::Peer::Service(_)))
    }

    /// Takes an identity in, or other labels of it. Node-local identities (CIDR, DNS) too.
    ///
    /// # Errors
    /// [`Refused::Full`] if a new identity would exceed `identities_max`.
    pub fn upsert_identity(&mut self, id: NumericIdentity, labels: &Labels) -> Result<Delta, Refused> {
        if !self.facts.identities.contains_key(&id) && self.facts.identities.len() >= self.config.identities_max {
            return Err(Refused::Full { bound: "identities_max", max: self.config.identities_max });
        }
        Ok(self.commit_identity(id, labels))
    }

    /// Forgets an identity.
    pub fn remove_identity(&mut self, id: NumericIdentity) -> Delta {
        self.commit_identity_removal(id)
    }

    /// Says which identity a prefix has: a pod's or node's address, a CIDR or DNS-derived prefix. `named_ports` are
    /// those of the workload behind it.
    ///
    /// # Errors
    /// [`Refused::Full`] if a new prefix would exceed `prefixes_max`.
    pub fn upsert_address(
        &mut self,
        prefix: Cidr,
        identity: NumericIdentity,
        named_ports: &[NamedPort],
    ) -> Result<Delta, Refused> {
        if self.facts.prefixes.id(&prefix).is_none() && self.facts.prefixes.len() >= self.config.prefixes_max {
            return Err(Refused::Full { bound: "prefixes_max", max: self.config.prefixes_max });
        }
        Ok(self.commit_address(prefix, identity, named_ports))
    }

    /// Takes back what [`Engine::upsert_address`] said of a prefix.
    pub fn remove_address(&mut self, prefix: Cidr) -> Delta {
        self.commit_address_removal(prefix)
    }

    fn no_change(&self) -> Delta {
        Delta { revision: self.revision, ..Delta::default() }
    }

    /// Files an object in place of the one with its key. Rules that stay as they were keep their number, and with it
    /// their cookies.
    fn replace_object(&mut self, object: PolicyObject, dirty: &mut BTreeSet<EndpointId>) {
        let object = Arc::new(object);
        let old = self.objects.remove(&object.key);
        let kept = |index: usize, rule: &Rule| {
            let old = old.as_ref()?;
            (old.object.rules.get(index)? == rule).then(|| old.rules[index])
        };
        let ids: Vec<Option<RuleId>> = object.rules.iter().enumerate().map(|(i, rule)| kept(i, rule)).collect();
        if let Some(old) = &old {
            for (rule, id) in old.object.rules.iter().zip(&old.rules).filter(|(_, id)| !ids.contains(&Some(**id))) {
                self.unfile_rule(rule, *id, dirty);
            }
        }
        let mut rules = Vec::with_capacity(ids.len());
        for (index, id) in ids.into_iter().enumerate() {
            let id = id.unwrap_or_else(|| self.file_rule(&object.rules[index], dirty));
            self.rules.insert(id, StoredRule { object: object.clone(), index });
            rules.push(id);
        }
        self.objects.insert(object.key.clone(), StoredObject { object, rules });
    }

    fn unfile_object(&mut self, key: &ObjectKey, dirty: &mut BTreeSet<EndpointId>) {
        let Some(stored) = self.objects.remove(key) else { return };
        for (rule, id) in stored.object.rules.iter().zip(&stored.rules) {
            self.unfile_rule(rule, *id, dirty);
        }
    }

    fn file_rule(&mut self, rule: &Rule, dirty: &mut BTreeSet<EndpointId>) -> RuleId {
        self.next_rule += 1;
        let id = RuleId(self.next_rule);
        match &rule.subject {
            Subject::Endpoints(selector) => self.subjects.insert(selector, id),
            Subject::Nodes(_) => {
                self.node_rules.insert(id);
            }
        }
        self.mark_subjects(rule, dirty);
        id
    }

    /// Takes a rule out of the index. It stays readable until the policies that hold it have changed.
    fn unfile_rule(&mut self, rule: &Rule, id: RuleId, dirty: &mut BTreeSet<EndpointId>) {
        match &rule.subject {
            Subject::Endpoints(selector) => self.subjects.remove(selector, id),
            Subject::Nodes(_) => {
                self.node_rules.remove(&id);
            }
        }
        self.mark_subjects(rule, dirty);
        self.unfiled.push(id);
    }

    fn mark_subjects(&self, rule: &Rule, dirty: &mut BTreeSet<EndpointId>) {
        for (id, endpoint) in &self.endpoints {
            if selects(rule, &endpoint.facts) {
                dirty.insert(*id);
            }
        }
    }

    /// What the endpoint's policy must be.
    fn desired_key(&self, facts: &EndpointFacts) -> PolicyKey {
        let mut rules = Vec::new();
        if facts.host {
            rules.extend(self.node_rules.iter().copied().filter(|id| selects(self.rules[id].rule(), facts)));
        } else {
            self.subjects.candidates(&facts.labels, |id| {
                if selects(self.rules[&id].rule(), facts) {
                    rules.push(id);
                }
            });
            rules.sort_unstable();
        }
        let mut key = PolicyKey {
            rules,
            enforced: [false; 2],
            open: [false; 2],
            audit: self.config.audit || facts.audit,
            host: facts.host,
            ports: Vec::new(),
        };
        let by_rules = |key: &mut PolicyKey| {
            for direction in Direction::BOTH {
                let mut says = key.rules.iter().filter_map(|id| self.rules[id].rule().default_deny(direction));
                let first = says.next();
                key.enforced[direction as usize] = first.is_some();
                key.open[direction as usize] = first == Some(false) && says.all(|deny| !deny);
            }
        };
        match self.config.enforcement {
            Enforcement::Never => {}
            _ if facts.host && !self.config.host_firewall => {}
            Enforcement::Always => key.enforced = [true; 2],
            Enforcement::Default if facts.labels.has_reserved("init") => key.enforced = [true; 2],
            Enforcement::Default => by_rules(&mut key),
        }
        if key.enforced == [false; 2] {
            key.rules.clear();
        }
        self.own_ports(&mut key, facts);
        key
    }

    /// The endpoint's named ports that its ingress rules ask for.
    fn own_ports(&self, key: &mut PolicyKey, facts: &EndpointFacts) {
        if facts.named_ports.is_empty() {
            return;
        }
        let mut ports = BTreeSet::new();
        for id in &key.rules {
            for peer_rule in &self.rules[id].rule().ingress {
                let crate::rule::Ports::Listed(list) = &peer_rule.ports else { continue };
                for port in list.iter().flat_map(|r| &r.ports) {
                    if let crate::rule::PortSpec::Named(name) = &port.port {
                        let mine = |p: &&NamedPort| p.name == *name && p.protocol == port.protocol;
                        ports.extend(facts.named_ports.iter().filter(mine).cloned());
                    }
                }
            }
        }
        key.ports = ports.into_iter().collect();
    }

    fn redirect_id(&mut self, redirect: Redirect) -> RedirectId {
        let known = self.redirects.iter().position(|r| *r == redirect);
        let index = known.unwrap_or_else(|| {
            self.redirects.push(redirect);
            self.redirects.len() - 1
        });
        RedirectId(u32::try_from(index + 1).expect("parsers and listeners are few"))
    }

    /// Where a redirect goes.
    #[must_use]
    pub fn redirect(&self, id: RedirectId) -> Option<&Redirect> {
        self.redirects.get((id.as_u32() as usize).checked_sub(1)?)
    }
}

fn selects(rule: &Rule, facts: &EndpointFacts) -> bool {
    match &rule.subject {
        Subject::Endpoints(selector) => !facts.host && selector.matches(&facts.labels),
        Subject::Nodes(selector) => facts.host && selector.matches(&facts.labels),
    }
}

#[cfg(test)]
mod tests;
