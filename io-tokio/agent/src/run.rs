//! The agent's life: restored, live, ended.

use std::sync::Arc;
use std::time::{Duration, Instant};

use agent_core::{Agent, EndpointRequest, Input, Request};
use api::server::SocketOwner;
use bpf::EventReader;
use hubble_api::event_type;
use hubble_model::Decoder;
use hubble_server::{Listen, Observer, tls::WATCH_EVERY};
use kvstore::Embedded;
use loader::{Direction, Interface, Program};
use metrics::{Metrics, Outcome, Source};
use runtime::{Handle, Supervisor, drive, queue};
use tokio::sync::watch;

use crate::cleanup::{self, Cleanup};
use crate::config::Settings;
use crate::delete_queue::{DeleteQueue, Deletion};
use crate::events::{Outlets, hand_on};
use crate::lookup::Names;
use crate::monitor::Feed;
use crate::news::News;
use crate::replies::Replies;
use crate::rest::Rest;
use crate::scrape::{Filled, Gauges, KernelSource};
use crate::sinks::Sinks;
use crate::start::{StartError, Started};
use crate::state::{StateDir, Writer};
use crate::status::Status;
use crate::world::{AgentWorld, Bpf, HealthPorts, Publisher};
use crate::{health, healthz, process, publish, sockets, tasks};

/// Inputs that may wait for the core.
const INPUTS_MAX: usize = 4096;
/// Inputs that may wait for the collector of connections.
const COLLECTOR_INPUTS_MAX: usize = 256;
/// Records that may wait for Hubble, unless told otherwise: as many as the original lets on sixteen CPUs.
const RECORDS_MAX: usize = 16_384;
/// How long queued deletions may take before the API answers anyway.
const DELETIONS_WITHIN: Duration = Duration::from_secs(10);
/// How long a shutdown may take.
const SHUTDOWN_WITHIN: Duration = Duration::from_secs(5);

/// Why an agent ended.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// It did not start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// A socket could not be opened.
    #[error(transparent)]
    Listen(#[from] api::server::ListenError),
    /// Hubble's socket could not be opened.
    #[error(transparent)]
    Hubble(#[from] hubble_server::BindError),
    /// Metrics of flows cannot be served.
    #[error(transparent)]
    Sinks(#[from] crate::sinks::SinkError),
    /// The ring of events cannot be read.
    #[error("cannot read the ring of events: {0}")]
    Events(String),
    /// Signals cannot be heard.
    #[error("cannot listen for signals: {0}")]
    Signals(std::io::Error),
    /// A part of it ended.
    #[error("the agent ends, because a part of it did: {0}")]
    Part(runtime::Ended),
}

/// What all parts share.
struct Shared {
    metrics: Arc<Metrics>,
    status: Arc<Status>,
    observer: Option<Observer>,
    sinks: Arc<Sinks>,
    names: Names,
    gauges: Gauges,
    filled: Filled,
    replies: Replies,
    health: watch::Sender<HealthPorts>,
    stop: watch::Sender<bool>,
}

impl Shared {
    fn stopped(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut stop = self.stop.subscribe();
        async move {
            // A sender that is gone means the same.
            let _stopped = stop.wait_for(|stop| *stop).await;
        }
    }
}

/// Runs until a signal asks it to end, or a part fails. Everything in the kernel stays as it is.
///
/// # Errors
/// See [`RunError`].
pub async fn run(started: Started) -> Result<(), RunError> {
    let began = Instant::now();
    let settings = started.settings.clone();
    let maps = started.datapath.maps().clone();
    let gauges = Gauges::default();
    let filled = Filled::default();
    let kernel = KernelSource::new(maps.clone(), filled.clone());
    let sources: Vec<Arc<dyn Source>> = vec![Arc::new(kernel), Arc::new(gauges.clone()), started.sinks.clone()];
    let shared = Shared {
        metrics: Arc::new(Metrics::new(env!("CARGO_PKG_VERSION"), sources)),
        status: Arc::default(),
        observer: settings
            .hubble
            .is_some()
            .then(|| Observer::with(settings.observer(), started.sinks.extras(&settings.sinks))),
        sinks: started.sinks.clone(),
        names: Names::default(),
        gauges,
        filled,
        replies: Replies::default(),
        health: watch::Sender::default(),
        stop: watch::Sender::new(false),
    };
    let mut signals = Signals::open().map_err(RunError::Signals)?;
    let mut parts = Supervisor::new();
    let cleanup = Cleanup::default();
    let Started {
        pid,
        queue: deletions,
        state,
        store: (store, store_events),
        datapath,
        policies,
        services,
        snapshot,
        ..
    } = started;
    let (core, mut realized, drive) = {
        let kernel = Bpf::new(datapath.clone(), &snapshot.maps, cleanup.clone()).map_err(StartError::Thread)?;
        spawn_core(&mut parts, &shared, &settings, state, store, kernel)?
    };
    parts.supervise("the store's events", tasks::store_events(store_events, core.clone()));
    let watch = netlink::LinkWatch::open().map_err(StartError::Netlink)?;
    parts.supervise("the watch of devices", tasks::vanished_links(core.clone(), watch));
    hear_events(&mut parts, &shared, &datapath, &settings).await?;
    shared.sinks.start(&mut parts, &settings.sinks, shared.stopped()).await?;

    let lost = |_| RunError::Part(runtime::Ended { task: "the core", failure: None });
    core.send(Input::Restored(Box::new(snapshot))).await.map_err(lost)?;
    // The kernel follows from here on; the first time everything is there, the programs are taken over.
    tokio::select! {
        _ = realized.wait_for(Option::is_some) => {}
        Some(ended) = parts.ended() => return Err(RunError::Part(ended)),
        () = signals.asked() => return Ok(()),
    }
    Outside { datapath: &datapath }.attach(&settings)?;
    sockets::attach(&datapath, &settings.sockets).map_err(StartError::Sockets)?;
    let settled = datapath.settle().map_err(StartError::Maps)?;
    shared.metrics.bootstrapped("restore", Outcome::Success, began.elapsed());
    tracing::info!(took = ?began.elapsed(), settled, "everything wanted is in the kernel");

    delete_queued(&deletions, &core, &shared.replies).await;
    serve(&mut parts, &shared, &core, &settings, &datapath)?;
    drop(deletions);
    clean_up(&mut parts, &shared, &settings, &maps, cleanup);
    background(&mut parts, &shared, &core, &settings, maps, [policies, services]);
    if let Err(why) = process::notify("READY=1") {
        tracing::warn!(%why, "the service manager was not told");
    }
    shared.metrics.bootstrapped("overall", Outcome::Success, began.elapsed());
    tracing::info!(took = ?began.elapsed(), socket = %settings.places.api.display(), "ready");

    let ended = tokio::select! {
        () = signals.asked() => None,
        Some(ended) = parts.ended() => Some(ended),
    };
    shut_down(parts, &shared, drive, core).await;
    drop(pid);
    match ended {
        None => {
            tracing::info!("ended; the kernel goes on as decided");
            Ok(())
        }
        Some(ended) => Err(RunError::Part(ended)),
    }
}

/// The core with its world around it, driven.
type Driven = (Handle<Agent>, watch::Receiver<Option<types::Revision>>, tokio::task::AbortHandle);

fn spawn_core(
    parts: &mut Supervisor,
    shared: &Shared,
    settings: &Settings,
    state: StateDir,
    store: Embedded,
    kernel: Bpf,
) -> Result<Driven, StartError> {
    let (core, inputs) = queue::<Agent>(INPUTS_MAX);
    let kinds = settings.hubble.as_ref().map(|hubble| &hubble.kinds);
    let told = shared.observer.clone().filter(|_| kinds.is_some_and(|kinds| kinds.has(event_type::AGENT)));
    let news = News::new(shared.metrics.clone(), shared.status.clone(), told);
    let realized = news.realized();
    parts.supervise("publication", tasks::publication(core.clone(), news.stale.clone()));
    let files = Writer::start(state, {
        let core = core.clone();
        move |op, outcome| core.send_blocking(Input::Finished(op, outcome))
    })
    .map_err(StartError::Thread)?;
    let mut world = AgentWorld {
        kernel,
        store: Arc::new(store),
        files,
        replies: shared.replies.clone(),
        news,
        metrics: shared.metrics.clone(),
        publisher: publisher(shared),
        tables: bpf::Tables::new(),
        health: shared.health.clone(),
    };
    let agent = Agent::new(settings.agent.clone()).map_err(|why| StartError::Settings(why.into()))?;
    let stopped = shared.stopped();
    let task = parts.supervise::<String>("the core", async move {
        drive(agent, &mut world, inputs, stopped).await;
        Ok(())
    });
    Ok((core, realized, task))
}

/// How many batches may wait for Hubble, so that no more records wait than may.
fn batches_max(settings: &Settings) -> usize {
    let records = settings.hubble.as_ref().map_or(0, |hubble| hubble.queue);
    let records = if records == 0 { RECORDS_MAX } else { records };
    records.div_ceil(bpf::BATCH_RECORDS_MAX)
}

fn publisher(shared: &Shared) -> Publisher<Agent> {
    let (names, gauges, sinks) = (shared.names.clone(), shared.gauges.clone(), shared.sinks.clone());
    Publisher::new(move |agent| {
        let snapshot = publish::names(agent);
        sinks.pods(&snapshot);
        names.publish(snapshot);
        gauges.publish(publish::gauges(agent));
    })
}

/// The programs of `cilium_host`.
const HOST: [(Program, Direction); 2] = [(Program::FromHost, Direction::Egress), (Program::ToHost, Direction::Ingress)];
/// The programs of a device of the network outside.
const NETWORK: [(Program, Direction); 2] =
    [(Program::FromNetdev, Direction::Ingress), (Program::ToNetdev, Direction::Egress)];

/// Devices that are not endpoints'.
struct Outside<'a> {
    datapath: &'a loader::Datapath,
}

impl Outside<'_> {
    fn attach(&self, settings: &Settings) -> Result<(), StartError> {
        self.attach_to(&Interface::by_index(settings.node.host_ifindex)?, HOST)?;
        for name in &settings.devices {
            let device = Interface::by_name(name)?;
            self.attach_to(&device, NETWORK)?;
            match settings.acceleration {
                Some(choice) => {
                    let attached = self.datapath.attach_xdp(&device, choice)?;
                    tracing::info!(device = name, mode = %attached.mode, "services are balanced in XDP");
                }
                None if self.datapath.detach_xdp(&device)? => tracing::info!(device = name, "XDP is off"),
                None => {}
            }
        }
        Ok(())
    }
    /// An object need not have a program for a side on which there is nothing to do.
    fn attach_to(&self, device: &Interface, programs: [(Program, Direction); 2]) -> Result<(), StartError> {
        for (program, direction) in programs {
            if self.datapath.programs().any(|there| there == program) {
                self.datapath.attach(program, device, direction)?;
            }
        }
        Ok(())
    }
}

async fn hear_events(
    parts: &mut Supervisor,
    shared: &Shared,
    datapath: &loader::Datapath,
    settings: &Settings,
) -> Result<(), RunError> {
    let unreadable = |why: String| RunError::Events(why);
    let ring = datapath.events().map_err(|why| unreadable(why.to_string()))?;
    let (reader, batches) = EventReader::new(ring, batches_max(settings)).map_err(|why| unreadable(why.to_string()))?;
    let feed = Feed::default();
    if let Some(path) = settings.places.monitor.clone() {
        let owner = SocketOwner { group: settings.socket_group };
        parts.supervise("the event feed", feed.clone().serve(path, owner));
    }
    let hubble = shared.observer.clone().map(|observer| (observer, Decoder::new(shared.names.clone())));
    let kinds = settings.hubble.as_ref().map(|hubble| hubble.kinds.clone()).unwrap_or_default();
    let outlets = Outlets {
        hubble,
        cgroups: shared.names.cgroups().clone(),
        feed,
        metrics: shared.metrics.clone(),
        maps: datapath.maps().clone(),
        kinds,
    };
    if let (Some(root), Some(_)) = (settings.sockets.cgroup.clone(), &shared.observer) {
        let names = shared.names.clone();
        parts.supervise::<String>("pods of control groups", async move {
            names.cgroups().look_up(root, names.clone()).await;
            Err("it ended".into())
        });
    }
    parts.supervise("the ring of events", reader.run());
    parts.supervise::<String>("events to Hubble", async move {
        hand_on(batches, outlets).await;
        Err("the ring of events ended".into())
    });
    if let (Some(observer), Some(hubble)) = (shared.observer.clone(), &settings.hubble) {
        let listen = Listen { unix: Some(settings.places.hubble.clone()), tcp: hubble.tcp };
        let mut server = hubble_server::Server::bind(&listen, observer).await?;
        if let Some(tls) = hubble.tls.clone() {
            server = server.with_tls(tls.clone());
            parts.supervise::<String>("the watch of Hubble's certificates", async move {
                tls.watch(WATCH_EVERY).await;
                Err("it ended".into())
            });
        } else if let Some(address) = hubble.tcp {
            tracing::warn!(%address, "Hubble listens without TLS, as told: anybody who reaches it sees all flows");
        }
        if let Some(peers) = hubble.peers.clone() {
            server = server.with_peers(Arc::new(peers.clone()));
            parts.supervise::<String>("the watch of Hubble's peers", async move {
                peers.watch(WATCH_EVERY).await;
                Err("it ended".into())
            });
        }
        parts.supervise("Hubble", server.run(shared.stopped()));
    }
    Ok(())
}

/// Deletes what CNI plugins asked for while no agent ran.
async fn delete_queued(queue: &DeleteQueue, core: &Handle<Agent>, replies: &Replies) {
    let deletions = match queue.deletions() {
        Ok(deletions) => deletions,
        Err(why) => return tracing::error!(%why, "queued deletions are left for the next start"),
    };
    for (file, deletion) in deletions {
        let request = match deletion.clone() {
            Deletion::Container(id) => EndpointRequest::DeleteContainer(id),
            Deletion::Endpoint(name) => EndpointRequest::Delete(name),
        };
        let (id, answer) = replies.expect();
        if core.send(Input::Request(id, Request::Endpoint(request))).await.is_err() {
            return;
        }
        match tokio::time::timeout(DELETIONS_WITHIN, answer).await {
            Ok(Ok(answer)) => {
                tracing::info!(?deletion, ?answer, "queued deletion");
                queue.done(&file);
            }
            Ok(Err(_)) | Err(_) => tracing::error!(?deletion, "queued deletion is left for the next start"),
        }
    }
}

fn serve(
    parts: &mut Supervisor,
    shared: &Shared,
    core: &Handle<Agent>,
    settings: &Arc<Settings>,
    datapath: &loader::Datapath,
) -> Result<(), RunError> {
    let rest = Rest {
        core: core.clone(),
        replies: shared.replies.clone(),
        settings: settings.clone(),
        status: shared.status.clone(),
        metrics: shared.metrics.clone(),
        maps: datapath.maps().clone(),
        observer: shared.observer.clone(),
        sinks: shared.sinks.clone(),
        attach_mode: match datapath.hook() {
            loader::Hook::Tcx => "tcx",
            loader::Hook::Clsact => "tc",
        },
        host_routing: if datapath.host_routing() { "BPF" } else { "Legacy" },
    };
    let listener = api::server::listen(&settings.places.api, SocketOwner { group: settings.socket_group })?;
    let router = api::server::router(Arc::new(rest));
    parts.supervise("the API", api::server::serve(listener, router, shared.stopped()));
    Ok(())
}

/// Sweeps connections and translations, and ends sockets whose backend went.
fn clean_up(parts: &mut Supervisor, shared: &Shared, settings: &Settings, maps: &Arc<loader::Maps>, cleanup: Cleanup) {
    let (collector, inputs) = queue::<gc::Collector>(COLLECTOR_INPUTS_MAX);
    let mut sweeper = cleanup::Sweeper {
        maps: maps.clone(),
        metrics: shared.metrics.clone(),
        filled: shared.filled.clone(),
        ports: settings.node.nat_port_max.saturating_sub(settings.node.nat_port_min).saturating_add(1),
        status: shared.status.clone(),
        collector: collector.clone(),
    };
    let (machine, stopped) = (gc::Collector::new(&settings.gc, runtime::now()), shared.stopped());
    parts.supervise::<String>("sweeps", async move {
        drive(machine, &mut sweeper, inputs, stopped).await;
        Ok(())
    });
    parts.supervise("the watch of ports", cleanup::pressure(maps.clone(), collector.clone()));
    let (protocols, status) = (settings.sockets.ended.clone(), shared.status.clone());
    parts.supervise("departures", cleanup::departures(cleanup, collector, maps.clone(), protocols, status));
}

fn background(
    parts: &mut Supervisor,
    shared: &Shared,
    core: &Handle<Agent>,
    settings: &Settings,
    maps: Arc<loader::Maps>,
    [policies, services]: [Option<crate::policy_dir::Watch>; 2],
) {
    if let Some(watch) = policies {
        parts.supervise("the watch of policies", tasks::policies(watch, core.clone(), shared.status.clone()));
    }
    if let Some(watch) = services {
        parts.supervise("the watch of services", tasks::services(watch, core.clone()));
    }
    parts.supervise("health-check node ports", health::serve(shared.health.subscribe()));
    if let Some(address) = settings.healthz {
        let (core, status) = (core.clone(), shared.status.clone());
        parts.supervise("kube-proxy's health checks", healthz::serve(address, core, status, shared.stopped()));
    }
    parts.supervise("liveness", tasks::liveness(maps, settings.liveness_interval));
    if let Some(address) = settings.prometheus {
        parts.supervise("Prometheus", metrics::serve(address, shared.metrics.clone(), shared.stopped()));
    }
}

/// Lets the API and the core finish what they have, then drops the rest.
async fn shut_down(mut parts: Supervisor, shared: &Shared, drive: tokio::task::AbortHandle, core: Handle<Agent>) {
    shared.stop.send_replace(true);
    drop(core);
    let finished = async {
        while !drive.is_finished() {
            if parts.ended().await.is_none() {
                break;
            }
        }
    };
    if tokio::time::timeout(SHUTDOWN_WITHIN, finished).await.is_err() {
        tracing::warn!("the core did not end in time");
    }
    shared.sinks.close().await;
}

/// SIGTERM and SIGINT.
struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl Signals {
    fn open() -> std::io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }
    async fn asked(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
