//! `cilium identity` and `cilium ip`

use std::collections::BTreeMap;

use api::client::Client;
use api::models::{IPListEntry, Identity, IdentityEndpoints};

use crate::CliError;
use crate::arguments::IdentityCommand;
use crate::output::{Screen, Table};

pub(crate) fn run(client: &Client, command: &IdentityCommand, screen: &mut Screen<'_>) -> Result<(), CliError> {
    match command {
        IdentityCommand::List { endpoints: true, .. } => {
            let found: Vec<IdentityEndpoints> = client.get("/identity/endpoints")?;
            screen.show(&found, || {
                let mut table = Table::new(["ID", "LABELS", "REFCOUNT"]);
                for each in &found {
                    table.row([
                        each.identity.id.to_string(),
                        each.identity.labels.join("\n"),
                        each.ref_count.to_string(),
                    ]);
                }
                table
            })
        }
        IdentityCommand::List { labels, .. } => show(&list(client, labels)?, screen),
        IdentityCommand::Get { id: Some(id), .. } => show(&[client.get(&format!("/identity/{id}"))?], screen),
        IdentityCommand::Get { label, .. } => show(&list(client, label)?, screen),
    }
}

fn list(client: &Client, labels: &[String]) -> Result<Vec<Identity>, CliError> {
    let mut found: Vec<Identity> = match labels {
        [] => client.get("/identity")?,
        labels => client.call("GET", "/identity", &[], Some(&labels))?,
    };
    found.sort_by_key(|identity| identity.id);
    Ok(found)
}

fn show(identities: &[Identity], screen: &mut Screen<'_>) -> Result<(), CliError> {
    screen.show(&identities, || {
        let mut table = Table::new(["ID", "LABELS"]);
        for identity in identities {
            table.row([identity.id.to_string(), identity.labels.join("\n")]);
        }
        table
    })
}

/// Labels of all identities, for showing names in place of numbers.
pub(crate) fn labels_of_all(client: &Client) -> Result<BTreeMap<u32, Vec<String>>, CliError> {
    let known = list(client, &[])?;
    Ok(known.into_iter().filter_map(|i| Some((u32::try_from(i.id).ok()?, i.labels))).collect())
}

/// An identity as people read it: its reserved name, its labels, or its number.
pub(crate) fn name(identity: u32, labels: &BTreeMap<u32, Vec<String>>) -> String {
    match (hubble_model::text::reserved_identity(identity), labels.get(&identity)) {
        (Some(reserved), _) => format!("reserved:{reserved}"),
        (None, Some(labels)) if !labels.is_empty() => labels.join("\n"),
        _ => identity.to_string(),
    }
}

pub(crate) fn ip_list(client: &Client, numeric: bool, verbose: bool, screen: &mut Screen<'_>) -> Result<(), CliError> {
    let mut entries: Vec<IPListEntry> = client.get("/ip")?;
    entries.sort_by(|a, b| a.cidr.cmp(&b.cidr));
    if screen.is_json() {
        return screen.json(&entries);
    }
    let labels = if numeric { BTreeMap::new() } else { labels_of_all(client)? };
    let mut table = if verbose {
        Table::new(["IP", "IDENTITY", "SOURCE", "POD", "HOST", "ENCRYPT KEY"])
    } else {
        Table::new(["IP", "IDENTITY", "SOURCE"])
    };
    for entry in &entries {
        let shown = match u32::try_from(entry.identity) {
            Ok(identity) if !numeric => name(identity, &labels),
            _ => entry.identity.to_string(),
        };
        let metadata = entry.metadata.clone().unwrap_or_default();
        if verbose {
            let pod = if metadata.name.is_empty() {
                String::new()
            } else {
                format!("{}/{}", metadata.namespace, metadata.name)
            };
            let key = entry.encrypt_key.to_string();
            table.row([entry.cidr.clone(), shown, metadata.source, pod, entry.host_ip.clone(), key]);
        } else {
            table.row([entry.cidr.clone(), shown, metadata.source]);
        }
    }
    screen.table(&table)
}
