//! All exports: the static one, and those of the file that may change.

use super::{ConfigError, Exporter, FlowLog, Report, exporter::StartError, parse};
use crate::export::Rotation;
use hubble_metrics::text::Values;
use hubble_model::{Event, NodeInfo};
use hubble_server::Tap;
use std::{
    hash::{DefaultHasher, Hash as _, Hasher as _},
    sync::{Arc, Mutex, PoisonError, RwLock},
};

/// Exports at work, shared between those who publish and whoever changes them.
#[derive(Debug)]
pub struct Exports {
    node: NodeInfo,
    rotation: Rotation,
    fixed: Option<Arc<Exporter>>,
    list: RwLock<Arc<[Arc<Exporter>]>>,
    dynamic: Mutex<Dynamic>,
}

#[derive(Debug, Default)]
struct Dynamic {
    hash: Option<u64>,
    applied_ns: i64,
    added: u64,
    updated: u64,
    removed: u64,
    failed: u64,
    /// Why the file of today is not in force.
    error: Option<String>,
}

/// What a change of the file did, by names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Change {
    /// Began.
    pub added: Vec<String>,
    /// Ended and began anew.
    pub updated: Vec<String>,
    /// Ended.
    pub removed: Vec<String>,
}

impl Exports {
    /// Exports of what this node sees; `rotation` is that of flow logs that say nothing about it.
    ///
    /// # Errors
    /// When the static export cannot start.
    pub fn new(node: NodeInfo, fixed: Option<FlowLog>, rotation: Rotation) -> Result<Self, StartError> {
        let fixed = fixed.map(|log| Exporter::start(log, node.clone())).transpose()?.map(Arc::new);
        let list = RwLock::new(fixed.iter().cloned().collect());
        Ok(Self { node, rotation, fixed, list, dynamic: Mutex::default() })
    }

    fn list(&self) -> Arc<[Arc<Exporter>]> {
        self.list.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, dynamic: &[Arc<Exporter>]) {
        let all = self.fixed.iter().chain(dynamic).cloned().collect();
        *self.list.write().unwrap_or_else(PoisonError::into_inner) = all;
    }

    fn is_dynamic(&self, exporter: &Arc<Exporter>) -> bool {
        self.fixed.as_ref().is_none_or(|fixed| !Arc::ptr_eq(fixed, exporter))
    }

    /// Takes up the file's text, as it is at this time. Exports that stay as they are do not notice. The same text as
    /// last time changes nothing. May wait for the disk.
    ///
    /// # Errors
    /// The first mistake of the text; then all exports go on as they were.
    pub fn apply(&self, text: &str, now_ns: i64) -> Result<Change, ConfigError> {
        let mut dynamic = self.dynamic.lock().unwrap_or_else(PoisonError::into_inner);
        let mut hasher = DefaultHasher::new();
        text.hash(&mut hasher);
        let hash = hasher.finish();
        if dynamic.hash == Some(hash) && dynamic.error.is_none() {
            return Ok(Change::default());
        }
        let wanted = parse(text, &self.rotation).and_then(|wanted| self.beside_the_static(wanted));
        let wanted = wanted.inspect_err(|why| dynamic.fail(why.to_string()))?;
        let change = self.replace(wanted, &mut dynamic);
        dynamic.hash = Some(hash);
        dynamic.applied_ns = now_ns;
        Ok(change)
    }

    /// The file cannot be read. All exports go on as they were.
    pub fn unreadable(&self, why: String) {
        self.dynamic.lock().unwrap_or_else(PoisonError::into_inner).fail(why);
    }

    /// Two exports cannot write one file.
    fn beside_the_static(&self, wanted: Vec<FlowLog>) -> Result<Vec<FlowLog>, ConfigError> {
        let Some(fixed) = &self.fixed else { return Ok(wanted) };
        match wanted.iter().position(|log| log.path == fixed.log.path && log.path.as_os_str() != "stdout") {
            None => Ok(wanted),
            Some(at) => Err(ConfigError::Twice {
                path: format!("flowLogs[{at}].filePath"),
                what: "the path of --hubble-export-file-path",
                value: fixed.log.path.display().to_string(),
            }),
        }
    }

    fn replace(&self, wanted: Vec<FlowLog>, dynamic: &mut Dynamic) -> Change {
        let mut change = Change::default();
        let before: Vec<_> = self.list().iter().filter(|exporter| self.is_dynamic(exporter)).cloned().collect();
        let (kept, mut gone): (Vec<_>, Vec<_>) =
            before.into_iter().partition(|exporter| wanted.contains(&exporter.log));
        // Whoever ends writes what it has before another one opens the same file.
        self.set(&kept);
        let mut names: Vec<String> = gone.iter().map(|exporter| exporter.log.name.clone()).collect();
        for exporter in gone.drain(..) {
            exporter.flush(std::time::Duration::from_secs(10));
        }
        let mut now = kept;
        dynamic.error = None;
        for log in wanted {
            if now.iter().any(|exporter| exporter.log == log) {
                continue;
            }
            let name = log.name.clone();
            match Exporter::start(log, self.node.clone()) {
                Ok(exporter) => now.push(Arc::new(exporter)),
                Err(why) => {
                    dynamic.error = Some(format!("{name}: {why}"));
                    continue;
                }
            }
            match names.iter().position(|gone| *gone == name) {
                Some(at) => change.updated.push(names.swap_remove(at)),
                None => change.added.push(name),
            }
        }
        change.removed = names;
        self.set(&now);
        dynamic.added += change.added.len() as u64;
        dynamic.updated += change.updated.len() as u64;
        dynamic.removed += change.removed.len() as u64;
        change
    }

    /// All exports by name, with what they did.
    pub fn reports(&self) -> Vec<(String, Report)> {
        self.list().iter().map(|exporter| (exporter.log.name.clone(), exporter.report())).collect()
    }

    /// Waits until everything published so far is written or given up, for so long at most for each export.
    pub fn flush(&self, within: std::time::Duration) -> bool {
        self.list().iter().all(|exporter| exporter.flush(within))
    }

    /// What is wrong at the moment, in sentences.
    pub fn troubles(&self) -> Vec<String> {
        let mut all = Vec::new();
        for (name, report) in self.reports() {
            if let Some(why) = report.error {
                all.push(format!("export {name} cannot be written: {why}; {} flows are lost", report.failed));
            }
        }
        let dynamic = self.dynamic.lock().unwrap_or_else(PoisonError::into_inner);
        all.extend(dynamic.error.iter().map(|why| format!("the flow logs' configuration is not in force: {why}")));
        all
    }

    /// Writes the exports' metrics, with the state at this time.
    pub fn metrics(&self, now_ns: i64, out: &mut impl Values) {
        let list = self.list();
        let reports: Vec<(&str, Report)> =
            list.iter().map(|exporter| (exporter.log.name.as_str(), exporter.report())).collect();
        let head = ("hubble_exporter_events_total", "Events exported", "counter");
        out.values(head, reports.iter().map(|(export, report)| (vec![("name", *export)], report.written as f64)));
        let lost = |reason: &'static str, pick: fn(&Report) -> u64| {
            let one = move |(export, r): &(_, Report)| (vec![("name", *export), ("reason", reason)], pick(r) as f64);
            reports.iter().map(one)
        };
        let head = ("hubble_exporter_lost_events_total", "Events that should have been exported", "counter");
        out.values(head, lost("queue_full", |r| r.lost).chain(lost("write_failed", |r| r.failed)));
        let dynamic = self.dynamic.lock().unwrap_or_else(PoisonError::into_inner);
        if dynamic.hash.is_none() && dynamic.error.is_none() {
            return;
        }
        let active = |exporter: &&Arc<Exporter>| exporter.is_active(now_ns);
        let mine: Vec<_> = list.iter().filter(|exporter| self.is_dynamic(exporter)).collect();
        let (up, all) = (mine.iter().copied().filter(active).count() as f64, mine.len() as f64);
        let status = |status| vec![("status", status)];
        let head = ("hubble_dynamic_exporter_exporters_total", "Dynamic exports by state", "gauge");
        out.values(head, [(status("active"), up), (status("inactive"), all - up)]);
        let head = ("hubble_dynamic_exporter_up", "Whether a dynamic export is active", "gauge");
        let one = |exporter: &&Arc<Exporter>| f64::from(u8::from(active(exporter)));
        out.values(head, mine.iter().map(|exporter| (vec![("source", exporter.log.name.as_str())], one(exporter))));
        let head = ("hubble_dynamic_exporter_reconfigurations_total", "Changes of dynamic exports", "counter");
        let op = |op, count: u64| (vec![("op", op)], count as f64);
        let Dynamic { added, updated, removed, failed, .. } = *dynamic;
        out.values(head, [op("add", added), op("failure", failed), op("remove", removed), op("update", updated)]);
        let head = ("hubble_dynamic_exporter_config_hash", "Hash of the configuration in force", "gauge");
        out.values(head, [(Vec::new(), dynamic.hash.unwrap_or_default() as f64)]);
        let head = ("hubble_dynamic_exporter_config_last_applied", "When the configuration was applied", "gauge");
        out.values(head, [(Vec::new(), (dynamic.applied_ns / 1_000_000_000) as f64)]);
    }
}

impl Dynamic {
    fn fail(&mut self, why: String) {
        if self.error.as_ref() != Some(&why) {
            tracing::warn!(why, "dynamic exports of flows stay as they are");
        }
        self.failed += 1;
        self.error = Some(why);
    }
}

impl Tap for Exports {
    fn event(&self, _: u64, event: &Arc<Event>, _: &NodeInfo) {
        for exporter in self.list().iter() {
            exporter.offer(event);
        }
    }
}
