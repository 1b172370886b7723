//! What the core says happened, told to logs, metrics, Hubble, the status and whoever waits for the first realization.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use agent_core::AgentEvent;
use hubble_api::flow;
use hubble_server::Observer;
use metrics::{Metrics, Outcome};
use tokio::sync::watch;
use types::{EndpointId, Revision};

use crate::status::Status;

/// Tells everybody. Never blocks.
#[derive(Debug)]
pub struct News {
    metrics: Arc<Metrics>,
    status: Arc<Status>,
    observer: Option<Observer>,
    realized: watch::Sender<Option<Revision>>,
    /// Whether tables that readers see have changed since they were last published.
    pub stale: Arc<AtomicBool>,
    /// When each endpoint that is not as wanted began to be so.
    waiting: BTreeMap<EndpointId, Instant>,
    /// When the first policy change began that is not enforced everywhere yet.
    changed: Option<Instant>,
    /// When each service's change was decided that is not in the kernel yet.
    changing: BTreeMap<lb::ServiceId, Instant>,
}

impl News {
    /// Nobody has been told anything yet.
    pub fn new(metrics: Arc<Metrics>, status: Arc<Status>, observer: Option<Observer>) -> Self {
        Self {
            metrics,
            status,
            observer,
            realized: watch::Sender::new(None),
            stale: Arc::new(AtomicBool::new(true)),
            waiting: BTreeMap::new(),
            changed: None,
            changing: BTreeMap::new(),
        }
    }

    /// The latest revision of which everything wanted is in the kernel.
    pub fn realized(&self) -> watch::Receiver<Option<Revision>> {
        self.realized.subscribe()
    }

    /// Tells one event.
    pub fn tell(&mut self, event: AgentEvent) {
        self.log(&event);
        self.count(&event);
        self.publish(&event);
        self.stale.store(true, Ordering::Relaxed);
        match event {
            AgentEvent::Realized(revision) => {
                self.status.realized();
                self.realized.send_replace(Some(revision));
            }
            AgentEvent::PolicyFileRefused { path, why } => self.status.policy_file_refused(&path, &why),
            AgentEvent::StateFileUnusable { file, why, consequence } => {
                self.status.warning(format!("state file {}: {why}; {consequence}", file.path()));
            }
            AgentEvent::MapFull { map, max } => self.status.map_full(map, max),
            AgentEvent::Warning(text) => self.status.warning(text),
            _ => {}
        }
    }

    fn log(&self, event: &AgentEvent) {
        match event {
            AgentEvent::EndpointCreated(id) => tracing::info!(endpoint = %id, "endpoint created"),
            AgentEvent::EndpointRegenerated(id, revision) => {
                tracing::debug!(endpoint = %id, revision = revision.0, "policy enforced");
            }
            AgentEvent::EndpointFailed(id, why) => tracing::error!(endpoint = %id, %why, "endpoint not as wanted"),
            AgentEvent::EndpointDeleted(id) => tracing::info!(endpoint = %id, "endpoint deleted"),
            AgentEvent::EndpointIdentity(id, identity) => {
                tracing::info!(endpoint = %id, identity = identity.as_u32(), "identity changed");
            }
            AgentEvent::IpcacheChanged(prefix, identity) => {
                tracing::debug!(%prefix, identity = identity.map(|identity| identity.as_u32()), "prefix changed");
            }
            AgentEvent::PolicyUpdated { revision, rules } => {
                tracing::info!(revision = revision.0, rules, "policy changed");
            }
            AgentEvent::Realized(revision) => tracing::debug!(revision = revision.0, "all is in the kernel"),
            AgentEvent::ServiceCreated(id) | AgentEvent::ServiceUpdated(id) => {
                tracing::debug!(service = %id, "service written");
            }
            AgentEvent::ServiceDeleted(id) => tracing::debug!(service = %id, "service removed"),
            AgentEvent::ServicesChanging(ids) => tracing::trace!(count = ids.len(), "services are written"),
            AgentEvent::PolicyFileRefused { path, why } => {
                tracing::error!(file = %path, why, "policy file not taken up; what it last said stays in force");
            }
            AgentEvent::ServiceFileRefused { path, why } => {
                tracing::error!(file = %path, why, "file of services not taken up whole");
            }
            AgentEvent::ServiceProblem(problem) => {
                let (object, field, why) = (&problem.object, &problem.field, &problem.why);
                tracing::warn!(%object, field, why, "part of an object does not count");
            }
            AgentEvent::StateFileUnusable { file, why, consequence } => {
                tracing::error!(file = %file.path(), why, consequence, "state file not usable");
            }
            AgentEvent::WriteFailed { map, kind } => tracing::error!(map, %kind, "map not written; it is tried again"),
            AgentEvent::MapFull { map, max } => tracing::error!(map, max, "map has no room"),
            AgentEvent::Warning(text) => tracing::warn!("{text}"),
        }
    }

    fn count(&mut self, event: &AgentEvent) {
        match event {
            AgentEvent::EndpointCreated(id) | AgentEvent::EndpointIdentity(id, _) => {
                self.waiting.entry(*id).or_insert_with(Instant::now);
            }
            AgentEvent::EndpointDeleted(id) => drop(self.waiting.remove(id)),
            AgentEvent::EndpointRegenerated(id, _) => self.regenerated(*id, Outcome::Success),
            AgentEvent::EndpointFailed(id, _) => self.regenerated(*id, Outcome::Fail),
            AgentEvent::PolicyUpdated { .. } => {
                self.metrics.policy_changed(Outcome::Success);
                self.changed.get_or_insert_with(Instant::now);
            }
            AgentEvent::Realized(_) => {
                if let Some(changed) = self.changed.take() {
                    self.metrics.policy_enforced(changed.elapsed());
                }
            }
            AgentEvent::PolicyFileRefused { .. } => self.metrics.policy_changed(Outcome::Fail),
            AgentEvent::ServicesChanging(ids) => {
                let now = Instant::now();
                for id in ids {
                    self.changing.entry(*id).or_insert(now);
                }
            }
            AgentEvent::ServiceCreated(id) => self.service(*id, "add"),
            AgentEvent::ServiceUpdated(id) => self.service(*id, "update"),
            AgentEvent::ServiceDeleted(id) => self.service(*id, "delete"),
            _ => {}
        }
    }

    fn service(&mut self, id: lb::ServiceId, action: &'static str) {
        self.metrics.service(action);
        if let Some(began) = self.changing.remove(&id) {
            let action = if action == "delete" { "service-deleted" } else { "service-updated" };
            self.metrics.service_implemented(action, began.elapsed());
        }
    }

    /// The time counts from what made it necessary: the endpoint's own change, or that of the policy.
    fn regenerated(&mut self, id: EndpointId, outcome: Outcome) {
        let began = self.waiting.remove(&id).or(self.changed).unwrap_or_else(Instant::now);
        self.metrics.regenerated(outcome, began.elapsed());
    }

    fn publish(&self, event: &AgentEvent) {
        let Some(observer) = &self.observer else { return };
        if let Some(event) = for_hubble(event) {
            observer.publish_agent_event(event);
        }
    }
}

fn for_hubble(event: &AgentEvent) -> Option<flow::AgentEvent> {
    use flow::AgentEventType as Type;
    use flow::agent_event::Notification;
    let update = |id: &EndpointId| {
        Notification::EndpointUpdate(flow::EndpointUpdateNotification { id: id.as_u16().into(), ..Default::default() })
    };
    let regenerated = |id: &EndpointId, error: String| {
        let id = id.as_u16().into();
        Notification::EndpointRegenerate(flow::EndpointRegenNotification { id, error, ..Default::default() })
    };
    let (kind, notification) = match event {
        AgentEvent::EndpointCreated(id) => (Type::EndpointCreated, update(id)),
        AgentEvent::EndpointDeleted(id) => (Type::EndpointDeleted, update(id)),
        AgentEvent::EndpointRegenerated(id, _) => (Type::EndpointRegenerateSuccess, regenerated(id, String::new())),
        AgentEvent::EndpointFailed(id, why) => (Type::EndpointRegenerateFailure, regenerated(id, why.to_string())),
        AgentEvent::PolicyUpdated { revision, rules } => {
            let rule_count = i64::try_from(*rules).unwrap_or(i64::MAX);
            let update = flow::PolicyUpdateNotification { revision: revision.0, rule_count, labels: Vec::new() };
            (Type::PolicyUpdated, Notification::PolicyUpdate(update))
        }
        AgentEvent::IpcacheChanged(prefix, identity) => {
            let kind = if identity.is_some() { Type::IpcacheUpserted } else { Type::IpcacheDeleted };
            let identity = identity.map_or(0, |identity| identity.as_u32());
            let cidr = prefix.to_string();
            (kind, Notification::IpcacheUpdate(flow::IpCacheNotification { cidr, identity, ..Default::default() }))
        }
        _ => return None,
    };
    Some(flow::AgentEvent { r#type: kind.into(), notification: Some(notification) })
}
