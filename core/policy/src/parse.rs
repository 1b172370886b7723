//! Reading policy documents: YAML or JSON in, valid [`PolicyObject`]s or every mistake out.
//!
//! Why: a policy that is half understood is a hole in a wall. Documents are read whole; a mistake names its path,
//! what was found and what is allowed; unknown fields are mistakes; what is understood but not enforced is a
//! [`crate::rule::Notice`] on the object.
//!
//! Invariant: reading takes time and memory linear in the text, and refuses by name what exceeds [`Limits`].
//!
//! Never: looks at cluster state; what a rule *selects* is the engine's business.

mod cilium;
mod ctx;
mod doc;
mod k8s;
mod l7;
mod peers;
mod ports;
mod regex;
mod selectors;

use crate::rule::{ObjectKind, PolicyObject, Rule};
use alloc::{string::String, vec::Vec};
use core::fmt;
use serde_json::Value;

pub use ctx::{Found, Problem};
pub use doc::{Limits, documents};

/// What the reader takes for granted about the agent the rules are for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Bounds on the text.
    pub limits: Limits,
    /// Whether there is an L7 proxy; without one, L7 rules are an error (`--enable-l7-proxy`).
    pub l7_proxy: bool,
    /// Whether ICMP rules are allowed (`--enable-icmp-rules`, default true).
    pub icmp_rules: bool,
    /// Whether `fromNodes`/`toNodes` are allowed (`--enable-node-selector-labels`, default false).
    pub node_selectors: bool,
    /// Whether `enableDefaultDeny: false` is honoured (`--enable-non-default-deny-policies`, default true).
    pub non_default_deny: bool,
    /// Whether `world-ipv4` and `world-ipv6`, which the engine knows and the CRD does not list, are taken.
    pub family_entities: bool,
    /// Whose addresses an `ipBlock` of a NetworkPolicy speaks of: everyone's, which is Kubernetes' meaning and the
    /// default, or only those outside the cluster, which is upstream's.
    pub ip_block_scope: crate::rule::CidrScope,
    /// What becomes of a prefix with bits set behind its length.
    pub host_bits: HostBits,
}

/// What becomes of a prefix with bits set behind its length, such as `10.0.0.1/8`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum HostBits {
    /// They are cleared, as upstream does.
    #[default]
    Clear,
    /// It is an error that names the prefix which was probably meant.
    Refuse,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            l7_proxy: true,
            icmp_rules: true,
            node_selectors: false,
            non_default_deny: true,
            family_entities: true,
            ip_block_scope: crate::rule::CidrScope::Everyone,
            host_bits: HostBits::default(),
        }
    }
}

/// A mistake in a document.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct DocError {
    /// Which document of the text, from 0.
    pub document: usize,
    /// The object, as far as it could be told: `CiliumNetworkPolicy default/web`.
    pub object: String,
    /// Path in the document, such as `spec.egress[2].toPorts[0].ports[1].endPort`.
    pub path: String,
    /// What is wrong.
    pub problem: Problem,
}

impl fmt::Display for DocError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "document {}", self.document + 1)?;
        if !self.object.is_empty() {
            write!(f, " ({})", self.object)?;
        }
        if self.path.is_empty() {
            write!(f, ": {}", self.problem)
        } else {
            write!(f, ": {}: {}", self.path, self.problem)
        }
    }
}

/// Reads every policy object of a text with default [`Options`].
///
/// # Errors
/// Every mistake of every document; nothing is returned if there is one.
pub fn parse(text: &str) -> Result<Vec<PolicyObject>, Vec<DocError>> {
    parse_with(text, &Options::default())
}

/// Reads every policy object of a text: YAML or JSON, one or many documents, `List`s expanded.
///
/// # Errors
/// Every mistake of every document; nothing is returned if there is one.
pub fn parse_with(text: &str, options: &Options) -> Result<Vec<PolicyObject>, Vec<DocError>> {
    let mut errors = Vec::new();
    let mut objects = Vec::new();
    let values = match documents(text, &options.limits) {
        Ok(values) => values,
        Err(error) => return Err(alloc::vec![error]),
    };
    for (index, value) in values.iter().enumerate() {
        if !value.is_null() {
            read_document(index, value, options, &mut objects, &mut errors);
        }
    }
    if errors.is_empty() { Ok(objects) } else { Err(errors) }
}

/// Reads one document that is already a value.
///
/// # Errors
/// Every mistake of the document.
pub fn parse_value(value: &Value, options: &Options) -> Result<Vec<PolicyObject>, Vec<DocError>> {
    let mut errors = Vec::new();
    let mut objects = Vec::new();
    read_document(0, value, options, &mut objects, &mut errors);
    if errors.is_empty() { Ok(objects) } else { Err(errors) }
}

/// Reads bare rules, a JSON or YAML list as the agent's REST API takes it. Selectors are taken as they stand: bare
/// rules have no namespace.
///
/// # Errors
/// Every mistake of the list.
pub fn parse_rules(text: &str, options: &Options) -> Result<Vec<RuleWithLabels>, Vec<DocError>> {
    let values = documents(text, &options.limits).map_err(|e| alloc::vec![e])?;
    let mut errors = Vec::new();
    let mut rules = Vec::new();
    for (index, value) in values.iter().enumerate() {
        let mut cx = ctx::Ctx::new(index, options, &mut errors);
        cilium::bare_rules(&mut cx, value, &mut rules);
    }
    if errors.is_empty() { Ok(rules) } else { Err(errors) }
}

/// A bare rule and the labels it is known by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleWithLabels {
    /// The rule.
    pub rule: Rule,
    /// Its own labels, by which it is deleted again.
    pub labels: types::Labels,
    /// What it asks for that is not enforced.
    pub notices: Vec<crate::rule::Notice>,
}

fn read_document(
    index: usize,
    value: &Value,
    options: &Options,
    objects: &mut Vec<PolicyObject>,
    errors: &mut Vec<DocError>,
) {
    let mut cx = ctx::Ctx::new(index, options, errors);
    let root = ctx::Path::Root;
    if let Value::Array(items) = value {
        let mut rules = Vec::new();
        cilium::bare_rules(&mut cx, value, &mut rules);
        if !items.is_empty() {
            objects.extend(cilium::object_of_bare_rules(rules));
        }
        return;
    }
    let Some(map) = cx.object(&root, value) else { return };
    let kind = cx.required_text(&root, map, "kind").unwrap_or_default();
    let version = cx.required_text(&root, map, "apiVersion").unwrap_or_default();
    if kind.is_empty() || version.is_empty() {
        return;
    }
    match (version, kind) {
        ("v1", "List")
        | (_, "CiliumNetworkPolicyList" | "CiliumClusterwideNetworkPolicyList" | "NetworkPolicyList") => {
            if let Some(items) = map.get("items") {
                let path = root.field("items");
                for (i, item) in cx.array(&path, items).unwrap_or_default().iter().enumerate() {
                    cx.enter(&path.index(i));
                    read_object(&mut cx, item, objects);
                }
            }
        }
        _ => read_object(&mut cx, value, objects),
    }
}

fn read_object(cx: &mut ctx::Ctx<'_>, value: &Value, objects: &mut Vec<PolicyObject>) {
    let root = ctx::Path::Root;
    let Some(map) = cx.object(&root, value) else { return };
    let kind = cx.required_text(&root, map, "kind").unwrap_or_default();
    let version = cx.required_text(&root, map, "apiVersion").unwrap_or_default();
    let kind = match (version, kind) {
        ("cilium.io/v2", "CiliumNetworkPolicy") => ObjectKind::CiliumNetworkPolicy,
        ("cilium.io/v2", "CiliumClusterwideNetworkPolicy") => ObjectKind::CiliumClusterwideNetworkPolicy,
        ("networking.k8s.io/v1", "NetworkPolicy") => ObjectKind::NetworkPolicy,
        ("", _) | (_, "") => return,
        (version, kind) => {
            cx.error(&root.field("kind"), Problem::UnknownKind { found: alloc::format!("{version} {kind}") });
            return;
        }
    };
    let object = match kind {
        ObjectKind::NetworkPolicy => k8s::network_policy(cx, map),
        _ => cilium::object(cx, kind, map),
    };
    objects.extend(object);
}

#[cfg(test)]
mod tests;
