//! What becomes of flows besides being served: metrics, exports, history.
//!
//! Each part sees every event in the thread that publishes it and must not hold that up: metrics count at once, exports
//! and history leave a reference for a thread of their own. What goes wrong with a file is said in the status and in
//! the metrics, and ends nothing.

mod page;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hubble_files::export::{Change, Exports};
use hubble_files::history::{OpenError, Recorder};
use hubble_metrics::text::Values;
use hubble_metrics::{Format, Metrics};
use hubble_model::{Event, NodeInfo};
use hubble_server::{Extras, History, Tap};
use hubble_transport::tls::{ServerTls, TlsError, WATCH_EVERY};
use metrics::{Sample, Source};
use runtime::Supervisor;

use crate::config::SinkSettings;
use crate::lookup::Snapshot;

pub use page::PageError;

/// How often the files that may change are looked at.
const RELOAD_EVERY: Duration = Duration::from_secs(5);
/// How often series of pods that are gone are removed.
const SWEEP_EVERY: Duration = Duration::from_secs(5);
/// How long the end of the agent waits for the disk.
const CLOSE_WITHIN: Duration = Duration::from_secs(3);
/// Bytes of a file that may change.
const FILE_MAX: u64 = 1 << 20;

/// Why the agent does not start.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "each says itself")]
pub enum SinkError {
    #[error("--hubble-history-path: {0}")]
    History(#[from] OpenError),
    #[error("the export of --hubble-export-file-path: {0}")]
    Export(String),
    #[error("--hubble-metrics-server-tls-cert-file: {0}")]
    Tls(#[from] TlsError),
    #[error("--hubble-metrics-server: {0}")]
    Page(#[from] PageError),
}

/// Everything that sees flows. All parts may be missing.
#[derive(Debug, Default)]
pub struct Sinks {
    metrics: Option<Arc<Metrics>>,
    exports: Option<Arc<Exports>>,
    history: Option<Arc<Recorder>>,
    tls: Option<ServerTls>,
    /// Pods of the last snapshot: namespace and name.
    pods: Mutex<BTreeSet<(Box<str>, Box<str>)>>,
    /// Why the file of metrics is not in force.
    metrics_error: Mutex<Option<String>>,
}

/// Counts in the thread that publishes.
#[derive(Debug)]
struct Count(Arc<Metrics>);

impl Tap for Count {
    fn event(&self, _: u64, event: &Arc<Event>, node: &NodeInfo) {
        self.0.observe(event, node);
    }
}

fn now_ns() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

impl Sinks {
    /// Opens what the settings ask for, for flows of this node.
    ///
    /// # Errors
    /// See [`SinkError`].
    pub fn open(settings: &SinkSettings, node: &NodeInfo) -> Result<Self, SinkError> {
        let history = match &settings.history {
            Some((folder, limits)) => Some(Arc::new(Recorder::open(folder, limits.clone(), node.clone())?)),
            None => None,
        };
        let exports = (settings.export.is_some() || settings.exports_file.is_some())
            .then(|| Exports::new(node.clone(), settings.export.clone(), settings.rotation.clone()))
            .transpose()
            .map_err(|why| SinkError::Export(why.to_string()))?
            .map(Arc::new);
        let counted = !settings.metrics.trim().is_empty() || settings.metrics_file.is_some();
        if counted && settings.metrics_server.is_none() {
            tracing::warn!("metrics of flows are configured, but not served: set --hubble-metrics-server");
        }
        let metrics = settings.metrics_server.map(|_| Arc::new(Metrics::new(settings.plugins(), settings.series_max)));
        let tls = settings.metrics_tls.clone().map(ServerTls::load).transpose()?;
        let sinks = Self { metrics, exports, history, tls, ..Self::default() };
        // What the files say now is in force from the first flow on.
        if let Some(path) = &settings.exports_file {
            sinks.reload_exports(path);
        }
        if let Some(path) = &settings.metrics_file {
            sinks.reload_metrics(path, &mut None);
        }
        Ok(sinks)
    }

    /// The parts as an observer takes them.
    pub fn extras(&self, settings: &SinkSettings) -> Extras {
        let mut taps: Vec<Arc<dyn Tap>> = Vec::new();
        if let Some(metrics) = &self.metrics {
            taps.push(Arc::new(Count(metrics.clone())));
        }
        if let Some(exports) = &self.exports {
            taps.push(exports.clone());
        }
        if let Some(history) = &self.history {
            taps.push(history.clone());
        }
        let history = self.history.clone().map(|history| -> Arc<dyn History> { history });
        Extras { taps, history, redact: settings.redact.clone() }
    }

    /// Serves metrics and follows the files that may change.
    ///
    /// # Errors
    /// When the address cannot be listened on.
    pub async fn start(
        self: &Arc<Self>,
        parts: &mut Supervisor,
        settings: &SinkSettings,
        stopped: impl Future<Output = ()> + Send + 'static,
    ) -> Result<(), SinkError> {
        if let (Some(address), Some(metrics)) = (settings.metrics_server, &self.metrics) {
            let listener = page::bind(address).await?;
            let (sinks, open) = (self.clone(), settings.open_metrics);
            let text = move |accept: &str| sinks.text(if open { Format::accepted(accept) } else { Format::Text });
            let scraped = {
                let metrics = metrics.clone();
                move |code, took: Duration| metrics.scraped(code, took.as_secs_f64())
            };
            parts.supervise("metrics of flows", page::serve(listener, self.tls.clone(), text, scraped, stopped));
            let swept = metrics.clone();
            parts.supervise::<String>("series of pods that are gone", async move {
                loop {
                    tokio::time::sleep(SWEEP_EVERY).await;
                    swept.sweep(now_ns());
                }
            });
        }
        if let Some(tls) = self.tls.clone() {
            parts.supervise::<String>("certificates of the metrics of flows", async move {
                tls.watch(WATCH_EVERY).await;
                Err("the files are not watched any more".into())
            });
        }
        if settings.exports_file.is_some() || settings.metrics_file.is_some() {
            let (exports, metrics) = (settings.exports_file.clone(), settings.metrics_file.clone());
            parts.supervise::<String>("files of metrics and exports", self.clone().follow(exports, metrics));
        }
        Ok(())
    }

    async fn follow(self: Arc<Self>, exports: Option<PathBuf>, metrics: Option<PathBuf>) -> Result<(), String> {
        let mut last = None;
        loop {
            tokio::time::sleep(RELOAD_EVERY).await;
            let (sinks, exports, metrics, mut text) = (self.clone(), exports.clone(), metrics.clone(), last.take());
            // An export that ends writes what it has, which may take as long as the disk takes.
            let looked = tokio::task::spawn_blocking(move || {
                if let Some(path) = exports {
                    sinks.reload_exports(&path);
                }
                if let Some(path) = metrics {
                    sinks.reload_metrics(&path, &mut text);
                }
                text
            });
            last = looked.await.map_err(|why| why.to_string())?;
        }
    }

    fn reload_exports(&self, path: &Path) {
        let Some(exports) = &self.exports else { return };
        match read(path) {
            Err(why) => exports.unreadable(why),
            // A text that is refused is told by the exports themselves, once.
            Ok(text) => {
                if let Ok(change) = exports.apply(&text, now_ns())
                    && change != Change::default()
                {
                    tracing::info!(?change, file = %path.display(), "exports of flows changed");
                }
            }
        }
    }

    fn reload_metrics(&self, path: &Path, last: &mut Option<String>) {
        let Some(metrics) = &self.metrics else { return };
        let mut error = self.metrics_error.lock().unwrap_or_else(PoisonError::into_inner);
        let read = read(path);
        if error.is_none() && read.as_ref().is_ok_and(|text| Some(text) == last.as_ref()) {
            return;
        }
        let applied = read.and_then(|text| {
            let applied = metrics.apply_text(&text).map_err(|why| why.to_string())?;
            *last = Some(text);
            Ok(applied)
        });
        match applied {
            Ok(change) => {
                tracing::info!(?change, file = %path.display(), "metrics of flows changed");
                *error = None;
            }
            Err(why) => {
                if error.as_ref() != Some(&why) {
                    tracing::warn!(why, file = %path.display(), "metrics of flows stay as they are");
                }
                *error = Some(why);
            }
        }
    }

    /// Everything as a scraper reads it.
    fn text(&self, format: Format) -> (&'static str, String) {
        let Some(metrics) = &self.metrics else { return (format.content_type(), String::new()) };
        (format.content_type(), metrics.render(format, |out| self.files(out)))
    }

    /// What is said of exports and history.
    fn files(&self, out: &mut impl Values) {
        if let Some(exports) = &self.exports {
            exports.metrics(now_ns(), out);
        }
        if let Some(history) = &self.history {
            history.metrics(out);
        }
    }

    /// New names are known: series of pods that are in them no more are to go.
    pub fn pods(&self, snapshot: &Snapshot) {
        let Some(metrics) = &self.metrics else { return };
        let infos = snapshot.endpoints.values().chain(snapshot.prefixes.values());
        let now: BTreeSet<(Box<str>, Box<str>)> = infos
            .filter(|info| !info.pod_name.is_empty())
            .map(|info| (info.namespace.clone(), info.pod_name.clone()))
            .collect();
        let mut before = self.pods.lock().unwrap_or_else(PoisonError::into_inner);
        if *before == now {
            return;
        }
        let at_ns = now_ns();
        before.difference(&now).for_each(|(namespace, pod)| metrics.pod_gone(namespace, pod, at_ns));
        now.difference(&before).for_each(|(namespace, pod)| metrics.pod_there(namespace, pod));
        *before = now;
    }

    /// The plugins that count, if metrics are served.
    pub fn plugins(&self) -> Option<Vec<&'static str>> {
        self.metrics.as_ref().map(|metrics| metrics.plugins())
    }

    /// What is wrong at the moment, in sentences.
    pub fn troubles(&self) -> Vec<String> {
        let metrics = self.metrics_error.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut all: Vec<String> =
            metrics.into_iter().map(|why| format!("the flow metrics' configuration is not in force: {why}")).collect();
        all.extend(self.exports.iter().flat_map(|exports| exports.troubles()));
        all.extend(self.history.iter().flat_map(|history| history.troubles()));
        all
    }

    /// Writes what is not written yet, if the disk takes it in time.
    pub async fn close(&self) {
        let (exports, history) = (self.exports.clone(), self.history.clone());
        if exports.is_none() && history.is_none() {
            return;
        }
        let (tell, told) = tokio::sync::oneshot::channel();
        // A thread of its own: one that hangs on the disk must not keep the agent from ending.
        let close = move || {
            let written = exports.is_none_or(|exports| exports.flush(CLOSE_WITHIN));
            let closed = history.is_none_or(|history| history.close(CLOSE_WITHIN));
            // Nobody may wait any more.
            let _late = tell.send(written && closed);
        };
        let thread = std::thread::Builder::new().name("close-sinks".into()).spawn(close);
        let in_time = match thread {
            Ok(_) => tokio::time::timeout(2 * CLOSE_WITHIN, told).await.is_ok_and(|told| told.unwrap_or(false)),
            Err(_) => false,
        };
        if !in_time {
            tracing::warn!("the disk is slow: some flows of the last seconds are not written");
        }
    }
}

/// Values for the agent's own page: of exports and history, when there is no page for metrics of flows, which has them.
impl Source for Sinks {
    fn samples(&self) -> Vec<Sample> {
        let mut samples = Samples::default();
        if self.metrics.is_none() {
            self.files(&mut samples);
        }
        samples.0
    }
}

#[derive(Default)]
struct Samples(Vec<Sample>);

impl Values for Samples {
    fn values<'a>(
        &mut self,
        (name, help, kind): (&'static str, &'static str, &'static str),
        values: impl IntoIterator<Item = (Vec<(&'static str, &'a str)>, f64)>,
    ) {
        self.0.extend(values.into_iter().map(|(labels, value)| {
            let labels = labels.into_iter().map(|(name, value)| (name, value.to_owned()));
            match kind {
                // The page adds the end of the name.
                "counter" => Sample::counter(name.strip_suffix("_total").unwrap_or(name), help, labels, value),
                _ => Sample::gauge(name, help, labels, value),
            }
        }));
    }
}

fn read(path: &Path) -> Result<String, String> {
    let size = std::fs::metadata(path).map_err(|why| format!("{}: {why}", path.display()))?.len();
    if size > FILE_MAX {
        return Err(format!("{}: {size} bytes are more than {FILE_MAX}", path.display()));
    }
    std::fs::read_to_string(path).map_err(|why| format!("{}: {why}", path.display()))
}

#[cfg(test)]
mod tests;
