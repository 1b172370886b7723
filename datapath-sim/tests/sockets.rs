//! Services at sockets: whom a program reaches, and whom it is told it reached.

#[path = "support/frontends.rs"]
#[allow(dead_code, reason = "each test file uses a part")]
mod frontends;

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use abi::config::{NODE_BIND_PROTECTION, NODE_SOCK_HOST_ONLY, NODE_TRACE_SOCK, NodeConfig};
use abi::endpoint::{ENDPOINT_HOST, EndpointInfo, EndpointKey};
use abi::event::{SOCK_UDP, TraceSockRecord, xlate};
use abi::ipcache::{IpcacheEntry, IpcacheKey};
use abi::lb::{
    BACKEND_TERMINATING, SERVICE_EXTERNAL_IP, SERVICE_HOST_PORT, SERVICE_LOAD_BALANCER, SERVICE_LOOPBACK_HOST_PORT,
    SERVICE_NODE_PORT,
};
use abi::metrics::{DIR_EGRESS, DIR_INGRESS, MetricsKey, REASON_LB_NO_BACKEND_SLOT, REASON_LB_REVNAT_STALE};
use abi::write::MapWrite;
use datapath_sim::{Caller, Maps, Refused, Socket};
use frontends::{Frontend, backend, service};
use wire::protocol::{SCTP, TCP, UDP};
use zerocopy::FromBytes;

const HOST: u64 = 1;
const POD: u64 = 77;
const NODE: &str = "192.168.1.10";
const OTHER_NODE: &str = "192.168.1.11";

fn at(text: &str) -> SocketAddr {
    text.parse().expect("an address and port")
}

struct Node {
    maps: Maps,
    config: NodeConfig,
    seconds: u64,
    sockets: u64,
}

impl Node {
    fn new() -> Self {
        let config = NodeConfig {
            node_port_min: 30_000,
            node_port_max: 32_767,
            host_netns_cookie: [HOST as u32, 0],
            flags: NODE_BIND_PROTECTION | NODE_TRACE_SOCK,
            monitor_aggregation: 3,
            ..NodeConfig::default()
        };
        let mut node = Self { maps: Maps::new(1), config, seconds: 1000, sockets: 0 };
        let info = EndpointInfo { flags: ENDPOINT_HOST, ..EndpointInfo::default() };
        for own in [NODE, "fd00:1::10"] {
            node.put(&[MapWrite::Lxc(EndpointKey::new(own.parse().expect("an address")), Some(info))]);
        }
        let Ok(IpAddr::V4(other)) = OTHER_NODE.parse() else { unreachable!("it is IPv4") };
        let entry = IpcacheEntry { identity: 6, ..IpcacheEntry::default() };
        node.put(&[MapWrite::Ipcache(IpcacheKey::v4(other.into(), 32), Some(entry))]);
        node
    }
    fn put(&mut self, writes: &[MapWrite]) {
        self.maps.apply(writes).expect("room");
    }
    fn serve(&mut self, frontend: &Frontend) {
        self.put(&frontend.writes());
    }
    fn socket(&mut self, netns: u64, protocol: u8) -> Socket {
        self.sockets += 1;
        Socket { cookie: self.sockets, netns, cgroup: 9, protocol, peer: None }
    }
    fn caller(&mut self) -> Caller<'_> {
        let (now_ns, random) = (self.seconds * 1_000_000_000, self.sockets);
        Caller { maps: &mut self.maps, config: &self.config, now_ns, cpu: 0, random }
    }
    /// A new TCP connection from the namespace.
    fn reach(&mut self, netns: u64, to: &str) -> Result<SocketAddr, Refused> {
        let mut socket = self.socket(netns, TCP);
        self.caller().connect(&mut socket, at(to))
    }
    fn counted(&self, reason: u8, dir: u8) -> u64 {
        self.maps.counted(&MetricsKey::new(reason, dir)).count
    }
}

const PAIRS: [(&str, &str); 2] = [("10.96.0.1:80", "10.0.0.2:8080"), ("[fd96::1]:80", "[fd00::2]:8080")];

#[test]
fn a_connection_goes_to_the_backend_and_its_peer_is_the_frontend() {
    for (frontend, target) in PAIRS {
        let mut node = Node::new();
        node.serve(&Frontend::new(at(frontend), TCP, 1, &[at(target)]));
        for netns in [HOST, POD] {
            let mut socket = node.socket(netns, TCP);
            assert_eq!(node.caller().connect(&mut socket, at(frontend)), Ok(at(target)));
            assert_eq!(node.caller().peer_name(&socket), Ok(at(frontend)));
            // Another protocol or port is no service, and the backend's own address is itself.
            let mut udp = node.socket(netns, UDP);
            assert_eq!(node.caller().connect(&mut udp, at(frontend)), Ok(at(frontend)));
            assert_eq!(node.reach(netns, target), Ok(at(target)));
            let mut other = node.socket(netns, TCP);
            node.caller().connect(&mut other, at(target)).expect("not refused");
            assert_eq!(node.caller().peer_name(&other), Ok(at(target)));
        }
    }
}

#[test]
fn an_ipv6_socket_reaches_ipv4_services_by_mapped_addresses() {
    let mut node = Node::new();
    node.serve(&Frontend::new(at("10.96.0.1:80"), TCP, 1, &[at("10.0.0.2:8080")]));
    let mut socket = node.socket(POD, TCP);
    assert_eq!(node.caller().connect(&mut socket, at("[::ffff:10.96.0.1]:80")), Ok(at("[::ffff:10.0.0.2]:8080")));
    assert_eq!(node.caller().peer_name(&socket), Ok(at("[::ffff:10.96.0.1]:80")));
    // What only looks like one is none.
    for other in ["[::fffe:10.96.0.1]:80", "[::10.96.0.1]:80", "[1::ffff:10.96.0.1]:80"] {
        assert_eq!(node.reach(POD, other), Ok(at(other)));
    }
}

#[test]
fn datagrams_of_a_socket_stay_together_and_answers_come_from_the_frontend() {
    for (frontend, other) in [("10.96.0.10:53", "10.0.0.9:53"), ("[fd96::10]:53", "[fd00::9]:53")] {
        let mut node = Node::new();
        let backends = if frontend.starts_with('[') {
            ["[fd00::2]:5353", "[fd00::3]:5353", "[fd00::4]:5353"].map(at)
        } else {
            ["10.0.0.2:5353", "10.0.0.3:5353", "10.0.0.4:5353"].map(at)
        };
        node.serve(&Frontend::new(at(frontend), UDP, 1, &backends));
        let mut used = BTreeSet::new();
        for _ in 0..30 {
            let socket = node.socket(POD, UDP);
            let to = node.caller().send_to(&socket, at(frontend)).expect("it has backends");
            assert!(backends.contains(&to), "{to}");
            assert_eq!(node.caller().send_to(&socket, at(frontend)), Ok(to));
            assert_eq!(node.caller().receive_from(&socket, to), at(frontend));
            // Who was not asked answers for himself.
            assert_eq!(node.caller().receive_from(&socket, at(other)), at(other));
            used.insert(to);
        }
        assert_eq!(used, backends.into());
    }
}

#[test]
fn tcp_connections_are_spread_and_a_protocol_of_any_serves_both() {
    let mut node = Node::new();
    let backends = ["10.0.0.2:8080", "10.0.0.3:8080"].map(at);
    node.serve(&Frontend::new(at("10.96.0.1:80"), 0, 1, &backends));
    let mut counts = [0; 2];
    for _ in 0..1000 {
        let to = node.reach(POD, "10.96.0.1:80").expect("it has backends");
        counts[usize::from(to == backends[1])] += 1;
    }
    assert!(counts.iter().all(|n| (430..570).contains(n)), "{counts:?}");
    // What sockets do not cover is left to packets.
    let mut sctp = node.socket(POD, SCTP);
    assert_eq!(node.caller().connect(&mut sctp, at("10.96.0.1:80")), Ok(at("10.96.0.1:80")));
}

#[test]
fn a_service_without_backends_refuses() {
    let mut node = Node::new();
    node.serve(&Frontend::new(at("10.96.0.1:80"), 0, 1, &[]));
    assert_eq!(node.reach(POD, "10.96.0.1:80"), Err(Refused::Unreachable));
    let socket = node.socket(POD, UDP);
    assert_eq!(node.caller().send_to(&socket, at("10.96.0.1:80")), Err(Refused::Unreachable));
    assert_eq!(node.counted(REASON_LB_NO_BACKEND_SLOT, DIR_EGRESS), 0);
    // A head that promises a slot which is not there, at last, too; that is counted.
    let broken = Frontend::new(at("10.96.0.2:80"), TCP, 2, &[at("10.0.0.2:80")]);
    node.serve(&broken);
    node.put(&[service(broken.at, TCP, 1, 0, None)]);
    assert_eq!(node.reach(POD, "10.96.0.2:80"), Err(Refused::Unreachable));
    assert_eq!(node.counted(REASON_LB_NO_BACKEND_SLOT, DIR_EGRESS), 1);
}

#[test]
fn a_client_with_affinity_keeps_its_backend_while_that_serves_and_time_is_not_up() {
    for (frontend, backends) in [
        ("10.96.0.1:80", ["10.0.0.2:80", "10.0.0.3:80", "10.0.0.4:80"]),
        ("[fd96::1]:80", ["[fd00::2]:80", "[fd00::3]:80", "[fd00::4]:80"]),
    ] {
        let mut node = Node::new();
        let mut spec = Frontend::new(at(frontend), TCP, 1, &backends.map(at));
        spec.affinity = 100;
        node.serve(&spec);
        let first = node.reach(POD, frontend).expect("it has backends");
        for _ in 0..50 {
            node.seconds += 99; // Each use counts anew.
            assert_eq!(node.reach(POD, frontend), Ok(first));
        }
        let others: BTreeSet<_> = (100..150).map(|netns| node.reach(netns, frontend).expect("backends")).collect();
        assert_eq!(others.len(), 3, "each namespace is a client of its own");
        node.seconds += 100;
        let after: BTreeSet<_> = (0..30)
            .map(|_| {
                node.seconds += 100;
                node.reach(POD, frontend).expect("backends")
            })
            .collect();
        assert!(after.len() > 1, "time was up");
        // A backend that finishes up, or does not serve any more, is left.
        for forget in [false, true] {
            let had = node.reach(POD, frontend).expect("backends");
            let id = spec.backends.iter().find(|(_, to, _)| *to == had).expect("one of them").0;
            if forget {
                node.put(&[frontends::affinity_match(id, 1).deletion(), backend(id, had, 0).deletion()]);
            } else {
                node.put(&[backend(id, had, BACKEND_TERMINATING)]);
            }
            let rest: Vec<u32> = spec.backends.iter().map(|(id, ..)| *id).filter(|other| *other != id).collect();
            let smaller = Frontend {
                backends: spec.backends.iter().filter(|(id, ..)| rest.contains(id)).copied().collect(),
                ..spec.clone()
            };
            node.serve(&smaller);
            let now = node.reach(POD, frontend).expect("others");
            assert_ne!(now, had);
            assert_eq!(node.reach(POD, frontend), Ok(now));
            spec = smaller;
        }
    }
}

#[test]
fn node_ports_are_at_every_address_of_a_node_and_at_the_hosts_own_loopback() {
    for (any, own, loopback, target) in [
        ("0.0.0.0:30080", "192.168.1.10:30080", "127.0.0.1:30080", "10.0.0.2:8080"),
        ("[::]:30080", "[fd00:1::10]:30080", "[::1]:30080", "[fd00::2]:8080"),
    ] {
        let mut node = Node::new();
        let mut spec = Frontend::new(at(any), TCP, 1, &[at(target)]);
        spec.flags.0 = SERVICE_NODE_PORT;
        node.serve(&spec);
        assert_eq!(node.reach(POD, own), Ok(at(target)));
        assert_eq!(node.reach(HOST, own), Ok(at(target)));
        assert_eq!(node.reach(HOST, loopback), Ok(at(target)));
        // In a pod, loopback and the unspecified address are the pod.
        assert_eq!(node.reach(POD, loopback), Ok(at(loopback)));
        assert_eq!(node.reach(POD, any), Ok(at(any)));
        let mut socket = node.socket(HOST, TCP);
        node.caller().connect(&mut socket, at(loopback)).expect("it has a backend");
        assert_eq!(node.caller().peer_name(&socket), Ok(at(loopback)));
    }
    let mut node = Node::new();
    let mut spec = Frontend::new(at("0.0.0.0:30080"), TCP, 1, &[at("10.0.0.2:8080")]);
    spec.flags.0 = SERVICE_NODE_PORT;
    node.serve(&spec);
    assert_eq!(node.reach(POD, "192.168.1.11:30080"), Ok(at("10.0.0.2:8080")), "another node's");
    assert_eq!(node.reach(POD, "10.0.0.9:30080"), Ok(at("10.0.0.9:30080")), "no node's");
    assert_eq!(node.reach(POD, "192.168.1.10:30081"), Ok(at("192.168.1.10:30081")), "no service's");
}

#[test]
fn host_ports_are_this_nodes_alone_and_some_are_loopbacks_alone() {
    let mut node = Node::new();
    let mut spec = Frontend::new(at("0.0.0.0:8443"), TCP, 1, &[at("10.0.0.2:443")]);
    spec.flags.0 = SERVICE_HOST_PORT;
    node.serve(&spec);
    assert_eq!(node.reach(POD, "192.168.1.10:8443"), Ok(at("10.0.0.2:443")));
    assert_eq!(node.reach(POD, "192.168.1.11:8443"), Ok(at("192.168.1.11:8443")));
    assert_eq!(node.reach(HOST, "127.0.0.1:8443"), Ok(at("10.0.0.2:443")));
    spec.flags.1 = SERVICE_LOOPBACK_HOST_PORT;
    node.serve(&spec);
    assert_eq!(node.reach(HOST, "127.0.0.1:8443"), Ok(at("10.0.0.2:443")));
    assert_eq!(node.reach(HOST, "192.168.1.10:8443"), Ok(at("192.168.1.10:8443")));
}

#[test]
fn an_external_address_is_translated_only_where_it_is_the_nodes() {
    let mut node = Node::new();
    for (id, frontend) in [(1, "203.0.113.5:80"), (2, "192.168.1.10:80")] {
        let mut spec = Frontend::new(at(frontend), TCP, id, &[at("10.0.0.2:8080")]);
        spec.flags.0 = SERVICE_EXTERNAL_IP;
        node.serve(&spec);
    }
    assert_eq!(node.reach(POD, "203.0.113.5:80"), Ok(at("203.0.113.5:80")));
    assert_eq!(node.reach(POD, "192.168.1.10:80"), Ok(at("10.0.0.2:8080")));
}

#[test]
fn sockets_are_inside_traffic() {
    let mut node = Node::new();
    let mut spec = Frontend::new(at("198.51.100.7:80"), TCP, 1, &["10.0.0.2:80", "10.1.0.2:80"].map(at));
    spec.flags.0 = SERVICE_LOAD_BALANCER;
    spec.inner = Some(vec![101]);
    node.serve(&spec);
    for _ in 0..20 {
        assert_eq!(node.reach(POD, "198.51.100.7:80"), Ok(at("10.1.0.2:80")));
    }
    spec.inner = Some(Vec::new());
    node.serve(&spec);
    assert_eq!(node.reach(POD, "198.51.100.7:80"), Err(Refused::Unreachable));
}

#[test]
fn with_host_only_pods_are_left_to_their_packets() {
    let mut node = Node::new();
    node.config.flags |= NODE_SOCK_HOST_ONLY;
    node.serve(&Frontend::new(at("10.96.0.1:80"), TCP, 1, &[at("10.0.0.2:8080")]));
    assert_eq!(node.reach(POD, "10.96.0.1:80"), Ok(at("10.96.0.1:80")));
    assert_eq!(node.reach(HOST, "10.96.0.1:80"), Ok(at("10.0.0.2:8080")));
}

#[test]
fn what_was_remembered_of_a_service_that_went_is_forgotten() {
    let mut node = Node::new();
    let spec = Frontend::new(at("10.96.0.10:53"), UDP, 1, &[at("10.0.0.2:5353")]);
    node.serve(&spec);
    let socket = node.socket(POD, UDP);
    let to = node.caller().send_to(&socket, spec.at).expect("it has a backend");
    node.put(&spec.deletions());
    assert_eq!(node.caller().receive_from(&socket, to), to);
    assert_eq!((node.maps.lb4_reverse_sk.len(), node.counted(REASON_LB_REVNAT_STALE, DIR_INGRESS)), (0, 1));
    // The same address as another service.
    node.serve(&spec);
    node.caller().send_to(&socket, spec.at).expect("it has a backend");
    node.put(&spec.deletions());
    node.serve(&Frontend::new(spec.at, UDP, 2, &[at("10.0.0.2:5353")]));
    assert_eq!(node.caller().receive_from(&socket, to), to);
}

#[test]
fn the_host_may_not_bind_what_services_have_outside() {
    let mut node = Node::new();
    let mut port = Frontend::new(at("0.0.0.0:30080"), TCP, 1, &[at("10.0.0.2:8080")]);
    port.flags.0 = SERVICE_NODE_PORT;
    let mut external = Frontend::new(at("192.168.1.10:80"), TCP, 2, &[at("10.0.0.2:8080")]);
    external.flags.0 = SERVICE_EXTERNAL_IP;
    node.serve(&port);
    node.serve(&external);
    node.serve(&Frontend::new(at("192.168.1.10:81"), TCP, 3, &[at("10.0.0.2:8080")]));
    let mut bind = |netns, protocol, to: &str| {
        let socket = node.socket(netns, protocol);
        node.caller().bind(&socket, at(to)).is_ok()
    };
    for taken in [
        "0.0.0.0:30080",
        "127.0.0.1:30080",
        "192.168.1.10:30080",
        "192.168.1.10:80",
        "[::]:30080",
        "[::ffff:0.0.0.0]:30080",
    ] {
        assert!(!bind(HOST, TCP, taken), "{taken}");
        assert!(bind(POD, TCP, taken), "a pod has ports of its own: {taken}");
        assert!(bind(HOST, UDP, taken), "another protocol: {taken}");
    }
    for free in ["0.0.0.0:30081", "192.168.1.10:81", "10.9.9.9:30080", "[fd00:1::10]:30080", "0.0.0.0:80"] {
        assert!(bind(HOST, TCP, free), "{free}");
    }
    node.config.flags &= !NODE_BIND_PROTECTION;
    let socket = node.socket(HOST, TCP);
    assert_eq!(node.caller().bind(&socket, at("0.0.0.0:30080")), Ok(()));
}

#[test]
fn what_is_new_about_a_socket_is_told_once_and_everything_without_aggregation() {
    let told = |node: &mut Node| {
        let records = std::iter::from_fn(|| node.maps.events.pop());
        records
            .map(|record| {
                let record = TraceSockRecord::read_from_bytes(&record).expect("a whole record");
                let [a, b, c, d, ..] = record.notify.dst_ip;
                let to = SocketAddr::new(Ipv4Addr::new(a, b, c, d).into(), record.notify.dst_port);
                assert_eq!((record.notify.cookie(), record.notify.cgroup(), record.notify.l4_proto), (1, 9, SOCK_UDP));
                (record.notify.xlate_point, to)
            })
            .collect::<Vec<_>>()
    };
    let (frontend, target) = (at("10.96.0.10:53"), at("10.0.0.2:5353"));
    let mut node = Node::new();
    node.serve(&Frontend::new(frontend, UDP, 1, &[target]));
    let socket = node.socket(POD, UDP);
    let forward = [(xlate::PRE_FORWARD, frontend), (xlate::POST_FORWARD, target)];
    let reverse = [(xlate::PRE_REVERSE, target), (xlate::POST_REVERSE, frontend)];
    for expected in [&forward[..], &[]] {
        node.caller().send_to(&socket, frontend).expect("a backend");
        assert_eq!(told(&mut node), expected);
        node.caller().receive_from(&socket, target);
        assert_eq!(told(&mut node), []);
    }
    node.config.monitor_aggregation = 0;
    node.caller().send_to(&socket, frontend).expect("a backend");
    assert_eq!(told(&mut node), forward);
    node.caller().receive_from(&socket, target);
    assert_eq!(told(&mut node), reverse);
    node.config.flags &= !NODE_TRACE_SOCK;
    node.caller().send_to(&socket, frontend).expect("a backend");
    assert_eq!(told(&mut node), []);
}
