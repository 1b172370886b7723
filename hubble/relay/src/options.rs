//! What an operator can set: flags, `RELAY_*` variables, a file. Names and defaults are the original's.
//!
//! Flags win over variables, those over the file, those over defaults.

mod file;

use crate::{Settings, answer::Bounds, peers, pool::Reach};
use clap::{Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand};
use hubble_transport::{
    Address, Clock, Network, server_name,
    tls::{ClientFiles, ClientTls, Identity, ServerFiles, ServerTls, TlsError},
};
use std::{
    collections::BTreeMap,
    ffi::OsString,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

/// Where the file is looked for.
pub const CONFIG_FILE: &str = "/etc/hubble-relay/config.yaml";
/// Name of the peer service in certificates.
const PEER_SERVICE: &str = "hubble-peer";

/// The relay: flows of all nodes through one address.
#[derive(Debug, Parser)]
#[command(name = "hubble-relay", version, args_override_self = true)]
pub struct Cli {
    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

/// Commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Answer requests for the flows of all nodes
    Serve(Box<Serve>),
    /// Print the version
    Version,
}

/// Options of `serve`. Each can also be given as a variable (RELAY_ and the name in capitals, with _ for -) or in the
/// file.
#[derive(Debug, Clone, Args)]
#[command(args_override_self = true)]
#[allow(missing_docs, reason = "each field's text is the option's help")]
pub struct Serve {
    /// File with options as `name: value`
    #[arg(long, default_value = CONFIG_FILE, value_name = "PATH")]
    pub config: PathBuf,
    /// Name of this cluster, for the name expected in the peer service's certificate
    #[arg(long, default_value = "default", value_name = "NAME")]
    pub cluster_name: String,
    /// Log more
    #[arg(long, short = 'D', num_args = 0..=1, require_equals = true, default_value_t = false, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub debug: bool,
    /// How long a connection to a node may take
    #[arg(long, default_value = "30s", value_parser = duration, value_name = "DURATION")]
    pub dial_timeout: Duration,
    /// The longest pause before a node is tried again
    #[arg(long, default_value = "30s", value_parser = duration, value_name = "DURATION")]
    pub retry_timeout: Duration,
    /// Address to answer on
    #[arg(long, default_value = ":4245", value_parser = socket, value_name = "[HOST]:PORT")]
    pub listen_address: SocketAddr,
    /// Address to answer health checks on, without TLS
    #[arg(long, default_value = ":4222", value_parser = socket, value_name = "[HOST]:PORT")]
    pub health_listen_address: SocketAddr,
    /// Address of the Prometheus endpoint; empty: none
    #[arg(long, default_value = "", value_name = "[HOST]:PORT")]
    pub metrics_listen_address: String,
    /// Where the service is that tells which nodes there are
    #[arg(long, default_value = "unix:///var/run/cilium/hubble.sock", value_name = "ADDRESS")]
    pub peer_service: String,
    /// Flows held back at most while following, to put them in order
    #[arg(long, default_value_t = 100, value_name = "FLOWS")]
    pub sort_buffer_len_max: usize,
    /// How long a flow waits for nodes that are silent
    #[arg(long, default_value = "1s", value_parser = duration, value_name = "DURATION")]
    pub sort_buffer_drain_timeout: Duration,
    /// How long a node may be silent in an answer about the past before it is asked whether it is there, and how long it
    /// may take to say so before its part is given up (not in the original, which waits for ever)
    #[arg(long, default_value = "1s", value_parser = duration, value_name = "DURATION")]
    pub peer_answer_timeout: Duration,
    /// Certificate shown to nodes
    #[arg(long, alias = "tls-client-cert-file", value_name = "PATH")]
    pub tls_hubble_client_cert_file: Option<PathBuf>,
    /// Key of the certificate shown to nodes
    #[arg(long, alias = "tls-client-key-file", value_name = "PATH")]
    pub tls_hubble_client_key_file: Option<PathBuf>,
    /// CAs that sign nodes' certificates
    #[arg(long, value_delimiter = ',', value_name = "PATH")]
    pub tls_hubble_server_ca_files: Vec<PathBuf>,
    /// Reach nodes without TLS
    #[arg(long, num_args = 0..=1, require_equals = true, default_value_t = false, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub disable_client_tls: bool,
    /// Certificate shown to clients
    #[arg(long, alias = "tls-server-cert-file", value_name = "PATH")]
    pub tls_relay_server_cert_file: Option<PathBuf>,
    /// Key of the certificate shown to clients
    #[arg(long, alias = "tls-server-key-file", value_name = "PATH")]
    pub tls_relay_server_key_file: Option<PathBuf>,
    /// CAs that sign clients' certificates; given, clients must show one
    #[arg(long, value_delimiter = ',', value_name = "PATH")]
    pub tls_relay_client_ca_files: Vec<PathBuf>,
    /// Answer without TLS
    #[arg(long, num_args = 0..=1, require_equals = true, default_value_t = false, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub disable_server_tls: bool,
    /// Profiling of the original's runtime; has no effect here
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub pprof: Option<String>,
    /// As --pprof
    #[arg(long, hide = true)]
    pub pprof_address: Option<String>,
    /// As --pprof
    #[arg(long, hide = true)]
    pub pprof_port: Option<u16>,
    /// Inspection of the original's runtime; has no effect here
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub gops: Option<String>,
    /// As --gops
    #[arg(long, hide = true)]
    pub gops_port: Option<u16>,
}

/// Why options cannot be used.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "each says itself")]
pub enum OptionsError {
    #[error("{0}")]
    Clap(#[from] clap::Error),
    #[error("--config: {0}")]
    File(#[from] file::FileError),
    #[error("--{option}: {why}")]
    Value { option: &'static str, why: String },
    #[error("TLS towards {side}: {source}")]
    Tls { side: &'static str, source: TlsError },
}

/// What was read.
#[derive(Debug)]
pub struct Read {
    /// The command line.
    pub cli: Cli,
    /// Names in the file that are no option.
    pub unknown: Vec<String>,
}

impl Cli {
    /// Reads flags (the first of `args` is the program's name), then variables, then the file.
    ///
    /// # Errors
    /// See [`OptionsError`]; a clap error may also be the text of `--help`.
    pub fn read(
        args: impl IntoIterator<Item = OsString>,
        environment: &BTreeMap<String, String>,
    ) -> Result<Read, OptionsError> {
        let args: Vec<OsString> = args.into_iter().collect();
        let first = Self::from_arg_matches(&Self::command().try_get_matches_from(&args)?)?;
        let Command::Serve(serve) = first.command else { return Ok(Read { cli: first, unknown: Vec::new() }) };
        let command = Self::command();
        let options = command.find_subcommand("serve").expect("it is defined above");
        let matches = Self::command().try_get_matches_from(&args)?;
        let given = matches.subcommand_matches("serve").expect("it was just parsed");
        let variable = |name: &str| environment.get(&format!("RELAY_{}", name.to_uppercase().replace('-', "_")));
        let asked = given.value_source("config") == Some(clap::parser::ValueSource::CommandLine);
        let path = match variable("config") {
            Some(path) if !asked => Path::new(path),
            _ => serve.config.as_path(),
        };
        let in_file = file::read(path, asked || variable("config").is_some())?;
        let (mut more, mut known): (Vec<OsString>, Vec<String>) = (Vec::new(), Vec::new());
        for option in options.get_arguments() {
            let names: Vec<&str> =
                option.get_long().into_iter().chain(option.get_all_aliases().into_iter().flatten()).collect();
            known.extend(names.iter().map(|name| (*name).to_owned()));
            let on_line = given.value_source(option.get_id().as_str()) == Some(clap::parser::ValueSource::CommandLine);
            let text = names.iter().find_map(|name| variable(name).or_else(|| in_file.get(*name)));
            if let (false, Some(text), Some(long)) = (on_line, text, option.get_long()) {
                more.push(format!("--{long}={text}").into());
            }
        }
        let unknown = in_file.keys().filter(|name| !known.contains(name)).cloned().collect();
        let all = args.into_iter().chain(more);
        Ok(Read { cli: Self::from_arg_matches(&Self::command().try_get_matches_from(all)?)?, unknown })
    }
}

/// Everything a relay needs, checked.
#[derive(Debug)]
pub struct Checked {
    /// Of the relay.
    pub settings: Settings,
    /// How to reach nodes.
    pub reach: Reach,
    /// TLS towards clients.
    pub server_tls: Option<ServerTls>,
    /// Prometheus.
    pub metrics: Option<SocketAddr>,
}

impl Serve {
    /// Reads certificates and checks what options mean together. `node` is this machine's name.
    ///
    /// # Errors
    /// See [`OptionsError`].
    pub fn check(&self, node: &str) -> Result<Checked, OptionsError> {
        let value = |option, why: String| OptionsError::Value { option, why };
        for (option, duration) in [
            ("dial-timeout", self.dial_timeout),
            ("retry-timeout", self.retry_timeout),
            ("sort-buffer-drain-timeout", self.sort_buffer_drain_timeout),
            ("peer-answer-timeout", self.peer_answer_timeout),
        ] {
            if !(Duration::from_millis(10)..=Duration::from_secs(3_600)).contains(&duration) {
                return Err(value(option, format!("{duration:?} is not from 10ms to 1h")));
            }
        }
        if !(1..=1_000_000).contains(&self.sort_buffer_len_max) {
            let why = format!("{} is not from 1 to 1000000", self.sort_buffer_len_max);
            return Err(value("sort-buffer-len-max", why));
        }
        let service = Address::parse(&self.peer_service, 443).map_err(|why| value("peer-service", why.to_string()))?;
        let metrics = match self.metrics_listen_address.as_str() {
            "" => None,
            text => Some(socket(text).map_err(|why| value("metrics-listen-address", why))?),
        };
        let settings = Settings {
            node_name: format!("{}/{node}", self.cluster_name),
            bounds: Bounds {
                window: self.sort_buffer_drain_timeout,
                length_max: self.sort_buffer_len_max,
                answer_within: self.peer_answer_timeout,
                ..Settings::default().bounds
            },
            peers: peers::Config { retry_max: self.retry_timeout, ..peers::Config::default() },
            ..Settings::default()
        };
        let reach = Reach {
            network: Arc::new(Network),
            tls: self.client_tls()?,
            service,
            service_name: server_name(PEER_SERVICE, &self.cluster_name),
            dial_timeout: self.dial_timeout,
            clock: Clock::default(),
        };
        Ok(Checked { settings, reach, server_tls: self.server_tls()?, metrics })
    }

    fn client_tls(&self) -> Result<Option<ClientTls>, OptionsError> {
        let (cert, key) = (&self.tls_hubble_client_cert_file, &self.tls_hubble_client_key_file);
        let identity = pair(["tls-hubble-client-cert-file", "tls-hubble-client-key-file"], cert, key)?;
        let cas = &self.tls_hubble_server_ca_files;
        if self.disable_client_tls {
            unused("disable-client-tls", identity.is_some() || !cas.is_empty(), "nodes")?;
            return Ok(None);
        }
        if cas.is_empty() {
            let why = "nodes' certificates cannot be checked without it: give the CAs, or --disable-client-tls";
            return Err(OptionsError::Value { option: "tls-hubble-server-ca-files", why: why.into() });
        }
        let loaded = ClientTls::load(ClientFiles { identity, server_cas: cas.clone() });
        loaded.map(Some).map_err(|source| OptionsError::Tls { side: "nodes", source })
    }

    fn server_tls(&self) -> Result<Option<ServerTls>, OptionsError> {
        let (cert, key) = (&self.tls_relay_server_cert_file, &self.tls_relay_server_key_file);
        let identity = pair(["tls-relay-server-cert-file", "tls-relay-server-key-file"], cert, key)?;
        let client_cas = self.tls_relay_client_ca_files.clone();
        match identity {
            identity if self.disable_server_tls => {
                unused("disable-server-tls", identity.is_some() || !client_cas.is_empty(), "clients")?;
                Ok(None)
            }
            Some(identity) => {
                let loaded = ServerTls::load(ServerFiles { identity, client_cas });
                loaded.map(Some).map_err(|source| OptionsError::Tls { side: "clients", source })
            }
            None => {
                let why = "clients cannot be served with TLS without it: give certificate and key, or \
                           --disable-server-tls";
                Err(OptionsError::Value { option: "tls-relay-server-cert-file", why: why.into() })
            }
        }
    }

    /// Options that were given and mean nothing here.
    pub fn without_effect(&self) -> Vec<&'static str> {
        let off = |flag: &Option<String>| flag.as_deref().is_none_or(|value| value == "false");
        let given = [
            (!off(&self.pprof), "pprof"),
            (self.pprof_address.is_some(), "pprof-address"),
            (self.pprof_port.is_some(), "pprof-port"),
            (!off(&self.gops), "gops"),
            (self.gops_port.is_some(), "gops-port"),
        ];
        given.into_iter().filter(|(given, _)| *given).map(|(_, name)| name).collect()
    }
}

fn pair(
    names: [&'static str; 2],
    cert: &Option<PathBuf>,
    key: &Option<PathBuf>,
) -> Result<Option<Identity>, OptionsError> {
    match (cert, key) {
        (Some(cert), Some(key)) => Ok(Some(Identity { cert: cert.clone(), key: key.clone() })),
        (None, None) => Ok(None),
        (Some(_), None) => Err(OptionsError::Value { option: names[1], why: format!("--{} needs it", names[0]) }),
        (None, Some(_)) => Err(OptionsError::Value { option: names[0], why: format!("--{} needs it", names[1]) }),
    }
}

fn unused(option: &'static str, given: bool, side: &str) -> Result<(), OptionsError> {
    if given {
        return Err(OptionsError::Value { option, why: format!("contradicts the TLS files given for {side}") });
    }
    Ok(())
}

/// `[HOST]:PORT`; without a host all addresses of both families are meant.
fn socket(text: &str) -> Result<SocketAddr, String> {
    let bad = || format!("{text:?} is no address to listen on: [HOST]:PORT is expected, such as :4245");
    match text.strip_prefix(':') {
        Some(port) => Ok(SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), port.parse().map_err(|_| bad())?)),
        None => text.replace("localhost", "127.0.0.1").parse().map_err(|_| bad()),
    }
}

/// A length of time as Go writes it: `1s`, `1m30s`, `200ms`.
fn duration(text: &str) -> Result<Duration, String> {
    const WANT: &str = "a duration such as 5s, 1m30s or 200ms is expected";
    if text.is_empty() {
        return Err(WANT.into());
    }
    let (mut rest, mut total) = (text, Duration::ZERO);
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or(WANT)?;
        let number: u32 = rest[..digits].parse().map_err(|_| WANT)?;
        rest = &rest[digits..];
        let units = [("ms", 1), ("h", 3_600_000), ("m", 60_000), ("s", 1_000)];
        let (unit, ms) = units.into_iter().find(|(unit, _)| rest.starts_with(unit)).ok_or(WANT)?;
        rest = &rest[unit.len()..];
        total = Duration::from_millis(ms).checked_mul(number).and_then(|part| total.checked_add(part)).ok_or(WANT)?;
    }
    Ok(total)
}

#[cfg(test)]
mod tests;
