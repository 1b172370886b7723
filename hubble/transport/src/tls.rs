//! TLS from files: read once at the start, read again when they change.
//!
//! Only TLS 1.3 is spoken, as by the original. A server that is given CA files wants certificates of its clients.

mod files;

pub use files::{ClientFiles, Files, Identity, ServerFiles, TlsError};
pub use tokio_rustls::rustls::{ClientConfig, ServerConfig};

use std::{
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

/// How often files are looked at: Kubernetes takes about a minute to renew a mounted secret.
pub const WATCH_EVERY: Duration = Duration::from_secs(10);

/// A server's side of TLS.
pub type ServerTls = Tls<ServerFiles>;
/// A client's side of TLS.
pub type ClientTls = Tls<ClientFiles>;

/// A configuration that follows its files. Cloning shares it.
#[derive(Debug)]
pub struct Tls<F: Files>(Arc<Inner<F>>);

impl<F: Files> Clone for Tls<F> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

#[derive(Debug)]
struct Inner<F: Files> {
    files: F,
    current: RwLock<Current<F::Config>>,
}

#[derive(Debug)]
struct Current<C> {
    /// Of the files' contents.
    hash: u64,
    config: Arc<C>,
}

impl<F: Files> Tls<F> {
    /// Reads the files.
    ///
    /// # Errors
    /// When one is unreadable, expired, no certificate or key, or when they do not fit together.
    pub fn load(files: F) -> Result<Self, TlsError> {
        let (hash, config) = files::build(&files)?;
        Ok(Self(Arc::new(Inner { files, current: RwLock::new(Current { hash, config: Arc::new(config) }) })))
    }

    /// What new connections use.
    pub fn current(&self) -> Arc<F::Config> {
        self.0.current.read().unwrap_or_else(PoisonError::into_inner).config.clone()
    }

    /// Reads the files again; true when they changed. Connections that are open stay as they are.
    ///
    /// # Errors
    /// As [`Tls::load`]; what was there before stays in use.
    pub fn reload(&self) -> Result<bool, TlsError> {
        let before = self.0.current.read().unwrap_or_else(PoisonError::into_inner).hash;
        if files::hash(&self.0.files)? == before {
            return Ok(false);
        }
        let (hash, config) = files::build(&self.0.files)?;
        *self.0.current.write().unwrap_or_else(PoisonError::into_inner) = Current { hash, config: Arc::new(config) };
        Ok(true)
    }

    /// Reads the files again from time to time, for ever. What cannot be used is told once for each kind of failure.
    pub async fn watch(self, every: Duration) {
        let mut told = None;
        loop {
            tokio::time::sleep(every).await;
            let tls = self.clone();
            let Ok(outcome) = tokio::task::spawn_blocking(move || tls.reload()).await else { return };
            match outcome {
                Ok(changed) => {
                    if changed {
                        tracing::info!(files = %self.0.files, "certificates changed; new connections use them");
                    }
                    told = None;
                }
                Err(why) => {
                    let why = why.to_string();
                    if told.as_ref() != Some(&why) {
                        tracing::warn!(%why, "the certificates in use stay, because the new ones cannot be used");
                    }
                    told = Some(why);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
