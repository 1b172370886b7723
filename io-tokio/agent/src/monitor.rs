//! The event feed for `cilium monitor`: records as they came from the kernel, to whoever connects.
//!
//! A reader that is too slow loses records and is told how many; nobody else notices. The feed costs nothing while
//! nobody listens.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use api::monitor::{GREETING, Payload};
use api::server::{ListenError, SocketOwner, listen};
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::sync::{Semaphore, broadcast};

/// Batches a reader may be behind.
const BEHIND_MAX: usize = 256;
/// Readers at once.
const READERS_MAX: usize = 32;

/// Encoded frames, shared by all readers; and how many records they hold.
#[derive(Clone, Debug)]
struct Frames {
    bytes: Arc<[u8]>,
}

/// Where records are handed in.
#[derive(Clone, Debug)]
pub struct Feed {
    sender: broadcast::Sender<Frames>,
}

impl Default for Feed {
    fn default() -> Self {
        Self { sender: broadcast::Sender::new(BEHIND_MAX) }
    }
}

impl Feed {
    /// Whether anybody listens.
    pub fn has_readers(&self) -> bool {
        self.sender.receiver_count() > 0
    }

    /// Hands records to all readers. Never blocks.
    pub fn publish<'a>(&self, lost: u64, records: impl Iterator<Item = &'a [u8]>) {
        if !self.has_readers() {
            return;
        }
        let mut bytes = Vec::new();
        if lost > 0 {
            Payload::Lost { cpu: 0, count: lost }.encode(&mut bytes);
        }
        for record in records {
            Payload::Sample { cpu: 0, data: record.to_vec() }.encode(&mut bytes);
        }
        // The last reader may have gone meanwhile.
        let _nobody = self.sender.send(Frames { bytes: bytes.into() });
    }

    /// Serves readers on a unix socket until it is dropped.
    ///
    /// # Errors
    /// When the socket cannot be made, or breaks.
    pub async fn serve(self, path: PathBuf, owner: SocketOwner) -> Result<(), FeedError> {
        let listener = listen(&path, owner)?;
        let _removed = Removed(&path);
        let places = Arc::new(Semaphore::new(READERS_MAX));
        loop {
            let (stream, _) = listener.accept().await?;
            let Ok(place) = places.clone().try_acquire_owned() else {
                tracing::warn!("more than {READERS_MAX} readers of the event feed; one is turned away");
                continue;
            };
            let frames = self.sender.subscribe();
            tokio::spawn(async move {
                // A reader that goes is how readers end.
                let _gone = write(stream, frames).await;
                drop(place);
            });
        }
    }
}

struct Removed<'a>(&'a Path);
impl Drop for Removed<'_> {
    fn drop(&mut self) {
        // Another agent may have replaced it.
        let _gone = std::fs::remove_file(self.0);
    }
}

/// Why the feed cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum FeedError {
    /// No socket.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// It broke.
    #[error("the event feed's socket broke: {0}")]
    Accept(#[from] io::Error),
}

async fn write(mut stream: UnixStream, mut frames: broadcast::Receiver<Frames>) -> io::Result<()> {
    stream.write_all(GREETING).await?;
    loop {
        match frames.recv().await {
            Ok(next) => stream.write_all(&next.bytes).await?,
            Err(broadcast::error::RecvError::Lagged(batches)) => {
                let mut bytes = Vec::new();
                Payload::Lost { cpu: 0, count: batches }.encode(&mut bytes);
                stream.write_all(&bytes).await?;
            }
            Err(broadcast::error::RecvError::Closed) => return Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
