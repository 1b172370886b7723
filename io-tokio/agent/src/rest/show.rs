//! The core's tables in the reference's models.

use std::collections::BTreeSet;

use agent_core::FamilyConfig;
use api::models::{
    AddressPair, BackendAddress, Endpoint, EndpointHealth, EndpointHealthStatus, EndpointIdentifiers,
    EndpointNetworking, EndpointPolicy, EndpointPolicyEnabled, EndpointPolicyStatus, EndpointState, EndpointStatus,
    EndpointStatusChange, FrontendAddress, IPAMAddressResponse, IPAMResponse, IPListEntry, IPListEntryMetadata,
    Identity, Label, LabelConfigurationSpec, LabelConfigurationStatus, NodeAddressing, NodeAddressingElement,
    SelectorIdentityMapping, Service, ServiceFlags, ServiceSpec, ServiceStatus,
};
use endpoint::{Code, HealthStatus, State};
use policy::Engine;
use sha2::{Digest, Sha256};
use types::{Labels, NumericIdentity};

use crate::wall;

/// Labels as texts.
pub fn labels(labels: &Labels) -> Vec<String> {
    labels.iter().map(ToString::to_string).collect()
}

/// An identity.
pub fn identity(number: NumericIdentity, of: &Labels) -> Identity {
    let digest = Sha256::digest(of.identity_key().as_bytes());
    Identity {
        id: number.as_u32().into(),
        labels: labels(of),
        labels_sha256: digest.iter().map(|byte| format!("{byte:02x}")).collect(),
    }
}

fn state(state: State) -> EndpointState {
    match state {
        State::WaitingForIdentity => EndpointState::WaitingForIdentity,
        State::WaitingToRegenerate => EndpointState::WaitingToRegenerate,
        State::Regenerating => EndpointState::Regenerating,
        State::Restoring => EndpointState::Restoring,
        State::Ready => EndpointState::Ready,
        State::Disconnecting => EndpointState::Disconnecting,
        State::Disconnected => EndpointState::Disconnected,
        State::Invalid => EndpointState::Invalid,
    }
}

const fn health_status(status: HealthStatus) -> EndpointHealthStatus {
    match status {
        HealthStatus::Ok => EndpointHealthStatus::Ok,
        HealthStatus::Bootstrap => EndpointHealthStatus::Bootstrap,
        HealthStatus::Pending => EndpointHealthStatus::Pending,
        HealthStatus::Warning => EndpointHealthStatus::Warning,
        HealthStatus::Failure => EndpointHealthStatus::Failure,
        HealthStatus::Disabled => EndpointHealthStatus::Disabled,
    }
}

/// An endpoint's health.
pub fn health(of: &endpoint::Endpoint) -> EndpointHealth {
    let health = of.health();
    EndpointHealth {
        overall_health: health_status(health.overall),
        bpf: health_status(health.bpf),
        policy: health_status(health.policy),
        connected: health.connected,
    }
}

/// An endpoint's log, latest first as the reference shows it.
pub fn log(of: &endpoint::Endpoint) -> Vec<EndpointStatusChange> {
    let entry = |change: &endpoint::Change| EndpointStatusChange {
        timestamp: wall::rfc3339(change.at),
        code: if change.code == Code::Ok { "ok" } else { "failed" }.into(),
        message: change.message.clone().into_owned(),
        state: state(change.state),
    };
    of.log().iter().rev().map(entry).collect()
}

/// An endpoint's labels.
pub fn label_status(of: &endpoint::Endpoint) -> LabelConfigurationStatus {
    let derived = of.identity_labels.iter().filter(|label| !of.spec.labels.iter().any(|user| user == *label));
    LabelConfigurationStatus {
        realized: LabelConfigurationSpec { user: labels(&of.spec.labels) },
        security_relevant: labels(&of.identity_labels),
        derived: derived.map(ToString::to_string).collect(),
        disabled: Vec::new(),
    }
}

/// An endpoint as `GET /endpoint/{id}` shows it; the list leaves `whole` out and with it what is long.
pub fn endpoint(of: &endpoint::Endpoint, engine: &Engine, audit: bool, whole: bool) -> Endpoint {
    let spec = &of.spec;
    let text = |text: &str| text.to_owned();
    let attachment = spec.attachment.as_ref();
    let pod = spec.pod.as_ref();
    let identifiers = EndpointIdentifiers {
        cni_attachment_id: spec.attachment_id().map_or_else(String::new, |id| text(&id)),
        container_id: attachment.map_or_else(String::new, |at| text(&at.container_id)),
        container_name: text(&spec.container_name),
        docker_endpoint_id: text(&spec.docker_endpoint),
        pod_name: spec.pod_name().map_or_else(String::new, |name| text(&name)),
        k8s_pod_name: pod.map_or_else(String::new, |pod| text(&pod.name)),
        k8s_namespace: pod.map_or_else(String::new, |pod| text(&pod.namespace)),
        ..EndpointIdentifiers::default()
    };
    let networking = EndpointNetworking {
        addressing: vec![addresses(spec)],
        host_mac: spec.host_mac.to_string(),
        mac: spec.mac.to_string(),
        interface_name: text(&spec.ifname),
        interface_index: spec.ifindex.into(),
        container_interface_name: attachment.map_or_else(String::new, |at| text(&at.ifname)),
        ..EndpointNetworking::default()
    };
    let mut log = log(of);
    if !whole {
        log.truncate(1);
    }
    Endpoint {
        id: of.id.as_u16().into(),
        spec: api::models::EndpointConfigurationSpec {
            label_configuration: LabelConfigurationSpec { user: labels(&spec.labels) },
            ..Default::default()
        },
        status: EndpointStatus {
            external_identifiers: identifiers,
            identity: of.identity.map(|number| identity(number, &of.identity_labels)),
            labels: label_status(of),
            networking,
            policy: Some(policy_status(of, engine, audit, whole)),
            log,
            state: state(of.state()),
            health: Some(health(of)),
            ..EndpointStatus::default()
        },
    }
}

fn addresses(spec: &endpoint::EndpointSpec) -> AddressPair {
    AddressPair {
        ipv4: spec.ipv4.map_or_else(String::new, |ip| ip.to_string()),
        ipv6: spec.ipv6.map_or_else(String::new, |ip| ip.to_string()),
        ..AddressPair::default()
    }
}

fn policy_status(of: &endpoint::Endpoint, engine: &Engine, audit: bool, whole: bool) -> EndpointPolicyStatus {
    let at = |revision: types::Revision| EndpointPolicy {
        policy_revision: i64::try_from(revision.0).unwrap_or(i64::MAX),
        ..EndpointPolicy::default()
    };
    let mut status =
        EndpointPolicyStatus { spec: at(of.policy.wanted), realized: at(of.policy.realized), ..Default::default() };
    let Some(judged) = engine.endpoint_policy(of.id) else { return status };
    let id = of.identity.map_or(0, |identity| identity.as_u32().into());
    let enabled = enabled(judged.ingress, judged.egress, audit);
    let (allowed, denied) = if whole { peers(judged.policy, engine) } else { Default::default() };
    for policy in [&mut status.spec, &mut status.realized] {
        policy.id = id;
        policy.policy_enabled = enabled;
        policy.allowed_ingress_identities = allowed[0].iter().copied().collect();
        policy.allowed_egress_identities = allowed[1].iter().copied().collect();
        policy.denied_ingress_identities = denied[0].iter().copied().collect();
        policy.denied_egress_identities = denied[1].iter().copied().collect();
    }
    status
}

const fn enabled(ingress: bool, egress: bool, audit: bool) -> EndpointPolicyEnabled {
    match (ingress, egress, audit) {
        (false, false, _) => EndpointPolicyEnabled::None,
        (true, false, false) => EndpointPolicyEnabled::Ingress,
        (false, true, false) => EndpointPolicyEnabled::Egress,
        (true, true, false) => EndpointPolicyEnabled::Both,
        (true, false, true) => EndpointPolicyEnabled::AuditIngress,
        (false, true, true) => EndpointPolicyEnabled::AuditEgress,
        (true, true, true) => EndpointPolicyEnabled::AuditBoth,
    }
}

/// By direction, ingress first.
type Peers = [BTreeSet<i64>; 2];

/// Identities allowed and denied on any port, by direction.
fn peers(policy: policy::PolicyId, engine: &Engine) -> (Peers, Peers) {
    let (mut allowed, mut denied) = (Peers::default(), Peers::default());
    for (key, value) in engine.entries_of(policy) {
        let side = if value.verdict == policy::Verdict::Deny { &mut denied } else { &mut allowed };
        let direction = usize::from(key.direction == policy::Direction::Egress);
        let (identities, _) = engine.members(key.class);
        side[direction].extend(identities.into_iter().map(|identity| i64::from(identity.as_u32())));
    }
    (allowed, denied)
}

/// A service.
pub fn service(of: &lb::Service) -> Service {
    let lower = |transport: lb::Transport| transport.to_string().to_lowercase();
    let backend = |(_, backend): &(lb::BackendId, lb::Backend)| BackendAddress {
        ip: backend.addr.ip.to_string(),
        protocol: lower(backend.addr.protocol),
        port: backend.addr.port,
        node_name: backend.node_name.clone().into(),
        state: backend.state.name().into(),
        weight: Some(backend.weight),
        zone: backend.zone.clone().into(),
        ..BackendAddress::default()
    };
    let at = &of.attributes;
    let spec = ServiceSpec {
        id: of.id.as_u16().into(),
        frontend_address: FrontendAddress {
            ip: of.frontend.ip.to_string(),
            protocol: lower(of.frontend.protocol),
            scope: match of.scope {
                lb::Scope::External => "external",
                lb::Scope::Internal => "internal",
            }
            .into(),
            port: of.frontend.port,
        },
        backend_addresses: of.backends.iter().map(backend).collect(),
        flags: ServiceFlags {
            kind: at.kind.name().into(),
            traffic_policy: at.external_policy.name().into(),
            ext_traffic_policy: at.external_policy.name().into(),
            int_traffic_policy: at.internal_policy.name().into(),
            nat_policy: "None".into(),
            health_check_node_port: at.health_check_port,
            name: of.name.name.clone().into(),
            namespace: of.name.namespace.clone().into(),
            affinity_seconds: at.affinity_seconds,
            source_ranges: at.source_ranges.iter().map(ToString::to_string).collect(),
            forwarding_mode: match at.forwarding {
                None => "",
                Some(lb::Forwarding::Snat) => "snat",
                Some(lb::Forwarding::Dsr) => "dsr",
            }
            .into(),
            loopback_host_port: at.loopback,
            ..ServiceFlags::default()
        },
        ..ServiceSpec::default()
    };
    Service { status: Some(ServiceStatus { realized: spec.clone() }), spec }
}

/// A prefix.
pub fn prefix(of: agent_core::IpInfo) -> IPListEntry {
    let (namespace, name) = of.pod.unwrap_or_default();
    IPListEntry {
        cidr: of.cidr.to_string(),
        identity: of.identity.as_u32().into(),
        host_ip: of.host.map_or_else(String::new, |ip| ip.to_string()),
        encrypt_key: 0,
        metadata: Some(IPListEntryMetadata { source: of.source.to_string(), namespace, name }),
    }
}

/// The selectors in use.
pub fn selectors(engine: &Engine) -> Vec<SelectorIdentityMapping> {
    let mapping = |(selector, identities): (String, Vec<NumericIdentity>)| SelectorIdentityMapping {
        selector,
        labels: Vec::<Label>::new(),
        identities: identities.into_iter().map(|identity| identity.as_u32().into()).collect(),
        users: 1,
    };
    engine.selectors().into_iter().map(mapping).collect()
}

/// The node's addresses.
pub fn addressing(config: &agent_core::Config) -> NodeAddressing {
    let element = |family: &FamilyConfig| NodeAddressingElement {
        enabled: true,
        ip: family.router.to_string(),
        alloc_range: family.pod_cidr.to_string(),
        address_type: String::new(),
    };
    NodeAddressing { ipv4: config.ipv4.as_ref().map(element), ipv6: config.ipv6.as_ref().map(element) }
}

/// Addresses that were lent.
pub fn lent(config: &agent_core::Config, loans: &[ipam::Loan]) -> IPAMResponse {
    let mut answer = IPAMResponse { host_addressing: addressing(config), ..IPAMResponse::default() };
    for loan in loans {
        let family = if loan.addr.is_ipv4() { &config.ipv4 } else { &config.ipv6 };
        let expiration_uuid = loan.expires.map_or_else(String::new, |(_, id)| id.to_string());
        let one = IPAMAddressResponse {
            ip: loan.addr.to_string(),
            gateway: family.as_ref().map_or_else(String::new, |family| family.router.to_string()),
            expiration_uuid: expiration_uuid.clone(),
            ..IPAMAddressResponse::default()
        };
        let address = &mut answer.address;
        if loan.addr.is_ipv4() {
            (address.ipv4, address.ipv4_expiration_uuid) = (one.ip.clone(), expiration_uuid);
            address.ipv4_pool_name = "default".into();
            answer.ipv4 = Some(one);
        } else {
            (address.ipv6, address.ipv6_expiration_uuid) = (one.ip.clone(), expiration_uuid);
            address.ipv6_pool_name = "default".into();
            answer.ipv6 = Some(one);
        }
    }
    answer
}
