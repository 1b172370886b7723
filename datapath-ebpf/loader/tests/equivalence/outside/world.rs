//! The node of north-south traffic: devices with routes and neighbours, services with backends near and far, and what the
//! objects behind them mean, worked out without the maps.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use abi::{
    be::Port,
    config::{
        LB_AFFINITY, LB_IP_MASQ_AGENT, LB_MASQUERADE_IPV4, LB_MASQUERADE_IPV6, LB_NODE_PORT, LB_SOURCE_RANGES,
        NODE_HOST_ROUTING, NODE_TRACK_FRAGMENTS, NodeConfig, Runtime,
    },
    endpoint::{Device, ENDPOINT_HOST, EndpointInfo, EndpointKey},
    ipcache::{IpcacheEntry, IpcacheKey},
    lb::{
        BACKEND_ACTIVE, BACKEND_MAINTENANCE, BACKEND_QUARANTINED, BACKEND_TERMINATING, IpMasqKey4, IpMasqKey6,
        LbAffinityMatch, LbBackend4, LbBackend6, LbKey4, LbKey6, LbRevNat4, LbRevNat6, LbService, LbSourceRange4,
        LbSourceRange6, SERVICE_AFFINITY, SERVICE_FORWARD_DSR, SERVICE_ROUTABLE, SERVICE_SOURCE_RANGE,
    },
    write::MapWrite,
};
use datapath_sim::{Way, Ways};

use crate::{
    packets::{SCTP, TCP, UDP},
    rng::Rng,
    support,
};

/// Entries of the Maglev tables here.
pub const MAGLEV_SIZE: u32 = 251;
/// MTU of the device to other nodes.
pub const BACK_MTU: u32 = 1300;

/// Addresses of both families.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Both(pub Ipv4Addr, pub Ipv6Addr);

impl Both {
    pub fn of(self, ipv6: bool) -> IpAddr {
        if ipv6 { self.1.into() } else { self.0.into() }
    }
    pub fn is(self, ip: IpAddr) -> bool {
        ip == self.0 || ip == self.1
    }
}

/// `10.8.x.y` and `fd08:x::y`, and so on.
const fn both(a: u8, b: u8, x: u8, y: u8) -> Both {
    let net = 0xfd00 | b as u16;
    Both(Ipv4Addr::new(a, b, x, y), Ipv6Addr::new(net, x as u16, a as u16, 0, 0, 0, 0, y as u16))
}

/// The node: its frontends' address, and the source of what it translates.
pub const NODE: Both = both(172, 16, 0, 1);
const ROUTER: Both = both(10, 0, 0, 1);
/// Clients outside: three with neighbours, one whose neighbour is not known, one to whom no route leads.
pub const CLIENTS: [Both; 5] =
    [both(192, 2, 2, 1), both(192, 2, 2, 2), both(192, 2, 2, 3), both(192, 2, 2, 4), both(198, 18, 0, 5)];
/// Pods of this node.
pub const PODS: [Both; 2] = [both(10, 0, 0, 5), both(10, 0, 0, 6)];
/// The world that pods speak to: routed, and routed but left as it is by the agent's exclusions, and natively routed.
pub const WORLD: [Both; 4] = [both(192, 2, 2, 1), both(192, 2, 2, 3), both(192, 2, 9, 9), both(10, 8, 0, 7)];

/// A backend, and whether it serves.
#[derive(Clone, Copy, Debug)]
pub struct Backend {
    pub at: Both,
    pub port: u16,
    pub state: u8,
    /// It exists.
    pub there: bool,
}

impl Backend {
    /// Whether it takes new connections.
    pub fn is_active(&self) -> bool {
        self.there && self.state == BACKEND_ACTIVE
    }
}

/// A service at one frontend.
#[derive(Clone, Debug)]
pub struct Service {
    pub at: Both,
    pub port: u16,
    /// 0: any.
    pub protocol: u8,
    pub backends: Vec<u32>,
    pub flags: u8,
    pub flags2: u8,
    /// Reverse NAT index.
    pub index: u16,
}

impl Service {
    pub fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

/// Devices of the node, as indexes in this network namespace.
#[derive(Clone, Copy, Debug)]
pub struct Devices {
    pub front: u32,
    pub back: u32,
    pub pods: [u32; 2],
}

pub struct World {
    pub devices: Devices,
    pub services: Vec<Service>,
    /// By id.
    pub backends: BTreeMap<u32, Backend>,
    lb_revision: u64,
}

/// Makes the devices, routes, neighbours and some sockets of the host in a network namespace of this thread's own, and says the same to the native arm.
pub fn network() -> (Devices, Ways, Vec<std::net::UdpSocket>) {
    support::in_new_network_namespace();
    for (path, value) in
        [("ipv4/ip_forward", "1"), ("ipv6/conf/all/forwarding", "1"), ("ipv6/conf/default/accept_dad", "0")]
    {
        std::fs::write(format!("/proc/sys/net/{path}"), value).expect("we are root here");
    }
    let index = |name: &str| loader::Interface::by_name(name).expect("it was just made").index;
    for name in ["front", "back", "lxc1", "lxc2"] {
        let peer = format!("{name}-p");
        support::ip(&["link", "add", name, "type", "veth", "peer", "name", &peer]);
        support::ip(&["link", "set", &peer, "up"]);
        support::ip(&["link", "set", name, "up"]);
    }
    support::ip(&["link", "set", "back", "mtu", &BACK_MTU.to_string()]);
    let devices = Devices { front: index("front"), back: index("back"), pods: [index("lxc1"), index("lxc2")] };
    let mut ways = Ways::default();
    for ipv6 in [false, true] {
        let (family, bits) = if ipv6 { ("-6", 128) } else { ("-4", 32) };
        support::ip(&[family, "addr", "add", &format!("{}/{bits}", NODE.of(ipv6)), "dev", "front", "nodad"]);
        support::ip(&[family, "route", "replace", &base(CLIENTS[0], ipv6), "dev", "front"]);
        support::ip(&[family, "route", "replace", &base(WORLD[2], ipv6), "dev", "front"]);
        support::ip(&[family, "route", "replace", &base(REMOTE[0], ipv6), "dev", "back"]);
        // Whoever else is in these nets has no neighbour.
        for (at, ifindex, mtu) in
            [(CLIENTS[0], devices.front, 1500), (WORLD[2], devices.front, 1500), (REMOTE[0], devices.back, BACK_MTU)]
        {
            let net: IpAddr = match at.of(ipv6) {
                IpAddr::V4(ip) => {
                    let [a, b, c, _] = ip.octets();
                    Ipv4Addr::new(a, b, c, 0).into()
                }
                IpAddr::V6(ip) => {
                    let [a, b, c, ..] = ip.segments();
                    Ipv6Addr::new(a, b, c, 0, 0, 0, 0, 0).into()
                }
            };
            let prefix = types::Cidr::new(net, if ipv6 { 48 } else { 24 }).expect("a network");
            ways.add(prefix, Way { ifindex, macs: None, mtu });
        }
        let known = CLIENTS[..3].iter().chain([&WORLD[2]]).map(|at| ("front", *at));
        let remote = REMOTE.iter().chain([&OTHER_NODE]).map(|at| ("back", *at));
        for (device, at) in known.chain(remote) {
            if at == UNKNOWN_NEIGHBOUR {
                ways.add(host(at, ipv6), Way { ifindex: devices.back, macs: None, mtu: BACK_MTU });
                continue;
            }
            let last = at.0.octets()[3];
            let lladdr = format!("02:00:00:00:0a:{last:02x}");
            let ip = at.of(ipv6).to_string();
            support::ip(&["neigh", "replace", &ip, "lladdr", &lladdr, "dev", device, "nud", "permanent"]);
            let (ifindex, mtu) = if device == "front" { (devices.front, 1500) } else { (devices.back, BACK_MTU) };
            let macs = Some(([2, 0, 0, 0, 0x0a, last], mac(device)));
            ways.add(host(at, ipv6), Way { ifindex, macs, mtu });
        }
        ways.add(host(CLIENTS[3], ipv6), Way { ifindex: devices.front, macs: None, mtu: 1500 });
    }
    let mut sockets = Vec::new();
    for (at, port) in [NODE.of(false), NODE.of(true)].into_iter().flat_map(|ip| (40_000..40_004).map(move |p| (ip, p)))
    {
        sockets.push(std::net::UdpSocket::bind((at, port)).expect("the address is ours"));
        ways.bind(at, port, UDP);
    }
    (devices, ways, sockets)
}

fn base(at: Both, ipv6: bool) -> String {
    match at.of(ipv6) {
        IpAddr::V4(ip) => {
            let [a, b, c, _] = ip.octets();
            format!("{a}.{b}.{c}.0/24")
        }
        IpAddr::V6(ip) => {
            let [a, b, c, ..] = ip.segments();
            format!("{a:x}:{b:x}:{c:x}::/48")
        }
    }
}

fn host(at: Both, ipv6: bool) -> types::Cidr {
    types::Cidr::new(at.of(ipv6), if ipv6 { 128 } else { 32 }).expect("a whole address")
}

fn mac(device: &str) -> [u8; 6] {
    let out = std::process::Command::new("ip").args(["-o", "link", "show", device]).output().expect("iproute2");
    let text = String::from_utf8(out.stdout).expect("text");
    let text = text.split("link/ether ").nth(1).and_then(|rest| rest.split(' ').next()).expect("an address");
    let mut mac = [0; 6];
    for (to, from) in mac.iter_mut().zip(text.split(':')) {
        *to = u8::from_str_radix(from, 16).expect("hex");
    }
    mac
}

/// Addresses of backends on other nodes.
const REMOTE: [Both; 6] = [
    both(10, 8, 0, 7),
    both(10, 8, 0, 8),
    both(10, 8, 0, 9),
    both(10, 8, 0, 10),
    both(10, 8, 0, 11),
    UNKNOWN_NEIGHBOUR,
];
const UNKNOWN_NEIGHBOUR: Both = both(10, 8, 0, 12);
/// The node of two of these, known as such: packets for them may be carried there.
pub const OTHER_NODE: Both = both(10, 8, 0, 13);
/// Those two, pods of the cluster.
pub const PODS_THERE: [Both; 2] = [REMOTE[1], REMOTE[3]];
/// To this one no route leads.
const UNROUTED: Both = both(10, 7, 0, 1);

impl World {
    pub fn new(devices: Devices) -> Self {
        let backend = |at, port| Backend { at, port, state: BACKEND_ACTIVE, there: true };
        let backends = [
            (1, backend(PODS[0], 8080)),
            (2, backend(PODS[1], 8080)),
            (3, backend(REMOTE[0], 8080)),
            (4, backend(REMOTE[1], 80)),
            (5, backend(REMOTE[2], 8080)),
            (6, backend(REMOTE[3], 4000)),
            (7, backend(REMOTE[4], 443)),
            (8, backend(UNKNOWN_NEIGHBOUR, 8080)),
            (9, backend(UNROUTED, 8080)),
            (10, backend(NODE, 9000)),
        ];
        let lb = |x| both(203, 0, 113, x);
        let mut index = 0;
        let mut service = |at, port, protocol, backends: &[u32], flags, flags2| {
            index += 1;
            let (backends, flags) = (backends.to_vec(), flags | SERVICE_ROUTABLE);
            Service { at, port, protocol, backends, flags, flags2, index }
        };
        let mut services = vec![
            service(NODE, 30_080, TCP, &[1, 2, 3, 4], 0, 0),
            service(NODE, 30_053, UDP, &[3, 4, 5], 0, 0),
            service(lb(10), 443, 0, &[3, 5, 7], SERVICE_AFFINITY, 0),
            service(lb(11), 80, TCP, &[4, 6], SERVICE_SOURCE_RANGE, 0),
            service(lb(12), 80, TCP, &[], 0, 0),
            service(lb(13), 8080, TCP, &[5, 6, 7], 0, SERVICE_FORWARD_DSR),
            service(lb(13), 53, UDP, &[6, 1], 0, SERVICE_FORWARD_DSR),
            service(lb(14), 4000, SCTP, &[6], 0, SERVICE_FORWARD_DSR),
            service(lb(15), 80, 0, &[8, 3], 0, 0),
            service(lb(16), 80, TCP, &[9], 0, 0),
            service(lb(17), 80, 0, &[10, 3], 0, 0),
            service(NODE, 30_443, TCP, &[1, 3, 4, 5, 6, 7], SERVICE_AFFINITY, 0),
            service(both(10, 96, 0, 1), 80, TCP, &[3], 0, 0),
        ];
        // The last one is the cluster's own.
        services.last_mut().expect("there are some").flags = 0;
        Self { devices, services, backends: backends.into_iter().collect(), lb_revision: 1 }
    }

    pub fn config(&self, mode: u32) -> NodeConfig {
        NodeConfig {
            router_ipv4: ROUTER.0.into(),
            router_ipv6: ROUTER.1.into(),
            mtu: 1500,
            direct_routing_mtu: BACK_MTU,
            flags: NODE_TRACK_FRAGMENTS | NODE_HOST_ROUTING,
            world_ipv4: 9,
            world_ipv6: 10,
            monitor_aggregation: 3,
            report_interval: 5,
            report_tcp_flags: 0xff,
            capture_len: 96,
            // Nothing ends during the test by its age alone but what was reset.
            lifetimes: [8000, 8000, 8000, 10, 8000, 8000, 8000, 0],
            seed: 0xc111_0517,
            geneve_port: Port::new(6081),
            lb_flags: LB_NODE_PORT
                | LB_AFFINITY
                | LB_SOURCE_RANGES
                | LB_MASQUERADE_IPV4
                | LB_MASQUERADE_IPV6
                | LB_IP_MASQ_AGENT
                | mode,
            node_port_min: 30_000,
            node_port_max: 32_767,
            nat_port_min: 32_768,
            nat_port_max: 65_535,
            maglev_size: MAGLEV_SIZE,
            maglev_seed_v4: 7,
            maglev_seed_v6: 8,
            snat_ipv4: NODE.0.into(),
            snat_ipv6: NODE.1.into(),
            masquerade_ipv4: NODE.0.into(),
            masquerade_ipv6: NODE.1.into(),
            native_routing_ipv4: Ipv4Addr::new(10, 0, 0, 0).into(),
            native_routing_mask_ipv4: Ipv4Addr::new(255, 0, 0, 0).into(),
            ..NodeConfig::default()
        }
    }

    /// The service behind a frontend.
    pub fn service(&self, ip: IpAddr, port: u16, protocol: u8) -> Option<&Service> {
        let of =
            |protocol: u8| self.services.iter().find(move |s| s.at.is(ip) && s.port == port && s.protocol == protocol);
        of(protocol).or_else(|| of(0))
    }

    /// The backend of a service at an address.
    pub fn backend_at(&self, service: &Service, ip: IpAddr, port: u16) -> Option<(u32, &Backend)> {
        let mut all = service.backends.iter().filter_map(|id| Some((*id, self.backends.get(id)?)));
        all.find(|(_, backend)| backend.at.is(ip) && backend.port == port)
    }

    /// Whether the service lets this client in.
    pub fn admits(&self, service: &Service, client: IpAddr) -> bool {
        !service.has(SERVICE_SOURCE_RANGE) || CLIENTS[..2].iter().any(|known| known.is(client))
    }

    /// Everything the maps hold at first.
    pub fn writes(&self) -> Vec<MapWrite> {
        let mut out = Vec::new();
        for (n, (pod, ifindex)) in PODS.iter().zip(self.devices.pods).enumerate() {
            let identity = 1000 + n as u32;
            let device = Device {
                identity,
                policy: ifindex,
                lxc_id: ifindex as u16,
                ipv4: pod.0.into(),
                ipv6: pod.1.into(),
                mac: [2, 0, 0, 0, 1, n as u8, 0, 0],
                node_mac: [2, 0, 0, 0, 2, n as u8, 0, 0],
                ..Device::default()
            };
            out.push(MapWrite::Device(ifindex, Some(device)));
            for ip in [pod.of(false), pod.of(true)] {
                let info = EndpointInfo {
                    ifindex,
                    lxc_id: device.lxc_id,
                    identity,
                    mac: device.mac,
                    node_mac: device.node_mac,
                    ..EndpointInfo::default()
                };
                out.push(MapWrite::Lxc(EndpointKey::new(ip), Some(info)));
            }
            out.extend(known(*pod, IpcacheEntry { identity, class: identity, ..IpcacheEntry::default() }));
        }
        for at in [NODE, ROUTER] {
            for ip in [at.of(false), at.of(true)] {
                let info = EndpointInfo { flags: ENDPOINT_HOST, identity: 1, ..EndpointInfo::default() };
                out.push(MapWrite::Lxc(EndpointKey::new(ip), Some(info)));
            }
        }
        out.extend(known(OTHER_NODE, IpcacheEntry { identity: 6, class: 6, ..IpcacheEntry::default() }));
        for pod in PODS_THERE {
            let tunnel_endpoint = OTHER_NODE.0.into();
            out.extend(known(
                pod,
                IpcacheEntry { identity: 3000, class: 5, tunnel_endpoint, ..IpcacheEntry::default() },
            ));
        }
        let excluded = WORLD[2];
        out.push(MapWrite::IpMasq4(IpMasqKey4 { prefixlen: 32, addr: excluded.0.into() }, Some(1)));
        out.push(MapWrite::IpMasq6(IpMasqKey6 { prefixlen: 128, addr: excluded.1.into() }, Some(1)));
        for service in &self.services {
            let (rev, port) = (Port::new(service.index), Port::new(service.port));
            let (four, six) = (service.at.0.into(), service.at.1.into());
            out.push(MapWrite::RevNat4(rev, Some(LbRevNat4 { address: four, port, pad: 0 })));
            out.push(MapWrite::RevNat6(rev, Some(LbRevNat6 { address: six, port, pad: 0 })));
            if service.has(SERVICE_SOURCE_RANGE) {
                for client in &CLIENTS[..2] {
                    let (addr4, addr6) = (client.0.into(), client.1.into());
                    let range4 = LbSourceRange4 { prefixlen: 64, rev_nat_index: rev, pad: 0, addr: addr4 };
                    let range6 = LbSourceRange6 { prefixlen: 160, rev_nat_index: rev, pad: 0, addr: addr6 };
                    out.push(MapWrite::SourceRange4(range4, Some(1)));
                    out.push(MapWrite::SourceRange6(range6, Some(1)));
                }
            }
        }
        out.push(MapWrite::Runtime(Runtime::AnyProtocol as u32, Some(1)));
        out.extend(self.backend_writes());
        out.push(MapWrite::Runtime(Runtime::PolicyRevision as u32, Some(1)));
        out
    }

    /// All that depends on which backends serve, whole and consistent.
    fn backend_writes(&self) -> Vec<MapWrite> {
        let mut out = Vec::new();
        for (id, backend) in &self.backends {
            let (port, flags) = (Port::new(backend.port), backend.state);
            let four = LbBackend4 { address: backend.at.0.into(), port, flags, ..LbBackend4::default() };
            let six = LbBackend6 { address: backend.at.1.into(), port, flags, ..LbBackend6::default() };
            out.push(MapWrite::Backend4(*id, backend.there.then_some(four)));
            out.push(MapWrite::Backend6(*id, backend.there.then_some(six)));
        }
        for service in &self.services {
            let (rev, dport) = (Port::new(service.index), Port::new(service.port));
            let key4 = LbKey4 { address: service.at.0.into(), dport, proto: service.protocol, ..LbKey4::default() };
            let key6 = LbKey6 { address: service.at.1.into(), dport, proto: service.protocol, ..LbKey6::default() };
            let active = self.active(service);
            for slot in 1..=service.backends.len() {
                let value = active.get(slot - 1).map(|id| LbService {
                    backend_id: *id,
                    rev_nat_index: rev,
                    ..LbService::default()
                });
                let backend_slot = slot as u16;
                out.push(MapWrite::Service4(LbKey4 { backend_slot, ..key4 }, value));
                out.push(MapWrite::Service6(LbKey6 { backend_slot, ..key6 }, value));
            }
            let head = LbService {
                backend_id: if service.has(SERVICE_AFFINITY) { 3 } else { 0 },
                count: active.len() as u16,
                rev_nat_index: rev,
                flags: service.flags,
                flags2: service.flags2,
                qcount: 0,
            };
            out.push(MapWrite::Service4(key4, Some(head)));
            out.push(MapWrite::Service6(key6, Some(head)));
            for id in &service.backends {
                let serves = service.has(SERVICE_AFFINITY) && active.contains(id);
                let key = LbAffinityMatch { backend_id: *id, rev_nat_index: rev, pad: 0 };
                out.push(MapWrite::AffinityMatch(key, serves.then_some(1)));
            }
        }
        out.push(MapWrite::Runtime(Runtime::LbRevision as u32, Some(self.lb_revision)));
        out
    }

    fn active(&self, service: &Service) -> Vec<u32> {
        let is_active = |id: &u32| self.backends.get(id).is_some_and(Backend::is_active);
        service.backends.iter().copied().filter(is_active).collect()
    }

    /// The Maglev table of each service that has one, by reverse NAT index: filled as the policy of such tables says, in the
    /// simplest way that gives each backend its places by its own order.
    pub fn tables(&self) -> Vec<(Port, Vec<u32>)> {
        let even = |service: &&Service| service.index % 2 == 1 || service.backends.len() > 4;
        let filled = self.services.iter().filter(even).map(|service| {
            let active = self.active(service);
            (Port::new(service.index), table(&active))
        });
        filled.collect()
    }

    /// A backend goes, comes back, or finishes up.
    pub fn change(&mut self, rng: &mut Rng) -> Vec<MapWrite> {
        self.lb_revision += 1;
        let ids: Vec<u32> = self.backends.keys().copied().collect();
        if let Some(backend) = self.backends.get_mut(rng.pick(&ids)) {
            backend.there = rng.chance(85);
            backend.state = *rng.pick(&[
                BACKEND_ACTIVE,
                BACKEND_ACTIVE,
                BACKEND_ACTIVE,
                BACKEND_ACTIVE,
                BACKEND_TERMINATING,
                BACKEND_QUARANTINED,
                BACKEND_MAINTENANCE,
            ]);
        }
        self.backend_writes()
    }
}

/// What makes somebody known.
fn known(who: Both, entry: IpcacheEntry) -> [MapWrite; 2] {
    [IpcacheKey::v4(who.0.into(), 32), IpcacheKey::v6(who.1.into(), 128)].map(|key| MapWrite::Ipcache(key, Some(entry)))
}

/// A backend behind a node that has nothing of it.
pub fn stranger() -> [MapWrite; 2] {
    let tunnel_endpoint = REMOTE[4].0.into();
    known(REMOTE[2], IpcacheEntry { identity: 3000, class: 5, tunnel_endpoint, ..IpcacheEntry::default() })
}

/// A table in which each place goes to the backend that draws highest for it (rendezvous hashing): what a backend that goes
/// leaves is shared, and nothing else moves.
pub fn table(backends: &[u32]) -> Vec<u32> {
    let draw = |place: u32, id: u32| Rng::new(u64::from(place) << 32 | u64::from(id)).next();
    let best = |place| backends.iter().copied().max_by_key(|id| draw(place, *id)).unwrap_or(0);
    (0..MAGLEV_SIZE).map(best).collect()
}
