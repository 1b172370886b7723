//! Times as users write and read them: durations, layouts, and the words for both.

use hubble_api::{
    Timestamp,
    time::{self, Civil},
};
pub use hubble_model::text::{parse_duration, quote, show_duration};

/// How timestamps are printed; always in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TimeFormat {
    /// `Jan  2 15:04:05.000`.
    #[default]
    StampMilli,
    /// `2006-01-02`.
    YearMonthDay,
    /// `2006-01-02T15Z`.
    YearMonthDayHour,
    /// `2006-01-02T15:04Z`.
    YearMonthDayHourMinute,
    /// `2006-01-02T15:04:05Z`.
    Rfc3339,
    /// With up to three digits of fraction.
    Rfc3339Milli,
    /// With up to six.
    Rfc3339Micro,
    /// With up to nine.
    Rfc3339Nano,
    /// `Mon, 02 Jan 2006 15:04:05 +0000`.
    Rfc1123Z,
}

/// The names of the formats, as help shows them.
pub const FORMAT_NAMES: [(&str, TimeFormat); 9] = [
    ("StampMilli", TimeFormat::StampMilli),
    ("YearMonthDay", TimeFormat::YearMonthDay),
    ("YearMonthDayHour", TimeFormat::YearMonthDayHour),
    ("YearMonthDayHourMinute", TimeFormat::YearMonthDayHourMinute),
    ("RFC3339", TimeFormat::Rfc3339),
    ("RFC3339Milli", TimeFormat::Rfc3339Milli),
    ("RFC3339Micro", TimeFormat::Rfc3339Micro),
    ("RFC3339Nano", TimeFormat::Rfc3339Nano),
    ("RFC1123Z", TimeFormat::Rfc1123Z),
];

const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
const WEEKDAYS: [&str; 7] = ["Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"];

impl TimeFormat {
    /// The format of a name, whatever its case; unknown names are the default.
    pub fn named(name: &str) -> Self {
        FORMAT_NAMES.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map_or(Self::default(), |(_, f)| *f)
    }

    /// A timestamp in this format; `N/A` when there is none or it is out of range.
    pub fn show(self, at: Option<&Timestamp>) -> String {
        let Some(at) = at.filter(|at| time::is_valid(at)) else { return "N/A".into() };
        let Civil { year, month, day, hour, minute, second, weekday } = time::civil(at.seconds);
        let month_name = MONTHS[usize::from(month) - 1];
        match self {
            Self::StampMilli => {
                format!("{month_name} {day:>2} {hour:02}:{minute:02}:{second:02}.{:03}", at.nanos / 1_000_000)
            }
            Self::YearMonthDay => format!("{year:04}-{month:02}-{day:02}"),
            Self::YearMonthDayHour => format!("{year:04}-{month:02}-{day:02}T{hour:02}Z"),
            Self::YearMonthDayHourMinute => format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}Z"),
            Self::Rfc1123Z => {
                let weekday = WEEKDAYS[usize::from(weekday)];
                format!("{weekday}, {day:02} {month_name} {year:04} {hour:02}:{minute:02}:{second:02} +0000")
            }
            Self::Rfc3339 => rfc3339(at, 0),
            Self::Rfc3339Milli => rfc3339(at, 3),
            Self::Rfc3339Micro => rfc3339(at, 6),
            Self::Rfc3339Nano => rfc3339(at, 9),
        }
    }
}

/// With so many digits of fraction, those at the end left out while they are zero.
fn rfc3339(at: &Timestamp, digits: usize) -> String {
    let Civil { year, month, day, hour, minute, second, .. } = time::civil(at.seconds);
    let fraction = format!("{:09}", at.nanos);
    let fraction = fraction[..digits].trim_end_matches('0');
    let dot = if fraction.is_empty() { "" } else { "." };
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}{dot}{fraction}Z")
}

/// Reads a time: a duration before `now_ns`, or one of the layouts help lists.
pub fn parse_time(text: &str, now_ns: i64) -> Result<Timestamp, String> {
    if let Ok(ago) = parse_duration(text) {
        return Ok(time::from_nanos(i128::from(now_ns) - i128::from(ago)));
    }
    let short = [("", "T00:00:00Z"), ("Z", ":00:00Z"), ("", ":00Z")];
    let long = |text: &str| time::parse_rfc3339(text).filter(time::is_valid);
    let found = match text.len() {
        // A date alone, then with an hour, then with a minute; offsets in place of Z.
        10 => long(&format!("{text}{}", short[0].1)),
        _ => partial(text, 13, ":00:00").or_else(|| partial(text, 16, ":00")).as_deref().and_then(long),
    };
    found.or_else(|| long(text)).or_else(|| rfc1123z(text)).ok_or_else(|| format!("failed to convert {text} to time"))
}

/// `2006-01-02T15Z` and the like, with the missing fields put in.
fn partial(text: &str, length: usize, missing: &str) -> Option<String> {
    let (date, zone) = text.split_at_checked(length)?;
    (zone == "Z" || zone.len() == 6 && zone.starts_with(['+', '-'])).then(|| format!("{date}{missing}{zone}"))
}

fn rfc1123z(text: &str) -> Option<Timestamp> {
    let parts: Vec<&str> = text.split(' ').collect();
    let [weekday, day, month, year, clock, zone] = parts[..] else { return None };
    WEEKDAYS.contains(&weekday.strip_suffix(',')?).then_some(())?;
    let month = MONTHS.iter().position(|name| *name == month)? + 1;
    let (sign, digits) = zone.split_at_checked(1)?;
    let (hours, minutes) = digits.split_at_checked(2).filter(|(_, minutes)| minutes.len() == 2)?;
    time::parse_rfc3339(&format!("{year}-{month:02}-{day}T{clock}{sign}{hours}:{minutes}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, ns) in [
            ("3s", 3_000_000_000),
            ("1h43m", 6_180_000_000_000),
            ("-1.5s", -1_500_000_000),
            ("0", 0),
            ("2ms", 2_000_000),
        ] {
            assert_eq!(parse_duration(text), Ok(ns), "{text}");
        }
        for bad in ["", "3", "s", "1x", "-", "1s2"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
        for (ns, text) in
            [(0, "0s"), (1_500_000, "1.5ms"), (3_723_500_000_000, "1h2m3.5s"), (3_600_000_000_000, "1h0m0s")]
        {
            assert_eq!(show_duration(ns), text);
        }
    }

    #[test]
    fn times() {
        let day = 1_709_251_200;
        for (text, seconds) in [
            ("2024-03-01", day),
            ("2024-03-01T12Z", day + 43_200),
            ("2024-03-01T12+01:00", day + 39_600),
            ("2024-03-01T12:30Z", day + 45_000),
            ("2024-03-01T12:30:05Z", day + 45_005),
            ("2024-03-01T12:30:05.25Z", day + 45_005),
            ("Fri, 01 Mar 2024 12:30:05 +0100", day + 41_405),
        ] {
            assert_eq!(parse_time(text, 0).map(|at| at.seconds), Ok(seconds), "{text}");
        }
        assert_eq!(parse_time("1h", day * 1_000_000_000).map(|at| at.seconds), Ok(day - 3_600));
        assert_eq!(parse_time("foo", 0), Err("failed to convert foo to time".into()));
        assert!(parse_time("Mar  1 12:30:05.000", 0).is_err());
    }
}
