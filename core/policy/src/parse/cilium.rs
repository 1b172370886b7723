//! CiliumNetworkPolicy, CiliumClusterwideNetworkPolicy and bare rules.

use super::{
    RuleWithLabels,
    ctx::{Ctx, Path, Problem, shorten},
    peers, ports,
    selectors::{self, Keys, Scoping, is_dns_name},
};
use crate::rule::{Action, AuthMode, Direction, ObjectKey, ObjectKind, PeerRule, Place, PolicyObject, Rule, Subject};
use crate::schema;
use alloc::{
    format,
    string::{String, ToString},
    vec::Vec,
};
use serde_json::{Map, Value};
use types::{Label, Labels, labels::RESERVED, selector::SelectorKey};

/// `metadata` of an object, checked.
pub(super) struct Metadata {
    pub(super) name: String,
    pub(super) namespace: String,
    pub(super) uid: String,
    pub(super) annotated_name: Option<String>,
}

/// Reads `metadata`. An absent namespace is `default` for namespaced kinds.
pub(super) fn metadata(cx: &mut Ctx<'_>, kind: ObjectKind, map: &Map<String, Value>) -> Option<Metadata> {
    let root = Path::Root;
    let path = root.field("metadata");
    let Some(value) = map.get("metadata") else {
        cx.error(&path, Problem::Missing { expected: "a mapping with a name" });
        return None;
    };
    let map = cx.object(&path, value)?;
    let name = cx.required_text(&path, map, "name")?.to_string();
    let namespace = match (kind, cx.text_field(&path, map, "namespace")) {
        (ObjectKind::CiliumClusterwideNetworkPolicy, _) => String::new(),
        (_, "") => "default".to_string(),
        (_, namespace) => namespace.to_string(),
    };
    let uid = cx.text_field(&path, map, "uid").to_string();
    let annotations = map.get("annotations").and_then(Value::as_object);
    let annotated_name = annotations
        .and_then(|a| a.get("policy.cilium.io/name").or_else(|| a.get("io.cilium.name")))
        .and_then(Value::as_str)
        .map(ToString::to_string);
    let slash = if namespace.is_empty() { "" } else { "/" };
    // A name that is too long is said so below, and not again with each mistake of the object.
    cx.name_object(format!("{kind} {}{slash}{}", shorten(&namespace), shorten(&name)));
    if !is_dns_name(&name) {
        cx.invalid(&path.field("name"), &name, "a name is a DNS name in lower case of up to 253 characters");
    }
    if !namespace.is_empty() && (!is_dns_name(&namespace) || namespace.contains('.')) {
        cx.invalid(&path.field("namespace"), &namespace, "a namespace is a DNS label in lower case");
    }
    Some(Metadata { name, namespace, uid, annotated_name })
}

/// The labels rules derived from an object are reported with.
pub(super) fn derived_labels(kind: ObjectKind, meta: &Metadata) -> Vec<Label> {
    let key = |name: &str| format!("io.cilium.k8s.policy.{name}");
    let name = meta.annotated_name.as_deref().unwrap_or(&meta.name);
    let mut labels = alloc::vec![Label::k8s(&key("derived-from"), kind.name()), Label::k8s(&key("name"), name)];
    if !meta.namespace.is_empty() {
        labels.push(Label::k8s(&key("namespace"), &meta.namespace));
    }
    if !meta.uid.is_empty() {
        labels.push(Label::k8s(&key("uid"), &meta.uid));
    }
    labels
}

/// Reads a CNP or CCNP.
pub(super) fn object(cx: &mut Ctx<'_>, kind: ObjectKind, map: &Map<String, Value>) -> Option<PolicyObject> {
    let root = Path::Root;
    let before = cx.errors_so_far();
    cx.notices.clear();
    let meta = metadata(cx, kind, map)?;
    cx.only_fields(&root, map, schema::OBJECT.names);
    let namespace = (kind == ObjectKind::CiliumNetworkPolicy).then_some(meta.namespace.as_str());
    let mut labels = derived_labels(kind, &meta);
    let mut rules = Vec::new();
    let mut found = false;
    if let Some(value) = map.get("spec").filter(|v| !v.is_null()) {
        found = true;
        rules.extend(rule(cx, &root.field("spec"), value, Place::Spec, kind, namespace, &mut labels));
    }
    let path = root.field("specs");
    for (i, item) in cx.rules_field(&root, map, "specs") {
        found = true;
        let place = Place::Specs(i);
        rules.extend(rule(cx, &path.index(usize::from(i)), item, place, kind, namespace, &mut labels));
    }
    if !found {
        cx.error(&root.field("spec"), Problem::Missing { expected: "a rule in spec, or a list of rules in specs" });
    }
    let key = ObjectKey { kind, namespace: meta.namespace.into(), name: meta.name.into() };
    let notices = core::mem::take(&mut cx.notices);
    let labels = labels.into_iter().collect();
    (cx.errors_so_far() == before).then(|| PolicyObject { key, uid: meta.uid.into(), labels, rules, notices })
}

/// Reads a list of bare rules (or one).
pub(super) fn bare_rules(cx: &mut Ctx<'_>, value: &Value, out: &mut Vec<RuleWithLabels>) {
    let root = Path::Root;
    let one = core::slice::from_ref(value);
    let items = match value {
        Value::Null => return,
        Value::Object(_) => one,
        _ => cx.array(&root, value).unwrap_or_default(),
    };
    for (i, item) in cx.numbered(&root, items) {
        let mut labels = Vec::new();
        cx.notices.clear();
        let place = Place::Item(i);
        let rule = rule(cx, &root.index(usize::from(i)), item, place, ObjectKind::Rules, None, &mut labels);
        let notices = core::mem::take(&mut cx.notices);
        let labels = labels.into_iter().collect();
        out.extend(rule.map(|rule| RuleWithLabels { rule, labels, notices }));
    }
}

/// Gathers bare rules into one object, named by their labels.
pub(super) fn object_of_bare_rules(rules: Vec<RuleWithLabels>) -> Option<PolicyObject> {
    let mut labels = Vec::new();
    let mut notices = Vec::new();
    let mut plain = Vec::new();
    for rule in rules {
        labels.extend(rule.labels);
        notices.extend(rule.notices);
        plain.push(rule.rule);
    }
    let labels: Labels = labels.into_iter().collect();
    let name = if labels.is_empty() { "unnamed".to_string() } else { labels.to_string() };
    let key = ObjectKey { kind: ObjectKind::Rules, namespace: "".into(), name: name.into() };
    (!plain.is_empty()).then(|| PolicyObject { key, uid: "".into(), labels, rules: plain, notices })
}

fn rule(
    cx: &mut Ctx<'_>,
    path: &Path<'_>,
    value: &Value,
    place: Place,
    kind: ObjectKind,
    namespace: Option<&str>,
    labels: &mut Vec<Label>,
) -> Option<Rule> {
    let map = cx.object(path, value)?;
    let before = cx.errors_so_far();
    cx.only_fields(path, map, schema::RULE.names);
    let subject = subject(cx, path, map, kind, namespace);
    let subject_is_init = match &subject {
        Some(Subject::Endpoints(s)) => {
            let init = |k: &SelectorKey| &*k.source == RESERVED && &*k.key == "init";
            s.has_key(init)
        }
        _ => false,
    };
    let scoping = match (kind, namespace) {
        (_, Some(ns)) => Scoping::Namespace(ns),
        (ObjectKind::CiliumClusterwideNetworkPolicy, None) => Scoping::Cluster { subject_is_init },
        _ => Scoping::None,
    };
    let host = matches!(subject, Some(Subject::Nodes(_)));
    let mut sections = [Vec::new(), Vec::new()];
    let mut present = [false; 2];
    for (direction, action, name, fields) in [
        (Direction::Ingress, Action::Allow, "ingress", schema::INGRESS.names),
        (Direction::Ingress, Action::Deny, "ingressDeny", schema::INGRESS_DENY.names),
        (Direction::Egress, Action::Allow, "egress", schema::EGRESS.names),
        (Direction::Egress, Action::Deny, "egressDeny", schema::EGRESS_DENY.names),
    ] {
        let list = path.field(name);
        for (i, item) in cx.rules_field(path, map, name) {
            present[direction as usize] = true;
            let place = ports::Where { direction, deny: action == Action::Deny, host };
            let at = list.index(usize::from(i));
            sections[direction as usize].extend(peer_rule(cx, &at, item, i, place, scoping, fields));
        }
    }
    let [ingress_default_deny, egress_default_deny] = default_deny(cx, path, map, present);
    own_labels(cx, path, map, labels);
    let description = cx.text_field(path, map, "description").into();
    let [ingress, egress] = sections;
    let subject = subject?;
    (cx.errors_so_far() == before).then_some(Rule {
        place,
        subject,
        ingress,
        egress,
        ingress_default_deny,
        egress_default_deny,
        description,
    })
}

fn subject(
    cx: &mut Ctx<'_>,
    path: &Path<'_>,
    map: &Map<String, Value>,
    kind: ObjectKind,
    namespace: Option<&str>,
) -> Option<Subject> {
    let endpoint = map.get("endpointSelector").filter(|v| !v.is_null());
    let node = map.get("nodeSelector").filter(|v| !v.is_null());
    match (endpoint, node) {
        (Some(_), Some(_)) => {
            cx.error(path, Problem::Combined { a: "endpointSelector", b: "nodeSelector" });
            None
        }
        (None, None) => {
            let expected = "one of endpointSelector and nodeSelector";
            cx.error(path, Problem::Missing { expected });
            None
        }
        (Some(value), None) => {
            let selector = selectors::selector(cx, &path.field("endpointSelector"), value, Keys::Cilium)?;
            let scoping = namespace.map_or(Scoping::None, Scoping::Namespace);
            Some(Subject::Endpoints(scoping.apply_to_subject(selector)))
        }
        (None, Some(value)) => {
            let path = path.field("nodeSelector");
            if kind == ObjectKind::CiliumNetworkPolicy {
                let what = "a nodeSelector in a CiliumNetworkPolicy";
                cx.error(&path, Problem::Unsupported { what });
            }
            selectors::selector(cx, &path, value, Keys::Cilium).map(Subject::Nodes)
        }
    }
}

fn peer_rule(
    cx: &mut Ctx<'_>,
    path: &Path<'_>,
    value: &Value,
    index: u16,
    place: ports::Where,
    scoping: Scoping<'_>,
    fields: &'static [&'static str],
) -> Option<PeerRule> {
    let map = cx.object(path, value)?;
    cx.only_fields(path, map, fields);
    let read = peers::peers(cx, path, map, place.direction, place.deny, scoping);
    let ports = ports::ports(cx, path, map, place);
    let with_services = map.get("toServices").and_then(Value::as_array).is_some_and(|l| !l.is_empty());
    let with_ports = map.get("toPorts").and_then(Value::as_array).is_some_and(|l| !l.is_empty());
    if with_services && with_ports && !place.deny {
        cx.error(path, Problem::Combined { a: "toServices", b: "toPorts" });
    }
    let auth = match map.get("authentication").filter(|v| !v.is_null()) {
        Some(value) => auth_mode(cx, &path.field("authentication"), value),
        None => None,
    };
    Some(PeerRule {
        action: if place.deny { Action::Deny } else { Action::Allow },
        index,
        peers: read.peers,
        ports,
        requires: read.requires,
        auth,
    })
}

fn auth_mode(cx: &mut Ctx<'_>, path: &Path<'_>, value: &Value) -> Option<AuthMode> {
    let map = cx.object(path, value)?;
    cx.only_fields(path, map, schema::AUTHENTICATION.names);
    match cx.required_text(path, map, "mode")? {
        "disabled" => Some(AuthMode::Disabled),
        "required" => {
            cx.notice(path, "there is no mutual authentication yet; traffic this rule allows is dropped");
            Some(AuthMode::Required)
        }
        "test-always-fail" => Some(AuthMode::AlwaysFail),
        other => {
            let allowed = schema::AUTH_MODES;
            cx.error(&path.field("mode"), Problem::NotOneOf { found: other.into(), allowed });
            None
        }
    }
}

fn default_deny(cx: &mut Ctx<'_>, path: &Path<'_>, map: &Map<String, Value>, present: [bool; 2]) -> [Option<bool>; 2] {
    let mut wanted = [None, None];
    if let Some(value) = map.get("enableDefaultDeny").filter(|v| !v.is_null()) {
        let path = path.field("enableDefaultDeny");
        if let Some(map) = cx.object(&path, value) {
            cx.only_fields(&path, map, schema::DEFAULT_DENY.names);
            for (slot, name) in wanted.iter_mut().zip(["ingress", "egress"]) {
                match map.get(name) {
                    None | Some(Value::Null) => {}
                    Some(Value::Bool(b)) => *slot = Some(*b),
                    Some(other) => cx.expected(&path.field(name), "true or false", other),
                }
            }
        }
    }
    if !cx.options.non_default_deny {
        wanted = [None, None];
    }
    // A direction without rules is not judged because of this rule, whatever the switch says.
    let of = |i: usize| present[i].then(|| wanted[i].unwrap_or(true));
    [of(0), of(1)]
}

fn own_labels(cx: &mut Ctx<'_>, path: &Path<'_>, map: &Map<String, Value>, labels: &mut Vec<Label>) {
    let list = path.field("labels");
    for (i, item) in cx.list_field(path, map, "labels").unwrap_or_default().iter().enumerate() {
        let at = list.index(i);
        match item {
            Value::String(text) => {
                labels.push(Label::parse(text));
            }
            Value::Object(map) => {
                cx.only_fields(&at, map, &["key", "value", "source", "cidr"]);
                let key = cx.required_text(&at, map, "key").unwrap_or_default();
                let value = cx.text_field(&at, map, "value");
                let source = cx.text_field(&at, map, "source");
                labels.push(Label::new(source, key, value));
            }
            other => cx.expected(&at, "a label: source:key=value, or a mapping with key, value and source", other),
        }
    }
}
