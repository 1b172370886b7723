//! Policies of local redirection, with the traffic they redirect at the moment.

use std::collections::BTreeMap;

use api::models::{BackendAddress, FrontendAddress, FrontendMapping, LRPBackend, LRPSpec};
use lb::redirect::RedirectFrom;
use lb::{Balancer, LocalRedirect, ObjectKey, ObjectKind};

/// All policies, by namespace and name.
pub fn list(balancer: &Balancer) -> Vec<LRPSpec> {
    let mut redirected: BTreeMap<&ObjectKey, Vec<&lb::Service>> = BTreeMap::new();
    for service in balancer.services().iter().filter(|one| one.attributes.kind == lb::ServiceType::LocalRedirect) {
        if let Some(owner) = balancer.owner(&service.key()) {
            redirected.entry(owner).or_default().push(service);
        }
    }
    let one = |policy: &LocalRedirect| {
        let name = &policy.metadata;
        let (kind, owner) = match policy.service() {
            None => (ObjectKind::LocalRedirect, policy.name()),
            Some(service) => (ObjectKind::Service, service.clone()),
        };
        // Of several policies for one service only one has its way.
        let in_force = policy.service().is_none_or(|service| balancer.objects().redirect_of(service) == Some(policy));
        let services = redirected.get(&ObjectKey { kind, name: owner }).filter(|_| in_force);
        LRPSpec {
            uid: name.uid.clone().unwrap_or_default().into(),
            name: name.name.clone().into(),
            namespace: name.namespace.clone().into(),
            frontend_type: frontend_type(policy).into(),
            lrp_type: if policy.service().is_some() { "svc" } else { "addr" }.into(),
            service_id: policy.service().map(ToString::to_string).unwrap_or_default(),
            frontend_mappings: services.into_iter().flatten().map(|one| mapping(one, policy, balancer)).collect(),
        }
    };
    balancer.objects().redirects().map(one).collect()
}

const fn frontend_type(policy: &LocalRedirect) -> &'static str {
    match &policy.from {
        RedirectFrom::Address { ports, .. } if ports.len() == 1 => "IP + port",
        RedirectFrom::Address { .. } => "IP + named ports",
        RedirectFrom::Service { ports, .. } => match ports.len() {
            0 => "clusterIP + all svc ports",
            1 => "clusterIP + port",
            _ => "clusterIP + named ports",
        },
    }
}

fn mapping(service: &lb::Service, policy: &LocalRedirect, balancer: &Balancer) -> FrontendMapping {
    let lower = |transport: lb::Transport| transport.to_string().to_lowercase();
    let pod = |at: &lb::L4Addr| {
        let mut pods = balancer.objects().selected(policy);
        pods.find(|pod| pod.addresses.contains(&at.ip)).map(|pod| pod.name.to_string()).unwrap_or_default()
    };
    let backends = service.backends.iter().map(|(_, backend)| LRPBackend {
        pod_id: pod(&backend.addr),
        backend_address: BackendAddress {
            ip: backend.addr.ip.to_string(),
            port: backend.addr.port,
            protocol: lower(backend.addr.protocol),
            ..BackendAddress::default()
        },
    });
    FrontendMapping {
        frontend_address: FrontendAddress {
            ip: service.frontend.ip.to_string(),
            port: service.frontend.port,
            protocol: lower(service.frontend.protocol),
            ..FrontendAddress::default()
        },
        backends: backends.collect(),
    }
}
