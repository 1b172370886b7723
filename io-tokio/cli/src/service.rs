//! `cilium service`

use std::net::SocketAddr;

use api::client::Client;
use api::models::{BackendAddress, FrontendAddress, LRPSpec, Service, ServiceFlags, ServiceSpec};

use crate::CliError;
use crate::arguments::{ServiceCommand, ServiceUpdate};
use crate::output::{Screen, Table};

pub(crate) fn run(client: &Client, command: &ServiceCommand, screen: &mut Screen<'_>) -> Result<(), CliError> {
    match command {
        ServiceCommand::List { verbose } => {
            let mut services: Vec<Service> = client.get("/service")?;
            services.sort_by_key(|s| s.spec.id);
            show(&services, *verbose, screen)
        }
        ServiceCommand::Get { id } => {
            let service: Service = client.get(&format!("/service/{id}"))?;
            if screen.is_json() { screen.json(&service) } else { screen.table(&whole(&[service])) }
        }
        ServiceCommand::Update(options) => update(client, options, screen),
        ServiceCommand::Delete { id, .. } => delete(client, *id, screen),
    }
}

fn update(client: &Client, options: &ServiceUpdate, screen: &mut Screen<'_>) -> Result<(), CliError> {
    let spec = spec(options)?;
    client.call::<_, serde_json::Value>("PUT", &format!("/service/{}", spec.id), &[], Some(&spec))?;
    // Which number a service got that was given none.
    let id = if spec.id == 0 { number_of(client, &spec.frontend_address)? } else { spec.id };
    let count = spec.backend_addresses.len();
    if screen.is_json() {
        return screen.json(&serde_json::json!({ "id": id, "frontend": options.frontend, "backends": count }));
    }
    let backends = if count == 1 { "backend" } else { "backends" };
    screen.line(&format!("Service {id} is {} with {count} {backends}", options.frontend))
}

fn number_of(client: &Client, wanted: &FrontendAddress) -> Result<i64, CliError> {
    let services: Vec<Service> = client.get("/service")?;
    let place = |of: &FrontendAddress| (of.ip.clone(), of.port, of.protocol.to_lowercase(), of.scope.clone());
    let found = services.iter().find(|one| place(&one.spec.frontend_address) == place(wanted));
    found
        .map(|one| one.spec.id)
        .ok_or_else(|| CliError::NotFound("the service was taken, and is gone since; see cilium service list".into()))
}

/// Deletes one service, or all. What belongs to an object is not deleted here; the others are all the same.
fn delete(client: &Client, id: Option<i64>, screen: &mut Screen<'_>) -> Result<(), CliError> {
    let mut ids = match id {
        Some(id) => vec![id],
        None => client.get::<Vec<Service>>("/service")?.iter().map(|s| s.spec.id).collect(),
    };
    ids.sort_unstable();
    let (mut deleted, mut kept) = (Vec::new(), Vec::new());
    for id in ids {
        match client.call::<(), serde_json::Value>("DELETE", &format!("/service/{id}"), &[], None) {
            Ok(_) => deleted.push(id),
            Err(why) if why.status().is_some() => kept.push(why),
            Err(why) => return Err(why.into()),
        }
    }
    if screen.is_json() {
        screen.json(&serde_json::json!({ "deleted": deleted }))?;
    } else {
        for id in &deleted {
            screen.line(&format!("Service {id} is deleted"))?;
        }
    }
    match kept.len() {
        0 => Ok(()),
        1 => Err(kept.remove(0).into()),
        _ => Err(CliError::Invalid(kept.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))),
    }
}

/// `cilium lrp list`
pub(crate) fn redirects(client: &Client, screen: &mut Screen<'_>) -> Result<(), CliError> {
    let policies: Vec<LRPSpec> = client.get("/lrp")?;
    screen.show(&policies, || {
        let mut table = Table::new(["LRP namespace", "LRP name", "FrontendType", "Matching Service", "Traffic"]);
        for policy in &policies {
            let mapping = |mapping: &api::models::FrontendMapping| {
                let to = mapping.backends.iter().map(|backend| {
                    let address = &backend.backend_address;
                    format!("{} ({})", at(&address.ip, address.port, &address.protocol), backend.pod_id)
                });
                format!("{} -> {}", frontend(&mapping.frontend_address), to.collect::<Vec<_>>().join(", "))
            };
            let traffic: Vec<String> = policy.frontend_mappings.iter().map(mapping).collect();
            table.row([
                policy.namespace.clone(),
                policy.name.clone(),
                policy.frontend_type.clone(),
                policy.service_id.clone(),
                if traffic.is_empty() { "as without the policy".into() } else { traffic.join("\n") },
            ]);
        }
        table
    })
}

fn show(services: &[Service], verbose: bool, screen: &mut Screen<'_>) -> Result<(), CliError> {
    screen.show(&services, || {
        if verbose {
            return whole(services);
        }
        let mut table = Table::new(["ID", "Frontend", "Service Type", "Backend"]);
        for service in services {
            let spec = service.status.as_ref().map_or(&service.spec, |s| &s.realized);
            let front = &spec.frontend_address;
            let backends: Vec<String> = spec.backend_addresses.iter().enumerate().map(backend).collect();
            table.row([spec.id.to_string(), frontend(front), spec.flags.kind.clone(), backends.join("\n")]);
        }
        table
    })
}

/// With everything that is not as usual.
fn whole(services: &[Service]) -> Table {
    let mut table = Table::new(["ID", "Name", "Frontend", "Service Type", "Attributes", "Backend"]);
    for service in services {
        let spec = service.status.as_ref().map_or(&service.spec, |s| &s.realized);
        let name = [&*spec.flags.namespace, &*spec.flags.name].join("/");
        let backends = spec.backend_addresses.iter().enumerate().map(|(index, of)| {
            let weight = of.weight.filter(|weight| *weight != 100).map(|weight| format!(" weight {weight}"));
            let node = if of.node_name.is_empty() { String::new() } else { format!(" on {}", of.node_name) };
            format!("{}{}{node}", backend((index, of)), weight.unwrap_or_default())
        });
        table.row([
            spec.id.to_string(),
            if name == "/" { String::new() } else { name },
            frontend(&spec.frontend_address),
            spec.flags.kind.clone(),
            attributes(&spec.flags).join("\n"),
            backends.collect::<Vec<_>>().join("\n"),
        ]);
    }
    table
}

fn attributes(flags: &ServiceFlags) -> Vec<String> {
    let mut list = Vec::new();
    for (name, policy) in [("external", &flags.ext_traffic_policy), ("internal", &flags.int_traffic_policy)] {
        if policy == "Local" {
            list.push(format!("{name} traffic: local"));
        }
    }
    if flags.affinity_seconds > 0 {
        list.push(format!("affinity: {}s", flags.affinity_seconds));
    }
    if !flags.source_ranges.is_empty() {
        list.push(format!("from: {}", flags.source_ranges.join(" ")));
    }
    if flags.health_check_node_port > 0 {
        list.push(format!("health check: {}", flags.health_check_node_port));
    }
    if !flags.forwarding_mode.is_empty() {
        list.push(format!("forwarding: {}", flags.forwarding_mode));
    }
    if flags.loopback_host_port {
        list.push("loopback".into());
    }
    list
}

fn frontend(of: &FrontendAddress) -> String {
    let scope = if of.scope == "internal" { "/i" } else { "" };
    format!("{}{scope}", at(&of.ip, of.port, &of.protocol))
}

fn backend((index, backend): (usize, &BackendAddress)) -> String {
    let state = if backend.state.is_empty() { "active" } else { &backend.state };
    format!("{} => {} ({state})", index + 1, at(&backend.ip, backend.port, &backend.protocol))
}

fn at(ip: &str, port: u16, protocol: &str) -> String {
    let host = if ip.contains(':') { format!("[{ip}]") } else { ip.to_owned() };
    let protocol = if protocol.is_empty() { String::new() } else { format!("/{}", protocol.to_uppercase()) };
    format!("{host}:{port}{protocol}")
}

fn spec(options: &ServiceUpdate) -> Result<ServiceSpec, CliError> {
    let address = |flag: &str, text: &str| {
        text.parse::<SocketAddr>().map_err(|_| {
            CliError::Invalid(format!(
                "--{flag}: {text:?} is no address and port such as 10.96.0.10:80 or [fd00::10]:80"
            ))
        })
    };
    let frontend = address("frontend", &options.frontend)?;
    for (flag, given) in [
        ("states", options.states.len()),
        ("backend-weights", options.backend_weights.len()),
        ("backend-nodes", options.backend_nodes.len()),
    ] {
        if given != 0 && given != options.backends.len() {
            let wanted = options.backends.len();
            return Err(CliError::Invalid(format!(
                "--{flag} has {given} values for {wanted} backends; give one for each"
            )));
        }
    }
    let mut backends = Vec::new();
    for (index, text) in options.backends.iter().enumerate() {
        let backend = address("backends", text)?;
        if backend.is_ipv4() != frontend.is_ipv4() {
            return Err(CliError::Invalid(format!(
                "--backends: {text} is of another address family than the frontend"
            )));
        }
        backends.push(BackendAddress {
            ip: backend.ip().to_string(),
            port: backend.port(),
            protocol: options.protocol.clone(),
            state: options.states.get(index).cloned().unwrap_or_default(),
            weight: options.backend_weights.get(index).copied(),
            node_name: options.backend_nodes.get(index).cloned().unwrap_or_default(),
            ..BackendAddress::default()
        });
    }
    let kinds = [
        (options.k8s_node_port, "NodePort"),
        (options.k8s_external, "ExternalIPs"),
        (options.k8s_load_balancer, "LoadBalancer"),
        (options.k8s_host_port, "HostPort"),
        (options.local_redirect, "LocalRedirect"),
        (options.k8s_cluster_internal, "ClusterIP"),
    ];
    let chosen: Vec<&str> = kinds.into_iter().filter(|(on, _)| *on).map(|(_, kind)| kind).collect();
    if chosen.len() > 1 {
        return Err(CliError::Invalid(format!("a service has one type, not {}", chosen.join(" and "))));
    }
    let kind = chosen.first().copied().unwrap_or("ClusterIP");
    let (namespace, name) = match options.name.as_deref().map(|full| full.split_once('/')) {
        None => ("", ""),
        Some(Some(parts)) => parts,
        Some(None) => return Err(CliError::Invalid("--name must be namespace/name".into())),
    };
    Ok(ServiceSpec {
        id: options.id,
        frontend_address: FrontendAddress {
            ip: frontend.ip().to_string(),
            port: frontend.port(),
            protocol: options.protocol.clone(),
            scope: options.scope.clone(),
        },
        backend_addresses: backends,
        flags: ServiceFlags {
            kind: kind.into(),
            ext_traffic_policy: options.k8s_ext_traffic_policy.clone(),
            int_traffic_policy: options.k8s_int_traffic_policy.clone(),
            health_check_node_port: options.health_check_node_port,
            affinity_seconds: options.session_affinity,
            source_ranges: options.source_ranges.clone(),
            forwarding_mode: options.forwarding_mode.clone(),
            name: name.into(),
            namespace: namespace.into(),
            ..ServiceFlags::default()
        },
        update_services: false,
    })
}
