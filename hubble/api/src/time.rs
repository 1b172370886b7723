//! RFC 3339 text of timestamps, and the calendar arithmetic behind it. No clock, no time zones but offsets.

use prost_types::Timestamp;
use std::fmt;

/// A moment as a calendar shows it in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Civil {
    /// Year of the common era.
    pub year: i64,
    /// 1 to 12.
    pub month: u8,
    /// 1 to 31.
    pub day: u8,
    /// 0 to 23.
    pub hour: u8,
    /// 0 to 59.
    pub minute: u8,
    /// 0 to 59.
    pub second: u8,
    /// 0 is Sunday.
    pub weekday: u8,
}

/// The earliest and latest second that JSON can carry: years 1 to 9999.
const RANGE_SECONDS: core::ops::RangeInclusive<i64> = -62_135_596_800..=253_402_300_799;

/// True when the timestamp lies in years 1 to 9999 and its fraction is one of a second.
pub fn is_valid(at: &Timestamp) -> bool {
    RANGE_SECONDS.contains(&at.seconds) && (0..1_000_000_000).contains(&at.nanos)
}

/// Nanoseconds since 1970, saturating.
pub fn nanos(at: &Timestamp) -> i128 {
    i128::from(at.seconds) * 1_000_000_000 + i128::from(at.nanos)
}

/// A timestamp from nanoseconds since 1970.
pub fn from_nanos(nanos: i128) -> Timestamp {
    let seconds = nanos.div_euclid(1_000_000_000);
    Timestamp {
        seconds: i64::try_from(seconds).unwrap_or(if seconds < 0 { i64::MIN } else { i64::MAX }),
        nanos: i32::try_from(nanos.rem_euclid(1_000_000_000)).expect("a remainder is below its divisor"),
    }
}

/// Splits seconds since 1970 into calendar fields (proleptic Gregorian, as Hinnant's `civil_from_days`).
pub fn civil(seconds: i64) -> Civil {
    let days = seconds.div_euclid(86_400);
    let of_day = seconds.rem_euclid(86_400);
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let doe = z.rem_euclid(146_097);
    let yoe = (doe - doe / 1_460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    let small = |value: i64| u8::try_from(value).expect("calendar fields are below 60");
    Civil {
        year: yoe + era * 400 + i64::from(month <= 2),
        month: small(month),
        day: small(doy - (153 * mp + 2) / 5 + 1),
        hour: small(of_day / 3_600),
        minute: small(of_day / 60 % 60),
        second: small(of_day % 60),
        weekday: small((days + 4).rem_euclid(7)),
    }
}

/// Days from 1970-01-01 to a date that [`days_in`] has checked.
pub fn days(year: i64, month: u8, day: u8) -> i64 {
    let y = if month <= 2 { year - 1 } else { year };
    let era = y.div_euclid(400);
    let yoe = y.rem_euclid(400);
    let mp = (i64::from(month) + 9) % 12;
    let doy = (153 * mp + 2) / 5 + i64::from(day) - 1;
    era * 146_097 + yoe * 365 + yoe / 4 - yoe / 100 + doy - 719_468
}

/// How many days a month has; none for a month that is not.
pub fn days_in(year: i64, month: u8) -> u8 {
    match month {
        1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
        4 | 6 | 9 | 11 => 30,
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        _ => 0,
    }
}

/// Shows a timestamp as JSON does: UTC with 0, 3, 6 or 9 digits of fraction.
#[derive(Debug, Clone, Copy)]
pub struct Rfc3339<'a>(pub &'a Timestamp);

impl fmt::Display for Rfc3339<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Civil { year, month, day, hour, minute, second, .. } = civil(self.0.seconds);
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}")?;
        match self.0.nanos {
            0 => {}
            nanos if nanos % 1_000_000 == 0 => write!(f, ".{:03}", nanos / 1_000_000)?,
            nanos if nanos % 1_000 == 0 => write!(f, ".{:06}", nanos / 1_000)?,
            nanos => write!(f, ".{nanos:09}")?,
        }
        f.write_str("Z")
    }
}

/// Reads RFC 3339 text: any offset, up to nine digits of fraction.
pub fn parse_rfc3339(text: &str) -> Option<Timestamp> {
    let b = text.as_bytes();
    let number = |range: core::ops::Range<usize>| -> Option<i64> {
        let digits = b.get(range)?;
        digits.iter().all(u8::is_ascii_digit).then(|| digits.iter().fold(0, |n, d| n * 10 + i64::from(d - b'0')))
    };
    let sign = |at: usize, want: &[u8]| b.get(at).is_some_and(|c| want.contains(c)).then_some(());
    let (year, month, day) = (number(0..4)?, number(5..7)?, number(8..10)?);
    let (hour, minute, second) = (number(11..13)?, number(14..16)?, number(17..19)?);
    for (at, want) in [(4, b"-" as &[u8]), (7, b"-"), (10, b"T"), (13, b":"), (16, b":")] {
        sign(at, want)?;
    }
    let (month, day) = (u8::try_from(month).ok()?, u8::try_from(day).ok()?);
    if day == 0 || day > days_in(year, month) || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let mut at = 19;
    let mut nanos = 0;
    if b.get(at) == Some(&b'.') {
        let digits = b[at + 1..].iter().take_while(|c| c.is_ascii_digit()).count();
        if !(1..=9).contains(&digits) {
            return None;
        }
        nanos = number(at + 1..at + 1 + digits)? * 10_i64.pow(9 - u32::try_from(digits).ok()?);
        at += 1 + digits;
    }
    let offset = match b.get(at)? {
        b'Z' if b.len() == at + 1 => 0,
        way @ (b'+' | b'-') if b.len() == at + 6 && b[at + 3] == b':' => {
            let (hours, minutes) = (number(at + 1..at + 3)?, number(at + 4..at + 6)?);
            if hours > 23 || minutes > 59 {
                return None;
            }
            (hours * 3_600 + minutes * 60) * if *way == b'-' { -1 } else { 1 }
        }
        _ => return None,
    };
    let seconds = days(year, month, day) * 86_400 + hour * 3_600 + minute * 60 + second - offset;
    Some(Timestamp { seconds, nanos: i32::try_from(nanos).ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_back() {
        for (text, seconds, nanos) in [
            ("1970-01-01T00:00:00Z", 0, 0),
            ("2024-02-29T23:59:59.190Z", 1_709_251_199, 190_000_000),
            ("2026-01-02T03:04:05.123456789Z", 1_767_323_045, 123_456_789),
            ("0001-01-01T00:00:00Z", *RANGE_SECONDS.start(), 0),
            ("9999-12-31T23:59:59.999999Z", *RANGE_SECONDS.end(), 999_999_000),
        ] {
            let at = Timestamp { seconds, nanos };
            assert_eq!(parse_rfc3339(text), Some(at), "{text}");
            assert_eq!(Rfc3339(&at).to_string(), text);
        }
        assert_eq!(parse_rfc3339("2024-01-01T01:00:00+01:00"), parse_rfc3339("2024-01-01T00:00:00Z"));
        for bad in [
            "",
            "2024-01-01",
            "2023-02-29T00:00:00Z",
            "2024-01-01T24:00:00Z",
            "2024-01-01T00:00:00",
            "2024-01-01T00:00:00.Z",
        ] {
            assert_eq!(parse_rfc3339(bad), None, "{bad}");
        }
    }

    #[test]
    fn calendar_agrees_with_itself_over_four_centuries() {
        for day in (-719_000_i64..719_000).step_by(97) {
            let c = civil(day * 86_400 + 3_661);
            assert_eq!(days(c.year, c.month, c.day), day);
            assert_eq!((c.hour, c.minute, c.second), (1, 1, 1));
        }
    }
}
