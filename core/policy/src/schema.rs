//! The schemas of CiliumNetworkPolicy and CiliumClusterwideNetworkPolicy, as custom resource definitions.
//!
//! Why: the API server checks documents before an agent ever sees them, and what it lets through must be what the
//! reader ([`crate::parse`]) takes. Both therefore use the same tables ([`tables`]): the reader knows the names of an
//! object's fields, the values of its enumerations and the bounds of its lists from here, and from nowhere else.
//!
//! Never: says more than a schema can. What fields mean together is the reader's business.

mod tables;

pub(crate) use tables::*;

use alloc::{string::ToString, vec::Vec};
use serde_json::{Map, Value, json};

/// An object of the schema.
#[derive(Debug)]
pub struct Object {
    /// Names of all fields, for whoever refuses others.
    pub names: &'static [&'static str],
    /// The fields.
    pub fields: &'static [Field],
    /// Fields that must be there.
    pub required: &'static [&'static str],
    /// Fields of which exactly one must be there.
    pub one_of: &'static [&'static str],
    /// Replaced as a whole by server-side apply.
    pub atomic: bool,
}

/// A field.
#[derive(Debug)]
pub struct Field {
    /// Its name.
    pub name: &'static str,
    /// What it is for.
    pub doc: &'static str,
    /// What it holds.
    pub kind: Kind,
}

/// What a field holds.
#[derive(Debug)]
pub enum Kind {
    /// An object with these fields.
    Object(&'static Object),
    /// A list.
    List(&'static Kind),
    /// A list of at most so many.
    ListMax(&'static Kind, usize),
    /// A list that is replaced as a whole by server-side apply.
    Atomic(&'static Kind),
    /// Text.
    Text,
    /// Text with at least one character.
    NonEmpty,
    /// Text of this form.
    Pattern(&'static str),
    /// Text of this form and at most so long.
    PatternMax(&'static str, usize),
    /// Text in a format with a name.
    Format(&'static str),
    /// One of these texts.
    Enum(&'static [&'static str]),
    /// One of these texts; the second is meant where there is none.
    EnumDefault(&'static [&'static str], &'static str),
    /// True or false.
    Bool,
    /// A whole number within bounds.
    Integer(i64, i64),
    /// A whole number of 64 bits.
    Long,
    /// A whole number or text, of this form when written out.
    IntOrText(&'static str),
    /// Text by keys that are the user's.
    Texts(&'static Kind),
    /// Objects by keys that are the user's.
    Objects(&'static Object),
    /// A list of objects, one for each value of this field.
    ListByKey(&'static Object, &'static str),
}

/// A custom resource.
#[derive(Debug)]
pub struct Resource {
    /// `kind`.
    pub kind: &'static str,
    /// Plural name, which is also the file's.
    pub plural: &'static str,
    singular: &'static str,
    short: &'static [&'static str],
    namespaced: bool,
}

/// Both resources.
pub const RESOURCES: [Resource; 2] = [
    Resource {
        kind: "CiliumNetworkPolicy",
        plural: "ciliumnetworkpolicies",
        singular: "ciliumnetworkpolicy",
        short: &["cnp", "ciliumnp"],
        namespaced: true,
    },
    Resource {
        kind: "CiliumClusterwideNetworkPolicy",
        plural: "ciliumclusterwidenetworkpolicies",
        singular: "ciliumclusterwidenetworkpolicy",
        short: &["ccnp"],
        namespaced: false,
    },
];

impl Resource {
    /// The definition, as it is given to an API server.
    #[must_use]
    pub fn definition(&self) -> Value {
        json!({
            "apiVersion": "apiextensions.k8s.io/v1",
            "kind": "CustomResourceDefinition",
            "metadata": { "name": alloc::format!("{}.cilium.io", self.plural) },
            "spec": {
                "group": "cilium.io",
                "names": {
                    "categories": ["cilium", "ciliumpolicy"],
                    "kind": self.kind,
                    "listKind": alloc::format!("{}List", self.kind),
                    "plural": self.plural,
                    "shortNames": self.short,
                    "singular": self.singular,
                },
                "scope": if self.namespaced { "Namespaced" } else { "Cluster" },
                "versions": [{
                    "name": "v2",
                    "served": true,
                    "storage": true,
                    "subresources": { "status": {} },
                    "additionalPrinterColumns": [
                        { "name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp" },
                        { "name": "Valid", "type": "string",
                          "jsonPath": ".status.conditions[?(@.type=='Valid')].status" },
                    ],
                    "schema": { "openAPIV3Schema": self.schema() },
                }],
            },
        })
    }

    fn schema(&self) -> Value {
        let mut root = object(&OBJECT);
        root["description"] = alloc::format!("{} is a network policy with rules for layers 3 to 7.", self.kind).into();
        root
    }
}

/// A table as JSON schema.
fn object(of: &Object) -> Value {
    let properties: Map<_, _> = of
        .fields
        .iter()
        .map(|field| {
            let mut schema = kind(&field.kind);
            if !field.doc.is_empty() {
                schema["description"] = field.doc.trim().into();
            }
            (field.name.to_string(), schema)
        })
        .collect();
    let mut schema = json!({ "type": "object" });
    if !properties.is_empty() {
        schema["properties"] = properties.into();
    }
    if !of.required.is_empty() {
        schema["required"] = of.required.into();
    }
    if !of.one_of.is_empty() {
        let one = |name: &&str| json!({ "properties": { *name: {} }, "required": [name] });
        schema["oneOf"] = of.one_of.iter().map(one).collect::<Vec<_>>().into();
    }
    if of.atomic {
        schema["x-kubernetes-map-type"] = "atomic".into();
    }
    schema
}

fn kind(of: &Kind) -> Value {
    match of {
        Kind::Object(table) => object(table),
        Kind::List(items) => json!({ "type": "array", "items": kind(items) }),
        Kind::ListMax(items, max) => json!({ "type": "array", "items": kind(items), "maxItems": max }),
        Kind::Atomic(items) => json!({ "type": "array", "items": kind(items), "x-kubernetes-list-type": "atomic" }),
        Kind::Text => json!({ "type": "string" }),
        Kind::NonEmpty => json!({ "type": "string", "minLength": 1 }),
        Kind::Pattern(pattern) => json!({ "type": "string", "pattern": pattern }),
        Kind::PatternMax(pattern, max) => json!({ "type": "string", "pattern": pattern, "maxLength": max }),
        Kind::Format(format) => json!({ "type": "string", "format": format }),
        Kind::Enum(values) => json!({ "type": "string", "enum": values }),
        Kind::EnumDefault(values, default) => json!({ "type": "string", "enum": values, "default": default }),
        Kind::Bool => json!({ "type": "boolean" }),
        Kind::Integer(min, max) => json!({ "type": "integer", "minimum": min, "maximum": max }),
        Kind::Long => json!({ "type": "integer", "format": "int64" }),
        Kind::IntOrText(pattern) => json!({
            "anyOf": [{ "type": "integer" }, { "type": "string" }],
            "pattern": pattern,
            "x-kubernetes-int-or-string": true,
        }),
        Kind::Texts(value) => json!({ "type": "object", "additionalProperties": kind(value) }),
        Kind::Objects(value) => json!({ "type": "object", "additionalProperties": object(value) }),
        Kind::ListByKey(item, key) => json!({
            "type": "array",
            "items": object(item),
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": [key],
        }),
    }
}
