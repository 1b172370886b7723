//! `hubble-relay`: see the library.

use anyhow::{Context as _, anyhow};
use hubble_relay::{
    Relay, Stopped,
    options::{Checked, Cli, Command, OptionsError, Serve},
};
use hubble_transport::{bind_tcp, tls::WATCH_EVERY};
use std::{
    hash::{BuildHasher as _, Hasher as _, RandomState},
    io::IsTerminal as _,
    process::ExitCode,
};
use tokio::signal::unix::{SignalKind, signal};
use tokio_stream::wrappers::TcpListenerStream;
use tracing_subscriber::{EnvFilter, fmt};

/// One for clients, one for nodes; more machines than threads is the normal case.
const WORKERS: usize = 2;
/// Nothing here recurses deeply.
const STACK_BYTES: usize = 512 << 10;

fn main() -> ExitCode {
    let environment = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    let read = match Cli::read(std::env::args_os(), &environment) {
        Ok(read) => read,
        Err(OptionsError::Clap(text)) => text.exit(),
        Err(why) => {
            eprintln!("hubble-relay: {why}");
            return ExitCode::from(2);
        }
    };
    let serve = match read.cli.command {
        Command::Version => {
            println!("hubble-relay {}", env!("CARGO_PKG_VERSION"));
            return ExitCode::SUCCESS;
        }
        Command::Serve(serve) => serve,
    };
    log(serve.debug);
    for name in read.unknown {
        tracing::warn!(option = name, "a name in the file is no option of this version; it has no effect");
    }
    for name in serve.without_effect() {
        tracing::warn!(option = name, "it is about the original's runtime; it has no effect");
    }
    let node = std::env::var("K8S_NODE_NAME").ok().filter(|name| !name.is_empty()).or_else(hostname);
    let checked = match serve.check(node.as_deref().unwrap_or("relay")) {
        Ok(checked) => checked,
        Err(why) => {
            eprintln!("hubble-relay: {why}");
            return ExitCode::from(2);
        }
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .max_blocking_threads(2)
        .thread_stack_size(STACK_BYTES)
        .thread_name("relay")
        .enable_all()
        .build();
    let ended = runtime.context("starting the runtime").and_then(|runtime| runtime.block_on(run(*serve, checked)));
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            tracing::error!("{why:#}");
            ExitCode::FAILURE
        }
    }
}

fn hostname() -> Option<String> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").ok()?;
    Some(name.trim().to_owned())
}

fn log(debug: bool) {
    let level = if debug { "debug,h2=info,hyper=info,tonic=info,tower=info" } else { "info" };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level));
    let colors = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(colors).with_target(false).init();
}

async fn run(options: Serve, checked: Checked) -> anyhow::Result<()> {
    let Checked { settings, reach, server_tls, metrics } = checked;
    let requests = bind_tcp(options.listen_address).await.context("--listen-address")?;
    let health = bind_tcp(options.health_listen_address).await.context("--health-listen-address")?;
    let (address, health_address) = (requests.local_addr()?, health.local_addr()?);
    let mut terminate = signal(SignalKind::terminate()).context("listening for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listening for SIGINT")?;
    let client_tls = reach.tls.clone();
    tracing::info!(
        %address, %health_address, ?metrics, peers = %reach.service,
        tls_to_nodes = client_tls.is_some(), tls_to_clients = server_tls.is_some(), "starting"
    );
    let seed = RandomState::new().build_hasher().finish();
    let (relay, keep) = Relay::new(settings, reach, seed);
    let watch_nodes = watch(client_tls);
    let watch_clients = watch(server_tls.clone());
    let prometheus = async {
        match metrics {
            Some(address) => {
                let serving = relay.metrics().clone().serve(address, std::future::pending());
                serving.await.with_context(|| format!("--metrics-listen-address {address}"))
            }
            None => std::future::pending().await,
        }
    };
    let signalled = async {
        tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
        tracing::info!("draining: no new connections, streams that follow end");
        relay.drain().await;
        Ok(())
    };
    let serving = async {
        let served = tokio::join!(
            relay.serve(TcpListenerStream::new(requests), server_tls),
            relay.serve_health(TcpListenerStream::new(health)),
            signalled,
        );
        ended(served.0).and(ended(served.1)).and(served.2)
    };
    tokio::select! {
        served = serving => served,
        // It ends with the drain, after which the listeners end too.
        () = async { keep.await; std::future::pending().await } => Err(anyhow!("the connections to nodes ended")),
        failed = prometheus => failed,
        () = watch_nodes => Err(anyhow!("the watch of certificates ended")),
        () = watch_clients => Err(anyhow!("the watch of certificates ended")),
    }
}

fn ended(stopped: Stopped) -> anyhow::Result<()> {
    stopped.context("serving gRPC")
}

async fn watch<F: hubble_transport::tls::Files>(tls: Option<hubble_transport::tls::Tls<F>>) {
    match tls {
        Some(tls) => tls.watch(WATCH_EVERY).await,
        None => std::future::pending().await,
    }
}
