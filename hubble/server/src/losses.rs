//! What a stream lost and has not been told of yet.

use crate::select::timestamp;
use hubble_api::flow::LostEvent;
use std::{collections::BTreeMap, time::Duration};

/// Losses not yet told, by source.
pub(crate) struct Losses {
    by_source: BTreeMap<i32, (LostEvent, i64, i64)>,
    interval_ns: i64,
    told_ns: Option<i64>,
}

impl Losses {
    /// Nothing; what is added is told at most once in this time.
    pub fn new(interval: Duration) -> Self {
        let interval_ns = i64::try_from(interval.as_nanos()).unwrap_or(i64::MAX);
        Self { by_source: BTreeMap::new(), interval_ns, told_ns: None }
    }

    /// Takes note of a loss.
    pub fn add(&mut self, source: i32, count: u64, cpu: Option<i32>, at_ns: i64) {
        let fresh = || (LostEvent { source, cpu, ..LostEvent::default() }, at_ns, at_ns);
        let (event, first_ns, last_ns) = self.by_source.entry(source).or_insert_with(fresh);
        event.num_events_lost += count;
        event.cpu = event.cpu.filter(|_| event.cpu == cpu);
        *first_ns = at_ns.min(*first_ns);
        *last_ns = at_ns.max(*last_ns);
    }

    /// How long the oldest untold loss must still wait.
    pub fn wait_ns(&self, now_ns: i64) -> Option<u64> {
        let due_ns = self.told_ns.map_or(i64::MIN, |told_ns| told_ns.saturating_add(self.interval_ns));
        (!self.by_source.is_empty()).then(|| u64::try_from(due_ns.saturating_sub(now_ns)).unwrap_or(0))
    }

    /// A loss that is to be told now, and its time.
    pub fn due(&mut self, now_ns: i64, flush: bool) -> Option<(LostEvent, i64)> {
        if !flush && self.wait_ns(now_ns)? > 0 {
            return None;
        }
        let (_, (mut event, first_ns, last_ns)) = self.by_source.pop_first()?;
        if self.by_source.is_empty() {
            self.told_ns = Some(now_ns);
        }
        event.first = timestamp(first_ns);
        event.last = timestamp(last_ns);
        Some((event, last_ns))
    }
}
