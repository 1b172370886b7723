//! Writes, for the messages flows are made of, what fields they have and how a field is read by its number.

use crate::json::{Field, rust_ident};
use prost_types::{DescriptorProto, EnumDescriptorProto, FileDescriptorSet, field_descriptor_proto::Type};
use std::fmt::Write as _;

/// The package whose messages can be asked for their fields.
const PACKAGE: &str = "flow";

/// The source of the tables `MESSAGES` and `ENUMS`, and one `impl Reflect` per message.
pub fn generate(set: &FileDescriptorSet) -> String {
    let (mut messages, mut enums, mut impls) = (Vec::new(), String::new(), String::new());
    let file = set.file.iter().find(|file| file.package() == PACKAGE).expect("the flow package is compiled");
    for descriptor in &file.message_type {
        collect(&[PACKAGE], descriptor, &mut messages, &mut enums);
    }
    file.enum_type.iter().for_each(|descriptor| enumeration(&mut enums, PACKAGE, descriptor));
    let names: Vec<String> = messages.iter().map(|(name, _)| name.join(".")).collect();
    let mut table = String::new();
    for (index, (name, descriptor)) in messages.iter().enumerate() {
        let scope: Vec<&str> = name.iter().map(String::as_str).collect();
        message(&mut table, &mut impls, index, &scope, descriptor, &names);
    }
    format!(
        "/// Every message of the package.\npub static MESSAGES: &[MessageInfo] = &[{table}];\n\
         /// Every enum of the package.\npub static ENUMS: &[EnumInfo] = &[{enums}];\n{impls}"
    )
}

fn collect<'a>(
    scope: &[&str],
    descriptor: &'a DescriptorProto,
    messages: &mut Vec<(Vec<String>, &'a DescriptorProto)>,
    enums: &mut String,
) {
    let name = [scope, &[descriptor.name()]].concat();
    for nested in &descriptor.nested_type {
        collect(&name, nested, messages, enums);
    }
    descriptor.enum_type.iter().for_each(|nested| enumeration(enums, &name.join("."), nested));
    messages.push((name.iter().map(ToString::to_string).collect(), descriptor));
}

fn enumeration(out: &mut String, scope: &str, descriptor: &EnumDescriptorProto) {
    let values: String =
        descriptor.value.iter().map(|value| format!("(\"{}\", {}),", value.name(), value.number())).collect();
    let name = descriptor.name();
    write!(out, "EnumInfo {{ name: \"{scope}.{name}\", values: &[{values}] }},").expect("a String takes every write");
}

fn message(
    table: &mut String,
    impls: &mut String,
    index: usize,
    name: &[&str],
    descriptor: &DescriptorProto,
    names: &[String],
) {
    let (mut fields, mut arms) = (String::new(), String::new());
    for field in &descriptor.field {
        let at = Field { field, owner: name, message: descriptor };
        let (kind, repeated) = (at.kind(names), at.repeated());
        write!(
            fields,
            "FieldInfo {{ name: \"{}\", number: {}, kind: {kind}, repeated: {repeated} }},",
            field.name(),
            field.number()
        )
        .expect("a String takes every write");
        write!(arms, "{} => {},", field.number(), at.value_expr()).expect("a String takes every write");
    }
    let path = crate::json::rust_path(name);
    let full = name.join(".");
    write!(table, "MessageInfo {{ name: \"{full}\", fields: &[{fields}] }},").expect("a String takes every write");
    write!(
        impls,
        "impl Reflect for {path} {{
    fn info(&self) -> &'static MessageInfo {{ &MESSAGES[{index}] }}
    #[inline] fn field(&self, number: u32) -> Value<'_> {{ match number {{ {arms} _ => Value::Absent }} }}
}}\n"
    )
    .expect("a String takes every write");
}

impl Field<'_> {
    fn kind(&self, names: &[String]) -> String {
        match self.field.r#type() {
            Type::Bool => "Kind::Bool".into(),
            Type::Int32 | Type::Int64 => "Kind::Int".into(),
            Type::Uint32 | Type::Uint64 => "Kind::Uint".into(),
            Type::Double => "Kind::Double".into(),
            Type::String => "Kind::Str".into(),
            Type::Enum => format!("Kind::Enum(\"{}\")", self.type_name()),
            Type::Message => match (self.wrapper(), self.type_name()) {
                (Some("bool"), _) => "Kind::BoolValue".into(),
                (Some("u32"), _) => "Kind::UintValue".into(),
                (Some(_), _) => "Kind::IntValue".into(),
                (None, "google.protobuf.Timestamp") => "Kind::Time".into(),
                (None, "google.protobuf.Any") => "Kind::Any".into(),
                (None, own) => {
                    let index = names.iter().position(|name| name == own).expect("a message of this package");
                    format!("Kind::Message({index})")
                }
            },
            other => panic!("{}: no way to read {other:?} yet", self.field.name()),
        }
    }

    /// An expression of the field's value as a `Value`.
    fn value_expr(&self) -> String {
        let ident = self.ident();
        if self.field.oneof_index.is_some() {
            let (union, variant) = (rust_ident(self.union_name()), self.variant());
            return format!("match &self.{union} {{ Some({variant}(v)) => Value::Message(v), _ => Value::Absent }}");
        }
        if self.repeated() {
            return format!("Value::List(&self.{ident})");
        }
        match self.field.r#type() {
            Type::Bool => format!("Value::Bool(self.{ident})"),
            Type::Int32 | Type::Enum => format!("Value::Int(self.{ident}.into())"),
            Type::Int64 => format!("Value::Int(self.{ident})"),
            Type::Uint32 => format!("Value::Uint(self.{ident}.into())"),
            Type::Uint64 => format!("Value::Uint(self.{ident})"),
            Type::Double => format!("Value::Double(self.{ident})"),
            Type::String => format!("Value::Str(&self.{ident})"),
            _ => match (self.wrapper(), self.type_name()) {
                (Some("bool"), _) => format!("self.{ident}.map_or(Value::Absent, Value::Bool)"),
                (Some("u32"), _) => format!("self.{ident}.map_or(Value::Absent, |v| Value::Uint(v.into()))"),
                (Some(_), _) => format!("self.{ident}.map_or(Value::Absent, |v| Value::Int(v.into()))"),
                (None, "google.protobuf.Timestamp") => {
                    format!("self.{ident}.as_ref().map_or(Value::Absent, Value::Time)")
                }
                (None, "google.protobuf.Any") => "Value::Absent".into(),
                (None, _) => format!("match &self.{ident} {{ Some(v) => Value::Message(v), None => Value::Absent }}"),
            },
        }
    }
}
