//! The clock of production: `CLOCK_MONOTONIC`, which is also what packet programs read.

use machine::Instant;
use nix::time::{ClockId, clock_gettime};

/// Nanoseconds of the monotonic clock, comparable with `bpf_ktime_get_ns`.
///
/// # Panics
/// Never on Linux: the clock exists on every kernel and its value is not negative.
pub fn now() -> Instant {
    let time = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("Linux always has a monotonic clock");
    let secs = u64::try_from(time.tv_sec()).expect("the monotonic clock counts up from boot");
    let nanos = u64::try_from(time.tv_nsec()).expect("nanoseconds of a second are not negative");
    Instant::from_nanos(secs.saturating_mul(1_000_000_000).saturating_add(nanos))
}

/// Waits until `due`; for ever when there is nothing to wait for.
pub async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep(due.since(now())).await,
        None => std::future::pending().await,
    }
}
