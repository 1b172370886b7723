//! `cilium config`

use api::client::Client;
use api::models::{ConfigurationMap, DaemonConfiguration, DaemonConfigurationSpec};

use crate::CliError;
use crate::arguments::ConfigOptions;
use crate::endpoint::pairs;
use crate::output::{Screen, Table};

pub(crate) fn run(client: &Client, options: &ConfigOptions, screen: &mut Screen<'_>) -> Result<(), CliError> {
    if let [verb, name] = options.changes.as_slice()
        && verb == "get"
    {
        let now: DaemonConfiguration = client.get("/config")?;
        let (changeable, fixed) = (changeable(&now), fixed(&now));
        let value = changeable.get(name).or_else(|| fixed.get(name));
        let value =
            value.ok_or_else(|| CliError::NotFound(format!("there is no option {name:?}; see cilium config --all")))?;
        return if screen.is_json() { screen.json(value) } else { screen.line(value) };
    }
    if !options.changes.is_empty() {
        let mut wanted = pairs(&options.changes)?;
        let policy_enforcement = wanted.remove("PolicyEnforcement").unwrap_or_default();
        let spec = DaemonConfigurationSpec { options: wanted, policy_enforcement };
        client.call::<_, serde_json::Value>("PATCH", "/config", &[], Some(&spec))?;
        return screen.line("changed");
    }
    let now: DaemonConfiguration = client.get("/config")?;
    if screen.is_json() {
        return screen.json(&now);
    }
    let mut table = Table::without_headings();
    if !options.read_only {
        for (name, value) in changeable(&now) {
            table.row([name, if options.list_options { String::new() } else { value }]);
        }
    }
    if options.all || options.read_only {
        for (name, value) in fixed(&now) {
            table.row([name, value]);
        }
    }
    screen.table(&table)
}

fn changeable(now: &DaemonConfiguration) -> ConfigurationMap {
    let mut out = now.status.realized.options.clone();
    if !now.status.realized.policy_enforcement.is_empty() {
        out.insert("PolicyEnforcement".into(), now.status.realized.policy_enforcement.clone());
    }
    out
}

fn fixed(now: &DaemonConfiguration) -> ConfigurationMap {
    let mut out = now.status.immutable.clone();
    for (name, value) in &now.status.daemon_configuration_map {
        out.insert(name.clone(), value.as_str().map_or_else(|| value.to_string(), str::to_owned));
    }
    out
}
