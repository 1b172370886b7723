//! What an operator can set: flags, environment, a directory with one file for each option.
//!
//! Flags win over `CILIUM_*` variables, those over files of `--config-dir`, those over defaults. Names and defaults are
//! the reference's wherever it has the option. Here texts are only parsed; [`crate::config`] says what they mean together.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

mod sinks;

pub use sinks::Sinks;

use clap::{Args, CommandFactory, FromArgMatches, Parser, ValueEnum};

mod balancing;
mod sockets;

pub use balancing::{Acceleration, Algorithm, Dispatch, LoadBalancing, Mode, NoBackend, Xlate};
pub use sockets::{Sockets, TerminateProtocol};

/// The node agent: gives pods addresses and identities, decides policy, and keeps the kernel's maps and programs.
///
/// Every option can also be given as an environment variable (CILIUM_ and the name in capitals, with _ for -) or as a
/// file of that name in --config-dir.
#[derive(Clone, Debug, Parser)]
#[command(name = "cilium-agent", version, args_override_self = true)]
#[allow(missing_docs, reason = "each field's text is the option's help")]
pub struct Options {
    /// Directory with one file for each option, named like the option
    #[arg(long, value_name = "DIR")]
    pub config_dir: Option<PathBuf>,
    /// Name of this node [default: the host's name]
    #[arg(long, value_name = "NAME")]
    pub node_name: Option<String>,
    /// Name of the cluster
    #[arg(long, default_value = "default", value_name = "NAME")]
    pub cluster_name: String,
    #[command(flatten)]
    pub addresses: Addresses,
    #[command(flatten)]
    pub paths: Paths,
    #[command(flatten)]
    pub policy: Policy,
    #[command(flatten)]
    pub datapath: Datapath,
    #[command(flatten)]
    pub balancing: LoadBalancing,
    #[command(flatten)]
    pub sockets: Sockets,
    #[command(flatten)]
    pub events: Events,
    #[command(flatten)]
    pub hubble: Hubble,
    #[command(flatten)]
    pub sinks: Sinks,
    #[command(flatten)]
    pub store: Store,
    /// Address of the Prometheus endpoint, such as :9962; empty: none
    #[arg(long, default_value = "", value_name = "[HOST]:PORT")]
    pub prometheus_serve_addr: String,
    /// Log more
    #[arg(long, short = 'D', num_args = 0..=1, require_equals = true, default_value_t = false, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub debug: bool,
    /// Options of the log: format=text|json, level=error|warn|info|debug|trace
    #[arg(long, value_name = "KEY=VALUE", value_delimiter = ',', value_parser = key_value)]
    pub log_opt: Vec<(String, String)>,
}

/// Addresses of the node and its pods.
#[derive(Clone, Debug, Args)]
#[allow(missing_docs, reason = "each field's text is the option's help")]
pub struct Addresses {
    /// Give pods IPv4 addresses
    #[arg(long, num_args = 0..=1, require_equals = true, default_value_t = true, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub enable_ipv4: bool,
    /// Give pods IPv6 addresses
    #[arg(long, num_args = 0..=1, require_equals = true, default_value_t = true, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub enable_ipv6: bool,
    /// IPv4 pod range, such as 10.16.0.0/16; auto: derived from the node's address
    #[arg(long, default_value = "auto", value_name = "CIDR")]
    pub ipv4_range: String,
    /// IPv6 pod range; auto: derived from the node's IPv4 address and --ipv6-cluster-alloc-cidr
    #[arg(long, default_value = "auto", value_name = "CIDR")]
    pub ipv6_range: String,
    /// /64 from which an automatic IPv6 pod range is taken
    #[arg(long, default_value = "f00d::/64", value_name = "CIDR")]
    pub ipv6_cluster_alloc_cidr: String,
    /// The node's IPv4 address; auto: that of the device with the default route
    #[arg(long, default_value = "auto", value_name = "IP")]
    pub ipv4_node: String,
    /// The node's IPv6 address; auto: that of the device with the default route
    #[arg(long, default_value = "auto", value_name = "IP")]
    pub ipv6_node: String,
    /// Address of cilium_host, the pods' IPv4 gateway [default: the first address of the range]
    #[arg(long, value_name = "IP")]
    pub local_router_ipv4: Option<Ipv4Addr>,
    /// Address of cilium_host, the pods' IPv6 gateway [default: the first address of the range]
    #[arg(long, value_name = "IP")]
    pub local_router_ipv6: Option<Ipv6Addr>,
    /// MTU of pods; 0: that of the device with the default route
    #[arg(long, default_value_t = 0, value_name = "BYTES")]
    pub mtu: u32,
    /// Devices of the network outside, which get programs too
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub devices: Vec<String>,
}

/// Where things are.
#[derive(Clone, Debug, Args)]
#[allow(missing_docs, reason = "each field's text is the option's help")]
pub struct Paths {
    /// Directory of what lives as long as the machine is up
    #[arg(long, default_value = "/var/run/cilium", value_name = "DIR")]
    pub state_dir: PathBuf,
    /// Directory of what survives a reboot
    #[arg(long, default_value = "/var/lib/cilium", value_name = "DIR")]
    pub lib_dir: PathBuf,
    /// The API's socket [default: cilium.sock in --state-dir]
    #[arg(long, value_name = "PATH")]
    pub socket_path: Option<PathBuf>,
    /// The event feed's socket [default: monitor1_2.sock in --state-dir]
    #[arg(long, value_name = "PATH")]
    pub monitor_socket_path: Option<PathBuf>,
    /// BPF file system; mounted if it is not
    #[arg(long, default_value = "/sys/fs/bpf", value_name = "DIR")]
    pub bpf_root: PathBuf,
    /// The compiled programs [default: bpf/cilium.o in --lib-dir]
    #[arg(long, value_name = "PATH")]
    pub bpf_object: Option<PathBuf>,
    /// Group that may use the sockets, by number [default: root's alone]
    #[arg(long, value_name = "GID")]
    pub socket_group: Option<u32>,
}

/// Policy.
#[derive(Clone, Debug, Args)]
#[allow(missing_docs, reason = "each field's text is the option's help")]
pub struct Policy {
    /// Directory with policies as YAML files, watched
    #[arg(long, value_name = "DIR")]
    pub static_cnp_path: Option<PathBuf>,
    /// To which endpoints policy applies
    #[arg(long, default_value = "default", value_enum)]
    pub enable_policy: EnablePolicy,
    /// Report what policy would deny and let it pass
    #[arg(long, num_args = 0..=1, require_equals = true, default_value_t = false, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub policy_audit_mode: bool,
    /// Whether the host may always reach its pods
    #[arg(long, default_value = "auto", value_enum)]
    pub allow_localhost: AllowLocalhost,
    /// How long an endpoint keeps its identity after its labels changed
    #[arg(long, default_value = "5s", value_parser = duration, value_name = "DURATION")]
    pub identity_change_grace_period: Duration,
}

/// `--enable-policy`
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum EnablePolicy {
    /// To those a policy selects
    Default,
    /// To all
    Always,
    /// To none
    Never,
}

/// `--allow-localhost`
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum AllowLocalhost {
    /// Like always, while there is no policy for hosts
    Auto,
    /// It may
    Always,
    /// As policy says
    Policy,
}

/// Programs and maps.
#[derive(Clone, Debug, Args)]
#[allow(missing_docs, reason = "each field's text is the option's help")]
pub struct Datapath {
    /// Entries of each TCP connection map
    #[arg(long, default_value_t = abi::maps::CT4.max_entries, value_name = "ENTRIES")]
    pub bpf_ct_global_tcp_max: u32,
    /// Entries of each connection map for everything but TCP
    #[arg(long, default_value_t = abi::maps::CT_ANY4.max_entries, value_name = "ENTRIES")]
    pub bpf_ct_global_any_max: u32,
    /// Entries of the policy map, which all endpoints share
    #[arg(long, default_value_t = abi::maps::POLICY.max_entries, value_name = "ENTRIES")]
    pub bpf_policy_map_max: u32,
    /// Entries of the map of prefixes
    #[arg(long, default_value_t = abi::maps::IPCACHE.max_entries, value_name = "ENTRIES")]
    pub bpf_ipcache_map_max: u32,
    /// Entries of each service map
    #[arg(long, default_value_t = abi::maps::LB4_SERVICES.max_entries, value_name = "ENTRIES")]
    pub bpf_lb_map_max: u32,
    /// Entries of each map of fragments
    #[arg(long, default_value_t = abi::maps::FRAG4.max_entries, value_name = "ENTRIES")]
    pub bpf_fragments_map_max: u32,
    /// Lifetime of established TCP connections
    #[arg(long, default_value = "2h13m20s", value_parser = duration, value_name = "DURATION")]
    pub bpf_ct_timeout_regular_tcp: Duration,
    /// Lifetime of connections of everything but TCP
    #[arg(long, default_value = "1m", value_parser = duration, value_name = "DURATION")]
    pub bpf_ct_timeout_regular_any: Duration,
    /// Lifetime of TCP connections of which only a SYN was seen
    #[arg(long, default_value = "1m", value_parser = duration, value_name = "DURATION")]
    pub bpf_ct_timeout_regular_tcp_syn: Duration,
    /// Lifetime of closing TCP connections
    #[arg(long, default_value = "10s", value_parser = duration, value_name = "DURATION")]
    pub bpf_ct_timeout_regular_tcp_fin: Duration,
    /// Lifetime of TCP connections to services
    #[arg(long, default_value = "2h13m20s", value_parser = duration, value_name = "DURATION")]
    pub bpf_ct_timeout_service_tcp: Duration,
    /// Lifetime of other connections to services
    #[arg(long, default_value = "1m", value_parser = duration, value_name = "DURATION")]
    pub bpf_ct_timeout_service_any: Duration,
    /// Lifetime of TCP connections to services whose backend went
    #[arg(long, default_value = "1m", value_parser = duration, value_name = "DURATION")]
    pub bpf_ct_timeout_service_tcp_grace: Duration,
    /// Follow IPv4 and IPv6 fragments
    #[arg(long, num_args = 0..=1, require_equals = true, default_value_t = true, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub enable_ipv4_fragment_tracking: bool,
    /// Pass packets between pods of this node through the host's network stack
    #[arg(long, num_args = 0..=1, require_equals = true, default_value_t = false, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub enable_host_legacy_routing: bool,
    /// Time between two sweeps of the maps of connections and translations; 0s: adapted to what they find
    #[arg(long, default_value = "0s", value_parser = duration, value_name = "DURATION")]
    pub conntrack_gc_interval: Duration,
    /// Time between two sweeps at most, where it is adapted; 0s: 12h
    #[arg(long, default_value = "0s", value_parser = duration, value_name = "DURATION")]
    pub conntrack_gc_max_interval: Duration,
    /// Time between two notes in the maps that the agent is alive
    #[arg(long, default_value = "1s", value_parser = duration, value_name = "DURATION")]
    pub agent_liveness_update_interval: Duration,
}

/// Events of the programs.
#[derive(Clone, Debug, Args)]
#[allow(missing_docs, reason = "each field's text is the option's help")]
pub struct Events {
    /// How much the programs report of what they forward
    #[arg(long, default_value = "medium", value_enum, ignore_case = true)]
    pub monitor_aggregation: Aggregation,
    /// Time between two reports of one connection and direction
    #[arg(long, default_value = "5s", value_parser = duration, value_name = "DURATION")]
    pub monitor_aggregation_interval: Duration,
    /// TCP flags whose first appearance in a connection is reported
    #[arg(long, default_value = "syn,fin,rst", value_delimiter = ',', value_name = "FLAG")]
    pub monitor_aggregation_flags: Vec<String>,
    /// Bytes of a packet that go into an event
    #[arg(long, default_value_t = 128, value_name = "BYTES")]
    pub trace_payloadlen: u32,
    /// Report policy verdicts
    #[arg(long, num_args = 0..=1, require_equals = true, default_value_t = true, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub bpf_events_policy_verdict_enabled: bool,
    /// Serve the event feed
    #[arg(long, num_args = 0..=1, require_equals = true, default_value_t = true, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub enable_monitor: bool,
}

/// `--monitor-aggregation`
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Aggregation {
    /// Every packet at every point
    None,
    /// Every packet where it leaves
    Lowest,
    /// Every packet where it leaves
    Low,
    /// New flags and from time to time
    Medium,
    /// New flags and from time to time
    Maximum,
    /// New flags and from time to time
    Max,
}

/// Flows.
#[derive(Clone, Debug, Args)]
#[allow(missing_docs, reason = "each field's text is the option's help")]
pub struct Hubble {
    /// Serve flows
    #[arg(long, num_args = 0..=1, require_equals = true, default_value_t = true, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub enable_hubble: bool,
    /// Hubble's socket [default: hubble.sock in --state-dir]
    #[arg(long, value_name = "PATH")]
    pub hubble_socket_path: Option<PathBuf>,
    /// Address Hubble also listens on, such as :4244; empty: none
    #[arg(long, default_value = "", value_name = "[HOST]:PORT")]
    pub hubble_listen_address: String,
    /// Flows kept; one less than a power of two
    #[arg(long, default_value_t = 4095, value_name = "FLOWS")]
    pub hubble_event_buffer_capacity: usize,
    /// Events that may wait to be taken; 0: 16384
    #[arg(long, default_value_t = 0, value_name = "EVENTS")]
    pub hubble_event_queue_size: usize,
    /// Flows set aside for each client that follows and does not read; beyond it the oldest are lost to that client
    #[arg(long, default_value_t = 4095, value_name = "FLOWS")]
    pub hubble_observer_queue_size: usize,
    /// Kinds of events Hubble takes: drop, debug, capture, trace, policy-verdict, trace-sock, l7, agent [default: all]
    #[arg(long, value_name = "KIND", value_delimiter = ',')]
    pub hubble_monitor_events: Vec<String>,
    /// Announce IPv6 addresses of nodes where there are any
    #[arg(long, num_args = 0..=1, require_equals = true, default_value_t = false, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub hubble_prefer_ipv6: bool,
    /// Listen on --hubble-listen-address without TLS
    #[arg(long, num_args = 0..=1, require_equals = true, default_value_t = false, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub hubble_disable_tls: bool,
    /// Certificate shown on --hubble-listen-address
    #[arg(long, value_name = "PATH")]
    pub hubble_tls_cert_file: Option<PathBuf>,
    /// Key of --hubble-tls-cert-file
    #[arg(long, value_name = "PATH")]
    pub hubble_tls_key_file: Option<PathBuf>,
    /// CAs that sign clients' certificates; given, clients must show one
    #[arg(long, value_name = "PATH", value_delimiter = ',')]
    pub hubble_tls_client_ca_files: Vec<PathBuf>,
    /// File with nodes the peer service announces, one a line: NAME ADDRESS [NAME-IN-CERTIFICATE or -] (not in the
    /// original, which asks Kubernetes)
    #[arg(long, value_name = "PATH")]
    pub hubble_peers_file: Option<PathBuf>,
}

/// The key-value store.
#[derive(Clone, Debug, Args)]
#[allow(missing_docs, reason = "each field's text is the option's help")]
pub struct Store {
    /// Kind of the key-value store
    #[arg(long, default_value = "embedded", value_name = "KIND")]
    pub kvstore: String,
    /// Options of the store; embedded: path=FILE [default: kvstore.redb in --lib-dir]
    #[arg(long, value_name = "KEY=VALUE", value_delimiter = ',', value_parser = key_value)]
    pub kvstore_opt: Vec<(String, String)>,
    /// How long keys outlive a node that went silent
    #[arg(long, default_value = "15m", value_parser = duration, value_name = "DURATION")]
    pub kvstore_lease_ttl: Duration,
}

/// Why options cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum OptionsError {
    /// A flag, a variable or a file says something that is none of its values.
    #[error("{0}")]
    Clap(#[from] clap::Error),
    /// The directory of options cannot be read.
    #[error("--config-dir: cannot read {}: {source}", path.display())]
    ConfigDir {
        /// The file or directory.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

/// What was read, and what was there but means nothing to this version.
#[derive(Clone, Debug)]
pub struct Read {
    /// The options.
    pub options: Options,
    /// Names of files in `--config-dir` that are no option of this version.
    pub unknown: Vec<String>,
}

impl Options {
    /// Reads flags (the first of `args` is the program's name), then variables, then the directory.
    ///
    /// # Errors
    /// See [`OptionsError`]; a clap error may also be the text of `--help`.
    pub fn read(
        args: impl IntoIterator<Item = OsString>,
        environment: &BTreeMap<String, String>,
    ) -> Result<Read, OptionsError> {
        let mut args = args.into_iter();
        let program = args.next().unwrap_or_else(|| "cilium-agent".into());
        let flags: Vec<OsString> = args.collect();
        let from_environment = as_flags(|name| environment.get(&variable(name)).cloned());
        let dir = config_dir(&flags, environment);
        let files = match &dir {
            Some(dir) => files(dir)?,
            None => BTreeMap::new(),
        };
        let known: Vec<String> = names();
        let unknown = files.keys().filter(|name| !known.contains(name)).cloned().collect();
        let from_files = as_flags(|name| files.get(name).cloned());
        // The last one wins.
        let all = std::iter::once(program).chain(from_files).chain(from_environment).chain(flags);
        let matches = Self::command().try_get_matches_from(all)?;
        Ok(Read { options: Self::from_arg_matches(&matches)?, unknown })
    }
}

impl Options {
    /// The kind of store; the reference's empty default means the embedded one.
    pub fn kvstore_kind(&self) -> &str {
        if self.store.kvstore.is_empty() { "embedded" } else { &self.store.kvstore }
    }
    /// Options by name as people write them, for those who ask how the agent was started.
    pub fn as_text(&self) -> BTreeMap<String, String> {
        let a = &self.addresses;
        let value = |variant: &dyn fmt::Debug| format!("{variant:?}").to_lowercase();
        [
            ("cluster-name", self.cluster_name.clone()),
            ("enable-ipv4", a.enable_ipv4.to_string()),
            ("enable-ipv6", a.enable_ipv6.to_string()),
            ("ipv4-range", a.ipv4_range.clone()),
            ("ipv6-range", a.ipv6_range.clone()),
            ("devices", a.devices.join(",")),
            ("enable-policy", value(&self.policy.enable_policy)),
            ("policy-audit-mode", self.policy.policy_audit_mode.to_string()),
            ("allow-localhost", value(&self.policy.allow_localhost)),
            ("kube-proxy-replacement", self.balancing.kube_proxy_replacement.to_string()),
            ("bpf-lb-mode", value(&self.balancing.bpf_lb_mode)),
            ("bpf-lb-algorithm", value(&self.balancing.bpf_lb_algorithm)),
            ("bpf-lb-acceleration", value(&self.balancing.bpf_lb_acceleration)),
            ("bpf-lb-dsr-dispatch", value(&self.balancing.bpf_lb_dsr_dispatch)),
            ("bpf-lb-maglev-table-size", self.balancing.bpf_lb_maglev_table_size.to_string()),
            ("node-port-range", self.balancing.node_port_range.join(",")),
            ("nodeport-addresses", self.balancing.nodeport_addresses.join(",")),
            ("monitor-aggregation", value(&self.events.monitor_aggregation)),
            ("enable-hubble", self.hubble.enable_hubble.to_string()),
            ("prometheus-serve-addr", self.prometheus_serve_addr.clone()),
            ("kvstore", self.kvstore_kind().to_owned()),
            ("bpf-lb-sock", self.sockets.bpf_lb_sock.to_string()),
            ("bpf-lb-sock-hostns-only", self.sockets.bpf_lb_sock_hostns_only.to_string()),
            ("debug", self.debug.to_string()),
        ]
        .map(|(name, text)| (name.to_owned(), text))
        .into()
    }
}

/// The variable of an option.
fn variable(name: &str) -> String {
    format!("CILIUM_{}", name.to_uppercase().replace('-', "_"))
}

fn names() -> Vec<String> {
    let command = Options::command();
    command.get_arguments().filter_map(|arg| arg.get_long().map(str::to_owned)).collect()
}

fn as_flags(value: impl Fn(&str) -> Option<String>) -> Vec<OsString> {
    let set = |name: String| value(&name).map(|value| format!("--{name}={value}").into());
    names().into_iter().filter_map(set).collect()
}

/// The directory must be known before the rest can be parsed.
fn config_dir(flags: &[OsString], environment: &BTreeMap<String, String>) -> Option<PathBuf> {
    let mut found = environment.get(&variable("config-dir")).map(PathBuf::from);
    let mut flags = flags.iter();
    while let Some(flag) = flags.next() {
        let Some(text) = flag.to_str() else { continue };
        if let Some(dir) = text.strip_prefix("--config-dir=") {
            found = Some(dir.into());
        } else if text == "--config-dir" {
            found = flags.next().map(PathBuf::from);
        }
    }
    found
}

fn files(dir: &Path) -> Result<BTreeMap<String, String>, OptionsError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| OptionsError::ConfigDir { path, source }
    };
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(dir).map_err(failed(dir))? {
        let path = entry.map_err(failed(dir))?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
        // A mounted config map has directories and links whose names begin with dots beside its files.
        if name.starts_with('.') || path.is_dir() {
            continue;
        }
        let value = fs::read_to_string(&path).map_err(failed(&path))?;
        files.insert(name.to_owned(), value.trim_end_matches('\n').to_owned());
    }
    Ok(files)
}

fn key_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("KEY=VALUE is expected".into()),
    }
}

/// Parses a duration as the reference writes it: `5s`, `1m30s`, `2h13m20s`, `200ms`.
fn duration(text: &str) -> Result<Duration, String> {
    const WANT: &str = "a duration such as 5s, 1m30s or 200ms is expected";
    let mut rest = text;
    let mut total = Duration::ZERO;
    if rest == "0" {
        return Ok(total);
    }
    if rest.is_empty() {
        return Err(WANT.into());
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or(WANT)?;
        let number: u64 = rest[..digits].parse().map_err(|_| WANT)?;
        rest = &rest[digits..];
        let (unit, length) = if rest.starts_with("ms") {
            (Duration::from_millis(1), 2)
        } else if rest.starts_with('h') {
            (Duration::from_secs(3600), 1)
        } else if rest.starts_with('m') {
            (Duration::from_secs(60), 1)
        } else if rest.starts_with('s') {
            (Duration::from_secs(1), 1)
        } else {
            return Err(WANT.into());
        };
        let part = u32::try_from(number).ok().and_then(|number| unit.checked_mul(number));
        total = part.and_then(|part| total.checked_add(part)).ok_or(WANT)?;
        rest = &rest[length..];
    }
    Ok(total)
}

#[cfg(test)]
mod tests;
