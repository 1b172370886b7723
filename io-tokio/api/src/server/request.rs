//! What can be asked, parsed and typed.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::models::{
    DaemonConfigurationSpec, EndpointBatchDeleteRequest, EndpointChangeRequest, EndpointConfigurationSpec,
    ExplainRequest, LabelConfigurationSpec, Labels, LintRequest, PreviewRequest, ServiceSpec,
};

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// One call of the API. Unless said otherwise, `labels` selects what carries all of them and empty selects all.
#[derive(Clone, Debug, PartialEq)]
pub enum Request {
    /// `GET /healthz`
    Status {
        /// Only the agent's own state.
        brief: bool,
    },
    /// `GET /config`
    Config,
    /// `PATCH /config`
    ConfigPatch(DaemonConfigurationSpec),
    /// `GET /endpoint`
    Endpoints {
        /// See above.
        labels: Labels,
    },
    /// `DELETE /endpoint`
    EndpointsDelete(EndpointBatchDeleteRequest),
    /// `GET /endpoint/{id}`
    Endpoint(EndpointRef),
    /// `PUT /endpoint/{id}`
    EndpointPut(EndpointRef, Box<EndpointChangeRequest>),
    /// `PATCH /endpoint/{id}`
    EndpointPatch(EndpointRef, Box<EndpointChangeRequest>),
    /// `DELETE /endpoint/{id}`
    EndpointDelete(EndpointRef),
    /// `GET /endpoint/{id}/config`
    EndpointConfig(EndpointRef),
    /// `PATCH /endpoint/{id}/config`
    EndpointConfigPatch(EndpointRef, EndpointConfigurationSpec),
    /// `GET /endpoint/{id}/labels`
    EndpointLabels(EndpointRef),
    /// `PATCH /endpoint/{id}/labels`
    EndpointLabelsPatch(EndpointRef, LabelConfigurationSpec),
    /// `GET /endpoint/{id}/log`
    EndpointLog(EndpointRef),
    /// `GET /endpoint/{id}/healthz`
    EndpointHealth(EndpointRef),
    /// `GET /identity`
    Identities {
        /// See above.
        labels: Labels,
    },
    /// `GET /identity/{id}`
    Identity(u32),
    /// `GET /identity/endpoints`
    IdentityEndpoints,
    /// `POST /ipam`
    AddressAllocate {
        /// `None`: every family that is enabled.
        family: Option<Family>,
        /// Who will hold it.
        owner: String,
        /// Pool; empty: the default one.
        pool: String,
        /// Taken back unless an endpoint claims it within ten minutes.
        expiration: bool,
    },
    /// `POST /ipam/{ip}`
    AddressReserve {
        /// The address.
        ip: IpAddr,
        /// Who will hold it.
        owner: String,
        /// Pool; empty: the default one.
        pool: String,
    },
    /// `DELETE /ipam/{ip}`
    AddressRelease {
        /// The address.
        ip: IpAddr,
        /// Pool; empty: the default one.
        pool: String,
    },
    /// `GET /policy`
    Policy {
        /// Labels of rules.
        labels: Labels,
    },
    /// `PUT /policy`
    PolicyPut {
        /// The body, as sent: rules are parsed by the policy engine, which names what is wrong.
        text: String,
        /// Rules with the same labels are replaced.
        replace: bool,
        /// Rules with all these labels are replaced.
        replace_with_labels: Labels,
    },
    /// `DELETE /policy`
    PolicyDelete {
        /// Labels of rules.
        labels: Labels,
    },
    /// `GET /policy/selectors`
    Selectors,
    /// `POST /policy/explain`
    PolicyExplain(Box<ExplainRequest>),
    /// `POST /policy/preview`
    PolicyPreview(Box<PreviewRequest>),
    /// `POST /policy/lint`
    PolicyLint(LintRequest),
    /// `GET /service`
    Services,
    /// `GET /lrp`
    LocalRedirects,
    /// `GET /service/{id}`
    Service(i64),
    /// `PUT /service/{id}`
    ServicePut(i64, Box<ServiceSpec>),
    /// `DELETE /service/{id}`
    ServiceDelete(i64),
    /// `GET /map`
    Maps,
    /// `GET /map/{name}`
    Map(String),
    /// `GET /ip`
    Prefixes {
        /// Only this prefix and what it contains.
        cidr: Option<String>,
    },
    /// `GET /cluster/nodes`
    Nodes {
        /// A client that asks again gets what changed since.
        client_id: i64,
    },
    /// `GET /metrics/`
    Metrics,
    /// `GET /debuginfo`
    DebugInfo,
}

/// How a caller names an endpoint (reference: endpoint id prefixes).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EndpointRef {
    /// A plain number or `cilium-local:<n>`.
    Local(u16),
    /// `container-id:<id>`
    ContainerId(String),
    /// `container-name:<name>`
    ContainerName(String),
    /// `docker-endpoint:<id>`
    DockerEndpoint(String),
    /// `cep-name:<namespace>/<name>` or `pod-name:<namespace>/<pod>`
    Pod {
        /// Namespace.
        namespace: String,
        /// Name.
        name: String,
    },
    /// `ipv4:<ip>`
    Ipv4(Ipv4Addr),
    /// `ipv6:<ip>`
    Ipv6(Ipv6Addr),
    /// `cni-attachment-id:<containerID>:<ifname>` or the older `cni-attachment-id:<containerID>`
    Attachment(String),
}

/// Why a name names no endpoint.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EndpointRefError {
    /// Nothing there.
    #[error("field id: the endpoint's name is empty; give a number, or PREFIX:NAME such as container-id:0123abcd")]
    Empty,
    /// Not a number within range.
    #[error("field id: {0:?} is no endpoint id: a number from 1 to 65535 is expected")]
    Number(String),
    /// An unknown prefix.
    #[error(
        "field id: unknown prefix {0:?}; known are cilium-local, container-id, container-name, docker-endpoint, pod-name, cep-name, ipv4, ipv6, cni-attachment-id"
    )]
    Prefix(String),
    /// The value does not fit the prefix.
    #[error("field id: {value:?} does not fit the prefix {prefix}: {want} is expected")]
    Value {
        /// Prefix.
        prefix: &'static str,
        /// What was given.
        value: String,
        /// What would fit.
        want: &'static str,
    },
}

impl EndpointRef {
    /// Parses the `{id}` of a path, already unescaped.
    ///
    /// # Errors
    /// See [`EndpointRefError`].
    pub fn parse(text: &str) -> Result<Self, EndpointRefError> {
        let Some((prefix, value)) = text.split_once(':') else {
            return if text.is_empty() { Err(EndpointRefError::Empty) } else { number(text) };
        };
        let filled = |prefix, want| match value {
            "" => Err(EndpointRefError::Value { prefix, value: String::new(), want }),
            value => Ok(value.to_owned()),
        };
        match prefix {
            "cilium-local" => number(value),
            "container-id" => filled("container-id", "a container id").map(Self::ContainerId),
            "container-name" => filled("container-name", "a container name").map(Self::ContainerName),
            "docker-endpoint" => filled("docker-endpoint", "an endpoint id").map(Self::DockerEndpoint),
            "cni-attachment-id" => filled("cni-attachment-id", "CONTAINER-ID:INTERFACE").map(Self::Attachment),
            "pod-name" => pod("pod-name", value),
            "cep-name" => pod("cep-name", value),
            "ipv4" => value.parse().map(Self::Ipv4).map_err(|_| EndpointRefError::Value {
                prefix: "ipv4",
                value: value.into(),
                want: "an IPv4 address",
            }),
            "ipv6" => value.parse().map(Self::Ipv6).map_err(|_| EndpointRefError::Value {
                prefix: "ipv6",
                value: value.into(),
                want: "an IPv6 address",
            }),
            _ => Err(EndpointRefError::Prefix(prefix.to_owned())),
        }
    }
}

fn number(text: &str) -> Result<EndpointRef, EndpointRefError> {
    // `parse` takes a sign; an endpoint id has none.
    match text.parse::<u16>() {
        Ok(id) if id != 0 && text.bytes().all(|b| b.is_ascii_digit()) => Ok(EndpointRef::Local(id)),
        _ => Err(EndpointRefError::Number(text.to_owned())),
    }
}

fn pod(prefix: &'static str, value: &str) -> Result<EndpointRef, EndpointRefError> {
    match value.split_once('/') {
        Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() && !name.contains('/') => {
            Ok(EndpointRef::Pod { namespace: namespace.into(), name: name.into() })
        }
        _ => Err(EndpointRefError::Value { prefix, value: value.into(), want: "NAMESPACE/NAME" }),
    }
}

impl fmt::Display for EndpointRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local(id) => write!(f, "{id}"),
            Self::ContainerId(id) => write!(f, "container-id:{id}"),
            Self::ContainerName(name) => write!(f, "container-name:{name}"),
            Self::DockerEndpoint(id) => write!(f, "docker-endpoint:{id}"),
            Self::Pod { namespace, name } => write!(f, "cep-name:{namespace}/{name}"),
            Self::Ipv4(ip) => write!(f, "ipv4:{ip}"),
            Self::Ipv6(ip) => write!(f, "ipv6:{ip}"),
            Self::Attachment(id) => write!(f, "cni-attachment-id:{id}"),
        }
    }
}
