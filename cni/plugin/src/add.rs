//! ADD: addresses from the agent, a veth pair, an endpoint at the agent. Undone as a whole when a step fails.

use std::net::IpAddr;

use api::models::{DaemonConfigurationStatus, Endpoint, EndpointChangeRequest, EndpointState, IPAMResponse};
use netconf::{CniResult, Code, Failure, Interface, host_interface_name};
use netlink::{Namespace, Netlink};
use types::MacAddr;

use crate::Call;
use crate::agent::{Agent, Deleted, code_of};
use crate::pod::{self, Family, Wired, Wiring};

pub(crate) fn add(call: &Call<'_>) -> Result<CniResult, Failure> {
    refuse_what_is_not_there(call)?;
    let namespace = Namespace::open(&*call.invocation.netns).map_err(|e| Failure::new(Code::Io, e))?;
    let agent = call.agent();
    let config = agent
        .wait(call.settings.add_patience)
        .map_err(|e| Failure::new(Code::TryAgainLater, "unable to connect to Cilium agent").with_details(e))?
        .status;
    if !matches!(config.datapath_mode.as_str(), "" | "veth") {
        let msg = format!("datapath mode {:?} of the agent is not supported; use veth", config.datapath_mode);
        return Err(Failure::new(Code::InvalidConfig, msg));
    }
    let _lock = pod::lock(&call.invocation.netns, call.settings.add_patience)?;
    let mut host = Netlink::open().map_err(pod::failed)?;
    if let Some(result) = earlier_answer(call, &agent, &namespace, &mut host, &config)? {
        return Ok(result);
    }
    fresh(call, &agent, &namespace, &mut host, &config)
}

fn refuse_what_is_not_there(call: &Call<'_>) -> Result<(), Failure> {
    if !call.conf.chaining_mode.is_empty() {
        let msg =
            format!("chaining-mode {:?} is not supported; remove it from the configuration", call.conf.chaining_mode);
        return Err(Failure::new(Code::InvalidConfig, msg));
    }
    if call.conf.prev_result.is_some() {
        let msg = "CNI PrevResult supplied, but not in chaining mode; put cilium-cni first in the list of plugins";
        return Err(Failure::new(Code::InvalidConfig, msg));
    }
    Ok(())
}

/// A call that is repeated gets the answer it got, if all of it still stands; what is left of a call that broke off is
/// cleared away.
fn earlier_answer(
    call: &Call<'_>,
    agent: &Agent<'_>,
    namespace: &Namespace,
    host: &mut Netlink,
    config: &DaemonConfigurationStatus,
) -> Result<Option<CniResult>, Failure> {
    let attachment = &call.invocation.attachment;
    let host_name = host_interface_name(attachment);
    let asked = |e| Failure::new(code_of(&e), "unable to ask for an earlier endpoint").with_details(e);
    let earlier = agent.endpoint(attachment).map_err(asked)?;
    if let Some(endpoint) = &earlier {
        if let Some(result) = answer_of(call, endpoint, namespace, host, config)? {
            return Ok(Some(result));
        }
        call.log.warn("an earlier endpoint of this container is incomplete and is replaced");
        agent.delete(attachment).map_err(asked)?;
    }
    host.delete_link(&host_name).map_err(pod::failed)?;
    Ok(None)
}

/// The answer that belongs to an endpoint; `None` when the container does not look like it.
fn answer_of(
    call: &Call<'_>,
    endpoint: &Endpoint,
    namespace: &Namespace,
    host: &mut Netlink,
    config: &DaemonConfigurationStatus,
) -> Result<Option<CniResult>, Failure> {
    let networking = &endpoint.status.networking;
    let (Ok(mac), Ok(host_mac)) = (networking.mac.parse::<MacAddr>(), networking.host_mac.parse::<MacAddr>()) else {
        return Ok(None);
    };
    let Some(link) = host.link(&host_interface_name(&call.invocation.attachment)).map_err(pod::failed)? else {
        return Ok(None);
    };
    let Some(pair) = networking.addressing.first() else { return Ok(None) };
    let router = config.addressing.clone();
    let stand_in = IPAMResponse { address: pair.clone(), host_addressing: router, ..IPAMResponse::default() };
    let Ok(families) = pod::families(&stand_in) else { return Ok(None) };
    let addresses: Vec<IpAddr> = families.iter().map(|f| f.address).collect();
    if pod::is_wired(namespace, &call.invocation.attachment.ifname, Some(mac), &addresses)?.is_err() {
        return Ok(None);
    }
    let wired = Wired { mac, host_mac, host_index: link.index };
    Ok(Some(result_of(call, &families, &wired, pod::mtus(config, call.conf.mtu).1)))
}

fn fresh(
    call: &Call<'_>,
    agent: &Agent<'_>,
    namespace: &Namespace,
    host: &mut Netlink,
    config: &DaemonConfigurationStatus,
) -> Result<CniResult, Failure> {
    let args = &call.invocation.args;
    let owner = match args.pod_name.as_str() {
        "" => call.invocation.attachment.container_id.clone(),
        name => format!("{}/{name}", args.pod_namespace),
    };
    let ipam = agent.allocate(&owner)?;
    let host_name = host_interface_name(&call.invocation.attachment);
    let mut made = Made { agent, call, ipam: &ipam, addresses: true, link: false };
    let outcome = made.proceed(namespace, host, &host_name, config);
    if outcome.is_err() {
        made.undo(host, &host_name);
    }
    outcome
}

/// What stands so far, for taking it back.
struct Made<'a> {
    agent: &'a Agent<'a>,
    call: &'a Call<'a>,
    ipam: &'a IPAMResponse,
    addresses: bool,
    link: bool,
}

impl Made<'_> {
    fn proceed(
        &mut self,
        namespace: &Namespace,
        host: &mut Netlink,
        host_name: &str,
        config: &DaemonConfigurationStatus,
    ) -> Result<CniResult, Failure> {
        let families = pod::families(self.ipam)?;
        if families.is_empty() {
            return Err(Failure::new(Code::Other, "the agent gave neither an IPv4 nor an IPv6 address"));
        }
        let (mtu, route_mtu) = pod::mtus(config, self.call.conf.mtu);
        let wiring = Wiring {
            host_name,
            ifname: &self.call.invocation.attachment.ifname,
            mtu,
            route_mtu,
            reserved_ports: &config.ip_local_reserved_ports,
            families: &families,
        };
        let mut wired = pod::wire(host, namespace, &wiring)?;
        self.link = true;
        let cookie = namespace.cookie().map_err(pod::failed)?;
        let endpoint = self.create(&wired, host_name, cookie)?;
        let mac = endpoint.status.networking.mac.parse::<MacAddr>().unwrap_or(wired.mac);
        if mac != wired.mac {
            set_mac(namespace, &self.call.invocation.attachment.ifname, mac)?;
            wired.mac = mac;
        }
        Ok(result_of(self.call, &families, &wired, route_mtu))
    }

    fn create(&mut self, wired: &Wired, host_name: &str, cookie: u64) -> Result<Endpoint, Failure> {
        let (attachment, args) = (&self.call.invocation.attachment, &self.call.invocation.args);
        let mut addressing = self.ipam.address.clone();
        for (uuid, answer) in [
            (&mut addressing.ipv4_expiration_uuid, &self.ipam.ipv4),
            (&mut addressing.ipv6_expiration_uuid, &self.ipam.ipv6),
        ] {
            if let Some(answer) = answer.as_ref().filter(|a| !a.expiration_uuid.is_empty()) {
                uuid.clone_from(&answer.expiration_uuid);
            }
        }
        let request = EndpointChangeRequest {
            container_id: attachment.container_id.clone(),
            container_interface_name: attachment.ifname.clone(),
            interface_name: host_name.to_owned(),
            interface_index: i64::from(wired.host_index),
            mac: wired.mac.to_string(),
            host_mac: wired.host_mac.to_string(),
            addressing,
            k8s_pod_name: args.pod_name.clone(),
            k8s_namespace: args.pod_namespace.clone(),
            k8s_uid: args.pod_uid.clone(),
            labels: self.call.conf.labels.clone(),
            state: EndpointState::WaitingForIdentity,
            netns_cookie: cookie.to_string(),
            sync_build_endpoint: true,
            ..EndpointChangeRequest::default()
        };
        self.agent.create(attachment, &request).map_err(|error| {
            // An agent that did not clearly refuse may still have made the endpoint.
            if error.status().is_none_or(|status| status >= 500) {
                match self.agent.delete(attachment) {
                    // Its addresses went with it, and may already be another pod's.
                    Ok(Deleted::Gone) => self.addresses = false,
                    Ok(Deleted::WasNotThere) => {}
                    Err(e) => self.call.log.warn(&format!("deleting what may have been made: {e}")),
                }
            }
            Failure::new(code_of(&error), "unable to create endpoint").with_details(error)
        })
    }

    fn undo(&self, host: &mut Netlink, host_name: &str) {
        if self.link
            && let Err(error) = host.delete_link(host_name)
        {
            self.call.log.warn(&format!("undoing: {error}"));
        }
        if self.addresses {
            let address = &self.ipam.address;
            self.agent.release(&address.ipv4, &address.ipv4_pool_name);
            self.agent.release(&address.ipv6, &address.ipv6_pool_name);
        }
    }
}

fn set_mac(namespace: &Namespace, ifname: &str, mac: MacAddr) -> Result<(), Failure> {
    let set = || {
        let mut inside = Netlink::open()?;
        let index = inside.existing(ifname)?.index;
        inside.set_mac(index, mac)
    };
    namespace.run(set).map_err(pod::failed)?.map_err(pod::failed)
}

fn result_of(call: &Call<'_>, families: &[Family], wired: &Wired, route_mtu: u32) -> CniResult {
    let (ips, routes) = pod::result_lists(families, route_mtu);
    let host = host_interface_name(&call.invocation.attachment);
    let interfaces = vec![
        Interface { name: host, mac: wired.host_mac.to_string(), sandbox: String::new() },
        Interface {
            name: call.invocation.attachment.ifname.clone(),
            mac: wired.mac.to_string(),
            sandbox: call.invocation.netns.clone(),
        },
    ];
    CniResult { interfaces, ips, routes }
}
