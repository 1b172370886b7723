//! `cilium policy`

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use api::client::{Client, escape};
use api::models::{Endpoint, EndpointState, Policy, SelectorIdentityMapping};
use serde_json::Value;

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
            let rules = read(path)?;
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
        PolicyCommand::Validate { path, print } => {
            let rules = read(path)?;
            if *print || screen.is_json() {
                screen.json(&rules)?;
            }
            if screen.is_json() {
                Ok(())
            } else {
                screen.line(&format!("All policies are valid ({} read).", rules.len()))
            }
        }
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

/// Reads policies and checks them as the agent would, so that mistakes are named with file and field.
fn read(path: &Path) -> Result<Vec<Value>, CliError> {
    let mut rules = Vec::new();
    for (name, text) in texts(path)? {
        let invalid = |errors: Vec<policy::DocError>| {
            let lines: Vec<String> = errors.iter().map(|e| format!("{}: {e}", name.display())).collect();
            CliError::Invalid(lines.join("\n"))
        };
        let options = policy::parse::Options::default();
        let values = policy::parse::documents(&text, &options.limits).map_err(|e| invalid(vec![e]))?;
        for value in values.into_iter().filter(|value| !value.is_null()) {
            // Bare rules have no kind; everything else is an object of one.
            if value.is_array() || value.get("kind").is_none() {
                policy::parse::parse_rules(&value.to_string(), &options).map_err(invalid)?;
            } else {
                policy::parse::parse_value(&value, &options).map_err(invalid)?;
            }
            match value {
                Value::Array(items) => rules.extend(items),
                object => rules.push(object),
            }
        }
    }
    if rules.is_empty() {
        return Err(CliError::Invalid(format!("{}: there is no policy in it", path.display())));
    }
    Ok(rules)
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

fn texts(path: &Path) -> Result<Vec<(PathBuf, String)>, CliError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| CliError::Read { path, source }
    };
    if path == Path::new("-") {
        let mut text = String::new();
        std::io::stdin().lock().read_to_string(&mut text).map_err(failed(Path::new("standard input")))?;
        return Ok(vec![(PathBuf::from("standard input"), text)]);
    }
    let mut files = vec![path.to_owned()];
    if path.is_dir() {
        let entries = fs::read_dir(path).map_err(failed(path))?;
        files = entries.map(|e| e.map(|e| e.path())).collect::<Result<_, _>>().map_err(failed(path))?;
        files.retain(|f| f.extension().is_some_and(|e| e == "yaml" || e == "yml" || e == "json"));
        files.sort();
    }
    files.into_iter().map(|file| Ok((file.clone(), fs::read_to_string(&file).map_err(failed(&file))?))).collect()
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
