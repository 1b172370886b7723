//! A node that serves clients outside, on the simulated maps.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use abi::config::{LB_AFFINITY, LB_NODE_PORT, LB_SOURCE_RANGES};
use abi::lb::{BACKEND_ACTIVE, SERVICE_ROUTABLE};
use datapath::Verdict;
use datapath_sim::Way;

use super::{Out, Seen, World, change, pod};

/// Interface of the backend's side, and where packets from outside come in.
pub const BACK: u32 = 3;
pub const FRONT: u32 = 2;
/// A pod number that is none of this node.
pub const REMOTE: u8 = 9;
pub const PORT: u16 = 40_000;

pub fn client(v6: bool) -> IpAddr {
    if v6 { Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 5).into() } else { Ipv4Addr::new(192, 0, 2, 5).into() }
}
pub fn node_address(v6: bool) -> IpAddr {
    if v6 { Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 1).into() } else { Ipv4Addr::new(172, 16, 0, 1).into() }
}

/// A node with a service of the given backends that may be reached from outside.
pub fn outside(flags: u32, backends: &[u8]) -> World {
    let mut world = World::new();
    world.config.lb_flags = LB_NODE_PORT | LB_AFFINITY | LB_SOURCE_RANGES | flags;
    (world.config.nat_port_min, world.config.nat_port_max) = (32_768, 65_535);
    (world.config.maglev_size, world.config.mtu) = (251, 1500);
    let (IpAddr::V4(four), IpAddr::V6(six)) = (node_address(false), node_address(true)) else {
        unreachable!("one of each family")
    };
    (world.config.snat_ipv4, world.config.snat_ipv6) = (four.into(), six.into());
    (world.config.masquerade_ipv4, world.config.masquerade_ipv6) = (four.into(), six.into());
    for v6 in [false, true] {
        let bits = if v6 { 128 } else { 32 };
        let way = |ifindex: u32| Way { ifindex, macs: Some(([ifindex as u8; 6], [0x10; 6])), mtu: 1500 };
        let to = |ip: IpAddr| types::Cidr::new(ip, bits).expect("a whole address");
        world.ways.add(to(client(v6)), way(FRONT));
        world.ways.add(to(pod(REMOTE, v6)), way(BACK));
    }
    world.service(backends, BACKEND_ACTIVE);
    change(&mut world, |service| service.flags |= SERVICE_ROUTABLE);
    world
}

/// It left by an interface, addressed to the neighbour there, one hop further.
#[track_caller]
pub fn left(out: &Out, ifindex: u32) -> Seen {
    assert_eq!(out.verdict, Verdict::redirect(ifindex), "reason {}", out.verdict.argument);
    assert_eq!(out.packet[..6], [ifindex as u8; 6]);
    let seen = Seen::of(&out.packet);
    assert_eq!(seen.ttl, 63);
    seen
}

/// Source and destination of an IP packet.
pub fn addresses(packet: &[u8], v6: bool) -> (IpAddr, IpAddr) {
    if v6 {
        let half = |at: usize| IpAddr::V6(<[u8; 16]>::try_from(&packet[at..at + 16]).expect("sixteen").into());
        (half(22), half(38))
    } else {
        let word = |at: usize| IpAddr::V4(<[u8; 4]>::try_from(&packet[at..at + 4]).expect("four").into());
        (word(26), word(30))
    }
}

/// The ends of a quoted packet.
pub fn quoted(data: &[u8], v6: bool) -> ((IpAddr, u16), (IpAddr, u16)) {
    let mut packet = vec![0; 14];
    packet.extend(data);
    let (src, dst) = addresses(&packet, v6);
    let at = if v6 { 54 } else { 34 };
    let port = |at: usize| u16::from_be_bytes([packet[at], packet[at + 1]]);
    ((src, port(at)), (dst, port(at + 2)))
}
