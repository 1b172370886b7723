//! Sockets of a simulated node: [`datapath::sock`] on plain memory, at the calls a program makes.
//!
//! A [`Socket`] knows what the kernel knows of one: its numbers, and after `connect` whom it really talks to. Each
//! call answers what the kernel would do: the address packets go to, or the one the program is told.

use std::net::{Ipv6Addr, SocketAddr};

use abi::be::{Addr4, Port, Wide6};
use abi::config::NodeConfig;
use abi::endpoint::{EndpointInfo, EndpointKey};
use abi::event::{Prefix, TraceSockNotify};
use abi::ipcache::{IpcacheEntry, IpcacheKey};
use abi::lb::{
    LbAffinity, LbAffinityKey4, LbAffinityKey6, LbAffinityMatch, LbBackend4, LbBackend6, LbKey4, LbKey6, LbRevSk4,
    LbRevSk6, LbRevSkKey4, LbRevSkKey6, LbService,
};
use abi::metrics::{MetricsKey, MetricsValue};
use datapath::sock::{self, Outcome, SockEnv, SockMaps, Translation};
use datapath::{End, V4, V6};
use zerocopy::IntoBytes;

use crate::map::Update;
use crate::maps::Maps;

/// A socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Socket {
    /// Its number.
    pub cookie: u64,
    /// Number of its network namespace.
    pub netns: u64,
    /// Number of its owner's control group.
    pub cgroup: u64,
    /// IP protocol.
    pub protocol: u8,
    /// Whom it talks to, after [`Caller::connect`].
    pub peer: Option<SocketAddr>,
}

/// Why a call fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// `EHOSTUNREACH`: the service has no backend.
    Unreachable,
    /// `ENOMEM`: the map of translated sockets refused the entry.
    NoMemory,
    /// `EPERM`: a service has that port.
    NotPermitted,
    /// `ENOTCONN`.
    NotConnected,
}

/// Who makes the calls: a program on a node, at a moment.
#[derive(Debug)]
pub struct Caller<'a> {
    /// The node's maps.
    pub maps: &'a mut Maps,
    /// What the node's programs were loaded with.
    pub config: &'a NodeConfig,
    /// Monotonic clock, nanoseconds.
    pub now_ns: u64,
    /// CPU it runs on.
    pub cpu: u32,
    /// What is drawn next; moves on by itself.
    pub random: u64,
}

impl Caller<'_> {
    /// `connect`: whom the socket talks to from now on.
    ///
    /// # Errors
    /// See [`Refused`].
    pub fn connect(&mut self, socket: &mut Socket, to: SocketAddr) -> Result<SocketAddr, Refused> {
        let peer = self.send_to(socket, to)?;
        socket.peer = Some(peer);
        Ok(peer)
    }

    /// `sendto` of an unconnected socket: where the datagram goes.
    ///
    /// # Errors
    /// See [`Refused`].
    pub fn send_to(&mut self, socket: &Socket, to: SocketAddr) -> Result<SocketAddr, Refused> {
        let mut call = Call { caller: self, socket };
        let answer = match to {
            SocketAddr::V4(addr) => {
                plain4(sock::outwards4(&mut call, End { addr: (*addr.ip()).into(), port: Port::new(addr.port()) }))
            }
            SocketAddr::V6(addr) => {
                plain6(sock::outwards6(&mut call, End { addr: (*addr.ip()).into(), port: Port::new(addr.port()) }))
            }
        };
        match answer.0 {
            Outcome::Untouched => Ok(to),
            Outcome::Translated => Ok(answer.1),
            Outcome::Unreachable => Err(Refused::Unreachable),
            Outcome::NoMemory => Err(Refused::NoMemory),
        }
    }

    /// `recvfrom`: the sender a program is told of a datagram from `from`.
    pub fn receive_from(&mut self, socket: &Socket, from: SocketAddr) -> SocketAddr {
        let mut call = Call { caller: self, socket };
        let answer = match from {
            SocketAddr::V4(addr) => {
                plain4(sock::inwards4(&mut call, End { addr: (*addr.ip()).into(), port: Port::new(addr.port()) }))
            }
            SocketAddr::V6(addr) => {
                plain6(sock::inwards6(&mut call, End { addr: (*addr.ip()).into(), port: Port::new(addr.port()) }))
            }
        };
        if answer.0 == Outcome::Translated { answer.1 } else { from }
    }

    /// `getpeername`.
    ///
    /// # Errors
    /// [`Refused::NotConnected`].
    pub fn peer_name(&mut self, socket: &Socket) -> Result<SocketAddr, Refused> {
        let peer = socket.peer.ok_or(Refused::NotConnected)?;
        Ok(self.receive_from(socket, peer))
    }

    /// `bind`.
    ///
    /// # Errors
    /// [`Refused::NotPermitted`].
    pub fn bind(&mut self, socket: &Socket, at: SocketAddr) -> Result<(), Refused> {
        let mut call = Call { caller: self, socket };
        let may = match at {
            SocketAddr::V4(addr) => {
                sock::may_bind4(&mut call, End { addr: (*addr.ip()).into(), port: Port::new(addr.port()) })
            }
            SocketAddr::V6(addr) => {
                sock::may_bind6(&mut call, End { addr: (*addr.ip()).into(), port: Port::new(addr.port()) })
            }
        };
        if may { Ok(()) } else { Err(Refused::NotPermitted) }
    }
}

fn plain4(answer: Translation<Addr4>) -> (Outcome, SocketAddr) {
    let Translation { outcome, to } = answer;
    (outcome, SocketAddr::new(std::net::Ipv4Addr::from(to.addr).into(), to.port.host()))
}

fn plain6(answer: Translation<Wide6>) -> (Outcome, SocketAddr) {
    let Translation { outcome, to } = answer;
    (outcome, SocketAddr::new(Ipv6Addr::from(to.addr).into(), to.port.host()))
}

/// One call of a socket: [`SockEnv`].
struct Call<'a, 'w> {
    caller: &'a mut Caller<'w>,
    socket: &'a Socket,
}

impl<'w> SockEnv for Call<'_, 'w> {
    type Node = &'w NodeConfig;
    fn node(&self) -> &'w NodeConfig {
        self.caller.config
    }
    fn protocol(&self) -> u8 {
        self.socket.protocol
    }
    fn socket_cookie(&self) -> u64 {
        self.socket.cookie
    }
    fn netns_cookie(&self) -> u64 {
        self.socket.netns
    }
    fn cgroup_id(&self) -> u64 {
        self.socket.cgroup
    }
    fn now_seconds(&self) -> u32 {
        (self.caller.now_ns / 1_000_000_000) as u32
    }
    fn random(&mut self) -> u32 {
        // Splitmix64: enough for a model, and the same in every run.
        self.caller.random = self.caller.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.caller.random;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ z >> 31) as u32
    }
    fn endpoint(&self, key: &EndpointKey) -> Option<&EndpointInfo> {
        self.caller.maps.lxc.lookup(key)
    }
    fn ipcache(&self, key: &IpcacheKey) -> Option<&IpcacheEntry> {
        self.caller.maps.ipcache.lookup(key)
    }
    fn affinity_match(&self, key: &LbAffinityMatch) -> bool {
        self.caller.maps.lb_affinity_match.lookup(key).is_some()
    }
    fn count(&mut self, key: &MetricsKey) {
        let cpu = self.caller.cpu as usize % self.caller.maps.metrics.len();
        let counters = &mut self.caller.maps.metrics[cpu];
        let old = counters.lookup(key).copied().unwrap_or_default();
        // A full map loses the count, as in the kernel.
        let _ = counters.update(*key, MetricsValue { count: old.count.wrapping_add(1), ..old }, Update::Any);
    }
    fn event(&mut self, notification: &TraceSockNotify) {
        let prefix = Prefix { time_ns: self.caller.now_ns, cookie: 0, cpu: self.caller.cpu };
        let record = [prefix.as_bytes(), notification.as_bytes()].concat();
        self.caller.maps.events.push(record);
    }
}

/// The maps of one family behind the trait.
macro_rules! family_maps {
    ($family:ty, $key:ty, $backend:ty, $reverse_key:ty, $reverse:ty, $affinity_key:ty,
     $services:ident, $backends:ident, $reverses:ident, $affinities:ident) => {
        impl SockMaps<$family> for Call<'_, '_> {
            fn service(&self, key: &$key) -> Option<&LbService> {
                self.caller.maps.$services.lookup(key)
            }
            fn backend(&self, id: u32) -> Option<&$backend> {
                self.caller.maps.$backends.lookup(&id)
            }
            fn reverse(&mut self, key: &$reverse_key) -> Option<&$reverse> {
                self.caller.maps.$reverses.lookup_mut(key).map(|entry| &*entry)
            }
            fn remember(&mut self, key: &$reverse_key, entry: &$reverse) -> Option<()> {
                self.caller.maps.$reverses.update(*key, *entry, Update::Any).ok()
            }
            fn forget(&mut self, key: &$reverse_key) {
                // Gone already is as good.
                let _ = self.caller.maps.$reverses.delete(key);
            }
            fn affinity(&mut self, key: &$affinity_key) -> Option<&mut LbAffinity> {
                self.caller.maps.$affinities.lookup_mut(key)
            }
            fn keep_affinity(&mut self, key: &$affinity_key, entry: &LbAffinity) -> Option<()> {
                self.caller.maps.$affinities.update(*key, *entry, Update::Any).ok()
            }
            fn drop_affinity(&mut self, key: &$affinity_key) {
                // Gone already is as good.
                let _ = self.caller.maps.$affinities.delete(key);
            }
        }
    };
}
family_maps!(
    V4,
    LbKey4,
    LbBackend4,
    LbRevSkKey4,
    LbRevSk4,
    LbAffinityKey4,
    lb4_services,
    lb4_backends,
    lb4_reverse_sk,
    lb4_affinity
);
family_maps!(
    V6,
    LbKey6,
    LbBackend6,
    LbRevSkKey6,
    LbRevSk6,
    LbAffinityKey6,
    lb6_services,
    lb6_backends,
    lb6_reverse_sk,
    lb6_affinity
);
