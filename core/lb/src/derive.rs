//! Which frontends Kubernetes' objects ask for on this node.
//!
//! A function of the objects and the configuration alone. What makes no sense is left out and told ([`Problem`]); the
//! rest counts.

mod redirects;

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use types::Cidr;

use crate::balancer::Problem;
use crate::objects::{Endpoint, EndpointSlice, Objects, Pod, Service, ServicePort, SlicePort};
use crate::{
    Attributes, Backend, BackendState, Config, Forwarding, Frontend, L4Addr, ObjectKey, ObjectKind, Scope, ServiceName,
    ServiceSpec, ServiceType, TrafficPolicy, Transport,
};

/// How long Kubernetes has clients remembered unless told otherwise.
const AFFINITY_SECONDS: i64 = 10_800;
const FORWARDING: &str = "service.cilium.io/forwarding-mode";
const TOPOLOGY: [&str; 2] = ["service.kubernetes.io/topology-mode", "service.kubernetes.io/topology-aware-hints"];

/// Frontends and what is wrong with their object.
#[derive(Debug, Default)]
pub(crate) struct Derived {
    pub(crate) specs: Vec<ServiceSpec>,
    pub(crate) problems: Vec<Problem>,
}

/// Collects what is wrong with one object.
struct Complaints<'a> {
    object: &'a ObjectKey,
    problems: &'a mut Vec<Problem>,
}

impl Complaints<'_> {
    fn about(&mut self, field: impl Into<String>, why: impl Into<String>) {
        self.problems.push(Problem { object: self.object.clone(), field: field.into(), why: why.into() });
    }
    fn port(&mut self, field: &str, number: i64) -> Option<u16> {
        let port = u16::try_from(number).ok().filter(|port| *port != 0);
        if port.is_none() {
            self.about(field, format!("{number} is no port; it must be from 1 to 65535"));
        }
        port
    }
    fn address(&mut self, field: &str, text: &str) -> Option<IpAddr> {
        let addr = text.parse::<IpAddr>().ok().filter(|ip| !ip.is_multicast());
        if addr.is_none() {
            self.about(field, format!("{text:?} is no unicast IP address"));
        }
        addr
    }
    fn transport(&mut self, field: &str, text: Option<&str>) -> Option<Transport> {
        match text.unwrap_or("TCP") {
            "TCP" => Some(Transport::Tcp),
            "UDP" => Some(Transport::Udp),
            "SCTP" => Some(Transport::Sctp),
            other => {
                self.about(field, format!("{other:?} is none of TCP, UDP and SCTP"));
                None
            }
        }
    }
    fn policy(&mut self, field: &str, text: Option<&str>) -> TrafficPolicy {
        match text.unwrap_or("Cluster") {
            "Local" => TrafficPolicy::Local,
            "Cluster" | "" => TrafficPolicy::Cluster,
            other => {
                self.about(field, format!("{other:?} is neither Cluster nor Local; Cluster is assumed"));
                TrafficPolicy::Cluster
            }
        }
    }
}

/// Frontends of an object that has some.
pub(crate) fn derive(objects: &Objects, key: &ObjectKey, config: &Config) -> Derived {
    let mut derived = Derived::default();
    match key.kind {
        ObjectKind::Service => {
            if let Some(service) = objects.service(&key.name) {
                let slices: Vec<_> = objects.slices(&key.name).map(|(name, slice)| (name.clone(), slice)).collect();
                let redirected = redirects::of(objects, service, config);
                of_service(key, service, &slices, &redirected, config, &mut derived);
            }
        }
        ObjectKind::Pod => {
            if let Some(pod) = objects.pod(&key.name) {
                of_pod(key, pod, config, &mut derived);
            }
        }
        ObjectKind::LocalRedirect => {
            if let Some(policy) = objects.redirect(&key.name) {
                redirects::derive(key, policy, objects, config, &mut derived);
            }
        }
        ObjectKind::EndpointSlice => {}
    }
    derived
}

/// Backends on this node that a service's port has instead of its own, by place in its list of ports and family (IPv4:
/// true).
type Redirected = BTreeMap<(usize, bool), Vec<Backend>>;

/// Where a service is reached: an address, as what, and which field says so.
struct Place {
    ip: IpAddr,
    kind: ServiceType,
    field: String,
}

/// Frontends that an object has so far: one that comes again says nothing new, and which of the two is meant nobody knows.
#[derive(Default)]
struct Claimed {
    frontends: BTreeSet<Frontend>,
    told: BTreeSet<String>,
}

impl Claimed {
    /// Whether a frontend is there for the first time; if not, that is told, once for each field.
    fn is_first(&mut self, frontend: Frontend, field: &str, complain: &mut Complaints<'_>) -> bool {
        let first = self.frontends.insert(frontend);
        if !first && self.told.insert(field.into()) {
            complain.about(field, format!("{} is a frontend of this object already; the first counts", frontend.addr));
        }
        first
    }
}

fn of_service(
    key: &ObjectKey,
    service: &Service,
    slices: &[(ServiceName, &EndpointSlice)],
    redirected: &Redirected,
    config: &Config,
    derived: &mut Derived,
) {
    let Derived { specs, problems } = derived;
    let spec = &service.spec;
    let complain = &mut Complaints { object: key, problems };
    let kind = spec.kind.as_deref().unwrap_or("ClusterIP");
    match kind {
        "ClusterIP" | "NodePort" | "LoadBalancer" => {}
        "ExternalName" => return,
        other => {
            return complain.about(
                "spec.type",
                format!("{other:?} is none of ClusterIP, NodePort, LoadBalancer and ExternalName"),
            );
        }
    }
    if spec.cluster_ip.as_deref() == Some("None") {
        return;
    }
    let attributes = attributes(service, config, complain);
    let places = places(service, kind, config, complain);
    let pools = Pools::of(service, slices, config, complain);
    let (mut seen, mut claimed) = (BTreeSet::new(), Claimed::default());
    for (at, port) in spec.ports.iter().flatten().enumerate() {
        let field = |name: &str| format!("spec.ports[{at}].{name}");
        let Some(transport) = complain.transport(&field("protocol"), port.protocol.as_deref()) else { continue };
        let Some(number) = complain.port(&field("port"), port.port) else { continue };
        if !seen.insert((number, transport)) {
            complain.about(field("port"), format!("{number}/{transport} is listed twice; the first counts"));
            continue;
        }
        let node_port = node_port(port, kind, &field("nodePort"), config, complain);
        for place in &places {
            let number = match (place.kind, node_port) {
                (ServiceType::NodePort, Some(node_port)) => node_port,
                (ServiceType::NodePort, None) => continue,
                _ => number,
            };
            let addr = L4Addr { ip: place.ip, port: number, protocol: transport };
            let said_by = if place.kind == ServiceType::NodePort { &field("nodePort") } else { &place.field };
            if !claimed.is_first(Frontend { addr, scope: Scope::External }, said_by, complain) {
                continue;
            }
            if let (ServiceType::ClusterIp, Some(here)) = (place.kind, redirected.get(&(at, place.ip.is_ipv4()))) {
                specs.push(redirects::spec(addr, key.name.clone(), here.clone()));
                continue;
            }
            let backends = pools.of_port(port, transport, place.ip.is_ipv4());
            push(addr, place.kind, backends, key, &attributes, specs);
        }
    }
}

/// One frontend, or two where traffic from inside goes elsewhere.
fn push(
    frontend: L4Addr,
    kind: ServiceType,
    backends: Vec<Backend>,
    key: &ObjectKey,
    common: &Attributes,
    specs: &mut Vec<ServiceSpec>,
) {
    let outside = kind != ServiceType::ClusterIp;
    let two_scopes = outside && common.external_policy != common.internal_policy;
    let mut attributes = Attributes { kind, ..common.clone() };
    if kind != ServiceType::LoadBalancer {
        attributes.source_ranges = Vec::new();
    }
    if !outside || common.external_policy == TrafficPolicy::Cluster {
        attributes.health_check_port = 0;
    }
    let spec = ServiceSpec { id: None, frontend, scope: Scope::External, backends, name: key.name.clone(), attributes };
    if two_scopes {
        let mut inside = ServiceSpec { scope: Scope::Internal, ..spec.clone() };
        inside.attributes.health_check_port = 0;
        specs.push(inside);
    }
    specs.push(spec);
}

fn node_port(
    port: &ServicePort,
    kind: &str,
    field: &str,
    config: &Config,
    complain: &mut Complaints<'_>,
) -> Option<u16> {
    let number = port.node_port.filter(|number| *number != 0)?;
    if kind == "ClusterIP" {
        complain.about(field, "a service of type ClusterIP has no node port");
        return None;
    }
    let number = complain.port(field, number)?;
    let (first, last) = config.node.ports;
    if !(first..=last).contains(&number) {
        complain.about(field, format!("{number} is outside of the node ports {first}-{last} (--node-port-range)"));
        return None;
    }
    Some(number)
}

fn attributes(service: &Service, config: &Config, complain: &mut Complaints<'_>) -> Attributes {
    let spec = &service.spec;
    let affinity_seconds = match spec.session_affinity.as_deref() {
        None | Some("None" | "") => 0,
        Some("ClientIP") => {
            let asked = spec.session_affinity_config.as_ref().and_then(|config| config.client_ip.as_ref());
            let seconds = asked.and_then(|asked| asked.timeout_seconds).unwrap_or(AFFINITY_SECONDS);
            u32::try_from(seconds).ok().filter(|seconds| (1..=86_400).contains(seconds)).unwrap_or_else(|| {
                let why = format!("{seconds} is not from 1 to 86400; {AFFINITY_SECONDS} is assumed");
                complain.about("spec.sessionAffinityConfig.clientIP.timeoutSeconds", why);
                AFFINITY_SECONDS as u32
            })
        }
        Some(other) => {
            complain.about("spec.sessionAffinity", format!("{other:?} is neither None nor ClientIP; None is assumed"));
            0
        }
    };
    let forwarding = match service.metadata.annotation(FORWARDING) {
        None => None,
        Some("dsr") => Some(Forwarding::Dsr),
        Some("snat") => Some(Forwarding::Snat),
        Some(other) => {
            let field = format!("metadata.annotations[{FORWARDING}]");
            complain.about(field, format!("{other:?} is neither dsr nor snat; the node's mode is used"));
            None
        }
    };
    if forwarding.is_some() && !config.forwarding_by_service {
        let field = format!("metadata.annotations[{FORWARDING}]");
        complain.about(field, "this node forwards all services alike; set --bpf-lb-mode-annotation");
    }
    let health = spec.health_check_node_port.filter(|port| *port != 0);
    Attributes {
        kind: ServiceType::ClusterIp,
        external_policy: complain.policy("spec.externalTrafficPolicy", spec.external_traffic_policy.as_deref()),
        internal_policy: complain.policy("spec.internalTrafficPolicy", spec.internal_traffic_policy.as_deref()),
        affinity_seconds,
        source_ranges: ranges(spec.load_balancer_source_ranges.as_deref().unwrap_or_default(), complain),
        health_check_port: health.and_then(|port| complain.port("spec.healthCheckNodePort", port)).unwrap_or_default(),
        forwarding,
        loopback: false,
    }
}

/// Ranges of sources: one that lies in another says nothing and is left out.
fn ranges(texts: &[String], complain: &mut Complaints<'_>) -> Vec<Cidr> {
    let mut read: Vec<(usize, Cidr)> = Vec::new();
    for (at, text) in texts.iter().enumerate() {
        let field = format!("spec.loadBalancerSourceRanges[{at}]");
        match text.trim().parse::<Cidr>() {
            Ok(range) => read.push((at, range)),
            Err(why) => complain.about(field, format!("{text:?}: {why}; it lets nobody in")),
        }
    }
    let mut found = Vec::new();
    for (at, range) in &read {
        let wider =
            read.iter().find(|(other, wide)| other != at && wide.covers(range) && (wide != range || other < at));
        match wider {
            Some((other, _)) => complain.about(
                format!("spec.loadBalancerSourceRanges[{at}]"),
                format!("{range} lies in spec.loadBalancerSourceRanges[{other}] and adds nothing; leave it out"),
            ),
            None => found.push(*range),
        }
    }
    // Ranges that make no sense must not open what they were to close.
    if found.is_empty() && !texts.is_empty() {
        found.push(Cidr::host(IpAddr::V4(Ipv4Addr::UNSPECIFIED)));
    }
    found
}

fn places(service: &Service, kind: &str, config: &Config, complain: &mut Complaints<'_>) -> Vec<Place> {
    let spec = &service.spec;
    let mut places: Vec<Place> = Vec::new();
    let mut families = [false, false];
    let listed: Vec<&String> = match &spec.cluster_ips {
        Some(list) if !list.is_empty() => list.iter().collect(),
        _ => spec.cluster_ip.iter().collect(),
    };
    for (at, text) in listed.into_iter().filter(|text| !text.is_empty()).enumerate() {
        let field = format!("spec.clusterIPs[{at}]");
        if let Some(ip) = complain.address(&field, text).filter(|ip| enabled(*ip, config, &field, complain)) {
            families[usize::from(ip.is_ipv6())] = true;
            places.push(Place { ip, kind: ServiceType::ClusterIp, field });
        }
    }
    if places.is_empty() {
        complain.about("spec.clusterIP", "there is no cluster address; clients in the cluster do not reach it by one");
        families = [config.node.ipv4, config.node.ipv6];
    }
    if kind != "ClusterIP" && config.node_ports {
        places.extend(node_places(families, ServiceType::NodePort, config));
    }
    let ingress = service.status.as_ref().and_then(|status| status.load_balancer.as_ref()?.ingress.as_ref());
    for (at, ingress) in ingress.into_iter().flatten().enumerate().filter(|_| kind == "LoadBalancer") {
        let field = format!("status.loadBalancer.ingress[{at}].ip");
        let Some(text) = &ingress.ip else { continue };
        if ingress.ip_mode.as_deref() == Some("Proxy") {
            continue;
        }
        let ip = complain.address(&field, text).filter(|ip| enabled(*ip, config, &field, complain));
        places.extend(ip.map(|ip| Place { ip, kind: ServiceType::LoadBalancer, field }));
    }
    for (at, text) in spec.external_ips.iter().flatten().enumerate().filter(|_| config.external_ips) {
        let field = format!("spec.externalIPs[{at}]");
        let ip = complain.address(&field, text).filter(|ip| enabled(*ip, config, &field, complain));
        places.extend(ip.map(|ip| Place { ip, kind: ServiceType::ExternalIps, field }));
    }
    places
}

/// The node's addresses and the one that stands for all of them.
fn node_places(families: [bool; 2], kind: ServiceType, config: &Config) -> impl Iterator<Item = Place> {
    let all = [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)];
    let on = [config.node.ipv4, config.node.ipv6];
    let wanted = move |ip: &IpAddr| {
        let family = usize::from(ip.is_ipv6());
        families[family] && on[family]
    };
    let addresses = config.node.addresses.clone();
    addresses.into_iter().chain(all).filter(wanted).map(move |ip| Place { ip, kind, field: String::new() })
}

fn enabled(ip: IpAddr, config: &Config, field: &str, complain: &mut Complaints<'_>) -> bool {
    let (on, family) = if ip.is_ipv4() { (config.node.ipv4, "IPv4") } else { (config.node.ipv6, "IPv6") };
    if !on {
        complain.about(field, format!("{ip} is {family}, which is not enabled on this node"));
    }
    on
}

/// What an EndpointSlice's port is called, by protocol and family.
type PortKey<'a> = (&'a str, Transport, bool);

/// Backends of a service by port.
struct Pools<'a> {
    by_port: BTreeMap<PortKey<'a>, BTreeMap<L4Addr, Backend>>,
}

impl<'a> Pools<'a> {
    fn of(
        service: &Service,
        slices: &[(ServiceName, &'a EndpointSlice)],
        config: &Config,
        complain: &mut Complaints<'_>,
    ) -> Self {
        let mut pools = Self { by_port: BTreeMap::new() };
        let near = nearness(service, slices, config);
        for (name, slice) in slices {
            let object = ObjectKey { kind: ObjectKind::EndpointSlice, name: name.clone() };
            let complain = &mut Complaints { object: &object, problems: complain.problems };
            let v4 = match &*slice.address_type {
                "IPv4" => true,
                "IPv6" => false,
                other => {
                    complain.about("addressType", format!("{other:?} is neither IPv4 nor IPv6"));
                    continue;
                }
            };
            let ports = ports(slice, complain);
            for (at, endpoint) in slice.endpoints.iter().flatten().enumerate() {
                if near.is_some_and(|zone| !is_for(endpoint, zone)) {
                    continue;
                }
                let Some(state) = state(endpoint) else { continue };
                for (index, text) in endpoint.addresses.iter().enumerate() {
                    let field = format!("endpoints[{at}].addresses[{index}]");
                    let Some(ip) = complain.address(&field, text) else { continue };
                    if ip.is_ipv4() != v4 {
                        complain.about(field, format!("{ip} is not of addressType {}", slice.address_type));
                        continue;
                    }
                    for (port, number, transport) in &ports {
                        let addr = L4Addr { ip, port: *number, protocol: *transport };
                        let pool =
                            pools.by_port.entry((port.name.as_deref().unwrap_or(""), *transport, v4)).or_default();
                        let backend = Backend {
                            state,
                            node_name: endpoint.node_name.clone().unwrap_or_default(),
                            zone: endpoint.zone.clone().unwrap_or_default(),
                            ..Backend::new(addr)
                        };
                        // While a pod moves from slice to slice it is in both: the better news counts.
                        let have = pool.entry(addr).or_insert_with(|| backend.clone());
                        if have.state != BackendState::Active && state == BackendState::Active {
                            *have = backend;
                        }
                    }
                }
            }
        }
        pools
    }

    fn of_port(&self, port: &ServicePort, transport: Transport, v4: bool) -> Vec<Backend> {
        let key = (port.name.as_deref().unwrap_or(""), transport, v4);
        self.by_port.get(&key).map(|pool| pool.values().cloned().collect()).unwrap_or_default()
    }
}

fn ports<'a>(slice: &'a EndpointSlice, complain: &mut Complaints<'_>) -> Vec<(&'a SlicePort, u16, Transport)> {
    let mut found = Vec::new();
    for (at, port) in slice.ports.iter().flatten().enumerate() {
        let transport = complain.transport(&format!("ports[{at}].protocol"), port.protocol.as_deref());
        let Some(number) = port.port else {
            complain.about(format!("ports[{at}].port"), "it is missing; a service needs to know which port");
            continue;
        };
        let number = complain.port(&format!("ports[{at}].port"), number);
        found.extend(number.zip(transport).map(|(number, transport)| (port, number, transport)));
    }
    found
}

/// Whether an endpoint takes new connections, or none at all (`None`).
fn state(endpoint: &Endpoint) -> Option<BackendState> {
    let conditions = endpoint.conditions.clone().unwrap_or_default();
    let ready = conditions.ready.unwrap_or(true);
    let terminating = conditions.terminating.unwrap_or(false);
    match (ready, terminating, conditions.serving.unwrap_or(ready)) {
        (true, false, _) => Some(BackendState::Active),
        (_, true, true) => Some(BackendState::Terminating),
        _ => None,
    }
}

/// The zone whose endpoints serve this node's clients, if they are told apart and there are some.
fn nearness<'c>(service: &Service, slices: &[(ServiceName, &EndpointSlice)], config: &'c Config) -> Option<&'c str> {
    let zone = &*config.node.zone;
    let asked = TOPOLOGY
        .iter()
        .any(|name| service.metadata.annotation(name).is_some_and(|mode| mode.eq_ignore_ascii_case("auto")))
        || service.spec.traffic_distribution.as_deref() == Some("PreferClose");
    if !config.topology || !asked || zone.is_empty() {
        return None;
    }
    let endpoints = || slices.iter().flat_map(|(_, slice)| slice.endpoints.iter().flatten());
    let hinted = |endpoint: &Endpoint| endpoint.hints.as_ref().is_some_and(|hints| hints.for_zones.is_some());
    let usable = endpoints().all(hinted)
        && endpoints().any(|endpoint| is_for(endpoint, zone) && state(endpoint) == Some(BackendState::Active));
    usable.then_some(zone)
}

fn is_for(endpoint: &Endpoint, zone: &str) -> bool {
    let zones = endpoint.hints.as_ref().and_then(|hints| hints.for_zones.as_ref());
    zones.into_iter().flatten().any(|have| &*have.name == zone)
}

/// Host ports of a pod of this node.
fn of_pod(key: &ObjectKey, pod: &Pod, config: &Config, derived: &mut Derived) {
    let Derived { specs, problems } = derived;
    let complain = &mut Complaints { object: key, problems };
    let elsewhere = pod.spec.node_name.as_deref().is_some_and(|node| !node.is_empty() && *node != *config.node.name);
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default();
    if !config.host_ports || pod.spec.host_network || elsewhere || matches!(phase, "Succeeded" | "Failed") {
        return;
    }
    let addresses = pod_addresses(pod, complain);
    let mut claimed = Claimed::default();
    let ports = pod.spec.containers.iter().enumerate().flat_map(|(container, fields)| {
        fields.ports.iter().flatten().enumerate().map(move |(at, port)| (container, at, port))
    });
    for (container, at, port) in ports {
        let field = |name: &str| format!("spec.containers[{container}].ports[{at}].{name}");
        let Some(number) = port.host_port.filter(|number| *number != 0) else { continue };
        let Some(host_port) = complain.port(&field("hostPort"), number) else { continue };
        let Some(target) = complain.port(&field("containerPort"), port.container_port) else { continue };
        let Some(transport) = complain.transport(&field("protocol"), port.protocol.as_deref()) else { continue };
        let at = match port.host_ip.as_deref().filter(|ip| !ip.is_empty()) {
            None => None,
            Some(text) => match complain.address(&field("hostIP"), text) {
                None => continue,
                Some(ip) => Some(ip).filter(|ip| !ip.is_unspecified()),
            },
        };
        let name: Box<str> = format!("{}/host-port/{host_port}", key.name.name).into();
        for (ip, loopback) in host_places(at, config) {
            let backends = addresses.iter().filter(|addr| addr.is_ipv4() == ip.is_ipv4());
            let backends: Vec<Backend> = backends
                .map(|addr| Backend {
                    node_name: config.node.name.clone(),
                    ..Backend::new(L4Addr { ip: *addr, port: target, protocol: transport })
                })
                .collect();
            if backends.is_empty() {
                continue;
            }
            let frontend = L4Addr { ip, port: host_port, protocol: transport };
            if !claimed.is_first(Frontend { addr: frontend, scope: Scope::External }, &field("hostPort"), complain) {
                continue;
            }
            specs.push(ServiceSpec {
                name: ServiceName { namespace: key.name.namespace.clone(), name: name.clone() },
                attributes: Attributes { kind: ServiceType::HostPort, loopback, ..Attributes::default() },
                ..ServiceSpec::new(frontend, backends)
            });
        }
    }
}

/// Where a host port is reached: at one address, or at all of the node's. A loopback address is the one that stands for
/// all, told apart.
fn host_places(at: Option<IpAddr>, config: &Config) -> Vec<(IpAddr, bool)> {
    match at {
        Some(ip) if ip.is_loopback() => {
            let wildcard =
                if ip.is_ipv4() { IpAddr::V4(Ipv4Addr::UNSPECIFIED) } else { IpAddr::V6(Ipv6Addr::UNSPECIFIED) };
            [(wildcard, true)].into()
        }
        Some(ip) => [(ip, false)].into(),
        None => node_places([true, true], ServiceType::HostPort, config).map(|place| (place.ip, false)).collect(),
    }
}

fn pod_addresses(pod: &Pod, complain: &mut Complaints<'_>) -> Vec<IpAddr> {
    let status = pod.status.clone().unwrap_or_default();
    let listed: Vec<String> = match status.pod_ips {
        Some(list) if !list.is_empty() => list.into_iter().map(|ip| ip.ip).collect(),
        _ => status.pod_ip.into_iter().filter(|ip| !ip.is_empty()).collect(),
    };
    let read = |(at, text): (usize, &String)| complain.address(&format!("status.podIPs[{at}].ip"), &text.to_string());
    listed.iter().enumerate().filter_map(read).collect()
}
