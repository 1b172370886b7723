//! The healed phase: no more faults, and after a bounded time everything must be as the objects say.

use std::net::IpAddr;

use datapath_sim::Fate;

use super::probes::short;
use super::{Cluster, Event, MILLI};
use crate::check::{Violation, protocol_name};
use crate::frame::{Seen, flag};
use crate::node::UPLINK;
use crate::objects::{Direction, Peer};
use crate::plan;
use crate::store::Weather;

/// Virtual time within which everything must be right again.
const CONVERGE_WITHIN_NS: u64 = 180_000 * MILLI;

impl Cluster {
    pub(super) fn heal(&mut self) -> Result<(), Violation> {
        self.store.weather = Weather::FAIR;
        self.queue.retain(|_, event| !matches!(event, Event::Act | Event::Probe));
        let until = self.now_ns + CONVERGE_WITHIN_NS;
        while self.queue.first_key_value().is_some_and(|((at, _), _)| *at <= until) {
            self.next()?;
            self.settle();
            if (0..self.nodes.len()).all(|node| self.is_settled(node).is_ok()) {
                break;
            }
        }
        for node in 0..self.nodes.len() {
            self.is_settled(node).map_err(|why| Violation::NotSettled(format!("node {node}: {why}")))?;
        }
        self.flows.clear();
        for node in 0..self.nodes.len() {
            for ipv6 in [false, true] {
                self.check_pods(node, ipv6)?;
                self.check_world(node, ipv6)?;
            }
            self.check_services(node)?;
        }
        Ok(())
    }

    /// Every pair of pods of a node, on every port.
    fn check_pods(&mut self, node: usize, ipv6: bool) -> Result<(), Violation> {
        let pods = self.pods_of(node);
        for client in &pods {
            for server in pods.iter().filter(|server| *server != client) {
                for (protocol, port) in [6, 17].into_iter().flat_map(|p| plan::PORTS.map(|port| (p, port))) {
                    self.check_pair(client, server, ipv6, protocol, port)?;
                }
            }
        }
        Ok(())
    }

    fn check_pair(&mut self, client: &str, server: &str, ipv6: bool, protocol: u8, port: u16) -> Result<(), Violation> {
        let (Some(src), Some(dst)) = (self.address(client, ipv6), self.address(server, ipv6)) else {
            return Err(Violation::NotSettled(format!("{client} or {server} has no address")));
        };
        let name = protocol_name(protocol);
        let (from, to) = (&self.objects.pods[client].labels, &self.objects.pods[server].labels);
        let allowed = self.objects.allows(from, Direction::Egress, Peer::Pod(to), name, port)
            && self.objects.allows(to, Direction::Ingress, Peer::Pod(from), name, port);
        let flags = if protocol == 6 { flag::SYN } else { 0 };
        let what = Seen { src: (src, self.fresh_port()), dst: (dst, port), protocol, flags };
        let delivered = self.send(client, what)?;
        if delivered == allowed {
            return Ok(());
        }
        let fate = if delivered { "delivered" } else { "not delivered" };
        Err(Violation::NotConverged { what, from: client.into(), to: server.into(), allowed, fate: fate.into() })
    }

    /// Between pods and addresses outside of the cluster, both ways.
    fn check_world(&mut self, node: usize, ipv6: bool) -> Result<(), Violation> {
        for pod in self.pods_of(node) {
            let Some(own) = self.address(&pod, ipv6) else { continue };
            for port in plan::PORTS {
                let there = plan::world(&mut self.rng, ipv6);
                let labels = self.objects.pods[&pod].labels.clone();
                let allows = |direction| self.objects.allows(&labels, direction, Peer::Address(there), "TCP", port);
                let (out, inwards) = (allows(Direction::Egress), allows(Direction::Ingress));
                let sport = self.fresh_port();
                let what = Seen { src: (own, sport), dst: (there, port), protocol: 6, flags: flag::SYN };
                let sent = self.send(&pod, what)?;
                self.must(what, &pod, "the world", out, sent)?;
                let what = Seen { src: (there, sport), dst: (own, port), protocol: 6, flags: flag::SYN };
                let fate = self.nodes[node].host.from_network(self.now_ns, UPLINK, what.emit([2; 6], [4; 6]));
                self.trace.record(format_args!("{what:?} {}", short(&fate)));
                self.must(what, "the world", &pod, inwards, matches!(fate, Fate::Pod(..)))?;
            }
        }
        Ok(())
    }

    fn must(&self, what: Seen, from: &str, to: &str, allowed: bool, was: bool) -> Result<(), Violation> {
        if allowed == was {
            return Ok(());
        }
        let fate = if was { "let through" } else { "not let through" }.to_owned();
        Err(Violation::NotConverged { what, from: from.to_owned(), to: to.to_owned(), allowed, fate })
    }

    /// Each service from each pod: as allowed as its backends are, and refused without any.
    fn check_services(&mut self, node: usize) -> Result<(), Violation> {
        let services: Vec<_> = self.objects.services.values().cloned().collect();
        for service in services {
            let ipv6 = service.frontend.0.is_ipv6();
            for client in self.pods_of(node) {
                let Some(own) = self.address(&client, ipv6) else { continue };
                let protocol = if service.protocol == "TCP" { 6 } else { 17 };
                let flags = if protocol == 6 { flag::SYN } else { 0 };
                let what = Seen { src: (own, self.fresh_port()), dst: service.frontend, protocol, flags };
                let reachable = |backend: &(IpAddr, u16)| self.reachable(&client, *backend, service.protocol);
                let may: Vec<bool> = service.serving().iter().map(reachable).collect();
                let sent = self.send(&client, what)?;
                if !sent && !may.is_empty() && may.iter().all(|may| *may) || sent && !may.contains(&true) {
                    return self.must(what, &client, "a service", !sent, sent);
                }
            }
        }
        Ok(())
    }

    /// Whether a pod may reach a backend, as far as its own node decides.
    fn reachable(&self, client: &str, backend: (IpAddr, u16), protocol: &str) -> bool {
        let from = &self.objects.pods[client];
        let owner = self.objects.owner(backend.0).filter(|(_, pod)| pod.node == from.node);
        match owner {
            Some((name, _)) if name == client => true,
            Some((_, to)) => {
                self.objects.allows(&from.labels, Direction::Egress, Peer::Pod(&to.labels), protocol, backend.1)
                    && self.objects.allows(&to.labels, Direction::Ingress, Peer::Pod(&from.labels), protocol, backend.1)
            }
            // A pod of this node that is gone: nobody is there, and who is not there is not reached.
            None if plan::node_of(backend.0, self.nodes.len()) == Some(from.node) => false,
            None => {
                let elsewhere = self.objects.owner(backend.0).map(|(_, pod)| Peer::Pod(&pod.labels));
                let peer = elsewhere.unwrap_or(Peer::Address(backend.0));
                self.objects.allows(&from.labels, Direction::Egress, peer, protocol, backend.1)
            }
        }
    }
}
