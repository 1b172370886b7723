use std::collections::VecDeque;

use tokio::sync::mpsc;

use super::{BATCH_RECORDS_MAX, Batch, EventSource, pump};

/// Records in memory.
struct Queue(VecDeque<Vec<u8>>);

impl EventSource for Queue {
    fn drain(&mut self, most: usize, each: &mut dyn FnMut(&[u8])) -> usize {
        let n = most.min(self.0.len());
        self.0.drain(..n).for_each(|record| each(&record));
        n
    }
}

fn numbered(count: u32) -> Queue {
    Queue((0..count).map(|n| n.to_ne_bytes().to_vec()).collect())
}

#[test]
fn records_keep_their_bounds_and_their_order() {
    let (sender, mut receiver) = mpsc::channel(4);
    let mut source = Queue([vec![1], vec![], vec![2, 3, 4]].into());
    assert_eq!(pump(&mut source, &sender, &mut 0), 3);
    let batch = receiver.try_recv().expect("one batch");
    assert_eq!(batch.records().collect::<Vec<_>>(), [&[1][..], &[], &[2, 3, 4]]);
    assert_eq!((batch.len(), batch.lost), (3, 0));
}

#[test]
fn nothing_waiting_sends_nothing() {
    let (sender, mut receiver) = mpsc::channel::<Batch>(1);
    assert_eq!(pump(&mut numbered(0), &sender, &mut 0), 0);
    assert!(receiver.try_recv().is_err());
}

#[test]
fn what_nobody_takes_in_time_is_counted_and_told_with_the_next_batch() {
    let (sender, mut receiver) = mpsc::channel(1);
    let mut source = numbered(BATCH_RECORDS_MAX as u32 * 3 + 7);
    let mut lost = 0;
    for expected in [BATCH_RECORDS_MAX, BATCH_RECORDS_MAX, BATCH_RECORDS_MAX] {
        assert_eq!(pump(&mut source, &sender, &mut lost), expected);
    }
    assert_eq!(lost, 2 * BATCH_RECORDS_MAX as u64, "the channel holds one batch");
    let first = receiver.try_recv().expect("the first batch");
    assert_eq!((first.len(), first.lost), (BATCH_RECORDS_MAX, 0));
    assert_eq!(pump(&mut source, &sender, &mut lost), 7);
    let second = receiver.try_recv().expect("the next batch");
    assert_eq!((second.len(), second.lost), (7, 2 * BATCH_RECORDS_MAX as u64));
    assert_eq!(lost, 0, "told once");
    let total = first.len() as u64 + second.len() as u64 + second.lost;
    assert_eq!(total, BATCH_RECORDS_MAX as u64 * 3 + 7, "each record is either delivered or counted");
}
