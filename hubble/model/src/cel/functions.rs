//! The standard functions: which types they take, and what they do.

use super::{check::Type, eval::Fault, value::Val};
use crate::text::{parse_duration, show_duration};
use alloc::{
    borrow::Cow,
    string::{String, ToString},
};
use hubble_api::{Timestamp, time};

/// A function of one or two values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Function {
    Size,
    StartsWith,
    EndsWith,
    Contains,
    Int,
    Uint,
    Double,
    Str,
    Bytes,
    Bool,
    Dyn,
    TypeOf,
    Time,
    Duration,
    Part(Part),
}

/// A part of a time or a duration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    FullYear,
    Month,
    Date,
    DayOfMonth,
    DayOfYear,
    DayOfWeek,
    Hours,
    Minutes,
    Seconds,
    Milliseconds,
}

/// The functions by name; methods may be called on their first argument.
const NAMES: [(&str, Function, bool); 24] = [
    ("size", Function::Size, true),
    ("startsWith", Function::StartsWith, true),
    ("endsWith", Function::EndsWith, true),
    ("contains", Function::Contains, true),
    ("int", Function::Int, false),
    ("uint", Function::Uint, false),
    ("double", Function::Double, false),
    ("string", Function::Str, false),
    ("bytes", Function::Bytes, false),
    ("bool", Function::Bool, false),
    ("dyn", Function::Dyn, false),
    ("type", Function::TypeOf, false),
    ("timestamp", Function::Time, false),
    ("duration", Function::Duration, false),
    ("getFullYear", Function::Part(Part::FullYear), true),
    ("getMonth", Function::Part(Part::Month), true),
    ("getDate", Function::Part(Part::Date), true),
    ("getDayOfMonth", Function::Part(Part::DayOfMonth), true),
    ("getDayOfYear", Function::Part(Part::DayOfYear), true),
    ("getDayOfWeek", Function::Part(Part::DayOfWeek), true),
    ("getHours", Function::Part(Part::Hours), true),
    ("getMinutes", Function::Part(Part::Minutes), true),
    ("getSeconds", Function::Part(Part::Seconds), true),
    ("getMilliseconds", Function::Part(Part::Milliseconds), true),
];

/// The function of a name, and whether it is a method.
pub(super) fn named(name: &str) -> Option<(Function, bool)> {
    NAMES.iter().find(|(known, ..)| *known == name).map(|(_, function, method)| (*function, *method))
}

/// The type a function answers with for arguments of these types; none when it takes no such arguments.
pub(super) fn result(function: Function, args: &[Type]) -> Option<Type> {
    let takes = |arg: &Type, known: &[Type]| known.iter().any(|want| arg.fits(want));
    let [first, rest @ ..] = args else { return None };
    let of_text = matches!(function, Function::StartsWith | Function::EndsWith | Function::Contains);
    match rest {
        [second] if of_text && first.fits(&Type::Str) && second.fits(&Type::Str) => return Some(Type::Bool),
        [] if !of_text => {}
        _ => return None,
    }
    let numbers = [Type::Int, Type::Uint, Type::Double, Type::Str];
    let (fits, answer) = match function {
        Function::Size => {
            let sized = matches!(first, Type::Str | Type::Bytes | Type::Dyn | Type::List(_) | Type::Map(..));
            (sized, Type::Int)
        }
        Function::Int => (takes(first, &numbers) || first.fits(&Type::Time), Type::Int),
        Function::Uint => (takes(first, &numbers), Type::Uint),
        Function::Double => (takes(first, &numbers), Type::Double),
        Function::Str => {
            (takes(first, &numbers) || takes(first, &[Type::Bool, Type::Bytes, Type::Time, Type::Duration]), Type::Str)
        }
        Function::Bytes => (takes(first, &[Type::Str, Type::Bytes]), Type::Bytes),
        Function::Bool => (takes(first, &[Type::Str, Type::Bool]), Type::Bool),
        Function::Dyn => (true, Type::Dyn),
        Function::TypeOf => (true, Type::Meta),
        Function::Time => (takes(first, &[Type::Str, Type::Int, Type::Time]), Type::Time),
        Function::Duration => (takes(first, &[Type::Str, Type::Int, Type::Duration]), Type::Duration),
        Function::Part(part) => {
            let of_duration = matches!(part, Part::Hours | Part::Minutes | Part::Seconds | Part::Milliseconds);
            (first.fits(&Type::Time) || (of_duration && first.fits(&Type::Duration)), Type::Int)
        }
        Function::StartsWith | Function::EndsWith | Function::Contains => return None,
    };
    fits.then_some(answer)
}

const RANGE: Fault = "the number is out of range";

/// Calls a function.
pub(super) fn call<'a>(function: Function, args: &[Val<'a>]) -> Result<Val<'a>, Fault> {
    const OVERLOAD: Fault = "no such overload";
    let first = args.first().ok_or(OVERLOAD)?;
    match function {
        Function::Size => size(first).and_then(|size| i64::try_from(size).ok()).map(Val::Int).ok_or(OVERLOAD),
        Function::StartsWith | Function::EndsWith | Function::Contains => {
            let (text, part) = (first.text().ok_or(OVERLOAD)?, args.get(1).and_then(Val::text).ok_or(OVERLOAD)?);
            Ok(Val::Bool(match function {
                Function::StartsWith => text.starts_with(part.as_ref()),
                Function::EndsWith => text.ends_with(part.as_ref()),
                _ => text.contains(part.as_ref()),
            }))
        }
        Function::Int => int(first).map(Val::Int),
        Function::Uint => uint(first).map(Val::Uint),
        Function::Double => double(first).map(Val::Double),
        Function::Str => string(first),
        Function::Bytes => match first {
            Val::Bytes(_) => Ok(first.clone()),
            other => Ok(Val::Bytes(Cow::Owned(other.text().ok_or(OVERLOAD)?.as_bytes().into()))),
        },
        Function::Bool => match (first, first.text().as_deref()) {
            (Val::Bool(_), _) => Ok(first.clone()),
            (_, Some("1" | "t" | "true" | "TRUE" | "True")) => Ok(Val::Bool(true)),
            (_, Some("0" | "f" | "false" | "FALSE" | "False")) => Ok(Val::Bool(false)),
            _ => Err("the text is no bool"),
        },
        Function::Dyn => Ok(first.clone()),
        Function::TypeOf => Ok(Val::Type(type_name(first))),
        Function::Time => match first {
            Val::Time(_) => Ok(first.clone()),
            Val::Int(seconds) => valid(Timestamp { seconds: *seconds, nanos: 0 }),
            other => time::parse_rfc3339(&other.text().ok_or(OVERLOAD)?)
                .ok_or("the text is no RFC 3339 time")
                .and_then(valid),
        },
        Function::Duration => match first {
            Val::Duration(_) => Ok(first.clone()),
            Val::Int(seconds) => seconds.checked_mul(1_000_000_000).map(Val::Duration).ok_or(RANGE),
            other => {
                parse_duration(&other.text().ok_or(OVERLOAD)?).map(Val::Duration).map_err(|_| "the text is no duration")
            }
        },
        Function::Part(part) => of_time(part, first).map(Val::Int).ok_or(OVERLOAD),
    }
}

fn valid<'a>(at: Timestamp) -> Result<Val<'a>, Fault> {
    if time::is_valid(&at) { Ok(Val::Time(at)) } else { Err(RANGE) }
}

fn size(of: &Val<'_>) -> Option<usize> {
    match of {
        Val::Bytes(bytes) => Some(bytes.len()),
        Val::Map(entries) => Some(entries.len()),
        other => other.text().map(|text| text.chars().count()).or_else(|| other.list_len()),
    }
}

fn int(of: &Val<'_>) -> Result<i64, Fault> {
    match of {
        Val::Int(n) => Ok(*n),
        Val::Uint(n) => i64::try_from(*n).map_err(|_| RANGE),
        Val::Double(n) if *n > -9.223_372_036_854_775e18 && *n < 9.223_372_036_854_775e18 => Ok(*n as i64),
        Val::Double(_) => Err(RANGE),
        Val::Time(at) => Ok(at.seconds),
        other => other.text().and_then(|text| text.parse().ok()).ok_or("the text is no int"),
    }
}

fn uint(of: &Val<'_>) -> Result<u64, Fault> {
    match of {
        Val::Uint(n) => Ok(*n),
        Val::Int(n) => u64::try_from(*n).map_err(|_| RANGE),
        Val::Double(n) if *n >= 0.0 && *n < 1.844_674_407_370_955e19 => Ok(*n as u64),
        Val::Double(_) => Err(RANGE),
        other => other.text().and_then(|text| text.parse().ok()).ok_or("the text is no uint"),
    }
}

fn double(of: &Val<'_>) -> Result<f64, Fault> {
    match of {
        Val::Double(n) => Ok(*n),
        Val::Int(n) => Ok(*n as f64),
        Val::Uint(n) => Ok(*n as f64),
        other => other.text().and_then(|text| text.parse().ok()).ok_or("the text is no double"),
    }
}

fn string<'a>(of: &Val<'a>) -> Result<Val<'a>, Fault> {
    let text: String = match of {
        Val::Str(_) | Val::Ip(_) => return Ok(of.clone()),
        Val::Bool(v) => v.to_string(),
        Val::Int(v) => v.to_string(),
        Val::Uint(v) => v.to_string(),
        Val::Double(v) => v.to_string(),
        Val::Bytes(v) => core::str::from_utf8(v).map_err(|_| "the bytes are no UTF-8")?.into(),
        Val::Time(v) => time::Rfc3339(v).to_string(),
        Val::Duration(v) => show_duration(*v),
        _ => return Err("no such overload"),
    };
    Ok(Val::Str(Cow::Owned(text)))
}

fn type_name(of: &Val<'_>) -> &'static str {
    match of {
        Val::Null => "null_type",
        Val::Bool(_) => "bool",
        Val::Int(_) => "int",
        Val::Uint(_) => "uint",
        Val::Double(_) => "double",
        Val::Str(_) | Val::Ip(_) => "string",
        Val::Bytes(_) => "bytes",
        Val::Time(_) => "google.protobuf.Timestamp",
        Val::Duration(_) => "google.protobuf.Duration",
        Val::Message(info, _) => info.name,
        Val::Consts(_) | Val::Strings(_) | Val::Names(_) | Val::Workloads(_) | Val::Repeated(..) | Val::List(_) => {
            "list"
        }
        Val::Map(_) => "map",
        Val::Type(_) => "type",
    }
}

/// In UTC; months, days of the month and days of the year count from 0, but for the date, which counts from 1.
fn of_time(part: Part, of: &Val<'_>) -> Option<i64> {
    if let Val::Duration(ns) = of {
        let ns = *ns;
        return Some(match part {
            Part::Hours => ns / 3_600_000_000_000,
            Part::Minutes => ns / 60_000_000_000,
            Part::Seconds => ns / 1_000_000_000,
            Part::Milliseconds => ns / 1_000_000 % 1_000,
            _ => return None,
        });
    }
    let Val::Time(at) = of else { return None };
    let civil = time::civil(at.seconds);
    Some(match part {
        Part::FullYear => civil.year,
        Part::Month => i64::from(civil.month) - 1,
        Part::Date => civil.day.into(),
        Part::DayOfMonth => i64::from(civil.day) - 1,
        Part::DayOfYear => at.seconds.div_euclid(86_400) - time::days(civil.year, 1, 1),
        Part::DayOfWeek => civil.weekday.into(),
        Part::Hours => civil.hour.into(),
        Part::Minutes => civil.minute.into(),
        Part::Seconds => civil.second.into(),
        Part::Milliseconds => i64::from(at.nanos) / 1_000_000,
    })
}
