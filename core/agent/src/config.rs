//! What one agent is told when it starts.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::net::IpAddr;
use core::time::Duration;

use types::{Cidr, NumericIdentity};

/// One address family of the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FamilyConfig {
    /// Where pods' addresses come from.
    pub pod_cidr: Cidr,
    /// The address of `cilium_host`: the pods' gateway. It must lie in `pod_cidr`.
    pub router: IpAddr,
    /// Addresses of the node itself.
    pub node_addrs: Vec<IpAddr>,
}

/// When policy applies to endpoints (`--enable-policy`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Enforcement {
    /// To those that a policy selects.
    #[default]
    Default,
    /// To all.
    Always,
    /// To none.
    Never,
}

/// Whether policy decides or only reports (`--policy-audit-mode`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Audit {
    /// It decides.
    #[default]
    Enforce,
    /// What would be denied passes, and says so.
    Report,
}

/// Whether the host may always reach its pods (`--allow-localhost`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AllowLocalhost {
    /// It may, unless a rule denies it (the default without a policy of the host).
    #[default]
    Always,
    /// Only as policy says.
    Policy,
}

/// How long to wait before something that failed is tried again: `first`, doubled each time, at most `max`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// The first wait.
    pub first: Duration,
    /// The longest wait.
    pub max: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { first: Duration::from_millis(100), max: Duration::from_secs(30) }
    }
}

impl Backoff {
    /// The wait after `failures` failures in a row (1 or more).
    pub fn after(&self, failures: u32) -> Duration {
        let factor = 1_u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX);
        self.first.saturating_mul(factor).min(self.max)
    }
}

/// Entries the kernel's maps can hold. The default is what [`abi::maps`] declares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MapSizes {
    /// `cilium_policy`.
    pub policy: usize,
    /// `cilium_ipcache`.
    pub ipcache: usize,
    /// `cilium_lxc` and `cilium_devices`, each.
    pub endpoints: usize,
}

impl Default for MapSizes {
    fn default() -> Self {
        Self {
            policy: abi::maps::POLICY.max_entries as usize,
            ipcache: abi::maps::IPCACHE.max_entries as usize,
            endpoints: abi::maps::LXC.max_entries as usize,
        }
    }
}

/// Everything an agent is told.
#[derive(Debug, Clone)]
pub struct Config {
    /// The node's name.
    pub node_name: Box<str>,
    /// The cluster's name.
    pub cluster_name: Box<str>,
    /// The node's address as the key-value store knows it: the suffix of its keys.
    pub node_ip: IpAddr,
    /// IPv4, if enabled.
    pub ipv4: Option<FamilyConfig>,
    /// IPv6, if enabled.
    pub ipv6: Option<FamilyConfig>,
    /// Initial enforcement mode.
    pub enforcement: Enforcement,
    /// Initial audit mode.
    pub audit: Audit,
    /// The host's own way to its pods.
    pub allow_localhost: AllowLocalhost,
    /// How long an endpoint keeps its identity after its labels changed (reference: 5 s).
    pub identity_change_grace: Duration,
    /// Waits after failed map writes and attachments.
    pub retry: Backoff,
    /// Sizes of the maps.
    pub maps: MapSizes,
    /// Map writes of one operation at most.
    pub batch_max: usize,
    /// First cluster-wide identity number that may be given.
    pub identity_min: NumericIdentity,
    /// Last cluster-wide identity number that may be given.
    pub identity_max: NumericIdentity,
    /// Node-local identities at most.
    pub local_identities_max: usize,
    /// Bounds of the endpoint table.
    pub endpoints: endpoint::Config,
    /// Bounds of address management; its ranges are taken from `ipv4` and `ipv6`.
    pub ipam_loans_max: usize,
    /// Bounds of services.
    pub lb: lb::Config,
    /// Requests that may wait for their outcome at once.
    pub requests_max: usize,
    /// How long an endpoint's creation may take before it is answered with a failure and undone.
    pub create_within: Duration,
    /// Seed of everything random: identity numbers that are tried, names of loans.
    pub seed: u64,
}

impl Config {
    /// The defaults of the reference for a node of that name, without any address family.
    pub fn new(node_name: &str, node_ip: IpAddr, seed: u64) -> Self {
        Self {
            node_name: node_name.into(),
            cluster_name: "default".into(),
            node_ip,
            ipv4: None,
            ipv6: None,
            enforcement: Enforcement::default(),
            audit: Audit::default(),
            allow_localhost: AllowLocalhost::default(),
            identity_change_grace: Duration::from_secs(5),
            retry: Backoff::default(),
            maps: MapSizes::default(),
            batch_max: 4_096,
            identity_min: NumericIdentity::MIN_ALLOCATED,
            identity_max: NumericIdentity::MAX_ALLOCATED,
            local_identities_max: 65_535,
            endpoints: endpoint::Config::default(),
            ipam_loans_max: 65_536,
            lb: lb::Config::default(),
            requests_max: 1_024,
            create_within: Duration::from_secs(25),
            seed,
        }
    }

    /// Checks what types cannot.
    pub fn validate(&self) -> Result<(), ConfigError> {
        if self.node_name.is_empty() {
            return Err(ConfigError::NodeName);
        }
        if self.identity_min.is_reserved() || self.identity_max < self.identity_min {
            return Err(ConfigError::IdentityRange { min: self.identity_min, max: self.identity_max });
        }
        let families = [(ipam::Family::V4, &self.ipv4), (ipam::Family::V6, &self.ipv6)];
        if families.iter().all(|(_, family)| family.is_none()) {
            return Err(ConfigError::NoFamily);
        }
        for (family, config) in families {
            let Some(config) = config else { continue };
            let range = config.pod_cidr;
            if range.is_ipv4() != (family == ipam::Family::V4) {
                return Err(ConfigError::PodCidrFamily { family, range });
            }
            if !range.contains(config.router) || config.router == range.addr() {
                return Err(ConfigError::Router { router: config.router, range });
            }
        }
        Ok(())
    }
}

/// Why a configuration is not usable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// No name.
    #[error("the node has no name; set --node-name")]
    NodeName,
    /// Neither family.
    #[error("neither IPv4 nor IPv6 is enabled; give a pod range")]
    NoFamily,
    /// No number could be given.
    #[error("identities from {min} to {max} are no range of cluster-wide identities; they begin at 256")]
    IdentityRange {
        /// First.
        min: NumericIdentity,
        /// Last.
        max: NumericIdentity,
    },
    /// A range of the other family.
    #[error("the {family} pod range is {range}, which is not {family}")]
    PodCidrFamily {
        /// Whose range it should be.
        family: ipam::Family,
        /// What was given.
        range: Cidr,
    },
    /// The router's address is not usable.
    #[error("the router address {router} must lie in the pod range {range} and not be its first address")]
    Router {
        /// The address.
        router: IpAddr,
        /// The range.
        range: Cidr,
    },
}
