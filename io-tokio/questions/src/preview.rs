//! What a change of rules would do to recorded traffic.

use std::net::IpAddr;

use api::models::{PreviewAnswer, Traffic, VerdictChange};
use policy::{
    Direction, EndpointFacts, Engine, ObjectKey, PolicyObject,
    engine::{PeerQuestion, Question},
    preview::{Outcome, RecordedFlow, changed, preview as compare},
    rule::{Peer, Peers},
};
use types::{Labels, Protocol};

use crate::{
    BadQuestion, Workloads, bad, directions, documents, protocol, show,
    who::{is_judged, parse_labels},
};

/// Judges traffic by the rules an engine holds and by the changed ones. Copies the engine, so do it where nobody waits
/// for it.
///
/// # Errors
/// [`BadQuestion`] names what is wrong with the traffic or the change.
pub fn preview(
    engine: &Engine,
    known: &dyn Workloads,
    put: &[PolicyObject],
    delete: &[ObjectKey],
    traffic: &Traffic,
) -> Result<PreviewAnswer, BadQuestion> {
    if let Some(missing) = delete.iter().find(|key| engine.object(key).is_none()) {
        return Err(bad("delete", format!("{missing} is not in force, so it cannot be deleted")));
    }
    let mut answer = PreviewAnswer { skipped: traffic.skipped, notes: documents::notices(put), ..Default::default() };
    let flows = recorded(traffic, known, &mut answer)?;
    answer.judged = flows.iter().map(|flow| flow.count).sum();
    if answer.judged == 0 {
        answer.notes.push("no flow was judged, so this says nothing of what the change would do".into());
    }
    let then = changed(engine, put, delete).map_err(|refused| bad("put", refused.to_string()))?;
    for change in compare(engine, &then, &flows) {
        match (change.before, change.after) {
            (_, Outcome::Denied) => answer.newly_denied += change.count,
            (Outcome::Denied, _) => answer.newly_allowed += change.count,
            _ => {}
        }
        answer.changes.push(VerdictChange {
            source: change.source,
            destination: change.destination,
            direction: change.direction.to_string(),
            protocol: Protocol::from_number(change.protocol).map_or_else(String::new, |p| p.to_string()),
            port: change.port,
            before: show::outcome(change.before).into(),
            after: show::outcome(change.after).into(),
            count: change.count,
            rules: change.rules.iter().map(show::rule).collect(),
        });
    }
    if put.iter().any(names_dns) {
        let note = "rules with toFQDNs are tried on the names an address was known by when the flow was recorded";
        answer.notes.push(note.into());
    }
    Ok(answer)
}

struct Side {
    name: String,
    labels: Labels,
    addr: Option<IpAddr>,
    identity: u32,
}

fn recorded(
    traffic: &Traffic,
    known: &dyn Workloads,
    answer: &mut PreviewAnswer,
) -> Result<Vec<RecordedFlow>, BadQuestion> {
    let mut sides = Vec::with_capacity(traffic.workloads.len());
    for (index, workload) in traffic.workloads.iter().enumerate() {
        let field = format!("traffic.workloads[{index}]");
        let addr = match workload.ip.as_str() {
            "" => None,
            text => Some(text.parse().map_err(|_| bad(format!("{field}.ip"), format!("{text:?} is no address")))?),
        };
        let labels = parse_labels(&format!("{field}.labels"), &workload.labels)?;
        sides.push(Side { name: workload.name.clone(), labels, addr, identity: workload.identity });
    }
    let mut flows = Vec::new();
    for (index, flow) in traffic.flows.iter().enumerate() {
        let field = |name: &str| format!("traffic.flows[{index}].{name}");
        let side = |name: &str, at: u32| {
            let why = || bad(field(name), format!("{at} is no place in the list of {} workloads", sides.len()));
            sides.get(at as usize).ok_or_else(why)
        };
        let (source, destination) = (side("source", flow.source)?, side("destination", flow.destination)?);
        let protocol = protocol(&field("protocol"), &flow.protocol)?;
        let mut judged = false;
        for direction in directions(&field("direction"), &flow.direction)? {
            let (subject, peer) = match direction {
                Direction::Egress => (source, destination),
                Direction::Ingress => (destination, source),
            };
            if !is_judged(&subject.labels) {
                continue;
            }
            judged = true;
            flows.push(RecordedFlow {
                subject: facts(subject, known),
                question: Question {
                    direction: *direction,
                    peer: peer_of(peer),
                    protocol: protocol.number(),
                    port: flow.port,
                },
                source: source.name.clone(),
                destination: destination.name.clone(),
                count: flow.count,
            });
        }
        if !judged {
            answer.skipped += flow.count;
        }
    }
    Ok(flows)
}

/// The labels it had when it was recorded; its named ports as they are now, if it is still here.
fn facts(side: &Side, known: &dyn Workloads) -> EndpointFacts {
    let here = side.addr.and_then(|addr| known.at(addr)).filter(|here| here.facts.labels == side.labels);
    EndpointFacts {
        labels: side.labels.clone(),
        named_ports: here.map(|here| here.facts.named_ports).unwrap_or_default(),
        host: side.labels.has_reserved("host"),
        audit: false,
    }
}

fn peer_of(side: &Side) -> PeerQuestion {
    let labels = (!side.labels.is_empty()).then(|| side.labels.clone());
    let identity = (side.identity != 0).then(|| types::NumericIdentity::new(side.identity));
    PeerQuestion { addr: side.addr, identity, labels }
}

fn names_dns(object: &PolicyObject) -> bool {
    let of = |peers: &Peers| matches!(peers, Peers::Listed(list) if list.iter().any(|p| matches!(p, Peer::Fqdn(_))));
    object.rules.iter().any(|rule| rule.egress.iter().any(|p| of(&p.peers)))
}
