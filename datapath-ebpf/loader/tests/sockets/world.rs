//! A node for sockets: the process in a control group of its own, the programs attached to that, and two namespaces (the host
//! and a pod) that have the same addresses on their loopback devices, with servers on all of them.

use std::{
    collections::BTreeMap,
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket},
    os::fd::{AsRawFd, RawFd},
    path::PathBuf,
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use abi::{
    config::{NODE_BIND_PROTECTION, NODE_TRACE_SOCK, NodeConfig},
    write::MapWrite,
};
use loader::{Datapath, LoaderConfig, Maps};

use crate::support::{self, netns::Namespace};

/// How long what should come may take.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A control group with this process in it; it goes back when the value goes. One at a time: the whole process moves.
pub struct Cgroup {
    path: PathBuf,
    _alone: MutexGuard<'static, ()>,
}

impl Cgroup {
    pub fn enter() -> Option<Self> {
        static ALONE: Mutex<()> = Mutex::new(());
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let root = match loader::check_sock_lb(None) {
            Ok(root) => root,
            Err(why) => {
                support::skip(&why.to_string());
                return None;
            }
        };
        let path = root.join(format!("cilium-test-sockets-{}", std::process::id()));
        if let Err(why) = fs::create_dir(&path).and_then(|()| move_to(&path)) {
            let _ = fs::remove_dir(&path);
            support::skip(&format!("no control group can be made at {}: {why}", path.display()));
            return None;
        }
        Some(Self { path, _alone: alone })
    }

    pub fn path(&self) -> &std::path::Path {
        &self.path
    }

    /// A further group below, empty.
    pub fn child(&self, name: &str) -> PathBuf {
        let path = self.path.join(name);
        fs::create_dir_all(&path).expect("a group takes groups");
        path
    }
}

pub fn move_to(group: &std::path::Path) -> io::Result<()> {
    fs::write(group.join("cgroup.procs"), std::process::id().to_string())
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let root = self.path.parent().expect("it was made below the root").to_owned();
        move_to(&root).expect("the root takes everybody");
        for child in fs::read_dir(&self.path).into_iter().flatten().flatten() {
            let _ = fs::remove_dir(child.path());
        }
        let _ = fs::remove_dir(&self.path);
    }
}

/// A network namespace with these addresses on its loopback device.
fn with_addresses(name: &str, addresses: &[IpAddr]) -> Namespace {
    let netns = Namespace::new(name);
    netns.ip(&["link", "set", "lo", "up"]);
    addresses.iter().for_each(|ip| netns.add_address(*ip, "lo"));
    netns
}

/// The cookie of a namespace.
pub fn netns_cookie(netns: &Namespace) -> u64 {
    netns.enter(|| {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a port");
        option(socket.as_raw_fd(), 71) // SO_NETNS_COOKIE
    })
}

/// The socket's cookie (SO_COOKIE).
pub fn cookie(socket: &impl AsRawFd) -> u64 {
    option(socket.as_raw_fd(), 57)
}

fn option(fd: RawFd, name: libc::c_int) -> u64 {
    let (mut value, mut len) = (0_u64, size_of::<u64>() as libc::socklen_t);
    // SAFETY: `value` has the eight bytes that `len` says.
    let ret = unsafe { libc::getsockopt(fd, libc::SOL_SOCKET, name, std::ptr::from_mut(&mut value).cast(), &mut len) };
    assert_eq!(ret, 0, "{}", io::Error::last_os_error());
    value
}

/// Ports of the servers; those of node ports are among the node ports.
pub const SERVERS: [u16; 4] = [7001, 7002, 30_080, 30_081];

/// Addresses of backends.
pub fn backend_ip(n: u8, v6: bool) -> IpAddr {
    if v6 { Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, n.into()).into() } else { Ipv4Addr::new(10, 77, 0, n).into() }
}

/// Addresses of frontends, which are real addresses here so that a call that is left alone arrives too.
pub fn frontend_ip(n: u8, v6: bool) -> IpAddr {
    if v6 { Ipv6Addr::new(0xfd78, 0, 0, 0, 0, 0, 0, n.into()).into() } else { Ipv4Addr::new(10, 78, 0, n).into() }
}

/// The node's own address.
pub fn node_ip(v6: bool) -> IpAddr {
    frontend_ip(200, v6)
}

pub fn addresses() -> Vec<IpAddr> {
    let both = [false, true];
    let mut all: Vec<IpAddr> = both.iter().flat_map(|v6| (1..=4).map(|n| backend_ip(n, *v6))).collect();
    all.extend(both.iter().flat_map(|v6| (1..=4).map(|n| frontend_ip(n, *v6))));
    all.extend(both.map(node_ip));
    all
}

/// Servers of one namespace: TCP on the unspecified address, UDP on every address, which answers from where it was asked.
pub struct Servers {
    pub tcp: Vec<TcpListener>,
    pub udp: Vec<UdpSocket>,
}

impl Servers {
    pub fn start(on: &[IpAddr]) -> Self {
        let (mut tcp, mut udp) = (Vec::new(), Vec::new());
        for port in SERVERS {
            for any in [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)] {
                let listener = listen(SocketAddr::new(any, port));
                listener.set_nonblocking(true).expect("a socket");
                tcp.push(listener);
            }
            let loopback = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
            for ip in on.iter().chain(&loopback) {
                let socket = UdpSocket::bind((*ip, port)).expect("the address is here");
                socket.set_read_timeout(Some(PATIENCE)).expect("a socket");
                udp.push(socket);
            }
        }
        Self { tcp, udp }
    }

    /// Where the connection that was just made arrived.
    pub fn accepted(&self) -> SocketAddr {
        let began = std::time::Instant::now();
        loop {
            for listener in &self.tcp {
                if let Ok((stream, _)) = listener.accept() {
                    return stream.local_addr().expect("it is open");
                }
            }
            assert!(began.elapsed() < PATIENCE, "nobody got the connection");
            thread::yield_now();
        }
    }

    /// Waits for a datagram at `to`, and answers it with itself.
    pub fn echo(&self, to: SocketAddr) {
        let server = self.udp.iter().find(|socket| socket.local_addr().ok() == Some(to)).expect("a server is there");
        let mut buffer = [0; 64];
        let (len, from) = server.recv_from(&mut buffer).unwrap_or_else(|why| panic!("nothing came to {to}: {why}"));
        server.send_to(&buffer[..len], from).expect("the way back");
    }
}

/// A listener of IPv6 alone, or of IPv4.
fn listen(at: SocketAddr) -> TcpListener {
    use std::os::fd::FromRawFd;
    if at.is_ipv4() {
        return TcpListener::bind(at).expect("the port is free");
    }
    // SAFETY: plain calls on a descriptor made here, with live values of the sizes given; the listener takes it over.
    unsafe {
        let fd = libc::socket(libc::AF_INET6, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0);
        assert!(fd >= 0, "{}", io::Error::last_os_error());
        let one: libc::c_int = 1;
        let size = size_of::<libc::c_int>() as u32;
        libc::setsockopt(fd, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, std::ptr::from_ref(&one).cast(), size);
        libc::setsockopt(fd, libc::SOL_SOCKET, libc::SO_REUSEADDR, std::ptr::from_ref(&one).cast(), size);
        let mut to = std::mem::zeroed::<libc::sockaddr_in6>();
        (to.sin6_family, to.sin6_port) = (libc::AF_INET6 as u16, at.port().to_be());
        assert_eq!(libc::bind(fd, std::ptr::from_ref(&to).cast(), size_of_val(&to) as u32), 0);
        assert_eq!(libc::listen(fd, 128), 0);
        TcpListener::from_raw_fd(fd)
    }
}

/// The programs with their maps, attached to the group.
pub struct Node {
    pub datapath: Datapath,
    pub host: Namespace,
    pub pod: Namespace,
    pub config: NodeConfig,
    pub loader: LoaderConfig,
    _fs: support::Bpffs,
    pub cgroup: Cgroup,
}

impl Node {
    /// With small maps; `None`, said aloud, where that is not possible.
    pub fn new() -> Option<Self> {
        Self::with(|_| {})
    }

    /// With maps whose sizes `change` changes.
    pub fn with(change: impl FnOnce(&mut BTreeMap<String, u32>)) -> Option<Self> {
        let (fs, object) = (support::Bpffs::mount()?, support::object()?);
        let cgroup = Cgroup::enter()?;
        let (host, pod) = (with_addresses("host", &addresses()), with_addresses("pod", &addresses()));
        let cookie = netns_cookie(&host);
        let config = NodeConfig {
            node_port_min: 30_000,
            node_port_max: 32_767,
            host_netns_cookie: [cookie as u32, (cookie >> 32) as u32],
            flags: NODE_BIND_PROTECTION | NODE_TRACE_SOCK,
            monitor_aggregation: 3,
            ..NodeConfig::default()
        };
        let mut loader = LoaderConfig::new(object, config);
        loader.bpffs = fs.path().to_owned();
        loader.map_sizes = support::small();
        change(&mut loader.map_sizes);
        loader.sockets = true;
        let datapath = Datapath::open(&loader).unwrap_or_else(|why| panic!("{why}"));
        Some(Self { datapath, host, pod, config, loader, _fs: fs, cgroup })
    }

    pub fn attach(&self) {
        self.datapath.attach_sockets(self.cgroup.path()).unwrap_or_else(|why| panic!("{why}"));
    }

    pub fn put(&self, writes: &[MapWrite]) {
        put(self.datapath.maps(), writes);
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // Unpinned with its bpffs as well, but not while another process looks.
        let _ = self.datapath.detach_sockets();
    }
}

/// Writes to the kernel's maps.
pub fn put(maps: &Maps, writes: &[MapWrite]) {
    macro_rules! table {
        ($table:ident, $key:expr, $value:expr) => {
            match $value {
                Some(value) => maps.$table.insert($key, value).map(drop),
                None => maps.$table.remove($key).map(drop),
            }
        };
    }
    for write in writes {
        let done = match write {
            MapWrite::Lxc(key, value) => table!(lxc, key, value),
            MapWrite::Ipcache(key, value) => table!(ipcache, key, value),
            MapWrite::Service4(key, value) => table!(lb4_services, key, value),
            MapWrite::Service6(key, value) => table!(lb6_services, key, value),
            MapWrite::Backend4(key, value) => table!(lb4_backends, key, value),
            MapWrite::Backend6(key, value) => table!(lb6_backends, key, value),
            MapWrite::RevNat4(key, value) => table!(lb4_reverse_nat, key, value),
            MapWrite::RevNat6(key, value) => table!(lb6_reverse_nat, key, value),
            MapWrite::AffinityMatch(key, value) => table!(lb_affinity_match, key, value),
            other => panic!("no test here writes {other:?}"),
        };
        done.unwrap_or_else(|why| panic!("{write:?}: {why}"));
    }
}
