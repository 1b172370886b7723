//! The container's side of the wire: veth pair, addresses, routes.

use std::fs::File;
use std::io::Read;
use std::net::IpAddr;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use api::models::{DaemonConfigurationStatus, IPAMResponse, NodeAddressingElement};
use netconf::{Code, Failure, Ip, Route};
use netlink::{End, Namespace, Netlink, VethPair};
use types::{Cidr, MacAddr};

/// One family of a container: its address and its way out.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Family {
    pub(crate) address: IpAddr,
    pub(crate) gateway: IpAddr,
}

/// How a container is to be wired.
#[derive(Debug, Clone)]
pub(crate) struct Wiring<'a> {
    pub(crate) host_name: &'a str,
    pub(crate) ifname: &'a str,
    pub(crate) mtu: u32,
    pub(crate) route_mtu: u32,
    pub(crate) reserved_ports: &'a str,
    pub(crate) families: &'a [Family],
}

/// What was made.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wired {
    pub(crate) mac: MacAddr,
    pub(crate) host_mac: MacAddr,
    pub(crate) host_index: u32,
}

/// Reads addresses and next hops out of the agent's answer, IPv6 first.
pub(crate) fn families(ipam: &IPAMResponse) -> Result<Vec<Family>, Failure> {
    let bad = |what: &str, text: &str| {
        Failure::new(Code::Other, format!("the agent answered with an invalid {what} {text:?}"))
    };
    let host = &ipam.host_addressing;
    let mut out = Vec::new();
    for (text, answer, node) in
        [(&ipam.address.ipv6, &ipam.ipv6, &host.ipv6), (&ipam.address.ipv4, &ipam.ipv4, &host.ipv4)]
    {
        if text.is_empty() {
            continue;
        }
        let address = text.parse().map_err(|_| bad("address", text))?;
        let router = |node: &NodeAddressingElement| node.ip.clone();
        let gateway = answer.as_ref().map(|a| a.gateway.clone()).filter(|g| !g.is_empty());
        let gateway = gateway.or_else(|| node.as_ref().map(router)).unwrap_or_default();
        out.push(Family { address, gateway: gateway.parse().map_err(|_| bad("gateway", &gateway))? });
    }
    Ok(out)
}

/// MTUs from the agent's configuration, unless the network configuration has its own.
pub(crate) fn mtus(status: &DaemonConfigurationStatus, wanted: u32) -> (u32, u32) {
    let or = |value: i64, default: u32| u32::try_from(value).ok().filter(|mtu| *mtu != 0).unwrap_or(default);
    let device = if wanted != 0 { wanted } else { or(status.device_mtu, 1500) };
    (device, or(status.route_mtu, device).min(device))
}

/// Makes the pair and everything in the container. On failure nothing of it stays.
pub(crate) fn wire(host: &mut Netlink, namespace: &Namespace, wiring: &Wiring<'_>) -> Result<Wired, Failure> {
    let (mac, host_mac) = (random_mac()?, random_mac()?);
    let outcome = namespace.run(|| {
        let mut inside = Netlink::open().map_err(failed)?;
        inside.delete_link(wiring.ifname).map_err(failed)?;
        let pair = VethPair {
            near: End { name: wiring.host_name, mac: host_mac, namespace: None },
            far: End { name: wiring.ifname, mac, namespace: Some(namespace) },
            mtu: wiring.mtu,
            up: true,
        };
        let host_index = host.create_veth(&pair).map_err(failed)?.index;
        fill(&mut inside, wiring)?;
        Ok(Wired { mac, host_mac, host_index })
    });
    let wired = outcome.map_err(failed).and_then(|made| made).inspect_err(|_| {
        // Whoever fails to make the pair because its name is taken has no right to delete it; the caller holds
        // the container's lock and deleted that name before.
        let _ = host.delete_link(wiring.host_name);
    })?;
    if let Err(error) = netlink::sysctl::no_reverse_path_filter(wiring.host_name) {
        let _ = host.delete_link(wiring.host_name);
        return Err(failed(error));
    }
    Ok(wired)
}

/// Addresses and routes; runs inside the container's namespace.
fn fill(inside: &mut Netlink, wiring: &Wiring<'_>) -> Result<(), Failure> {
    let index = inside.existing(wiring.ifname).map_err(failed)?.index;
    if wiring.families.iter().any(|f| f.address.is_ipv6()) {
        netlink::sysctl::set_device("ipv6", wiring.ifname, "disable_ipv6", "0").map_err(failed)?;
    }
    inside.set_up(index).map_err(failed)?;
    for family in wiring.families {
        let (gateway, default) = (Cidr::host(family.gateway), default_of(family.address));
        inside.add_address(index, family.address, host_bits(family.address)).map_err(failed)?;
        inside.set_route(&netlink::Route::on_link(gateway, index)).map_err(failed)?;
        let mtu = Some(wiring.route_mtu);
        let out = netlink::Route { to: default, via: Some(family.gateway), device: index, mtu, source: None };
        inside.set_route(&out).map_err(failed)?;
    }
    if !wiring.reserved_ports.is_empty() {
        const NAME: &str = "net/ipv4/ip_local_reserved_ports";
        let mut ports = netlink::sysctl::get(NAME).map_err(failed)?;
        if !ports.is_empty() {
            ports.push(',');
        }
        ports.push_str(wiring.reserved_ports);
        netlink::sysctl::set(NAME, &ports).map_err(failed)?;
    }
    Ok(())
}

/// Addresses and routes as the runtime is told.
pub(crate) fn result_lists(families: &[Family], route_mtu: u32) -> (Vec<Ip>, Vec<Route>) {
    let ip = |f: &Family| Ip {
        address: f.address,
        bits: host_bits(f.address),
        gateway: Some(f.gateway),
        interface: Some(1),
    };
    let routes = |f: &Family| {
        let default = default_of(f.address);
        [
            Route { dst: (f.gateway, host_bits(f.gateway)), gw: None, mtu: None },
            Route { dst: (default.addr(), 0), gw: Some(f.gateway), mtu: Some(route_mtu) },
        ]
    };
    (families.iter().map(ip).collect(), families.iter().flat_map(routes).collect())
}

/// Is the interface there, up, with that MAC address and these addresses? `Err` says what is not.
pub(crate) fn is_wired(
    namespace: &Namespace,
    ifname: &str,
    mac: Option<MacAddr>,
    addresses: &[IpAddr],
) -> Result<Result<(), String>, Failure> {
    let look = || -> Result<Result<(), String>, netlink::NetlinkError> {
        let mut inside = Netlink::open()?;
        let Some(link) = inside.link(ifname)? else {
            return Ok(Err(format!("interface {ifname} is not in the container")));
        };
        if mac.is_some() && link.mac != mac {
            return Ok(Err(format!("interface {ifname} has another MAC address than the agent knows")));
        }
        if !link.up {
            return Ok(Err(format!("interface {ifname} is down")));
        }
        let present = inside.addresses(link.index)?;
        let absent = addresses.iter().find(|wanted| !present.iter().any(|(addr, _)| addr == *wanted));
        Ok(absent.map_or(Ok(()), |addr| Err(format!("interface {ifname} does not have the address {addr}"))))
    };
    namespace.run(look).map_err(failed)?.map_err(failed)
}

/// Holds others off one container until it is dropped. The lock lies on the network namespace itself, so it needs no
/// file and ends with the process.
pub(crate) fn lock(netns: &str, patience: Duration) -> Result<File, Failure> {
    let file = File::open(netns).map_err(|e| {
        let msg = format!("cannot open the network namespace {netns}: {e}; did the container stop meanwhile?");
        Failure::new(Code::Io, msg)
    })?;
    let deadline = Instant::now() + patience;
    loop {
        // SAFETY: the descriptor is open; flock takes no pointers.
        if unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } == 0 {
            return Ok(file);
        }
        let error = std::io::Error::last_os_error();
        if error.raw_os_error() != Some(libc::EWOULDBLOCK) {
            return Err(Failure::new(Code::Io, format!("cannot lock the network namespace {netns}: {error}")));
        }
        if Instant::now() >= deadline {
            let msg = format!("another call for the container with network namespace {netns} is still running");
            return Err(Failure::new(Code::TryAgainLater, msg));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A MAC address nobody else has: random, locally administered, unicast.
fn random_mac() -> Result<MacAddr, Failure> {
    let mut bytes = [0; 6];
    File::open("/dev/urandom")
        .and_then(|mut source| source.read_exact(&mut bytes))
        .map_err(|e| Failure::new(Code::Io, format!("cannot read /dev/urandom: {e}")))?;
    bytes[0] = (bytes[0] | 0x02) & !0x01;
    Ok(MacAddr(bytes))
}

fn default_of(addr: IpAddr) -> Cidr {
    Cidr::containing(addr, 0).expect("0 is a prefix length of every family")
}

const fn host_bits(addr: IpAddr) -> u8 {
    if addr.is_ipv4() { 32 } else { 128 }
}

pub(crate) fn failed(error: impl std::fmt::Display) -> Failure {
    Failure::new(Code::Io, "unable to set up the container's interface").with_details(error)
}
