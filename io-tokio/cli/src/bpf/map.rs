//! `cilium map`: the maps themselves.

use api::client::{Client, escape};
use api::models::{BPFMap, BPFMapList};
use loader::Maps;
use serde_json::json;

use crate::output::{Screen, Table};
use crate::{Arguments, CliError};

pub(crate) fn list(
    client: &Client,
    arguments: &Arguments,
    verbose: bool,
    screen: &mut Screen<'_>,
) -> Result<(), CliError> {
    if verbose {
        let wanted: BPFMapList = client.get("/map")?;
        return screen.show(&wanted, || {
            let mut table = Table::new(["Name", "Wanted entries", "In error"]);
            for map in &wanted.maps {
                let errors = map.cache.iter().filter(|e| !e.last_error.is_empty()).count();
                table.row([map.path.clone(), map.cache.len().to_string(), errors.to_string()]);
            }
            table
        });
    }
    let maps = super::open(arguments)?;
    let rows = counts(&maps)?;
    let value: Vec<_> =
        rows.iter().map(|(name, count, max)| json!({ "name": name, "entries": count, "maxEntries": max })).collect();
    screen.show(&value, || {
        let mut table = Table::new(["Name", "Num entries", "Max entries"]);
        for (name, count, max) in &rows {
            table.row([(*name).to_owned(), count.to_string(), max.to_string()]);
        }
        table
    })
}

fn counts(maps: &Maps) -> Result<Vec<(&'static str, usize, u32)>, CliError> {
    let mut rows = Vec::new();
    macro_rules! count {
        ($($table:ident)*) => {
            $(rows.push((maps.$table.spec().name, maps.$table.entries()?.len(), maps.$table.max_entries()));)*
        };
    }
    count!(lxc devices ipcache policy ct4 ct_any4 ct6 ct_any6 lb4_services lb6_services lb4_backends lb6_backends
           lb4_reverse_nat lb6_reverse_nat lb4_affinity lb6_affinity lb_affinity_match lb4_source_range lb6_source_range
           lb4_reverse_sk lb6_reverse_sk snat4 snat6 ipmasq4 ipmasq6 ratelimit frag4 frag6);
    for (tables, spec) in [(&maps.lb4_maglev, abi::maps::LB4_MAGLEV), (&maps.lb6_maglev, abi::maps::LB6_MAGLEV)] {
        rows.push((spec.name, tables.indexes()?.len(), spec.max_entries));
    }
    rows.push((abi::maps::METRICS.name, maps.metrics.entries()?.len(), abi::maps::METRICS.max_entries));
    Ok(rows)
}

pub(crate) fn show(client: &Client, name: &str, screen: &mut Screen<'_>) -> Result<(), CliError> {
    let map: BPFMap = client.get(&format!("/map/{}", escape(name)))?;
    screen.show(&map, || {
        let mut table = Table::new(["Key", "Value", "State", "Error"]);
        for entry in &map.cache {
            let state = if entry.desired_action.is_empty() { "ok" } else { &entry.desired_action };
            table.row([entry.key.clone(), entry.value.clone(), state.into(), entry.last_error.clone()]);
        }
        table
    })
}
