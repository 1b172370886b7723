//! Load balancing of packets with a real agent: pods and somebody outside reach services over deaths of the agent, what others
//! ask the node, and connections after a backend left.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::time::Duration;

use api::client::Client;
use api::models::Service;
use loader::{Access, Maps, maps_directory};
use serde_json::{Value, json};

use crate::support::{Net, Node, Pod};
use crate::traffic::{Seen, Speaker, connect, die_meanwhile, exchange, flap, other_port, put_service, under_traffic};

/// Services that change, and agents that are killed meanwhile.
const SERVICES: u16 = 1000;
const DEATHS: u16 = 4;

/// A node with two pods that serve, one that asks, and somebody outside.
struct World {
    node: Node,
    client: Pod,
    web: [Pod; 2],
    outside: Net,
}

impl World {
    fn new(extra: &[&str]) -> Option<Self> {
        let mut options = vec!["--devices=ext0", "--enable-node-port"];
        options.extend(extra);
        let mut node = Node::without_agent(&options)?;
        let outside = node.outside();
        node.start();
        node.wait_ready();
        let web = ["web1", "web2"].map(|name| node.pod(name, &["k8s:app=web"]));
        let client = node.pod("client", &["k8s:app=client"]);
        web.iter().for_each(|pod| pod.echo(80));
        Some(Self { node, client, web, outside })
    }

    fn backends(&self) -> [SocketAddr; 2] {
        [0, 1].map(|n: usize| SocketAddr::new(self.web[n].ipv4, 80))
    }
}

/// Where clients of service `id` go: even ones are at ports of the node, the others at an address of the cluster.
fn frontend(id: u16) -> SocketAddr {
    match id % 2 {
        0 => SocketAddr::from(([192, 0, 2, 1], 30_000 + id)),
        _ => SocketAddr::from((Ipv4Addr::from(0x0a60_0000 + u32::from(id)), 80)),
    }
}

/// Puts a service in place; an agent that is not there is asked again until it is.
fn serve(client: &Client, id: u16, backends: &[SocketAddr]) {
    let address = |at: &SocketAddr| json!({ "ip": at.ip().to_string(), "port": at.port(), "protocol": "TCP" });
    let body = json!({
        "id": id,
        "frontend-address": address(&frontend(id)),
        "backend-addresses": backends.iter().map(address).collect::<Vec<_>>(),
        "flags": { "type": if id.is_multiple_of(2) { "NodePort" } else { "ClusterIP" } },
    });
    put_service(client, id, &body);
}

/// Agents die at random points of an update of a thousand services, under traffic of a pod and of somebody outside, packet by
/// packet. The first two services stay; the next two are among those that change.
#[test]
fn an_update_of_a_thousand_services_survives_its_agents_packet_by_packet() {
    let Some(World { mut node, client, web, outside }) = World::new(&["--bpf-lb-map-max=8192"]) else { return };
    let [one, other] = [0, 1].map(|n: usize| SocketAddr::new(web[n].ipv4, 80));
    let api = node.client.clone();
    (1..=4).for_each(|id| serve(&api, id, &[one, other]));
    let speakers = [
        Speaker::with_ports(&client.net, &[frontend(1), frontend(3)]),
        Speaker::with_ports(&outside, &[frontend(2), frontend(4)]),
    ];
    let (seen, updated) = (Seen::default(), AtomicU16::new(0));
    let faults = under_traffic(&speakers, &seen, || {
        std::thread::scope(|scope| {
            let updates = scope.spawn(|| {
                for id in 3..=SERVICES {
                    let backends = if id % 3 == 0 { [one, other] } else { [other, one] };
                    serve(&api, id, &backends[..1 + usize::from(id % 5 == 0)]);
                    // And the two that are spoken to, now and then.
                    if id % 50 == 0 {
                        (3..=4).for_each(|known| serve(&api, known, &backends[..1 + usize::from(id % 100 == 0)]));
                    }
                    updated.store(id, Ordering::Relaxed);
                }
            });
            die_meanwhile(&mut node, DEATHS, 2000, |death| {
                updated.load(Ordering::Relaxed) < SERVICES / (DEATHS + 1) * death && !updates.is_finished()
            });
            updates.join().unwrap();
        });
        node.wait_ready();
    });
    assert_eq!(faults, Vec::<String>::new(), "{}", node.log());
    let numbers = (seen.exchanges.load(Ordering::Relaxed), seen.connections.load(Ordering::Relaxed));
    assert!(numbers.0 > 100 && numbers.1 > 100, "this proves little: {numbers:?}");
    let services: Vec<Service> = node.client.get("/service").unwrap();
    assert_eq!(services.len(), usize::from(SERVICES));
    for id in (1..=SERVICES).step_by(97) {
        let net = if id % 2 == 0 { &outside } else { &client.net };
        net.within(|| exchange(&mut TcpStream::connect(frontend(id)).unwrap()).unwrap());
    }
}

/// A backend comes and goes a hundred times a second, under traffic of a pod and of somebody outside: of services that do not
/// have it, whose connections must not break, and of those that do, where who opens a connection must get one.
#[test]
fn a_backend_that_flaps_disturbs_nobody_but_its_own_packet_by_packet() {
    let Some(world) = World::new(&["--bpf-lb-algorithm=maglev"]) else { return };
    let [steady, flapping] = world.backends();
    let api = &world.node.client;
    (1..=2).for_each(|id| serve(api, id, &[steady]));
    let speakers =
        [Speaker::with_ports(&world.client.net, &[frontend(1)]), Speaker::with_ports(&world.outside, &[frontend(2)])];
    (3..=4).for_each(|id| serve(api, id, &[steady, flapping]));
    let (seen, opened) = (Seen::default(), AtomicU16::new(0));
    let mut refused = Vec::new();
    let faults = under_traffic(&speakers, &seen, || {
        let flapped = AtomicBool::new(false);
        std::thread::scope(|scope| {
            // Whoever opens a connection to a service with the backend that flaps gets an answer: both are there all the while,
            // and the pod behind the backend lives. A connection that it was given may end with it.
            let newcomers = [(&world.client.net, 3), (&world.outside, 4)].map(|(net, id)| {
                let (flapped, opened) = (&flapped, &opened);
                scope.spawn(move || {
                    net.within(|| {
                        let mut refused = Vec::new();
                        for n in (0..u16::MAX).cycle() {
                            if flapped.load(Ordering::Relaxed) {
                                break;
                            }
                            match connect(other_port(n), frontend(id)) {
                                Ok(_) => drop(opened.fetch_add(1, Ordering::Relaxed)),
                                Err(why) => refused.push(format!("service {id}: {why}")),
                            }
                            std::thread::sleep(Duration::from_millis(2));
                        }
                        refused
                    })
                })
            });
            flap(|change| {
                let backends = if change % 2 == 0 { &[steady][..] } else { &[steady, flapping] };
                (3..=4).for_each(|id| serve(api, id, backends));
            });
            flapped.store(true, Ordering::Relaxed);
            refused.extend(newcomers.into_iter().flat_map(|newcomer| newcomer.join().unwrap()));
        });
    });
    assert_eq!(faults, Vec::<String>::new(), "{}", world.node.log());
    assert_eq!(refused, Vec::<String>::new(), "{}", world.node.log());
    let numbers = (seen.exchanges.load(Ordering::Relaxed), seen.connections.load(Ordering::Relaxed));
    let opened = opened.load(Ordering::Relaxed);
    assert!(numbers.0 > 50 && numbers.1 > 50 && opened > 50, "this proves little: {numbers:?} {opened}");
    // The last change counts, in what the agent says and in the kernel.
    let services: Vec<Service> = api.get("/service").unwrap();
    let of = |id: i64| services.iter().find(|one| one.spec.id == id).unwrap().spec.backend_addresses.len();
    assert_eq!([1, 2, 3, 4].map(of), [1, 1, 2, 2]);
    let maps = Maps::open_pinned(&maps_directory(&world.node.dir.path().join("bpf")), Access::ReadOnly).unwrap();
    let heads = maps.lb4_services.entries().unwrap().into_iter().filter(|(key, _)| key.backend_slot == 0);
    let counts: BTreeMap<u16, u16> = heads.map(|(_, head)| (head.rev_nat_index.host(), head.count)).collect();
    assert_eq!(counts, BTreeMap::from([(1, 1), (2, 1), (3, 2), (4, 2)]));
    let table = maps.lb4_maglev.get(abi::be::Port::new(4)).unwrap().expect("traffic from outside is placed by a table");
    let places: BTreeMap<u32, usize> = table.iter().fold(BTreeMap::new(), |mut places, id| {
        *places.entry(*id).or_default() += 1;
        places
    });
    assert!(places.len() == 2 && !places.contains_key(&0), "{places:?}");
}

fn put_udp(node: &Node, id: u16, frontend: SocketAddr, backends: &[&Pod]) {
    let address = |ip: String, port: u16| json!({ "ip": ip, "port": port, "protocol": "UDP" });
    let backends: Vec<Value> = backends.iter().map(|pod| address(pod.ipv4.to_string(), 53)).collect();
    let body = json!({
        "id": id,
        "frontend-address": address(frontend.ip().to_string(), frontend.port()),
        "backend-addresses": backends,
    });
    node.client.call::<Value, Value>("PUT", &format!("/service/{id}"), &[], Some(&body)).unwrap();
}

/// Answers every datagram with `name`, until the test ends.
fn name_itself(pod: &Pod, name: u8) {
    let socket = pod.net.within(|| UdpSocket::bind(("0.0.0.0", 53)).unwrap());
    std::thread::spawn(move || {
        while let Ok((_, peer)) = socket.recv_from(&mut [0; 16]) {
            let _late = socket.send_to(&[name], peer);
        }
    });
}

/// A backend leaves one of two services. Who spoke to it through that one, again and again from one socket, moves on; who speaks
/// to it through the other stays. With the packets of pods balanced one by one, so that connections are what remembers it.
#[test]
fn a_backend_that_leaves_one_of_two_services_keeps_the_others_clients() {
    let Some(node) = Node::new(&[]) else { return };
    let client = node.pod("client", &["k8s:app=client"]);
    let web = ["web1", "web2"].map(|name| node.pod(name, &["k8s:app=web"]));
    web.iter().zip([0, 1]).for_each(|(pod, name)| name_itself(pod, name));
    let [leaves, stays] = [1, 2].map(|n| SocketAddr::from((Ipv4Addr::new(10, 96, 0, n), 53)));
    put_udp(&node, 1, leaves, &[&web[0], &web[1]]);
    put_udp(&node, 2, stays, &[&web[0], &web[1]]);
    let ask = |socket: &UdpSocket| {
        let mut answer = [0];
        socket.send(b"who?").and_then(|_| socket.recv(&mut answer)).map(|_| answer[0])
    };
    // Enough sockets that some speak to each backend through each service.
    let sockets: Vec<(UdpSocket, SocketAddr, u8)> = client.net.within(|| {
        let socket = |to: SocketAddr| {
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            socket.connect(to).unwrap();
            let who = ask(&socket).unwrap();
            (socket, to, who)
        };
        (0..40).map(|n| socket(if n % 2 == 0 { leaves } else { stays })).collect()
    });
    let of = |to, who| sockets.iter().filter(|socket| (socket.1, socket.2) == (to, who)).count();
    assert!([leaves, stays].into_iter().all(|to| of(to, 0) > 0 && of(to, 1) > 0), "each backend is spoken to");
    put_udp(&node, 1, leaves, &[&web[1]]);
    node.eventually("they move on", || {
        let moved = |(socket, to, _): &(UdpSocket, SocketAddr, u8)| *to != leaves || ask(socket).unwrap() == 1;
        sockets.iter().all(moved)
    });
    for (socket, to, who) in sockets.iter().filter(|(_, to, _)| *to == stays) {
        assert_eq!(ask(socket).unwrap(), *who, "{to} is another service");
    }
}

/// The node is asked as kube-proxy is.
#[test]
fn health_checks_of_kube_proxy_are_answered() {
    let Some(node) = Node::new(&["--kube-proxy-replacement-healthz-bind-address=127.0.0.1:10256"]) else { return };
    let ask = |path: &str| {
        node.within(|| {
            let mut stream = TcpStream::connect("127.0.0.1:10256").unwrap();
            write!(stream, "GET {path} HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n").unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            answer
        })
    };
    let answer = ask("/healthz");
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.contains("\"lastUpdated\":\"2"), "{answer}");
    assert!(ask("/else").starts_with("HTTP/1.1 404 "));
}

/// Ports for source NAT run out: the drop has a name and a count, the agent sweeps, and what was there goes on.
#[test]
fn a_sweep_follows_when_ports_run_out() {
    let Some(mut node) =
        Node::without_agent(&["--devices=ext0", "--enable-node-port", "--node-port-range=30000,65533"])
    else {
        return;
    };
    let outside = node.outside();
    node.start();
    node.wait_ready();
    // A backend of another node, behind the one port that is left for each backend and protocol (65534 and 65535).
    node.net().ip(&["route", "add", "10.99.0.0/24", "via", "192.0.2.2"]);
    outside.ip(&["addr", "add", "10.99.0.1/32", "dev", "lo"]);
    let body = json!({
        "id": 9,
        "frontend-address": { "ip": "192.0.2.1", "port": 31_009, "protocol": "UDP" },
        "backend-addresses": [{ "ip": "10.99.0.1", "port": 53, "protocol": "UDP" }],
        "flags": { "type": "NodePort" },
    });
    node.client.call::<Value, Value>("PUT", "/service/9", &[], Some(&body)).unwrap();
    let server = outside.within(|| UdpSocket::bind("10.99.0.1:53").unwrap());
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            server.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
            while !ended.load(Ordering::Relaxed) {
                if let Ok((_, peer)) = server.recv_from(&mut [0; 16]) {
                    server.send_to(b"!", peer).unwrap();
                }
            }
        });
        let socket = || {
            outside.within(|| {
                let socket = UdpSocket::bind("192.0.2.2:0").unwrap();
                socket.connect("192.0.2.1:31009").unwrap();
                socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
                socket
            })
        };
        let ask = |socket: &UdpSocket| socket.send(b"?").and_then(|_| socket.recv(&mut [0; 8])).is_ok();
        let sockets: Vec<UdpSocket> = (0..4).map(|_| socket()).collect();
        let served = sockets.iter().filter(|socket| ask(socket)).count();
        assert_eq!(served, 2, "there are two ports");
        let maps =
            loader::Maps::open_pinned(&loader::maps_directory(&node.dir.path().join("bpf")), loader::Access::ReadOnly)
                .unwrap();
        let dropped = maps.metrics.sums().unwrap().into_iter().any(|(key, _)| key.reason == 167);
        assert!(dropped, "no mapping was found, and it is counted");
        node.eventually("the agent sweeps", || node.log().contains("why=Pressure"));
        assert_eq!(sockets.iter().filter(|socket| ask(socket)).count(), 2, "those that had a port keep it");
        ended.store(true, Ordering::Relaxed);
    });
}
