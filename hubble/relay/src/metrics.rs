//! What Prometheus is told, under the original's names.

use crate::pool::{Connectivity, View};
use axum::{Router, http::header, routing::get};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric, text::encode},
    metrics::{counter::Counter, family::Family, gauge::ConstGauge, histogram::Histogram},
    registry::Registry,
};
use std::{
    fmt, fs, io,
    net::SocketAddr,
    sync::{Arc, atomic::AtomicU64},
};
use tokio::{net::TcpListener, sync::watch, time::Instant};
use tonic::Code;

const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// Seconds a request took; the reference's.
const SECONDS: [f64; 11] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// A method of the server.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Method {
    grpc_type: &'static str,
    grpc_service: &'static str,
    grpc_method: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Handled {
    grpc_type: &'static str,
    grpc_service: &'static str,
    grpc_method: &'static str,
    grpc_code: String,
}

type Histograms = Family<Method, Histogram, fn() -> Histogram>;

#[derive(Debug)]
struct Counters {
    started: Family<Method, Counter>,
    handled: Family<Handled, Counter>,
    received: Family<Method, Counter>,
    sent: Family<Method, Counter>,
    seconds: Histograms,
}

/// All metrics of a relay.
#[derive(Debug, Clone)]
pub struct Metrics {
    registry: Arc<Registry>,
    counters: Arc<Counters>,
}

impl Metrics {
    /// Metrics of a relay with these nodes.
    pub fn new(view: watch::Receiver<Arc<View>>) -> Self {
        let counters = Counters {
            started: Family::default(),
            handled: Family::default(),
            received: Family::default(),
            sent: Family::default(),
            seconds: Family::new_with_constructor(|| Histogram::new(SECONDS)),
        };
        let mut registry = Registry::default();
        registry.register("grpc_server_started", "RPCs started on the server", counters.started.clone());
        registry.register("grpc_server_handled", "RPCs completed on the server", counters.handled.clone());
        registry.register("grpc_server_msg_received", "Messages received by the server", counters.received.clone());
        registry.register("grpc_server_msg_sent", "Messages sent by the server", counters.sent.clone());
        registry.register("grpc_server_handling_seconds", "How long RPCs took", counters.seconds.clone());
        registry.register_collector(Box::new(Pool { view }));
        registry.register_collector(Box::new(Process));
        Self { registry: Arc::new(registry), counters: Arc::new(counters) }
    }

    /// A request that came in just now.
    pub(crate) fn call(&self, grpc_method: &'static str, streams: bool) -> Call {
        let grpc_type = if streams { "server_stream" } else { "unary" };
        let method = Method { grpc_type, grpc_service: "observer.Observer", grpc_method };
        self.counters.started.get_or_create(&method).inc();
        self.counters.received.get_or_create(&method).inc();
        let sent = self.counters.sent.get_or_create(&method).clone();
        Call { counters: self.counters.clone(), method, sent, began: Instant::now(), ended: false }
    }

    /// All of them as text.
    pub fn render(&self) -> String {
        let mut text = String::new();
        match encode(&mut text, &self.registry) {
            Ok(()) => text,
            Err(fmt::Error) => String::from("# EOF\n"),
        }
    }

    /// Serves `/metrics` until `stop` completes.
    ///
    /// # Errors
    /// When the address cannot be listened on, or the listener breaks.
    pub async fn serve(self, address: SocketAddr, stop: impl Future<Output = ()> + Send + 'static) -> io::Result<()> {
        let listener = TcpListener::bind(address).await?;
        let page = get(move || async move { ([(header::CONTENT_TYPE, CONTENT_TYPE)], self.render()) });
        axum::serve(listener, Router::new().route("/metrics", page)).with_graceful_shutdown(stop).await
    }
}

/// A request under way; counted as cancelled unless it says how it ended.
#[derive(Debug)]
pub struct Call {
    counters: Arc<Counters>,
    method: Method,
    sent: Counter<u64, AtomicU64>,
    began: Instant,
    ended: bool,
}

impl Call {
    pub(crate) fn sent(&self) {
        self.sent.inc();
    }

    pub(crate) fn ended(&mut self, code: Code) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        let Method { grpc_type, grpc_service, grpc_method } = self.method;
        // As the original's library writes them: `OK`, `Canceled`, otherwise as in the protocol.
        let grpc_code = match code {
            Code::Ok => "OK".to_owned(),
            Code::Cancelled => "Canceled".to_owned(),
            code => format!("{code:?}"),
        };
        self.counters.handled.get_or_create(&Handled { grpc_type, grpc_service, grpc_method, grpc_code }).inc();
        self.counters.seconds.get_or_create(&self.method).observe(self.began.elapsed().as_secs_f64());
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.ended(Code::Cancelled);
    }
}

/// How many nodes are connected how.
#[derive(Debug)]
struct Pool {
    view: watch::Receiver<Arc<View>>,
}

const STATES: [(Connectivity, &str); 6] = [
    (Connectivity::Idle, "IDLE"),
    (Connectivity::Connecting, "CONNECTING"),
    (Connectivity::Ready, "READY"),
    (Connectivity::TransientFailure, "TRANSIENT_FAILURE"),
    (Connectivity::Shutdown, "SHUTDOWN"),
    (Connectivity::NilConnection, "NIL_CONNECTION"),
];

impl Collector for Pool {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let view = self.view.borrow().clone();
        let help = "Number of peers by the state of their connection";
        let gauge = prometheus_client::metrics::MetricType::Gauge;
        let mut family = encoder.encode_descriptor("hubble_relay_pool_peer_connection_status", help, None, gauge)?;
        for (state, name) in STATES {
            let count = view.nodes.iter().filter(|node| node.state == state).count();
            let count = ConstGauge::new(i64::try_from(count).unwrap_or(i64::MAX));
            count.encode(family.encode_family(&[("status", name)])?)?;
        }
        Ok(())
    }
}

/// Memory and files of this process.
#[derive(Debug)]
struct Process;

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB"));
        let resident = resident.and_then(|kib| kib.trim().parse::<i64>().ok()).map(|kib| kib * 1024);
        let files = fs::read_dir("/proc/self/fd").ok().and_then(|files| i64::try_from(files.count()).ok());
        for (name, help, value) in [
            ("process_resident_memory_bytes", "Resident memory size in bytes", resident),
            ("process_open_fds", "Number of open file descriptors", files),
        ] {
            let Some(value) = value else { continue };
            let gauge = ConstGauge::new(value);
            gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)?;
        }
        Ok(())
    }
}
