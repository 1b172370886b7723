//! The vocabulary of every decision: time, machines, effects, seeded randomness, and the one drive loop.
//!
//! A [`Machine`] takes facts and requests, each with the time it happened at, and answers with effects. It
//! never reads a clock, never waits, never draws from an ambient source of randomness and never does IO, so
//! the list of `(now, input)` is its whole history: played again, it gives the same effects in the same order.
//!
//! Deadlines are *derived* from state ([`Machine::next_deadline`]) and never armed as effects: nothing can go
//! stale, and serving one late or twice is harmless.
#![no_std]
#![forbid(unsafe_code)]
extern crate alloc;

mod drive;
mod effects;
mod rng;
pub mod testkit;
mod time;

pub use drive::{Driven, Served};
pub use effects::Effects;
pub use rng::Rng;
pub use time::Instant;

/// Something that decides. See the [module documentation](crate).
pub trait Machine {
    /// A past-tense fact (`LinkAppeared`) or an imperative request (`Reserve`).
    type Input;
    /// What the world is asked to do, or the answer to whoever asked.
    type Effect;

    /// Applies one fact or request. Never fails: a refusal is an effect addressed to whoever asked.
    fn handle(&mut self, now: Instant, input: Self::Input, fx: &mut Effects<Self::Effect>);

    /// When time alone must wake this machine. Derived from state, never stored beside it.
    fn next_deadline(&self) -> Option<Instant>;

    /// Does all work due at `now`; afterwards `next_deadline() > now` (the drive loop asserts it).
    fn on_deadline(&mut self, now: Instant, fx: &mut Effects<Self::Effect>);
}

/// Names an effect that can fail; its outcome comes back as an input that carries the same id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OpId(pub u64);

/// Hands out [`OpId`]s, each once.
#[derive(Debug, Clone, Default)]
pub struct OpIds {
    last: u64,
}

impl OpIds {
    /// Ids after `last`: several sources within one machine hand out ids from ranges of their own.
    pub const fn after(last: u64) -> Self {
        Self { last }
    }
    /// The next id.
    pub fn fresh(&mut self) -> OpId {
        self.last += 1;
        OpId(self.last)
    }
}
