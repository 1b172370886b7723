//! Which backend a client gets, and whether it gets one at all.

use std::{
    collections::BTreeMap,
    io::{ErrorKind, Read, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket},
};

use abi::config::LB_MAGLEV;
use lb::{BackendState, ServiceType};
use types::Cidr;

use crate::{
    converse,
    net::{PATIENCE, Server, ask, transfer},
    node::{Addr, At, CLIENT, LED_HERE, Node, pod, remote},
};

/// Backends of the other node.
const BACKENDS: std::ops::Range<u8> = 11..16;
/// Source ports of flows, within the range from which ports are allocated: they stay what they are.
const FLOWS: std::ops::Range<u16> = 40_000..40_300;
/// How long somebody waits who is not answered.
const SHORTLY: std::time::Duration = std::time::Duration::from_millis(300);

fn backends() -> Vec<Addr> {
    BACKENDS.map(remote).collect()
}

/// Servers at the backends' addresses, on the other node.
fn servers(node: &Node, v6: bool) -> Vec<Server> {
    let start = |addr: &Addr| {
        node.other.add_address(addr.of(v6), "lo");
        Server::start(&node.other, SocketAddr::new(addr.of(v6), 8080))
    };
    backends().iter().map(start).collect()
}

/// Sends a datagram from each port, and says which server got it.
fn placed(node: &Node, servers: &[Server], to: SocketAddr) -> BTreeMap<u16, usize> {
    node.client.enter(|| {
        for port in FLOWS {
            let socket = UdpSocket::bind(SocketAddr::new(CLIENT.of(to.is_ipv6()), port)).expect("free");
            socket.connect(to).expect("there is a route");
            socket.set_read_timeout(Some(PATIENCE)).expect("not zero");
            socket.send(b"?").expect("there is room");
            socket.recv(&mut [0; 8]).unwrap_or_else(|e| panic!("from port {port} to {to}: {e}"));
        }
    });
    let of = |(at, server): (usize, &Server)| server.ends().into_iter().map(move |peer| (peer.port(), at));
    let placed: BTreeMap<u16, usize> = servers.iter().enumerate().flat_map(of).collect();
    assert_eq!(placed.len(), FLOWS.len(), "one backend each");
    placed
}

/// Connections that are known are forgotten, as after a restart of everything or on another node.
fn forget(node: &Node) {
    node.maps().ct_any4.clear().expect("it can be emptied");
    node.maps().ct_any6.clear().expect("it can be emptied");
}

/// The same flow gets the same backend without anybody remembering it; when a backend goes, its flows go to others and of the
/// others' hardly any; connections that are open stay where they are.
#[test]
fn maglev_places_flows_and_hardly_moves_them() {
    let Some(node) = Node::new(At::XdpNative, |config| config.lb_flags |= LB_MAGLEV) else { return };
    let mut node = node.with_maglev();
    let [all, fewer] = [backends(), backends()[1..].to_vec()];
    for v6 in [false, true] {
        let servers = servers(&node, v6);
        let to = Node::frontend(30_100, v6);
        node.service(30_100, &all, |_| {});
        let before = placed(&node, &servers, to);
        for (at, count) in counts(&before).into_iter().enumerate() {
            assert!((30..100).contains(&count), "{at} got {count} of {}, expected about 60", FLOWS.len());
        }
        forget(&node);
        assert_eq!(placed(&node, &servers, to), before, "nobody remembers, all stay");
        let open = connected(&node, to);
        servers.iter().for_each(|server| drop(server.ends()));
        forget(&node);
        node.service(30_100, &fewer, |_| {});
        let after = placed(&node, &servers, to);
        assert!(after.values().all(|at| *at != 0), "it is gone");
        let moved = before.iter().filter(|(port, at)| **at != 0 && after[*port] != **at).count();
        // Of this table's places 0.9 % move; three times as many of 240 flows would be a wrong table.
        assert!(moved <= 7, "{moved} flows of backends that stayed moved");
        let stayed = open.iter().filter(|(stream, _)| speaks(stream)).count();
        assert!(stayed >= 60, "{stayed} of 100 open connections live; a fifth was with the backend that went");
    }
}

fn counts(placed: &BTreeMap<u16, usize>) -> [usize; 5] {
    let mut counts = [0; 5];
    placed.values().for_each(|at| counts[*at] += 1);
    counts
}

/// A hundred open connections, each proven, with their source ports.
fn connected(node: &Node, to: SocketAddr) -> Vec<(TcpStream, u16)> {
    node.client.enter(|| {
        let one = |_| {
            let stream = TcpStream::connect_timeout(&to, PATIENCE).expect("the service answers");
            stream.set_read_timeout(Some(PATIENCE)).expect("not zero");
            assert!(speaks(&stream), "a new connection");
            let port = stream.local_addr().expect("connected").port();
            (stream, port)
        };
        (0..100).map(one).collect()
    })
}

fn speaks(mut stream: &TcpStream) -> bool {
    stream.write_all(b"x").is_ok() && stream.read_exact(&mut [0]).is_ok()
}

/// Places that change in the kernel's table when one of a hundred backends goes, besides those of the one that went.
#[test]
fn of_a_table_of_a_hundred_backends_few_places_move() {
    let Some(node) = Node::new(At::Tc, |config| config.lb_flags |= LB_MAGLEV) else { return };
    let mut node = node.with_maglev();
    let all: Vec<Addr> = (1..=100).map(remote).collect();
    node.service(30_101, &all, |_| {});
    let index = node.maps().lb4_maglev.indexes().expect("readable")[0];
    let before = node.maps().lb4_maglev.get(index).expect("readable").expect("there");
    node.service(30_101, &all[..99], |_| {});
    let after = node.maps().lb4_maglev.get(index).expect("readable").expect("there");
    let gone = before.iter().find(|id| !after.contains(id)).expect("one went");
    let [had, moved] = [
        before.iter().filter(|id| *id == gone).count(),
        before.iter().zip(&after).filter(|(old, new)| *old != gone && old != new).count(),
    ];
    eprintln!("{had} places were the backend's that went; {moved} of {} others moved", before.len() - had);
    assert!(had > 0 && moved <= before.len() / 50, "{moved} of {} moved", before.len());
}

/// New connections go elsewhere, those that are open live on, also with the one that ends.
#[test]
fn a_backend_that_terminates_keeps_what_it_has() {
    let Some(mut node) = Node::new(At::XdpNative, |_| {}) else { return };
    for v6 in [false, true] {
        let servers = servers(&node, v6);
        let to = Node::frontend(30_102, v6);
        node.service(30_102, &backends(), |_| {});
        let open = connected(&node, to);
        let with_first = servers[0].ends().len();
        assert!(with_first > 5, "some are with the one that will end");
        servers.iter().for_each(|server| drop(server.ends()));
        node.service(30_102, &backends(), |spec| {
            spec.backends[0].state = BackendState::Terminating;
        });
        let more = connected(&node, to);
        assert!(servers[0].ends().is_empty(), "it takes nothing new");
        let dead = open.iter().chain(&more).filter_map(|(s, port)| (!speaks(s)).then_some(*port));
        assert_eq!(dead.collect::<Vec<_>>(), Vec::<u16>::new());
    }
}

/// A client, whatever port it comes from, keeps its backend until it has not come for so long.
#[test]
fn a_client_keeps_its_backend_until_the_time_is_up() {
    for at in [At::Tc, At::XdpNative] {
        let Some(mut node) = Node::new(at, |_| {}) else { return };
        for v6 in [false, true] {
            let servers = servers(&node, v6);
            let to = Node::frontend(30_103, v6);
            node.service(30_103, &backends(), |spec| spec.attributes.affinity_seconds = 60);
            let used = |node: &Node| {
                let connect = || transfer(to, 10).unwrap_or_else(|e| panic!("{at:?} {to}: {e}"));
                node.client.enter(|| (0..20).for_each(|_| connect()));
                servers.iter().filter(|server| !server.ends().is_empty()).count()
            };
            assert_eq!(used(&node), 1, "{at:?}: all to one");
            // As if the last of them had been a minute ago: the next one chooses anew, and the rest follow it.
            let chosen: std::collections::BTreeSet<usize> = (0..12)
                .map(|_| {
                    age(&node, v6, 61);
                    node.client.enter(|| transfer(to, 10)).unwrap_or_else(|e| panic!("{at:?} {to}: {e}"));
                    servers.iter().position(|server| !server.ends().is_empty()).expect("one was asked")
                })
                .collect();
            assert!(chosen.len() > 1, "{at:?}: nobody is kept for ever");
            assert_eq!(used(&node), 1, "{at:?}: all to one again");
            node.service(30_103, &backends(), |spec| spec.attributes.affinity_seconds = 0);
            assert!(used(&node) > 1, "{at:?}: without affinity each connection chooses");
        }
    }
}

/// Makes every client's last visit so many seconds older.
fn age(node: &Node, v6: bool, seconds: u64) {
    macro_rules! older {
        ($table:expr) => {
            for (key, mut value) in $table.entries().expect("readable") {
                value.last_used -= seconds;
                $table.insert(&key, &value).expect("it is there");
            }
        };
    }
    if v6 {
        older!(node.maps().lb6_affinity);
    } else {
        older!(node.maps().lb4_affinity);
    }
}

/// Whoever is in a range is served; whoever is not is not answered, and counted.
#[test]
fn ranges_of_sources_let_in_who_is_named() {
    const STRANGER: Addr =
        Addr(Ipv4Addr::new(192, 168, 50, 77), std::net::Ipv6Addr::new(0xfd50, 0, 0, 0, 0, 0, 0, 0x77));
    for at in At::ALL {
        let Some(mut node) = Node::new(at, |_| {}) else { return };
        for v6 in [false, true] {
            let servers = servers(&node, v6);
            let bits = if v6 { 128 } else { 32 };
            let only = Cidr::new(CLIENT.of(v6), bits).expect("a whole address");
            let to = SocketAddr::new(LED_HERE.of(v6), 80);
            let ranges = |spec: &mut lb::ServiceSpec| {
                if spec.frontend.ip.is_ipv6() == v6 {
                    spec.attributes.source_ranges = vec![only];
                }
            };
            node.service_at(LED_HERE, 80, &backends(), ranges);
            node.client.enter(|| transfer(to, 1000)).unwrap_or_else(|e| panic!("{at:?} {to}: {e}"));
            node.client.add_address(STRANGER.of(v6), "eth0");
            let before = node.host.dropped(177);
            let heard = node.client.enter(|| from(STRANGER.of(v6), to));
            assert!(matches!(heard, Err(ErrorKind::WouldBlock | ErrorKind::TimedOut)), "{at:?}: {heard:?}");
            assert!(node.host.dropped(177) > before, "{at:?}: it is counted");
            // With nobody named everybody may come.
            node.service_at(LED_HERE, 80, &backends(), |_| {});
            assert!(node.client.enter(|| from(STRANGER.of(v6), to)).is_ok(), "{at:?}");
            drop(servers);
        }
    }
}

/// Asks over UDP from an address.
fn from(source: IpAddr, to: SocketAddr) -> Result<(), ErrorKind> {
    let ask = || {
        let socket = UdpSocket::bind((source, 0))?;
        socket.connect(to)?;
        socket.set_read_timeout(Some(SHORTLY))?;
        socket.send(b"?")?;
        socket.recv(&mut [0; 8]).map(drop)
    };
    ask().map_err(|e: std::io::Error| e.kind())
}

/// Addresses that are led to the node are frontends; a cluster's own address is not, from outside.
#[test]
fn load_balancer_and_external_addresses_are_reached_and_cluster_addresses_are_not() {
    const CLUSTER: Addr = Addr(Ipv4Addr::new(10, 96, 0, 1), std::net::Ipv6Addr::new(0xfd96, 0, 0, 0, 0, 0, 0, 1));
    for at in [At::Tc, At::XdpNative] {
        let Some(mut node) = Node::new(at, |_| {}) else { return };
        node.add_pod(1);
        for v6 in [false, true] {
            let servers = servers(&node, v6);
            let local = Server::start(&node.host.pods[0], SocketAddr::new(pod(1).of(v6), 8080));
            for (kind, port) in [(ServiceType::LoadBalancer, 443), (ServiceType::ExternalIps, 444)] {
                for backends in [backends(), vec![pod(1)]] {
                    node.service_at(LED_HERE, port, &backends, |spec| spec.attributes.kind = kind);
                    converse(&node, SocketAddr::new(LED_HERE.of(v6), port));
                }
            }
            assert!(local.ends().len() > 40 && servers.iter().all(|server| !server.ends().is_empty()));
            node.service_at(CLUSTER, 80, &[pod(1)], |spec| spec.attributes.kind = ServiceType::ClusterIp);
            let before = node.host.dropped(174);
            let refused = node.client.enter(|| ask(SocketAddr::new(CLUSTER.of(v6), 80), b"?", SHORTLY));
            assert!(refused.is_err() && node.host.dropped(174) > before, "{at:?}: it is the cluster's own");
        }
    }
}
