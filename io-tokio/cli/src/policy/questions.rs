//! `cilium policy explain`, `preview` and `lint`: asked of the agent, or of the rules in files.

use std::path::{Path, PathBuf};

use api::client::Client;
use api::models::{
    ExplainAnswer, ExplainRequest, Explained, LintFinding, LintRequest, PreviewAnswer, PreviewRequest, RuleRef,
    VerdictChange,
};
use policy::{Config, Enforcement, Engine, ObjectKey};

use super::files;
use super::options::{Enforcing, ExplainOptions, LintOptions, PreviewOptions, RulesInForce};
use super::reading::Reading;
use crate::CliError;
use crate::output::{Screen, Table};

#[allow(clippy::needless_pass_by_value, reason = "used as a function of an error")]
fn wrong(question: questions::BadQuestion) -> CliError {
    CliError::Invalid(question.to_string())
}

/// An engine with the rules of files and nothing else.
fn engine(in_force: &RulesInForce, more: &[PathBuf]) -> Result<Engine, CliError> {
    let enforcement = match in_force.enable_policy {
        Enforcing::Default => Enforcement::Default,
        Enforcing::Always => Enforcement::Always,
        Enforcing::Never => Enforcement::Never,
    };
    let (mut engine, _) =
        Engine::new(Config { enforcement, cluster_name: in_force.cluster_name.clone(), ..Config::default() });
    let paths: Vec<PathBuf> = in_force.rules.iter().chain(more).cloned().collect();
    let documents = files::documents(&paths)?;
    let objects = questions::read("rules", &documents, &Reading::default().options).map_err(wrong)?;
    engine.change_objects(objects, &[]).map_err(|refused| CliError::Invalid(refused.to_string()))?;
    Ok(engine)
}

pub(crate) fn explain(client: &Client, options: &ExplainOptions, screen: &mut Screen<'_>) -> Result<(), CliError> {
    let question = question(options)?;
    let answer: ExplainAnswer = if options.in_force.is_offline() || !options.files.is_empty() {
        let engine = engine(&options.in_force, &options.files)?;
        questions::explain(&engine, &questions::Nobody, &question).map_err(wrong)?
    } else {
        client.call("POST", "/policy/explain", &[], Some(&question))?
    };
    if screen.is_json() { screen.json(&answer) } else { show_explanation(&answer, screen) }
}

fn question(options: &ExplainOptions) -> Result<ExplainRequest, CliError> {
    let mut question = match &options.flow {
        Some(flow) if flow.trim_start().starts_with('{') => questions::question_of_flow(flow).map_err(wrong)?,
        Some(flow) => {
            let text = files::text(Path::new(flow))?;
            let mut lines = text.lines().filter(|line| !line.trim().is_empty());
            let first = lines.next().unwrap_or_default();
            // A file holds one flow, on one line or on many.
            let whole = if lines.next().is_none() || serde_json::from_str::<serde_json::Value>(&text).is_ok() {
                text.as_str()
            } else {
                first
            };
            questions::question_of_flow(whole).map_err(wrong)?
        }
        None => {
            let (from, to) = (options.from.as_deref().unwrap_or_default(), options.to.as_deref().unwrap_or_default());
            let (port, port_name, protocol) = port(options.port.as_deref().unwrap_or_default())?;
            ExplainRequest {
                from: questions::party("--from", from).map_err(wrong)?,
                to: questions::party("--to", to).map_err(wrong)?,
                port,
                port_name,
                protocol,
                direction: String::new(),
            }
        }
    };
    if let Some(direction) = &options.direction {
        question.direction.clone_from(direction);
    }
    Ok(question)
}

/// Number or name of a port, and its protocol. A name may be left without one, a number is TCP's then.
fn port(text: &str) -> Result<(u16, String, String), CliError> {
    let (port, protocol) = text.split_once('/').unwrap_or((text, ""));
    if policy::rule::port::is_port_name(port) {
        return Ok((0, port.to_owned(), protocol.to_owned()));
    }
    let number = port.parse().map_err(|_| {
        let why = format!(
            "--port: {port:?} is no port; a number from 0 to 65535 is expected, as in 80/TCP, or the name the destination \
             gives it, as in http"
        );
        CliError::Invalid(why)
    })?;
    Ok((number, String::new(), if protocol.is_empty() { "TCP".into() } else { protocol.to_owned() }))
}

fn show_explanation(answer: &ExplainAnswer, screen: &mut Screen<'_>) -> Result<(), CliError> {
    screen.line(&format!("Verdict: {}", answer.verdict))?;
    for (direction, end, preposition) in [("Egress", &answer.egress, "to"), ("Ingress", &answer.ingress, "from")] {
        let Some(end) = end else { continue };
        screen.line("")?;
        screen.line(&format!("{direction} of {} {preposition} {}: {}", end.subject, end.peer, end.verdict))?;
        show_end(end, screen)?;
    }
    for note in &answer.notes {
        screen.line(&format!("\nNote: {note}"))?;
    }
    Ok(())
}

fn show_end(end: &Explained, screen: &mut Screen<'_>) -> Result<(), CliError> {
    screen.line(&format!("  {}", end.reason))?;
    for (heading, rules) in [("Decided by", &end.deciding), ("Default deny is switched on by", &end.default_deny)] {
        // Who switched default deny on matters where nothing else decides.
        if rules.is_empty() || (heading != "Decided by" && !end.deciding.is_empty()) {
            continue;
        }
        screen.line(&format!("  {heading}:"))?;
        for rule in rules {
            screen.line(&format!("    {}", name(rule)))?;
        }
    }
    if !end.considered.is_empty() {
        screen.line("  Also considered:")?;
        for other in &end.considered {
            screen.line(&format!("    {} {}: {}", other.action, name(&other.rule), other.why))?;
        }
    }
    Ok(())
}

/// `KIND NAMESPACE/NAME PATH`
fn name(rule: &RuleRef) -> String {
    let slash = if rule.namespace.is_empty() { "" } else { "/" };
    format!("{} {}{slash}{} {}", rule.kind, rule.namespace, rule.name, rule.path).trim().to_owned()
}

pub(crate) fn preview(client: &Client, options: &PreviewOptions, screen: &mut Screen<'_>) -> Result<(), CliError> {
    let put = files::documents(&options.files)?;
    let traffic = options.flows.as_deref().map(files::flows).transpose()?;
    let answer: PreviewAnswer = if options.in_force.is_offline() {
        let engine = engine(&options.in_force, &[])?;
        let objects = questions::read("--file", &put, &Reading::default().options).map_err(wrong)?;
        let key = |named| questions::object_key("--delete", named);
        let delete: Vec<ObjectKey> = options.delete.iter().map(key).collect::<Result<_, _>>().map_err(wrong)?;
        questions::preview(&engine, &questions::Nobody, &objects, &delete, &traffic.unwrap_or_default())
            .map_err(wrong)?
    } else {
        let question = PreviewRequest {
            put,
            delete: options.delete.clone(),
            traffic: traffic.unwrap_or_default(),
            since_seconds: options.since.map(|since| since.as_secs()),
        };
        client.call("POST", "/policy/preview", &[], Some(&question))?
    };
    if screen.is_json() {
        screen.json(&answer)?;
    } else {
        show_preview(&answer, screen)?;
    }
    match answer.newly_denied {
        0 => Ok(()),
        flows => Err(CliError::Found(format!("{flows} of {} flows would newly be denied", answer.judged))),
    }
}

fn show_preview(answer: &PreviewAnswer, screen: &mut Screen<'_>) -> Result<(), CliError> {
    if !answer.changes.is_empty() {
        let mut table = Table::new(["SOURCE", "DESTINATION", "DIRECTION", "PORT", "FLOWS", "NOW", "THEN", "BY"]);
        for change in &answer.changes {
            table.row(row(change));
        }
        screen.table(&table)?;
        screen.line("")?;
    }
    screen.line(&format!(
        "{} flows judged, {} passed over (replies, ends nobody judges): {} newly denied, {} newly allowed",
        answer.judged, answer.skipped, answer.newly_denied, answer.newly_allowed
    ))?;
    for note in &answer.notes {
        screen.line(&format!("Note: {note}"))?;
    }
    Ok(())
}

fn row(change: &VerdictChange) -> [String; 8] {
    let rules: Vec<String> = change.rules.iter().map(name).collect();
    [
        change.source.clone(),
        change.destination.clone(),
        change.direction.clone(),
        format!("{}/{}", change.port, change.protocol),
        change.count.to_string(),
        change.before.clone(),
        change.after.clone(),
        if rules.is_empty() { "no rule".into() } else { rules.join("\n") },
    ]
}

pub(crate) fn lint(client: &Client, options: &LintOptions, screen: &mut Screen<'_>) -> Result<(), CliError> {
    let documents = files::documents(&options.paths)?;
    let findings: Vec<LintFinding> = if options.in_force.is_offline() {
        let engine = engine(&options.in_force, &[])?;
        let objects = questions::read("rules", &documents, &Reading::default().options).map_err(wrong)?;
        questions::lint(&engine, &objects, true).map_err(wrong)?
    } else {
        client.call("POST", "/policy/lint", &[], Some(&LintRequest { documents }))?
    };
    screen.show(&findings, || {
        let mut table = Table::new(["OBJECT", "PATH", "FINDING"]);
        for finding in &findings {
            table.row([finding.object.clone(), finding.path.clone(), finding.what.clone()]);
        }
        if findings.is_empty() {
            table = Table::without_headings();
            table.row(["Nothing was found.".into()]);
        }
        table
    })?;
    match findings.len() {
        0 => Ok(()),
        1 => Err(CliError::Found("1 finding".into())),
        many => Err(CliError::Found(format!("{many} findings"))),
    }
}
