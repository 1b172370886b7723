//! Streams of several nodes merged into one, ordered by time as far as a bounded buffer can see.
//!
//! Every stream is nearly in order, and they lag behind each other by little. [`Merge`] is the buffer: the oldest goes
//! out first. [`FanIn`] adds the rules of many sources: whom a value waits for and how long. [`Newest`] keeps the last
//! few of all. Whoever lags by more comes late, but is never lost.

mod fan_in;
mod newest;

pub use fan_in::{FanIn, Limits, SourceId};
pub use newest::Newest;

use alloc::collections::BinaryHeap;
use core::cmp::Ordering;

/// The sort buffer of a merge.
#[derive(Debug, Clone)]
pub struct Merge<T> {
    waiting: BinaryHeap<Waiting<T>>,
    length_max: usize,
    /// Values of the same time go out in the order they came.
    arrivals: u64,
}

#[derive(Debug, Clone)]
struct Waiting<T> {
    at_ns: i64,
    arrival: u64,
    value: T,
}

impl<T> PartialEq for Waiting<T> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl<T> Eq for Waiting<T> {}

impl<T> PartialOrd for Waiting<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> Ord for Waiting<T> {
    /// The greatest goes out first, so older is greater.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at_ns, other.arrival).cmp(&(self.at_ns, self.arrival))
    }
}

/// Room made at once; more is made when it is needed.
const RESERVED: usize = 128;

impl<T> Merge<T> {
    /// A merge that holds back so many values at most, at least one.
    pub fn new(length_max: usize) -> Self {
        let length_max = length_max.max(1);
        Self { waiting: BinaryHeap::with_capacity(length_max.min(RESERVED)), length_max, arrivals: 0 }
    }

    /// Takes a value of a time. Answers the oldest when the buffer is full.
    pub fn push(&mut self, at_ns: i64, value: T) -> Option<T> {
        let arrival = self.arrivals;
        self.arrivals += 1;
        let new = Waiting { at_ns, arrival, value };
        if self.waiting.len() < self.length_max {
            self.waiting.push(new);
            return None;
        }
        let Some(mut oldest) = self.waiting.peek_mut().filter(|oldest| **oldest > new) else {
            return Some(new.value);
        };
        Some(core::mem::replace(&mut *oldest, new).value)
    }

    /// The oldest value, if it is of a time before this one.
    pub fn pop_before(&mut self, than_ns: i64) -> Option<T> {
        (self.waiting.peek()?.at_ns < than_ns).then(|| self.waiting.pop().map(|waiting| waiting.value)).flatten()
    }

    /// The oldest value, whatever its time.
    pub fn pop(&mut self) -> Option<T> {
        self.waiting.pop().map(|waiting| waiting.value)
    }

    /// How many values are held back.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// True when nothing is held back.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    #[test]
    fn the_oldest_goes_first_and_nothing_is_lost() {
        let mut merge = Merge::new(3);
        let out: Vec<i64> = [5, 3, 9, 4, 1, 9].into_iter().filter_map(|at| merge.push(at, at)).collect();
        assert_eq!(out, [3, 1, 4], "what is older than all that waits goes out at once");
        assert_eq!((merge.pop_before(5), merge.pop_before(6), merge.len()), (None, Some(5), 2));
        assert_eq!((merge.pop(), merge.pop(), merge.pop()), (Some(9), Some(9), None));
    }

    #[test]
    fn values_of_one_time_keep_their_order() {
        let mut merge = Merge::new(4);
        for value in 0..4 {
            assert_eq!(merge.push(7, value), None);
        }
        let rest: Vec<i32> = core::iter::from_fn(|| merge.pop()).collect();
        assert_eq!(rest, [0, 1, 2, 3]);
    }

    /// Streams that lag by less than the buffer come out sorted, none missing.
    #[test]
    fn streams_that_lag_a_little_come_out_sorted() {
        bolero::check!().with_type::<Vec<(u8, u8)>>().for_each(|input: &Vec<(u8, u8)>| {
            let mut merge = Merge::new(64);
            let mut out = Vec::new();
            let times: Vec<i64> = input.iter().zip(0_i64..).map(|((lag, _), at)| at - i64::from(lag % 16)).collect();
            for at in &times {
                out.extend(merge.push(*at, *at));
            }
            out.extend(core::iter::from_fn(|| merge.pop()));
            let mut sorted = times.clone();
            sorted.sort_unstable();
            assert_eq!(out, sorted);
        });
    }
}
