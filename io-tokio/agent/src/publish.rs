//! The core's tables as readers outside the drive loop see them: names for Hubble, gauges for Prometheus.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use agent_core::Agent;
use hubble_model::{EndpointInfo, LabelList, PolicyInfo, ServiceInfo};
use metrics::Sample;
use policy::RuleName;
use types::{Labels, NumericIdentity};

use crate::lookup::Snapshot;

/// Label lists already made, so that endpoints of one identity share theirs.
type Lists = HashMap<u32, Arc<LabelList>>;

/// What Hubble should know.
pub fn names(agent: &Agent) -> Snapshot {
    let mut identities: Lists = HashMap::new();
    for info in agent.identities() {
        identities.insert(info.id.as_u32(), list(&info.labels));
    }
    let mut snapshot = Snapshot::default();
    let cluster: Box<str> = agent.config().cluster_name.clone();
    for known in agent.ip_list() {
        let identity = known.identity.as_u32();
        let labels = identities.get(&identity).cloned().unwrap_or_default();
        let info = Arc::new(EndpointInfo { identity, labels, ..EndpointInfo::default() });
        if known.cidr.is_host() {
            snapshot.endpoints.insert(known.cidr.addr(), info);
        } else {
            snapshot.prefixes.insert((known.cidr.addr(), known.cidr.bits()), info);
        }
    }
    for endpoint in agent.endpoints() {
        let identity = endpoint.identity.map_or(0, NumericIdentity::as_u32);
        let (namespace, pod_name) =
            endpoint.spec.pod.as_ref().map_or_else(Default::default, |pod| (pod.namespace.clone(), pod.name.clone()));
        let info = Arc::new(EndpointInfo {
            id: endpoint.id.as_u16(),
            identity,
            cluster_name: cluster.clone(),
            namespace,
            pod_name,
            workloads: Box::default(),
            labels: identities.get(&identity).cloned().unwrap_or_else(|| list(&endpoint.identity_labels)),
        });
        for ip in endpoint.spec.addresses() {
            snapshot.endpoints.insert(ip, info.clone());
        }
        let uid = endpoint.spec.pod.as_ref().map(|pod| &pod.uid).filter(|uid| !uid.is_empty());
        for name in uid.into_iter().chain(endpoint.spec.attachment.as_ref().map(|attachment| &attachment.container_id))
        {
            snapshot.pods.insert(name.clone(), endpoint.spec.addresses().collect());
        }
        snapshot.interfaces.insert(endpoint.spec.ifindex, endpoint.spec.ifname.as_ref().into());
    }
    snapshot.identities = identities;
    snapshot.services = services(agent);
    snapshot.policies = policies(agent);
    snapshot
}

fn list(labels: &Labels) -> Arc<LabelList> {
    Arc::new(LabelList::new(labels.iter().map(ToString::to_string)))
}

fn services(agent: &Agent) -> HashMap<(IpAddr, u16), Arc<ServiceInfo>> {
    let mut out = HashMap::new();
    for service in agent.services() {
        if service.name.name.is_empty() {
            continue;
        }
        let info = ServiceInfo { namespace: service.name.namespace.clone(), name: service.name.name.clone() };
        out.insert((service.frontend.ip, service.frontend.port), Arc::new(info));
    }
    out
}

fn policies(agent: &Agent) -> HashMap<u32, Arc<[PolicyInfo]>> {
    let engine = agent.engine();
    let revision = agent.status().realized.0;
    let in_use: BTreeSet<_> =
        agent.endpoints().filter_map(|endpoint| Some(engine.endpoint_policy(endpoint.id)?.policy)).collect();
    let cookies: BTreeSet<_> =
        in_use.into_iter().flat_map(|policy| engine.entries_of(policy).map(|(_, value)| value.cookie)).collect();
    let named = |cookie| engine.rules_of(cookie).iter().filter_map(|rule| policy(rule, revision)).collect();
    cookies.into_iter().map(|cookie| (cookie.as_u32(), named(cookie))).collect()
}

fn policy(rule: &RuleName, revision: u64) -> Option<PolicyInfo> {
    let RuleName::Rule { object, labels, .. } = rule else { return None };
    let kind = match object.kind {
        policy::ObjectKind::Rules => "",
        kind => kind.name(),
    };
    Some(PolicyInfo {
        name: object.name.clone(),
        namespace: object.namespace.clone(),
        kind: kind.into(),
        labels: labels.iter().map(ToString::to_string).collect(),
        revision,
    })
}

/// What Prometheus should know.
pub fn gauges(agent: &Agent) -> Vec<Sample> {
    let mut states: BTreeMap<&'static str, u32> = BTreeMap::new();
    let mut enforcement: BTreeMap<&'static str, u32> = BTreeMap::new();
    for endpoint in agent.endpoints() {
        *states.entry(endpoint.state().name()).or_default() += 1;
        let judged = agent.engine().endpoint_policy(endpoint.id);
        let name = match judged.map(|judged| (judged.ingress, judged.egress)) {
            Some((true, true)) => "both",
            Some((true, false)) => "ingress",
            Some((false, true)) => "egress",
            _ => "none",
        };
        *enforcement.entry(name).or_default() += 1;
    }
    let mut out = vec![
        Sample::gauge("cilium_endpoint", "Endpoints", [], count(agent.endpoints().count())),
        Sample::gauge("cilium_policy", "Policies loaded", [], count(agent.engine().stats().objects)),
        Sample::gauge("cilium_policy_max_revision", "Highest policy revision", [], agent.status().realized.0 as f64),
    ];
    for (state, number) in states {
        let help = "Endpoints by state";
        out.push(Sample::gauge("cilium_endpoint_state", help, [("state", state.to_owned())], number.into()));
    }
    for (mode, number) in enforcement {
        let labels = [("enforcement", mode.to_owned())];
        let help = "Endpoints by the directions in which policy applies";
        out.push(Sample::gauge("cilium_policy_endpoint_enforcement_status", help, labels, number.into()));
    }
    let (mut cluster, mut local) = (0, 0);
    for info in agent.identities() {
        if info.id.is_reserved() {
            continue;
        }
        match info.id.scope() {
            Some(types::identity::Scope::Global) => cluster += 1,
            Some(_) => local += 1,
            None => {}
        }
    }
    for (kind, number) in
        [("cluster_local", cluster), ("node_local", local), ("reserved", NumericIdentity::all_reserved().count())]
    {
        let labels = [("type", kind.to_owned())];
        out.push(Sample::gauge("cilium_identity", "Identities", labels, count(number)));
    }
    for (family, name) in [(ipam::Family::V4, "ipv4"), (ipam::Family::V6, "ipv6")] {
        if let Some((used, total)) = agent.ipam_usage(family) {
            let labels = || [("family", name.to_owned())];
            out.push(Sample::gauge("cilium_ip_addresses", "Addresses in use", labels(), used as f64));
            out.push(Sample::gauge("cilium_ipam_capacity", "Addresses that can be lent", labels(), total as f64));
        }
    }
    out
}

fn count(number: usize) -> f64 {
    number as f64
}
