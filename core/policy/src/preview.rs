//! Preview: what a change of rules would do to recorded traffic.
//!
//! Two engines, one as it is and one with the change, judge the same flows; what they disagree about is the preview.

use crate::{
    delta::Verdict,
    engine::{EndpointFacts, Engine, Question, Refused, RuleName},
    rule::{Direction, ObjectKey, PolicyObject},
};
use alloc::{
    collections::BTreeMap,
    string::{String, ToString},
    vec::Vec,
};
use types::EndpointId;

/// What flows have in common that are shown as one change: outcome before, source, destination, direction, protocol, port, outcome after.
type Alike = (Outcome, String, String, Direction, u8, u16, Outcome);

/// A recorded flow, seen from one of its ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordedFlow {
    /// The end that is judged.
    pub subject: EndpointFacts,
    /// What is asked of it.
    pub question: Question,
    /// How the source is shown: `namespace/workload`, an entity or an address.
    pub source: String,
    /// How the destination is shown.
    pub destination: String,
    /// How often it was seen.
    pub count: u64,
}

/// A verdict, without the number of a redirect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// Let through.
    Allowed,
    /// Let through by way of a proxy.
    Redirected,
    /// Refused.
    Denied,
}

impl From<Verdict> for Outcome {
    fn from(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Allow => Self::Allowed,
            Verdict::Redirect(_) => Self::Redirected,
            Verdict::Deny => Self::Denied,
        }
    }
}

/// Flows between two workloads on one port that would be judged otherwise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Source.
    pub source: String,
    /// Destination.
    pub destination: String,
    /// The end that judges otherwise.
    pub direction: Direction,
    /// IP protocol number.
    pub protocol: u8,
    /// Destination port, or ICMP type.
    pub port: u16,
    /// As it is.
    pub before: Outcome,
    /// As it would be.
    pub after: Outcome,
    /// Flows recorded.
    pub count: u64,
    /// The rules responsible: those that would decide, or, where none would, those that switch default deny on.
    pub rules: Vec<RuleName>,
}

/// The engine with objects put in and taken out.
///
/// # Errors
/// [`Refused`] if an object would exceed a bound.
pub fn changed(now: &Engine, put: &[PolicyObject], delete: &[ObjectKey]) -> Result<Engine, Refused> {
    let mut engine = now.clone();
    for key in delete {
        engine.remove_object(key);
    }
    for object in put {
        engine.upsert_object(object.clone())?;
    }
    Ok(engine)
}

/// What would be judged otherwise: newly denied first, then by source, destination and port.
#[must_use]
pub fn preview(now: &Engine, then: &Engine, flows: &[RecordedFlow]) -> Vec<Change> {
    let Some(stand_in) = EndpointId::new(u16::MAX) else { return Vec::new() };
    let (mut now, mut then) = (now.clone(), then.clone());
    let mut by_subject: BTreeMap<String, Vec<&RecordedFlow>> = BTreeMap::new();
    for flow in flows {
        let subject = &flow.subject;
        let key = alloc::format!("{} {:?} {}", subject.labels, subject.named_ports, subject.host);
        by_subject.entry(key).or_default().push(flow);
    }
    let mut changes: BTreeMap<Alike, Change> = BTreeMap::new();
    for flows in by_subject.into_values() {
        let Some(first) = flows.first() else { continue };
        now.upsert_endpoint(stand_in, first.subject.clone());
        then.upsert_endpoint(stand_in, first.subject.clone());
        for flow in flows {
            let both = (now.explanation(stand_in, &flow.question, 0), then.explanation(stand_in, &flow.question, 0));
            let (Some(was), Some(will)) = both else { continue };
            let (before, after) = (Outcome::from(was.verdict), Outcome::from(will.verdict));
            if before == after {
                continue;
            }
            let q = &flow.question;
            let key =
                (after, flow.source.clone(), flow.destination.to_string(), q.direction, q.protocol, q.port, before);
            let rules = if will.deciding.is_empty() { will.default_deny } else { will.deciding };
            let change = changes.entry(key).or_insert_with(|| Change {
                source: flow.source.clone(),
                destination: flow.destination.clone(),
                direction: q.direction,
                protocol: q.protocol,
                port: q.port,
                before,
                after,
                count: 0,
                rules,
            });
            change.count += flow.count;
        }
    }
    let mut all: Vec<Change> = changes.into_values().collect();
    all.sort_by_key(|c| core::cmp::Reverse(c.after));
    all
}
