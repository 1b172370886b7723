//! How policies in files are read: as an agent with these things enabled would.

use api::client::Client;
use api::models::DaemonConfiguration;
use clap::{ArgAction, Args};
use policy::abilities::Abilities;
use policy::parse::{HostBits, Options};

use crate::CliError;

/// What the agent has enabled for which policies are checked.
#[derive(Debug, Args)]
#[allow(missing_docs, reason = "each field's text is the option's help")]
#[allow(clippy::struct_excessive_bools, reason = "each is an option of its own")]
pub struct Enabled {
    /// Ask the agent what it has enabled and what it is told of
    #[arg(long)]
    pub agent: bool,
    /// Without --agent: whether IPv4 is enabled
    #[arg(long, value_name = "BOOL", default_value_t = true, action = ArgAction::Set, conflicts_with = "agent")]
    pub enable_ipv4: bool,
    /// Without --agent: whether IPv6 is enabled
    #[arg(long, value_name = "BOOL", default_value_t = true, action = ArgAction::Set, conflicts_with = "agent")]
    pub enable_ipv6: bool,
    /// Without --agent: whether there is a proxy that reads application protocols
    #[arg(long, value_name = "BOOL", default_value_t = true, action = ArgAction::Set, conflicts_with = "agent")]
    pub enable_l7_proxy: bool,
    /// Without --agent: whether traffic of the node is judged
    #[arg(long, value_name = "BOOL", default_value_t = true, action = ArgAction::Set, conflicts_with = "agent")]
    pub enable_host_firewall: bool,
}

/// What is taken for granted about the agent.
#[derive(Debug, Clone)]
pub(crate) struct Reading {
    pub(crate) options: Options,
    pub(crate) abilities: Abilities,
}

impl Default for Reading {
    /// An agent with everything. Agents ask prefixes with host bits back, whatever is enabled.
    fn default() -> Self {
        let options = Options { host_bits: HostBits::Refuse, ..Options::default() };
        Self { options, abilities: Abilities::default() }
    }
}

impl Reading {
    pub(crate) fn of(enabled: &Enabled, client: &Client) -> Result<Self, CliError> {
        let mut reading = Self::default();
        if !enabled.agent {
            reading.options.l7_proxy = enabled.enable_l7_proxy;
            reading.abilities.ipv4 = enabled.enable_ipv4;
            reading.abilities.ipv6 = enabled.enable_ipv6;
            reading.abilities.host_firewall = enabled.enable_host_firewall;
            return Ok(reading);
        }
        let config: DaemonConfiguration = client.get("/config")?;
        let told = config.status.daemon_configuration_map;
        let missing = |name: &str| {
            CliError::Invalid(format!("the agent does not say whether it has {name}; it is of another version"))
        };
        let has = |name: &str| told.get(name).and_then(serde_json::Value::as_bool).ok_or_else(|| missing(name));
        reading.options.l7_proxy = has("EnableL7Proxy")?;
        reading.abilities = Abilities {
            ipv4: has("EnableIPv4")?,
            ipv6: has("EnableIPv6")?,
            host_firewall: has("EnableHostFirewall")?,
            cidr_groups: has("PolicyCIDRGroups")?,
            services: has("PolicyServices")?,
            dns_names: has("PolicyDNSNames")?,
            port_names: has("PolicyPortNames")?,
        };
        Ok(reading)
    }
}
