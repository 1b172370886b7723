//! What the agent tells Hubble about itself.

use std::{net::IpAddr, time::Duration};

/// Settings of an observer. Defaults are the original's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Name of this node.
    pub node_name: String,
    /// Name of the cluster; `default` is left out of peer names.
    pub cluster_name: String,
    /// Labels of this node, `key=value`.
    pub node_labels: Vec<String>,
    /// Address under which other nodes reach this one; announced by the peer service.
    pub node_ip: Option<IpAddr>,
    /// Shown by `hubble status` and in the `hubble-server-version` header.
    pub version: String,
    /// Events the ring holds (`--hubble-event-buffer-capacity`).
    pub ring_capacity: usize,
    /// How often a reader that is too slow is told of its losses, at most.
    pub lost_event_interval: Duration,
    /// How long a namespace stays listed after its last flow.
    pub namespace_ttl: Duration,
    /// How many streams may be open at once; more are refused.
    pub streams_max: usize,
    /// How many events may be set aside for a stream that follows and is not read; beyond it the oldest is given up.
    pub observer_queue_max: usize,
    /// How many events of the past all open streams may hold together, each for every stream that holds it. What they
    /// hold stays in memory after the ring has overwritten it, so beyond it further questions are refused. As many again
    /// may be set aside for followers, who then give up early.
    pub held_events_max: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            node_name: String::new(),
            cluster_name: "default".into(),
            node_labels: Vec::new(),
            node_ip: None,
            version: env!("CARGO_PKG_VERSION").into(),
            ring_capacity: 4095,
            lost_event_interval: Duration::from_secs(1),
            namespace_ttl: Duration::from_secs(3_600),
            streams_max: 2_048,
            observer_queue_max: 4_095,
            held_events_max: 1 << 20,
        }
    }
}

impl Config {
    /// The node as flows name it: `cluster/node`.
    pub(crate) fn flow_node_name(&self) -> String {
        format!("{}/{}", self.cluster_name, self.node_name)
    }

    /// The node as peers name it: without the cluster when that is `default`.
    pub(crate) fn peer_name(&self) -> String {
        if self.cluster_name == "default" { self.node_name.clone() } else { self.flow_node_name() }
    }
}
