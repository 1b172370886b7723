//! What went, read from the writes that took it away.
//!
//! A deleted backend is known by its number only, so what stands behind a number is remembered from the write that made it.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use abi::write::MapWrite;

/// Something that went, or came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Departed {
    /// A backend: no service uses it any more. Protocol 0: any.
    Backend(SocketAddr, u8),
    /// A backend that is there (again).
    Returned(SocketAddr, u8),
    /// A service's frontend.
    Service,
    /// An address of this node or of one of its pods.
    Address(IpAddr),
}

/// Watches writes.
#[derive(Debug, Default)]
pub struct Departures {
    backends: [BTreeMap<u32, (SocketAddr, u8)>; 2],
}

impl Departures {
    /// Knows what the maps hold already.
    pub fn new(maps: &[MapWrite]) -> Self {
        let mut departures = Self::default();
        departures.see(maps, |_| {});
        departures
    }

    /// Tells what `writes`, which were carried out, took away.
    pub fn see(&mut self, writes: &[MapWrite], mut gone: impl FnMut(Departed)) {
        for write in writes {
            match *write {
                MapWrite::Backend4(id, value) => {
                    let backend =
                        value.map(|b| (SocketAddr::new(IpAddr::V4(b.address.into()), b.port.host()), b.proto));
                    self.backend(0, id, backend, &mut gone);
                }
                MapWrite::Backend6(id, value) => {
                    let backend =
                        value.map(|b| (SocketAddr::new(IpAddr::V6(b.address.into()), b.port.host()), b.proto));
                    self.backend(1, id, backend, &mut gone);
                }
                MapWrite::RevNat4(_, None) | MapWrite::RevNat6(_, None) => gone(Departed::Service),
                MapWrite::Lxc(key, None) => {
                    if let Some(ip) = key.ip() {
                        gone(Departed::Address(ip));
                    }
                }
                _ => {}
            }
        }
    }

    fn backend(&mut self, family: usize, id: u32, now: Option<(SocketAddr, u8)>, gone: &mut impl FnMut(Departed)) {
        let known = &mut self.backends[family];
        let before = match now {
            Some(now) => known.insert(id, now),
            None => known.remove(&id),
        };
        if before == now {
            return;
        }
        if let Some((at, protocol)) = before {
            gone(Departed::Backend(at, protocol));
        }
        if let Some((at, protocol)) = now {
            gone(Departed::Returned(at, protocol));
        }
    }
}

#[cfg(test)]
mod tests {
    use abi::{
        be::Port,
        endpoint::{EndpointInfo, EndpointKey},
        lb::{BACKEND_TERMINATING, LbBackend4},
    };

    use super::*;

    #[test]
    fn what_writes_take_away_is_told_by_its_address() {
        let backend = |last: u8, flags| LbBackend4 {
            address: std::net::Ipv4Addr::new(10, 0, 0, last).into(),
            port: Port::new(80),
            proto: 6,
            flags,
            ..LbBackend4::default()
        };
        let at = |last: u8| SocketAddr::from(([10, 0, 0, last], 80));
        let mut departures = Departures::new(&[MapWrite::Backend4(1, Some(backend(1, 0)))]);
        let mut see = |write: MapWrite| {
            let mut gone = Vec::new();
            departures.see(&[write], |departed| gone.push(departed));
            gone
        };
        assert_eq!(see(MapWrite::Backend4(2, Some(backend(2, 0)))), [Departed::Returned(at(2), 6)]);
        assert_eq!(see(MapWrite::Backend4(1, Some(backend(1, BACKEND_TERMINATING)))), [], "it finishes what it has");
        assert_eq!(see(MapWrite::Backend4(1, None)), [Departed::Backend(at(1), 6)]);
        assert_eq!(see(MapWrite::Backend4(1, None)), [], "once");
        let other = [Departed::Backend(at(2), 6), Departed::Returned(at(3), 6)];
        assert_eq!(see(MapWrite::Backend4(2, Some(backend(3, 0)))), other, "its number is another's");
        let ip: IpAddr = "10.0.0.9".parse().expect("a literal");
        let key = EndpointKey::new(ip);
        assert_eq!(see(MapWrite::Lxc(key, Some(EndpointInfo::default()))), []);
        assert_eq!(see(MapWrite::Lxc(key, None)), [Departed::Address(ip)]);
        assert_eq!(see(MapWrite::RevNat4(Port::new(1), None)), [Departed::Service]);
    }
}
