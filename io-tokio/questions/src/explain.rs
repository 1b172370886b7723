//! Why traffic between two ends is let through or refused.

use api::models::{ConsideredRule, ExplainAnswer, ExplainRequest, Explained};
use policy::{
    Direction, Enforcement, Engine, MatchType, NamedPort, Verdict,
    engine::{Explanation, Question},
    preview::Outcome,
    rule::Action,
};
use types::{Protocol, labels::POD_NAMESPACE};

use crate::{
    BadQuestion, Workloads, bad, directions, protocol, show,
    who::{End, end},
};

/// Answers with the rules an engine holds. May copy the engine, so do it where nobody waits for it.
///
/// # Errors
/// [`BadQuestion`] names the field that cannot be understood or is not known.
pub fn explain(engine: &Engine, known: &dyn Workloads, request: &ExplainRequest) -> Result<ExplainAnswer, BadQuestion> {
    let from = end("from", &request.from, known)?;
    let to = end("to", &request.to, known)?;
    let (protocol, port) = port(engine, &to, request)?;
    let asked = directions("direction", &request.direction)?;
    let mut answer = ExplainAnswer { notes: notes(engine, &[&from, &to]), ..ExplainAnswer::default() };
    for direction in asked {
        let (subject, peer) = match direction {
            Direction::Egress => (&from, &to),
            Direction::Ingress => (&to, &from),
        };
        if !subject.is_judged() {
            continue;
        }
        let question = Question { direction: *direction, peer: peer.peer(), protocol: protocol.number(), port };
        let found = match subject.endpoint {
            Some(id) => engine.explain(id, &question),
            None => engine.explain_for(subject.facts(), &question),
        };
        let found = found.ok_or_else(|| bad("from", format!("{} is not judged yet; ask again", subject.text)))?;
        let shown = Some(explained(engine, &found, subject, peer, *direction));
        match direction {
            Direction::Egress => answer.egress = shown,
            Direction::Ingress => answer.ingress = shown,
        }
    }
    if answer.egress.is_none() && answer.ingress.is_none() {
        let why = "no policy judges either end: at least one must be a workload or the node (in the direction asked)";
        return Err(bad("from", why));
    }
    answer.verdict = together(&answer).into();
    Ok(answer)
}

/// The port that is asked about: a number, or a name the destination gives it.
fn port(engine: &Engine, to: &End, request: &ExplainRequest) -> Result<(Protocol, u16), BadQuestion> {
    if request.port_name.is_empty() {
        return Ok((protocol("protocol", &request.protocol)?, request.port));
    }
    if request.port != 0 {
        return Err(bad("port", "it is given as a number and as a name; one is enough"));
    }
    let of_address = || to.addr.map(|addr| engine.named_ports_at(addr)).unwrap_or_default();
    let all = if to.named_ports.is_empty() { of_address() } else { &to.named_ports };
    let wanted = match request.protocol.as_str() {
        "" => None,
        name => Some(protocol("protocol", name)?),
    };
    let list = |ports: &[&NamedPort]| {
        let texts = ports.iter().map(|p| format!("{} is {}/{}", p.name, p.port, p.protocol));
        texts.collect::<Vec<_>>().join(", ")
    };
    let name = request.port_name.to_ascii_lowercase();
    let fits = |p: &&NamedPort| *p.name == *name && wanted.is_none_or(|protocol| p.protocol == protocol);
    let found: Vec<&NamedPort> = all.iter().filter(fits).collect();
    match found.as_slice() {
        [one] => Ok((one.protocol, one.port)),
        [] if all.is_empty() => {
            let why = format!("no names of ports are known of {}; give the number of {:?}", to.text, request.port_name);
            Err(bad("port", why))
        }
        [] => {
            let known = list(&all.iter().collect::<Vec<_>>());
            Err(bad("port", format!("{} gives no port the name {:?}; known: {known}", to.text, request.port_name)))
        }
        many => {
            let example = format!("{}/{}", many[0].name, many[0].protocol);
            let why = format!(
                "{:?} is several ports of {}: {}; give the protocol, too, as in {example}",
                request.port_name,
                to.text,
                list(many)
            );
            Err(bad("port", why))
        }
    }
}

fn explained(engine: &Engine, found: &Explanation, subject: &End, peer: &End, direction: Direction) -> Explained {
    let audited = found.judged.audit && found.verdict == Verdict::Deny;
    Explained {
        subject: subject.text.clone(),
        peer: peer.text.clone(),
        enforced: found.enforced,
        audit: found.judged.audit,
        verdict: if audited { "audited" } else { show::outcome(Outcome::from(found.verdict)) }.into(),
        matched: matched(found.matched).into(),
        reason: reason(engine, found, direction),
        deciding: found.deciding.iter().map(show::rule).collect(),
        default_deny: found.default_deny.iter().map(show::rule).collect(),
        considered: found
            .considered
            .iter()
            .map(|c| ConsideredRule {
                rule: show::rule(&c.rule),
                action: if c.action == Action::Deny { "deny" } else { "allow" }.into(),
                why: show::fit(c.fit).into(),
            })
            .collect(),
    }
}

const fn matched(matched: MatchType) -> &'static str {
    match matched {
        MatchType::None => "none",
        MatchType::L3Only => "l3-only",
        MatchType::L3L4 => "l3-l4",
        MatchType::L4Only => "l4-only",
        MatchType::All => "all",
        MatchType::L3Proto => "l3-proto",
        MatchType::ProtoOnly => "proto-only",
    }
}

fn reason(engine: &Engine, found: &Explanation, direction: Direction) -> String {
    let always = engine.config().enforcement == Enforcement::Always;
    match found.verdict {
        _ if !found.enforced && engine.config().enforcement == Enforcement::Never => {
            "policy enforcement is switched off (never)".into()
        }
        _ if !found.enforced => format!("no policy that selects it speaks of {direction}, so all of it is allowed"),
        Verdict::Deny if found.deciding.is_empty() && found.default_deny.is_empty() && always => {
            "no rule allows it, and enforcement is always on".into()
        }
        Verdict::Deny if found.deciding.is_empty() => {
            "no rule allows it, and rules that select the endpoint switch default deny on".into()
        }
        Verdict::Deny if found.auth.is_some() => {
            "the rules that allow it demand authentication, which nothing fulfils".into()
        }
        Verdict::Deny if found.deciding.iter().all(is_deny) => "a deny rule refuses it".into(),
        Verdict::Deny => "rules contradict each other about how this port is to be read; it is refused".into(),
        Verdict::Allow => "a rule allows it".into(),
        Verdict::Redirect(_) => "a rule allows it by way of the proxy, which looks at its content".into(),
    }
}

fn is_deny(rule: &policy::RuleName) -> bool {
    matches!(rule, policy::RuleName::Rule { path, .. } if path.contains("Deny["))
}

/// Traffic passes if both ends let it.
fn together(answer: &ExplainAnswer) -> &'static str {
    let ends = [&answer.egress, &answer.ingress];
    let any = |verdict: &str| ends.iter().any(|end| end.as_ref().is_some_and(|e| e.verdict == verdict));
    ["denied", "audited", "redirected"].into_iter().find(|verdict| any(verdict)).unwrap_or("allowed")
}

fn notes(engine: &Engine, ends: &[&End]) -> Vec<String> {
    let mut notes = Vec::new();
    for end in ends.iter().filter(|end| end.said && end.is_judged()) {
        let reserved = end.labels.iter().all(types::Label::is_reserved);
        if !reserved && end.labels.value_of(types::labels::K8S, POD_NAMESPACE).is_none() {
            notes.push(format!(
                "{} has no label k8s:{POD_NAMESPACE}, so policies of a namespace do not mean it",
                end.text
            ));
        }
    }
    notes.extend(crate::documents::notices(engine.objects().map(std::convert::AsRef::as_ref)));
    notes
}
