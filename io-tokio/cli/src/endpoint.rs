//! `cilium endpoint`

use api::client::{Client, escape};
use api::models::{
    ConfigurationMap, Endpoint, EndpointConfigurationSpec, EndpointConfigurationStatus, EndpointHealth,
    EndpointPolicyEnabled, EndpointStatusChange, LabelConfiguration, LabelConfigurationSpec,
};

use crate::CliError;
use crate::arguments::EndpointCommand;
use crate::output::{Screen, Table};

pub(crate) fn run(client: &Client, command: &EndpointCommand, screen: &mut Screen<'_>) -> Result<(), CliError> {
    match command {
        EndpointCommand::List { no_headers } => {
            let mut endpoints: Vec<Endpoint> = client.get("/endpoint")?;
            endpoints.sort_by_key(|e| e.id);
            screen.show(&endpoints, || list(&endpoints, *no_headers))
        }
        EndpointCommand::Get { id, labels } => {
            let endpoints = match id {
                Some(id) => vec![client.get::<Endpoint>(&path(id, ""))?],
                None => client.call("GET", "/endpoint", &[], Some(labels))?,
            };
            screen.json(&endpoints)
        }
        EndpointCommand::Log { id } => {
            let log: Vec<EndpointStatusChange> = client.get(&path(id, "/log"))?;
            screen.show(&log, || {
                let mut table = Table::new(["Timestamp", "Status", "State", "Message"]);
                for line in &log {
                    table.row([
                        line.timestamp.clone(),
                        line.code.clone(),
                        line.state.to_string(),
                        line.message.clone(),
                    ]);
                }
                table
            })
        }
        EndpointCommand::Labels { id, add, delete } => labels(client, id, add, delete, screen),
        EndpointCommand::Health { id } => {
            let health: EndpointHealth = client.get(&path(id, "/healthz"))?;
            screen.show(&health, || {
                let mut table = Table::without_headings();
                table.row(["Overall Health:".into(), health.overall_health.to_string()]);
                table.row(["BPF Health:".into(), health.bpf.to_string()]);
                table.row(["Policy Health:".into(), health.policy.to_string()]);
                table.row(["Connected:".into(), if health.connected { "yes" } else { "no" }.into()]);
                table
            })
        }
        EndpointCommand::Config { id, changes } => config(client, id, changes, screen),
    }
}

fn path(id: &str, part: &str) -> String {
    format!("/endpoint/{}{part}", escape(id))
}

fn list(endpoints: &[Endpoint], no_headers: bool) -> Table {
    let mut table = if no_headers {
        Table::without_headings()
    } else {
        Table::new([
            "ENDPOINT",
            "POLICY (ingress)\nENFORCEMENT",
            "POLICY (egress)\nENFORCEMENT",
            "IDENTITY",
            "LABELS (source:key[=value])",
            "IPv6",
            "IPv4",
            "STATUS",
        ])
    };
    for endpoint in endpoints {
        let status = &endpoint.status;
        let (ingress, egress) = enforcement(status.policy.as_ref().map(|p| p.realized.policy_enabled));
        let identity = status.identity.as_ref();
        let labels = identity.map_or_else(|| status.labels.security_relevant.clone(), |i| i.labels.clone());
        let pair = status.networking.addressing.first().cloned().unwrap_or_default();
        table.row([
            endpoint.id.to_string(),
            ingress.into(),
            egress.into(),
            identity.map_or_else(|| "<no label id>".into(), |i| i.id.to_string()),
            labels.join("\n"),
            pair.ipv6,
            pair.ipv4,
            status.state.to_string(),
        ]);
    }
    table
}

fn enforcement(mode: Option<EndpointPolicyEnabled>) -> (&'static str, &'static str) {
    use EndpointPolicyEnabled as Mode;
    match mode.unwrap_or_default() {
        Mode::None => ("Disabled", "Disabled"),
        Mode::Ingress => ("Enabled", "Disabled"),
        Mode::Egress => ("Disabled", "Enabled"),
        Mode::Both => ("Enabled", "Enabled"),
        Mode::AuditIngress => ("Disabled (Audit)", "Disabled"),
        Mode::AuditEgress => ("Disabled", "Disabled (Audit)"),
        Mode::AuditBoth => ("Disabled (Audit)", "Disabled (Audit)"),
    }
}

fn labels(
    client: &Client,
    id: &str,
    add: &[String],
    delete: &[String],
    screen: &mut Screen<'_>,
) -> Result<(), CliError> {
    let mut now: LabelConfiguration = client.get(&path(id, "/labels"))?;
    if !(add.is_empty() && delete.is_empty()) {
        let mut user = now.status.realized.user.clone();
        if let Some(absent) = delete.iter().find(|label| !user.contains(label)) {
            let known = if user.is_empty() { "none".into() } else { user.join(", ") };
            return Err(CliError::NotFound(format!(
                "label {absent:?} was not given by a user; those given are: {known}"
            )));
        }
        user.retain(|label| !delete.contains(label));
        user.extend(add.iter().filter(|label| !now.status.realized.user.contains(label)).cloned());
        client.call::<_, serde_json::Value>(
            "PATCH",
            &path(id, "/labels"),
            &[],
            Some(&LabelConfigurationSpec { user }),
        )?;
        now = client.get(&path(id, "/labels"))?;
    }
    screen.show(&now, || {
        let mut table = Table::new(["Labels", "Kind"]);
        for (kind, labels) in [
            ("identity-relevant", &now.status.security_relevant),
            ("user", &now.status.realized.user),
            ("derived", &now.status.derived),
            ("disabled", &now.status.disabled),
        ] {
            for label in labels {
                table.row([label.clone(), kind.into()]);
            }
        }
        table
    })
}

fn config(client: &Client, id: &str, changes: &[String], screen: &mut Screen<'_>) -> Result<(), CliError> {
    if !changes.is_empty() {
        let spec = EndpointConfigurationSpec { options: pairs(changes)?, ..EndpointConfigurationSpec::default() };
        client.call::<_, serde_json::Value>("PATCH", &path(id, "/config"), &[], Some(&spec))?;
    }
    let now: EndpointConfigurationStatus = client.get(&path(id, "/config"))?;
    screen.show(&now, || {
        let mut table = Table::without_headings();
        for (name, value) in now.realized.options.iter().chain(&now.immutable) {
            table.row([name.clone(), value.clone()]);
        }
        table
    })
}

/// `NAME=VALUE` arguments; `enable` and `disable` are words people know.
pub(crate) fn pairs(changes: &[String]) -> Result<ConfigurationMap, CliError> {
    let pair = |text: &String| {
        let (name, value) =
            text.split_once('=').ok_or_else(|| CliError::Invalid(format!("{text:?} is not of the form NAME=VALUE")))?;
        let value = match value {
            "enable" => "Enabled",
            "disable" => "Disabled",
            other => other,
        };
        Ok((name.to_owned(), value.to_owned()))
    };
    changes.iter().map(pair).collect()
}
