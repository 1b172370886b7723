//! Writes, for every message, how it is read from and written as JSON and how a field mask thins it.
//!
//! Ready-made generators put the members of a `oneof` behind all other fields and refuse enum numbers they do not
//! know. Scripts parse these lines, so fields keep the order of the `.proto` file and unknown numbers stay numbers.

use heck::{ToLowerCamelCase, ToSnakeCase, ToUpperCamelCase};
use prost_types::{
    DescriptorProto, FieldDescriptorProto, FileDescriptorSet,
    field_descriptor_proto::{Label, Type},
};
use std::fmt::Write as _;

/// The source of one `impl Message` per message of the set, well-known types left out.
pub fn generate(set: &FileDescriptorSet) -> String {
    let mut out = String::new();
    for file in set.file.iter().filter(|file| !file.package().starts_with("google.")) {
        for message in &file.message_type {
            emit(&mut out, &[file.package()], message);
        }
    }
    out
}

fn emit(out: &mut String, scope: &[&str], message: &DescriptorProto) {
    let name = [scope, &[message.name()]].concat();
    for nested in &message.nested_type {
        emit(out, &name, nested);
    }
    let (mut write, mut read, mut retain, mut child) = (String::new(), String::new(), String::new(), String::new());
    let mut unions: Vec<i32> = Vec::new();
    for field in &message.field {
        let at = Field { field, owner: &name, message };
        match field.oneof_index {
            Some(index) if !unions.contains(&index) => {
                unions.push(index);
                at.write_union(&mut write);
                at.retain_union(&mut retain);
            }
            Some(_) => {}
            None => {
                at.write(&mut write);
                at.retain(&mut retain);
            }
        }
        at.read(&mut read);
        at.child(&mut child);
    }
    let (path, full) = (rust_path(&name), name.join("."));
    writeln!(
        out,
        "impl Message for {path} {{
    const NAME: &'static str = \"{full}\";
    fn write(&self, w: &mut Writer) {{ w.open(); {write} w.close(); }}
    fn read_field(&mut self, key: &str, r: &mut Reader<'_>) -> Result<bool, Error> {{
        match key {{ {read} _ => return Ok(false) }}
        #[allow(unreachable_code)] Ok(true)
    }}
    fn retain(&mut self, mask: &Mask) {{ {retain} }}
    fn child(key: &str) -> Option<Child> {{ match key {{ {child} _ => None }} }}
}}"
    )
    .expect("a String takes every write");
}

pub(crate) struct Field<'a> {
    pub(crate) field: &'a FieldDescriptorProto,
    pub(crate) owner: &'a [&'a str],
    pub(crate) message: &'a DescriptorProto,
}

impl Field<'_> {
    pub(crate) fn ident(&self) -> String {
        rust_ident(self.field.name())
    }

    pub(crate) fn repeated(&self) -> bool {
        self.field.label() == Label::Repeated
    }

    /// The well-known or own type behind a message or enum field, without the leading dot.
    pub(crate) fn type_name(&self) -> &str {
        self.field.type_name().trim_start_matches('.')
    }

    pub(crate) fn wrapper(&self) -> Option<&'static str> {
        Some(match self.type_name() {
            "google.protobuf.BoolValue" => "bool",
            "google.protobuf.UInt32Value" => "u32",
            "google.protobuf.Int32Value" => "i32",
            _ => return None,
        })
    }

    fn enum_path(&self) -> String {
        rust_path(&self.type_name().split('.').collect::<Vec<_>>())
    }

    /// An expression that writes `v`, a reference to the value.
    fn write_expr(&self) -> String {
        match self.field.r#type() {
            Type::Enum => {
                format!("w.enumeration(*v, {}::try_from(*v).ok().map(|e| e.as_str_name()))", self.enum_path())
            }
            Type::Message => match self.wrapper() {
                Some(scalar) => format!("w.{scalar}(*v)"),
                None => "v.write(w)".into(),
            },
            Type::String => "w.string(v)".into(),
            _ => format!("w.{}(*v)", self.scalar()),
        }
    }

    /// An expression that reads one value from `r`.
    fn read_expr(&self) -> String {
        match self.field.r#type() {
            Type::Enum => format!("r.enumeration(|s| {}::from_str_name(s).map(|e| e as i32))?", self.enum_path()),
            Type::Message => match self.wrapper() {
                Some(scalar) => format!("r.{scalar}()?"),
                None => "Message::read(r)?".into(),
            },
            Type::String => "r.string()?".into(),
            _ => format!("r.{}()?", self.scalar()),
        }
    }

    fn scalar(&self) -> &'static str {
        match self.field.r#type() {
            Type::Bool => "bool",
            Type::Uint32 => "u32",
            Type::Int32 => "i32",
            Type::Uint64 => "u64",
            Type::Int64 => "i64",
            Type::Double => "f64",
            other => panic!("{}: no JSON form for {other:?} yet", self.field.name()),
        }
    }

    fn present(&self) -> String {
        let ident = self.ident();
        if self.repeated() {
            return format!("!self.{ident}.is_empty()");
        }
        match self.field.r#type() {
            Type::String => format!("!self.{ident}.is_empty()"),
            Type::Bool => format!("self.{ident}"),
            Type::Double => format!("self.{ident} != 0.0"),
            _ => format!("self.{ident} != 0"),
        }
    }

    fn write(&self, out: &mut String) {
        let (ident, key, expr) = (self.ident(), self.field.name(), self.write_expr());
        let text = if self.repeated() {
            format!("if {} {{ w.key(\"{key}\"); w.array(&self.{ident}, |w, v| {expr}); }}", self.present())
        } else if self.field.r#type() == Type::Message {
            format!("if let Some(v) = &self.{ident} {{ w.key(\"{key}\"); {expr}; }}")
        } else {
            format!("if {} {{ let v = &self.{ident}; w.key(\"{key}\"); {expr}; }}", self.present())
        };
        out.push_str(&text);
    }

    fn union_members(&self) -> impl Iterator<Item = Field<'_>> {
        self.message.field.iter().filter(|field| field.oneof_index == self.field.oneof_index).map(|field| Field {
            field,
            owner: self.owner,
            message: self.message,
        })
    }

    pub(crate) fn union_name(&self) -> &str {
        let index = usize::try_from(self.field.oneof_index()).expect("the compiler numbers oneofs from zero");
        self.message.oneof_decl[index].name()
    }

    pub(crate) fn variant(&self) -> String {
        let scope: Vec<String> = self.owner[1..].iter().map(|part| part.to_snake_case()).collect();
        let union = self.union_name().to_upper_camel_case();
        format!("{}::{}::{union}::{}", self.owner[0], scope.join("::"), self.field.name().to_upper_camel_case())
    }

    fn write_union(&self, out: &mut String) {
        let union = rust_ident(self.union_name());
        write!(out, "match &self.{union} {{").expect("a String takes every write");
        for member in self.union_members() {
            let (key, variant, expr) = (member.field.name(), member.variant(), member.write_expr());
            write!(out, "Some({variant}(v)) => {{ w.key(\"{key}\"); {expr}; }}").expect("a String takes every write");
        }
        out.push_str("None => {} }");
    }

    fn read(&self, out: &mut String) {
        let name = self.field.name();
        let camel = self.field.json_name.clone().unwrap_or_else(|| name.to_lower_camel_case());
        let keys = if camel == name { format!("\"{name}\"") } else { format!("\"{name}\" | \"{camel}\"") };
        let (ident, expr) = (self.ident(), self.read_expr());
        let set = if self.field.oneof_index.is_some() {
            format!("self.{} = Some({}({expr}))", rust_ident(self.union_name()), self.variant())
        } else if self.repeated() {
            format!("r.array(&mut self.{ident}, |r| Ok({expr}))?")
        } else if self.field.r#type() == Type::Message {
            format!("self.{ident} = Some({expr})")
        } else {
            format!("self.{ident} = {expr}")
        };
        write!(out, "{keys} => if !r.null()? {{ {set} }},").expect("a String takes every write");
    }

    fn descends(&self) -> bool {
        self.field.r#type() == Type::Message && !self.repeated() && !self.type_name().starts_with("google.")
    }

    fn retain(&self, out: &mut String) {
        let (ident, key) = (self.ident(), self.field.name());
        let clear = if self.repeated() || self.field.r#type() == Type::String {
            format!("self.{ident}.clear()")
        } else {
            format!("self.{ident} = Default::default()")
        };
        let deeper = if self.descends() {
            format!("if let Some(v) = &mut self.{ident} {{ v.retain(sub) }}")
        } else {
            String::new()
        };
        write!(
            out,
            "match mask.child(\"{key}\") {{ None => {clear}, Some(sub) if sub.is_whole() => {{}} Some(sub) => {{ let _ = sub; {deeper} }} }}"
        )
        .expect("a String takes every write");
    }

    fn retain_union(&self, out: &mut String) {
        let union = rust_ident(self.union_name());
        write!(out, "let keep = match &mut self.{union} {{ None => true,").expect("a String takes every write");
        for member in self.union_members() {
            let (key, variant) = (member.field.name(), member.variant());
            write!(
                out,
                "Some({variant}(v)) => match mask.child(\"{key}\") {{ None => false, Some(sub) if sub.is_whole() => true, Some(sub) => {{ v.retain(sub); true }} }},"
            )
            .expect("a String takes every write");
        }
        write!(out, "}}; if !keep {{ self.{union} = None }}").expect("a String takes every write");
    }

    fn child(&self, out: &mut String) {
        let key = self.field.name();
        let child = if self.descends() {
            format!("Child::Message(<{} as Message>::child)", self.enum_path())
        } else {
            "Child::Leaf".into()
        };
        write!(out, "\"{key}\" => Some({child}),").expect("a String takes every write");
    }
}

/// `["flow", "FlowFilter", "Experimental"]` → `flow::flow_filter::Experimental`, as prost lays modules out.
pub(crate) fn rust_path(name: &[&str]) -> String {
    let (last, scope) = name.split_last().expect("a type has a name");
    let scope: Vec<String> = scope.iter().map(|part| part.to_snake_case()).collect();
    format!("{}::{}", scope.join("::"), last.to_upper_camel_case())
}

pub(crate) fn rust_ident(name: &str) -> String {
    let snake = name.to_snake_case();
    if matches!(snake.as_str(), "type" | "match" | "ref" | "use") { format!("r#{snake}") } else { snake }
}
