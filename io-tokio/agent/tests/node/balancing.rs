//! Load balancing with a real agent: what others ask the node about it, and connections after a backend left.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use api::models::StatusResponse;
use serde_json::{Value, json};

use crate::support::{Node, Pod};

fn put(node: &Node, id: u16, frontend: SocketAddr, backends: &[&Pod]) {
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
    put(&node, 1, leaves, &[&web[0], &web[1]]);
    put(&node, 2, stays, &[&web[0], &web[1]]);
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
    put(&node, 1, leaves, &[&web[1]]);
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
    let mut node = match Node::without_agent(&["--kube-proxy-replacement-healthz-bind-address=127.0.0.1:10256"]) {
        Some(node) => node,
        None => return,
    };
    node.start();
    node.wait_ready();
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
    let status: StatusResponse = node.client.get("/healthz").unwrap();
    assert!(status.cilium.is_some());
}
