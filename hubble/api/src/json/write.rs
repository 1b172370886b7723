//! Writing JSON text.

/// Appends JSON values to a string.
#[derive(Debug, Default)]
pub struct Writer {
    out: String,
    /// True when the next key or element needs a comma before it.
    comma: bool,
}

impl Writer {
    /// A writer that appends to `out`.
    pub fn new(out: String) -> Self {
        Self { out, comma: false }
    }

    /// The text written, behind what was there before.
    pub fn into_inner(self) -> String {
        self.out
    }

    pub(crate) fn open(&mut self) {
        self.out.push('{');
        self.comma = false;
    }

    pub(crate) fn close(&mut self) {
        self.out.push('}');
        self.comma = true;
    }

    pub(crate) fn key(&mut self, key: &str) {
        if self.comma {
            self.out.push(',');
        }
        self.comma = false;
        self.out.push('"');
        self.out.push_str(key);
        self.out.push_str("\":");
    }

    pub(crate) fn array<T>(&mut self, items: &[T], mut write: impl FnMut(&mut Self, &T)) {
        self.out.push('[');
        for (n, item) in items.iter().enumerate() {
            if n > 0 {
                self.out.push(',');
            }
            write(self, item);
        }
        self.out.push(']');
        self.comma = true;
    }

    fn show(&mut self, value: impl std::fmt::Display) {
        use std::fmt::Write as _;
        write!(self.out, "{value}").expect("a String takes every write");
        self.comma = true;
    }

    pub(crate) fn bool(&mut self, value: bool) {
        self.show(value);
    }

    pub(crate) fn u32(&mut self, value: u32) {
        self.show(value);
    }

    pub(crate) fn i32(&mut self, value: i32) {
        self.show(value);
    }

    pub(crate) fn u64(&mut self, value: u64) {
        self.show(format_args!("\"{value}\""));
    }

    pub(crate) fn i64(&mut self, value: i64) {
        self.show(format_args!("\"{value}\""));
    }

    pub(crate) fn f64(&mut self, value: f64) {
        if !value.is_finite() {
            let text = if value.is_nan() {
                "NaN"
            } else if value > 0.0 {
                "Infinity"
            } else {
                "-Infinity"
            };
            return self.string(text);
        }
        let size = value.abs();
        if size != 0.0 && !(1e-6..1e21).contains(&size) {
            let text = format!("{value:e}");
            let (digits, exponent) = text.split_once('e').expect("exponent form has an exponent");
            let plus = if exponent.starts_with('-') { "" } else { "+" };
            return self.show(format_args!("{digits}e{plus}{exponent}"));
        }
        self.show(value);
    }

    pub(crate) fn enumeration(&mut self, number: i32, name: Option<&'static str>) {
        match name {
            Some(name) => self.show(format_args!("\"{name}\"")),
            None => self.show(number),
        }
    }

    pub(crate) fn string(&mut self, text: &str) {
        self.out.push('"');
        let mut clean = 0;
        for (at, c) in text.char_indices() {
            let escape = match c {
                '"' => "\\\"",
                '\\' => "\\\\",
                '\n' => "\\n",
                '\r' => "\\r",
                '\t' => "\\t",
                '\u{8}' => "\\b",
                '\u{c}' => "\\f",
                '<' => "\\u003c",
                '>' => "\\u003e",
                '&' => "\\u0026",
                '\u{2028}' => "\\u2028",
                '\u{2029}' => "\\u2029",
                '\0'..='\u{1f}' => "",
                _ => continue,
            };
            self.out.push_str(&text[clean..at]);
            clean = at + c.len_utf8();
            if escape.is_empty() {
                self.show(format_args!("\\u{:04x}", u32::from(c)));
            } else {
                self.out.push_str(escape);
            }
        }
        self.out.push_str(&text[clean..]);
        self.out.push('"');
        self.comma = true;
    }
}
