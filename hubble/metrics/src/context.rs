//! Contexts: what stands in the labels that say who talked to whom.

use crate::view::Observed;
use hubble_api::flow::TrafficDirection;
use hubble_model::view::{Address, End};
use std::fmt::Write as _;

/// How an end of a flow is named.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Context {
    /// All labels of the identity.
    Identity,
    /// The namespace.
    Namespace,
    /// Namespace and pod.
    Pod,
    /// The pod alone.
    PodName,
    /// DNS names.
    Dns,
    /// The address.
    Ip,
    /// The reserved label of the identity.
    ReservedIdentity,
    /// Namespace and workload.
    Workload,
    /// The workload alone.
    WorkloadName,
    /// The app label.
    App,
}

impl Context {
    /// All contexts by their names in options.
    pub const ALL: [(&'static str, Self); 10] = [
        ("identity", Self::Identity),
        ("namespace", Self::Namespace),
        ("pod", Self::Pod),
        ("pod-name", Self::PodName),
        ("dns", Self::Dns),
        ("ip", Self::Ip),
        ("reserved-identity", Self::ReservedIdentity),
        ("workload", Self::Workload),
        ("workload-name", Self::WorkloadName),
        ("app", Self::App),
    ];

    /// Writes what names an end; nothing when the flow does not say.
    fn write<V: Observed>(self, flow: &V, end: End, out: &mut String) {
        match self {
            Self::Identity => join(flow.labels(end).iter().map(String::as_str), out),
            Self::Namespace => out.push_str(flow.pod(end).0),
            Self::Pod => {
                let (namespace, pod) = flow.pod(end);
                qualified(namespace, pod, out);
            }
            Self::PodName => out.push_str(flow.pod(end).1),
            Self::Dns => {
                let start = out.len();
                flow.any_name(end, &mut |name| {
                    if out.len() > start {
                        out.push(',');
                    }
                    out.push_str(name);
                    false
                });
            }
            Self::Ip => address(flow, end, out),
            Self::ReservedIdentity => out.push_str(reserved(flow.labels(end))),
            Self::Workload => {
                let start = out.len();
                workload(flow, end, out);
                if out.len() > start && !flow.pod(end).0.is_empty() {
                    out.insert(start, '/');
                    out.insert_str(start, flow.pod(end).0);
                }
            }
            Self::WorkloadName => workload(flow, end, out),
            Self::App => out.push_str(app(flow.labels(end))),
        }
    }
}

fn join<'a>(parts: impl Iterator<Item = &'a str>, out: &mut String) {
    for (at, part) in parts.enumerate() {
        if at > 0 {
            out.push(',');
        }
        out.push_str(part);
    }
}

fn qualified(namespace: &str, name: &str, out: &mut String) {
    if !namespace.is_empty() {
        out.push_str(namespace);
        out.push('/');
    }
    out.push_str(name);
}

fn address<V: Observed>(flow: &V, end: End, out: &mut String) {
    match flow.address(end) {
        Address::Text(text) => out.push_str(text),
        Address::Ip(Some(ip)) => write!(out, "{ip}").expect("a String takes every write"),
        Address::Ip(None) => {}
    }
}

fn workload<V: Observed>(flow: &V, end: End, out: &mut String) {
    flow.any_workload(end, &mut |_, name| {
        out.push_str(name);
        true
    });
}

fn reserved(labels: &[String]) -> &str {
    const API_SERVER: &str = "reserved:kube-apiserver";
    let mut found = "";
    for label in labels {
        // Labels from a message may carry the empty value's equals sign.
        match label.strip_suffix('=').unwrap_or(label) {
            API_SERVER => return API_SERVER,
            text if found.is_empty() && text.starts_with("reserved:") => found = text,
            _ => {}
        }
    }
    found
}

fn app(labels: &[String]) -> &str {
    const KEYS: [&str; 3] = ["k8s:app.kubernetes.io/name=", "k8s:k8s-app=", "k8s:app="];
    let value = |key: &&str| labels.iter().find_map(|label| label.strip_prefix(key).filter(|value| !value.is_empty()));
    KEYS.iter().find_map(value).unwrap_or_default()
}

/// A label of `labelsContext`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Label {
    /// Address of an end.
    Ip(Side),
    /// Pod of an end.
    Pod(Side),
    /// Namespace of an end.
    Namespace(Side),
    /// Workload of an end.
    Workload(Side),
    /// Kind of an end's workload.
    WorkloadKind(Side),
    /// App label of an end.
    App(Side),
    /// Ingress or egress.
    Direction,
}

/// Which end a label is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Side {
    /// Where a request came from.
    Source,
    /// Where it went.
    Destination,
}

impl Side {
    fn end(self, invert: bool) -> End {
        if (self == Self::Source) == invert { End::Destination } else { End::Source }
    }
}

impl Label {
    /// All labels by their names.
    pub const ALL: [(&'static str, Self); 13] = [
        ("source_ip", Self::Ip(Side::Source)),
        ("source_pod", Self::Pod(Side::Source)),
        ("source_namespace", Self::Namespace(Side::Source)),
        ("source_workload", Self::Workload(Side::Source)),
        ("source_workload_kind", Self::WorkloadKind(Side::Source)),
        ("source_app", Self::App(Side::Source)),
        ("destination_ip", Self::Ip(Side::Destination)),
        ("destination_pod", Self::Pod(Side::Destination)),
        ("destination_namespace", Self::Namespace(Side::Destination)),
        ("destination_workload", Self::Workload(Side::Destination)),
        ("destination_workload_kind", Self::WorkloadKind(Side::Destination)),
        ("destination_app", Self::App(Side::Destination)),
        ("traffic_direction", Self::Direction),
    ];

    fn write<V: Observed>(self, flow: &V, invert: bool, out: &mut String) {
        match self {
            Self::Ip(side) => address(flow, side.end(invert), out),
            Self::Pod(side) => out.push_str(flow.pod(side.end(invert)).1),
            Self::Namespace(side) => out.push_str(flow.pod(side.end(invert)).0),
            Self::Workload(side) => workload(flow, side.end(invert), out),
            Self::WorkloadKind(side) => {
                flow.any_workload(side.end(invert), &mut |kind, _| {
                    out.push_str(kind);
                    true
                });
            }
            Self::App(side) => out.push_str(app(flow.labels(side.end(invert)))),
            Self::Direction => out.push_str(match TrafficDirection::try_from(flow.direction()) {
                Ok(TrafficDirection::Ingress) => "ingress",
                Ok(TrafficDirection::Egress) => "egress",
                _ => "unknown",
            }),
        }
    }
}

/// How one end is named: the first context that says something wins.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fallbacks {
    /// Where the direction has no list of its own.
    pub any: Vec<Context>,
    /// Of flows going out.
    pub egress: Vec<Context>,
    /// Of flows coming in.
    pub ingress: Vec<Context>,
}

impl Fallbacks {
    /// Whether the label is there at all.
    pub fn is_set(&self) -> bool {
        !(self.any.is_empty() && self.egress.is_empty() && self.ingress.is_empty())
    }

    fn list(&self, direction: i32) -> &[Context] {
        match TrafficDirection::try_from(direction) {
            Ok(TrafficDirection::Ingress) if !self.ingress.is_empty() => &self.ingress,
            Ok(TrafficDirection::Egress) if !self.egress.is_empty() => &self.egress,
            _ => &self.any,
        }
    }

    fn write<V: Observed>(&self, flow: &V, end: End, out: &mut String) {
        let start = out.len();
        for context in self.list(flow.direction()) {
            context.write(flow, end, out);
            if out.len() > start {
                return;
            }
        }
    }

    /// Whether a value of it can be a pod's full name.
    fn names_pods(&self) -> bool {
        [&self.any, &self.egress, &self.ingress].into_iter().flatten().any(|context| *context == Context::Pod)
    }
}

/// The context options of a plugin.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Contexts {
    /// For the label `source`.
    pub source: Fallbacks,
    /// For the label `destination`.
    pub destination: Fallbacks,
    /// Further labels, in the order of [`Label::ALL`].
    pub labels: Vec<Label>,
}

/// A context label of a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    Source,
    Destination,
    Label(Label),
}

impl Contexts {
    /// Names and meanings of the labels.
    pub(crate) fn parts(&self) -> Vec<(&'static str, Part)> {
        let labels = Label::ALL.iter().filter(|(_, label)| self.labels.contains(label));
        let mut parts: Vec<_> = labels.map(|(name, label)| (*name, Part::Label(*label))).collect();
        parts.extend(self.source.is_set().then_some(("source", Part::Source)));
        parts.extend(self.destination.is_set().then_some(("destination", Part::Destination)));
        parts
    }

    /// Writes a label's value. `invert`: the flow is an answer, and labels are to say who asked whom.
    pub(crate) fn write<V: Observed>(&self, part: Part, flow: &V, invert: bool, out: &mut String) {
        match (part, invert) {
            // As in the original, each end keeps its own list of contexts when the labels change places.
            (Part::Source, false) | (Part::Destination, true) => self.source.write(flow, End::Source, out),
            (Part::Destination, false) | (Part::Source, true) => self.destination.write(flow, End::Destination, out),
            (Part::Label(label), _) => label.write(flow, invert, out),
        }
    }

    /// Labels with values that only a series of this pod has: all of one of the lists.
    pub(crate) fn of_pod(&self, namespace: &str, pod: &str) -> Vec<Vec<(&'static str, String)>> {
        let mut all = Vec::new();
        // An answer's labels change places, so either list can have named either label.
        if self.source.names_pods() || self.destination.names_pods() {
            let mut full = String::new();
            qualified(namespace, pod, &mut full);
            all.push(vec![("source", full.clone())]);
            all.push(vec![("destination", full)]);
        }
        let has = |label| self.labels.contains(&label);
        for (side, pod_label, namespace_label) in [
            (Side::Source, "source_pod", "source_namespace"),
            (Side::Destination, "destination_pod", "destination_namespace"),
        ] {
            if has(Label::Pod(side)) && has(Label::Namespace(side)) {
                all.push(vec![(pod_label, pod.to_owned()), (namespace_label, namespace.to_owned())]);
            }
        }
        all
    }
}
