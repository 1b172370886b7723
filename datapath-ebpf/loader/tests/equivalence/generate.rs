//! What is sent to which program: new flows, flows that go on, replies to what came out, errors about it, and damage.

use std::{collections::VecDeque, fmt, net::IpAddr};

use loader::Program;

use crate::{
    packets::{self, ACK, FIN, ICMP, ICMP6, RST, SCTP, SYN, Spec, TCP, UDP},
    rng::Rng,
    world::{PORTS, World},
};

/// Packets remembered to be continued and answered.
const MEMORY: usize = 400;

/// Where a packet is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hook {
    Tc(Program),
    /// Before there is a buffer.
    Xdp,
}

impl fmt::Display for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tc(program) => program.fmt(f),
            Self::Xdp => f.write_str("cil_xdp_entry"),
        }
    }
}

/// A packet for a program.
#[derive(Clone, Debug)]
pub struct Stimulus {
    pub hook: Hook,
    pub ifindex: u32,
    pub packet: Vec<u8>,
    pub mark: u32,
    /// Not cut, not damaged: its checksums hold.
    pub whole: bool,
    /// Which way it was made.
    pub kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    New,
    Again,
    /// A connection goes on, several packets in a row.
    Steady,
    Reply,
    Error,
    Neighbour,
    Fragment,
    /// What an earlier hook let pass.
    Passed,
    /// A packet from another balancer, which names the frontend.
    Told,
    /// Masqueraded traffic, or an answer to it.
    Masqueraded,
}

/// A packet that was run.
struct Run {
    hook: Hook,
    input: Vec<u8>,
    /// What left the program, if it was not dropped.
    output: Option<Vec<u8>>,
}

pub struct Generator {
    rng: Rng,
    memory: VecDeque<Run>,
    /// What a pod sends next on connections that go on.
    steady: VecDeque<Vec<u8>>,
}

impl Generator {
    pub fn new(seed: u64) -> Self {
        Self { rng: Rng::new(seed), memory: VecDeque::new(), steady: VecDeque::new() }
    }

    /// Remembers what became of a packet.
    pub fn ran(&mut self, stimulus: &Stimulus, output: Option<Vec<u8>>) {
        if !stimulus.whole {
            return;
        }
        if self.memory.len() == MEMORY {
            // A random one goes, so that some flows live long.
            let gone = self.rng.below(MEMORY);
            self.memory.swap_remove_back(gone);
        }
        if output.is_some() && stimulus.hook == Hook::Tc(Program::FromContainer) && self.rng.chance(20) {
            let next = packets::again(&stimulus.packet, ACK);
            self.steady.extend(std::iter::repeat_n(next, 4).flatten());
        }
        self.memory.push_back(Run { hook: stimulus.hook, input: stimulus.packet.clone(), output });
    }

    pub fn next(&mut self, program: Program, world: &World) -> Stimulus {
        let (kind, packet) = self.packet(program, world);
        let ifindex = self.interface(program, world, &packet);
        let mark = if self.rng.chance(5) { self.rng.next() as u32 } else { 0 };
        let mut stimulus = Stimulus { hook: Hook::Tc(program), ifindex, packet, mark, whole: true, kind };
        damage(&mut self.rng, &mut stimulus);
        stimulus
    }

    fn packet(&mut self, program: Program, world: &World) -> (Kind, Vec<u8>) {
        if program == Program::FromContainer
            && self.rng.chance(30)
            && let Some(packet) = self.steady.pop_front()
        {
            return (Kind::Steady, packet);
        }
        let remembered = match self.rng.below(100) {
            0..=19 => self.again(program).map(|p| (Kind::Again, p)),
            20..=49 => self.answer(program, world).map(|p| (Kind::Reply, p)),
            50..=57 => self.error(program, world).map(|p| (Kind::Error, p)),
            58..=60 => Some((Kind::Neighbour, self.neighbour(world))),
            61..=64 => Some((Kind::Fragment, self.fragment(program, world))),
            _ => None,
        };
        remembered.unwrap_or_else(|| (Kind::New, self.new_flow(program, world).build()))
    }

    fn tcp_flags(&mut self) -> u8 {
        *self.rng.pick(&[ACK, ACK, ACK, ACK | 8, SYN, SYN | ACK, ACK | FIN, FIN, RST, RST | ACK, SYN | FIN, 0])
    }

    fn again(&mut self, program: Program) -> Option<Vec<u8>> {
        let flags = self.tcp_flags();
        let run = self.remembered(|run| run.hook == Hook::Tc(program))?;
        packets::again(&run.input, flags)
    }

    /// A reply to something that came out of another program, for one that sees the way back.
    fn answer(&mut self, program: Program, world: &World) -> Option<Vec<u8>> {
        let flags = if self.rng.chance(30) { SYN | ACK } else { self.tcp_flags() };
        let run = self.remembered(|run| {
            let Some((src, dst)) = run.output.as_deref().and_then(packets::addresses) else { return false };
            sees(program, world, dst, src)
        })?;
        packets::reply(run.output.as_deref()?, flags)
    }

    /// An ICMP error about something that came out: from whoever received it, or from a router on its way.
    fn error(&mut self, program: Program, world: &World) -> Option<Vec<u8>> {
        let by_router = self.rng.chance(40).then(|| self.rng.below(world.others.len()));
        let (kind, code) = (*self.rng.pick(&[3, 3, 11, 12, 1, 2, 4, 5]), *self.rng.pick(&[0, 1, 3, 4]));
        let quote_input = self.rng.chance(20);
        let run = self.remembered(|run| {
            let Some((src, dst)) = run.output.as_deref().and_then(packets::addresses) else { return false };
            sees(program, world, dst, src)
        })?;
        let about = if quote_input { &run.input } else { run.output.as_ref()? };
        let (src, _) = packets::addresses(about)?;
        let from = if program == Program::FromContainer { None } else { by_router };
        let from = from.map(|n| if src.is_ipv4() { world.others[n].0 } else { world.others[n].1 });
        packets::error_about(about, from, kind, code)
    }

    fn neighbour(&mut self, world: &World) -> Vec<u8> {
        let ipv6 = self.rng.chance(60);
        let pod = self.rng.below(world.pods.len());
        let target = self.destination(world, ipv6).0;
        match (world.pods[pod].addr(ipv6), target) {
            (IpAddr::V4(own), IpAddr::V4(target)) => {
                let target = if self.rng.chance(40) { std::net::Ipv4Addr::new(10, 0, 0, 1) } else { target };
                packets::arp(own, target, *self.rng.pick(&[1, 1, 1, 2, 3]))
            }
            (IpAddr::V6(own), IpAddr::V6(target)) => {
                let own = *self.rng.pick(&[own, "fe80::5".parse().expect("literal"), std::net::Ipv6Addr::UNSPECIFIED]);
                let router = "fd00::1".parse().expect("literal");
                let target = if self.rng.chance(40) { router } else { target };
                packets::discovery(own, target, *self.rng.pick(&[135, 135, 135, 136, 133, 134]))
            }
            _ => unreachable!("both are of one family"),
        }
    }

    /// Part of a datagram of few, so that first and later parts meet.
    fn fragment(&mut self, program: Program, world: &World) -> Vec<u8> {
        let mut spec = self.new_flow(program, world);
        spec.ports = (5000 + self.rng.below(3) as u16, *self.rng.pick(&PORTS));
        let id = self.rng.below(4) as u16;
        spec.fragment = Some(if self.rng.chance(50) { (id, 0, true) } else { (id, 3, self.rng.chance(50)) });
        spec.build()
    }

    fn new_flow(&mut self, program: Program, world: &World) -> Spec {
        let ipv6 = self.rng.chance(40);
        let pod = self.rng.below(world.pods.len());
        let own = world.pods[pod].addr(ipv6);
        let (mut other, mut service) = self.destination(world, ipv6);
        if program == Program::FromNetdev && self.rng.chance(90) {
            // From outside; services and pods of this node do not come from there.
            let (v4, v6) = self.rng.pick(&world.others);
            (other, service) = (if ipv6 { *v6 } else { *v4 }, None);
        }
        let outbound = program == Program::FromContainer;
        let (src, dst) = if outbound { (own, other) } else { (other, own) };
        let icmp = if ipv6 { ICMP6 } else { ICMP };
        let mut protocol = *self.rng.pick(&[TCP, TCP, TCP, TCP, UDP, UDP, UDP, SCTP, icmp, icmp]);
        let mut ports = (30_000 + self.rng.below(2_000) as u16, *self.rng.pick(&PORTS));
        if let Some((port, of)) = service.filter(|_| outbound && self.rng.chance(85)) {
            ports.1 = port;
            protocol = if of == 0 { *self.rng.pick(&[TCP, UDP]) } else { of };
        }
        if protocol == icmp {
            let echo = if ipv6 { 128 } else { 8 };
            ports = (*self.rng.pick(&[echo, echo, echo, echo + 1, 13, 3]), *self.rng.pick(&[0, 0, 4]));
        }
        if self.rng.chance(1) {
            protocol = *self.rng.pick(&[47, 50, 99]);
        }
        let mut spec = Spec::new(src, dst, protocol, ports);
        spec.tcp_flags = if self.rng.chance(70) { SYN } else { self.tcp_flags() };
        spec.payload = *self.rng.pick(&[0, 1, 8, 33, 200, 900]);
        spec.ttl = *self.rng.pick(&[64, 64, 64, 64, 64, 64, 255, 1, 2, 0]);
        spec.icmp_id = self.rng.below(500) as u16;
        if self.rng.chance(12) {
            spec.options = 1 + self.rng.below(10);
            spec.extensions = (0..1 + self.rng.below(5))
                .map(|_| (*self.rng.pick(&[0, 43, 60, 51]), self.rng.below(3) as u8))
                .collect();
        }
        if self.rng.chance(3) {
            spec.src = self.destination(world, ipv6).0;
        }
        spec
    }

    /// Where to: a service with its port and protocol, a pod, or somebody else.
    fn destination(&mut self, world: &World, ipv6: bool) -> (IpAddr, Option<(u16, u8)>) {
        match self.rng.below(10) {
            0..=3 => {
                let frontend = self.rng.pick(&world.frontends);
                (if ipv6 { frontend.v6 } else { frontend.v4 }, Some((frontend.port, frontend.protocol)))
            }
            4..=6 => (self.rng.pick(&world.pods).addr(ipv6), None),
            _ => {
                let (v4, v6) = self.rng.pick(&world.others);
                (if ipv6 { *v6 } else { *v4 }, None)
            }
        }
    }

    /// The interface at which such a packet is seen, mostly.
    fn interface(&mut self, program: Program, world: &World, packet: &[u8]) -> u32 {
        if self.rng.chance(2) {
            return world.host_ifindex;
        }
        let ends = packets::addresses(packet);
        let own = match program {
            Program::FromContainer => ends.map(|(src, _)| src),
            Program::ToContainer => ends.map(|(_, dst)| dst),
            _ => return world.host_ifindex,
        };
        let pod = world.pods.iter().find(|pod| own == Some(pod.v4) || own == Some(pod.v6));
        pod.map_or_else(|| self.rng.pick(&world.pods).ifindex, |pod| pod.ifindex)
    }

    fn remembered(&mut self, fits: impl Fn(&Run) -> bool) -> Option<&Run> {
        self.rng.find(&self.memory, fits)
    }
}

/// Whether a packet from `src` to `dst` is one that passes the program on its way.
fn sees(program: Program, world: &World, src: IpAddr, dst: IpAddr) -> bool {
    match program {
        Program::FromContainer => is_pod(world, src),
        Program::FromNetdev => is_pod(world, dst) && !is_pod(world, src),
        _ => is_pod(world, dst),
    }
}

fn is_pod(world: &World, ip: IpAddr) -> bool {
    world.pods.iter().any(|pod| pod.v4 == ip || pod.v6 == ip)
}

/// Damages or cuts an eighth of what is sent.
pub fn damage(rng: &mut Rng, stimulus: &mut Stimulus) {
    match rng.below(100) {
        0..=7 => {
            for _ in 0..1 + rng.below(4) {
                let at = 12 + rng.below(stimulus.packet.len() - 12);
                stimulus.packet[at] = rng.next() as u8;
            }
            stimulus.whole = false;
        }
        8..=12 => {
            // Mostly with an Ethernet header, without which the kernel itself refuses it.
            let least = if rng.chance(90) { 14 } else { 1 };
            let len = least + rng.below(stimulus.packet.len() - least);
            stimulus.packet.truncate(len);
            stimulus.whole = false;
        }
        13 if rng.chance(30) => {
            for byte in &mut stimulus.packet {
                *byte = rng.next() as u8;
            }
            stimulus.whole = false;
        }
        _ => {}
    }
}
