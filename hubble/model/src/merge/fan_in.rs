//! The rules of a merge: when a value may go out, whom it waits for, and who is read from.
//!
//! A value goes out when every source it would have to wait for has something newer waiting. A source that has nothing
//! is waited for no longer than the window: in a merge of the past it is then left out until it speaks again; in a
//! live merge, where to be silent is no fault, each value waits for its own window instead. A live merge that is full
//! lets the oldest go at once; a merge of the past stops reading those that are ahead instead. Whoever comes late goes
//! out at once, in its order among what still waits; nothing is ever dropped.
//!
//! Time is an argument: nanoseconds of any clock that does not go back.

use super::Merge;
use alloc::{collections::VecDeque, vec::Vec};

/// How long and how much a merge holds back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// How long a value waits for a silent source.
    pub window_ns: u64,
    /// Values a live merge holds back at most.
    pub length_max: usize,
    /// Values of one source that wait before no more of it is read.
    pub source_max: usize,
}

/// A source's place in a merge. It may be given to another source after this one has left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct SourceId(usize);

impl SourceId {
    /// Small numbers, for tables beside the merge.
    pub fn index(self) -> usize {
        self.0
    }
}

#[derive(Debug, Clone, Copy)]
struct Source {
    open: bool,
    /// False while it is left out for being silent.
    awaited: bool,
    waiting: usize,
    /// Since when it has nothing waiting, or when it last spoke.
    since_ns: u64,
}

#[derive(Debug, Clone)]
struct Held<T> {
    source: SourceId,
    /// Which of the `ages` it counts in.
    age: u64,
    value: T,
}

/// Values that came at about the same time.
#[derive(Debug, Clone, Copy)]
struct Age {
    began_ns: u64,
    waiting: usize,
}

/// How finely arrival is told apart: a share of the window.
const AGES_PER_WINDOW: u64 = 16;

/// A merge of many sources.
#[derive(Debug, Clone)]
pub struct FanIn<T> {
    limits: Limits,
    live: bool,
    held: Merge<Held<T>>,
    sources: Vec<Source>,
    /// Sources that are open, awaited and have nothing waiting.
    missing: usize,
    ages: VecDeque<Age>,
    /// Number of the first of `ages`.
    first_age: u64,
}

impl<T> FanIn<T> {
    /// A merge without sources.
    pub fn new(limits: Limits, live: bool) -> Self {
        // The bound is kept by the rules here, not by the heap.
        let held = Merge::new(usize::MAX);
        Self { limits, live, held, sources: Vec::new(), missing: 0, ages: VecDeque::new(), first_age: 0 }
    }

    /// From now on the merge is live.
    pub fn go_live(&mut self) {
        self.live = true;
    }

    /// A source that is waited for from now on.
    pub fn join(&mut self, now_ns: u64) -> SourceId {
        let fresh = Source { open: true, awaited: true, waiting: 0, since_ns: now_ns };
        self.missing += 1;
        let free = self.sources.iter().position(|source| !source.open && source.waiting == 0);
        let at = free.unwrap_or(self.sources.len());
        match self.sources.get_mut(at) {
            Some(source) => *source = fresh,
            None => self.sources.push(fresh),
        }
        SourceId(at)
    }

    /// A source has said its last; what waits of it still goes out.
    pub fn leave(&mut self, id: SourceId) {
        let source = &mut self.sources[id.0];
        if source.open && source.awaited && source.waiting == 0 {
            self.missing -= 1;
        }
        source.open = false;
    }

    /// Every source has said its last.
    pub fn leave_all(&mut self) {
        self.sources.iter_mut().for_each(|source| source.open = false);
        self.missing = 0;
    }

    /// Takes a value of a time.
    pub fn push(&mut self, now_ns: u64, id: SourceId, at_ns: i64, value: T) {
        let source = &mut self.sources[id.0];
        if source.waiting == 0 && source.open {
            if source.awaited {
                self.missing -= 1;
            }
            source.awaited = true;
        }
        source.waiting += 1;
        source.since_ns = now_ns;
        let grain = self.limits.window_ns / AGES_PER_WINDOW;
        match self.ages.back_mut() {
            Some(age) if now_ns.saturating_sub(age.began_ns) <= grain => age.waiting += 1,
            _ => self.ages.push_back(Age { began_ns: now_ns, waiting: 1 }),
        }
        let age = self.first_age + self.ages.len() as u64 - 1;
        let overflow = self.held.push(at_ns, Held { source: id, age, value });
        debug_assert!(overflow.is_none(), "the heap has no bound of its own");
    }

    /// A source spoke without a value for the merge.
    pub fn heard(&mut self, now_ns: u64, id: SourceId) {
        self.sources[id.0].since_ns = now_ns;
    }

    /// The next value, and whose it is; none while there is none or it has to wait.
    pub fn pop(&mut self, now_ns: u64) -> Option<(SourceId, T)> {
        if self.missing > 0 && !self.over_full() && !self.aged(now_ns) {
            self.leave_out_the_silent(now_ns);
            if self.missing > 0 {
                return None;
            }
        }
        let Held { source: id, age, value } = self.held.pop()?;
        let index = usize::try_from(age - self.first_age).expect("no more ages than values");
        self.ages[index].waiting -= 1;
        while self.ages.front().is_some_and(|age| age.waiting == 0) {
            self.ages.pop_front();
            self.first_age += 1;
        }
        let source = &mut self.sources[id.0];
        source.waiting -= 1;
        if source.waiting == 0 && source.open {
            source.since_ns = now_ns;
            if source.awaited {
                self.missing += 1;
            }
        }
        Some((id, value))
    }

    fn over_full(&self) -> bool {
        self.live && self.held.len() > self.limits.length_max
    }

    fn aged(&self, now_ns: u64) -> bool {
        self.ages.front().is_some_and(|age| now_ns.saturating_sub(age.began_ns) >= self.limits.window_ns)
    }

    fn leave_out_the_silent(&mut self, now_ns: u64) {
        if self.live {
            return;
        }
        for source in &mut self.sources {
            let silent = source.open && source.awaited && source.waiting == 0;
            if silent && now_ns.saturating_sub(source.since_ns) >= self.limits.window_ns {
                source.awaited = false;
                self.missing -= 1;
            }
        }
    }

    /// When time alone lets something out.
    pub fn next_deadline(&self) -> Option<u64> {
        let first = self.ages.front()?;
        let mut due = first.began_ns.saturating_add(self.limits.window_ns);
        if !self.live {
            let awaited = self.sources.iter().filter(|source| source.open && source.awaited && source.waiting == 0);
            let last = awaited.map(|source| source.since_ns.saturating_add(self.limits.window_ns)).max();
            due = due.min(last.unwrap_or(u64::MAX));
        }
        Some(due)
    }

    /// True when a source may be read on.
    pub fn wants(&self, id: SourceId) -> bool {
        self.sources[id.0].waiting < self.limits.source_max
    }

    /// Open sources that have nothing waiting and have said nothing for so long.
    pub fn silent(&self, now_ns: u64, for_ns: u64) -> impl Iterator<Item = SourceId> + '_ {
        let silent = move |source: &Source| {
            source.open && source.waiting == 0 && now_ns.saturating_sub(source.since_ns) >= for_ns
        };
        (0..self.sources.len()).filter(move |at| silent(&self.sources[*at])).map(SourceId)
    }

    /// When the first of the open sources will have been silent for so long.
    pub fn silent_at(&self, for_ns: u64) -> Option<u64> {
        let quiet = self.sources.iter().filter(|source| source.open && source.waiting == 0);
        quiet.map(|source| source.since_ns.saturating_add(for_ns)).min()
    }

    /// How many sources are open.
    pub fn open(&self) -> usize {
        self.sources.iter().filter(|source| source.open).count()
    }

    /// How many values are held back.
    pub fn len(&self) -> usize {
        self.held.len()
    }

    /// True when nothing is held back.
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { window_ns: 1_000, length_max: 4, source_max: 3 };

    fn all(merge: &mut FanIn<i64>, now_ns: u64) -> Vec<i64> {
        core::iter::from_fn(|| merge.pop(now_ns)).map(|(_, value)| value).collect()
    }

    #[test]
    fn the_past_waits_for_all_then_only_for_those_that_speak() {
        let mut merge = FanIn::new(LIMITS, false);
        let (a, b, c) = (merge.join(0), merge.join(0), merge.join(0));
        for at in [10, 20, 30] {
            merge.push(1, a, at, at);
        }
        assert!(!merge.wants(a) && merge.wants(b), "what is ahead is not read on");
        merge.push(2, b, 15, 15);
        assert_eq!(all(&mut merge, 3), [] as [i64; 0], "c may have something older");
        assert_eq!(merge.next_deadline(), Some(1_000));
        assert_eq!(all(&mut merge, 1_000), [10, 15], "c is left out; b is waited for since now");
        assert_eq!(all(&mut merge, 1_001), [20, 30], "what has waited for its window waits no longer");
        merge.push(1_500, c, 5, 5);
        assert_eq!(all(&mut merge, 1_501), [] as [i64; 0], "a and b are empty and awaited");
        merge.leave(a);
        merge.leave(b);
        assert_eq!(all(&mut merge, 1_502), [5], "late, but there");
        assert_eq!(merge.silent(2_502, 1_000).collect::<Vec<_>>(), [c]);
        merge.leave(c);
        assert_eq!((merge.open(), merge.is_empty(), merge.next_deadline()), (0, true, None));
    }

    #[test]
    fn a_live_merge_waits_for_the_window_of_each_value_or_until_it_is_full() {
        let mut merge = FanIn::new(LIMITS, true);
        let (a, b) = (merge.join(0), merge.join(0));
        merge.push(0, a, 10, 10);
        merge.push(600, a, 20, 20);
        assert_eq!(all(&mut merge, 999), [] as [i64; 0]);
        assert_eq!(all(&mut merge, 1_000), [10]);
        assert_eq!(merge.next_deadline(), Some(1_600));
        merge.push(1_100, b, 15, 15);
        assert_eq!(all(&mut merge, 1_100), [15], "both had something; now b has nothing again");
        for at in [30, 40, 50, 60] {
            merge.push(1_200, a, at, at);
        }
        assert_eq!(all(&mut merge, 1_200), [20], "one over the bound");
        assert_eq!(merge.len(), 4);
    }

    /// A source whose clock is far behind always sorts first; the others must go out all the same.
    #[test]
    fn nobody_starves_behind_a_clock_that_is_late() {
        let mut merge = FanIn::new(LIMITS, true);
        let (behind, right, _silent) = (merge.join(0), merge.join(0), merge.join(0));
        merge.push(0, right, 1_000_000, 1_000_000);
        let mut out = Vec::new();
        for step in 1..=30_u64 {
            merge.push(step * 100, behind, step as i64, step as i64);
            out.extend(all(&mut merge, step * 100));
        }
        assert!(out.contains(&1_000_000), "{out:?}");
    }

    /// Whatever comes from whom and when: everything goes out once; and without faults in order.
    #[test]
    fn nothing_is_lost_and_prompt_sources_come_out_sorted() {
        bolero::check!().with_type::<Vec<(u8, u8, bool)>>().for_each(|input: &Vec<(u8, u8, bool)>| {
            let mut merge = FanIn::new(LIMITS, false);
            let ids: Vec<_> = (0..4).map(|_| merge.join(0)).collect();
            let (mut at, mut out, mut pushed) = ([0_i64; 4], Vec::new(), Vec::new());
            for (now, (source, step, pop)) in (0_u64..).zip(input) {
                let source = usize::from(source % 4);
                at[source] += i64::from(*step);
                merge.push(now % 900, ids[source], at[source], at[source]);
                pushed.push(at[source]);
                if *pop {
                    out.extend(all(&mut merge, now % 900));
                }
            }
            ids.iter().for_each(|id| merge.leave(*id));
            out.extend(all(&mut merge, 900));
            pushed.sort_unstable();
            assert_eq!(out, pushed, "below the window, order holds whoever is ahead");
        });
    }
}
