//! Real traffic from outside to services, through every hook and forwarding mode: the stacks of client and backend judge
//! checksums, connections and addresses. Needs root; prints `skipped: …` without.

mod choice;
mod full;
mod geneve;
mod host;
mod modes;
mod net;
mod node;
mod odd;
#[path = "../support/mod.rs"]
mod support;
mod unpack;

use std::{io::ErrorKind, thread};

use abi::config::{LB_MASQUERADE_IPV4, LB_MASQUERADE_IPV6};
use net::{Namespace, PATIENCE, Server, ask, transfer};
use node::{Addr, At, CLIENT, NODE, Node, REMOTE, pod};
use std::net::SocketAddr;

/// Bytes of a large transfer.
const LARGE: usize = 1 << 20;

/// TCP of every size, many at once, and UDP, from the client to a service of `node`.
fn converse(node: &Node, to: SocketAddr) {
    let client = &node.client;
    client.enter(|| {
        transfer(to, 1).unwrap_or_else(|e| panic!("one byte to {to}: {e}"));
        transfer(to, LARGE).unwrap_or_else(|e| panic!("{LARGE} bytes to {to}: {e}"));
        thread::scope(|scope| {
            let all: Vec<_> =
                (0..20).map(|n| scope.spawn(move || (n, in_client(client, || transfer(to, 20_000 + n))))).collect();
            for one in all {
                let (n, result) = one.join().expect("no panic");
                result.unwrap_or_else(|e| panic!("connection {n} to {to}: {e}"));
            }
        });
        for len in [1, 100, 1400] {
            let question: Vec<u8> = (0..len).map(|i| i as u8).collect();
            let answer = ask(to, &question, PATIENCE).unwrap_or_else(|e| panic!("{len} bytes of UDP to {to}: {e}"));
            assert_eq!(answer, question);
        }
    });
}

/// Runs something on this thread, moved into the client's namespace.
fn in_client<T>(client: &Namespace, body: impl FnOnce() -> T) -> T {
    net::move_into(&client.name);
    body()
}

fn serve(node: &Node, at: Addr, v6: bool) -> Server {
    Server::start(&node.other, SocketAddr::new(at.of(v6), 8080))
}

#[test]
fn a_pod_leaves_with_the_nodes_address() {
    let Some(mut node) = Node::new(At::Tc, |config| {
        config.lb_flags |= LB_MASQUERADE_IPV4 | LB_MASQUERADE_IPV6;
        (config.masquerade_ipv4, config.masquerade_ipv6) = (NODE.0.into(), NODE.1.into());
    }) else {
        return;
    };
    node.add_pod(1);
    for v6 in [false, true] {
        let to = SocketAddr::new(CLIENT.of(v6), 9090);
        let server = Server::start(&node.client, to);
        node.host.pods[0].enter(|| {
            transfer(to, LARGE).unwrap_or_else(|e| panic!("{to}: {e}"));
            ask(to, b"question", PATIENCE).unwrap_or_else(|e| panic!("{to}: {e}"));
        });
        let peers = server.peers();
        assert!(!peers.is_empty() && peers.iter().all(|ip| *ip == NODE.of(v6)), "{peers:?}");
    }
}

#[test]
fn snat_reaches_a_backend_of_another_node_and_back() {
    for at in At::ALL {
        let Some(mut node) = Node::new(at, |_| {}) else { return };
        node.service(30_080, &[REMOTE], |_| {});
        for v6 in [false, true] {
            let server = serve(&node, REMOTE, v6);
            converse(&node, Node::frontend(30_080, v6));
            let peers = server.peers();
            assert!(peers.len() > 20, "{at:?}: the backend was asked");
            assert!(peers.iter().all(|ip| *ip != CLIENT.of(v6)), "{at:?}: the backend sees the node, not the client");
        }
    }
}

#[test]
fn a_backend_of_this_node_sees_the_client() {
    for at in At::ALL {
        let Some(mut node) = Node::new(at, |_| {}) else { return };
        node.add_pod(1);
        node.service(30_081, &[pod(1)], |_| {});
        for v6 in [false, true] {
            let server = Server::start(&node.host.pods[0], SocketAddr::new(pod(1).of(v6), 8080));
            converse(&node, Node::frontend(30_081, v6));
            let peers = server.peers();
            assert!(peers.len() > 20 && peers.iter().all(|ip| *ip == CLIENT.of(v6)), "{at:?}: {peers:?}");
        }
    }
}

#[test]
fn a_service_without_backends_refuses() {
    for at in [At::Tc, At::XdpNative] {
        let Some(mut node) = Node::new(at, |_| {}) else { return };
        node.service(30_082, &[], |_| {});
        for v6 in [false, true] {
            let to = Node::frontend(30_082, v6);
            let (tcp, udp) = node.client.enter(|| (transfer(to, 1), ask(to, b"x", PATIENCE)));
            assert_eq!(tcp.expect_err("nobody there").kind(), ErrorKind::ConnectionRefused, "{at:?} {to}");
            assert_eq!(udp.expect_err("nobody there").kind(), ErrorKind::ConnectionRefused, "{at:?} {to}");
        }
    }
}
