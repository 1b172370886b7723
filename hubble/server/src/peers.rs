//! Which nodes there are, for those who ask the peer service.
//!
//! Whoever knows nodes keeps a table of them ([`PeerSource`]); what changed is found by comparing two tables, so a client
//! that is slow misses steps in between but never the outcome, and nothing is queued for it.

mod file;

pub use file::{PeerFile, PeerFileError};

use crate::Config;
use hubble_api::{
    observer,
    peer::{ChangeNotification, ChangeNotificationType, Tls},
};
use std::{collections::BTreeMap, sync::Arc};
use tokio::sync::watch;

/// A node with a Hubble server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Its name: `node`, or `cluster/node` when the cluster is not `default`.
    pub name: String,
    /// Where its server is: `ip:port`, or `unix://path`.
    pub address: String,
    /// The name its certificate carries; none when it serves without TLS.
    pub server_name: Option<String>,
}

impl Peer {
    fn change(&self, kind: ChangeNotificationType) -> ChangeNotification {
        ChangeNotification {
            name: self.name.clone(),
            address: self.address.clone(),
            r#type: kind.into(),
            tls: self.server_name.clone().map(|server_name| Tls { server_name }),
        }
    }

    pub(crate) fn tls(&self) -> observer::Tls {
        observer::Tls { enabled: self.server_name.is_some(), server_name: self.server_name.clone().unwrap_or_default() }
    }
}

/// Nodes by name.
pub type PeerTable = BTreeMap<String, Peer>;

/// Somebody who knows which nodes there are.
pub trait PeerSource: Send + Sync + 'static {
    /// The nodes known now, and every later change. `this` is the node itself, which need not be known otherwise.
    fn peers(&self, this: &Peer) -> watch::Receiver<Arc<PeerTable>>;
}

/// A node that knows of no other.
#[derive(Debug, Clone, Copy, Default)]
pub struct Alone;

impl PeerSource for Alone {
    fn peers(&self, this: &Peer) -> watch::Receiver<Arc<PeerTable>> {
        watch::channel(Arc::new(PeerTable::from([(this.name.clone(), this.clone())]))).1
    }
}

/// The server name of a node as peers name it (`node` or `cluster/node`).
pub(crate) fn server_name(peer_name: &str) -> String {
    let (cluster, node) = peer_name.split_once('/').unwrap_or(("default", peer_name));
    hubble_transport::server_name(node, cluster)
}

/// This node as others see it.
pub(crate) fn this_node(config: &Config, address: String, tls: bool) -> Peer {
    let name = config.peer_name();
    Peer { server_name: tls.then(|| server_name(&name)), name, address }
}

/// What a client that knew `before` must be told to know `now`. Whoever went is told first.
pub(crate) fn changes(before: &PeerTable, now: &PeerTable) -> Vec<ChangeNotification> {
    use ChangeNotificationType::{PeerAdded, PeerDeleted, PeerUpdated};
    let gone = before.values().filter(|peer| !now.contains_key(&peer.name)).map(|peer| peer.change(PeerDeleted));
    let here = now.values().filter_map(|peer| match before.get(&peer.name) {
        None => Some(peer.change(PeerAdded)),
        Some(known) => (known != peer).then(|| peer.change(PeerUpdated)),
    });
    gone.chain(here).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_what_differs() {
        let peer = |name: &str, address: &str| Peer { name: name.into(), address: address.into(), server_name: None };
        let table = |peers: &[Peer]| -> PeerTable { peers.iter().map(|p| (p.name.clone(), p.clone())).collect() };
        let said = |before: &PeerTable, now: &PeerTable| -> Vec<String> {
            changes(before, now)
                .iter()
                .map(|c| format!("{} {} {}", c.r#type().as_str_name(), c.name, c.address))
                .collect()
        };
        let before = table(&[peer("a", "10.0.0.1:4244"), peer("b", "10.0.0.2:4244")]);
        assert_eq!(said(&PeerTable::new(), &before), ["PEER_ADDED a 10.0.0.1:4244", "PEER_ADDED b 10.0.0.2:4244"]);
        assert!(said(&before, &before).is_empty());
        let now = table(&[peer("b", "10.0.0.3:4244"), peer("c", "10.0.0.1:4244")]);
        assert_eq!(
            said(&before, &now),
            ["PEER_DELETED a 10.0.0.1:4244", "PEER_UPDATED b 10.0.0.3:4244", "PEER_ADDED c 10.0.0.1:4244"]
        );
    }

    #[test]
    fn names_in_certificates_follow_the_cluster() {
        assert_eq!(server_name("n.1"), "n-1.default.hubble-grpc.cilium.io");
        assert_eq!(server_name("c.1/n"), "n.c-1.hubble-grpc.cilium.io");
    }
}
