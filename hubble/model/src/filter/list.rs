//! Lists of filters, made so that a long one is not read to its end for every flow.
//!
//! The values of a field are alternatives, and so are the filters of a list. Filters that ask for the same field and nothing
//! else are therefore one filter with all their values. Of those that are left, most are ruled out by a glance at what
//! kind of flow it is: type, verdict, protocol and direction.

use super::{Check, Filter, FilterError};
use crate::{
    FlowView,
    kinds::{Kinds, kinds_of},
    view::End,
};
use alloc::{boxed::Box, collections::BTreeMap, vec::Vec};
use hubble_api::flow::FlowFilter;

/// What is asked for and what is not: any filter of the first list (or none given), and none of the second.
#[derive(Debug, Default)]
pub struct FilterList {
    allow: AnyOf,
    deny: AnyOf,
}

impl FilterList {
    /// Compiles both lists.
    pub fn new(allow: &[FlowFilter], deny: &[FlowFilter]) -> Result<Self, FilterError> {
        Ok(Self { allow: AnyOf::new(allow)?, deny: AnyOf::new(deny)? })
    }

    /// True when the flow is asked for.
    #[inline]
    pub fn matches<V: FlowView + ?Sized>(&self, flow: &V) -> bool {
        (self.allows_all() || self.allow.matches(flow)) && !self.deny.matches(flow)
    }

    /// True when no allow filter was given, so that events without a flow pass as well.
    pub fn allows_all(&self) -> bool {
        self.allow.filters.is_empty()
    }
}

/// Lists shorter than this are read through: to look at the kind of a flow costs as much as a few filters.
const GLANCE_AT: usize = 8;

/// Filters of which one must match.
#[derive(Debug, Default)]
struct AnyOf {
    filters: Box<[Filter]>,
    /// What each of them leaves possible; none when it is not worth a glance.
    kinds: Box<[Kinds]>,
}

impl AnyOf {
    fn new(list: &[FlowFilter]) -> Result<Self, FilterError> {
        let (mut filters, mut kinds) = (Vec::new(), Vec::new());
        let mut joined: BTreeMap<u8, FlowFilter> = BTreeMap::new();
        for filter in list {
            let compiled = Filter::new(filter)?;
            match compiled.only_field() {
                Some(field) => join(joined.entry(field).or_default(), filter),
                None => {
                    kinds.push(kinds_of(filter));
                    filters.push(compiled);
                }
            }
        }
        for filter in joined.values() {
            kinds.push(kinds_of(filter));
            filters.push(Filter::new(filter)?);
        }
        let narrow = kinds.iter().filter(|kinds| **kinds != Kinds::ALL).count();
        if filters.len() < GLANCE_AT || narrow * 2 < filters.len() {
            kinds.clear();
        }
        Ok(Self { filters: filters.into(), kinds: kinds.into() })
    }

    #[inline]
    fn matches<V: FlowView + ?Sized>(&self, flow: &V) -> bool {
        if self.kinds.is_empty() {
            return self.filters.iter().any(|filter| filter.matches(flow));
        }
        self.matches_at_a_glance(flow)
    }

    #[inline(never)]
    fn matches_at_a_glance<V: FlowView + ?Sized>(&self, flow: &V) -> bool {
        let kinds = Kinds::of(flow);
        let mut all = self.kinds.iter().zip(&self.filters);
        all.any(|(possible, filter)| possible.leaves(kinds) && filter.matches(flow))
    }
}

impl Filter {
    /// A number for the field, when the filter asks for one alone and joins with others that do.
    fn only_field(&self) -> Option<u8> {
        let [check] = &*self.checks else { return None };
        let of = |end: &End, number: u8| number + u8::from(*end == End::Destination);
        Some(match check {
            Check::Verdict(_) => 0,
            Check::Direction(_) => 1,
            Check::IpVersion(_) => 2,
            Check::DropReason(_) => 3,
            Check::EventType(_) => 4,
            Check::Protocol(_) => 5,
            Check::TcpFlags(_) => 6,
            Check::Uuid(_) => 7,
            Check::Reply(_) => 8,
            Check::Identity(end, _) => of(end, 10),
            Check::Port(end, _) => of(end, 12),
            Check::Pod(end, _) => of(end, 14),
            Check::Service(end, _) => of(end, 16),
            Check::Workload(end, _) => of(end, 18),
            Check::Address(Some(end), _) => of(end, 20),
            _ => return None,
        })
    }
}

/// Adds the values of a filter to another one that asks for the same field.
fn join(into: &mut FlowFilter, filter: &FlowFilter) {
    macro_rules! extend {
        ($($field:ident),*) => { $(into.$field.extend_from_slice(&filter.$field);)* };
    }
    extend!(
        verdict,
        traffic_direction,
        ip_version,
        drop_reason_desc,
        event_type,
        protocol,
        tcp_flags,
        uuid,
        reply,
        source_identity,
        source_port,
        source_pod,
        source_service,
        source_workload,
        source_ip,
        destination_identity,
        destination_port,
        destination_pod,
        destination_service,
        destination_workload,
        destination_ip
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::{format, string::ToString, vec};
    use hubble_api::flow::{
        CiliumEventType, Endpoint, EventTypeFilter, Flow, Ip, Layer4, Tcp, TcpFlags, Udp, Workload, layer4::Protocol,
    };

    /// A flow of a few, each as likely as the others.
    fn flow(draw: u16) -> Flow {
        let bit = |at: u16| i32::from(draw >> at & 1);
        let name = |at: u16| format!("{}", bit(at));
        let end = |at: u16| Endpoint {
            identity: 1 + draw as u32 % 3,
            namespace: name(at),
            pod_name: name(at + 1),
            workloads: vec![Workload { kind: "k".into(), name: name(at + 1) }],
            ..Endpoint::default()
        };
        let port = 80 + u32::from(draw >> 3 & 1);
        let protocol = match draw & 3 {
            0 => Protocol::Tcp(Tcp {
                source_port: 1,
                destination_port: port,
                flags: Some(TcpFlags { syn: draw & 4 == 0, ack: draw & 8 == 0, ..TcpFlags::default() }),
            }),
            _ => Protocol::Udp(Udp { source_port: port, destination_port: 1 }),
        };
        Flow {
            uuid: name(2),
            verdict: 1 + bit(4),
            drop_reason_desc: 130 + bit(5),
            traffic_direction: 1 + bit(6),
            event_type: Some(CiliumEventType { r#type: 4 + bit(7), sub_type: bit(8) }),
            ip: Some(Ip { source: format!("10.0.0.{}", bit(9)), ip_version: 1 + bit(10), ..Ip::default() }),
            l4: (draw & 3 != 3).then_some(Layer4 { protocol: Some(protocol) }),
            is_reply: (draw & 1 == 0).then_some(draw & 2 == 0),
            source: Some(end(11)),
            destination: Some(end(13)),
            ..Flow::default()
        }
    }

    /// Asks for up to two fields, with values such flows have.
    fn filter((one, two, value): (u8, u8, u8)) -> FlowFilter {
        let mut filter = FlowFilter::default();
        let bit = i32::from(value & 1);
        let pod = format!("{}/{}", value & 1, value >> 1 & 1);
        for field in [one % 24, two % 24] {
            let f = &mut filter;
            match field {
                0 => f.verdict = vec![1 + bit],
                1 => f.traffic_direction = vec![1 + bit],
                2 => f.ip_version = vec![1 + bit],
                3 => f.drop_reason_desc = vec![130 + bit],
                4 => {
                    f.event_type = vec![EventTypeFilter { r#type: 4 + bit, match_sub_type: value & 2 > 0, sub_type: 1 }]
                }
                5 => f.protocol = vec![["tcp", "udp"][usize::from(value & 1)].into()],
                6 => f.tcp_flags = vec![TcpFlags { syn: value & 1 > 0, ack: true, ..TcpFlags::default() }],
                7 => f.uuid = vec![bit.to_string()],
                8 => f.reply = vec![value & 1 > 0],
                9 => f.source_identity = vec![u32::from(1 + value % 3)],
                10 => f.destination_identity = vec![u32::from(1 + value % 3)],
                11 => f.source_port = vec![(80 + bit).to_string()],
                12 => f.destination_port = vec![(80 + bit).to_string()],
                13 => f.source_pod = vec![pod.clone()],
                14 => f.destination_pod = vec![pod.clone()],
                15 => f.source_workload = vec![Workload { name: bit.to_string(), ..Workload::default() }],
                16 => f.destination_workload = vec![Workload { name: bit.to_string(), ..Workload::default() }],
                17 => f.source_ip = vec![format!("10.0.0.{bit}")],
                18 => f.destination_ip = vec!["10.0.0.0/8".into()],
                19 => f.source_service = vec![pod.clone()],
                20 => f.encrypted = vec![value & 1 > 0],
                _ => {}
            }
        }
        filter
    }

    #[test]
    fn a_list_says_what_its_filters_say_one_by_one() {
        type Lists = (Vec<(u8, u8, u8)>, Vec<(u8, u8, u8)>, Vec<u16>);
        bolero::check!().with_type::<Lists>().for_each(|(allow, deny, flows): &Lists| {
            let [allow, deny] = [allow, deny].map(|list| list.iter().copied().map(filter).collect::<Vec<_>>());
            let list = FilterList::new(&allow, &deny).unwrap();
            for flow in flows.iter().map(|draw| flow(*draw)) {
                let any = |list: &[FlowFilter]| list.iter().any(|one| Filter::new(one).unwrap().matches(&flow));
                let want = (allow.is_empty() || any(&allow)) && !any(&deny);
                assert_eq!(list.matches(&flow), want, "{allow:?} {deny:?} {flow:?}");
            }
        });
    }

    #[test]
    fn filters_of_one_field_become_one_and_others_are_ruled_out_by_kind() {
        let verdicts: Vec<_> =
            (0..100).map(|verdict| FlowFilter { verdict: vec![verdict], ..FlowFilter::default() }).collect();
        let list = AnyOf::new(&verdicts).unwrap();
        assert_eq!((list.filters.len(), list.kinds.len()), (1, 0));
        assert!(
            list.matches(&Flow { verdict: 99, ..Flow::default() })
                && !list.matches(&Flow { verdict: 100, ..Flow::default() })
        );
        let two: Vec<_> = (0..100)
            .map(|n| FlowFilter { verdict: vec![2], source_pod: vec![format!("shop/{n}")], ..FlowFilter::default() })
            .collect();
        let list = AnyOf::new(&two).unwrap();
        assert_eq!((list.filters.len(), list.kinds.len()), (100, 100));
        let source = Endpoint { namespace: "shop".into(), pod_name: "7".into(), ..Endpoint::default() };
        let flow = |verdict| Flow { verdict, source: Some(source.clone()), ..Flow::default() };
        assert!(list.matches(&flow(2)) && !list.matches(&flow(1)));
        let wide: Vec<_> = (0..100)
            .map(|n| FlowFilter {
                uuid: vec!["u".into()],
                source_pod: vec![format!("shop/{n}")],
                ..FlowFilter::default()
            })
            .collect();
        assert!(AnyOf::new(&wide).unwrap().kinds.is_empty(), "no kind rules these out");
        let error = AnyOf::new(&[FlowFilter { source_ip: vec!["x".into()], ..FlowFilter::default() }]).unwrap_err();
        assert_eq!(error, FilterError::Address("x".into()));
    }
}
