//! Whole packets: each question becomes the first packet of a connection, out of or into a pod.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use abi::config::{DEFAULT_LIFETIMES, NODE_TRACK_FRAGMENTS, NodeConfig, Runtime};
use abi::endpoint::{Device, EndpointInfo, EndpointKey};
use abi::write::MapWrite;
use datapath::{Action, DropReason};
use datapath_sim::{Maps, Run};
use loader::{Datapath, Interface, LoaderConfig, Program, SkBuff};
use policy::{Direction, Engine, MatchType, Verdict};
use types::{Cidr, EndpointId, NumericIdentity, Protocol};

use crate::corpus::{Judge, Probe};
use crate::packets::Spec;
use crate::tables::{Wanted, flags, passed, peer};
use crate::{lookup, support};

/// The pod's own addresses: no rule of the tables speaks of them, since only peers' addresses are judged.
const POD4: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);
const POD6: Ipv6Addr = Ipv6Addr::new(0xfd9e, 0, 0, 0, 0, 0, 0, 1);

/// Judges by packets.
pub struct Packets {
    maps: Maps,
    config: NodeConfig,
    kernel: Option<Datapath>,
    ifindex: u32,
    /// What is in the maps (of both arms), by key.
    written: BTreeMap<MapWrite, MapWrite>,
    wanted: Wanted,
    addresses: BTreeMap<NumericIdentity, u32>,
    device: Option<EndpointId>,
    revision: u64,
    connection: u16,
    every: u64,
    pub sent: u64,
    pub in_kernel: u64,
    /// ICMP types that open no connection, and families the peer has no address of.
    pub looked_up: u64,
    pub map_writes: u64,
}

impl Packets {
    pub fn native() -> Self {
        let every = std::env::var("CORPUS_EVERY").ok().map_or(1, |n| n.parse().expect("CORPUS_EVERY is a number"));
        let config = NodeConfig {
            flags: NODE_TRACK_FRAGMENTS,
            world_ipv4: 9,
            world_ipv6: 10,
            lifetimes: DEFAULT_LIFETIMES,
            ..NodeConfig::default()
        };
        Self {
            maps: lookup::maps(),
            config,
            kernel: None,
            ifindex: 7,
            written: BTreeMap::new(),
            wanted: Wanted::default(),
            addresses: BTreeMap::new(),
            device: None,
            revision: 0,
            connection: 1024,
            every,
            sent: 0,
            in_kernel: 0,
            looked_up: 0,
            map_writes: 0,
        }
    }

    /// With the programs in the kernel beside it; `None`, said aloud, where that is not possible.
    pub fn kernel() -> Option<(support::Bpffs, Self)> {
        let object = support::object()?;
        let fs = support::Bpffs::mount()?;
        support::in_new_network_namespace();
        let mut packets = Self::native();
        packets.ifindex = Interface::by_name("left").expect("it was just made").index;
        let mut loader = LoaderConfig::new(object, packets.config);
        fs.path().clone_into(&mut loader.bpffs);
        loader.map_sizes = support::small();
        for map in [abi::maps::POLICY.name, abi::maps::IPCACHE.name] {
            loader.map_sizes.insert(map.to_owned(), 1 << 14);
        }
        packets.kernel = Some(Datapath::open(&loader).unwrap_or_else(|e| panic!("{e}")));
        Some((fs, packets))
    }

    fn write(&mut self, write: &MapWrite) {
        self.maps.apply_one(write).unwrap_or_else(|e| panic!("{write:?}: {e}"));
        if let Some(datapath) = &self.kernel {
            self.map_writes += 1;
            support::write(datapath.maps(), write);
        }
    }

    /// Makes the maps hold these and nothing else that was written before.
    fn bring_to(&mut self, writes: Vec<MapWrite>) {
        let wanted: BTreeMap<MapWrite, MapWrite> = writes.into_iter().map(|w| (w.deletion(), w)).collect();
        let gone: Vec<MapWrite> = self.written.keys().filter(|key| !wanted.contains_key(key)).copied().collect();
        gone.iter().for_each(|key| self.write(key));
        for (key, write) in &wanted {
            if self.written.get(key) != Some(write) {
                self.write(write);
            }
        }
        self.written = wanted;
    }

    /// The one device becomes this endpoint's.
    fn become_endpoint(&mut self, id: EndpointId) {
        if self.device == Some(id) {
            return;
        }
        let how = self.wanted.endpoints[&id];
        let device = Device {
            identity: 500,
            policy: how.policy.as_u32(),
            lxc_id: 1,
            flags: flags(&how),
            ipv4: POD4.into(),
            ipv6: POD6.into(),
            mac: [2, 0, 0, 0, 0, 1, 0, 0],
            node_mac: [4, 0, 0, 0, 0, 1, 0, 0],
        };
        self.write(&MapWrite::Device(self.ifindex, Some(device)));
        for addr in [IpAddr::V4(POD4), IpAddr::V6(POD6)] {
            let info = EndpointInfo { ifindex: self.ifindex, lxc_id: 1, identity: 500, ..EndpointInfo::default() };
            self.write(&MapWrite::Lxc(EndpointKey::new(addr), Some(info)));
        }
        self.device = Some(id);
    }

    /// The packet of a question; `None` if no packet asks it.
    fn packet(&mut self, probe: &Probe) -> Option<Vec<u8>> {
        let ipv6 = match (probe.protocol, probe.addr) {
            (Protocol::Icmp, Some(addr)) if addr.is_ipv6() => return None,
            (Protocol::Icmpv6, Some(addr)) if addr.is_ipv4() => return None,
            (_, Some(addr)) => addr.is_ipv6(),
            (Protocol::Icmp, None) => false,
            (Protocol::Icmpv6, None) => true,
            // Both families in turn: a peer known by its identity has an address of each.
            (_, None) => self.sent.is_multiple_of(2),
        };
        // Only an echo request begins something; other types are answers, errors, or the business of neighbours.
        if matches!((probe.protocol, probe.port), (Protocol::Icmp, n) if n != 8)
            || matches!((probe.protocol, probe.port), (Protocol::Icmpv6, n) if n != 128)
        {
            return None;
        }
        let number = self.addresses.get(&probe.identity).copied();
        let peer = probe.addr.or_else(|| Some(address(number?, ipv6)))?;
        let pod: IpAddr = if ipv6 { POD6.into() } else { POD4.into() };
        self.connection = self.connection.checked_add(1).unwrap_or(1024);
        let ports = match probe.protocol {
            Protocol::Icmp | Protocol::Icmpv6 => (probe.port, 0),
            _ => (self.connection, probe.port),
        };
        let (src, dst) = match probe.direction {
            Direction::Egress => (pod, peer),
            Direction::Ingress => (peer, pod),
        };
        let mut spec = Spec::new(src, dst, probe.protocol.number(), ports);
        spec.icmp_id = self.connection;
        let mut packet = spec.build();
        packet[6..12].copy_from_slice(&[2, 0, 0, 0, 0, 1]);
        packet[0..6].copy_from_slice(&[4, 0, 0, 0, 0, 1]);
        Some(packet)
    }

    fn run_native(&mut self, packet: &[u8], direction: Direction) -> (u32, u32) {
        let ways = datapath_sim::Ways::default();
        let mut run = Run {
            maps: &mut self.maps,
            config: &self.config,
            packet: packet.to_vec(),
            ifindex: self.ifindex,
            now_ns: 1_000_000_000_000,
            cpu: 0,
            mark: 0,
            ways: &ways,
            early: false,
        };
        let verdict = match direction {
            Direction::Egress => datapath::from_pod(&mut run),
            Direction::Ingress => datapath::to_pod(&mut run),
        };
        while self.maps.events.pop().is_some() {}
        (verdict.action as u32, verdict.argument)
    }
}

/// An address for an identity that is known by number only.
fn address(number: u32, ipv6: bool) -> IpAddr {
    match ipv6 {
        true => Ipv6Addr::from_bits((0xfd9d_u128 << 112) | u128::from(number)).into(),
        false => Ipv4Addr::from_bits(0x644a_0000 + number).into(),
    }
}

/// The verdict of what became of a packet.
fn verdict(action: u32, argument: u32, probe: &Probe) -> Verdict {
    if action == Action::Drop as u32 {
        let by_policy = [DropReason::Policy as u32, DropReason::PolicyDeny as u32].contains(&argument);
        assert!(by_policy, "{probe:?}: dropped for the reason {argument}, which is not policy");
        return Verdict::Deny;
    }
    // A mark carries the port as it lies in the map: in network order.
    passed(if action == Action::Proxy as u32 { u16::from_be(argument as u16) } else { 0 })
}

impl Judge for Packets {
    fn load(&mut self, engine: &Engine) {
        self.wanted = Wanted::of(engine);
        let mut writes = core::mem::take(&mut self.wanted.writes);
        self.addresses = self.wanted.classes.keys().copied().zip(1..).collect();
        for (identity, number) in &self.addresses {
            let class = self.wanted.classes[identity];
            writes.extend([false, true].map(|v6| peer(&Cidr::host(address(*number, v6)), *identity, class)));
        }
        self.revision += 1;
        writes.push(MapWrite::Runtime(Runtime::PolicyRevision as u32, Some(self.revision)));
        self.device = None;
        self.bring_to(writes);
    }

    fn verdict(&mut self, _: &Engine, probe: &Probe) -> (Verdict, Option<MatchType>) {
        let Some(packet) = self.packet(probe) else {
            self.looked_up += 1;
            let (config, ifindex) = (self.config, self.ifindex);
            let ways = datapath_sim::Ways::default();
            let run = Run {
                maps: &mut self.maps,
                config: &config,
                packet: Vec::new(),
                ifindex,
                now_ns: 0,
                cpu: 0,
                mark: 0,
                ways: &ways,
                early: false,
            };
            return lookup::judge(&run, &self.wanted, probe);
        };
        self.become_endpoint(probe.endpoint);
        self.sent += 1;
        let (action, argument) = self.run_native(&packet, probe.direction);
        let native = verdict(action, argument, probe);
        if let (Some(datapath), true) = (&self.kernel, self.sent.is_multiple_of(self.every)) {
            let program = match probe.direction {
                Direction::Egress => Program::FromContainer,
                Direction::Ingress => Program::ToContainer,
            };
            let ctx = SkBuff { ifindex: self.ifindex, ..SkBuff::default() };
            let run = datapath.test_run(program, &packet, &ctx, 1).unwrap_or_else(|e| panic!("{probe:?}: {e}"));
            self.in_kernel += 1;
            let [action, argument, ..] = run.ctx.cb;
            let kernel = verdict(action, argument, probe);
            assert_eq!(kernel, native, "{probe:?}: the kernel and the native pipeline differ");
            return (kernel, None);
        }
        (native, None)
    }
}
