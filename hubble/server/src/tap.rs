//! Who else sees events: metrics, exports, history; and where events older than the ring come from.

use crate::Config;
use hubble_model::{Event, FilterList, NodeInfo, redact::Redact};
use std::{fmt::Debug, sync::Arc};

/// Sees every event, in the thread that published it: must not wait for anything.
pub trait Tap: Debug + Send + Sync {
    /// An event that now stands at this position of the ring.
    fn event(&self, position: u64, event: &Arc<Event>, node: &NodeInfo);
}

/// What a request wants of the time before the ring.
#[derive(Debug, Clone)]
pub struct Past {
    /// Events before this time are not wanted, nanoseconds since 1970.
    pub since_ns: Option<i64>,
    /// Events after this time are not wanted.
    pub until_ns: Option<i64>,
    /// Events of this life of the agent from this ring position on are not wanted: the ring has them.
    pub before: u64,
    /// Only so many of the newest that match; none: all.
    pub last: Option<u64>,
    /// Which flows.
    pub filters: Arc<FilterList>,
}

/// Keeps flows for longer than the ring does.
pub trait History: Debug + Send + Sync {
    /// Starts to read, oldest first. May wait for what was published before to be readable; is called where blocking is
    /// allowed.
    fn read(&self, past: Past) -> Box<dyn Pages>;
}

/// A reading of the past under way.
pub trait Pages: Send {
    /// The next flows that match; a page may be empty. None at the end. Does a bounded piece of work on the disk, where
    /// blocking is allowed.
    fn next_page(&mut self) -> Option<Page>;
}

/// A piece of the past.
#[derive(Debug, Default)]
pub struct Page {
    /// Flows, oldest first.
    pub events: Vec<Arc<Event>>,
    /// Flows that should be there and cannot be read.
    pub lost: u64,
}

/// What an observer has besides its ring.
#[derive(Debug, Clone, Default)]
pub struct Extras {
    /// Who sees every event.
    pub taps: Vec<Arc<dyn Tap>>,
    /// Where older flows are.
    pub history: Option<Arc<dyn History>>,
    /// What is taken out of flows before anybody sees them.
    pub redact: Option<Redact>,
}

impl Config {
    /// The node as flows name it.
    pub fn node(&self) -> NodeInfo {
        NodeInfo { name: self.flow_node_name(), labels: self.node_labels.clone() }
    }
}
