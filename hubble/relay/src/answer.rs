//! One answer put together from many nodes': what goes out next, what is waited for, when it is over.
//!
//! `number`, `first` and `since` mean the cluster, not each node: the last twenty are the last twenty of all. Every node
//! is asked for as many as could be needed, and what is not among those asked for is left out here.
//!
//! Time and streams are arguments; nothing here waits.

use hubble_api::observer::GetFlowsRequest;
use hubble_model::{
    FanIn, Newest,
    merge::{Limits, SourceId},
};
use machine::Instant;
use prost::bytes::Bytes;
use std::{collections::VecDeque, time::Duration};

/// Whoever asks for so many asks for everything.
const EVERYTHING: u64 = 1 << 32;
/// Responses of one node that wait before no more is read of it.
const WAITING_MAX: usize = 256;
/// Notices of losses kept while the newest are collected; each stands for a second of one node.
const NOTICES_MAX: usize = 4_096;

/// A response of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// When it was.
    pub at_ns: i64,
    /// Whether it is a flow, and so counts.
    pub is_flow: bool,
    /// As it goes out.
    pub bytes: Bytes,
}

/// Which flows of all were asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// All that nodes send.
    All,
    /// So many, from the oldest on.
    Oldest(u64),
    /// The newest so many; then what comes, when following.
    Newest(usize),
}

impl Shape {
    /// What a request means.
    pub fn of(request: &GetFlowsRequest) -> Self {
        let GetFlowsRequest { number, first, follow, .. } = *request;
        if number == 0 {
            return Self::All;
        }
        if first || request.since.is_some() {
            return if follow { Self::All } else { Self::Oldest(number) };
        }
        match usize::try_from(number) {
            Ok(newest) if number < EVERYTHING => Self::Newest(newest),
            _ => Self::All,
        }
    }
}

/// Bounds of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// How long a flow waits for a node that is silent.
    pub window: Duration,
    /// Flows held back at most while following.
    pub length_max: usize,
    /// Bytes kept at most while the newest are looked for.
    pub bytes_max: usize,
    /// How long a node may be silent in an answer about the past before it is asked whether it is there.
    pub answer_within: Duration,
}

/// What to do next.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    /// This goes out; it was waiting for this source, if any.
    Item(Bytes, Option<SourceId>),
    /// So many of those asked for were too much to keep.
    Lost(u64),
    /// Nothing until something comes, or until then.
    Wait(Option<Instant>),
    /// It is over.
    End,
}

/// An answer under way.
#[derive(Debug)]
pub struct Answer {
    fan_in: FanIn<Item>,
    shape: Shape,
    follow: bool,
    bounds: Bounds,
    collecting: Option<Collecting>,
    /// Collected and in order.
    ready: VecDeque<Item>,
    lost: u64,
    given: u64,
    /// When the past is behind and the merge becomes live.
    live_at: Option<Instant>,
}

#[derive(Debug)]
struct Collecting {
    newest: Newest<Item>,
    notices: Vec<Item>,
    number: usize,
    /// By source: how many flows came.
    got: Vec<usize>,
}

impl Answer {
    /// An answer without nodes yet.
    pub fn new(shape: Shape, follow: bool, bounds: Bounds, now: Instant) -> Self {
        let window_ns = u64::try_from(bounds.window.as_nanos()).unwrap_or(u64::MAX);
        let limits = Limits { window_ns, length_max: bounds.length_max, source_max: WAITING_MAX };
        let collecting = match shape {
            Shape::Newest(number) => Some(Collecting {
                newest: Newest::new(number, bounds.bytes_max),
                notices: Vec::new(),
                number,
                got: Vec::new(),
            }),
            _ => None,
        };
        Self {
            fan_in: FanIn::new(limits, false),
            shape,
            follow,
            bounds,
            collecting,
            ready: VecDeque::new(),
            lost: 0,
            given: 0,
            live_at: follow.then(|| now + bounds.window),
        }
    }

    /// A node that will answer.
    pub fn join(&mut self, now: Instant) -> SourceId {
        let id = self.fan_in.join(now.as_nanos());
        if let Some(collecting) = &mut self.collecting {
            collecting.got.resize(collecting.got.len().max(id.index() + 1), 0);
            collecting.got[id.index()] = 0;
        }
        id
    }

    /// A node has said its last.
    pub fn leave(&mut self, id: SourceId) {
        self.fan_in.leave(id);
        if let Some(got) = self.collecting.as_mut().and_then(|collecting| collecting.got.get_mut(id.index())) {
            *got = usize::MAX;
        }
    }

    /// Takes a node's response.
    pub fn push(&mut self, now: Instant, id: SourceId, item: Item) {
        let Some(collecting) = &mut self.collecting else {
            self.fan_in.push(now.as_nanos(), id, item.at_ns, item);
            return;
        };
        self.fan_in.heard(now.as_nanos(), id);
        if item.is_flow {
            let got = &mut collecting.got[id.index()];
            *got = got.saturating_add(1);
            collecting.newest.push(item.at_ns, item.bytes.len() + size_of::<Item>(), item);
        } else if collecting.notices.len() < NOTICES_MAX {
            collecting.notices.push(item);
        }
    }

    /// True when a node may be read on.
    pub fn wants(&self, id: SourceId) -> bool {
        self.fan_in.wants(id)
    }

    /// What to do now.
    pub fn next(&mut self, now: Instant) -> Next {
        if let Shape::Oldest(number) = self.shape
            && self.given >= number
        {
            return Next::End;
        }
        if self.live_at.is_some_and(|at| at <= now) {
            self.live_at = None;
            self.finish_collecting();
            self.fan_in.go_live();
        }
        if self.collecting.as_ref().is_some_and(|collecting| self.is_collected(collecting)) {
            self.finish_collecting();
        }
        if self.collecting.is_some() {
            return Next::Wait(self.live_at);
        }
        if self.lost > 0 {
            return Next::Lost(std::mem::take(&mut self.lost));
        }
        if let Some(item) = self.ready.pop_front() {
            return self.give(item, None);
        }
        if let Some((id, item)) = self.fan_in.pop(now.as_nanos()) {
            return self.give(item, Some(id));
        }
        if !self.follow && self.fan_in.is_empty() && self.fan_in.open() == 0 {
            return Next::End;
        }
        let due = self.fan_in.next_deadline().map(Instant::from_nanos);
        Next::Wait([due, self.live_at].into_iter().flatten().min())
    }

    fn give(&mut self, item: Item, id: Option<SourceId>) -> Next {
        self.given += u64::from(item.is_flow);
        Next::Item(item.bytes, id)
    }

    /// Whether nothing that is to come can be among the newest asked for, or it cannot be told from what comes live.
    fn is_collected(&self, collecting: &Collecting) -> bool {
        if self.follow {
            !collecting.got.is_empty() && collecting.got.iter().all(|got| *got >= collecting.number)
        } else {
            self.fan_in.open() == 0
        }
    }

    fn finish_collecting(&mut self) {
        let Some(collecting) = self.collecting.take() else { return };
        let (newest, lost) = collecting.newest.finish();
        let mut all = collecting.notices;
        all.extend(newest);
        all.sort_by_key(|item| item.at_ns);
        self.ready = all.into();
        self.lost = lost;
    }

    /// A node is there, though it had nothing to say.
    pub fn heard(&mut self, now: Instant, id: SourceId) {
        self.fan_in.heard(now.as_nanos(), id);
    }

    /// Nodes that have said nothing for too long, when the question is about the past.
    pub fn silent(&self, now: Instant) -> Vec<SourceId> {
        if self.follow {
            return Vec::new();
        }
        self.fan_in.silent(now.as_nanos(), self.answer_within_ns()).collect()
    }

    /// When the next node will have said nothing for too long.
    pub fn silent_at(&self) -> Option<Instant> {
        if self.follow {
            return None;
        }
        self.fan_in.silent_at(self.answer_within_ns()).map(Instant::from_nanos)
    }

    fn answer_within_ns(&self) -> u64 {
        u64::try_from(self.bounds.answer_within.as_nanos()).unwrap_or(u64::MAX)
    }

    /// Responses held back now.
    pub fn held(&self) -> usize {
        self.fan_in.len() + self.ready.len()
    }

    /// Ends the past: everything held back may go out now, as when the relay is about to end.
    pub fn flush(&mut self) {
        self.finish_collecting();
        self.follow = false;
        self.live_at = None;
        self.fan_in.leave_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds {
        window: Duration::from_secs(1),
        length_max: 100,
        bytes_max: 1 << 20,
        answer_within: Duration::from_secs(2),
    };

    fn item(at: i64) -> Item {
        Item { at_ns: at, is_flow: true, bytes: Bytes::from(at.to_string()) }
    }

    fn ms(at: u64) -> Instant {
        Instant::from_millis(at)
    }

    /// What goes out now, and what comes after it.
    fn out(answer: &mut Answer, now: Instant) -> (String, Next) {
        let mut all = Vec::new();
        loop {
            match answer.next(now) {
                Next::Item(bytes, _) => all.push(String::from_utf8(bytes.to_vec()).expect("a number")),
                next => return (all.join(" "), next),
            }
        }
    }

    #[test]
    fn numbers_mean_the_cluster() {
        let base = GetFlowsRequest::default;
        let since = Some(hubble_api::Timestamp::default());
        for (request, want) in [
            (base(), Shape::All),
            (GetFlowsRequest { number: 20, ..base() }, Shape::Newest(20)),
            (GetFlowsRequest { number: 20, follow: true, ..base() }, Shape::Newest(20)),
            (GetFlowsRequest { number: 20, first: true, ..base() }, Shape::Oldest(20)),
            (GetFlowsRequest { number: 20, since, ..base() }, Shape::Oldest(20)),
            (GetFlowsRequest { number: 20, since, follow: true, ..base() }, Shape::All),
            (GetFlowsRequest { number: u64::MAX, ..base() }, Shape::All),
            (GetFlowsRequest { number: 1 << 31, ..base() }, Shape::Newest(1 << 31)),
            (GetFlowsRequest { number: 1 << 32, ..base() }, Shape::All),
        ] {
            assert_eq!(Shape::of(&request), want, "{request:?}");
        }
    }

    #[test]
    fn the_newest_of_all_whoever_has_them() {
        let mut answer = Answer::new(Shape::Newest(3), false, BOUNDS, ms(0));
        let (a, b) = (answer.join(ms(0)), answer.join(ms(0)));
        for at in [1, 2, 3] {
            answer.push(ms(1), a, item(at));
        }
        answer.leave(a);
        assert_eq!(answer.next(ms(1)), Next::Wait(None), "b may have newer ones");
        for at in [2, 8, 9] {
            answer.push(ms(2), b, item(at));
        }
        answer.push(ms(2), b, Item { is_flow: false, ..item(7) });
        answer.leave(b);
        assert_eq!(out(&mut answer, ms(2)), ("3 7 8 9".into(), Next::End), "word of a loss does not count");
    }

    #[test]
    fn the_oldest_end_when_there_are_enough() {
        let mut answer = Answer::new(Shape::Oldest(2), false, BOUNDS, ms(0));
        let (a, b) = (answer.join(ms(0)), answer.join(ms(0)));
        answer.push(ms(1), a, item(5));
        answer.push(ms(1), a, item(6));
        answer.push(ms(1), b, item(1));
        answer.push(ms(1), b, item(9));
        assert_eq!(out(&mut answer, ms(1)), ("1 5".into(), Next::End));
    }

    #[test]
    fn a_silent_node_is_known_as_such() {
        let mut answer = Answer::new(Shape::All, false, BOUNDS, ms(0));
        let (a, dead) = (answer.join(ms(0)), answer.join(ms(0)));
        answer.push(ms(10), a, item(1));
        answer.leave(a);
        assert_eq!(out(&mut answer, ms(10)), (String::new(), Next::Wait(Some(ms(1_000)))));
        assert_eq!(out(&mut answer, ms(1_000)), ("1".into(), Next::Wait(None)));
        assert_eq!((answer.silent(ms(1_999)), answer.silent_at()), (vec![], Some(ms(2_000))));
        assert_eq!(answer.silent(ms(2_000)), [dead]);
        answer.heard(ms(2_000), dead);
        assert_eq!((answer.silent(ms(3_999)), answer.silent_at()), (vec![], Some(ms(4_000))));
        answer.leave(dead);
        assert_eq!(answer.next(ms(2_000)), Next::End);
    }

    #[test]
    fn following_begins_with_the_newest_and_then_goes_on() {
        let mut answer = Answer::new(Shape::Newest(2), true, BOUNDS, ms(0));
        let (a, b) = (answer.join(ms(0)), answer.join(ms(0)));
        answer.push(ms(1), a, item(1));
        answer.push(ms(1), a, item(4));
        answer.push(ms(1), b, item(3));
        assert_eq!(answer.next(ms(1)), Next::Wait(Some(ms(1_000))), "b has sent fewer than two: it may yet");
        assert_eq!(out(&mut answer, ms(1_000)), ("3 4".into(), Next::Wait(None)));
        answer.push(ms(1_500), a, item(5));
        assert_eq!(answer.next(ms(1_500)), Next::Wait(Some(ms(2_500))));
        answer.push(ms(1_600), b, item(6));
        assert_eq!(out(&mut answer, ms(1_600)).0, "5");
        assert_eq!(out(&mut answer, ms(2_600)).0, "6");
        assert!(answer.silent(ms(90_000)).is_empty(), "silence is no fault of who is followed");
    }

    #[test]
    fn what_is_too_much_to_keep_is_told() {
        let bounds = Bounds { bytes_max: 2 * (1 + size_of::<Item>()), ..BOUNDS };
        let mut answer = Answer::new(Shape::Newest(9), false, bounds, ms(0));
        let a = answer.join(ms(0));
        for at in 1..=5 {
            answer.push(ms(1), a, item(at));
        }
        answer.leave(a);
        assert_eq!(answer.next(ms(1)), Next::Lost(3));
        assert_eq!(out(&mut answer, ms(1)).0, "4 5");
    }

    #[test]
    fn a_flush_lets_everything_out() {
        let mut answer = Answer::new(Shape::All, true, BOUNDS, ms(0));
        let (a, _) = (answer.join(ms(0)), answer.join(ms(0)));
        answer.push(ms(1), a, item(1));
        answer.flush();
        assert_eq!(out(&mut answer, ms(1)), ("1".into(), Next::End));
    }
}
