//! Options of load balancing and masquerading.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

/// Load balancing.
#[derive(Clone, Debug, Args)]
#[allow(missing_docs, reason = "each field's text is the option's help")]
pub struct LoadBalancing {
    /// Directory with Services, EndpointSlices, Pods and CiliumLocalRedirectPolicies of Kubernetes as YAML files, watched
    #[arg(long, value_name = "DIR")]
    pub static_service_path: Option<PathBuf>,
    /// Do what kube-proxy does: node ports, external IPs, host ports, session affinity, services at sockets
    #[arg(long, num_args = 0..=1, require_equals = true, default_value_t = false, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub kube_proxy_replacement: bool,
    /// Serve NodePort services and load balancers' addresses (--kube-proxy-replacement does too)
    #[arg(long, num_args = 0..=1, require_equals = true, default_value_t = false, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub enable_node_port: bool,
    /// Serve services' external IPs (--kube-proxy-replacement does too)
    #[arg(long, num_args = 0..=1, require_equals = true, default_value_t = false, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub enable_external_ips: bool,
    /// Serve pods' host ports (--kube-proxy-replacement does too)
    #[arg(long, num_args = 0..=1, require_equals = true, default_value_t = false, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub enable_host_port: bool,
    /// Keep a client with its backend where a service asks for it (--kube-proxy-replacement does too)
    #[arg(long, num_args = 0..=1, require_equals = true, default_value_t = false, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub enable_session_affinity: bool,
    /// Let only sources in that a service's loadBalancerSourceRanges name
    #[arg(long, num_args = 0..=1, require_equals = true, default_value_t = true, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub enable_svc_source_range_check: bool,
    /// Follow the hints of EndpointSlices
    #[arg(long, num_args = 0..=1, require_equals = true, default_value_t = false, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub enable_service_topology: bool,
    /// Follow CiliumLocalRedirectPolicies: traffic to an address or a service that goes to pods of this node
    #[arg(long, num_args = 0..=1, require_equals = true, default_value_t = false, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub enable_local_redirect_policy: bool,
    /// Zone of this node, for hints (in Kubernetes, the node's label topology.kubernetes.io/zone)
    #[arg(long, default_value = "", value_name = "ZONE")]
    pub node_zone: String,
    /// Answer on services' healthCheckNodePort
    #[arg(long, num_args = 0..=1, require_equals = true, default_value_t = true, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub enable_health_check_nodeport: bool,
    /// Where kube-proxy's health checks are answered, such as 0.0.0.0:10256; empty: nowhere
    #[arg(long, default_value = "", value_name = "[HOST]:PORT")]
    pub kube_proxy_replacement_healthz_bind_address: String,
    /// First and last node port
    #[arg(long, default_value = "30000,32767", value_name = "FIRST,LAST", value_delimiter = ',')]
    pub node_port_range: Vec<String>,
    /// Ranges of the node's addresses that have node ports [default: all of its addresses]
    #[arg(long, value_name = "CIDR", value_delimiter = ',')]
    pub nodeport_addresses: Vec<String>,
    /// Device by which backends on other nodes are reached [default: the first of --devices]
    #[arg(long, value_name = "NAME")]
    pub direct_routing_device: Option<String>,
    /// How traffic from outside gets to backends on other nodes
    #[arg(long, default_value = "snat", value_enum)]
    pub bpf_lb_mode: Mode,
    /// Let services choose by the annotation service.cilium.io/forwarding-mode
    #[arg(long, num_args = 0..=1, require_equals = true, default_value_t = false, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub bpf_lb_mode_annotation: bool,
    /// How backends are chosen for traffic from outside
    #[arg(long, default_value = "random", value_enum)]
    pub bpf_lb_algorithm: Algorithm,
    /// Whether traffic from outside is balanced in the network driver (XDP)
    #[arg(long, default_value = "disabled", value_enum)]
    pub bpf_lb_acceleration: Acceleration,
    /// Places of a Maglev table
    #[arg(long, default_value_t = 16_381, value_name = "PRIME")]
    pub bpf_lb_maglev_table_size: u32,
    /// Seed of Maglev tables, which all nodes of a cluster must share: 12 bytes in base64
    #[arg(long, default_value = "JLfvgnHc2kaSUFaI", value_name = "BASE64")]
    pub bpf_lb_maglev_hash_seed: String,
    /// How direct server return tells the backend the service's address
    #[arg(long, default_value = "opt", value_enum)]
    pub bpf_lb_dsr_dispatch: Dispatch,
    /// Whose port the backend finds in packets that come by DSR with IPIP
    #[arg(long, default_value = "frontend", value_enum)]
    pub bpf_lb_dsr_l4_xlate: Xlate,
    /// IPv4 range for the outer source of DSR with IPIP
    #[arg(long, default_value = "", value_name = "CIDR")]
    pub bpf_lb_rss_ipv4_src_cidr: String,
    /// IPv6 range for the outer source of DSR with IPIP
    #[arg(long, default_value = "", value_name = "CIDR")]
    pub bpf_lb_rss_ipv6_src_cidr: String,
    /// Let clients outside reach ClusterIPs
    #[arg(long, num_args = 0..=1, require_equals = true, default_value_t = false, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub bpf_lb_external_clusterip: bool,
    /// What a client of a service without backends gets
    #[arg(long, default_value = "reject", value_enum)]
    pub service_no_backend_response: NoBackend,
    /// Give pods' packets to the world the node's address, by the programs
    #[arg(long, num_args = 0..=1, require_equals = true, default_value_t = false, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub enable_bpf_masquerade: bool,
    /// Masquerade IPv4
    #[arg(long, num_args = 0..=1, require_equals = true, default_value_t = true, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub enable_ipv4_masquerade: bool,
    /// Masquerade IPv6
    #[arg(long, num_args = 0..=1, require_equals = true, default_value_t = true, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub enable_ipv6_masquerade: bool,
    /// IPv4 range in which pods' addresses are routed, and not masqueraded
    #[arg(long, default_value = "", value_name = "CIDR")]
    pub ipv4_native_routing_cidr: String,
    /// IPv6 range in which pods' addresses are routed, and not masqueraded
    #[arg(long, default_value = "", value_name = "CIDR")]
    pub ipv6_native_routing_cidr: String,
}

/// `--bpf-lb-mode`
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// Both ways through this node
    Snat,
    /// Backends answer clients
    Dsr,
    /// dsr for TCP, snat for the rest
    Hybrid,
    /// snat, unless a service's annotation says dsr
    Annotation,
}

/// `--bpf-lb-algorithm`
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Algorithm {
    /// Any backend
    Random,
    /// By a table that is the same on every node
    Maglev,
}

/// `--bpf-lb-acceleration`
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Acceleration {
    /// No
    Disabled,
    /// In the driver; a device that can't is refused
    Native,
    /// In the driver where that can be, behind it otherwise
    BestEffort,
    /// Behind the driver, for tests
    Generic,
    /// Behind the driver, for tests
    TestingOnly,
}

/// `--bpf-lb-dsr-dispatch`
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Dispatch {
    /// IPv4 option, IPv6 destination option
    Opt,
    /// IP in IP
    Ipip,
    /// Geneve option
    Geneve,
}

/// `--bpf-lb-dsr-l4-xlate`
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Xlate {
    /// The service's
    Frontend,
    /// The backend's
    Backend,
}

/// `--service-no-backend-response`
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum NoBackend {
    /// An ICMP error
    Reject,
    /// Nothing
    Drop,
}
