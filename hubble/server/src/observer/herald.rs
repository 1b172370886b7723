//! Wakes readers. Whoever publishes wakes one task, however many readers wait; that task wakes them.

use super::Shared;
use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};
use tokio::sync::Notify;

/// What is to be said, and whether somebody says it.
#[derive(Debug, Default)]
pub(crate) struct Herald {
    told: Notify,
    /// The ring has come a quarter further since it was last said.
    strode: AtomicBool,
    runs: AtomicBool,
}

impl Herald {
    /// There is something new.
    pub fn tell(&self) {
        self.told.notify_one();
    }

    /// The ring has come a quarter further.
    pub fn tell_stride(&self) {
        self.strode.store(true, Ordering::SeqCst);
        self.told.notify_one();
    }
}

/// Sees to it that what is told is said. Must be called in a runtime.
pub(crate) fn run(shared: &Arc<Shared>) {
    if shared.herald.runs.swap(true, Ordering::SeqCst) {
        return;
    }
    let running = Running(Arc::clone(shared));
    tokio::spawn(async move {
        let shared = &*running.0;
        loop {
            tokio::select! {
                () = shared.herald.told.notified() => {}
                () = shared.closed.cancelled() => return,
            }
            shared.news.notify_waiters();
            if shared.herald.strode.swap(false, Ordering::SeqCst) {
                shared.strides.notify_waiters();
            }
        }
    });
}

/// Its end, also that of its runtime, lets another begin.
struct Running(Arc<Shared>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.herald.runs.store(false, Ordering::SeqCst);
    }
}
