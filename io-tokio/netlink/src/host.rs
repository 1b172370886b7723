//! `cilium_host` and `cilium_net`: the pair of devices through which the host reaches its pods.
//!
//! The router's addresses live on `cilium_host`, and the pod ranges are routed to it, so that whatever the host sends
//! to a pod passes the program on its egress. Neither end asks for MAC addresses: the programs know them.

use std::net::IpAddr;

use types::{Cidr, MacAddr};

use crate::{
    error::{NetlinkError, SysctlError},
    link::{End, Link, VethPair},
    route::Route,
    socket::Netlink,
    sysctl,
};

/// The end with the router's addresses.
pub const HOST_DEVICE: &str = "cilium_host";
/// Its peer.
pub const NET_DEVICE: &str = "cilium_net";

/// What the host's devices should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostConfig {
    /// The router's addresses, at most one of each family.
    pub router: Vec<IpAddr>,
    /// Pod ranges of this node.
    pub pods: Vec<Cidr>,
    /// MTU of both devices.
    pub mtu: u32,
    /// MAC addresses they get if they are made now: of `cilium_host` and of `cilium_net`.
    pub macs: [MacAddr; 2],
}

/// The two devices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostDevices {
    /// `cilium_host`
    pub host: Link,
    /// `cilium_net`
    pub net: Link,
}

/// Why the host's devices could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// A netlink request.
    #[error("setting up {HOST_DEVICE}: {0}")]
    Netlink(#[from] NetlinkError),
    /// A kernel setting.
    #[error("setting up {HOST_DEVICE}: {0}")]
    Sysctl(#[from] SysctlError),
    /// Something else has that name.
    #[error("{name} is no end of a veth pair of {HOST_DEVICE} and {NET_DEVICE}; delete it: ip link delete {name}")]
    Taken {
        /// The device.
        name: &'static str,
    },
}

/// Makes the devices what they should be, leaving alone what already is. Addresses of an earlier configuration go.
pub fn ensure(netlink: &mut Netlink, config: &HostConfig) -> Result<HostDevices, HostError> {
    let ipv4 = config.router.iter().any(IpAddr::is_ipv4);
    let ipv6 = config.router.iter().any(IpAddr::is_ipv6);
    let devices = pair(netlink, config)?;
    if ipv4 {
        sysctl::set("net/ipv4/ip_forward", "1")?;
        sysctl::no_reverse_path_filter("all")?;
    }
    if ipv6 {
        sysctl::set("net/ipv6/conf/all/disable_ipv6", "0")?;
        sysctl::set("net/ipv6/conf/all/forwarding", "1")?;
    }
    for link in [&devices.host, &devices.net] {
        settings(&link.name, ipv4, ipv6)?;
        if link.mtu != config.mtu {
            netlink.set_mtu(link.index, config.mtu)?;
        }
        netlink.set_no_arp(link.index)?;
        netlink.set_up(link.index)?;
    }
    addresses(netlink, devices.host.index, &config.router)?;
    for pods in &config.pods {
        let Some(router) = config.router.iter().find(|ip| ip.is_ipv4() == pods.is_ipv4()) else { continue };
        netlink.set_route(&Route::on_link(Cidr::host(*router), devices.host.index))?;
        // IPv6 takes no gateway that is the host itself.
        let via = router.is_ipv4().then_some(*router);
        let source = Some(*router);
        netlink.set_route(&Route { to: *pods, via, device: devices.host.index, mtu: None, source })?;
    }
    // Read again: what was changed above is part of the answer.
    Ok(HostDevices { host: netlink.existing(HOST_DEVICE)?, net: netlink.existing(NET_DEVICE)? })
}

fn pair(netlink: &mut Netlink, config: &HostConfig) -> Result<HostDevices, HostError> {
    match (netlink.link(HOST_DEVICE)?, netlink.link(NET_DEVICE)?) {
        (Some(host), Some(net)) if host.veth && host.peer == Some(net.index) => Ok(HostDevices { host, net }),
        (None, None) => {
            let [host_mac, net_mac] = config.macs;
            let end = |name, mac| End { name, mac, namespace: None };
            let near = end(HOST_DEVICE, host_mac);
            let far = end(NET_DEVICE, net_mac);
            let host = netlink.create_veth(&VethPair { near, far, mtu: config.mtu, up: false })?;
            Ok(HostDevices { host, net: netlink.existing(NET_DEVICE)? })
        }
        (Some(_), _) => Err(HostError::Taken { name: HOST_DEVICE }),
        (None, Some(_)) => Err(HostError::Taken { name: NET_DEVICE }),
    }
}

fn settings(device: &str, ipv4: bool, ipv6: bool) -> Result<(), SysctlError> {
    if ipv4 {
        sysctl::no_reverse_path_filter(device)?;
        sysctl::set_device("ipv4", device, "forwarding", "1")?;
        sysctl::set_device("ipv4", device, "accept_local", "1")?;
        sysctl::set_device("ipv4", device, "send_redirects", "0")?;
    }
    if ipv6 {
        sysctl::set_device("ipv6", device, "disable_ipv6", "0")?;
        sysctl::set_device("ipv6", device, "forwarding", "1")?;
        sysctl::set_device("ipv6", device, "accept_ra", "0")?;
    }
    Ok(())
}

/// Sets the router's addresses and removes all others but the link-local ones.
fn addresses(netlink: &mut Netlink, device: u32, router: &[IpAddr]) -> Result<(), NetlinkError> {
    let bits = |ip: &IpAddr| if ip.is_ipv4() { 32 } else { 128 };
    let now = netlink.addresses(device)?;
    for ip in router.iter().filter(|ip| !now.contains(&(**ip, bits(ip)))) {
        netlink.add_address(device, *ip, bits(ip))?;
    }
    let link_local = |ip: &IpAddr| matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local());
    for (ip, prefix) in now {
        let wanted = router.contains(&ip) && prefix == bits(&ip);
        if !wanted && !link_local(&ip) {
            netlink.remove_address(device, ip, prefix)?;
        }
    }
    Ok(())
}
