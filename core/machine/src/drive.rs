//! The one drive loop, shared by production, simulation and unit tests.

use crate::{Effects, Instant, Machine};

/// A machine together with what every driver must get right: time never goes back, due deadlines are served
/// before the next input, every effect is handed out before anything else happens.
#[derive(Debug)]
pub struct Driven<M: Machine> {
    machine: M,
    effects: Effects<M::Effect>,
    now: Instant,
}

/// What one call of [`Driven::step`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Served {
    /// How many effects were handed out.
    pub effects: usize,
    /// When the machine must be woken without an input.
    pub next_deadline: Option<Instant>,
}

impl<M: Machine> Driven<M> {
    /// Takes a machine in charge.
    pub fn new(machine: M) -> Self {
        Self { machine, effects: Effects::new(), now: Instant::ZERO }
    }

    /// Serves what is due at `now`, then the input if there is one, handing each effect to `apply` in order.
    ///
    /// A `now` before an earlier one counts as the earlier one: a driver whose clock stepped back cannot take
    /// a machine back in time.
    ///
    /// # Panics
    /// When the machine leaves a deadline at or before `now` unserved: that is a bug in the machine and would
    /// make every driver spin.
    pub fn step(&mut self, now: Instant, input: Option<M::Input>, mut apply: impl FnMut(M::Effect)) -> Served {
        self.now = self.now.max(now);
        let mut count = self.serve_deadline(&mut apply);
        if let Some(input) = input {
            self.machine.handle(self.now, input, &mut self.effects);
            count += self.hand_out(&mut apply);
            count += self.serve_deadline(&mut apply);
        }
        Served { effects: count, next_deadline: self.machine.next_deadline() }
    }

    fn serve_deadline(&mut self, apply: &mut impl FnMut(M::Effect)) -> usize {
        if self.machine.next_deadline().is_none_or(|due| due > self.now) {
            return 0;
        }
        self.machine.on_deadline(self.now, &mut self.effects);
        let left = self.machine.next_deadline();
        assert!(
            left.is_none_or(|due| due > self.now),
            "deadline {left:?} is still due at {:?} after it was served",
            self.now
        );
        self.hand_out(apply)
    }

    fn hand_out(&mut self, apply: &mut impl FnMut(M::Effect)) -> usize {
        let count = self.effects.len();
        self.effects.drain().for_each(apply);
        count
    }

    /// When the machine must be woken without an input.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.machine.next_deadline()
    }
    /// The machine, to look at.
    pub fn machine(&self) -> &M {
        &self.machine
    }
    /// The latest time it was told.
    pub fn now(&self) -> Instant {
        self.now
    }
}
