//! Evaluation: the checked tree on one flow.

use super::{
    functions::{Function, call},
    parse::{Binary, Logic, LoopKind},
    subject::{Path, Subject, value_is_set},
    value::{Const, Val},
};
use alloc::{borrow::Cow, boxed::Box, vec::Vec};
use core::cmp::Ordering;
use hubble_api::reflect::{FieldInfo, Value};
use regex::Regex;

/// Elements all loops of one evaluation may visit together.
const VISITS_MAX: u32 = 10_000;
/// Bytes of a text that an evaluation may make; elements of a list.
const MADE_MAX: usize = 64 * 1024;

/// Why an evaluation failed.
pub(super) type Fault = &'static str;

/// A part of a checked expression.
#[derive(Debug)]
pub(super) enum Node {
    Const(Const),
    Path(Path),
    /// The flow itself.
    Whole,
    /// A field of a message that is no part of a path.
    Member(Box<Node>, &'static FieldInfo),
    Has(Path),
    HasMember(Box<Node>, &'static FieldInfo),
    /// Path, constant, and true for "is", false for "is not".
    Is(Path, Const, bool),
    /// The variable of a loop, counted from the outermost.
    Local(usize),
    Not(Box<Node>),
    Minus(Box<Node>),
    Logic(Logic, Box<[Node]>),
    Cond(Box<[Node; 3]>),
    Binary(Binary, Box<[Node; 2]>),
    InConsts(Box<Node>, Box<[Const]>),
    Index(Box<[Node; 2]>),
    List(Box<[Node]>),
    Map(Box<[[Node; 2]]>),
    Call(Function, Box<[Node]>),
    Matches(Box<Node>, Regex),
    Loop(Box<LoopNode>),
}

/// A loop over a list or the keys of a map.
#[derive(Debug)]
pub(super) struct LoopNode {
    pub kind: LoopKind,
    pub range: Node,
    pub only: Option<Node>,
    pub body: Node,
}

/// What an evaluation carries along.
struct Run<'a> {
    subject: Subject<'a>,
    locals: Vec<Val<'a>>,
    visits: u32,
}

impl Node {
    /// Evaluates a whole expression; none when it failed.
    pub fn run(&self, subject: Subject<'_>) -> Option<bool> {
        self.truth(&mut Run { subject, locals: Vec::new(), visits: 0 }).ok()
    }

    /// The constant a part without fields and variables comes to; none when it is no plain value.
    pub fn fold(&self) -> Result<Option<Const>, Fault> {
        let nothing = hubble_api::flow::Flow::default();
        let value = self.value(&mut Run { subject: Subject::Flow(&nothing), locals: Vec::new(), visits: 0 })?;
        Ok(Const::of(&value))
    }

    #[inline]
    fn truth<'a>(&'a self, run: &mut Run<'a>) -> Result<bool, Fault> {
        match self {
            Self::Is(path, want, positive) => Ok(want.is(&path.load(run.subject)) == *positive),
            Self::Logic(logic, parts) => {
                // One decisive operand decides, even beside one that fails.
                let decisive = *logic == Logic::Or;
                let mut fault = None;
                for part in parts {
                    match part.truth(run) {
                        Ok(found) if found == decisive => return Ok(decisive),
                        Ok(_) => {}
                        Err(why) => fault = Some(why),
                    }
                }
                fault.map_or(Ok(!decisive), Err)
            }
            Self::Not(part) => Ok(!part.truth(run)?),
            Self::Has(path) => Ok(path.is_set(run.subject)),
            _ => match self.value(run)? {
                Val::Bool(truth) => Ok(truth),
                _ => Err("no such overload: a bool is needed"),
            },
        }
    }

    fn value<'a>(&'a self, run: &mut Run<'a>) -> Result<Val<'a>, Fault> {
        Ok(match self {
            Self::Const(value) => value.val(),
            Self::Path(path) => path.load(run.subject),
            Self::Whole => match run.subject {
                Subject::Flow(flow) => Val::Message(hubble_api::reflect::Reflect::info(flow), Some(flow)),
                Subject::Record(..) => return Err("a record is no message"),
            },
            Self::Member(of, field) => member(of.value(run)?, field),
            Self::HasMember(of, field) => match of.value(run)? {
                Val::Message(_, Some(message)) => Val::Bool(value_is_set(message.field(field.number))),
                _ => Val::Bool(false),
            },
            Self::Local(at) => run.locals.get(*at).cloned().ok_or("no such variable")?,
            Self::Is(..) | Self::Logic(..) | Self::Not(_) | Self::Has(_) => Val::Bool(self.truth(run)?),
            Self::Minus(part) => match part.value(run)? {
                Val::Int(n) => Val::Int(n.checked_neg().ok_or("integer overflow")?),
                Val::Double(n) => Val::Double(-n),
                _ => return Err("no such overload: - needs an int or a double"),
            },
            Self::Cond(parts) => {
                let [condition, yes, no] = &**parts;
                if condition.truth(run)? { yes.value(run)? } else { no.value(run)? }
            }
            Self::Binary(operator, parts) => {
                let [left, right] = &**parts;
                let (left, right) = (left.value(run)?, right.value(run)?);
                binary(*operator, left, right)?
            }
            Self::InConsts(of, list) => {
                let of = of.value(run)?;
                Val::Bool(list.iter().any(|want| want.is(&of)))
            }
            Self::Index(parts) => {
                let [of, at] = &**parts;
                let (of, at) = (of.value(run)?, at.value(run)?);
                index(&of, &at)?
            }
            Self::List(parts) => Val::List(parts.iter().map(|part| part.value(run)).collect::<Result<_, _>>()?),
            Self::Map(entries) => {
                let mut all: Vec<(Val<'a>, Val<'a>)> = Vec::with_capacity(entries.len());
                for [key, value] in entries {
                    let key = key.value(run)?;
                    if all.iter().any(|(known, _)| known.equals(&key)) {
                        return Err("the map has a key twice");
                    }
                    all.push((key, value.value(run)?));
                }
                Val::Map(all)
            }
            Self::Call(function, args) => {
                let args = args.iter().map(|arg| arg.value(run)).collect::<Result<Vec<_>, _>>()?;
                call(*function, &args)?
            }
            Self::Matches(of, regex) => {
                let of = of.value(run)?;
                Val::Bool(regex.is_match(&of.text().ok_or("no such overload: matches needs a string")?))
            }
            Self::Loop(each) => each.value(run)?,
        })
    }
}

fn member<'a>(of: Val<'a>, field: &'static FieldInfo) -> Val<'a> {
    match of {
        Val::Message(_, Some(message)) => Val::of_field(message.field(field.number), field),
        _ => Val::of_field(Value::Absent, field),
    }
}

fn index<'a>(of: &Val<'a>, at: &Val<'a>) -> Result<Val<'a>, Fault> {
    if let Val::Map(entries) = of {
        let found = entries.iter().find(|(key, _)| key.equals(at));
        return found.map(|(_, value)| value.clone()).ok_or("no such key");
    }
    let at = match at {
        Val::Int(at) => usize::try_from(*at).ok(),
        Val::Uint(at) => usize::try_from(*at).ok(),
        _ => return Err("no such overload: a list is indexed by an int"),
    };
    at.and_then(|at| of.item(at)).ok_or("index out of range")
}

fn binary<'a>(operator: Binary, left: Val<'a>, right: Val<'a>) -> Result<Val<'a>, Fault> {
    let ordered = |fits: fn(Ordering) -> bool| {
        // Numbers that are none compare false with everything.
        let comparable = matches!((&left, &right), (Val::Double(_), _) | (_, Val::Double(_)));
        match left.order(&right) {
            Some(order) => Ok(Val::Bool(fits(order))),
            None if comparable => Ok(Val::Bool(false)),
            None => Err("no such overload: the operands have no order"),
        }
    };
    match operator {
        Binary::Equal => Ok(Val::Bool(left.equals(&right))),
        Binary::Unequal => Ok(Val::Bool(!left.equals(&right))),
        Binary::Less => ordered(Ordering::is_lt),
        Binary::LessEqual => ordered(Ordering::is_le),
        Binary::Greater => ordered(Ordering::is_gt),
        Binary::GreaterEqual => ordered(Ordering::is_ge),
        Binary::In => match &right {
            Val::Map(entries) => Ok(Val::Bool(entries.iter().any(|(key, _)| key.equals(&left)))),
            list => {
                let length = list.list_len().ok_or("no such overload: in needs a list or a map")?;
                Ok(Val::Bool((0..length).any(|at| list.item(at).is_some_and(|item| item.equals(&left)))))
            }
        },
        Binary::Add => add(left, right),
        _ => arithmetic(operator, &left, &right),
    }
}

fn add<'a>(left: Val<'a>, right: Val<'a>) -> Result<Val<'a>, Fault> {
    const BIG: Fault = "the result is too large";
    const OVERFLOW: Fault = "integer overflow";
    match (&left, &right) {
        (Val::Str(_) | Val::Ip(_), Val::Str(_) | Val::Ip(_)) => {
            let (a, b) = (left.text().ok_or(BIG)?, right.text().ok_or(BIG)?);
            if a.len() + b.len() > MADE_MAX {
                return Err(BIG);
            }
            Ok(Val::Str(Cow::Owned([a, b].concat())))
        }
        (Val::Bytes(a), Val::Bytes(b)) if a.len() + b.len() <= MADE_MAX => {
            Ok(Val::Bytes(Cow::Owned([a.as_ref(), b.as_ref()].concat())))
        }
        (Val::Bytes(_), Val::Bytes(_)) => Err(BIG),
        (Val::Time(at), Val::Duration(ns)) | (Val::Duration(ns), Val::Time(at)) => shift(at, i128::from(*ns)),
        (Val::Duration(a), Val::Duration(b)) => a.checked_add(*b).map(Val::Duration).ok_or(OVERFLOW),
        _ => match (left.list_len(), right.list_len()) {
            (Some(a), Some(b)) if a + b <= MADE_MAX => {
                let items = |of: &Val<'a>, length| (0..length).filter_map(|at| of.item(at)).collect::<Vec<_>>();
                Ok(Val::List([items(&left, a), items(&right, b)].concat()))
            }
            (Some(_), Some(_)) => Err(BIG),
            _ => arithmetic(Binary::Add, &left, &right),
        },
    }
}

fn shift<'a>(at: &hubble_api::Timestamp, ns: i128) -> Result<Val<'a>, Fault> {
    let moved = hubble_api::time::from_nanos(hubble_api::time::nanos(at) + ns);
    if hubble_api::time::is_valid(&moved) { Ok(Val::Time(moved)) } else { Err("timestamp overflow") }
}

fn arithmetic<'a>(operator: Binary, left: &Val<'a>, right: &Val<'a>) -> Result<Val<'a>, Fault> {
    const ZERO: Fault = "division by zero";
    let overflow = "integer overflow";
    match (left, right) {
        (Val::Int(a), Val::Int(b)) => match operator {
            Binary::Add => a.checked_add(*b),
            Binary::Subtract => a.checked_sub(*b),
            Binary::Multiply => a.checked_mul(*b),
            Binary::Divide if *b == 0 => return Err(ZERO),
            Binary::Remainder if *b == 0 => return Err(ZERO),
            Binary::Divide => a.checked_div(*b),
            _ => a.checked_rem(*b),
        }
        .map(Val::Int)
        .ok_or(overflow),
        (Val::Uint(a), Val::Uint(b)) => match operator {
            Binary::Add => a.checked_add(*b),
            Binary::Subtract => a.checked_sub(*b),
            Binary::Multiply => a.checked_mul(*b),
            Binary::Divide if *b == 0 => return Err(ZERO),
            Binary::Remainder if *b == 0 => return Err(ZERO),
            Binary::Divide => a.checked_div(*b),
            _ => a.checked_rem(*b),
        }
        .map(Val::Uint)
        .ok_or(overflow),
        (Val::Double(a), Val::Double(b)) => match operator {
            Binary::Add => Ok(Val::Double(a + b)),
            Binary::Subtract => Ok(Val::Double(a - b)),
            Binary::Multiply => Ok(Val::Double(a * b)),
            Binary::Divide => Ok(Val::Double(a / b)),
            _ => Err("no such overload: % needs integers"),
        },
        (Val::Time(a), Val::Time(b)) if operator == Binary::Subtract => {
            let ns = hubble_api::time::nanos(a) - hubble_api::time::nanos(b);
            i64::try_from(ns).map(Val::Duration).map_err(|_| overflow)
        }
        (Val::Time(a), Val::Duration(b)) if operator == Binary::Subtract => shift(a, -i128::from(*b)),
        (Val::Duration(a), Val::Duration(b)) if operator == Binary::Subtract => {
            a.checked_sub(*b).map(Val::Duration).ok_or(overflow)
        }
        _ => Err("no such overload: the operands do not fit the operator"),
    }
}

impl LoopNode {
    fn value<'a>(&'a self, run: &mut Run<'a>) -> Result<Val<'a>, Fault> {
        let mut range = self.range.value(run)?;
        if let Val::Map(entries) = range {
            range = Val::List(entries.into_iter().map(|(key, _)| key).collect());
        }
        let length = range.list_len().ok_or("no such overload: only lists and maps have elements")?;
        let (mut made, mut hits, mut fault) = (Vec::new(), 0, None);
        for at in 0..length {
            run.visits += 1;
            if run.visits > VISITS_MAX {
                return Err("the loops visit too many elements");
            }
            let Some(item) = range.item(at) else { break };
            run.locals.push(item);
            let step = self.step(run, &mut made, &mut hits, &mut fault);
            run.locals.pop();
            if step? {
                break;
            }
        }
        match self.kind {
            LoopKind::All if hits > 0 => Ok(Val::Bool(false)),
            LoopKind::Exists if hits > 0 => Ok(Val::Bool(true)),
            LoopKind::All | LoopKind::Exists => fault.map_or(Ok(Val::Bool(self.kind == LoopKind::All)), Err),
            LoopKind::ExistsOne => Ok(Val::Bool(hits == 1)),
            LoopKind::Map | LoopKind::Filter => Ok(Val::List(made)),
        }
    }

    /// One element, which is the innermost variable; true when the loop is decided.
    fn step<'a>(
        &'a self,
        run: &mut Run<'a>,
        made: &mut Vec<Val<'a>>,
        hits: &mut u32,
        fault: &mut Option<Fault>,
    ) -> Result<bool, Fault> {
        match self.kind {
            LoopKind::All | LoopKind::Exists => match self.body.truth(run) {
                Ok(found) => {
                    let decisive = found == (self.kind == LoopKind::Exists);
                    *hits += u32::from(decisive);
                    return Ok(decisive);
                }
                Err(why) => *fault = Some(why),
            },
            LoopKind::ExistsOne => *hits += u32::from(self.body.truth(run)?),
            LoopKind::Filter => {
                if self.body.truth(run)? {
                    made.extend(run.locals.last().cloned());
                }
            }
            LoopKind::Map => {
                let wanted = match &self.only {
                    Some(only) => only.truth(run)?,
                    None => true,
                };
                if wanted {
                    made.push(self.body.value(run)?);
                }
            }
        }
        Ok(false)
    }
}
