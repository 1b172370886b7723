//! A page for scrapers, plain or with TLS.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::Router;
use axum::http::{HeaderMap, header};
use axum::routing::get;
use hubble_transport::tls::ServerTls;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// Connections at once.
const CONNECTIONS_MAX: usize = 128;
/// How long a client may take for TLS.
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(10);

/// Why nothing is served.
#[derive(Debug, thiserror::Error)]
pub enum PageError {
    /// The system refused.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// Address.
        address: SocketAddr,
        /// What the kernel said.
        source: io::Error,
    },
    /// The listener broke.
    #[error("the page of metrics broke: {0}")]
    Broken(io::Error),
}

/// Takes the address.
pub(super) async fn bind(address: SocketAddr) -> Result<TcpListener, PageError> {
    TcpListener::bind(address).await.map_err(|source| PageError::Listen { address, source })
}

/// Serves `/metrics` until `stop` completes. `text` makes content type and text for an `Accept` header; `scraped` learns
/// of every answer.
pub(super) async fn serve(
    listener: TcpListener,
    tls: Option<ServerTls>,
    text: impl Fn(&str) -> (&'static str, String) + Send + Sync + 'static,
    scraped: impl Fn(u16, Duration) + Send + Sync + 'static,
    stop: impl Future<Output = ()> + Send + 'static,
) -> Result<(), PageError> {
    let text = Arc::new((text, scraped));
    let page = get(move |headers: HeaderMap| async move {
        let began = Instant::now();
        let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
        let (kind, body) = (text.0)(accept);
        (text.1)(200, began.elapsed());
        Ok::<_, Infallible>(([(header::CONTENT_TYPE, kind)], body))
    });
    let address = listener.local_addr().map_err(PageError::Broken)?;
    let (ready, accepted) = mpsc::channel(1);
    let accepting = tokio::spawn(accept(listener, tls, ready));
    let served = axum::serve(Accepting { accepted, address }, Router::new().route("/metrics", page))
        .with_graceful_shutdown(stop)
        .await;
    accepting.abort();
    served.map_err(PageError::Broken)
}

/// Accepts, and does handshakes side by side, so that a client that does not finish one holds nobody up.
async fn accept(listener: TcpListener, tls: Option<ServerTls>, ready: mpsc::Sender<(Stream, SocketAddr)>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        let (tcp, from) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(why) => {
                tracing::debug!(%why, "a scraper was not accepted");
                // Out of file descriptors, most likely: others may give some back.
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let (tls, ready) = (tls.clone(), ready.clone());
        tokio::spawn(async move {
            let io = match tls {
                None => Io::Plain(tcp),
                Some(tls) => {
                    // The files are gRPC's; scrapers speak HTTP/1.1.
                    let mut config = tls.current().as_ref().clone();
                    config.alpn_protocols = vec![b"http/1.1".to_vec()];
                    let accept = TlsAcceptor::from(Arc::new(config)).accept(tcp);
                    match tokio::time::timeout(HANDSHAKE_WITHIN, accept).await {
                        Ok(Ok(tls)) => Io::Tls(Box::new(tls)),
                        Ok(Err(why)) => return tracing::info!(%why, %from, "refused a scraper: TLS failed"),
                        Err(_) => return tracing::info!(%from, "refused a scraper: no TLS handshake in time"),
                    }
                }
            };
            // Without a receiver the page is not served any more.
            let _ended = ready.send((Stream { io, _place: place }, from)).await;
        });
    }
}

struct Accepting {
    accepted: mpsc::Receiver<(Stream, SocketAddr)>,
    address: SocketAddr,
}

impl axum::serve::Listener for Accepting {
    type Io = Stream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Stream, SocketAddr) {
        match self.accepted.recv().await {
            Some(accepted) => accepted,
            None => std::future::pending().await,
        }
    }
    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.address)
    }
}

/// A connection, and its place among those there may be.
struct Stream {
    io: Io,
    _place: OwnedSemaphorePermit,
}

enum Io {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().io {
            Io::Plain(io) => Pin::new(io).poll_read(cx, buf),
            Io::Tls(io) => Pin::new(io).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().io {
            Io::Plain(io) => Pin::new(io).poll_write(cx, buf),
            Io::Tls(io) => Pin::new(io).poll_write(cx, buf),
        }
    }
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().io {
            Io::Plain(io) => Pin::new(io).poll_flush(cx),
            Io::Tls(io) => Pin::new(io).poll_flush(cx),
        }
    }
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().io {
            Io::Plain(io) => Pin::new(io).poll_shutdown(cx),
            Io::Tls(io) => Pin::new(io).poll_shutdown(cx),
        }
    }
}
