//! What Prometheus is told about the kernel's maps and the core's tables.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use abi::metrics::{DIR_EGRESS, DIR_INGRESS, DIR_SERVICE, EVENTS_LOST};
use bpf::sweep::Swept;
use loader::Maps;
use metrics::{Sample, Source};

/// Codes from here on are drops, and so is 2 (reference: drop codes).
const DROP_MIN: u8 = 130;
const INVALID_PACKET: u8 = 2;

/// Counters of the programs, and how full the maps are.
#[derive(Debug)]
pub struct KernelSource {
    maps: Arc<Maps>,
    filled: Filled,
}

impl KernelSource {
    /// Reads these maps, and asks sweeps about those they walk.
    pub fn new(maps: Arc<Maps>, filled: Filled) -> Self {
        Self { maps, filled }
    }
}

/// How full the maps of connections and translations were when they were last swept: they are too long to be walked at
/// each scrape.
#[derive(Clone, Debug, Default)]
pub struct Filled(Arc<Mutex<BTreeMap<&'static str, u64>>>);

impl Filled {
    /// Takes what a sweep found.
    pub fn publish(&self, maps: &Maps, swept: &Swept) {
        let found = [
            (maps.ct4.spec().name, swept.tcp[0]),
            (maps.ct6.spec().name, swept.tcp[1]),
            (maps.ct_any4.spec().name, swept.any[0]),
            (maps.ct_any6.spec().name, swept.any[1]),
            (maps.snat4.spec().name, swept.nat[0]),
            (maps.snat6.spec().name, swept.nat[1]),
        ];
        let mut filled = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        filled.extend(found.into_iter().map(|(name, found)| (name, found.alive)));
    }
    fn of(&self, name: &str) -> Option<usize> {
        let filled = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        filled.get(name).map(|alive| usize::try_from(*alive).unwrap_or(usize::MAX))
    }
}

/// Maps of so many entries go by one name in `cilium_bpf_map_capacity` (reference).
const DEFAULT_CAPACITY: u32 = 65_536;

/// How many entries maps can hold, by the name of the map, or of the group of those with the usual size.
fn capacities(maps: impl IntoIterator<Item = (&'static str, u32)>) -> Vec<Sample> {
    let group = |name: &'static str, max| {
        if max == DEFAULT_CAPACITY { "default" } else { name.trim_start_matches("cilium_") }
    };
    let groups: BTreeMap<&str, u32> = maps.into_iter().map(|(name, max)| (group(name, max), max)).collect();
    let help = "Entries a map can hold; maps of 65536 go by the name default";
    let sample = |(group, max): (&str, u32)| {
        Sample::gauge("cilium_bpf_map_capacity", help, [("map_group", group.to_owned())], f64::from(max))
    };
    groups.into_iter().map(sample).collect()
}

impl Source for KernelSource {
    fn samples(&self) -> Vec<Sample> {
        let mut out = self.maps.metrics.sums().map_or_else(|_| Vec::new(), |sums| packets(&sums));
        out.extend(self.pressure());
        out
    }
}

impl KernelSource {
    /// How full maps are, and how much they hold.
    fn pressure(&self) -> Vec<Sample> {
        let mut out = Vec::new();
        let help = "Share of a map's entries that are in use";
        let mut sizes = Vec::new();
        let mut one = |name: &'static str, used: Option<usize>, max: u32| {
            sizes.push((name, max));
            if let Some(used) = used {
                let labels = [("map_name", name.trim_start_matches("cilium_").to_owned())];
                out.push(Sample::gauge("cilium_bpf_map_pressure", help, labels, used as f64 / f64::from(max.max(1))));
            }
        };
        macro_rules! maps {
            ($($table:ident),*) => { $(
                let table = &self.maps.$table;
                one(table.spec().name, table.entries().ok().map(|all| all.len()), table.max_entries());
            )* };
        }
        maps!(
            lxc,
            devices,
            ipcache,
            policy,
            lb4_services,
            lb6_services,
            lb4_backends,
            lb6_backends,
            lb4_reverse_nat,
            lb6_reverse_nat,
            lb_affinity_match,
            lb4_source_range,
            lb6_source_range
        );
        macro_rules! swept {
            ($($table:ident),*) => { $(
                let table = &self.maps.$table;
                one(table.spec().name, self.filled.of(table.spec().name), table.max_entries());
            )* };
        }
        swept!(ct4, ct6, ct_any4, ct_any6, snat4, snat6);
        out.extend(capacities(sizes));
        out
    }
}

fn direction(dir: u8) -> &'static str {
    match dir {
        DIR_INGRESS => "INGRESS",
        DIR_EGRESS => "EGRESS",
        DIR_SERVICE => "SERVICE",
        _ => "UNKNOWN",
    }
}

/// Sums by reason text and direction: several lines and files of the programs count under one name.
fn packets(sums: &[(abi::metrics::MetricsKey, abi::metrics::MetricsValue)]) -> Vec<Sample> {
    let mut drops: BTreeMap<(String, &'static str), (f64, f64)> = BTreeMap::new();
    let mut forwards: BTreeMap<&'static str, (f64, f64)> = BTreeMap::new();
    // Lost records are no packets; whoever hears the ring reports them.
    for (key, value) in sums.iter().filter(|(key, _)| *key != EVENTS_LOST) {
        let direction = direction(key.dir);
        let sum = if key.reason >= DROP_MIN || key.reason == INVALID_PACKET {
            let reason =
                hubble_model::text::drop_reason(key.reason).map_or_else(|| format!("{}, 0", key.reason), str::to_owned);
            drops.entry((reason, direction)).or_default()
        } else {
            forwards.entry(direction).or_default()
        };
        sum.0 += value.count as f64;
        sum.1 += value.bytes as f64;
    }
    let mut out = Vec::new();
    for ((reason, direction), (count, bytes)) in drops {
        let labels = || [("direction", direction.to_owned()), ("reason", reason.clone())];
        out.push(Sample::counter("cilium_drop_count", "Dropped packets", labels(), count));
        out.push(Sample::counter("cilium_drop_bytes", "Dropped bytes", labels(), bytes));
    }
    for (direction, (count, bytes)) in forwards {
        let labels = || [("direction", direction.to_owned())];
        out.push(Sample::counter("cilium_forward_count", "Forwarded packets", labels(), count));
        out.push(Sample::counter("cilium_forward_bytes", "Forwarded bytes", labels(), bytes));
    }
    out
}

/// Values of the core's tables, left here by the drive loop.
#[derive(Clone, Debug, Default)]
pub struct Gauges(Arc<Mutex<Vec<Sample>>>);

impl Gauges {
    /// Puts new values in place of the old ones.
    pub fn publish(&self, samples: Vec<Sample>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = samples;
    }
}

impl Source for Gauges {
    fn samples(&self) -> Vec<Sample> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[cfg(test)]
mod tests {
    use abi::metrics::{MetricsKey, MetricsValue};

    use super::*;

    #[test]
    fn capacities_are_told_by_group() {
        let found =
            capacities([("cilium_lxc", 65_536), ("cilium_ct4_global", 512), ("cilium_lb4_services_v2", 65_536)]);
        let found: Vec<_> = found.iter().map(|one| (one.labels[0].1.as_str(), one.value)).collect();
        assert_eq!(found, [("ct4_global", 512.0), ("default", 65_536.0)]);
    }

    #[test]
    fn drops_are_told_by_reason_and_forwards_by_direction() {
        let entry = |reason, dir, line, count| {
            (MetricsKey { reason, dir, line, ..MetricsKey::default() }, MetricsValue { count, bytes: 100 * count })
        };
        let lost = (EVENTS_LOST, MetricsValue { count: 99, bytes: 0 });
        let sums = [
            entry(133, 1, 10, 2),
            entry(133, 1, 20, 3),
            entry(0, 2, 0, 7),
            entry(3, 1, 0, 1),
            entry(250, 9, 0, 1),
            lost,
        ];
        let find = |name: &str, labels: &[&str]| {
            let found = packets(&sums).into_iter().find(|sample| {
                sample.name == name && labels.iter().all(|want| sample.labels.iter().any(|(_, have)| have == want))
            });
            found.map(|sample| sample.value)
        };
        assert_eq!(find("cilium_drop_count", &["Policy denied", "INGRESS"]), Some(5.0));
        assert_eq!(find("cilium_drop_bytes", &["Policy denied", "INGRESS"]), Some(500.0));
        assert_eq!(find("cilium_drop_count", &["250, 0", "UNKNOWN"]), Some(1.0));
        assert_eq!(find("cilium_forward_count", &["EGRESS"]), Some(7.0));
        assert_eq!(find("cilium_forward_count", &["INGRESS"]), Some(1.0));
        assert_eq!(find("cilium_forward_count", &["UNKNOWN"]), None, "lost records are no packets");
    }
}
