//! Real traffic through the attached programs: pods in network namespaces, sockets in them, no agent.
//!
//! What the pipeline decides is tested elsewhere, byte by byte. Here the question is whether the kernel's own stack at both
//! ends is content: checksums it verifies, connections it completes, neighbours it resolves.

mod support;

use std::{
    io::{ErrorKind, Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    thread,
    time::Duration,
};

use abi::{
    be::Port,
    config::{DEFAULT_LIFETIMES, NODE_ALLOW_LOCALHOST, NODE_HOST_ROUTING, NODE_TRACK_FRAGMENTS, NodeConfig, Runtime},
    endpoint::{DEVICE_ENFORCE_INGRESS, Device, ENDPOINT_HOST, EndpointInfo, EndpointKey},
    ipcache::{IpcacheEntry, IpcacheKey},
    lb::{LbBackend4, LbBackend6, LbKey4, LbKey6, LbRevNat4, LbRevNat6, LbService},
    policy::{INGRESS, PolicyEntry, PolicyKey},
};
use loader::{Datapath, Direction, Interface, LoaderConfig, Maps, Program};
use support::netns::{Namespace, forward, mac};

/// How long what should come may take: the machine may be busy, and a wait ends as soon as it is over.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long what should not come is waited for.
const IMPATIENCE: Duration = Duration::from_millis(300);

/// A pod of the test: identity and class are both 1000 + `n`, the policy id is `n`.
struct Pod {
    n: u8,
    netns: Namespace,
    ifindex: u32,
}

const ROUTER4: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 254);
const ROUTER6: Ipv6Addr = Ipv6Addr::new(0xfd09, 0, 0, 0, 0, 0, 0, 0xfe);
const VIP4: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 1);
const VIP6: Ipv6Addr = Ipv6Addr::new(0xfd96, 0, 0, 0, 0, 0, 0, 1);

fn pod4(n: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 9, 0, n)
}
fn pod6(n: u8) -> Ipv6Addr {
    Ipv6Addr::new(0xfd09, 0, 0, 0, 0, 0, 0, n.into())
}

struct World {
    // In this order: programs and pins go before what they are attached to.
    datapath: Datapath,
    pods: Vec<Pod>,
    _fs: support::Bpffs,
}

impl World {
    /// A node in a namespace of its own (the calling thread moves there) with `count` pods, or `None`, said aloud.
    fn new(count: u8) -> Option<Self> {
        let (fs, object) = (support::Bpffs::mount()?, support::object()?);
        // SAFETY: unshare(2) takes no pointers; only the calling thread moves.
        assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNET) }, 0, "{}", std::io::Error::last_os_error());
        support::ip(&["link", "set", "lo", "up"]);
        support::ip(&["link", "add", "cilium_host", "type", "veth", "peer", "name", "cilium_net"]);
        support::ip(&["link", "set", "cilium_net", "up"]);
        support::ip(&["link", "set", "cilium_host", "up"]);
        support::ip(&["addr", "add", &format!("{ROUTER4}/32"), "dev", "cilium_host"]);
        support::ip(&["addr", "add", &format!("{ROUTER6}/128"), "dev", "cilium_host", "nodad"]);
        forward();
        let node = NodeConfig {
            router_ipv4: ROUTER4.into(),
            router_ipv6: ROUTER6.into(),
            flags: NODE_TRACK_FRAGMENTS | NODE_HOST_ROUTING | NODE_ALLOW_LOCALHOST,
            world_ipv4: 9,
            world_ipv6: 10,
            monitor_aggregation: 3,
            report_interval: 5,
            report_tcp_flags: 0xff,
            capture_len: 128,
            lifetimes: DEFAULT_LIFETIMES,
            ..NodeConfig::default()
        };
        let mut config = LoaderConfig::new(object, node);
        config.bpffs = fs.path().to_owned();
        config.map_sizes = support::small();
        let datapath = Datapath::open(&config).expect("the programs load");
        let mut world = Self { datapath, pods: vec![], _fs: fs };
        world.host();
        for n in 1..=count {
            world.add(n);
        }
        Some(world)
    }

    fn maps(&self) -> &Maps {
        self.datapath.maps()
    }

    /// The host itself is known by its router addresses.
    fn host(&self) {
        let info = EndpointInfo { flags: ENDPOINT_HOST, identity: 1, ..EndpointInfo::default() };
        let entry = IpcacheEntry { identity: 1, class: 1, ..IpcacheEntry::default() };
        for ip in [IpAddr::from(ROUTER4), IpAddr::from(ROUTER6)] {
            self.maps().lxc.insert(&EndpointKey::new(ip), &info).expect("room");
        }
        self.maps().ipcache.insert(&IpcacheKey::v4(ROUTER4.into(), 32), &entry).expect("room");
        self.maps().ipcache.insert(&IpcacheKey::v6(ROUTER6.into(), 128), &entry).expect("room");
        self.maps().set_runtime(Runtime::PolicyRevision, 1).expect("it is there");
        self.maps().set_runtime(Runtime::LbRevision, 1).expect("it is there");
    }

    /// Makes a pod, tells the maps, attaches the programs.
    fn add(&mut self, n: u8) {
        let (netns, host_side) = (Namespace::of_pod(n.into()), format!("lxc{n}"));
        let (ip4, ip6) = (pod4(n), pod6(n));
        netns.ip(&["addr", "add", &format!("{ip4}/32"), "dev", "eth0"]);
        netns.ip(&["addr", "add", &format!("{ip6}/128"), "dev", "eth0", "nodad"]);
        netns.ip(&["route", "add", &format!("{ROUTER4}"), "dev", "eth0", "scope", "link"]);
        netns.ip(&["route", "add", "default", "via", &format!("{ROUTER4}"), "dev", "eth0"]);
        netns.ip(&["-6", "route", "add", &format!("{ROUTER6}"), "dev", "eth0"]);
        netns.ip(&["-6", "route", "add", "default", "via", &format!("{ROUTER6}"), "dev", "eth0"]);
        support::ip(&["route", "add", &format!("{ip4}/32"), "dev", &host_side]);
        support::ip(&["-6", "route", "add", &format!("{ip6}/128"), "dev", &host_side]);

        let interface = Interface::by_name(&host_side).expect("it was made");
        let (own, node) = (mac(&["-n", &netns.name], "eth0"), mac(&[], &host_side));
        let id = 1000 + u32::from(n);
        let device = Device {
            identity: id,
            policy: n.into(),
            lxc_id: n.into(),
            ipv4: ip4.into(),
            ipv6: ip6.into(),
            mac: own,
            node_mac: node,
            ..Device::default()
        };
        let info = EndpointInfo {
            ifindex: interface.index,
            lxc_id: n.into(),
            identity: id,
            mac: own,
            node_mac: node,
            ..EndpointInfo::default()
        };
        let entry = IpcacheEntry { identity: id, class: id, ..IpcacheEntry::default() };
        let maps = self.maps();
        maps.devices.insert(&interface.index, &device).expect("room");
        maps.lxc.insert(&EndpointKey::new(ip4.into()), &info).expect("room");
        maps.lxc.insert(&EndpointKey::new(ip6.into()), &info).expect("room");
        maps.ipcache.insert(&IpcacheKey::v4(ip4.into(), 32), &entry).expect("room");
        maps.ipcache.insert(&IpcacheKey::v6(ip6.into(), 128), &entry).expect("room");
        self.datapath.attach(Program::FromContainer, &interface, Direction::Ingress).expect("attaching");
        self.datapath.attach(Program::ToContainer, &interface, Direction::Egress).expect("attaching");
        self.pods.push(Pod { n, netns, ifindex: interface.index });
    }

    fn pod(&self, n: u8) -> &Pod {
        self.pods.iter().find(|pod| pod.n == n).expect("it was added")
    }

    /// A service on `VIP4` and `VIP6`, port `port`, TCP and UDP, with one backend: pod `n` at `backend_port`.
    fn service(&self, port: u16, n: u8, backend_port: u16) {
        let maps = self.maps();
        let (rev, id) = (Port::new(port), u32::from(port));
        let frontend = LbService { count: 1, rev_nat_index: rev, ..LbService::default() };
        let slot = LbService { backend_id: id, rev_nat_index: rev, ..LbService::default() };
        let backend_port = Port::new(backend_port);
        maps.lb4_backends
            .insert(&id, &LbBackend4 { address: pod4(n).into(), port: backend_port, ..LbBackend4::default() })
            .expect("room");
        maps.lb6_backends
            .insert(&id, &LbBackend6 { address: pod6(n).into(), port: backend_port, ..LbBackend6::default() })
            .expect("room");
        let port = Port::new(port);
        maps.lb4_reverse_nat
            .insert(&rev, &LbRevNat4 { address: VIP4.into(), port, ..LbRevNat4::default() })
            .expect("room");
        maps.lb6_reverse_nat
            .insert(&rev, &LbRevNat6 { address: VIP6.into(), port, ..LbRevNat6::default() })
            .expect("room");
        for proto in [6, 17] {
            let key4 = LbKey4 { address: VIP4.into(), dport: port, proto, ..LbKey4::default() };
            let key6 = LbKey6 { address: VIP6.into(), dport: port, proto, ..LbKey6::default() };
            maps.lb4_services.insert(&LbKey4 { backend_slot: 1, ..key4 }, &slot).expect("room");
            maps.lb6_services.insert(&LbKey6 { backend_slot: 1, ..key6 }, &slot).expect("room");
            maps.lb4_services.insert(&key4, &frontend).expect("room");
            maps.lb6_services.insert(&key6, &frontend).expect("room");
        }
        maps.set_runtime(Runtime::LbRevision, u64::from(u16::MAX) + u64::from(id)).expect("it is there");
    }

    /// From now on pod `n` accepts only what the policy map has.
    fn enforce(&self, n: u8) {
        let ifindex = self.pod(n).ifindex;
        let device = self.maps().devices.get(&ifindex).expect("readable").expect("there");
        let device = Device { flags: DEVICE_ENFORCE_INGRESS, ..device };
        self.maps().devices.insert(&ifindex, &device).expect("room");
        self.revise();
    }

    /// Tells the programs that policy has moved.
    fn revise(&self) {
        let now = self.maps().runtime(Runtime::PolicyRevision).expect("it is there");
        self.maps().set_runtime(Runtime::PolicyRevision, now + 1).expect("it is there");
    }
}

/// A TCP server that answers what `count` connections say in upper case; runs until they are over.
fn serve_tcp(listener: TcpListener, count: usize) {
    thread::scope(|scope| {
        for _ in 0..count {
            let (mut stream, _) = listener.accept().expect("a client");
            scope.spawn(move || {
                let mut data = [0; 256];
                while let Ok(n @ 1..) = stream.read(&mut data) {
                    stream.write_all(&data[..n].to_ascii_uppercase()).expect("the client reads");
                }
            });
        }
    });
}

/// Asks a TCP server; the error kind when it cannot be reached.
fn ask_tcp(to: SocketAddr, patience: Duration) -> Result<String, ErrorKind> {
    let mut stream = TcpStream::connect_timeout(&to, patience).map_err(|e| e.kind())?;
    stream.set_read_timeout(Some(patience)).expect("not zero");
    stream.write_all(b"hello").map_err(|e| e.kind())?;
    let mut data = [0; 64];
    let n = stream.read(&mut data).map_err(|e| e.kind())?;
    assert_eq!(stream.peer_addr().expect("connected"), to);
    Ok(String::from_utf8_lossy(&data[..n]).into_owned())
}

#[test]
fn pods_talk_over_both_families_and_only_as_policy_says() {
    let Some(world) = World::new(3) else { return };
    let (a, b, c) = (world.pod(1), world.pod(2), world.pod(3));
    for ip in [IpAddr::from(pod4(2)), IpAddr::from(pod6(2))] {
        let to = SocketAddr::new(ip, 8080);
        let listener = b.netns.enter(|| TcpListener::bind(to).expect("free"));
        let server = thread::spawn(move || serve_tcp(listener, 4));
        assert_eq!(a.netns.enter(|| ask_tcp(to, PATIENCE)), Ok("HELLO".to_owned()), "{to} without policy");

        // A connection that lives through what comes.
        let mut old = c.netns.enter(|| TcpStream::connect_timeout(&to, PATIENCE).expect("no policy yet"));
        old.set_read_timeout(Some(IMPATIENCE)).expect("not zero");
        let answer = |old: &mut TcpStream| {
            old.write_all(b"x").expect("it is sent into the void at worst");
            old.read(&mut [0; 8]).map_err(|e| e.kind())
        };
        assert_eq!(answer(&mut old), Ok(1));

        world.enforce(2);
        let allowed = PolicyKey::entry(2, 1001, INGRESS, 6, Port::new(8080), 24);
        world.maps().policy.insert(&allowed, &PolicyEntry::default()).expect("room");
        world.revise();
        assert_eq!(a.netns.enter(|| ask_tcp(to, PATIENCE)), Ok("HELLO".to_owned()), "{to} by policy");
        assert_eq!(c.netns.enter(|| ask_tcp(to, IMPATIENCE)), Err(ErrorKind::TimedOut), "{to} against policy");
        assert_eq!(answer(&mut old), Err(ErrorKind::WouldBlock), "an old connection is judged again");

        let also = PolicyKey::entry(2, 1003, INGRESS, 6, Port::new(8080), 24);
        world.maps().policy.insert(&also, &PolicyEntry::default()).expect("room");
        world.revise();
        old.set_read_timeout(Some(PATIENCE * 3)).expect("not zero");
        assert_eq!(old.read(&mut [0; 8]).map_err(|e| e.kind()), Ok(1), "and lives again when it may");
        drop(old);
        assert_eq!(c.netns.enter(|| ask_tcp(to, PATIENCE)), Ok("HELLO".to_owned()));
        server.join().expect("it served");

        for key in [allowed, also] {
            world.maps().policy.remove(&key).expect("it was there");
        }
        let device = world.maps().devices.get(&b.ifindex).expect("readable").expect("there");
        world.maps().devices.insert(&b.ifindex, &Device { flags: 0, ..device }).expect("room");
        world.revise();
    }
}

#[test]
fn services_are_reached_by_others_and_by_their_own_backend() {
    let Some(world) = World::new(2) else { return };
    world.service(80, 2, 8080);
    let (a, b) = (world.pod(1), world.pod(2));
    for (vip, ip) in [(IpAddr::from(VIP4), IpAddr::from(pod4(2))), (IpAddr::from(VIP6), IpAddr::from(pod6(2)))] {
        let to = SocketAddr::new(vip, 80);
        let listener = b.netns.enter(|| TcpListener::bind((ip, 8080)).expect("free"));
        let server = thread::spawn(move || serve_tcp(listener, 2));
        assert_eq!(a.netns.enter(|| ask_tcp(to, PATIENCE)), Ok("HELLO".to_owned()), "{to} from another pod");
        assert_eq!(b.netns.enter(|| ask_tcp(to, PATIENCE)), Ok("HELLO".to_owned()), "{to} from the backend itself");
        server.join().expect("it served");

        // UDP, with datagrams that need fragments, there and back.
        let socket = b.netns.enter(|| UdpSocket::bind((ip, 8080)).expect("free"));
        socket.set_read_timeout(Some(PATIENCE)).expect("not zero");
        let echo = thread::spawn(move || {
            let mut data = vec![0; 9000];
            for _ in 0..2 {
                let (n, from) = socket.recv_from(&mut data).expect("a datagram");
                socket.send_to(&data[..n], from).expect("a way back");
            }
        });
        let any: IpAddr = if vip.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let client = a.netns.enter(|| UdpSocket::bind((any, 0)).expect("free"));
        client.connect(to).expect("a route");
        client.set_read_timeout(Some(PATIENCE)).expect("not zero");
        for len in [100, 4000] {
            client.send(&vec![b'x'; len]).expect("sent");
            assert_eq!(client.recv(&mut [0; 9000]).map_err(|e| e.kind()), Ok(len), "{to} with {len} bytes");
        }
        echo.join().expect("it served");

        // Nobody listens: the error must come back as one about the service.
        client.send(b"anybody?").expect("sent");
        assert_eq!(client.recv(&mut [0; 8]).map_err(|e| e.kind()), Err(ErrorKind::ConnectionRefused), "{to}");
    }
}

#[test]
fn a_service_without_backends_refuses() {
    let Some(world) = World::new(1) else { return };
    world.service(81, 9, 8080);
    let frontend = LbService { count: 0, rev_nat_index: Port::new(81), ..LbService::default() };
    let port = Port::new(81);
    let key4 = LbKey4 { address: VIP4.into(), dport: port, proto: 6, ..LbKey4::default() };
    let key6 = LbKey6 { address: VIP6.into(), dport: port, proto: 6, ..LbKey6::default() };
    world.maps().lb4_services.insert(&key4, &frontend).expect("room");
    world.maps().lb6_services.insert(&key6, &frontend).expect("room");
    for vip in [IpAddr::from(VIP4), IpAddr::from(VIP6)] {
        let to = SocketAddr::new(vip, 81);
        assert_eq!(world.pod(1).netns.enter(|| ask_tcp(to, PATIENCE)), Err(ErrorKind::ConnectionRefused), "{to}");
    }
}

#[test]
fn the_host_and_a_pod_reach_each_other() {
    let Some(world) = World::new(1) else { return };
    let pod = world.pod(1);
    for (host, ip) in [(IpAddr::from(ROUTER4), IpAddr::from(pod4(1))), (IpAddr::from(ROUTER6), IpAddr::from(pod6(1)))] {
        let listener = pod.netns.enter(|| TcpListener::bind((ip, 8080)).expect("free"));
        let server = thread::spawn(move || serve_tcp(listener, 1));
        assert_eq!(ask_tcp(SocketAddr::new(ip, 8080), PATIENCE), Ok("HELLO".to_owned()), "from the host to {ip}");
        server.join().expect("it served");
        let listener = TcpListener::bind((host, 8081)).expect("free");
        let server = thread::spawn(move || serve_tcp(listener, 1));
        let asked = pod.netns.enter(|| ask_tcp(SocketAddr::new(host, 8081), PATIENCE));
        assert_eq!(asked, Ok("HELLO".to_owned()), "from the pod to {host}");
        server.join().expect("it served");
    }
}

#[test]
fn a_pod_may_not_send_from_an_address_of_another() {
    let Some(world) = World::new(2) else { return };
    let (a, b) = (world.pod(1), world.pod(2));
    a.netns.ip(&["addr", "add", "10.9.0.77/32", "dev", "eth0"]);
    let server = b.netns.enter(|| UdpSocket::bind((pod4(2), 9000)).expect("free"));
    server.set_read_timeout(Some(IMPATIENCE)).expect("not zero");
    let own = a.netns.enter(|| UdpSocket::bind((pod4(1), 0)).expect("free"));
    let foreign = a.netns.enter(|| UdpSocket::bind(("10.9.0.77", 0)).expect("free"));
    foreign.send_to(b"x", (pod4(2), 9000)).expect("sent");
    assert_eq!(server.recv(&mut [0; 8]).map_err(|e| e.kind()), Err(ErrorKind::WouldBlock));
    own.send_to(b"x", (pod4(2), 9000)).expect("sent");
    assert_eq!(server.recv(&mut [0; 8]).map_err(|e| e.kind()), Ok(1));
}
