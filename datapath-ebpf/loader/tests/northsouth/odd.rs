//! Less usual traffic: fragments, path MTU, a name server, a pod that reaches itself, probes of the node.

use std::{
    io::Write,
    net::{SocketAddr, TcpListener, UdpSocket},
    process::Command,
    thread,
};

use abi::config::LB_DSR;

use crate::{
    converse,
    net::{Namespace, PATIENCE, Server, ask, transfer, way_to},
    node::{At, CLIENT, LED_HERE, NODE, NODE_TO_OTHER, Node, OTHER, REMOTE, pod},
};

/// Datagrams of several fragments, there and back, to a backend of another node and to a pod of this one.
#[test]
fn fragments_of_a_datagram_reach_the_same_backend() {
    for at in At::ALL {
        let Some(mut node) = Node::new(at, |_| {}) else { return };
        node.add_pod(1);
        node.service(30_110, &[REMOTE], |_| {});
        node.service(30_111, &[pod(1)], |_| {});
        for v6 in [false, true] {
            let remote = Server::start(&node.other, SocketAddr::new(REMOTE.of(v6), 8080));
            let local = Server::start(&node.host.pods[0], SocketAddr::new(pod(1).of(v6), 8080));
            for (port, server, peer) in [(30_110, &remote, NODE_TO_OTHER), (30_111, &local, CLIENT)] {
                ask_in_fragments(&node, at, Node::frontend(port, v6));
                assert_eq!(server.peers(), [peer.of(v6); 3], "{at:?}");
            }
        }
    }
}

/// The client asks by datagrams of two to seven fragments, and gets back what it has sent.
pub fn ask_in_fragments(node: &Node, at: At, to: SocketAddr) {
    for len in [1_473, 3_000, 9_000] {
        let question: Vec<u8> = (0..len).map(|i: u32| (i % 251) as u8).collect();
        let answer = node.client.enter(|| ask(to, &question, PATIENCE));
        let answer = answer.unwrap_or_else(|e| panic!("{at:?}: {len} bytes to {to}: {e}"));
        assert!(answer == question, "{at:?}: {len} bytes to {to} came back as others");
    }
}

/// The way to the backend carries less than the client thinks: it is told how much, what is added for DSR taken off, and a
/// megabyte arrives.
#[test]
fn the_client_is_told_what_the_way_can_carry() {
    for (at, mode) in [(At::Tc, 0), (At::XdpNative, 0), (At::Tc, LB_DSR), (At::XdpNative, LB_DSR)] {
        let narrow = |config: &mut abi::config::NodeConfig| {
            (config.lb_flags, config.direct_routing_mtu) = (config.lb_flags | mode, 1400);
        };
        let Some(mut node) = Node::new(at, narrow) else { return };
        if mode != 0 {
            node = node.with_other_node(narrow);
        }
        // No packets made of many, which are not measured.
        crate::support::ip(&["link", "set", "ext0", "gro_max_size", "1500"]);
        node.service(30_112, &[REMOTE], |_| {});
        for (v6, family, net, added) in [(false, "-4", "10.8.0.0/24", 8), (true, "-6", "fd08::/64", 24)] {
            let via = OTHER.of(v6).to_string();
            crate::support::ip(&[family, "route", "change", net, "via", &via, "mtu", "lock", "1400"]);
            let backend = node.remote.as_ref().map_or(&node.other, |remote| &remote.pods[0]);
            let _server = Server::start(backend, SocketAddr::new(REMOTE.of(v6), 8080));
            let to = Node::frontend(30_112, v6);
            let learned = node.client.enter(|| {
                transfer(to, 1 << 20).unwrap_or_else(|e| panic!("{at:?} {mode} {to}: {e}"));
                way_to(to.ip())
            });
            let expected = format!("mtu {}", 1400 - if mode == 0 { 0 } else { added });
            assert!(learned.contains(&expected), "{at:?} {mode} {to}: {expected} not in {learned:?}");
        }
    }
}

/// The C library's resolver asks a name server behind a service.
#[test]
fn a_name_server_behind_a_service_is_asked_by_a_resolver() {
    for (at, mode) in [(At::Tc, 0), (At::XdpNative, 0), (At::XdpNative, LB_DSR)] {
        let Some(mut node) = Node::new(at, |config| config.lb_flags |= mode) else { return };
        if mode != 0 {
            node = node.with_other_node(|config| config.lb_flags |= mode);
        }
        node.service_at(LED_HERE, 53, &[REMOTE], |_| {});
        for v6 in [false, true] {
            let backend = node.remote.as_ref().map_or(&node.other, |remote| &remote.pods[0]);
            name_server(backend, SocketAddr::new(REMOTE.of(v6), 8080));
            let text = resolve(&node.client, &LED_HERE.of(v6).to_string());
            assert!(text.starts_with("198.51.100.7 "), "{at:?} {mode}: {text:?}");
        }
    }
}

/// What `getent` says of a name, with this name server.
fn resolve(netns: &Namespace, server: &str) -> String {
    let directory = format!("/etc/netns/{}", netns.name);
    std::fs::create_dir_all(&directory).expect("we are root");
    std::fs::write(format!("{directory}/resolv.conf"), format!("nameserver {server}\noptions timeout:10\n"))
        .expect("we are root");
    let out = Command::new("ip")
        .args(["netns", "exec", &netns.name, "getent", "ahostsv4", "web.example.test"])
        .output()
        .expect("iproute2 is installed");
    let _ = std::fs::remove_dir_all(&directory);
    // Stays if others use it.
    let _ = std::fs::remove_dir("/etc/netns");
    String::from_utf8(out.stdout).expect("text")
}

/// Answers questions for an address, until the process ends.
fn name_server(netns: &Namespace, at: SocketAddr) {
    let socket = netns.enter(|| UdpSocket::bind(at).expect("free"));
    thread::spawn(move || {
        let mut question = [0; 512];
        while let Ok((n, peer)) = socket.recv_from(&mut question) {
            // Header, name, type and class; what follows is an extension nobody needs.
            let end = 12 + question[12..n].iter().position(|byte| *byte == 0).expect("a name ends") + 5;
            let mut answer = question[..end].to_vec();
            answer[2..12].copy_from_slice(&[0x84, 0, 0, 1, 0, 1, 0, 0, 0, 0]);
            answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 198, 51, 100, 7]);
            let _ = socket.send_to(&answer, peer);
        }
    });
}

/// A pod reaches a service whose only backend it is, by the address of a load balancer and by a port of the node.
#[test]
fn a_pod_reaches_itself_through_a_frontend() {
    for at in [At::Tc, At::XdpNative] {
        let Some(mut node) = Node::new(at, |_| {}) else { return };
        node.add_pod(1);
        node.service(30_113, &[pod(1)], |_| {});
        node.service_at(LED_HERE, 80, &[pod(1)], |_| {});
        for v6 in [false, true] {
            let server = Server::start(&node.host.pods[0], SocketAddr::new(pod(1).of(v6), 8080));
            for to in [Node::frontend(30_113, v6), SocketAddr::new(LED_HERE.of(v6), 80)] {
                node.host.pods[0].enter(|| {
                    transfer(to, 1 << 20).unwrap_or_else(|e| panic!("{at:?} {to}: {e}"));
                    ask(to, b"me?", PATIENCE).unwrap_or_else(|e| panic!("{at:?} {to}: {e}"));
                });
                let peers = server.peers();
                assert!(peers.len() == 2 && peers.iter().all(|ip| *ip != pod(1).of(v6)), "{at:?} {to}: {peers:?}");
            }
        }
    }
}

/// What asks the node itself is answered by the node, beside services: a health check's port, and a node port probed again
/// and again by somebody who hangs up at once.
#[test]
fn probes_of_node_and_node_port_are_answered() {
    for at in At::ALL {
        let Some(mut node) = Node::new(at, |_| {}) else { return };
        node.service(30_114, &[REMOTE], |_| {});
        for v6 in [false, true] {
            let own = SocketAddr::new(NODE.of(v6), 32_114);
            let listener = TcpListener::bind(own).expect("free");
            thread::spawn(move || {
                for mut stream in listener.incoming().flatten().take(5) {
                    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n");
                }
            });
            let _server = Server::start(&node.other, SocketAddr::new(REMOTE.of(v6), 8080));
            let port = Node::frontend(30_114, v6);
            node.client.enter(|| {
                for _ in 0..5 {
                    let mut said = String::new();
                    let mut stream = std::net::TcpStream::connect_timeout(&own, PATIENCE).expect("the node answers");
                    std::io::Read::read_to_string(&mut stream, &mut said).expect("the node answers");
                    assert!(said.starts_with("HTTP/1.1 200"), "{at:?}: {said}");
                }
                for _ in 0..200 {
                    drop(std::net::TcpStream::connect_timeout(&port, PATIENCE).expect("the backend answers"));
                }
            });
            converse(&node, port);
        }
    }
}
