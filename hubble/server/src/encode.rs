//! Responses as bytes, written from events without a message in between where one is there already.

use hubble_api::{
    Timestamp,
    flow::{Flow, LostEvent},
    json::{Mask, Message as _},
    observer::{GetFlowsResponse, get_flows_response::ResponseTypes},
};
use hubble_model::{Event, NodeInfo};
use prost::{Message as _, bytes::Bytes};

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
        assert_eq!(super::flow(&Event::Lost { time_ns: 1, event: LostEvent::default() }, &node, None), None);
    }
}
