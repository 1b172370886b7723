//! Command-line flags in the grammar of the original: order counts, errors name flag and value.

use crate::times::quote;
use std::collections::BTreeMap;

/// What a flag does with the word behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Takes {
    /// True, unless given as `--flag=false`.
    Bool,
    /// Any text.
    Text,
    /// Text, of which there may be several, separated by commas.
    List,
    /// Text, as often as the flag is given.
    Many,
    /// A count.
    Number,
    /// A port number.
    Port,
    /// A length of time.
    Duration,
    /// A flow filter: the value is checked where filters are made.
    Filter,
    /// A flow filter whose value may be left out.
    FilterOr(&'static str),
}

/// One flag a command knows.
#[derive(Debug, Clone, Copy)]
pub struct Flag {
    /// Without the dashes.
    pub name: &'static str,
    /// One letter, without the dash.
    pub short: Option<char>,
    /// What it does with a value.
    pub takes: Takes,
    /// Shown by help; empty hides the flag.
    pub help: &'static str,
    /// Shown by help and used when nothing else is said.
    pub default: &'static str,
}

impl Flag {
    /// The name as errors show it.
    fn shown(&self) -> String {
        match self.short {
            Some(short) => format!("-{short}, --{}", self.name),
            None => format!("--{}", self.name),
        }
    }

    /// The value of a flag that stands alone.
    fn alone(&self) -> Option<&'static str> {
        match self.takes {
            Takes::Bool => Some("true"),
            Takes::FilterOr(value) => Some(value),
            _ => None,
        }
    }
}

/// What the command line said.
#[derive(Debug, Default)]
pub struct Parsed {
    /// Last value of each flag, lists gathered.
    pub values: BTreeMap<&'static str, Vec<String>>,
    /// Words that are no flags.
    pub words: Vec<String>,
    /// Somebody asked for help.
    pub help: bool,
}

impl Parsed {
    /// The value of a flag that was given.
    pub fn given(&self, name: &str) -> Option<&str> {
        self.values.get(name).and_then(|values| values.last()).map(String::as_str)
    }
}

/// Reads the boolean spellings of the original.
pub fn parse_bool(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(format!("strconv.ParseBool: parsing {}: invalid syntax", quote(text))),
    }
}

/// Reads an unsigned number of so many bits; base prefixes are understood when `base` says so.
pub fn parse_uint(text: &str, bits: u32, any_base: bool) -> Result<u64, String> {
    let wrong = |what| format!("strconv.ParseUint: parsing {}: {what}", quote(text));
    let (digits, radix) = match text.get(..2).map(str::to_ascii_lowercase).as_deref() {
        Some("0x") if any_base => (&text[2..], 16),
        Some("0b") if any_base => (&text[2..], 2),
        Some("0o") if any_base => (&text[2..], 8),
        _ if any_base && text.len() > 1 && text.starts_with('0') => (&text[1..], 8),
        _ => (text, 10),
    };
    if digits.is_empty() || !digits.chars().all(|c| c.is_digit(radix)) {
        return Err(wrong("invalid syntax"));
    }
    let max = if bits == 64 { u64::MAX } else { (1 << bits) - 1 };
    u64::from_str_radix(digits, radix).ok().filter(|n| *n <= max).ok_or_else(|| wrong("value out of range"))
}

/// Refuses a value a flag of this kind cannot have.
pub fn check(takes: Takes, value: &str) -> Result<(), String> {
    match takes {
        Takes::Bool => parse_bool(value).map(drop),
        Takes::Number => parse_uint(value, 64, true).map(drop),
        Takes::Port => parse_uint(value, 16, true).map(drop),
        Takes::Duration => crate::times::parse_duration(value).map(drop),
        Takes::Text | Takes::List | Takes::Many | Takes::Filter | Takes::FilterOr(_) => Ok(()),
    }
}

/// Reads the words behind the command's name. `filter` is told of each filter flag in turn.
pub fn parse(
    args: &[String],
    flags: &[Flag],
    filter: impl FnMut(&'static str, &str) -> Result<(), String>,
) -> Result<Parsed, String> {
    let mut reader = Reader { flags, filter, parsed: Parsed::default(), rest: args.iter() };
    while let Some(arg) = reader.rest.next() {
        if arg == "--" {
            reader.parsed.words.extend(reader.rest.by_ref().cloned());
        } else if let Some(long) = arg.strip_prefix("--") {
            reader.long(long)?;
        } else if let Some(shorts) = arg.strip_prefix('-').filter(|shorts| !shorts.is_empty()) {
            reader.shorts(shorts)?;
        } else {
            reader.parsed.words.push(arg.clone());
        }
    }
    Ok(reader.parsed)
}

/// Words on their way to what they say.
struct Reader<'a, F> {
    flags: &'a [Flag],
    filter: F,
    parsed: Parsed,
    rest: std::slice::Iter<'a, String>,
}

impl<F: FnMut(&'static str, &str) -> Result<(), String>> Reader<'_, F> {
    fn set(&mut self, flag: &Flag, value: &str) -> Result<(), String> {
        let wrong = |why: String| format!("invalid argument {} for \"{}\" flag: {why}", quote(value), flag.shown());
        check(flag.takes, value).map_err(wrong)?;
        let values = self.parsed.values.entry(flag.name).or_default();
        match flag.takes {
            Takes::Filter | Takes::FilterOr(_) => (self.filter)(flag.name, value).map_err(wrong)?,
            Takes::List => values.extend(value.split(',').filter(|part| !part.is_empty()).map(str::to_owned)),
            Takes::Many => values.push(value.to_owned()),
            _ => *values = vec![value.to_owned()],
        }
        Ok(())
    }

    /// Sets a flag to the word behind it.
    fn set_to_next(&mut self, flag: &Flag, shown: impl FnOnce() -> String) -> Result<(), String> {
        match self.rest.next() {
            Some(value) => self.set(flag, value),
            None => Err(format!("flag needs an argument: {}", shown())),
        }
    }

    /// `--name`, `--name=value`, `--name value`.
    fn long(&mut self, long: &str) -> Result<(), String> {
        let (name, value) = long.split_once('=').map_or((long, None), |(name, value)| (name, Some(value)));
        let Some(flag) = self.flags.iter().find(|flag| flag.name == name) else {
            if name == "help" {
                self.parsed.help = true;
                return Ok(());
            }
            return Err(format!("unknown flag: --{name}"));
        };
        match value.or(flag.alone()) {
            Some(value) => self.set(flag, value),
            None => self.set_to_next(flag, || format!("--{name}")),
        }
    }

    /// `-a`, `-abc`, `-a=value`, `-avalue`, `-a value`.
    fn shorts(&mut self, shorts: &str) -> Result<(), String> {
        let mut at = 0;
        while let Some(short) = shorts[at..].chars().next() {
            at += short.len_utf8();
            let behind = &shorts[at..];
            let Some(flag) = self.flags.iter().find(|flag| flag.short == Some(short)) else {
                if short == 'h' {
                    self.parsed.help = true;
                    return Ok(());
                }
                return Err(format!("unknown shorthand flag: '{short}' in -{shorts}"));
            };
            match (behind.strip_prefix('='), flag.alone()) {
                (Some(value), _) => return self.set(flag, value),
                (None, Some(value)) => self.set(flag, value)?,
                (None, None) if !behind.is_empty() => return self.set(flag, behind),
                (None, None) => return self.set_to_next(flag, || format!("'{short}' in -{shorts}")),
            }
        }
        Ok(())
    }
}

/// Finds the words among `args` that are no flags or values of flags, as (index, word).
pub fn positions<'a>(args: &'a [String], flags: &[Flag]) -> Vec<(usize, &'a str)> {
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(arg) = args.get(at) {
        if arg == "--" {
            break;
        }
        let takes_next = |flag: &Flag| flag.alone().is_none();
        if let Some(long) = arg.strip_prefix("--") {
            let known = flags.iter().find(|flag| flag.name == long);
            at += usize::from(known.is_some_and(takes_next));
        } else if let Some(shorts) = arg.strip_prefix('-').filter(|shorts| !shorts.is_empty()) {
            let last = shorts.chars().last();
            let known = flags.iter().find(|flag| flag.short.is_some() && flag.short == last);
            at += usize::from(known.is_some_and(takes_next));
        } else {
            found.push((at, arg.as_str()));
        }
        at += 1;
    }
    found
}
