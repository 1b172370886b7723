//! Maps as the API shows them.

use abi::maps::{ALL, MapKind};
use abi::write::MapWrite;
use api::models::{BPFMap, BPFMapEntry, BPFMapList};
use api::server::Reply;

use super::Rest;

/// Entries of one map that are shown.
const ENTRIES_MAX: usize = 100_000;

pub(super) fn list(rest: &Rest) -> Reply {
    let map = |spec: &abi::maps::MapSpec| BPFMap {
        path: rest.maps.directory().join(spec.name).display().to_string(),
        cache: Vec::new(),
    };
    Reply::ok(&BPFMapList { maps: ALL.iter().map(map).collect() })
}

pub(super) fn one(rest: &Rest, name: &str) -> Reply {
    let Some(spec) = ALL.iter().find(|spec| spec.name == name) else {
        return Reply::error(404, format!("there is no map {name}; GET /map lists them"));
    };
    if spec.kind == MapKind::RingBuf || !MapWrite::MAPS.iter().any(|map| map.name == name) {
        return Reply::error(
            501,
            format!("{name} is written by the programs, not by the agent; read it with cilium bpf"),
        );
    }
    let entries = match bpf::dump(&rest.maps) {
        Ok(entries) => entries,
        Err(why) => return Reply::error(500, why.to_string()),
    };
    let cache = entries.iter().filter(|write| write.map().name == name).take(ENTRIES_MAX).map(entry).collect();
    Reply::ok(&BPFMap { path: rest.maps.directory().join(name).display().to_string(), cache })
}

fn entry(write: &MapWrite) -> BPFMapEntry {
    let (key, value) = match write {
        MapWrite::Ipcache(key, Some(value)) => (
            key.prefix().map_or_else(|| format!("{key:?}"), |(ip, bits)| format!("{ip}/{bits}")),
            format!(
                "identity={} class={} tunnelendpoint={}",
                value.identity,
                value.class,
                std::net::Ipv4Addr::from(value.tunnel_endpoint)
            ),
        ),
        MapWrite::Lxc(key, Some(value)) => (
            key.ip().map_or_else(|| format!("{key:?}"), |ip| ip.to_string()),
            format!(
                "id={} ifindex={} identity={} flags={:#x}",
                value.lxc_id, value.ifindex, value.identity, value.flags
            ),
        ),
        MapWrite::Device(key, Some(value)) => (
            key.to_string(),
            format!("id={} identity={} policy={} flags={:#x}", value.lxc_id, value.identity, value.policy, value.flags),
        ),
        other => {
            let text = format!("{other:?}");
            let inner = text.split_once('(').map_or(text.as_str(), |(_, inner)| inner.trim_end_matches(')'));
            let (key, value) = inner.split_once(", Some(").unwrap_or((inner, ""));
            (key.to_owned(), value.to_owned())
        }
    };
    BPFMapEntry { key, value, desired_action: "ok".into(), last_error: String::new() }
}
