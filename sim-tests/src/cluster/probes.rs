//! Packets that try what they can, and what their fate says about the node.

use std::net::IpAddr;

use datapath_sim::Fate;

use super::Cluster;
use crate::check::{Other, Violation, protocol_name};
use crate::frame::{Seen, flag};
use crate::node::{UPLINK, node_ip, node_ip6};
use crate::objects::{Direction, Peer};
use crate::plan;

/// A connection that was let through once.
#[derive(Debug, Clone)]
pub(super) struct Flow {
    client: String,
    server: String,
    /// As the client sends it.
    asked: Seen,
    /// Where it went.
    reached: (IpAddr, u16),
}

impl Flow {
    pub(super) fn involves(&self, pod: &str) -> bool {
        self.client == pod || self.server == pod
    }
}

impl Cluster {
    /// Sends one packet from somewhere to somewhere.
    pub(super) fn probe_somewhere(&mut self) -> Result<(), Violation> {
        let node = self.rng.below(self.nodes.len() as u64) as usize;
        self.probe_node(node)
    }

    /// Tries what a half-made change might let through.
    pub(super) fn probe_after_write(&mut self, node: usize) -> Result<(), Violation> {
        for _ in 0..2 {
            self.probe_node(node)?;
        }
        Ok(())
    }

    fn probe_node(&mut self, node: usize) -> Result<(), Violation> {
        if !self.flows.is_empty() && self.rng.chance(1, 3) {
            let flow = self.rng.below(self.flows.len() as u64) as usize;
            return self.follow_up(flow);
        }
        let pods: Vec<String> = self.pods_of(node);
        let Some(client) = self.rng.pick(&pods).cloned() else { return Ok(()) };
        let ipv6 = self.rng.chance(1, 2);
        let port = plan::PORTS[self.rng.below(4) as usize];
        let Some(src) = self.address(&client, ipv6) else { return Ok(()) };
        let protocol = if self.rng.chance(1, 2) { 6 } else { 17 };
        let flags = if protocol == 6 { flag::SYN } else { 0 };
        let sport = self.fresh_port();
        let dst = match self.rng.below(10) {
            0..6 => self.rng.pick(&pods).and_then(|server| self.address(server, ipv6)).map(|addr| (addr, port)),
            6..8 => {
                let services: Vec<_> = self.objects.services.values().map(|service| service.frontend).collect();
                self.rng.pick(&services).copied().filter(|(addr, _)| addr.is_ipv6() == ipv6)
            }
            8 => Some((plan::world(&mut self.rng, ipv6), port)),
            _ => return self.probe_inwards(node, &client, ipv6, protocol, port),
        };
        let Some(dst) = dst.filter(|dst| dst.0 != src) else { return Ok(()) };
        self.send(&client, Seen { src: (src, sport), dst, protocol, flags }).map(drop)
    }

    /// From the host or the world towards a pod.
    fn probe_inwards(
        &mut self,
        node: usize,
        server: &str,
        ipv6: bool,
        protocol: u8,
        port: u16,
    ) -> Result<(), Violation> {
        let Some(dst) = self.address(server, ipv6) else { return Ok(()) };
        let host = self.rng.chance(1, 2);
        let own = if ipv6 { node_ip6(node) } else { node_ip(node) };
        let src = if host { own } else { plan::world(&mut self.rng, ipv6) };
        let flags = if protocol == 6 { flag::SYN } else { 0 };
        let what = Seen { src: (src, self.fresh_port()), dst: (dst, port), protocol, flags };
        let packet = what.emit([2; 6], [4; 6]);
        let now = self.now_ns;
        let fate = if host {
            self.nodes[node].host.from_host(now, packet)
        } else {
            self.nodes[node].host.from_network(now, UPLINK, packet)
        };
        self.sent(&what, &fate);
        let Fate::Pod(ifindex, got) = fate else { return Ok(()) };
        let peer = if host { Other::Host } else { Other::Address(src) };
        let to = self.pod_behind(node, ifindex);
        if to != server || Seen::read(&got).map_err(|how| Violation::Broken { what, how })? != what {
            return Err(Violation::Misdelivered { what, to });
        }
        self.check_side(node, server, Direction::Ingress, &peer, &what, port)
    }

    /// Sends a packet from a pod and judges its fate. `true`: it was delivered.
    pub(super) fn send(&mut self, client: &str, asked: Seen) -> Result<bool, Violation> {
        let Some(pod) = self.objects.pods.get(client) else { return Ok(false) };
        let (node, ifindex) = (pod.node, pod.ifindex);
        // A runtime starts nothing in a pod before the plugin has answered, which is after programs guard its link.
        if !self.nodes[node].host.is_attached(ifindex) {
            return Ok(false);
        }
        let packet = asked.emit([2; 6], [4; 6]);
        let fate = self.nodes[node].host.from_pod(self.now_ns, ifindex, packet);
        self.sent(&asked, &fate);
        let (got, server) = match &fate {
            Fate::Pod(to, got) if *to == ifindex && Seen::is_refusal(got) => return Ok(false),
            Fate::Pod(to, got) => (got, Some(self.pod_behind(node, *to))),
            Fate::Network(_, got) | Fate::Host(got) => (got, None),
            Fate::Dropped(_) | Fate::Lost(_) => return Ok(false),
        };
        let came = Seen::read(got).map_err(|how| Violation::Broken { what: asked, how })?;
        self.check_address(node, client, &asked, &came, server.as_deref())?;
        let peer = match &server {
            Some(server) => Other::Pod(server.clone()),
            None if [node_ip(node), node_ip6(node)].contains(&came.dst.0) => Other::Host,
            None => Other::Address(came.dst.0),
        };
        let itself = server.as_deref() == Some(client);
        if !itself {
            self.check_side(node, client, Direction::Egress, &peer, &asked, came.dst.1)?;
        }
        if let Some(server) = server {
            if !itself {
                let other = Other::Pod(client.to_owned());
                self.check_side(node, &server, Direction::Ingress, &other, &asked, came.dst.1)?;
            }
            self.reply(client, &server, &asked, &came)?;
        }
        Ok(true)
    }

    /// A packet must reach whom it was for, or a backend of the service it was for.
    fn check_address(
        &self,
        node: usize,
        client: &str,
        asked: &Seen,
        came: &Seen,
        server: Option<&str>,
    ) -> Result<(), Violation> {
        let wrong = |to: &str| Err(Violation::Misdelivered { what: *asked, to: to.to_owned() });
        if let Some(server) = server
            && !self.objects.pods.get(server).is_some_and(|pod| pod.addrs.contains(&came.dst.0))
        {
            return wrong(server);
        }
        // A pod that reaches itself through a service sees the service's loopback address as its client.
        if came.src != asked.src && server != Some(client) {
            return wrong(&format!("{} as from {:?}", server.unwrap_or("the network"), came.src));
        }
        let window = &self.nodes[node].window;
        let name = protocol_name(asked.protocol);
        let direct = came.dst == asked.dst;
        let known = self.flows.iter().any(|flow| flow.asked.src == asked.src && flow.reached == came.dst);
        if direct || known || window.may_serve(asked.dst, name, came.dst) {
            return Ok(());
        }
        wrong(&format!("{:?}, which is no backend", came.dst))
    }

    /// The pod at `pod`'s side let this packet pass: some state of the objects must allow that.
    fn check_side(
        &self,
        node: usize,
        pod: &str,
        direction: Direction,
        peer: &Other,
        what: &Seen,
        port: u16,
    ) -> Result<(), Violation> {
        let window = &self.nodes[node].window;
        let peers = match peer {
            Other::Pod(name) => window.labels(name).into_iter().map(Peer::Pod).collect(),
            Other::Host => vec![Peer::Host],
            Other::Address(addr) => self.who_may_be(node, *addr),
        };
        if window.may_pass(pod, direction, &peers, protocol_name(what.protocol), port) {
            return Ok(());
        }
        Err(Violation::PassedForbidden { what: *what, pod: pod.to_owned(), direction, states: window.len() })
    }

    /// For whom a node may take an address that is not its own: a pod of another node under any of its labels, or
    /// somebody in the world while word of that pod may still be on its way.
    fn who_may_be(&self, node: usize, addr: IpAddr) -> Vec<Peer<'_>> {
        let Some(home) = plan::node_of(addr, self.nodes.len()).filter(|home| *home != node) else {
            return vec![Peer::Address(addr)];
        };
        // What others are is told by way of the store, to nodes that may be down: all their labels count since
        // everybody knew everything.
        let (labels, always) = self.window.owners(addr);
        let mut peers: Vec<_> = labels.into_iter().map(Peer::Pod).collect();
        let told = self.is_settled(node).is_ok() && self.is_settled(home).is_ok();
        if !(told && always) {
            peers.push(Peer::Address(addr));
        }
        peers
    }

    /// The server answers; the client must hear it from whom it asked, whatever policy says about new connections.
    fn reply(&mut self, client: &str, server: &str, asked: &Seen, came: &Seen) -> Result<(), Violation> {
        let pod = &self.objects.pods[server];
        let (node, ifindex) = (pod.node, pod.ifindex);
        let answer = came.answer();
        let fate = self.nodes[node].host.from_pod(self.now_ns, ifindex, answer.emit([2; 6], [4; 6]));
        self.sent(&answer, &fate);
        match &fate {
            Fate::Pod(to, got) if self.pod_behind(node, *to) == client => {
                let heard = Seen::read(got).map_err(|how| Violation::Broken { what: answer, how })?;
                if heard != asked.answer() {
                    return Err(Violation::WrongReply { asked: *asked, came: heard });
                }
            }
            other => return Err(Violation::NoReply { asked: *asked, fate: short(other) }),
        }
        if came.dst != asked.dst {
            self.outcome.through_services += 1;
        }
        if asked.flags == flag::SYN || asked.protocol == 17 {
            self.remember(Flow {
                client: client.to_owned(),
                server: server.to_owned(),
                asked: *asked,
                reached: came.dst,
            });
        }
        Ok(())
    }

    fn remember(&mut self, flow: Flow) {
        if self.flows.iter().any(|known| known.asked.src == flow.asked.src && known.asked.dst == flow.asked.dst) {
            return;
        }
        if self.flows.len() >= 24 {
            let out = self.rng.below(24) as usize;
            self.flows.swap_remove(out);
        }
        self.flows.push(flow);
    }

    /// One more packet of a connection that was let through before.
    fn follow_up(&mut self, index: usize) -> Result<(), Violation> {
        let flow = self.flows[index].clone();
        let flags = if flow.asked.protocol == 6 { flag::ACK } else { 0 };
        self.send(&flow.client, Seen { flags, ..flow.asked }).map(drop)
    }

    fn sent(&mut self, what: &Seen, fate: &Fate) {
        self.outcome.probes += 1;
        if matches!(fate, Fate::Pod(..) | Fate::Host(_) | Fate::Network(..)) {
            self.outcome.delivered += 1;
        }
        self.trace.record(format_args!("{} {what:?} {}", self.now_ns, short(fate)));
    }

    pub(super) fn pods_of(&self, node: usize) -> Vec<String> {
        self.objects.pods.iter().filter(|(_, pod)| pod.node == node).map(|(name, _)| name.clone()).collect()
    }

    pub(super) fn address(&self, pod: &str, ipv6: bool) -> Option<IpAddr> {
        self.objects.pods.get(pod)?.addrs.iter().find(|addr| addr.is_ipv6() == ipv6).copied()
    }

    /// The pod whose link this is, by the cluster's objects.
    fn pod_behind(&self, node: usize, ifindex: u32) -> String {
        let found = self.objects.pods.iter().find(|(_, pod)| pod.node == node && pod.ifindex == ifindex);
        found.map_or_else(|| format!("nobody (link {ifindex})"), |(name, _)| name.clone())
    }

    pub(super) fn fresh_port(&mut self) -> u16 {
        self.next_port = if self.next_port >= 60_000 { 20_000 } else { self.next_port + 1 };
        self.next_port
    }
}

/// A fate without its packet.
pub(super) fn short(fate: &Fate) -> String {
    match fate {
        Fate::Pod(ifindex, _) => format!("delivered to link {ifindex}"),
        Fate::Host(_) => "delivered to the host".into(),
        Fate::Network(..) => "sent to the network".into(),
        Fate::Dropped(code) => format!("dropped with reason {}", code.0),
        Fate::Lost(why) => format!("lost: {why:?}"),
    }
}
