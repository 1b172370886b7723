//! Sockets, and the life of the server on them.

use crate::{
    Observer,
    peers::{Alone, Peer, PeerSource, this_node},
    service::Services,
};
use futures::Stream;
use hubble_transport::{bind_tcp, bind_unix, secure, tls::ServerTls};
use std::{io, net::SocketAddr, path::PathBuf, sync::Arc};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, UnixListener},
};
use tokio_stream::wrappers::{TcpListenerStream, UnixListenerStream};

pub use hubble_transport::BindError;

/// Port of the server on every node, unless an address says otherwise.
pub const DEFAULT_PORT: u16 = 4244;

/// Where to listen.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listen {
    /// Path of the unix socket, normally `/var/run/cilium/hubble.sock`. Made with mode 0660.
    pub unix: Option<PathBuf>,
    /// TCP address, normally `:4244`. Without [`Server::with_tls`] for trusted networks alone.
    pub tcp: Option<SocketAddr>,
}

/// Why serving ended other than by request.
#[derive(Debug, thiserror::Error)]
#[error("hubble server failed")]
pub struct ServeError(#[from] tonic::transport::Error);

/// A server that has its sockets and does not answer yet.
pub struct Server {
    observer: Observer,
    unix: Option<(PathBuf, UnixListener)>,
    tcp: Option<TcpListener>,
    tls: Option<ServerTls>,
    peers: Arc<dyn PeerSource>,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let tls = self.tls.is_some();
        f.debug_struct("Server")
            .field("unix", &self.unix)
            .field("tcp", &self.tcp)
            .field("tls", &tls)
            .finish_non_exhaustive()
    }
}

impl Server {
    /// Takes the sockets. A stale socket file is replaced, a live one is refused.
    ///
    /// # Errors
    /// See [`BindError`].
    pub async fn bind(listen: &Listen, observer: Observer) -> Result<Self, BindError> {
        let unix = match &listen.unix {
            Some(path) => Some((path.clone(), bind_unix(path).await?)),
            None => None,
        };
        let tcp = match listen.tcp {
            Some(address) => Some(bind_tcp(address).await?),
            None => None,
        };
        Ok(Self { observer, unix, tcp, tls: None, peers: Arc::new(Alone) })
    }

    /// TLS for TCP. The unix socket is guarded by its mode.
    #[must_use]
    pub fn with_tls(self, tls: ServerTls) -> Self {
        Self { tls: Some(tls), ..self }
    }

    /// Who knows the other nodes; without, this one knows itself alone.
    #[must_use]
    pub fn with_peers(self, peers: Arc<dyn PeerSource>) -> Self {
        Self { peers, ..self }
    }

    /// The TCP address in use, for those who asked for port 0.
    pub fn tcp_address(&self) -> Option<SocketAddr> {
        self.tcp.as_ref().and_then(|listener| listener.local_addr().ok())
    }

    /// This node as the peer service announces it: under the address that is listened on, if there is one.
    pub fn this_node(&self) -> Peer {
        let config = &self.observer.shared().config;
        let listened = self.tcp_address();
        let ip = listened.map(|address| address.ip()).filter(|ip| !ip.is_unspecified()).or(config.node_ip);
        let port = listened.map_or(DEFAULT_PORT, |address| address.port());
        let address = match (&self.unix, listened, ip) {
            (Some((path, _)), None, _) | (Some((path, _)), _, None) => format!("unix://{}", path.display()),
            (_, _, Some(ip)) => SocketAddr::new(ip, port).to_string(),
            (None, _, None) => String::new(),
        };
        this_node(config, address, self.tls.is_some() && listened.is_some())
    }

    /// Answers until `shutdown` is ready; then ends all streams, finishes what is under way and removes the socket.
    ///
    /// # Errors
    /// When HTTP/2 cannot be served.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> Result<(), ServeError> {
        let services = Services::new(&self.observer, self.this_node(), &*self.peers).await;
        let closed = self.observer.shared().closed.clone();
        let path = self.unix.as_ref().map(|(path, _)| path.clone());
        let on_unix = async {
            match self.unix {
                Some((_, listener)) => serve(&services, &self.observer, UnixListenerStream::new(listener), None).await,
                None => Ok(()),
            }
        };
        let on_tcp = async {
            match self.tcp {
                Some(listener) => serve(&services, &self.observer, TcpListenerStream::new(listener), self.tls).await,
                None => Ok(()),
            }
        };
        let until_closed = async {
            tokio::select! { () = shutdown => {}, () = closed.cancelled() => {} }
            self.observer.close();
            Ok(())
        };
        let served = tokio::try_join!(on_unix, on_tcp, until_closed);
        if let Some(path) = path
            && let Err(error) = tokio::fs::remove_file(&path).await
        {
            tracing::debug!(%error, path = %path.display(), "hubble socket was gone already");
        }
        served?;
        Ok(())
    }
}

/// Answers on connections that come from elsewhere than a socket of this machine, as in a simulation, until the observer
/// is closed. `this` is how the peer service announces the node.
///
/// # Errors
/// When HTTP/2 cannot be served.
pub async fn serve_incoming<T, S>(
    observer: &Observer,
    this: Peer,
    peers: &dyn PeerSource,
    incoming: S,
) -> Result<(), ServeError>
where
    T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    S: Stream<Item = io::Result<T>> + Send + Unpin,
{
    let services = Services::new(observer, this, peers).await;
    Ok(serve(&services, observer, incoming, None).await?)
}

async fn serve<T, S>(
    services: &Services,
    observer: &Observer,
    incoming: S,
    tls: Option<ServerTls>,
) -> Result<(), tonic::transport::Error>
where
    T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    S: Stream<Item = io::Result<T>> + Send + Unpin,
{
    let closed = observer.shared().closed.clone().cancelled_owned();
    services.router().serve_with_incoming_shutdown(Box::pin(secure(incoming, tls)), closed).await
}
