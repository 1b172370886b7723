//! `cilium service`

use std::net::SocketAddr;

use api::client::Client;
use api::models::{BackendAddress, FrontendAddress, Service, ServiceFlags, ServiceSpec};

use crate::CliError;
use crate::arguments::{ServiceCommand, ServiceUpdate};
use crate::output::{Screen, Table};

pub(crate) fn run(client: &Client, command: &ServiceCommand, screen: &mut Screen<'_>) -> Result<(), CliError> {
    match command {
        ServiceCommand::List => {
            let mut services: Vec<Service> = client.get("/service")?;
            services.sort_by_key(|s| s.spec.id);
            show(&services, screen)
        }
        ServiceCommand::Get { id } => show(&[client.get(&format!("/service/{id}"))?], screen),
        ServiceCommand::Update(options) => {
            let spec = spec(options)?;
            let path = format!("/service/{}", spec.id);
            client.call::<_, serde_json::Value>("PUT", &path, &[], Some(&spec))?;
            screen.line(&format!(
                "Service {} is {} with {} backends",
                spec.id,
                options.frontend,
                spec.backend_addresses.len()
            ))
        }
        ServiceCommand::Delete { id, .. } => {
            let ids = match id {
                Some(id) => vec![*id],
                None => client.get::<Vec<Service>>("/service")?.iter().map(|s| s.spec.id).collect(),
            };
            for id in ids {
                client.call::<(), serde_json::Value>("DELETE", &format!("/service/{id}"), &[], None)?;
                screen.line(&format!("Service {id} is deleted"))?;
            }
            Ok(())
        }
    }
}

fn show(services: &[Service], screen: &mut Screen<'_>) -> Result<(), CliError> {
    screen.show(&services, || {
        let mut table = Table::new(["ID", "Frontend", "Service Type", "Backend"]);
        for service in services {
            let spec = service.status.as_ref().map_or(&service.spec, |s| &s.realized);
            let front = &spec.frontend_address;
            let backends: Vec<String> = spec.backend_addresses.iter().enumerate().map(backend).collect();
            table.row([
                spec.id.to_string(),
                at(&front.ip, front.port, &front.protocol),
                spec.flags.kind.clone(),
                backends.join("\n"),
            ]);
        }
        table
    })
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
    for (flag, given) in [("states", options.states.len()), ("backend-weights", options.backend_weights.len())] {
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
            ..BackendAddress::default()
        });
    }
    let kinds = [
        (options.k8s_node_port, "NodePort"),
        (options.k8s_external, "ExternalIPs"),
        (options.k8s_load_balancer, "LoadBalancer"),
        (options.k8s_host_port, "HostPort"),
    ];
    let kind = kinds.into_iter().find(|(on, _)| *on).map_or("ClusterIP", |(_, kind)| kind);
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
            scope: "external".into(),
        },
        backend_addresses: backends,
        flags: ServiceFlags {
            kind: kind.into(),
            ext_traffic_policy: options.k8s_ext_traffic_policy.clone(),
            int_traffic_policy: options.k8s_int_traffic_policy.clone(),
            name: name.into(),
            namespace: namespace.into(),
            ..ServiceFlags::default()
        },
        update_services: false,
    })
}
