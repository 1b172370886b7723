//! `BPF_MAP_TYPE_RINGBUF`: records in order, and a count of those there was no room for.

use std::collections::VecDeque;

/// Bytes the kernel adds to each record.
const HEADER: usize = 8;

/// A bounded queue of records. A producer never waits: what does not fit is lost and counted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ring {
    records: VecDeque<Vec<u8>>,
    used: usize,
    capacity: usize,
    lost: u64,
}

impl Ring {
    /// An empty buffer of `capacity` bytes.
    pub fn new(capacity: u32) -> Self {
        Self { records: VecDeque::new(), used: 0, capacity: capacity as usize, lost: 0 }
    }
    /// Writes a record, or loses it.
    pub fn push(&mut self, record: Vec<u8>) {
        let size = occupied(&record);
        if self.used + size > self.capacity {
            self.lost += 1;
        } else {
            self.used += size;
            self.records.push_back(record);
        }
    }
    /// Reads the oldest record.
    pub fn pop(&mut self) -> Option<Vec<u8>> {
        let record = self.records.pop_front()?;
        self.used -= occupied(&record);
        Some(record)
    }
    /// Records lost since the buffer was made.
    pub fn lost(&self) -> u64 {
        self.lost
    }
    /// Records that wait.
    pub fn len(&self) -> usize {
        self.records.len()
    }
    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }
}

/// Room a record takes: its bytes and the header, in units of eight.
fn occupied(record: &[u8]) -> usize {
    (record.len() + HEADER).next_multiple_of(8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_lost_and_counted_and_reading_makes_room() {
        let mut ring = Ring::new(32);
        ring.push(vec![1; 4]);
        ring.push(vec![2; 8]);
        ring.push(vec![3; 1]);
        assert_eq!((ring.len(), ring.lost()), (2, 1));
        assert_eq!(ring.pop(), Some(vec![1; 4]));
        ring.push(vec![4; 8]);
        assert_eq!((ring.pop(), ring.pop(), ring.pop(), ring.lost()), (Some(vec![2; 8]), Some(vec![4; 8]), None, 1));
    }
}
