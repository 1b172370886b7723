//! Label selectors in Kubernetes' grammar, over labels with a source.
//!
//! A key may say its source, `k8s:app`; a key without one matches labels of any source. Labels are compared where
//! they lie, as text: nothing is parsed or copied while filtering.

use alloc::{
    boxed::Box,
    string::{String, ToString},
    vec,
    vec::Vec,
};

/// A conjunction of requirements; without any it selects everything.
#[derive(Debug, Clone, Default)]
pub struct Selector {
    requirements: Box<[Requirement]>,
}

#[derive(Debug, Clone)]
struct Requirement {
    /// Source of the label; none for any.
    source: Option<String>,
    key: String,
    test: Test,
}

#[derive(Debug, Clone)]
enum Test {
    Exists,
    Absent,
    In(Box<[String]>),
    NotIn(Box<[String]>),
    Greater(i64),
    Less(i64),
}

/// Why a text is no label selector.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SelectorError {
    /// Another token belongs here.
    #[error("found '{found}', expected: {expected}")]
    Token {
        /// What is there.
        found: String,
        /// What may be there.
        expected: &'static str,
    },
    /// Not a label key.
    #[error(
        "invalid label key {0:?}: a name of letters, digits, '-', '_' and '.' (63 at most), optionally with a DNS prefix and '/' before it"
    )]
    Key(String),
    /// Not a label value.
    #[error(
        "invalid label value {0:?}: 63 characters at most, letters, digits, '-', '_' and '.', alphanumeric at both ends"
    )]
    Value(String),
    /// `>` and `<` compare integers.
    #[error("for 'Gt', 'Lt' operators, the value must be an integer, not {0:?}")]
    Integer(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Word(String),
    Sign(&'static str),
    End,
}

impl Token {
    fn text(&self) -> String {
        match self {
            Self::Word(word) => word.clone(),
            Self::Sign(sign) => (*sign).into(),
            Self::End => String::new(),
        }
    }
}

struct Tokens {
    list: Vec<Token>,
    at: usize,
}

impl Tokens {
    fn new(text: &str) -> Self {
        let mut list = Vec::new();
        let mut rest = text.trim_start();
        while let Some(first) = rest.chars().next() {
            let sign = ["==", "!=", "=", "!", ">", "<", "(", ")", ","].into_iter().find(|sign| rest.starts_with(sign));
            let length = match sign {
                Some(sign) => {
                    list.push(Token::Sign(sign));
                    sign.len()
                }
                None => {
                    let end = |c: char| c.is_ascii_whitespace() || "=!><(),".contains(c);
                    let length = rest.find(end).unwrap_or(rest.len()).max(first.len_utf8());
                    list.push(Token::Word(rest[..length].to_string()));
                    length
                }
            };
            rest = rest[length..].trim_start();
        }
        Self { list, at: 0 }
    }

    fn peek(&self) -> Token {
        self.list.get(self.at).cloned().unwrap_or(Token::End)
    }

    fn take(&mut self) -> Token {
        let token = self.peek();
        self.at += 1;
        token
    }

    fn wrong<T>(&self, found: &Token, expected: &'static str) -> Result<T, SelectorError> {
        Err(SelectorError::Token { found: found.text(), expected })
    }
}

impl Selector {
    /// Reads a selector such as `k8s:app in (a, b), !canary`.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        let mut tokens = Tokens::new(text);
        let mut requirements = Vec::new();
        while tokens.peek() != Token::End {
            requirements.push(requirement(&mut tokens)?);
            match tokens.take() {
                Token::End => break,
                Token::Sign(",") => match tokens.peek() {
                    Token::Word(_) | Token::Sign("!") => {}
                    other => return tokens.wrong(&other, "identifier after ','"),
                },
                other => return tokens.wrong(&other, "',' or 'end of string'"),
            }
        }
        Ok(Self { requirements: requirements.into() })
    }

    /// True when the labels meet every requirement.
    pub fn matches(&self, labels: &[String]) -> bool {
        self.requirements.iter().all(|requirement| requirement.matches(labels))
    }
}

fn requirement(tokens: &mut Tokens) -> Result<Requirement, SelectorError> {
    let absent = tokens.peek() == Token::Sign("!");
    if absent {
        tokens.take();
    }
    let word = match tokens.take() {
        Token::Word(word) => word,
        other => return tokens.wrong(&other, "!, identifier, or 'end of string'"),
    };
    let (source, key) = split_key(&word)?;
    let done = matches!(tokens.peek(), Token::End | Token::Sign(","));
    let test = match absent {
        true => Test::Absent,
        false if done => Test::Exists,
        false => operator(tokens)?,
    };
    Ok(Requirement { source, key, test })
}

fn operator(tokens: &mut Tokens) -> Result<Test, SelectorError> {
    let token = tokens.take();
    Ok(match &token {
        Token::Word(word) if word == "in" => Test::In(set(tokens)?),
        Token::Word(word) if word == "notin" => Test::NotIn(set(tokens)?),
        Token::Sign("=" | "==") => Test::In([exact(tokens)?].into()),
        Token::Sign("!=") => Test::NotIn([exact(tokens)?].into()),
        Token::Sign(">") => Test::Greater(integer(tokens)?),
        Token::Sign("<") => Test::Less(integer(tokens)?),
        other => return tokens.wrong(other, "in, notin, =, ==, !=, gt, lt"),
    })
}

fn exact(tokens: &mut Tokens) -> Result<String, SelectorError> {
    match tokens.peek() {
        Token::End | Token::Sign(",") => Ok(String::new()),
        Token::Word(word) => {
            tokens.take();
            check_value(&word)?;
            Ok(word)
        }
        other => tokens.wrong(&other, "identifier"),
    }
}

fn integer(tokens: &mut Tokens) -> Result<i64, SelectorError> {
    let text = exact(tokens)?;
    text.parse().map_err(|_| SelectorError::Integer(text))
}

fn set(tokens: &mut Tokens) -> Result<Box<[String]>, SelectorError> {
    match tokens.take() {
        Token::Sign("(") => {}
        other => return tokens.wrong(&other, "'('"),
    }
    let mut values = vec![String::new()];
    loop {
        match tokens.take() {
            Token::Word(word) => {
                check_value(&word)?;
                let last = values.last_mut().expect("starts with one value");
                if !last.is_empty() {
                    return tokens.wrong(&Token::Word(word), "',' or ')'");
                }
                *last = word;
            }
            Token::Sign(",") => values.push(String::new()),
            Token::Sign(")") => return Ok(values.into()),
            other => return tokens.wrong(&other, "',' or ')'"),
        }
    }
}

/// `source:key`; `any` and no source at all match every source.
fn split_key(word: &str) -> Result<(Option<String>, String), SelectorError> {
    let (source, key) = word.split_once(':').unwrap_or(("any", word));
    let full = alloc::format!("{source}.{key}");
    let (prefix, name) = full.split_once('/').map_or((None, full.as_str()), |(prefix, name)| (Some(prefix), name));
    let lower = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    let part = |part: &str| {
        let b = part.as_bytes();
        b.first().is_some_and(|c| lower(*c))
            && b.last().is_some_and(|c| lower(*c))
            && b.iter().all(|c| lower(*c) || *c == b'-')
    };
    let prefix_good = prefix.is_none_or(|prefix| prefix.len() <= 253 && prefix.split('.').all(part));
    if !prefix_good || name.is_empty() || !qualified(name) || key.is_empty() {
        return Err(SelectorError::Key(word.into()));
    }
    Ok(((source != "any").then(|| source.into()), key.into()))
}

fn qualified(name: &str) -> bool {
    let b = name.as_bytes();
    let inner = |c: &u8| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.');
    b.len() <= 63
        && b.iter().all(inner)
        && b.first().is_none_or(u8::is_ascii_alphanumeric)
        && b.last().is_none_or(u8::is_ascii_alphanumeric)
}

fn check_value(value: &str) -> Result<(), SelectorError> {
    if qualified(value) { Ok(()) } else { Err(SelectorError::Value(value.into())) }
}

/// Splits `source:key=value`; a missing source is `unspec`, a missing value empty.
fn split_label(label: &str) -> (&str, &str, &str) {
    let (name, value) = label.split_once('=').unwrap_or((label, ""));
    match name.split_once(':') {
        // A colon at the very start leaves the source out.
        Some(("", key)) => ("unspec", key, value),
        Some((source, key)) => (source, key, value),
        None => ("unspec", name, value),
    }
}

impl Requirement {
    fn value<'a>(&self, labels: &'a [String]) -> Option<&'a str> {
        labels.iter().find_map(|label| {
            let (source, key, value) = split_label(label);
            let same = key == self.key && self.source.as_deref().is_none_or(|want| want == source);
            same.then_some(value)
        })
    }

    fn matches(&self, labels: &[String]) -> bool {
        let value = self.value(labels);
        match &self.test {
            Test::Exists => value.is_some(),
            Test::Absent => value.is_none(),
            Test::In(list) => value.is_some_and(|value| list.iter().any(|want| want == value)),
            Test::NotIn(list) => value.is_none_or(|value| list.iter().all(|want| want != value)),
            Test::Greater(than) => value.and_then(|value| value.parse::<i64>().ok()).is_some_and(|value| value > *than),
            Test::Less(than) => value.and_then(|value| value.parse::<i64>().ok()).is_some_and(|value| value < *than),
        }
    }
}
