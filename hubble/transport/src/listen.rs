//! Sockets servers listen on, and what comes in through them.

use crate::tls::ServerTls;
use futures::{
    FutureExt as _, Stream, StreamExt as _,
    future::BoxFuture,
    stream::{self, FuturesUnordered},
};
use std::{
    io,
    net::SocketAddr,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf},
    net::{TcpListener, UnixListener, UnixStream},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

/// Handshakes under way at once; further connections wait in the kernel.
const HANDSHAKES_MAX: usize = 128;
/// How long a client may take to say hello.
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(10);

/// How long a client that is refused may take to go, and how much it may send.
const FAREWELL_WITHIN: Duration = Duration::from_secs(2);
const FAREWELL_BYTES_MAX: u64 = 1 << 16;

/// Why listening did not start.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Another server answers on the socket.
    #[error("hubble socket {} is in use by another server: stop it or choose another path", .0.display())]
    InUse(PathBuf),
    /// The socket could not be made.
    #[error("cannot {step} hubble socket {}", .path.display())]
    Unix {
        /// What was being done.
        step: &'static str,
        /// The socket.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The address could not be bound.
    #[error("cannot listen on hubble address {address}")]
    Tcp {
        /// The address.
        address: SocketAddr,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// Takes a unix socket for its owner and group. A stale one is replaced, a live one is refused.
///
/// # Errors
/// See [`BindError`].
pub async fn bind_unix(path: &Path) -> Result<UnixListener, BindError> {
    let failed = |step| move |source| BindError::Unix { step, path: path.to_owned(), source };
    if path.exists() {
        if UnixStream::connect(path).await.is_ok() {
            return Err(BindError::InUse(path.to_owned()));
        }
        std::fs::remove_file(path).map_err(failed("replace stale"))?;
    }
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).map_err(failed("make the folder of"))?;
    }
    let listener = UnixListener::bind(path).map_err(failed("listen on"))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660)).map_err(failed("set the mode of"))?;
    Ok(listener)
}

/// Takes a TCP address.
///
/// # Errors
/// [`BindError::Tcp`].
pub async fn bind_tcp(address: SocketAddr) -> Result<TcpListener, BindError> {
    TcpListener::bind(address).await.map_err(|source| BindError::Tcp { address, source })
}

/// A connection from a client, encrypted or not.
#[derive(Debug)]
pub enum Accepted<T> {
    /// As it came.
    Plain(T),
    /// Through TLS.
    Tls(Box<TlsStream<Begun<T>>>),
}

impl<T> tonic::transport::server::Connected for Accepted<T> {
    type ConnectInfo = ();
    fn connect_info(&self) {}
}

type Handshake<T> = BoxFuture<'static, Option<Accepted<T>>>;

/// Connections ready for HTTP/2: handshakes are done side by side, and those that fail are logged and left out.
pub fn secure<T, S>(incoming: S, tls: Option<ServerTls>) -> impl Stream<Item = io::Result<Accepted<T>>> + Send
where
    T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    S: Stream<Item = io::Result<T>> + Send + Unpin,
{
    let handshakes: FuturesUnordered<Handshake<T>> = FuturesUnordered::new();
    stream::unfold((incoming, tls, handshakes), |(mut incoming, tls, mut handshakes)| async move {
        loop {
            tokio::select! {
                biased;
                Some(done) = handshakes.next(), if !handshakes.is_empty() => {
                    if let Some(accepted) = done {
                        return Some((Ok(accepted), (incoming, tls, handshakes)));
                    }
                }
                next = incoming.next(), if handshakes.len() < HANDSHAKES_MAX => match (next?, &tls) {
                    // One connection that ended before it was accepted is no reason to stop.
                    (Err(why), _) => tracing::debug!(%why, "a connection was not accepted"),
                    (Ok(io), None) => return Some((Ok(Accepted::Plain(io)), (incoming, tls, handshakes))),
                    (Ok(io), Some(tls)) => handshakes.push(handshake(io, tls.clone()).boxed()),
                },
            }
        }
    })
}

/// The first byte of every TLS connection: a record of the handshake (RFC 8446, 5.1).
const HANDSHAKE_RECORD: u8 = 22;

async fn handshake<T>(io: T, tls: ServerTls) -> Option<Accepted<T>>
where
    T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    match tokio::time::timeout(HANDSHAKE_WITHIN, greet(io, tls)).await {
        Ok(Ok(stream)) => Some(Accepted::Tls(Box::new(stream))),
        Ok(Err(why)) => {
            tracing::info!(%why, "refused a client on a TLS port");
            None
        }
        Err(_) => {
            tracing::info!(within = ?HANDSHAKE_WITHIN, "refused a client: no TLS handshake in time");
            None
        }
    }
}

async fn greet<T>(mut io: T, tls: ServerTls) -> io::Result<TlsStream<Begun<T>>>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let first = io.read_u8().await?;
    if first != HANDSHAKE_RECORD {
        // The client may be gone already.
        let _told = tokio::time::timeout(FAREWELL_WITHIN, say_farewell(&mut io)).await;
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it does not speak TLS"));
    }
    TlsAcceptor::from(tls.current()).accept(Begun { first: Some(first), io }).await
}

/// Says why and waits for the client to go: a socket that is closed with bytes unread takes back what was said.
async fn say_farewell(io: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> io::Result<()> {
    io.write_all(&go_away()).await?;
    io.shutdown().await?;
    tokio::io::copy(&mut io.take(FAREWELL_BYTES_MAX), &mut tokio::io::sink()).await.map(|_| ())
}

/// Settings and a farewell of HTTP/2 (RFC 9113, 6.5 and 6.8), so that a client without TLS learns what is wrong.
fn go_away() -> Vec<u8> {
    const INADEQUATE_SECURITY: u8 = 0xc;
    const WHY: &[u8] = b"this port speaks TLS only";
    let mut frames = vec![0, 0, 0, 4, 0, 0, 0, 0, 0];
    let length = u8::try_from(8 + WHY.len()).expect("a short text");
    frames.extend([0, 0, length, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, INADEQUATE_SECURITY]);
    frames.extend(WHY);
    frames
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncRead for Accepted<T> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(io) => Pin::new(io).poll_read(cx, buf),
            Self::Tls(io) => Pin::new(io).poll_read(cx, buf),
        }
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Accepted<T> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(io) => Pin::new(io).poll_write(cx, buf),
            Self::Tls(io) => Pin::new(io).poll_write(cx, buf),
        }
    }
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(io) => Pin::new(io).poll_flush(cx),
            Self::Tls(io) => Pin::new(io).poll_flush(cx),
        }
    }
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(io) => Pin::new(io).poll_shutdown(cx),
            Self::Tls(io) => Pin::new(io).poll_shutdown(cx),
        }
    }
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(io) => Pin::new(io).poll_write_vectored(cx, bufs),
            Self::Tls(io) => Pin::new(io).poll_write_vectored(cx, bufs),
        }
    }
    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(io) => io.is_write_vectored(),
            Self::Tls(io) => io.is_write_vectored(),
        }
    }
}

/// A connection whose first byte was read to see what it is.
#[derive(Debug)]
pub struct Begun<T> {
    first: Option<u8>,
    io: T,
}

impl<T: AsyncRead + Unpin> AsyncRead for Begun<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.first.take() {
            Some(first) if buf.remaining() > 0 => {
                buf.put_slice(&[first]);
                Poll::Ready(Ok(()))
            }
            first => {
                self.first = first;
                Pin::new(&mut self.io).poll_read(cx, buf)
            }
        }
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Begun<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
