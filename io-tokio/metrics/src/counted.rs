//! What is counted where it happens.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::{Family, MetricConstructor};
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::process::Process;
use crate::scraped::{Scraped, Source};

/// Default buckets of Prometheus.
const BUCKETS: [f64; 11] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

#[derive(Clone, Copy, Debug)]
struct Timed;
impl MetricConstructor<Histogram> for Timed {
    fn new_metric(&self) -> Histogram {
        Histogram::new(BUCKETS)
    }
}
type Times<L> = Family<L, Histogram, Timed>;
fn times<L: Clone + std::hash::Hash + Eq>() -> Times<L> {
    Family::new_with_constructor(Timed)
}

/// How something ended (label values of the reference).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// `success`
    Success,
    /// `fail`
    Fail,
}

impl EncodeLabelValue for Outcome {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), std::fmt::Error> {
        let name = match self {
            Self::Success => "success",
            Self::Fail => "fail",
        };
        EncodeLabelValue::encode(&name, encoder)
    }
}

impl<T, E> From<&Result<T, E>> for Outcome {
    fn from(result: &Result<T, E>) -> Self {
        if result.is_ok() { Self::Success } else { Self::Fail }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByOutcome {
    outcome: Outcome,
}
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct BySource {
    source: &'static str,
}
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByScope {
    scope: &'static str,
    status: Outcome,
}
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByScopeOutcome {
    scope: &'static str,
    outcome: Outcome,
}
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct MapOperation {
    map_name: String,
    operation: &'static str,
    outcome: Outcome,
}
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Calls {
    method: String,
    path: String,
    return_code: u16,
}
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StoreOperation {
    action: &'static str,
    kind: &'static str,
    outcome: Outcome,
    scope: &'static str,
}
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Allocation {
    action: &'static str,
    family: &'static str,
}
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByAction {
    action: &'static str,
}
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByFamily {
    family: &'static str,
}
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Collection {
    family: &'static str,
    protocol: &'static str,
    status: &'static str,
}
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Lost {
    source: &'static str,
}
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Version {
    version: &'static str,
    revision: &'static str,
    arch: &'static str,
}

/// One API request that was answered.
#[derive(Clone, Copy, Debug)]
pub struct ApiCall<'a> {
    /// Method.
    pub method: &'a str,
    /// Route, without the values in it.
    pub path: &'a str,
    /// Status.
    pub status: u16,
    /// Time taken.
    pub took: Duration,
}

/// All metrics of one agent. Cheap to share behind an [`Arc`].
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    regenerations: Family<ByOutcome, Counter>,
    regeneration_times: Times<ByScope>,
    policy_changes: Family<ByOutcome, Counter>,
    policy_regenerations: Counter,
    policy_delay: Times<BySource>,
    map_operations: Family<MapOperation, Counter>,
    api: Times<Calls>,
    store: Times<StoreOperation>,
    allocations: Family<Allocation, Counter>,
    collections: Family<Collection, Counter>,
    collection_times: Times<Collection>,
    collected: Family<Collection, Gauge>,
    translations: Family<Collection, Gauge>,
    bootstrap: Times<ByScopeOutcome>,
    busiest: Family<ByFamily, Gauge<f64, AtomicU64>>,
    services: Family<ByAction, Counter>,
    service_delay: Times<ByAction>,
    lost: Family<Lost, Counter>,
}

impl Metrics {
    /// Registers everything, and the sources to ask at each scrape.
    pub fn new(version: &'static str, sources: Vec<Arc<dyn Source>>) -> Self {
        let mut metrics = Self {
            registry: Registry::default(),
            regenerations: Family::default(),
            regeneration_times: times(),
            policy_changes: Family::default(),
            policy_regenerations: Counter::default(),
            policy_delay: times(),
            map_operations: Family::default(),
            api: times(),
            store: times(),
            allocations: Family::default(),
            collections: Family::default(),
            collection_times: times(),
            collected: Family::default(),
            translations: Family::default(),
            bootstrap: times(),
            busiest: Family::default(),
            services: Family::default(),
            service_delay: times(),
            lost: Family::default(),
        };
        metrics.register(version);
        for source in sources {
            metrics.registry.register_collector(Box::new(Scraped(source)));
        }
        metrics.registry.register_collector(Box::new(Process));
        metrics
    }

    fn register(&mut self, version: &'static str) {
        let info: Family<Version, Gauge> = Family::default();
        info.get_or_create(&Version { version, revision: "", arch: std::env::consts::ARCH }).set(1);
        let Self { registry, .. } = self;
        let cilium = registry.sub_registry_with_prefix("cilium");
        cilium.register("version", "Version of the agent", info);
        cilium.register("endpoint_regenerations", "Endpoint regenerations that ended", self.regenerations.clone());
        cilium.register(
            "endpoint_regeneration_time_stats_seconds",
            "Time of endpoint regenerations by stage",
            self.regeneration_times.clone(),
        );
        cilium.register("policy_change", "Policy changes by outcome", self.policy_changes.clone());
        cilium.register("policy_regeneration", "Policies computed anew", self.policy_regenerations.clone());
        cilium.register(
            "policy_implementation_delay",
            "Time from a policy change to its enforcement",
            self.policy_delay.clone(),
        );
        cilium.register("bpf_map_ops", "Operations on maps", self.map_operations.clone());
        cilium.register("agent_api_process_time_seconds", "Time of API calls", self.api.clone());
        cilium.register(
            "kvstore_operations_duration_seconds",
            "Time of key-value-store operations",
            self.store.clone(),
        );
        cilium.register("ipam_events", "Addresses lent and taken back", self.allocations.clone());
        cilium.register("datapath_conntrack_gc_runs", "Sweeps of the connection table", self.collections.clone());
        cilium.register(
            "datapath_conntrack_gc_duration_seconds",
            "Time of sweeps of the connection table",
            self.collection_times.clone(),
        );
        cilium.register(
            "datapath_conntrack_gc_entries",
            "Connections found alive and deleted by the last sweep",
            self.collected.clone(),
        );
        cilium.register(
            "datapath_nat_gc_entries",
            "Translations found alive and deleted by the last sweep",
            self.translations.clone(),
        );
        cilium.register("agent_bootstrap_seconds", "Time of the parts of a start", self.bootstrap.clone());
        cilium.register(
            "nat_endpoint_max_connection",
            "Share of the ports for source NAT in use towards the far end that uses most of them, as the last sweep found it",
            self.busiest.clone(),
        );
        cilium.register("services_events", "Services changed", self.services.clone());
        cilium.register(
            "service_implementation_delay",
            "Time from a service's change to its last write, in seconds",
            self.service_delay.clone(),
        );
        let hubble = registry.sub_registry_with_prefix("hubble");
        hubble.register("lost_events", "Events that were lost", self.lost.clone());
    }

    /// An endpoint was regenerated, or could not be.
    pub fn regenerated(&self, outcome: Outcome, took: Duration) {
        self.regenerations.get_or_create(&ByOutcome { outcome }).inc();
        self.regeneration_times.get_or_create(&ByScope { scope: "total", status: outcome }).observe(took.as_secs_f64());
    }
    /// A policy was taken or refused.
    pub fn policy_changed(&self, outcome: Outcome) {
        self.policy_changes.get_or_create(&ByOutcome { outcome }).inc();
    }
    /// A policy change is enforced.
    pub fn policy_enforced(&self, took: Duration) {
        self.policy_regenerations.inc();
        self.policy_delay.get_or_create(&BySource { source: "agent" }).observe(took.as_secs_f64());
    }
    /// Operations on a map: `update`, `delete`, `lookup`.
    pub fn map_operations(&self, map: &str, operation: &'static str, outcome: Outcome, count: u64) {
        self.map_operations.get_or_create(&MapOperation { map_name: map.into(), operation, outcome }).inc_by(count);
    }
    /// An API call was answered.
    pub fn api_call(&self, call: ApiCall<'_>) {
        let labels = Calls { method: call.method.into(), path: call.path.into(), return_code: call.status };
        self.api.get_or_create(&labels).observe(call.took.as_secs_f64());
    }
    /// A key-value-store operation ended. `action` is the reference's: `create`, `get`, `list`, `delete`, `set`.
    pub fn store_operation(&self, action: &'static str, scope: &'static str, outcome: Outcome, took: Duration) {
        let kind = if matches!(action, "get" | "list") { "read" } else { "write" };
        self.store.get_or_create(&StoreOperation { action, kind, outcome, scope }).observe(took.as_secs_f64());
    }
    /// An address was lent (`allocate`) or taken back (`release`); `family` is `ipv4` or `ipv6`.
    pub fn address(&self, action: &'static str, family: &'static str) {
        self.allocations.get_or_create(&Allocation { action, family }).inc();
    }
    /// A service changed: `add`, `update`, `delete`.
    pub fn service(&self, action: &'static str) {
        self.services.get_or_create(&ByAction { action }).inc();
    }
    /// A change of a service is in the kernel: `service-updated` or `service-deleted`.
    pub fn service_implemented(&self, action: &'static str, took: Duration) {
        self.service_delay.get_or_create(&ByAction { action }).observe(took.as_secs_f64());
    }
    /// The share of the ports for source NAT in use towards one far end, the most used one.
    pub fn busiest_translation(&self, family: &'static str, share: f64) {
        self.busiest.get_or_create(&ByFamily { family }).set(share);
    }
    /// A sweep of one connection table ended.
    pub fn swept(
        &self,
        family: &'static str,
        protocol: &'static str,
        outcome: Outcome,
        entries: (u64, u64),
        took: Duration,
    ) {
        let status = if outcome == Outcome::Success { "completed" } else { "uncompleted" };
        let labels = |status| Collection { family, protocol, status };
        self.collections.get_or_create(&labels(status)).inc();
        self.collection_times.get_or_create(&labels(status)).observe(took.as_secs_f64());
        let gauge = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        self.collected.get_or_create(&labels("alive")).set(gauge(entries.0));
        self.collected.get_or_create(&labels("deleted")).set(gauge(entries.1));
    }
    /// The sweep of one family's translations ended with this many alive and deleted.
    pub fn translations_swept(&self, family: &'static str, entries: (u64, u64)) {
        let labels = |status| Collection { family, protocol: "all", status };
        let gauge = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        self.translations.get_or_create(&labels("alive")).set(gauge(entries.0));
        self.translations.get_or_create(&labels("deleted")).set(gauge(entries.1));
    }
    /// A part of the start is done.
    pub fn bootstrapped(&self, scope: &'static str, outcome: Outcome, took: Duration) {
        self.bootstrap.get_or_create(&ByScopeOutcome { scope, outcome }).observe(took.as_secs_f64());
    }
    /// Events were lost: `perf_event_ring_buffer`, `observer_events_queue` or `hubble_ring_buffer`.
    pub fn lost_events(&self, source: &'static str, count: u64) {
        self.lost.get_or_create(&Lost { source }).inc_by(count);
    }

    /// Everything as OpenMetrics text.
    pub fn render(&self) -> String {
        let mut text = String::new();
        match prometheus_client::encoding::text::encode(&mut text, &self.registry) {
            Ok(()) => text,
            // Writing to a string cannot fail; a source that fails must not take the rest with it.
            Err(std::fmt::Error) => format!("{text}# EOF\n"),
        }
    }
}
