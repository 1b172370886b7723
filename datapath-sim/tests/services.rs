//! Services: who serves, for how long, and that nobody notices.

mod support;

use abi::be::Port;
use abi::config::LB_AFFINITY;
use abi::lb::{
    BACKEND_ACTIVE, BACKEND_TERMINATING, LbAffinityMatch, LbKey4, LbKey6, LbService, SERVICE_AFFINITY,
    SERVICE_LOOPBACK_IPV4, SERVICE_LOOPBACK_IPV6, SERVICE_TWO_SCOPES,
};
use datapath::DropReason;
use datapath_sim::map::Update;
use std::net::IpAddr;
use support::*;
use wire::protocol::TCP;

const PORT: u16 = 4000;

#[test]
fn a_client_sees_the_service_and_the_backend_sees_the_client() {
    for v6 in [false, true] {
        let mut node = World::new();
        node.service(&[2], BACKEND_ACTIVE);
        let (client, frontend, backend) = ((pod(1, v6), PORT), (vip(v6), 80), (pod(2, v6), 8080));
        for (flags, answer) in [(SYN, SYN_ACK), (ACK, ACK)] {
            assert_eq!(node.send(1, &tcp(client, frontend, flags)).delivered(2).ends(), (client, backend));
            assert_eq!(node.send(2, &tcp(backend, client, answer)).delivered(1).ends(), (frontend, client));
        }
        assert_eq!(node.send(1, &udp(client, frontend)).delivered(2).ends(), (client, backend));
        assert_eq!(node.send(2, &udp(backend, client)).delivered(1).ends(), (frontend, client));
        // The backend's own address is no service.
        assert_eq!(node.send(1, &tcp((pod(1, v6), 1), backend, SYN)).delivered(2).ends(), ((client.0, 1), backend));
    }
}

#[test]
fn policy_is_about_the_backend_and_its_port() {
    let mut node = World::new();
    node.service(&[2], BACKEND_ACTIVE);
    node.enforce(1);
    let (client, frontend) = ((pod(1, false), PORT), (vip(false), 80));
    node.send(1, &tcp(client, frontend, SYN)).dropped(DropReason::Policy);
    assert_eq!(node.last_drop(), Some((133, 1001, 1002)));
    node.allow(1, 1002, false, TCP, 8080);
    node.send(1, &tcp(client, frontend, SYN)).delivered(2);
}

#[test]
fn all_backends_get_their_share() {
    let mut node = World::new();
    node.service(&[2, 3], BACKEND_ACTIVE);
    let mut counts = [0; 2];
    for port in 1000..2000 {
        let out = node.send(1, &tcp((pod(1, false), port), (vip(false), 80), SYN));
        counts[usize::from(out.verdict.argument == ifindex(3))] += 1;
    }
    assert!(counts.iter().all(|n| (450..550).contains(n)), "{counts:?}");
}

#[test]
fn a_backend_that_goes_is_replaced_and_one_that_ends_keeps_what_it_has() {
    for v6 in [false, true] {
        let mut node = World::new();
        node.service(&[2], BACKEND_ACTIVE);
        let (client, frontend) = ((pod(1, v6), PORT), (vip(v6), 80));
        node.send(1, &tcp(client, frontend, SYN)).delivered(2);
        node.send(2, &tcp((pod(2, v6), 8080), client, SYN_ACK)).delivered(1);
        node.service(&[3], BACKEND_ACTIVE);
        node.backend(2, Port::new(8080), BACKEND_TERMINATING);
        node.send(1, &tcp(client, frontend, ACK)).delivered(2);
        node.send(1, &tcp((client.0, 5000), frontend, SYN)).delivered(3);
        // Whoever begins anew from the same port is no longer its own.
        node.send(1, &tcp(client, frontend, SYN)).delivered(3);
        node.service(&[2], BACKEND_ACTIVE);
        node.send(1, &tcp((client.0, 5001), frontend, SYN)).delivered(2);
        node.service(&[3], BACKEND_ACTIVE);
        node.backend(2, Port::new(8080), BACKEND_TERMINATING);
        let client = (client.0, 5001);
        node.send(1, &tcp(client, frontend, ACK)).delivered(2);
        node.maps.lb4_backends.delete(&502).expect("it was there");
        node.maps.lb6_backends.delete(&502).expect("it was there");
        node.revise_services();
        node.send(1, &tcp(client, frontend, ACK)).delivered(3);
    }
}

#[test]
fn a_new_connection_from_the_same_port_chooses_anew() {
    let mut node = World::new();
    node.service(&[2], BACKEND_ACTIVE);
    let (client, frontend, backend) = ((pod(1, false), PORT), (vip(false), 80), (pod(2, false), 8080));
    node.send(1, &tcp(client, frontend, SYN)).delivered(2);
    node.send(2, &tcp(backend, client, SYN_ACK)).delivered(1);
    node.service(&[3], BACKEND_ACTIVE);
    node.send(1, &tcp(client, frontend, FIN_ACK)).delivered(2);
    node.send(1, &tcp(client, frontend, SYN)).delivered(3);
}

#[test]
fn a_service_that_appears_takes_over_what_went_to_its_address_before() {
    let mut node = World::new();
    let (client, frontend) = ((pod(1, false), PORT), (vip(false), 80));
    assert_eq!(node.send(1, &udp(client, frontend)).passed().ends(), (client, frontend));
    node.service(&[2], BACKEND_ACTIVE);
    node.send(1, &udp(client, frontend)).delivered(2);
}

#[test]
fn without_a_backend_the_client_is_told() {
    for v6 in [false, true] {
        let mut node = World::new();
        node.service(&[], BACKEND_ACTIVE);
        let packet = tcp((pod(1, v6), PORT), (vip(v6), 80), SYN);
        let error = node.send(1, &packet).answered(1);
        assert_eq!((error.src, error.dst), (vip(v6), pod(1, v6)));
        assert_eq!((error.sport, error.dport), if v6 { (1, 4) } else { (3, 3) });
        assert_eq!(error.data, packet[14..14 + error.data.len()]);
        assert_eq!(node.last_drop().map(|d| d.0), Some(158));
    }
}

#[test]
fn a_pod_reaches_itself() {
    for v6 in [false, true] {
        let mut node = World::new();
        node.service(&[1], BACKEND_ACTIVE);
        node.enforce(1);
        let loopback: IpAddr = if v6 { SERVICE_LOOPBACK_IPV6.into() } else { SERVICE_LOOPBACK_IPV4.into() };
        let (client, frontend, server) = ((pod(1, v6), PORT), (vip(v6), 80), (pod(1, v6), 8080));
        let seen = node.send(1, &tcp(client, frontend, SYN)).delivered(1);
        assert_eq!(seen.ends(), ((loopback, PORT), server));
        let seen = node.send(1, &tcp(server, (loopback, PORT), SYN_ACK)).delivered(1);
        assert_eq!(seen.ends(), (frontend, client));
        node.send(1, &tcp(client, frontend, ACK)).delivered(1);
        // Nobody else may pose as the loopback of services, nor as the service.
        node.arrive(1, &tcp((loopback, PORT), server, ACK)).dropped(DropReason::InvalidSource);
        node.receive(&tcp((loopback, PORT), server, ACK)).dropped(DropReason::InvalidSource);
        node.arrive(1, &tcp(frontend, client, ACK)).dropped(DropReason::InvalidSource);
    }
}

#[test]
fn errors_are_about_the_service_too() {
    for v6 in [false, true] {
        let mut node = World::new();
        node.service(&[2], BACKEND_ACTIVE);
        let (client, frontend, backend) = ((pod(1, v6), PORT), (vip(v6), 80), (pod(2, v6), 8080));
        let sent = node.send(1, &udp(client, frontend));
        sent.delivered(2);
        // From the backend to the client.
        let error = node.send(2, &unreachable(backend.0, client.0, &sent.packet)).delivered(1);
        assert_eq!((error.src, error.dst), (frontend.0, client.0));
        assert_eq!(Quoted::of(&error, v6), Quoted { src: client, dst: frontend });
        // From a router on the way: it keeps its own address.
        let error = node.arrive(1, &unreachable(world(v6), client.0, &sent.packet)).passed();
        assert_eq!((error.src, Quoted::of(&error, v6).dst), (world(v6), frontend));
        // From the client about an answer.
        let answer = node.send(2, &udp(backend, client));
        assert_eq!(answer.delivered(1).ends(), (frontend, client));
        let error = node.send(1, &unreachable(client.0, frontend.0, &answer.packet)).delivered(2);
        assert_eq!((error.src, error.dst), (client.0, backend.0));
        assert_eq!(Quoted::of(&error, v6), Quoted { src: backend, dst: client });
    }
}

#[derive(Debug, PartialEq)]
struct Quoted {
    src: (IpAddr, u16),
    dst: (IpAddr, u16),
}

impl Quoted {
    fn of(error: &Seen, v6: bool) -> Self {
        let address = |at: usize| -> IpAddr {
            if v6 {
                <[u8; 16]>::try_from(&error.data[at..at + 16]).expect("16 bytes").into()
            } else {
                <[u8; 4]>::try_from(&error.data[at..at + 4]).expect("4 bytes").into()
            }
        };
        let (src, dst, l4) = if v6 { (8, 24, 40) } else { (12, 16, 20) };
        let port = |at: usize| u16::from_be_bytes([error.data[at], error.data[at + 1]]);
        if !v6 {
            assert!(wire::checksum::is_right(wire::checksum::sum(&error.data[..20])), "the quoted header's own sum");
        }
        Self { src: (address(src), port(l4)), dst: (address(dst), port(l4 + 2)) }
    }
}

#[test]
fn sctp_is_translated_only_where_the_port_stays() {
    let mut node = World::new();
    node.service(&[2], BACKEND_ACTIVE);
    let (src, dst) = (pod(1, false), vip(false));
    let mut chunk = [0; 16];
    wire::Sctp { sport: PORT, dport: 80, tag: 1, checksum: 2 }.emit(&mut chunk).expect("room");
    let packet = frame(src, dst, wire::protocol::SCTP, 64, &chunk);
    node.send(1, &packet).dropped(DropReason::UntranslatableProtocol);
    let backend = abi::lb::LbBackend4 {
        address: std::net::Ipv4Addr::new(10, 0, 0, 2).into(),
        port: Port::new(80),
        ..abi::lb::LbBackend4::default()
    };
    node.maps.lb4_backends.update(502, backend, Update::Any).expect("room");
    node.revise_services();
    let out = node.send(1, &packet);
    assert_eq!(out.verdict, datapath::Verdict::redirect_peer(ifindex(2)));
    assert_eq!(out.packet[34..], packet[34..], "nothing that its checksum covers has changed");
}

/// Through which pod a new connection from `port` goes.
#[track_caller]
fn backend_of(node: &mut World, v6: bool, port: u16, flags: u8) -> u32 {
    let out = node.send(1, &tcp((pod(1, v6), port), (vip(v6), 80), flags));
    assert_eq!(out.verdict.action, datapath::Action::RedirectPeer);
    out.verdict.argument
}

#[test]
fn a_client_with_affinity_keeps_its_backend_while_it_uses_it() {
    for v6 in [false, true] {
        let mut node = World::new();
        node.config.lb_flags = LB_AFFINITY;
        node.service(&[2, 3], BACKEND_ACTIVE);
        change(&mut node, |service| (service.flags, service.backend_id) = (SERVICE_AFFINITY, 10));
        for id in [502, 503] {
            let key = LbAffinityMatch { backend_id: id, rev_nat_index: Port::new(7), pad: 0 };
            node.maps.lb_affinity_match.update(key, 1, Update::Any).expect("room");
        }
        let first = backend_of(&mut node, v6, 1000, SYN);
        assert!((1001..1050).all(|port| backend_of(&mut node, v6, port, SYN) == first), "all to one");
        // Packets of a connection keep it alive too.
        for port in 1050..1070 {
            node.seconds += 8;
            assert_eq!(backend_of(&mut node, v6, 1000, ACK), first);
            node.seconds += 8;
            assert_eq!(backend_of(&mut node, v6, port, SYN), first, "each time it could have been chosen anew");
        }
        // Unused for as long as it lasts, it is forgotten.
        let fresh: std::collections::BTreeSet<u32> = (1100..1130)
            .map(|port| {
                node.seconds += 10;
                backend_of(&mut node, v6, port, SYN)
            })
            .collect();
        assert_eq!(fresh.len(), 2, "each is chosen anew");
        // A backend that serves the service no more is not kept.
        let last = backend_of(&mut node, v6, 2000, SYN);
        let (gone, other) = if last == ifindex(2) { (502, 3) } else { (503, 2) };
        let key = LbAffinityMatch { backend_id: gone, rev_nat_index: Port::new(7), pad: 0 };
        node.maps.lb_affinity_match.delete(&key).expect("it is there");
        let all: Vec<u32> = (2001..2040).map(|port| backend_of(&mut node, v6, port, SYN)).collect();
        assert!(all.contains(&ifindex(other)), "it is chosen anew");
    }
}

#[test]
fn a_service_with_two_scopes_serves_pods_by_the_internal_one() {
    for v6 in [false, true] {
        let mut node = World::new();
        node.service(&[2, 3], BACKEND_ACTIVE);
        change(&mut node, |service| service.flags2 = SERVICE_TWO_SCOPES);
        // Without an entry for the inside it is no service there.
        let to = ((pod(1, v6), PORT), (vip(v6), 80));
        assert_eq!(node.send(1, &tcp(to.0, to.1, SYN)).passed().ends(), to);
        let (rev_nat_index, dport) = (Port::new(7), Port::new(80));
        for (slot, value) in [
            (1, LbService { backend_id: 503, rev_nat_index, ..LbService::default() }),
            (0, LbService { count: 1, rev_nat_index, flags2: SERVICE_TWO_SCOPES, ..LbService::default() }),
        ] {
            let inside4 = LbKey4 { address: VIP4.into(), dport, backend_slot: slot, scope: 1, ..LbKey4::default() };
            let inside6 = LbKey6 { address: VIP6.into(), dport, backend_slot: slot, scope: 1, ..LbKey6::default() };
            node.maps.lb4_services.update(inside4, value, Update::Any).expect("room");
            node.maps.lb6_services.update(inside6, value, Update::Any).expect("room");
        }
        node.revise_services();
        assert!((3000..3030).all(|port| backend_of(&mut node, v6, port, SYN) == ifindex(3)), "only by this one");
    }
}
