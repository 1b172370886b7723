//! Direct server return by Geneve: this node carries packets inside others, the other one takes them apart and answers the client.

use std::net::{IpAddr, SocketAddr};

use abi::{
    be::Port,
    config::{LB_DSR, LB_DSR_GENEVE, NodeConfig},
    ipcache::{IpcacheEntry, IpcacheKey},
};
use loader::Maps;

use crate::{
    converse,
    modes::{answers_go_past, serve},
    net::{Server, transfer, way_to},
    node::{Addr, At, CLIENT, NODE_TO_OTHER, Node, OTHER, REMOTE},
    odd::ask_in_fragments,
};

/// Both nodes of this mode, and a link between them that carries what is added.
fn nodes(at: At) -> Option<Node> {
    let by_geneve = |config: &mut NodeConfig| {
        config.lb_flags |= LB_DSR | LB_DSR_GENEVE;
        config.geneve_port = Port::new(6081);
    };
    let node = Node::new(at, by_geneve)?.with_other_node(by_geneve);
    crate::support::ip(&["link", "set", "ext1", "mtu", "1600"]);
    node.other.ip(&["link", "set", "eth0", "mtu", "1600"]);
    Some(node)
}

/// Tells a node's ipcache of somebody.
fn know(maps: &Maps, who: Addr, entry: IpcacheEntry) {
    maps.ipcache.insert(&IpcacheKey::v4(who.0.into(), 32), &entry).expect("room");
    maps.ipcache.insert(&IpcacheKey::v6(who.1.into(), 128), &entry).expect("room");
}

/// The node of a backend is known, or only the backend.
fn behind(node: &Node, tunnel: bool) {
    if tunnel {
        let tunnel_endpoint = OTHER.0.into();
        know(node.maps(), REMOTE, IpcacheEntry { identity: 2000, class: 2000, tunnel_endpoint, ..Default::default() });
    }
}

/// The pod of the other node sees the client, answers it as the frontend, and nothing of that passes this node; over TCP and UDP.
#[test]
fn the_other_nodes_pod_sees_the_client_and_answers_as_the_frontend() {
    let all = At::ALL.map(|at| (at, false));
    for (at, tunnel) in all.into_iter().chain([(At::Tc, true), (At::XdpNative, true)]) {
        let Some(mut node) = nodes(at) else { return };
        behind(&node, tunnel);
        node.service(30_120, &[REMOTE], |_| {});
        answers_go_past(&node, at, 30_120);
    }
}

/// Datagrams of several fragments, each of which is carried by itself.
#[test]
fn fragments_are_carried_one_by_one() {
    for (at, tunnel) in [(At::Tc, true), (At::XdpNative, false)] {
        let Some(mut node) = nodes(at) else { return };
        behind(&node, tunnel);
        node.service(30_121, &[REMOTE], |_| {});
        for v6 in [false, true] {
            let server = serve(&node, v6);
            ask_in_fragments(&node, at, Node::frontend(30_121, v6));
            assert_eq!(server.peers(), [CLIENT.of(v6); 3], "{at:?}");
        }
    }
}

/// A backend in the host's namespace of the other node, which knows this one as a node.
#[test]
fn a_backend_of_the_other_host_answers_as_the_frontend() {
    for at in At::ALL {
        let Some(mut node) = nodes(at) else { return };
        let remote = node.remote.as_ref().expect("it has a datapath");
        know(remote.maps(), NODE_TO_OTHER, IpcacheEntry { identity: 6, class: 6, ..Default::default() });
        node.service(30_122, &[OTHER], |_| {});
        for v6 in [false, true] {
            let server = Server::start(&node.other, SocketAddr::new(OTHER.of(v6), 8080));
            converse(&node, Node::frontend(30_122, v6));
            let peers: Vec<IpAddr> = server.peers();
            assert!(peers.len() > 20 && peers.iter().all(|ip| *ip == CLIENT.of(v6)), "{at:?}: {peers:?}");
        }
    }
}

/// The link carries no more than the client's own: the client is told how much is left for it.
#[test]
fn a_client_that_sends_too_much_is_told() {
    for at in [At::Tc, At::XdpNative] {
        let Some(mut node) = nodes(at) else { return };
        crate::support::ip(&["link", "set", "ext1", "mtu", "1500"]);
        // No packets made of many, which are not measured.
        crate::support::ip(&["link", "set", "ext0", "gro_max_size", "1500"]);
        node.service(30_123, &[REMOTE], |_| {});
        for (v6, left) in [(false, 1500 - 62), (true, 1500 - 94)] {
            let (_server, to) = (serve(&node, v6), Node::frontend(30_123, v6));
            let told = node.client.enter(|| {
                transfer(to, 1 << 20).unwrap_or_else(|e| panic!("{at:?} {to}: {e}"));
                way_to(to.ip())
            });
            assert!(told.contains(&format!("mtu {left}")), "{at:?}: {told}");
        }
    }
}
