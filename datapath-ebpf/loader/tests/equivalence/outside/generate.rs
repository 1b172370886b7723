//! What is sent to which hook of a node that serves clients outside: connections that open, go on and are answered, through
//! XDP, tc and pods; errors about them; what other balancers tell; pods' own traffic to the world.

use std::{collections::VecDeque, net::IpAddr};

use loader::Program;

use super::{
    geneve,
    view::{self, telling},
    world::{Both, CLIENTS, NODE, OTHER_NODE, PODS, PODS_THERE, WORLD, World},
};
use crate::{
    arms::Answer,
    generate::{Hook, Kind, Stimulus, damage},
    packets::{self, ACK, FIN, ICMP, ICMP6, RST, SCTP, SYN, Spec, TCP, UDP},
    rng::Rng,
};

/// Packets remembered to be continued and answered.
const MEMORY: usize = 600;

const FROM_POD: Hook = Hook::Tc(Program::FromContainer);
const FROM_NET: Hook = Hook::Tc(Program::FromNetdev);
const TO_NET: Hook = Hook::Tc(Program::ToNetdev);

/// The hooks, in the order in which they are tried in turn.
pub const HOOKS: [Hook; 4] = [Hook::Xdp, FROM_NET, FROM_POD, TO_NET];

/// A packet that was run.
struct Run {
    hook: Hook,
    input: Vec<u8>,
    /// What became of it, if it was not dropped.
    output: Option<Vec<u8>>,
    /// It left by a device, is in a pod, or went on.
    end: End,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Left,
    Pod,
    Passed,
    Dropped,
}

pub struct Generator {
    rng: Rng,
    memory: VecDeque<Run>,
    /// Packets that an earlier hook let pass, with their marks, for the next.
    next: Vec<(Hook, u32, u32, Vec<u8>)>,
    /// Other balancers carry packets inside Geneve.
    pub geneve: bool,
}

impl Generator {
    pub fn new(seed: u64) -> Self {
        Self { rng: Rng::new(seed), memory: VecDeque::new(), next: Vec::new(), geneve: false }
    }

    /// Remembers what became of a packet.
    pub fn ran(&mut self, stimulus: &Stimulus, answer: &Answer) {
        if !stimulus.whole {
            return;
        }
        use datapath::Action;
        let end = match answer.action {
            a if a == Action::Pass as u32 => End::Passed,
            a if a == Action::RedirectPeer as u32 => End::Pod,
            a if a == Action::Drop as u32 => End::Dropped,
            _ => End::Left,
        };
        if end == End::Passed && stimulus.hook == Hook::Xdp && self.rng.chance(40) && self.next.len() < MEMORY {
            self.next.push((FROM_NET, stimulus.ifindex, answer.mark, answer.packet.clone()));
        }
        if end == End::Passed && stimulus.hook == FROM_POD && self.rng.chance(70) && self.next.len() < MEMORY {
            self.next.push((TO_NET, 0, answer.mark, answer.packet.clone()));
        }
        if self.memory.len() == MEMORY {
            let gone = self.rng.below(MEMORY);
            self.memory.swap_remove_back(gone);
        }
        let output = (end != End::Dropped).then(|| answer.packet.clone());
        self.memory.push_back(Run { hook: stimulus.hook, input: stimulus.packet.clone(), output, end });
    }

    pub fn next(&mut self, hook: Hook, world: &World) -> Stimulus {
        let waiting = self.next.iter().position(|(to, ..)| *to == hook).filter(|_| self.rng.chance(50));
        if let Some(at) = waiting {
            let (hook, ifindex, mark, packet) = self.next.swap_remove(at);
            let ifindex = if ifindex == 0 { world.devices.front } else { ifindex };
            return Stimulus { hook, ifindex, packet, mark, whole: true, kind: Kind::Passed };
        }
        let (kind, packet) = match hook {
            FROM_POD => self.sent_by_pod(),
            TO_NET => self.sent_to_net(),
            _ => self.sent_by_net(hook, world),
        };
        let ifindex = self.interface(hook, world, &packet);
        let mark = if hook != Hook::Xdp && self.rng.chance(4) { self.rng.next() as u32 } else { 0 };
        let mut stimulus = Stimulus { hook, ifindex, packet, mark, whole: true, kind };
        damage(&mut self.rng, &mut stimulus);
        stimulus
    }

    fn sent_by_net(&mut self, hook: Hook, world: &World) -> (Kind, Vec<u8>) {
        let remembered = match self.rng.below(100) {
            0..=34 => self.again(hook).map(|p| (Kind::Again, p)),
            35..=59 => self.answer(End::Left).map(|p| (Kind::Reply, p)),
            60..=67 => self.error(End::Left).map(|p| (Kind::Error, p)),
            68..=71 => Some((Kind::Fragment, self.fragment(world))),
            72..=76 if self.geneve => Some((Kind::Told, self.carried())),
            72..=76 => self.told().map(|p| (Kind::Told, p)),
            77..=79 => self.masqueraded().map(|p| (Kind::Masqueraded, p)),
            _ => None,
        };
        remembered.unwrap_or_else(|| (Kind::New, self.new_flow(world).build()))
    }

    fn sent_by_pod(&mut self) -> (Kind, Vec<u8>) {
        let remembered = match self.rng.below(100) {
            0..=19 => self.again(FROM_POD).map(|p| (Kind::Again, p)),
            20..=69 => self.answer(End::Pod).map(|p| (Kind::Reply, p)),
            70..=79 => self.error(End::Pod).map(|p| (Kind::Error, p)),
            _ => None,
        };
        remembered.unwrap_or_else(|| (Kind::New, self.egress().build()))
    }

    fn sent_to_net(&mut self) -> (Kind, Vec<u8>) {
        let remembered = match self.rng.below(100) {
            0..=29 => self.again(TO_NET).map(|p| (Kind::Again, p)),
            30..=54 => self.of_host().map(|p| (Kind::Reply, p)),
            _ => None,
        };
        remembered.unwrap_or_else(|| {
            let ipv6 = self.rng.chance(40);
            let from = *self.rng.pick(&[PODS[0], PODS[1], PODS[0], NODE, CLIENTS[1]]);
            let mut spec = self.spec(from.of(ipv6), self.world_end(ipv6));
            spec.ports.1 = *self.rng.pick(&[80, 443]);
            (Kind::Masqueraded, spec.build())
        })
    }

    fn world_end(&self, ipv6: bool) -> IpAddr {
        // Not by the generator's own dice, which it borrows: by the memory's length, which moves as well.
        WORLD[self.memory.len() % WORLD.len()].of(ipv6)
    }

    fn tcp_flags(&mut self) -> u8 {
        *self.rng.pick(&[ACK, ACK, ACK, ACK, ACK | 8, SYN, SYN | ACK, ACK | FIN, RST, RST | ACK, SYN | FIN, 0])
    }

    fn again(&mut self, hook: Hook) -> Option<Vec<u8>> {
        let flags = self.tcp_flags();
        // Mostly of what led somewhere.
        let any = self.rng.chance(30);
        let run = self.remembered(|run| run.hook == hook && (any || matches!(run.end, End::Left | End::Pod)))?;
        packets::again(&run.input, flags)
    }

    /// A reply to something that left the node, or that reached a pod.
    fn answer(&mut self, end: End) -> Option<Vec<u8>> {
        let flags = if self.rng.chance(30) { SYN | ACK } else { self.tcp_flags() };
        let run = self.remembered(|run| run.end == end || (end == End::Left && left_by_stack(run)))?;
        let output = run.output.as_deref()?;
        // A backend that got a packet within another answers the one within, past this node.
        if view::inner(output).is_some() {
            return None;
        }
        packets::reply(output, flags)
    }

    /// An ICMP error about something that left the node or reached a pod.
    fn error(&mut self, end: End) -> Option<Vec<u8>> {
        let by_router = (end == End::Left && self.rng.chance(40)).then(|| self.rng.below(CLIENTS.len()));
        let (kind, code) = (*self.rng.pick(&[3, 3, 3, 11, 12, 1, 2, 4, 5]), *self.rng.pick(&[0, 1, 3, 4, 4]));
        let quote_input = self.rng.chance(10);
        let run = self.remembered(|run| run.end == end || (end == End::Left && left_by_stack(run)))?;
        let about = if quote_input { &run.input } else { run.output.as_ref()? };
        let (src, _) = packets::addresses(about)?;
        let from = by_router.map(|n| CLIENTS[n].of(src.is_ipv6()));
        packets::error_about(about, from, kind, code)
    }

    fn fragment(&mut self, world: &World) -> Vec<u8> {
        let mut spec = self.new_flow(world);
        spec.options = 0;
        spec.extensions.clear();
        spec.ports.0 = 5000 + self.rng.below(3) as u16;
        let id = self.rng.below(4) as u16;
        spec.fragment = Some(if self.rng.chance(50) { (id, 0, true) } else { (id, 3, self.rng.chance(50)) });
        spec.build()
    }

    /// What another balancer sends to a pod of this node.
    fn told(&mut self) -> Option<Vec<u8>> {
        let ipv6 = self.rng.chance(40);
        let (client, pod) = (*self.rng.pick(&CLIENTS[..3]), *self.rng.pick(&PODS));
        let mut spec = self.spec(client.of(ipv6), pod.of(ipv6));
        spec.ports.1 = 8080;
        let frontend: Both = *self.rng.pick(&[NODE, CLIENTS[1], WORLD[2]]);
        telling(&spec.build(), (frontend.of(ipv6), 30_000 + self.rng.below(3) as u16))
    }

    /// What another balancer, or somebody who is none, carries to a backend of this node.
    fn carried(&mut self) -> Vec<u8> {
        let ipv6 = self.rng.chance(40);
        let (to, port) = *self.rng.pick(&[(PODS[0], 8080), (PODS[1], 8080), (PODS[0], 8080), (NODE, 9000)]);
        let from = match self.rng.below(100) {
            0..=84 => *self.rng.pick(&CLIENTS[..3]),
            _ => *self.rng.pick(&[PODS_THERE[0], OTHER_NODE, PODS[1], NODE]),
        };
        let mut spec = self.spec(from.of(ipv6), to.of(ipv6));
        spec.ports.1 = port;
        let sender = *self.rng.pick(&[OTHER_NODE, OTHER_NODE, CLIENTS[1]]);
        let at = *self.rng.pick(&[NODE, NODE, to, PODS[1]]);
        // From an IPv4 address packets of both families come.
        let outer_ipv6 = ipv6 && (self.rng.chance(50) || !NODE.is(at.of(false)));
        let frontend: Both = *self.rng.pick(&[NODE, CLIENTS[1], WORLD[2]]);
        let ends = (sender.of(outer_ipv6), at.of(outer_ipv6));
        geneve::carry(ends, (frontend.of(ipv6), 30_000 + self.rng.below(3) as u16), &spec.build())
    }

    /// An answer to what a pod has sent to the world.
    fn masqueraded(&mut self) -> Option<Vec<u8>> {
        let flags = self.tcp_flags();
        let run = self.remembered(left_by_stack)?;
        packets::reply(run.output.as_deref()?, flags)
    }

    /// What the host itself answers, or an error of its own, to a packet that came in for it.
    fn of_host(&mut self) -> Option<Vec<u8>> {
        let flags = if self.rng.chance(30) { SYN | ACK } else { self.tcp_flags() };
        let error = self.rng.chance(15);
        let run = self.remembered(|run| {
            let to = run.output.as_deref().and_then(packets::addresses).map(|(_, dst)| dst);
            run.hook == FROM_NET && run.end == End::Passed && to.is_some_and(|dst| NODE.is(dst))
        })?;
        let packet = run.output.as_deref()?;
        if error { packets::error_about(packet, None, 3, 3) } else { packets::reply(packet, flags) }
    }

    /// From a pod to the world, or to the other pod.
    fn egress(&mut self) -> Spec {
        let ipv6 = self.rng.chance(40);
        let from = *self.rng.pick(&PODS);
        let to = if self.rng.chance(80) { self.world_end(ipv6) } else { self.rng.pick(&PODS).of(ipv6) };
        let mut spec = self.spec(from.of(ipv6), to);
        spec.ports.1 = *self.rng.pick(&[80, 443]);
        if self.rng.chance(15) {
            spec.protocol = if ipv6 { ICMP6 } else { ICMP };
            spec.ports = (if ipv6 { 128 } else { 8 }, 0);
        }
        spec
    }

    fn spec(&mut self, src: IpAddr, dst: IpAddr) -> Spec {
        let protocol = *self.rng.pick(&[TCP, TCP, TCP, UDP, UDP]);
        // Few enough that flows meet again, within and outside of the range of allocated ports.
        let port = *self.rng.pick(&[1_000, 40_000, 40_000, 65_300]) + self.rng.below(200) as u16;
        let mut spec = Spec::new(src, dst, protocol, (port, 8080));
        spec.tcp_flags = if self.rng.chance(60) { SYN } else { self.tcp_flags() };
        spec.payload = *self.rng.pick(&[0, 1, 8, 33, 200, 900, 1230, 1245, 1252, 1300]);
        spec.ttl = *self.rng.pick(&[64, 64, 64, 64, 64, 64, 64, 255, 1, 2, 0]);
        spec.icmp_id = self.rng.below(500) as u16;
        if self.rng.chance(5) {
            spec.options = 1 + self.rng.below(10);
            spec.extensions = vec![(*self.rng.pick(&[0, 43, 60, 51]), self.rng.below(3) as u8)];
        }
        spec
    }

    fn new_flow(&mut self, world: &World) -> Spec {
        let ipv6 = self.rng.chance(40);
        let client = if self.rng.chance(85) { self.rng.pick(&CLIENTS[..3]) } else { self.rng.pick(&CLIENTS) };
        let service = self.rng.pick(&world.services);
        let mut spec = Spec::new(client.of(ipv6), service.at.of(ipv6), TCP, (1, 1));
        (spec.dst, spec.ports.1, spec.protocol) = (service.at.of(ipv6), service.port, service.protocol);
        let of = self.spec(spec.src, spec.dst);
        let mut spec = Spec { ports: (of.ports.0, spec.ports.1), protocol: spec.protocol, ..of };
        if spec.protocol == 0 {
            spec.protocol = *self.rng.pick(&[TCP, UDP, SCTP]);
        }
        match self.rng.below(100) {
            // A pod straight, a port nobody has, echo to the node.
            0..=9 => (spec.dst, spec.ports.1) = (self.rng.pick(&PODS).of(ipv6), 8080),
            10..=12 => spec.ports.1 = 31_111,
            13..=14 => {
                spec.protocol = if ipv6 { ICMP6 } else { ICMP };
                spec.ports = (if ipv6 { 128 } else { 8 }, 0);
            }
            15 => spec.protocol = *self.rng.pick(&[47, 50, 99]),
            16..=17 => spec.ports.1 = 33_000,
            _ => {}
        }
        spec
    }

    fn interface(&mut self, hook: Hook, world: &World, packet: &[u8]) -> u32 {
        let ends = packets::addresses(packet);
        match hook {
            FROM_POD => {
                let own = PODS.iter().position(|pod| ends.is_some_and(|(src, _)| pod.is(src)));
                world.devices.pods[own.unwrap_or(0)]
            }
            // Answers of backends come in where these are.
            _ if ends.is_some_and(|(src, _)| matches!(src, IpAddr::V4(ip) if ip.octets()[..2] == [10, 8])) => {
                world.devices.back
            }
            _ if ends.is_some_and(|(src, _)| matches!(src, IpAddr::V6(ip) if ip.segments()[0] == 0xfd08)) => {
                world.devices.back
            }
            _ => world.devices.front,
        }
    }

    fn remembered(&mut self, fits: impl Fn(&Run) -> bool) -> Option<&Run> {
        self.rng.find(&self.memory, fits)
    }
}

/// It went out by the stack, past the hook of the device.
fn left_by_stack(run: &Run) -> bool {
    run.hook == TO_NET && run.end == End::Passed
}
