//! Time between sweeps, adapted to what they find (reference: section 5, "GC").
//!
//! Where more than a quarter of a map had ended, the next sweep comes sooner by that share; where less than a twentieth had,
//! it comes half as late again. A sweep that came earlier than planned is taken for the share it would have found in time.

use core::time::Duration;

use crate::Config;

/// A share of a map's entries, in thousandths.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Share {
    thousandths: u32,
}

impl Share {
    /// `part` of `whole`; nothing of an empty whole.
    pub fn of(part: u64, whole: u64) -> Self {
        let thousandths = part.saturating_mul(1000).checked_div(whole).unwrap_or(0).min(1000);
        Self { thousandths: u32::try_from(thousandths).unwrap_or(1000) }
    }
    /// In thousandths.
    pub const fn thousandths(self) -> u32 {
        self.thousandths
    }
}

/// Above this the next sweep comes sooner.
const MUCH: u32 = 250;
/// It comes sooner by this share at most.
const MOST: u32 = 900;
/// Below this the next sweep comes later.
const LITTLE: u32 = 50;

/// Time between sweeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Interval {
    current: Duration,
}

impl Interval {
    pub(crate) fn new(config: &Config) -> Self {
        Self { current: config.fixed.unwrap_or(config.first).min(config.longest) }
    }

    /// As it stands.
    pub const fn current(&self) -> Duration {
        self.current
    }

    /// A sweep found that `share` had ended, `elapsed` after the one before.
    pub(crate) fn learn(&mut self, config: &Config, share: Share, elapsed: Duration) {
        if config.fixed.is_some() {
            return;
        }
        let share = scaled(share.thousandths, self.current, elapsed);
        let next = if share > MUCH {
            self.current * (1000 - share.min(MOST)) / 1000
        } else if share > 0 && share < LITTLE {
            self.current * 3 / 2
        } else {
            self.current
        };
        let rounded = Duration::from_secs((next.as_millis() as u64 + 500) / 1000);
        self.current = rounded.clamp(config.shortest, config.longest);
    }
}

/// What would have been found after `planned` if `found` was found after `elapsed`.
fn scaled(found: u32, planned: Duration, elapsed: Duration) -> u32 {
    if elapsed.is_zero() || elapsed >= planned {
        return found;
    }
    let scaled = u128::from(found) * planned.as_millis() / elapsed.as_millis().max(1);
    u32::try_from(scaled).unwrap_or(u32::MAX)
}
