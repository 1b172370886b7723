//! What must hold of north-south traffic, worked out from the services and from what clients and backends have sent and
//! received, never from the maps: who may serve whom, who answers in whose name, what fits through which device.

use std::collections::{BTreeMap, BTreeSet};

use abi::config::{LB_DSR, LB_DSR_GENEVE, LB_DSR_IPIP, LB_DSR_XLATE_BACKEND, LB_HYBRID, LB_MODE_BY_SERVICE};
use abi::lb::{SERVICE_FORWARD_DSR, SERVICE_ROUTABLE};
use datapath::Action;
use loader::Program;

use super::{
    geneve::{self, Carried},
    view::{Tuple, View, inner, is_icmp, loose, quoted, told, view},
    world::{BACK_MTU, CLIENTS, NODE, OTHER_NODE, PODS, PODS_THERE, Service, World},
};
use crate::{
    arms::{Answer, hex},
    generate::{Hook, Stimulus},
    packets::{self, FIN, RST, SYN, TCP, UDP},
};

/// Whom a client's connection was given to.
#[derive(Clone, Copy, Debug)]
struct Given {
    backend: u32,
    /// Somebody has closed: a new SYN may go elsewhere.
    closing: bool,
}

/// By which address a client reached a pod's port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Straight,
    Frontend((std::net::IpAddr, u16)),
    /// Both: which one its answers follow depends on what lives longer.
    Unsure,
}

#[derive(Default)]
pub struct Checker {
    pub mode: u32,
    /// Client to frontend.
    given: BTreeMap<Tuple, Given>,
    /// Backend to allocated port: for which client and frontend it stands.
    stands: BTreeMap<Tuple, Tuple>,
    /// World to allocated port: for which pod's traffic it stands.
    masqueraded: BTreeMap<Tuple, Tuple>,
    /// Client to pod.
    local: BTreeMap<Tuple, Way>,
    /// Client to pod, where the pod has sent first, as far as is known here.
    opened: BTreeSet<Tuple>,
    /// What each end has sent itself, as it knows it.
    sent: BTreeSet<Tuple>,
    /// Clients' packets of which it is not known whom they were given to: damaged ones, and those the early hook passed on.
    unseen: BTreeSet<Tuple>,
    /// Those of which it is not known whether they have closed.
    doubtful: BTreeSet<Tuple>,
    /// Frontends of which other balancers have told what is carried.
    told: BTreeSet<(std::net::IpAddr, u16)>,
    /// How often each kind of statement was tried.
    pub tried: BTreeMap<&'static str, u64>,
    pub broken: Vec<String>,
}

impl Checker {
    /// Forgets what is known of a connection that was taken out of the maps.
    pub fn forget(&mut self, connection: Tuple) {
        for tuple in [connection, connection.back()] {
            self.given.remove(&tuple);
            if let Some(way) = self.local.get_mut(&tuple) {
                *way = Way::Unsure;
            }
        }
    }

    fn holds(&mut self, what: &'static str, holds: bool, stimulus: &Stimulus, answer: &Answer) {
        *self.tried.entry(what).or_default() += 1;
        if !holds && self.broken.len() < 20 {
            let (hook, packet) = (stimulus.hook, hex(&stimulus.packet));
            self.broken.push(format!(
                "{what}: {hook} at {}, {:?}\n  in     {packet}\n{answer:?}",
                stimulus.ifindex, stimulus.kind
            ));
        }
    }

    /// A damaged packet was run: it may have opened what nobody here knows of.
    pub fn see_damaged(&mut self, stimulus: &Stimulus) {
        self.see_damaged_packet(&stimulus.packet);
        if self.mode & LB_DSR_GENEVE != 0 {
            self.told.extend(geneve::read(&stimulus.packet).map(|carried| carried.frontend));
            geneve::may_be_inside(&stimulus.packet).iter().for_each(|frame| self.see_damaged_packet(frame));
        }
    }

    fn see_damaged_packet(&mut self, packet: &[u8]) {
        let Some(sent) = loose(packet) else { return };
        self.sent.insert(sent);
        self.sent.extend(told(packet).map(|frontend| Tuple { dst: frontend, ..sent }));
        self.unseen.insert(sent);
        self.doubtful.insert(sent);
        self.opened.insert(sent.back());
        self.given.remove(&sent);
        // A backend may have closed by it.
        self.doubtful.extend(self.stands.get(&sent).copied());
        // It may have told a pod of another frontend.
        for (_, way) in self.local.iter_mut().filter(|(known, _)| known.src == sent.src) {
            *way = Way::Unsure;
        }
    }

    /// A whole packet was run.
    pub fn see(&mut self, world: &World, stimulus: &Stimulus, answer: &Answer) {
        let out = (!answer.is_drop()).then_some(answer.packet.as_slice());
        let went = [Action::Redirect, Action::RedirectNeighbour].iter().any(|a| *a as u32 == answer.action);
        if let Some(packet) = out {
            let mut holds = packets::checksums_hold(packet);
            if let Some(within) = inner(packet).filter(|_| went) {
                holds &= packets::checksums_hold(&within);
            }
            self.holds("checksums are right", holds, stimulus, answer);
        }
        if went && stimulus.hook != Hook::Tc(Program::ToNetdev) {
            self.fits(world, stimulus, answer);
        }
        let inside = geneve::read(&stimulus.packet).filter(|_| self.mode & LB_DSR_GENEVE != 0);
        let sent = view(inside.as_ref().map_or(&stimulus.packet, |carried| &carried.frame));
        self.sent.extend(sent.map(|sent| sent.tuple));
        match stimulus.hook {
            Hook::Tc(Program::FromContainer) => self.check_from_pod(&sent, stimulus, answer, went),
            Hook::Tc(Program::ToNetdev) => self.out(world, &sent, stimulus, answer),
            _ => match &inside {
                Some(carried) => self.check_carried(carried, &sent, stimulus, answer),
                None => self.check_from_outside(world, &sent, stimulus, answer, went),
            },
        }
        if let Some(sent) = sent.filter(|sent| sent.tcp_flags & (FIN | RST) != 0) {
            // What was reset ends within seconds, and whoever sends then opens anew.
            let back = sent.tuple.back();
            for (_, way) in self.local.iter_mut().filter(|(known, _)| known.src == sent.tuple.src || **known == back) {
                *way = Way::Unsure;
            }
            self.opened.insert(back);
        }
        self.errors(stimulus, answer, went);
    }

    fn fits(&mut self, world: &World, stimulus: &Stimulus, answer: &Answer) {
        // At the early hook only "back" or not is known.
        let back = match stimulus.hook {
            Hook::Xdp => (answer.argument == 1) == (stimulus.ifindex == world.devices.back),
            Hook::Tc(_) => answer.argument == world.devices.back,
        };
        let mtu = if back { BACK_MTU as usize } else { 1500 };
        self.holds("it fits through the device", answer.packet.len() - 14 <= mtu, stimulus, answer);
    }

    fn check_from_outside(
        &mut self,
        world: &World,
        sent: &Option<View>,
        stimulus: &Stimulus,
        answer: &Answer,
        went: bool,
    ) {
        if sent.is_none_or(|sent| sent.fragment)
            && let Some((from, _)) = packets::addresses(&stimulus.packet)
        {
            // A fragment tells a pod of a frontend too, and a later one does not say here whose it is.
            for (_, way) in self.local.iter_mut().filter(|(known, _)| known.src.0 == from) {
                *way = Way::Unsure;
            }
        }
        let Some(sent) = sent else { return };
        if let Some(client) = self.stands.get(&sent.tuple).copied() {
            return self.answered(&client, sent, stimulus, answer, went);
        }
        if let Some(pod) = self.masqueraded.get(&sent.tuple).copied() {
            if answer.action == Action::RedirectPeer as u32 {
                let got = view(&answer.packet).map(|v| v.tuple);
                self.holds("an answer reaches the masqueraded pod", got == Some(pod.back()), stimulus, answer);
            }
            return;
        }
        let Some(service) = world.service(sent.tuple.dst.0, sent.tuple.dst.1, sent.tuple.protocol) else {
            if answer.action == Action::RedirectPeer as u32 && !sent.fragment {
                self.delivered(sent, told(&stimulus.packet).filter(|_| self.reads_options(sent)));
            }
            return;
        };
        let service = service.clone();
        self.check_to_service(world, &service, sent, stimulus, answer, went);
    }

    fn reads_options(&self, sent: &View) -> bool {
        self.mode & (LB_DSR | LB_HYBRID | LB_MODE_BY_SERVICE) != 0
            && self.mode & (LB_DSR_IPIP | LB_DSR_GENEVE) == 0
            && (sent.tuple.protocol != TCP || sent.is_syn())
    }

    /// Another node, or somebody else, carried a packet here.
    fn check_carried(&mut self, carried: &Carried, sent: &Option<View>, stimulus: &Stimulus, answer: &Answer) {
        let as_it_came = answer.packet == stimulus.packet;
        if stimulus.hook == Hook::Xdp {
            let passed = answer.action == Action::Pass as u32 && as_it_came;
            self.holds("the early hook leaves alone what is carried", passed, stimulus, answer);
            return;
        }
        self.told.insert(carried.frontend);
        let Some(sent) = sent else { return };
        let (from, to, by_node) = (sent.tuple.src.0, sent.tuple.dst.0, OTHER_NODE.is(carried.ends.0));
        let meant = (NODE.is(carried.ends.1) || carried.ends.1 == to) && (by_node || !NODE.is(to));
        if !meant {
            self.holds("who is not meant takes nothing apart", view(&answer.packet) != Some(*sent), stimulus, answer);
            return;
        }
        let own = geneve::is_any(&PODS, from) || NODE.is(from);
        let of_cluster = own || geneve::is_any(&PODS_THERE, from) || OTHER_NODE.is(from);
        if own || (of_cluster && !by_node) {
            self.holds("nobody takes the name of a pod or node", answer.is_drop(), stimulus, answer);
            return;
        }
        let to_host = answer.action == Action::Pass as u32 && NODE.is(to) && !as_it_came;
        if answer.action != Action::RedirectPeer as u32 && !to_host {
            // It may be known nevertheless, as one that has no hop left.
            self.local.insert(sent.tuple, Way::Unsure);
            return;
        }
        let spent = u8::from(!to_host);
        let right = view(&answer.packet).is_some_and(|got| got.tuple == sent.tuple && got.ttl + spent == sent.ttl);
        self.holds("what was carried reaches its backend", right, stimulus, answer);
        if sent.fragment {
            self.local.insert(sent.tuple, Way::Unsure);
        } else {
            self.delivered(sent, Some(carried.frontend));
        }
    }

    /// How a client reaches a pod by a frontend: what the pod itself has opened does not come by one.
    fn way_of(&self, to_pod: &Tuple, frontend: (std::net::IpAddr, u16)) -> Way {
        if self.opened.contains(to_pod) { Way::Unsure } else { Way::Frontend(frontend) }
    }

    /// A client reached a pod: straight, or by a frontend.
    fn delivered(&mut self, sent: &View, by: Option<(std::net::IpAddr, u16)>) {
        match by {
            Some(frontend) => {
                // To another balancer.
                self.sent.insert(Tuple { dst: frontend, ..sent.tuple });
                let way = self.way_of(&sent.tuple, frontend);
                self.local.insert(sent.tuple, way);
            }
            None => {
                let way = self.local.entry(sent.tuple).or_insert(Way::Straight);
                if *way != Way::Straight {
                    *way = Way::Unsure;
                }
            }
        }
    }

    fn check_to_service(
        &mut self,
        world: &World,
        service: &Service,
        sent: &View,
        stimulus: &Stimulus,
        answer: &Answer,
        went: bool,
    ) {
        let delivered = answer.action == Action::RedirectPeer as u32;
        let open = service.has(SERVICE_ROUTABLE) && world.admits(service, sent.tuple.src.0);
        if !open {
            self.holds("who may not in stays out", !went && !delivered, stimulus, answer);
            return;
        }
        if sent.tcp_flags & (FIN | RST) != 0
            && let Some(given) = self.given.get_mut(&sent.tuple)
        {
            given.closing = true;
        }
        let complained = went && is_icmp(&answer.packet);
        let to_host = answer.action == Action::Pass as u32
            && view(&answer.packet).is_some_and(|seen| seen.tuple != sent.tuple && NODE.is(seen.tuple.dst.0));
        if complained || !(went || delivered || to_host) {
            self.unseen.insert(sent.tuple);
            // It may have been given to another nevertheless, if whoever had it does not serve.
            let serves = |given: &Given| {
                let old = world.backends[&given.backend];
                old.there && (old.is_active() || !sent.is_syn())
            };
            if self.given.get(&sent.tuple).is_some_and(|given| !serves(given)) {
                self.given.remove(&sent.tuple);
            }
            if sent.tcp_flags & (FIN | RST) != 0 {
                self.doubtful.insert(sent.tuple);
            }
            return;
        }
        let Some((id, seen)) = self.backend_of(world, service, sent, stimulus, answer) else {
            self.holds("what goes to a frontend reaches a backend of it", false, stimulus, answer);
            return;
        };
        if sent.fragment {
            // Its later parts show no ports here, and open connections all the same.
            self.given.remove(&sent.tuple);
            self.doubtful.insert(sent.tuple);
            self.unseen.insert(sent.tuple);
            let to_pod = Tuple { src: sent.tuple.src, dst: seen.dst, protocol: sent.tuple.protocol };
            self.local.insert(to_pod, Way::Unsure);
            return;
        }
        let backend = world.backends[&id];
        let before = self.given.get(&sent.tuple).copied();
        let stays = before.filter(|given| !(given.closing && sent.is_syn()));
        let may_keep = stays.is_some_and(|given| given.backend == id) && backend.there && !sent.is_syn();
        let may_keep = may_keep || (self.unseen.contains(&sent.tuple) && backend.there && !sent.is_syn());
        self.holds("the backend lives", backend.is_active() || may_keep, stimulus, answer);
        if let Some(given) = stays.filter(|given| !given.closing && !self.doubtful.contains(&sent.tuple)) {
            let old = world.backends[&given.backend];
            let serves = old.there && (old.is_active() || !sent.is_syn());
            self.holds("no connection moves while its backend lives", !serves || given.backend == id, stimulus, answer);
        }
        let closing = self.doubtful.contains(&sent.tuple)
            || sent.tcp_flags & (FIN | RST) != 0
            || stays.is_some_and(|given| given.closing && given.backend == id);
        self.given.insert(sent.tuple, Given { backend: id, closing });
        if delivered || to_host {
            let to_pod = Tuple { src: sent.tuple.src, dst: seen.dst, protocol: sent.tuple.protocol };
            self.holds("a pod sees the client", seen.src == sent.tuple.src, stimulus, answer);
            let way = self.way_of(&to_pod, sent.tuple.dst);
            self.local.insert(to_pod, way);
        } else {
            self.forwarded(service, sent, &seen, stimulus, answer);
        }
    }

    /// Which backend a packet went to, and its ends there.
    fn backend_of(
        &self,
        world: &World,
        service: &Service,
        sent: &View,
        stimulus: &Stimulus,
        answer: &Answer,
    ) -> Option<(u32, Tuple)> {
        if self.is_direct(service, sent) && self.mode & LB_DSR_IPIP != 0 && inner(&answer.packet).is_some() {
            let (_, to) = packets::addresses(&answer.packet)?;
            let found = service.backends.iter().find(|id| world.backends[id].at.is(to));
            let within = inner(&answer.packet)?;
            let id = *found?;
            let mut tuple = sent.tuple;
            if self.mode & LB_DSR_XLATE_BACKEND != 0 {
                tuple.dst.1 = world.backends[&id].port;
                return view(&within).filter(|seen| seen.tuple == tuple && seen.ttl == sent.ttl).map(|_| (id, tuple));
            }
            // Inside, nothing is changed.
            let same = within.get(14..)? == stimulus.packet.get(14..)?;
            return same.then_some((id, tuple));
        }
        let carried = geneve::read(&answer.packet).filter(|_| self.is_direct(service, sent));
        let seen = view(carried.as_ref().map_or(&answer.packet, |carried| &carried.frame))?.tuple;
        let (id, _) = world.backend_at(service, seen.dst.0, seen.dst.1)?;
        Some((id, seen))
    }

    fn is_direct(&self, service: &Service, sent: &View) -> bool {
        self.mode & LB_DSR != 0
            || (self.mode & LB_HYBRID != 0 && sent.tuple.protocol == TCP)
            || (self.mode & LB_MODE_BY_SERVICE != 0 && service.flags2 & SERVICE_FORWARD_DSR != 0)
    }

    /// A packet went to a backend of another node.
    fn forwarded(&mut self, service: &Service, sent: &View, seen: &Tuple, stimulus: &Stimulus, answer: &Answer) {
        if !self.is_direct(service, sent) {
            let ours = NODE.is(seen.src.0) && seen.src.1 >= 32_768;
            self.holds("SNAT hides the client behind an allocated port", ours, stimulus, answer);
            let free = sent.tuple.protocol != UDP || !(40_000..40_004).contains(&seen.src.1);
            self.holds("ports of the host's sockets are left to it", free, stimulus, answer);
            let mine = *self.stands.entry(seen.back()).or_insert(sent.tuple) == sent.tuple;
            self.holds("no two clients share a port", mine, stimulus, answer);
            return;
        }
        if self.mode & LB_DSR_IPIP != 0 {
            return;
        }
        if self.mode & LB_DSR_GENEVE != 0 {
            return self.carried_away(sent, seen, stimulus, answer);
        }
        self.holds("DSR leaves the client as source", seen.src == sent.tuple.src, stimulus, answer);
        if sent.tuple.protocol != TCP || sent.is_syn() {
            self.holds("DSR tells of the frontend", told(&answer.packet) == Some(sent.tuple.dst), stimulus, answer);
        }
    }

    /// A packet went to a backend of another node inside another.
    fn carried_away(&mut self, sent: &View, seen: &Tuple, stimulus: &Stimulus, answer: &Answer) {
        let Some(carried) = geneve::read(&answer.packet) else {
            return self.holds("DSR by Geneve carries packets", false, stimulus, answer);
        };
        self.holds("DSR leaves the client as source", seen.src == sent.tuple.src, stimulus, answer);
        self.holds("DSR tells of the frontend", carried.frontend == sent.tuple.dst, stimulus, answer);
        self.holds("the outer headers are right", geneve::is_well_made(&answer.packet), stimulus, answer);
        let there = geneve::is_any(&PODS_THERE, seen.dst.0);
        let to = if there { OTHER_NODE.of(false) } else { seen.dst.0 };
        let right = carried.ends == (NODE.of(to.is_ipv6()), to);
        self.holds("it goes to its backend's node", right, stimulus, answer);
        let ttl = view(&carried.frame).map(|v| v.ttl);
        self.holds("one hop is spent", ttl == Some(sent.ttl.wrapping_sub(1)), stimulus, answer);
        let rest = |frame: &[u8]| {
            let layout = packets::layout(frame)?;
            let data = layout.l4 + if layout.protocol == TCP { 20 } else { 8 };
            Some([frame.get(..14)?, frame.get(data..)?].concat())
        };
        let same = rest(&carried.frame).is_some() && rest(&carried.frame) == rest(&stimulus.packet);
        self.holds("the frame is the client's", same, stimulus, answer);
    }

    /// A backend of another node answered to an allocated port.
    fn answered(&mut self, client: &Tuple, sent: &View, stimulus: &Stimulus, answer: &Answer, went: bool) {
        if sent.tcp_flags & (FIN | RST) != 0
            && let Some(given) = self.given.get_mut(client)
        {
            given.closing = true;
        }
        if went && !is_icmp(&answer.packet) {
            let got = view(&answer.packet).map(|v| v.tuple);
            self.holds("an answer comes from the frontend", got == Some(client.back()), stimulus, answer);
            let ttl = view(&answer.packet).map(|v| v.ttl);
            self.holds("one hop is spent", ttl == Some(sent.ttl.wrapping_sub(1)), stimulus, answer);
        }
    }

    fn check_from_pod(&mut self, sent: &Option<View>, stimulus: &Stimulus, answer: &Answer, went: bool) {
        let Some(sent) = sent else { return };
        let way = self.local.get(&sent.tuple.back()).copied();
        if !matches!(way, Some(Way::Frontend(_))) {
            self.opened.insert(sent.tuple.back());
        }
        let Some(way) = way else { return };
        let got = view(&answer.packet).map(|v| v.tuple);
        match way {
            Way::Frontend(frontend) if went && !is_icmp(&answer.packet) => {
                let should = Tuple { src: frontend, ..sent.tuple };
                self.holds("a pod answers from the frontend", got == Some(should), stimulus, answer);
            }
            Way::Straight if answer.action == Action::Pass as u32 => {
                self.holds("a pod asked straight answers straight", got == Some(sent.tuple), stimulus, answer);
            }
            _ => {}
        }
    }

    /// A packet left the node by the stack.
    fn out(&mut self, world: &World, sent: &Option<View>, stimulus: &Stimulus, answer: &Answer) {
        let (Some(sent), Some(got)) = (sent, view(&answer.packet)) else { return };
        if answer.is_drop() || sent.fragment {
            return;
        }
        if NODE.is(sent.tuple.src.0) && got.tuple.src.1 < 32_768 {
            // What no stack sends is left as it is.
            let usual = stimulus.mark == 0 && sent.tcp_flags & (SYN | FIN) != SYN | FIN;
            if let (true, Some(Way::Frontend(frontend))) = (usual, self.local.get(&sent.tuple.back()).copied()) {
                let should = Tuple { src: frontend, ..sent.tuple };
                self.holds("the host answers from the frontend", got.tuple == should, stimulus, answer);
            } else if got.tuple != sent.tuple {
                let (ip, port) = got.tuple.src;
                let is_frontend =
                    world.service(ip, port, got.tuple.protocol).is_some() || self.told.contains(&(ip, port));
                self.holds("the host answers from a frontend", is_frontend, stimulus, answer);
            }
            return;
        }
        if got.tuple == sent.tuple {
            return;
        }
        let from_pod = PODS.iter().any(|pod| pod.is(sent.tuple.src.0));
        let ours = NODE.is(got.tuple.src.0) && got.tuple.src.1 >= 32_768 && got.tuple.dst == sent.tuple.dst;
        self.holds(
            "masquerading changes the source of pods alone",
            (from_pod || NODE.is(sent.tuple.src.0)) && ours,
            stimulus,
            answer,
        );
        let mine = *self.masqueraded.entry(got.tuple.back()).or_insert(sent.tuple) == sent.tuple;
        let free = !self.stands.contains_key(&got.tuple.back());
        self.holds("no two pods share a port to one peer", mine && free, stimulus, answer);
    }

    /// An error that reached an end is about something that end has sent.
    fn errors(&mut self, stimulus: &Stimulus, answer: &Answer, went: bool) {
        let (Some(about), Some((_, to))) = (quoted(&answer.packet), packets::addresses(&answer.packet)) else { return };
        let Some(before) = quoted(&stimulus.packet) else { return };
        if inner(&answer.packet).is_some() {
            return;
        }
        // What it was about, as it came, must be known here: damaged packets and fragments make connections too.
        let known_here = self.masqueraded.contains_key(&before.back())
            || self.stands.contains_key(&before.back())
            || self.given.contains_key(&before.back())
            || matches!(self.local.get(&before), Some(Way::Frontend(_)));
        let changed = known_here
            && (about != before || packets::addresses(&stimulus.packet) != packets::addresses(&answer.packet));
        let delivered = answer.action == Action::RedirectPeer as u32 || went;
        if changed && delivered && (CLIENTS.iter().any(|c| c.is(to)) || PODS.iter().any(|p| p.is(to))) {
            // A connection may have gone on to another pod, which then hears of what the one before has sent.
            let to_pod = PODS.iter().any(|pod| pod.is(to));
            let known = about.src.0 == to && (to_pod || self.sent.contains(&about));
            self.holds("an error is about what its receiver has sent", known, stimulus, answer);
        }
    }
}
