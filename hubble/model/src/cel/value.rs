//! Values while an expression is evaluated: borrowed from the flow or the expression wherever they can be.

use crate::WorkloadInfo;
use alloc::{borrow::Cow, boxed::Box, string::String, string::ToString, vec::Vec};
use core::{cmp::Ordering, net::IpAddr};
use hubble_api::{
    Timestamp,
    reflect::{FieldInfo, Kind, List, MESSAGES, MessageInfo, Reflect, Value},
};

/// A value.
#[derive(Clone)]
pub(super) enum Val<'a> {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Double(f64),
    Str(Cow<'a, str>),
    /// An address of a record: text that was not written yet.
    Ip(IpAddr),
    Bytes(Cow<'a, [u8]>),
    Time(Timestamp),
    /// Nanoseconds.
    Duration(i64),
    /// A message; none is one without any field set.
    Message(&'static MessageInfo, Option<&'a dyn Reflect>),
    Consts(&'a [Const]),
    Strings(&'a [String]),
    Names(&'a [Box<str>]),
    Workloads(&'a [WorkloadInfo]),
    Repeated(&'a dyn List, &'static FieldInfo),
    List(Vec<Val<'a>>),
    Map(Vec<(Val<'a>, Val<'a>)>),
    Type(&'static str),
}

/// A value that stands in the expression itself.
#[derive(Debug, Clone)]
pub(super) enum Const {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Double(f64),
    /// With the address the text is the usual form of.
    Str(Box<str>, Option<IpAddr>),
    Bytes(Box<[u8]>),
    Time(Timestamp),
    Duration(i64),
    List(Box<[Const]>),
    Type(&'static str),
}

impl Const {
    pub fn text(text: &str) -> Self {
        let ip = text.parse().ok().filter(|ip: &IpAddr| ip.to_string() == text);
        Self::Str(text.into(), ip)
    }

    pub fn val(&self) -> Val<'_> {
        match self {
            Self::Null => Val::Null,
            Self::Bool(v) => Val::Bool(*v),
            Self::Int(v) => Val::Int(*v),
            Self::Uint(v) => Val::Uint(*v),
            Self::Double(v) => Val::Double(*v),
            Self::Str(v, _) => Val::Str(Cow::Borrowed(v)),
            Self::Bytes(v) => Val::Bytes(Cow::Borrowed(v)),
            Self::Time(v) => Val::Time(*v),
            Self::Duration(v) => Val::Duration(*v),
            Self::List(v) => Val::Consts(v),
            Self::Type(v) => Val::Type(v),
        }
    }

    /// True when the value is this one.
    #[inline]
    pub fn is(&self, val: &Val<'_>) -> bool {
        match (self, val) {
            (Self::Int(a), Val::Int(b)) => a == b,
            (Self::Uint(a), Val::Uint(b)) => a == b,
            (Self::Bool(a), Val::Bool(b)) => a == b,
            (Self::Str(a, _), Val::Str(b)) => **a == **b,
            (Self::Str(_, a), Val::Ip(b)) => *a == Some(*b),
            _ => self.val().equals(val),
        }
    }

    /// The constant of a value; none when it does not stand alone.
    pub fn of(val: &Val<'_>) -> Option<Self> {
        Some(match val {
            Val::Null => Self::Null,
            Val::Bool(v) => Self::Bool(*v),
            Val::Int(v) => Self::Int(*v),
            Val::Uint(v) => Self::Uint(*v),
            Val::Double(v) => Self::Double(*v),
            Val::Str(v) => Self::text(v),
            Val::Bytes(v) => Self::Bytes(v.as_ref().into()),
            Val::Time(v) => Self::Time(*v),
            Val::Duration(v) => Self::Duration(*v),
            Val::Type(v) => Self::Type(v),
            _ => return None,
        })
    }
}

impl<'a> Val<'a> {
    /// What a field is worth that is not set.
    pub fn default_of(field: &'static FieldInfo) -> Self {
        if field.repeated {
            return Self::Consts(&[]);
        }
        match field.kind {
            Kind::Bool => Self::Bool(false),
            Kind::Int | Kind::Enum(_) => Self::Int(0),
            Kind::Uint => Self::Uint(0),
            Kind::Double => Self::Double(0.0),
            Kind::Str => Self::Str(Cow::Borrowed("")),
            Kind::BoolValue | Kind::IntValue | Kind::UintValue | Kind::Any => Self::Null,
            Kind::Time => Self::Time(Timestamp::default()),
            Kind::Message(index) => Self::Message(&MESSAGES[index], None),
        }
    }

    /// The value of a field as it was read.
    #[inline]
    pub fn of_field(value: Value<'a>, field: &'static FieldInfo) -> Self {
        match value {
            Value::Absent => Self::default_of(field),
            Value::Bool(v) => Self::Bool(v),
            Value::Int(v) => Self::Int(v),
            Value::Uint(v) => Self::Uint(v),
            Value::Double(v) => Self::Double(v),
            Value::Str(v) => Self::Str(Cow::Borrowed(v)),
            Value::Time(v) => Self::Time(*v),
            Value::Message(v) => Self::Message(v.info(), Some(v)),
            Value::List(v) => Self::Repeated(v, field),
        }
    }

    /// Text, written out if it is an address; none for other values.
    pub fn text(&self) -> Option<Cow<'_, str>> {
        match self {
            Self::Str(text) => Some(Cow::Borrowed(text)),
            Self::Ip(ip) => Some(Cow::Owned(ip.to_string())),
            _ => None,
        }
    }

    /// How many elements a list has; none for other values.
    pub fn list_len(&self) -> Option<usize> {
        Some(match self {
            Self::Consts(list) => list.len(),
            Self::Strings(list) => list.len(),
            Self::Names(list) => list.len(),
            Self::Workloads(list) => list.len(),
            Self::Repeated(list, _) => list.len(),
            Self::List(list) => list.len(),
            _ => return None,
        })
    }

    /// An element of a list; none behind its end.
    pub fn item(&self, at: usize) -> Option<Val<'a>> {
        match self {
            Self::Consts(list) => list.get(at).map(Const::val),
            Self::Strings(list) => list.get(at).map(|text| Val::Str(Cow::Borrowed(text))),
            Self::Names(list) => list.get(at).map(|text| Val::Str(Cow::Borrowed(text))),
            Self::Workloads(list) => list.get(at).map(|work| Val::Message(work.info(), Some(work))),
            Self::Repeated(list, field) if at < list.len() => Some(match list.item(at) {
                Value::Absent => Val::Null,
                value => Val::of_field(value, field),
            }),
            Self::List(list) => list.get(at).cloned(),
            _ => None,
        }
    }

    /// Equality of the language: numbers by value, lists and maps by elements, messages by fields.
    pub fn equals(&self, other: &Val<'_>) -> bool {
        match (self, other) {
            (Self::Null, Val::Null) => true,
            (Self::Bool(a), Val::Bool(b)) => a == b,
            (Self::Bytes(a), Val::Bytes(b)) => a == b,
            (Self::Type(a), Val::Type(b)) => a == b,
            (Self::Ip(a), Val::Ip(b)) => a == b,
            (Self::Map(a), Val::Map(b)) => {
                let finds = |(key, value): &(Val<'_>, Val<'_>)| {
                    b.iter().any(|(other, worth)| key.equals(other) && value.equals(worth))
                };
                a.len() == b.len() && a.iter().all(finds)
            }
            (Self::Message(info, a), Val::Message(other, b)) => core::ptr::eq(*info, *other) && messages(info, *a, *b),
            _ => match (self.list_len(), other.list_len()) {
                (Some(a), Some(b)) => {
                    a == b
                        && (0..a).all(|at| match (self.item(at), other.item(at)) {
                            (Some(a), Some(b)) => a.equals(&b),
                            _ => false,
                        })
                }
                _ => self.order(other) == Some(Ordering::Equal),
            },
        }
    }

    /// The order of two values; none when they have none.
    pub fn order(&self, other: &Val<'_>) -> Option<Ordering> {
        match (self, other) {
            (Self::Bool(a), Val::Bool(b)) => Some(a.cmp(b)),
            (Self::Int(a), Val::Int(b)) => Some(a.cmp(b)),
            (Self::Uint(a), Val::Uint(b)) => Some(a.cmp(b)),
            (Self::Double(a), Val::Double(b)) => a.partial_cmp(b),
            (Self::Str(a), Val::Str(b)) => Some(a.as_ref().cmp(b.as_ref())),
            (Self::Str(_) | Self::Ip(_), Val::Str(_) | Val::Ip(_)) => Some(self.text()?.cmp(&other.text()?)),
            (Self::Bytes(a), Val::Bytes(b)) => Some(a.cmp(b)),
            (Self::Time(a), Val::Time(b)) => Some((a.seconds, a.nanos).cmp(&(b.seconds, b.nanos))),
            (Self::Duration(a), Val::Duration(b)) => Some(a.cmp(b)),
            (Self::Int(a), Val::Uint(b)) => Some(i128::from(*a).cmp(&i128::from(*b))),
            (Self::Uint(a), Val::Int(b)) => Some(i128::from(*a).cmp(&i128::from(*b))),
            (Self::Int(a), Val::Double(b)) => (*a as f64).partial_cmp(b),
            (Self::Uint(a), Val::Double(b)) => (*a as f64).partial_cmp(b),
            (Self::Double(a), Val::Int(b)) => a.partial_cmp(&(*b as f64)),
            (Self::Double(a), Val::Uint(b)) => a.partial_cmp(&(*b as f64)),
            _ => None,
        }
    }
}

/// Two messages of one type; none of them is one without any field set.
fn messages(info: &'static MessageInfo, a: Option<&dyn Reflect>, b: Option<&dyn Reflect>) -> bool {
    info.fields.iter().all(|field| {
        let (left, right) = (read(a, field), read(b, field));
        let told = !field.repeated && matches!(field.kind, Kind::Message(_) | Kind::Time);
        let same_presence = matches!(left, Value::Absent) == matches!(right, Value::Absent);
        (same_presence || !told) && Val::of_field(left, field).equals(&Val::of_field(right, field))
    })
}

fn read<'a>(message: Option<&'a dyn Reflect>, field: &'static FieldInfo) -> Value<'a> {
    message.map_or(Value::Absent, |message| message.field(field.number))
}
