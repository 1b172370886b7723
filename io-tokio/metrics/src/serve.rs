//! The endpoint Prometheus scrapes.

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use axum::Router;
use axum::http::header;
use axum::routing::get;
use tokio::net::TcpListener;

use crate::Metrics;

/// What [`Metrics::render`] writes.
const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Why nothing is served.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Not an address.
    #[error("{0:?} is no address to listen on: [HOST]:PORT is expected, such as :9962 or 127.0.0.1:9962")]
    Address(String),
    /// The system refused.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// Address.
        address: SocketAddr,
        /// What the kernel said.
        source: io::Error,
    },
    /// The listener broke.
    #[error("the metrics endpoint broke: {0}")]
    Broken(io::Error),
}

/// Parses `[HOST]:PORT`; without a host all addresses of both families are meant.
///
/// # Errors
/// When it is none.
pub fn parse_address(text: &str) -> Result<SocketAddr, ListenError> {
    let bad = || ListenError::Address(text.to_owned());
    match text.strip_prefix(':') {
        Some(port) => Ok(SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), port.parse().map_err(|_| bad())?)),
        None => text.replace("localhost", "127.0.0.1").parse().map_err(|_| bad()),
    }
}

/// Serves `/metrics` until `stop` completes.
///
/// # Errors
/// When the address cannot be listened on.
pub async fn serve(
    address: SocketAddr,
    metrics: Arc<Metrics>,
    stop: impl Future<Output = ()> + Send + 'static,
) -> Result<(), ListenError> {
    let listener = TcpListener::bind(address).await.map_err(|source| ListenError::Listen { address, source })?;
    let page = get(move || async move { ([(header::CONTENT_TYPE, CONTENT_TYPE)], metrics.render()) });
    axum::serve(listener, Router::new().route("/metrics", page))
        .with_graceful_shutdown(stop)
        .await
        .map_err(ListenError::Broken)
}
