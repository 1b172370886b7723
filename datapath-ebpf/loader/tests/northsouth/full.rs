//! Ports and maps that run out: who has something keeps it, who wants something is told apart, others notice nothing.

use std::{
    net::{SocketAddr, UdpSocket},
    time::Duration,
};

use crate::{
    converse,
    net::{PATIENCE, Server},
    node::{At, Node, REMOTE, pod},
};

/// Drop reasons: no port for source NAT, no room for a connection.
const NO_PORT: u8 = 167;
const NO_ROOM: u8 = 155;

/// A socket of the client to a frontend.
fn socket(node: &Node, to: SocketAddr, patience: Duration) -> UdpSocket {
    node.client.enter(|| {
        let any: SocketAddr = if to.is_ipv6() { "[::]:0".parse() } else { "0.0.0.0:0".parse() }.expect("an address");
        let socket = UdpSocket::bind(any).expect("free");
        socket.connect(to).expect("there is a route");
        socket.set_read_timeout(Some(patience)).expect("not zero");
        socket
    })
}

fn is_answered(socket: &UdpSocket) -> bool {
    socket.send(b"?").is_ok() && socket.recv(&mut [0; 8]).is_ok()
}

#[test]
fn who_gets_no_port_is_dropped_by_name_and_nobody_else_notices() {
    for at in [At::Tc, At::XdpNative] {
        let few = |config: &mut abi::config::NodeConfig| {
            (config.nat_port_min, config.nat_port_max) = (60_000, 60_007);
        };
        let Some(mut node) = Node::new(at, few) else { return };
        node.add_pod(1);
        node.service(30_120, &[REMOTE], |_| {});
        node.service(30_121, &[pod(1)], |_| {});
        for v6 in [false, true] {
            let _remote = Server::start(&node.other, SocketAddr::new(REMOTE.of(v6), 8080));
            let _local = Server::start(&node.host.pods[0], SocketAddr::new(pod(1).of(v6), 8080));
            let to = Node::frontend(30_120, v6);
            let before = node.host.dropped(NO_PORT);
            let all: Vec<(UdpSocket, bool)> = (0..16)
                .map(|n| {
                    // Whoever comes first gets what is there, however long that takes on a busy machine.
                    let patience = if n < 8 { PATIENCE } else { Duration::from_millis(200) };
                    let socket = socket(&node, to, patience);
                    let served = is_answered(&socket);
                    (socket, served)
                })
                .collect();
            assert_eq!(all.iter().filter(|(_, served)| *served).count(), 8, "{at:?} {to}: there are eight ports");
            assert!(node.host.dropped(NO_PORT) >= before + 8, "{at:?}: the others are counted");
            converse(&node, Node::frontend(30_121, v6));
            assert!(all.iter().all(|(socket, served)| !served || is_answered(socket)), "{at:?}: they keep their ports");
            // As a sweep does once they are gone.
            node.maps().snat4.clear().expect("it can be emptied");
            node.maps().snat6.clear().expect("it can be emptied");
            node.maps().ct_any4.clear().expect("it can be emptied");
            node.maps().ct_any6.clear().expect("it can be emptied");
            assert!(is_answered(&socket(&node, to, PATIENCE)), "{at:?}: there is room again");
        }
    }
}

/// Three times as many flows as the maps of connections and translations hold: each is served, and so is the first again.
#[test]
fn maps_that_are_full_forget_the_oldest() {
    for at in [At::Tc, At::XdpNative] {
        let sizes =
            ["cilium_ct_any4_global", "cilium_ct_any6_global", "cilium_snat_v4_external", "cilium_snat_v6_external"];
        let Some(mut node) = Node::sized(at, |_| {}, &sizes.map(|name| (name, 256))) else { return };
        node.service(30_122, &[REMOTE], |_| {});
        for v6 in [false, true] {
            let _server = Server::start(&node.other, SocketAddr::new(REMOTE.of(v6), 8080));
            let to = Node::frontend(30_122, v6);
            let sockets: Vec<UdpSocket> = (0..768).map(|_| socket(&node, to, PATIENCE)).collect();
            for (n, socket) in sockets.iter().enumerate() {
                assert!(is_answered(socket), "{at:?} {to}: flow {n}");
            }
            assert!(is_answered(&sockets[0]), "{at:?} {to}: the first is made anew");
            assert_eq!(node.host.dropped(NO_ROOM), 0, "{at:?}: nothing is dropped for lack of room");
        }
    }
}
