//! What keeps a slow follower's flows from being overwritten.
//!
//! A follower whose client does not read stands still while the ring moves on. Before the ring comes round to where it
//! stands, its filters are put to what would be overwritten, and what matches is set aside. Beyond a bound the oldest of
//! that is given up and counted. So a follower loses, and is told of, what it asked for and nothing else.
//!
//! Only when its task does not get to run for half a turn of the ring is something overwritten that nobody looked at.
//! Then the kinds of flows in that stretch tell whether one asked for may have been among them.

use crate::{
    flows::Window,
    observer::{Shared, herald},
    select::Select,
};
use hubble_model::{Event, Kinds};
use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::Ordering},
};
use tokio::task::AbortHandle;

/// Events taken from the ring at once.
const BATCH: usize = 64;

/// Events that were overwritten before anybody read them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Overwritten {
    /// How many.
    pub count: u64,
    /// What kinds of flows may have been among them.
    pub kinds: Kinds,
}

/// A follower and the task that looks after it.
pub(crate) struct Following {
    place: Arc<Place>,
    guard: AbortHandle,
}

/// Where a follower stands.
struct Place {
    shared: Arc<Shared>,
    aside: Mutex<Aside>,
}

#[derive(Default)]
struct Aside {
    /// Matching events from before `next`, oldest first.
    kept: VecDeque<Arc<Event>>,
    /// Ring position up to which everything is looked at.
    next: u64,
    /// Matching events that were given up.
    given_up: u64,
    /// Events nobody looked at.
    unseen: Overwritten,
}

impl Following {
    /// Follows from a ring position on. Must be called in a runtime.
    pub fn from<S: Select>(next: u64, shared: &Arc<Shared>, select: &Arc<S>, window: Window) -> Self {
        let place = Place { shared: Arc::clone(shared), aside: Mutex::new(Aside { next, ..Aside::default() }) };
        let place = Arc::new(place);
        shared.guards.fetch_add(1, Ordering::SeqCst);
        herald::run(shared);
        let guard = tokio::spawn(guard(Arc::clone(&place), Arc::clone(select), window)).abort_handle();
        Self { place, guard }
    }

    /// Waits until there is something to take. False when the observer was closed.
    pub async fn news(&self, shared: &Shared) -> bool {
        let next = {
            let aside = self.place.aside();
            if !aside.kept.is_empty() {
                return true;
            }
            aside.next
        };
        shared.written(next).await
    }

    /// Takes what was set aside and what is new. Returns how many events asked for were, or may have been, lost before.
    pub fn take<S: Select>(&self, shared: &Shared, select: &S, into: &mut VecDeque<Arc<Event>>) -> u64 {
        let mut aside = self.place.aside();
        let kept = aside.kept.len().min(BATCH);
        if kept > 0 {
            shared.aside.fetch_sub(kept, Ordering::Relaxed);
            into.extend(aside.kept.drain(..kept));
        } else {
            let before = into.len();
            let overwritten = shared.read_batch(aside.next, BATCH, into);
            aside.pass(overwritten, into.len() - before);
        }
        let unseen = std::mem::take(&mut aside.unseen);
        let unseen = if select.may_be_in(unseen.kinds) { unseen.count } else { 0 };
        std::mem::take(&mut aside.given_up) + unseen
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        self.guard.abort();
        self.place.shared.guards.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Place {
    /// Whoever panicked with the lock has broken nothing: what it guards is valid after every statement.
    fn aside(&self) -> MutexGuard<'_, Aside> {
        self.aside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets aside what matches of the next few events, if the ring is about to come round to them. False when it is not.
    fn make_room<S: Select>(&self, select: &S, window: &Window, lag_max: u64) -> bool {
        let shared = &*self.shared;
        let mut aside = self.aside();
        if shared.bounds().1.saturating_sub(aside.next) <= lag_max {
            return false;
        }
        let mut batch = VecDeque::with_capacity(BATCH);
        let overwritten = shared.read_batch(aside.next, BATCH, &mut batch);
        aside.pass(overwritten, batch.len());
        batch.retain(|event| keeps(select, event, shared, window));
        shared.aside.fetch_add(batch.len(), Ordering::Relaxed);
        aside.kept.append(&mut batch);
        let config = &shared.config;
        while aside.kept.len() > config.observer_queue_max
            || (aside.kept.len() > BATCH && shared.aside.load(Ordering::Relaxed) > config.held_events_max)
        {
            let Some(event) = aside.kept.pop_front() else { break };
            shared.aside.fetch_sub(1, Ordering::Relaxed);
            aside.given_up += match &*event {
                Event::Lost { event, .. } => event.num_events_lost,
                _ => 1,
            };
        }
        true
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let kept = self.aside().kept.len();
        self.shared.aside.fetch_sub(kept, Ordering::Relaxed);
    }
}

impl Aside {
    /// Goes on behind what was read.
    fn pass(&mut self, overwritten: Overwritten, read: usize) {
        self.unseen.count += overwritten.count;
        self.unseen.kinds = self.unseen.kinds | overwritten.kinds;
        self.next += overwritten.count + u64::try_from(read).expect("a batch is small");
    }
}

fn keeps<S: Select>(select: &S, event: &Event, shared: &Shared, window: &Window) -> bool {
    if let Event::Lost { time_ns, event } = event {
        return select.is_concerned(event, *time_ns, window);
    }
    // The first one that is too late ends the stream.
    window.until_ns.is_some_and(|until| event.time_ns() > until) || select.wants(event, shared)
}

/// Makes room before the ring comes round. Ends with its follower.
async fn guard<S: Select>(place: Arc<Place>, select: Arc<S>, window: Window) {
    let shared = Arc::clone(&place.shared);
    // Woken at every quarter, so that a quarter is left when it begins.
    let quarter = shared.stride();
    loop {
        let strode = shared.strides.notified();
        tokio::pin!(strode);
        strode.as_mut().enable();
        if place.make_room(&*select, &window, 2 * quarter) {
            while place.make_room(&*select, &window, quarter) {
                tokio::task::yield_now().await;
            }
        }
        strode.await;
    }
}
