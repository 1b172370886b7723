//! Services at sockets: switched on or off, and sockets ended whose backend went.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use abi::be::Port;
use abi::lb::{LbRevSkKey4, LbRevSkKey6};
use loader::{Datapath, Maps, SockError};
use netlink::Namespace;
use netlink::sock_diag::{Connected, SockDiag, Transport};

use crate::options::{Options, TerminateProtocol};

/// What options say about services at sockets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SocketSettings {
    /// The control group they are translated in; `None`: they are not.
    pub cgroup: Option<PathBuf>,
    /// The host's only.
    pub host_only: bool,
    /// They are reported.
    pub traced: bool,
    /// Sockets of these protocols end with their backend.
    pub ended: Vec<Transport>,
}

impl SocketSettings {
    /// Reads options, and looks whether this machine can do what they ask for.
    ///
    /// # Errors
    /// Names what the machine lacks.
    pub fn new(options: &Options) -> Result<Self, loader::SockLbMissing> {
        let sockets = &options.sockets;
        let root = sockets.cgroup_root.as_deref();
        let wanted = sockets.bpf_lb_sock || options.balancing.kube_proxy_replacement;
        let cgroup = if wanted { Some(loader::check_sock_lb(root)?) } else { None };
        let mut ended = Vec::new();
        if wanted && sockets.bpf_lb_sock_terminate_pod_connections {
            ended.extend(sockets.bpf_lb_sock_terminate_protocols.iter().map(|protocol| match protocol {
                TerminateProtocol::Udp => Transport::Udp,
                TerminateProtocol::Tcp => Transport::Tcp,
            }));
        }
        Ok(Self { cgroup, host_only: sockets.bpf_lb_sock_hostns_only, traced: sockets.trace_sock, ended })
    }
}

/// Attaches the socket programs, or takes away what an agent with other options left.
///
/// # Errors
/// When the kernel refuses.
pub fn attach(datapath: &Datapath, settings: &SocketSettings) -> Result<(), SockError> {
    match &settings.cgroup {
        Some(cgroup) => {
            let attached = datapath.attach_sockets(cgroup)?;
            tracing::info!(cgroup = %cgroup.display(), ?attached, "services are translated at sockets");
        }
        None => {
            let detached = datapath.detach_sockets()?;
            if detached > 0 {
                tracing::info!(detached, "services are no longer translated at sockets");
            }
        }
    }
    Ok(())
}

/// What ending sockets did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ended {
    /// Sockets that were ended.
    pub sockets: usize,
    /// The first thing that went wrong.
    pub failure: Option<String>,
}

/// Backends that went.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GoneBackends {
    /// Those that serve nobody any more, with their protocols; 0: any.
    pub wholly: BTreeSet<(SocketAddr, u8)>,
    /// Those that left one service, with its number, and may serve others.
    pub services: BTreeSet<(SocketAddr, u16)>,
}

impl GoneBackends {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.wholly.is_empty() && self.services.is_empty()
    }
    /// Whether a socket with this peer may have to end.
    fn concerns(&self, peer: SocketAddr, protocol: u8) -> bool {
        self.went(peer, protocol) || self.services.range((peer, 0)..=(peer, u16::MAX)).next().is_some()
    }
    fn went(&self, peer: SocketAddr, protocol: u8) -> bool {
        [protocol, 0].iter().any(|number| self.wholly.contains(&(peer, *number)))
    }
}

/// Ends sockets, in every network namespace of this machine, that a service sent to a backend that it has no longer. Whoever
/// connected to a backend by its own address is left alone, and so is who came to it through another service.
pub fn end(maps: &Maps, gone: &GoneBackends, protocols: &[Transport]) -> Ended {
    let mut out = Ended::default();
    let namespaces = match Namespace::all() {
        Ok(namespaces) => namespaces,
        Err(why) => return Ended { failure: Some(why.to_string()), ..out },
    };
    for namespace in namespaces {
        // One that went meanwhile took its sockets with it.
        let Ok(inside) = namespace.run(|| end_here(maps, gone, protocols)) else { continue };
        out.sockets += inside.sockets;
        out.failure = out.failure.or(inside.failure);
    }
    out
}

fn end_here(maps: &Maps, gone: &GoneBackends, protocols: &[Transport]) -> Ended {
    let mut out = Ended::default();
    let mut work = || -> Result<(), String> {
        let text = |why: netlink::NetlinkError| why.to_string();
        let mut diag = SockDiag::open().map_err(text)?;
        for protocol in protocols {
            let number = protocol.number();
            for socket in diag.connected(*protocol, |peer| gone.concerns(peer, number)).map_err(text)? {
                if must_end(maps, gone, &socket).map_err(|why| why.to_string())? {
                    out.sockets += usize::from(diag.destroy(&socket).map_err(text)?);
                }
            }
        }
        Ok(())
    };
    out.failure = work().err();
    out
}

/// Whether a service sent the socket to its peer, and does so no longer.
fn must_end(maps: &Maps, gone: &GoneBackends, socket: &Connected) -> Result<bool, loader::MapError> {
    let peer = SocketAddr::new(socket.peer.ip().to_canonical(), socket.peer.port());
    let Some(service) = sent_by(maps, socket.cookie, peer)? else { return Ok(false) };
    if gone.went(peer, socket.transport.number()) {
        return Ok(true);
    }
    // It may be back by now.
    Ok(gone.services.contains(&(peer, service.host())) && !bpf::sweep::serves(maps, service, peer)?)
}

/// The number of the service that sent a socket to its peer, if one did.
fn sent_by(maps: &Maps, cookie: u64, peer: SocketAddr) -> Result<Option<Port>, loader::MapError> {
    let port = Port::new(peer.port());
    Ok(match peer.ip() {
        IpAddr::V4(ip) => {
            let key = LbRevSkKey4 { cookie, address: ip.into(), port, ..LbRevSkKey4::default() };
            maps.lb4_reverse_sk.get(&key)?.map(|entry| entry.rev_nat_index)
        }
        IpAddr::V6(ip) => {
            let key = LbRevSkKey6 { cookie, address: ip.into(), port, ..LbRevSkKey6::default() };
            maps.lb6_reverse_sk.get(&key)?.map(|entry| entry.rev_nat_index)
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backend_concerns_those_whom_it_left() {
        let at = |port| SocketAddr::from(([10, 0, 0, 1], port));
        let gone =
            GoneBackends { wholly: [(at(1), 17), (at(2), 0)].into(), services: [(at(3), 1), (at(3), u16::MAX)].into() };
        let concerned = |port, protocol| gone.concerns(at(port), protocol);
        assert!(concerned(1, 17) && !concerned(1, 6), "another protocol is another backend");
        assert!(concerned(2, 6) && concerned(2, 17) && concerned(3, 17) && !concerned(4, 17));
        assert!(!gone.went(at(3), 17), "it serves somebody");
    }
}
