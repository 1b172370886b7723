//! What a pod may do at all: its address, its neighbours, hops, and nothing before its policy is known.

mod support;

use abi::endpoint::{DEVICE_AUDIT, DEVICE_CLOSED};
use abi::metrics::{DIR_EGRESS, DIR_INGRESS, MetricsKey};
use datapath::{DropReason, Verdict};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use support::*;
use wire::{arp, ethernet, protocol::TCP};

#[test]
fn nothing_passes_before_policy_is_known() {
    for v6 in [false, true] {
        let mut node = World::new();
        node.device(1, |device| device.flags = DEVICE_CLOSED);
        let there = tcp((pod(2, v6), 1), (pod(1, v6), 80), SYN);
        node.send(1, &tcp((pod(1, v6), 1), (pod(2, v6), 80), SYN)).dropped(DropReason::NotReady);
        node.send(2, &there).dropped(DropReason::NotReady);
        node.arrive(1, &there).dropped(DropReason::NotReady);
        node.maps.devices.delete(&ifindex(1)).expect("it was there");
        node.send(1, &tcp((pod(1, v6), 1), (pod(2, v6), 80), SYN)).dropped(DropReason::NotReady);
        node.send(2, &there).dropped(DropReason::NotReady);
    }
}

#[test]
fn a_pod_has_one_address_of_each_family() {
    for v6 in [false, true] {
        let mut node = World::new();
        node.send(1, &tcp((pod(3, v6), 1), (pod(2, v6), 80), SYN)).dropped(DropReason::InvalidSource);
        let none: IpAddr = if v6 { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
        node.device(1, |device| {
            device.ipv4 = Ipv4Addr::UNSPECIFIED.into();
            device.ipv6 = Ipv6Addr::UNSPECIFIED.into();
        });
        node.send(1, &tcp((none, 1), (pod(2, v6), 80), SYN)).dropped(DropReason::InvalidSource);
        // And nobody outside has one of this node.
        let inside = tcp((pod(3, v6), 1), (pod(2, v6), 80), SYN);
        node.receive(&inside).dropped(DropReason::InvalidSource);
        node.receive(&tcp((router(v6), 1), (pod(2, v6), 80), SYN)).dropped(DropReason::InvalidSource);
        node.receive(&tcp((world(v6), 1), (pod(2, v6), 80), SYN)).delivered(2);
    }
}

#[test]
fn the_way_out_and_the_way_to_the_host_go_through_the_stack() {
    for v6 in [false, true] {
        let mut node = World::new();
        for to in [world(v6), router(v6)] {
            let out = node.send(1, &tcp((pod(1, v6), 1), (to, 80), SYN));
            assert_eq!(out.passed().ttl, 64, "the stack takes the hop");
            assert_eq!(out.mark, 1001 << 16 | 0x0f00);
        }
        assert_eq!(node.maps.counted(&MetricsKey::new(0, DIR_EGRESS)).count, 2);
        let back = node.arrive(1, &tcp((world(v6), 80), (pod(1, v6), 1), SYN_ACK));
        back.passed();
        assert_eq!(node.maps.counted(&MetricsKey::new(0, DIR_INGRESS)).count, 1);
    }
}

#[test]
fn audited_policy_lets_pass_and_tells() {
    let mut node = World::new();
    node.enforce(2);
    node.device(2, |device| device.flags |= DEVICE_AUDIT);
    node.send(1, &tcp((pod(1, false), 1), (pod(2, false), 80), SYN)).delivered(2);
    let mut audited = 0;
    while let Some(record) = node.maps.events.pop() {
        if record[16] == abi::event::NOTIFY_POLICY_VERDICT && record[16 + 27] & 0x40 != 0 {
            audited += 1;
        }
    }
    assert_eq!(audited, 1);
}

#[test]
fn the_last_hop_is_told_to_the_sender() {
    for v6 in [false, true] {
        let mut node = World::new();
        let mut packet = tcp((pod(1, v6), 1), (pod(2, v6), 80), SYN);
        if v6 {
            packet[21] = 1;
        } else {
            let whole = packet.clone();
            packet = frame(pod(1, v6), pod(2, v6), TCP, 1, &whole[34..]);
        }
        let error = node.send(1, &packet).answered(1);
        assert_eq!((error.src, error.dst, error.sport), (router(v6), pod(1, v6), if v6 { 3 } else { 11 }));
        assert_eq!(node.last_drop().map(|d| d.0), Some(196));
    }
}

#[test]
fn arp_is_answered_for_everybody_else() {
    let mut node = World::new();
    let request = |target: Ipv4Addr| {
        let mut out = vec![0; ethernet::LEN + arp::LEN];
        let ethernet = ethernet::Header { dst: [0xff; 6], src: [2, 0, 0, 0, 0, 1], ethertype: wire::ETHERTYPE_ARP };
        let message = arp::Message {
            operation: arp::Operation::Request,
            sender_mac: [2, 0, 0, 0, 0, 1],
            sender_ip: Ipv4Addr::new(10, 0, 0, 1),
            target_mac: [0; 6],
            target_ip: target,
        };
        message.emit(ethernet.emit(&mut out).expect("room")).expect("room");
        out
    };
    for target in [ROUTER4, WORLD4, Ipv4Addr::new(10, 0, 0, 2)] {
        let out = node.send(1, &request(target));
        assert_eq!(out.verdict, Verdict::redirect(ifindex(1)));
        let (ethernet, rest) = ethernet::Header::parse(&out.packet).expect("a frame");
        assert_eq!((ethernet.dst, ethernet.src), ([2, 0, 0, 0, 0, 1], [4, 0, 0, 0, 0, 1]));
        let (reply, _) = arp::Message::parse(rest).expect("a reply");
        assert_eq!(reply.operation, arp::Operation::Reply);
        assert_eq!((reply.sender_mac, reply.sender_ip), ([4, 0, 0, 0, 0, 1], target));
        assert_eq!((reply.target_mac, reply.target_ip), ([2, 0, 0, 0, 0, 1], Ipv4Addr::new(10, 0, 0, 1)));
    }
    assert_eq!(node.send(1, &request(Ipv4Addr::new(10, 0, 0, 1))).verdict, Verdict::PASS);
}

#[test]
fn neighbours_are_advertised_where_they_are_known() {
    let mut node = World::new();
    let solicit = |src: Ipv6Addr, target: Ipv6Addr| {
        let mut data = target.octets().to_vec();
        data.extend([1, 1, 2, 0, 0, 0, 0, 1]);
        let dst = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00, 1);
        let mut packet = icmp(src.into(), dst.into(), 135, 0, [0; 4], &data);
        packet[21] = 255;
        packet
    };
    let IpAddr::V6(own) = pod(1, true) else { unreachable!("asked for IPv6") };
    let IpAddr::V6(other) = pod(2, true) else { unreachable!("asked for IPv6") };
    for target in [ROUTER6, other] {
        let out = node.send(1, &solicit(own, target));
        assert_eq!(out.verdict, Verdict::redirect(ifindex(1)));
        let seen = Seen::of(&out.packet);
        assert_eq!((seen.src, seen.dst, seen.sport, seen.ttl), (target.into(), own.into(), 136, 255));
        let mut expected = target.octets().to_vec();
        expected.extend([2, 1, 4, 0, 0, 0, 0, 1]);
        assert_eq!(seen.data, expected);
    }
    node.send(1, &solicit(own, WORLD6)).dropped(DropReason::UnknownTarget);
    // Duplicate address detection finds nobody.
    assert_eq!(node.send(1, &solicit(Ipv6Addr::UNSPECIFIED, own)).verdict, Verdict::PASS);
    // Between host and pod the protocol passes whatever the policy.
    node.enforce(1);
    assert_eq!(node.arrive(1, &solicit(ROUTER6, own)).verdict, Verdict::PASS);
    let mut routed = solicit(ROUTER6, own);
    routed[21] = 254;
    node.arrive(1, &routed).dropped(DropReason::Policy);
}

/// A pod's peer of this node is never taken for the world because the ipcache has not heard of it.
#[test]
fn a_pod_unknown_to_the_ipcache_is_not_the_world() {
    for v6 in [false, true] {
        let mut node = World::new();
        node.enforce(2);
        node.allow(2, 9, true, TCP, 80);
        let key = match pod(1, v6) {
            IpAddr::V4(ip) => abi::ipcache::IpcacheKey::v4(ip.into(), 32),
            IpAddr::V6(ip) => abi::ipcache::IpcacheKey::v6(ip.into(), 128),
        };
        node.maps.ipcache.delete(&key).expect("it was there");
        node.send(1, &tcp((pod(1, v6), 1), (pod(2, v6), 80), SYN)).dropped(DropReason::Policy);
        assert_eq!(node.last_drop(), Some((133, 1001, 1002)));
        node.receive(&tcp((world(v6), 1), (pod(2, v6), 80), SYN)).delivered(2);
    }
}

/// Without host routing the stack carries packets between pods, and each side still polices for itself.
#[test]
fn without_host_routing_the_stack_is_on_the_way() {
    let mut node = World::new();
    node.config.flags &= !abi::config::NODE_HOST_ROUTING;
    node.enforce(2);
    let packet = tcp((pod(1, false), 1), (pod(2, false), 80), SYN);
    let out = node.send(1, &packet);
    out.passed();
    node.arrive(2, &out.packet).dropped(DropReason::Policy);
    node.allow(2, 1001, true, TCP, 80);
    node.arrive(2, &out.packet).passed();
}
