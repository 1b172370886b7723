//! The unix socket: who may use it, and what to do with one that is left over.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt, chown};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use axum::Router;
use tokio::net::UnixListener;

/// Read and write for owner and group only.
const MODE: u32 = 0o660;

/// Why no socket could be opened.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Somebody answers there.
    #[error("{} is in use: another agent is running; stop it, or choose another path", path.display())]
    InUse {
        /// Path.
        path: PathBuf,
    },
    /// Something else lies there.
    #[error("{} exists and is not a socket; remove it, or choose another path", path.display())]
    NotASocket {
        /// Path.
        path: PathBuf,
    },
    /// The system refused.
    #[error("cannot {step} {}: {source}", path.display())]
    Io {
        /// What was tried.
        step: &'static str,
        /// Path.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

/// Which group may use a socket besides root.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SocketOwner {
    /// Group id; `None`: the agent's own.
    pub group: Option<u32>,
}

/// Opens a unix socket with mode 0660, taking away one that nobody listens on any more. Missing directories are made.
///
/// # Errors
/// See [`ListenError`].
pub fn listen(path: &Path, owner: SocketOwner) -> Result<UnixListener, ListenError> {
    let io = |step: &'static str| move |source: io::Error| ListenError::Io { step, path: path.to_owned(), source };
    match fs::symlink_metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            if let Some(dir) = path.parent() {
                fs::create_dir_all(dir).map_err(io("create the directory of"))?;
            }
        }
        Err(e) => return Err(io("look at")(e)),
        Ok(found) if !found.file_type().is_socket() => return Err(ListenError::NotASocket { path: path.to_owned() }),
        Ok(_) => {
            if UnixStream::connect(path).is_ok() {
                return Err(ListenError::InUse { path: path.to_owned() });
            }
            fs::remove_file(path).map_err(io("remove the stale socket"))?;
        }
    }
    let listener = UnixListener::bind(path).map_err(io("listen on"))?;
    fs::set_permissions(path, fs::Permissions::from_mode(MODE)).map_err(io("set the mode of"))?;
    if let Some(group) = owner.group {
        chown(path, None, Some(group)).map_err(io("set the group of"))?;
    }
    Ok(listener)
}

/// Serves until `stop` completes; requests under way are finished.
///
/// # Errors
/// When the listener breaks.
pub async fn serve(
    listener: UnixListener,
    router: Router,
    stop: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    axum::serve(listener, router).with_graceful_shutdown(stop).await
}
