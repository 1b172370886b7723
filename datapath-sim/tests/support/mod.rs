//! A node with three pods on the simulated maps, and packets made and checked by `wire`.
#![allow(dead_code, reason = "each test file uses a part")]

pub mod outside;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use abi::be::Port;
use abi::config::{DEFAULT_LIFETIMES, NODE_HOST_ROUTING, NODE_POLICY_VERDICTS, NODE_TRACK_FRAGMENTS};
use abi::config::{NodeConfig, Runtime};
use abi::endpoint::{DEVICE_ENFORCE_EGRESS, DEVICE_ENFORCE_INGRESS, Device, ENDPOINT_HOST, EndpointInfo, EndpointKey};
use abi::event::{DropRecord, NOTIFY_DROP};
use abi::ipcache::{IpcacheEntry, IpcacheKey};
use abi::lb::{LbBackend4, LbBackend6, LbKey4, LbKey6, LbRevNat4, LbRevNat6, LbService};
use abi::policy::{EGRESS, INGRESS, PolicyEntry, PolicyKey};
use datapath::{Action, DropReason, Verdict};
use datapath_sim::map::Update;
use datapath_sim::{Maps, Run};
use wire::{Icmp, Tcp, Udp, ethernet, ipv4, ipv6, protocol};
use zerocopy::FromBytes;

pub const SYN: u8 = 2;
pub const ACK: u8 = 0x10;
pub const SYN_ACK: u8 = 0x12;
pub const FIN_ACK: u8 = 0x11;
pub const RST: u8 = 4;

pub const ROUTER4: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 254);
pub const ROUTER6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0xfe);
pub const WORLD4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
pub const WORLD6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
pub const VIP4: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 1);
pub const VIP6: Ipv6Addr = Ipv6Addr::new(0xfd96, 0, 0, 0, 0, 0, 0, 1);

/// The address of pod `n`, of the family of `v6`.
pub fn pod(n: u8, v6: bool) -> IpAddr {
    if v6 { Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, n.into()).into() } else { Ipv4Addr::new(10, 0, 0, n).into() }
}
pub fn world(v6: bool) -> IpAddr {
    if v6 { WORLD6.into() } else { WORLD4.into() }
}
pub fn vip(v6: bool) -> IpAddr {
    if v6 { VIP6.into() } else { VIP4.into() }
}
pub fn router(v6: bool) -> IpAddr {
    if v6 { ROUTER6.into() } else { ROUTER4.into() }
}
/// Interface of pod `n`.
pub fn ifindex(n: u8) -> u32 {
    10 + u32::from(n)
}

pub struct World {
    pub maps: Maps,
    pub config: NodeConfig,
    pub seconds: u64,
    pub ways: datapath_sim::Ways,
}

impl World {
    /// Three pods, identity and class 1000 + n, policy n, nothing enforced; the world has class 9, the host class 1.
    pub fn new() -> Self {
        let config = NodeConfig {
            router_ipv4: ROUTER4.into(),
            router_ipv6: ROUTER6.into(),
            flags: NODE_TRACK_FRAGMENTS | NODE_HOST_ROUTING | NODE_POLICY_VERDICTS,
            world_ipv4: 9,
            world_ipv6: 10,
            monitor_aggregation: 3,
            report_interval: 5,
            report_tcp_flags: 0xff,
            capture_len: 128,
            lifetimes: DEFAULT_LIFETIMES,
            ..NodeConfig::default()
        };
        let mut world = Self {
            maps: Maps::with_sizes(1, |spec| spec.max_entries.min(1 << 16)),
            config,
            seconds: 1000,
            ways: datapath_sim::Ways::default(),
        };
        for n in 1..=3 {
            world.add(n);
        }
        for v6 in [false, true] {
            let info = EndpointInfo { flags: ENDPOINT_HOST, identity: 1, ..EndpointInfo::default() };
            world.maps.lxc.update(EndpointKey::new(router(v6)), info, Update::Any).expect("room");
            world.know(router(v6), if v6 { 128 } else { 32 }, 1, 1);
            let any: IpAddr = if v6 { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
            world.know(any, 0, if v6 { 10 } else { 9 }, 9);
        }
        world.maps.runtime[Runtime::PolicyRevision as usize] = 1;
        world.maps.runtime[Runtime::LbRevision as usize] = 1;
        world
    }

    /// Adds pod `n`.
    pub fn add(&mut self, n: u8) {
        let id = 1000 + u32::from(n);
        let device = Device {
            identity: id,
            policy: n.into(),
            lxc_id: n.into(),
            ipv4: Ipv4Addr::new(10, 0, 0, n).into(),
            ipv6: Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, n.into()).into(),
            mac: [2, 0, 0, 0, 0, n, 0, 0],
            node_mac: [4, 0, 0, 0, 0, n, 0, 0],
            ..Device::default()
        };
        self.maps.devices.update(ifindex(n), device, Update::Any).expect("room");
        for v6 in [false, true] {
            let info = EndpointInfo { ifindex: ifindex(n), lxc_id: n.into(), identity: id, ..EndpointInfo::default() };
            self.maps.lxc.update(EndpointKey::new(pod(n, v6)), info, Update::Any).expect("room");
            self.know(pod(n, v6), if v6 { 128 } else { 32 }, id, id);
        }
    }

    pub fn know(&mut self, ip: IpAddr, bits: u32, identity: u32, class: u32) {
        let key = match ip {
            IpAddr::V4(ip) => IpcacheKey::v4(ip.into(), bits),
            IpAddr::V6(ip) => IpcacheKey::v6(ip.into(), bits),
        };
        let entry = IpcacheEntry { identity, class, ..IpcacheEntry::default() };
        self.maps.ipcache.update(key, entry, Update::Any).expect("room");
    }

    pub fn device(&mut self, n: u8, change: impl FnOnce(&mut Device)) {
        change(self.maps.devices.lookup_mut(&ifindex(n)).expect("it was added"));
    }

    /// Both directions of pod `n` are enforced from now on.
    pub fn enforce(&mut self, n: u8) {
        self.device(n, |device| device.flags |= DEVICE_ENFORCE_INGRESS | DEVICE_ENFORCE_EGRESS);
        self.revise();
    }

    pub fn revise(&mut self) {
        self.maps.runtime[Runtime::PolicyRevision as usize] += 1;
    }

    pub fn revise_services(&mut self) {
        self.maps.runtime[Runtime::LbRevision as usize] += 1;
    }

    fn rule(n: u8, class: u32, ingress: bool, proto: u8, port: u16) -> PolicyKey {
        PolicyKey::entry(n.into(), class, if ingress { INGRESS } else { EGRESS }, proto, Port::new(port), 24)
    }
    pub fn allow(&mut self, n: u8, class: u32, ingress: bool, proto: u8, port: u16) {
        let key = Self::rule(n, class, ingress, proto, port);
        self.maps.policy.update(key, PolicyEntry::default(), Update::Any).expect("room");
        self.revise();
    }
    pub fn forbid(&mut self, n: u8, class: u32, ingress: bool, proto: u8, port: u16) {
        self.maps.policy.delete(&Self::rule(n, class, ingress, proto, port)).expect("it was allowed");
        self.revise();
    }

    /// A service on port 80 of both frontends, all protocols, with pods as backends on port 8080. Backend id is 500 + n.
    pub fn service(&mut self, backends: &[u8], state: u8) {
        let rev = Port::new(7);
        let frontend = LbService { count: backends.len() as u16, rev_nat_index: rev, ..LbService::default() };
        let (port, backend_port) = (Port::new(80), Port::new(8080));
        let key4 = LbKey4 { address: VIP4.into(), dport: port, proto: 0, ..LbKey4::default() };
        let key6 = LbKey6 { address: VIP6.into(), dport: port, proto: 0, ..LbKey6::default() };
        self.maps.runtime[Runtime::AnyProtocol as usize] = 1;
        self.maps.lb4_services.update(key4, frontend, Update::Any).expect("room");
        self.maps.lb6_services.update(key6, frontend, Update::Any).expect("room");
        let rev4 = LbRevNat4 { address: VIP4.into(), port, pad: 0 };
        let rev6 = LbRevNat6 { address: VIP6.into(), port, pad: 0 };
        self.maps.lb4_reverse_nat.update(rev, rev4, Update::Any).expect("room");
        self.maps.lb6_reverse_nat.update(rev, rev6, Update::Any).expect("room");
        for (slot, n) in (1..).zip(backends) {
            let id = 500 + u32::from(*n);
            let value = LbService { backend_id: id, rev_nat_index: rev, ..LbService::default() };
            self.maps.lb4_services.update(LbKey4 { backend_slot: slot, ..key4 }, value, Update::Any).expect("room");
            self.maps.lb6_services.update(LbKey6 { backend_slot: slot, ..key6 }, value, Update::Any).expect("room");
            self.backend(*n, backend_port, state);
        }
        self.revise_services();
    }

    pub fn backend(&mut self, n: u8, port: Port, flags: u8) {
        let id = 500 + u32::from(n);
        let to4 = LbBackend4 { address: Ipv4Addr::new(10, 0, 0, n).into(), port, flags, ..LbBackend4::default() };
        let IpAddr::V6(ip6) = pod(n, true) else { unreachable!("asked for IPv6") };
        let to6 = LbBackend6 { address: ip6.into(), port, flags, ..LbBackend6::default() };
        self.maps.lb4_backends.update(id, to4, Update::Any).expect("room");
        self.maps.lb6_backends.update(id, to6, Update::Any).expect("room");
        self.revise_services();
    }

    fn run(&mut self, ifindex: u32, packet: &[u8], hook: impl FnOnce(&mut Run<'_>) -> Verdict) -> Out {
        self.run_at(ifindex, packet, false, hook)
    }

    fn run_at(&mut self, ifindex: u32, packet: &[u8], early: bool, hook: impl FnOnce(&mut Run<'_>) -> Verdict) -> Out {
        let now_ns = self.seconds * 1_000_000_000;
        let mut run = Run {
            maps: &mut self.maps,
            config: &self.config,
            packet: packet.to_vec(),
            ifindex,
            now_ns,
            cpu: 0,
            mark: 0,
            ways: &self.ways,
            early,
        };
        let verdict = hook(&mut run);
        Out { verdict, mark: run.mark, packet: run.packet }
    }

    /// Pod `n` sends.
    pub fn send(&mut self, n: u8, packet: &[u8]) -> Out {
        self.run(ifindex(n), packet, |run| datapath::from_pod(run))
    }
    /// The host's stack sends to pod `n`.
    pub fn arrive(&mut self, n: u8, packet: &[u8]) -> Out {
        self.run(ifindex(n), packet, |run| datapath::to_pod(run))
    }
    /// The network sends to the node.
    pub fn receive(&mut self, packet: &[u8]) -> Out {
        self.run(2, packet, |run| datapath::from_netdev(run))
    }

    /// The same before the kernel has made a buffer of the packet.
    pub fn early(&mut self, packet: &[u8]) -> Out {
        self.run_at(2, packet, true, |run| datapath::early(run))
    }

    /// The host's stack sends a packet out to the network.
    pub fn depart(&mut self, packet: &[u8]) -> Out {
        self.run(2, packet, |run| datapath::to_netdev(run))
    }

    /// The last drop event: reason, identities of source and destination.
    pub fn last_drop(&mut self) -> Option<(u8, u32, u32)> {
        let mut last = None;
        while let Some(record) = self.maps.events.pop() {
            if record.get(16) == Some(&NOTIFY_DROP) {
                let record = DropRecord::read_from_bytes(&record).expect("a whole record");
                last = Some((record.notify.subtype, record.notify.src_label, record.notify.dst_label));
            }
        }
        last
    }
}

/// Changes the service itself, in both families.
pub fn change(world: &mut World, with: impl Fn(&mut LbService)) {
    let dport = Port::new(80);
    let (IpAddr::V4(four), IpAddr::V6(six)) = (vip(false), vip(true)) else { unreachable!("one of each family") };
    let key4 = LbKey4 { address: four.into(), dport, ..LbKey4::default() };
    let key6 = LbKey6 { address: six.into(), dport, ..LbKey6::default() };
    with(world.maps.lb4_services.lookup_mut(&key4).expect("it is there"));
    with(world.maps.lb6_services.lookup_mut(&key6).expect("it is there"));
    world.revise_services();
}

/// What became of a packet.
#[derive(Debug)]
pub struct Out {
    pub verdict: Verdict,
    pub mark: u32,
    pub packet: Vec<u8>,
}

impl Out {
    /// It was dropped for `reason`.
    #[track_caller]
    pub fn dropped(&self, reason: DropReason) {
        assert_eq!(self.verdict, Verdict::drop(reason), "{:?}", Seen::of(&self.packet));
    }
    /// It was delivered to pod `n`: MAC addresses, and one hop further.
    #[track_caller]
    pub fn delivered(&self, n: u8) -> Seen {
        assert_eq!(self.verdict, Verdict::redirect_peer(ifindex(n)), "reason {}", self.verdict.argument);
        let (ethernet, _) = ethernet::Header::parse(&self.packet).expect("a frame");
        assert_eq!((ethernet.dst, ethernet.src), ([2, 0, 0, 0, 0, n], [4, 0, 0, 0, 0, n]));
        let seen = Seen::of(&self.packet);
        assert_eq!(seen.ttl, 63);
        seen
    }
    /// It went on to the stack.
    #[track_caller]
    pub fn passed(&self) -> Seen {
        assert_eq!(self.verdict, Verdict::PASS);
        Seen::of(&self.packet)
    }
    /// It came back to pod `n`, as an ICMP error.
    #[track_caller]
    pub fn answered(&self, n: u8) -> Seen {
        assert_eq!((self.verdict.action, self.verdict.argument), (Action::Redirect, ifindex(n)));
        Seen::of(&self.packet)
    }
}

/// What a receiver sees; every checksum has been checked over all its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    pub src: IpAddr,
    pub dst: IpAddr,
    pub ttl: u8,
    pub protocol: u8,
    /// Ports; for ICMP type and code.
    pub sport: u16,
    pub dport: u16,
    pub data: Vec<u8>,
}

impl Seen {
    #[track_caller]
    pub fn of(packet: &[u8]) -> Self {
        let (ethernet, rest) = ethernet::Header::parse(packet).expect("a frame");
        let (src, dst, ttl, protocol, payload): (IpAddr, IpAddr, _, _, _) = match ethernet.ethertype {
            wire::ETHERTYPE_IPV4 => {
                let (ip, payload) = ipv4::Header::parse(rest).expect("a right header");
                (ip.src.into(), ip.dst.into(), ip.ttl, ip.protocol, payload)
            }
            _ => {
                let (ip, payload) = ipv6::Header::parse(rest).expect("a right header");
                (ip.src.into(), ip.dst.into(), ip.hop_limit, ip.next_header, payload)
            }
        };
        let (sport, dport, data) = match protocol {
            protocol::TCP => {
                let (tcp, data) = Tcp::parse(payload, src, dst).expect("a right segment");
                (tcp.sport, tcp.dport, data)
            }
            protocol::UDP => {
                let (udp, data) = Udp::parse(payload, src, dst).expect("a right datagram");
                (udp.sport, udp.dport, data)
            }
            _ => {
                let pseudo = src.is_ipv6().then_some((src, dst));
                let (icmp, data) = Icmp::parse(payload, pseudo).expect("a right message");
                (icmp.kind.into(), icmp.code.into(), data)
            }
        };
        Self { src, dst, ttl, protocol, sport, dport, data: data.to_vec() }
    }
    /// Source and destination with ports.
    pub fn ends(&self) -> ((IpAddr, u16), (IpAddr, u16)) {
        ((self.src, self.sport), (self.dst, self.dport))
    }
}

/// A frame around an IP payload.
pub fn frame(src: IpAddr, dst: IpAddr, protocol: u8, ttl: u8, payload: &[u8]) -> Vec<u8> {
    let ethertype = if src.is_ipv6() { wire::ETHERTYPE_IPV6 } else { wire::ETHERTYPE_IPV4 };
    let header_len = if src.is_ipv6() { ipv6::LEN } else { ipv4::LEN };
    let mut out = vec![0; ethernet::LEN + header_len + payload.len()];
    let rest = ethernet::Header { dst: [1; 6], src: [3; 6], ethertype }.emit(&mut out).expect("room");
    let payload_len = payload.len() as u16;
    let rest = match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => ipv4::Header {
            tos: 0,
            id: 1,
            dont_fragment: false,
            more_fragments: false,
            fragment_offset: 0,
            ttl,
            protocol,
            src,
            dst,
            options: &[],
            payload_len,
        }
        .emit(rest),
        (IpAddr::V6(src), IpAddr::V6(dst)) => ipv6::Header {
            traffic_class: 0,
            flow_label: 0,
            next_header: protocol,
            hop_limit: ttl,
            src,
            dst,
            payload_len,
        }
        .emit(rest),
        _ => panic!("two families in one packet"),
    };
    rest.expect("room").copy_from_slice(payload);
    out
}

pub fn tcp(src: (IpAddr, u16), dst: (IpAddr, u16), flags: u8) -> Vec<u8> {
    tcp_with(src, dst, flags, b"hello")
}

pub fn tcp_with(src: (IpAddr, u16), dst: (IpAddr, u16), flags: u8, data: &[u8]) -> Vec<u8> {
    let header = Tcp { sport: src.1, dport: dst.1, seq: 1, ack: 2, flags, window: 512, urgent: 0, options: &[] };
    let mut out = vec![0; Tcp::LEN + data.len()];
    header.emit(&mut out, data, src.0, dst.0).expect("room");
    frame(src.0, dst.0, protocol::TCP, 64, &out)
}

pub fn udp(src: (IpAddr, u16), dst: (IpAddr, u16)) -> Vec<u8> {
    let mut out = vec![0; Udp::LEN + 4];
    Udp { sport: src.1, dport: dst.1 }.emit(&mut out, b"data", src.0, dst.0).expect("room");
    frame(src.0, dst.0, protocol::UDP, 64, &out)
}

pub fn icmp_protocol(v6: bool) -> u8 {
    if v6 { protocol::ICMPV6 } else { protocol::ICMP }
}

pub fn icmp(src: IpAddr, dst: IpAddr, kind: u8, code: u8, rest: [u8; 4], data: &[u8]) -> Vec<u8> {
    let mut out = vec![0; Icmp::LEN + data.len()];
    let pseudo = src.is_ipv6().then_some((src, dst));
    Icmp { kind, code, rest }.emit(&mut out, data, pseudo).expect("room");
    frame(src, dst, icmp_protocol(src.is_ipv6()), 64, &out)
}

/// Echo request and reply types of a family.
pub fn echo(v6: bool) -> (u8, u8) {
    if v6 { (128, 129) } else { (8, 0) }
}

/// "Port unreachable" from `src` to `dst` about `packet`.
pub fn unreachable(src: IpAddr, dst: IpAddr, packet: &[u8]) -> Vec<u8> {
    let (kind, code) = if src.is_ipv6() { (1, 4) } else { (3, 3) };
    let quoted = &packet[ethernet::LEN..];
    icmp(src, dst, kind, code, [0; 4], &quoted[..quoted.len().min(68)])
}
