//! The tokens of an expression and where they begin.

use super::{CelError, Why};
use alloc::{
    string::{String, ToString},
    vec::Vec,
};

/// The smallest pieces of an expression.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Token {
    /// A name, which may turn out to be a keyword.
    Name(String),
    /// Digits without a sign; 2^63 only behind a minus.
    Int(u64),
    Uint(u64),
    Double(f64),
    Str(String),
    Bytes(Vec<u8>),
    /// An operator or a bracket.
    Sign(&'static str),
    End,
}

impl Token {
    /// As an error shows it.
    pub fn shown(&self) -> String {
        match self {
            Self::Name(name) => name.clone(),
            Self::Sign(sign) => (*sign).to_string(),
            Self::Int(n) => n.to_string(),
            Self::Uint(n) => alloc::format!("{n}u"),
            Self::Double(n) => n.to_string(),
            Self::Str(text) => alloc::format!("{text:?}"),
            Self::Bytes(_) => "bytes".into(),
            Self::End => "the end".into(),
        }
    }
}

/// Longer signs come before those they begin with.
const SIGNS: [&str; 25] = [
    "||", "&&", "==", "!=", "<=", ">=", "<", ">", "+", "-", "*", "/", "%", "!", "?", ":", ".", ",", "(", ")", "[", "]",
    "{", "}", "=",
];

/// Reads all tokens; each with its column, which counts characters from 1.
pub(super) fn tokens(text: &str) -> Result<Vec<(usize, Token)>, CelError> {
    let mut lexer = Lexer { chars: text.chars().collect(), at: 0 };
    let mut all = Vec::new();
    loop {
        lexer.skip_space();
        let column = lexer.at + 1;
        let token = lexer.token().map_err(|why| CelError { column, why })?;
        let done = token == Token::End;
        all.push((column, token));
        if done {
            return Ok(all);
        }
    }
}

struct Lexer {
    chars: Vec<char>,
    at: usize,
}

impl Lexer {
    fn peek(&self, ahead: usize) -> Option<char> {
        self.chars.get(self.at + ahead).copied()
    }

    fn starts_with(&self, sign: &str) -> bool {
        sign.chars().enumerate().all(|(ahead, c)| self.peek(ahead) == Some(c))
    }

    fn skip_space(&mut self) {
        loop {
            match self.peek(0) {
                Some(' ' | '\t' | '\n' | '\r' | '\u{c}') => self.at += 1,
                Some('/') if self.peek(1) == Some('/') => {
                    while self.peek(0).is_some_and(|c| c != '\n') {
                        self.at += 1;
                    }
                }
                _ => return,
            }
        }
    }

    fn token(&mut self) -> Result<Token, Why> {
        let Some(first) = self.peek(0) else { return Ok(Token::End) };
        if first.is_ascii_digit() || (first == '.' && self.peek(1).is_some_and(|c| c.is_ascii_digit())) {
            return self.number();
        }
        if let Some((raw, bytes, length)) = self.text_prefix() {
            self.at += length;
            return self.text(raw, bytes);
        }
        if first.is_ascii_alphabetic() || first == '_' {
            let mut name = String::new();
            while let Some(c) = self.peek(0).filter(|c| c.is_ascii_alphanumeric() || *c == '_') {
                name.push(c);
                self.at += 1;
            }
            return Ok(Token::Name(name));
        }
        let Some(sign) = SIGNS.into_iter().find(|sign| self.starts_with(sign)) else {
            return Err(Why::Character(first));
        };
        self.at += sign.len();
        Ok(Token::Sign(sign))
    }

    /// Whether text begins here: raw, as bytes, and how many letters come before the quote.
    fn text_prefix(&self) -> Option<(bool, bool, usize)> {
        let (mut raw, mut bytes) = (false, false);
        for ahead in 0..3 {
            match self.peek(ahead)? {
                'r' | 'R' if !raw => raw = true,
                'b' | 'B' if !bytes => bytes = true,
                '"' | '\'' => return Some((raw, bytes, ahead)),
                _ => return None,
            }
        }
        None
    }

    fn number(&mut self) -> Result<Token, Why> {
        let start = self.at;
        let hex = self.starts_with("0x") || self.starts_with("0X");
        if hex {
            self.at += 2;
        }
        let digit = |c: char| if hex { c.is_ascii_hexdigit() } else { c.is_ascii_digit() };
        let mut double = false;
        loop {
            match self.peek(0) {
                Some(c) if digit(c) => {}
                Some('.') if !hex && !double && self.peek(1).is_some_and(|c| c.is_ascii_digit()) => double = true,
                Some('e' | 'E') if !hex => {
                    let signed = usize::from(matches!(self.peek(1), Some('+' | '-')));
                    if !self.peek(1 + signed).is_some_and(|c| c.is_ascii_digit()) {
                        break;
                    }
                    double = true;
                    self.at += signed;
                }
                _ => break,
            }
            self.at += 1;
        }
        let text: String = self.chars[start..self.at].iter().collect();
        if double {
            return text.parse().map(Token::Double).map_err(|_| Why::Number(text));
        }
        let digits = if hex { &text[2..] } else { &text };
        let value = u64::from_str_radix(digits, if hex { 16 } else { 10 }).map_err(|_| Why::Number(text.clone()))?;
        if matches!(self.peek(0), Some('u' | 'U')) {
            self.at += 1;
            return Ok(Token::Uint(value));
        }
        if value > 1 << 63 { Err(Why::Number(text)) } else { Ok(Token::Int(value)) }
    }

    fn text(&mut self, raw: bool, bytes: bool) -> Result<Token, Why> {
        let quote = self.peek(0).expect("the prefix ends at a quote");
        let triple = self.peek(1) == Some(quote) && self.peek(2) == Some(quote);
        let length = if triple { 3 } else { 1 };
        self.at += length;
        let mut out = Vec::new();
        loop {
            let c = self.peek(0).ok_or(Why::Unclosed)?;
            if c == quote && (!triple || (self.peek(1) == Some(quote) && self.peek(2) == Some(quote))) {
                self.at += length;
                break;
            }
            if c == '\n' && !triple {
                return Err(Why::Unclosed);
            }
            self.at += 1;
            if c == '\\' && !raw {
                self.escape(bytes, &mut out)?;
            } else {
                out.extend(c.encode_utf8(&mut [0; 4]).bytes());
            }
        }
        if bytes {
            return Ok(Token::Bytes(out));
        }
        Ok(Token::Str(String::from_utf8(out).expect("characters were put in whole")))
    }

    /// What stands behind a backslash.
    fn escape(&mut self, bytes: bool, out: &mut Vec<u8>) -> Result<(), Why> {
        let c = self.peek(0).ok_or(Why::Unclosed)?;
        self.at += 1;
        let (start, digits, radix) = match c {
            'x' | 'X' => (self.at, 2, 16),
            'u' if !bytes => (self.at, 4, 16),
            'U' if !bytes => (self.at, 8, 16),
            '0'..='3' => (self.at - 1, 3, 8),
            _ => {
                let simple = match c {
                    'a' => 7,
                    'b' => 8,
                    'f' => 12,
                    'n' => b'\n',
                    'r' => b'\r',
                    't' => b'\t',
                    'v' => 11,
                    '\\' => b'\\',
                    '?' => b'?',
                    '"' => b'"',
                    '\'' => b'\'',
                    '`' => b'`',
                    _ => return Err(Why::Escape(c)),
                };
                out.push(simple);
                return Ok(());
            }
        };
        let text: String = self.chars.get(start..start + digits).ok_or(Why::Escape(c))?.iter().collect();
        let number = u32::from_str_radix(&text, radix).map_err(|_| Why::Escape(c))?;
        self.at = start + digits;
        if bytes {
            out.push(u8::try_from(number).map_err(|_| Why::Escape(c))?);
        } else {
            let c = char::from_u32(number).ok_or(Why::Escape(c))?;
            out.extend(c.encode_utf8(&mut [0; 4]).bytes());
        }
        Ok(())
    }
}
