//! Names, fields and types: a parsed expression into one that can be evaluated.

use super::{
    CelError, Program, Why,
    eval::{LoopNode, Node},
    functions::{self, Function},
    parse::{Binary, Expr, Form, Loop, LoopKind, Unary},
    subject::{Leaf, Path, message_of},
    value::Const,
};
use alloc::{
    boxed::Box,
    format,
    string::{String, ToString},
    vec::Vec,
};
use core::fmt;
use hubble_api::reflect::{ENUMS, FieldInfo, Kind, MESSAGES, MessageInfo};

/// The variable that is the flow.
const FLOW: &str = "_flow";

/// The type of a part.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Type {
    Null,
    Bool,
    Int,
    Uint,
    Double,
    Str,
    Bytes,
    Time,
    Duration,
    /// The type of types.
    Meta,
    /// Known only when it is evaluated.
    Dyn,
    /// A scalar that may be null.
    Maybe(Box<Type>),
    Message(&'static MessageInfo),
    List(Box<Type>),
    Map(Box<Type>, Box<Type>),
}

impl Type {
    /// True when a value of this type may stand where `want` is asked for.
    pub fn fits(&self, want: &Self) -> bool {
        match (self, want) {
            (Self::Dyn, _) | (_, Self::Dyn) => true,
            (Self::Maybe(inner), want) if !matches!(want, Self::Maybe(_)) => *want == Self::Null || inner.fits(want),
            (of, Self::Maybe(inner)) if !matches!(of, Self::Maybe(_)) => *of == Self::Null || of.fits(inner),
            (Self::Null, Self::Message(_) | Self::Time | Self::Duration)
            | (Self::Message(_) | Self::Time | Self::Duration, Self::Null) => true,
            (Self::List(a), Self::List(b)) => a.fits(b),
            (Self::Map(a, c), Self::Map(b, d)) => a.fits(b) && c.fits(d),
            (a, b) => a == b,
        }
    }

    fn of_field(field: &FieldInfo) -> Self {
        let maybe = |inner| Self::Maybe(Box::new(inner));
        let one = match field.kind {
            Kind::Bool => Self::Bool,
            Kind::Int | Kind::Enum(_) => Self::Int,
            Kind::Uint => Self::Uint,
            Kind::Double => Self::Double,
            Kind::Str => Self::Str,
            Kind::BoolValue => maybe(Self::Bool),
            Kind::IntValue => maybe(Self::Int),
            Kind::UintValue => maybe(Self::Uint),
            Kind::Time => Self::Time,
            Kind::Any => Self::Dyn,
            Kind::Message(index) => Self::Message(&MESSAGES[index]),
        };
        if field.repeated { Self::List(Box::new(one)) } else { one }
    }

    /// The type without the chance of being null.
    fn plain(&self) -> &Self {
        if let Self::Maybe(inner) = self { inner } else { self }
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("null"),
            Self::Bool => f.write_str("bool"),
            Self::Int => f.write_str("int"),
            Self::Uint => f.write_str("uint"),
            Self::Double => f.write_str("double"),
            Self::Str => f.write_str("string"),
            Self::Bytes => f.write_str("bytes"),
            Self::Time => f.write_str("timestamp"),
            Self::Duration => f.write_str("duration"),
            Self::Meta => f.write_str("type"),
            Self::Dyn => f.write_str("dyn"),
            Self::Maybe(inner) => write!(f, "wrapper({inner})"),
            Self::Message(info) => f.write_str(info.name),
            Self::List(item) => write!(f, "list({item})"),
            Self::Map(key, value) => write!(f, "map({key}, {value})"),
        }
    }
}

/// Checks a parsed expression.
pub(super) fn compile(expr: &Expr) -> Result<Program, CelError> {
    let mut checker = Checker { locals: Vec::new(), beyond_records: 0 };
    let (root, found) = checker.node(expr)?;
    if found != Type::Bool {
        return Err(CelError { column: expr.column, why: Why::NotBool(found.to_string()) });
    }
    Ok(Program { root, needs_message: checker.beyond_records > 0 })
}

struct Checker {
    /// Variables of the loops around, outermost first.
    locals: Vec<(String, Type)>,
    /// Parts for which a record does not do.
    beyond_records: usize,
}

type Checked = Result<(Node, Type), CelError>;

fn error<T>(expr: &Expr, why: Why) -> Result<T, CelError> {
    Err(CelError { column: expr.column, why })
}

/// How an enum value would be named, when the expression is nothing but names and dots.
fn dotted(expr: &Expr) -> Option<String> {
    match &expr.form {
        Form::Name(name) => Some(name.clone()),
        Form::Select(of, field) => Some(format!("{}.{field}", dotted(of)?)),
        _ => None,
    }
}

fn root_name(expr: &Expr) -> Option<&str> {
    match &expr.form {
        Form::Name(name) => Some(name),
        Form::Select(of, _) => root_name(of),
        _ => None,
    }
}

impl Checker {
    fn node(&mut self, expr: &Expr) -> Checked {
        Ok(match &expr.form {
            Form::Null => (Node::Const(Const::Null), Type::Null),
            Form::Bool(v) => (Node::Const(Const::Bool(*v)), Type::Bool),
            Form::Int(v) => (Node::Const(Const::Int(*v)), Type::Int),
            Form::Uint(v) => (Node::Const(Const::Uint(*v)), Type::Uint),
            Form::Double(v) => (Node::Const(Const::Double(*v)), Type::Double),
            Form::Str(v) => (Node::Const(Const::text(v)), Type::Str),
            Form::Bytes(v) => (Node::Const(Const::Bytes(v.as_slice().into())), Type::Bytes),
            Form::Name(name) => self.name(expr, name)?,
            Form::Select(of, field) => self.select(expr, of, field)?,
            Form::Has(of, field) => self.has(expr, of, field)?,
            Form::Unary(sign, of) => self.unary(expr, *sign, of)?,
            Form::Binary(operator, parts) => self.binary(expr, *operator, &parts[0], &parts[1])?,
            Form::Logic(logic, parts) => {
                let parts = parts.iter().map(|part| self.truth(part)).collect::<Result<Box<[_]>, _>>()?;
                (Node::Logic(*logic, parts), Type::Bool)
            }
            Form::Cond(parts) => {
                let condition = self.truth(&parts[0])?;
                let ((yes, one), (no, other)) = (self.node(&parts[1])?, self.node(&parts[2])?);
                if !one.fits(&other) {
                    return error(expr, overload(format!("_?_:_(bool, {one}, {other})"), &[&one, &other]));
                }
                let answer = if one == Type::Null { other } else { one };
                (Node::Cond(Box::new([condition, yes, no])), answer)
            }
            Form::Index(parts) => self.index(expr, &parts[0], &parts[1])?,
            Form::List(items) => self.list(items)?,
            Form::Map(entries) => self.map(entries)?,
            Form::Call(name, target, args) => self.call(expr, name, target.as_deref(), args)?,
            Form::Loop(each) => self.each(expr, each)?,
        })
    }

    /// A part that must be true or false.
    fn truth(&mut self, expr: &Expr) -> Result<Node, CelError> {
        let (node, found) = self.node(expr)?;
        if found.fits(&Type::Bool) { Ok(node) } else { error(expr, Why::NotBool(found.to_string())) }
    }

    fn name(&mut self, expr: &Expr, name: &str) -> Checked {
        if let Some(at) = self.locals.iter().rposition(|(known, _)| known == name) {
            return Ok((Node::Local(at), self.locals[at].1.clone()));
        }
        if name == FLOW {
            self.beyond_records += 1;
            let info = MessageInfo::named("flow.Flow").expect("the flow is a message of its package");
            return Ok((Node::Whole, Type::Message(info)));
        }
        let types = ["bool", "int", "uint", "double", "string", "bytes", "list", "map", "null_type", "type"];
        if let Some(name) = types.into_iter().find(|known| *known == name) {
            return Ok((Node::Const(Const::Type(name)), Type::Meta));
        }
        error(expr, Why::Undeclared(name.into()))
    }

    /// `Verdict.DROPPED`, with or without the package before it.
    fn enum_value(&self, expr: &Expr) -> Option<Checked> {
        let root = root_name(expr)?;
        if root == FLOW || self.locals.iter().any(|(name, _)| name == root) {
            return None;
        }
        let name = dotted(expr)?;
        let Some((of, value)) = name.rsplit_once('.') else { return Some(error(expr, Why::Undeclared(name))) };
        let scoped = format!("flow.{of}");
        Some(match ENUMS.iter().find(|info| info.name == scoped || info.name == of) {
            None => error(expr, Why::Undeclared(name)),
            Some(info) => match info.values.iter().find(|(known, _)| *known == value) {
                Some((_, number)) => Ok((Node::Const(Const::Int((*number).into())), Type::Int)),
                None => {
                    let known: Vec<&str> = info.values.iter().map(|(name, _)| *name).collect();
                    error(expr, Why::EnumValue { name: info.name, value: value.into(), known: known.join(", ") })
                }
            },
        })
    }

    /// The message before a dot and the field behind it; none when only its evaluation will tell.
    fn field(&mut self, expr: &Expr, of: &Expr, name: &str) -> Result<(Node, &'static FieldInfo), CelError> {
        let (node, found) = self.node(of)?;
        let Type::Message(info) = found else { return error(expr, Why::NoFields(found.to_string())) };
        let Some(field) = info.field(name) else {
            let known: Vec<&str> = info.fields.iter().map(|field| field.name).collect();
            return error(expr, Why::Field { message: info.name, field: name.into(), known: known.join(", ") });
        };
        if field.kind == Kind::Any {
            return error(expr, Why::Unsupported("a packed message"));
        }
        Ok((node, field))
    }

    fn path(&mut self, fields: Vec<&'static FieldInfo>) -> Path {
        let path = Path::new(fields);
        self.beyond_records += usize::from(beyond_records(&path));
        path
    }

    /// The fields of a chain so far, which is about to be replaced by a longer one.
    fn unmake(&mut self, node: Node) -> Result<Vec<&'static FieldInfo>, Node> {
        match node {
            Node::Whole => {
                self.beyond_records -= 1;
                Ok(Vec::new())
            }
            Node::Path(path) if message_of(path.field()).is_some() => {
                self.beyond_records -= usize::from(beyond_records(&path));
                Ok(path.fields)
            }
            other => Err(other),
        }
    }

    fn select(&mut self, expr: &Expr, of: &Expr, name: &str) -> Checked {
        if let Some(value) = self.enum_value(expr) {
            return value;
        }
        let (node, field) = self.field(expr, of, name)?;
        let node = match self.unmake(node) {
            Ok(mut fields) => {
                fields.push(field);
                Node::Path(self.path(fields))
            }
            Err(other) => Node::Member(Box::new(other), field),
        };
        Ok((node, Type::of_field(field)))
    }

    fn has(&mut self, expr: &Expr, of: &Expr, name: &str) -> Checked {
        let (node, field) = self.field(expr, of, name)?;
        let node = match self.unmake(node) {
            Ok(mut fields) => {
                fields.push(field);
                let path = Path::new(fields);
                self.beyond_records += usize::from(path.leaf.is_none());
                Node::Has(path)
            }
            Err(other) => Node::HasMember(Box::new(other), field),
        };
        Ok((node, Type::Bool))
    }

    fn unary(&mut self, expr: &Expr, sign: Unary, of: &Expr) -> Checked {
        if sign == Unary::Not {
            return Ok((Node::Not(Box::new(self.truth(of)?)), Type::Bool));
        }
        let (node, found) = self.node(of)?;
        if matches!(found.plain(), Type::Int | Type::Double | Type::Dyn) {
            let answer = found.plain().clone();
            return folded(expr, Node::Minus(Box::new(node)), answer);
        }
        error(expr, overload(format!("-{found}"), &[&found]))
    }

    fn binary(&mut self, expr: &Expr, operator: Binary, left: &Expr, right: &Expr) -> Checked {
        let ((left, one), (right, other)) = (self.node(left)?, self.node(right)?);
        let Some(answer) = operator_type(operator, one.plain(), other.plain(), one.fits(&other)) else {
            return error(expr, overload(format!("{one} {} {other}", operator.sign()), &[&one, &other]));
        };
        let node = match (operator, left, right) {
            (Binary::Equal | Binary::Unequal, Node::Path(path), Node::Const(want))
            | (Binary::Equal | Binary::Unequal, Node::Const(want), Node::Path(path)) => {
                Node::Is(path, want, operator == Binary::Equal)
            }
            (Binary::In, of, Node::Const(Const::List(list))) => Node::InConsts(Box::new(of), list),
            (_, left, right) => Node::Binary(operator, Box::new([left, right])),
        };
        folded(expr, node, answer)
    }

    fn index(&mut self, expr: &Expr, of: &Expr, at: &Expr) -> Checked {
        let ((of, found), (at, key)) = (self.node(of)?, self.node(at)?);
        let answer = match &found {
            Type::List(item) if key.fits(&Type::Int) || key.fits(&Type::Uint) => (**item).clone(),
            Type::Map(known, value) if key.fits(known) => (**value).clone(),
            Type::Dyn => Type::Dyn,
            _ => return error(expr, overload(format!("{found}[{key}]"), &[&found, &key])),
        };
        Ok((Node::Index(Box::new([of, at])), answer))
    }

    fn list(&mut self, items: &[Expr]) -> Checked {
        let parts = items.iter().map(|item| self.node(item)).collect::<Result<Vec<_>, _>>()?;
        let of = common(parts.iter().map(|(_, found)| found));
        let (nodes, _): (Vec<Node>, Vec<Type>) = parts.into_iter().unzip();
        let found = Type::List(Box::new(of));
        if nodes.iter().all(|node| matches!(node, Node::Const(_))) {
            let list = nodes.into_iter().filter_map(|node| if let Node::Const(v) = node { Some(v) } else { None });
            return Ok((Node::Const(Const::List(list.collect())), found));
        }
        Ok((Node::List(nodes.into()), found))
    }

    fn map(&mut self, entries: &[[Expr; 2]]) -> Checked {
        let mut parts = Vec::new();
        for [key, value] in entries {
            let ((key_node, key_type), (value, value_type)) = (self.node(key)?, self.node(value)?);
            if !matches!(key_type, Type::Bool | Type::Int | Type::Uint | Type::Str | Type::Dyn) {
                return error(key, overload(format!("{{{key_type}: {value_type}}}"), &[&key_type]));
            }
            parts.push(([key_node, value], key_type, value_type));
        }
        let found = Type::Map(
            Box::new(common(parts.iter().map(|(_, key, _)| key))),
            Box::new(common(parts.iter().map(|(.., value)| value))),
        );
        Ok((Node::Map(parts.into_iter().map(|(nodes, ..)| nodes).collect()), found))
    }

    fn call(&mut self, expr: &Expr, name: &str, target: Option<&Expr>, args: &[Expr]) -> Checked {
        let mut nodes = Vec::new();
        let mut types = Vec::new();
        for arg in target.into_iter().chain(args) {
            let (node, found) = self.node(arg)?;
            nodes.push(node);
            types.push(found);
        }
        let shown = || {
            let list = |types: &[Type]| types.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            match types.split_first() {
                Some((first, rest)) if target.is_some() => format!("{first}.{name}({})", list(rest)),
                _ => format!("{name}({})", list(&types)),
            }
        };
        if name == "matches" {
            if !matches!(&types[..], [of, pattern] if of.fits(&Type::Str) && pattern.fits(&Type::Str)) {
                return error(expr, overload(shown(), &[]));
            }
            return matches_node(expr, args.last().unwrap_or(expr), nodes);
        }
        let Some((function, method)) = functions::named(name) else {
            return error(expr, Why::Function(name.into()));
        };
        if matches!(function, Function::Part(_)) && types.len() == 2 {
            return error(expr, Why::Unsupported("a time zone"));
        }
        let called_right = if target.is_some() { method } else { !method || function == Function::Size };
        let answer = functions::result(function, &types).filter(|_| called_right);
        let Some(answer) = answer else { return error(expr, overload(shown(), &types.iter().collect::<Vec<_>>())) };
        let answer = if function == Function::Dyn { Type::Dyn } else { answer };
        folded(expr, Node::Call(function, nodes.into()), answer)
    }

    fn each(&mut self, expr: &Expr, each: &Loop) -> Checked {
        let (range, found) = self.node(&each.range)?;
        let item = match &found {
            Type::List(item) | Type::Map(item, _) => (**item).clone(),
            Type::Dyn => Type::Dyn,
            _ => return error(expr, overload(format!("a loop over {found}"), &[])),
        };
        self.locals.push((each.variable.clone(), item.clone()));
        let inner = self.loop_body(each, &item);
        self.locals.pop();
        let (only, body, answer) = inner?;
        Ok((Node::Loop(Box::new(LoopNode { kind: each.kind, range, only, body })), answer))
    }

    fn loop_body(&mut self, each: &Loop, item: &Type) -> Result<(Option<Node>, Node, Type), CelError> {
        let only = each.only.as_ref().map(|only| self.truth(only)).transpose()?;
        if each.kind == LoopKind::Map {
            let (body, found) = self.node(&each.body)?;
            return Ok((only, body, Type::List(Box::new(found))));
        }
        let answer = if each.kind == LoopKind::Filter { Type::List(Box::new(item.clone())) } else { Type::Bool };
        Ok((only, self.truth(&each.body)?, answer))
    }
}

/// Records answer for single values; a whole message or a list of messages is read from the message.
fn beyond_records(path: &Path) -> bool {
    match path.leaf {
        None => true,
        Some(Leaf::Presence(_)) => true,
        Some(_) => false,
    }
}

/// The type of all elements; dyn when they differ.
fn common<'a>(mut types: impl Iterator<Item = &'a Type>) -> Type {
    let Some(first) = types.next() else { return Type::Dyn };
    if types.all(|other| other == first) { first.clone() } else { Type::Dyn }
}

/// What an operator answers with for operands of these types, which never are `Maybe`.
fn operator_type(operator: Binary, one: &Type, other: &Type, alike: bool) -> Option<Type> {
    let unknown = *one == Type::Dyn || *other == Type::Dyn;
    match operator {
        Binary::Equal | Binary::Unequal => alike.then_some(Type::Bool),
        Binary::Less | Binary::LessEqual | Binary::Greater | Binary::GreaterEqual => {
            let ordered =
                [Type::Bool, Type::Int, Type::Uint, Type::Double, Type::Str, Type::Bytes, Type::Time, Type::Duration];
            (unknown || (one == other && ordered.contains(one))).then_some(Type::Bool)
        }
        Binary::In => match other {
            Type::List(item) | Type::Map(item, _) => one.fits(item).then_some(Type::Bool),
            _ => (*other == Type::Dyn).then_some(Type::Bool),
        },
        _ if unknown => Some(Type::Dyn),
        Binary::Add | Binary::Subtract => {
            let numbers = one == other && matches!(one, Type::Int | Type::Uint | Type::Double | Type::Duration);
            match (one, other) {
                _ if numbers => Some(one.clone()),
                (Type::Time, Type::Duration) => Some(Type::Time),
                (Type::Time, Type::Time) if operator == Binary::Subtract => Some(Type::Duration),
                _ if operator == Binary::Subtract => None,
                (Type::Duration, Type::Time) => Some(Type::Time),
                (Type::Str, Type::Str) | (Type::Bytes, Type::Bytes) => Some(one.clone()),
                (Type::List(_), Type::List(_)) if alike => Some(one.clone()),
                _ => None,
            }
        }
        Binary::Remainder => (one == other && matches!(one, Type::Int | Type::Uint)).then(|| one.clone()),
        _ => (one == other && matches!(one, Type::Int | Type::Uint | Type::Double)).then(|| one.clone()),
    }
}

fn overload(call: String, types: &[&Type]) -> Why {
    let has = |want: &Type| types.iter().any(|found| found.plain() == want);
    let hint = match (has(&Type::Int), has(&Type::Uint), has(&Type::Double)) {
        (true, true, _) => "; numbers of different types do not mix: write 80u or uint(80) for an unsigned number",
        (true, _, true) | (_, true, true) => {
            "; numbers of different types do not mix: convert one with int() or double()"
        }
        _ => "",
    };
    Why::Overload { call, hint }
}

/// A part all of whose operands are constants is one itself.
fn folded(expr: &Expr, node: Node, answer: Type) -> Checked {
    let constant = |part: &Node| matches!(part, Node::Const(_));
    let all = match &node {
        Node::Binary(_, parts) => parts.iter().all(constant),
        Node::InConsts(part, _) | Node::Minus(part) => constant(part),
        Node::Call(function, parts) => *function != Function::Dyn && parts.iter().all(constant),
        _ => false,
    };
    if !all {
        return Ok((node, answer));
    }
    match node.fold() {
        Ok(Some(value)) => Ok((Node::Const(value), answer)),
        Ok(None) => Ok((node, answer)),
        Err(why) => error(expr, Why::Fails(why)),
    }
}

fn matches_node(expr: &Expr, at: &Expr, nodes: Vec<Node>) -> Checked {
    let mut nodes = nodes.into_iter();
    let (Some(of), Some(pattern)) = (nodes.next(), nodes.next()) else { return error(expr, Why::Ended) };
    let Node::Const(Const::Str(pattern, _)) = pattern else {
        return error(at, Why::Unsupported("a pattern that is not constant"));
    };
    let regex = regex::Regex::new(&pattern)
        .map_err(|why| CelError { column: at.column, why: Why::Regex(crate::filter::last_line(&why.to_string())) })?;
    Ok((Node::Matches(Box::new(of), regex), Type::Bool))
}
