//! The network around the node: the node's own namespace, a world outside, another node, and the wires between them.
//!
//! ```text
//! world eth0 ──── eth0 node eth1 ──── eth0 far eth1 ──── eth1 world
//! ```

use std::net::{IpAddr, UdpSocket};
use std::os::fd::AsRawFd;

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
/// The node towards the other one, and the other one.
const NEAR: [&str; 2] = ["192.168.251.1", "fd00:251::1"];
pub(super) const FAR: [&str; 2] = ["192.168.251.2", "fd00:251::2"];
/// The other node and the world: the way back of what need not pass the node.
const FAR_OUT: [&str; 2] = ["192.168.252.1", "fd00:252::1"];
const WORLD_TO_FAR: [&str; 2] = ["192.168.252.2", "fd00:252::2"];
/// Prefixes of the other node's pods.
pub(super) const FAR_PODS: [&str; 2] = ["10.245.0.0/24", "fd00:245::/120"];
/// Addresses of load balancers, which the world leads to the node.
pub(super) const BALANCED: [&str; 2] = ["203.0.113.10", "fd00:203::10"];
/// Pods' prefixes.
pub(super) const PODS: [&str; 2] = ["10.244.0.0/24", "fd00:244::/120"];

/// Makes the other node, wired to both and routed: pods of its own, and the world directly.
pub(super) fn build_far(place: &Place, node: &Namespace, world: &Namespace) -> Result<Namespace> {
    let far = namespace::make(&place.namespace("far"))?;
    for (at, name, far_name, last) in [(node, "eth1", "eth0", 3), (world, "eth1", "eth1", 5)] {
        at.run(|| -> Result<()> {
            Netlink::open()?.create_veth(&VethPair {
                near: End { name, mac: MacAddr([2, 0, 0, 0, 0, last]), namespace: None },
                far: End { name: far_name, mac: MacAddr([2, 0, 0, 0, 0, last + 1]), namespace: Some(&far) },
                mtu: 1500,
                up: true,
            })?;
            Ok(())
        })??;
    }
    let set_up = |at: &Namespace, device: &str, list: &[&str]| {
        at.run(|| -> Result<u32> {
            // What comes back past the node comes from where the way does not lead.
            sysctl::set("net/ipv4/conf/all/rp_filter", "0")?;
            let mut link = Netlink::open()?;
            let index = link.existing(device)?.index;
            link.set_up(index)?;
            addresses(&mut link, device, list)?;
            like_a_wire(device)?;
            Ok(index)
        })?
    };
    let near = set_up(node, "eth1", &NEAR)?;
    set_up(world, "eth1", &WORLD_TO_FAR)?;
    let (to_node, to_world) = (set_up(&far, "eth0", &FAR)?, set_up(&far, "eth1", &FAR_OUT)?);
    let world_device = world.run(|| Netlink::open().and_then(|mut link| link.existing("eth0")))??.index;
    let whole = |ip: &str| format!("{ip}/{}", if ip.contains(':') { 128 } else { 32 });
    far.run(|| -> Result<()> {
        sysctl::set("net/ipv4/ip_forward", "1")?;
        sysctl::set("net/ipv6/conf/all/forwarding", "1")?;
        let mut link = Netlink::open()?;
        for family in 0..2 {
            link.set_route(&route(&whole(NODE[family]), NEAR[family], to_node)?)?;
            for ip in [WORLD, WORLD6][family] {
                link.set_route(&route(&whole(ip), WORLD_TO_FAR[family], to_world)?)?;
            }
        }
        Ok(())
    })??;
    node.run(|| -> Result<()> {
        let mut link = Netlink::open()?;
        FAR_PODS.iter().zip(FAR).try_for_each(|(pods, far)| Ok(link.set_route(&route(pods, far, near)?)?))
    })??;
    world.run(|| -> Result<()> {
        let mut link = Netlink::open()?;
        let mut lead = |ip: &str, node| -> Result<()> { Ok(link.set_route(&route(&whole(ip), node, world_device)?)?) };
        BALANCED.into_iter().zip(NODE).try_for_each(|(ip, node)| lead(ip, node))
    })??;
    Ok(far)
}

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
        addresses(&mut link, "eth0", &NODE)?;
        like_a_wire("eth0")
    })??;
    world.run(|| -> Result<()> {
        let mut link = Netlink::open()?;
        let index = link.existing("eth0")?.index;
        link.set_up(index)?;
        addresses(&mut link, "eth0", &[WORLD.as_slice(), WORLD6.as_slice()].concat())?;
        like_a_wire("eth0")?;
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

fn addresses(link: &mut Netlink, device: &str, list: &[&str]) -> Result<()> {
    let index = link.existing(device)?.index;
    for text in list {
        let addr: IpAddr = text.parse().context("the lab's own addresses")?;
        link.add_address(index, addr, if addr.is_ipv4() { 24 } else { 64 })?;
    }
    Ok(())
}

/// Makes a device compute every checksum before a packet leaves it, and take packets that XDP of its peer sends: both as with a
/// real wire, where the next machine knows nothing of this one's promises.
fn like_a_wire(device: &str) -> Result<()> {
    const ETHTOOL_STXCSUM: u32 = 0x17;
    const ETHTOOL_SGRO: u32 = 0x2c;
    const SIOCETHTOOL: libc::c_ulong = 0x8946;
    let socket = UdpSocket::bind("[::]:0")?;
    for (command, value) in [(ETHTOOL_STXCSUM, 0_u32), (ETHTOOL_SGRO, 1)] {
        let mut data = [command, value];
        // SAFETY: ifreq is plain memory.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        for (to, from) in request.ifr_name.iter_mut().zip(device.bytes()) {
            *to = from.cast_signed();
        }
        request.ifr_ifru.ifru_data = data.as_mut_ptr().cast();
        // SAFETY: the request points to a command and its value, which outlive the call.
        if unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL, &raw mut request) } != 0 {
            let why = std::io::Error::last_os_error();
            return Err(why).with_context(|| format!("ethtool {command:#x} at {device}"));
        }
    }
    Ok(())
}

fn route(to: &str, via: &str, device: u32) -> Result<Route> {
    let to: Cidr = to.parse().context("the lab's own prefixes")?;
    Ok(Route { to, via: Some(via.parse()?), device, mtu: None, source: None })
}
