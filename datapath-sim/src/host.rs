//! A node's interfaces, routes and addresses around the packet hooks: what the kernel does between them.
//!
//! A packet goes from hook to hook exactly as on a real node (pod interface → pipeline → pod, host's stack or network);
//! what leaves the node is handed to whoever drives the simulation. The stack here forwards by
//! destination, spends one hop, and answers nothing by itself.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use abi::config::NodeConfig;
use datapath::{Action, DropReason, Verdict};

use crate::frame;
use crate::maps::Maps;
use crate::run::Run;
use crate::ways::{Way, Ways};

/// Redirects a packet may go through before the host gives it up, as a guard against loops in a simulation.
const HOPS_MAX: usize = 8;

/// MTU of an interface of which nothing else is said.
const MTU: u32 = 1500;

/// What an interface is for, and so which hooks it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interface {
    /// The host's side of a pod's veth pair: `from_pod` and `to_pod`.
    Pod,
    /// `cilium_host`: `from_host`.
    Host,
    /// The way to other nodes and the world: `early` where it is accelerated, `from_netdev`, `to_netdev`.
    Uplink,
}

/// Where a packet ended up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// In the pod behind this interface.
    Pod(u32, Vec<u8>),
    /// At the host itself.
    Host(Vec<u8>),
    /// Out of this uplink.
    Network(u32, Vec<u8>),
    /// Dropped by the pipeline.
    Dropped(DropCode),
    /// Dropped by the host's stack.
    Lost(Lost),
}

/// The number of a drop reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct DropCode(pub u32);

impl From<DropReason> for DropCode {
    fn from(reason: DropReason) -> Self {
        Self(reason as u32)
    }
}

/// Why the host's stack dropped a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lost {
    /// The interface is gone, or never was.
    NoInterface(u32),
    /// No route, or a header nobody can route by.
    NoRoute,
    /// No hops left.
    HopLimit,
    /// It went round in circles.
    Loop,
    /// It was marked for a proxy, and none runs here.
    NoProxy,
}

/// A node.
#[derive(Debug, Clone)]
pub struct Host {
    /// Its maps, which outlive its agent.
    pub maps: Maps,
    /// What its programs were loaded with.
    pub config: NodeConfig,
    /// Its own addresses.
    pub addresses: BTreeSet<IpAddr>,
    interfaces: BTreeMap<u32, Interface>,
    ways: Ways,
    mtu: BTreeMap<u32, u32>,
    attached: BTreeSet<u32>,
    accelerated: BTreeSet<u32>,
}

/// A packet between hooks, with the mark it carries.
#[derive(Debug)]
struct Packet {
    bytes: Vec<u8>,
    mark: u32,
}

impl Host {
    /// A node with these maps and no interface.
    pub fn new(maps: Maps, config: NodeConfig) -> Self {
        Self {
            maps,
            config,
            addresses: BTreeSet::new(),
            interfaces: BTreeMap::new(),
            ways: Ways::default(),
            mtu: BTreeMap::new(),
            attached: BTreeSet::new(),
            accelerated: BTreeSet::new(),
        }
    }

    /// Adds an interface. Its programs are not attached yet.
    pub fn add_interface(&mut self, ifindex: u32, kind: Interface) {
        self.interfaces.insert(ifindex, kind);
    }
    /// Removes an interface with its programs and routes.
    pub fn remove_interface(&mut self, ifindex: u32) {
        self.interfaces.remove(&ifindex);
        self.attached.remove(&ifindex);
        self.accelerated.remove(&ifindex);
        self.ways.forget(ifindex);
    }
    /// The interfaces that exist.
    pub fn interfaces(&self) -> impl Iterator<Item = (u32, Interface)> {
        self.interfaces.iter().map(|(ifindex, kind)| (*ifindex, *kind))
    }
    /// Attaches the programs of an interface; `false` when there is no such interface.
    pub fn attach(&mut self, ifindex: u32) -> bool {
        let there = self.interfaces.contains_key(&ifindex);
        if there {
            self.attached.insert(ifindex);
        }
        there
    }
    /// Detaches the programs of an interface.
    pub fn detach(&mut self, ifindex: u32) {
        self.attached.remove(&ifindex);
    }
    /// Attaches the program that meets packets before there is a buffer to an uplink; `false` when there is no such uplink.
    pub fn accelerate(&mut self, ifindex: u32) -> bool {
        let there = self.interfaces.get(&ifindex) == Some(&Interface::Uplink);
        if there {
            self.accelerated.insert(ifindex);
        }
        there
    }
    /// Whether the programs of an interface are attached.
    pub fn is_attached(&self, ifindex: u32) -> bool {
        self.attached.contains(&ifindex)
    }
    /// Sends packets to `prefix` out of `ifindex`; the longest prefix wins.
    pub fn add_route(&mut self, prefix: types::Cidr, ifindex: u32) {
        let mtu = self.mtu.get(&ifindex).copied().unwrap_or(MTU);
        self.ways.add(prefix, Way { ifindex, macs: None, mtu });
    }
    /// The same by a neighbour that is known: its address, then the interface's own.
    pub fn add_route_by(&mut self, prefix: types::Cidr, ifindex: u32, macs: ([u8; 6], [u8; 6])) {
        let mtu = self.mtu.get(&ifindex).copied().unwrap_or(MTU);
        self.ways.add(prefix, Way { ifindex, macs: Some(macs), mtu });
    }
    /// Sets the MTU of an interface, for routes added from now on.
    pub fn set_mtu(&mut self, ifindex: u32, mtu: u32) {
        self.mtu.insert(ifindex, mtu);
    }

    /// A pod sends a packet.
    pub fn from_pod(&mut self, now_ns: u64, ifindex: u32, packet: Vec<u8>) -> Fate {
        self.carry(now_ns, Step::Ingress(ifindex), packet)
    }
    /// A packet arrives at an uplink.
    pub fn from_network(&mut self, now_ns: u64, ifindex: u32, packet: Vec<u8>) -> Fate {
        self.carry(now_ns, Step::Early(ifindex), packet)
    }
    /// The host itself sends a packet.
    pub fn from_host(&mut self, now_ns: u64, packet: Vec<u8>) -> Fate {
        self.carry(now_ns, Step::Send, packet)
    }

    fn carry(&mut self, now_ns: u64, start: Step, bytes: Vec<u8>) -> Fate {
        let (mut step, mut packet) = (start, Packet { bytes, mark: 0 });
        for _ in 0..HOPS_MAX {
            step = match step {
                Step::Done(fate) => return fate,
                Step::Early(ifindex) => self.early(now_ns, ifindex, &mut packet),
                Step::Ingress(ifindex) => self.ingress(now_ns, ifindex, &mut packet),
                Step::Egress(ifindex) => self.egress(now_ns, ifindex, &mut packet),
                Step::Stack => self.stack(&mut packet.bytes, Hop::Forwarded),
                Step::Send => self.stack(&mut packet.bytes, Hop::Own),
            };
        }
        match step {
            Step::Done(fate) => fate,
            _ => Fate::Lost(Lost::Loop),
        }
    }

    fn early(&mut self, now_ns: u64, ifindex: u32, packet: &mut Packet) -> Step {
        if !self.accelerated.contains(&ifindex) {
            return Step::Ingress(ifindex);
        }
        let verdict = self.run(now_ns, ifindex, packet, true, |run| datapath::early(run));
        match verdict.action {
            // Out of the device itself: no hook of its stack sees the packet any more.
            Action::Redirect if self.interfaces.get(&verdict.argument) == Some(&Interface::Uplink) => {
                Step::Done(Fate::Network(verdict.argument, packet.bytes.clone()))
            }
            Action::Redirect => Step::Done(Fate::Lost(Lost::NoInterface(verdict.argument))),
            _ => self.act(verdict, packet, Step::Ingress(ifindex)),
        }
    }

    fn ingress(&mut self, now_ns: u64, ifindex: u32, packet: &mut Packet) -> Step {
        let Some(kind) = self.interfaces.get(&ifindex).copied() else {
            return Step::Done(Fate::Lost(Lost::NoInterface(ifindex)));
        };
        let verdict = match kind {
            Interface::Pod if self.attached.contains(&ifindex) => {
                self.run(now_ns, ifindex, packet, false, |run| datapath::from_pod(run))
            }
            Interface::Uplink if self.attached.contains(&ifindex) => {
                self.run(now_ns, ifindex, packet, false, |run| datapath::from_netdev(run))
            }
            _ => Verdict::PASS,
        };
        self.act(verdict, packet, Step::Stack)
    }

    fn egress(&mut self, now_ns: u64, ifindex: u32, packet: &mut Packet) -> Step {
        let Some(kind) = self.interfaces.get(&ifindex).copied() else {
            return Step::Done(Fate::Lost(Lost::NoInterface(ifindex)));
        };
        let attached = self.attached.contains(&ifindex);
        let verdict = match kind {
            Interface::Pod if attached => self.run(now_ns, ifindex, packet, false, |run| datapath::to_pod(run)),
            Interface::Host if attached => self.run(now_ns, ifindex, packet, false, |run| datapath::from_host(run)),
            Interface::Uplink if attached => self.run(now_ns, ifindex, packet, false, |run| datapath::to_netdev(run)),
            _ => Verdict::PASS,
        };
        let out = match kind {
            Interface::Pod => Step::Done(Fate::Pod(ifindex, packet.bytes.clone())),
            Interface::Uplink => Step::Done(Fate::Network(ifindex, packet.bytes.clone())),
            Interface::Host => Step::Done(Fate::Lost(Lost::NoRoute)),
        };
        self.act(verdict, packet, out)
    }

    /// Runs one hook over the packet.
    fn run(
        &mut self,
        now_ns: u64,
        ifindex: u32,
        packet: &mut Packet,
        early: bool,
        hook: impl FnOnce(&mut Run<'_>) -> Verdict,
    ) -> Verdict {
        let taken = core::mem::take(&mut packet.bytes);
        let mut run = Run {
            maps: &mut self.maps,
            config: &self.config,
            packet: taken,
            ifindex,
            now_ns,
            cpu: 0,
            mark: packet.mark,
            ways: &self.ways,
            early,
        };
        let verdict = hook(&mut run);
        (packet.bytes, packet.mark) = (run.packet, run.mark);
        verdict
    }

    /// Carries a verdict out; `pass` is what happens to a packet that may go on.
    fn act(&self, verdict: Verdict, packet: &Packet, pass: Step) -> Step {
        match verdict.action {
            Action::Pass => pass,
            Action::Drop => Step::Done(Fate::Dropped(DropCode(verdict.argument))),
            Action::RedirectPeer if !self.interfaces.contains_key(&verdict.argument) => {
                Step::Done(Fate::Lost(Lost::NoInterface(verdict.argument)))
            }
            Action::RedirectPeer => Step::Done(Fate::Pod(verdict.argument, packet.bytes.clone())),
            Action::Redirect | Action::RedirectNeighbour => Step::Egress(verdict.argument),
            Action::Proxy => Step::Done(Fate::Lost(Lost::NoProxy)),
            // The chains of `datapath::stages` never end so.
            Action::Continue => Step::Done(Fate::Dropped(DropReason::MissedTailCall.into())),
        }
    }

    fn stack(&mut self, packet: &mut [u8], hop: Hop) -> Step {
        let Some(destination) = frame::destination(packet) else {
            return Step::Done(Fate::Lost(Lost::NoRoute));
        };
        if self.addresses.contains(&destination) {
            return Step::Done(Fate::Host(packet.to_vec()));
        }
        let Some(out) = self.ways.to(destination).map(|way| way.ifindex) else {
            return Step::Done(Fate::Lost(Lost::NoRoute));
        };
        if hop == Hop::Forwarded && frame::spend_hop(packet).is_none() {
            return Step::Done(Fate::Lost(Lost::HopLimit));
        }
        Step::Egress(out)
    }
}

/// Whether the stack sends what it made itself or passes on what came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hop {
    Own,
    Forwarded,
}

/// The next thing that happens to a packet.
#[derive(Debug)]
enum Step {
    Early(u32),
    Ingress(u32),
    Egress(u32),
    Stack,
    Send,
    Done(Fate),
}

#[cfg(test)]
mod tests;
