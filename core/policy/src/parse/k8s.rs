//! `networking.k8s.io/v1` NetworkPolicy, in its own meaning.

use super::{
    cilium::{derived_labels, metadata},
    ctx::{Ctx, Path, Problem},
    peers,
    selectors::{self, Keys},
};
use crate::rule::{
    Action, CidrRule, Direction, ObjectKey, ObjectKind, Peer, PeerRule, Peers, Place, PolicyObject, PortMatch,
    PortRange, PortRule, PortSpec, Ports, Rule, Subject, port::is_port_name,
};
use alloc::{
    string::{String, ToString},
    vec::Vec,
};
use serde_json::{Map, Value};
use types::{
    Protocol,
    labels::{NAMESPACE_LABELS_PREFIX, POD_NAMESPACE},
    selector::{Requirement, Selector, SelectorKey},
};

/// Reads a NetworkPolicy.
pub(super) fn network_policy(cx: &mut Ctx<'_>, map: &Map<String, Value>) -> Option<PolicyObject> {
    let root = Path::Root;
    let before = cx.errors_so_far();
    cx.notices.clear();
    let kind = ObjectKind::NetworkPolicy;
    let meta = metadata(cx, kind, map)?;
    cx.only_fields(&root, map, &["apiVersion", "kind", "metadata", "spec", "status"]);
    let path = root.field("spec");
    let Some(value) = map.get("spec").filter(|v| !v.is_null()) else {
        cx.error(&path, Problem::Missing { expected: "a NetworkPolicySpec" });
        return None;
    };
    let spec = cx.object(&path, value)?;
    cx.only_fields(&path, spec, &["podSelector", "ingress", "egress", "policyTypes"]);
    let subject = match spec.get("podSelector").filter(|v| !v.is_null()) {
        Some(value) => selectors::selector(cx, &path.field("podSelector"), value, Keys::Kubernetes(""))?,
        None => Selector::everything(),
    };
    let in_namespace = Requirement::equals(SelectorKey::k8s(POD_NAMESPACE), &meta.namespace);
    let subject = subject.without_key(&SelectorKey::k8s(POD_NAMESPACE)).and(in_namespace);
    let mut ingress = section(cx, &path, spec, Direction::Ingress, &meta.namespace);
    let mut egress = section(cx, &path, spec, Direction::Egress, &meta.namespace);
    let (wants_ingress, wants_egress) = policy_types(cx, &path, spec, egress.is_empty());
    for (name, wanted, rules) in [("ingress", wants_ingress, &mut ingress), ("egress", wants_egress, &mut egress)] {
        if !wanted && !rules.is_empty() {
            cx.notice(&path.field(name), "policyTypes does not list this direction, so its rules do not count");
            rules.clear();
        }
    }
    let rule = Rule {
        place: Place::Spec,
        subject: Subject::Endpoints(subject),
        ingress_default_deny: wants_ingress.then_some(true),
        egress_default_deny: wants_egress.then_some(true),
        ingress,
        egress,
        description: "".into(),
    };
    let labels = derived_labels(kind, &meta).into_iter().collect();
    let key = ObjectKey { kind, namespace: meta.namespace.into(), name: meta.name.into() };
    let notices = core::mem::take(&mut cx.notices);
    (cx.errors_so_far() == before).then(|| PolicyObject {
        key,
        uid: meta.uid.into(),
        labels,
        rules: alloc::vec![rule],
        notices,
    })
}

/// Which directions the policy is about. Without `policyTypes`: ingress always, egress if it has rules for it.
fn policy_types(cx: &mut Ctx<'_>, path: &Path<'_>, spec: &Map<String, Value>, egress_empty: bool) -> (bool, bool) {
    let list = path.field("policyTypes");
    let items = cx.list_field(path, spec, "policyTypes").unwrap_or_default();
    let (mut ingress, mut egress) = (false, false);
    for (i, item) in items.iter().enumerate() {
        match cx.text(&list.index(i), item) {
            Some("Ingress") => ingress = true,
            Some("Egress") => egress = true,
            Some(other) => {
                let problem = Problem::NotOneOf { found: other.to_string(), allowed: &["Ingress", "Egress"] };
                cx.error(&list.index(i), problem);
            }
            None => {}
        }
    }
    if items.is_empty() { (true, !egress_empty) } else { (ingress, egress) }
}

fn section(
    cx: &mut Ctx<'_>,
    path: &Path<'_>,
    spec: &Map<String, Value>,
    direction: Direction,
    namespace: &str,
) -> Vec<PeerRule> {
    let (name, peer_field, fields): (_, _, &'static [&'static str]) = match direction {
        Direction::Ingress => ("ingress", "from", &["from", "ports"]),
        Direction::Egress => ("egress", "to", &["to", "ports"]),
    };
    let list = path.field(name);
    let mut rules = Vec::new();
    for (i, item) in cx.rules_field(path, spec, name) {
        let at = list.index(usize::from(i));
        let Some(map) = cx.object(&at, item) else { continue };
        cx.only_fields(&at, map, fields);
        let items = cx.list_field(&at, map, peer_field).unwrap_or_default();
        let peer_list = at.field(peer_field);
        let mut listed = Vec::new();
        for (j, item) in items.iter().enumerate() {
            listed.extend(peer(cx, &peer_list.index(j), item, namespace));
        }
        // No peers means everyone, the world and the nodes included.
        let peers = if items.is_empty() {
            Peers::Listed(alloc::vec![Peer::Labels(Selector::everything())])
        } else {
            Peers::Listed(listed)
        };
        rules.push(PeerRule {
            action: Action::Allow,
            index: i,
            peers,
            ports: port_list(cx, &at, map),
            requires: Vec::new(),
            auth: None,
        });
    }
    rules
}

fn peer(cx: &mut Ctx<'_>, path: &Path<'_>, value: &Value, namespace: &str) -> Option<Peer> {
    let map = cx.object(path, value)?;
    cx.only_fields(path, map, &["podSelector", "namespaceSelector", "ipBlock"]);
    let pods = map.get("podSelector").filter(|v| !v.is_null());
    let namespaces = map.get("namespaceSelector").filter(|v| !v.is_null());
    let block = map.get("ipBlock").filter(|v| !v.is_null());
    match (block, pods.or(namespaces)) {
        (Some(_), Some(_)) => {
            cx.error(path, Problem::Combined { a: "ipBlock", b: "podSelector or namespaceSelector" });
            None
        }
        (None, None) => {
            let expected = "one of podSelector, namespaceSelector and ipBlock";
            cx.error(path, Problem::Missing { expected });
            None
        }
        (Some(block), None) => ip_block(cx, &path.field("ipBlock"), block),
        (None, Some(_)) => {
            let pods = match pods {
                Some(value) => selectors::selector(cx, &path.field("podSelector"), value, Keys::Kubernetes(""))?,
                None => Selector::everything(),
            };
            let places = match namespaces {
                Some(value) => {
                    let keys = Keys::Kubernetes(NAMESPACE_LABELS_PREFIX);
                    let labels = selectors::selector(cx, &path.field("namespaceSelector"), value, keys)?;
                    labels.and(Requirement::exists(SelectorKey::k8s(POD_NAMESPACE)))
                }
                None => Selector::everything().and(Requirement::equals(SelectorKey::k8s(POD_NAMESPACE), namespace)),
            };
            let both = pods.requirements().iter().chain(places.requirements()).cloned().collect();
            Some(Peer::Labels(both))
        }
    }
}

fn ip_block(cx: &mut Ctx<'_>, path: &Path<'_>, value: &Value) -> Option<Peer> {
    let map = cx.object(path, value)?;
    cx.only_fields(path, map, &["cidr", "except"]);
    let text = cx.required_text(path, map, "cidr")?;
    let cidr = peers::prefix(cx, &path.field("cidr"), text)?;
    let except = peers::ip_block_excepts(cx, path, map, &cidr);
    Some(Peer::Cidr(CidrRule { cidr, except, scope: cx.options.ip_block_scope }))
}

fn port_list(cx: &mut Ctx<'_>, path: &Path<'_>, map: &Map<String, Value>) -> Ports {
    let items = cx.list_field(path, map, "ports").unwrap_or_default();
    if items.is_empty() {
        return Ports::All;
    }
    let list = path.field("ports");
    let mut ports = Vec::new();
    for (i, item) in items.iter().enumerate() {
        ports.extend(port(cx, &list.index(i), item));
    }
    Ports::Listed(alloc::vec![PortRule { ports, l7: None }])
}

fn port(cx: &mut Ctx<'_>, path: &Path<'_>, value: &Value) -> Option<PortMatch> {
    let map = cx.object(path, value)?;
    cx.only_fields(path, map, &["port", "protocol", "endPort"]);
    let protocol = match cx.text_field(path, map, "protocol") {
        "" | "TCP" => Protocol::Tcp,
        "UDP" => Protocol::Udp,
        "SCTP" => Protocol::Sctp,
        other => {
            let allowed = &["TCP", "UDP", "SCTP"];
            cx.error(&path.field("protocol"), Problem::NotOneOf { found: other.to_string(), allowed });
            return None;
        }
    };
    let end = map.get("endPort").filter(|v| !v.is_null());
    let number = |v: &Value| v.as_u64().and_then(|n| u16::try_from(n).ok()).filter(|n| *n > 0);
    let at = path.field("port");
    let port = match map.get("port").filter(|v| !v.is_null()) {
        None => {
            if end.is_some() {
                cx.error(&at, Problem::Missing { expected: "a number, as endPort is there" });
            }
            PortSpec::Range(PortRange::ALL)
        }
        Some(Value::String(name)) => {
            if !is_port_name(name) || end.is_some() {
                let why = "a port is a number from 1 to 65535, or a name of up to 15 characters without endPort";
                cx.invalid(&at, name, why);
            }
            PortSpec::Named(name.to_ascii_lowercase().into())
        }
        Some(value) => {
            let Some(first) = number(value) else {
                cx.expected(&at, "a number from 1 to 65535, or a port's name", value);
                return None;
            };
            let last = match end {
                None => first,
                Some(value) => match number(value).filter(|last| *last >= first) {
                    Some(last) => last,
                    None => {
                        cx.expected(&path.field("endPort"), "a number from port to 65535", value);
                        return None;
                    }
                },
            };
            PortSpec::Range(PortRange { first, last })
        }
    };
    Some(PortMatch { protocol, port })
}
