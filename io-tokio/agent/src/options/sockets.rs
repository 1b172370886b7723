//! Services at sockets.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

/// Services at sockets.
#[derive(Clone, Debug, Args)]
#[allow(missing_docs, reason = "each field's text is the option's help")]
pub struct Sockets {
    /// Translate services when a socket connects or sends, in pods and on the host; without it packets of pods are balanced
    #[arg(long, num_args = 0..=1, require_equals = true, default_value_t = false, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub bpf_lb_sock: bool,
    /// Translate services at sockets of the host only
    #[arg(long, num_args = 0..=1, require_equals = true, default_value_t = false, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub bpf_lb_sock_hostns_only: bool,
    /// End sockets that are connected to a backend that was removed, so that their owners connect anew
    #[arg(long, num_args = 0..=1, require_equals = true, default_value_t = true, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub bpf_lb_sock_terminate_pod_connections: bool,
    /// Of which protocols
    #[arg(long, default_value = "udp", value_enum, value_delimiter = ',', value_name = "PROTOCOL")]
    pub bpf_lb_sock_terminate_protocols: Vec<TerminateProtocol>,
    /// Entries of each map of translated sockets
    #[arg(long, default_value_t = abi::maps::LB4_REVERSE_SK.max_entries, value_name = "ENTRIES")]
    pub bpf_sock_rev_map_max: u32,
    /// Control group (version 2) whose sockets are translated [default: the root, wherever it is mounted]
    #[arg(long, value_name = "DIR")]
    pub cgroup_root: Option<PathBuf>,
    /// Report translated sockets
    #[arg(long, num_args = 0..=1, require_equals = true, default_value_t = true, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub trace_sock: bool,
    /// Keep processes of the host from binding node ports
    #[arg(long, num_args = 0..=1, require_equals = true, default_value_t = true, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub node_port_bind_protection: bool,
}

/// `--bpf-lb-sock-terminate-protocols`
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum TerminateProtocol {
    /// Datagrams of connected sockets, which nothing else would end
    Udp,
    /// Connections too, which otherwise end when the peer's address answers no more
    Tcp,
}
