//! The ring of recent events. Writers never wait; whoever reads too slowly learns how much was overwritten.

use alloc::{boxed::Box, vec::Vec};

/// A bounded sequence: positions grow forever, only the last `capacity` values are kept.
#[derive(Debug, Clone)]
pub struct Ring<T> {
    slots: Box<[Option<T>]>,
    /// Position of the next write; equal to how many were ever written.
    next: u64,
}

/// What is at a position.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Read<T> {
    /// The value.
    Value(T),
    /// Overwritten: this many values from the position on are gone.
    Lost(u64),
    /// Not written yet.
    Empty,
}

impl<T: Clone> Ring<T> {
    /// An empty ring for `capacity` values, at least one. Slots are reserved at once, values are not.
    pub fn new(capacity: usize) -> Self {
        let mut slots = Vec::new();
        slots.resize_with(capacity.max(1), || None);
        Self { slots: slots.into(), next: 0 }
    }

    fn slot(&self, position: u64) -> usize {
        let capacity = u64::try_from(self.slots.len()).expect("lengths fit 64 bits");
        usize::try_from(position % capacity).expect("a remainder is below a length")
    }

    /// How many values fit.
    pub fn capacity(&self) -> usize {
        self.slots.len()
    }

    /// How many values are there.
    pub fn len(&self) -> usize {
        usize::try_from(self.next - self.oldest()).expect("at most the capacity")
    }

    /// True before the first write.
    pub fn is_empty(&self) -> bool {
        self.next == 0
    }

    /// Position of the oldest value still there.
    pub fn oldest(&self) -> u64 {
        self.next.saturating_sub(u64::try_from(self.slots.len()).expect("lengths fit 64 bits"))
    }

    /// Position of the next write.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// Writes a value and returns its position and what it replaced.
    pub fn push(&mut self, value: T) -> (u64, Option<T>) {
        let position = self.next;
        let slot = self.slot(position);
        self.next += 1;
        (position, self.slots[slot].replace(value))
    }

    /// What is at a position.
    pub fn read(&self, position: u64) -> Read<T> {
        match self.peek(position) {
            Some(value) => Read::Value(value.clone()),
            None if position >= self.next => Read::Empty,
            None => Read::Lost(self.oldest() - position),
        }
    }

    /// The value at a position, if it is there.
    pub fn peek(&self, position: u64) -> Option<&T> {
        if position < self.oldest() || position >= self.next {
            return None;
        }
        self.slots[self.slot(position)].as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_last_and_counts_the_rest() {
        let mut ring = Ring::new(3);
        assert_eq!((ring.read(0), ring.len(), ring.is_empty()), (Read::Empty, 0, true));
        for value in 0..5_u64 {
            assert_eq!(ring.push(value), (value, value.checked_sub(3)));
        }
        assert_eq!((ring.oldest(), ring.next(), ring.len()), (2, 5, 3));
        assert_eq!(ring.read(0), Read::Lost(2));
        assert_eq!(ring.read(1), Read::Lost(1));
        assert_eq!((2..5).map(|at| ring.peek(at).copied()).collect::<Vec<_>>(), [Some(2), Some(3), Some(4)]);
        assert_eq!(ring.read(5), Read::Empty);
    }
}
