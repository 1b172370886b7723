//! Verbs and flags, named as users of the reference know them.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::policy::options::{ExplainOptions, LintOptions, PreviewOptions};
use crate::policy::reading::Enabled;

/// Command line of the Cilium agent on this node.
#[derive(Debug, Parser)]
#[command(name = "cilium", version, propagate_version = false)]
#[allow(missing_docs, reason = "each field's text is the option's help")]
pub struct Arguments {
    /// The agent's socket: a path, or unix:// and a path
    #[arg(short = 'H', long, global = true, env = "CILIUM_SOCK", default_value = api::DEFAULT_SOCKET, value_name = "SOCKET")]
    pub host: String,
    /// BPF file system in which the agent pins its maps
    #[arg(long, global = true, env = "CILIUM_BPF_ROOT", default_value = "/sys/fs/bpf", value_name = "DIR")]
    pub bpf_root: PathBuf,
    /// How to print
    #[arg(short, long, global = true, value_enum, value_name = "FORMAT")]
    pub output: Option<Format>,
    #[command(subcommand)]
    pub command: Command,
}

impl Arguments {
    pub(crate) fn socket(&self) -> PathBuf {
        PathBuf::from(self.host.strip_prefix("unix://").unwrap_or(&self.host))
    }
}

/// Machine-readable forms.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// JSON
    Json,
}

/// What to do.
#[derive(Debug, Subcommand)]
#[allow(missing_docs, reason = "each variant's text is the command's help")]
pub enum Command {
    /// Show how the agent is
    Status(StatusOptions),
    /// Endpoints of this node
    #[command(subcommand)]
    Endpoint(EndpointCommand),
    /// Security identities
    #[command(subcommand)]
    Identity(IdentityCommand),
    /// Policy rules
    #[command(subcommand)]
    Policy(PolicyCommand),
    /// Services and their backends
    #[command(subcommand)]
    Service(ServiceCommand),
    /// Policies that keep traffic on this node
    #[command(subcommand)]
    Lrp(LrpCommand),
    /// Services and backends in the kernel's maps (the same as cilium bpf lb)
    #[command(subcommand)]
    Lb(BpfLb),
    /// Prefixes and their identities, as the agent knows them
    #[command(subcommand)]
    Ip(IpCommand),
    /// What the kernel's maps hold
    #[command(subcommand)]
    Bpf(BpfCommand),
    /// The maps themselves
    #[command(subcommand)]
    Map(MapCommand),
    /// Show events as they happen
    Monitor(MonitorOptions),
    /// Show or change the agent's options
    Config(ConfigOptions),
    /// Show versions of client and agent
    Version,
    /// Print a completion script
    Completion { shell: clap_complete::Shell },
}

/// `cilium status`
#[derive(Debug, Args)]
#[allow(missing_docs, reason = "each field's text is the option's help")]
pub struct StatusOptions {
    /// One line: OK, or what is wrong
    #[arg(long)]
    pub brief: bool,
    /// Everything there is
    #[arg(long)]
    pub verbose: bool,
    /// Show all addresses, not just their number
    #[arg(long)]
    pub all_addresses: bool,
    /// Show all background tasks, not just those that fail
    #[arg(long)]
    pub all_controllers: bool,
    /// Seconds to wait for the answer
    #[arg(long, default_value_t = 30, value_name = "SECONDS")]
    pub timeout: u64,
}

/// `cilium endpoint`
#[derive(Debug, Subcommand)]
#[allow(missing_docs, reason = "each variant's text is the command's help")]
pub enum EndpointCommand {
    /// List endpoints
    #[command(alias = "ls")]
    List {
        /// No line of headings
        #[arg(long)]
        no_headers: bool,
    },
    /// Show endpoints with everything known of them
    Get {
        /// Number or name, such as 17 or cep-name:default/web
        #[arg(required_unless_present = "labels")]
        id: Option<String>,
        /// Endpoints with all these labels
        #[arg(short, long, value_delimiter = ',', conflicts_with = "id")]
        labels: Vec<String>,
    },
    /// Show what happened to an endpoint
    Log { id: String },
    /// Show or change an endpoint's labels
    Labels {
        id: String,
        /// Labels to add
        #[arg(short, long, value_delimiter = ',')]
        add: Vec<String>,
        /// Labels to take away
        #[arg(short, long, value_delimiter = ',')]
        delete: Vec<String>,
    },
    /// Show an endpoint's health
    #[command(alias = "healthz")]
    Health { id: String },
    /// Show or change an endpoint's options
    Config {
        id: String,
        /// Changes, such as PolicyAuditMode=Enabled
        changes: Vec<String>,
    },
}

/// `cilium identity`
#[derive(Debug, Subcommand)]
#[allow(missing_docs, reason = "each variant's text is the command's help")]
pub enum IdentityCommand {
    /// List identities
    #[command(alias = "ls")]
    List {
        /// Only identities with all these labels
        labels: Vec<String>,
        /// Show how many endpoints of this node have each
        #[arg(long)]
        endpoints: bool,
    },
    /// Show one identity
    Get {
        /// Its number
        #[arg(required_unless_present = "label")]
        id: Option<u32>,
        /// Identities with all these labels
        #[arg(long, value_delimiter = ',', conflicts_with = "id")]
        label: Vec<String>,
    },
}

/// `cilium policy`
#[derive(Debug, Subcommand)]
#[allow(missing_docs, reason = "each variant's text is the command's help")]
pub enum PolicyCommand {
    /// Show the rules
    Get {
        /// Only rules with all these labels
        labels: Vec<String>,
    },
    /// Add rules from files
    Import {
        /// File, directory, or - for standard input; YAML or JSON
        path: PathBuf,
        /// Print the rules that were read
        #[arg(long)]
        print: bool,
        /// Take the place of rules with the same labels
        #[arg(long)]
        replace: bool,
        /// Take the place of rules with these labels
        #[arg(long, value_delimiter = ',')]
        replace_with_labels: Vec<String>,
    },
    /// Delete rules
    Delete {
        /// Rules with all these labels
        #[arg(required_unless_present = "all")]
        labels: Vec<String>,
        /// All rules
        #[arg(long, conflicts_with = "labels")]
        all: bool,
    },
    /// Check files: without the agent, or for what it has enabled
    Validate {
        /// Files, directories, or - for standard input; YAML or JSON
        #[arg(required = true)]
        paths: Vec<PathBuf>,
        /// Print the rules that were read
        #[arg(long)]
        print: bool,
        /// For which agent
        #[command(flatten)]
        enabled: Enabled,
    },
    /// Say why traffic is let through or refused, and by which rule
    Explain(Box<ExplainOptions>),
    /// Say what a change of policies would do to recorded traffic, before it is made
    Preview(Box<PreviewOptions>),
    /// Find rules that are valid and probably not meant
    Lint(Box<LintOptions>),
    /// Wait until all endpoints enforce a revision
    Wait {
        revision: i64,
        /// Seconds to wait at most
        #[arg(long, default_value_t = 360)]
        max_wait_time: u64,
    },
    /// Show selectors in use and whom they select
    Selectors,
}

/// `cilium service`
#[derive(Debug, Subcommand)]
#[allow(missing_docs, reason = "each variant's text is the command's help")]
pub enum ServiceCommand {
    /// List services
    #[command(alias = "ls")]
    List {
        /// With their attributes
        #[arg(long)]
        verbose: bool,
    },
    /// Show one service
    Get { id: i64 },
    /// Add or change a service
    Update(Box<ServiceUpdate>),
    /// Delete a service
    Delete {
        #[arg(required_unless_present = "all")]
        id: Option<i64>,
        /// All services
        #[arg(long, conflicts_with = "id")]
        all: bool,
    },
}

/// `cilium service update`
#[derive(Debug, Args)]
#[allow(missing_docs, reason = "each field's text is the option's help")]
pub struct ServiceUpdate {
    /// Number of the service; 0: that of the service with this frontend, or a free one
    #[arg(long)]
    pub id: i64,
    /// Address and port, such as 10.96.0.10:80 or [fd00::10]:80
    #[arg(long)]
    pub frontend: String,
    /// Addresses and ports, separated by commas
    #[arg(long, value_delimiter = ',')]
    pub backends: Vec<String>,
    /// State of each backend: active, terminating, quarantined or maintenance
    #[arg(long, value_delimiter = ',')]
    pub states: Vec<String>,
    /// Weight of each backend in a Maglev table [default: 100 each; 0: in maintenance]
    #[arg(long, value_delimiter = ',')]
    pub backend_weights: Vec<u16>,
    /// tcp, udp, sctp or any
    #[arg(long, default_value = "tcp")]
    pub protocol: String,
    /// Name it goes by in flows: namespace/name
    #[arg(long)]
    pub name: Option<String>,
    /// ClusterIP (what a service is unless told otherwise)
    #[arg(long)]
    pub k8s_cluster_internal: bool,
    /// NodePort
    #[arg(long)]
    pub k8s_node_port: bool,
    /// ExternalIPs
    #[arg(long)]
    pub k8s_external: bool,
    /// LoadBalancer
    #[arg(long)]
    pub k8s_load_balancer: bool,
    /// HostPort
    #[arg(long)]
    pub k8s_host_port: bool,
    /// LocalRedirect: traffic stays on the node
    #[arg(long)]
    pub local_redirect: bool,
    /// Which clients: external, or internal where those outside go elsewhere
    #[arg(long, default_value = "external")]
    pub scope: String,
    /// Seconds a client keeps its backend; 0: it does not
    #[arg(long, default_value_t = 0, value_name = "SECONDS")]
    pub session_affinity: u32,
    /// Who may come from outside [default: everybody]
    #[arg(long, value_delimiter = ',', value_name = "CIDR")]
    pub source_ranges: Vec<String>,
    /// How traffic to backends on other nodes is forwarded: snat or dsr [default: as the node does]
    #[arg(long, default_value = "", hide_default_value = true)]
    pub forwarding_mode: String,
    /// Port at which the node says whether it has a backend
    #[arg(long, default_value_t = 0, hide_default_value = true, value_name = "PORT")]
    pub health_check_node_port: u16,
    /// Node of each backend
    #[arg(long, value_delimiter = ',', value_name = "NODE")]
    pub backend_nodes: Vec<String>,
    /// Traffic from outside: Cluster or Local
    #[arg(long, default_value = "Cluster")]
    pub k8s_ext_traffic_policy: String,
    /// Traffic from inside: Cluster or Local
    #[arg(long, default_value = "Cluster")]
    pub k8s_int_traffic_policy: String,
}

/// `cilium lrp`
#[derive(Debug, Subcommand)]
#[allow(missing_docs, reason = "each variant's text is the command's help")]
pub enum LrpCommand {
    /// List CiliumLocalRedirectPolicies and where their traffic goes
    #[command(alias = "ls")]
    List,
}

/// `cilium ip`
#[derive(Debug, Subcommand)]
#[allow(missing_docs, reason = "each variant's text is the command's help")]
pub enum IpCommand {
    /// List prefixes
    #[command(alias = "ls")]
    List {
        /// Identities as numbers
        #[arg(short, long)]
        numeric: bool,
        /// Say where each came from
        #[arg(short, long)]
        verbose: bool,
    },
}

/// `cilium bpf`
#[derive(Debug, Subcommand)]
#[allow(missing_docs, reason = "each variant's text is the command's help")]
pub enum BpfCommand {
    /// Addresses of this node's endpoints
    #[command(subcommand)]
    Endpoint(BpfEndpoint),
    /// Prefixes, their identities and classes
    #[command(subcommand)]
    Ipcache(BpfIpcache),
    /// Policy entries
    #[command(subcommand)]
    Policy(BpfPolicy),
    /// Connections
    #[command(subcommand)]
    Ct(BpfCt),
    /// Services and backends
    #[command(subcommand)]
    Lb(BpfLb),
    /// Source NAT
    #[command(subcommand)]
    Nat(BpfNat),
    /// Counters
    #[command(subcommand)]
    Metrics(BpfMetrics),
}

/// `cilium bpf endpoint`
#[derive(Debug, Subcommand)]
#[allow(missing_docs, reason = "each variant's text is the command's help")]
pub enum BpfEndpoint {
    /// List entries
    #[command(alias = "ls")]
    List,
    /// The entry of an address
    Get { address: std::net::IpAddr },
}

/// `cilium bpf metrics`
#[derive(Debug, Subcommand)]
#[allow(missing_docs, reason = "each variant's text is the command's help")]
pub enum BpfMetrics {
    /// List counters
    #[command(alias = "ls")]
    List,
    /// Counters of one reason, by its number or a part of its name
    Get { reason: String },
}

/// `cilium bpf ipcache`
#[derive(Debug, Subcommand)]
#[allow(missing_docs, reason = "each variant's text is the command's help")]
pub enum BpfIpcache {
    /// List entries
    #[command(alias = "ls")]
    List,
    /// The entry that decides for an address (longest prefix)
    Get { address: std::net::IpAddr },
}

/// `cilium bpf policy`
#[derive(Debug, Subcommand)]
#[allow(missing_docs, reason = "each variant's text is the command's help")]
pub enum BpfPolicy {
    /// Which endpoint has which policy
    #[command(alias = "ls")]
    List,
    /// Entries of an endpoint's policy, with identities in place of classes
    Get {
        /// Endpoint number
        #[arg(required_unless_present = "all")]
        endpoint: Option<u16>,
        /// All endpoints
        #[arg(long, conflicts_with = "endpoint")]
        all: bool,
        /// Identities as numbers; the agent is not asked
        #[arg(short, long)]
        numeric: bool,
    },
}

/// `cilium bpf ct`
#[derive(Debug, Subcommand)]
#[allow(missing_docs, reason = "each variant's text is the command's help")]
pub enum BpfCt {
    /// List connections
    #[command(alias = "ls")]
    List {
        /// global, or endpoint and its number
        #[arg(default_value = "global", value_parser = ["global", "endpoint"])]
        scope: String,
        endpoint: Option<u16>,
        /// In how many seconds each ends, instead of when
        #[arg(short = 'd', long)]
        time_diff: bool,
    },
    /// Connections of an address, or of an address and port
    Get { end: String },
    /// Forget connections: those that go on are judged and balanced anew
    Flush {
        /// global, or endpoint and its number
        #[arg(value_parser = ["global", "endpoint"])]
        scope: String,
        endpoint: Option<u16>,
    },
}

/// `cilium bpf nat`
#[derive(Debug, Subcommand)]
#[allow(missing_docs, reason = "each variant's text is the command's help")]
pub enum BpfNat {
    /// List translations
    #[command(alias = "ls")]
    List,
    /// Translations from or to an address and port
    Get { end: String },
    /// Forget all translations: connections that use them break
    Flush,
}

/// `cilium bpf lb`
#[derive(Debug, Subcommand)]
#[allow(missing_docs, reason = "each variant's text is the command's help")]
pub enum BpfLb {
    /// List services with their backends
    #[command(alias = "ls")]
    List(BpfLbList),
    /// One service, by its frontend or its reverse NAT index
    Get { service: String },
    /// Maglev tables
    #[command(subcommand)]
    Maglev(BpfMaglev),
}

/// `cilium bpf lb list`
#[derive(Debug, Args)]
#[group(multiple = false)]
#[allow(missing_docs, reason = "each field's text is the option's help")]
pub struct BpfLbList {
    /// Backends instead
    #[arg(long)]
    pub backends: bool,
    /// Frontends alone
    #[arg(long)]
    pub frontends: bool,
    /// Reverse NAT instead
    #[arg(long)]
    pub revnat: bool,
    /// Ranges of sources instead
    #[arg(long)]
    pub source_ranges: bool,
    /// Clients that come back to their backends instead
    #[arg(long)]
    pub affinity: bool,
    /// Maglev tables instead
    #[arg(long)]
    pub maglev: bool,
}

/// `cilium bpf lb maglev`
#[derive(Debug, Subcommand)]
#[allow(missing_docs, reason = "each variant's text is the command's help")]
pub enum BpfMaglev {
    /// How many places each backend has in each table
    #[command(alias = "ls")]
    List,
    /// The table of one service; as JSON, place by place
    Get {
        /// Reverse NAT index
        id: u16,
    },
}

/// `cilium map`
#[derive(Debug, Subcommand)]
#[allow(missing_docs, reason = "each variant's text is the command's help")]
pub enum MapCommand {
    /// List maps, with entries as the kernel has them
    #[command(alias = "ls")]
    List {
        /// Ask the agent what it wants in each
        #[arg(long)]
        verbose: bool,
    },
    /// Show what the agent wants in a map
    Get { name: String },
}

/// `cilium monitor`
#[derive(Debug, Args)]
#[allow(missing_docs, reason = "each field's text is the option's help")]
pub struct MonitorOptions {
    /// Only events from these endpoints
    #[arg(long, value_delimiter = ',')]
    pub from: Vec<u16>,
    /// Only events to these endpoints
    #[arg(long, value_delimiter = ',')]
    pub to: Vec<u16>,
    /// Only events from or to these endpoints
    #[arg(long, value_delimiter = ',')]
    pub related_to: Vec<u16>,
    /// Only events of these kinds
    #[arg(short = 't', long = "type", value_enum, value_delimiter = ',')]
    pub kinds: Vec<EventKind>,
    /// One JSON object for each event
    #[arg(short, long)]
    pub json: bool,
    /// Bytes of packets as hex
    #[arg(long)]
    pub hex: bool,
    /// Identities as numbers
    #[arg(short, long)]
    pub numeric: bool,
    /// More of each event; twice: all of it
    #[arg(short, long, action = clap::ArgAction::Count)]
    pub verbose: u8,
    /// The event feed's socket [default: monitor1_2.sock beside the agent's socket]
    #[arg(long)]
    pub monitor_socket: Option<PathBuf>,
}

/// Kinds of events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[allow(missing_docs, reason = "named as on the command line")]
pub enum EventKind {
    Drop,
    Trace,
    PolicyVerdict,
}

/// `cilium config`
#[derive(Debug, Args)]
#[allow(missing_docs, reason = "each field's text is the option's help")]
pub struct ConfigOptions {
    /// Changes, such as PolicyEnforcement=always; or `get` and the name of an option
    pub changes: Vec<String>,
    /// Options that cannot be changed, too
    #[arg(short, long)]
    pub all: bool,
    /// Only options that cannot be changed
    #[arg(short, long)]
    pub read_only: bool,
    /// List the options that can be changed
    #[arg(long)]
    pub list_options: bool,
}
