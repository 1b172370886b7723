//! Status, configuration and everything else that is about the agent itself.

use std::collections::BTreeMap;

use agent_core::{Agent, Audit, Enforcement};
use api::models::{
    BPFMapProperties, BPFMapStatus, CNIChainingStatus, ClockSource, ClusterStatus, ControllerCounts, ControllerStatus,
    DaemonConfiguration, DaemonConfigurationSpec, DaemonConfigurationStatus, EncryptionStatus,
    EndpointConfigurationSpec, EndpointConfigurationStatus, Families, Feature, HostFirewall, HubbleObserver,
    HubbleStatus, IPAMStatus, IdentityRange, K8sStatus, KubeProxyFeatures, KubeProxyReplacement,
    LabelConfigurationSpec, Masquerading, MonitorStatus, NodeAddressing, NodeAddressingElement, NodeElement,
    NodePortFeature, Policy, Routing, State, Status, StatusResponse,
};
use api::server::Reply;
use endpoint::Endpoint;
use types::Labels;

use super::{View, show};
use crate::wall;

/// Problems of services in the status at most.
const PROBLEMS_SHOWN: usize = 10;

fn state(state: State, msg: impl Into<String>) -> Status {
    Status { state, msg: msg.into() }
}

const fn enforcement(mode: Enforcement) -> &'static str {
    match mode {
        Enforcement::Default => "default",
        Enforcement::Always => "always",
        Enforcement::Never => "never",
    }
}

fn overall(view: &View, agent: &Agent) -> Status {
    let core = agent.status();
    if core.phase != agent_core::Phase::Live {
        return state(State::Warning, "restoring what an earlier agent left");
    }
    let troubles = view.status.troubles();
    if let Some((map, max)) = troubles.full.first() {
        return state(State::Failure, format!("map {map} has no room beyond its {max} entries"));
    }
    let mut sentences: Vec<String> =
        troubles.policy_files.iter().map(|(path, why)| format!("policy file {path}: {why}")).collect();
    let problems = agent.service_problems();
    sentences.extend(problems.iter().take(PROBLEMS_SHOWN).cloned());
    if let Some(more) = problems.len().checked_sub(PROBLEMS_SHOWN).filter(|more| *more > 0) {
        sentences.push(format!("{more} more problems of services; see cilium status --verbose"));
    }
    sentences.extend(core.unkept_files.iter().map(|file| format!("state file {} cannot be written", file.path())));
    if core.policies_lost {
        sentences.push("imported policies were lost; import or delete policies".into());
    }
    sentences.extend(troubles.warnings);
    sentences.extend(view.sinks.troubles());
    if sentences.is_empty() {
        state(State::Ok, concat!(env!("CARGO_PKG_VERSION"), " (cilium-rs)"))
    } else {
        state(State::Warning, sentences.join("; "))
    }
}

pub(super) fn status(view: &View, agent: &Agent, brief: bool) -> StatusResponse {
    let cilium = Some(overall(view, agent));
    if brief {
        return StatusResponse { cilium, ..StatusResponse::default() };
    }
    let settings = &view.settings;
    StatusResponse {
        cilium,
        kvstore: Some(state(State::Ok, format!("embedded: {}", settings.places.store.display()))),
        cni_file: Some(state(State::Disabled, "")),
        container_runtime: Some(state(State::Disabled, "")),
        host_firewall: Some(HostFirewall { mode: "Disabled".into(), devices: Vec::new() }),
        hubble: Some(hubble(view)),
        kubernetes: Some(K8sStatus { state: State::Disabled, ..K8sStatus::default() }),
        datapath_mode: "veth".into(),
        attach_mode: view.attach_mode.into(),
        kube_proxy_replacement: Some(kube_proxy(view, agent)),
        ipam: Some(addresses(agent)),
        node_monitor: Some(monitor()),
        cluster: Some(ClusterStatus {
            cilium_health: Some(state(State::Disabled, "there is one node")),
            self_name: settings.agent.node_name.to_string(),
            nodes: vec![node(view)],
        }),
        controllers: controllers(view),
        identity_range: Some(IdentityRange { min_identity: 256, max_identity: 65_535 }),
        masquerading: Some(Masquerading { enabled: false, ..Masquerading::default() }),
        routing: Some(Routing {
            inter_host_routing_mode: "Native".into(),
            intra_host_routing_mode: view.host_routing.into(),
            tunnel_protocol: String::new(),
        }),
        clock_source: Some(ClockSource { mode: "ktime".into(), hertz: 0 }),
        stale: BTreeMap::new(),
        bpf_maps: Some(map_sizes(view)),
        encryption: Some(EncryptionStatus { mode: "Disabled".into(), msg: String::new() }),
        service_problems: agent.service_problems(),
        cni_chaining: Some(CNIChainingStatus { mode: "none".into() }),
    }
}

fn kube_proxy(view: &View, agent: &Agent) -> KubeProxyReplacement {
    let (settings, told) = (&view.settings, &agent.config().lb);
    let on = |enabled| Feature { enabled };
    let (first, last) = told.node.ports;
    let (algorithm, lut_size) = match told.algorithm {
        lb::Algorithm::Random => ("Random", 0),
        lb::Algorithm::Maglev { size, .. } => ("Maglev", i64::from(size.places())),
    };
    KubeProxyReplacement {
        mode: if settings.balancing.replaces_kube_proxy { "True" } else { "False" }.into(),
        devices: settings.devices.clone(),
        direct_routing_device: settings.direct_routing_device.clone().unwrap_or_default(),
        features: Some(KubeProxyFeatures {
            socket_lb: on(settings.sockets.cgroup.is_some()),
            socket_lb_tracing: on(settings.sockets.cgroup.is_some() && settings.sockets.traced),
            bpf_socket_lb_hostns_only: settings.sockets.host_only,
            node_port: NodePortFeature {
                enabled: told.node_ports,
                mode: settings.balancing.mode.into(),
                dsr_mode: settings.balancing.dsr.into(),
                algorithm: algorithm.into(),
                acceleration: settings.balancing.acceleration.into(),
                port_min: first.into(),
                port_max: last.into(),
                lut_size,
            },
            host_port: on(told.host_ports),
            external_ips: on(told.external_ips),
            session_affinity: on(told.session_affinity),
            graceful_termination: on(true),
        }),
    }
}

fn hubble(view: &View) -> HubbleStatus {
    let (Some(seen), Some(settings)) = (view.hubble, &view.settings.hubble) else {
        return HubbleStatus { state: State::Disabled, ..HubbleStatus::default() };
    };
    let capacity = i64::try_from(settings.capacity).unwrap_or(i64::MAX);
    let seen = i64::try_from(seen).unwrap_or(i64::MAX);
    HubbleStatus {
        state: State::Ok,
        observer: Some(HubbleObserver {
            max_flows: capacity,
            current_flows: seen.min(capacity),
            seen_flows: seen,
            uptime: format!("{}s", view.status.started.elapsed().as_secs()),
        }),
        metrics: Some(match view.sinks.plugins() {
            Some(plugins) => state(State::Ok, plugins.join(", ")),
            None => state(State::Disabled, ""),
        }),
        ..HubbleStatus::default()
    }
}

fn monitor() -> MonitorStatus {
    let cpus = std::thread::available_parallelism().map_or(1, |cpus| i64::try_from(cpus.get()).unwrap_or(1));
    MonitorStatus { cpus, npages: 1024, pagesize: 4096, ..MonitorStatus::default() }
}

fn addresses(agent: &Agent) -> IPAMStatus {
    let mut status = IPAMStatus::default();
    for loan in agent.loans() {
        let list = if loan.addr.is_ipv4() { &mut status.ipv4 } else { &mut status.ipv6 };
        list.push(loan.addr.to_string());
        status.allocations.insert(loan.addr.to_string(), loan.owner.into());
    }
    let config = agent.config();
    let usage = [(ipam::Family::V4, "IPv4", &config.ipv4), (ipam::Family::V6, "IPv6", &config.ipv6)];
    let sentence = usage.into_iter().filter_map(|(family, name, settings)| {
        let (used, total) = agent.ipam_usage(family)?;
        Some(format!("{name}: {used}/{total} allocated from {}", settings.as_ref()?.pod_cidr))
    });
    status.status = sentence.collect::<Vec<_>>().join(", ");
    status
}

fn map_sizes(view: &View) -> BPFMapStatus {
    let size = |spec: &abi::maps::MapSpec| {
        let size = view.settings.map_sizes.get(spec.name).copied().unwrap_or(spec.max_entries);
        BPFMapProperties { name: spec.name.into(), size: size.into() }
    };
    BPFMapStatus { dynamic_size_ratio: 0.0, maps: abi::maps::ALL.iter().map(size).collect() }
}

fn controllers(view: &View) -> Vec<ControllerStatus> {
    let (success, failure, last_failure) = view.status.sweeps();
    let number = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
    let mut list = vec![ControllerStatus {
        name: "ct-map-gc".into(),
        status: ControllerCounts {
            success_count: number(success),
            failure_count: number(failure),
            last_failure_msg: last_failure,
            ..ControllerCounts::default()
        },
        ..ControllerStatus::default()
    }];
    for (path, why) in view.status.troubles().policy_files {
        list.push(ControllerStatus {
            name: format!("policy-file {path}"),
            status: ControllerCounts {
                failure_count: 1,
                consecutive_failure_count: 1,
                last_failure_msg: why,
                ..ControllerCounts::default()
            },
            ..ControllerStatus::default()
        });
    }
    list
}

fn node(view: &View) -> NodeElement {
    let config = &view.settings.agent;
    let family = |family: &Option<agent_core::FamilyConfig>| {
        family.as_ref().map(|family| NodeAddressingElement {
            enabled: true,
            ip: family.node_addrs.first().unwrap_or(&family.router).to_string(),
            alloc_range: family.pod_cidr.to_string(),
            address_type: "InternalIP".into(),
        })
    };
    NodeElement {
        name: config.node_name.to_string(),
        primary_address: NodeAddressing { ipv4: family(&config.ipv4), ipv6: family(&config.ipv6) },
        source: "local".into(),
    }
}

pub(super) fn nodes(view: &View, _agent: &Agent, client_id: i64) -> Reply {
    // There is one node, so a client that asks again gets no news.
    let added = if client_id == 0 { vec![node(view)] } else { Vec::new() };
    let name = &view.settings.agent.node_name;
    Reply::ok(&serde_json::json!({"client-id": client_id.max(1), "self": name, "nodes-added": added}))
}

pub(super) fn configuration(view: &View, agent: &Agent) -> DaemonConfiguration {
    let settings = &view.settings;
    let audit = agent.audit() == Audit::Report;
    let options: BTreeMap<String, String> = [("PolicyAuditMode", audit)]
        .map(|(name, on)| (name.to_owned(), if on { "Enabled" } else { "Disabled" }.to_owned()))
        .into();
    let realized = DaemonConfigurationSpec { options, policy_enforcement: enforcement(agent.enforcement()).to_owned() };
    let mtu = i64::from(settings.mtu);
    let given = settings.given.iter().map(|(name, value)| (name.clone(), value.clone().into()));
    let abilities = agent.abilities();
    // What `cilium policy validate --agent` asks for; the first four under upstream's names.
    let able = [
        ("EnableIPv4", abilities.ipv4),
        ("EnableIPv6", abilities.ipv6),
        ("EnableL7Proxy", agent_core::parse_options().l7_proxy),
        ("EnableHostFirewall", abilities.host_firewall),
        ("PolicyCIDRGroups", abilities.cidr_groups),
        ("PolicyServices", abilities.services),
        ("PolicyDNSNames", abilities.dns_names),
        ("PolicyPortNames", abilities.port_names),
    ];
    let able = able.map(|(name, has)| (name.to_owned(), has.into()));
    DaemonConfiguration {
        spec: realized.clone(),
        status: DaemonConfigurationStatus {
            realized,
            immutable: settings.given.clone(),
            addressing: show::addressing(&settings.agent),
            node_monitor: Some(monitor()),
            device_mtu: mtu,
            route_mtu: mtu,
            datapath_mode: "veth".into(),
            ipam_mode: "cluster-pool".into(),
            masquerade: false,
            masquerade_protocols: Families::default(),
            daemon_configuration_map: given.chain(able).collect(),
            ..DaemonConfigurationStatus::default()
        },
    }
}

pub(super) fn endpoint_configuration(agent: &Agent, endpoint: &Endpoint) -> EndpointConfigurationStatus {
    let audit = agent.audit() == Audit::Report;
    let mode = if audit { "Enabled" } else { "Disabled" }.to_owned();
    EndpointConfigurationStatus {
        realized: EndpointConfigurationSpec {
            options: [("PolicyAuditMode".to_owned(), mode)].into(),
            label_configuration: LabelConfigurationSpec { user: show::labels(&endpoint.spec.labels) },
        },
        ..EndpointConfigurationStatus::default()
    }
}

/// Revision, and the documents as one list: a document that is a list of rules is shown as its rules.
pub(super) fn rules(agent: &Agent, labels: &Labels) -> (types::Revision, String) {
    let (revision, text) = agent.policy(labels);
    let Ok(documents) = serde_json::from_str::<Vec<serde_json::Value>>(&text) else { return (revision, text) };
    let flat = documents.into_iter().flat_map(|document| match document {
        serde_json::Value::Array(rules) => rules,
        other => vec![other],
    });
    let flat: Vec<_> = flat.collect();
    (revision, serde_json::to_string_pretty(&flat).unwrap_or(text))
}

pub(super) fn policy(agent: &Agent, labels: &Labels) -> Reply {
    let (revision, policy) = rules(agent, labels);
    if policy == "[]" && !labels.is_empty() {
        return Reply::error(404, "no policy has these labels");
    }
    Reply::ok(&Policy { revision: i64::try_from(revision.0).unwrap_or(i64::MAX), policy })
}

pub(super) fn debug_info(view: &View, agent: &Agent) -> Reply {
    let audit = agent.audit() == Audit::Report;
    let endpoints: Vec<_> =
        agent.endpoints().map(|endpoint| show::endpoint(endpoint, agent.engine(), audit, true)).collect();
    let services: Vec<_> = agent.services().map(show::service).collect();
    let environment: Vec<String> =
        std::env::vars().filter(|(name, _)| name.starts_with("CILIUM_")).map(|(k, v)| format!("{k}={v}")).collect();
    Reply::ok(&serde_json::json!({
        "cilium-version": env!("CARGO_PKG_VERSION"),
        "kernel-version": loader::kernel_release(),
        "cilium-status": status(view, agent, false),
        "endpoint-list": endpoints,
        "service-list": services,
        "policy": rules(agent, &Labels::default()).1,
        "environment-variables": environment,
        "subsystem": {
            "maps-directory": view.maps.directory().display().to_string(),
            "started": wall::text(view.status.started_at),
        },
    }))
}
