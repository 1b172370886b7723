//! What fields a flow has, by name and number, and their values: what expressions over flows are made of.
//!
//! Covers the package `flow`. Numbers are looked up once, when an expression is compiled; reading a field by its
//! number is a jump and a load.

use crate::{Timestamp, flow};

/// A message that can be asked for its fields.
pub trait Reflect {
    /// What it is.
    fn info(&self) -> &'static MessageInfo;
    /// The value of a field by its number; absent when it has no such field.
    fn field(&self, number: u32) -> Value<'_>;
}

/// The value of a field.
#[derive(Clone, Copy)]
pub enum Value<'a> {
    /// A message or a wrapped scalar that is not set.
    Absent,
    /// A boolean.
    Bool(bool),
    /// A signed number or the number of an enum value.
    Int(i64),
    /// An unsigned number.
    Uint(u64),
    /// A floating point number.
    Double(f64),
    /// Text.
    Str(&'a str),
    /// A point in time.
    Time(&'a Timestamp),
    /// A message.
    Message(&'a dyn Reflect),
    /// The values of a repeated field.
    List(&'a dyn List),
}

/// The values of a repeated field.
pub trait List {
    /// How many there are.
    fn len(&self) -> usize;
    /// One of them; absent behind the end.
    fn item(&self, at: usize) -> Value<'_>;
    /// True when there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

macro_rules! list {
    ($($item:ty => $value:expr),*) => { $(impl List for Vec<$item> {
        fn len(&self) -> usize {
            self.len()
        }
        fn item(&self, at: usize) -> Value<'_> {
            self.get(at).map_or(Value::Absent, $value)
        }
    })* };
}

list!(
    String => |v| Value::Str(v),
    bool => |v| Value::Bool(*v),
    i32 => |v| Value::Int((*v).into()),
    u32 => |v| Value::Uint((*v).into()),
    u64 => |v| Value::Uint(*v)
);

impl<M: Reflect> List for Vec<M> {
    fn len(&self) -> usize {
        self.len()
    }
    fn item(&self, at: usize) -> Value<'_> {
        self.get(at).map_or(Value::Absent, |v| Value::Message(v))
    }
}

/// A message type.
#[derive(Debug, PartialEq, Eq)]
pub struct MessageInfo {
    /// Full name, such as `flow.Flow`.
    pub name: &'static str,
    /// Its fields.
    pub fields: &'static [FieldInfo],
}

impl MessageInfo {
    /// The type of a full name.
    pub fn named(name: &str) -> Option<&'static Self> {
        MESSAGES.iter().find(|message| message.name == name)
    }

    /// A field by its name.
    pub fn field(&self, name: &str) -> Option<&'static FieldInfo> {
        self.fields.iter().find(|field| field.name == name)
    }
}

/// A field of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FieldInfo {
    /// Name in the `.proto` file.
    pub name: &'static str,
    /// Its number.
    pub number: u32,
    /// Type of its values.
    pub kind: Kind,
    /// True when it holds any number of them.
    pub repeated: bool,
}

/// The type of a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A boolean.
    Bool,
    /// A signed number.
    Int,
    /// An unsigned number.
    Uint,
    /// A floating point number.
    Double,
    /// Text.
    Str,
    /// A number with names, of the enum of this full name.
    Enum(&'static str),
    /// A boolean that may be unset.
    BoolValue,
    /// A signed number that may be unset.
    IntValue,
    /// An unsigned number that may be unset.
    UintValue,
    /// A point in time.
    Time,
    /// A packed message of any type; its content is not read.
    Any,
    /// A message: its place in [`MESSAGES`].
    Message(usize),
}

/// An enum.
#[derive(Debug, PartialEq, Eq)]
pub struct EnumInfo {
    /// Full name, such as `flow.Verdict`.
    pub name: &'static str,
    /// Names and numbers of its values.
    pub values: &'static [(&'static str, i32)],
}

include!(concat!(env!("OUT_DIR"), "/reflect.rs"));

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_by_number() {
        let flow = flow::Flow {
            verdict: 2,
            uuid: "u".into(),
            is_reply: Some(true),
            source: Some(flow::Endpoint { labels: vec!["a".into()], ..Default::default() }),
            l4: Some(flow::Layer4 { protocol: Some(flow::layer4::Protocol::Udp(flow::Udp::default())) }),
            ..Default::default()
        };
        let number = |name| flow.info().field(name).expect("a field of flows").number;
        assert!(matches!(flow.field(number("verdict")), Value::Int(2)));
        assert!(matches!(flow.field(number("uuid")), Value::Str("u")));
        assert!(matches!(flow.field(number("is_reply")), Value::Bool(true)));
        assert!(matches!(flow.field(number("time")), Value::Absent));
        assert!(matches!(flow.field(77), Value::Absent));
        let Value::Message(source) = flow.field(number("source")) else { panic!("it is set") };
        let Value::List(labels) = source.field(4) else { panic!("labels are repeated") };
        assert!(labels.len() == 1 && matches!(labels.item(0), Value::Str("a")));
        let Value::Message(l4) = flow.field(number("l4")) else { panic!("it is set") };
        assert!(matches!((l4.field(1), l4.field(2)), (Value::Absent, Value::Message(_))));
        let verdict = ENUMS.iter().find(|info| info.name == "flow.Verdict").expect("an enum of flows");
        assert!(verdict.values.contains(&("DROPPED", 2)));
        assert!(ENUMS.iter().any(|info| info.name == "flow.Tunnel.Protocol"));
        assert_eq!(MessageInfo::named("flow.FlowFilter.Experimental").map(|info| info.fields.len()), Some(1));
    }
}
