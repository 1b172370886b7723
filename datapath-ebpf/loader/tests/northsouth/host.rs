//! A node's datapath in a network namespace, with pods.

use abi::{
    config::{
        DEFAULT_LIFETIMES, LB_AFFINITY, LB_NODE_PORT, LB_SOURCE_RANGES, NODE_ALLOW_LOCALHOST, NODE_HOST_ROUTING,
        NODE_TRACK_FRAGMENTS, NodeConfig, Runtime,
    },
    endpoint::{Device, ENDPOINT_HOST, EndpointInfo, EndpointKey},
    ipcache::{IpcacheEntry, IpcacheKey},
};
use loader::{Datapath, Direction, Interface, LoaderConfig, Maps, Program, XdpChoice};

use crate::{
    net::{Namespace, mac, move_into},
    node::{Addr, At},
    support,
};

/// In this order: programs and pins go before what they are attached to.
pub struct Host {
    pub datapath: Datapath,
    pub pods: Vec<Namespace>,
    /// Where it is; `None`: in the namespace of the thread that made it.
    netns: Option<String>,
    router: Addr,
    _fs: support::Bpffs,
}

/// How a datapath is set up.
pub struct Setup<'a> {
    pub at: At,
    /// Its network devices.
    pub devices: &'a [&'a str],
    /// Its addresses; the first is that of its pods' router.
    pub addresses: &'a [Addr],
    pub config: NodeConfig,
    /// Entries of maps that are to have others than few.
    pub sizes: &'a [(&'a str, u32)],
}

impl Host {
    /// A datapath, attached; `None`, said aloud, where that is not possible.
    pub fn open(netns: Option<&Namespace>, setup: &Setup<'_>) -> Option<Self> {
        let (fs, object) = (support::Bpffs::mount()?, support::object()?);
        let mut config = LoaderConfig::new(object, setup.config);
        config.bpffs = fs.path().to_owned();
        config.map_sizes = support::small();
        config.map_sizes.extend(setup.sizes.iter().map(|(name, entries)| ((*name).to_owned(), *entries)));
        let netns = netns.map(|netns| netns.name.clone());
        let datapath = inside(netns.as_deref(), || {
            let datapath = Datapath::open(&config).expect("the programs load");
            for device in setup.devices {
                attach(&datapath, device, setup.at);
            }
            datapath
        });
        let maps = datapath.maps();
        let info = EndpointInfo { flags: ENDPOINT_HOST, identity: 1, ..EndpointInfo::default() };
        for addr in setup.addresses {
            for v6 in [false, true] {
                maps.lxc.insert(&EndpointKey::new(addr.of(v6)), &info).expect("room");
            }
        }
        maps.set_runtime(Runtime::PolicyRevision, 1).expect("it is there");
        maps.set_runtime(Runtime::LbRevision, 1).expect("it is there");
        Some(Self { datapath, pods: vec![], netns, router: setup.addresses[0], _fs: fs })
    }

    pub fn maps(&self) -> &Maps {
        self.datapath.maps()
    }

    /// Makes a pod, tells the maps, attaches the programs.
    pub fn add_pod(&mut self, ip: Addr) {
        let n = self.pods.len() as u16 + 1;
        let netns = inside(self.netns.as_deref(), || self.pod(n, ip));
        self.pods.push(netns);
    }

    fn pod(&self, n: u16, ip: Addr) -> Namespace {
        let (netns, host_side) = (Namespace::of_pod(n), format!("lxc{n}"));
        let interface = Interface::by_name(&host_side).expect("it was made");
        let (own, node) = (mac(&["-n", &netns.name], "eth0"), mac(&[], &host_side));
        let id = 1000 + u32::from(n);
        let maps = self.maps();
        let entry = IpcacheEntry { identity: id, class: id, ..IpcacheEntry::default() };
        maps.ipcache.insert(&IpcacheKey::v4(ip.0.into(), 32), &entry).expect("room");
        maps.ipcache.insert(&IpcacheKey::v6(ip.1.into(), 128), &entry).expect("room");
        for v6 in [false, true] {
            let (family, bits) = if v6 { ("-6", 128) } else { ("-4", 32) };
            netns.ip(&[family, "addr", "add", &format!("{}/{bits}", ip.of(v6)), "dev", "eth0", "nodad"]);
            let router = self.router.of(v6).to_string();
            netns.ip(&[family, "route", "add", &router, "dev", "eth0"]);
            netns.ip(&[family, "route", "add", "default", "via", &router, "dev", "eth0"]);
            support::ip(&[family, "route", "add", &format!("{}/{bits}", ip.of(v6)), "dev", &host_side]);
            let info = EndpointInfo {
                ifindex: interface.index,
                lxc_id: n,
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
            lxc_id: n,
            ipv4: ip.0.into(),
            ipv6: ip.1.into(),
            mac: own,
            node_mac: node,
            ..Device::default()
        };
        maps.devices.insert(&interface.index, &device).expect("room");
        self.datapath.attach(Program::FromContainer, &interface, Direction::Ingress).expect("attaching");
        self.datapath.attach(Program::ToContainer, &interface, Direction::Egress).expect("attaching");
        netns
    }

    /// How many packets were dropped for this reason.
    pub fn dropped(&self, reason: u8) -> u64 {
        let sums = self.maps().metrics.sums().expect("readable");
        sums.iter().filter(|(key, _)| key.reason == reason).map(|(_, value)| value.count).sum()
    }
}

fn attach(datapath: &Datapath, device: &str, at: At) {
    let interface = Interface::by_name(device).expect("it was made");
    datapath.attach(Program::FromNetdev, &interface, Direction::Ingress).expect("attaching");
    datapath.attach(Program::ToNetdev, &interface, Direction::Egress).expect("attaching");
    let choice = match at {
        At::Tc => return,
        At::XdpNative => XdpChoice::Native,
        At::XdpGeneric => XdpChoice::Generic,
    };
    datapath.attach_xdp(&interface, choice).expect("attaching");
}

/// Runs `body` on this thread, or on one in the namespace.
fn inside<T: Send>(netns: Option<&str>, body: impl FnOnce() -> T + Send) -> T {
    let Some(name) = netns else { return body() };
    std::thread::scope(|scope| {
        let inside = scope.spawn(|| {
            move_into(name);
            body()
        });
        inside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// What both nodes are told alike.
pub fn config(router: Addr, snat: Addr) -> NodeConfig {
    NodeConfig {
        router_ipv4: router.0.into(),
        router_ipv6: router.1.into(),
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
        snat_ipv4: snat.0.into(),
        snat_ipv6: snat.1.into(),
        ..NodeConfig::default()
    }
}
