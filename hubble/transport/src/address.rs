//! Where a server is, as people and peer services write it.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    str::FromStr as _,
};

/// Where a server is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Address {
    /// A unix socket.
    Unix(PathBuf),
    /// A TCP port of a host, by name or number.
    Tcp {
        /// Name or address, an IPv6 address without brackets.
        host: String,
        /// Port.
        port: u16,
    },
}

/// Not an address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no address: want host:port, an IP address or unix:///path")]
pub struct AddressError {
    /// What was given.
    pub text: String,
}

impl Address {
    /// Reads `unix://path`, an absolute path that ends in `.sock`, `ip`, `ip:port` or `host:port`. A bare IP address
    /// means `default_port`.
    ///
    /// # Errors
    /// When it is none of them.
    pub fn parse(text: &str, default_port: u16) -> Result<Self, AddressError> {
        let bad = || AddressError { text: text.to_owned() };
        let path = text.strip_prefix("unix://").or_else(|| text.strip_prefix("unix:"));
        if let Some(path) = path.or_else(|| (text.starts_with('/') && text.ends_with(".sock")).then_some(text)) {
            return if path.is_empty() { Err(bad()) } else { Ok(Self::Unix(path.into())) };
        }
        let text = text.strip_prefix("dns:///").or_else(|| text.strip_prefix("passthrough:///")).unwrap_or(text);
        let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
        if let Ok(ip) = IpAddr::from_str(bare) {
            return Ok(Self::Tcp { host: ip.to_string(), port: default_port });
        }
        if let Ok(socket) = SocketAddr::from_str(text) {
            return Ok(Self::Tcp { host: socket.ip().to_string(), port: socket.port() });
        }
        let (host, port) = text.rsplit_once(':').ok_or_else(bad)?;
        let named = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if host.is_empty() || !host.chars().all(named) {
            return Err(bad());
        }
        Ok(Self::Tcp { host: host.to_owned(), port: port.parse().map_err(|_| bad())? })
    }

    /// What stands in a request's `:authority`.
    pub(crate) fn authority(&self) -> String {
        match self {
            Self::Unix(_) => "localhost".into(),
            Self::Tcp { .. } => self.to_string(),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "{host}:{port}"),
        }
    }
}

/// The name a node's server must have in its certificate: `<node>.<cluster>.hubble-grpc.cilium.io`, dots in either name
/// as dashes. No name for no node.
pub fn server_name(node: &str, cluster: &str) -> String {
    if node.is_empty() {
        return String::new();
    }
    let cluster = if cluster.is_empty() { "default" } else { cluster };
    format!("{}.{}.hubble-grpc.cilium.io", node.replace('.', "-"), cluster.replace('.', "-"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_as_people_write_them() {
        for (text, want) in [
            ("unix:///run/hubble.sock", Some("unix:///run/hubble.sock")),
            ("/run/hubble.sock", Some("unix:///run/hubble.sock")),
            ("10.0.0.1", Some("10.0.0.1:4244")),
            ("10.0.0.1:1", Some("10.0.0.1:1")),
            ("fd00::1", Some("[fd00::1]:4244")),
            ("[fd00::1]", Some("[fd00::1]:4244")),
            ("[fd00::1]:80", Some("[fd00::1]:80")),
            ("hubble-peer.kube-system.svc.cluster.local.:443", Some("hubble-peer.kube-system.svc.cluster.local.:443")),
            ("dns:///relay:80", Some("relay:80")),
            ("/run/hubble", None),
            ("unix://", None),
            ("relay", None),
            ("relay:port", None),
            ("re lay:80", None),
            ("", None),
        ] {
            let got = Address::parse(text, 4244).ok().map(|address| address.to_string());
            assert_eq!(got.as_deref(), want, "{text}");
        }
    }

    #[test]
    fn server_names_are_the_references() {
        assert_eq!(server_name("node-1.zone.a", "my.cluster"), "node-1-zone-a.my-cluster.hubble-grpc.cilium.io");
        assert_eq!(server_name("n", ""), "n.default.hubble-grpc.cilium.io");
        assert_eq!(server_name("", "c"), "");
    }
}
