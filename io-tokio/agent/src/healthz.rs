//! Whether the node's services are in the kernel (`--kube-proxy-replacement-healthz-bind-address`), as load balancers of clouds
//! ask kube-proxy at `/healthz`: 200 and the time, or 503 and when it was last so.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use agent_core::{Agent, Phase};
use axum::Router;
use axum::http::{StatusCode, header};
use axum::routing::get;
use runtime::Handle;
use tokio::net::TcpListener;

use crate::status::Status;
use crate::wall;

/// How long the core may take to answer. One that does not is not well.
const WITHIN: Duration = Duration::from_secs(3);

/// Why nothing is answered.
#[derive(Debug, thiserror::Error)]
pub enum HealthzError {
    /// The system refused the address.
    #[error("--kube-proxy-replacement-healthz-bind-address: cannot listen on {0}: {1}")]
    Listen(SocketAddr, #[source] std::io::Error),
    /// The listener broke.
    #[error("the answer to kube-proxy's health checks broke: {0}")]
    Broken(#[source] std::io::Error),
}

/// Answers until `stop` completes.
///
/// # Errors
/// When the address cannot be listened on.
pub async fn serve(
    address: SocketAddr,
    core: Handle<Agent>,
    status: Arc<Status>,
    stop: impl Future<Output = ()> + Send + 'static,
) -> Result<(), HealthzError> {
    let listener = TcpListener::bind(address).await.map_err(|why| HealthzError::Listen(address, why))?;
    let last = Arc::new(Mutex::new(status.started_at));
    let page = get(move || {
        let (core, status, last) = (core.clone(), status.clone(), last.clone());
        async move {
            let live = tokio::time::timeout(WITHIN, core.look(|agent| agent.status().phase == Phase::Live)).await;
            let is_well = matches!(live, Ok(Ok(true))) && status.troubles().full.is_empty();
            answer(is_well, SystemTime::now(), &mut last.lock().unwrap_or_else(PoisonError::into_inner))
        }
    });
    axum::serve(listener, Router::new().route("/healthz", page))
        .with_graceful_shutdown(stop)
        .await
        .map_err(HealthzError::Broken)
}

type Answer = (StatusCode, [(header::HeaderName, &'static str); 2], String);

fn answer(is_well: bool, now: SystemTime, last: &mut SystemTime) -> Answer {
    if is_well {
        *last = now;
    }
    let status = if is_well { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let headers = [(header::CONTENT_TYPE, "application/json"), (header::X_CONTENT_TYPE_OPTIONS, "nosniff")];
    // Written out: the order of a map's keys depends on how the JSON library was built. The texts need no escapes.
    let body = format!(r#"{{"lastUpdated":"{}","currentTime":"{}"}}"#, wall::text(*last), wall::text(now));
    (status, headers, body)
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    #[test]
    fn a_node_that_is_not_well_says_when_it_last_was() {
        let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
        let mut last = at(1);
        let (status, _, body) = answer(true, at(10), &mut last);
        let time = "1970-01-01T00:00:10.000Z";
        assert_eq!((status, body), (StatusCode::OK, format!(r#"{{"lastUpdated":"{time}","currentTime":"{time}"}}"#)));
        let (status, _, body) = answer(false, at(20), &mut last);
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(body, format!(r#"{{"lastUpdated":"{time}","currentTime":"1970-01-01T00:00:20.000Z"}}"#));
    }
}
