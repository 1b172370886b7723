//! The connection to a server: unix socket or TCP.

use crate::{Failure, settings::Settings};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use hyper_util::rt::TokioIo;
use std::time::Duration;
use tonic::{
    Code, Request, Status,
    metadata::MetadataValue,
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Channel, Endpoint, Uri},
};

/// A connection whose requests carry what the settings ask for.
pub type Remote = InterceptedService<Channel, Authorization>;

/// Adds the user's name and password.
#[derive(Debug, Clone)]
pub struct Authorization(Option<MetadataValue<tonic::metadata::Ascii>>);

impl Interceptor for Authorization {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(value) = &self.0 {
            request.metadata_mut().insert("authorization", value.clone());
        }
        Ok(request)
    }
}

/// Refuses settings that contradict each other.
pub fn validate(settings: &Settings) -> Result<(), Failure> {
    let wrong = |why: &str| Err(Failure(format!("invalid flag(s): {why}")));
    let has = |name| !settings.text(name).is_empty();
    if has("basic-auth-username") != has("basic-auth-password") {
        return wrong("must specify both basic-auth-username and basic-auth-password");
    }
    if has("tls-client-cert-file") != has("tls-client-key-file") {
        return wrong("certificate and private key are both required, but only one was provided");
    }
    let tls = settings.flag("tls") || settings.text("server").starts_with("tls://");
    if !tls && (has("tls-client-cert-file") || has("basic-auth-username")) {
        return wrong("transport layer security required");
    }
    for name in ["timeout", "request-timeout"] {
        settings.duration(name).map_err(|why| Failure(format!("invalid flag(s): {why}")))?;
    }
    Ok(())
}

/// The server as it was named, without what says how to reach it.
pub fn target(settings: &Settings) -> &str {
    let server = settings.text("server");
    server.strip_prefix("tls://").unwrap_or(server)
}

/// Opens the connection when the first request needs it.
pub fn connect(settings: &Settings) -> Result<Remote, Failure> {
    let server = settings.text("server");
    if settings.flag("tls") || server.starts_with("tls://") {
        return Err(Failure(format!(
            "cannot connect to {}: this build has no TLS; use unix:///path or a plain host:port",
            target(settings)
        )));
    }
    if settings.flag("port-forward") {
        return Err(Failure(
            "--port-forward is not supported by this build: forward the port with kubectl and use --server".into(),
        ));
    }
    let timeout = settings.duration("timeout").map_err(Failure)?;
    let channel = match unix_path(server) {
        Some(path) => unix(path, timeout)?,
        None => tcp(server, timeout)?,
    };
    let (user, password) = (settings.text("basic-auth-username"), settings.text("basic-auth-password"));
    let authorization = (!user.is_empty())
        .then(|| MetadataValue::try_from(format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))))
        .transpose()
        .map_err(|error| Failure(format!("basic-auth-username or basic-auth-password: {error}")))?;
    Ok(InterceptedService::new(channel, Authorization(authorization)))
}

/// `unix:///path`, `unix:path`, or an absolute path.
fn unix_path(server: &str) -> Option<&str> {
    let path = server.strip_prefix("unix://").or_else(|| server.strip_prefix("unix:"));
    path.or_else(|| server.starts_with('/').then_some(server))
}

fn unix(path: &str, timeout: Duration) -> Result<Channel, Failure> {
    let path = path.to_owned();
    let endpoint = Endpoint::from_static("http://localhost").connect_timeout(timeout);
    let connector = tower::service_fn(move |_: Uri| {
        let path = path.clone();
        async move { tokio::net::UnixStream::connect(path).await.map(TokioIo::new) }
    });
    Ok(endpoint.connect_with_connector_lazy(connector))
}

fn tcp(server: &str, timeout: Duration) -> Result<Channel, Failure> {
    const DEFAULT_PORT: u16 = 4245;
    let bad = |why: &dyn std::fmt::Display| {
        Failure(format!("invalid --server {server:?}: {why}; want host:port, tls://host:port or unix:///path"))
    };
    let address = server.strip_prefix("dns:///").or_else(|| server.strip_prefix("passthrough:///")).unwrap_or(server);
    if address.is_empty() {
        return Err(bad(&"it is empty"));
    }
    let bracketed = address.starts_with('[');
    if address.contains('/') || (!bracketed && address.matches(':').count() > 1) {
        return Err(bad(&"it is no address"));
    }
    let uri: Uri = format!("http://{address}").parse().map_err(|error| bad(&error))?;
    let uri = match uri.port_u16() {
        Some(_) => uri,
        None => format!("http://{address}:{DEFAULT_PORT}").parse().map_err(|error| bad(&error))?,
    };
    Ok(Endpoint::from(uri).connect_timeout(timeout).connect_lazy())
}

/// The name of a code as gRPC's Go library prints it.
fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "Canceled",
        Code::Unknown => "Unknown",
        Code::InvalidArgument => "InvalidArgument",
        Code::DeadlineExceeded => "DeadlineExceeded",
        Code::NotFound => "NotFound",
        Code::AlreadyExists => "AlreadyExists",
        Code::PermissionDenied => "PermissionDenied",
        Code::ResourceExhausted => "ResourceExhausted",
        Code::FailedPrecondition => "FailedPrecondition",
        Code::Aborted => "Aborted",
        Code::OutOfRange => "OutOfRange",
        Code::Unimplemented => "Unimplemented",
        Code::Internal => "Internal",
        Code::Unavailable => "Unavailable",
        Code::DataLoss => "DataLoss",
        Code::Unauthenticated => "Unauthenticated",
    }
}

/// A status as one line, with the causes a transport error hides.
pub fn show(status: &Status) -> String {
    let mut text = status.message().to_owned();
    let mut cause = std::error::Error::source(status);
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    format!("rpc error: code = {} desc = {text}", code_name(status.code()))
}

/// What a stream's end means: nothing when it was asked for, else an error.
pub fn stream_end(status: &Status) -> Result<(), Failure> {
    match status.code() {
        Code::Ok | Code::Cancelled => Ok(()),
        Code::Unknown => Err(Failure(status.message().to_owned())),
        _ => Err(Failure(show(status))),
    }
}
