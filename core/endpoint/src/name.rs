//! The names an endpoint is asked for by (reference: endpoint id prefixes of the API).

use alloc::boxed::Box;
use core::fmt;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use core::str::FromStr;

use types::EndpointId;

/// One way to name an endpoint.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EndpointName {
    /// `42` or `cilium-local:42`.
    Id(EndpointId),
    /// `container-id:…`: the first endpoint of the container.
    ContainerId(Box<str>),
    /// `container-name:…`
    ContainerName(Box<str>),
    /// `docker-endpoint:…`
    DockerEndpoint(Box<str>),
    /// `cep-name:NAMESPACE/NAME` or, in the old spelling, `pod-name:NAMESPACE/NAME`.
    Pod(Box<str>),
    /// `ipv4:…` or `ipv6:…`
    Ip(IpAddr),
    /// `cni-attachment-id:CONTAINER:INTERFACE`
    Attachment(Box<str>),
}

/// Why a text names no endpoint.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// The part after the prefix is no endpoint number.
    #[error("an endpoint number is from 1 to 65535")]
    Number,
    /// The part after `ipv4:` or `ipv6:` is no address of that family.
    #[error("'{0}:' must be followed by an address of that family")]
    Address(&'static str),
    /// The part after the prefix is missing or malformed.
    #[error("'{0}:' must be followed by {1}")]
    Form(&'static str, &'static str),
    /// The prefix is not known.
    #[error(
        "unknown prefix; use a number, cilium-local:, container-id:, container-name:, docker-endpoint:, cep-name:, \
         pod-name:, ipv4:, ipv6: or cni-attachment-id:"
    )]
    Prefix,
    /// The endpoint is another node's.
    #[error("cilium-global: names endpoints of other nodes, which this agent does not manage")]
    Global,
}

impl FromStr for EndpointName {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        let Some((prefix, rest)) = text.split_once(':') else {
            return text.parse().map(Self::Id).map_err(|_| NameError::Number);
        };
        let named = |prefix: &'static str, what: &'static str| {
            if rest.is_empty() { Err(NameError::Form(prefix, what)) } else { Ok(Box::<str>::from(rest)) }
        };
        let pod = |prefix: &'static str| match rest.split_once('/') {
            Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() => Ok(Self::Pod(rest.into())),
            _ => Err(NameError::Form(prefix, "NAMESPACE/NAME")),
        };
        match prefix {
            "cilium-local" => rest.parse().map(Self::Id).map_err(|_| NameError::Number),
            "cilium-global" => Err(NameError::Global),
            "container-id" => named("container-id", "a container id").map(Self::ContainerId),
            "container-name" => named("container-name", "a container name").map(Self::ContainerName),
            "docker-endpoint" => named("docker-endpoint", "an endpoint id").map(Self::DockerEndpoint),
            "cep-name" => pod("cep-name"),
            "pod-name" => pod("pod-name"),
            "ipv4" => rest.parse::<Ipv4Addr>().map(|ip| Self::Ip(ip.into())).map_err(|_| NameError::Address("ipv4")),
            "ipv6" => rest.parse::<Ipv6Addr>().map(|ip| Self::Ip(ip.into())).map_err(|_| NameError::Address("ipv6")),
            "cni-attachment-id" => match rest.rsplit_once(':') {
                Some((container, ifname)) if !container.is_empty() && !ifname.is_empty() => {
                    Ok(Self::Attachment(rest.into()))
                }
                _ => Err(NameError::Form("cni-attachment-id", "CONTAINER:INTERFACE")),
            },
            _ => Err(NameError::Prefix),
        }
    }
}

impl fmt::Display for EndpointName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id(id) => write!(f, "{id}"),
            Self::ContainerId(id) => write!(f, "container-id:{id}"),
            Self::ContainerName(name) => write!(f, "container-name:{name}"),
            Self::DockerEndpoint(id) => write!(f, "docker-endpoint:{id}"),
            Self::Pod(pod) => write!(f, "cep-name:{pod}"),
            Self::Ip(IpAddr::V4(ip)) => write!(f, "ipv4:{ip}"),
            Self::Ip(IpAddr::V6(ip)) => write!(f, "ipv6:{ip}"),
            Self::Attachment(attachment) => write!(f, "cni-attachment-id:{attachment}"),
        }
    }
}
