//! The clocks of servers and relay: one for waiting, one for what is shown.

use machine::Instant;
use std::time::{SystemTime, UNIX_EPOCH};

/// Tells the time. In a simulation both clocks are tokio's, so that a run depends on nothing outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Clock {
    origin: tokio::time::Instant,
    /// Wall-clock time of the origin in nanoseconds since 1970; the machine's own clock is asked when there is none.
    simulated_ns: Option<i64>,
}

impl Default for Clock {
    fn default() -> Self {
        Self { origin: tokio::time::Instant::now(), simulated_ns: None }
    }
}

impl Clock {
    /// A wall clock that stands at `wall_ns` (nanoseconds since 1970) now and goes on as tokio's does.
    pub fn simulated(wall_ns: i64) -> Self {
        Self { origin: tokio::time::Instant::now(), simulated_ns: Some(wall_ns) }
    }

    /// Time since the clock was made; never goes back.
    pub fn now(&self) -> Instant {
        Instant::from_nanos(u64::try_from(self.origin.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }

    /// Nanoseconds since 1970.
    pub fn wall_ns(&self) -> i64 {
        match self.simulated_ns {
            Some(start) => start.saturating_add(i64::try_from(self.now().as_nanos()).unwrap_or(i64::MAX)),
            None => SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0, |since| i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)),
        }
    }

    /// Waits until a moment of [`Clock::now`]; for ever when there is none.
    pub async fn sleep_until(&self, due: Option<Instant>) {
        match due {
            Some(due) => tokio::time::sleep_until(self.origin + due.since(Instant::ZERO)).await,
            None => std::future::pending().await,
        }
    }
}
