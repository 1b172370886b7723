//! The life of a relay: connections kept, requests answered, drained at the end.

use crate::{
    Shared,
    answer::Bounds,
    metrics::Metrics,
    peers,
    pool::{self, Reach, View},
    service,
};
use futures::Stream;
use hubble_api::{DESCRIPTORS, OBSERVER_HEALTH_SERVICE};
use hubble_transport::{secure, tls::ServerTls};
use machine::Rng;
use std::{
    io,
    sync::{Arc, atomic::AtomicUsize},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::watch,
};
use tokio_util::sync::CancellationToken;
use tonic::transport::server::{Router, Server};
use tonic_health::{
    ServingStatus,
    pb::health_server::HealthServer,
    server::{HealthReporter, HealthService},
};

/// How often a silent client is asked whether it is still there.
const KEEPALIVE: Duration = Duration::from_secs(60);
/// Requests at once on one connection. Fewer would make a client wait without a word.
const REQUESTS_MAX: u32 = 4_096;

/// Settings of a relay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// This relay's name in what it says itself, `cluster/node`.
    pub node_name: String,
    /// Shown by `hubble status` and in the `hubble-relay-version` header.
    pub version: String,
    /// Bounds of each answer.
    pub bounds: Bounds,
    /// Streams open at once; more are refused.
    pub streams_max: usize,
    /// How long requests under way may take when the relay ends.
    pub drain_within: Duration,
    /// Of connections.
    pub peers: peers::Config,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            node_name: String::new(),
            version: env!("CARGO_PKG_VERSION").into(),
            bounds: Bounds {
                window: Duration::from_secs(1),
                length_max: 100,
                bytes_max: 64 << 20,
                answer_within: Duration::from_secs(1),
            },
            streams_max: 2_048,
            drain_within: Duration::from_secs(10),
            peers: peers::Config::default(),
        }
    }
}

/// A relay that keeps its connections. Cloning shares it.
#[derive(Debug, Clone)]
pub struct Relay {
    shared: Arc<Shared>,
    health: HealthReporter,
    /// Cancelled when listeners are to end.
    closed: CancellationToken,
}

/// How a listener ended: by request, or with this.
pub type Stopped = Result<(), tonic::transport::Error>;

impl Relay {
    /// A relay, and the task that keeps its connections and ends after [`Relay::drain`]. `seed` spreads its pauses.
    pub fn new(settings: Settings, reach: Reach, seed: u64) -> (Self, impl Future<Output = ()> + Send) {
        let (seen, view) = watch::channel(Arc::new(View::default()));
        let closed = CancellationToken::new();
        let shared = Arc::new(Shared {
            metrics: Metrics::new(view.clone()),
            clock: reach.clock,
            closing: CancellationToken::new(),
            streams: AtomicUsize::new(0),
            view,
            settings,
        });
        let relay = Self { shared, health: HealthReporter::new(), closed: closed.clone() };
        let (config, reporter) = (relay.shared.settings.peers, relay.clone());
        let keep = async move {
            let connections = pool::keep(reach, config, Rng::new(seed), seen, closed.clone().cancelled_owned());
            tokio::join!(connections, reporter.report_health());
        };
        (relay, keep)
    }

    /// Its metrics.
    pub fn metrics(&self) -> &Metrics {
        &self.shared.metrics
    }

    /// Nodes as they are seen at the moment, and every change.
    pub fn view(&self) -> watch::Receiver<Arc<View>> {
        self.shared.view.clone()
    }

    /// Serving while the peer service answers and a node is connected.
    async fn report_health(self) {
        let mut view = self.shared.view.clone();
        loop {
            let serving = {
                let view = view.borrow_and_update();
                view.service_is_open && view.ready().next().is_some() && !self.shared.closing.is_cancelled()
            };
            let status = if serving { ServingStatus::Serving } else { ServingStatus::NotServing };
            for name in [OBSERVER_HEALTH_SERVICE, ""] {
                self.health.set_service_status(name, status).await;
            }
            tokio::select! {
                changed = view.changed() => if changed.is_err() { return },
                () = self.shared.closing.cancelled(), if serving => {}
                () = self.closed.cancelled() => return,
            }
        }
    }

    fn base(&self) -> Server {
        Server::builder().http2_keepalive_interval(Some(KEEPALIVE)).max_concurrent_streams(Some(REQUESTS_MAX))
    }

    fn health_service(&self) -> HealthServer<HealthService> {
        HealthServer::new(HealthService::from_health_reporter(self.health.clone()))
    }

    fn router(&self) -> Router {
        let describe = || {
            let health = tonic_health::pb::FILE_DESCRIPTOR_SET;
            let all = tonic_reflection::server::Builder::configure();
            all.register_encoded_file_descriptor_set(DESCRIPTORS).register_encoded_file_descriptor_set(health)
        };
        self.base()
            .add_service(service::observer(&self.shared))
            .add_service(self.health_service())
            .add_service(describe().build_v1().expect("the descriptors are those the messages were made from"))
            .add_service(describe().build_v1alpha().expect("the descriptors are those the messages were made from"))
    }

    /// Answers everything on these connections until the relay has drained.
    ///
    /// # Errors
    /// When HTTP/2 cannot be served.
    pub async fn serve<T, S>(&self, incoming: S, tls: Option<ServerTls>) -> Stopped
    where
        T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
        S: Stream<Item = io::Result<T>> + Send + Unpin,
    {
        let closing = self.shared.closing.clone().cancelled_owned();
        let serving = self.router().serve_with_incoming_shutdown(Box::pin(secure(incoming, tls)), closing);
        tokio::select! { served = serving => served, () = self.closed.cancelled() => Ok(()) }
    }

    /// Answers health checks alone on these connections until the relay has drained.
    ///
    /// # Errors
    /// When HTTP/2 cannot be served.
    pub async fn serve_health<T, S>(&self, incoming: S) -> Stopped
    where
        T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
        S: Stream<Item = io::Result<T>> + Send + Unpin,
    {
        let router = self.base().add_service(self.health_service());
        let closed = self.closed.clone().cancelled_owned();
        let serving = router.serve_with_incoming_shutdown(Box::pin(secure(incoming, None)), closed);
        tokio::select! { served = serving => served, () = self.closed.cancelled() => Ok(()) }
    }

    /// Takes no new connections, ends streams that follow, lets the others finish for a while, then closes all.
    pub async fn drain(&self) {
        self.shared.closing.cancel();
        let began = tokio::time::Instant::now();
        while self.shared.streams.load(std::sync::atomic::Ordering::Relaxed) > 0
            && began.elapsed() < self.shared.settings.drain_within
        {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        self.closed.cancel();
    }
}
