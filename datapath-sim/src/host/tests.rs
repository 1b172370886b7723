use std::net::{IpAddr, Ipv4Addr};

use abi::config::{DEFAULT_LIFETIMES, NODE_HOST_ROUTING};
use abi::endpoint::{DEVICE_CLOSED, DEVICE_ENFORCE_INGRESS, Device, EndpointInfo, EndpointKey};
use abi::ipcache::{IpcacheEntry, IpcacheKey};
use abi::write::MapWrite;

use super::*;

const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 10);
const SERVER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 20);
const WORLD: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const UPLINK: u32 = 2;
const CILIUM_HOST: u32 = 3;

fn pod(ip: Ipv4Addr, ifindex: u32, identity: u32, flags: u16) -> [MapWrite; 3] {
    let mac = [2, 0, 0, 0, 0, ifindex as u8, 0, 0];
    let node_mac = [2, 0, 0, 0, 1, ifindex as u8, 0, 0];
    let lxc_id = ifindex as u16;
    let info = EndpointInfo { ifindex, lxc_id, identity, mac, node_mac, ..Default::default() };
    let device = Device { identity, policy: 7, lxc_id, flags, ipv4: ip.into(), mac, node_mac, ..Default::default() };
    [
        MapWrite::Lxc(EndpointKey::new(IpAddr::V4(ip)), Some(info)),
        MapWrite::Device(ifindex, Some(device)),
        MapWrite::Ipcache(
            IpcacheKey::v4(ip.into(), 32),
            Some(IpcacheEntry { identity, class: identity, ..Default::default() }),
        ),
    ]
}

fn host(server_flags: u16) -> Host {
    let config = NodeConfig {
        flags: NODE_HOST_ROUTING,
        world_ipv4: 2,
        monitor_aggregation: 3,
        report_interval: 5,
        report_tcp_flags: 0xff,
        capture_len: 128,
        lifetimes: DEFAULT_LIFETIMES,
        host_ifindex: CILIUM_HOST,
        ..NodeConfig::default()
    };
    let mut host = Host::new(Maps::new(1), config);
    for (ifindex, kind) in
        [(10, Interface::Pod), (20, Interface::Pod), (UPLINK, Interface::Uplink), (CILIUM_HOST, Interface::Host)]
    {
        host.add_interface(ifindex, kind);
        assert!(host.attach(ifindex));
    }
    host.addresses.insert(IpAddr::from([172, 16, 0, 1]));
    host.add_route("0.0.0.0/0".parse().expect("a literal"), UPLINK);
    host.add_route("10.0.0.0/24".parse().expect("a literal"), CILIUM_HOST);
    let writes: Vec<_> = [pod(CLIENT, 10, 1000, 0), pod(SERVER, 20, 2000, server_flags)].concat();
    host.maps.apply(&writes).expect("room");
    host
}

/// A UDP datagram without a checksum.
fn udp(src: Ipv4Addr, dst: Ipv4Addr, ttl: u8) -> Vec<u8> {
    let mut frame = vec![0; 14 + 20 + 8];
    frame[12..14].copy_from_slice(&[8, 0]);
    frame[14..18].copy_from_slice(&[0x45, 0, 0, 28]);
    frame[22..24].copy_from_slice(&[ttl + 1, 17]);
    frame[26..30].copy_from_slice(&src.octets());
    frame[30..34].copy_from_slice(&dst.octets());
    frame[34..42].copy_from_slice(&[0x30, 0x39, 0, 53, 0, 8, 0, 0]);
    frame::spend_hop(&mut frame).expect("hops are left");
    frame
}

#[test]
fn a_packet_between_pods_goes_by_the_pipeline_alone() {
    let mut host = host(0);
    let Fate::Pod(20, got) = host.from_pod(1, 10, udp(CLIENT, SERVER, 64)) else { panic!("not delivered") };
    let mut want = udp(CLIENT, SERVER, 63);
    want[..12].copy_from_slice(&[2, 0, 0, 0, 0, 20, 2, 0, 0, 0, 1, 20]);
    assert_eq!(got, want, "one hop, new Ethernet addresses, a right checksum, nothing else");
    assert_eq!(host.maps.ct_any4.len(), 2, "tracked at either side");
}

#[test]
fn what_policy_does_not_allow_is_dropped_and_told() {
    let mut host = host(DEVICE_ENFORCE_INGRESS);
    assert_eq!(host.from_pod(1, 10, udp(CLIENT, SERVER, 64)), Fate::Dropped(DropReason::Policy.into()));
    assert!(!host.maps.events.is_empty());
    let entry = abi::policy::PolicyEntry { match_type: 1, ..Default::default() };
    let key = abi::policy::PolicyKey::entry(7, 1000, abi::policy::INGRESS, 0, Default::default(), 0);
    host.maps.apply(&[MapWrite::Policy(key, Some(entry))]).expect("room");
    assert!(matches!(host.from_pod(1, 10, udp(CLIENT, SERVER, 64)), Fate::Pod(20, _)));
}

#[test]
fn a_pod_that_is_not_ready_neither_sends_nor_receives() {
    let mut host = host(DEVICE_CLOSED);
    let not_ready = Fate::Dropped(DropReason::NotReady.into());
    assert_eq!(host.from_pod(1, 10, udp(CLIENT, SERVER, 64)), not_ready);
    assert_eq!(host.from_pod(1, 20, udp(SERVER, CLIENT, 64)), not_ready);
}

#[test]
fn the_stack_routes_by_the_longest_prefix_and_spends_a_hop() {
    let mut host = host(0);
    assert_eq!(host.from_pod(1, 10, udp(CLIENT, WORLD, 64)), Fate::Network(UPLINK, udp(CLIENT, WORLD, 63)));
    assert_eq!(host.from_pod(1, 10, udp(CLIENT, WORLD, 1)), Fate::Lost(Lost::HopLimit));
    let to_host = udp(CLIENT, Ipv4Addr::new(172, 16, 0, 1), 64);
    assert_eq!(host.from_pod(1, 10, to_host.clone()), Fate::Host(to_host));
}

#[test]
fn the_host_reaches_a_pod_through_its_device_and_the_world_through_the_uplink() {
    let mut host = host(0);
    let from_host = udp(Ipv4Addr::new(172, 16, 0, 1), SERVER, 64);
    assert!(matches!(host.from_host(1, from_host), Fate::Pod(20, _)));
    assert!(matches!(host.from_network(1, UPLINK, udp(WORLD, SERVER, 64)), Fate::Pod(20, _)));
    let spoofed = host.from_network(1, UPLINK, udp(CLIENT, SERVER, 64));
    assert_eq!(spoofed, Fate::Dropped(DropReason::InvalidSource.into()), "an address of this node from outside");
}

#[test]
fn an_interface_that_is_gone_loses_what_was_on_its_way() {
    let mut host = host(0);
    host.remove_interface(CILIUM_HOST);
    host.add_route("10.0.0.0/24".parse().expect("a literal"), CILIUM_HOST);
    let lost = host.from_host(1, udp(WORLD, SERVER, 64));
    assert_eq!(lost, Fate::Lost(Lost::NoInterface(CILIUM_HOST)));
    assert!(!host.attach(CILIUM_HOST));
}
