//! What the kernel should hold, and an ordered way of making it so.
//!
//! Why: writes fail, an agent restarts between any two of them, and packets are judged all the while. So every write
//! goes through one sequence: it is made after all writes that were asked for before it, however often the kernel
//! refuses, and what is already there is not written again.
//!
//! Three verbs, each idempotent: [`Sequence::put`] (update or delete), [`Sequence::mark`] (tell me when everything so
//! far is there), [`Sequence::prune`] (delete what nobody asked for).
//!
//! Never: reorders, drops a write, or has two operations under way.
//!
//! Invariant: `wanted` is what the kernel holds after the last queued write.
#![no_std]
#![forbid(unsafe_code)]
extern crate alloc;

use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec::Vec;
use core::fmt;
use core::time::Duration;

use machine::{Instant, OpId, OpIds};

/// A write to a table: a key with a value, or a key to be deleted.
pub trait Write: Clone + Ord + fmt::Debug {
    /// The same key, to be deleted: stands for the key.
    #[must_use]
    fn deletion(&self) -> Self;
    /// Whether it deletes.
    fn is_deletion(&self) -> bool;
}

/// How long to wait after failures, and how much to write at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    /// Wait after the first failure in a row; doubled after each further one.
    pub retry_first: Duration,
    /// The longest wait.
    pub retry_max: Duration,
    /// Writes of one operation at most.
    pub batch_max: usize,
}

#[derive(Debug, Clone)]
enum Step<W, T> {
    Write(W),
    Mark(T),
}

#[derive(Debug, Clone)]
struct Flight<W, T> {
    op: OpId,
    steps: Vec<Step<W, T>>,
}

/// An ordered sequence of writes. `T` marks places in it.
#[derive(Debug, Clone)]
pub struct Sequence<W, T> {
    config: Config,
    ops: OpIds,
    wanted: BTreeMap<W, W>,
    queue: VecDeque<Step<W, T>>,
    flight: Option<Flight<W, T>>,
    failures: u32,
    retry_at: Option<Instant>,
}

/// What an outcome meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settled<W, T> {
    /// Marks that were reached, in order.
    pub reached: Vec<T>,
    /// The write that failed and will be tried again.
    pub failed: Option<W>,
}

impl<W: Write, T> Sequence<W, T> {
    /// A sequence over tables that hold `there`.
    pub fn new(config: Config, ops: OpIds, there: impl IntoIterator<Item = W>) -> Self {
        let wanted = there.into_iter().map(|write| (write.deletion(), write)).collect();
        Self { config, ops, wanted, queue: VecDeque::new(), flight: None, failures: 0, retry_at: None }
    }

    /// Asks for a write, unless it will be so anyway. Says whether it was queued.
    pub fn put(&mut self, write: W) -> bool {
        let key = write.deletion();
        let changes = if write.is_deletion() {
            self.wanted.remove(&key).is_some()
        } else {
            self.wanted.insert(key, write.clone()).as_ref() != Some(&write)
        };
        if changes {
            self.queue.push_back(Step::Write(write));
        }
        changes
    }

    /// Asks to be told once everything asked for so far is there.
    pub fn mark(&mut self, mark: T) {
        self.queue.push_back(Step::Mark(mark));
    }

    /// Asks to delete everything of which `keep` says no.
    pub fn prune(&mut self, mut keep: impl FnMut(&W) -> bool) -> usize {
        let unwanted: Vec<W> = self.wanted.values().filter(|write| !keep(write)).map(Write::deletion).collect();
        unwanted.into_iter().filter(|write| self.put(write.clone())).count()
    }

    /// What will be there once everything is written, keyed by the deletion of each.
    pub const fn wanted(&self) -> &BTreeMap<W, W> {
        &self.wanted
    }

    /// Whether everything asked for is there.
    pub fn is_settled(&self) -> bool {
        self.flight.is_none() && self.queue.is_empty()
    }

    /// How many writes wait or are under way.
    pub fn pending(&self) -> usize {
        self.queue.len() + self.flight.as_ref().map_or(0, |flight| flight.steps.len())
    }

    /// The next operation, unless one is under way or a wait is not over, and the marks that need no operation.
    pub fn advance(&mut self, now: Instant) -> (Option<(OpId, Vec<W>)>, Vec<T>) {
        let mut reached = Vec::new();
        if self.flight.is_some() || self.retry_at.is_some_and(|at| at > now) {
            return (None, reached);
        }
        self.retry_at = None;
        while let Some(Step::Mark(_)) = self.queue.front() {
            if let Some(Step::Mark(mark)) = self.queue.pop_front() {
                reached.push(mark);
            }
        }
        let count = self.queue.len().min(self.config.batch_max.max(1));
        let steps: Vec<_> = self.queue.drain(..count).collect();
        let writes: Vec<W> = steps.iter().filter_map(Step::write).cloned().collect();
        if writes.is_empty() {
            return (None, reached);
        }
        let op = self.ops.fresh();
        self.flight = Some(Flight { op, steps });
        (Some((op, writes)), reached)
    }

    /// Takes the outcome of an operation: `failed_at` is the index of the first write that was not made. `None`: the
    /// operation is not the one under way.
    pub fn settle(&mut self, now: Instant, op: OpId, failed_at: Option<usize>) -> Option<Settled<W, T>> {
        let flight = self.flight.take_if(|flight| flight.op == op)?;
        let mut settled = Settled { reached: Vec::new(), failed: None };
        let mut left = Vec::new();
        let mut index = 0;
        for step in flight.steps {
            let made = left.is_empty() && failed_at != Some(index);
            match step {
                Step::Mark(mark) if left.is_empty() => settled.reached.push(mark),
                Step::Write(_) if made => index += 1,
                step => left.push(step),
            }
        }
        if failed_at.is_some() {
            settled.failed = left.iter().find_map(Step::write).cloned();
            self.failures += 1;
            let factor = 1_u32.checked_shl(self.failures - 1).unwrap_or(u32::MAX);
            self.retry_at = Some(now + self.config.retry_first.saturating_mul(factor).min(self.config.retry_max));
        } else {
            self.failures = 0;
        }
        for step in left.into_iter().rev() {
            self.queue.push_front(step);
        }
        Some(settled)
    }

    /// When [`Self::advance`] has something to do by time alone.
    pub fn next_deadline(&self) -> Option<Instant> {
        if self.flight.is_none() { self.retry_at } else { None }
    }
}

impl<W, T> Step<W, T> {
    const fn write(&self) -> Option<&W> {
        match self {
            Self::Write(write) => Some(write),
            Self::Mark(_) => None,
        }
    }
}

#[cfg(test)]
mod tests;
