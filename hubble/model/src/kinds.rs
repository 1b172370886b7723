//! What kinds of flows there were, in a few bits: enough to tell whether a request may have missed one.
//!
//! Flows that were overwritten before somebody read them are gone, and so is what a filter would have said. What is
//! left is a set of kinds for each stretch of the ring. It never rules out a flow that was there.

use crate::{Event, FlowView, Seen, view::proto};
use alloc::{boxed::Box, vec, vec::Vec};
use core::ops::BitOr;
use hubble_api::{
    event_type,
    flow::{FlowFilter, Verdict},
};

/// A set of kinds of flows: in four groups of bits the message type, verdict, protocol and direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Kinds(u32);

const TYPES: Group = Group { at: 0, bits: 7 };
const VERDICTS: Group = Group { at: 7, bits: 8 };
const PROTOCOLS: Group = Group { at: 15, bits: 11 };
const DIRECTIONS: Group = Group { at: 26, bits: 3 };
const GROUPS: [Group; 4] = [TYPES, VERDICTS, PROTOCOLS, DIRECTIONS];

/// Bits of one group.
#[derive(Clone, Copy)]
struct Group {
    at: u32,
    bits: u32,
}

impl Group {
    const fn all(self) -> u32 {
        ((1 << self.bits) - 1) << self.at
    }

    /// The bit of a number; those that have none of their own share the last.
    fn bit(self, number: i32) -> u32 {
        let last = self.bits - 1;
        1 << (self.at + u32::try_from(number).map_or(last, |number| number.min(last)))
    }
}

/// Where a message type stands in its group.
fn type_bit(kind: i32) -> u32 {
    TYPES.bit(match kind {
        event_type::DROP => 0,
        event_type::CAPTURE => 1,
        event_type::TRACE => 2,
        event_type::POLICY_VERDICT => 3,
        event_type::TRACE_SOCK => 4,
        event_type::L7 => 5,
        _ => 6,
    })
}

/// A flow without any protocol.
const NO_PROTOCOL: u32 = 1 << 10;

fn protocol_bits(mask: u16) -> u32 {
    u32::from(mask) << PROTOCOLS.at
}

impl Kinds {
    /// No flow at all.
    pub const NONE: Self = Self(0);
    /// Any flow.
    pub const ALL: Self = Self(TYPES.all() | VERDICTS.all() | PROTOCOLS.all() | DIRECTIONS.all());
    /// Any flow of the kernel: all but those of the proxy.
    pub const OF_THE_KERNEL: Self = Self(
        Self::ALL.0 & !(1 << (TYPES.at + 5)) & !(((proto::DNS | proto::HTTP | proto::KAFKA) as u32) << PROTOCOLS.at),
    );

    /// The kinds of one flow.
    pub fn of<V: FlowView + ?Sized>(flow: &V) -> Self {
        let kind = flow.event_type().map_or(TYPES.bit(6), |(kind, _)| type_bit(kind));
        let protocols = flow.transport().protocol | crate::filter::application(flow);
        let protocols = if protocols == 0 { NO_PROTOCOL << PROTOCOLS.at } else { protocol_bits(protocols) };
        Self(kind | VERDICTS.bit(flow.verdict()) | protocols | DIRECTIONS.bit(flow.direction()))
    }

    /// Whether a flow of these kinds is among those a filter leaves possible. Unlike a stretch of many flows, one has a
    /// single type, verdict and direction.
    #[inline]
    pub(crate) fn leaves(self, flow: Self) -> bool {
        const SINGLE: u32 = TYPES.all() | VERDICTS.all() | DIRECTIONS.all();
        flow.0 & SINGLE & !self.0 == 0 && flow.0 & self.0 & PROTOCOLS.all() != 0
    }

    /// The kinds of an event; none of one that is no flow.
    pub fn of_event(event: &Event, node: &crate::NodeInfo) -> Self {
        match event {
            Event::Record(record) => Self::of(&Seen { record, node }),
            Event::Flow(flow) => Self::of(flow.as_ref()),
            _ => Self::NONE,
        }
    }
}

impl BitOr for Kinds {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// What kinds of flows a request may be about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interest(Box<[Kinds]>);

impl Interest {
    /// Of a request with these allow filters; what it denies is left out of account.
    pub fn of(allow: &[FlowFilter]) -> Self {
        if allow.is_empty() { Self(Box::new([Kinds::ALL])) } else { Self(allow.iter().map(kinds_of).collect()) }
    }

    /// Whether a flow asked for may be among flows of these kinds.
    pub fn may_be_in(&self, kinds: Kinds) -> bool {
        let meets = |asked: &Kinds| GROUPS.iter().all(|group| asked.0 & kinds.0 & group.all() != 0);
        self.0.iter().any(meets)
    }
}

/// The kinds a filter leaves possible.
pub(crate) fn kinds_of(filter: &FlowFilter) -> Kinds {
    let mut kinds = Kinds::ALL;
    let mut only = |group: Group, bits: u32| kinds.0 &= !group.all() | bits;
    if !filter.verdict.is_empty() {
        only(VERDICTS, filter.verdict.iter().fold(0, |bits, verdict| bits | VERDICTS.bit(*verdict)));
    }
    if !filter.drop_reason_desc.is_empty() {
        only(VERDICTS, VERDICTS.bit(Verdict::Dropped.into()));
    }
    if !filter.event_type.is_empty() && filter.event_type.iter().all(|kind| kind.r#type != 0) {
        only(TYPES, filter.event_type.iter().fold(0, |bits, kind| bits | type_bit(kind.r#type)));
    }
    if !filter.traffic_direction.is_empty() {
        only(DIRECTIONS, filter.traffic_direction.iter().fold(0, |bits, way| bits | DIRECTIONS.bit(*way)));
    }
    // Two fields may ask for the transport and for what it carries, so one never rules the other out.
    if let Ok(mask @ 1..) = crate::filter::protocols(&filter.protocol) {
        let carried = if mask & !APPLICATIONS == 0 { 0 } else { APPLICATIONS };
        only(PROTOCOLS, protocol_bits(mask | carried));
    }
    if !filter.source_port.is_empty() || !filter.destination_port.is_empty() {
        only(PROTOCOLS, protocol_bits(proto::TCP | proto::UDP | proto::SCTP | APPLICATIONS));
    }
    if !filter.tcp_flags.is_empty() {
        only(PROTOCOLS, protocol_bits(proto::TCP | APPLICATIONS));
    }
    let http = [&filter.http_status_code, &filter.http_method, &filter.http_path, &filter.http_url];
    if http.iter().any(|list| !list.is_empty()) || !filter.http_header.is_empty() {
        only(PROTOCOLS, protocol_bits(proto::HTTP));
    }
    if !filter.dns_query.is_empty() {
        only(PROTOCOLS, protocol_bits(proto::DNS));
    }
    kinds
}

/// What transports carry: a flow has the bit of both.
const APPLICATIONS: u16 = proto::DNS | proto::HTTP | proto::KAFKA;

/// Positions that share one set.
const STRETCH: u64 = 64;
/// Stretches remembered behind the oldest event of the ring.
const BEHIND: u64 = 1_024;

/// The kinds of what was written to a ring, for longer than the ring has the events: 4 bytes for 64 of them.
#[derive(Debug, Clone)]
pub struct KindsLog {
    stretches: Box<[Kinds]>,
    /// Position of the next event.
    next: u64,
}

impl KindsLog {
    /// The log of a ring for so many events.
    pub fn new(capacity: usize) -> Self {
        let count = u64::try_from(capacity).unwrap_or(u64::MAX).div_ceil(STRETCH).saturating_add(BEHIND);
        let stretches: Vec<Kinds> = vec![Kinds::NONE; usize::try_from(count).unwrap_or(usize::MAX)];
        Self { stretches: stretches.into(), next: 0 }
    }

    fn count(&self) -> u64 {
        u64::try_from(self.stretches.len()).expect("lengths fit 64 bits")
    }

    fn slot(&self, stretch: u64) -> usize {
        usize::try_from(stretch % self.count()).expect("a remainder is below a length")
    }

    /// Takes note of the next event.
    pub fn push(&mut self, kinds: Kinds) {
        let slot = self.slot(self.next / STRETCH);
        let before = if self.next.is_multiple_of(STRETCH) { Kinds::NONE } else { self.stretches[slot] };
        self.stretches[slot] = before | kinds;
        self.next += 1;
    }

    /// What kinds there may have been from one position up to before another; all when that is forgotten.
    pub fn between(&self, from: u64, to: u64) -> Kinds {
        let to = to.min(self.next);
        if from >= to {
            return Kinds::NONE;
        }
        let (first, last) = (from / STRETCH, (to - 1) / STRETCH);
        if first + self.count() <= (self.next - 1) / STRETCH {
            return Kinds::ALL;
        }
        (first..=last).fold(Kinds::NONE, |kinds, stretch| kinds | self.stretches[self.slot(stretch)])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::String;
    use hubble_api::flow::{
        CiliumEventType, EventTypeFilter, Flow, Layer4, Layer7, Tcp, TrafficDirection, layer4, layer7,
    };

    fn trace(verdict: Verdict) -> Flow {
        let tcp = layer4::Protocol::Tcp(Tcp { destination_port: 80, ..Tcp::default() });
        Flow {
            verdict: verdict.into(),
            event_type: Some(CiliumEventType { r#type: event_type::TRACE, sub_type: 0 }),
            l4: Some(Layer4 { protocol: Some(tcp) }),
            traffic_direction: TrafficDirection::Egress.into(),
            ..Flow::default()
        }
    }

    fn dns() -> Flow {
        let record = Some(layer7::Record::Dns(hubble_api::flow::Dns::default()));
        Flow {
            event_type: Some(CiliumEventType { r#type: event_type::L7, sub_type: 0 }),
            l7: Some(Layer7 { record, ..Layer7::default() }),
            ..trace(Verdict::Forwarded)
        }
    }

    fn words(list: &[&str]) -> Vec<String> {
        list.iter().map(|word| (*word).into()).collect()
    }

    #[test]
    fn a_request_is_about_what_its_filters_leave_possible() {
        let forwarded = Kinds::of(&trace(Verdict::Forwarded));
        let dropped = Kinds::of(&trace(Verdict::Dropped));
        let base = FlowFilter::default;
        let types = |numbers: &[i32]| {
            let one = |number: &i32| EventTypeFilter { r#type: *number, ..EventTypeFilter::default() };
            FlowFilter { event_type: numbers.iter().map(one).collect(), ..base() }
        };
        let verdict = |verdict: Verdict| FlowFilter { verdict: vec![verdict.into()], ..base() };
        for (filters, kinds, want) in [
            (vec![], forwarded, true),
            (vec![base()], forwarded, true),
            (vec![], Kinds::NONE, false),
            (vec![verdict(Verdict::Dropped)], forwarded, false),
            (vec![verdict(Verdict::Dropped)], forwarded | dropped, true),
            (vec![verdict(Verdict::Dropped), base()], forwarded, true),
            (vec![types(&[event_type::L7])], forwarded | dropped, false),
            (vec![types(&[event_type::L7])], Kinds::of(&dns()), true),
            (vec![types(&[event_type::L7, event_type::TRACE])], forwarded, true),
            (vec![types(&[0])], forwarded, true),
            (vec![FlowFilter { protocol: words(&["DNS"]), ..base() }], forwarded, false),
            (vec![FlowFilter { protocol: words(&["dns", "udp"]), ..base() }], Kinds::OF_THE_KERNEL, true),
            (vec![FlowFilter { protocol: words(&["dns"]), ..base() }], Kinds::OF_THE_KERNEL, false),
            (vec![FlowFilter { http_method: words(&["GET"]), ..base() }], Kinds::OF_THE_KERNEL, false),
            (vec![FlowFilter { dns_query: words(&["x"]), ..base() }], Kinds::of(&dns()), true),
            (vec![types(&[event_type::L7])], Kinds::OF_THE_KERNEL, false),
            (vec![FlowFilter { drop_reason_desc: vec![133], ..base() }], forwarded, false),
            (vec![FlowFilter { destination_port: words(&["80"]), ..base() }], forwarded, true),
            (
                vec![FlowFilter { traffic_direction: vec![TrafficDirection::Ingress.into()], ..base() }],
                forwarded,
                false,
            ),
        ] {
            assert_eq!(Interest::of(&filters).may_be_in(kinds), want, "{filters:?} {kinds:?}");
        }
    }

    #[test]
    fn the_log_reaches_further_back_than_the_ring_and_says_when_it_does_not_know() {
        let (forwarded, dropped) = (Kinds::of(&trace(Verdict::Forwarded)), Kinds::of(&trace(Verdict::Dropped)));
        let mut log = KindsLog::new(15);
        (0..1_000).for_each(|at| log.push(if at == 500 { dropped } else { forwarded }));
        assert_eq!(log.between(0, 448), forwarded);
        assert_eq!(log.between(100, 501), forwarded | dropped);
        assert_eq!(log.between(512, 2_000), forwarded, "what is not written yet is nothing");
        assert_eq!(log.between(7, 7), Kinds::NONE);
        (0..STRETCH * 2_000).for_each(|_| log.push(Kinds::NONE));
        assert_eq!(log.between(500, 501), Kinds::ALL, "forgotten");
        let next = 1_000 + STRETCH * 2_000;
        assert_eq!(
            log.between(next - STRETCH * BEHIND, next),
            Kinds::NONE,
            "a whole turn of the ring and more is known"
        );
    }
}
