//! The grammar of expressions: tokens into a tree.
//!
//! Why not a ready-made parser: those there are bring a parser generator's runtime and need `std`, and an expression
//! comes from whoever may ask for flows, so its depth must be bounded before anything recurses over it.

use super::{
    CelError, DEPTH_MAX, LENGTH_MAX, Why,
    lex::{Token, tokens},
};
use alloc::{boxed::Box, string::String, vec, vec::Vec};

/// An expression and the column it begins at; of an operator, where that stands.
#[derive(Debug)]
pub(super) struct Expr {
    pub column: usize,
    pub form: Form,
    /// How deep it nests.
    depth: usize,
}

#[derive(Debug)]
pub(super) enum Form {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Double(f64),
    Str(String),
    Bytes(Vec<u8>),
    Name(String),
    /// `of.field`
    Select(Box<Expr>, String),
    /// `has(of.field)`
    Has(Box<Expr>, String),
    Unary(Unary, Box<Expr>),
    Binary(Binary, Box<[Expr; 2]>),
    /// Operands of one chain of `||` or `&&`.
    Logic(Logic, Vec<Expr>),
    Cond(Box<[Expr; 3]>),
    Index(Box<[Expr; 2]>),
    List(Vec<Expr>),
    Map(Vec<[Expr; 2]>),
    /// A function, or a method of its target.
    Call(String, Option<Box<Expr>>, Vec<Expr>),
    Loop(Box<Loop>),
}

/// `range.all(variable, body)` and its kin.
#[derive(Debug)]
pub(super) struct Loop {
    pub kind: LoopKind,
    pub range: Expr,
    pub variable: String,
    /// Of `map` with three arguments: which elements.
    pub only: Option<Expr>,
    pub body: Expr,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LoopKind {
    All,
    Exists,
    ExistsOne,
    Map,
    Filter,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unary {
    Not,
    Minus,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Logic {
    Or,
    And,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Binary {
    Equal,
    Unequal,
    Less,
    LessEqual,
    Greater,
    GreaterEqual,
    In,
    Add,
    Subtract,
    Multiply,
    Divide,
    Remainder,
}

impl Binary {
    /// The operator as it is written.
    pub fn sign(self) -> &'static str {
        match self {
            Self::Equal => "==",
            Self::Unequal => "!=",
            Self::Less => "<",
            Self::LessEqual => "<=",
            Self::Greater => ">",
            Self::GreaterEqual => ">=",
            Self::In => "in",
            Self::Add => "+",
            Self::Subtract => "-",
            Self::Multiply => "*",
            Self::Divide => "/",
            Self::Remainder => "%",
        }
    }

    /// How tightly it binds: 0 relations, 1 sums, 2 products.
    fn level(token: &Token) -> Option<(Self, u8)> {
        Some(match token {
            Token::Sign("==") => (Self::Equal, 0),
            Token::Sign("!=") => (Self::Unequal, 0),
            Token::Sign("<") => (Self::Less, 0),
            Token::Sign("<=") => (Self::LessEqual, 0),
            Token::Sign(">") => (Self::Greater, 0),
            Token::Sign(">=") => (Self::GreaterEqual, 0),
            Token::Name(name) if name == "in" => (Self::In, 0),
            Token::Sign("+") => (Self::Add, 1),
            Token::Sign("-") => (Self::Subtract, 1),
            Token::Sign("*") => (Self::Multiply, 2),
            Token::Sign("/") => (Self::Divide, 2),
            Token::Sign("%") => (Self::Remainder, 2),
            _ => return None,
        })
    }
}

/// Words that are no names, though fields may be called so.
const RESERVED: [&str; 17] = [
    "as",
    "break",
    "const",
    "continue",
    "else",
    "for",
    "function",
    "if",
    "import",
    "in",
    "let",
    "loop",
    "package",
    "namespace",
    "return",
    "var",
    "while",
];

/// Reads a whole expression.
pub(super) fn parse(text: &str) -> Result<Expr, CelError> {
    if text.len() > LENGTH_MAX {
        return Err(CelError { column: 1, why: Why::TooLong });
    }
    let mut parser = Parser { tokens: tokens(text)?, at: 0, open: 0 };
    let expr = parser.expr()?;
    match parser.peek() {
        Token::End => Ok(expr),
        other => Err(parser.error(Why::Unexpected(other.shown()))),
    }
}

struct Parser {
    tokens: Vec<(usize, Token)>,
    at: usize,
    /// Expressions begun and not ended.
    open: usize,
}

impl Parser {
    fn peek(&self) -> &Token {
        &self.tokens[self.at].1
    }

    fn column(&self) -> usize {
        self.tokens[self.at].0
    }

    fn error(&self, why: Why) -> CelError {
        CelError { column: self.column(), why }
    }

    /// Takes the next token; the end stays.
    fn take(&mut self) -> Token {
        let token = self.peek().clone();
        if token != Token::End {
            self.at += 1;
        }
        token
    }

    fn takes(&mut self, sign: &'static str) -> bool {
        let found = *self.peek() == Token::Sign(sign);
        self.at += usize::from(found);
        found
    }

    fn expect(&mut self, sign: &'static str) -> Result<(), CelError> {
        if self.takes(sign) {
            return Ok(());
        }
        Err(self.error(Why::Expected { expected: sign, found: self.peek().shown() }))
    }

    /// An expression one level deeper than its deepest part.
    fn make(column: usize, form: Form) -> Result<Expr, CelError> {
        let depth = 1 + match &form {
            Form::Select(a, _) | Form::Has(a, _) | Form::Unary(_, a) => a.depth,
            Form::Binary(_, parts) | Form::Index(parts) => deepest(parts.iter()),
            Form::Logic(_, parts) | Form::List(parts) => deepest(parts.iter()),
            Form::Cond(parts) => deepest(parts.iter()),
            Form::Map(entries) => deepest(entries.iter().flatten()),
            Form::Call(_, target, args) => deepest(args.iter().chain(target.as_deref())),
            Form::Loop(each) => deepest([&each.range, &each.body].into_iter().chain(&each.only)),
            _ => 0,
        };
        if depth > DEPTH_MAX { Err(CelError { column, why: Why::TooDeep }) } else { Ok(Expr { column, form, depth }) }
    }

    fn expr(&mut self) -> Result<Expr, CelError> {
        self.open += 1;
        if self.open > DEPTH_MAX {
            return Err(self.error(Why::TooDeep));
        }
        let condition = self.logic(Logic::Or)?;
        let column = self.column();
        let whole = if self.takes("?") {
            let yes = self.logic(Logic::Or)?;
            self.expect(":")?;
            let no = self.expr()?;
            Self::make(column, Form::Cond(Box::new([condition, yes, no])))?
        } else {
            condition
        };
        self.open -= 1;
        Ok(whole)
    }

    fn logic(&mut self, logic: Logic) -> Result<Expr, CelError> {
        let sign = if logic == Logic::Or { "||" } else { "&&" };
        let first = self.operand(logic)?;
        let column = self.column();
        let mut parts = vec![first];
        while self.takes(sign) {
            parts.push(self.operand(logic)?);
        }
        if parts.len() == 1 {
            return Ok(parts.pop().expect("there is one"));
        }
        Self::make(column, Form::Logic(logic, parts))
    }

    fn operand(&mut self, of: Logic) -> Result<Expr, CelError> {
        match of {
            Logic::Or => self.logic(Logic::And),
            Logic::And => self.binary(0),
        }
    }

    /// Operators that bind at least as tightly as `level`; those of one level from the left.
    fn binary(&mut self, level: u8) -> Result<Expr, CelError> {
        let mut left = self.unary()?;
        while let Some((operator, own)) = Binary::level(self.peek()).filter(|(_, own)| *own >= level) {
            let column = self.column();
            self.take();
            let right = self.binary(own + 1)?;
            left = Self::make(column, Form::Binary(operator, Box::new([left, right])))?;
        }
        Ok(left)
    }

    fn unary(&mut self) -> Result<Expr, CelError> {
        let column = self.column();
        let mut signs = 0;
        let operator = match self.peek() {
            Token::Sign("!") => Unary::Not,
            Token::Sign("-") => Unary::Minus,
            _ => return self.member(),
        };
        let sign = if operator == Unary::Not { "!" } else { "-" };
        while self.takes(sign) {
            signs += 1;
        }
        // The smallest number has no positive twin, so a minus belongs to the digits behind it.
        if operator == Unary::Minus {
            let literal = match self.peek() {
                Token::Int(n) => Some(Form::Int(0_i64.checked_sub_unsigned(*n).expect("at most 2^63"))),
                Token::Double(n) => Some(Form::Double(-n)),
                _ => None,
            };
            if let Some(literal) = literal {
                self.take();
                let negative = Self::make(column, literal)?;
                let whole = self.suffixes(negative)?;
                return Self::signed(column, operator, signs - 1, whole);
            }
        }
        let operand = self.member()?;
        Self::signed(column, operator, signs, operand)
    }

    /// Two signs cancel each other.
    fn signed(column: usize, operator: Unary, signs: usize, operand: Expr) -> Result<Expr, CelError> {
        match signs {
            0 => Ok(operand),
            n if n % 2 == 1 => Self::make(column, Form::Unary(operator, Box::new(operand))),
            // Twice, so that the operand is still checked to be one the sign may stand before.
            _ => {
                let once = Self::make(column, Form::Unary(operator, Box::new(operand)))?;
                Self::make(column, Form::Unary(operator, Box::new(once)))
            }
        }
    }

    fn member(&mut self) -> Result<Expr, CelError> {
        let primary = self.primary()?;
        self.suffixes(primary)
    }

    fn suffixes(&mut self, mut of: Expr) -> Result<Expr, CelError> {
        loop {
            let column = self.column();
            if self.takes(".") {
                let at = self.column();
                let name = match self.take() {
                    Token::Name(name) => name,
                    other => return Err(CelError { column: at, why: Why::FieldName(other.shown()) }),
                };
                of = if self.takes("(") {
                    let args = self.arguments()?;
                    Self::method(at, name, of, args)?
                } else {
                    Self::make(at, Form::Select(Box::new(of), name))?
                };
            } else if self.takes("[") {
                let index = self.expr()?;
                self.expect("]")?;
                of = Self::make(column, Form::Index(Box::new([of, index])))?;
            } else if *self.peek() == Token::Sign("{") && matches!(of.form, Form::Name(_) | Form::Select(..)) {
                return Err(self.error(Why::Unsupported("making messages")));
            } else {
                return Ok(of);
            }
        }
    }

    /// Arguments up to the closing bracket; the opening one is taken.
    fn arguments(&mut self) -> Result<Vec<Expr>, CelError> {
        let mut args = Vec::new();
        while !self.takes(")") {
            if !args.is_empty() {
                self.expect(",")?;
            }
            args.push(self.expr()?);
        }
        Ok(args)
    }

    fn method(column: usize, name: String, target: Expr, args: Vec<Expr>) -> Result<Expr, CelError> {
        let kind = match (name.as_str(), args.len()) {
            ("all", 2) => LoopKind::All,
            ("exists", 2) => LoopKind::Exists,
            ("exists_one" | "existsOne", 2) => LoopKind::ExistsOne,
            ("map", 2 | 3) => LoopKind::Map,
            ("filter", 2) => LoopKind::Filter,
            _ => return Self::make(column, Form::Call(name, Some(Box::new(target)), args)),
        };
        let mut args = args.into_iter();
        let variable = args.next().expect("counted");
        let Form::Name(variable) = variable.form else {
            return Err(CelError { column: variable.column, why: Why::Variable });
        };
        let (second, third) = (args.next().expect("counted"), args.next());
        let (only, body) = match third {
            Some(body) => (Some(second), body),
            None => (None, second),
        };
        Self::make(column, Form::Loop(Box::new(Loop { kind, range: target, variable, only, body })))
    }

    fn primary(&mut self) -> Result<Expr, CelError> {
        let column = self.column();
        let form = match self.take() {
            Token::Int(n) => match i64::try_from(n) {
                Ok(n) => Form::Int(n),
                Err(_) => return Err(CelError { column, why: Why::Number(alloc::format!("{n}")) }),
            },
            Token::Uint(n) => Form::Uint(n),
            Token::Double(n) => Form::Double(n),
            Token::Str(text) => Form::Str(text),
            Token::Bytes(bytes) => Form::Bytes(bytes),
            Token::Sign("(") => {
                let inner = self.expr()?;
                self.expect(")")?;
                return Ok(inner);
            }
            Token::Sign("[") => Form::List(self.list()?),
            Token::Sign("{") => Form::Map(self.entries()?),
            // A name from the root of all packages is the same name here.
            Token::Sign(".") => match self.take() {
                Token::Name(name) => Form::Name(name),
                other => return Err(CelError { column, why: Why::Unexpected(other.shown()) }),
            },
            Token::Name(name) => return self.named(column, name),
            Token::End => return Err(CelError { column, why: Why::Ended }),
            other => return Err(CelError { column, why: Why::Unexpected(other.shown()) }),
        };
        Self::make(column, form)
    }

    /// A name, a keyword or a function.
    fn named(&mut self, column: usize, name: String) -> Result<Expr, CelError> {
        let form = match name.as_str() {
            "null" => Form::Null,
            "true" => Form::Bool(true),
            "false" => Form::Bool(false),
            word if RESERVED.contains(&word) => return Err(CelError { column, why: Why::Reserved(name) }),
            _ if self.takes("(") => {
                let mut args = self.arguments()?;
                if name != "has" || args.len() != 1 {
                    return Self::make(column, Form::Call(name, None, args));
                }
                match args.pop().expect("counted").form {
                    Form::Select(of, field) => Form::Has(of, field),
                    _ => return Err(CelError { column, why: Why::HasField }),
                }
            }
            _ => Form::Name(name),
        };
        Self::make(column, form)
    }

    fn list(&mut self) -> Result<Vec<Expr>, CelError> {
        let mut items = Vec::new();
        while !self.takes("]") {
            if !items.is_empty() {
                self.expect(",")?;
                if self.takes("]") {
                    break;
                }
            }
            items.push(self.expr()?);
        }
        Ok(items)
    }

    fn entries(&mut self) -> Result<Vec<[Expr; 2]>, CelError> {
        let mut entries = Vec::new();
        while !self.takes("}") {
            if !entries.is_empty() {
                self.expect(",")?;
                if self.takes("}") {
                    break;
                }
            }
            let key = self.expr()?;
            self.expect(":")?;
            entries.push([key, self.expr()?]);
        }
        Ok(entries)
    }
}

fn deepest<'a>(parts: impl Iterator<Item = &'a Expr>) -> usize {
    parts.map(|part| part.depth).max().unwrap_or(0)
}
