//! All plugins behind one lock that is held for as long as one flow takes, and never while text is written.

use crate::{
    config::{Applied, ConfigError},
    http::Scrapes,
    options::{OptionError, PluginConfig, check},
    plugins::Active,
    text::{Format, Values as _, Writer},
};
use hubble_api::flow::LostEventSource;
use hubble_model::{Event, NodeInfo, Seen};
use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

/// Series of each metric, unless told otherwise.
pub const SERIES_MAX: usize = 10_000;

/// How long the series of a pod that is gone stay, so that its last values are scraped.
const STAY_NS: i64 = 60_000_000_000;

/// Pods that are gone and whose series are not removed yet, at most; of more, the oldest lose their series at once.
const GONE_MAX: usize = 65_536;

/// What is counted.
#[derive(Debug)]
pub struct Metrics {
    state: Mutex<State>,
    series_max: usize,
}

#[derive(Debug, Default)]
struct State {
    plugins: Vec<Active>,
    lost: BTreeMap<&'static str, u64>,
    scrapes: Scrapes,
    /// Namespace and name of pods that are gone, and when their series are to be removed.
    gone: BTreeMap<(String, String), i64>,
    removed: u64,
}

impl Metrics {
    /// Counts by these plugins, with so many series of each metric.
    pub fn new(plugins: Vec<PluginConfig>, series_max: usize) -> Self {
        let plugins = plugins.into_iter().map(|config| Active::new(config, series_max)).collect();
        Self { state: Mutex::new(State { plugins, ..State::default() }), series_max }
    }

    /// Whoever panicked here left counters that are right.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts an event.
    pub fn observe(&self, event: &Event, node: &NodeInfo) {
        let state = &mut *self.state();
        match event {
            Event::Record(record) => {
                let flow = Seen { record, node };
                state.plugins.iter_mut().for_each(|plugin| plugin.observe(&flow));
            }
            Event::Flow(flow) => state.plugins.iter_mut().for_each(|plugin| plugin.observe(flow.as_ref())),
            Event::Lost { event, .. } => {
                let source = match LostEventSource::try_from(event.source) {
                    Ok(LostEventSource::PerfEventRingBuffer) => "perf_event_ring_buffer",
                    Ok(LostEventSource::ObserverEventsQueue) => "observer_events_queue",
                    Ok(LostEventSource::HubbleRingBuffer) => "hubble_ring_buffer",
                    _ => "unknown",
                };
                *state.lost.entry(source).or_default() += event.num_events_lost;
            }
            Event::Agent { .. } | Event::Debug { .. } => {}
        }
    }

    /// A pod is gone: its series go a minute later, if it has not come back.
    pub fn pod_gone(&self, namespace: &str, pod: &str, now_ns: i64) {
        let mut state = self.state();
        if state.gone.len() >= GONE_MAX {
            state.remove_due(i64::MAX);
        }
        state.gone.insert((namespace.to_owned(), pod.to_owned()), now_ns.saturating_add(STAY_NS));
    }

    /// A pod is there: its series stay.
    pub fn pod_there(&self, namespace: &str, pod: &str) {
        self.state().gone.remove(&(namespace.to_owned(), pod.to_owned()));
    }

    /// Removes the series of pods that have been gone for long enough.
    pub fn sweep(&self, now_ns: i64) {
        self.state().remove_due(now_ns);
    }

    /// Puts other plugins in the place of those there are. A plugin whose labels stay the same keeps its series, and
    /// takes the new filters.
    ///
    /// # Errors
    /// When the plugins cannot be together; then nothing changes.
    pub fn apply(&self, plugins: Vec<PluginConfig>) -> Result<Applied, OptionError> {
        check(&plugins)?;
        let mut state = self.state();
        let mut old = std::mem::take(&mut state.plugins);
        let mut applied = Applied::default();
        for config in plugins {
            let same = old.iter().position(|active| active.config.plugin == config.plugin);
            let before = same.map(|at| old.swap_remove(at));
            let active = match before {
                Some(mut active)
                    if active.config.contexts == config.contexts && active.config.switches == config.switches =>
                {
                    applied.kept += 1;
                    active.config.filters = config.filters;
                    active
                }
                Some(_) => {
                    applied.renewed.push(config.plugin);
                    Active::new(config, self.series_max)
                }
                None => {
                    applied.added.push(config.plugin);
                    Active::new(config, self.series_max)
                }
            };
            state.plugins.push(active);
        }
        applied.removed = old.iter().map(|active| active.config.plugin).collect();
        drop(state);
        Ok(applied)
    }

    /// Takes up a text of the dynamic configuration.
    ///
    /// # Errors
    /// The first mistake; then nothing changes.
    pub fn apply_text(&self, text: &str) -> Result<Applied, ConfigError> {
        Ok(self.apply(crate::config::parse(text)?)?)
    }

    /// Names of the plugins that are on.
    pub fn plugins(&self) -> Vec<&'static str> {
        self.state().plugins.iter().map(|active| active.config.plugin.name()).collect()
    }

    /// This text was asked for and answered.
    pub fn scraped(&self, code: u16, seconds: f64) {
        self.state().scrapes.add(code, seconds);
    }

    /// Everything as text; `more` writes what others count.
    pub fn render(&self, format: Format, more: impl FnOnce(&mut Writer)) -> String {
        let mut out = Writer::new(format);
        let plugins = self.state().plugins.len();
        let mut sizes = Vec::new();
        for plugin in 0..plugins {
            for family in 0.. {
                // One at a time, so that flows need not wait for all of them.
                let state = self.state();
                let Some(active) = state.plugins.get(plugin) else { break };
                let Some(family) = active.families.get(family) else { break };
                sizes.push((family.name, family.len(), family.overflowed));
                let snapshot = family.snapshot();
                drop(state);
                snapshot.write(&mut out);
            }
        }
        let state = self.state();
        let lost = ("hubble_lost_events_total", "Events that were lost", "counter");
        out.values(lost, state.lost.iter().map(|(source, count)| (vec![("source", *source)], *count as f64)));
        let series = ("hubble_metrics_series", "Series of a metric", "gauge");
        out.values(series, sizes.iter().map(|(name, series, _)| (vec![("metric", *name)], *series as f64)));
        let over = (
            "hubble_metrics_overflow_total",
            "What was counted in the overflow series because the metric has all the series it may have",
            "counter",
        );
        out.values(over, sizes.iter().map(|(name, _, overflowed)| (vec![("metric", *name)], *overflowed as f64)));
        let removed = ("hubble_metrics_removed_series_total", "Series removed because their pod is gone", "counter");
        out.values(removed, [(Vec::new(), state.removed as f64)]);
        state.scrapes.write(&mut out);
        drop(state);
        more(&mut out);
        out.finish()
    }
}

impl State {
    fn remove_due(&mut self, now_ns: i64) {
        let due: Vec<(String, String)> =
            self.gone.iter().filter(|(_, at)| **at <= now_ns).map(|(pod, _)| pod.clone()).collect();
        for pod in due {
            self.gone.remove(&pod);
            for active in &mut self.plugins {
                for labels in active.config.contexts.of_pod(&pod.0, &pod.1) {
                    let removed: usize = active.families.iter_mut().map(|family| family.remove(&labels)).sum();
                    self.removed += removed as u64;
                }
            }
        }
    }
}
