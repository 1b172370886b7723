//! The newest few of many, whatever the order they come in.

use alloc::{collections::BinaryHeap, vec::Vec};
use core::cmp::Reverse;

/// Keeps the newest values, up to a number and up to a size.
#[derive(Debug, Clone)]
pub struct Newest<T> {
    kept: BinaryHeap<Reverse<Kept<T>>>,
    number: usize,
    bytes_max: usize,
    bytes: usize,
    arrivals: u64,
    lost: u64,
}

#[derive(Debug, Clone)]
struct Kept<T> {
    at_ns: i64,
    arrival: u64,
    bytes: usize,
    value: T,
}

impl<T> Kept<T> {
    fn key(&self) -> (i64, u64) {
        (self.at_ns, self.arrival)
    }
}
impl<T> PartialEq for Kept<T> {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}
impl<T> Eq for Kept<T> {}
impl<T> PartialOrd for Kept<T> {
    fn partial_cmp(&self, other: &Self) -> Option<core::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl<T> Ord for Kept<T> {
    fn cmp(&self, other: &Self) -> core::cmp::Ordering {
        self.key().cmp(&other.key())
    }
}

impl<T> Newest<T> {
    /// Keeps so many values of so many bytes together.
    pub fn new(number: usize, bytes_max: usize) -> Self {
        Self { kept: BinaryHeap::new(), number, bytes_max, bytes: 0, arrivals: 0, lost: 0 }
    }

    /// Takes a value of a time and size. The oldest goes when there are too many.
    pub fn push(&mut self, at_ns: i64, bytes: usize, value: T) {
        let arrival = self.arrivals;
        self.arrivals += 1;
        self.bytes += bytes;
        self.kept.push(Reverse(Kept { at_ns, arrival, bytes, value }));
        if self.kept.len() > self.number {
            self.drop_oldest();
        }
        while self.bytes > self.bytes_max && self.kept.len() > 1 {
            self.drop_oldest();
            self.lost += 1;
        }
    }

    fn drop_oldest(&mut self) {
        if let Some(Reverse(oldest)) = self.kept.pop() {
            self.bytes -= oldest.bytes;
        }
    }

    /// The kept values from old to new, and how many of those asked for went because of their size.
    pub fn finish(self) -> (Vec<T>, u64) {
        let newest_first = self.kept.into_sorted_vec();
        (newest_first.into_iter().rev().map(|Reverse(kept)| kept.value).collect(), self.lost)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_stay_and_come_out_in_order() {
        let mut newest = Newest::new(3, 100);
        for at in [5, 1, 9, 7, 7, 2] {
            newest.push(at, 10, at);
        }
        assert_eq!(newest.finish(), (alloc::vec![7, 7, 9], 0));
    }

    #[test]
    fn size_is_a_bound_too_and_what_it_costs_is_counted() {
        let mut newest = Newest::new(10, 25);
        for at in [1, 2, 3, 4] {
            newest.push(at, 10, at);
        }
        assert_eq!(newest.finish(), (alloc::vec![3, 4], 2));
        let mut newest = Newest::new(10, 5);
        newest.push(1, 10, 1);
        assert_eq!(newest.finish(), (alloc::vec![1], 0), "one always fits");
    }
}
