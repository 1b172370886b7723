//! What the options mean together on this host: ranges, addresses, constants of the programs.
//!
//! Everything that can be wrong with a configuration is found here, before anything is touched, and named by its option.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use abi::config::{Lifetime, NodeConfig};
use agent_core::{Audit, ConfigError, Enforcement, FamilyConfig};
use hubble_server::PeerFile;
use hubble_server::tls::{Identity, ServerFiles, ServerTls};
use types::Cidr;

use crate::events::{KINDS, Kinds};
use crate::host::Host;
use crate::options::{Acceleration, Aggregation, AllowLocalhost, Dispatch, EnablePolicy, LoadBalancing, Mode, Options};
use crate::sockets::SocketSettings;

mod balancing;
mod sinks;

pub use sinks::SinkSettings;

/// Identity of the world where only one family is enabled, and of each family where both are.
const WORLD: u32 = 2;
const WORLD_IPV4: u32 = 9;
const WORLD_IPV6: u32 = 10;
/// The smallest MTU IPv6 allows, and the largest a device takes.
const MTU_RANGE: std::ops::RangeInclusive<u32> = 1280..=65_535;

/// Why a configuration is refused.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// An option's value makes no sense.
    #[error("--{option}: {why}")]
    Option {
        /// The option.
        option: &'static str,
        /// What is wrong and what to do.
        why: String,
    },
    /// The agent's core does not take it.
    #[error(transparent)]
    Core(#[from] ConfigError),
}

fn bad(option: &'static str, why: impl Into<String>) -> SettingsError {
    SettingsError::Option { option, why: why.into() }
}

/// Where everything is.
#[derive(Clone, Debug)]
pub struct Places {
    /// Directory of this boot.
    pub state_dir: PathBuf,
    /// Endpoints and numbering.
    pub state: PathBuf,
    /// What DELs left while no agent ran.
    pub delete_queue: PathBuf,
    /// The API.
    pub api: PathBuf,
    /// The event feed.
    pub monitor: Option<PathBuf>,
    /// Hubble.
    pub hubble: PathBuf,
    /// The process's number.
    pub pid: PathBuf,
    /// The store.
    pub store: PathBuf,
    /// The BPF file system.
    pub bpffs: PathBuf,
    /// The compiled programs.
    pub object: PathBuf,
}

/// A checked configuration.
#[derive(Clone, Debug)]
pub struct Settings {
    /// For the core.
    pub agent: agent_core::Config,
    /// For the programs; device numbers are filled in once the devices are there.
    pub node: NodeConfig,
    /// Sizes of maps by name.
    pub map_sizes: BTreeMap<String, u32>,
    /// Paths.
    pub places: Places,
    /// Devices of the network outside.
    pub devices: Vec<String>,
    /// MTU of pods.
    pub mtu: u32,
    /// Watched policies.
    pub policy_dir: Option<PathBuf>,
    /// Watched services.
    pub service_dir: Option<PathBuf>,
    /// Device by which backends on other nodes are reached.
    pub direct_routing_device: Option<String>,
    /// Load balancing, as people are told of it.
    pub balancing: Balancing,
    /// Prometheus.
    pub prometheus: Option<SocketAddr>,
    /// Where kube-proxy's health checks are answered.
    pub healthz: Option<SocketAddr>,
    /// Hubble's settings, if it is enabled.
    pub hubble: Option<HubbleSettings>,
    /// What becomes of flows besides being served.
    pub sinks: SinkSettings,
    /// Who may use the sockets besides root.
    pub socket_group: Option<u32>,
    /// How the XDP program is attached to network devices; `None`: it is not.
    pub acceleration: Option<loader::XdpChoice>,
    /// When the maps of connections and translations are swept.
    pub gc: gc::Checked,
    /// Services at sockets.
    pub sockets: SocketSettings,
    /// Time between notes of being alive.
    pub liveness_interval: Duration,
    /// How long leased keys outlive the node.
    pub lease_ttl: Duration,
    /// Options as given, for `GET /config`.
    pub given: BTreeMap<String, String>,
}

/// Hubble.
#[derive(Clone, Debug)]
pub struct HubbleSettings {
    /// TCP address.
    pub tcp: Option<SocketAddr>,
    /// TLS on it.
    pub tls: Option<ServerTls>,
    /// Flows kept.
    pub capacity: usize,
    /// Events that may wait to be taken.
    pub queue: usize,
    /// Flows set aside for a client that follows and does not read.
    pub aside: usize,
    /// Which records are taken.
    pub kinds: Kinds,
    /// Other nodes, as a file lists them.
    pub peers: Option<PeerFile>,
    /// Where other nodes reach this one.
    pub node_ip: IpAddr,
}

/// Load balancing, in the words of `GET /healthz`.
#[derive(Clone, Debug, Default)]
pub struct Balancing {
    /// Whether everything is done that kube-proxy does.
    pub replaces_kube_proxy: bool,
    /// `SNAT`, `DSR`, `Hybrid` or `Annotation`.
    pub mode: &'static str,
    /// How DSR tells the service's address; empty: there is no DSR.
    pub dsr: &'static str,
    /// `None`, `Native`, `Generic` or `Best-Effort`.
    pub acceleration: &'static str,
}

impl Balancing {
    fn new(given: &LoadBalancing) -> Self {
        let mode = match given.bpf_lb_mode {
            Mode::Snat => "SNAT",
            Mode::Dsr => "DSR",
            Mode::Hybrid => "Hybrid",
            Mode::Annotation => "Annotation",
        };
        let dsr = match given.bpf_lb_dsr_dispatch {
            Dispatch::Opt => "IP Option/Extension",
            Dispatch::Ipip => "IPIP",
            Dispatch::Geneve => "Geneve",
        };
        Self {
            replaces_kube_proxy: given.kube_proxy_replacement,
            mode,
            dsr: if given.bpf_lb_mode == Mode::Snat { "" } else { dsr },
            acceleration: match given.bpf_lb_acceleration {
                Acceleration::Disabled => "None",
                Acceleration::Native => "Native",
                Acceleration::BestEffort => "Best-Effort",
                Acceleration::Generic | Acceleration::TestingOnly => "Generic",
            },
        }
    }
}

const fn acceleration(given: Acceleration) -> Option<loader::XdpChoice> {
    match given {
        Acceleration::Disabled => None,
        Acceleration::Native => Some(loader::XdpChoice::Native),
        Acceleration::BestEffort => Some(loader::XdpChoice::BestEffort),
        Acceleration::Generic | Acceleration::TestingOnly => Some(loader::XdpChoice::Generic),
    }
}

impl Settings {
    /// Brings options and host together. `seed` is drawn anew for each life.
    ///
    /// # Errors
    /// See [`SettingsError`].
    pub fn new(options: &Options, host: &Host, seed: u64) -> Result<Self, SettingsError> {
        let node_name = options.node_name.clone().unwrap_or_else(|| host.name.clone());
        if options.kvstore_kind() != "embedded" {
            return Err(bad("kvstore", format!("{:?} is not in this version; use embedded", options.store.kvstore)));
        }
        let ipv4 = ipv4(options, host)?;
        let ipv6 = ipv6(options, host)?;
        let node_ip = node_ip(host, ipv4.as_ref(), ipv6.as_ref());
        let mut agent = agent_core::Config::new(&node_name, node_ip, seed);
        agent.cluster_name = options.cluster_name.as_str().into();
        agent.ipv4 = ipv4;
        agent.ipv6 = ipv6;
        agent.enforcement = match options.policy.enable_policy {
            EnablePolicy::Default => Enforcement::Default,
            EnablePolicy::Always => Enforcement::Always,
            EnablePolicy::Never => Enforcement::Never,
        };
        agent.audit = if options.policy.policy_audit_mode { Audit::Report } else { Audit::Enforce };
        agent.allow_localhost = match options.policy.allow_localhost {
            AllowLocalhost::Auto | AllowLocalhost::Always => agent_core::AllowLocalhost::Always,
            AllowLocalhost::Policy => agent_core::AllowLocalhost::Policy,
        };
        agent.identity_change_grace = options.policy.identity_change_grace_period;
        agent.maps.policy = options.datapath.bpf_policy_map_max as usize;
        agent.lb = balancing::balancer(options, &agent)?;
        agent.maps.ipcache = options.datapath.bpf_ipcache_map_max as usize;
        agent.validate()?;
        let mtu = mtu(options, host)?;
        let node = node_config(options, &agent, mtu)?;
        Ok(Self {
            node,
            map_sizes: map_sizes(options)?,
            places: places(options)?,
            devices: options.addresses.devices.clone(),
            mtu,
            policy_dir: options.policy.static_cnp_path.clone(),
            service_dir: options.balancing.static_service_path.clone(),
            direct_routing_device: options
                .balancing
                .direct_routing_device
                .clone()
                .or_else(|| options.addresses.devices.first().cloned()),
            balancing: Balancing::new(&options.balancing),
            prometheus: listen_address("prometheus-serve-addr", &options.prometheus_serve_addr)?,
            healthz: listen_address(
                "kube-proxy-replacement-healthz-bind-address",
                &options.balancing.kube_proxy_replacement_healthz_bind_address,
            )?,
            hubble: hubble(options, host, node_ip)?,
            sinks: sinks::sinks(&options.sinks)?,
            socket_group: options.paths.socket_group,
            acceleration: acceleration(options.balancing.bpf_lb_acceleration),
            gc: collection(options)?,
            sockets: SocketSettings::new(options).map_err(|why| bad("bpf-lb-sock", why.to_string()))?,
            liveness_interval: options.datapath.agent_liveness_update_interval.max(Duration::from_millis(100)),
            lease_ttl: options.store.kvstore_lease_ttl.max(Duration::from_secs(10)),
            given: options.as_text(),
            agent,
        })
    }

    /// How the observer of flows is to be.
    pub fn observer(&self) -> hubble_server::Config {
        hubble_server::Config {
            node_name: self.agent.node_name.to_string(),
            cluster_name: self.agent.cluster_name.to_string(),
            node_ip: Some(self.agent.node_ip),
            ring_capacity: self.hubble.as_ref().map_or(1, |hubble| hubble.capacity),
            observer_queue_max: self.hubble.as_ref().map_or(1, |hubble| hubble.aside),
            ..hubble_server::Config::default()
        }
    }

    /// The router's addresses, IPv4 first.
    pub fn routers(&self) -> Vec<IpAddr> {
        [&self.agent.ipv4, &self.agent.ipv6].into_iter().flatten().map(|family| family.router).collect()
    }
    /// The pod ranges, IPv4 first.
    pub fn pod_ranges(&self) -> Vec<Cidr> {
        [&self.agent.ipv4, &self.agent.ipv6].into_iter().flatten().map(|family| family.pod_cidr).collect()
    }
}

fn ipv4(options: &Options, host: &Host) -> Result<Option<FamilyConfig>, SettingsError> {
    if !options.addresses.enable_ipv4 {
        return Ok(None);
    }
    let node = node_address("ipv4-node", &options.addresses.ipv4_node, host.ipv4)?;
    let pod_cidr = match options.addresses.ipv4_range.as_str() {
        "auto" => {
            let Some(IpAddr::V4(node)) = node else {
                return Err(bad(
                    "ipv4-range",
                    "auto needs an IPv4 address of the node; give a range such as 10.16.0.0/16",
                ));
            };
            let range = Ipv4Addr::new(10, node.octets()[3], 0, 0);
            Cidr::new(range.into(), 16).expect("the last two bytes are zero")
        }
        text => range("ipv4-range", text)?,
    };
    let router = options.addresses.local_router_ipv4.map_or_else(|| first_of(pod_cidr), IpAddr::V4);
    Ok(Some(FamilyConfig { pod_cidr, router, node_addrs: with(node, &host.addresses, IpAddr::is_ipv4) }))
}

fn ipv6(options: &Options, host: &Host) -> Result<Option<FamilyConfig>, SettingsError> {
    if !options.addresses.enable_ipv6 {
        return Ok(None);
    }
    if !host.has_ipv6 {
        return Err(bad("enable-ipv6", "this kernel has no IPv6; boot it with IPv6, or set --enable-ipv6=false"));
    }
    let node = node_address("ipv6-node", &options.addresses.ipv6_node, host.ipv6)?;
    let pod_cidr = match options.addresses.ipv6_range.as_str() {
        "auto" => automatic_ipv6(&options.addresses.ipv6_cluster_alloc_cidr, host)?,
        text => range("ipv6-range", text)?,
    };
    let router = options.addresses.local_router_ipv6.map_or_else(|| first_of(pod_cidr), IpAddr::V6);
    Ok(Some(FamilyConfig { pod_cidr, router, node_addrs: with(node, &host.addresses, IpAddr::is_ipv6) }))
}

/// The cluster's /64, then the node's IPv4 address: a /96.
fn automatic_ipv6(cluster: &str, host: &Host) -> Result<Cidr, SettingsError> {
    let cluster = range("ipv6-cluster-alloc-cidr", cluster)?;
    let (IpAddr::V6(base), 64) = (cluster.addr(), cluster.bits()) else {
        return Err(bad("ipv6-cluster-alloc-cidr", format!("{cluster} is no IPv6 range of 64 bits")));
    };
    let Some(IpAddr::V4(node)) = host.ipv4 else {
        return Err(bad("ipv6-range", "auto needs an IPv4 address of the node; give a range such as fd00:10::/96"));
    };
    let bits = base.to_bits() | (u128::from(node.to_bits()) << 32);
    Ok(Cidr::new(Ipv6Addr::from_bits(bits).into(), 96).expect("the last four bytes are zero"))
}

fn node_address(option: &'static str, text: &str, found: Option<IpAddr>) -> Result<Option<IpAddr>, SettingsError> {
    match text {
        "auto" => Ok(found),
        text => {
            let given: IpAddr = text.parse().map_err(|_| bad(option, format!("{text:?} is no IP address")))?;
            if given.is_ipv4() != (option == "ipv4-node") {
                return Err(bad(option, format!("{given} is of the other family")));
            }
            Ok(Some(given))
        }
    }
}

fn with(node: Option<IpAddr>, found: &[IpAddr], family: fn(&IpAddr) -> bool) -> Vec<IpAddr> {
    let mut all: Vec<IpAddr> = node.into_iter().chain(found.iter().copied().filter(family)).collect();
    all.sort_unstable();
    all.dedup();
    all
}

/// The node's address in the key-value store: IPv4 before IPv6, and the router's where the node has none.
fn node_ip(host: &Host, ipv4: Option<&FamilyConfig>, ipv6: Option<&FamilyConfig>) -> IpAddr {
    let router = || ipv4.or(ipv6).map(|family| family.router);
    host.ipv4.or(host.ipv6).or_else(router).unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST))
}

fn range(option: &'static str, text: &str) -> Result<Cidr, SettingsError> {
    text.parse::<Cidr>().map_err(|why| bad(option, format!("{text:?}: {why}")))
}

fn first_of(range: Cidr) -> IpAddr {
    match range.addr() {
        IpAddr::V4(ip) => Ipv4Addr::from_bits(ip.to_bits() | 1).into(),
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() | 1).into(),
    }
}

fn mtu(options: &Options, host: &Host) -> Result<u32, SettingsError> {
    let mtu = match options.addresses.mtu {
        0 => host.mtu.unwrap_or(1500),
        given => given,
    };
    if MTU_RANGE.contains(&mtu) {
        Ok(mtu)
    } else {
        Err(bad("mtu", format!("{mtu} is not from {} to {}", MTU_RANGE.start(), MTU_RANGE.end())))
    }
}

fn node_config(options: &Options, agent: &agent_core::Config, mtu: u32) -> Result<NodeConfig, SettingsError> {
    let dual = agent.ipv4.is_some() && agent.ipv6.is_some();
    let mut node = NodeConfig {
        mtu,
        world_ipv4: if dual { WORLD_IPV4 } else { WORLD },
        world_ipv6: if dual { WORLD_IPV6 } else { WORLD },
        monitor_aggregation: match options.events.monitor_aggregation {
            Aggregation::None => 0,
            Aggregation::Lowest | Aggregation::Low => 1,
            Aggregation::Medium | Aggregation::Maximum | Aggregation::Max => 3,
        },
        report_interval: seconds("monitor-aggregation-interval", options.events.monitor_aggregation_interval)?,
        report_tcp_flags: tcp_flags(&options.events.monitor_aggregation_flags)?,
        capture_len: options.events.trace_payloadlen,
        lifetimes: lifetimes(options)?,
        ..NodeConfig::default()
    };
    if let Some(IpAddr::V4(router)) = agent.ipv4.as_ref().map(|family| family.router) {
        node.router_ipv4 = router.into();
    }
    if let Some(IpAddr::V6(router)) = agent.ipv6.as_ref().map(|family| family.router) {
        node.router_ipv6 = router.into();
    }
    let capture_max = abi::event::PAYLOAD_LEN;
    if node.capture_len as usize > capture_max {
        return Err(bad("trace-payloadlen", format!("{} is more than {capture_max}", node.capture_len)));
    }
    for (set, bit) in [
        (options.datapath.enable_ipv4_fragment_tracking, abi::config::NODE_TRACK_FRAGMENTS),
        (options.events.bpf_events_policy_verdict_enabled, abi::config::NODE_POLICY_VERDICTS),
        (agent.allow_localhost == agent_core::AllowLocalhost::Always, abi::config::NODE_ALLOW_LOCALHOST),
        (!options.datapath.enable_host_legacy_routing, abi::config::NODE_HOST_ROUTING),
        (options.sockets.bpf_lb_sock_hostns_only, abi::config::NODE_SOCK_HOST_ONLY),
        (options.sockets.node_port_bind_protection, abi::config::NODE_BIND_PROTECTION),
        (options.sockets.trace_sock, abi::config::NODE_TRACE_SOCK),
    ] {
        node.flags |= if set { bit } else { 0 };
    }
    balancing::programs(options, agent, mtu, &mut node)?;
    Ok(node)
}

/// When to sweep.
fn collection(options: &Options) -> Result<gc::Checked, SettingsError> {
    let (interval, longest) = (options.datapath.conntrack_gc_interval, options.datapath.conntrack_gc_max_interval);
    let defaults = gc::Config::default();
    let config = gc::Config {
        fixed: (!interval.is_zero()).then_some(interval),
        longest: if longest.is_zero() { defaults.longest } else { longest },
        ..defaults
    };
    config.validate().map_err(|why| {
        let option = match why {
            gc::ConfigError::Crossed { .. } => "conntrack-gc-max-interval",
            gc::ConfigError::TooShort | gc::ConfigError::NoRoom => "conntrack-gc-interval",
        };
        bad(option, why.to_string())
    })
}

fn lifetimes(options: &Options) -> Result<[u32; 8], SettingsError> {
    let d = &options.datapath;
    let mut lifetimes = abi::config::DEFAULT_LIFETIMES;
    for (at, option, value) in [
        (Lifetime::Tcp, "bpf-ct-timeout-regular-tcp", d.bpf_ct_timeout_regular_tcp),
        (Lifetime::Any, "bpf-ct-timeout-regular-any", d.bpf_ct_timeout_regular_any),
        (Lifetime::TcpSyn, "bpf-ct-timeout-regular-tcp-syn", d.bpf_ct_timeout_regular_tcp_syn),
        (Lifetime::TcpFin, "bpf-ct-timeout-regular-tcp-fin", d.bpf_ct_timeout_regular_tcp_fin),
        (Lifetime::ServiceTcp, "bpf-ct-timeout-service-tcp", d.bpf_ct_timeout_service_tcp),
        (Lifetime::ServiceAny, "bpf-ct-timeout-service-any", d.bpf_ct_timeout_service_any),
        (Lifetime::ServiceTcpGrace, "bpf-ct-timeout-service-tcp-grace", d.bpf_ct_timeout_service_tcp_grace),
    ] {
        lifetimes[at as usize] = seconds(option, value)?;
    }
    Ok(lifetimes)
}

fn seconds(option: &'static str, value: Duration) -> Result<u32, SettingsError> {
    match u32::try_from(value.as_secs()) {
        Ok(secs) if secs > 0 => Ok(secs),
        _ => Err(bad(option, "it must be from 1s to 136 years")),
    }
}

fn tcp_flags(names: &[String]) -> Result<u32, SettingsError> {
    names.iter().filter(|name| !name.is_empty()).try_fold(0, |bits, name| {
        Ok(bits
            | match name.to_lowercase().as_str() {
                "fin" => 0x01,
                "syn" => 0x02,
                "rst" => 0x04,
                "psh" => 0x08,
                "ack" => 0x10,
                "urg" => 0x20,
                "ece" => 0x40,
                "cwr" => 0x80,
                "all" => 0xff,
                _ => {
                    let known = "fin, syn, rst, psh, ack, urg, ece, cwr and all";
                    return Err(bad(
                        "monitor-aggregation-flags",
                        format!("{name:?} is no TCP flag; known are {known}"),
                    ));
                }
            })
    })
}

fn map_sizes(options: &Options) -> Result<BTreeMap<String, u32>, SettingsError> {
    use abi::maps;
    let d = &options.datapath;
    let mut sizes = BTreeMap::new();
    for (option, size, specs) in [
        ("bpf-ct-global-tcp-max", d.bpf_ct_global_tcp_max, &[maps::CT4, maps::CT6][..]),
        ("bpf-ct-global-any-max", d.bpf_ct_global_any_max, &[maps::CT_ANY4, maps::CT_ANY6]),
        ("bpf-policy-map-max", d.bpf_policy_map_max, &[maps::POLICY]),
        ("bpf-ipcache-map-max", d.bpf_ipcache_map_max, &[maps::IPCACHE]),
        ("bpf-lb-map-max", d.bpf_lb_map_max, balancing::MAPS),
        ("bpf-sock-rev-map-max", options.sockets.bpf_sock_rev_map_max, &[maps::LB4_REVERSE_SK, maps::LB6_REVERSE_SK]),
        ("bpf-fragments-map-max", d.bpf_fragments_map_max, &[maps::FRAG4, maps::FRAG6]),
    ] {
        if !(16..=16_777_216).contains(&size) {
            return Err(bad(option, format!("{size} is not from 16 to 16777216")));
        }
        for spec in specs.iter().filter(|spec| spec.max_entries != size) {
            sizes.insert(spec.name.to_owned(), size);
        }
    }
    Ok(sizes)
}

fn places(options: &Options) -> Result<Places, SettingsError> {
    let paths = &options.paths;
    let in_state = |name: &str| paths.state_dir.join(name);
    let mut store = paths.lib_dir.join("kvstore.redb");
    for (key, value) in &options.store.kvstore_opt {
        match key.as_str() {
            "path" => store = value.into(),
            other => return Err(bad("kvstore-opt", format!("{other:?} is no option of the embedded store; path is"))),
        }
    }
    Ok(Places {
        state: in_state("state"),
        delete_queue: in_state("deleteQueue"),
        api: paths.socket_path.clone().unwrap_or_else(|| in_state("cilium.sock")),
        monitor: options
            .events
            .enable_monitor
            .then(|| paths.monitor_socket_path.clone().unwrap_or_else(|| in_state("monitor1_2.sock"))),
        hubble: options.hubble.hubble_socket_path.clone().unwrap_or_else(|| in_state("hubble.sock")),
        pid: in_state("cilium.pid"),
        store,
        bpffs: paths.bpf_root.clone(),
        object: paths.bpf_object.clone().unwrap_or_else(|| paths.lib_dir.join("bpf/cilium.o")),
        state_dir: paths.state_dir.clone(),
    })
}

fn listen_address(option: &'static str, text: &str) -> Result<Option<SocketAddr>, SettingsError> {
    match text {
        "" => Ok(None),
        text => metrics::parse_address(text).map(Some).map_err(|why| bad(option, why.to_string())),
    }
}

fn hubble(options: &Options, host: &Host, node_ip: IpAddr) -> Result<Option<HubbleSettings>, SettingsError> {
    let capacity = options.hubble.hubble_event_buffer_capacity;
    if !(1..=65_535).contains(&capacity) || !(capacity + 1).is_power_of_two() {
        let why = format!("{capacity} is not one less than a power of two, from 1 to 65535");
        return Err(bad("hubble-event-buffer-capacity", why));
    }
    let queue = options.hubble.hubble_event_queue_size;
    if queue > HUBBLE_QUEUE_MAX {
        return Err(bad("hubble-event-queue-size", format!("{queue} is above {HUBBLE_QUEUE_MAX}")));
    }
    let aside = options.hubble.hubble_observer_queue_size;
    if !(1..=HUBBLE_ASIDE_MAX).contains(&aside) {
        return Err(bad("hubble-observer-queue-size", format!("{aside} is not from 1 to {HUBBLE_ASIDE_MAX}")));
    }
    let kinds = Kinds::named(&options.hubble.hubble_monitor_events).map_err(|name| {
        let want = KINDS.map(|(name, _)| name).join(", ");
        bad("hubble-monitor-events", format!("{name:?} is none of {want}"))
    })?;
    let tcp = listen_address("hubble-listen-address", &options.hubble.hubble_listen_address)?;
    if !options.hubble.enable_hubble {
        return Ok(None);
    }
    let tls = hubble_tls(&options.hubble, tcp.is_some())?;
    let opened = options.hubble.hubble_peers_file.as_ref().map(|path| PeerFile::open(path, tls.is_some()));
    let peers = opened.transpose().map_err(|why| bad("hubble-peers-file", why.to_string()))?;
    let node_ip = host.ipv6.filter(|_| options.hubble.hubble_prefer_ipv6).unwrap_or(node_ip);
    Ok(Some(HubbleSettings { tcp, tls, capacity, queue, aside, kinds, peers, node_ip }))
}

/// Flows set aside for one client at most.
const HUBBLE_ASIDE_MAX: usize = 65_535;
/// Events that may wait at most.
const HUBBLE_QUEUE_MAX: usize = 1 << 20;

/// TCP is with TLS unless told otherwise; files that would not be used are refused.
fn hubble_tls(options: &crate::options::Hubble, listens: bool) -> Result<Option<ServerTls>, SettingsError> {
    let (cert, key, cas) =
        (&options.hubble_tls_cert_file, &options.hubble_tls_key_file, &options.hubble_tls_client_ca_files);
    let files = cert.is_some() || key.is_some() || !cas.is_empty();
    if options.hubble_disable_tls && files {
        return Err(bad("hubble-disable-tls", "contradicts the --hubble-tls files that are given"));
    }
    if options.hubble_disable_tls || !(listens || files) {
        return Ok(None);
    }
    let missing = |other: &str| format!("it is needed with {other}; or say --hubble-disable-tls");
    let cert = cert.as_ref().ok_or_else(|| bad("hubble-tls-cert-file", missing("--hubble-listen-address")))?;
    let key = key.as_ref().ok_or_else(|| bad("hubble-tls-key-file", missing("--hubble-tls-cert-file")))?;
    let identity = Identity { cert: cert.clone(), key: key.clone() };
    let loaded = ServerTls::load(ServerFiles { identity, client_cas: cas.clone() });
    loaded.map(Some).map_err(|why| bad("hubble-tls-cert-file", why.to_string()))
}

#[cfg(test)]
mod tests;
