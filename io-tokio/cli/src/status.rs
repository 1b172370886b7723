//! `cilium status` and `cilium version`.

use std::time::Duration;

use api::client::Client;
use api::models::{NodeAddressing, State, Status, StatusResponse};

use crate::arguments::StatusOptions;
use crate::output::{Screen, Table};
use crate::{Arguments, CliError};

pub(crate) fn show(arguments: &Arguments, options: &StatusOptions, screen: &mut Screen<'_>) -> Result<(), CliError> {
    let client = Client::new(arguments.socket(), Duration::from_secs(options.timeout));
    let brief = if options.brief { "true" } else { "false" };
    let status: StatusResponse = client.call("GET", "/healthz", &[("brief", brief)], None::<&()>)?;
    let trouble = trouble(&status);
    if screen.is_json() {
        screen.json(&status)?;
    } else if options.brief {
        match &trouble {
            None => screen.line("OK")?,
            Some(_) => screen.line("not OK")?,
        }
    } else {
        screen.table(&table(&status, options))?;
    }
    trouble.map_or(Ok(()), |what| Err(CliError::NotWell(what)))
}

/// The first part of the agent that failed.
fn trouble(status: &StatusResponse) -> Option<String> {
    let hubble = status.hubble.as_ref().map(|h| Status { state: h.state, msg: h.msg.clone() });
    let parts = [("Cilium", &status.cilium), ("KVStore", &status.kvstore), ("Hubble", &hubble)];
    let failed = |(name, part): (&str, &Option<Status>)| match part {
        Some(part) if part.state == State::Failure => Some(format!("{name} failed: {}", part.msg)),
        _ => None,
    };
    parts.into_iter().find_map(failed)
}

fn said(state: State, msg: &str) -> String {
    if msg.is_empty() { state.to_string() } else { format!("{state}   {msg}") }
}

fn table(status: &StatusResponse, options: &StatusOptions) -> Table {
    let mut table = Table::without_headings();
    let mut row = |name: &str, text: String| table.row([format!("{name}:"), text]);
    for (name, part) in [
        ("KVStore", &status.kvstore),
        ("Container runtime", &status.container_runtime),
        ("CNI Config file", &status.cni_file),
        ("Cilium", &status.cilium),
    ] {
        if let Some(part) = part {
            row(name, said(part.state, &part.msg));
        }
    }
    if let Some(kubernetes) = &status.kubernetes {
        row("Kubernetes", said(kubernetes.state, &kubernetes.msg));
    }
    if let Some(kpr) = &status.kube_proxy_replacement {
        row("KubeProxyReplacement", format!("{} {}", kpr.mode, kpr.devices.join(" ")).trim_end().to_owned());
        if let Some(features) = &kpr.features {
            let coverage = match (features.socket_lb.enabled, features.bpf_socket_lb_hostns_only) {
                (false, _) => "Disabled",
                (true, true) => "Enabled, host only",
                (true, false) => "Enabled",
            };
            row("Socket LB", coverage.to_owned());
        }
        if let Some(features) = kpr.features.as_ref().filter(|_| options.verbose) {
            let on = |enabled: bool| if enabled { "Enabled" } else { "Disabled" }.to_owned();
            let node_port = &features.node_port;
            let mode = [node_port.mode.as_str(), &node_port.dsr_mode].join(" ").trim_end().to_owned();
            row("  NodePort", on(node_port.enabled));
            row("    Range", format!("{}-{}", node_port.port_min, node_port.port_max));
            row("    Mode", mode);
            row(
                "    Algorithm",
                match node_port.lut_size {
                    0 => node_port.algorithm.clone(),
                    places => format!("{} ({places} places)", node_port.algorithm),
                },
            );
            row("    Acceleration", node_port.acceleration.clone());
            row("  Session Affinity", on(features.session_affinity.enabled));
            row("  HostPort", on(features.host_port.enabled));
            row("  ExternalIPs", on(features.external_ips.enabled));
        }
    }
    if options.verbose {
        status.service_problems.iter().for_each(|problem| row("Service problem", problem.clone()));
    }
    if let Some(monitor) = &status.node_monitor {
        row("NodeMonitor", format!("Listening for events on {} CPUs; {} lost", monitor.cpus, monitor.lost));
    }
    if !status.datapath_mode.is_empty() {
        row("Device Mode", format!("{} (attached by {})", status.datapath_mode, status.attach_mode));
    }
    if let Some(ipam) = &status.ipam {
        row("IPAM", ipam.status.clone());
        if options.all_addresses || options.verbose {
            for (ip, owner) in &ipam.allocations {
                row("  Allocated", format!("{ip} ({owner})"));
            }
        }
    }
    if let Some(routing) = &status.routing {
        row(
            "Routing",
            format!("Network: {}   Host: {}", routing.inter_host_routing_mode, routing.intra_host_routing_mode),
        );
    }
    if let Some(masquerading) = &status.masquerading {
        row("Masquerading", if masquerading.enabled { masquerading.mode.clone() } else { "Disabled".into() });
    }
    let failing = status.controllers.iter().filter(|c| c.status.consecutive_failure_count > 0).count();
    if !status.controllers.is_empty() {
        row(
            "Controller Status",
            format!("{}/{} healthy", status.controllers.len() - failing, status.controllers.len()),
        );
        for c in status.controllers.iter().filter(|c| options.all_controllers || c.status.consecutive_failure_count > 0)
        {
            row(
                "  Controller",
                format!(
                    "{}: {} ok, {} failed {}",
                    c.name, c.status.success_count, c.status.failure_count, c.status.last_failure_msg
                ),
            );
        }
    }
    if let Some(hubble) = &status.hubble {
        let flows = hubble.observer.as_ref().map_or(String::new(), |o| {
            let percent = if o.max_flows > 0 { o.current_flows * 100 / o.max_flows } else { 0 };
            format!("   Current/Max Flows: {}/{} ({percent}%), seen {}", o.current_flows, o.max_flows, o.seen_flows)
        });
        row("Hubble", format!("{}{flows}", said(hubble.state, &hubble.msg)));
    }
    if let Some(encryption) = &status.encryption {
        row("Encryption", encryption.mode.clone());
    }
    if let Some(cluster) = &status.cluster {
        let addresses = |node: &NodeAddressing| {
            [&node.ipv4, &node.ipv6]
                .into_iter()
                .flatten()
                .map(|a| format!("{} {}", a.ip, a.alloc_range))
                .collect::<Vec<_>>()
                .join(", ")
        };
        for node in &cluster.nodes {
            row("Node", format!("{} {}", node.name, addresses(&node.primary_address)));
        }
    }
    if options.verbose {
        if let Some(range) = &status.identity_range {
            row("Identity Range", format!("{} to {}", range.min_identity, range.max_identity));
        }
        for map in status.bpf_maps.iter().flat_map(|maps| &maps.maps) {
            row("  BPF Map", format!("{} {}", map.name, map.size));
        }
    }
    table
}

pub(crate) fn version(client: &Client, screen: &mut Screen<'_>) -> Result<(), CliError> {
    let own = env!("CARGO_PKG_VERSION");
    // An agent that is away does not keep the client from saying its own version.
    let agent = client.call::<(), StatusResponse>("GET", "/healthz", &[("brief", "true")], None).ok();
    let agent = agent.and_then(|status| status.cilium).map(|cilium| cilium.msg);
    if screen.is_json() {
        return screen.json(&serde_json::json!({ "Client": { "Version": own }, "Daemon": { "Version": agent } }));
    }
    screen.line(&format!("Client: {own}"))?;
    screen.line(&format!("Daemon: {}", agent.as_deref().unwrap_or("not reachable")))
}
