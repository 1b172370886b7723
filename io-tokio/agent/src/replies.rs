//! Who waits for which answer of the core.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use agent_core::{Refusal, RequestId, Response};
use tokio::sync::oneshot;

/// What the core answers.
pub type Answer = Result<Response, Refusal>;

/// Requests under way. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Replies {
    next: Arc<AtomicU64>,
    waiting: Arc<Mutex<HashMap<RequestId, oneshot::Sender<Answer>>>>,
}

impl Replies {
    /// Names a request that is about to be made, and where its answer will come.
    pub fn expect(&self) -> (RequestId, oneshot::Receiver<Answer>) {
        let id = RequestId(self.next.fetch_add(1, Ordering::Relaxed) + 1);
        let (sender, receiver) = oneshot::channel();
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).insert(id, sender);
        (id, receiver)
    }
    /// Hands an answer to whoever asked.
    pub fn answer(&self, id: RequestId, answer: Answer) {
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
        if let Some(waiting) = waiting {
            // Whoever asked may have hung up.
            let _gone = waiting.send(answer);
        }
    }
}
