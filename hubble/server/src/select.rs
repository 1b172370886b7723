//! What a stream is of: flows, events of the agent, or debug messages.

use crate::{encode, flows::Window, observer::Shared};
use hubble_api::{
    Timestamp,
    flow::{AgentEvent, DebugEvent, LostEvent, LostEventSource},
    json::Mask,
    observer::{GetAgentEventsResponse, GetDebugEventsResponse},
    time,
};
use hubble_model::{Event, FilterList, Interest, Kinds};
use prost::bytes::Bytes;
use std::sync::{Arc, atomic::Ordering};

/// What kind of event a stream is of.
pub(crate) trait Select: Send + Sync + 'static {
    type Response: Send;
    fn wants(&self, event: &Event, shared: &Shared) -> bool;
    fn response(&self, event: &Arc<Event>, shared: &Shared) -> Option<Self::Response>;
    fn lost(&self, event: LostEvent, at_ns: i64, shared: &Shared) -> Option<Self::Response>;
    /// Whether an event asked for may have been in a loss that was noticed then.
    fn is_concerned(&self, _: &LostEvent, _: i64, _: &Window) -> bool {
        false
    }
    /// Whether an event asked for may have been among flows of these kinds.
    fn may_be_in(&self, _: Kinds) -> bool {
        false
    }
    /// What to ask history for; none of what history does not keep.
    fn filters(&self) -> Option<Arc<FilterList>> {
        None
    }
}

pub(crate) fn timestamp(ns: i64) -> Option<Timestamp> {
    Some(time::from_nanos(ns.into()))
}

/// Flows through filters, thinned by a mask.
pub(crate) struct Flows {
    pub filters: Arc<FilterList>,
    pub mask: Option<Arc<Mask>>,
    pub interest: Interest,
}

impl Select for Flows {
    /// Encoded: it is made to be sent.
    type Response = Bytes;

    fn wants(&self, event: &Event, shared: &Shared) -> bool {
        event.is_asked_for(&self.filters, &shared.node)
    }

    fn response(&self, event: &Arc<Event>, shared: &Shared) -> Option<Bytes> {
        // Alone, nobody else will ask for it.
        match shared.streams.load(Ordering::Relaxed) {
            ..=1 => encode::flow(event, &shared.node, self.mask.as_deref()),
            _ => shared.made.flow(event, &shared.node, self.mask.as_ref()),
        }
    }

    fn lost(&self, event: LostEvent, at_ns: i64, shared: &Shared) -> Option<Bytes> {
        Some(encode::lost(event, &shared.node, timestamp(at_ns)))
    }

    fn is_concerned(&self, event: &LostEvent, at_ns: i64, window: &Window) -> bool {
        // Flows of the proxy take another way than those of the kernel.
        let of_the_kernel = event.source() != LostEventSource::HubbleRingBuffer;
        window.touches(event, at_ns) && (!of_the_kernel || self.interest.may_be_in(Kinds::OF_THE_KERNEL))
    }

    fn may_be_in(&self, kinds: Kinds) -> bool {
        self.interest.may_be_in(kinds)
    }

    fn filters(&self) -> Option<Arc<FilterList>> {
        Some(Arc::clone(&self.filters))
    }
}

/// Events of the agent.
pub(crate) struct AgentEvents;

impl Select for AgentEvents {
    type Response = GetAgentEventsResponse;

    fn wants(&self, event: &Event, _: &Shared) -> bool {
        matches!(event, Event::Agent { .. })
    }

    fn response(&self, event: &Arc<Event>, shared: &Shared) -> Option<GetAgentEventsResponse> {
        let Event::Agent { time_ns, event } = &**event else { return None };
        let agent_event: AgentEvent = event.as_ref().clone();
        Some(GetAgentEventsResponse {
            agent_event: Some(agent_event),
            node_name: shared.node.name.clone(),
            time: timestamp(*time_ns),
        })
    }

    fn lost(&self, _: LostEvent, _: i64, _: &Shared) -> Option<GetAgentEventsResponse> {
        None
    }
}

/// Debug messages of the datapath.
pub(crate) struct DebugEvents;

impl Select for DebugEvents {
    type Response = GetDebugEventsResponse;

    fn wants(&self, event: &Event, _: &Shared) -> bool {
        matches!(event, Event::Debug { .. })
    }

    fn response(&self, event: &Arc<Event>, shared: &Shared) -> Option<GetDebugEventsResponse> {
        let Event::Debug { time_ns, event } = &**event else { return None };
        let debug_event: DebugEvent = event.as_ref().clone();
        Some(GetDebugEventsResponse {
            debug_event: Some(debug_event),
            node_name: shared.node.name.clone(),
            time: timestamp(*time_ns),
        })
    }

    fn lost(&self, _: LostEvent, _: i64, _: &Shared) -> Option<GetDebugEventsResponse> {
        None
    }
}
