//! Between those who publish and a thread that writes: bounded, never waited for by the first.

use std::{
    collections::VecDeque,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// How long a writer lets work gather once there is some, so that it is not woken for every event.
const GATHER: Duration = Duration::from_millis(5);

/// A queue of bounded length.
#[derive(Debug)]
pub(crate) struct Queue<T> {
    state: Mutex<State<T>>,
    work: Condvar,
    finished: Condvar,
    length_max: usize,
}

#[derive(Debug)]
struct State<T> {
    items: VecDeque<T>,
    lost: u64,
    /// Ever taken in, and ever finished.
    pushed: u64,
    done: u64,
    /// Someone waits for everything to be finished.
    hurry: bool,
    /// The writer sleeps until the first item.
    asleep: bool,
    closed: bool,
}

/// What a writer has to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Work {
    /// Items that found no place since the last time.
    pub lost: u64,
    /// Someone waits for everything to be finished.
    pub hurry: bool,
    /// There will be no more.
    pub closed: bool,
}

impl<T> Queue<T> {
    pub fn new(length_max: usize) -> Self {
        let state =
            State { items: VecDeque::new(), lost: 0, pushed: 0, done: 0, hurry: false, asleep: false, closed: false };
        Self { state: Mutex::new(state), work: Condvar::new(), finished: Condvar::new(), length_max: length_max.max(1) }
    }

    fn state(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Leaves an item. False when there is no place for it, which is counted.
    pub fn push(&self, item: T) -> bool {
        let mut state = self.state();
        if state.closed || state.items.len() >= self.length_max {
            state.lost += 1;
            return false;
        }
        state.items.push_back(item);
        state.pushed += 1;
        let wake = std::mem::take(&mut state.asleep) || state.items.len() == self.length_max / 2;
        drop(state);
        if wake {
            self.work.notify_one();
        }
        true
    }

    /// Takes all items; waits for some for so long at most.
    pub fn take(&self, into: &mut VecDeque<T>, idle: Duration) -> Work {
        let mut state = self.state();
        let until = Instant::now() + idle;
        let mut gathering = false;
        loop {
            let now = Instant::now();
            if state.hurry || state.closed || now >= until || state.items.len() >= self.length_max / 2 {
                break;
            }
            let empty = state.items.is_empty();
            if !empty && gathering {
                break;
            }
            gathering = !empty;
            state.asleep = empty;
            let wait = if empty { until - now } else { GATHER.min(until - now) };
            state = self.work.wait_timeout(state, wait).unwrap_or_else(PoisonError::into_inner).0;
        }
        state.asleep = false;
        std::mem::swap(&mut state.items, into);
        Work { lost: std::mem::take(&mut state.lost), hurry: std::mem::take(&mut state.hurry), closed: state.closed }
    }

    /// So many items are finished.
    pub fn done(&self, items: u64) {
        self.state().done += items;
        self.finished.notify_all();
    }

    /// Waits until everything pushed so far is finished, for so long at most. False when it is not.
    pub fn flush(&self, within: Duration) -> bool {
        let mut state = self.state();
        let (goal, until) = (state.pushed, Instant::now() + within);
        while state.done < goal {
            let now = Instant::now();
            if now >= until {
                return false;
            }
            state.hurry = true;
            self.work.notify_one();
            state = self.finished.wait_timeout(state, until - now).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    /// There will be no more items. Those there are can still be taken.
    pub fn close(&self) {
        self.state().closed = true;
        self.work.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn what_finds_no_place_is_counted_and_the_rest_keeps_its_order() {
        let queue = Queue::new(3);
        let taken: Vec<bool> = (0..5).map(|n| queue.push(n)).collect();
        assert_eq!(taken, [true, true, true, false, false]);
        let mut items = VecDeque::new();
        assert_eq!(queue.take(&mut items, Duration::ZERO), Work { lost: 2, hurry: false, closed: false });
        assert_eq!(items, [0, 1, 2]);
        assert!(!queue.flush(Duration::ZERO), "nothing is finished yet");
        queue.done(3);
        assert!(queue.flush(Duration::ZERO));
        queue.close();
        assert!(!queue.push(9));
        items.clear();
        assert_eq!(queue.take(&mut items, Duration::from_secs(60)), Work { lost: 1, hurry: false, closed: true });
    }

    #[test]
    fn whoever_flushes_waits_for_the_writer_and_nobody_else() {
        let queue = Arc::new(Queue::new(1000));
        let writer = std::thread::spawn({
            let queue = Arc::clone(&queue);
            move || {
                let (mut items, mut sum) = (VecDeque::new(), 0_u64);
                loop {
                    let work = queue.take(&mut items, Duration::from_secs(60));
                    let count = items.len() as u64;
                    sum += items.drain(..).sum::<u64>();
                    queue.done(count);
                    if work.closed {
                        return sum;
                    }
                }
            }
        });
        for n in 0..100 {
            assert!(queue.push(n));
        }
        assert!(queue.flush(Duration::from_secs(60)));
        queue.push(1);
        queue.close();
        assert_eq!(writer.join().unwrap(), 4951);
    }
}
