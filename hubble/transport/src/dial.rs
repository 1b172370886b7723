//! Connections to servers: one dial, one handshake, one channel, and a word when it is gone.

use crate::{Address, tls::ClientConfig};
use futures::future::BoxFuture;
use hyper_util::rt::TokioIo;
use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpStream, UnixStream},
    sync::oneshot,
};
use tokio_rustls::{TlsConnector, rustls, rustls::pki_types::ServerName};
use tonic::transport::{Channel, Endpoint, Uri};

/// Bytes that go both ways.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin + 'static {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Io for T {}

/// Bytes that go both ways, by whatever means.
pub type BoxIo = Box<dyn Io>;
/// A dial under way.
pub type DialFuture = BoxFuture<'static, io::Result<BoxIo>>;

/// The network: the machine's own, or a simulation's.
pub trait Dial: Send + Sync + 'static {
    /// Opens a connection.
    fn dial(&self, address: Address) -> DialFuture;
}

/// The machine's own network.
#[derive(Debug, Clone, Copy, Default)]
pub struct Network;

impl Dial for Network {
    fn dial(&self, address: Address) -> DialFuture {
        Box::pin(async move {
            let io: BoxIo = match address {
                Address::Unix(path) => Box::new(UnixStream::connect(path).await?),
                Address::Tcp { host, port } => {
                    let stream = TcpStream::connect((host.as_str(), port)).await?;
                    stream.set_nodelay(true)?;
                    Box::new(stream)
                }
            };
            Ok(io)
        })
    }
}

/// TLS for one connection.
#[derive(Debug, Clone)]
pub struct Secure {
    /// Trust, and who we are.
    pub config: Arc<ClientConfig>,
    /// The name the server's certificate must carry.
    pub server_name: String,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The network says no.
    #[error("cannot connect to {address}: {source}")]
    Dial {
        /// Where to.
        address: Address,
        /// Why not.
        source: io::Error,
    },
    /// Nothing in time.
    #[error("no connection to {address} within {within:?}")]
    Late {
        /// Where to.
        address: Address,
        /// How long it was waited for.
        within: Duration,
    },
    /// TLS says no.
    #[error("TLS with {address}: {why}")]
    Tls {
        /// Where to.
        address: Address,
        /// What is wrong and what to do.
        why: String,
    },
    /// HTTP/2 did not begin.
    #[error("HTTP/2 with {address}: {source}")]
    Http {
        /// Where to.
        address: Address,
        /// Why not.
        source: tonic::transport::Error,
    },
}

/// A connection: requests go through the channel; `gone` completes when it is lost.
#[derive(Debug)]
pub struct Connected {
    /// For requests. It never connects again by itself.
    pub channel: Channel,
    /// Completes when the connection has ended.
    pub gone: oneshot::Receiver<()>,
}

/// Window of one stream: enough for many flows in flight, little enough for a hundred peers that are not read.
const STREAM_WINDOW_BYTES: u32 = 256 << 10;
/// Window of a connection: several streams may be read at once.
const CONNECTION_WINDOW_BYTES: u32 = 1 << 20;
/// How often a silent connection is asked whether its other end is still there.
const KEEPALIVE_EVERY: Duration = Duration::from_secs(5);
/// How long it may take to say so.
const KEEPALIVE_WITHIN: Duration = Duration::from_secs(5);

/// Opens one connection.
///
/// # Errors
/// See [`ConnectError`]; each names the address.
pub async fn connect(
    network: &dyn Dial,
    address: Address,
    secure: Option<Secure>,
    within: Duration,
) -> Result<Connected, ConnectError> {
    let late = ConnectError::Late { address: address.clone(), within };
    tokio::time::timeout(within, open(network, address, secure)).await.unwrap_or(Err(late))
}

async fn open(network: &dyn Dial, address: Address, secure: Option<Secure>) -> Result<Connected, ConnectError> {
    let raw = network.dial(address.clone()).await;
    let raw = raw.map_err(|source| ConnectError::Dial { address: address.clone(), source })?;
    let encrypted = secure.is_some();
    let io: BoxIo = match secure {
        None => raw,
        Some(Secure { config, server_name }) => {
            let refused = |why: String| ConnectError::Tls { address: address.clone(), why };
            let name = ServerName::try_from(server_name.clone())
                .map_err(|_| refused(format!("{server_name:?} is no name a certificate can have")))?;
            let stream = TlsConnector::from(config).connect(name, raw).await;
            Box::new(stream.map_err(|error| refused(explain(&error, &server_name)))?)
        }
    };
    let (alive, gone) = oneshot::channel();
    let mut once = Some(TokioIo::new(Watched { io, _alive: alive }));
    let connector = tower::service_fn(move |_: Uri| {
        let io = once.take();
        async move { io.ok_or_else(|| io::Error::new(io::ErrorKind::NotConnected, "the connection was lost")) }
    });
    let scheme = if encrypted { "https" } else { "http" };
    let uri = Uri::builder().scheme("http").authority(address.authority()).path_and_query("/").build();
    let uri = uri.map_err(|why| ConnectError::Dial {
        address: address.clone(),
        source: io::Error::new(io::ErrorKind::InvalidInput, why),
    })?;
    let origin = Uri::builder().scheme(scheme).authority(address.authority()).path_and_query("/").build();
    let endpoint = Endpoint::from(uri)
        .origin(origin.expect("only the scheme differs"))
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .http2_keep_alive_interval(KEEPALIVE_EVERY)
        .keep_alive_timeout(KEEPALIVE_WITHIN)
        .keep_alive_while_idle(true);
    let channel = endpoint.connect_with_connector(connector).await;
    Ok(Connected { channel: channel.map_err(|source| ConnectError::Http { address, source })?, gone })
}

/// What went wrong in a handshake, in words for whoever has to mend it.
fn explain(error: &io::Error, server_name: &str) -> String {
    use rustls::{CertificateError as C, Error as E};
    let Some(inner) = error.get_ref().and_then(|inner| inner.downcast_ref::<E>()) else {
        return match error.kind() {
            io::ErrorKind::UnexpectedEof => "the server closed the connection: is it a TLS port?".into(),
            _ => error.to_string(),
        };
    };
    match inner {
        E::InvalidMessage(rustls::InvalidMessage::InvalidContentType) => {
            "the server speaks no TLS there: give it certificates, or disable TLS for this side too".into()
        }
        E::InvalidCertificate(C::NotValidForName | C::NotValidForNameContext { .. }) => {
            format!("the server's certificate is not for {server_name}: {inner}")
        }
        E::InvalidCertificate(C::Expired | C::ExpiredContext { .. }) => {
            format!("the server's certificate has expired: renew it ({inner})")
        }
        // The second: another CA of the same name.
        E::InvalidCertificate(C::UnknownIssuer | C::BadSignature) => {
            "the server's certificate is signed by none of the CAs that were given".into()
        }
        E::AlertReceived(rustls::AlertDescription::CertificateRequired) => {
            "the server wants a client certificate: give one".into()
        }
        other => other.to_string(),
    }
}

/// Says when it is dropped.
struct Watched {
    io: BoxIo,
    _alive: oneshot::Sender<()>,
}

impl AsyncRead for Watched {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl AsyncWrite for Watched {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }
    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}
