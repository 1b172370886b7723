//! Endpoints, identities and addresses.

use serde::{Deserialize, Serialize};

use super::{ConfigurationMap, Labels, NodeAddressing};

texts! {
    /// State of an endpoint. The empty name stands for "not said".
    EndpointState {
        Unset = "", WaitingForIdentity = "waiting-for-identity", NotReady = "not-ready",
        WaitingToRegenerate = "waiting-to-regenerate", Regenerating = "regenerating", Restoring = "restoring",
        Ready = "ready", Disconnecting = "disconnecting", Disconnected = "disconnected", Invalid = "invalid",
    }
    /// Health of one part of an endpoint.
    EndpointHealthStatus {
        Unset = "", Ok = "OK", Bootstrap = "Bootstrap", Pending = "Pending", Warning = "Warning",
        Failure = "Failure", Disabled = "Disabled",
    }
    /// In which directions policy applies to an endpoint.
    EndpointPolicyEnabled {
        None = "none", Ingress = "ingress", Egress = "egress", Both = "both",
        AuditIngress = "audit-ingress", AuditEgress = "audit-egress", AuditBoth = "audit-both",
    }
}

models! {
    /// An endpoint as the API shows it.
    Endpoint {
        id as "id": i64,
        spec as "spec": EndpointConfigurationSpec,
        status as "status": EndpointStatus,
    }
    /// Body of `PUT` and `PATCH /endpoint/{id}`.
    EndpointChangeRequest {
        id as "id": i64,
        container_id as "container-id": String,
        container_name as "container-name": String,
        docker_endpoint_id as "docker-endpoint-id": String,
        docker_network_id as "docker-network-id": String,
        labels as "labels": Labels,
        interface_name as "interface-name": String,
        interface_index as "interface-index": i64,
        container_interface_name as "container-interface-name": String,
        state as "state": EndpointState,
        mac as "mac": String,
        host_mac as "host-mac": String,
        addressing as "addressing": AddressPair,
        k8s_pod_name as "k8s-pod-name": String,
        k8s_namespace as "k8s-namespace": String,
        k8s_uid as "k8s-uid": String,
        datapath_map_id as "datapath-map-id": i64,
        policy_enabled as "policy-enabled": bool,
        pid as "pid": i64,
        sync_build_endpoint as "sync-build-endpoint": bool,
        disable_legacy_identifiers as "disable-legacy-identifiers": bool,
        netns_cookie as "netns-cookie": String,
        datapath_configuration as "datapath-configuration": EndpointDatapathConfiguration,
        properties as "properties": std::collections::BTreeMap<String, serde_json::Value>,
    }
    /// Body of `DELETE /endpoint`; also what the CNI plugin leaves in the delete queue.
    EndpointBatchDeleteRequest { container_id as "container-id": String, }
    /// How an endpoint's traffic is to be taken.
    EndpointDatapathConfiguration {
        require_arp_passthrough as "require-arp-passthrough": bool,
        require_egress_prog as "require-egress-prog": bool,
        external_ipam as "external-ipam": bool,
        require_routing as "require-routing": Option<bool>,
        install_endpoint_route as "install-endpoint-route": bool,
        disable_sip_verification as "disable-sip-verification": bool,
    }
    /// What the agent knows of an endpoint.
    EndpointStatus {
        external_identifiers as "external-identifiers": EndpointIdentifiers,
        identity as "identity": Option<Identity>,
        labels as "labels": LabelConfigurationStatus,
        realized as "realized": EndpointConfigurationSpec,
        networking as "networking": EndpointNetworking,
        policy as "policy": Option<EndpointPolicyStatus>,
        log as "log": Vec<EndpointStatusChange>,
        controllers as "controllers": Vec<super::ControllerStatus>,
        state as "state": EndpointState,
        health as "health": Option<EndpointHealth>,
        named_ports as "namedPorts": Vec<super::Port>,
    }
    /// Health of an endpoint.
    EndpointHealth {
        overall_health as "overallHealth": EndpointHealthStatus,
        bpf as "bpf": EndpointHealthStatus,
        policy as "policy": EndpointHealthStatus,
        connected as "connected": bool,
    }
    /// One line of an endpoint's log.
    EndpointStatusChange {
        timestamp as "timestamp": String,
        code as "code": String,
        message as "message": String,
        state as "state": EndpointState,
    }
    /// Wanted and realized policy.
    EndpointPolicyStatus {
        spec as "spec": EndpointPolicy,
        realized as "realized": EndpointPolicy,
        proxy_policy_revision as "proxy-policy-revision": i64,
    }
    /// Policy of one endpoint.
    EndpointPolicy {
        policy_revision as "policy-revision": i64,
        id as "id": i64,
        policy_enabled as "policy-enabled": EndpointPolicyEnabled,
        build as "build": i64,
        allowed_ingress_identities as "allowed-ingress-identities": Vec<i64>,
        denied_ingress_identities as "denied-ingress-identities": Vec<i64>,
        allowed_egress_identities as "allowed-egress-identities": Vec<i64>,
        denied_egress_identities as "denied-egress-identities": Vec<i64>,
        l4 as "l4": L4Policy,
        cidr_policy as "cidr-policy": L4Policy,
    }
    /// One entry of [`L4Policy`].
    PolicyRule {
        rule as "rule": String,
        derived_from_rules as "derived-from-rules": Vec<Labels>,
        rules_by_selector as "rules-by-selector": std::collections::BTreeMap<String, Vec<Labels>>,
    }
    /// Rules by direction.
    L4Policy { ingress as "ingress": Vec<PolicyRule>, egress as "egress": Vec<PolicyRule>, }
    /// An identity.
    Identity { id as "id": i64, labels as "labels": Labels, labels_sha256 as "labelsSHA256": String, }
    /// How many endpoints have an identity.
    IdentityEndpoints { identity as "identity": Identity, ref_count as "refCount": i64, }
    /// How an endpoint is connected.
    EndpointNetworking {
        addressing as "addressing": Vec<AddressPair>,
        host_addressing as "host-addressing": Option<NodeAddressing>,
        host_mac as "host-mac": String,
        mac as "mac": String,
        interface_name as "interface-name": String,
        interface_index as "interface-index": i64,
        container_interface_name as "container-interface-name": String,
    }
    /// Names others have for an endpoint.
    EndpointIdentifiers {
        cni_attachment_id as "cni-attachment-id": String,
        container_id as "container-id": String,
        container_name as "container-name": String,
        docker_endpoint_id as "docker-endpoint-id": String,
        docker_network_id as "docker-network-id": String,
        pod_name as "pod-name": String,
        k8s_pod_name as "k8s-pod-name": String,
        k8s_namespace as "k8s-namespace": String,
    }
    /// Labels as asked for and as they are; body of `PATCH /endpoint/{id}/labels`: [`LabelConfigurationSpec`].
    LabelConfiguration { spec as "spec": LabelConfigurationSpec, status as "status": LabelConfigurationStatus, }
    /// Labels given by the user.
    LabelConfigurationSpec { user as "user": Labels, }
    /// All labels of an endpoint.
    LabelConfigurationStatus {
        realized as "realized": LabelConfigurationSpec,
        security_relevant as "security-relevant": Labels,
        derived as "derived": Labels,
        disabled as "disabled": Labels,
    }
    /// Options of an endpoint.
    EndpointConfigurationSpec {
        options as "options": ConfigurationMap,
        label_configuration as "label-configuration": LabelConfigurationSpec,
    }
    /// Options of an endpoint as they are.
    EndpointConfigurationStatus {
        realized as "realized": EndpointConfigurationSpec,
        immutable as "immutable": ConfigurationMap,
        error as "error": String,
    }
    /// An endpoint's addresses.
    AddressPair {
        ipv4 as "ipv4": String,
        ipv4_expiration_uuid as "ipv4-expiration-uuid": String,
        ipv4_pool_name as "ipv4-pool-name": String,
        ipv6 as "ipv6": String,
        ipv6_expiration_uuid as "ipv6-expiration-uuid": String,
        ipv6_pool_name as "ipv6-pool-name": String,
    }
    /// Answer of `POST /ipam`.
    IPAMResponse {
        address as "address": AddressPair,
        ipv4 as "ipv4": Option<IPAMAddressResponse>,
        ipv6 as "ipv6": Option<IPAMAddressResponse>,
        host_addressing as "host-addressing": NodeAddressing,
    }
    /// One family of [`IPAMResponse`].
    IPAMAddressResponse {
        ip as "ip": String,
        gateway as "gateway": String,
        cidrs as "cidrs": Vec<String>,
        master_mac as "master-mac": String,
        expiration_uuid as "expiration-uuid": String,
        interface_number as "interface-number": String,
    }
}
