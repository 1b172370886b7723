//! Colours, and what keeps foreign text from bringing its own.

use std::borrow::Cow;

/// Paints text, or leaves it as it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Style {
    /// True when colours are wanted.
    pub colors: bool,
}

/// One of the eight colours of a terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Color {
    Red = 31,
    Green = 32,
    Yellow = 33,
    Magenta = 35,
    Cyan = 36,
}

impl Style {
    pub(super) fn paint(self, color: Color, text: &str) -> String {
        if !self.colors {
            return text.into();
        }
        // Our own sequences are marked with a character no text can hold, until `safe` has looked at the rest.
        format!("{OWN}[{}m{text}{OWN}[0m", color as u8)
    }

    /// The text with foreign escape characters and carriage returns made visible.
    pub(super) fn safe(self, text: &str) -> Cow<'_, str> {
        if !text.contains(['\u{1b}', '\r', OWN]) {
            return Cow::Borrowed(text);
        }
        let mut out = String::with_capacity(text.len() + 8);
        for c in text.chars() {
            match c {
                '\u{1b}' => out.push_str("^["),
                '\r' => out.push_str("\\r"),
                OWN if self.colors => out.push('\u{1b}'),
                c => out.push(c),
            }
        }
        Cow::Owned(out)
    }
}

/// A noncharacter: reserved for use within a program, never for interchange.
const OWN: char = '\u{fdd0}';

/// Removes the mark from text that came from outside.
pub(super) fn foreign(text: &str) -> Cow<'_, str> {
    if text.contains(OWN) { Cow::Owned(text.replace(OWN, "")) } else { Cow::Borrowed(text) }
}
