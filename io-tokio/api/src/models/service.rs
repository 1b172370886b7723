//! Services, policy, prefixes and maps.

use serde::{Deserialize, Serialize};

models! {
    /// A frontend.
    FrontendAddress {
        ip as "ip": String,
        protocol as "protocol": String,
        scope as "scope": String,
        port as "port": u16,
    }
    /// A backend.
    BackendAddress {
        ip as "ip": String,
        protocol as "protocol": String,
        port as "port": u16,
        node_name as "nodeName": String,
        state as "state": String,
        preferred as "preferred": bool,
        weight as "weight": Option<u16>,
        zone as "zone": String,
    }
    /// A service as wanted and as it is.
    Service { spec as "spec": ServiceSpec, status as "status": Option<ServiceStatus>, }
    /// Body of `PUT /service/{id}`.
    ServiceSpec {
        id as "id": i64,
        frontend_address as "frontend-address": FrontendAddress,
        backend_addresses as "backend-addresses": Vec<BackendAddress>,
        flags as "flags": ServiceFlags,
        update_services as "updateServices": bool,
    }
    /// Kind and owner of a service. The last four are not the reference's: what it shows in its maps only.
    ServiceFlags {
        kind as "type": String,
        traffic_policy as "trafficPolicy": String,
        ext_traffic_policy as "extTrafficPolicy": String,
        int_traffic_policy as "intTrafficPolicy": String,
        nat_policy as "natPolicy": String,
        health_check_node_port as "healthCheckNodePort": u16,
        name as "name": String,
        namespace as "namespace": String,
        cluster as "cluster": String,
        affinity_seconds as "sessionAffinityTimeoutSeconds": u32,
        source_ranges as "sourceRanges": Vec<String>,
        forwarding_mode as "forwardingMode": String,
        loopback_host_port as "loopbackHostPort": bool,
    }
    /// A service as it is.
    ServiceStatus { realized as "realized": ServiceSpec, }
    /// A pod of this node to which traffic is redirected.
    LRPBackend { pod_id as "pod-id": String, backend_address as "backend-address": BackendAddress, }
    /// A frontend and the pods of this node that have its traffic.
    FrontendMapping {
        frontend_address as "frontend-address": FrontendAddress,
        backends as "backends": Vec<LRPBackend>,
    }
    /// A policy of local redirection, and what it does at the moment.
    LRPSpec {
        uid as "uid": String,
        name as "name": String,
        namespace as "namespace": String,
        frontend_type as "frontend-type": String,
        lrp_type as "lrp-type": String,
        service_id as "service-id": String,
        frontend_mappings as "frontend-mappings": Vec<FrontendMapping>,
    }
    /// All rules: `policy` is a JSON array of rules, as text.
    Policy { revision as "revision": i64, policy as "policy": String, }
    /// A selector and whom it selects.
    SelectorIdentityMapping {
        selector as "selector": String,
        labels as "labels": Vec<Label>,
        identities as "identities": Vec<i64>,
        users as "users": i64,
    }
    /// A label in parts.
    Label { key as "key": String, value as "value": String, source as "source": String, }
    /// A named port.
    Port { protocol as "protocol": String, port as "port": u16, name as "name": String, }
    /// One prefix of the ipcache.
    IPListEntry {
        cidr as "cidr": String,
        identity as "identity": i64,
        host_ip as "hostIP": String,
        encrypt_key as "encryptKey": i64,
        metadata as "metadata": Option<IPListEntryMetadata>,
    }
    /// Where a prefix came from.
    IPListEntryMetadata { source as "source": String, namespace as "namespace": String, name as "name": String, }
    /// All open maps.
    BPFMapList { maps as "maps": Vec<BPFMap>, }
    /// A map and what the agent wants in it.
    BPFMap { path as "path": String, cache as "cache": Vec<BPFMapEntry>, }
    /// One wanted entry.
    BPFMapEntry {
        key as "key": String,
        value as "value": String,
        desired_action as "desired-action": String,
        last_error as "last-error": String,
    }
}
