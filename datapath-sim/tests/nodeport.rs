//! North-south traffic on plain memory: what leaves, from whom to whom, with every checksum verified over all its bytes.

mod support;

use std::net::{IpAddr, Ipv6Addr};

use abi::be::Port;
use abi::config::{LB_DSR, LB_DSR_IPIP, LB_MASQUERADE_IPV4, LB_MASQUERADE_IPV6};
use abi::endpoint::{ENDPOINT_HOST, EndpointInfo, EndpointKey};
use abi::lb::{
    BACKEND_ACTIVE, BACKEND_TERMINATING, LbSourceRange4, LbSourceRange6, SERVICE_ROUTABLE, SERVICE_SOURCE_RANGE,
};
use datapath::{Action, DropReason, Verdict};
use datapath_sim::{Way, map::Update};
use support::{outside::*, *};

#[test]
fn snat_hides_the_client_and_brings_the_answer_back() {
    for v6 in [false, true] {
        let mut node = outside(0, &[REMOTE]);
        let (from, frontend, backend) = ((client(v6), PORT), (vip(v6), 80), (pod(REMOTE, v6), 8080));
        for flags in [SYN, ACK] {
            let seen = left(&node.receive(&tcp(from, frontend, flags)), BACK);
            assert_eq!(seen.ends(), ((node_address(v6), PORT), backend), "the client's port is kept");
            let answer = if flags == SYN { SYN_ACK } else { ACK };
            let seen = left(&node.receive(&tcp(backend, (node_address(v6), PORT), answer)), FRONT);
            assert_eq!(seen.ends(), (frontend, from));
        }
        let seen = left(&node.receive(&udp(from, frontend)), BACK);
        assert_eq!(seen.ends(), ((node_address(v6), PORT), backend));
        // Nobody else's packets to that port are taken for answers.
        node.receive(&udp((pod(REMOTE, v6), 9), (node_address(v6), PORT))).passed();
    }
}

#[test]
fn a_port_out_of_range_or_taken_is_exchanged_and_the_last_one_is_the_end() {
    for v6 in [false, true] {
        let mut node = outside(0, &[REMOTE]);
        (node.config.nat_port_min, node.config.nat_port_max) = (50_000, 50_003);
        let mut seen = std::collections::BTreeSet::new();
        for n in 0..4 {
            let out = node.receive(&tcp((client(v6), 1000 + n), (vip(v6), 80), SYN));
            seen.insert(left(&out, BACK).sport);
        }
        assert_eq!(seen.into_iter().collect::<Vec<_>>(), [50_000, 50_001, 50_002, 50_003]);
        let out = node.receive(&tcp((client(v6), 2000), (vip(v6), 80), SYN));
        out.dropped(DropReason::NoMapping);
        assert_eq!(node.last_drop().map(|(reason, ..)| reason), Some(167));
        // What there is goes on.
        left(&node.receive(&tcp((client(v6), 1000), (vip(v6), 80), ACK)), BACK);
    }
}

#[test]
fn ports_of_flows_to_one_backend_are_spread_over_the_range() {
    for v6 in [false, true] {
        let backends: Vec<u8> = (100..164).collect();
        let mut node = outside(0, &backends);
        for n in &backends {
            let to = types::Cidr::new(pod(*n, v6), if v6 { 128 } else { 32 }).expect("a whole address");
            node.ways.add(to, Way { ifindex: BACK, macs: Some(([BACK as u8; 6], [0x10; 6])), mtu: 1500 });
        }
        let mut ports = std::collections::BTreeMap::<IpAddr, Vec<u16>>::new();
        for port in 1024..3072 {
            let seen = left(&node.receive(&tcp((client(v6), port), (vip(v6), 80), SYN)), BACK);
            ports.entry(seen.dst).or_default().push(seen.sport);
        }
        // What chose the backend says nothing of the port: or else many flows would try the same few, one after the other.
        for ports in ports.values().filter(|ports| ports.len() >= 16) {
            let low: std::collections::BTreeSet<u16> = ports.iter().map(|port| port % 32).collect();
            assert!(low.len() > ports.len().min(32) / 4, "{ports:?}");
        }
    }
}

#[test]
fn a_backend_of_this_node_sees_the_client_and_its_answer_leaves_from_the_frontend() {
    for v6 in [false, true] {
        let mut node = outside(0, &[2]);
        let (from, frontend, backend) = ((client(v6), PORT), (vip(v6), 80), (pod(2, v6), 8080));
        assert_eq!(node.receive(&tcp(from, frontend, SYN)).delivered(2).ends(), (from, backend));
        let seen = left(&node.send(2, &tcp(backend, from, SYN_ACK)), FRONT);
        assert_eq!(seen.ends(), (frontend, from));
        // Straight to the pod, the same client is answered straight.
        let straight = (client(v6), PORT + 1);
        node.receive(&tcp(straight, backend, SYN)).delivered(2);
        assert_eq!(node.send(2, &tcp(backend, straight, SYN_ACK)).passed().ends(), (backend, straight));
    }
}

#[test]
fn dsr_by_option_tells_the_backend_which_answers_for_the_frontend() {
    for v6 in [false, true] {
        let mut front = outside(LB_DSR, &[REMOTE]);
        let mut back = outside(LB_DSR, &[]);
        // The backend is pod 3 of the other node.
        let (from, frontend, remote, local) =
            ((client(v6), PORT), (vip(v6), 80), (pod(REMOTE, v6), 8080), (pod(3, v6), 8080));
        let out = front.receive(&tcp(from, frontend, SYN));
        assert_eq!(out.verdict, Verdict::redirect(BACK));
        let growth = if v6 { 24 } else { 8 };
        assert_eq!(out.packet.len(), tcp(from, frontend, SYN).len() + growth);
        let without = stripped(&out.packet, v6);
        assert_eq!(Seen::of(&without).ends(), (from, remote), "from the client, to the backend");
        let bytes = &out.packet[if v6 { 54 } else { 34 }..][..growth];
        if v6 {
            let mut option = vec![6, 2, 0x1b, 20];
            option.extend(Ipv6Addr::octets(&match vip(v6) {
                IpAddr::V6(ip) => ip,
                IpAddr::V4(_) => unreachable!("asked for IPv6"),
            }));
            option.extend([0, 80, 0, 0]);
            assert_eq!(bytes, option);
        } else {
            let IpAddr::V4(ip) = vip(v6) else { unreachable!("asked for IPv4") };
            let [a, b, c, d] = ip.octets();
            assert_eq!(bytes, [0x9a, 8, 80, 0, d, c, b, a]);
        }
        // Later packets are told nothing.
        let seen = left(&front.receive(&tcp(from, frontend, ACK)), BACK);
        assert_eq!(seen.ends(), (from, remote));

        // The same packet, had it been for pod 3 there.
        let moved = redirected(&out.packet, v6, pod(3, v6));
        let arrived = back.receive(&moved);
        assert_eq!(arrived.verdict, Verdict::redirect_peer(ifindex(3)), "reason {}", arrived.verdict.argument);
        assert_eq!(left(&back.send(3, &tcp(local, from, SYN_ACK)), FRONT).ends(), (frontend, from));
        back.receive(&tcp(from, local, ACK)).delivered(3);
        assert_eq!(left(&back.send(3, &tcp(local, from, ACK)), FRONT).ends(), (frontend, from));
    }
}

/// The packet without the option, made anew so that its header is right.
fn stripped(packet: &[u8], v6: bool) -> Vec<u8> {
    let (at, fixed, growth) = if v6 { (54, 40, 24) } else { (34, 20, 8) };
    let transport = &packet[at + growth..];
    let (src, dst) = addresses(packet, v6);
    let ttl = packet[if v6 { 21 } else { 22 }];
    if !v6 {
        assert_eq!(packet[14], 0x47);
        let header = &packet[14..14 + fixed + growth];
        assert!(wire::checksum::is_right(wire::checksum::sum(header)), "the header's checksum");
        assert_eq!(usize::from(u16::from_be_bytes([packet[16], packet[17]])), packet.len() - 14);
    } else {
        assert_eq!(usize::from(u16::from_be_bytes([packet[18], packet[19]])), packet.len() - 54);
        assert_eq!(packet[20], 60);
    }
    frame(src, dst, wire::protocol::TCP, ttl, transport)
}

/// The packet to another destination, header checksum corrected (transport checksums are not read on the way).
fn redirected(packet: &[u8], v6: bool, dst: IpAddr) -> Vec<u8> {
    let mut packet = packet.to_vec();
    match dst {
        IpAddr::V4(ip) => {
            packet[30..34].copy_from_slice(&ip.octets());
            packet[24..26].fill(0);
            let sum = wire::checksum::finish(wire::checksum::sum(&packet[14..14 + usize::from(packet[14] & 15) * 4]));
            packet[24..26].copy_from_slice(&sum.to_be_bytes());
        }
        IpAddr::V6(ip) => packet[38..54].copy_from_slice(&ip.octets()),
    }
    assert_eq!(dst.is_ipv6(), v6);
    packet
}

#[test]
fn dsr_by_ipip_carries_the_packet_as_it_came() {
    for v6 in [false, true] {
        let mut node = outside(LB_DSR | LB_DSR_IPIP, &[REMOTE]);
        let packet = tcp((client(v6), PORT), (vip(v6), 80), SYN);
        let out = node.receive(&packet);
        assert_eq!(out.verdict, Verdict::redirect(BACK));
        let outer = if v6 { 40 } else { 20 };
        assert_eq!(out.packet[14 + outer..], packet[14..], "the inner packet is untouched");
        assert_eq!(addresses(&out.packet, v6), (node_address(v6), pod(REMOTE, v6)));
        if v6 {
            assert_eq!((out.packet[20], out.packet[21]), (41, 64));
            assert_eq!(usize::from(u16::from_be_bytes([out.packet[18], out.packet[19]])), packet.len() - 14);
        } else {
            assert_eq!((out.packet[22], out.packet[23]), (64, 4));
            assert!(wire::checksum::is_right(wire::checksum::sum(&out.packet[14..34])));
            assert_eq!(usize::from(u16::from_be_bytes([out.packet[16], out.packet[17]])), out.packet.len() - 14);
        }
    }
}

#[test]
fn who_may_not_reach_a_service_is_told_by_name() {
    for v6 in [false, true] {
        let packet = tcp((client(v6), PORT), (vip(v6), 80), SYN);
        let mut node = outside(0, &[REMOTE]);
        change(&mut node, |service| service.flags |= SERVICE_SOURCE_RANGE);
        node.receive(&packet).dropped(DropReason::SourceRange);
        let (IpAddr::V4(four), IpAddr::V6(six)) = (client(false), client(true)) else { unreachable!("of each family") };
        let index = Port::new(7);
        let range4 = LbSourceRange4 { prefixlen: 64, rev_nat_index: index, pad: 0, addr: four.into() };
        let range6 = LbSourceRange6 { prefixlen: 160, rev_nat_index: index, pad: 0, addr: six.into() };
        node.maps.lb4_source_range.update(range4, 1, Update::Any).expect("room");
        node.maps.lb6_source_range.update(range6, 1, Update::Any).expect("room");
        left(&node.receive(&packet), BACK);

        let mut node = outside(0, &[REMOTE]);
        change(&mut node, |service| service.flags = 0);
        node.receive(&packet).dropped(DropReason::ClusterIp);

        let mut node = outside(0, &[]);
        let out = node.receive(&packet);
        assert_eq!((out.verdict.action, out.verdict.argument), (Action::Redirect, FRONT), "back where it came from");
        let seen = Seen::of(&out.packet);
        assert_eq!((seen.src, seen.dst), (vip(v6), client(v6)));
        assert_eq!((seen.sport, seen.dport), if v6 { (1, 4) } else { (3, 3) }, "port unreachable");
    }
}

#[test]
fn errors_about_translated_packets_reach_those_who_sent_them() {
    for v6 in [false, true] {
        let mut node = outside(0, &[REMOTE]);
        let (from, frontend) = ((client(v6), PORT), (vip(v6), 80));
        let forwarded = node.receive(&udp(from, frontend)).packet;
        let answered = node.receive(&udp((pod(REMOTE, v6), 8080), (node_address(v6), PORT))).packet;
        // The backend refuses: the client hears it of the frontend, about its own packet.
        let seen = left(&node.receive(&unreachable(pod(REMOTE, v6), node_address(v6), &forwarded)), FRONT);
        assert_eq!((seen.src, seen.dst), (frontend.0, from.0));
        assert_eq!(quoted(&seen.data, v6), (from, frontend));
        // The client refuses: the backend hears it, about its own packet.
        let seen = left(&node.receive(&unreachable(client(v6), vip(v6), &answered)), BACK);
        assert_eq!((seen.src, seen.dst), (node_address(v6), pod(REMOTE, v6)));
        assert_eq!(quoted(&seen.data, v6), ((pod(REMOTE, v6), 8080), (node_address(v6), PORT)));
    }
}

#[test]
fn errors_of_pods_name_the_frontend_and_errors_to_them_their_own_packets() {
    for v6 in [false, true] {
        let mut node = outside(0, &[2]);
        let (from, frontend, backend) = ((client(v6), PORT), (vip(v6), 80), (pod(2, v6), 8080));
        let arrived = node.receive(&udp(from, frontend));
        arrived.delivered(2);
        // The pod refuses: its client hears it of the frontend, about its own packet.
        let seen = left(&node.send(2, &unreachable(backend.0, from.0, &arrived.packet)), FRONT);
        assert_eq!((seen.src, seen.dst), (frontend.0, from.0));
        assert_eq!(quoted(&seen.data, v6), (from, frontend));
        // The client refuses the answer: the pod hears it about its own packet.
        let answered = node.send(2, &udp(backend, from)).packet;
        let seen = node.receive(&unreachable(from.0, frontend.0, &answered)).delivered(2);
        assert_eq!((seen.src, seen.dst), (from.0, backend.0));
        assert_eq!(quoted(&seen.data, v6), (backend, from));
    }
}

#[test]
fn a_backend_of_the_host_answers_from_the_frontend() {
    for v6 in [false, true] {
        let mut node = outside(0, &[REMOTE]);
        let info = EndpointInfo { flags: ENDPOINT_HOST, identity: 1, ..EndpointInfo::default() };
        node.maps.lxc.update(EndpointKey::new(pod(REMOTE, v6)), info, Update::Any).expect("room");
        let (from, frontend, backend) = ((client(v6), PORT), (vip(v6), 80), (pod(REMOTE, v6), 8080));
        let arrived = node.receive(&tcp(from, frontend, SYN));
        assert_eq!(arrived.passed().ends(), (from, backend), "on to the stack");
        assert_eq!(node.depart(&tcp(backend, from, SYN_ACK)).passed().ends(), (frontend, from));
        let refusal = node.depart(&unreachable(backend.0, from.0, &arrived.packet)).passed();
        assert_eq!((refusal.src, refusal.dst), (frontend.0, from.0));
        assert_eq!(quoted(&refusal.data, v6), (from, frontend));
        // What the host says by itself stays as it is.
        let own = (backend.0, 22);
        assert_eq!(node.depart(&tcp(own, from, SYN_ACK)).passed().ends(), (own, from));
    }
}

#[test]
fn an_error_about_an_answer_reaches_a_backend_that_was_sent_whole_packets_in_the_same_way() {
    for v6 in [false, true] {
        let mut node = outside(LB_DSR | LB_DSR_IPIP, &[REMOTE]);
        let (from, frontend) = ((client(v6), PORT), (vip(v6), 80));
        node.receive(&udp(from, frontend));
        let error = unreachable(from.0, frontend.0, &udp(frontend, from));
        let out = node.receive(&error);
        assert_eq!(out.verdict, Verdict::redirect(BACK));
        assert_eq!(addresses(&out.packet, v6), (node_address(v6), pod(REMOTE, v6)));
        assert_eq!(out.packet[14 + if v6 { 40 } else { 20 }..], error[14..], "as it came");
    }
}

#[test]
fn a_new_flow_is_opened_before_there_is_a_buffer_and_goes_on_there() {
    for v6 in [false, true] {
        let mut node = outside(0, &[REMOTE]);
        let (from, frontend, backend) = ((client(v6), PORT), (vip(v6), 80), (pod(REMOTE, v6), 8080));
        for flags in [SYN, ACK] {
            let seen = left(&node.early(&tcp(from, frontend, flags)), BACK);
            assert_eq!(seen.ends(), ((node_address(v6), PORT), backend));
        }
        let seen = left(&node.early(&tcp(backend, (node_address(v6), PORT), SYN_ACK)), FRONT);
        assert_eq!(seen.ends(), (frontend, from));
        // tc finds the same connection.
        let seen = left(&node.receive(&tcp(from, frontend, ACK)), BACK);
        assert_eq!(seen.ends(), ((node_address(v6), PORT), backend));
        // Nobody behind it: the later hook tells the client.
        let mut node = outside(0, &[]);
        node.early(&tcp(from, frontend, SYN)).passed();
    }
}

#[test]
fn ports_at_which_the_host_itself_speaks_are_left_to_it() {
    for v6 in [false, true] {
        let mut node = outside(0, &[REMOTE]);
        let (from, frontend, backend) = ((client(v6), PORT), (vip(v6), 80), (pod(REMOTE, v6), 8080));
        node.ways.bind(node_address(v6), PORT, wire::protocol::TCP);
        let port = left(&node.receive(&tcp(from, frontend, SYN)), BACK).sport;
        assert_ne!(port, PORT, "a socket of the host is there");
        // An answer to the host's own is nobody else's.
        node.receive(&tcp(backend, (node_address(v6), PORT), SYN_ACK)).passed();
        // And the other way round: what the host opens later from a port that is taken leaves from another.
        let info = EndpointInfo { flags: ENDPOINT_HOST, identity: 1, ..EndpointInfo::default() };
        node.maps.lxc.update(EndpointKey::new(node_address(v6)), info, Update::Any).expect("room");
        let own = (node_address(v6), port);
        for flags in [SYN, ACK] {
            let (src, dst) = node.depart(&tcp(own, backend, flags)).passed().ends();
            assert_eq!((src.0, dst), (own.0, backend));
            assert_ne!(src.1, port, "that one stands for a client");
            let answer = node.receive(&tcp(backend, src, if flags == SYN { SYN_ACK } else { ACK })).passed();
            assert_eq!(answer.ends(), (backend, own));
        }
        let seen = left(&node.receive(&tcp(backend, own, SYN_ACK)), FRONT);
        assert_eq!(seen.ends(), (frontend, from), "the client's answers still come");
    }
}

#[test]
fn what_was_asked_within_a_second_is_not_asked_again_and_afterwards_it_is() {
    for v6 in [false, true] {
        let mut node = outside(0, &[REMOTE]);
        let (from, frontend) = ((client(v6), PORT), (vip(v6), 80));
        left(&node.receive(&tcp(from, frontend, SYN)), BACK);
        let bits = if v6 { 128 } else { 32 };
        let to = types::Cidr::new(pod(REMOTE, v6), bits).expect("a whole address");
        node.ways.add(to, Way { ifindex: 7, macs: Some(([7; 6], [0x10; 6])), mtu: 1500 });
        left(&node.receive(&tcp(from, frontend, ACK)), BACK);
        node.seconds += 1;
        left(&node.receive(&tcp(from, frontend, ACK)), 7);
    }
}

#[test]
fn what_is_known_of_a_way_does_not_let_longer_packets_pass() {
    for v6 in [false, true] {
        let mut node = outside(0, &[REMOTE]);
        let bits = if v6 { 128 } else { 32 };
        let to = types::Cidr::new(pod(REMOTE, v6), bits).expect("a whole address");
        let packet = tcp((client(v6), PORT), (vip(v6), 80), SYN);
        let mtu = packet.len() as u32 - 14;
        node.ways.add(to, Way { ifindex: BACK, macs: Some(([BACK as u8; 6], [0x10; 6])), mtu });
        left(&node.receive(&packet), BACK);
        let out = node.receive(&tcp_with((client(v6), PORT), (vip(v6), 80), ACK, b"hello!"));
        assert_eq!((out.verdict.action, out.verdict.argument), (Action::Redirect, FRONT));
        let seen = Seen::of(&out.packet);
        assert_eq!((seen.sport, seen.dport), if v6 { (2, 0) } else { (3, 4) });
    }
}

#[test]
fn a_connection_that_a_pod_opened_is_not_turned_into_one_to_a_service() {
    for v6 in [false, true] {
        let mut node = outside(0, &[2]);
        let (from, frontend, own) = ((client(v6), PORT), (vip(v6), 80), (pod(2, v6), 8080));
        // The pod speaks first, from the port at which it serves; then its peer comes by the service.
        assert_eq!(node.send(2, &udp(own, from)).passed().ends(), (own, from));
        assert_eq!(node.receive(&udp(from, frontend)).delivered(2).ends(), (from, own));
        assert_eq!(node.send(2, &udp(own, from)).passed().ends(), (own, from), "still from its own address");
    }
}

#[test]
fn a_connection_that_begins_anew_goes_where_a_new_one_may_go() {
    for v6 in [false, true] {
        let mut node = outside(0, &[REMOTE]);
        let (from, frontend, backend) = ((client(v6), PORT), (vip(v6), 80), (pod(REMOTE, v6), 8080));
        left(&node.receive(&tcp(from, frontend, SYN)), BACK);
        left(&node.receive(&tcp(backend, (node_address(v6), PORT), SYN_ACK)), FRONT);
        node.service(&[2], BACKEND_ACTIVE);
        change(&mut node, |service| service.flags |= SERVICE_ROUTABLE);
        node.backend(REMOTE, Port::new(8080), BACKEND_TERMINATING);
        // What goes on stays, and is what the entry is checked for.
        left(&node.receive(&tcp(from, frontend, ACK)), BACK);
        assert_eq!(node.receive(&tcp(from, frontend, SYN)).delivered(2).ends(), (from, (pod(2, v6), 8080)));
    }
}

#[test]
fn a_packet_too_long_for_its_way_is_complained_about() {
    for v6 in [false, true] {
        let mut node = outside(LB_DSR, &[REMOTE]);
        let bits = if v6 { 128 } else { 32 };
        let to = types::Cidr::new(pod(REMOTE, v6), bits).expect("a whole address");
        let packet = tcp((client(v6), PORT), (vip(v6), 80), SYN);
        let mtu = packet.len() as u32 - 14;
        node.ways.add(to, Way { ifindex: BACK, macs: Some(([3; 6], [0x10; 6])), mtu });
        let out = node.receive(&packet);
        assert_eq!((out.verdict.action, out.verdict.argument), (Action::Redirect, FRONT));
        let seen = Seen::of(&out.packet);
        assert_eq!((seen.sport, seen.dport), if v6 { (2, 0) } else { (3, 4) });
        let at = if v6 { 58 } else { 38 };
        let told = u32::from_be_bytes(out.packet[at..at + 4].try_into().expect("four"));
        assert_eq!(told, 1500 - if v6 { 24 } else { 8 });
    }
}

#[test]
fn a_pod_leaves_with_the_nodes_address_and_its_answers_come_back() {
    for v6 in [false, true] {
        let mut node = outside(LB_MASQUERADE_IPV4 | LB_MASQUERADE_IPV6, &[]);
        let (inside, far) = ((pod(1, v6), PORT), (client(v6), 443));
        let packet = node.send(1, &tcp(inside, far, SYN)).packet;
        let out = node.depart(&packet);
        assert_eq!(out.passed().ends(), ((node_address(v6), PORT), far));
        let answer = node.receive(&tcp(far, (node_address(v6), PORT), SYN_ACK));
        assert_eq!(answer.delivered(1).ends(), (far, inside));
        // An echo is known by its identifier.
        let (ask, reply) = echo(v6);
        let packet = node.send(1, &icmp(inside.0, far.0, ask, 0, [0x90, 0x01, 0, 1], b"ping")).packet;
        let out = node.depart(&packet);
        let seen = out.passed();
        assert_eq!((seen.src, seen.dst), (node_address(v6), far.0));
        let id = [out.packet[if v6 { 58 } else { 38 }], out.packet[if v6 { 59 } else { 39 }]];
        let answer = node.receive(&icmp(far.0, node_address(v6), reply, 0, [id[0], id[1], 0, 1], b"ping"));
        assert_eq!(answer.delivered(1).dst, inside.0);
        // What answers somebody from outside keeps its address.
        node.receive(&tcp((far.0, 5), (pod(1, v6), 80), SYN)).delivered(1);
        let packet = node.send(1, &tcp((pod(1, v6), 80), (far.0, 5), SYN_ACK)).packet;
        assert_eq!(node.depart(&packet).passed().src, pod(1, v6));
    }
}
