//! Paths into a document, and the list of mistakes made in it.

use super::{DocError, Options};
use crate::rule::Notice;
use alloc::{
    format,
    string::{String, ToString},
    vec::Vec,
};
use core::fmt;
use serde_json::{Map, Value};

/// What is wrong at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Problem {
    /// The text is no YAML or JSON.
    Syntax {
        /// Line, from 1.
        line: usize,
        /// Column, from 1.
        column: usize,
        /// What the reader says.
        what: String,
    },
    /// A bound of [`super::Limits`] was met.
    TooMuch {
        /// Name of the limit.
        limit: &'static str,
        /// Its value.
        allowed: usize,
    },
    /// The kind of object is none of ours.
    UnknownKind {
        /// `apiVersion kind`.
        found: String,
    },
    /// The field is not of the schema.
    UnknownField {
        /// Fields that are.
        allowed: &'static [&'static str],
    },
    /// A field that must be there is not.
    Missing {
        /// What it must hold.
        expected: &'static str,
    },
    /// The value has the wrong type or form.
    Expected {
        /// What is allowed.
        expected: &'static str,
        /// What is there.
        found: Found,
    },
    /// The value is none of those allowed.
    NotOneOf {
        /// What is there.
        found: String,
        /// What is allowed.
        allowed: &'static [&'static str],
    },
    /// A rule of the schema is broken; the text says which and what is allowed.
    Invalid {
        /// What is there.
        found: String,
        /// The rule.
        why: &'static str,
    },
    /// Two fields exclude each other.
    Combined {
        /// One field.
        a: &'static str,
        /// The other.
        b: &'static str,
    },
    /// Known, but this software cannot enforce it, so the document is refused.
    Unsupported {
        /// What.
        what: &'static str,
    },
}

/// A short description of a value that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found(pub String);

impl Found {
    /// Describes a value.
    #[must_use]
    pub fn of(value: &Value) -> Self {
        Self(match value {
            Value::Null => "null".to_string(),
            Value::Bool(b) => format!("the boolean {b}"),
            Value::Number(n) => format!("the number {n}"),
            Value::String(s) => format!("{:?}", shorten(s)),
            Value::Array(_) => "a list".to_string(),
            Value::Object(_) => "a mapping".to_string(),
        })
    }
}

/// Longest name a mistake shows: no valid key, value or name is cut.
const SHOWN_MAX: usize = 253;

/// The beginning of a text that may be of any length.
pub(super) fn shorten(text: &str) -> String {
    let mut short: String = text.chars().take(SHOWN_MAX).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Syntax { line, column, what } => write!(f, "line {line}, column {column}: {what}"),
            Self::TooMuch { limit, allowed } => write!(f, "exceeds the limit {limit} of {allowed}"),
            Self::UnknownKind { found } => write!(
                f,
                "found {:?}; allowed: cilium.io/v2 CiliumNetworkPolicy, cilium.io/v2 \
                 CiliumClusterwideNetworkPolicy, networking.k8s.io/v1 NetworkPolicy, v1 List",
                shorten(found)
            ),
            Self::UnknownField { allowed } => write!(f, "unknown field; allowed: {}", allowed.join(", ")),
            Self::Missing { expected } => write!(f, "missing; expected {expected}"),
            Self::Expected { expected, found } => write!(f, "found {}; expected {expected}", found.0),
            Self::NotOneOf { found, allowed } => {
                write!(f, "found {:?}; allowed: {}", shorten(found), allowed.join(", "))
            }
            Self::Invalid { found, why } => write!(f, "found {found:?}; {why}"),
            Self::Combined { a, b } => {
                write!(f, "{a} and {b} cannot be combined in one rule; write a rule for each")
            }
            Self::Unsupported { what } => write!(f, "{what} is not supported"),
        }
    }
}

/// Most rules of one list (`policy-rules-max`): each is known by a number of 16 bits.
pub(super) const RULES_MAX: usize = 1 << 16;

/// A path into a document, on the stack.
#[derive(Clone, Copy)]
pub(super) enum Path<'a> {
    Root,
    Field(&'a Path<'a>, &'a str),
    Index(&'a Path<'a>, usize),
}

impl<'a> Path<'a> {
    pub(super) fn field(&'a self, name: &'a str) -> Path<'a> {
        Path::Field(self, name)
    }

    pub(super) fn index(&'a self, index: usize) -> Path<'a> {
        Path::Index(self, index)
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Path::Root => Ok(()),
            Path::Field(Path::Root, name) => f.write_str(&shorten(name)),
            Path::Field(parent, name) => write!(f, "{parent}.{}", shorten(name)),
            Path::Index(parent, index) => write!(f, "{parent}[{index}]"),
        }
    }
}

/// Reads one document: collects its mistakes and notices.
pub(super) struct Ctx<'a> {
    document: usize,
    prefix: String,
    object: String,
    pub(super) options: &'a Options,
    errors: &'a mut Vec<DocError>,
    pub(super) notices: Vec<Notice>,
}

impl<'a> Ctx<'a> {
    pub(super) fn new(document: usize, options: &'a Options, errors: &'a mut Vec<DocError>) -> Self {
        Self { document, prefix: String::new(), object: String::new(), options, errors, notices: Vec::new() }
    }

    /// Goes on with an object inside a list: paths are reported with this prefix.
    pub(super) fn enter(&mut self, path: &Path<'_>) {
        self.prefix = path.to_string();
        self.object.clear();
    }

    pub(super) fn name_object(&mut self, name: String) {
        self.object = name;
    }

    /// How many mistakes are listed. A text with more than are listed is refused whatever its later parts hold.
    pub(super) fn errors_so_far(&self) -> usize {
        self.errors.len()
    }

    pub(super) fn error(&mut self, path: &Path<'_>, problem: Problem) {
        use super::doc::MISTAKES_MAX;
        if self.errors.len() > MISTAKES_MAX {
            return;
        }
        if self.errors.len() == MISTAKES_MAX {
            let problem = Problem::TooMuch { limit: "policy-mistakes-max", allowed: MISTAKES_MAX };
            let (document, object) = (self.document, self.object.clone());
            self.errors.push(DocError { document, object, path: String::new(), problem });
            return;
        }
        let path = match (self.prefix.as_str(), path) {
            ("", path) => path.to_string(),
            (prefix, Path::Root) => prefix.to_string(),
            (prefix, path) => format!("{prefix}.{path}"),
        };
        let (document, object) = (self.document, self.object.clone());
        self.errors.push(DocError { document, object, path, problem });
    }

    pub(super) fn notice(&mut self, path: &Path<'_>, what: &'static str) {
        self.notices.push(Notice { path: path.to_string(), what });
    }

    pub(super) fn expected(&mut self, path: &Path<'_>, expected: &'static str, value: &Value) {
        self.error(path, Problem::Expected { expected, found: Found::of(value) });
    }

    pub(super) fn invalid(&mut self, path: &Path<'_>, found: &str, why: &'static str) {
        self.error(path, Problem::Invalid { found: shorten(found), why });
    }

    pub(super) fn object<'v>(&mut self, path: &Path<'_>, value: &'v Value) -> Option<&'v Map<String, Value>> {
        let map = value.as_object();
        if map.is_none() {
            self.expected(path, "a mapping", value);
        }
        map
    }

    pub(super) fn array<'v>(&mut self, path: &Path<'_>, value: &'v Value) -> Option<&'v [Value]> {
        let items = value.as_array();
        if items.is_none() {
            self.expected(path, "a list", value);
        }
        items.map(Vec::as_slice)
    }

    pub(super) fn text<'v>(&mut self, path: &Path<'_>, value: &'v Value) -> Option<&'v str> {
        let text = value.as_str();
        if text.is_none() {
            let expected =
                if value.is_number() || value.is_boolean() { "a string; put it in quotes" } else { "a string" };
            self.expected(path, expected, value);
        }
        text
    }

    /// The text of a field; absent and null are the empty text.
    pub(super) fn text_field<'v>(&mut self, path: &Path<'_>, map: &'v Map<String, Value>, name: &str) -> &'v str {
        match map.get(name) {
            None | Some(Value::Null) => "",
            Some(value) => self.text(&path.field(name), value).unwrap_or_default(),
        }
    }

    pub(super) fn required_text<'v>(
        &mut self,
        path: &Path<'_>,
        map: &'v Map<String, Value>,
        name: &str,
    ) -> Option<&'v str> {
        match map.get(name) {
            None | Some(Value::Null) => {
                self.error(&path.field(name), Problem::Missing { expected: "a string" });
                None
            }
            Some(value) => self.text(&path.field(name), value),
        }
    }

    /// The field `name`, which must be there and not be empty.
    pub(super) fn name_field<'v>(&mut self, path: &Path<'_>, map: &'v Map<String, Value>) -> Option<&'v str> {
        let name = self.required_text(path, map, "name");
        if name == Some("") {
            self.error(&path.field("name"), Problem::Missing { expected: "a name" });
        }
        name
    }

    /// The items of a list field: `None` if it is absent or null, which is not the same as empty.
    pub(super) fn list_field<'v>(
        &mut self,
        path: &Path<'_>,
        map: &'v Map<String, Value>,
        name: &str,
    ) -> Option<&'v [Value]> {
        match map.get(name) {
            None | Some(Value::Null) => None,
            Some(value) => Some(self.array(&path.field(name), value).unwrap_or_default()),
        }
    }

    /// The rules of a list field with their numbers; none if it is absent or null.
    pub(super) fn rules_field<'v>(
        &mut self,
        path: &Path<'_>,
        map: &'v Map<String, Value>,
        name: &str,
    ) -> impl Iterator<Item = (u16, &'v Value)> + use<'v> {
        let items = self.list_field(path, map, name).unwrap_or_default();
        self.numbered(&path.field(name), items)
    }

    /// Rules of a list, each of which is known by its number: there are not more than numbers.
    pub(super) fn numbered<'v>(
        &mut self,
        path: &Path<'_>,
        items: &'v [Value],
    ) -> impl Iterator<Item = (u16, &'v Value)> + use<'v> {
        let few = items.len() <= RULES_MAX;
        if !few {
            self.error(path, Problem::TooMuch { limit: "policy-rules-max", allowed: RULES_MAX });
        }
        (0..=u16::MAX).zip(if few { items } else { &[] })
    }

    /// Reports every field that is not in `allowed`.
    pub(super) fn only_fields(&mut self, path: &Path<'_>, map: &Map<String, Value>, allowed: &'static [&'static str]) {
        for name in map.keys().filter(|name| !allowed.contains(&name.as_str())) {
            self.error(&path.field(name), Problem::UnknownField { allowed });
        }
    }
}
