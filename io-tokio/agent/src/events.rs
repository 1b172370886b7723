//! Records of the kernel's ring on their way to Hubble and to the event feed.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bpf::Batch;
use hubble_api::event_type;
use hubble_api::flow::LostEventSource;
use hubble_model::{DecodeError, Decoder};
use hubble_server::Observer;
use loader::Maps;
use metrics::Metrics;
use tokio::sync::mpsc;

use crate::cgroups::Cgroups;
use crate::lookup::Names;
use crate::monitor::Feed;

/// Where records go.
#[derive(Debug)]
pub struct Outlets {
    /// Hubble, with the decoder that knows names.
    pub hubble: Option<(Observer, Decoder<Names>)>,
    /// Pods by control groups.
    pub cgroups: Arc<Cgroups>,
    /// The feed.
    pub feed: Feed,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// Where the programs count what they had no room for.
    pub maps: Arc<Maps>,
    /// Which records Hubble takes.
    pub kinds: Kinds,
}

/// Kinds of events (`--hubble-monitor-events`), by the number of their message; all unless some are named.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kinds(Option<Vec<i32>>);

/// Names of kinds.
pub const KINDS: [(&str, i32); 8] = [
    ("drop", event_type::DROP),
    ("debug", event_type::DEBUG),
    ("capture", event_type::CAPTURE),
    ("trace", event_type::TRACE),
    ("policy-verdict", event_type::POLICY_VERDICT),
    ("trace-sock", event_type::TRACE_SOCK),
    ("l7", event_type::L7),
    ("agent", event_type::AGENT),
];

impl Kinds {
    /// The kinds with these names; all when there are none.
    ///
    /// # Errors
    /// The first name that is none.
    pub fn named(names: &[String]) -> Result<Self, String> {
        let number = |name: &String| KINDS.iter().find(|(known, _)| known == name).map(|(_, number)| *number);
        let kinds: Result<Vec<_>, _> = names.iter().map(|name| number(name).ok_or_else(|| name.clone())).collect();
        Ok(Self((!names.is_empty()).then_some(kinds?)))
    }

    /// Whether events of this kind are taken.
    pub fn has(&self, kind: i32) -> bool {
        self.0.as_ref().is_none_or(|kinds| kinds.contains(&kind))
    }

    /// Whether a record of the ring is taken. What is too short to have a kind is for the decoder to complain of.
    fn takes(&self, record: &[u8]) -> bool {
        record.get(size_of::<abi::event::Prefix>()).is_none_or(|kind| self.has((*kind).into()))
    }
}

/// How often the programs are asked how many records they had no room for.
const LOST_EVERY: Duration = Duration::from_secs(1);

/// Records of sockets that may wait until it is known whose they are.
const WAITING_MAX: usize = 256;

/// Hands batches on until there are no more, and tells of records the ring had no room for.
pub async fn hand_on(mut batches: mpsc::Receiver<Batch>, outlets: Outlets) {
    let mut complained = false;
    // Records of sockets of which it is not known yet whose they are.
    let mut waiting: VecDeque<Vec<u8>> = VecDeque::new();
    let mut overflow = Overflow::new(&outlets.maps);
    let mut ask = tokio::time::interval(LOST_EVERY);
    ask.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let batch = tokio::select! {
            biased;
            _ = ask.tick() => {
                overflow.tell(&outlets);
                continue;
            }
            () = outlets.cgroups.looked() => {
                if let Some((observer, decoder)) = &outlets.hubble {
                    for record in std::mem::take(&mut waiting) {
                        outlets.publish((observer, decoder), &record, &mut waiting, &mut complained);
                    }
                }
                continue;
            }
            batch = batches.recv() => match batch {
                Some(batch) => batch,
                None => return,
            },
        };
        if batch.lost > 0 {
            outlets.metrics.lost_events("observer_events_queue", batch.lost);
        }
        outlets.feed.publish(batch.lost, batch.records());
        let Some((observer, decoder)) = &outlets.hubble else { continue };
        if batch.lost > 0 {
            observer.publish_lost(LostEventSource::ObserverEventsQueue, batch.lost, None);
        }
        for record in batch.records().filter(|record| outlets.kinds.takes(record)) {
            outlets.publish((observer, decoder), record, &mut waiting, &mut complained);
        }
    }
}

impl Outlets {
    /// Hands a record to Hubble. One of a socket whose pod is being looked for waits; a socket of no pod is nobody's flow, and the
    /// original leaves such out as well.
    fn publish(
        &self,
        (observer, decoder): (&Observer, &Decoder<Names>),
        record: &[u8],
        waiting: &mut VecDeque<Vec<u8>>,
        complained: &mut bool,
    ) {
        match observer.publish_record(decoder, record) {
            Ok(()) => {}
            Err(DecodeError::Cgroup(id)) if !self.cgroups.is_asked(id) => {}
            Err(DecodeError::Cgroup(_)) if waiting.len() < WAITING_MAX => waiting.push_back(record.to_vec()),
            Err(DecodeError::Cgroup(_)) => self.metrics.lost_events("observer_events_queue", 1),
            Err(why) => {
                self.metrics.lost_events("observer_events_queue", 1);
                if !*complained {
                    tracing::warn!(%why, "a record of the programs makes no sense; more of them are only counted");
                    *complained = true;
                }
            }
        }
    }
}

/// Records the programs had no room for, as far as they were told of.
struct Overflow {
    told: u64,
    asked: SystemTime,
}

impl Overflow {
    /// What was lost before is an earlier agent's, or nobody's.
    fn new(maps: &Maps) -> Self {
        Self { told: maps.events_lost().unwrap_or(0), asked: SystemTime::now() }
    }

    fn tell(&mut self, outlets: &Outlets) {
        let since = std::mem::replace(&mut self.asked, SystemTime::now());
        let Ok(total) = outlets.maps.events_lost() else { return };
        let lost = total.saturating_sub(self.told);
        self.told = total;
        if lost == 0 {
            return;
        }
        outlets.metrics.lost_events("perf_event_ring_buffer", lost);
        outlets.feed.publish(lost, std::iter::empty());
        if let Some((observer, _)) = &outlets.hubble {
            observer.publish_lost_since(LostEventSource::PerfEventRingBuffer, lost, since);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_those_that_are_named() {
        let named = |names: &[&str]| Kinds::named(&names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>());
        let mut record = [0; size_of::<abi::event::Prefix>() + 1];
        record[size_of::<abi::event::Prefix>()] = abi::event::NOTIFY_TRACE;
        let takes = |names: &[&str]| named(names).unwrap().takes(&record);
        assert!(takes(&[]) && takes(&["drop", "trace"]) && !takes(&["drop"]));
        assert!(named(&["drop"]).unwrap().takes(&[]), "the decoder says what is wrong with it");
        assert!(named(&["agent"]).unwrap().has(event_type::AGENT) && !named(&["l7"]).unwrap().has(event_type::AGENT));
        assert_eq!(named(&["trace", "tracing"]), Err("tracing".to_owned()));
    }
}
