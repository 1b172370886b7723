//! Helpers for tests of machines: one step, and a replay of a whole history.

use alloc::vec::Vec;

use crate::{Driven, Instant, Machine};

/// Serves one moment of a machine through the real drive loop and returns the effects in order.
pub fn step<M: Machine>(driven: &mut Driven<M>, now: Instant, input: Option<M::Input>) -> Vec<M::Effect> {
    let mut out = Vec::new();
    driven.step(now, input, |effect| out.push(effect));
    out
}

/// Plays a history and returns each effect with the time at which it was handed out. Deadlines between the
/// inputs are served when they are due, not when the next input comes.
pub fn replay<M: Machine>(
    driven: &mut Driven<M>,
    history: impl IntoIterator<Item = (Instant, M::Input)>,
) -> Vec<(Instant, M::Effect)> {
    let mut out = Vec::new();
    for (at, input) in history {
        run_until(driven, at, &mut out);
        driven.step(at, Some(input), |effect| out.push((at, effect)));
    }
    out
}

/// Serves every deadline before or at `until`, each at its own time.
pub fn run_until<M: Machine>(driven: &mut Driven<M>, until: Instant, out: &mut Vec<(Instant, M::Effect)>) {
    while let Some(due) = driven.next_deadline().filter(|due| *due <= until) {
        driven.step(due, None, |effect| out.push((due, effect)));
    }
}
