//! Socket operations whose address was translated before there was a packet.
//!
//! The record names the other end; this end is the pod of the control group. Its port is not chosen yet.

use super::{DecodeError, Decoder, NOTIFY_TRACE_SOCK};
use crate::{
    Family, FlowRecord, Lookup, Socket,
    packet::{Headers, L4},
};
use alloc::boxed::Box;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use hubble_api::flow::{SocketTranslationPoint, Verdict};

/// The record is packed: nothing in it is aligned.
const LEN: usize = 38;

fn number<const N: usize>(fixed: &[u8; LEN], at: usize) -> [u8; N] {
    *fixed[at..].first_chunk().expect("every field lies within the record")
}

/// A number whose lower half comes first.
fn halves(fixed: &[u8; LEN], at: usize) -> u64 {
    let half = |at| u64::from(u32::from_ne_bytes(number(fixed, at)));
    half(at) | half(at + 4) << 32
}

impl<L: Lookup> Decoder<L> {
    pub(super) fn sock(&self, body: &[u8]) -> Result<FlowRecord, DecodeError> {
        let fixed: &[u8; LEN] = body.first_chunk().ok_or(DecodeError::Short { len: body.len(), need: LEN })?;
        let (peer, family) = match fixed[37] & 1 {
            1 => (IpAddr::V6(Ipv6Addr::from(number::<16>(fixed, 2))), Family::V6),
            _ => (IpAddr::V4(Ipv4Addr::from(number::<4>(fixed, 2))), Family::V4),
        };
        let peer_port = u16::from_ne_bytes(number(fixed, 18));
        let socket = Socket { cookie: halves(fixed, 20), cgroup: halves(fixed, 28) };
        let own = self.lookup.cgroup(socket.cgroup, family).ok_or(DecodeError::Cgroup(socket.cgroup))?;
        use SocketTranslationPoint as P;
        let point = P::try_from(i32::from(fixed[1])).unwrap_or(P::SockXlatePointUnknown);
        let reverse = matches!(point, P::SockXlatePointPreDirectionRev | P::SockXlatePointPostDirectionRev);
        let ((from, to), (source, destination)) =
            if reverse { ((peer, own), (peer_port, 0)) } else { ((own, peer), (0, peer_port)) };
        let l4 = match fixed[36] {
            1 => L4::Tcp { source, destination, flags: 0 },
            2 => L4::Udp { source, destination },
            _ => L4::None,
        };
        let mut flow = self.ends(Headers { ethernet: None, ip: Some((from, to)), l4 }, 0, 0);
        flow.event_type = NOTIFY_TRACE_SOCK;
        flow.sub_type = fixed[1];
        flow.verdict = match point {
            P::SockXlatePointPreDirectionFwd | P::SockXlatePointPreDirectionRev => Verdict::Traced,
            P::SockXlatePointPostDirectionFwd | P::SockXlatePointPostDirectionRev => Verdict::Translated,
            P::SockXlatePointUnknown => Verdict::Unknown,
        };
        flow.socket = Some(Box::new(socket));
        self.name_ends(&mut flow);
        Ok(flow)
    }
}
