//! Paths and methods.

use std::collections::BTreeMap;
use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::extract::{MatchedPath, Path, Query, State};
use axum::http::{HeaderMap, Method};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, any, delete, get, patch, post, put};
use tokio::sync::Semaphore;

use super::body::{optional, read, strict};
use super::{EndpointRef, Family, Reply, Request};
use crate::models::Labels;

/// Requests served at once; more wait.
const CONCURRENT_MAX: usize = 64;
/// How long a request waits for its turn before it gets 429.
const WAIT_MAX: Duration = Duration::from_secs(15);

/// An answer that is being worked on.
pub type Pending<'a> = Pin<Box<dyn Future<Output = Reply> + Send + 'a>>;

/// Whoever answers.
pub trait Backend: Send + Sync + 'static {
    /// Answers one well-formed request.
    fn call(&self, request: Request) -> Pending<'_>;
    /// Told of each request that was answered: method, route, status, time taken. For metrics.
    fn served(&self, method: &str, route: &str, status: u16, took: Duration) {
        let _ = (method, route, status, took);
    }
}

struct App {
    backend: Arc<dyn Backend>,
    turns: Semaphore,
}
type Shared = State<Arc<App>>;
type QueryMap = Query<BTreeMap<String, String>>;

/// The router of all calls, to be served on a unix socket.
pub fn router(backend: Arc<dyn Backend>) -> Router {
    let app = Arc::new(App { backend, turns: Semaphore::new(CONCURRENT_MAX) });
    let v1 = Router::new()
        .merge(agent_routes())
        .merge(endpoint_routes())
        .merge(identity_and_address_routes())
        .merge(policy_and_service_routes())
        .merge(question_routes())
        .merge(later_routes())
        .fallback(unknown_path)
        .method_not_allowed_fallback(unknown_method);
    Router::new()
        .nest(crate::BASE_PATH, v1)
        .fallback(unknown_path)
        .layer(middleware::from_fn_with_state(app.clone(), in_turn))
        .with_state(app)
}

fn agent_routes() -> Router<Arc<App>> {
    Router::new()
        .route(
            "/healthz",
            get(|app: Shared, headers: HeaderMap| async move {
                call(app, Request::Status { brief: header_is_true(&headers, "brief") }).await
            }),
        )
        .route(
            "/config",
            plain(Request::Config).merge(patch(|app: Shared, body: Body| async move {
                with_body(app, body, |spec| Ok(Request::ConfigPatch(spec))).await
            })),
        )
        .route("/cluster/nodes", get(nodes))
        .route("/metrics", plain(Request::Metrics))
        .route("/metrics/", plain(Request::Metrics))
        .route("/debuginfo", plain(Request::DebugInfo))
        .route("/map", plain(Request::Maps))
        .route("/map/{name}", get(|app: Shared, Path(name): Path<String>| call(app, Request::Map(name))))
}

fn endpoint_routes() -> Router<Arc<App>> {
    let list = get(|app: Shared, body: Body| with_labels(app, body, |labels| Request::Endpoints { labels })).merge(
        delete(|app: Shared, body: Body| async move {
            with_body(app, body, |batch| Ok(Request::EndpointsDelete(batch))).await
        }),
    );
    let one = named(Request::Endpoint)
        .merge(put(|app: Shared, Path(id): Path<String>, body: Body| async move {
            with_body(app, body, |change| Ok(Request::EndpointPut(endpoint(&id)?, Box::new(change)))).await
        }))
        .merge(patch(|app: Shared, Path(id): Path<String>, body: Body| async move {
            with_body(app, body, |change| Ok(Request::EndpointPatch(endpoint(&id)?, Box::new(change)))).await
        }))
        .merge(delete(|app: Shared, Path(id): Path<String>| async move {
            match endpoint(&id) {
                Ok(id) => call(app, Request::EndpointDelete(id)).await,
                Err(reply) => reply,
            }
        }));
    let config =
        named(Request::EndpointConfig).merge(patch(|app: Shared, Path(id): Path<String>, body: Body| async move {
            with_body(app, body, |spec| Ok(Request::EndpointConfigPatch(endpoint(&id)?, spec))).await
        }));
    let labels =
        named(Request::EndpointLabels).merge(patch(|app: Shared, Path(id): Path<String>, body: Body| async move {
            with_body(app, body, |spec| Ok(Request::EndpointLabelsPatch(endpoint(&id)?, spec))).await
        }));
    Router::new()
        .route("/endpoint", list)
        .route("/endpoint/{id}", one)
        .route("/endpoint/{id}/config", config)
        .route("/endpoint/{id}/labels", labels)
        .route("/endpoint/{id}/log", named(Request::EndpointLog))
        .route("/endpoint/{id}/healthz", named(Request::EndpointHealth))
}

fn identity_and_address_routes() -> Router<Arc<App>> {
    Router::new()
        .route(
            "/identity",
            get(|app: Shared, body: Body| with_labels(app, body, |labels| Request::Identities { labels })),
        )
        .route("/identity/endpoints", plain(Request::IdentityEndpoints))
        .route(
            "/identity/{id}",
            get(|app: Shared, Path(id): Path<String>| async move {
                match id.parse() {
                    Ok(id) => call(app, Request::Identity(id)).await,
                    Err(_) => Reply::error(400, format!("field id: {id:?} is no identity: a number is expected")),
                }
            }),
        )
        .route("/ipam", post(allocate))
        .route("/ipam/{ip}", post(reserve).merge(delete(release)))
        .route(
            "/ip",
            get(|app: Shared, Query(mut query): QueryMap| call(app, Request::Prefixes { cidr: query.remove("cidr") })),
        )
}

fn policy_and_service_routes() -> Router<Arc<App>> {
    let policy = get(|app: Shared, body: Body| with_labels(app, body, |labels| Request::Policy { labels }))
        .merge(put(policy_put))
        .merge(delete(|app: Shared, body: Body| with_labels(app, body, |labels| Request::PolicyDelete { labels })));
    let service = get(|app: Shared, Path(id): Path<String>| async move {
        match service_id(&id) {
            Ok(id) => call(app, Request::Service(id)).await,
            Err(reply) => reply,
        }
    })
    .merge(put(|app: Shared, Path(id): Path<String>, body: Body| async move {
        with_body(app, body, |spec| Ok(Request::ServicePut(service_id(&id)?, Box::new(spec)))).await
    }))
    .merge(delete(|app: Shared, Path(id): Path<String>| async move {
        match service_id(&id) {
            Ok(id) => call(app, Request::ServiceDelete(id)).await,
            Err(reply) => reply,
        }
    }));
    Router::new()
        .route("/policy", policy)
        .route("/policy/selectors", plain(Request::Selectors))
        .route("/service", plain(Request::Services))
        .route("/lrp", plain(Request::LocalRedirects))
        .route("/service/{id}", service)
}

/// Questions about policy: they change nothing, and have bodies.
fn question_routes() -> Router<Arc<App>> {
    Router::new()
        .route(
            "/policy/explain",
            post(|app: Shared, body: Body| {
                with_body(app, body, |question| Ok(Request::PolicyExplain(Box::new(question))))
            }),
        )
        .route(
            "/policy/preview",
            post(|app: Shared, body: Body| {
                with_body(app, body, |question| Ok(Request::PolicyPreview(Box::new(question))))
            }),
        )
        .route(
            "/policy/lint",
            post(|app: Shared, body: Body| with_body(app, body, |question| Ok(Request::PolicyLint(question)))),
        )
}

/// Calls of the reference that this agent has no part for yet.
fn later_routes() -> Router<Arc<App>> {
    const LATER: [&str; 14] = [
        "/recorder",
        "/recorder/masks",
        "/recorder/{id}",
        "/prefilter",
        "/cgroup-dump-metadata",
        "/map/{name}/events",
        "/fqdn/cache",
        "/fqdn/cache/{id}",
        "/fqdn/names",
        "/node/ids",
        "/bgp/peers",
        "/bgp/routes",
        "/bgp/route-policies",
        "/statedb/dump",
    ];
    LATER.iter().fold(Router::new(), |router, path| {
        router.route(
            path,
            any(move || async move { Reply::error(501, format!("{path} is not served by this version of the agent")) }),
        )
    })
}

async fn nodes(app: Shared, headers: HeaderMap) -> Reply {
    let client_id = match headers.get("client-id").map(|v| v.to_str().ok().and_then(|v| v.parse().ok())) {
        None => 0,
        Some(Some(id)) => id,
        Some(None) => return Reply::error(400, "header client-id: a number is expected"),
    };
    call(app, Request::Nodes { client_id }).await
}

async fn allocate(app: Shared, Query(mut query): QueryMap, headers: HeaderMap) -> Reply {
    let family = match query.remove("family").as_deref() {
        None | Some("") => None,
        Some("ipv4") => Some(Family::V4),
        Some("ipv6") => Some(Family::V6),
        Some(other) => return Reply::error(400, format!("query family: {other:?} is neither ipv4 nor ipv6")),
    };
    let owner = query.remove("owner").unwrap_or_default();
    let pool = query.remove("pool").unwrap_or_default();
    call(app, Request::AddressAllocate { family, owner, pool, expiration: header_is_true(&headers, "expiration") })
        .await
}

async fn reserve(app: Shared, Path(ip): Path<String>, Query(mut query): QueryMap) -> Reply {
    let owner = query.remove("owner").unwrap_or_default();
    let pool = query.remove("pool").unwrap_or_default();
    match address(&ip) {
        Ok(ip) => call(app, Request::AddressReserve { ip, owner, pool }).await,
        Err(reply) => reply,
    }
}

async fn release(app: Shared, Path(ip): Path<String>, Query(mut query): QueryMap) -> Reply {
    let pool = query.remove("pool").unwrap_or_default();
    match address(&ip) {
        Ok(ip) => call(app, Request::AddressRelease { ip, pool }).await,
        Err(reply) => reply,
    }
}

async fn policy_put(app: Shared, Query(query): QueryMap, body: Body) -> Reply {
    let replace = match query.get("replace").map(String::as_str) {
        None | Some("" | "false") => false,
        Some("true") => true,
        Some(other) => return Reply::error(400, format!("query replace: {other:?} is neither true nor false")),
    };
    let replace_with_labels = query.get("replace-with-labels").map_or_else(Vec::new, |labels| {
        labels.split(',').filter(|label| !label.is_empty()).map(str::to_owned).collect()
    });
    let bytes = match read(body).await {
        Ok(bytes) => bytes,
        Err(reply) => return reply,
    };
    match String::from_utf8(bytes) {
        Ok(text) => call(app, Request::PolicyPut { text, replace, replace_with_labels }).await,
        Err(_) => Reply::error(400, "bad request body: it is not UTF-8 text"),
    }
}

/// `GET` without arguments.
fn plain(request: Request) -> MethodRouter<Arc<App>> {
    get(move |app: Shared| call(app, request))
}

/// `GET` of an endpoint.
fn named(ask: fn(EndpointRef) -> Request) -> MethodRouter<Arc<App>> {
    get(move |app: Shared, Path(id): Path<String>| async move {
        match endpoint(&id) {
            Ok(id) => call(app, ask(id)).await,
            Err(reply) => reply,
        }
    })
}

async fn call(State(app): Shared, request: Request) -> Reply {
    app.backend.call(request).await
}

async fn with_body<T: serde::de::DeserializeOwned>(
    app: Shared,
    body: Body,
    ask: impl FnOnce(T) -> Result<Request, Reply>,
) -> Reply {
    let request = read(body).await.and_then(|bytes| strict(&bytes)).and_then(ask);
    match request {
        Ok(request) => call(app, request).await,
        Err(reply) => reply,
    }
}

async fn with_labels(app: Shared, body: Body, ask: impl FnOnce(Labels) -> Request) -> Reply {
    match read(body).await.and_then(|bytes| optional(&bytes)) {
        Ok(labels) => call(app, ask(labels)).await,
        Err(reply) => reply,
    }
}

fn endpoint(id: &str) -> Result<EndpointRef, Reply> {
    EndpointRef::parse(id).map_err(|why| Reply::error(400, why.to_string()))
}

fn service_id(id: &str) -> Result<i64, Reply> {
    match id.parse() {
        Ok(id @ 0..=65535) => Ok(id),
        _ => Err(Reply::error(400, format!("field id: {id:?} is no service id: a number from 0 to 65535 is expected"))),
    }
}

fn address(ip: &str) -> Result<IpAddr, Reply> {
    ip.parse().map_err(|_| Reply::error(400, format!("field ip: {ip:?} is no IPv4 or IPv6 address")))
}

fn header_is_true(headers: &HeaderMap, name: &str) -> bool {
    headers.get(name).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"true"))
}

async fn unknown_path(method: Method, uri: axum::http::Uri) -> Reply {
    Reply::error(404, format!("{method} {} is no call of this API; calls begin with /v1/", uri.path()))
}

async fn unknown_method(method: Method, uri: axum::http::Uri) -> Reply {
    Reply::error(405, format!("{} does not take {method}", uri.path()))
}

/// Bounds how many requests are served at once, and reports each.
async fn in_turn(State(app): Shared, request: axum::extract::Request, next: Next) -> Response {
    let began = Instant::now();
    let method = request.method().clone();
    let route = request.extensions().get::<MatchedPath>().map_or_else(|| "other".into(), |p| p.as_str().to_owned());
    let response = match tokio::time::timeout(WAIT_MAX, app.turns.acquire()).await {
        Ok(Ok(_turn)) => next.run(request).await,
        Ok(Err(_)) | Err(_) => {
            Reply::error(429, "too many requests at once; try again in a few seconds").into_response()
        }
    };
    app.backend.served(method.as_str(), &route, response.status().as_u16(), began.elapsed());
    response
}
