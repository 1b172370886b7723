//! Traffic that stays on the node: to which pods, and which policies cannot have their way.
//!
//! Where no pod of this node is selected, traffic goes as if there were no policy.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::net::IpAddr;

use super::{Complaints, Derived, Redirected, enabled};
use crate::objects::{Objects, Service};
use crate::redirect::{LocalRedirect, RedirectFrom, RedirectPort};
use crate::{Attributes, Backend, Config, L4Addr, ObjectKey, ServiceName, ServiceSpec, ServiceType, Transport};

/// A frontend whose backends are pods of this node.
pub(super) fn spec(frontend: L4Addr, name: ServiceName, backends: Vec<Backend>) -> ServiceSpec {
    let attributes = Attributes { kind: ServiceType::LocalRedirect, ..Attributes::default() };
    ServiceSpec { name, attributes, ..ServiceSpec::new(frontend, backends) }
}

/// What takes the traffic of a port, of one family.
fn backends(policy: &LocalRedirect, to: &RedirectPort, v4: bool, objects: &Objects, config: &Config) -> Vec<Backend> {
    let addresses = objects.selected(policy).flat_map(|pod| pod.addresses.iter());
    let here =
        addresses.filter(|ip| ip.is_ipv4() == v4).map(|ip| L4Addr { ip: *ip, port: to.port, protocol: to.protocol });
    here.map(|addr| Backend { node_name: config.node.name.clone(), ..Backend::new(addr) }).collect()
}

/// What takes the traffic of a service's ports instead of its own backends.
pub(super) fn of(objects: &Objects, service: &Service, config: &Config) -> Redirected {
    let mut found = Redirected::new();
    let name = service.metadata.key();
    let Some(policy) = objects.redirect_of(&name).filter(|_| config.local_redirects) else { return found };
    let (targets, _) = targets(policy, service);
    for (at, to) in targets {
        for v4 in [true, false] {
            let here = backends(policy, to, v4, objects, config);
            if !here.is_empty() {
                found.insert((at, v4), here);
            }
        }
    }
    found
}

/// Where a mistake is and what it is.
type Fault = (String, String);

/// Which of a service's ports leads to which of the pods', and what is wrong with the rest.
fn targets<'p>(policy: &'p LocalRedirect, service: &Service) -> (Vec<(usize, &'p RedirectPort)>, Vec<Fault>) {
    let (mut found, mut faults) = (Vec::new(), Vec::new());
    let RedirectFrom::Service { ports, .. } = &policy.from else { return (found, faults) };
    let path = "spec.redirectFrontend.serviceMatcher";
    let name = service.metadata.key();
    let kind = service.spec.kind.as_deref().unwrap_or("ClusterIP");
    if kind != "ClusterIP" || service.spec.cluster_ip.as_deref() == Some("None") {
        let kind = if kind == "ClusterIP" { "headless" } else { kind };
        let why = format!("service {name} is {kind}; only a service of type ClusterIP with an address is redirected");
        return (found, [(format!("{path}.serviceName"), why)].into());
    }
    let offered: Vec<(usize, RedirectPort)> = offered(service).collect();
    if ports.is_empty() {
        for (at, port) in &offered {
            match policy.target(&port.name, port.protocol, offered.len()) {
                Ok(to) => found.push((*at, to)),
                Err(why) => {
                    faults.push((format!("{path}.toPorts"), format!("port {} of service {name}: {why}", port.port)))
                }
            }
        }
        return (found, faults);
    }
    for (at, asked) in ports.iter().enumerate() {
        let same = |(_, port): &&(usize, RedirectPort)| (port.port, port.protocol) == (asked.port, asked.protocol);
        let field = format!("{path}.toPorts[{at}]");
        match offered.iter().find(same) {
            None => faults.push((field, format!("service {name} has no port {}/{}", asked.port, asked.protocol))),
            Some((_, port)) if ports.len() > 1 && port.name != asked.name => {
                let why = format!("service {name} calls port {} {:?}, not {:?}", port.port, port.name, asked.name);
                faults.push((format!("{field}.name"), why));
            }
            // That it leads somewhere was looked at when the policy was read.
            Some((at, _)) => {
                found.extend(policy.target(&asked.name, asked.protocol, ports.len()).ok().map(|to| (*at, to)));
            }
        }
    }
    (found, faults)
}

/// A service's ports that make sense and can be redirected.
fn offered(service: &Service) -> impl Iterator<Item = (usize, RedirectPort)> {
    service.spec.ports.iter().flatten().enumerate().filter_map(|(at, port)| {
        let protocol = match port.protocol.as_deref().unwrap_or("TCP") {
            "TCP" => Transport::Tcp,
            "UDP" => Transport::Udp,
            _ => return None,
        };
        let number = u16::try_from(port.port).ok().filter(|port| *port != 0)?;
        let name = port.name.as_deref().unwrap_or("").to_ascii_lowercase().into();
        Some((at, RedirectPort { name, port: number, protocol }))
    })
}

/// The frontends of a policy that names an address, and what is wrong with any policy.
pub(super) fn derive(
    key: &ObjectKey,
    policy: &LocalRedirect,
    objects: &Objects,
    config: &Config,
    derived: &mut Derived,
) {
    let Derived { specs, problems } = derived;
    let complain = &mut Complaints { object: key, problems };
    if !config.local_redirects {
        let why = "this node redirects nothing; set --enable-local-redirect-policy";
        return complain.about("spec", why);
    }
    match &policy.from {
        RedirectFrom::Address { ip, ports } => {
            let field = "spec.redirectFrontend.addressMatcher.ip";
            if !enabled(*ip, config, field, complain) {
                return;
            }
            specs.extend(ports.iter().filter_map(|port| at_address(*ip, port, policy, objects, config)));
            unused(policy, ports.iter().map(|port| &*port.name), ports.len(), complain);
        }
        RedirectFrom::Service { name, ports } => {
            let field = "spec.redirectFrontend.serviceMatcher.serviceName";
            if let Some(first) = objects.redirect_of(name).filter(|first| first.metadata != policy.metadata) {
                let first = first.metadata.key().to_string();
                let why =
                    format!("service {name} is redirected by {first} already, which is older; delete one of them");
                return complain.about(field, why);
            }
            let Some(service) = objects.service(name) else {
                return complain
                    .about(field, format!("there is no service {name}; nothing is redirected until there is"));
            };
            let (_, faults) = targets(policy, service);
            if faults.is_empty() {
                let whole: Vec<RedirectPort> = offered(service).map(|(_, port)| port).collect();
                let from = if ports.is_empty() { &whole } else { ports };
                unused(policy, from.iter().map(|port| &*port.name), from.len(), complain);
            }
            faults.into_iter().for_each(|(field, why)| complain.about(field, why));
        }
    }
}

fn at_address(
    ip: IpAddr,
    port: &RedirectPort,
    policy: &LocalRedirect,
    objects: &Objects,
    config: &Config,
) -> Option<ServiceSpec> {
    let RedirectFrom::Address { ports, .. } = &policy.from else { return None };
    let to = policy.target(&port.name, port.protocol, ports.len()).ok()?;
    let here = backends(policy, to, ip.is_ipv4(), objects, config);
    let frontend = L4Addr { ip, port: port.port, protocol: port.protocol };
    (!here.is_empty()).then(|| spec(frontend, policy.metadata.key(), here))
}

/// Says which ports of the pods no traffic leads to.
fn unused<'n>(
    policy: &LocalRedirect,
    names: impl Iterator<Item = &'n str> + Clone,
    count: usize,
    complain: &mut Complaints<'_>,
) {
    if policy.to.len() == 1 && count == 1 {
        return;
    }
    for (at, port) in policy.to.iter().enumerate() {
        if names.clone().all(|name| *name != *port.name) {
            let why = format!("no port that is redirected is called {:?}; leave it out", port.name);
            complain.about(format!("spec.redirectBackend.toPorts[{at}].name"), why);
        }
    }
}
