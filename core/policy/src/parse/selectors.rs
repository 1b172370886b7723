//! Label selectors: `matchLabels` and `matchExpressions`, and the namespace a policy adds to them.

use super::ctx::{Ctx, Path, Problem};
use crate::schema;
use alloc::vec::Vec;
use serde_json::{Map, Value};
use types::{
    labels::{ANY, K8S, NAMESPACE_LABELS_PREFIX, POD_NAMESPACE, RESERVED},
    selector::{Demand, Requirement, Selector, SelectorKey},
};

/// How the keys of a selector are to be read.
#[derive(Clone, Copy)]
pub(super) enum Keys {
    /// `source:key`, every source if none is named.
    Cilium,
    /// Plain keys of Kubernetes objects, with this prefix put before them.
    Kubernetes(&'static str),
}

impl Keys {
    fn read(self, text: &str) -> SelectorKey {
        match self {
            Self::Cilium => SelectorKey::parse(text),
            Self::Kubernetes("") => SelectorKey::k8s(text),
            Self::Kubernetes(prefix) => SelectorKey::k8s(&alloc::format!("{prefix}{text}")),
        }
    }
}

/// Reads a `LabelSelector`.
pub(super) fn selector(cx: &mut Ctx<'_>, path: &Path<'_>, value: &Value, keys: Keys) -> Option<Selector> {
    let map = cx.object(path, value)?;
    cx.only_fields(path, map, schema::SELECTOR.names);
    let before = cx.errors_so_far();
    let mut requirements = Vec::new();
    if let Some(labels) = map.get("matchLabels").filter(|v| !v.is_null()) {
        let path = path.field("matchLabels");
        for (key, value) in cx.object(&path, labels).into_iter().flatten() {
            let path = path.field(key);
            check_key(cx, &path, keys.read(key), key);
            let Some(value) = cx.text(&path, value) else { continue };
            check_value(cx, &path, value);
            requirements.push(Requirement::equals(keys.read(key), value));
        }
    }
    let list = path.field("matchExpressions");
    for (i, item) in cx.list_field(path, map, "matchExpressions").unwrap_or_default().iter().enumerate() {
        requirements.extend(expression(cx, &list.index(i), item, keys));
    }
    (cx.errors_so_far() == before).then(|| requirements.into_iter().collect())
}

fn expression(cx: &mut Ctx<'_>, path: &Path<'_>, value: &Value, keys: Keys) -> Option<Requirement> {
    let map: &Map<_, _> = cx.object(path, value)?;
    cx.only_fields(path, map, schema::EXPRESSION.names);
    let key = cx.required_text(path, map, "key");
    if let Some(key) = key {
        check_key(cx, &path.field("key"), keys.read(key), key);
    }
    let operator = cx.required_text(path, map, "operator")?;
    let at = path.field("values");
    let mut values = Vec::new();
    for (i, item) in cx.list_field(path, map, "values").unwrap_or_default().iter().enumerate() {
        let at = at.index(i);
        if let Some(text) = cx.text(&at, item) {
            check_value(cx, &at, text);
            values.push(text.into());
        }
    }
    let demand = match (operator, values.is_empty()) {
        ("In", false) => Demand::In(values),
        ("NotIn", false) => Demand::NotIn(values),
        ("Exists", true) => Demand::Exists,
        ("DoesNotExist", true) => Demand::Absent,
        ("In" | "NotIn", true) => {
            cx.error(&at, Problem::Missing { expected: "at least one value for the operators In and NotIn" });
            return None;
        }
        ("Exists" | "DoesNotExist", false) => {
            cx.invalid(&at, operator, "the operators Exists and DoesNotExist take no values");
            return None;
        }
        _ => {
            let problem = Problem::NotOneOf { found: operator.into(), allowed: schema::OPERATORS };
            cx.error(&path.field("operator"), problem);
            return None;
        }
    };
    Some(Requirement { key: keys.read(key?), demand })
}

fn check_key(cx: &mut Ctx<'_>, path: &Path<'_>, key: SelectorKey, text: &str) {
    if !is_qualified_name(&key.key) {
        cx.invalid(
            path,
            text,
            "a label key is [source:][prefix/]name; the name has up to 63 letters, digits, '-', '_' or '.', beginning \
             and ending with a letter or digit; the prefix is a DNS name in lower case",
        );
    }
}

fn check_value(cx: &mut Ctx<'_>, path: &Path<'_>, text: &str) {
    if !text.is_empty() && !is_name(text, schema::LABEL_VALUE_MAX) {
        cx.invalid(
            path,
            text,
            "a label value has up to 63 letters, digits, '-', '_' or '.', beginning and ending with a letter or digit",
        );
    }
}

fn is_name(text: &str, max: usize) -> bool {
    let edge = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    bytes.len() <= max
        && edge(bytes.first())
        && edge(bytes.last())
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(b))
}

fn is_qualified_name(key: &str) -> bool {
    match key.split_once('/') {
        None => is_name(key, 253),
        Some((prefix, name)) => is_name(name, 63) && is_dns_name(prefix),
    }
}

/// A DNS subdomain in lower case.
pub(super) fn is_dns_name(text: &str) -> bool {
    let label =
        |l: &str| is_name(l, 253) && l.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    text.len() <= schema::DNS_NAME_MAX && text.split('.').all(label)
}

/// What a policy adds to the selectors of its peers.
#[derive(Clone, Copy)]
pub(super) enum Scoping<'a> {
    /// Nothing: bare rules.
    None,
    /// Peers are of this namespace unless they say otherwise.
    Namespace(&'a str),
    /// Peers are pods unless they say otherwise.
    Cluster {
        /// The subject is the init identity, whose peers are left alone.
        subject_is_init: bool,
    },
}

impl Scoping<'_> {
    /// Applies the scoping to a peer selector. `requires` selectors lack the exemption of reserved labels.
    pub(super) fn apply(self, selector: Selector, requires: bool) -> Selector {
        let of_kubernetes = |k: &SelectorKey| &*k.source == K8S || &*k.source == ANY;
        let by_labels = matches!(self, Self::Namespace(_));
        let names_namespace = |k: &SelectorKey| {
            let label = by_labels && k.key.starts_with(NAMESPACE_LABELS_PREFIX);
            of_kubernetes(k) && (&*k.key == POD_NAMESPACE || label)
        };
        let exempt = !requires && selector.has_key(|k| &*k.source == RESERVED);
        if exempt || selector.has_key(names_namespace) {
            return selector;
        }
        match self {
            Self::None | Self::Cluster { subject_is_init: true } => selector,
            Self::Namespace(ns) => selector.and(Requirement::equals(SelectorKey::k8s(POD_NAMESPACE), ns)),
            Self::Cluster { subject_is_init: false } => {
                selector.and(Requirement::exists(SelectorKey::k8s(POD_NAMESPACE)))
            }
        }
    }

    /// Applies the scoping to the subject: a namespaced policy is about its own namespace, whatever it says.
    pub(super) fn apply_to_subject(self, selector: Selector) -> Selector {
        match self {
            Self::Namespace(ns) => selector
                .without_key(&SelectorKey::k8s(POD_NAMESPACE))
                .and(Requirement::equals(SelectorKey::k8s(POD_NAMESPACE), ns)),
            Self::None | Self::Cluster { .. } => selector,
        }
    }
}
