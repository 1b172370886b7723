//! Tasks that must not end unnoticed.

use std::collections::BTreeMap;
use std::fmt;

use tokio::task::{AbortHandle, Id, JoinSet};

/// How a supervised task ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Its name.
    pub task: &'static str,
    /// What it said, or what it panicked with; `None`: it was done.
    pub failure: Option<String>,
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.failure {
            Some(why) => write!(f, "{} failed: {why}", self.task),
            None => write!(f, "{} ended", self.task),
        }
    }
}

/// Owns tasks. Dropping it aborts them.
#[derive(Debug, Default)]
pub struct Supervisor {
    tasks: JoinSet<Result<(), String>>,
    names: BTreeMap<Id, &'static str>,
}

impl Supervisor {
    /// Owns nothing yet.
    pub fn new() -> Self {
        Self::default()
    }
    /// Starts a task. Its error is a sentence for the log.
    pub fn supervise<E: fmt::Display>(
        &mut self,
        name: &'static str,
        task: impl Future<Output = Result<(), E>> + Send + 'static,
    ) -> AbortHandle {
        let handle = self.tasks.spawn(async move { task.await.map_err(|why| why.to_string()) });
        self.names.insert(handle.id(), name);
        handle
    }
    /// Waits for the next task to end; `None` when there is none left.
    pub async fn ended(&mut self) -> Option<Ended> {
        let joined = self.tasks.join_next_with_id().await?;
        let (id, failure) = match joined {
            Ok((id, Ok(()))) => (id, None),
            Ok((id, Err(why))) => (id, Some(why)),
            Err(broken) => (broken.id(), Some(said(broken))),
        };
        Some(Ended { task: self.names.remove(&id).unwrap_or("a task"), failure })
    }
}

fn said(broken: tokio::task::JoinError) -> String {
    let Ok(panic) = broken.try_into_panic() else { return "it was cancelled".into() };
    match panic.downcast::<String>() {
        Ok(text) => format!("panic: {text}"),
        Err(other) => match other.downcast::<&'static str>() {
            Ok(text) => format!("panic: {text}"),
            Err(_) => "panic".into(),
        },
    }
}
