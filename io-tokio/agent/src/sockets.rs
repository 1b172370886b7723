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

/// Ends sockets, in every network namespace of this machine, that a service sent to one of these backends. Whoever connected
/// to a backend by its own address is left alone.
pub fn end(maps: &Maps, backends: &BTreeSet<(SocketAddr, u8)>, protocols: &[Transport]) -> Ended {
    let mut out = Ended::default();
    let namespaces = match Namespace::all() {
        Ok(namespaces) => namespaces,
        Err(why) => return Ended { failure: Some(why.to_string()), ..out },
    };
    for namespace in namespaces {
        // One that went meanwhile took its sockets with it.
        let Ok(inside) = namespace.run(|| end_here(maps, backends, protocols)) else { continue };
        out.sockets += inside.sockets;
        out.failure = out.failure.or(inside.failure);
    }
    out
}

fn end_here(maps: &Maps, backends: &BTreeSet<(SocketAddr, u8)>, protocols: &[Transport]) -> Ended {
    let mut out = Ended::default();
    let mut work = || -> Result<(), String> {
        let text = |why: netlink::NetlinkError| why.to_string();
        let mut diag = SockDiag::open().map_err(text)?;
        for protocol in protocols {
            let gone = |peer| [protocol.number(), 0].iter().any(|number| backends.contains(&(peer, *number)));
            for socket in diag.connected(*protocol, gone).map_err(text)? {
                if is_translated(maps, &socket).map_err(|why| why.to_string())? {
                    out.sockets += usize::from(diag.destroy(&socket).map_err(text)?);
                }
            }
        }
        Ok(())
    };
    out.failure = work().err();
    out
}

/// Whether a service sent the socket to its peer.
fn is_translated(maps: &Maps, socket: &Connected) -> Result<bool, loader::MapError> {
    let (cookie, port) = (socket.cookie, Port::new(socket.peer.port()));
    match socket.peer.ip().to_canonical() {
        IpAddr::V4(ip) => {
            let key = LbRevSkKey4 { cookie, address: ip.into(), port, ..LbRevSkKey4::default() };
            Ok(maps.lb4_reverse_sk.get(&key)?.is_some())
        }
        IpAddr::V6(ip) => {
            let key = LbRevSkKey6 { cookie, address: ip.into(), port, ..LbRevSkKey6::default() };
            Ok(maps.lb6_reverse_sk.get(&key)?.is_some())
        }
    }
}
