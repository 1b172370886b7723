//! Which nodes there are and how they are connected: the decisions, without the network.
//!
//! Nodes are learnt from a peer service. While that is away, those known stay; when it is back, those it no longer names
//! go after a while. Each node has one connection, which is made as soon as the node is known and made again, with
//! growing pauses, whenever it fails. Every connection has a number, so that late news of an old one means nothing.

use hubble_transport::{Address, AddressError};
use machine::{Effects, Instant, Machine, Rng};
use std::{collections::BTreeMap, sync::Arc, time::Duration};

/// Port of a node's server when an address has none.
const NODE_PORT: u16 = 4244;
/// The first pause before connecting again.
const RETRY_FIRST: Duration = Duration::from_millis(250);
/// How long a peer service that is back may take to name its nodes.
const ANNOUNCED_WITHIN: Duration = Duration::from_secs(5);

/// A node as the peer service names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Its name, with the cluster unless that is `default`.
    pub name: String,
    /// Where its server is, as announced.
    pub address: String,
    /// The name its certificate must carry; none when it serves without TLS.
    pub server_name: Option<String>,
}

/// Settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    /// The longest pause before connecting again (`--retry-timeout`).
    pub retry_max: Duration,
    /// Nodes known at most; further ones are refused.
    pub peers_max: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self { retry_max: Duration::from_secs(30), peers_max: 10_000 }
    }
}

/// Number of a connection. No two have the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ConnectionId(pub u64);

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// The peer service answers.
    ServiceOpened,
    /// The peer service cannot be reached, or no longer.
    ServiceClosed(Arc<str>),
    /// A node is there, or is at another address.
    Announced(Peer),
    /// A node is gone.
    Withdrawn(String),
    /// A connection is ready for requests.
    Connected(ConnectionId),
    /// A connection failed or was lost.
    Lost(ConnectionId, Arc<str>),
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Reach for the peer service.
    OpenService,
    /// Connect to a node.
    Connect(ConnectionId, Peer, Address),
    /// Close a connection, or stop connecting.
    Close(ConnectionId),
    /// A node was refused.
    Refused(Peer, Refusal),
}

/// Why a node is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// There are too many.
    #[error("{0} nodes are known already")]
    TooMany(usize),
    /// It has no name.
    #[error("it has no name")]
    Nameless,
}

/// How a node is connected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Link {
    /// Its address says nothing.
    NoAddress(AddressError),
    /// On the way.
    Connecting(ConnectionId),
    /// Ready.
    Ready(ConnectionId),
    /// Failed; to be tried again.
    Failed {
        /// When.
        retry_at: Instant,
        /// Why it failed.
        why: Arc<str>,
    },
}

impl Link {
    fn connection(&self) -> Option<ConnectionId> {
        match self {
            Self::Connecting(id) | Self::Ready(id) => Some(*id),
            Self::NoAddress(_) | Self::Failed { .. } => None,
        }
    }
}

/// A node and its connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    /// As announced.
    pub peer: Peer,
    /// Its connection.
    pub link: Link,
    /// Failures in a row.
    failures: u32,
    /// Whether the peer service named it since it was last opened.
    named: bool,
}

/// How the peer service is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Service {
    Closed { retry_at: Instant },
    Opening,
    Open,
}

/// All nodes. Every node that has an address is connected, connecting, or waiting to be tried again.
#[derive(Debug)]
pub struct Peers {
    config: Config,
    rng: Rng,
    service: Service,
    service_failures: u32,
    /// When nodes that were not named again go.
    prune_at: Option<Instant>,
    known: BTreeMap<String, Known>,
    last_connection: u64,
}

impl Peers {
    /// Knows nobody. `rng` spreads the pauses.
    pub fn new(config: Config, rng: Rng) -> Self {
        Self {
            config,
            rng,
            service: Service::Closed { retry_at: Instant::ZERO },
            service_failures: 0,
            prune_at: None,
            known: BTreeMap::new(),
            last_connection: 0,
        }
    }

    /// All nodes by name.
    pub fn known(&self) -> impl Iterator<Item = &Known> {
        self.known.values()
    }

    /// True while the peer service answers.
    pub fn service_is_open(&self) -> bool {
        self.service == Service::Open
    }

    /// A pause that doubles with each failure, less up to a quarter.
    fn pause(&mut self, failures: u32) -> Duration {
        let doubled = RETRY_FIRST.saturating_mul(1 << failures.min(16));
        let longest = doubled.min(self.config.retry_max);
        let quarter_ns = u64::try_from(longest.as_nanos() / 4).unwrap_or(u64::MAX);
        longest - Duration::from_nanos(if quarter_ns == 0 { 0 } else { self.rng.below(quarter_ns) })
    }

    fn connect(last: &mut u64, known: &mut Known, fx: &mut Effects<Effect>) {
        known.link = match Address::parse(&known.peer.address, NODE_PORT) {
            Err(why) => Link::NoAddress(why),
            Ok(address) => {
                *last += 1;
                let id = ConnectionId(*last);
                fx.push(Effect::Connect(id, known.peer.clone(), address));
                Link::Connecting(id)
            }
        };
    }

    fn close(known: &Known, fx: &mut Effects<Effect>) {
        if let Some(id) = known.link.connection() {
            fx.push(Effect::Close(id));
        }
    }

    fn announced(&mut self, peer: Peer, fx: &mut Effects<Effect>) {
        if let Some(known) = self.known.get_mut(&peer.name) {
            known.named = true;
            if known.peer != peer {
                Self::close(known, fx);
                known.peer = peer;
                known.failures = 0;
                Self::connect(&mut self.last_connection, known, fx);
            }
            return;
        }
        if peer.name.is_empty() {
            return fx.push(Effect::Refused(peer, Refusal::Nameless));
        }
        if self.known.len() >= self.config.peers_max {
            return fx.push(Effect::Refused(peer, Refusal::TooMany(self.known.len())));
        }
        let link = Link::Failed { retry_at: Instant::ZERO, why: "".into() };
        let mut known = Known { peer, link, failures: 0, named: true };
        Self::connect(&mut self.last_connection, &mut known, fx);
        self.known.insert(known.peer.name.clone(), known);
    }

    fn lost(&mut self, now: Instant, id: ConnectionId, why: Arc<str>) {
        let Some(name) = self.name_of(id) else { return };
        let failures = self.known[&name].failures;
        let retry_at = now + self.pause(failures);
        let known = self.known.get_mut(&name).expect("it was just found");
        known.failures = failures.saturating_add(1);
        known.link = Link::Failed { retry_at, why };
    }

    fn name_of(&self, id: ConnectionId) -> Option<String> {
        let found = self.known.iter().find(|(_, known)| known.link.connection() == Some(id));
        found.map(|(name, _)| name.clone())
    }
}

impl Machine for Peers {
    type Input = Input;
    type Effect = Effect;

    fn handle(&mut self, now: Instant, input: Input, fx: &mut Effects<Effect>) {
        match input {
            Input::ServiceOpened => {
                self.service = Service::Open;
                self.service_failures = 0;
                self.known.values_mut().for_each(|known| known.named = false);
                self.prune_at = Some(now + ANNOUNCED_WITHIN);
            }
            Input::ServiceClosed(_) => {
                let retry_at = now + self.pause(self.service_failures);
                self.service_failures = self.service_failures.saturating_add(1);
                self.service = Service::Closed { retry_at };
                self.prune_at = None;
            }
            Input::Announced(peer) => self.announced(peer, fx),
            Input::Withdrawn(name) => {
                if let Some(known) = self.known.remove(&name) {
                    Self::close(&known, fx);
                }
            }
            Input::Connected(id) => {
                if let Some(known) = self.name_of(id).and_then(|name| self.known.get_mut(&name)) {
                    known.link = Link::Ready(id);
                    known.failures = 0;
                }
            }
            Input::Lost(id, why) => self.lost(now, id, why),
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        let service = match self.service {
            Service::Closed { retry_at } => Some(retry_at),
            Service::Opening | Service::Open => None,
        };
        let links = self.known.values().filter_map(|known| match known.link {
            Link::Failed { retry_at, .. } => Some(retry_at),
            _ => None,
        });
        links.chain(service).chain(self.prune_at).min()
    }

    fn on_deadline(&mut self, now: Instant, fx: &mut Effects<Effect>) {
        if matches!(self.service, Service::Closed { retry_at } if retry_at <= now) {
            self.service = Service::Opening;
            fx.push(Effect::OpenService);
        }
        if self.prune_at.is_some_and(|at| at <= now) {
            self.prune_at = None;
            for (_, known) in self.known.extract_if(.., |_, known| !known.named) {
                Self::close(&known, fx);
            }
        }
        for known in self.known.values_mut() {
            if matches!(known.link, Link::Failed { retry_at, .. } if retry_at <= now) {
                Self::connect(&mut self.last_connection, known, fx);
            }
        }
    }
}

#[cfg(test)]
mod tests;
