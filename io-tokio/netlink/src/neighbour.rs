//! Neighbours that need not be asked for.

use std::net::IpAddr;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState},
};
use types::MacAddr;

use crate::{error::NetlinkError, socket::Netlink};

impl Netlink {
    /// Sets a permanent neighbour.
    pub fn set_neighbour(&mut self, device: u32, addr: IpAddr, mac: MacAddr) -> Result<(), NetlinkError> {
        let mut message = message(device, addr);
        message.header.state = NeighbourState::Permanent;
        message.attributes.push(NeighbourAttribute::LinkLocalAddress(mac.0.to_vec()));
        self.change(RouteNetlinkMessage::NewNeighbour(message), NLM_F_CREATE | NLM_F_REPLACE)
            .map_err(|e| NetlinkError::new(format!("setting the neighbour {addr} on device"), device.to_string(), e))
    }

    /// Removes a neighbour; says whether it was there.
    pub fn remove_neighbour(&mut self, device: u32, addr: IpAddr) -> Result<bool, NetlinkError> {
        match self.change(RouteNetlinkMessage::DelNeighbour(message(device, addr)), 0) {
            Ok(()) => Ok(true),
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Ok(false),
            Err(e) => {
                Err(NetlinkError::new(format!("removing the neighbour {addr} from device"), device.to_string(), e))
            }
        }
    }
}

fn message(device: u32, addr: IpAddr) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.ifindex = device;
    let (family, destination) = match addr {
        IpAddr::V4(ip) => (AddressFamily::Inet, NeighbourAddress::Inet(ip)),
        IpAddr::V6(ip) => (AddressFamily::Inet6, NeighbourAddress::Inet6(ip)),
    };
    message.header.family = family;
    message.attributes.push(NeighbourAttribute::Destination(destination));
    message
}
