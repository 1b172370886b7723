//! What counts as the same connection, what as its answer, and when it ends.

mod support;

use abi::ct::{CT_INBOUND, CtKey4};
use datapath::{DropReason, End, Family, V4};
use support::*;
use wire::protocol::{TCP, UDP};

/// The connection of pod `n` with another pod over IPv4, at its own side.
fn entry(world: &World, n: u8, port: u16, other: u8, other_port: u16, proto: u8) -> Option<abi::ct::CtEntry4> {
    let end = |n, port| End { addr: std::net::Ipv4Addr::new(10, 0, 0, n).into(), port: abi::be::Port::new(port) };
    let key: CtKey4 = V4::ct_key(&end(n, port), &end(other, other_port), proto);
    if proto == TCP { world.maps.ct4.peek(&key).copied() } else { world.maps.ct_any4.peek(&key).copied() }
}

/// Pods 1 and 2 enforce; 1 may send to 2 on TCP and UDP port 80, and nothing else is allowed.
fn enforced() -> World {
    let mut world = World::new();
    for n in [1, 2] {
        world.enforce(n);
    }
    for proto in [TCP, UDP] {
        world.allow(1, 1002, false, proto, 80);
        world.allow(2, 1001, true, proto, 80);
    }
    world
}

#[test]
fn answers_need_no_rule_and_nothing_else_comes_back() {
    for v6 in [false, true] {
        let mut world = enforced();
        let (a, b) = ((pod(1, v6), 4000), (pod(2, v6), 80));
        world.send(2, &tcp(b, a, SYN_ACK)).dropped(DropReason::Policy);
        world.send(1, &tcp(a, b, SYN)).delivered(2);
        assert_eq!(world.send(2, &tcp(b, a, SYN_ACK)).delivered(1).ends(), (b, a));
        world.send(1, &tcp(a, b, ACK)).delivered(2);
        world.send(2, &tcp((b.0, 81), a, ACK)).dropped(DropReason::Policy);
        world.send(2, &tcp(b, (a.0, 4001), ACK)).dropped(DropReason::Policy);
        world.send(2, &udp(b, a)).dropped(DropReason::Policy);
        world.send(1, &udp(a, b)).delivered(2);
        world.send(2, &udp(b, a)).delivered(1);
    }
}

#[test]
fn an_old_connection_does_not_let_the_other_end_open_one() {
    for v6 in [false, true] {
        let mut world = enforced();
        let (a, b) = ((pod(1, v6), 4000), (pod(2, v6), 80));
        world.send(1, &tcp(a, b, SYN)).delivered(2);
        world.send(2, &tcp(b, a, SYN_ACK)).delivered(1);
        world.send(2, &tcp(b, a, SYN)).dropped(DropReason::Policy);
        world.send(1, &tcp(a, b, FIN_ACK)).delivered(2);
        world.send(2, &tcp(b, a, FIN_ACK)).delivered(1);
        world.send(2, &tcp(b, a, SYN)).dropped(DropReason::Policy);
        // The opener may use the same ports again at once.
        world.send(1, &tcp(a, b, SYN)).delivered(2);
        world.send(2, &tcp(b, a, SYN_ACK)).delivered(1);
    }
}

#[test]
fn an_answer_after_the_end_is_no_answer() {
    let mut world = enforced();
    let (a, b) = ((pod(1, false), 4000), (pod(2, false), 80));
    world.send(1, &udp(a, b)).delivered(2);
    world.seconds += 59;
    world.send(2, &udp(b, a)).delivered(1);
    world.seconds += 60;
    world.send(2, &udp(b, a)).dropped(DropReason::Policy);
}

#[test]
fn lifetimes_follow_what_was_seen() {
    let mut world = World::new();
    let (a, b) = ((pod(1, false), 4000), (pod(2, false), 80));
    let left = |world: &World| {
        let [one, two] = [entry(world, 1, 4000, 2, 80, TCP), entry(world, 2, 80, 1, 4000, TCP)];
        let left = |e: Option<abi::ct::CtEntry4>| u64::from(e.expect("tracked").connection.lifetime) - world.seconds;
        assert_eq!(left(one), left(two), "both sides saw the same");
        left(one)
    };
    for (from, flags, seconds) in
        [(1, SYN, 60), (2, SYN_ACK, 8000), (1, ACK, 8000), (1, FIN_ACK, 8000), (2, ACK, 8000), (2, FIN_ACK, 10)]
    {
        let (src, dst) = if from == 1 { (a, b) } else { (b, a) };
        let _ = world.send(from, &tcp(src, dst, flags));
        assert_eq!(left(&world), seconds, "after flags {flags:#x} from pod {from}");
        world.seconds += 1;
    }
    let inbound = entry(&world, 2, 80, 1, 4000, TCP).expect("tracked").connection;
    assert_ne!(inbound.flags & CT_INBOUND, 0);
    assert_eq!((inbound.peer_identity, inbound.source_identity), (1001, 1001));
    // A reset before the other end spoke ends it; one from one end of two may be forged.
    for (answer, seconds) in [(None, 10), (Some(SYN_ACK), 60)] {
        let mut world = World::new();
        let _ = world.send(1, &tcp(a, b, SYN));
        if let Some(flags) = answer {
            let _ = world.send(2, &tcp(b, a, flags));
        }
        let _ = world.send(2, &tcp(b, a, RST));
        assert_eq!(left(&world), seconds);
    }
}

#[test]
fn when_policy_moves_connections_are_judged_again_in_both_directions() {
    for v6 in [false, true] {
        let mut world = enforced();
        let (a, b) = ((pod(1, v6), 4000), (pod(2, v6), 80));
        world.send(1, &tcp(a, b, SYN)).delivered(2);
        world.send(2, &tcp(b, a, SYN_ACK)).delivered(1);
        world.forbid(2, 1001, true, TCP, 80);
        world.send(1, &tcp(a, b, ACK)).dropped(DropReason::Policy);
        assert_eq!(world.last_drop(), Some((133, 1001, 1002)));
        world.send(2, &tcp(b, a, ACK)).dropped(DropReason::Policy);
        world.allow(2, 1001, true, TCP, 80);
        world.send(2, &tcp(b, a, ACK)).delivered(1);
        world.forbid(1, 1002, false, TCP, 80);
        world.send(2, &tcp(b, a, ACK)).dropped(DropReason::Policy);
        world.send(1, &tcp(a, b, ACK)).dropped(DropReason::Policy);
        world.allow(1, 1002, false, TCP, 80);
        world.send(1, &tcp(a, b, ACK)).delivered(2);
    }
}

#[test]
fn a_ping_is_answered_but_not_returned() {
    for v6 in [false, true] {
        let mut world = World::new();
        world.enforce(1);
        let (request, reply) = echo(v6);
        world.allow(1, 1002, false, icmp_protocol(v6), request.into());
        let (a, b) = (pod(1, v6), pod(2, v6));
        let ping = icmp(a, b, request, 0, [0, 42, 0, 1], b"ping");
        let pong = icmp(b, a, reply, 0, [0, 42, 0, 1], b"ping");
        world.send(2, &pong).dropped(DropReason::Policy);
        world.send(1, &ping).delivered(2);
        world.send(2, &pong).delivered(1);
        // The same identifier in a request of the other end is no answer.
        world.send(2, &icmp(b, a, request, 0, [0, 42, 0, 1], b"ping")).dropped(DropReason::Policy);
        world.revise();
        world.send(2, &pong).delivered(1);
    }
}

#[test]
fn errors_share_the_fate_of_what_they_are_about() {
    for v6 in [false, true] {
        let mut world = enforced();
        let (a, b) = ((pod(1, v6), 4000), (pod(2, v6), 80));
        let error = unreachable(b.0, a.0, &udp(a, b));
        world.send(2, &error).dropped(DropReason::Policy);
        world.send(1, &udp(a, b)).delivered(2);
        world.send(2, &error).delivered(1);
        // A router on the way may complain as well, and what it says of others does not pass.
        world.arrive(1, &unreachable(world_router(v6), a.0, &udp(a, b))).passed();
        let other = unreachable(world_router(v6), a.0, &udp((a.0, 4001), b));
        world.arrive(1, &other).dropped(DropReason::Policy);
        // Pod 3 is in no connection that it could complain about in the name of pod 2.
        world.enforce(3);
        world.send(3, &unreachable(pod(3, v6), a.0, &udp(a, b))).dropped(DropReason::Policy);
        // Nor does an error keep a connection alive, or outlive the permission.
        world.forbid(2, 1001, true, UDP, 80);
        world.send(2, &error).dropped(DropReason::Policy);
    }
}

fn world_router(v6: bool) -> std::net::IpAddr {
    world(v6)
}

#[test]
fn fragments_follow_their_first_one() {
    let mut node = enforced();
    let (a, b) = ((pod(1, false), 4000), (pod(2, false), 80));
    let fragment = |offset: u16, more: bool| {
        let whole = udp(a, b);
        let mut payload = whole[34..].to_vec();
        payload.resize(24, 0);
        let (std::net::IpAddr::V4(src), std::net::IpAddr::V4(dst)) = (a.0, b.0) else { unreachable!("IPv4") };
        let header = wire::ipv4::Header {
            tos: 0,
            id: 99,
            dont_fragment: false,
            more_fragments: more,
            fragment_offset: offset,
            ttl: 64,
            protocol: UDP,
            src,
            dst,
            options: &[],
            payload_len: 24,
        };
        let mut out = whole[..14].to_vec();
        out.resize(14 + 20 + 24, 0);
        header.emit(&mut out[14..]).expect("room").copy_from_slice(&payload);
        out
    };
    node.send(1, &fragment(24, true)).dropped(DropReason::FragmentUnknown);
    let delivered = datapath::Verdict::redirect_peer(ifindex(2));
    assert_eq!(node.send(1, &fragment(0, true)).verdict, delivered);
    assert_eq!(node.send(1, &fragment(24, true)).verdict, delivered);
    assert_eq!(node.send(1, &fragment(48, false)).verdict, delivered);
    node.config.flags &= !abi::config::NODE_TRACK_FRAGMENTS;
    node.send(1, &fragment(0, true)).dropped(DropReason::Fragment);
}
