//! What metrics ask of a flow beyond what filters do.

use hubble_api::flow::{Flow, layer4::Protocol};
use hubble_model::{FlowView, Seen, packet::L4};

/// A flow as metrics see it, whether small record or protobuf message.
pub(crate) trait Observed: FlowView {
    /// Number of what the deciding rule named.
    fn match_type(&self) -> u32;
    /// An ICMP message's name; true: of IPv6.
    fn icmp(&self) -> Option<(bool, String)>;
    /// Type of an SCTP packet's first chunk. Messages do not tell.
    fn sctp_chunk(&self) -> Option<u8>;
    /// When it was seen, nanoseconds since 1970.
    fn time_ns(&self) -> i64;
}

impl Observed for Flow {
    fn match_type(&self) -> u32 {
        self.policy_match_type
    }
    fn icmp(&self) -> Option<(bool, String)> {
        let byte = |number: u32| u8::try_from(number).unwrap_or(u8::MAX);
        match self.l4.as_ref()?.protocol.as_ref()? {
            Protocol::IcmPv4(icmp) => Some((false, hubble_model::text::icmp4(byte(icmp.r#type), byte(icmp.code)))),
            Protocol::IcmPv6(icmp) => Some((true, hubble_model::text::icmp6(byte(icmp.r#type), byte(icmp.code)))),
            _ => None,
        }
    }
    fn sctp_chunk(&self) -> Option<u8> {
        None
    }
    fn time_ns(&self) -> i64 {
        let at = self.time.as_ref().map_or(0, hubble_api::time::nanos);
        i64::try_from(at).unwrap_or_default()
    }
}

impl Observed for Seen<'_> {
    fn match_type(&self) -> u32 {
        self.record.match_type.into()
    }
    fn icmp(&self) -> Option<(bool, String)> {
        match self.record.headers.l4 {
            L4::Icmp4 { kind, code } => Some((false, hubble_model::text::icmp4(kind, code))),
            L4::Icmp6 { kind, code } => Some((true, hubble_model::text::icmp6(kind, code))),
            _ => None,
        }
    }
    fn sctp_chunk(&self) -> Option<u8> {
        match self.record.headers.l4 {
            L4::Sctp { chunk, .. } => chunk,
            _ => None,
        }
    }
    fn time_ns(&self) -> i64 {
        self.record.time_ns
    }
}
