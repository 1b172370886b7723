//! L7 rules: what is checked inside a connection, by a proxy. Data only; matching belongs to the proxy.

use alloc::{boxed::Box, collections::BTreeMap, vec::Vec};
use core::fmt;

/// Which parser reads the connection.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum L7Parser {
    /// HTTP/1 and HTTP/2.
    Http,
    /// Kafka.
    Kafka,
    /// DNS.
    Dns,
    /// TLS, for server names only.
    Tls,
    /// A listener of a CiliumEnvoyConfig.
    Crd,
    /// Another, by its name in `l7proto`.
    Custom(Box<str>),
}

impl L7Parser {
    /// Its name as upstream prints it.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Http => "http",
            Self::Kafka => "kafka",
            Self::Dns => "dns",
            Self::Tls => "tls",
            Self::Crd => "crd",
            Self::Custom(name) => name,
        }
    }
}

impl fmt::Display for L7Parser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The L7 part of a port rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct L7Rules {
    /// Which parser.
    pub parser: L7Parser,
    /// HTTP rules, one of which a request must match.
    pub http: Vec<HttpRule>,
    /// Kafka rules.
    pub kafka: Vec<KafkaRule>,
    /// DNS rules: each a name or a pattern.
    pub dns: Vec<DnsRule>,
    /// Rules of a custom parser.
    pub custom: Vec<BTreeMap<Box<str>, Box<str>>>,
    /// TLS server names that are let through; empty means any.
    pub server_names: Vec<Box<str>>,
    /// The listener traffic is sent to, if the rule names one.
    pub listener: Option<Listener>,
}

/// `toPorts[].listener`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listener {
    /// Kind of the object that has it.
    pub kind: Box<str>,
    /// Name of that object.
    pub config: Box<str>,
    /// Name of the listener.
    pub name: Box<str>,
    /// Lower wins, 0 is the highest.
    pub priority: u8,
}

/// One HTTP rule; what is empty matches anything.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HttpRule {
    /// Regular expression over the whole path and query.
    pub path: Box<str>,
    /// Regular expression over the whole method.
    pub method: Box<str>,
    /// Regular expression over the whole authority.
    pub host: Box<str>,
    /// `Name: value` or `Name`.
    pub headers: Vec<Box<str>>,
    /// Headers with an action on mismatch.
    pub header_matches: Vec<HeaderMatch>,
}

/// `headerMatches` entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeaderMatch {
    /// Header name.
    pub name: Box<str>,
    /// Wanted value; empty: presence only.
    pub value: Box<str>,
    /// Namespace and name of the secret that holds the wanted value.
    pub secret: Option<(Box<str>, Box<str>)>,
    /// What happens on mismatch.
    pub mismatch: Mismatch,
}

/// What happens when a header does not match.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mismatch {
    /// The request is refused.
    Fail,
    /// It is logged.
    Log,
    /// The header is added.
    Add,
    /// The header is removed.
    Delete,
    /// The header is replaced.
    Replace,
}

/// One Kafka rule; what is absent matches anything.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct KafkaRule {
    /// API keys it is about; empty: all.
    pub api_keys: Vec<i16>,
    /// API version.
    pub api_version: Option<i16>,
    /// Client id.
    pub client_id: Box<str>,
    /// Topic.
    pub topic: Box<str>,
}

/// One DNS rule.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum DnsRule {
    /// Exactly this name.
    Name(Box<str>),
    /// Names that match this pattern.
    Pattern(Box<str>),
}
