//! Moments of the core's clock as people read them.

use std::time::{SystemTime, UNIX_EPOCH};

use hubble_api::time::civil;
use machine::Instant;

/// A moment of the monotonic clock in RFC 3339, UTC, with milliseconds.
pub fn rfc3339(at: Instant) -> String {
    let ago = runtime::now().since(at);
    text(SystemTime::now().checked_sub(ago).unwrap_or(UNIX_EPOCH))
}

/// A moment of the wall clock in RFC 3339, UTC, with milliseconds.
pub fn text(at: SystemTime) -> String {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    let date = civil(i64::try_from(since.as_secs()).unwrap_or_default());
    format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:03}Z",
        date.year,
        date.month,
        date.day,
        date.hour,
        date.minute,
        date.second,
        since.subsec_millis()
    )
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_moment_is_written_as_the_reference_writes_it() {
        assert_eq!(text(UNIX_EPOCH + Duration::from_millis(1_700_000_000_007)), "2023-11-14T22:13:20.007Z");
    }
}
