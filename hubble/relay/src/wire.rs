//! Responses as they lie on the wire: looked through, not taken apart.
//!
//! A relay hands on what nodes send, so it need not decode a flow. It must know when the flow was, and it must not hand
//! on what is no message: one node could otherwise end everybody's stream. So each response is walked through once,
//! along the descriptors of the protocol: every length within its parent, every text UTF-8, every field of its type.
//! Fields the protocol does not have yet are left as they are.

use hubble_api::DESCRIPTORS;
use prost::Message as _;
use prost_types::{
    FileDescriptorSet,
    field_descriptor_proto::{Label, Type},
};
use std::{collections::BTreeMap, sync::LazyLock};

/// How deep messages may lie in each other; those of the protocol go six deep.
const DEPTH_MAX: usize = 32;

/// Not a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the node sent something that is no GetFlowsResponse: {0}")]
pub struct Malformed(&'static str);

/// What a relay must know of a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Peek {
    /// When it was, in nanoseconds since 1970; none when it does not say.
    pub at_ns: Option<i64>,
    /// Whether it is a flow, and not word of a loss or a node.
    pub is_flow: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Varint,
    Fixed64,
    Fixed32,
    /// Numbers in a list may come one by one or packed.
    Varints,
    Fixed64s,
    Fixed32s,
    Text,
    Bytes,
    Message(u16),
}

/// Numbers below this are looked up by index; nearly all fields have one.
const DIRECT: usize = 64;

/// Fields of one message.
#[derive(Default)]
struct Fields {
    /// By number.
    direct: Vec<Option<Kind>>,
    /// Those with large numbers, ascending.
    others: Vec<(u32, Kind)>,
}

impl Fields {
    fn new(mut fields: Vec<(u32, Kind)>) -> Self {
        fields.sort_unstable_by_key(|(number, _)| *number);
        let mut all = Self::default();
        for (number, kind) in fields {
            match usize::try_from(number) {
                Ok(at) if at < DIRECT => {
                    all.direct.resize(at + 1, None);
                    all.direct[at] = Some(kind);
                }
                _ => all.others.push((number, kind)),
            }
        }
        all
    }

    #[inline(always)]
    fn get(&self, number: u32) -> Option<Kind> {
        match usize::try_from(number).ok().and_then(|at| self.direct.get(at)) {
            Some(kind) => *kind,
            None => self.other(number),
        }
    }

    fn other(&self, number: u32) -> Option<Kind> {
        let at = self.others.binary_search_by_key(&number, |(number, _)| *number).ok()?;
        Some(self.others[at].1)
    }
}

struct Schema {
    messages: Vec<Fields>,
    response: usize,
}

static SCHEMA: LazyLock<Schema> = LazyLock::new(Schema::new);

impl Schema {
    fn new() -> Self {
        let set = FileDescriptorSet::decode(DESCRIPTORS).expect("the descriptors were made by our build");
        let mut found = BTreeMap::new();
        for file in &set.file {
            let package = format!(".{}", file.package());
            file.message_type.iter().for_each(|message| collect(&package, message, &mut found));
        }
        let index: BTreeMap<&str, u16> = found.keys().zip(0..).map(|(name, at)| (name.as_str(), at)).collect();
        let kind = |field: &prost_types::FieldDescriptorProto| {
            let list = field.label() == Label::Repeated;
            match field.r#type() {
                Type::Message => Kind::Message(index[field.type_name()]),
                Type::String => Kind::Text,
                Type::Bytes => Kind::Bytes,
                Type::Double | Type::Fixed64 | Type::Sfixed64 if list => Kind::Fixed64s,
                Type::Double | Type::Fixed64 | Type::Sfixed64 => Kind::Fixed64,
                Type::Float | Type::Fixed32 | Type::Sfixed32 if list => Kind::Fixed32s,
                Type::Float | Type::Fixed32 | Type::Sfixed32 => Kind::Fixed32,
                _ if list => Kind::Varints,
                _ => Kind::Varint,
            }
        };
        let fields = |message: &&prost_types::DescriptorProto| {
            Fields::new(message.field.iter().map(|field| (field.number().unsigned_abs(), kind(field))).collect())
        };
        Self { messages: found.values().map(fields).collect(), response: index[".observer.GetFlowsResponse"].into() }
    }
}

fn collect<'a>(
    scope: &str,
    message: &'a prost_types::DescriptorProto,
    into: &mut BTreeMap<String, &'a prost_types::DescriptorProto>,
) {
    let name = format!("{scope}.{}", message.name());
    message.nested_type.iter().for_each(|nested| collect(&name, nested, into));
    into.insert(name, message);
}

/// Field numbers of `GetFlowsResponse` and `Timestamp`.
const FLOW: u32 = 1;
const TIME: u32 = 1001;
const SECONDS: u32 = 1;
const NANOS: u32 = 2;

/// Looks through one response.
///
/// # Errors
/// When it is none.
pub fn peek(response: &[u8]) -> Result<Peek, Malformed> {
    let schema = &*SCHEMA;
    let mut found = Peek::default();
    let fields = &schema.messages[schema.response];
    let mut rest = response;
    while !rest.is_empty() {
        let (number, value) = field(&mut rest)?;
        check(schema, fields, number, value, 1)?;
        match (number, value) {
            (FLOW, _) => found.is_flow = true,
            (TIME, Value::Bytes(time)) => found.at_ns = Some(nanos(time)?),
            _ => {}
        }
    }
    Ok(found)
}

fn nanos(mut time: &[u8]) -> Result<i64, Malformed> {
    let (mut seconds, mut nanos) = (0_i64, 0_i64);
    while !time.is_empty() {
        match field(&mut time)? {
            (SECONDS, Value::Varint(value)) => seconds = value.cast_signed(),
            (NANOS, Value::Varint(value)) => nanos = value.cast_signed(),
            _ => {}
        }
    }
    Ok(seconds.saturating_mul(1_000_000_000).saturating_add(nanos))
}

fn walk(schema: &Schema, message: u16, mut bytes: &[u8], depth: usize) -> Result<(), Malformed> {
    if depth > DEPTH_MAX {
        return Err(Malformed("messages lie too deep in each other"));
    }
    let fields = &schema.messages[usize::from(message)];
    while !bytes.is_empty() {
        let (number, value) = field(&mut bytes)?;
        check(schema, fields, number, value, depth)?;
    }
    Ok(())
}

#[inline(always)]
fn check(schema: &Schema, fields: &Fields, number: u32, value: Value<'_>, depth: usize) -> Result<(), Malformed> {
    let Some(kind) = fields.get(number) else { return Ok(()) };
    match (kind, value) {
        (Kind::Varint | Kind::Varints, Value::Varint(_)) | (Kind::Bytes, Value::Bytes(_)) => Ok(()),
        (Kind::Text, Value::Bytes(bytes)) => text(bytes),
        (Kind::Message(inner), Value::Bytes(bytes)) => walk(schema, inner, bytes, depth + 1),
        (kind, value) => check_rare(kind, value),
    }
}

/// Short names of ASCII are nearly all the text there is.
#[inline(always)]
fn text(bytes: &[u8]) -> Result<(), Malformed> {
    let is_ascii = bytes.len() <= 64 && bytes.iter().fold(0, |all, byte| all | byte) < 0x80;
    if is_ascii || std::str::from_utf8(bytes).is_ok() { Ok(()) } else { Err(Malformed("a text is not UTF-8")) }
}

#[cold]
fn check_rare(kind: Kind, value: Value<'_>) -> Result<(), Malformed> {
    match (kind, value) {
        (Kind::Fixed64 | Kind::Fixed64s, Value::Fixed64) | (Kind::Fixed32 | Kind::Fixed32s, Value::Fixed32) => Ok(()),
        (Kind::Varints, Value::Bytes(mut packed)) => {
            while !packed.is_empty() {
                varint(&mut packed)?;
            }
            Ok(())
        }
        (Kind::Fixed64s, Value::Bytes(packed)) if packed.len() % 8 == 0 => Ok(()),
        (Kind::Fixed32s, Value::Bytes(packed)) if packed.len() % 4 == 0 => Ok(()),
        _ => Err(Malformed("a field is of another type than the protocol says")),
    }
}

#[derive(Debug, Clone, Copy)]
enum Value<'a> {
    Varint(u64),
    Fixed64,
    Fixed32,
    Bytes(&'a [u8]),
}

/// Takes a number off the front.
#[inline(always)]
fn varint(bytes: &mut &[u8]) -> Result<u64, Malformed> {
    match *bytes {
        [low, rest @ ..] if *low < 0x80 => {
            *bytes = rest;
            Ok((*low).into())
        }
        [low, high, rest @ ..] if *high < 0x80 => {
            *bytes = rest;
            Ok(u64::from(*low & 0x7f) | u64::from(*high) << 7)
        }
        _ => long_varint(bytes),
    }
}

fn long_varint(bytes: &mut &[u8]) -> Result<u64, Malformed> {
    let mut value = 0;
    for (at, byte) in bytes.iter().enumerate().take(10) {
        value |= u64::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            // Of the tenth byte one bit is left.
            if at == 9 && *byte > 1 {
                break;
            }
            *bytes = &bytes[at + 1..];
            return Ok(value);
        }
    }
    Err(Malformed("a number does not end"))
}

#[inline(always)]
fn take<'a>(bytes: &mut &'a [u8], length: u64) -> Result<&'a [u8], Malformed> {
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    let (taken, rest) = bytes.split_at_checked(length).ok_or(Malformed("a field is longer than its message"))?;
    *bytes = rest;
    Ok(taken)
}

/// Takes a field off the front of what is left of a message.
#[inline(always)]
fn field<'a>(rest: &mut &'a [u8]) -> Result<(u32, Value<'a>), Malformed> {
    let key = varint(rest)?;
    let number = u32::try_from(key >> 3).ok().filter(|number| (1..1 << 29).contains(number));
    let number = number.ok_or(Malformed("a field has no number"))?;
    let value = match key & 7 {
        0 => Value::Varint(varint(rest)?),
        2 => {
            let length = varint(rest)?;
            Value::Bytes(take(rest, length)?)
        }
        1 => {
            take(rest, 8)?;
            Value::Fixed64
        }
        5 => {
            take(rest, 4)?;
            Value::Fixed32
        }
        _ => return Err(Malformed("a field has no known form")),
    };
    Ok((number, value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use hubble_api::{
        Timestamp,
        flow::{Endpoint, Flow, LostEvent},
        observer::{GetFlowsResponse, get_flows_response::ResponseTypes},
    };

    fn flow() -> GetFlowsResponse {
        let source = Endpoint { pod_name: "web".into(), labels: vec!["k8s:a=b".into()], ..Endpoint::default() };
        GetFlowsResponse {
            response_types: Some(ResponseTypes::Flow(Flow {
                uuid: "u".into(),
                source: Some(source),
                is_reply: Some(true),
                ..Flow::default()
            })),
            node_name: "c/n".into(),
            time: Some(Timestamp { seconds: 7, nanos: 9 }),
        }
    }

    #[test]
    fn time_and_kind_are_seen() {
        let lost = LostEvent { num_events_lost: 3, cpu: Some(-1), ..LostEvent::default() };
        for (response, want) in [
            (flow(), Peek { at_ns: Some(7_000_000_009), is_flow: true }),
            (
                GetFlowsResponse { response_types: Some(ResponseTypes::LostEvents(lost)), ..flow() },
                Peek { at_ns: Some(7_000_000_009), is_flow: false },
            ),
            (GetFlowsResponse { time: None, ..flow() }, Peek { at_ns: None, is_flow: true }),
            (
                GetFlowsResponse { time: Some(Timestamp { seconds: -1, nanos: 5 }), ..flow() },
                Peek { at_ns: Some(-999_999_995), is_flow: true },
            ),
        ] {
            assert_eq!(peek(&response.encode_to_vec()), Ok(want));
        }
    }

    #[test]
    fn what_is_no_message_is_refused() {
        for (bytes, why) in [
            (&[0x0a, 0x05, 1][..], "a field is longer than its message"),
            (&[0x0a], "a number does not end"),
            (&[0x08, 0x01], "a field is of another type than the protocol says"),
            (&[0xc2, 0x3e, 0x01, 0xff], "a text is not UTF-8"),
            (&[0x0b], "a field has no known form"),
            (&[0x02, 0x00], "a field has no number"),
            (&[0xff; 12], "a number does not end"),
        ] {
            assert_eq!(peek(bytes), Err(Malformed(why)), "{bytes:?}");
        }
        assert_eq!(peek(&[0xd2, 0xff, 0x03, 0x01, 0x00]), Ok(Peek::default()), "a field of a later version");
    }

    /// Whatever is handed on must decode: a byte changed anywhere either is seen here or hurts nobody.
    #[test]
    fn everything_accepted_decodes() {
        let good = flow().encode_to_vec();
        for at in 0..good.len() {
            for change in 0..=u8::MAX {
                let mut bytes = good.clone();
                bytes[at] = change;
                if peek(&bytes).is_ok() {
                    GetFlowsResponse::decode(&bytes[..]).unwrap_or_else(|why| panic!("{at} {change}: {why}"));
                }
            }
            let _refused_or_not = peek(&good[..at]);
        }
    }
}
