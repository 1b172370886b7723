//! The network around the node: the node's own namespace, a world outside, and the wire between them.

use std::net::IpAddr;

use anyhow::{Context, Result};
use netlink::{End, Namespace, Netlink, Route, VethPair, sysctl};
use types::{Cidr, MacAddr};

use super::namespace;
use super::place::Place;

/// The node's addresses.
pub(super) const NODE: [&str; 2] = ["192.168.250.1", "fd00:250::1"];
/// Addresses of the world, near ones first; the last of each family lies in what rules with `except` exclude.
pub(super) const WORLD: [&str; 3] = ["192.168.250.2", "192.168.250.3", "192.168.250.200"];
/// The same in IPv6.
pub(super) const WORLD6: [&str; 3] = ["fd00:250::2", "fd00:250::3", "fd00:250::8200"];
/// Pods' prefixes.
pub(super) const PODS: [&str; 2] = ["10.244.0.0/24", "fd00:244::/120"];

/// Makes node and world, wired together and routed.
pub(super) fn build(place: &Place) -> Result<(Namespace, Namespace)> {
    let node = namespace::make(&place.namespace("node"))?;
    let world = namespace::make(&place.namespace("world"))?;
    node.run(|| -> Result<()> {
        let mut link = Netlink::open()?;
        link.create_veth(&VethPair {
            near: End { name: "eth0", mac: MacAddr([2, 0, 0, 0, 0, 1]), namespace: None },
            far: End { name: "eth0", mac: MacAddr([2, 0, 0, 0, 0, 2]), namespace: Some(&world) },
            mtu: 1500,
            up: true,
        })?;
        sysctl::set("net/ipv4/ip_forward", "1")?;
        sysctl::set("net/ipv6/conf/all/forwarding", "1")?;
        addresses(&mut link, &NODE)
    })??;
    world.run(|| -> Result<()> {
        let mut link = Netlink::open()?;
        let index = link.existing("eth0")?.index;
        link.set_up(index)?;
        addresses(&mut link, &[WORLD.as_slice(), WORLD6.as_slice()].concat())?;
        for (pods, node) in PODS.iter().zip(NODE) {
            link.set_route(&route(pods, node, index)?)?;
        }
        Ok(())
    })??;
    // Only now has the far end carrier, without which IPv6 routes are refused.
    node.run(|| -> Result<()> {
        let mut link = Netlink::open()?;
        let index = link.existing("eth0")?.index;
        link.set_route(&route("0.0.0.0/0", WORLD[0], index)?)?;
        link.set_route(&route("::/0", WORLD6[0], index)?)?;
        Ok(())
    })??;
    Ok((node, world))
}

fn addresses(link: &mut Netlink, list: &[&str]) -> Result<()> {
    let index = link.existing("eth0")?.index;
    for text in list {
        let addr: IpAddr = text.parse().context("the lab's own addresses")?;
        link.add_address(index, addr, if addr.is_ipv4() { 24 } else { 64 })?;
    }
    Ok(())
}

fn route(to: &str, via: &str, device: u32) -> Result<Route> {
    let to: Cidr = to.parse().context("the lab's own prefixes")?;
    Ok(Route { to, via: Some(via.parse()?), device, mtu: None, source: None })
}
