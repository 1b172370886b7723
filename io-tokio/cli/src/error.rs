//! Why a command failed, with the way out.

use std::io;
use std::path::PathBuf;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum CliError {
    #[error(transparent)]
    Agent(#[from] api::client::ClientError),
    #[error("{0}; is the agent running on this node, and is --bpf-root its BPF file system?")]
    Map(#[from] loader::MapError),
    #[error("cannot listen to the monitor at {}: {source}; is the agent running with --enable-monitor?", path.display())]
    MonitorConnect { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Monitor(#[from] api::monitor::FeedError),
    #[error("cannot read {}: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("printing: {0}")]
    Print(#[from] io::Error),
    #[error("printing as JSON: {0}")]
    Json(#[from] serde_json::Error),
    #[error("{0}")]
    Invalid(String),
    #[error("{0}")]
    NotFound(String),
    #[error("{0}")]
    NotWell(String),
    /// The command worked and found what it looks for: what would be denied, what is suspicious.
    #[error("{0}")]
    Found(String),
}

impl CliError {
    /// The process's exit code: 1 refused or failed, 3 found what scripts want to be stopped by.
    #[must_use]
    pub const fn exit_code(&self) -> u8 {
        if matches!(self, Self::Found(_)) { 3 } else { 1 }
    }
}
