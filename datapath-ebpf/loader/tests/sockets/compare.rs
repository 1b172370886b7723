//! The same services and the same calls in the kernel and in the simulator.
//!
//! Where a backend is drawn at random, the simulator must be able to draw the kernel's, and then goes on from there; all the
//! rest must be equal at once. In the end the maps the programs wrote are compared.

use std::{
    collections::BTreeSet,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
};

use abi::{
    endpoint::{ENDPOINT_HOST, EndpointInfo, EndpointKey},
    ipcache::{IpcacheEntry, IpcacheKey},
    lb::{
        BACKEND_ACTIVE, BACKEND_TERMINATING, SERVICE_EXTERNAL_IP, SERVICE_HOST_PORT, SERVICE_LOAD_BALANCER,
        SERVICE_LOOPBACK_HOST_PORT, SERVICE_NODE_PORT,
    },
    write::MapWrite,
};
use datapath_sim::{Caller, Maps, Refused, Socket};

use crate::{
    frontends::Frontend,
    support::{self, netns::Namespace},
    world::{Node, PATIENCE, SERVERS, Servers, addresses, backend_ip, cookie, frontend_ip, netns_cookie, node_ip},
};

const TCP: u8 = 6;
const UDP: u8 = 17;
/// Draws after which the simulator is taken to be unable to do what the kernel did.
const DRAWS: u64 = 500;
/// Calls in each namespace.
const CALLS: u32 = 1500;

/// Splitmix64.
struct Rng(u64);

impl Rng {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ z >> 31) % bound
    }
    fn one<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize]
    }
    fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

#[test]
fn kernel_and_simulator_answer_socket_calls_alike() {
    let Some(node) = Node::with(|sizes| {
        // Their eviction is the kernel's own affair.
        sizes.retain(|name, _| !name.ends_with("reverse_sk") && !name.ends_with("affinity"));
    }) else {
        return;
    };
    let mut arms = Arms { sim: Maps::new(1), rng: Rng(2026), node: &node, services: Vec::new(), seen: Seen::default() };
    arms.addresses();
    let [host, pod] = [&node.host, &node.pod].map(|namespace| namespace.enter(|| Servers::start(&addresses())));
    node.attach();
    for (namespace, servers) in [(&node.host, &host), (&node.pod, &pod)] {
        let netns = netns_cookie(namespace);
        arms.calls(namespace, netns, servers);
    }
    arms.compare_maps();
    let seen = arms.seen;
    eprintln!("{seen:?}");
    // The comparison is worth something only where all of these happened.
    for (what, count) in [
        ("translated", seen.translated),
        ("untouched", seen.untouched),
        ("refused", seen.refused),
        ("answers", seen.answers),
        ("peers", seen.peers),
        ("forbidden binds", seen.forbidden),
        ("allowed binds", seen.allowed),
    ] {
        assert!(count >= 20, "{what}: only {count}");
    }
}

#[derive(Debug, Default)]
struct Seen {
    translated: u32,
    untouched: u32,
    refused: u32,
    answers: u32,
    peers: u32,
    forbidden: u32,
    allowed: u32,
}

struct Arms<'a> {
    sim: Maps,
    rng: Rng,
    node: &'a Node,
    services: Vec<Frontend>,
    seen: Seen,
}

/// What a call did, in the simulator's words.
type Answer = Result<SocketAddr, Refused>;

impl Arms<'_> {
    fn put(&mut self, writes: &[MapWrite]) {
        self.node.put(writes);
        self.sim.apply(writes).expect("room");
    }

    /// The node's own address, and one of another node.
    fn addresses(&mut self) {
        for v6 in [false, true] {
            let info = EndpointInfo { flags: ENDPOINT_HOST, ..EndpointInfo::default() };
            let other = match frontend_ip(4, v6) {
                IpAddr::V4(ip) => IpcacheKey::v4(ip.into(), 32),
                IpAddr::V6(ip) => IpcacheKey::v6(ip.into(), 128),
            };
            let entry = IpcacheEntry { identity: 6, ..IpcacheEntry::default() };
            self.put(&[
                MapWrite::Lxc(EndpointKey::new(node_ip(v6)), Some(info)),
                MapWrite::Ipcache(other, Some(entry)),
            ]);
        }
    }

    /// A service appears, changes or goes.
    fn change_services(&mut self) {
        let v6 = self.rng.chance(50);
        let any: IpAddr = if v6 { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
        let (at, flags) = match self.rng.below(6) {
            0 | 1 => (SocketAddr::new(any, self.rng.one(&[30_080, 30_081, 30_090, 30_091])), (SERVICE_NODE_PORT, 0)),
            2 => {
                let flags2 = self.rng.one(&[0, SERVICE_LOOPBACK_HOST_PORT]);
                (SocketAddr::new(any, self.rng.one(&[81, 7002])), (SERVICE_HOST_PORT, flags2))
            }
            3 => {
                let ip = self.rng.one(&[node_ip(v6), frontend_ip(3, v6)]);
                let kind = self.rng.one(&[SERVICE_EXTERNAL_IP, SERVICE_LOAD_BALANCER]);
                (SocketAddr::new(ip, self.rng.one(&[80, 7001])), (kind, 0))
            }
            _ => {
                let ip = frontend_ip(self.rng.one(&[1, 2, 4]), v6);
                (SocketAddr::new(ip, self.rng.one(&[80, 81, 7001])), (0, 0))
            }
        };
        let proto = self.rng.one(&[0, TCP, UDP]);
        let known = self.services.iter().position(|service| (service.at, service.proto) == (at, proto));
        if let Some(known) = known {
            let old = self.services.remove(known);
            self.put(&old.deletions());
            if self.rng.chance(30) {
                return;
            }
        }
        let used: Vec<u16> = self.services.iter().map(|service| service.id).collect();
        let id = (1..).find(|id| !used.contains(id)).expect("few are used");
        let count = self.rng.below(5) as usize;
        // Each once: of two with one address nobody could tell which was chosen.
        let targets: BTreeSet<SocketAddr> = (0..count)
            .map(|_| SocketAddr::new(backend_ip(1 + self.rng.below(4) as u8, v6), self.rng.one(&SERVERS)))
            .collect();
        let targets: Vec<SocketAddr> = targets.into_iter().collect();
        let mut service = Frontend::new(at, proto, id, &targets);
        for (.., state) in &mut service.backends {
            *state = if self.rng.chance(15) { BACKEND_TERMINATING } else { BACKEND_ACTIVE };
        }
        service.flags = flags;
        service.affinity = if self.rng.chance(40) { 10_000 } else { 0 };
        if flags.0 & (SERVICE_NODE_PORT | SERVICE_LOAD_BALANCER) != 0 && self.rng.chance(30) {
            let inner = service.backends.iter().filter(|(.., state)| *state == BACKEND_ACTIVE).map(|(id, ..)| *id);
            service.inner = Some(inner.take(1).collect());
        }
        self.put(&service.writes());
        self.services.push(service);
    }

    fn destination(&mut self) -> SocketAddr {
        let v6 = self.rng.chance(50);
        let loopback: IpAddr = if v6 { Ipv6Addr::LOCALHOST.into() } else { Ipv4Addr::LOCALHOST.into() };
        let ip = match self.rng.below(8) {
            0 => loopback,
            1 | 2 => node_ip(v6),
            3 => backend_ip(1, v6),
            _ => frontend_ip(self.rng.one(&[1, 2, 3, 4]), v6),
        };
        let port = self.rng.one(&[80, 81, 7001, 7002, 30_080, 30_081]);
        match ip {
            IpAddr::V4(ip) if self.rng.chance(30) => SocketAddr::new(ip.to_ipv6_mapped().into(), port),
            ip => SocketAddr::new(ip, port),
        }
    }

    fn calls(&mut self, namespace: &Namespace, netns: u64, servers: &Servers) {
        for n in 0..CALLS {
            if n % 3 == 0 {
                self.change_services();
            }
            let (kind, to) = (self.rng.below(10), self.destination());
            match kind {
                0..=3 => namespace.enter(|| self.connect_tcp(netns, servers, to)),
                4..=8 => {
                    let more: Vec<SocketAddr> = (0..2).map(|_| self.destination()).collect();
                    namespace.enter(|| self.datagrams(netns, servers, to, &more, kind % 2 == 0));
                }
                _ => namespace.enter(|| self.bind(netns)),
            }
        }
    }

    /// Runs a call in the simulator so that it does what the kernel did, drawing until it does.
    fn agree(&mut self, what: &str, kernel: &Answer, call: impl Fn(&mut Caller<'_>) -> Answer) {
        let now_ns = support::coarse_clock();
        let config = &self.node.config;
        let mut answers = Vec::new();
        for random in 0..DRAWS {
            let mut maps = self.sim.clone();
            let answer = call(&mut Caller { maps: &mut maps, config, now_ns, cpu: 0, random });
            if plain(&answer) == plain(kernel) {
                self.sim = maps;
                return;
            }
            answers.push(answer);
        }
        panic!("{what}: the kernel says {kernel:?}, the simulator {:?}; services {:#?}", answers[0], self.services);
    }

    fn exactly<T: PartialEq + std::fmt::Debug>(&mut self, what: &str, kernel: &T, call: impl Fn(&mut Caller<'_>) -> T) {
        let (now_ns, config) = (support::coarse_clock(), &self.node.config);
        let answer = call(&mut Caller { maps: &mut self.sim, config, now_ns, cpu: 0, random: 0 });
        assert!(
            answer == *kernel,
            "{what}: the kernel says {kernel:?}, the simulator {answer:?}; {:#?}",
            self.services
        );
    }

    fn count(&mut self, to: SocketAddr, answer: &Answer) {
        match answer {
            Ok(there) if *there == canonical(to) => self.seen.untouched += 1,
            Ok(_) => self.seen.translated += 1,
            Err(_) => self.seen.refused += 1,
        }
    }

    fn connect_tcp(&mut self, netns: u64, servers: &Servers, to: SocketAddr) {
        let (kernel, stream) = match TcpStream::connect(to) {
            Ok(stream) => (Ok(servers.accepted()), Some(stream)),
            // Nobody listens there, so it was left alone: backends all have servers.
            Err(why) if why.raw_os_error() == Some(libc::ECONNREFUSED) => (Ok(canonical(to)), None),
            Err(why) => (Err(refusal(&why)), None),
        };
        self.count(to, &kernel);
        let number = stream.as_ref().map_or(0, cookie);
        let mut socket = Socket { cookie: number, netns, cgroup: 0, protocol: TCP, peer: None };
        self.agree(&format!("TCP to {to}"), &kernel, |caller| caller.connect(&mut socket.clone(), to));
        let (Some(stream), Ok(there)) = (stream, kernel) else { return };
        socket.peer = Some(in_family_of(to, there));
        self.seen.peers += 1;
        let peer = stream.peer_addr().map_err(|why| refusal(&why));
        self.exactly(&format!("TCP peer of {to}"), &peer, |caller| caller.peer_name(&socket));
    }

    fn datagrams(&mut self, netns: u64, servers: &Servers, to: SocketAddr, more: &[SocketAddr], connected: bool) {
        let own: SocketAddr = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }.parse().expect("a literal");
        let client = UdpSocket::bind(own).expect("a port");
        client.set_read_timeout(Some(PATIENCE)).expect("a socket");
        let mut socket = Socket { cookie: cookie(&client), netns, cgroup: 0, protocol: UDP, peer: None };
        if connected {
            let what = format!("UDP connection to {to}");
            let (now_ns, config) = (support::coarse_clock(), &self.node.config);
            // By the socket's number, so the simulator knows before.
            let mut caller = Caller { maps: &mut self.sim, config, now_ns, cpu: 0, random: 0 };
            let expected = caller.connect(&mut socket, to);
            let kernel = client.connect(to).map_err(|why| refusal(&why));
            assert_eq!(kernel, expected.map(drop), "{what}; {:#?}", self.services);
            self.count(to, &expected.map(canonical));
            let Ok(there) = expected else { return };
            self.seen.peers += 1;
            let peer = client.peer_addr().map_err(|why| refusal(&why));
            self.exactly(&what, &peer, |caller| caller.peer_name(&socket));
            if SERVERS.contains(&there.port()) {
                client.send(b"x").expect("loopback");
                self.hear(&client, &socket, servers, there);
            }
            return;
        }
        let destinations = std::iter::once(&to).chain(more.iter().filter(|other| other.is_ipv4() == to.is_ipv4()));
        for to in destinations {
            let (now_ns, config) = (support::coarse_clock(), &self.node.config);
            let mut caller = Caller { maps: &mut self.sim, config, now_ns, cpu: 0, random: 0 };
            let expected = caller.send_to(&socket, *to);
            let kernel = client.send_to(b"x", to).map_err(|why| refusal(&why));
            assert_eq!(kernel, expected.map(|_| 1), "UDP to {to}; {:#?}", self.services);
            self.count(*to, &expected.map(canonical));
            if let Ok(there) = expected
                && SERVERS.contains(&there.port())
            {
                self.hear(&client, &socket, servers, there);
            }
        }
    }

    /// The datagram arrives where the simulator says, and the client is told the answer's sender as the simulator tells it.
    fn hear(&mut self, client: &UdpSocket, socket: &Socket, servers: &Servers, there: SocketAddr) {
        servers.echo(canonical(there));
        let from = client.recv_from(&mut [0; 8]).expect("an answer").1;
        self.seen.answers += 1;
        self.exactly(&format!("an answer of {there}"), &from, |caller| caller.receive_from(socket, there));
    }

    fn bind(&mut self, netns: u64) {
        let v6 = self.rng.chance(50);
        let any: IpAddr = if v6 { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
        let loopback: IpAddr = if v6 { Ipv6Addr::LOCALHOST.into() } else { Ipv4Addr::LOCALHOST.into() };
        let ip = self.rng.one(&[any, any, loopback, node_ip(v6), frontend_ip(3, v6), backend_ip(2, v6)]);
        let at = SocketAddr::new(ip, self.rng.one(&[80, 81, 30_090, 30_090, 30_091]));
        let protocol = self.rng.one(&[TCP, UDP]);
        let bound = if protocol == TCP { TcpListener::bind(at).map(drop) } else { UdpSocket::bind(at).map(drop) };
        let kernel = bound.map_err(|why| refusal(&why));
        *(if kernel.is_ok() { &mut self.seen.allowed } else { &mut self.seen.forbidden }) += 1;
        let socket = Socket { cookie: 0, netns, cgroup: 0, protocol, peer: None };
        self.exactly(&format!("bind {protocol} {at}"), &kernel, |caller| caller.bind(&socket, at));
    }

    fn compare_maps(&self) {
        let maps = self.node.datapath.maps();
        macro_rules! equal {
            ($table:ident, $drop_time:expr) => {
                let mut kernel = maps.$table.entries().expect("readable");
                kernel.sort_unstable();
                let simulated = self.sim.$table.iter().map(|(key, value)| (*key, *value));
                let (kernel, simulated): (Vec<_>, Vec<_>) =
                    (kernel.into_iter().map($drop_time).collect(), simulated.map($drop_time).collect());
                assert!(!kernel.is_empty(), "{}: nothing was remembered", stringify!($table));
                assert_eq!(kernel, simulated, "{}", stringify!($table));
            };
        }
        equal!(lb4_reverse_sk, |entry| entry);
        equal!(lb6_reverse_sk, |entry| entry);
        // A second may turn between the two arms.
        equal!(lb4_affinity, |(key, value)| (key, value.backend_id));
        equal!(lb6_affinity, |(key, value)| (key, value.backend_id));
    }
}

fn canonical(at: SocketAddr) -> SocketAddr {
    SocketAddr::new(at.ip().to_canonical(), at.port())
}

/// As a socket that was asked for `to` names it.
fn in_family_of(to: SocketAddr, at: SocketAddr) -> SocketAddr {
    match (to, at) {
        (SocketAddr::V6(_), SocketAddr::V4(at)) => SocketAddr::new(at.ip().to_ipv6_mapped().into(), at.port()),
        _ => at,
    }
}

fn plain(answer: &Answer) -> Answer {
    answer.map(canonical)
}

fn refusal(why: &io::Error) -> Refused {
    match why.raw_os_error() {
        Some(libc::EHOSTUNREACH) => Refused::Unreachable,
        Some(libc::ENOMEM) => Refused::NoMemory,
        Some(libc::EPERM) => Refused::NotPermitted,
        Some(libc::ENOTCONN) => Refused::NotConnected,
        _ => panic!("the kernel refuses for a reason of its own: {why}"),
    }
}
