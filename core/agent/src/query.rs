//! Reading an agent, between inputs: what the REST API, the CLI, Hubble and metrics show.

use alloc::string::String;
use alloc::vec::Vec;
use core::net::IpAddr;

use abi::write::MapWrite;
use endpoint::{Endpoint, EndpointName};
use policy::{ClassId, Engine, PolicyId};
use types::{Cidr, Labels, NumericIdentity, Revision};

use crate::agent::{Agent, Phase};
use crate::config::{Audit, Config, Enforcement};
use crate::effect::StateFile;

/// One identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdentityInfo {
    /// Its number.
    pub id: NumericIdentity,
    /// Its labels.
    pub labels: Labels,
    /// Endpoints of this node that have it, or references of rules to a prefix.
    pub references: usize,
}

/// One entry of the ipcache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IpInfo {
    /// The prefix.
    pub cidr: Cidr,
    /// Its identity.
    pub identity: NumericIdentity,
    /// The node it is on, if another one.
    pub host: Option<IpAddr>,
    /// Who says so (`agent-local`, `kvstore`, `generated`).
    pub source: ipcache::Source,
    /// Namespace and name of its pod.
    pub pod: Option<(String, String)>,
}

/// How the agent is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// Where it is in its life.
    pub phase: Phase,
    /// Whether all identities of the cluster are known.
    pub identities_synced: bool,
    /// Whether all addresses of other nodes are known.
    pub addresses_synced: bool,
    /// Map writes that wait or are under way.
    pub pending_writes: usize,
    /// Revision of the rules.
    pub revision: Revision,
    /// Revision that is enforced everywhere.
    pub realized: Revision,
    /// Entries in the policy map, and its size.
    pub policy_entries: (usize, usize),
    /// State files that cannot be written.
    pub unkept_files: Vec<StateFile>,
    /// Imported policies were lost, and nothing replaced them yet.
    pub policies_lost: bool,
}

impl Agent {
    /// Its configuration.
    pub const fn config(&self) -> &Config {
        &self.config
    }
    /// When policy applies, now.
    pub const fn enforcement(&self) -> Enforcement {
        self.enforcement
    }
    /// Whether policy decides, now.
    pub const fn audit(&self) -> Audit {
        self.audit
    }
    /// How it is doing.
    pub fn status(&self) -> Status {
        Status {
            phase: self.phase,
            identities_synced: self.allocator.is_synced(),
            addresses_synced: self.sync.is_synced(),
            pending_writes: self.kernel.pending(),
            revision: self.engine.revision(),
            realized: self.realized,
            policy_entries: self.kernel.policy_room(),
            unkept_files: self.files.failing().collect(),
            policies_lost: self.policies_lost,
        }
    }

    /// All endpoints, ordered by number.
    pub fn endpoints(&self) -> impl Iterator<Item = &Endpoint> {
        self.endpoints.iter()
    }
    /// The endpoint of a name.
    pub fn endpoint(&self, name: &EndpointName) -> Option<&Endpoint> {
        self.endpoints.find(name)
    }
    /// How an endpoint is judged.
    pub fn endpoint_policy(&self, id: types::EndpointId) -> Option<policy::EndpointPolicy> {
        self.engine.endpoint_policy(id)
    }

    /// All identities: reserved, of the cluster, of this node.
    pub fn identities(&self) -> Vec<IdentityInfo> {
        let users = |id| self.endpoints.iter().filter(|endpoint| endpoint.identity == Some(id)).count();
        let reserved = NumericIdentity::all_reserved()
            .filter_map(|id| Some(IdentityInfo { id, labels: id.reserved_labels()?, references: users(id) }));
        let global = self.allocator.iter().map(|(id, labels)| IdentityInfo {
            id,
            labels: labels.clone(),
            references: users(id),
        });
        let mut local: Vec<_> = self
            .local
            .iter()
            .map(|(prefix, id, references)| IdentityInfo { id, labels: self.local.labels(prefix), references })
            .collect();
        local.sort_by_key(|info| info.id);
        reserved.chain(global).chain(local).collect()
    }
    /// The labels of an identity.
    pub fn labels_of(&self, id: NumericIdentity) -> Option<Labels> {
        id.reserved_labels()
            .or_else(|| self.allocator.labels(id).cloned())
            .or_else(|| Some(self.local.labels(self.local.prefix(id)?)))
            .or_else(|| Some(self.endpoints.iter().find(|e| e.identity == Some(id))?.identity_labels.clone()))
    }

    /// What is known about addresses, ordered by prefix.
    pub fn ip_list(&self) -> impl Iterator<Item = IpInfo> + '_ {
        self.ipcache.iter().map(|(cidr, source, entry)| ip_info(cidr, source, entry))
    }
    /// What is known about one address.
    pub fn ip_lookup(&self, addr: IpAddr) -> Option<IpInfo> {
        self.ipcache.lookup(addr).map(|(cidr, source, entry)| ip_info(cidr, source, entry))
    }

    /// All services, ordered by number.
    pub fn services(&self) -> impl Iterator<Item = &lb::Service> {
        self.balancer.services().iter()
    }
    /// The service of a number.
    pub fn service(&self, id: lb::ServiceId) -> Option<&lb::Service> {
        self.balancer.services().by_id(id)
    }
    /// All that is balanced.
    pub const fn balancer(&self) -> &lb::Balancer {
        &self.balancer
    }
    /// The service of a frontend.
    pub fn service_at(&self, frontend: &lb::L4Addr) -> Option<&lb::Service> {
        self.balancer.services().by_frontend(frontend)
    }

    /// Addresses that are lent, IPv4 first.
    pub fn loans(&self) -> impl Iterator<Item = ipam::Loan> + '_ {
        self.ipam.loans()
    }
    /// Lent and lendable addresses of a family.
    pub fn ipam_usage(&self, family: ipam::Family) -> Option<(u64, u64)> {
        self.ipam.usage(family)
    }

    /// Revision and documents (a JSON list) of the policy; with labels, only documents that have them all.
    pub fn policy(&self, labels: &Labels) -> (Revision, String) {
        let wanted = |have: &Labels| labels.iter().all(|label| have.has(label));
        let values: Vec<_> =
            self.documents.labelled().filter(|(_, have, _)| wanted(have)).map(|(_, _, value)| value).collect();
        let json = serde_json::to_string_pretty(&values).expect("values are JSON");
        (self.engine.revision(), json)
    }
    /// How many rules there are.
    pub fn policy_rules(&self) -> usize {
        self.documents.rules()
    }
    /// How many documents there are.
    pub fn policy_documents(&self) -> usize {
        self.documents.values().count()
    }

    /// The policy engine, to explain verdicts and expand classes.
    pub const fn engine(&self) -> &Engine {
        &self.engine
    }
    /// The engine's policy behind a number in the kernel's maps.
    pub fn policy_of_number(&self, number: u32) -> Option<PolicyId> {
        self.numbers.policy_of(number)
    }
    /// The engine's class behind a number in the kernel's maps.
    pub fn class_of_number(&self, number: u32) -> Option<ClassId> {
        self.numbers.class_of(number)
    }
    /// The number of an engine's policy in the kernel's maps.
    pub fn number_of_policy(&self, id: PolicyId) -> u32 {
        self.numbers.policy(id)
    }
    /// The number of an engine's class in the kernel's maps.
    pub fn number_of_class(&self, id: ClassId) -> u32 {
        self.numbers.class(id)
    }

    /// Everything the maps hold once all writes are made.
    pub fn wanted_maps(&self) -> impl Iterator<Item = &MapWrite> {
        self.kernel.wanted()
    }
}

fn ip_info(cidr: Cidr, source: ipcache::Source, entry: &ipcache::Entry) -> IpInfo {
    IpInfo {
        cidr,
        identity: entry.identity,
        host: entry.host,
        source,
        pod: entry.pod.as_ref().map(|(namespace, name)| ((**namespace).into(), (**name).into())),
    }
}
