//! Bounds, and what one node is told about load balancing.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::net::IpAddr;

use crate::maglev;

/// How backends are chosen for traffic from outside (`--bpf-lb-algorithm`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Algorithm {
    /// Any of them.
    #[default]
    Random,
    /// By a table that is the same on every node.
    Maglev {
        /// Its size (`--bpf-lb-maglev-table-size`).
        size: maglev::TableSize,
        /// What all nodes share (`--bpf-lb-maglev-hash-seed`).
        seed: maglev::Seed,
    },
}

/// How traffic from outside is forwarded (`--bpf-lb-mode`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ForwardingMode {
    /// Both ways through this node.
    #[default]
    Snat,
    /// Backends answer clients.
    Dsr,
    /// Dsr for TCP, Snat for the rest.
    Hybrid,
}

/// What the node itself adds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Its name: backends on it are local.
    pub name: Box<str>,
    /// Its zone; empty: none.
    pub zone: Box<str>,
    /// Its addresses with node ports (`--nodeport-addresses`).
    pub addresses: Vec<IpAddr>,
    /// First and last node port (`--node-port-range`).
    pub ports: (u16, u16),
    /// Whether services may have IPv4 frontends.
    pub ipv4: bool,
    /// Whether services may have IPv6 frontends.
    pub ipv6: bool,
}

impl Default for Node {
    fn default() -> Self {
        Self {
            name: "".into(),
            zone: "".into(),
            addresses: Vec::new(),
            ports: (30_000, 32_767),
            ipv4: true,
            ipv6: true,
        }
    }
}

/// Everything a node's load balancer is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The node.
    pub node: Node,
    /// How backends are chosen.
    pub algorithm: Algorithm,
    /// How traffic is forwarded unless a service says otherwise.
    pub forwarding: ForwardingMode,
    /// Whether services may say otherwise (`--bpf-lb-mode-annotation`).
    pub forwarding_by_service: bool,
    /// Whether more than what a NodePort service needs is done (`--kube-proxy-replacement`, `--enable-node-port`).
    pub node_ports: bool,
    /// Whether external IPs are frontends (`--enable-external-ips`).
    pub external_ips: bool,
    /// Whether pods' host ports are frontends (`--enable-host-port`).
    pub host_ports: bool,
    /// Whether ClusterIPs may be reached from outside (`--bpf-lb-external-clusterip`).
    pub external_cluster_ip: bool,
    /// Whether clients keep their backends (`--enable-session-affinity`).
    pub session_affinity: bool,
    /// Whether ranges of sources are looked at (`--enable-svc-source-range-check`).
    pub source_ranges: bool,
    /// Whether hints of EndpointSlices are followed (`--enable-service-topology`).
    pub topology: bool,
    /// Whether health-check node ports are answered (`--enable-health-check-nodeport`).
    pub health_checks: bool,
    /// Whether policies of local redirection are followed (`--enable-local-redirect-policy`).
    pub local_redirects: bool,
    /// Services of one family at most.
    pub services_max: usize,
    /// Backends of one family at most.
    pub backends_max: usize,
    /// Backends of one service at most.
    pub backends_per_service_max: usize,
    /// Entries of one family's service map: services and slots together.
    pub slots_max: usize,
    /// Source ranges of one family at most.
    pub source_ranges_max: usize,
    /// Pairs of service and backend that remember clients, at most.
    pub affinity_max: usize,
    /// Kubernetes objects at most.
    pub objects_max: usize,
}

impl Default for Config {
    /// The reference's defaults, and the sizes of the maps.
    fn default() -> Self {
        Self {
            node: Node::default(),
            algorithm: Algorithm::default(),
            forwarding: ForwardingMode::default(),
            forwarding_by_service: false,
            node_ports: true,
            external_ips: true,
            host_ports: true,
            external_cluster_ip: false,
            session_affinity: true,
            source_ranges: true,
            topology: false,
            health_checks: true,
            local_redirects: true,
            services_max: 65_535,
            backends_max: 65_536,
            backends_per_service_max: 4_096,
            slots_max: 65_536,
            source_ranges_max: 65_536,
            affinity_max: 65_536,
            objects_max: 262_144,
        }
    }
}
