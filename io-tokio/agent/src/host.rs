//! What this host is: its name, its addresses, the device with the default route.

use std::collections::BTreeSet;
use std::net::IpAddr;

use netlink::{Netlink, NetlinkError};

/// Devices whose addresses are not the node's own.
const NOT_OURS: [&str; 4] = ["lo", "cilium_", "lxc", "docker"];

/// Facts about the host, read once.
#[derive(Clone, Debug, Default)]
pub struct Host {
    /// Its name.
    pub name: String,
    /// The address of the device with the default IPv4 route, or any other.
    pub ipv4: Option<IpAddr>,
    /// Likewise.
    pub ipv6: Option<IpAddr>,
    /// MTU of the device with the default route.
    pub mtu: Option<u32>,
    /// All addresses by which others may know it.
    pub addresses: Vec<IpAddr>,
    /// Whether the kernel has IPv6.
    pub has_ipv6: bool,
}

impl Host {
    /// Reads them, in the network namespace of the calling thread.
    ///
    /// # Errors
    /// When the kernel does not answer.
    pub fn read(netlink: &mut Netlink) -> Result<Self, NetlinkError> {
        let name = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok()).unwrap_or_default();
        let mut host = Self { name, has_ipv6: netlink::sysctl::has_ipv6(), ..Self::default() };
        let routes = netlink.routes()?;
        let default: BTreeSet<u32> = routes.iter().filter(|route| route.to.is_default()).map(|r| r.device).collect();
        let mut links = netlink.links()?;
        links.retain(|link| link.up && !NOT_OURS.iter().any(|prefix| link.name.starts_with(prefix)));
        // Devices with the default route first.
        links.sort_by_key(|link| (!default.contains(&link.index), link.index));
        host.mtu = links.iter().find(|link| default.contains(&link.index)).map(|link| link.mtu);
        for link in links {
            for (ip, _) in netlink.addresses(link.index)? {
                let usable = match ip {
                    IpAddr::V4(ip) => !ip.is_loopback() && !ip.is_link_local(),
                    IpAddr::V6(ip) => !ip.is_loopback() && !ip.is_unicast_link_local(),
                };
                if usable {
                    let first = if ip.is_ipv4() { &mut host.ipv4 } else { &mut host.ipv6 };
                    first.get_or_insert(ip);
                    host.addresses.push(ip);
                }
            }
        }
        Ok(host)
    }
}
