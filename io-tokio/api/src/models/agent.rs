//! The agent itself: status and configuration.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::ConfigurationMap;

texts! {
    /// State of one part of the agent.
    State { Unset = "", Ok = "Ok", Warning = "Warning", Failure = "Failure", Disabled = "Disabled", }
}

models! {
    /// Answer of `GET /healthz`.
    StatusResponse {
        cilium as "cilium": Option<Status>,
        kvstore as "kvstore": Option<Status>,
        cni_file as "cni-file": Option<Status>,
        container_runtime as "container-runtime": Option<Status>,
        host_firewall as "host-firewall": Option<HostFirewall>,
        hubble as "hubble": Option<HubbleStatus>,
        kubernetes as "kubernetes": Option<K8sStatus>,
        datapath_mode as "datapath-mode": String,
        attach_mode as "attach-mode": String,
        kube_proxy_replacement as "kube-proxy-replacement": Option<KubeProxyReplacement>,
        ipam as "ipam": Option<IPAMStatus>,
        node_monitor as "nodeMonitor": Option<MonitorStatus>,
        cluster as "cluster": Option<ClusterStatus>,
        controllers as "controllers": Vec<ControllerStatus>,
        identity_range as "identity-range": Option<IdentityRange>,
        masquerading as "masquerading": Option<Masquerading>,
        routing as "routing": Option<Routing>,
        clock_source as "clock-source": Option<ClockSource>,
        stale as "stale": BTreeMap<String, String>,
        bpf_maps as "bpf-maps": Option<BPFMapStatus>,
        encryption as "encryption": Option<EncryptionStatus>,
        cni_chaining as "cni-chaining": Option<CNIChainingStatus>,
        service_problems as "service-problems": Vec<String>,
    }
    /// State of one part, with a sentence.
    Status { state as "state": State, msg as "msg": String, }
    /// Host firewall.
    HostFirewall { mode as "mode": String, devices as "devices": Vec<String>, }
    /// Hubble in the agent.
    HubbleStatus {
        state as "state": State,
        msg as "msg": String,
        observer as "observer": Option<HubbleObserver>,
        metrics as "metrics": Option<Status>,
    }
    /// Hubble's ring.
    HubbleObserver {
        max_flows as "max-flows": i64,
        current_flows as "current-flows": i64,
        seen_flows as "seen-flows": i64,
        uptime as "uptime": String,
    }
    /// Kubernetes connection.
    K8sStatus { state as "state": State, k8s_api_versions as "k8s-api-versions": Vec<String>, msg as "msg": String, }
    /// Service load balancing.
    KubeProxyReplacement {
        mode as "mode": String,
        devices as "devices": Vec<String>,
        direct_routing_device as "directRoutingDevice": String,
        features as "features": Option<KubeProxyFeatures>,
    }
    /// What is done in kube-proxy's place.
    KubeProxyFeatures {
        socket_lb as "socketLB": Feature,
        socket_lb_tracing as "socketLBTracing": Feature,
        bpf_socket_lb_hostns_only as "bpfSocketLBHostnsOnly": bool,
        node_port as "nodePort": NodePortFeature,
        host_port as "hostPort": Feature,
        external_ips as "externalIPs": Feature,
        session_affinity as "sessionAffinity": Feature,
        graceful_termination as "gracefulTermination": Feature,
    }
    /// Whether something is done.
    Feature { enabled as "enabled": bool, }
    /// How node ports are served.
    NodePortFeature {
        enabled as "enabled": bool,
        mode as "mode": String,
        dsr_mode as "dsrMode": String,
        algorithm as "algorithm": String,
        acceleration as "acceleration": String,
        port_min as "portMin": i64,
        port_max as "portMax": i64,
        lut_size as "lutSize": i64,
    }
    /// Address allocation.
    IPAMStatus {
        allocations as "allocations": BTreeMap<String, String>,
        ipv4 as "ipv4": Vec<String>,
        ipv6 as "ipv6": Vec<String>,
        status as "status": String,
    }
    /// Event feed.
    MonitorStatus {
        cpus as "cpus": i64,
        npages as "npages": i64,
        pagesize as "pagesize": i64,
        lost as "lost": i64,
        unknown as "unknown": i64,
    }
    /// Cluster seen from this node.
    ClusterStatus {
        cilium_health as "ciliumHealth": Option<Status>,
        self_name as "self": String,
        nodes as "nodes": Vec<NodeElement>,
    }
    /// A node.
    NodeElement {
        name as "name": String,
        primary_address as "primary-address": NodeAddressing,
        source as "source": String,
    }
    /// A background task.
    ControllerStatus {
        name as "name": String,
        uuid as "uuid": String,
        configuration as "configuration": ControllerConfiguration,
        status as "status": ControllerCounts,
    }
    /// How a background task runs.
    ControllerConfiguration {
        interval as "interval": String,
        error_retry_base as "error-retry-base": String,
        error_retry as "error-retry": bool,
    }
    /// How a background task fared.
    ControllerCounts {
        success_count as "success-count": i64,
        last_success_timestamp as "last-success-timestamp": String,
        failure_count as "failure-count": i64,
        last_failure_timestamp as "last-failure-timestamp": String,
        consecutive_failure_count as "consecutive-failure-count": i64,
        last_failure_msg as "last-failure-msg": String,
    }
    /// Numbers for cluster identities.
    IdentityRange { min_identity as "min-identity": i64, max_identity as "max-identity": i64, }
    /// Source NAT for traffic that leaves the cluster.
    Masquerading {
        enabled as "enabled": bool,
        mode as "mode": String,
        enabled_protocols as "enabledProtocols": Families,
        snat_exclusion_cidr_v4 as "snat-exclusion-cidr-v4": String,
        snat_exclusion_cidr_v6 as "snat-exclusion-cidr-v6": String,
    }
    /// A switch for each family.
    Families { ipv4 as "ipv4": bool, ipv6 as "ipv6": bool, }
    /// How packets find their way.
    Routing {
        inter_host_routing_mode as "inter-host-routing-mode": String,
        intra_host_routing_mode as "intra-host-routing-mode": String,
        tunnel_protocol as "tunnel-protocol": String,
    }
    /// Clock of the datapath.
    ClockSource { mode as "mode": String, hertz as "hertz": i64, }
    /// Sizes of maps.
    BPFMapStatus { dynamic_size_ratio as "dynamic-size-ratio": f64, maps as "maps": Vec<BPFMapProperties>, }
    /// Size of one map.
    BPFMapProperties { name as "name": String, size as "size": i64, }
    /// Encryption between nodes.
    EncryptionStatus { mode as "mode": String, msg as "msg": String, }
    /// CNI chaining.
    CNIChainingStatus { mode as "mode": String, }
    /// Answer of `GET /config`.
    DaemonConfiguration { spec as "spec": DaemonConfigurationSpec, status as "status": DaemonConfigurationStatus, }
    /// Body of `PATCH /config`.
    DaemonConfigurationSpec {
        options as "options": ConfigurationMap,
        policy_enforcement as "policy-enforcement": String,
    }
    /// Configuration as it is.
    DaemonConfigurationStatus {
        realized as "realized": DaemonConfigurationSpec,
        immutable as "immutable": ConfigurationMap,
        addressing as "addressing": NodeAddressing,
        k8s_endpoint as "k8s-endpoint": String,
        k8s_configuration as "k8s-configuration": String,
        node_monitor as "nodeMonitor": Option<MonitorStatus>,
        device_mtu as "deviceMTU": i64,
        route_mtu as "routeMTU": i64,
        enable_route_mtu_for_cni_chaining as "enableRouteMTUForCNIChaining": bool,
        datapath_mode as "datapathMode": String,
        ipam_mode as "ipam-mode": String,
        masquerade as "masquerade": bool,
        masquerade_protocols as "masqueradeProtocols": Families,
        daemon_configuration_map as "daemonConfigurationMap": BTreeMap<String, serde_json::Value>,
        gso_max_size as "GSOMaxSize": i64,
        gro_max_size as "GROMaxSize": i64,
        gso_ipv4_max_size as "GSOIPv4MaxSize": i64,
        gro_ipv4_max_size as "GROIPv4MaxSize": i64,
        ip_local_reserved_ports as "ipLocalReservedPorts": String,
    }
    /// Addresses of a node.
    NodeAddressing { ipv6 as "ipv6": Option<NodeAddressingElement>, ipv4 as "ipv4": Option<NodeAddressingElement>, }
    /// One family of [`NodeAddressing`]: `ip` is the router's address, `alloc-range` the pods' prefix.
    NodeAddressingElement {
        enabled as "enabled": bool,
        ip as "ip": String,
        alloc_range as "alloc-range": String,
        address_type as "address-type": String,
    }
    /// A metric.
    Metric { name as "name": String, value as "value": f64, labels as "labels": BTreeMap<String, String>, }
}
