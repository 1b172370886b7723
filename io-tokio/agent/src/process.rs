//! This process: its number in a file that also keeps a second agent out, its log, its word that it is ready.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use tracing_subscriber::EnvFilter;

/// Why this process may not run.
#[derive(Debug, thiserror::Error)]
pub enum PidError {
    /// Another agent runs.
    #[error("{} is locked: another agent ({pid}) uses --state-dir; stop it, or give this one its own", path.display())]
    Running {
        /// The file.
        path: PathBuf,
        /// What it says.
        pid: String,
    },
    /// The system refused.
    #[error("cannot write {}: {source}; is --state-dir writable?", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

/// The pid file, locked while this process lives, however it ends.
#[derive(Debug)]
pub struct PidFile {
    path: PathBuf,
    _lock: Flock<File>,
}

impl PidFile {
    /// Takes it.
    ///
    /// # Errors
    /// When another agent has it, or it cannot be written.
    pub fn take(path: &Path) -> Result<Self, PidError> {
        let failed = |source| PidError::Io { path: path.to_owned(), source };
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir).map_err(failed)?;
        }
        let file = File::options().create(true).truncate(false).read(true).write(true).open(path).map_err(failed)?;
        let lock = Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, why)| match why {
            nix::Error::EWOULDBLOCK => {
                let pid = fs::read_to_string(path).unwrap_or_default().trim().to_owned();
                PidError::Running { path: path.to_owned(), pid }
            }
            why => failed(why.into()),
        })?;
        lock.set_len(0).map_err(failed)?;
        writeln!(&*lock, "{}", std::process::id()).map_err(failed)?;
        Ok(Self { path: path.to_owned(), _lock: lock })
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        let _gone = fs::remove_file(&self.path);
    }
}

/// Why the log cannot be set up.
#[derive(Debug, thiserror::Error)]
#[error("--log-opt: {0}")]
pub struct LogError(String);

/// Sets up the log on standard error: `format` text or json, `level` a name or a filter.
///
/// # Errors
/// When an option is not known.
pub fn log(debug: bool, options: &[(String, String)]) -> Result<(), LogError> {
    let mut filter =
        if debug { "debug,aya=info,aya_obj=info,h2=info,hyper=info,tower=info" } else { "info" }.to_owned();
    // Says once for each device that the kernel knows more than it does.
    filter.push_str(",netlink_packet_route=error");
    let mut json = false;
    for (key, value) in options {
        match (key.as_str(), value.as_str()) {
            ("format", "text") => json = false,
            ("format", "json") => json = true,
            ("format", other) => return Err(LogError(format!("format={other} is neither text nor json"))),
            ("level", level) => level.clone_into(&mut filter),
            (other, _) => return Err(LogError(format!("{other:?} is not known; format and level are"))),
        }
    }
    let filter = EnvFilter::try_new(&filter).map_err(|why| LogError(format!("level={filter}: {why}")))?;
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_target(false);
    let set = if json { log.json().flatten_event(true).try_init() } else { log.with_ansi(false).try_init() };
    set.map_err(|why| LogError(why.to_string()))
}

/// Tells the service manager, if there is one.
///
/// # Errors
/// When it cannot be told.
pub fn notify(state: &str) -> io::Result<()> {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else { return Ok(()) };
    let bytes = path.as_encoded_bytes();
    let address = match bytes.strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(&path)?,
    };
    UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &address).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pid_file_keeps_a_second_agent_out_and_a_dead_one_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run/cilium.pid");
        let first = PidFile::take(&path).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap().trim(), std::process::id().to_string());
        let refused = PidFile::take(&path).unwrap_err().to_string();
        assert!(refused.contains(&std::process::id().to_string()), "{refused}");
        drop(first);
        assert!(!path.exists());
        fs::write(&path, "4194304\n").unwrap();
        PidFile::take(&path).expect("nobody holds the lock of a file that was left over");
    }
}
