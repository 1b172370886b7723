//! Responses as bytes, written from events without a message in between where one is there already.

use hubble_api::{
    Timestamp,
    flow::{Flow, LostEvent},
    json::{Mask, Message as _},
    observer::{GetFlowsResponse, get_flows_response::ResponseTypes},
};
use hubble_model::{Event, NodeInfo};
use prost::{Message as _, bytes::Bytes};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

/// Keys of the fields of `GetFlowsResponse`: number and form.
const FLOW: &[u8] = &[0x0a];
const NODE_NAME: &[u8] = &[0xc2, 0x3e];
const TIME: &[u8] = &[0xca, 0x3e];
/// What the response has beside flow and node name, at most.
const REST_BYTES: usize = 64;

/// The response with a flow, of which a mask leaves some fields; none for an event that is no flow.
pub(crate) fn flow(event: &Event, node: &NodeInfo, mask: Option<&Mask>) -> Option<Bytes> {
    if let (Event::Flow(flow), None) = (event, mask) {
        return Some(around(flow));
    }
    let mut flow = event.to_flow(node)?;
    if let Some(mask) = mask {
        flow.retain(mask);
    }
    Some(around(&flow))
}

/// Responses kept for others, at most: streams that are behind are apart by no more than a few windows of HTTP/2.
const MADE_MAX: usize = 4_096;

/// Responses made for one stream that others ask for as well: most streams want the same flows with one of few masks.
#[derive(Debug)]
pub(crate) struct Made {
    slots: Mutex<Box<[Option<Response>]>>,
    masks: Mutex<Vec<Weak<Mask>>>,
}

#[derive(Debug)]
struct Response {
    /// Held, so that its address is no other event's.
    event: Arc<Event>,
    mask: Option<Arc<Mask>>,
    bytes: Bytes,
}

impl Default for Made {
    fn default() -> Self {
        let slots: Vec<_> = (0..MADE_MAX).map(|_| None).collect();
        Self { slots: Mutex::new(slots.into()), masks: Mutex::default() }
    }
}

impl Made {
    /// Whoever panicked with a lock has broken nothing: what it guards is valid after every statement.
    fn slots(&self) -> MutexGuard<'_, Box<[Option<Response>]>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The mask as other streams have it, if one does.
    pub fn mask(&self, mask: Mask) -> Arc<Mask> {
        let mut masks = self.masks.lock().unwrap_or_else(PoisonError::into_inner);
        masks.retain(|known| known.strong_count() > 0);
        if let Some(known) = masks.iter().filter_map(Weak::upgrade).find(|known| **known == mask) {
            return known;
        }
        let mask = Arc::new(mask);
        masks.push(Arc::downgrade(&mask));
        mask
    }

    /// The same as [`flow`], looked for before it is made.
    pub fn flow(&self, event: &Arc<Event>, node: &NodeInfo, mask: Option<&Arc<Mask>>) -> Option<Bytes> {
        let mask_at = mask.map_or(0, |mask| Arc::as_ptr(mask).addr());
        // What is allocated lies at multiples of 16.
        let slot = (Arc::as_ptr(event).addr() >> 4 ^ mask_at >> 6) % MADE_MAX;
        if let Some(made) = &self.slots()[slot]
            && Arc::ptr_eq(&made.event, event)
            && made.mask.as_ref().map(Arc::as_ptr) == mask.map(Arc::as_ptr)
        {
            return Some(made.bytes.clone());
        }
        let bytes = flow(event, node, mask.map(|mask| &**mask))?;
        let made = Response { event: Arc::clone(event), mask: mask.cloned(), bytes: bytes.clone() };
        let replaced = self.slots()[slot].replace(made);
        drop(replaced); // Freed outside the lock.
        Some(bytes)
    }

    /// Forgets all, when nobody is left who could ask again.
    pub fn clear(&self) {
        self.slots().fill_with(|| None);
    }
}

fn around(flow: &Flow) -> Bytes {
    let length = flow.encoded_len();
    let mut bytes = Vec::with_capacity(length + flow.node_name.len() + REST_BYTES);
    bytes.extend_from_slice(FLOW);
    let fits = "a vector grows";
    prost::encode_length_delimiter(length, &mut bytes).expect(fits);
    flow.encode_raw(&mut bytes);
    if !flow.node_name.is_empty() {
        bytes.extend_from_slice(NODE_NAME);
        prost::encode_length_delimiter(flow.node_name.len(), &mut bytes).expect(fits);
        bytes.extend_from_slice(flow.node_name.as_bytes());
    }
    if let Some(time) = &flow.time {
        bytes.extend_from_slice(TIME);
        time.encode_length_delimited(&mut bytes).expect(fits);
    }
    bytes.into()
}

/// The response that tells of a loss.
pub(crate) fn lost(event: LostEvent, node: &NodeInfo, time: Option<Timestamp>) -> Bytes {
    let response_types = Some(ResponseTypes::LostEvents(event));
    GetFlowsResponse { node_name: node.name.clone(), time, response_types }.encode_to_vec().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use hubble_api::flow::Endpoint;

    #[test]
    fn what_is_written_is_the_message() {
        let named = |name: &str, time| Flow {
            uuid: "u".repeat(300),
            node_name: name.into(),
            time,
            source: Some(Endpoint { id: 7, pod_name: "web".into(), ..Endpoint::default() }),
            ..Flow::default()
        };
        let node = NodeInfo { name: "default/n".into(), labels: Vec::new() };
        let mask = Mask::new::<Flow>(&["source.pod_name".to_owned(), "time".to_owned()]).expect("fields of a flow");
        for (name, time) in [("default/n", Some(Timestamp { seconds: 7, nanos: 9 })), ("", None)] {
            for mask in [None, Some(&mask)] {
                let mut flow = named(name, time);
                let bytes = super::flow(&Event::Flow(Box::new(flow.clone())), &node, mask).expect("a flow");
                mask.into_iter().for_each(|mask| flow.retain(mask));
                let want = GetFlowsResponse {
                    node_name: flow.node_name.clone(),
                    time: flow.time,
                    response_types: Some(ResponseTypes::Flow(flow)),
                };
                assert_eq!(bytes, want.encode_to_vec(), "{want:?}");
            }
        }
        let made = Made::default();
        let mask = made.mask(mask);
        assert!(Arc::ptr_eq(&mask, &made.mask((*mask).clone())), "streams with the same mask share it");
        let event = Arc::new(Event::Flow(Box::new(named("n", None))));
        for mask in [None, Some(&mask)] {
            let want = super::flow(&event, &node, mask.map(|mask| &**mask)).expect("a flow");
            let first = made.flow(&event, &node, mask).expect("a flow");
            let second = made.flow(&event, &node, mask).expect("a flow");
            assert_eq!((&first, first.as_ptr()), (&want, second.as_ptr()), "made once");
        }
        assert_eq!(super::flow(&Event::Lost { time_ns: 1, event: LostEvent::default() }, &node, None), None);
    }
}
