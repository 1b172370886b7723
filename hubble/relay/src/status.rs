//! Word of nodes to whoever follows flows: who answers, who does not, and why; alike ones in one event.

use hubble_api::{
    flow::{LostEvent, LostEventSource},
    observer::{GetFlowsResponse, get_flows_response::ResponseTypes},
    relay::{NodeState, NodeStatusEvent},
    time,
};
use machine::Instant;
use prost::{Message as _, bytes::Bytes};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

/// How long the first failure waits for others like it.
const GATHER: Duration = Duration::from_secs(1);
/// How long after that the same failure is not told again.
const REPEAT_AFTER: Duration = Duration::from_secs(10);

/// A response that tells of nodes.
pub fn node_status(relay: &str, at_ns: i64, state: NodeState, names: Vec<String>, message: &str) -> Bytes {
    let event = NodeStatusEvent { state_change: state.into(), node_names: names, message: message.to_owned() };
    encode(relay, at_ns, ResponseTypes::NodeStatus(event))
}

/// A response that tells of flows the relay had to drop.
pub fn lost(relay: &str, at_ns: i64, count: u64) -> Bytes {
    let source = LostEventSource::ObserverEventsQueue.into();
    encode(
        relay,
        at_ns,
        ResponseTypes::LostEvents(LostEvent { source, num_events_lost: count, ..LostEvent::default() }),
    )
}

fn encode(relay: &str, at_ns: i64, response: ResponseTypes) -> Bytes {
    let response = GetFlowsResponse {
        node_name: relay.to_owned(),
        time: Some(time::from_nanos(at_ns.into())),
        response_types: Some(response),
    };
    response.encode_to_vec().into()
}

/// Failures not told yet, by what they say.
#[derive(Debug, Default)]
pub struct Failures {
    waiting: BTreeMap<String, (Instant, BTreeSet<String>)>,
    told: BTreeMap<String, Instant>,
}

impl Failures {
    /// A node failed.
    pub fn add(&mut self, now: Instant, node: &str, message: &str) {
        let told = self.told.get(message).map_or(Instant::ZERO, |told| *told + REPEAT_AFTER);
        let due = told.max(now + GATHER);
        let (_, names) = self.waiting.entry(message.to_owned()).or_insert_with(|| (due, BTreeSet::new()));
        names.insert(node.to_owned());
    }

    /// When the next is due.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.waiting.values().map(|(due, _)| *due).min()
    }

    /// What is to be told now: message and nodes. With `flush` everything is.
    pub fn due(&mut self, now: Instant, flush: bool) -> Option<(String, Vec<String>)> {
        let found = self.waiting.iter().find(|(_, (due, _))| flush || *due <= now)?.0.clone();
        self.tell(now, found)
    }

    /// What is not told yet of a node. It must be before the node is heard again, or a gap would come without a word.
    pub fn of(&mut self, now: Instant, node: &str) -> Option<(String, Vec<String>)> {
        let found = self.waiting.iter().find(|(_, (_, names))| names.contains(node))?.0.clone();
        self.tell(now, found)
    }

    fn tell(&mut self, now: Instant, found: String) -> Option<(String, Vec<String>)> {
        let (_, names) = self.waiting.remove(&found)?;
        self.told.retain(|_, told| now.since(*told) < REPEAT_AFTER);
        self.told.insert(found.clone(), now);
        Some((found, names.into_iter().collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alike_failures_are_told_together_and_not_again_at_once() {
        let s = Instant::from_secs;
        let mut failures = Failures::default();
        failures.add(s(1), "b", "gone");
        failures.add(s(1), "a", "gone");
        failures.add(s(1), "c", "slow");
        assert_eq!((failures.due(s(1), false), failures.next_deadline()), (None, Some(s(2))));
        assert_eq!(failures.due(s(2), false), Some(("gone".into(), vec!["a".into(), "b".into()])));
        assert_eq!(failures.due(s(2), false), Some(("slow".into(), vec!["c".into()])));
        failures.add(s(3), "a", "gone");
        assert_eq!((failures.due(s(4), false), failures.next_deadline()), (None, Some(s(12))));
        assert_eq!(
            failures.due(s(5), true),
            Some(("gone".into(), vec!["a".into()])),
            "at the end nothing is kept back"
        );
        assert_eq!(failures.due(s(5), true), None);
        failures.add(s(6), "a", "gone");
        failures.add(s(6), "b", "gone");
        assert_eq!(failures.of(s(6), "c"), None);
        assert_eq!(failures.of(s(6), "b"), Some(("gone".into(), vec!["a".into(), "b".into()])), "b is back");
    }
}
