//! Sockets, and the life of the server on them.

use crate::{Observer, service::Services};
use std::{
    io,
    net::SocketAddr,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio_stream::wrappers::{TcpListenerStream, UnixListenerStream};
use tonic::transport::server::Router;

/// Where to listen.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listen {
    /// Path of the unix socket, normally `/var/run/cilium/hubble.sock`. Made with mode 0660.
    pub unix: Option<PathBuf>,
    /// TCP address, normally `:4244`. Without TLS: for trusted networks.
    pub tcp: Option<SocketAddr>,
}

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

/// Why serving ended other than by request.
#[derive(Debug, thiserror::Error)]
#[error("hubble server failed")]
pub struct ServeError(#[from] tonic::transport::Error);

/// A server that has its sockets and does not answer yet.
#[derive(Debug)]
pub struct Server {
    observer: Observer,
    unix: Option<(PathBuf, UnixListener)>,
    tcp: Option<TcpListener>,
}

impl Server {
    /// Takes the sockets. A stale socket file is replaced, a live one is refused.
    pub async fn bind(listen: &Listen, observer: Observer) -> Result<Self, BindError> {
        let unix = match &listen.unix {
            Some(path) => Some((path.clone(), bind_unix(path).await?)),
            None => None,
        };
        let tcp = match listen.tcp {
            Some(address) => {
                Some(TcpListener::bind(address).await.map_err(|source| BindError::Tcp { address, source })?)
            }
            None => None,
        };
        Ok(Self { observer, unix, tcp })
    }

    /// The TCP address in use, for those who asked for port 0.
    pub fn tcp_address(&self) -> Option<SocketAddr> {
        self.tcp.as_ref().and_then(|listener| listener.local_addr().ok())
    }

    /// Answers until `shutdown` is ready; then ends all streams, finishes what is under way and removes the socket.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> Result<(), ServeError> {
        let services = Services::new(&self.observer).await;
        let closed = self.observer.shared().closed.clone();
        let router = || -> Router { services.router() };
        let path = self.unix.as_ref().map(|(path, _)| path.clone());
        let on_unix = async {
            match self.unix {
                Some((_, listener)) => {
                    let incoming = UnixListenerStream::new(listener);
                    router().serve_with_incoming_shutdown(incoming, closed.clone().cancelled_owned()).await
                }
                None => Ok(()),
            }
        };
        let on_tcp = async {
            match self.tcp {
                Some(listener) => {
                    let incoming = TcpListenerStream::new(listener);
                    router().serve_with_incoming_shutdown(incoming, closed.clone().cancelled_owned()).await
                }
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

async fn bind_unix(path: &Path) -> Result<UnixListener, BindError> {
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
