//! Reading JSON text. Never panics, whatever the bytes; nesting has a bound.

use std::borrow::Cow;

/// How deep values may nest before they are refused.
const DEPTH_MAX: u32 = 64;

/// What to do with fields a message does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unknown {
    /// Refuse the message.
    Reject,
    /// Pass over the field, and over enum names without a number.
    Discard,
}

/// Why some text is not the JSON of a message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{kind} (at byte {at})")]
pub struct Error {
    /// Where reading stopped, in bytes from the start.
    pub at: usize,
    /// What was wrong there.
    pub kind: ErrorKind,
}

/// What was wrong with the text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ErrorKind {
    /// The text ends within a value.
    #[error("unexpected end of JSON")]
    End,
    /// The grammar of JSON asks for something else here.
    #[error("expected {0}")]
    Expected(&'static str),
    /// The message has no such field.
    #[error("unknown field {field:?} in {message}")]
    UnknownField {
        /// The full name of the message.
        message: &'static str,
        /// The key that was found.
        field: String,
    },
    /// The enum has no such name.
    #[error("invalid value for enum type: {0:?}")]
    UnknownName(String),
    /// Not a number of the field's type.
    #[error("invalid number {0:?}")]
    Number(String),
    /// Not an RFC 3339 time within years 1 to 9999.
    #[error("invalid google.protobuf.Timestamp value {0:?}")]
    Time(String),
    /// More than 64 levels.
    #[error("nested too deeply")]
    Depth,
}

/// A cursor over JSON text.
#[derive(Debug)]
pub struct Reader<'a> {
    text: &'a str,
    at: usize,
    depth: u32,
    unknown: Unknown,
}

impl<'a> Reader<'a> {
    /// A reader at the start of `text`.
    pub fn new(text: &'a str, unknown: Unknown) -> Self {
        Self { text, at: 0, depth: 0, unknown }
    }

    pub(crate) fn error(&self, kind: ErrorKind) -> Error {
        Error { at: self.at, kind }
    }

    fn space(&mut self) {
        let rest = &self.text.as_bytes()[self.at..];
        self.at += rest.iter().take_while(|c| matches!(c, b' ' | b'\t' | b'\n' | b'\r')).count();
    }

    fn peek(&mut self) -> Result<u8, Error> {
        self.space();
        self.text.as_bytes().get(self.at).copied().ok_or_else(|| self.error(ErrorKind::End))
    }

    fn expect(&mut self, want: u8, name: &'static str) -> Result<(), Error> {
        if self.peek()? != want {
            return Err(self.error(ErrorKind::Expected(name)));
        }
        self.at += 1;
        Ok(())
    }

    /// True when only white space is left.
    pub(crate) fn at_end(&mut self) -> bool {
        self.space();
        self.at == self.text.len()
    }

    pub(crate) fn end(&mut self) -> Result<(), Error> {
        if self.at_end() { Ok(()) } else { Err(self.error(ErrorKind::Expected("end of input"))) }
    }

    fn deeper<T>(&mut self, read: impl FnOnce(&mut Self) -> Result<T, Error>) -> Result<T, Error> {
        if self.depth == DEPTH_MAX {
            return Err(self.error(ErrorKind::Depth));
        }
        self.depth += 1;
        let value = read(self);
        self.depth -= 1;
        value
    }

    /// Reads an object, handing each key to `field`, which reads the value or answers false.
    pub(crate) fn object(
        &mut self,
        message: &'static str,
        mut field: impl FnMut(&str, &mut Self) -> Result<bool, Error>,
    ) -> Result<(), Error> {
        self.deeper(|r| {
            r.expect(b'{', "an object")?;
            if r.peek()? == b'}' {
                r.at += 1;
                return Ok(());
            }
            loop {
                let start = r.at;
                let key = r.text_value()?;
                r.expect(b':', "a colon")?;
                if !field(&key, r)? {
                    if r.unknown == Unknown::Reject {
                        return Err(Error { at: start, kind: ErrorKind::UnknownField { message, field: key.into() } });
                    }
                    r.skip()?;
                }
                match r.peek()? {
                    b',' => {
                        r.at += 1;
                        r.space();
                    }
                    b'}' => {
                        r.at += 1;
                        return Ok(());
                    }
                    _ => return Err(r.error(ErrorKind::Expected("a comma or a closing brace"))),
                }
            }
        })
    }

    pub(crate) fn array<T>(
        &mut self,
        into: &mut Vec<T>,
        mut item: impl FnMut(&mut Self) -> Result<T, Error>,
    ) -> Result<(), Error> {
        self.deeper(|r| {
            r.expect(b'[', "an array")?;
            if r.peek()? == b']' {
                r.at += 1;
                return Ok(());
            }
            loop {
                into.push(item(r)?);
                match r.peek()? {
                    b',' => r.at += 1,
                    b']' => {
                        r.at += 1;
                        return Ok(());
                    }
                    _ => return Err(r.error(ErrorKind::Expected("a comma or a closing bracket"))),
                }
            }
        })
    }

    /// Passes over one value of any kind.
    pub(crate) fn skip(&mut self) -> Result<(), Error> {
        match self.peek()? {
            b'{' => self.object("", |_, r| r.skip().map(|()| true)),
            b'[' => self.array(&mut Vec::new(), |r| r.skip()),
            b'"' => self.text_value().map(drop),
            _ => {
                let word = self.word()?;
                let known = matches!(word, "true" | "false" | "null") || number_shape(word);
                if known { Ok(()) } else { Err(self.error(ErrorKind::Expected("a JSON value"))) }
            }
        }
    }

    /// True, and past it, when the next value is `null`.
    pub(crate) fn null(&mut self) -> Result<bool, Error> {
        let found = self.peek()? == b'n' && self.text[self.at..].starts_with("null");
        if found {
            self.at += 4;
        }
        Ok(found)
    }

    fn word(&mut self) -> Result<&'a str, Error> {
        self.space();
        let rest = &self.text[self.at..];
        let len = rest.bytes().take_while(|c| c.is_ascii_alphanumeric() || matches!(c, b'+' | b'-' | b'.')).count();
        if len == 0 {
            return Err(self.error(if rest.is_empty() { ErrorKind::End } else { ErrorKind::Expected("a JSON value") }));
        }
        self.at += len;
        Ok(&rest[..len])
    }

    pub(crate) fn bool(&mut self) -> Result<bool, Error> {
        match self.word()? {
            "true" => Ok(true),
            "false" => Ok(false),
            _ => Err(self.error(ErrorKind::Expected("true or false"))),
        }
    }

    /// A number, bare or as text, as protobuf JSON allows for every numeric field.
    fn number<T>(&mut self, parse: impl Fn(&str) -> Option<T>) -> Result<T, Error> {
        let text = if self.peek()? == b'"' { self.text_value()? } else { Cow::Borrowed(self.word()?) };
        parse(&text).ok_or_else(|| self.error(ErrorKind::Number(text.into_owned())))
    }

    fn integer<T: TryFrom<i128>>(&mut self) -> Result<T, Error> {
        self.number(|text| {
            if !number_shape(text) {
                return None;
            }
            let exact = text.parse::<i128>().ok();
            // 1e3 and 5.0 are integers too.
            let whole = || text.parse::<f64>().ok().filter(|f| f.fract() == 0.0 && f.abs() < 1e18).map(|f| f as i128);
            T::try_from(exact.or_else(whole)?).ok()
        })
    }

    pub(crate) fn u32(&mut self) -> Result<u32, Error> {
        self.integer()
    }

    pub(crate) fn i32(&mut self) -> Result<i32, Error> {
        self.integer()
    }

    pub(crate) fn u64(&mut self) -> Result<u64, Error> {
        self.integer()
    }

    pub(crate) fn i64(&mut self) -> Result<i64, Error> {
        self.integer()
    }

    pub(crate) fn f64(&mut self) -> Result<f64, Error> {
        self.number(|text| match text {
            "NaN" => Some(f64::NAN),
            "Infinity" => Some(f64::INFINITY),
            "-Infinity" => Some(f64::NEG_INFINITY),
            _ if number_shape(text) => text.parse().ok().filter(|f: &f64| f.is_finite()),
            _ => None,
        })
    }

    pub(crate) fn enumeration(&mut self, by_name: impl Fn(&str) -> Option<i32>) -> Result<i32, Error> {
        if self.peek()? != b'"' {
            return self.i32();
        }
        let name = self.text_value()?;
        match by_name(&name) {
            Some(number) => Ok(number),
            None if self.unknown == Unknown::Discard => Ok(0),
            None => Err(self.error(ErrorKind::UnknownName(name.into_owned()))),
        }
    }

    pub(crate) fn string(&mut self) -> Result<String, Error> {
        self.text_value().map(Cow::into_owned)
    }

    fn text_value(&mut self) -> Result<Cow<'a, str>, Error> {
        self.expect(b'"', "a string")?;
        let start = self.at;
        let mut owned = String::new();
        let mut clean = start;
        loop {
            let Some(c) = self.text.as_bytes().get(self.at).copied() else { return Err(self.error(ErrorKind::End)) };
            match c {
                b'"' => {
                    let tail = &self.text[clean..self.at];
                    self.at += 1;
                    return Ok(if clean == start { Cow::Borrowed(tail) } else { Cow::Owned(owned + tail) });
                }
                b'\\' => {
                    owned.push_str(&self.text[clean..self.at]);
                    self.at += 1;
                    owned.push(self.escape()?);
                    clean = self.at;
                }
                0..=0x1f => return Err(self.error(ErrorKind::Expected("an escaped control character"))),
                _ => self.at += 1,
            }
        }
    }

    fn escape(&mut self) -> Result<char, Error> {
        let Some(c) = self.text.as_bytes().get(self.at).copied() else { return Err(self.error(ErrorKind::End)) };
        self.at += 1;
        Ok(match c {
            b'"' => '"',
            b'\\' => '\\',
            b'/' => '/',
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => {
                let high = self.hex4()?;
                if !(0xd800..0xdc00).contains(&high) {
                    return char::from_u32(high).ok_or_else(|| self.error(ErrorKind::Expected("a pair of surrogates")));
                }
                if !self.text[self.at..].starts_with("\\u") {
                    return Err(self.error(ErrorKind::Expected("a pair of surrogates")));
                }
                self.at += 2;
                let low = self.hex4()?;
                (0xdc00..0xe000)
                    .contains(&low)
                    .then(|| 0x1_0000 + ((high - 0xd800) << 10) + (low - 0xdc00))
                    .and_then(char::from_u32)
                    .ok_or_else(|| self.error(ErrorKind::Expected("a pair of surrogates")))?
            }
            _ => return Err(self.error(ErrorKind::Expected("an escape sequence"))),
        })
    }

    fn hex4(&mut self) -> Result<u32, Error> {
        let digits = self.text.as_bytes().get(self.at..self.at + 4).ok_or_else(|| self.error(ErrorKind::End))?;
        let mut value = 0;
        for digit in digits {
            let digit = char::from(*digit).to_digit(16);
            value = value * 16 + digit.ok_or_else(|| self.error(ErrorKind::Expected("four hexadecimal digits")))?;
        }
        self.at += 4;
        Ok(value)
    }
}

/// The grammar of JSON numbers, which is narrower than that of Rust's parsers.
fn number_shape(text: &str) -> bool {
    let digits = |s: &str| !s.is_empty() && s.bytes().all(|c| c.is_ascii_digit());
    let (mantissa, exponent) = text.split_once(['e', 'E']).map_or((text, None), |(m, e)| (m, Some(e)));
    let mantissa = mantissa.strip_prefix('-').unwrap_or(mantissa);
    let (whole, fraction) = mantissa.split_once('.').map_or((mantissa, None), |(w, f)| (w, Some(f)));
    digits(whole)
        && (whole == "0" || !whole.starts_with('0'))
        && fraction.is_none_or(digits)
        && exponent.is_none_or(|e| digits(e.strip_prefix(['+', '-']).unwrap_or(e)))
}
