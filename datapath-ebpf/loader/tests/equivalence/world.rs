//! The node both arms stand for: pods, peers, policies and services, as map writes; and what changes while packets run.

use std::net::IpAddr;

use abi::{
    be::{Addr4, Addr6, Port},
    config::{
        DEFAULT_LIFETIMES, LB_AFFINITY, NODE_ALLOW_LOCALHOST, NODE_AUDIT, NODE_HOST_ROUTING, NODE_POLICY_VERDICTS,
        NODE_TRACK_FRAGMENTS, NodeConfig, Runtime,
    },
    endpoint::{
        DEVICE_ANY_SOURCE, DEVICE_AUDIT, DEVICE_CLOSED, DEVICE_ENFORCE_EGRESS, DEVICE_ENFORCE_INGRESS, Device,
        ENDPOINT_HOST, EndpointInfo, EndpointKey,
    },
    ipcache::{IpcacheEntry, IpcacheKey},
    lb::{
        BACKEND_ACTIVE, BACKEND_QUARANTINED, BACKEND_TERMINATING, LbAffinityMatch, LbBackend4, LbBackend6, LbKey4,
        LbKey6, LbRevNat4, LbRevNat6, LbService, SCOPE_EXTERNAL, SCOPE_INTERNAL, SERVICE_AFFINITY, SERVICE_TWO_SCOPES,
    },
    policy::{EGRESS, INGRESS, MatchType, POLICY_DENY, PolicyEntry, PolicyKey},
    write::MapWrite,
};

use crate::{
    packets::{ICMP, ICMP6, SCTP, TCP, UDP},
    rng::Rng,
};

/// Identities that are numbered by the node itself.
const LOCAL: u32 = 1 << 24;
/// Classes of peers; 0 is the world.
const CLASSES: u32 = 8;
/// Ports that policies and services know.
pub const PORTS: [u16; 7] = [80, 443, 53, 8080, 81, 9090, 4000];

pub fn ip(text: &str) -> IpAddr {
    text.parse().expect("a literal address")
}

/// A pod of the node.
#[derive(Clone, Copy, Debug)]
pub struct Pod {
    pub v4: IpAddr,
    pub v6: IpAddr,
    pub ifindex: u32,
    pub identity: u32,
    pub class: u32,
    pub flags: u16,
}

impl Pod {
    pub fn addr(&self, ipv6: bool) -> IpAddr {
        if ipv6 { self.v6 } else { self.v4 }
    }

    fn device(&self) -> Device {
        Device {
            identity: self.identity,
            policy: self.ifindex,
            lxc_id: self.ifindex as u16 + 100,
            flags: self.flags,
            ipv4: v4(self.v4),
            ipv6: v6(self.v6),
            mac: [2, 0, 0, 0, 1, self.ifindex as u8, 0, 0],
            node_mac: [2, 0, 0, 0, 2, self.ifindex as u8, 0, 0],
        }
    }
}

/// A service frontend.
#[derive(Clone, Copy, Debug)]
pub struct Frontend {
    pub v4: IpAddr,
    pub v6: IpAddr,
    pub port: u16,
    /// 0: any.
    pub protocol: u8,
    backends: &'static [u32],
}

pub struct World {
    pub pods: Vec<Pod>,
    /// A device without an entry: the host's.
    pub host_ifindex: u32,
    /// Addresses that are not pods of this node.
    pub others: Vec<(IpAddr, IpAddr)>,
    pub frontends: Vec<Frontend>,
    policy_revision: u64,
    lb_revision: u64,
}

fn v4(ip: IpAddr) -> Addr4 {
    match ip {
        IpAddr::V4(ip) => ip.into(),
        IpAddr::V6(_) => Addr4::default(),
    }
}

fn v6(ip: IpAddr) -> Addr6 {
    match ip {
        IpAddr::V4(_) => Addr6::default(),
        IpAddr::V6(ip) => ip.into(),
    }
}

/// Backends by id: the first two are pods of this node.
const BACKENDS: [(&str, &str, u16); 5] = [
    ("10.0.0.5", "fd00::5", 8080),
    ("10.0.0.6", "fd00::6", 8080),
    ("10.0.1.9", "fd01::9", 80),
    ("10.0.1.10", "fd01::10", 4000),
    ("192.0.2.7", "2001:db8::7", 9090),
];

impl World {
    /// A node whose five pods are behind these interfaces; the sixth is the host's.
    pub fn new(interfaces: &[u32; 6]) -> Self {
        let [a, b, c, d, e, host_ifindex] = *interfaces;
        let both = DEVICE_ENFORCE_INGRESS | DEVICE_ENFORCE_EGRESS;
        let pod = |n: u32, ifindex, class, flags| Pod {
            v4: ip(&format!("10.0.0.{}", n + 4)),
            v6: ip(&format!("fd00::{}", n + 4)),
            ifindex,
            identity: 1000 + n,
            class,
            flags,
        };
        let frontend = |v4, v6, port, protocol, backends| Frontend { v4: ip(v4), v6: ip(v6), port, protocol, backends };
        Self {
            pods: vec![
                pod(1, a, 1, both),
                pod(2, b, 2, DEVICE_ENFORCE_INGRESS),
                pod(3, c, 3, 0),
                pod(4, d, 1, both | DEVICE_AUDIT),
                pod(5, e, 4, DEVICE_ANY_SOURCE | DEVICE_ENFORCE_EGRESS),
            ],
            host_ifindex,
            others: [
                ("10.0.1.9", "fd01::9"),
                ("10.0.1.10", "fd01::10"),
                ("192.0.2.7", "2001:db8::7"),
                ("8.8.8.8", "2001:4860::8888"),
                ("8.8.4.4", "2001:4860::8844"),
                ("10.0.0.1", "fd00::1"),
                ("169.254.42.1", "fe80::1"),
                ("10.0.0.77", "fd00::77"),
            ]
            .map(|(v4, v6)| (ip(v4), ip(v6)))
            .to_vec(),
            frontends: vec![
                frontend("10.96.0.10", "fd96::10", 80, TCP, &[1, 2, 3]),
                frontend("10.96.0.10", "fd96::10", 53, UDP, &[2, 4, 5]),
                frontend("10.96.0.11", "fd96::11", 443, 0, &[1]),
                frontend("10.96.0.12", "fd96::12", 9090, TCP, &[]),
                frontend("10.96.0.13", "fd96::13", 4000, SCTP, &[3, 4]),
                frontend("10.96.0.14", "fd96::14", 81, UDP, &[1, 2]),
            ],
            policy_revision: 1,
            lb_revision: 1,
        }
    }

    /// Constants of the programs, with everything switched on, and as quiet about known connections as agents are.
    pub fn config(&self) -> NodeConfig {
        NodeConfig {
            router_ipv4: v4(ip("10.0.0.1")),
            router_ipv6: v6(ip("fd00::1")),
            host_ifindex: self.host_ifindex,
            net_ifindex: self.host_ifindex,
            host_mac: [2, 0, 0, 0, 9, 9, 0, 0],
            mtu: 1500,
            flags: NODE_TRACK_FRAGMENTS | NODE_POLICY_VERDICTS | NODE_ALLOW_LOCALHOST | NODE_HOST_ROUTING,
            world_ipv4: 9,
            world_ipv6: 10,
            monitor_aggregation: 3,
            report_interval: 5,
            report_tcp_flags: 0x17,
            capture_len: 96,
            lifetimes: DEFAULT_LIFETIMES,
            seed: 0xc111_0517,
            lb_flags: LB_AFFINITY,
            ..NodeConfig::default()
        }
    }

    /// The other choices: no fragments, no host routing, audit.
    pub fn other_config(&self) -> NodeConfig {
        NodeConfig { flags: NODE_AUDIT, capture_len: 128, ..self.config() }
    }

    /// Every packet is reported, and so none takes the short way.
    pub fn talkative_config(&self) -> NodeConfig {
        NodeConfig { monitor_aggregation: 0, ..self.config() }
    }

    /// Everything the maps hold at first.
    pub fn writes(&self, rng: &mut Rng) -> Vec<MapWrite> {
        let mut out = Vec::new();
        for pod in &self.pods {
            let device = pod.device();
            out.push(MapWrite::Device(pod.ifindex, Some(device)));
            for addr in [pod.v4, pod.v6] {
                let info = EndpointInfo {
                    ifindex: pod.ifindex,
                    lxc_id: device.lxc_id,
                    identity: pod.identity,
                    mac: device.mac,
                    node_mac: device.node_mac,
                    ..EndpointInfo::default()
                };
                out.push(MapWrite::Lxc(EndpointKey::new(addr), Some(info)));
                out.push(peer(addr, if addr.is_ipv4() { 32 } else { 128 }, pod.identity, pod.class));
            }
        }
        for addr in ["10.0.0.1", "fd00::1", "192.168.1.1", "fd99::1"] {
            let info = EndpointInfo { flags: ENDPOINT_HOST, identity: 1, ..EndpointInfo::default() };
            out.push(MapWrite::Lxc(EndpointKey::new(ip(addr)), Some(info)));
            out.push(peer(ip(addr), if ip(addr).is_ipv4() { 32 } else { 128 }, 1, 5));
        }
        for (prefix, bits, identity, class) in [
            ("10.0.1.9", 32, 2001, 2),
            ("10.0.1.10", 32, 2002, 6),
            ("8.8.0.0", 16, LOCAL | 1, 6),
            ("8.8.8.0", 24, LOCAL | 2, 7),
            ("10.0.0.0", 8, 9, 0),
            ("fd01::9", 128, 2001, 2),
            ("fd01::10", 128, 2002, 6),
            ("2001:4860::", 32, LOCAL | 3, 7),
        ] {
            out.push(peer(ip(prefix), bits, identity, class));
        }
        for pod in &self.pods {
            out.extend((0..40).map(|_| self.rule(pod, rng)));
        }
        out.push(MapWrite::Runtime(Runtime::AnyProtocol as u32, Some(1)));
        out.extend(self.services());
        out.push(MapWrite::Runtime(Runtime::PolicyRevision as u32, Some(self.policy_revision)));
        out.push(MapWrite::Runtime(Runtime::LbRevision as u32, Some(self.lb_revision)));
        out
    }

    /// A random entry of a pod's policy.
    fn rule(&self, pod: &Pod, rng: &mut Rng) -> MapWrite {
        let protocol = *rng.pick(&[TCP, TCP, TCP, UDP, UDP, SCTP, ICMP, ICMP6]);
        let icmp = matches!(protocol, ICMP | ICMP6);
        let port = if icmp { *rng.pick(&[8, 128, 3, 0]) } else { *rng.pick(&PORTS) };
        let bits = *rng.pick(&[0_u8, 8, 24, 24, 24, 24, 20]);
        let (protocol, port) = match bits {
            0 => (0, 0),
            8 => (protocol, 0),
            bits => (protocol, port & (u16::MAX << (24 - bits))),
        };
        let direction = if rng.chance(50) { INGRESS } else { EGRESS };
        let class = rng.below(CLASSES as usize) as u32;
        let key = PolicyKey::entry(pod.ifindex, class, direction, protocol, Port::new(port), bits);
        let mut entry = PolicyEntry {
            lpm_prefix_length: bits,
            match_type: MatchType::L3L4 as u8,
            cookie: rng.below(1000) as u32 + 1,
            ..PolicyEntry::default()
        };
        match rng.below(20) {
            0..=2 => entry.flags = POLICY_DENY,
            3 => entry.auth_type = 1,
            4 | 5 => entry.proxy_port = Port::new(10_001),
            _ => {}
        }
        MapWrite::Policy(key, Some(entry))
    }

    fn services(&self) -> Vec<MapWrite> {
        let mut out = Vec::new();
        for (n, (four, six, port)) in BACKENDS.iter().enumerate() {
            let id = n as u32 + 1;
            let (port, flags) = (Port::new(*port), BACKEND_ACTIVE);
            let four = LbBackend4 { address: v4(ip(four)), port, proto: 0, flags, ..LbBackend4::default() };
            let six = LbBackend6 { address: v6(ip(six)), port, proto: 0, flags, ..LbBackend6::default() };
            out.push(MapWrite::Backend4(id, Some(four)));
            out.push(MapWrite::Backend6(id, Some(six)));
        }
        for (n, frontend) in self.frontends.iter().enumerate() {
            let rev_nat = Port::new(n as u16 + 1);
            let port = Port::new(frontend.port);
            let (four, six) = (v4(frontend.v4), v6(frontend.v6));
            out.push(MapWrite::RevNat4(rev_nat, Some(LbRevNat4 { address: four, port, ..LbRevNat4::default() })));
            out.push(MapWrite::RevNat6(rev_nat, Some(LbRevNat6 { address: six, port, ..LbRevNat6::default() })));
            // The first keeps its clients for three seconds; the last serves the cluster by its first backend alone.
            let (affinity, scoped) = (n == 0, n + 1 == self.frontends.len());
            for scope in if scoped { vec![SCOPE_EXTERNAL, SCOPE_INTERNAL] } else { vec![SCOPE_EXTERNAL] } {
                let count = if scope == SCOPE_INTERNAL { 1 } else { frontend.backends.len() };
                let slots = std::iter::once(0).chain(frontend.backends.iter().copied().take(count));
                for (slot, backend_id) in slots.enumerate() {
                    let mut value = LbService { backend_id, rev_nat_index: rev_nat, ..LbService::default() };
                    if slot == 0 {
                        value.count = count as u16;
                        value.backend_id = if affinity { 3 } else { 0 };
                        value.flags = if affinity { SERVICE_AFFINITY } else { 0 };
                        value.flags2 = if scoped { SERVICE_TWO_SCOPES } else { 0 };
                    } else if affinity {
                        let key = LbAffinityMatch { backend_id, rev_nat_index: rev_nat, pad: 0 };
                        out.push(MapWrite::AffinityMatch(key, Some(1)));
                    }
                    let (backend_slot, proto) = (slot as u16, frontend.protocol);
                    let four = LbKey4 { address: four, dport: port, backend_slot, proto, scope, pad: 0 };
                    let six = LbKey6 { address: six, dport: port, backend_slot, proto, scope, pad: 0 };
                    out.push(MapWrite::Service4(four, Some(value)));
                    out.push(MapWrite::Service6(six, Some(value)));
                }
            }
        }
        out
    }

    /// Something changes: a rule comes or goes, a pod closes or opens, a backend goes or comes back.
    pub fn change(&mut self, rng: &mut Rng) -> Vec<MapWrite> {
        let pod = rng.below(self.pods.len());
        match rng.below(8) {
            0 | 1 => vec![self.rule(&self.pods[pod], rng)],
            2 => vec![self.rule(&self.pods[pod], rng).deletion()],
            3 | 4 => {
                self.policy_revision += 1;
                vec![MapWrite::Runtime(Runtime::PolicyRevision as u32, Some(self.policy_revision))]
            }
            5 => {
                let pod = &mut self.pods[pod];
                // Mostly open: a closed pod drops everything.
                pod.flags = if rng.chance(6) { pod.flags | DEVICE_CLOSED } else { pod.flags & !DEVICE_CLOSED };
                vec![MapWrite::Device(pod.ifindex, Some(pod.device()))]
            }
            _ => {
                self.lb_revision += 1;
                let n = rng.below(BACKENDS.len());
                let (four, six, port) = BACKENDS[n];
                let (id, port) = (n as u32 + 1, Port::new(port));
                let flags = *rng.pick(&[BACKEND_ACTIVE, BACKEND_ACTIVE, BACKEND_TERMINATING, BACKEND_QUARANTINED]);
                let there = rng.chance(85);
                let four = LbBackend4 { address: v4(ip(four)), port, flags, ..LbBackend4::default() };
                let six = LbBackend6 { address: v6(ip(six)), port, flags, ..LbBackend6::default() };
                vec![
                    // Now and then nobody looks for services of any protocol.
                    MapWrite::Runtime(Runtime::AnyProtocol as u32, Some(u64::from(rng.chance(75)))),
                    MapWrite::Backend4(id, there.then_some(four)),
                    MapWrite::Backend6(id, there.then_some(six)),
                    MapWrite::Runtime(Runtime::LbRevision as u32, Some(self.lb_revision)),
                ]
            }
        }
    }
}

fn peer(addr: IpAddr, bits: u32, identity: u32, class: u32) -> MapWrite {
    let key = match addr {
        IpAddr::V4(ip) => IpcacheKey::v4(ip.into(), bits),
        IpAddr::V6(ip) => IpcacheKey::v6(ip.into(), bits),
    };
    MapWrite::Ipcache(key, Some(IpcacheEntry { identity, class, ..IpcacheEntry::default() }))
}
