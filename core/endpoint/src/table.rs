//! The table of endpoints and its index of names.
//!
//! Invariant: `index` holds exactly the names of the endpoints in `by_id`, each name once.

use alloc::borrow::Cow;
use alloc::collections::BTreeMap;

use machine::Instant;
use types::{EndpointId, Labels, NumericIdentity, Revision};

use crate::{Change, Code, Config, EndpointName, EndpointSpec, Log, Mover, State};

/// Which policy an endpoint should have and has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PolicyStatus {
    /// Revision of the rules its policy was last computed from.
    pub wanted: Revision,
    /// Revision of the rules that are enforced.
    pub realized: Revision,
}

/// One endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Its number.
    pub id: EndpointId,
    /// What is said about it.
    pub spec: EndpointSpec,
    /// Its identity's labels.
    pub identity_labels: Labels,
    /// Its identity, once it has one.
    pub identity: Option<NumericIdentity>,
    /// Its policy.
    pub policy: PolicyStatus,
    state: State,
    log: Log,
}

/// Why an endpoint cannot be taken up.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InsertRefusal {
    /// Another endpoint has that name.
    #[error("endpoint {by} already has {name}")]
    Taken {
        /// The name.
        name: EndpointName,
        /// Who has it.
        by: EndpointId,
    },
    /// No number is free, or the configured bound is met.
    #[error("there are {max} endpoints, which is the limit")]
    TooMany {
        /// The bound.
        max: usize,
    },
}

/// How an aspect of an endpoint is doing (names of the reference's health model).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum HealthStatus {
    /// `OK`
    Ok,
    /// `Bootstrap`: it was never ready.
    Bootstrap,
    /// `Pending`
    Pending,
    /// `Warning`
    Warning,
    /// `Failure`
    Failure,
    /// `Disabled`
    Disabled,
}

/// Health of an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Health {
    /// The worst of the others.
    pub overall: HealthStatus,
    /// Programs and devices.
    pub bpf: HealthStatus,
    /// Policy.
    pub policy: HealthStatus,
    /// Whether it is connected at all.
    pub connected: bool,
}

impl Endpoint {
    /// Its state.
    pub const fn state(&self) -> State {
        self.state
    }
    /// What happened to it.
    pub const fn log(&self) -> &Log {
        &self.log
    }

    /// Takes a step and logs it. `false`: the table of states does not allow it, and nothing changed. Staying where it
    /// is is logged only when it failed.
    pub fn step(&mut self, now: Instant, to: State, mover: Mover, why: impl Into<Cow<'static, str>>) -> bool {
        if !self.state.may_become(to, mover) {
            return false;
        }
        if self.state != to {
            self.state = to;
            self.log.push(Change { at: now, code: Code::Ok, message: why.into(), state: to });
        }
        true
    }

    /// Logs a failure; the state stays.
    pub fn failed(&mut self, now: Instant, why: impl Into<Cow<'static, str>>) {
        let message = why.into();
        let repeated = self.log.last().is_some_and(|last| last.code == Code::Failed && last.message == message);
        if !repeated {
            self.log.push(Change { at: now, code: Code::Failed, message, state: self.state });
        }
    }

    /// Health, derived from state and the last log entry.
    pub fn health(&self) -> Health {
        let last_failed = self.log.last().is_some_and(|last| last.code == Code::Failed);
        let connected = !matches!(self.state, State::Disconnecting | State::Disconnected | State::Invalid);
        let status = match self.state {
            State::Invalid => HealthStatus::Failure,
            State::Disconnecting | State::Disconnected => HealthStatus::Disabled,
            _ if last_failed => HealthStatus::Warning,
            State::Ready => HealthStatus::Ok,
            State::WaitingForIdentity => HealthStatus::Bootstrap,
            State::WaitingToRegenerate | State::Regenerating | State::Restoring => HealthStatus::Pending,
        };
        Health { overall: status, bpf: status, policy: status, connected }
    }
}

/// All endpoints of a node.
#[derive(Debug, Clone)]
pub struct Endpoints {
    by_id: BTreeMap<EndpointId, Endpoint>,
    index: BTreeMap<EndpointName, EndpointId>,
    next: u16,
    config: Config,
}

impl Endpoints {
    /// None yet.
    pub const fn new(config: Config) -> Self {
        Self { by_id: BTreeMap::new(), index: BTreeMap::new(), next: 1, config }
    }

    /// Takes up a new endpoint under `id`, or under the next free number.
    pub fn insert(
        &mut self,
        now: Instant,
        id: Option<EndpointId>,
        spec: EndpointSpec,
        identity_labels: Labels,
        state: State,
        why: &'static str,
    ) -> Result<EndpointId, InsertRefusal> {
        debug_assert!(state.may_begin(), "{state} is no state to begin in");
        let names = spec.names();
        for name in &names {
            if let Some(by) = self.index.get(name) {
                return Err(InsertRefusal::Taken { name: name.clone(), by: *by });
            }
        }
        let id = match id {
            Some(id) if self.by_id.contains_key(&id) => {
                return Err(InsertRefusal::Taken { name: EndpointName::Id(id), by: id });
            }
            Some(id) => id,
            None => self.free_id().ok_or(InsertRefusal::TooMany { max: self.config.endpoints_max })?,
        };
        if self.by_id.len() >= self.config.endpoints_max {
            return Err(InsertRefusal::TooMany { max: self.config.endpoints_max });
        }
        let mut log = Log::new(self.config.log_max);
        log.push(Change { at: now, code: Code::Ok, message: why.into(), state });
        self.index.extend(names.into_iter().map(|name| (name, id)));
        let policy = PolicyStatus::default();
        self.by_id.insert(id, Endpoint { id, spec, identity_labels, identity: None, policy, state, log });
        Ok(id)
    }

    fn free_id(&mut self) -> Option<EndpointId> {
        let from = |start: u16| (start..=u16::MAX).filter_map(EndpointId::new).find(|id| !self.by_id.contains_key(id));
        let id = from(self.next).or_else(|| from(1))?;
        self.next = id.as_u16().checked_add(1).unwrap_or(1);
        Some(id)
    }

    /// Forgets an endpoint.
    pub fn remove(&mut self, id: EndpointId) -> Option<Endpoint> {
        let endpoint = self.by_id.remove(&id)?;
        for name in endpoint.spec.names() {
            self.index.remove(&name);
        }
        Some(endpoint)
    }

    /// The endpoint of that number.
    pub fn by_id(&self, id: EndpointId) -> Option<&Endpoint> {
        self.by_id.get(&id)
    }

    /// The endpoint of that number, to change. Names must stay as they are.
    pub fn by_id_mut(&mut self, id: EndpointId) -> Option<&mut Endpoint> {
        self.by_id.get_mut(&id)
    }

    /// The endpoint a name leads to.
    pub fn find(&self, name: &EndpointName) -> Option<&Endpoint> {
        match name {
            EndpointName::Id(id) => self.by_id.get(id),
            EndpointName::ContainerId(container) => self.iter().find(|endpoint| is_of_container(endpoint, container)),
            EndpointName::Pod(pod) => {
                self.iter().find(|endpoint| endpoint.spec.pod_name().is_some_and(|have| have == *pod))
            }
            _ => self.by_id.get(self.index.get(name)?),
        }
    }

    /// The endpoints of one container.
    pub fn of_container(&self, container: &str) -> impl Iterator<Item = &Endpoint> {
        self.iter().filter(move |endpoint| is_of_container(endpoint, container))
    }

    /// All, ordered by number.
    pub fn iter(&self) -> impl Iterator<Item = &Endpoint> {
        self.by_id.values()
    }

    /// All, to change. Names must stay as they are.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Endpoint> {
        self.by_id.values_mut()
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }
}

fn is_of_container(endpoint: &Endpoint, container: &str) -> bool {
    endpoint.spec.attachment.as_ref().is_some_and(|attachment| &*attachment.container_id == container)
}
