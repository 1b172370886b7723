//! What the datapath says while it is being debugged: messages, and packets captured on their way.

use super::{DecodeError, Decoder, NOTIFY_CAPTURE};
use crate::{FlowRecord, Lookup, packet};
use alloc::{format, string::String};
use hubble_api::flow::{DebugCapturePoint, DebugEvent, DebugEventType, Endpoint};

/// The fixed part of a debug message.
const MESSAGE_LEN: usize = 20;
/// The fixed part of a capture; the packet follows.
const CAPTURE_LEN: usize = 24;

fn fixed<const N: usize>(body: &[u8]) -> Result<(&[u8; N], &[u8]), DecodeError> {
    body.split_first_chunk().ok_or(DecodeError::Short { len: body.len(), need: N })
}

fn word<const N: usize>(fixed: &[u8; N], at: usize) -> u32 {
    u32::from_ne_bytes([fixed[at], fixed[at + 1], fixed[at + 2], fixed[at + 3]])
}

impl<L: Lookup> Decoder<L> {
    pub(super) fn capture(&self, body: &[u8]) -> Result<FlowRecord, DecodeError> {
        let (fixed, packet) = fixed::<CAPTURE_LEN>(body)?;
        let (length, arg1) = (word(fixed, 8), word(fixed, 16));
        let length = packet.len().min(usize::try_from(length).unwrap_or(usize::MAX));
        let mut flow = self.ends(packet::parse(&packet[..length]), 0, 0);
        flow.event_type = NOTIFY_CAPTURE;
        flow.sub_type = fixed[1];
        use DebugCapturePoint as P;
        match DebugCapturePoint::try_from(i32::from(fixed[1])) {
            Ok(
                P::DbgCaptureDelivery
                | P::DbgCaptureFromLb
                | P::DbgCaptureAfterV46
                | P::DbgCaptureAfterV64
                | P::DbgCaptureSnatPre
                | P::DbgCaptureSnatPost,
            ) => {
                flow.ifindex = arg1;
                flow.interface = (arg1 != 0).then(|| self.lookup.interface(arg1)).flatten();
            }
            // The port comes in network order, in the low half of a word that is turned as a whole.
            Ok(P::DbgCaptureProxyPre | P::DbgCaptureProxyPost) => flow.proxy_port = u32::from_be(arg1),
            _ => {}
        }
        self.name_ends(&mut flow);
        Ok(flow)
    }

    pub(super) fn debug(&self, body: &[u8], cpu: u32) -> Result<DebugEvent, DecodeError> {
        let (fixed, _) = fixed::<MESSAGE_LEN>(body)?;
        let source = u16::from_ne_bytes([fixed[2], fixed[3]]);
        let args = [word(fixed, 8), word(fixed, 12), word(fixed, 16)];
        Ok(DebugEvent {
            r#type: fixed[1].into(),
            source: (source != 0).then(|| self.debugged(source)),
            hash: Some(word(fixed, 4)),
            arg1: Some(args[0]),
            arg2: Some(args[1]),
            arg3: Some(args[2]),
            message: message(fixed[1], args),
            cpu: i32::try_from(cpu).ok(),
        })
    }

    /// The endpoint whose program said it; its id alone when nothing else is known.
    fn debugged(&self, id: u16) -> Endpoint {
        let mut endpoint = Endpoint { id: id.into(), ..Endpoint::default() };
        if let Some(info) = self.lookup.local(id) {
            endpoint.identity = info.identity;
            endpoint.cluster_name = info.cluster_name.as_ref().into();
            endpoint.namespace = info.namespace.as_ref().into();
            endpoint.pod_name = info.pod_name.as_ref().into();
            endpoint.labels = info.labels.as_slice().to_vec();
        }
        endpoint
    }
}

/// The arguments with the name of the message, which tells what they are.
fn message(kind: u8, [arg1, arg2, arg3]: [u32; 3]) -> String {
    let name = DebugEventType::try_from(i32::from(kind)).map_or("unknown debug message", |kind| kind.as_str_name());
    format!("{name}: arg1={arg1} ({arg1:#x}) arg2={arg2} ({arg2:#x}) arg3={arg3} ({arg3:#x})")
}
