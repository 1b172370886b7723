//! Devices that come, change and go, told as they do.

use std::{collections::VecDeque, io};

use netlink_packet_core::{NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use tokio::io::{Interest, unix::AsyncFd};

use crate::{error::NetlinkError, link::Link};

/// `RTMGRP_LINK`
const GROUP_LINK: u32 = 1;

/// What happened to a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkChange {
    /// It is new, or changed.
    Present,
    /// It is gone from this network namespace.
    Gone,
    /// The kernel had more to tell than the socket could hold: list the devices again.
    Missed,
}

/// One message of the watch. With [`LinkChange::Missed`] there is no link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkEvent {
    /// What happened.
    pub change: LinkChange,
    /// To which device.
    pub link: Option<Link>,
}

/// Watches the devices of the network namespace it was opened in.
#[derive(Debug)]
pub struct LinkWatch {
    socket: AsyncFd<Socket>,
    pending: VecDeque<LinkEvent>,
}

impl LinkWatch {
    /// Starts to listen; needs a tokio runtime with IO.
    pub fn open() -> Result<Self, NetlinkError> {
        let failed = |e| NetlinkError::new("watching devices", "", e);
        let mut socket = Socket::new(NETLINK_ROUTE).map_err(failed)?;
        socket.set_non_blocking(true).map_err(failed)?;
        socket.bind(&SocketAddr::new(0, GROUP_LINK)).map_err(failed)?;
        // SAFETY: the socket owns its descriptor, which is neither replaced nor closed while the `AsyncFd` owns it.
        let socket = unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) };
        let socket = socket.map_err(|e| failed(e.into()))?;
        Ok(Self { socket, pending: VecDeque::new() })
    }

    /// Waits for the next message. Safe to drop while it waits: nothing is lost.
    pub async fn next(&mut self) -> Result<LinkEvent, NetlinkError> {
        loop {
            if let Some(event) = self.pending.pop_front() {
                return Ok(event);
            }
            let failed = |e| NetlinkError::new("watching devices", "", e);
            let mut ready = self.socket.readable().await.map_err(failed)?;
            match ready.try_io(|fd| fd.get_ref().recv_from_full()) {
                Ok(Ok((datagram, _))) => read(&datagram, &mut self.pending),
                Ok(Err(e)) if e.raw_os_error() == Some(libc::ENOBUFS) => {
                    self.pending.push_back(LinkEvent { change: LinkChange::Missed, link: None });
                }
                Ok(Err(e)) if e.kind() == io::ErrorKind::Interrupted => {}
                Ok(Err(e)) => return Err(failed(e)),
                Err(_would_block) => {}
            }
        }
    }
}

fn read(datagram: &[u8], out: &mut VecDeque<LinkEvent>) {
    let mut rest = datagram;
    while let Ok(message) = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest) {
        let length = (message.header.length as usize).next_multiple_of(4).clamp(1, rest.len());
        rest = rest.get(length..).unwrap_or_default();
        let (change, link) = match message.payload {
            NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link)) => (LinkChange::Present, link),
            NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelLink(link)) => (LinkChange::Gone, link),
            _ => continue,
        };
        out.push_back(LinkEvent { change, link: Some(Link::from_message(link)) });
        if rest.is_empty() {
            break;
        }
    }
}
