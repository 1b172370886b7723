//! A node with two network devices: a client behind one, another node with a backend behind the other, pods of its own.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use abi::{
    be::Port,
    config::{
        DEFAULT_LIFETIMES, LB_AFFINITY, LB_NODE_PORT, LB_SOURCE_RANGES, NODE_ALLOW_LOCALHOST, NODE_HOST_ROUTING,
        NODE_TRACK_FRAGMENTS, NodeConfig, Runtime,
    },
    endpoint::{Device, ENDPOINT_HOST, EndpointInfo, EndpointKey},
    ipcache::{IpcacheEntry, IpcacheKey},
    lb::{
        LbBackend4, LbBackend6, LbKey4, LbKey6, LbRevNat4, LbRevNat6, LbService, SERVICE_NODE_PORT, SERVICE_ROUTABLE,
    },
};
use loader::{Datapath, Direction, Interface, LoaderConfig, Maps, Program, XdpChoice};

use crate::{
    net::{Namespace, like_a_wire, mac},
    support,
};

/// Where the hook is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At {
    Tc,
    XdpNative,
    XdpGeneric,
}

/// Addresses by family.
#[derive(Clone, Copy)]
pub struct Addr(pub Ipv4Addr, pub Ipv6Addr);

impl Addr {
    pub fn of(self, v6: bool) -> IpAddr {
        if v6 { self.1.into() } else { self.0.into() }
    }
}

const fn v6(net: u16, host: u16) -> Ipv6Addr {
    Ipv6Addr::new(net, 0, 0, 0, 0, 0, 0, host)
}

pub const NODE: Addr = Addr(Ipv4Addr::new(192, 168, 50, 1), v6(0xfd50, 1));
pub const CLIENT: Addr = Addr(Ipv4Addr::new(192, 168, 50, 2), v6(0xfd50, 2));
const NODE_TO_OTHER: Addr = Addr(Ipv4Addr::new(192, 168, 60, 1), v6(0xfd60, 1));
const OTHER: Addr = Addr(Ipv4Addr::new(192, 168, 60, 2), v6(0xfd60, 2));
/// A pod of the other node: an address on its loopback device.
pub const REMOTE: Addr = Addr(Ipv4Addr::new(10, 8, 0, 7), v6(0xfd08, 7));
const ROUTER: Addr = Addr(Ipv4Addr::new(10, 9, 0, 254), v6(0xfd09, 0xfe));

/// Address of pod `n` of this node.
pub fn pod(n: u8) -> Addr {
    Addr(Ipv4Addr::new(10, 9, 0, n), v6(0xfd09, n.into()))
}

/// In this order: programs and pins go before what they are attached to.
pub struct Node {
    pub datapath: Datapath,
    pub client: Namespace,
    pub other: Namespace,
    pub pods: Vec<Namespace>,
    _fs: support::Bpffs,
}

impl Node {
    /// A node in a namespace of its own (the calling thread moves there), or `None`, said aloud.
    pub fn new(at: At, change: impl FnOnce(&mut NodeConfig)) -> Option<Self> {
        let (fs, object) = (support::Bpffs::mount()?, support::object()?);
        // SAFETY: unshare(2) takes no pointers; only the calling thread moves.
        assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNET) }, 0, "{}", std::io::Error::last_os_error());
        support::ip(&["link", "set", "lo", "up"]);
        for (path, value) in [
            ("net/ipv4/ip_forward", "1"),
            ("net/ipv6/conf/all/forwarding", "1"),
            ("net/ipv4/conf/all/rp_filter", "0"),
            ("net/ipv4/conf/default/rp_filter", "0"),
            ("net/ipv6/conf/default/accept_dad", "0"),
        ] {
            std::fs::write(format!("/proc/sys/{path}"), value).expect("we are root in this namespace");
        }
        let client = neighbour("client", "ext0", NODE, CLIENT);
        let other = neighbour("other", "ext1", NODE_TO_OTHER, OTHER);
        for v6 in [false, true] {
            let family = if v6 { "-6" } else { "-4" };
            let bits = if v6 { 128 } else { 32 };
            other.ip(&[family, "addr", "add", &format!("{}/{bits}", REMOTE.of(v6)), "dev", "lo"]);
            let remote = format!("{}/{bits}", REMOTE.of(v6));
            support::ip(&[family, "route", "add", &remote, "via", &OTHER.of(v6).to_string()]);
        }
        let mut config = LoaderConfig::new(object, node_config());
        change(&mut config.node);
        config.bpffs = fs.path().to_owned();
        config.map_sizes = support::small();
        let datapath = Datapath::open(&config).expect("the programs load");
        for device in ["ext0", "ext1"] {
            let interface = Interface::by_name(device).expect("it was made");
            datapath.attach(Program::FromNetdev, &interface, Direction::Ingress).expect("attaching");
            datapath.attach(Program::ToNetdev, &interface, Direction::Egress).expect("attaching");
            let choice = match at {
                At::Tc => continue,
                At::XdpNative => XdpChoice::Native,
                At::XdpGeneric => XdpChoice::Generic,
            };
            datapath.attach_xdp(&interface, choice).expect("attaching");
        }
        let node = Self { datapath, client, other, pods: vec![], _fs: fs };
        node.host();
        Some(node)
    }

    pub fn maps(&self) -> &Maps {
        self.datapath.maps()
    }

    fn host(&self) {
        let info = EndpointInfo { flags: ENDPOINT_HOST, identity: 1, ..EndpointInfo::default() };
        for addr in [ROUTER, NODE, NODE_TO_OTHER] {
            for v6 in [false, true] {
                self.maps().lxc.insert(&EndpointKey::new(addr.of(v6)), &info).expect("room");
            }
        }
        self.maps().set_runtime(Runtime::PolicyRevision, 1).expect("it is there");
        self.maps().set_runtime(Runtime::LbRevision, 1).expect("it is there");
    }

    /// Makes pod `n`, tells the maps, attaches the programs.
    pub fn add_pod(&mut self, n: u8) {
        let netns = Namespace::new(&format!("p{n}"));
        let (host_side, pod_side) = (format!("lxc{n}"), format!("tmp{n}"));
        support::ip(&["link", "add", &host_side, "type", "veth", "peer", "name", &pod_side]);
        support::ip(&["link", "set", &pod_side, "netns", &netns.name]);
        support::ip(&["link", "set", &host_side, "up"]);
        netns.ip(&["link", "set", &pod_side, "name", "eth0"]);
        netns.ip(&["link", "set", "lo", "up"]);
        netns.ip(&["link", "set", "eth0", "up"]);
        let interface = Interface::by_name(&host_side).expect("it was made");
        let (own, node) = (mac(&["-n", &netns.name], "eth0"), mac(&[], &host_side));
        let id = 1000 + u32::from(n);
        let (ip, maps) = (pod(n), self.datapath.maps());
        let entry = IpcacheEntry { identity: id, class: id, ..IpcacheEntry::default() };
        maps.ipcache.insert(&IpcacheKey::v4(ip.0.into(), 32), &entry).expect("room");
        maps.ipcache.insert(&IpcacheKey::v6(ip.1.into(), 128), &entry).expect("room");
        for v6 in [false, true] {
            let (family, bits) = if v6 { ("-6", 128) } else { ("-4", 32) };
            netns.ip(&[family, "addr", "add", &format!("{}/{bits}", ip.of(v6)), "dev", "eth0", "nodad"]);
            let router = ROUTER.of(v6).to_string();
            netns.ip(&[family, "route", "add", &router, "dev", "eth0"]);
            netns.ip(&[family, "route", "add", "default", "via", &router, "dev", "eth0"]);
            support::ip(&[family, "route", "add", &format!("{}/{bits}", ip.of(v6)), "dev", &host_side]);
            let info = EndpointInfo {
                ifindex: interface.index,
                lxc_id: n.into(),
                identity: id,
                mac: own,
                node_mac: node,
                ..EndpointInfo::default()
            };
            maps.lxc.insert(&EndpointKey::new(ip.of(v6)), &info).expect("room");
        }
        let device = Device {
            identity: id,
            policy: n.into(),
            lxc_id: n.into(),
            ipv4: ip.0.into(),
            ipv6: ip.1.into(),
            mac: own,
            node_mac: node,
            ..Device::default()
        };
        maps.devices.insert(&interface.index, &device).expect("room");
        self.datapath.attach(Program::FromContainer, &interface, Direction::Ingress).expect("attaching");
        self.datapath.attach(Program::ToContainer, &interface, Direction::Egress).expect("attaching");
        self.pods.push(netns);
    }

    /// A node port on `NODE`, both families and transports, with the given backends, all at port 8080.
    pub fn service(&self, port: u16, backends: &[Addr], change: impl FnOnce(&mut LbService)) {
        let maps = self.maps();
        let rev = Port::new(port);
        let mut frontend = LbService {
            count: backends.len() as u16,
            rev_nat_index: rev,
            flags: SERVICE_NODE_PORT | SERVICE_ROUTABLE,
            ..LbService::default()
        };
        change(&mut frontend);
        let dport = Port::new(port);
        let key4 = LbKey4 { address: NODE.0.into(), dport, ..LbKey4::default() };
        let key6 = LbKey6 { address: NODE.1.into(), dport, ..LbKey6::default() };
        maps.lb4_reverse_nat.insert(&rev, &LbRevNat4 { address: NODE.0.into(), port: dport, pad: 0 }).expect("room");
        maps.lb6_reverse_nat.insert(&rev, &LbRevNat6 { address: NODE.1.into(), port: dport, pad: 0 }).expect("room");
        for (at, backend) in backends.iter().enumerate() {
            let id = u32::from(port) << 8 | at as u32;
            let port = Port::new(8080);
            let (four, six) = (LbBackend4::default(), LbBackend6::default());
            maps.lb4_backends.insert(&id, &LbBackend4 { address: backend.0.into(), port, ..four }).expect("room");
            maps.lb6_backends.insert(&id, &LbBackend6 { address: backend.1.into(), port, ..six }).expect("room");
            let slot = LbService { backend_id: id, rev_nat_index: rev, ..LbService::default() };
            for proto in [6, 17] {
                let backend_slot = at as u16 + 1;
                maps.lb4_services.insert(&LbKey4 { backend_slot, proto, ..key4 }, &slot).expect("room");
                maps.lb6_services.insert(&LbKey6 { backend_slot, proto, ..key6 }, &slot).expect("room");
            }
        }
        for proto in [6, 17] {
            maps.lb4_services.insert(&LbKey4 { proto, ..key4 }, &frontend).expect("room");
            maps.lb6_services.insert(&LbKey6 { proto, ..key6 }, &frontend).expect("room");
        }
        let revision = maps.runtime(Runtime::LbRevision).expect("it is there");
        maps.set_runtime(Runtime::LbRevision, revision + 1).expect("it is there");
    }

    /// The frontend of a service.
    pub fn frontend(port: u16, v6: bool) -> SocketAddr {
        SocketAddr::new(NODE.of(v6), port)
    }
}

fn node_config() -> NodeConfig {
    NodeConfig {
        router_ipv4: ROUTER.0.into(),
        router_ipv6: ROUTER.1.into(),
        flags: NODE_TRACK_FRAGMENTS | NODE_HOST_ROUTING | NODE_ALLOW_LOCALHOST,
        world_ipv4: 9,
        world_ipv6: 10,
        mtu: 1500,
        monitor_aggregation: 3,
        report_interval: 5,
        report_tcp_flags: 0xff,
        capture_len: 128,
        lifetimes: DEFAULT_LIFETIMES,
        lb_flags: LB_NODE_PORT | LB_AFFINITY | LB_SOURCE_RANGES,
        nat_port_min: 32768,
        nat_port_max: 65535,
        snat_ipv4: NODE_TO_OTHER.0.into(),
        snat_ipv6: NODE_TO_OTHER.1.into(),
        ..NodeConfig::default()
    }
}

/// A namespace behind a device of this one.
fn neighbour(name: &str, device: &str, here: Addr, there: Addr) -> Namespace {
    let netns = Namespace::new(name);
    support::ip(&["link", "add", device, "type", "veth", "peer", "name", "eth0", "netns", &netns.name]);
    support::ip(&["link", "set", device, "up"]);
    netns.ip(&["link", "set", "lo", "up"]);
    netns.ip(&["link", "set", "eth0", "up"]);
    for (v6, family, bits) in [(false, "-4", 24), (true, "-6", 64)] {
        support::ip(&[family, "addr", "add", &format!("{}/{bits}", here.of(v6)), "dev", device, "nodad"]);
        netns.ip(&[family, "addr", "add", &format!("{}/{bits}", there.of(v6)), "dev", "eth0", "nodad"]);
        netns.ip(&[family, "route", "add", "default", "via", &here.of(v6).to_string()]);
    }
    netns.enter(|| like_a_wire("eth0"));
    like_a_wire(device);
    netns
}
