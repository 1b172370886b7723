//! What an endpoint is said to be: by the CNI plugin, by a state file after a restart.

use alloc::boxed::Box;
use alloc::format;
use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};
use types::labels::{CIDR, CIDR_GROUP, FQDN, POD_NAMESPACE, POLICY_CLUSTER, RESERVED};
use types::{Label, Labels, MacAddr};

use crate::EndpointName;

/// The pod an endpoint belongs to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Pod {
    /// Its namespace.
    pub namespace: Box<str>,
    /// Its name.
    pub name: Box<str>,
    /// Its uid; empty: not known.
    #[serde(default)]
    pub uid: Box<str>,
}

/// The container interface an endpoint stands for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Attachment {
    /// `CNI_CONTAINERID`.
    pub container_id: Box<str>,
    /// `CNI_IFNAME`.
    pub ifname: Box<str>,
}

/// Whether packets of the endpoint must come from its own addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SourceCheck {
    /// They must.
    #[default]
    Enforced,
    /// Any source address passes (`disable-sip-verification`).
    Disabled,
}

/// Everything that is said about an endpoint from outside. Empty texts mean "not said".
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct EndpointSpec {
    /// The container interface.
    pub attachment: Option<Attachment>,
    /// Name of the container.
    pub container_name: Box<str>,
    /// Endpoint id of Docker.
    pub docker_endpoint: Box<str>,
    /// The pod.
    pub pod: Option<Pod>,
    /// Host-side interface name.
    pub ifname: Box<str>,
    /// Host-side interface index.
    pub ifindex: u32,
    /// Address of the pod's side.
    pub mac: MacAddr,
    /// Address of the host's side.
    pub host_mac: MacAddr,
    /// IPv4 address.
    pub ipv4: Option<Ipv4Addr>,
    /// IPv6 address.
    pub ipv6: Option<Ipv6Addr>,
    /// Labels as the user gave them.
    pub labels: Labels,
    /// Cookie of the network namespace; 0: not known.
    pub netns_cookie: u64,
    /// Source address check.
    pub source_check: SourceCheck,
}

/// Why labels of a user are not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LabelRefusal {
    /// The source gives rights that a user cannot give.
    #[error("labels[{index}] '{label}': labels of source '{source_name}' are given by the agent alone")]
    Source {
        /// Which one.
        index: usize,
        /// As it was given.
        label: Label,
        /// Its source.
        source_name: Box<str>,
    },
    /// Its key is outside of the grammar.
    #[error(
        "labels[{index}] '{label}': a key has 1 to 317 characters: letters, digits, '-', '_', '.' and '/', beginning \
         and ending with a letter or digit"
    )]
    Key {
        /// Which one.
        index: usize,
        /// As it was given.
        label: Label,
    },
    /// Its value is outside of the grammar.
    #[error("labels[{index}] '{label}': a value has at most 63 letters, digits, '-', '_' and '.'")]
    Value {
        /// Which one.
        index: usize,
        /// As it was given.
        label: Label,
    },
    /// More than the configured bound.
    #[error("an endpoint has at most {max} labels")]
    TooMany {
        /// The bound.
        max: usize,
    },
}

/// Why a specification is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpecRefusal {
    /// A field is missing.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// A label is not acceptable.
    #[error(transparent)]
    Label(#[from] LabelRefusal),
}

impl EndpointSpec {
    /// Checks what cannot be checked by types: an interface, an address, acceptable labels.
    pub fn validate(&self, labels_max: usize) -> Result<(), SpecRefusal> {
        if self.ifindex == 0 {
            return Err(SpecRefusal::Missing("interface-index"));
        }
        if self.ifname.is_empty() {
            return Err(SpecRefusal::Missing("interface-name"));
        }
        if self.ipv4.is_none() && self.ipv6.is_none() {
            return Err(SpecRefusal::Missing("addressing (neither ipv4 nor ipv6)"));
        }
        if self.mac == MacAddr::default() {
            return Err(SpecRefusal::Missing("mac"));
        }
        if self.host_mac == MacAddr::default() {
            return Err(SpecRefusal::Missing("host-mac"));
        }
        Ok(Self::validate_labels(&self.labels, labels_max)?)
    }

    /// Checks labels that come from a user.
    pub fn validate_labels(labels: &Labels, max: usize) -> Result<(), LabelRefusal> {
        if labels.len() > max {
            return Err(LabelRefusal::TooMany { max });
        }
        for (index, label) in labels.iter().enumerate() {
            if matches!(label.source(), RESERVED | CIDR | CIDR_GROUP | FQDN) {
                let source_name = label.source().into();
                return Err(LabelRefusal::Source { index, label: label.clone(), source_name });
            }
            if !key_in_grammar(label.key()) {
                return Err(LabelRefusal::Key { index, label: label.clone() });
            }
            if !value_in_grammar(label.value()) {
                return Err(LabelRefusal::Value { index, label: label.clone() });
            }
        }
        Ok(())
    }

    /// The labels that make its identity: the user's, its namespace's and its cluster's; `reserved:init` while the user
    /// has given none.
    pub fn identity_labels(&self, cluster: &str) -> Labels {
        if self.labels.is_empty() {
            return [Label::reserved("init")].into_iter().collect();
        }
        let mut labels = self.labels.clone();
        if let Some(pod) = &self.pod {
            for (key, value) in [(POD_NAMESPACE, &*pod.namespace), (POLICY_CLUSTER, cluster)] {
                if !labels.iter().any(|label| label.key() == key) {
                    labels.insert(Label::k8s(key, value));
                }
            }
        }
        labels
    }

    /// Its addresses, IPv4 first.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.ipv4.map(IpAddr::V4).into_iter().chain(self.ipv6.map(IpAddr::V6))
    }

    /// `NAMESPACE/NAME` of its pod.
    pub fn pod_name(&self) -> Option<Box<str>> {
        self.pod.as_ref().map(|pod| format!("{}/{}", pod.namespace, pod.name).into())
    }

    /// `CONTAINER:INTERFACE`.
    pub fn attachment_id(&self) -> Option<Box<str>> {
        self.attachment.as_ref().map(|at| format!("{}:{}", at.container_id, at.ifname).into())
    }

    /// Every name but the number that leads to this endpoint and to no other.
    pub(crate) fn names(&self) -> Vec<EndpointName> {
        let mut names: Vec<_> = self.addresses().map(EndpointName::Ip).collect();
        names.extend(self.attachment_id().map(EndpointName::Attachment));
        if !self.container_name.is_empty() {
            names.push(EndpointName::ContainerName(self.container_name.clone()));
        }
        if !self.docker_endpoint.is_empty() {
            names.push(EndpointName::DockerEndpoint(self.docker_endpoint.clone()));
        }
        names
    }
}

fn key_in_grammar(key: &str) -> bool {
    let word = |text: &str, max: usize| {
        let inside = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
        let edge = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
        let bytes = text.as_bytes();
        bytes.len() <= max && edge(bytes.first()) && edge(bytes.last()) && bytes.iter().all(|b| inside(*b))
    };
    match key.rsplit_once('/') {
        Some((prefix, name)) => prefix.len() <= 253 && prefix.split('/').all(|part| word(part, 253)) && word(name, 63),
        None => word(key, 253),
    }
}

fn value_in_grammar(value: &str) -> bool {
    value.len() <= 63 && value.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}
