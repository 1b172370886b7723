//! Forwarding modes: what goes directly from the backend to the client, and how the backend's node learns of the frontend.

use std::{
    io::Write,
    net::{IpAddr, SocketAddr, UdpSocket},
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use abi::config::{LB_DSR, LB_DSR_IPIP, LB_DSR_XLATE_BACKEND, LB_HYBRID, LB_MODE_BY_SERVICE};
use lb::Forwarding;

use crate::{
    converse,
    net::{Namespace, PATIENCE, Server, ask, move_into, transfer},
    node::{At, CLIENT, NODE_TO_OTHER, Node, REMOTE},
};

/// A server in the pod of the other node.
pub fn serve(node: &Node, v6: bool) -> Server {
    let pod = &node.remote.as_ref().expect("it has a datapath").pods[0];
    Server::start(pod, SocketAddr::new(REMOTE.of(v6), 8080))
}

/// The pod of the other node sees the client, answers it as the frontend, and nothing of that passes this node; over TCP and UDP.
#[test]
fn dsr_by_option_and_extension_header() {
    for at in At::ALL {
        let Some(node) = Node::new(at, |config| config.lb_flags |= LB_DSR) else { return };
        let mut node = node.with_other_node(|config| config.lb_flags |= LB_DSR);
        node.service(30_090, &[REMOTE], |_| {});
        answers_go_past(&node, at, 30_090);
    }
}

/// The pod of the other node sees the client, and its answers do not come back by the node that balances.
pub fn answers_go_past(node: &Node, at: At, port: u16) {
    for v6 in [false, true] {
        let server = serve(node, v6);
        let before = received();
        converse(node, Node::frontend(port, v6));
        let peers = server.peers();
        assert!(peers.len() > 20 && peers.iter().all(|ip| *ip == CLIENT.of(v6)), "{at:?}: {peers:?}");
        let answers = received() - before;
        assert!(answers < 20_000, "{at:?}: {answers} bytes came back by the node that balances");
    }
}

/// Bytes that reached the node from the other one.
pub fn received() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/net/dev").expect("procfs is mounted");
    let line = text.lines().find(|line| line.trim_start().starts_with("ext1:")).expect("it was made");
    line.split_whitespace().nth(1).and_then(|bytes| bytes.parse().ok()).expect("a number")
}

/// TCP goes directly, UDP through the node, each with a megabyte's worth of proof.
#[test]
fn hybrid_is_dsr_for_tcp_and_snat_for_udp() {
    for at in At::ALL {
        let Some(node) = Node::new(at, |config| config.lb_flags |= LB_HYBRID) else { return };
        let mut node = node.with_other_node(|config| config.lb_flags |= LB_HYBRID);
        node.service(30_091, &[REMOTE], |_| {});
        for v6 in [false, true] {
            let (server, to) = (serve(&node, v6), Node::frontend(30_091, v6));
            node.client.enter(|| transfer(to, 1 << 20)).unwrap_or_else(|e| panic!("{at:?} {to}: {e}"));
            assert_eq!(server.peers(), [CLIENT.of(v6)], "{at:?}");
            node.client.enter(|| ask(to, b"who am I", PATIENCE)).unwrap_or_else(|e| panic!("{at:?} {to}: {e}"));
            assert_eq!(server.peers(), [NODE_TO_OTHER.of(v6)], "{at:?}");
        }
    }
}

/// One service of a node goes directly, another does not.
#[test]
fn a_service_has_its_own_mode() {
    let Some(node) = Node::new(At::XdpNative, |config| config.lb_flags |= LB_MODE_BY_SERVICE) else { return };
    let mut node = node.with_other_node(|config| config.lb_flags |= LB_MODE_BY_SERVICE);
    node.by_service();
    node.service(30_092, &[REMOTE], |spec| spec.attributes.forwarding = Some(Forwarding::Dsr));
    node.service(30_093, &[REMOTE], |spec| spec.attributes.forwarding = Some(Forwarding::Snat));
    for v6 in [false, true] {
        let server = serve(&node, v6);
        for (port, peer) in [(30_092, CLIENT), (30_093, NODE_TO_OTHER)] {
            let to = Node::frontend(port, v6);
            node.client.enter(|| transfer(to, 100_000)).unwrap_or_else(|e| panic!("{to}: {e}"));
            node.client.enter(|| ask(to, b"who am I", PATIENCE)).unwrap_or_else(|e| panic!("{to}: {e}"));
            assert_eq!(server.peers(), [peer.of(v6); 2], "port {port}");
        }
    }
}

/// The backend has the frontend's address and takes packets out of packets. Where the kernel has no device for that, a
/// process does it: one socket takes what is in them, a TUN device gives it to the stack, which judges it.
#[test]
fn dsr_by_packets_in_packets() {
    for at in At::ALL {
        let Some(mut node) = Node::new(at, |config| config.lb_flags |= LB_DSR | LB_DSR_IPIP) else { return };
        // Packets as they were on the wire: what the kernel makes one of many has no checksum a process could hand on.
        node.other.ip(&["link", "set", "eth0", "gro_max_size", "1500"]);
        // The backend's port is the frontend's: nothing inside is translated.
        node.service_at(crate::node::LED_HERE, 8080, &[REMOTE], |_| {});
        for v6 in [false, true] {
            let vip = crate::node::LED_HERE.of(v6);
            node.other.add_address(vip, "lo");
            let Some(_unpacking) = Unpacking::start(&node.other, v6) else { return };
            let server = Server::start(&node.other, SocketAddr::new(vip, 8080));
            let to = SocketAddr::new(vip, 8080);
            node.client.enter(|| {
                for len in [1, 1 << 20] {
                    transfer(to, len).unwrap_or_else(|e| panic!("{at:?}: {len} bytes to {to}: {e}"));
                }
                ask(to, &[7; 1300], PATIENCE).unwrap_or_else(|e| panic!("{at:?}: {to}: {e}"));
            });
            assert_eq!(server.peers(), [CLIENT.of(v6); 3], "{at:?}");
        }
    }
}

/// The same where the backend finds its own port in them: datagrams reach it there, with checksums that its stack accepts.
#[test]
fn the_backends_port_in_packets_in_packets() {
    for at in At::ALL {
        let mode = LB_DSR | LB_DSR_IPIP | LB_DSR_XLATE_BACKEND;
        let Some(mut node) = Node::new(at, |config| config.lb_flags |= mode) else { return };
        node.service_at(crate::node::LED_HERE, 53, &[REMOTE], |_| {});
        for v6 in [false, true] {
            let vip = crate::node::LED_HERE.of(v6);
            node.other.add_address(vip, "lo");
            let Some(_unpacking) = Unpacking::start(&node.other, v6) else { return };
            let backend = node.other.enter(|| UdpSocket::bind((vip, 8080)).expect("free"));
            backend.set_read_timeout(Some(PATIENCE)).expect("not zero");
            node.client.enter(|| {
                let socket = UdpSocket::bind((CLIENT.of(v6), 4_000)).expect("free");
                socket.send_to(b"question", (vip, 53)).expect("there is a route");
            });
            let mut data = [0; 64];
            let (len, from) = backend.recv_from(&mut data).unwrap_or_else(|e| panic!("{at:?}, IPv6: {v6}: {e}"));
            assert_eq!((&data[..len], from), (&b"question"[..], SocketAddr::new(CLIENT.of(v6), 4_000)));
        }
    }
}

/// A process that takes packets out of packets in a namespace, until it goes.
struct Unpacking {
    stop: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Unpacking {
    fn start(netns: &Namespace, v6: bool) -> Option<Self> {
        let name = netns.name.clone();
        let stop = Arc::new(AtomicBool::new(false));
        let (ready, is_ready) = std::sync::mpsc::channel();
        let stopped = stop.clone();
        let thread = thread::spawn(move || {
            move_into(&name);
            let Some(mut tun) = tun(if v6 { "tun6" } else { "tun4" }) else {
                let _ = ready.send(false);
                return;
            };
            let socket = raw(v6);
            let _ = ready.send(true);
            let mut packet = vec![0_u8; 65_536];
            while !stopped.load(Ordering::Relaxed) {
                // SAFETY: the buffer is live and as long as said.
                let n = unsafe { libc::recv(socket.as_raw_fd(), packet.as_mut_ptr().cast(), packet.len(), 0) };
                let Ok(n) = usize::try_from(n) else { continue };
                // An IPv4 socket gets the outer header too.
                let inner = if v6 { 0 } else { usize::from(packet[0] & 15) * 4 };
                tun.write_all(&packet[inner..n]).expect("the stack takes it");
            }
        });
        if is_ready.recv().expect("it tells") {
            return Some(Self { stop, thread: Some(thread) });
        }
        crate::support::skip("there is no /dev/net/tun");
        None
    }
}

impl Drop for Unpacking {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A socket that receives packets in packets, and gives up ten times a second.
fn raw(v6: bool) -> OwnedFd {
    let (family, protocol) = if v6 { (libc::AF_INET6, 41) } else { (libc::AF_INET, 4) };
    let timeout = libc::timeval { tv_sec: 0, tv_usec: 100_000 };
    // SAFETY: plain calls with live values of the sizes given; the descriptor was just made and is nobody else's.
    unsafe {
        let fd = libc::socket(family, libc::SOCK_RAW | libc::SOCK_CLOEXEC, protocol);
        assert!(fd >= 0, "{}", std::io::Error::last_os_error());
        let value = std::ptr::from_ref(&timeout).cast();
        let size = size_of_val(&timeout) as u32;
        assert_eq!(libc::setsockopt(fd, libc::SOL_SOCKET, libc::SO_RCVTIMEO, value, size), 0);
        let room: libc::c_int = 16 << 20;
        let value = std::ptr::from_ref(&room).cast();
        assert_eq!(libc::setsockopt(fd, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, value, 4), 0);
        OwnedFd::from_raw_fd(fd)
    }
}

/// A TUN device in the calling thread's namespace, up; `None`: this kernel has none.
fn tun(name: &str) -> Option<std::fs::File> {
    const TUNSETIFF: libc::c_ulong = 0x4004_54ca;
    let file = std::fs::File::options().read(true).write(true).open("/dev/net/tun").ok()?;
    // SAFETY: ifreq is plain memory.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI) as i16;
    // SAFETY: the request outlives the call.
    if unsafe { libc::ioctl(file.as_raw_fd(), TUNSETIFF, &raw mut request) } != 0 {
        return None;
    }
    std::fs::write(format!("/proc/sys/net/ipv4/conf/{name}/rp_filter"), "0").expect("it was made");
    crate::support::ip(&["link", "set", name, "up"]);
    Some(file)
}

/// `externalTrafficPolicy: Local`: the backend here gets it and sees the client; with none here, nobody does.
#[test]
fn local_traffic_stays_local() {
    let Some(mut node) = Node::new(At::XdpNative, |_| {}) else { return };
    node.add_pod(1);
    let local = |spec: &mut lb::ServiceSpec, here: &[IpAddr]| {
        spec.attributes.external_policy = lb::TrafficPolicy::Local;
        for backend in &mut spec.backends {
            backend.node_name = if here.contains(&backend.addr.ip) { "node".into() } else { "other".into() };
        }
    };
    let pod = crate::node::pod(1);
    node.service(30_094, &[REMOTE, pod], |spec| local(spec, &[pod.of(false), pod.of(true)]));
    node.service(30_095, &[REMOTE], |spec| local(spec, &[]));
    for v6 in [false, true] {
        let server = Server::start(&node.host.pods[0], SocketAddr::new(pod.of(v6), 8080));
        converse(&node, Node::frontend(30_094, v6));
        assert!(server.peers().iter().all(|ip| *ip == CLIENT.of(v6)));
        let to = Node::frontend(30_095, v6);
        let refused = node.client.enter(|| transfer(to, 1)).expect_err("nobody is here");
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused, "{to}");
    }
}
