//! `cilium.io/v2` CiliumLocalRedirectPolicy: traffic to an address or to a service that goes to pods of the same node.
//!
//! A policy is read whole or not at all: half of one would send traffic where nobody asked for it. Every mistake is told
//! at once, each with its place and what to write instead.

mod read;

use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::net::IpAddr;

use serde_json::Value;
use types::Labels;
use types::selector::Selector;

use crate::objects::{Metadata, ObjectError};
use crate::{ServiceName, Transport};

pub(crate) const KIND: &str = "CiliumLocalRedirectPolicy";
const API_VERSION: &str = "cilium.io/v2";

/// A pod of this node, as far as traffic may be redirected to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalPod {
    /// Its namespace and name.
    pub name: ServiceName,
    /// Its labels.
    pub labels: Labels,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
}

/// A port as a policy names it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct RedirectPort {
    /// Its name in lower case; empty: none.
    pub name: Box<str>,
    /// Its number, not 0.
    pub port: u16,
    /// TCP or UDP.
    pub protocol: Transport,
}

/// Which traffic a policy is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RedirectFrom {
    /// Traffic to an address (`addressMatcher`).
    Address {
        /// The address.
        ip: IpAddr,
        /// Its ports, at least one.
        ports: Vec<RedirectPort>,
    },
    /// Traffic to the cluster addresses of a service (`serviceMatcher`).
    Service {
        /// The service.
        name: ServiceName,
        /// Some of its ports; none: all of them.
        ports: Vec<RedirectPort>,
    },
}

/// A policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalRedirect {
    /// Its name and age.
    pub metadata: Metadata,
    /// Which traffic.
    pub from: RedirectFrom,
    /// Which pods of its namespace take it.
    pub selector: Selector,
    /// At which of their ports, at least one.
    pub to: Vec<RedirectPort>,
}

impl LocalRedirect {
    /// Its namespace and name.
    pub fn name(&self) -> ServiceName {
        self.metadata.key()
    }

    /// The service it is about.
    pub fn service(&self) -> Option<&ServiceName> {
        match &self.from {
            RedirectFrom::Service { name, .. } => Some(name),
            RedirectFrom::Address { .. } => None,
        }
    }

    /// Whether traffic may go to this pod.
    pub fn selects(&self, pod: &LocalPod) -> bool {
        pod.name.namespace == self.metadata.namespace && self.selector.matches(&pod.labels)
    }

    /// Which of the pods' ports takes the traffic of a port that is called `name`, one of `count`. One port leads to one
    /// whatever they are called; of several, names decide.
    pub(crate) fn target(&self, name: &str, protocol: Transport, count: usize) -> Result<&RedirectPort, String> {
        let found = match (&*self.to, count) {
            ([only], 1) => only,
            (several, _) => several.iter().find(|port| *port.name == *name && !name.is_empty()).ok_or_else(|| {
                format!("no port of spec.redirectBackend.toPorts is called {name:?}; of several ports, names decide which leads where")
            })?,
        };
        if found.protocol != protocol {
            return Err(format!(
                "it is {protocol}, and port {} of spec.redirectBackend.toPorts is {}",
                found.port, found.protocol
            ));
        }
        Ok(found)
    }

    /// Reads a policy; its kind is known.
    pub(crate) fn read(value: &Value) -> Result<Self, Vec<ObjectError>> {
        let metadata = crate::objects::metadata(KIND, value).map_err(|error| Vec::from([error]))?;
        read::read(value, metadata)
    }
}
