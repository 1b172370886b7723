//! Requests of the API as requests of the core.

use std::net::IpAddr;

use agent_core::{AddressOwner, AnswerWhen, CreateEndpoint};
use api::models::{BackendAddress, EndpointChangeRequest, EndpointState, FrontendAddress, ServiceFlags, ServiceSpec};
use api::server::EndpointRef;
use endpoint::{Attachment, EndpointName, EndpointSpec, Pod, SourceCheck};
use lb::{
    Attributes, Backend, BackendState, Forwarding, L4Addr, Scope, ServiceId, ServiceName, ServiceType, TrafficPolicy,
    Transport,
};
use types::{EndpointId, Label, Labels};

/// A field that cannot be taken, with what would be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("field {field}: {why}")]
pub struct BadField {
    /// Its name in the API.
    pub field: String,
    /// What is wrong.
    pub why: String,
}

fn bad(field: impl Into<String>, why: impl Into<String>) -> BadField {
    BadField { field: field.into(), why: why.into() }
}

/// The core's name of what the path names.
pub fn name(reference: &EndpointRef) -> EndpointName {
    match reference {
        EndpointRef::Local(id) => EndpointName::Id(EndpointId::new(*id).expect("the path was parsed as 1 to 65535")),
        EndpointRef::ContainerId(id) => EndpointName::ContainerId(id.as_str().into()),
        EndpointRef::ContainerName(name) => EndpointName::ContainerName(name.as_str().into()),
        EndpointRef::DockerEndpoint(id) => EndpointName::DockerEndpoint(id.as_str().into()),
        EndpointRef::Pod { namespace, name } => EndpointName::Pod(format!("{namespace}/{name}").into()),
        EndpointRef::Ipv4(ip) => EndpointName::Ip((*ip).into()),
        EndpointRef::Ipv6(ip) => EndpointName::Ip((*ip).into()),
        EndpointRef::Attachment(id) => EndpointName::Attachment(id.as_str().into()),
    }
}

/// Labels as texts `source:key=value`.
///
/// # Errors
/// Names the first that is none.
pub fn labels(field: &str, texts: &[String]) -> Result<Labels, BadField> {
    let mut labels = Labels::default();
    for (index, text) in texts.iter().enumerate() {
        let label = Label::parse(text);
        if label.key().is_empty() {
            return Err(bad(
                format!("{field}[{index}]"),
                format!("{text:?} is no label; SOURCE:KEY=VALUE is expected"),
            ));
        }
        if let Some(other) = labels.insert(label.clone())
            && other != label
        {
            return Err(bad(
                format!("{field}[{index}]"),
                format!("{label} contradicts {other}: one value for each key"),
            ));
        }
    }
    Ok(labels)
}

/// What `PUT /endpoint/{id}` asks for.
///
/// # Errors
/// Names the first field that cannot be taken.
pub fn endpoint(path: &EndpointRef, change: &EndpointChangeRequest) -> Result<CreateEndpoint, BadField> {
    match change.state {
        EndpointState::WaitingForIdentity | EndpointState::Unset => {}
        other => return Err(bad("state", format!("{other} is no state to begin in; waiting-for-identity is"))),
    }
    not_here(change)?;
    let spec = EndpointSpec {
        attachment: attachment(path, change)?,
        container_name: change.container_name.as_str().into(),
        docker_endpoint: change.docker_endpoint_id.as_str().into(),
        pod: pod(change)?,
        ifname: change.interface_name.as_str().into(),
        ifindex: u32::try_from(change.interface_index)
            .map_err(|_| bad("interface-index", format!("{} is no interface number", change.interface_index)))?,
        mac: parsed("mac", &change.mac)?.unwrap_or_default(),
        host_mac: parsed("host-mac", &change.host_mac)?.unwrap_or_default(),
        ipv4: parsed("addressing.ipv4", &change.addressing.ipv4)?,
        ipv6: parsed("addressing.ipv6", &change.addressing.ipv6)?,
        labels: labels("labels", &change.labels)?,
        netns_cookie: parsed("netns-cookie", &change.netns_cookie)?.unwrap_or_default(),
        source_check: match change.datapath_configuration.disable_sip_verification {
            true => SourceCheck::Disabled,
            false => SourceCheck::Enforced,
        },
    };
    Ok(CreateEndpoint {
        id: number(path, change)?,
        spec,
        ipv4_loan: parsed("addressing.ipv4-expiration-uuid", &change.addressing.ipv4_expiration_uuid)?,
        ipv6_loan: parsed("addressing.ipv6-expiration-uuid", &change.addressing.ipv6_expiration_uuid)?,
        answer: if change.sync_build_endpoint { AnswerWhen::Ready } else { AnswerWhen::Accepted },
        addresses: match change.datapath_configuration.external_ipam {
            true => AddressOwner::External,
            false => AddressOwner::Agent,
        },
    })
}

/// What this version does not do is refused, not ignored.
fn not_here(change: &EndpointChangeRequest) -> Result<(), BadField> {
    let datapath = &change.datapath_configuration;
    for (set, field) in [
        (datapath.require_arp_passthrough, "datapath-configuration.require-arp-passthrough"),
        (datapath.require_routing == Some(false), "datapath-configuration.require-routing"),
        (datapath.install_endpoint_route, "datapath-configuration.install-endpoint-route"),
        (!change.properties.is_empty(), "properties"),
    ] {
        if set {
            return Err(bad(field, "this version has no chaining with other plugins; leave it out"));
        }
    }
    Ok(())
}

fn parsed<T: std::str::FromStr<Err: std::fmt::Display>>(field: &str, text: &str) -> Result<Option<T>, BadField> {
    match text {
        "" => Ok(None),
        text => text.parse().map(Some).map_err(|why| bad(field, format!("{text:?}: {why}"))),
    }
}

fn number(path: &EndpointRef, change: &EndpointChangeRequest) -> Result<Option<EndpointId>, BadField> {
    let from_path = match path {
        EndpointRef::Local(id) => EndpointId::new(*id),
        _ => None,
    };
    let from_body = match u16::try_from(change.id) {
        Ok(id) => EndpointId::new(id),
        Err(_) => return Err(bad("id", format!("{} is not from 1 to 65535", change.id))),
    };
    match (from_path, from_body) {
        (Some(path), Some(body)) if path != body => {
            Err(bad("id", format!("{body} contradicts the path, which says {path}")))
        }
        (path, body) => Ok(path.or(body)),
    }
}

fn attachment(path: &EndpointRef, change: &EndpointChangeRequest) -> Result<Option<Attachment>, BadField> {
    let mut container = change.container_id.as_str();
    let mut ifname = change.container_interface_name.as_str();
    if let EndpointRef::Attachment(id) = path {
        let (path_container, path_ifname) = id.rsplit_once(':').unwrap_or((id, ""));
        for (field, body, path) in
            [("container-id", &mut container, path_container), ("container-interface-name", &mut ifname, path_ifname)]
        {
            if body.is_empty() {
                *body = path;
            } else if *body != path && !path.is_empty() {
                return Err(bad(field, format!("{body:?} contradicts the path, which says {path:?}")));
            }
        }
    }
    if container.is_empty() {
        return Ok(None);
    }
    Ok(Some(Attachment { container_id: container.into(), ifname: ifname.into() }))
}

fn pod(change: &EndpointChangeRequest) -> Result<Option<Pod>, BadField> {
    let (namespace, name, uid) = (&change.k8s_namespace, &change.k8s_pod_name, &change.k8s_uid);
    match (namespace.is_empty(), name.is_empty()) {
        (true, true) => Ok(None),
        (false, false) => {
            Ok(Some(Pod { namespace: namespace.as_str().into(), name: name.as_str().into(), uid: uid.as_str().into() }))
        }
        (true, false) => Err(bad("k8s-namespace", "it is missing, although k8s-pod-name is given")),
        (false, true) => Err(bad("k8s-pod-name", "it is missing, although k8s-namespace is given")),
    }
}

/// What `PUT /service/{id}` asks for.
///
/// # Errors
/// Names the first field that cannot be taken, and says whether it is the frontend's.
pub fn service(id: i64, spec: &ServiceSpec) -> Result<lb::ServiceSpec, BadField> {
    let number = u16::try_from(if id == 0 { spec.id } else { id })
        .map_err(|_| bad("id", format!("{} is not from 1 to 65535", spec.id)))?;
    if id != 0 && spec.id != 0 && spec.id != id {
        return Err(bad("id", format!("{} contradicts the path, which says {id}", spec.id)));
    }
    let flags = &spec.flags;
    match flags.nat_policy.as_str() {
        "" | "None" => {}
        other => return Err(bad("flags.natPolicy", format!("{other:?} is not in this version; None is"))),
    }
    let (frontend, scope) = frontend(&spec.frontend_address)?;
    let backends = spec.backend_addresses.iter().enumerate();
    let backends = backends.map(|(index, address)| backend(index, address, frontend.protocol));
    Ok(lb::ServiceSpec {
        id: ServiceId::new(number),
        frontend,
        scope,
        backends: backends.collect::<Result<_, _>>()?,
        name: ServiceName { namespace: flags.namespace.as_str().into(), name: flags.name.as_str().into() },
        attributes: attributes(flags)?,
    })
}

fn attributes(flags: &ServiceFlags) -> Result<Attributes, BadField> {
    let kind = match flags.kind.as_str() {
        "" | "ClusterIP" => ServiceType::ClusterIp,
        "NodePort" => ServiceType::NodePort,
        "ExternalIPs" => ServiceType::ExternalIps,
        "HostPort" => ServiceType::HostPort,
        "LoadBalancer" => ServiceType::LoadBalancer,
        "LocalRedirect" => ServiceType::LocalRedirect,
        other => {
            let known = "ClusterIP, NodePort, ExternalIPs, HostPort, LoadBalancer and LocalRedirect";
            return Err(bad("flags.type", format!("{other:?} is no type of services; known are {known}")));
        }
    };
    let policy = |field: &str, texts: [&String; 2]| match texts.into_iter().find(|text| !text.is_empty()) {
        None => Ok(TrafficPolicy::Cluster),
        Some(text) => match text.as_str() {
            "Cluster" => Ok(TrafficPolicy::Cluster),
            "Local" => Ok(TrafficPolicy::Local),
            other => Err(bad(field, format!("{other:?} is neither Cluster nor Local"))),
        },
    };
    let ranges = flags.source_ranges.iter().enumerate().map(|(index, text)| {
        text.parse().map_err(|why| bad(format!("flags.sourceRanges[{index}]"), format!("{text:?}: {why}")))
    });
    Ok(Attributes {
        kind,
        // The general one is older and says both.
        external_policy: policy("flags.extTrafficPolicy", [&flags.ext_traffic_policy, &flags.traffic_policy])?,
        internal_policy: policy("flags.intTrafficPolicy", [&flags.int_traffic_policy, &flags.traffic_policy])?,
        affinity_seconds: flags.affinity_seconds,
        source_ranges: ranges.collect::<Result<_, _>>()?,
        health_check_port: flags.health_check_node_port,
        forwarding: match flags.forwarding_mode.as_str() {
            "" => None,
            "snat" => Some(Forwarding::Snat),
            "dsr" => Some(Forwarding::Dsr),
            other => return Err(bad("flags.forwardingMode", format!("{other:?} is neither snat nor dsr"))),
        },
        loopback: flags.loopback_host_port,
    })
}

fn frontend(address: &FrontendAddress) -> Result<(L4Addr, Scope), BadField> {
    let scope = match address.scope.as_str() {
        "" | "external" => Scope::External,
        "internal" => Scope::Internal,
        other => {
            let why = format!("{other:?} is neither external nor internal");
            return Err(bad("frontend-address.scope", why));
        }
    };
    let addr = L4Addr {
        ip: ip("frontend-address.ip", &address.ip)?,
        port: address.port,
        protocol: transport("frontend-address.protocol", &address.protocol)?.unwrap_or(Transport::Any),
    };
    Ok((addr, scope))
}

fn backend(index: usize, address: &BackendAddress, protocol: Transport) -> Result<Backend, BadField> {
    let field = |name: &str| format!("backend-addresses[{index}].{name}");
    let state = match address.state.as_str() {
        "" | "active" => BackendState::Active,
        "terminating" => BackendState::Terminating,
        "quarantined" => BackendState::Quarantined,
        "maintenance" => BackendState::Maintenance,
        other => {
            let known = "active, terminating, quarantined and maintenance";
            return Err(bad(field("state"), format!("{other:?} is no state; known are {known}")));
        }
    };
    Ok(Backend {
        addr: L4Addr {
            ip: ip(&field("ip"), &address.ip)?,
            port: address.port,
            protocol: transport(&field("protocol"), &address.protocol)?.unwrap_or(protocol),
        },
        state,
        weight: address.weight.unwrap_or(lb::WEIGHT_DEFAULT),
        node_name: address.node_name.as_str().into(),
        zone: address.zone.as_str().into(),
    })
}

fn ip(field: &str, text: &str) -> Result<IpAddr, BadField> {
    text.parse().map_err(|_| bad(field, format!("{text:?} is no IPv4 or IPv6 address")))
}

fn transport(field: &str, text: &str) -> Result<Option<Transport>, BadField> {
    match text.to_ascii_lowercase().as_str() {
        "" | "none" => Ok(None),
        "any" => Ok(Some(Transport::Any)),
        "tcp" => Ok(Some(Transport::Tcp)),
        "udp" => Ok(Some(Transport::Udp)),
        "sctp" => Ok(Some(Transport::Sctp)),
        _ => Err(bad(field, format!("{text:?} is no transport; known are tcp, udp, sctp and any"))),
    }
}
