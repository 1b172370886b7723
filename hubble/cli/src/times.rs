//! Times as users write and read them: durations, layouts, and the words for both.

use hubble_api::{
    Timestamp,
    time::{self, Civil},
};

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

/// Reads a duration such as `1h43m` or `-1.5s`; nanoseconds. The error is the original's.
pub fn parse_duration(text: &str) -> Result<i64, String> {
    let invalid = || format!("time: invalid duration {}", quote(text));
    let (negative, mut rest) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    if rest == "0" {
        return Ok(0);
    }
    if rest.is_empty() {
        return Err(invalid());
    }
    let mut total = 0_f64;
    while !rest.is_empty() {
        let number_end = rest.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(rest.len());
        let number: f64 = rest[..number_end].parse().map_err(|_| invalid())?;
        rest = &rest[number_end..];
        let unit_end = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        let scale = match &rest[..unit_end] {
            "" => return Err(format!("time: missing unit in duration {}", quote(text))),
            "ns" => 1.0,
            "us" | "µs" | "μs" => 1e3,
            "ms" => 1e6,
            "s" => 1e9,
            "m" => 60e9,
            "h" => 3_600e9,
            unit => return Err(format!("time: unknown unit {} in duration {}", quote(unit), quote(text))),
        };
        total += number * scale;
        rest = &rest[unit_end..];
    }
    if total > 9.2e18 {
        return Err(invalid());
    }
    let total = total.round() as i64;
    Ok(if negative { -total } else { total })
}

/// A duration as the original prints it: `1h2m3.5s`, `250ms`, `0s`.
pub fn show_duration(ns: i64) -> String {
    let sign = if ns < 0 { "-" } else { "" };
    let ns = ns.unsigned_abs();
    let fraction = |whole: u64, part: u64, digits: usize| {
        let part = format!("{part:0digits$}");
        let part = part.trim_end_matches('0');
        if part.is_empty() { format!("{whole}") } else { format!("{whole}.{part}") }
    };
    match ns {
        0 => "0s".into(),
        1..1_000 => format!("{sign}{ns}ns"),
        1_000..1_000_000 => format!("{sign}{}µs", fraction(ns / 1_000, ns % 1_000, 3)),
        1_000_000..1_000_000_000 => format!("{sign}{}ms", fraction(ns / 1_000_000, ns % 1_000_000, 6)),
        _ => {
            let (seconds, nanos) = (ns / 1_000_000_000, ns % 1_000_000_000);
            let (hours, minutes) = (seconds / 3_600, seconds / 60 % 60);
            let seconds = fraction(seconds % 60, nanos, 9);
            match (hours, minutes) {
                (0, 0) => format!("{sign}{seconds}s"),
                (0, _) => format!("{sign}{minutes}m{seconds}s"),
                _ => format!("{sign}{hours}h{minutes}m{seconds}s"),
            }
        }
    }
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

/// A text in double quotes with escapes, as the original quotes it.
pub fn quote(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\u{b}' => out.push_str("\\v"),
            c if u32::from(c) < 0x20 || u32::from(c) == 0x7f => out.push_str(&format!("\\x{:02x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
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
