//! Direct server return by Geneve on plain memory: what goes over the wire, read byte by byte as the reference says, and what a
//! backend's node takes apart, from whom, and what it leaves alone.

mod support;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use abi::be::Port;
use abi::config::{LB_DSR, LB_DSR_GENEVE, LB_DSR_IPIP, LB_DSR_XLATE_BACKEND};
use abi::endpoint::{ENDPOINT_HOST, EndpointInfo, EndpointKey};
use abi::ipcache::{IpcacheEntry, IpcacheKey};
use datapath::{Action, DropReason, Verdict};
use datapath_sim::{Way, map::Update};
use support::{outside::*, *};

/// The node with the backend, and a pod of a third one.
fn back_address(v6: bool) -> IpAddr {
    if v6 { Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 2).into() } else { Ipv4Addr::new(172, 16, 0, 2).into() }
}
fn elsewhere(v6: bool) -> IpAddr {
    if v6 { Ipv6Addr::new(0xfd01, 0, 0, 0, 0, 0, 0, 7).into() } else { Ipv4Addr::new(10, 1, 0, 7).into() }
}

fn bits(v6: bool) -> u32 {
    if v6 { 128 } else { 32 }
}

/// The node that balances. `tunnel`: its ipcache says behind which node the backend is.
fn balancer(tunnel: bool) -> World {
    let mut node = outside(LB_DSR | LB_DSR_GENEVE, &[REMOTE]);
    node.config.geneve_port = Port::new(6081);
    let (IpAddr::V4(at), IpAddr::V6(_)) = (back_address(false), back_address(true)) else {
        unreachable!("one of each family")
    };
    let way = Way { ifindex: BACK, macs: Some(([BACK as u8; 6], [0x10; 6])), mtu: 1500 };
    node.ways.add(types::Cidr::new(at.into(), 32).expect("a whole address"), way);
    if tunnel {
        for v6 in [false, true] {
            let key = match pod(REMOTE, v6) {
                IpAddr::V4(ip) => IpcacheKey::v4(ip.into(), 32),
                IpAddr::V6(ip) => IpcacheKey::v6(ip.into(), 128),
            };
            let entry = IpcacheEntry { identity: 2000, class: 2000, tunnel_endpoint: at.into(), ..Default::default() };
            node.maps.ipcache.update(key, entry, Update::Any).expect("room");
        }
    }
    node
}

/// The node with the backend, which knows the balancer as a node if `known`.
fn backend_node(known: bool) -> World {
    let mut node = outside(LB_DSR | LB_DSR_GENEVE, &[]);
    node.config.geneve_port = Port::new(6081);
    node.add(REMOTE);
    for v6 in [false, true] {
        let info = EndpointInfo { flags: ENDPOINT_HOST, identity: 1, ..EndpointInfo::default() };
        node.maps.lxc.update(EndpointKey::new(back_address(v6)), info, Update::Any).expect("room");
        node.know(back_address(v6), bits(v6), 1, 1);
        node.know(elsewhere(v6), bits(v6), 3000, 3000);
        if known {
            node.know(node_address(v6), bits(v6), 6, 6);
        }
    }
    node
}

/// A carried packet: bytes of the outer headers up to the inner Ethernet header, and the frame inside.
struct Carried {
    source_port: u16,
    vni: u32,
    src: IpAddr,
    dst: IpAddr,
    frame: Vec<u8>,
}

/// Reads a packet as the reference describes it; whatever is not so fails.
#[track_caller]
fn carried(packet: &[u8], v6: bool, frontend: (IpAddr, u16)) -> Carried {
    let outer_v6 = packet[12..14] == [0x86, 0xdd];
    let (src, dst) = addresses(packet, outer_v6);
    let udp = if outer_v6 {
        assert_eq!((packet[14], packet[20], packet[21]), (0x60, 17, 64), "version, UDP, hop limit");
        assert_eq!(usize::from(u16::from_be_bytes([packet[18], packet[19]])), packet.len() - 54);
        54
    } else {
        assert_eq!((packet[14], packet[22], packet[23]), (0x45, 64, 17), "version, TTL, UDP");
        assert_eq!(packet[20..22], [0x40, 0], "it must not be fragmented");
        assert!(wire::checksum::is_right(wire::checksum::sum(&packet[14..34])));
        assert_eq!(usize::from(u16::from_be_bytes([packet[16], packet[17]])), packet.len() - 14);
        34
    };
    let geneve = &packet[udp + 8..];
    let [s0, s1, d0, d1, l0, l1, c0, c1] = packet[udp..udp + 8] else { unreachable!("eight") };
    assert_eq!((u16::from_be_bytes([d0, d1]), [c0, c1]), (6081, [0, 0]));
    assert_eq!(usize::from(u16::from_be_bytes([l0, l1])), packet.len() - udp);
    let words = if v6 { 5 } else { 2 };
    assert_eq!(geneve[..4], [words + 1, 0x40, 0x65, 0x58], "options, critical, Ethernet inside");
    assert_eq!((geneve[7], &geneve[8..12]), (0, &[0x01, 0x4b, 0x81, words][..]));
    let mut told = match frontend.0 {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    told.extend(frontend.1.to_be_bytes());
    told.extend([0, 0]);
    let frame = 12 + told.len();
    assert_eq!(geneve[12..frame], told);
    Carried {
        source_port: u16::from_be_bytes([s0, s1]),
        vni: u32::from_be_bytes([0, geneve[4], geneve[5], geneve[6]]),
        src,
        dst,
        frame: geneve[frame..].to_vec(),
    }
}

#[test]
fn each_packet_is_carried_to_the_node_of_its_backend_or_to_the_backend_itself() {
    for (v6, tunnel, early) in (0..8).map(|n| (n & 1 != 0, n & 2 != 0, n & 4 != 0)) {
        let mut node = balancer(tunnel);
        let (from, frontend, backend) = ((client(v6), PORT), (vip(v6), 80), (pod(REMOTE, v6), 8080));
        let mut ports = std::collections::BTreeSet::new();
        for packet in [tcp(from, frontend, SYN), tcp(from, frontend, ACK), udp(from, frontend)] {
            let out = if early { node.early(&packet) } else { node.receive(&packet) };
            assert_eq!(out.verdict, Verdict::redirect(BACK), "reason {}", out.verdict.argument);
            assert_eq!(out.packet[..6], [BACK as u8; 6]);
            let of = carried(&out.packet, v6, frontend);
            if tunnel {
                assert_eq!((of.src, of.dst), (node_address(false), back_address(false)), "IPv4 between nodes");
            } else {
                assert_eq!((of.src, of.dst), (node_address(v6), pod(REMOTE, v6)));
            }
            assert_eq!(of.vni, 2, "the world");
            assert!(of.source_port >= 0xc000);
            ports.insert(of.source_port);
            assert_eq!(of.frame[..14], packet[..14], "the frame as it came");
            let seen = Seen::of(&of.frame);
            assert_eq!((seen.ends(), seen.ttl), ((from, backend), 63));
            let overhead = if !v6 {
                62
            } else if tunnel {
                74
            } else {
                94
            };
            assert_eq!(out.packet.len(), packet.len() + overhead);
        }
        assert_eq!(ports.len(), 2, "one of each flow");
    }
}

#[test]
fn the_identity_on_the_wire_is_the_clients() {
    let mut node = balancer(true);
    node.know(client(false), 32, 0x12_3456, 9);
    let out = node.receive(&tcp((client(false), PORT), (vip(false), 80), SYN));
    assert_eq!(carried(&out.packet, false, (vip(false), 80)).vni, 0x12_3456);
    // What only this node knows means nothing to others.
    node.know(client(false), 32, 1 << 24 | 5, 9);
    let out = node.receive(&tcp((client(false), PORT), (vip(false), 80), ACK));
    assert_eq!(carried(&out.packet, false, (vip(false), 80)).vni, 2);
}

#[test]
fn what_was_carried_reaches_the_pod_which_answers_from_the_frontend() {
    for (v6, tunnel, known) in (0..8).map(|n| (n & 1 != 0, n & 2 != 0, n & 4 != 0)) {
        let (mut front, mut back) = (balancer(tunnel), backend_node(known));
        let (from, frontend, backend) = ((client(v6), PORT), (vip(v6), 80), (pod(REMOTE, v6), 8080));
        for (flags, answer) in [(SYN, SYN_ACK), (ACK, ACK)] {
            let packet = front.receive(&tcp(from, frontend, flags)).packet;
            let arrived = back.receive(&packet);
            assert_eq!(arrived.verdict, Verdict::redirect_peer(ifindex(REMOTE)), "reason {}", arrived.verdict.argument);
            let seen = Seen::of(&arrived.packet);
            assert_eq!((seen.ends(), seen.ttl, &seen.data[..]), ((from, backend), 62, &b"hello"[..]));
            assert_eq!(left(&back.send(REMOTE, &tcp(backend, from, answer)), FRONT).ends(), (frontend, from));
        }
        let packet = front.receive(&udp(from, frontend)).packet;
        assert_eq!(Seen::of(&back.receive(&packet).packet).ends(), (from, backend));
        assert_eq!(left(&back.send(REMOTE, &udp(backend, from)), FRONT).ends(), (frontend, from));
    }
}

#[test]
fn a_backend_that_has_forgotten_answers_from_the_frontend_again() {
    for v6 in [false, true] {
        let (mut front, mut back) = (balancer(true), backend_node(true));
        let (from, frontend, backend) = ((client(v6), PORT), (vip(v6), 80), (pod(REMOTE, v6), 8080));
        front.receive(&tcp(from, frontend, SYN));
        let packet = front.receive(&tcp(from, frontend, ACK)).packet;
        assert_eq!(back.receive(&packet).verdict, Verdict::redirect_peer(ifindex(REMOTE)));
        assert_eq!(left(&back.send(REMOTE, &tcp(backend, from, ACK)), FRONT).ends(), (frontend, from));
    }
}

#[test]
fn policy_is_asked_about_who_is_inside() {
    for v6 in [false, true] {
        let (mut front, mut back) = (balancer(true), backend_node(true));
        back.enforce(REMOTE);
        let packet = front.receive(&tcp((client(v6), PORT), (vip(v6), 80), SYN)).packet;
        back.receive(&packet).dropped(DropReason::Policy);
        assert_eq!(back.last_drop().map(|(_, src, dst)| (src, dst)), Some((if v6 { 10 } else { 9 }, 1009)));
        // Whatever the sender says of it: the node's own class may in, and says it is that.
        back.allow(REMOTE, 6, true, 6, 8080);
        back.allow(REMOTE, 1, true, 6, 8080);
        let mut lies = packet.clone();
        lies[14 + 20 + 8 + 4..14 + 20 + 8 + 7].copy_from_slice(&[0, 0, 6]);
        back.receive(&lies).dropped(DropReason::Policy);
        back.allow(REMOTE, 9, true, 6, 8080);
        assert_eq!(back.receive(&packet).verdict, Verdict::redirect_peer(ifindex(REMOTE)));
    }
}

/// A packet from `source` to the backend, as a balancer carries it.
fn carrying(source: IpAddr, v6: bool) -> Vec<u8> {
    let mut front = balancer(true);
    front.config.lb_flags |= abi::config::LB_EXTERNAL_CLUSTER_IP;
    front.receive(&tcp((source, PORT), (vip(v6), 80), SYN)).packet
}

#[test]
fn nobody_unknown_gives_a_packet_the_name_of_a_pod_or_node() {
    for v6 in [false, true] {
        let third =
            if v6 { Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 3).into() } else { Ipv4Addr::new(172, 16, 0, 3).into() };
        for known in [false, true] {
            let mut back = backend_node(known);
            back.know(third, bits(v6), 6, 6);
            // This node's own pods and addresses nobody outside has.
            for own in [pod(1, v6), pod(REMOTE, v6), back_address(v6), router(v6)] {
                back.receive(&carrying(own, v6)).dropped(DropReason::InvalidSource);
            }
            for other in [elsewhere(v6), third] {
                let out = back.receive(&carrying(other, v6));
                if known {
                    assert_eq!(out.verdict, Verdict::redirect_peer(ifindex(REMOTE)));
                } else {
                    out.dropped(DropReason::InvalidSource);
                }
            }
        }
    }
}

#[test]
fn only_a_node_speaks_for_clients_of_the_host() {
    for v6 in [false, true] {
        for known in [false, true] {
            let mut back = backend_node(known);
            let host = EndpointInfo { flags: ENDPOINT_HOST, identity: 1, ..EndpointInfo::default() };
            back.maps.lxc.update(EndpointKey::new(pod(REMOTE, v6)), host, Update::Any).expect("room");
            let (from, frontend, backend) = ((client(v6), PORT), (vip(v6), 80), (pod(REMOTE, v6), 8080));
            let packet = carrying(from.0, v6);
            let out = back.receive(&packet);
            if known {
                for own in [pod(1, v6), back_address(v6)] {
                    back.receive(&carrying(own, v6)).dropped(DropReason::InvalidSource);
                }
                assert_eq!(out.passed().ends(), (from, backend), "taken apart, on to the stack");
                assert_eq!(back.depart(&tcp(backend, from, SYN_ACK)).passed().ends(), (frontend, from));
            } else {
                assert_eq!((out.verdict, out.packet), (Verdict::PASS, packet), "as it came");
                assert_eq!(back.depart(&tcp(backend, from, SYN_ACK)).passed().ends(), (backend, from));
            }
        }
    }
}

/// What makes a carried packet one that is not certain.
type Damage = Box<dyn Fn(&mut Vec<u8>)>;

#[test]
fn what_is_not_certain_goes_on_as_it_came() {
    for v6 in [false, true] {
        let packet = carrying(client(v6), v6);
        let udp = 34;
        let inner = udp + if v6 { 8 + 8 + 24 + 14 } else { 8 + 8 + 12 + 14 };
        let change = |at: usize, to: u8| move |p: &mut Vec<u8>| p[at] = to;
        let less = |at: usize| move |p: &mut Vec<u8>| p[at] -= 1;
        let broken: Vec<(&str, Damage)> = vec![
            ("another port", Box::new(less(udp + 3))),
            ("another protocol", Box::new(change(23, 132))),
            ("the first of several fragments", Box::new(change(20, 0x20))),
            ("a later fragment", Box::new(change(21, 1))),
            ("a shorter datagram", Box::new(less(udp + 5))),
            ("a shorter packet", Box::new(less(17))),
            ("more than there is", Box::new(|p| p.truncate(p.len() - 1))),
            ("another version", Box::new(change(udp + 8, 0x43))),
            ("no options", Box::new(change(udp + 8, 0))),
            ("more options", Box::new(change(udp + 8, 7))),
            ("a control packet", Box::new(change(udp + 9, 0xc0))),
            ("no Ethernet inside", Box::new(change(udp + 11, 0x59))),
            ("another class", Box::new(change(udp + 17, 0x4c))),
            ("another type", Box::new(change(udp + 18, 1))),
            ("another length of the option", Box::new(change(udp + 19, 3))),
            ("ARP inside", Box::new(change(inner - 1, 6))),
            ("a longer packet inside", Box::new(move |p| p[inner + if v6 { 5 } else { 3 }] += 1)),
            ("for nobody here", Box::new(move |p| p[inner + if v6 { 39 } else { 19 }] = 77)),
            ("for another node", Box::new(change(33, 77))),
            (
                "with options of IP",
                Box::new(|p| {
                    p[14] = 0x46;
                    p.splice(34..34, [1, 1, 1, 1]);
                }),
            ),
        ];
        for (what, with) in broken {
            let mut packet = packet.clone();
            with(&mut packet);
            let mut back = backend_node(true);
            let out = back.receive(&packet);
            assert_eq!((out.verdict, out.packet), (Verdict::PASS, packet), "IPv6: {v6}, {what}");
        }
        // And in a mode in which nobody sends such packets none is taken apart.
        let mut back = backend_node(true);
        back.config.lb_flags &= !LB_DSR_GENEVE;
        let out = back.receive(&packet);
        assert_eq!((out.verdict, out.packet), (Verdict::PASS, packet.clone()));
        // What is broken inside is dropped: it is for a pod.
        let mut back = backend_node(true);
        let mut broken = packet;
        broken[inner] = 0;
        back.receive(&broken).dropped(DropReason::Invalid);
    }
}

#[test]
fn a_pod_may_use_the_port_itself() {
    for v6 in [false, true] {
        let mut back = backend_node(true);
        let packet = udp((client(v6), PORT), (pod(REMOTE, v6), 6081));
        back.receive(&packet).delivered(REMOTE);
    }
}

#[test]
fn a_packet_that_is_too_long_with_all_of_it_is_complained_about() {
    for (v6, early) in [(false, false), (true, false), (false, true), (true, true)] {
        let mut node = balancer(false);
        let to = types::Cidr::new(pod(REMOTE, v6), bits(v6) as u8).expect("a whole address");
        let packet = tcp((client(v6), PORT), (vip(v6), 80), SYN);
        let overhead = if v6 { 94 } else { 62 };
        let mut way = Way { ifindex: BACK, macs: Some(([3; 6], [0x10; 6])), mtu: packet.len() as u32 - 14 + overhead };
        node.ways.add(to, way);
        let send = |node: &mut World| if early { node.early(&packet) } else { node.receive(&packet) };
        assert_eq!(send(&mut node).verdict, Verdict::redirect(BACK), "it just fits");
        way.mtu -= 1;
        node.ways.add(to, way);
        node.seconds += 1;
        let out = send(&mut node);
        if early {
            assert_eq!((out.verdict, out.packet), (Verdict::PASS, packet), "the later hook tells the client");
            continue;
        }
        assert_eq!((out.verdict.action, out.verdict.argument), (Action::Redirect, FRONT));
        let seen = Seen::of(&out.packet);
        assert_eq!((seen.sport, seen.dport), if v6 { (2, 0) } else { (3, 4) });
        let at = if v6 { 58 } else { 38 };
        let told = u32::from_be_bytes(out.packet[at..at + 4].try_into().expect("four"));
        assert_eq!(told, 1500 - overhead);
    }
}

#[test]
fn without_a_neighbour_the_early_hook_leaves_the_packet_as_it_was() {
    for v6 in [false, true] {
        let mut node = balancer(false);
        let to = types::Cidr::new(pod(REMOTE, v6), bits(v6) as u8).expect("a whole address");
        node.ways.add(to, Way { ifindex: BACK, macs: None, mtu: 1500 });
        let packet = tcp((client(v6), PORT), (vip(v6), 80), SYN);
        let out = node.early(&packet);
        assert_eq!((out.verdict, &out.packet), (Verdict::PASS, &packet));
        let out = node.receive(&packet);
        assert_eq!(out.verdict, Verdict::redirect_neighbour(BACK));
        carried(&out.packet, v6, (vip(v6), 80));
    }
}

#[test]
fn an_error_about_an_answer_goes_to_the_backend_as_it_is() {
    for v6 in [false, true] {
        let mut node = balancer(true);
        let (from, frontend, backend) = ((client(v6), PORT), (vip(v6), 80), (pod(REMOTE, v6), 8080));
        node.receive(&udp(from, frontend));
        let seen = left(&node.receive(&unreachable(from.0, frontend.0, &udp(frontend, from))), BACK);
        assert_eq!((seen.src, seen.dst), (from.0, backend.0));
        assert_eq!(quoted(&seen.data, v6), (backend, from));
    }
}

#[test]
fn by_ipip_the_port_may_be_the_backends() {
    for v6 in [false, true] {
        let mut node = outside(LB_DSR | LB_DSR_IPIP | LB_DSR_XLATE_BACKEND, &[REMOTE]);
        let (from, frontend) = ((client(v6), PORT), (vip(v6), 80));
        for packet in [tcp(from, frontend, SYN), tcp(from, frontend, ACK), udp(from, frontend)] {
            let out = node.receive(&packet);
            assert_eq!(out.verdict, Verdict::redirect(BACK));
            assert_eq!(addresses(&out.packet, v6), (node_address(v6), pod(REMOTE, v6)));
            let inner = [&out.packet[..14], &out.packet[if v6 { 54 } else { 34 }..]].concat();
            let (seen, sent) = (Seen::of(&inner), Seen::of(&packet));
            assert_eq!(seen, Seen { dport: 8080, ..sent }, "the port, with a right checksum, and nothing else");
        }
        // An error is about what was sent to the frontend: it goes as it came.
        let error = unreachable(from.0, frontend.0, &udp(frontend, from));
        let out = node.receive(&error);
        assert_eq!(out.packet[if v6 { 54 } else { 34 }..], error[14..]);
    }
}

/// Whatever is changed in a packet of somebody who is no node: it reaches no pod that lets nobody in, and the host's stack only as it came.
#[test]
fn nothing_that_is_carried_passes_a_closed_pod() {
    let mut packets = Vec::new();
    for (v6, tunnel) in [(false, true), (true, true), (true, false)] {
        let mut front = balancer(tunnel);
        for packet in [tcp((client(v6), PORT), (vip(v6), 80), SYN), udp((client(v6), PORT), (vip(v6), 80))] {
            packets.push(front.receive(&packet).packet);
        }
    }
    bolero::check!().with_max_len(24).for_each(|script: &[u8]| {
        let [base, changes @ ..] = script else { return };
        let mut packet = packets[usize::from(*base) % packets.len()].clone();
        for change in changes.chunks_exact(2) {
            let at = usize::from(change[0]) % packet.len();
            packet[at] ^= change[1];
        }
        let mut back = backend_node(false);
        [1, 2, 3, REMOTE].into_iter().for_each(|n| back.enforce(n));
        let out = back.receive(&packet);
        assert_ne!(out.verdict.action, Action::RedirectPeer, "{packet:02x?}");
        if out.verdict == Verdict::PASS {
            assert_eq!(out.packet, packet);
        }
    });
}
