//! One node: its agent's lives, its host, its disk.

use std::collections::BTreeMap;
use std::net::IpAddr;

use abi::config::{
    DEFAULT_LIFETIMES, NODE_HOST_ROUTING, NODE_POLICY_VERDICTS, NODE_TRACK_FRAGMENTS, NodeConfig, Runtime,
};
use abi::write::MapWrite;
use agent_core::{Agent, Config, Failure, FamilyConfig, PolicyFile, PolicyFiles, RequestId, Snapshot, StateFile};
use datapath_sim::{Host, Interface, Maps};
use machine::Driven;
use types::{Cidr, NumericIdentity};

use crate::check::Window;
use crate::objects::Objects;

/// Index of a node's uplink.
pub(crate) const UPLINK: u32 = 2;
/// Index of `cilium_host`.
pub(crate) const CILIUM_HOST: u32 = 3;

/// A bug planted into the simulator, to see whether the checkers notice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The kernel loses writes of entries that deny.
    LoseDenials,
    /// The kernel lets every endpoint in before its policy is there.
    OpenEarly,
    /// The kernel loses entries of reverse translation.
    LoseReverseNat,
    /// The kernel loses the policy revision, so established flows are never judged again.
    LoseRevision,
    /// Address management gives an address out twice.
    AddressTwice,
    /// The store lets somebody create a key that exists.
    CreateOverwrites,
}

impl Fault {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::LoseDenials,
        Self::OpenEarly,
        Self::LoseReverseNat,
        Self::LoseRevision,
        Self::AddressTwice,
        Self::CreateOverwrites,
    ];

    /// What the kernel makes of a write.
    pub(crate) fn on_write(self, write: MapWrite) -> Option<MapWrite> {
        match (self, write) {
            (Self::LoseDenials, MapWrite::Policy(_, Some(entry))) if entry.flags & abi::policy::POLICY_DENY != 0 => {
                None
            }
            (Self::LoseReverseNat, MapWrite::RevNat4(_, Some(_)) | MapWrite::RevNat6(_, Some(_))) => None,
            (Self::LoseRevision, MapWrite::Runtime(index, _)) if index == Runtime::PolicyRevision as u32 => None,
            (Self::OpenEarly, MapWrite::Device(ifindex, Some(mut device))) => {
                device.flags = 0;
                Some(MapWrite::Device(ifindex, Some(device)))
            }
            (_, write) => Some(write),
        }
    }
}

/// What somebody waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Waiting {
    /// Addresses for a new pod.
    Addresses { pod: String },
    /// A new pod's endpoint.
    Creation { pod: String },
    /// The end of a pod.
    Deletion { pod: String, container: String },
    /// Anything that is simply asked again if no answer comes.
    Again(agent_core::Request),
    /// Nothing depends on it.
    Nothing,
}

/// A node.
pub(crate) struct Node {
    pub(crate) index: usize,
    pub(crate) host: Host,
    pub(crate) agent: Option<Driven<Agent>>,
    /// Counts the lives of its agent; what belongs to an earlier one is not delivered.
    pub(crate) life: u32,
    pub(crate) disk: BTreeMap<StateFile, Vec<u8>>,
    pub(crate) policy_dir: BTreeMap<String, String>,
    pub(crate) waiting: BTreeMap<RequestId, Waiting>,
    pub(crate) queued_deletions: Vec<String>,
    pub(crate) next_request: u64,
    pub(crate) next_ifindex: u32,
    /// Things under way inside the node: it is settled when there is none.
    pub(crate) under_way: usize,
    pub(crate) wake_at: Option<u64>,
    pub(crate) window: Window,
}

impl Node {
    pub(crate) fn new(index: usize) -> Self {
        let octet = index as u8;
        let config = NodeConfig {
            router_ipv4: router4(index),
            router_ipv6: router6(index),
            host_ifindex: CILIUM_HOST,
            net_ifindex: CILIUM_HOST + 1,
            host_mac: [2, 0, 0, 1, octet, 1, 0, 0],
            mtu: 1500,
            flags: NODE_HOST_ROUTING | NODE_TRACK_FRAGMENTS | NODE_POLICY_VERDICTS,
            world_ipv4: 9,
            world_ipv6: 10,
            monitor_aggregation: 3,
            report_interval: 5,
            report_tcp_flags: 0xff,
            capture_len: 64,
            lifetimes: DEFAULT_LIFETIMES,
            seed: 0x5eed,
            ..NodeConfig::default()
        };
        let mut host = Host::new(Maps::new(1), config);
        host.add_interface(UPLINK, Interface::Uplink);
        host.add_interface(CILIUM_HOST, Interface::Host);
        host.attach(UPLINK);
        host.attach(CILIUM_HOST);
        host.addresses.extend([node_ip(index), node_ip6(index)]);
        for (prefix, out) in [("0.0.0.0/0", UPLINK), ("::/0", UPLINK)] {
            host.add_route(prefix.parse().expect("a literal"), out);
        }
        host.add_route(pod_cidr(index), CILIUM_HOST);
        host.add_route(pod_cidr6(index), CILIUM_HOST);
        Self {
            index,
            host,
            agent: None,
            life: 0,
            disk: BTreeMap::new(),
            policy_dir: BTreeMap::new(),
            waiting: BTreeMap::new(),
            queued_deletions: Vec::new(),
            next_request: 0,
            next_ifindex: 10,
            under_way: 0,
            wake_at: None,
            window: Window::new(Objects::default()),
        }
    }

    pub(crate) fn agent_config(&self, seed: u64) -> Config {
        let mut config = Config::new(&format!("node-{}", self.index), node_ip(self.index), seed);
        // Few numbers, so that nodes want the same ones at once.
        config.identity_max = NumericIdentity::new(config.identity_min.as_u32() + 23);
        let family =
            |pod_cidr: Cidr, router: IpAddr, node: IpAddr| FamilyConfig { pod_cidr, router, node_addrs: vec![node] };
        let i = self.index;
        config.ipv4 = Some(family(pod_cidr(i), address(pod_cidr(i), 1), node_ip(i)));
        config.ipv6 = Some(family(pod_cidr6(i), address(pod_cidr6(i), 1), node_ip6(i)));
        config
    }

    /// What a starting agent finds.
    pub(crate) fn snapshot(&self) -> Snapshot {
        let files = self.disk.iter().map(|(file, bytes)| (*file, Ok::<_, Failure>(bytes.clone()))).collect();
        let name = |(ifindex, kind): (u32, Interface)| {
            (kind == Interface::Pod).then(|| (ifindex, link_name(ifindex).into_boxed_str()))
        };
        let changes = self
            .policy_dir
            .iter()
            .map(|(path, json)| PolicyFile { path: path.as_str().into(), content: Ok(Some(json.clone())) });
        Snapshot {
            files,
            maps: self.host.maps.dump(),
            links: self.host.interfaces().filter_map(name).collect(),
            policy_files: Some(PolicyFiles { changes: changes.collect() }),
            service_files: None,
        }
    }

    pub(crate) fn request_id(&mut self) -> RequestId {
        self.next_request += 1;
        RequestId(self.next_request)
    }
}

pub(crate) fn link_name(ifindex: u32) -> String {
    format!("lxc{ifindex}")
}
pub(crate) fn pod_cidr(node: usize) -> Cidr {
    Cidr::containing(IpAddr::from([10, node as u8, 0, 0]), 24).expect("24 is a length")
}
pub(crate) fn pod_cidr6(node: usize) -> Cidr {
    Cidr::containing(IpAddr::from([0xfd00, node as u16, 0, 0, 0, 0, 0, 0]), 112).expect("112 is a length")
}
pub(crate) fn node_ip(node: usize) -> IpAddr {
    IpAddr::from([172, 16, 0, 10 + node as u8])
}
pub(crate) fn node_ip6(node: usize) -> IpAddr {
    IpAddr::from([0xfd01, 0, 0, 0, 0, 0, 0, 10 + node as u16])
}

/// The `n`th address of a prefix.
fn address(prefix: Cidr, n: u8) -> IpAddr {
    match prefix.addr() {
        IpAddr::V4(ip) => IpAddr::from((u32::from(ip) + u32::from(n)).to_be_bytes()),
        IpAddr::V6(ip) => IpAddr::from((u128::from(ip) + u128::from(n)).to_be_bytes()),
    }
}

fn router4(node: usize) -> abi::be::Addr4 {
    match address(pod_cidr(node), 1) {
        IpAddr::V4(ip) => ip.into(),
        IpAddr::V6(_) => abi::be::Addr4::default(),
    }
}

fn router6(node: usize) -> abi::be::Addr6 {
    match address(pod_cidr6(node), 1) {
        IpAddr::V6(ip) => ip.into(),
        IpAddr::V4(_) => abi::be::Addr6::default(),
    }
}
