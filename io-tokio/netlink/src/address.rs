//! Addresses of devices.

use std::net::IpAddr;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{AddressAttribute, AddressHeaderFlags, AddressMessage},
};

use crate::{error::NetlinkError, socket::Netlink};

impl Netlink {
    /// Gives a device an address with that prefix length. IPv6 addresses are used at once, without looking for duplicates.
    pub fn add_address(&mut self, index: u32, addr: IpAddr, bits: u8) -> Result<(), NetlinkError> {
        let mut message = message(index, addr, bits);
        if addr.is_ipv6() {
            message.header.flags = AddressHeaderFlags::Nodad;
        }
        self.change(RouteNetlinkMessage::NewAddress(message), NLM_F_CREATE | NLM_F_REPLACE).map_err(|e| {
            NetlinkError::new(format!("setting the address {addr}/{bits} on device"), index.to_string(), e)
        })
    }

    /// Takes an address away; says whether it was there.
    pub fn remove_address(&mut self, index: u32, addr: IpAddr, bits: u8) -> Result<bool, NetlinkError> {
        match self.change(RouteNetlinkMessage::DelAddress(message(index, addr, bits)), 0) {
            Ok(()) => Ok(true),
            Err(e) if e.raw_os_error() == Some(libc::EADDRNOTAVAIL) => Ok(false),
            Err(e) => {
                let step = format!("removing the address {addr}/{bits} from device");
                Err(NetlinkError::new(step, index.to_string(), e))
            }
        }
    }

    /// The addresses of a device with their prefix lengths.
    pub fn addresses(&mut self, index: u32) -> Result<Vec<(IpAddr, u8)>, NetlinkError> {
        let answers = self
            .dump(RouteNetlinkMessage::GetAddress(AddressMessage::default()))
            .map_err(|e| NetlinkError::new("listing the addresses of device", index.to_string(), e))?;
        let addresses = answers.into_iter().filter_map(|answer| match answer {
            RouteNetlinkMessage::NewAddress(message) if message.header.index == index => {
                let bits = message.header.prefix_len;
                // On a point-to-point device `Address` is the far end's; `Local` is only missing for IPv6.
                let local = message.attributes.iter().find_map(|a| match a {
                    AddressAttribute::Local(addr) => Some(*addr),
                    _ => None,
                });
                let any = || {
                    message.attributes.iter().find_map(|a| match a {
                        AddressAttribute::Address(addr) => Some(*addr),
                        _ => None,
                    })
                };
                Some((local.or_else(any)?, bits))
            }
            _ => None,
        });
        Ok(addresses.collect())
    }
}

fn message(index: u32, addr: IpAddr, bits: u8) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = if addr.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    message.header.index = index;
    message.header.prefix_len = bits;
    message.attributes = vec![AddressAttribute::Local(addr), AddressAttribute::Address(addr)];
    message
}
