//! One stream of events to one client: what is there already, then, if asked, what comes.
//!
//! What the ring holds when the request arrives is referenced at once, so a question about the past loses nothing to
//! new events. Only a follower that reads too slowly loses some, of what it asked for ([`crate::follow`]); it is told so,
//! at most once per interval.

use crate::{
    follow::Following,
    losses::Losses,
    observer::{Shared, now_ns},
    past::{Earlier, Step},
    select::Select,
    tap::Past,
};
use hubble_api::{
    Timestamp,
    flow::{LostEvent, LostEventSource},
    time,
};
use hubble_model::Event;
use std::{
    collections::VecDeque,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};
use tonic::Status;

/// Events looked at before other tasks get a turn.
const TURN: usize = 512;

/// The part of a request that is alike for flows, agent events and debug events.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Window {
    pub number: u64,
    pub first: bool,
    pub follow: bool,
    pub since_ns: Option<i64>,
    pub until_ns: Option<i64>,
}

impl Window {
    pub fn new(
        number: u64,
        (first, follow): (bool, bool),
        since: Option<&Timestamp>,
        until: Option<&Timestamp>,
    ) -> Result<Self, Status> {
        if first && follow {
            return Err(Status::invalid_argument("first cannot be specified with follow"));
        }
        let nanos = |name, at: Option<&Timestamp>| match at {
            None => Ok(None),
            Some(at) if !time::is_valid(at) => {
                Err(Status::invalid_argument(format!("{name}: seconds or nanos of the timestamp are out of range")))
            }
            Some(at) => {
                let ns = time::nanos(at);
                Ok(Some(i64::try_from(ns).unwrap_or(if ns < 0 { i64::MIN } else { i64::MAX })))
            }
        };
        Ok(Self { number, first, follow, since_ns: nanos("since", since)?, until_ns: nanos("until", until)? })
    }

    /// Whether a loss that was noticed at `at_ns` may have been in the time asked for.
    pub fn touches(&self, event: &LostEvent, at_ns: i64) -> bool {
        // It happened between its first and its last event, if those are known.
        let ns = |at: &Timestamp| {
            let ns = time::nanos(at);
            i64::try_from(ns).unwrap_or(if ns < 0 { i64::MIN } else { i64::MAX })
        };
        let first_ns = event.first.as_ref().map_or(at_ns, ns);
        let last_ns = event.last.as_ref().map_or(at_ns, ns);
        self.since_ns.is_none_or(|since| last_ns >= since) && self.until_ns.is_none_or(|until| first_ns <= until)
    }
}

/// A stream under way.
pub(crate) struct Reader<S> {
    shared: Arc<Shared>,
    select: Arc<S>,
    window: Window,
    /// What is wanted of the time before the ring, while that is not read to its end.
    earlier: Option<Earlier>,
    /// A page of the time before.
    page: VecDeque<Arc<Event>>,
    pending: VecDeque<Arc<Event>>,
    /// What comes, for those who follow.
    following: Option<Following>,
    delivered: u64,
    losses: Losses,
    ended: bool,
    /// How many of `pending` are in the account of all readers.
    accounted: usize,
}

impl<S: Select> Reader<S> {
    /// Opens a stream; refused when too many are open.
    pub fn open(shared: &Arc<Shared>, select: S, window: Window) -> Result<Self, Status> {
        let open = shared.streams.fetch_add(1, Ordering::Relaxed);
        let mut reader = Self {
            shared: Arc::clone(shared),
            select: Arc::new(select),
            window,
            earlier: None,
            page: VecDeque::new(),
            pending: VecDeque::new(),
            following: None,
            delivered: 0,
            losses: Losses::new(shared.config.lost_event_interval),
            ended: false,
            accounted: 0,
        };
        if open >= shared.config.streams_max {
            return Err(Status::resource_exhausted(format!("{open} streams are open already: close some and retry")));
        }
        let next = reader.rewind();
        if window.follow {
            reader.following = Some(Following::from(next, shared, &reader.select, window));
        }
        reader.account();
        let held = shared.held.load(Ordering::Relaxed);
        if held > shared.config.held_events_max && held > reader.accounted {
            let why =
                format!("open streams hold {held} events already: ask for fewer with a number or a time, or later");
            return Err(Status::resource_exhausted(why));
        }
        Ok(reader)
    }

    /// Brings the account of all readers up to date.
    fn account(&mut self) {
        let (before, now) = (self.accounted, self.pending.len());
        if now > before {
            self.shared.held.fetch_add(now - before, Ordering::Relaxed);
        } else {
            self.shared.held.fetch_sub(before - now, Ordering::Relaxed);
        }
        self.accounted = now;
    }

    /// References everything of the past that may be delivered. Returns the position behind it.
    fn rewind(&mut self) -> u64 {
        let (oldest, head) = self.shared.bounds();
        let Window { number, first, follow, since_ns, .. } = self.window;
        if follow && number == 0 && since_ns.is_none() {
            return head;
        }
        let length = usize::try_from(head - oldest).unwrap_or(usize::MAX);
        // The oldest may have been overwritten meanwhile; what is older than what was read, history has.
        let oldest = oldest + self.shared.read_batch(oldest, length, &mut self.pending).count;
        let next = oldest + u64::try_from(self.pending.len()).expect("lengths fit 64 bits");
        if first && since_ns.is_none() {
            self.look_back(oldest, None);
            return next;
        }
        let mut matched = 0;
        let start = self.pending.iter().rposition(|event| {
            if !self.select.wants(event, &self.shared) {
                return false;
            }
            match since_ns {
                Some(since_ns) => event.time_ns() < since_ns,
                None => {
                    matched += 1;
                    matched > number && number > 0
                }
            }
        });
        match start {
            Some(last_unwanted) => drop(self.pending.drain(..=last_unwanted)),
            None => {
                let bounded = since_ns.is_none() && number > 0;
                let missing = number.saturating_sub(matched);
                if !bounded || missing > 0 {
                    self.look_back(oldest, bounded.then_some(missing));
                }
            }
        }
        next
    }

    /// The ring does not reach far enough back: notes what history is to add before it.
    fn look_back(&mut self, before: u64, last: Option<u64>) {
        let history = self.shared.extras.history.clone().zip(self.select.filters());
        self.earlier = history.map(|(history, filters)| {
            let Window { since_ns, until_ns, .. } = self.window;
            Earlier::NotBegun(history, Past { since_ns, until_ns, before, last, filters })
        });
    }

    /// The next event of the time before the ring, then of the ring; none when it is not there yet.
    async fn take(&mut self) -> Option<Arc<Event>> {
        if let Some(event) = self.page.pop_front() {
            return Some(event);
        }
        let Some(earlier) = &mut self.earlier else { return self.pending.pop_front() };
        match earlier.step().await {
            Step::Page(page, lost) => {
                self.page = page;
                if lost > 0 {
                    self.losses.add(LostEventSource::UnknownLostEventSource.into(), lost, None, now_ns());
                }
            }
            Step::Ended => {
                self.earlier = None;
                return self.pending.pop_front();
            }
        }
        self.page.pop_front()
    }

    /// The next response; none when the stream is over.
    pub async fn next(&mut self) -> Option<S::Response> {
        let mut looked_at = 0;
        self.account();
        loop {
            if self.shared.closed.is_cancelled() {
                return None;
            }
            if let Some(response) = self.losses.due(now_ns(), self.ended) {
                let (event, at_ns) = response;
                if let Some(response) = self.select.lost(event, at_ns, &self.shared) {
                    return Some(response);
                }
                continue;
            }
            if self.ended {
                return None;
            }
            match self.take().await {
                Some(event) => {
                    if let Some(response) = self.deliver(&event) {
                        return Some(response);
                    }
                }
                None if self.earlier.is_some() => {}
                None if self.window.follow => self.wait().await,
                None => self.ended = true,
            }
            looked_at += 1;
            if looked_at % TURN == 0 {
                tokio::task::yield_now().await;
            }
        }
    }

    fn deliver(&mut self, event: &Arc<Event>) -> Option<S::Response> {
        if let Event::Lost { time_ns, event } = &**event {
            if self.select.is_concerned(event, *time_ns, &self.window) {
                self.losses.add(event.source, event.num_events_lost, event.cpu, *time_ns);
            }
            return None;
        }
        let Window { number, follow, since_ns, until_ns, .. } = self.window;
        let at_ns = event.time_ns();
        if since_ns.is_some_and(|since| at_ns < since) {
            return None;
        }
        if until_ns.is_some_and(|until| at_ns > until) {
            self.ended = true;
            return None;
        }
        if !self.select.wants(event, &self.shared) {
            return None;
        }
        self.delivered += 1;
        if !follow && number > 0 && self.delivered == number {
            self.ended = true;
        }
        self.select.response(event, &self.shared)
    }

    /// Waits for news, or until a loss is due to be told.
    async fn wait(&mut self) {
        let Some(following) = &self.following else { return self.ended = true };
        let news = following.news(&self.shared);
        let open = match self.losses.wait_ns(now_ns()) {
            None => news.await,
            Some(ns) => tokio::select! {
                open = news => open,
                () = tokio::time::sleep(Duration::from_nanos(ns)) => return,
            },
        };
        if !open {
            self.ended = true;
            return;
        }
        let lost = following.take(&self.shared, &*self.select, &mut self.pending);
        if lost > 0 {
            self.losses.add(LostEventSource::HubbleRingBuffer.into(), lost, None, now_ns());
        }
    }
}

impl<S> Drop for Reader<S> {
    fn drop(&mut self) {
        if self.shared.streams.fetch_sub(1, Ordering::Relaxed) <= 2 {
            self.shared.made.clear();
        }
        self.shared.held.fetch_sub(self.accounted, Ordering::Relaxed);
    }
}
