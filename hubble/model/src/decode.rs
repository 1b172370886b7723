//! Event records of the datapath into flows.
//!
//! The bytes come from a kernel buffer and are not trusted: every length is checked, and a record that is too short
//! or of an unknown kind is an error, never a guess.

use crate::{
    Event, FlowRecord, Lookup, Policies, Side,
    packet::{self, Headers},
};
use abi::event::{
    DropNotify, NOTIFY_DROP, NOTIFY_POLICY_VERDICT, NOTIFY_TRACE, NOTIFY_TRACE_SOCK, PolicyVerdictNotify, Prefix,
    TraceNotify, point, reason,
};
use alloc::boxed::Box;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use hubble_api::flow::{TraceReason, TrafficDirection, Verdict};
use zerocopy::FromBytes;

/// Message types beside those the datapath has names for.
const NOTIFY_DEBUG: u8 = 2;
const NOTIFY_CAPTURE: u8 = 3;
/// The drop code of an explicit deny; default deny has no policy to name.
const POLICY_DENY: u8 = 181;
/// Set in a trace reason when the packet is encrypted.
const ENCRYPTED: u8 = 0x80;
const SRV6_ENCAP: u8 = 6;
const SRV6_DECAP: u8 = 7;
const ENCRYPT_OVERLAY: u8 = 8;

/// Why a record was not understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Shorter than the fixed part of its kind.
    #[error("record of {len} bytes is too short: its fixed part has {need}")]
    Short {
        /// Bytes there.
        len: usize,
        /// Bytes needed.
        need: usize,
    },
    /// No such message type.
    #[error("unknown message type {0}")]
    Kind(u8),
    /// A socket operation of a control group that is no pod's, so nobody could be named.
    #[error("unknown cgroup {0}")]
    Cgroup(u64),
    /// No such version of the trace layout.
    #[error("unrecognized trace event (version {0})")]
    TraceVersion(u16),
}

/// What decoding cannot take from the record: the machine's clocks and chance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// Wall clock minus monotonic clock, nanoseconds.
    pub wall_minus_monotonic_ns: i64,
    /// Random bits for the flow's UUID.
    pub uuid: u128,
}

/// Turns records into events, asking `lookup` for what packets do not say.
#[derive(Debug, Clone, Copy)]
pub struct Decoder<L> {
    lookup: L,
}

impl<L: Lookup> Decoder<L> {
    /// A decoder over what the agent knows.
    pub fn new(lookup: L) -> Self {
        Self { lookup }
    }

    /// What the decoder asks.
    pub fn lookup(&self) -> &L {
        &self.lookup
    }

    /// Decodes one record: prefix, notification, captured packet.
    pub fn decode(&self, record: &[u8], stamp: Stamp) -> Result<Event, DecodeError> {
        let (prefix, body) = split::<Prefix>(record)?;
        let kind = *body.first().ok_or(DecodeError::Short { len: record.len(), need: record.len() + 1 })?;
        let event = match kind {
            NOTIFY_DROP => {
                let (notify, packet) = split::<DropNotify>(body)?;
                self.drop(&notify, captured(packet, notify.cap_len))
            }
            NOTIFY_TRACE => {
                let (notify, packet) = trace_notify(body)?;
                self.trace(&notify, captured(packet, notify.cap_len))
            }
            NOTIFY_POLICY_VERDICT => {
                let (notify, packet) = split::<PolicyVerdictNotify>(body)?;
                self.verdict(&notify, captured(packet, notify.cap_len), prefix.cookie)
            }
            NOTIFY_CAPTURE => self.capture(body)?,
            NOTIFY_TRACE_SOCK => self.sock(body)?,
            NOTIFY_DEBUG => {
                let event = Box::new(self.debug(body, prefix.cpu)?);
                return Ok(Event::Debug { time_ns: wall_ns(prefix.time_ns, stamp), event });
            }
            other => return Err(DecodeError::Kind(other)),
        };
        Ok(Event::Record(FlowRecord { time_ns: wall_ns(prefix.time_ns, stamp), uuid: stamp.uuid, ..event }))
    }

    fn drop(&self, notify: &DropNotify, packet: &[u8]) -> FlowRecord {
        let headers = packet::parse(packet);
        let mut flow = self.ends(headers, notify.src_label, notify.dst_label);
        flow.verdict = Verdict::Dropped;
        flow.drop_code = notify.subtype;
        flow.event_type = NOTIFY_DROP;
        flow.sub_type = notify.subtype;
        flow.file = (notify.file, notify.line);
        if notify.source != 0 {
            let egress = notify.source == flow.source.id();
            flow.direction = if egress { TrafficDirection::Egress } else { TrafficDirection::Ingress };
        }
        self.name_ends(&mut flow);
        flow
    }

    fn trace(&self, notify: &TraceNotify, packet: &[u8]) -> FlowRecord {
        let mut headers = packet::parse(packet);
        let xlated = original_source(notify, &mut headers);
        let mut flow = self.ends(headers, notify.src_label, notify.dst_label);
        let why = notify.reason & !ENCRYPTED;
        let known = !matches!(why, reason::UNKNOWN | SRV6_ENCAP | SRV6_DECAP);
        flow.verdict = Verdict::Forwarded;
        flow.event_type = NOTIFY_TRACE;
        flow.sub_type = notify.subtype;
        flow.source_xlated = xlated;
        flow.encrypted = notify.reason & ENCRYPTED != 0;
        flow.trace_reason = trace_reason(why);
        flow.is_reply = known.then_some(why == reason::REPLY);
        flow.ifindex = notify.ifindex;
        flow.interface = (notify.ifindex != 0).then(|| self.lookup.interface(notify.ifindex)).flatten();
        if notify.subtype == point::TO_PROXY {
            flow.proxy_port = notify.dst_id.into();
        }
        if notify.source != 0 && known {
            let from_source = notify.source == flow.source.id();
            let egress = why == ENCRYPT_OVERLAY || from_source != (why == reason::REPLY) || xlated.is_some();
            flow.direction = if egress { TrafficDirection::Egress } else { TrafficDirection::Ingress };
        }
        self.name_ends(&mut flow);
        flow
    }

    fn verdict(&self, notify: &PolicyVerdictNotify, packet: &[u8], cookie: u32) -> FlowRecord {
        let headers = packet::parse(packet);
        let direction = match notify.flags & 3 {
            1 => TrafficDirection::Ingress,
            2 => TrafficDirection::Egress,
            _ => TrafficDirection::Unknown,
        };
        let (source, destination) = match direction {
            TrafficDirection::Ingress => (notify.remote_label, 0),
            TrafficDirection::Egress => (0, notify.remote_label),
            TrafficDirection::Unknown => (0, 0),
        };
        let mut flow = self.ends(headers, source, destination);
        flow.event_type = NOTIFY_POLICY_VERDICT;
        flow.direction = direction;
        flow.match_type = notify.flags >> 3 & 7;
        flow.auth_type = notify.auth_type;
        flow.verdict = match notify.verdict {
            ..0 => Verdict::Dropped,
            1.. => Verdict::Redirected,
            0 if notify.flags & 1 << 6 != 0 => Verdict::Audit,
            0 => Verdict::Forwarded,
        };
        if notify.verdict < 0 {
            flow.drop_code = u8::try_from(notify.verdict.unsigned_abs()).unwrap_or(0);
        } else {
            flow.is_reply = Some(false);
        }
        let allowed = matches!(flow.verdict, Verdict::Forwarded | Verdict::Redirected);
        let denied = flow.verdict == Verdict::Dropped && flow.drop_code == POLICY_DENY;
        if (allowed || denied) && cookie != 0 {
            let list = self.lookup.policies(notify.source, cookie);
            flow.policies = list.map(|list| Box::new(Policies { direction, denied, list }));
        }
        self.name_ends(&mut flow);
        flow
    }

    /// A record with both ends resolved; the identities are the datapath's, 0 where it named none.
    fn ends(&self, headers: Headers, source: u32, destination: u32) -> FlowRecord {
        let addresses = headers.ip;
        FlowRecord {
            time_ns: 0,
            uuid: 0,
            verdict: Verdict::Unknown,
            drop_code: 0,
            event_type: 0,
            sub_type: 0,
            headers,
            source_xlated: None,
            encrypted: false,
            source: Side::resolve(&self.lookup, addresses.map(|(ip, _)| ip), source),
            destination: Side::resolve(&self.lookup, addresses.map(|(_, ip)| ip), destination),
            source_names: None,
            destination_names: None,
            source_service: None,
            destination_service: None,
            direction: TrafficDirection::Unknown,
            is_reply: None,
            match_type: 0,
            trace_reason: TraceReason::Unknown,
            ifindex: 0,
            interface: None,
            proxy_port: 0,
            auth_type: 0,
            file: (0, 0),
            policies: None,
            socket: None,
        }
    }

    /// Services and DNS names: what the two ends are called beside being pods.
    fn name_ends(&self, flow: &mut FlowRecord) {
        let Some((source, destination)) = flow.headers.ip else { return };
        if let Some((source_port, destination_port)) = flow.headers.l4.ports() {
            flow.source_service = self.lookup.service(source, source_port);
            flow.destination_service = self.lookup.service(destination, destination_port);
        }
        if flow.destination.id() != 0 {
            flow.source_names = self.lookup.names(flow.destination.id(), source);
        }
        if flow.source.id() != 0 {
            flow.destination_names = self.lookup.names(flow.source.id(), destination);
        }
    }
}

fn wall_ns(monotonic_ns: u64, stamp: Stamp) -> i64 {
    i64::try_from(monotonic_ns).unwrap_or(i64::MAX).saturating_add(stamp.wall_minus_monotonic_ns)
}

/// A trace of either version; version 0 ends before the address before translation.
fn trace_notify(body: &[u8]) -> Result<(TraceNotify, &[u8]), DecodeError> {
    const SHORT: usize = 32;
    let (short, packet) =
        body.split_first_chunk::<SHORT>().ok_or(DecodeError::Short { len: body.len(), need: SHORT })?;
    match u16::from_ne_bytes([short[14], short[15]]) {
        0 => {
            let mut whole = [0; size_of::<TraceNotify>()];
            whole[..SHORT].copy_from_slice(short);
            Ok((split::<TraceNotify>(&whole)?.0, packet))
        }
        1 => split::<TraceNotify>(body),
        version => Err(DecodeError::TraceVersion(version)),
    }
}

fn split<T: FromBytes>(bytes: &[u8]) -> Result<(T, &[u8]), DecodeError> {
    T::read_from_prefix(bytes).map_err(|_| DecodeError::Short { len: bytes.len(), need: size_of::<T>() })
}

fn captured(packet: &[u8], len: u16) -> &[u8] {
    &packet[..packet.len().min(len.into())]
}

/// Puts the address before translation in the place of the source; answers the wire's when they differ.
fn original_source(notify: &TraceNotify, headers: &mut Headers) -> Option<IpAddr> {
    if notify.orig_ip == [0; 16] {
        return None;
    }
    let [a, b, c, d, ..] = notify.orig_ip;
    let original = match notify.flags & 1 {
        1 => IpAddr::V6(Ipv6Addr::from(notify.orig_ip)),
        _ => IpAddr::V4(Ipv4Addr::new(a, b, c, d)),
    };
    let (source, _) = headers.ip.as_mut()?;
    if source.is_ipv4() != original.is_ipv4() || *source == original {
        return None;
    }
    Some(core::mem::replace(source, original))
}

/// Numbers below 5 are one less in the datapath than in flows; 5 is unknown.
fn trace_reason(why: u8) -> TraceReason {
    let number = match why {
        ..reason::UNKNOWN => i32::from(why) + 1,
        reason::UNKNOWN => 0,
        other => other.into(),
    };
    TraceReason::try_from(number).unwrap_or(TraceReason::Unknown)
}

mod debug;
mod sock;
#[cfg(test)]
mod tests;
