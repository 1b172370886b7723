//! What happened to an endpoint, the latest first to be asked for and the oldest first to be forgotten.

use alloc::borrow::Cow;
use alloc::collections::VecDeque;

use machine::Instant;

use crate::State;

/// How it went (names of the reference's status log).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    /// `ok`
    Ok,
    /// `failed`
    Failed,
}

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// When.
    pub at: Instant,
    /// How it went.
    pub code: Code,
    /// What happened, for people.
    pub message: Cow<'static, str>,
    /// The state afterwards.
    pub state: State,
}

/// A bounded list of changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    changes: VecDeque<Change>,
    max: usize,
}

impl Log {
    pub(crate) const fn new(max: usize) -> Self {
        Self { changes: VecDeque::new(), max }
    }

    pub(crate) fn push(&mut self, change: Change) {
        if self.changes.len() >= self.max.max(1) {
            self.changes.pop_front();
        }
        self.changes.push_back(change);
    }

    /// Oldest first.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &Change> {
        self.changes.iter()
    }

    /// The latest change.
    pub fn last(&self) -> Option<&Change> {
        self.changes.back()
    }
}
