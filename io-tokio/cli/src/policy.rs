//! `cilium policy`

mod files;
pub(crate) mod options;
mod questions;
pub(crate) mod reading;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use api::client::{Client, escape};
use api::models::{Endpoint, EndpointState, Policy, SelectorIdentityMapping};
use serde_json::Value;

use self::reading::Reading;
use crate::CliError;
use crate::arguments::PolicyCommand;
use crate::output::{Screen, Table};

/// Between two looks at the endpoints.
const PAUSE: Duration = Duration::from_millis(100);

pub(crate) fn run(client: &Client, command: &PolicyCommand, screen: &mut Screen<'_>) -> Result<(), CliError> {
    match command {
        PolicyCommand::Get { labels } => {
            let policy = match labels.as_slice() {
                [] => client.get("/policy")?,
                labels => client.call("GET", "/policy", &[], Some(&labels))?,
            };
            show(&policy, screen)
        }
        PolicyCommand::Import { path, print, replace, replace_with_labels } => {
            let (rules, warnings) = files::read(path, &Reading::default())?;
            warn(&warnings);
            if *print {
                screen.json(&rules)?;
            }
            let mut query = format!("/policy?replace={replace}");
            if !replace_with_labels.is_empty() {
                query.push_str(&format!("&replace-with-labels={}", escape(&replace_with_labels.join(","))));
            }
            let policy: Policy = client.call("PUT", &query, &[], Some(&body(rules)?))?;
            if screen.is_json() { screen.json(&policy) } else { screen.line(&format!("Revision: {}", policy.revision)) }
        }
        PolicyCommand::Delete { labels, .. } => {
            let policy: Policy = client.call("DELETE", "/policy", &[], Some(labels))?;
            if screen.is_json() { screen.json(&policy) } else { screen.line(&format!("Revision: {}", policy.revision)) }
        }
        PolicyCommand::Validate { paths, print, enabled } => {
            validate(paths, *print, &Reading::of(enabled, client)?, screen)
        }
        PolicyCommand::Explain(options) => questions::explain(client, options, screen),
        PolicyCommand::Preview(options) => questions::preview(client, options, screen),
        PolicyCommand::Lint(options) => questions::lint(client, options, screen),
        PolicyCommand::Wait { revision, max_wait_time } => {
            wait(client, *revision, Duration::from_secs(*max_wait_time), screen)
        }
        PolicyCommand::Selectors => {
            let selectors: Vec<SelectorIdentityMapping> = client.get("/policy/selectors")?;
            screen.show(&selectors, || {
                let mut table = Table::new(["SELECTOR", "USERS", "IDENTITIES"]);
                for each in &selectors {
                    let identities: Vec<String> = each.identities.iter().map(ToString::to_string).collect();
                    table.row([each.selector.clone(), each.users.to_string(), identities.join("\n")]);
                }
                table
            })
        }
    }
}

/// Checks files as an agent would take them.
fn validate(paths: &[PathBuf], print: bool, reading: &Reading, screen: &mut Screen<'_>) -> Result<(), CliError> {
    let (mut rules, mut warnings, mut mistakes) = (Vec::new(), Vec::new(), Vec::new());
    for path in paths {
        match files::read(path, reading) {
            Ok((read, warned)) => {
                rules.extend(read);
                warnings.extend(warned);
            }
            // A mistake in one file hides none in the others.
            Err(CliError::Invalid(why)) => mistakes.push(why),
            Err(other) => return Err(other),
        }
    }
    if screen.is_json() {
        let lines: Vec<&str> = mistakes.iter().flat_map(|m| m.lines()).collect();
        screen.json(&serde_json::json!({
            "valid": mistakes.is_empty(), "mistakes": lines, "not-enforced": warnings, "policies": rules,
        }))?;
    } else {
        warn(&warnings);
        if print {
            screen.json(&rules)?;
        }
        if mistakes.is_empty() {
            screen.line(&format!("All policies are valid ({} read).", rules.len()))?;
        }
    }
    if mistakes.is_empty() { Ok(()) } else { Err(CliError::Invalid(mistakes.join("\n"))) }
}

/// Says aloud what is understood and not enforced. On standard error: what is printed may be read by a program.
#[allow(clippy::print_stderr, reason = "warnings go where programs do not read")]
fn warn(warnings: &[String]) {
    for warning in warnings {
        eprintln!("Warning: {warning}");
    }
}

/// Rules and revision. Rules come as JSON in a string; people and scripts get them as JSON.
fn show(policy: &Policy, screen: &mut Screen<'_>) -> Result<(), CliError> {
    let rules: Value =
        if policy.policy.is_empty() { Value::Array(vec![]) } else { serde_json::from_str(&policy.policy)? };
    if screen.is_json() {
        return screen.json(&serde_json::json!({ "revision": policy.revision, "policy": rules }));
    }
    screen.json(&rules)?;
    screen.line(&format!("Revision: {}", policy.revision))
}

/// What the agent is sent: bare rules as a list, objects as one `List`.
fn body(rules: Vec<Value>) -> Result<Value, CliError> {
    let objects = rules.iter().filter(|rule| rule.get("kind").is_some()).count();
    if objects == 0 {
        return Ok(Value::Array(rules));
    }
    if objects < rules.len() {
        let what =
            "some of the policies are objects with a kind and some are bare rules; import them one after the other";
        return Err(CliError::Invalid(what.into()));
    }
    Ok(serde_json::json!({ "apiVersion": "v1", "kind": "List", "items": rules }))
}

fn wait(client: &Client, revision: i64, limit: Duration, screen: &mut Screen<'_>) -> Result<(), CliError> {
    let deadline = Instant::now() + limit;
    loop {
        let endpoints: Vec<Endpoint> = client.get("/endpoint")?;
        let realized = |e: &Endpoint| e.status.policy.as_ref().map_or(0, |p| p.realized.policy_revision);
        // An endpoint on its way out enforces nothing anew.
        let leaving =
            |e: &Endpoint| matches!(e.status.state, EndpointState::Disconnecting | EndpointState::Disconnected);
        let late: Vec<&Endpoint> = endpoints.iter().filter(|e| !leaving(e) && realized(e) < revision).collect();
        let Some(first) = late.first() else {
            return screen.line(&format!("{} endpoints enforce revision {revision}", endpoints.len()));
        };
        if Instant::now() >= deadline {
            return Err(CliError::NotWell(format!(
                "{} of {} endpoints do not enforce revision {revision} yet; endpoint {} is {} at revision {}",
                late.len(),
                endpoints.len(),
                first.id,
                first.status.state,
                realized(first)
            )));
        }
        std::thread::sleep(PAUSE);
    }
}
