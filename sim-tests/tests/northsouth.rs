//! A client outside of a cluster of three nodes reaches services at node ports and at a load balancer's address, while backends
//! come and go write by write: through the hooks of XDP and tc, by SNAT and by DSR, over both families.
//!
//! The checker knows the services and what was sent, and no table: which pod got a packet, what it saw, who answered whom.
#![expect(clippy::print_stdout, reason = "the figures are what the test is for")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use abi::config::{
    DEFAULT_LIFETIMES, LB_DSR, LB_MAGLEV, LB_NODE_PORT, NODE_HOST_ROUTING, NODE_TRACK_FRAGMENTS, NodeConfig, Runtime,
};
use abi::endpoint::{Device, ENDPOINT_HOST, EndpointInfo, EndpointKey};
use abi::ipcache::{IpcacheEntry, IpcacheKey};
use abi::write::MapWrite;
use datapath_sim::{Fate, Host, Interface, Maps};
use lb::maglev::{Seed, TableSize};
use lb::{Algorithm, Attributes, Backend, Config, L4Addr, ServiceSpec, ServiceType, Services, Transport};
use machine::Rng;
use sim_tests::frame::{End, Seen, flag};
use types::Cidr;

const NODES: usize = 3;
const UPLINK: u32 = 2;
const NODE_PORT: u16 = 30_080;
const BACKEND_PORT: u16 = 8080;
const SEEDS: u64 = 12;

fn of(v6: bool, four: [u8; 4], six: [u16; 3]) -> IpAddr {
    let [a, b, c] = six;
    if v6 { Ipv6Addr::new(a, b, 0, 0, 0, 0, 0, c).into() } else { Ipv4Addr::from(four).into() }
}
fn node_ip(node: usize, v6: bool) -> IpAddr {
    of(v6, [172, 16, 0, node as u8 + 1], [0xfd77, 0, node as u16 + 1])
}
fn pod_ip(node: usize, pod: usize, v6: bool) -> IpAddr {
    of(v6, [10, node as u8, 0, pod as u8 + 1], [0xfd00, node as u16, pod as u16 + 1])
}
fn client_ip(client: usize, v6: bool) -> IpAddr {
    of(v6, [192, 0, 2, client as u8 + 1], [0x2001, 0xdb8, client as u16 + 1])
}
fn balanced(v6: bool) -> IpAddr {
    of(v6, [203, 0, 113, 10], [0xfd20, 0, 10])
}
fn ifindex(pod: usize) -> u32 {
    10 + pod as u32
}

struct Cluster {
    hosts: Vec<Host>,
    services: Vec<Services>,
    /// Which (node, pod) serve, as the objects say.
    serving: BTreeSet<(usize, usize)>,
    /// Of those, who serve before and after what is being written.
    staying: BTreeSet<(usize, usize)>,
    revision: u64,
    now: u64,
    v6: bool,
    direct: bool,
}

impl Cluster {
    fn new(v6: bool, direct: bool, accelerated: bool) -> Self {
        Self::sized(v6, direct, accelerated, 251)
    }

    fn sized(v6: bool, direct: bool, accelerated: bool, places: u32) -> Self {
        let algorithm = Algorithm::Maglev { size: TableSize::new(places).expect("allowed"), seed: Seed::default() };
        let services = (0..NODES)
            .map(|n| {
                let mut config = Config { algorithm, ..Config::default() };
                config.node.name = format!("node{n}").into();
                config.node.addresses = vec![node_ip(n, v6)];
                Services::new(config)
            })
            .collect();
        let mut hosts: Vec<Host> = (0..NODES).map(|n| host(n, v6, direct, accelerated)).collect();
        hosts.iter_mut().for_each(|host| host.config.maglev_size = places);
        Self {
            hosts,
            services,
            serving: BTreeSet::new(),
            staying: BTreeSet::new(),
            revision: 1,
            now: 1_000_000_000_000,
            v6,
            direct,
        }
    }

    /// Tells every node of the services with these backends, one map write after the other, and calls `between` after each.
    fn serve(&mut self, serving: BTreeSet<(usize, usize)>, mut between: impl FnMut(&mut Self)) {
        let before = std::mem::replace(&mut self.serving, serving.clone());
        let all: BTreeSet<_> = before.union(&serving).copied().collect();
        self.staying = before.intersection(&serving).copied().collect();
        let backends: Vec<Backend> = serving
            .iter()
            .map(|(node, pod)| Backend {
                node_name: format!("node{node}").into(),
                ..Backend::new(L4Addr {
                    ip: pod_ip(*node, *pod, self.v6),
                    port: BACKEND_PORT,
                    protocol: Transport::Tcp,
                })
            })
            .collect();
        for node in 0..NODES {
            for (ip, port, kind) in [
                (node_ip(node, self.v6), NODE_PORT, ServiceType::NodePort),
                (balanced(self.v6), 80, ServiceType::LoadBalancer),
            ] {
                let frontend = L4Addr { ip, port, protocol: Transport::Tcp };
                let mut spec = ServiceSpec::new(frontend, backends.clone());
                spec.attributes = Attributes { kind, ..Attributes::default() };
                let planned = self.services[node].put(spec).expect("a good service");
                let tables = planned.tables.iter().map(|(id, recipe)| (id.as_u64(), recipe.table()));
                self.hosts[node].maps.tables = tables.collect();
                for write in planned.writes {
                    self.hosts[node].maps.apply_one(&write).expect("room");
                    // Half-way both the old and the new may serve.
                    let whole = std::mem::replace(&mut self.serving, all.clone());
                    between(self);
                    self.serving = whole;
                }
                self.revision += 1;
                let revision = MapWrite::Runtime(Runtime::LbRevision as u32, Some(self.revision));
                self.hosts[node].maps.apply_one(&revision).expect("it is there");
            }
        }
        self.staying = self.serving.clone();
    }

    /// Carries a frame that enters at `node` to where it ends: the pod that got it, or the client.
    fn carry(&mut self, node: usize, frame: Vec<u8>) -> Result<Arrived, String> {
        let (mut node, mut frame) = (node, frame);
        for _ in 0..4 {
            match self.hosts[node].from_network(self.now, UPLINK, frame) {
                Fate::Pod(at, frame) => return Ok(Arrived::Pod(node, (at - ifindex(0)) as usize, read(&frame)?)),
                Fate::Network(UPLINK, out) => match self.owner(&out) {
                    Some(next) => (node, frame) = (next, out),
                    None => return Ok(Arrived::Client(read(&out)?)),
                },
                other => return Err(format!("{other:?} at node {node}")),
            }
        }
        Err("round in circles".to_owned())
    }

    /// The node whom the network leads a frame to; `None`: a client.
    fn owner(&self, frame: &[u8]) -> Option<usize> {
        let to = Seen::read(frame).ok()?.dst.0;
        (0..NODES).find(|n| to == node_ip(*n, self.v6) || (0..2).any(|pod| to == pod_ip(*n, pod, self.v6)))
    }

    /// A pod sends; what comes out goes where the network leads it.
    fn answer(&mut self, node: usize, pod: usize, packet: Seen) -> Result<Arrived, String> {
        let frame = packet.emit([2; 6], [4; 6]);
        match self.hosts[node].from_pod(self.now, ifindex(pod), frame) {
            Fate::Network(UPLINK, out) => match self.owner(&out) {
                Some(next) => self.carry(next, out),
                None => Ok(Arrived::Client(read(&out)?)),
            },
            other => Err(format!("the answer: {other:?}")),
        }
    }
}

/// Where a packet ended, as whoever got it sees it. Every checksum has been verified.
enum Arrived {
    Pod(usize, usize, Seen),
    Client(Seen),
}

fn read(frame: &[u8]) -> Result<Seen, String> {
    Seen::read(frame).map_err(|e| e.to_string())
}

fn host(n: usize, v6: bool, direct: bool, accelerated: bool) -> Host {
    let (IpAddr::V4(four), IpAddr::V6(six)) = (node_ip(n, false), node_ip(n, true)) else {
        unreachable!("one of each family")
    };
    let seed = Seed::default();
    let config = NodeConfig {
        flags: NODE_TRACK_FRAGMENTS | NODE_HOST_ROUTING,
        world_ipv4: 9,
        world_ipv6: 10,
        mtu: 1500,
        monitor_aggregation: 3,
        report_interval: 5,
        report_tcp_flags: 0xff,
        capture_len: 96,
        lifetimes: DEFAULT_LIFETIMES,
        lb_flags: LB_NODE_PORT | LB_MAGLEV | if direct { LB_DSR } else { 0 },
        nat_port_min: 32_768,
        nat_port_max: 65_535,
        maglev_size: 251,
        maglev_seed_v4: seed.flows4,
        maglev_seed_v6: seed.flows6,
        snat_ipv4: four.into(),
        snat_ipv6: six.into(),
        ..NodeConfig::default()
    };
    let mut host = Host::new(Maps::with_sizes(1, |spec| spec.max_entries.min(1 << 14)), config);
    host.add_interface(UPLINK, Interface::Uplink);
    host.attach(UPLINK);
    assert!(!accelerated || host.accelerate(UPLINK));
    host.addresses.insert(node_ip(n, v6));
    let mut write = |write| host.maps.apply_one(&write).expect("room");
    let own = EndpointInfo { flags: ENDPOINT_HOST, identity: 1, ..EndpointInfo::default() };
    write(MapWrite::Lxc(EndpointKey::new(node_ip(n, v6)), Some(own)));
    for revision in [Runtime::PolicyRevision, Runtime::LbRevision] {
        write(MapWrite::Runtime(revision as u32, Some(1)));
    }
    for pod in 0..2 {
        let (IpAddr::V4(four), IpAddr::V6(six)) = (pod_ip(n, pod, false), pod_ip(n, pod, true)) else {
            unreachable!("one of each family")
        };
        let (index, identity) = (ifindex(pod), 1000 + pod as u32);
        let device = Device {
            identity,
            lxc_id: index as u16,
            policy: index,
            ipv4: four.into(),
            ipv6: six.into(),
            ..Device::default()
        };
        let info = EndpointInfo { ifindex: index, lxc_id: index as u16, identity, ..EndpointInfo::default() };
        write(MapWrite::Device(index, Some(device)));
        write(MapWrite::Lxc(EndpointKey::new(pod_ip(n, pod, v6)), Some(info)));
        let entry = IpcacheEntry { identity, class: identity, ..IpcacheEntry::default() };
        write(match pod_ip(n, pod, v6) {
            IpAddr::V4(ip) => MapWrite::Ipcache(IpcacheKey::v4(ip.into(), 32), Some(entry)),
            IpAddr::V6(ip) => MapWrite::Ipcache(IpcacheKey::v6(ip.into(), 128), Some(entry)),
        });
    }
    for pod in 0..2 {
        host.add_interface(ifindex(pod), Interface::Pod);
        host.attach(ifindex(pod));
    }
    // Everybody else is behind the uplink, by neighbours that are known.
    let bits = if v6 { 128 } else { 32 };
    let others = (0..NODES).flat_map(|n| [node_ip(n, v6), pod_ip(n, 0, v6), pod_ip(n, 1, v6)]);
    for (at, ip) in others.chain((0..4).map(|client| client_ip(client, v6))).enumerate() {
        let own = ip == node_ip(n, v6) || (0..2).any(|pod| ip == pod_ip(n, pod, v6));
        if !own {
            let prefix = Cidr::new(ip, bits).expect("a whole address");
            host.add_route_by(prefix, UPLINK, ([6, 0, 0, 0, 0, at as u8], [2; 6]));
        }
    }
    host
}

/// What the checker remembers of a connection: the pod it went to.
#[derive(Default)]
struct Checker {
    given: BTreeMap<(End, End), (usize, usize)>,
    packets: u64,
    kept: u64,
    moved: u64,
}

impl Checker {
    /// A client's packet to a frontend at `node`, its answer, and all that must hold of both.
    fn exchange(&mut self, cluster: &mut Cluster, node: usize, from: End, to: End, flags: u8) -> Result<(), String> {
        self.packets += 1;
        let sent = Seen { src: from, dst: to, protocol: 6, flags };
        let arrived = cluster.carry(node, sent.emit([1; 6], [2; 6]))?;
        let Arrived::Pod(at, pod, got) = arrived else { return Err("no pod got it".to_owned()) };
        if !cluster.serving.contains(&(at, pod)) {
            return Err(format!("pod {pod} of node {at} does not serve"));
        }
        if got.dst != (pod_ip(at, pod, cluster.v6), BACKEND_PORT) || got.flags != flags {
            return Err(format!("the pod got {got:?}"));
        }
        let sees_client = got.src == from;
        if sees_client != (cluster.direct || at == node) {
            return Err(format!("the pod sees {:?} as its client", got.src));
        }
        let before = self.given.insert((from, to), (at, pod));
        match before {
            Some(old) if old != (at, pod) && cluster.staying.contains(&old) => {
                return Err(format!("it moved from {old:?}, which serves, to {:?}", (at, pod)));
            }
            Some(old) if old != (at, pod) => self.moved += 1,
            Some(_) => self.kept += 1,
            None => {}
        }
        let reply = Seen { flags: if flags == flag::SYN { flag::SYN | flag::ACK } else { flag::ACK }, ..got.answer() };
        match cluster.answer(at, pod, reply)? {
            Arrived::Client(got) if (got.src, got.dst) == (to, from) => Ok(()),
            Arrived::Client(got) => Err(format!("the client got an answer from {:?}, it asked {to:?}", got.src)),
            Arrived::Pod(..) => Err("the answer went to a pod".to_owned()),
        }
    }
}

/// A random exchange: a new connection, or one that goes on. What is sent to the load balancer's address enters at any node, also in the
/// middle of a connection, as long as no backend has come or gone since it opened.
fn one(
    cluster: &mut Cluster,
    checker: &mut Checker,
    rng: &mut Rng,
    open: &mut Vec<(usize, End, End)>,
) -> Result<(), String> {
    cluster.now += 1_000_000;
    if !open.is_empty() && rng.chance(2, 3) {
        let (node, from, to) = open[rng.below(open.len() as u64) as usize];
        return checker.exchange(cluster, node, from, to, flag::ACK);
    }
    let node = rng.below(NODES as u64) as usize;
    let from = (client_ip(rng.below(4) as usize, cluster.v6), 1024 + rng.below(60_000) as u16);
    let to = if rng.chance(1, 2) { (node_ip(node, cluster.v6), NODE_PORT) } else { (balanced(cluster.v6), 80) };
    if checker.given.contains_key(&(from, to)) {
        return Ok(());
    }
    checker.exchange(cluster, node, from, to, flag::SYN)?;
    if to.0 == balanced(cluster.v6) {
        // Every node would have given it to the same pod.
        let other = (node + 1) % NODES;
        checker.exchange(cluster, other, from, to, flag::ACK)?;
    }
    open.push((node, from, to));
    Ok(())
}

fn run(seed: u64, v6: bool, direct: bool, accelerated: bool) -> Result<Checker, String> {
    let mut rng = Rng::new(seed);
    let mut cluster = Cluster::new(v6, direct, accelerated);
    let (mut checker, mut open) = (Checker::default(), Vec::new());
    let all: Vec<(usize, usize)> = (0..NODES).flat_map(|n| [(n, 0), (n, 1)]).collect();
    cluster.serve(all.iter().copied().collect(), |_| {});
    for _ in 0..8 {
        for _ in 0..60 {
            one(&mut cluster, &mut checker, &mut rng, &mut open)?;
        }
        // At least one stays.
        let mut serving: BTreeSet<_> = all.iter().copied().filter(|_| rng.chance(3, 5)).collect();
        serving.insert(all[rng.below(all.len() as u64) as usize]);
        let mut failed = None;
        cluster.serve(serving, |cluster| {
            // While it is being written, connections to the balanced address are seen by nodes that know more than others.
            // What goes away takes its connections with it.
            let stays = |from, to| checker.given.get(&(from, to)).is_some_and(|at| cluster.staying.contains(at));
            let known: Vec<_> =
                open.iter().filter(|(_, from, to)| to.1 == NODE_PORT && stays(*from, *to)).copied().collect();
            if let (None, false) = (&failed, known.is_empty()) {
                let (node, from, to) = known[rng.below(known.len() as u64) as usize];
                failed = checker.exchange(cluster, node, from, to, flag::ACK).err();
            }
        });
        if let Some(why) = failed {
            return Err(format!("half-way: {why}"));
        }
        // A client whose backend went opens anew; all others must go on where they were.
        for (node, from, to) in open.clone() {
            let gone = checker.given.get(&(from, to)).is_some_and(|at| !cluster.serving.contains(at));
            checker.exchange(&mut cluster, node, from, to, if gone { flag::SYN } else { flag::ACK })?;
        }
        open.retain(|_| rng.chance(4, 5));
    }
    Ok(checker)
}

#[test]
fn clients_outside_reach_services_in_every_mode_while_backends_come_and_go() {
    for (name, direct, accelerated) in
        [("SNAT, tc", false, false), ("SNAT, XDP", false, true), ("DSR, tc", true, false), ("DSR, XDP", true, true)]
    {
        for v6 in [false, true] {
            let (mut packets, mut kept, mut moved) = (0, 0, 0);
            for seed in 1..=SEEDS {
                let checker = run(seed, v6, direct, accelerated)
                    .unwrap_or_else(|why| panic!("{name}, {}, seed {seed}: {why}", if v6 { "IPv6" } else { "IPv4" }));
                (packets, kept, moved) = (packets + checker.packets, kept + checker.kept, moved + checker.moved);
            }
            println!(
                "{name}, IPv{}: {packets} packets, {kept} stayed, {moved} moved on from backends that went",
                if v6 { 6 } else { 4 }
            );
            assert!(kept > 1000 && moved > 10);
        }
    }
}

#[test]
fn when_a_backend_goes_hardly_any_other_flow_moves() {
    const FLOWS: u16 = 20_000;
    for (places, backends) in [(251, 6), (16_381, 6)] {
        for v6 in [false, true] {
            let all: Vec<(usize, usize)> = (0..NODES).flat_map(|n| [(n, 0), (n, 1)]).collect();
            assert_eq!(all.len(), backends);
            let gone = all[2];
            let choices = |serving: &[(usize, usize)]| -> Vec<(usize, usize)> {
                let mut cluster = Cluster::sized(v6, true, true, places);
                cluster.serve(serving.iter().copied().collect(), |_| {});
                let mut choose = |n: u16| {
                    let from = (client_ip(usize::from(n % 4), v6), 1024 + n);
                    let sent = Seen { src: from, dst: (balanced(v6), 80), protocol: 6, flags: flag::SYN };
                    match cluster.carry(0, sent.emit([1; 6], [2; 6])) {
                        Ok(Arrived::Pod(node, pod, _)) => (node, pod),
                        Ok(Arrived::Client(_)) => panic!("flow {n} reached no pod"),
                        Err(why) => panic!("flow {n}: {why}"),
                    }
                };
                (0..FLOWS).map(&mut choose).collect()
            };
            let before = choices(&all);
            let rest: Vec<_> = all.iter().copied().filter(|backend| *backend != gone).collect();
            let after = choices(&rest);
            let lost = before.iter().filter(|backend| **backend == gone).count();
            let moved = before.iter().zip(&after).filter(|(b, a)| **b != gone && b != a).count();
            let share = moved as f64 * 100.0 / f64::from(FLOWS);
            println!(
                "Maglev, {places} places, {backends} backends, IPv{}: one goes with {lost} of {FLOWS} flows; {moved} others ({share:.2} %) move",
                if v6 { 6 } else { 4 }
            );
            let even = FLOWS as usize / backends;
            assert!(lost.abs_diff(even) < even / 5, "an even share was lost");
            // The paper's figure for tables a hundred times as large as the number of backends is some percent.
            assert!(share < if places > 1000 { 2.0 } else { 8.0 }, "{share} % moved");
        }
    }
}
