//! What the ring holds.

use crate::{FlowRecord, NodeInfo};
use alloc::boxed::Box;
use hubble_api::{flow, time};

/// One entry of the ring.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// A flow as the datapath reported it.
    Record(FlowRecord),
    /// A flow that came as a whole: from the proxy, or from a file.
    Flow(Box<flow::Flow>),
    /// Events that were lost before they came here.
    Lost {
        /// Nanoseconds since 1970.
        time_ns: i64,
        /// What was lost.
        event: flow::LostEvent,
    },
    /// Something happened in the agent.
    Agent {
        /// Nanoseconds since 1970.
        time_ns: i64,
        /// What happened.
        event: Box<flow::AgentEvent>,
    },
    /// The datapath said something while debugging.
    Debug {
        /// Nanoseconds since 1970.
        time_ns: i64,
        /// What it said.
        event: Box<flow::DebugEvent>,
    },
}

impl Event {
    /// When it happened, nanoseconds since 1970.
    pub fn time_ns(&self) -> i64 {
        match self {
            Self::Record(record) => record.time_ns,
            Self::Flow(flow) => {
                let at = flow.time.as_ref().map_or(0, time::nanos);
                i64::try_from(at).unwrap_or(if at < 0 { i64::MIN } else { i64::MAX })
            }
            Self::Lost { time_ns, .. } | Self::Agent { time_ns, .. } | Self::Debug { time_ns, .. } => *time_ns,
        }
    }

    /// True for flows of either form.
    pub fn is_flow(&self) -> bool {
        matches!(self, Self::Record(_) | Self::Flow(_))
    }

    /// The protobuf message, when the event is a flow.
    pub fn to_flow(&self, node: &NodeInfo) -> Option<flow::Flow> {
        match self {
            Self::Record(record) => Some(record.to_flow(node)),
            Self::Flow(flow) => Some(flow.as_ref().clone()),
            _ => None,
        }
    }
}

impl Event {
    /// True when the event is a flow that the filters let pass. No message is built to find out.
    pub fn is_asked_for(&self, filters: &crate::FilterList, node: &NodeInfo) -> bool {
        match self {
            Self::Record(record) => filters.matches(&crate::Seen { record, node }),
            Self::Flow(flow) => filters.matches(flow.as_ref()),
            _ => false,
        }
    }
}
