//! Routes of the main table.

use std::net::IpAddr;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    route::{
        RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteMetric, RouteProtocol, RouteScope, RouteType,
    },
};
use types::Cidr;

use crate::{error::NetlinkError, socket::Netlink};

/// A route of the main table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// Where to.
    pub to: Cidr,
    /// Next hop; `None`: the destination is on the link.
    pub via: Option<IpAddr>,
    /// Index of the device.
    pub device: u32,
    /// MTU along it; `None`: that of the device.
    pub mtu: Option<u32>,
    /// Source address of what the host itself sends.
    pub source: Option<IpAddr>,
}

impl Route {
    /// A destination on the link.
    pub const fn on_link(to: Cidr, device: u32) -> Self {
        Self { to, via: None, device, mtu: None, source: None }
    }

    fn message(&self) -> RouteMessage {
        let mut message = RouteMessage::default();
        message.header.address_family = if self.to.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        message.header.destination_prefix_length = self.to.bits();
        message.header.table = RouteHeader::RT_TABLE_MAIN;
        message.header.protocol = RouteProtocol::Boot;
        message.header.kind = RouteType::Unicast;
        message.header.scope = if self.via.is_none() { RouteScope::Link } else { RouteScope::Universe };
        let attributes = &mut message.attributes;
        if !self.to.is_default() {
            attributes.push(RouteAttribute::Destination(route_address(self.to.addr())));
        }
        attributes.push(RouteAttribute::Oif(self.device));
        attributes.extend(self.via.map(|via| RouteAttribute::Gateway(route_address(via))));
        attributes.extend(self.source.map(|source| RouteAttribute::PrefSource(route_address(source))));
        attributes.extend(self.mtu.map(|mtu| RouteAttribute::Metrics(vec![RouteMetric::Mtu(mtu)])));
        message
    }
}

impl Netlink {
    /// Sets a route, in place of one to the same destination.
    pub fn set_route(&mut self, route: &Route) -> Result<(), NetlinkError> {
        self.change(RouteNetlinkMessage::NewRoute(route.message()), NLM_F_CREATE | NLM_F_REPLACE).map_err(|e| {
            NetlinkError::new(format!("setting the route to {} through device", route.to), route.device.to_string(), e)
        })
    }

    /// Removes a route; says whether it was there.
    pub fn remove_route(&mut self, route: &Route) -> Result<bool, NetlinkError> {
        match self.change(RouteNetlinkMessage::DelRoute(route.message()), 0) {
            Ok(()) => Ok(true),
            Err(e) if e.raw_os_error() == Some(libc::ESRCH) => Ok(false),
            Err(e) => {
                let step = format!("removing the route to {} through device", route.to);
                Err(NetlinkError::new(step, route.device.to_string(), e))
            }
        }
    }

    /// The unicast routes of the main table, of both families.
    pub fn routes(&mut self) -> Result<Vec<Route>, NetlinkError> {
        let mut out = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut message = RouteMessage::default();
            message.header.address_family = family;
            let answers = self
                .dump(RouteNetlinkMessage::GetRoute(message))
                .map_err(|e| NetlinkError::new("listing routes", "", e))?;
            out.extend(answers.into_iter().filter_map(read));
        }
        Ok(out)
    }
}

fn read(answer: RouteNetlinkMessage) -> Option<Route> {
    let RouteNetlinkMessage::NewRoute(message) = answer else { return None };
    let header = &message.header;
    if header.table != RouteHeader::RT_TABLE_MAIN || header.kind != RouteType::Unicast {
        return None;
    }
    let unspecified = match header.address_family {
        AddressFamily::Inet => IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED),
        _ => IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED),
    };
    let (mut to, mut via, mut device, mut mtu, mut source) = (unspecified, None, None, None, None);
    for attribute in message.attributes {
        match attribute {
            RouteAttribute::Destination(addr) => to = ip(&addr)?,
            RouteAttribute::Gateway(addr) => via = ip(&addr),
            RouteAttribute::PrefSource(addr) => source = ip(&addr),
            RouteAttribute::Oif(index) => device = Some(index),
            RouteAttribute::Metrics(metrics) => {
                mtu = metrics.iter().find_map(|m| match m {
                    RouteMetric::Mtu(mtu) => Some(*mtu),
                    _ => None,
                });
            }
            _ => {}
        }
    }
    Some(Route { to: Cidr::new(to, header.destination_prefix_length).ok()?, via, device: device?, mtu, source })
}

fn ip(addr: &RouteAddress) -> Option<IpAddr> {
    match addr {
        RouteAddress::Inet(ip) => Some(IpAddr::V4(*ip)),
        RouteAddress::Inet6(ip) => Some(IpAddr::V6(*ip)),
        _ => None,
    }
}

fn route_address(addr: IpAddr) -> RouteAddress {
    match addr {
        IpAddr::V4(ip) => RouteAddress::Inet(ip),
        IpAddr::V6(ip) => RouteAddress::Inet6(ip),
    }
}
