//! The routing and neighbour tables, and the host's sockets, as packet programs ask them.

use std::net::IpAddr;

use datapath::{Hop, hop};

/// Routes; the longest prefix wins.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ways {
    routes: Vec<(types::Cidr, Way)>,
    /// Bound, and not listening: address, port, protocol.
    sockets: std::collections::BTreeSet<(IpAddr, u16, u8)>,
}

/// Where a route leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Way {
    /// The interface.
    pub ifindex: u32,
    /// MAC addresses of the neighbour and of the interface, if the neighbour is known.
    pub macs: Option<([u8; 6], [u8; 6])>,
    /// Longest packet from the IP header on.
    pub mtu: u32,
}

impl Ways {
    /// Sends packets to `prefix` this way.
    pub fn add(&mut self, prefix: types::Cidr, way: Way) {
        self.routes.retain(|(known, _)| *known != prefix);
        self.routes.push((prefix, way));
        self.routes.sort_by_key(|(prefix, _)| core::cmp::Reverse(prefix.bits()));
    }

    /// The host opens a socket at a port of its own.
    pub fn bind(&mut self, address: IpAddr, port: u16, protocol: u8) {
        self.sockets.insert((address, port, protocol));
    }

    /// Whether a packet to there would reach a socket that does not listen.
    pub fn has_socket(&self, address: IpAddr, port: u16, protocol: u8) -> bool {
        self.sockets.contains(&(address, port, protocol))
    }

    /// Forgets all ways out of an interface.
    pub fn forget(&mut self, ifindex: u32) {
        self.routes.retain(|(_, way)| way.ifindex != ifindex);
    }

    /// The way to an address.
    pub fn to(&self, destination: IpAddr) -> Option<&Way> {
        self.routes.iter().find(|(prefix, _)| prefix.contains(destination)).map(|(_, way)| way)
    }

    /// What the kernel's look-up says of a packet of `len` bytes (0: any) to an address.
    pub fn next_hop(&self, destination: IpAddr, len: u32) -> Hop {
        let Some(way) = self.to(destination) else { return Hop::none(hop::NOT_FORWARDED) };
        if len > way.mtu {
            return Hop { ifindex: way.ifindex, ..Hop::none(hop::FRAGMENTATION_NEEDED) };
        }
        let Some(([a, b, c, d, e, f], [g, h, i, j, k, l])) = way.macs else {
            return Hop { ifindex: way.ifindex, ..Hop::none(hop::NO_NEIGHBOUR) };
        };
        let word = u32::from_ne_bytes;
        let macs = [word([a, b, c, d]), word([e, f, g, h]), word([i, j, k, l])];
        Hop { code: hop::OK, ifindex: way.ifindex, macs, mtu: if len == 0 { 0 } else { way.mtu } }
    }
}
