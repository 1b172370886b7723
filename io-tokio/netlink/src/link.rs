//! Devices.

use std::{io, os::fd::AsRawFd};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage},
};
use types::MacAddr;

use crate::{error::NetlinkError, namespace::Namespace, socket::Netlink};

/// A device, as the kernel describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its index.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its MAC address, if it is of a kind that has one.
    pub mac: Option<MacAddr>,
    /// Its MTU.
    pub mtu: u32,
    /// Whether it is up.
    pub up: bool,
    /// Whether it is the end of a veth pair.
    pub veth: bool,
    /// Of a veth pair: index of the other end, in that end's network namespace.
    pub peer: Option<u32>,
}

impl Link {
    pub(crate) fn from_message(message: LinkMessage) -> Self {
        let header = message.header;
        let mut link = Self {
            index: header.index,
            name: String::new(),
            mac: None,
            mtu: 0,
            up: header.flags.contains(LinkFlags::Up),
            veth: false,
            peer: None,
        };
        for attribute in message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name = name,
                LinkAttribute::Mtu(mtu) => link.mtu = mtu,
                LinkAttribute::Link(peer) => link.peer = Some(peer),
                LinkAttribute::Address(bytes) => link.mac = <[u8; 6]>::try_from(bytes).ok().map(MacAddr),
                LinkAttribute::LinkInfo(infos) => {
                    link.veth |= infos.iter().any(|info| matches!(info, LinkInfo::Kind(InfoKind::Veth)));
                }
                _ => {}
            }
        }
        link
    }
}

/// One end of a veth pair to be made.
#[derive(Clone, Copy, Debug)]
pub struct End<'a> {
    /// Name, at most 15 bytes.
    pub name: &'a str,
    /// MAC address.
    pub mac: MacAddr,
    /// Network namespace it is made in; `None`: that of the socket.
    pub namespace: Option<&'a Namespace>,
}

/// A veth pair to be made.
#[derive(Clone, Copy, Debug)]
pub struct VethPair<'a> {
    /// The end on this side.
    pub near: End<'a>,
    /// The other end.
    pub far: End<'a>,
    /// MTU of both.
    pub mtu: u32,
    /// Whether to bring the near end up at once. The kernel brings up no far end before the pair is whole.
    pub up: bool,
}

impl Netlink {
    /// Makes a veth pair with one request, each end at once in its namespace under its final name.
    pub fn create_veth(&mut self, pair: &VethPair<'_>) -> Result<Link, NetlinkError> {
        let mut message = end_message(&pair.near, pair.mtu);
        if pair.up {
            message.header.flags = LinkFlags::Up;
            message.header.change_mask = LinkFlags::Up;
        }
        message.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(end_message(&pair.far, pair.mtu)))),
        ]));
        let step = || format!("making the veth pair of {} and", pair.near.name);
        self.change(RouteNetlinkMessage::NewLink(message), NLM_F_CREATE | NLM_F_EXCL)
            .map_err(|e| NetlinkError::new(step(), pair.far.name, e))?;
        self.existing(pair.near.name)
    }

    /// The device of that name, if there is one.
    pub fn link(&mut self, name: &str) -> Result<Option<Link>, NetlinkError> {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.to_owned()));
        self.one_link(message).map_err(|e| NetlinkError::new("looking for", name, e))
    }

    /// The device of that index, if there is one.
    pub fn link_by_index(&mut self, index: u32) -> Result<Option<Link>, NetlinkError> {
        self.one_link(by_index(index)).map_err(|e| NetlinkError::new("looking for device", index.to_string(), e))
    }

    fn one_link(&mut self, message: LinkMessage) -> io::Result<Option<Link>> {
        match self.ask(RouteNetlinkMessage::GetLink(message)) {
            Ok(answers) => Ok(answers.into_iter().find_map(new_link)),
            Err(e) if e.raw_os_error() == Some(libc::ENODEV) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// The device of that name, or an error that says it is not there.
    pub fn existing(&mut self, name: &str) -> Result<Link, NetlinkError> {
        self.link(name)?
            .ok_or_else(|| NetlinkError::new("looking for", name, io::Error::from_raw_os_error(libc::ENODEV)))
    }

    /// Every device.
    pub fn links(&mut self) -> Result<Vec<Link>, NetlinkError> {
        let answers = self
            .dump(RouteNetlinkMessage::GetLink(LinkMessage::default()))
            .map_err(|e| NetlinkError::new("listing devices", "", e))?;
        Ok(answers.into_iter().filter_map(new_link).collect())
    }

    /// Deletes a device (a veth pair goes as a whole); says whether it was there.
    pub fn delete_link(&mut self, name: &str) -> Result<bool, NetlinkError> {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.to_owned()));
        match self.change(RouteNetlinkMessage::DelLink(message), 0) {
            Ok(()) => Ok(true),
            Err(e) if e.raw_os_error() == Some(libc::ENODEV) => Ok(false),
            Err(e) => Err(NetlinkError::new("deleting", name, e)),
        }
    }

    /// Brings a device up.
    pub fn set_up(&mut self, index: u32) -> Result<(), NetlinkError> {
        self.set_flags("bringing up device", index, LinkFlags::Up, LinkFlags::Up)
    }

    /// Takes a device down.
    pub fn set_down(&mut self, index: u32) -> Result<(), NetlinkError> {
        self.set_flags("taking down device", index, LinkFlags::empty(), LinkFlags::Up)
    }

    /// Stops a device from asking for MAC addresses: whatever is sent there goes to the device itself.
    pub fn set_no_arp(&mut self, index: u32) -> Result<(), NetlinkError> {
        self.set_flags("turning off ARP on device", index, LinkFlags::Noarp, LinkFlags::Noarp)
    }

    fn set_flags(&mut self, step: &str, index: u32, flags: LinkFlags, mask: LinkFlags) -> Result<(), NetlinkError> {
        let mut message = by_index(index);
        message.header.flags = flags;
        message.header.change_mask = mask;
        self.set(step, index, message)
    }

    /// Sets a device's MTU.
    pub fn set_mtu(&mut self, index: u32, mtu: u32) -> Result<(), NetlinkError> {
        self.set_attribute(&format!("setting the MTU {mtu} of device"), index, LinkAttribute::Mtu(mtu))
    }

    /// Sets a device's MAC address.
    pub fn set_mac(&mut self, index: u32, mac: MacAddr) -> Result<(), NetlinkError> {
        let address = LinkAttribute::Address(mac.0.to_vec());
        self.set_attribute(&format!("setting the MAC address {mac} of device"), index, address)
    }

    /// Gives a device another name; it must be down.
    pub fn rename(&mut self, index: u32, name: &str) -> Result<(), NetlinkError> {
        self.set_attribute(&format!("giving the name {name} to device"), index, LinkAttribute::IfName(name.to_owned()))
    }

    /// Moves a device into another network namespace.
    pub fn move_into(&mut self, index: u32, namespace: &Namespace) -> Result<(), NetlinkError> {
        let step = format!("moving into {} device", namespace.path().display());
        self.set_attribute(&step, index, LinkAttribute::NetNsFd(namespace.as_raw_fd()))
    }

    fn set_attribute(&mut self, step: &str, index: u32, attribute: LinkAttribute) -> Result<(), NetlinkError> {
        let mut message = by_index(index);
        message.attributes.push(attribute);
        self.set(step, index, message)
    }

    fn set(&mut self, step: &str, index: u32, message: LinkMessage) -> Result<(), NetlinkError> {
        self.change(RouteNetlinkMessage::SetLink(message), 0).map_err(|e| NetlinkError::new(step, index.to_string(), e))
    }
}

fn end_message(end: &End<'_>, mtu: u32) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.attributes = vec![
        LinkAttribute::IfName(end.name.to_owned()),
        LinkAttribute::Address(end.mac.0.to_vec()),
        LinkAttribute::Mtu(mtu),
    ];
    if let Some(namespace) = end.namespace {
        message.attributes.push(LinkAttribute::NetNsFd(namespace.as_raw_fd()));
    }
    message
}

fn by_index(index: u32) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message
}

fn new_link(message: RouteNetlinkMessage) -> Option<Link> {
    match message {
        RouteNetlinkMessage::NewLink(message) => Some(Link::from_message(message)),
        _ => None,
    }
}
