//! Which losses a request is told of: only those in which a flow it asked for may have been.

use crate::flows::Window;
use hubble_api::{
    event_type,
    flow::{FlowFilter, LostEvent, LostEventSource},
    time,
};

/// What losses mean to one request for flows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Concern {
    /// Whether flows of the kernel can match; flows of the proxy take another way.
    of_the_kernel: bool,
}

impl Concern {
    /// Of a request with these filters.
    pub fn of(whitelist: &[FlowFilter]) -> Self {
        Self { of_the_kernel: whitelist.is_empty() || whitelist.iter().any(|filter| !is_of_the_proxy(filter)) }
    }

    /// Whether a loss that was noticed at `at_ns` may have been one of a flow asked for.
    pub fn is_told(self, event: &LostEvent, at_ns: i64, window: &Window) -> bool {
        if event.source() != LostEventSource::HubbleRingBuffer && !self.of_the_kernel {
            return false;
        }
        // It happened between its first and its last event, if those are known.
        let ns = |at: &hubble_api::Timestamp| {
            let ns = time::nanos(at);
            i64::try_from(ns).unwrap_or(if ns < 0 { i64::MIN } else { i64::MAX })
        };
        let first_ns = event.first.as_ref().map_or(at_ns, ns);
        let last_ns = event.last.as_ref().map_or(at_ns, ns);
        window.since_ns.is_none_or(|since| last_ns >= since) && window.until_ns.is_none_or(|until| first_ns <= until)
    }
}

/// Whether only flows of the proxy can match.
fn is_of_the_proxy(filter: &FlowFilter) -> bool {
    let http = !filter.http_status_code.is_empty()
        || !filter.http_method.is_empty()
        || !filter.http_path.is_empty()
        || !filter.http_url.is_empty()
        || !filter.http_header.is_empty();
    let types = &filter.event_type;
    let protocols = &filter.protocol;
    let layer_7 = |protocol: &String| ["dns", "http", "kafka"].contains(&protocol.to_lowercase().as_str());
    http || !filter.dns_query.is_empty()
        || (!types.is_empty() && types.iter().all(|kind| kind.r#type == event_type::L7))
        || (!protocols.is_empty() && protocols.iter().all(layer_7))
}

#[cfg(test)]
mod tests {
    use super::*;
    use hubble_api::flow::EventTypeFilter;

    #[test]
    fn a_loss_is_told_to_those_it_may_concern() {
        let second = |s: i64| Some(hubble_api::Timestamp { seconds: s, nanos: 0 });
        let kernel = LostEvent { source: LostEventSource::PerfEventRingBuffer.into(), ..LostEvent::default() };
        let between = LostEvent { first: second(10), last: second(12), ..kernel };
        let ring = LostEvent { source: LostEventSource::HubbleRingBuffer.into(), ..LostEvent::default() };
        let base = FlowFilter::default;
        let types = |numbers: &[i32]| FlowFilter {
            event_type: numbers.iter().map(|n| EventTypeFilter { r#type: *n, ..Default::default() }).collect(),
            ..base()
        };
        let dns = FlowFilter { protocol: vec!["DNS".into()], ..base() };
        let mixed = FlowFilter { protocol: vec!["dns".into(), "udp".into()], ..base() };
        let http = FlowFilter { http_method: vec!["GET".into()], ..base() };
        let s = |seconds: i64| Some(seconds * 1_000_000_000);
        for (filters, since_ns, until_ns, event, want) in [
            (vec![], None, None, kernel, true),
            (vec![base()], None, None, kernel, true),
            (vec![types(&[129])], None, None, kernel, false),
            (vec![types(&[129, 4])], None, None, kernel, true),
            (vec![types(&[129]), base()], None, None, kernel, true),
            (vec![dns.clone(), http], None, None, kernel, false),
            (vec![mixed], None, None, kernel, true),
            (vec![dns], None, None, ring, true),
            (vec![], s(12), None, between, true),
            (vec![], s(13), None, between, false),
            (vec![], None, s(9), between, false),
            (vec![], s(11), s(11), between, true),
            (vec![], s(6), None, kernel, false),
        ] {
            let window = Window { since_ns, until_ns, ..Window::default() };
            let told = Concern::of(&filters).is_told(&event, 5_000_000_000, &window);
            assert_eq!(told, want, "{filters:?} {since_ns:?} {until_ns:?} {event:?}");
        }
    }
}
