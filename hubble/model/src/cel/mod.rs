//! Expressions over flows, in the Common Expression Language: `_flow.verdict == Verdict.DROPPED`.
//!
//! An expression is parsed and type-checked once; names, fields and enum values become numbers, regular expressions
//! are compiled, constants are folded. What is left is a small tree that reads the flow where it lies, as a record or
//! as a message. Only the few fields that records do not keep make evaluation build the message first.
//!
//! Expressions come from whoever may ask for flows. Therefore length, depth and the work of loops are bounded, and an
//! expression that fails on a flow (a division by zero, an index behind the end) does not match it.
//!
//! The language is the standard one, with the original's environment: a variable `_flow` of type `flow.Flow`, names
//! looked up in the package `flow`. Numbers of different types do not mix, so ports are compared with `80u` or
//! `uint(80)`. Left out: making messages, packed messages (`extensions`), time zones, and patterns of `matches` that are
//! not constant; using one of them is an error that says so.

mod check;
mod eval;
mod functions;
mod lex;
mod parse;
mod subject;
mod value;

pub use subject::Subject;

use alloc::{boxed::Box, string::String};

/// Bytes an expression may have.
const LENGTH_MAX: usize = 16 * 1024;
/// How deep an expression may nest.
const DEPTH_MAX: usize = 100;

/// Why an expression was refused, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("column {column}: {why}")]
pub struct CelError {
    /// Characters from the start of the expression, from 1.
    pub column: usize,
    /// What is wrong there.
    pub why: Why,
}

/// What is wrong with an expression.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Why {
    /// Longer than expressions may be.
    #[error("the expression is longer than {LENGTH_MAX} bytes")]
    TooLong,
    /// Nests deeper than expressions may.
    #[error("the expression nests deeper than {DEPTH_MAX} levels")]
    TooDeep,
    /// No token begins so.
    #[error("unexpected character {0:?}")]
    Character(char),
    /// Not a number, or one that does not fit.
    #[error("{0} is no number that fits 64 bits")]
    Number(String),
    /// Text without an end.
    #[error("the text has no closing quote")]
    Unclosed,
    /// A backslash before something that has no meaning behind one.
    #[error("invalid escape \\{0}")]
    Escape(char),
    /// The expression stops where an operand belongs.
    #[error("the expression ends where a value is expected")]
    Ended,
    /// Nothing may begin with this token here.
    #[error("unexpected {0}")]
    Unexpected(String),
    /// Another token belongs here.
    #[error("expected {expected:?}, found {found}")]
    Expected {
        /// What may be there.
        expected: &'static str,
        /// What is there.
        found: String,
    },
    /// Behind a dot belongs a name.
    #[error("expected a field name behind the dot, found {0}")]
    FieldName(String),
    /// A word of the language.
    #[error("{0} is a reserved word")]
    Reserved(String),
    /// The first argument of a loop is its variable.
    #[error("the first argument must be the name of a variable")]
    Variable,
    /// `has` asks for a field.
    #[error("has() takes a field, such as has(_flow.l4)")]
    HasField,
    /// Part of the language, but not of this implementation.
    #[error("{0} is not supported")]
    Unsupported(&'static str),
    /// No variable, enum or type of this name.
    #[error("undeclared reference to '{0}'; the flow is called _flow, enum values Verdict.DROPPED")]
    Undeclared(String),
    /// An enum without this value.
    #[error("{name} has no value {value}; it has {known}")]
    EnumValue {
        /// The enum.
        name: &'static str,
        /// What was asked for.
        value: String,
        /// Its values.
        known: String,
    },
    /// A message without this field.
    #[error("{message} has no field {field}; it has {known}")]
    Field {
        /// The message.
        message: &'static str,
        /// What was asked for.
        field: String,
        /// Its fields.
        known: String,
    },
    /// Only messages have fields.
    #[error("{0} has no fields")]
    NoFields(String),
    /// No function of this name takes these.
    #[error("no matching overload for {call}{hint}")]
    Overload {
        /// The call with the types of its arguments.
        call: String,
        /// How it could be mended.
        hint: &'static str,
    },
    /// Neither a function nor a method.
    #[error("there is no function {0}")]
    Function(String),
    /// Not a regular expression.
    #[error("invalid regular expression: {0}")]
    Regex(String),
    /// A constant part that fails on every flow.
    #[error("this always fails: {0}")]
    Fails(&'static str),
    /// A filter is true or false.
    #[error("the expression must be a bool, not {0}")]
    NotBool(String),
}

/// A compiled expression.
#[derive(Debug)]
pub struct Program {
    root: eval::Node,
    /// Reads fields that only messages have.
    needs_message: bool,
}

impl Program {
    /// Parses and checks an expression; it must be a `bool`.
    pub fn new(text: &str) -> Result<Self, CelError> {
        check::compile(&parse::parse(text)?)
    }

    /// True when the expression is true for the flow; none when it failed on it.
    pub fn matches(&self, subject: Subject<'_>) -> Option<bool> {
        match subject {
            Subject::Record(record, node) if self.needs_message => {
                let flow = Box::new(record.to_flow(node));
                self.root.run(Subject::Flow(&flow))
            }
            other => self.root.run(other),
        }
    }
}

#[cfg(test)]
mod tests;
