//! Flows that say the same, as one flow with counts.
//!
//! Two flows are the same when nothing but their time and UUID differs; whoever aggregates thins them by a field mask
//! first, so that ports or summaries do not keep apart what belongs together. The first flow stands for all.

use alloc::{
    collections::{BTreeMap, VecDeque},
    vec::Vec,
};
use hubble_api::flow::{Aggregate, Flow, TrafficDirection};
use prost::Message as _;

/// Collects flows until they are taken.
#[derive(Debug)]
pub struct Aggregator {
    /// By everything but time and UUID: its place in `flows`.
    places: BTreeMap<Vec<u8>, usize>,
    flows: VecDeque<Flow>,
    distinct_max: usize,
}

impl Aggregator {
    /// An aggregator of so many distinct flows at most.
    pub fn new(distinct_max: usize) -> Self {
        Self { places: BTreeMap::new(), flows: VecDeque::new(), distinct_max: distinct_max.max(1) }
    }

    /// Counts a flow. False when it is a new one and there is no room: take what is there, then add it again.
    #[must_use]
    pub fn add(&mut self, flow: &Flow) -> bool {
        let mut key = flow.clone();
        (key.time, key.aggregate) = (None, None);
        key.uuid.clear();
        let direction = flow.traffic_direction();
        // A flow that was aggregated before, elsewhere, brings its counts along.
        let own = flow.aggregate.unwrap_or_else(|| one(direction));
        let key = key.encode_to_vec();
        let place = match self.places.get(&key) {
            Some(place) => *place,
            None if self.flows.len() >= self.distinct_max => return false,
            None => {
                self.places.insert(key, self.flows.len());
                self.flows.push_back(Flow { aggregate: Some(Aggregate::default()), ..flow.clone() });
                self.flows.len() - 1
            }
        };
        let counts = self.flows[place].aggregate.get_or_insert_default();
        counts.ingress_flow_count = counts.ingress_flow_count.saturating_add(own.ingress_flow_count);
        counts.egress_flow_count = counts.egress_flow_count.saturating_add(own.egress_flow_count);
        counts.unknown_direction_flow_count =
            counts.unknown_direction_flow_count.saturating_add(own.unknown_direction_flow_count);
        true
    }

    /// How many distinct flows there are.
    pub fn len(&self) -> usize {
        self.flows.len()
    }

    /// True when nothing was added since the last taking.
    pub fn is_empty(&self) -> bool {
        self.flows.is_empty()
    }

    /// Everything so far, in the order it first came; the aggregator is empty afterwards.
    pub fn take(&mut self) -> VecDeque<Flow> {
        self.places.clear();
        core::mem::take(&mut self.flows)
    }
}

fn one(direction: TrafficDirection) -> Aggregate {
    let mut counts = Aggregate::default();
    match direction {
        TrafficDirection::Ingress => counts.ingress_flow_count = 1,
        TrafficDirection::Egress => counts.egress_flow_count = 1,
        TrafficDirection::Unknown => counts.unknown_direction_flow_count = 1,
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString as _;
    use hubble_api::{Timestamp, flow::Verdict};

    fn flow(second: i64, verdict: Verdict, direction: TrafficDirection) -> Flow {
        Flow {
            time: Some(Timestamp { seconds: second, nanos: 0 }),
            uuid: second.to_string(),
            verdict: verdict.into(),
            traffic_direction: direction.into(),
            ..Flow::default()
        }
    }

    #[test]
    fn what_says_the_same_is_counted_by_direction() {
        let (ingress, egress) = (TrafficDirection::Ingress, TrafficDirection::Egress);
        let mut all = Aggregator::new(2);
        for second in 1..=3 {
            assert!(all.add(&flow(second, Verdict::Forwarded, ingress)));
        }
        assert!(all.add(&flow(4, Verdict::Forwarded, egress)));
        assert!(!all.add(&flow(5, Verdict::Dropped, ingress)), "there is room for two");
        assert!(all.add(&flow(6, Verdict::Forwarded, ingress)), "this one is known");
        assert_eq!(all.len(), 2);
        let taken = all.take();
        assert!(all.is_empty());
        let counts = |flow: &Flow| flow.aggregate.map(|a| (a.ingress_flow_count, a.egress_flow_count));
        assert_eq!(taken.iter().map(counts).collect::<Vec<_>>(), [Some((4, 0)), Some((0, 1))]);
        assert_eq!((taken[0].uuid.as_str(), taken[1].uuid.as_str()), ("1", "4"), "the first stands for all");
        assert!(all.add(&taken[0]) && all.add(&flow(7, Verdict::Forwarded, ingress)));
        assert_eq!(counts(&all.take()[0]), Some((5, 0)), "counts are carried on");
    }
}
