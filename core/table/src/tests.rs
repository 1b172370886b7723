use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use alloc::{format, vec};
use core::time::Duration;

use machine::{Instant, OpIds, Rng};

use crate::{Config, Sequence, Write};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Cell(u8, Option<u8>);
impl Write for Cell {
    fn deletion(&self) -> Self {
        Self(self.0, None)
    }
    fn is_deletion(&self) -> bool {
        self.1.is_none()
    }
}

const CONFIG: Config = Config { retry_first: Duration::from_secs(1), retry_max: Duration::from_secs(4), batch_max: 3 };

#[test]
fn what_is_there_is_not_written_again() {
    let mut seq: Sequence<Cell, ()> = Sequence::new(CONFIG, OpIds::default(), [Cell(1, Some(1))]);
    assert!(!seq.put(Cell(1, Some(1))));
    assert!(!seq.put(Cell(2, None)));
    assert!(seq.is_settled());
    assert!(seq.put(Cell(1, Some(2))));
    assert_eq!(seq.prune(|cell| cell.0 != 1), 1);
    let (op, _) = seq.advance(Instant::ZERO);
    assert_eq!(op.map(|(_, writes)| writes), Some(vec![Cell(1, Some(2)), Cell(1, None)]));
}

#[test]
fn marks_are_reached_after_what_was_asked_for_before_them() {
    let mut seq: Sequence<Cell, char> = Sequence::new(CONFIG, OpIds::default(), []);
    seq.mark('a');
    seq.put(Cell(1, Some(1)));
    seq.mark('b');
    seq.put(Cell(2, Some(1)));
    seq.mark('c');
    let (op, reached) = seq.advance(Instant::ZERO);
    assert_eq!(reached, ['a']);
    let (op, writes) = op.expect("there is something to write");
    assert_eq!(writes.len(), 2);
    assert_eq!(seq.advance(Instant::ZERO), (None, vec![]), "one operation at a time");
    let settled = seq.settle(Instant::ZERO, op, Some(1)).expect("this operation");
    assert_eq!((settled.reached, settled.failed), (vec!['b'], Some(Cell(2, Some(1)))));
    assert_eq!(seq.next_deadline(), Some(Instant::from_secs(1)));
    assert_eq!(seq.advance(Instant::from_millis(999)), (None, vec![]));
    let (op, _) = seq.advance(Instant::from_secs(1));
    let (op, writes) = op.expect("again");
    assert_eq!(writes, [Cell(2, Some(1))]);
    assert_eq!(seq.settle(Instant::from_secs(1), op, None).expect("this operation").reached, ['c']);
    assert!(seq.is_settled());
}

#[test]
fn waits_double_up_to_the_longest() {
    let mut seq: Sequence<Cell, ()> = Sequence::new(CONFIG, OpIds::default(), []);
    seq.put(Cell(1, Some(1)));
    let mut now = Instant::ZERO;
    for wait in [1, 2, 4, 4] {
        let (op, _) = seq.advance(now);
        let (op, _) = op.expect("due");
        seq.settle(now, op, Some(0)).expect("this operation");
        assert_eq!(seq.next_deadline(), Some(now + Duration::from_secs(wait)));
        now += Duration::from_secs(wait);
    }
}

/// Whatever fails, the tables pass through the states that were asked for, in order, and end in the last one.
#[test]
fn random_failures_never_reorder() {
    for seed in 0..300 {
        let mut rng = Rng::new(seed);
        let mut seq: Sequence<Cell, u32> = Sequence::new(CONFIG, OpIds::default(), []);
        let (mut kernel, mut oracle) = (BTreeMap::new(), BTreeMap::new());
        let mut history: Vec<BTreeMap<u8, u8>> = vec![BTreeMap::new()];
        let mut at = 0;
        let mut now = Instant::ZERO;
        let mut marks = 0;
        for round in 0..60 {
            if round < 40 {
                for _ in 0..rng.below(4) {
                    let write = Cell(rng.below(5) as u8, rng.chance(2, 3).then(|| rng.below(3) as u8));
                    apply(&mut oracle, write);
                    if seq.put(write) {
                        history.push(oracle.clone());
                    }
                }
                seq.mark(history.len() as u32 - 1);
            }
            now += Duration::from_secs(5);
            let (op, reached) = seq.advance(now);
            for mark in reached {
                assert!(mark as usize <= at, "{seed}: mark {mark} at {at}");
                marks += 1;
            }
            let Some((op, writes)) = op else { continue };
            let fail = (round < 50 && rng.chance(1, 2)).then(|| rng.below(writes.len() as u64) as usize);
            for write in writes.iter().take(fail.unwrap_or(writes.len())) {
                apply(&mut kernel, *write);
                at += 1;
                assert_eq!(kernel, history[at], "seed {seed}, write {at}");
            }
            for mark in seq.settle(now, op, fail).expect("this operation").reached {
                assert!(mark as usize <= at, "{seed}: mark {mark} at {at}");
                marks += 1;
            }
        }
        for _ in 0..200 {
            now += Duration::from_secs(5);
            let (op, reached) = seq.advance(now);
            marks += reached.len();
            let Some((op, writes)) = op else { break };
            writes.into_iter().for_each(|write| apply(&mut kernel, write));
            marks += seq.settle(now, op, None).expect("this operation").reached.len();
        }
        assert!(seq.is_settled(), "{}", format!("{seq:?}"));
        assert_eq!(kernel, oracle);
        assert_eq!(marks, 40);
    }
}

fn apply(table: &mut BTreeMap<u8, u8>, write: Cell) {
    match write.1 {
        Some(value) => table.insert(write.0, value),
        None => table.remove(&write.0),
    };
}
