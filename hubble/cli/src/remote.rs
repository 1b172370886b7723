//! The connection to a server: unix socket or TCP, plain or with TLS.

use crate::{
    Failure,
    settings::Settings,
    tls::{self, Secure},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use hyper_util::rt::TokioIo;
use std::{io, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
};
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
    settings.check()?;
    let wrong = |why: &str| Err(Failure(format!("invalid flag(s): {why}")));
    let has = |name| !settings.text(name).is_empty();
    if has("basic-auth-username") != has("basic-auth-password") {
        return wrong("must specify both basic-auth-username and basic-auth-password");
    }
    if has("tls-client-cert-file") != has("tls-client-key-file") {
        return wrong("certificate and private key are both required, but only one was provided");
    }
    if !is_tls(settings) && (has("tls-client-cert-file") || has("basic-auth-username")) {
        return wrong("transport layer security required");
    }
    for name in ["timeout", "request-timeout"] {
        settings.duration(name).map_err(|why| Failure(format!("invalid flag(s): {why}")))?;
    }
    Ok(())
}

fn is_tls(settings: &Settings) -> bool {
    settings.flag("tls") || settings.text("server").starts_with("tls://")
}

/// The server as it was named, without what says how to reach it.
pub fn target(settings: &Settings) -> &str {
    let server = settings.text("server");
    server.strip_prefix("tls://").unwrap_or(server)
}

/// Opens the connection when the first request needs it.
pub fn connect(settings: &Settings) -> Result<Remote, Failure> {
    if settings.flag("port-forward") {
        let (namespace, port) = (settings.text("kube-namespace"), settings.text("port-forward-port"));
        return Err(Failure(format!(
            "--port-forward is not supported: run \"kubectl -n {namespace} port-forward service/hubble-relay {port}:80\" \
             (443 in place of 80 with TLS) and use --server localhost:{port}"
        )));
    }
    let address = Address::parse(target(settings))?;
    let secure = is_tls(settings).then(|| tls::secure(settings, address.host())).transpose()?;
    let timeout = settings.duration("timeout").map_err(Failure)?;
    let channel = channel(address, secure, timeout)?;
    let (user, password) = (settings.text("basic-auth-username"), settings.text("basic-auth-password"));
    let authorization = (!user.is_empty())
        .then(|| MetadataValue::try_from(format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))))
        .transpose()
        .map_err(|error| Failure(format!("basic-auth-username or basic-auth-password: {error}")))?;
    Ok(InterceptedService::new(channel, Authorization(authorization)))
}

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Address {
    /// Path of a unix socket.
    Unix(String),
    /// Host, which may be a name, and port.
    Tcp(String, u16),
}

impl Address {
    /// Reads `unix:///path`, `unix:path`, an absolute path, or `host:port` with what gRPC allows before it.
    fn parse(server: &str) -> Result<Self, Failure> {
        const DEFAULT_PORT: u16 = 4245;
        let bad = |why: &str| {
            Failure(format!("invalid --server {server:?}: {why}; want host:port, tls://host:port or unix:///path"))
        };
        let path = server.strip_prefix("unix://").or_else(|| server.strip_prefix("unix:"));
        if let Some(path) = path.or_else(|| server.starts_with('/').then_some(server)) {
            return if path.is_empty() { Err(bad("it names no socket")) } else { Ok(Self::Unix(path.into())) };
        }
        let address =
            server.strip_prefix("dns:///").or_else(|| server.strip_prefix("passthrough:///")).unwrap_or(server);
        if address.is_empty() {
            return Err(bad("it is empty"));
        }
        let (host, port) = match address.strip_prefix('[').map(|rest| rest.split_once(']')) {
            Some(Some((host, rest))) => {
                if host.parse::<std::net::Ipv6Addr>().is_err() || (!rest.is_empty() && !rest.starts_with(':')) {
                    return Err(bad("it is no address"));
                }
                (host, rest.strip_prefix(':'))
            }
            Some(None) => return Err(bad("the bracket is not closed")),
            None => address.split_once(':').map_or((address, None), |(host, port)| (host, Some(port))),
        };
        let port = match port {
            None => DEFAULT_PORT,
            Some(port) => port.parse().map_err(|_| bad("the port is no number from 0 to 65535"))?,
        };
        let named = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c) || (address.starts_with('[') && c == ':');
        if host.is_empty() || !host.chars().all(named) {
            return Err(bad("it is no address"));
        }
        Ok(Self::Tcp(host.into(), port))
    }

    /// The name a certificate must carry when nothing else is said.
    fn host(&self) -> &str {
        match self {
            Self::Unix(_) => "localhost",
            Self::Tcp(host, _) => host,
        }
    }

    fn authority(&self) -> String {
        match self {
            Self::Unix(_) => "localhost".into(),
            Self::Tcp(host, port) if host.contains(':') => format!("[{host}]:{port}"),
            Self::Tcp(host, port) => format!("{host}:{port}"),
        }
    }

    async fn dial(&self) -> io::Result<Box<dyn Stream>> {
        Ok(match self {
            Self::Unix(path) => Box::new(UnixStream::connect(path).await?),
            Self::Tcp(host, port) => {
                let stream = TcpStream::connect((host.as_str(), *port)).await?;
                stream.set_nodelay(true)?;
                Box::new(stream)
            }
        })
    }
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

fn channel(address: Address, secure: Option<Secure>, timeout: Duration) -> Result<Channel, Failure> {
    let authority = address.authority();
    let uri = |scheme: &str| -> Result<Uri, Failure> {
        format!("{scheme}://{authority}").parse().map_err(|error| Failure(format!("invalid --server: {error}")))
    };
    // The connection below is secure already; the scheme is what the server is told.
    let endpoint = Endpoint::from(uri("http")?).origin(uri(if secure.is_some() { "https" } else { "http" })?);
    let connector = tower::service_fn(move |_: Uri| {
        let (address, secure) = (address.clone(), secure.clone());
        async move {
            let late =
                |what: &str| io::Error::new(io::ErrorKind::TimedOut, format!("{what} took longer than --timeout"));
            let stream = tokio::time::timeout(timeout, address.dial()).await.map_err(|_| late("connecting"))??;
            let Some(Secure { connector, name }) = secure else { return Ok::<_, io::Error>(TokioIo::new(stream)) };
            let shown = name.to_str().into_owned();
            let handshake = tokio::time::timeout(timeout, connector.connect(name, stream));
            let stream = handshake.await.map_err(|_| late("the TLS handshake"))?.map_err(|error| {
                io::Error::other(format!("TLS with {} as {shown:?} failed: {error}", address.authority()))
            })?;
            Ok(TokioIo::new(Box::new(stream) as Box<dyn Stream>))
        }
    });
    Ok(endpoint.connect_with_connector_lazy(connector))
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
    // What TLS says to a client that speaks plain text looks like a frame without end.
    if text.contains("frame with invalid size") {
        text.push_str("; the server may want --tls");
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
