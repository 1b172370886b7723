//! What must never happen, said in the cluster's objects.

use std::net::IpAddr;

use crate::frame::{Malformed, Seen};
use crate::objects::{Direction, Labels, Objects, Peer};

/// Something that must never happen has happened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// One address was given out twice.
    #[error("address {addr} was given to {second} while {first} holds it")]
    AddressTwice {
        /// The address.
        addr: IpAddr,
        /// Who has it.
        first: String,
        /// Who got it too.
        second: String,
    },
    /// One identity number stood for two label sets.
    #[error("identity {number} stands for '{first}' and for '{second}'")]
    IdentityTwice {
        /// The number.
        number: String,
        /// One label set.
        first: String,
        /// The other.
        second: String,
    },
    /// A packet passed that no state of the objects since the node was last settled allows.
    #[error("{what:?} passed {direction:?} at {pod}, which neither the old nor the new rules allow ({states} states)")]
    PassedForbidden {
        /// The packet, as it left its sender.
        what: Seen,
        /// At whose side.
        pod: String,
        /// In which direction.
        direction: Direction,
        /// How many states of the objects were considered.
        states: usize,
    },
    /// A packet was delivered to somebody who should not have got it.
    #[error("{what:?} was delivered to {to}")]
    Misdelivered {
        /// The packet as it left its sender.
        what: Seen,
        /// Who got it.
        to: String,
    },
    /// A packet was delivered that its sender cannot have sent.
    #[error("{what:?} arrived broken: {how}")]
    Broken {
        /// The packet as it left its sender.
        what: Seen,
        /// How.
        how: Malformed,
    },
    /// A reply did not come from whom the client had asked.
    #[error("the reply to {asked:?} came as {came:?}")]
    WrongReply {
        /// What was asked.
        asked: Seen,
        /// What came.
        came: Seen,
    },
    /// A reply of an established connection did not arrive.
    #[error("the reply to {asked:?} did not arrive: {fate}")]
    NoReply {
        /// What was asked.
        asked: Seen,
        /// What became of the reply.
        fate: String,
    },
    /// After everything healed, something is not as the objects say.
    #[error("healed, but {what:?} between {from} and {to}: allowed is {allowed}, and it was {fate}")]
    NotConverged {
        /// The packet.
        what: Seen,
        /// Its sender.
        from: String,
        /// Whom it was for.
        to: String,
        /// What the objects say.
        allowed: bool,
        /// What became of it.
        fate: String,
    },
    /// After everything healed, something still waits.
    #[error("healed, but {0}")]
    NotSettled(String),
}

/// The states of the objects a node may be in: all since it was last settled, the newest last.
#[derive(Debug, Clone)]
pub(crate) struct Window {
    states: Vec<Objects>,
}

impl Window {
    pub(crate) fn new(now: Objects) -> Self {
        Self { states: vec![now] }
    }
    /// The objects have changed.
    pub(crate) fn changed(&mut self, now: &Objects) {
        if self.states.last() != Some(now) {
            self.states.push(now.clone());
        }
    }
    /// The node has caught up.
    pub(crate) fn settled(&mut self) {
        let newest = self.states.len() - 1;
        self.states.drain(..newest);
    }
    pub(crate) fn len(&self) -> usize {
        self.states.len()
    }

    /// Label sets of whoever had this address, and whether it was somebody's all the time.
    pub(crate) fn owners(&self, addr: IpAddr) -> (Vec<&Labels>, bool) {
        let owners: Vec<_> = self.states.iter().map(|state| state.owner(addr)).collect();
        let always = owners.iter().all(Option::is_some);
        (owners.into_iter().flatten().map(|(_, pod)| &pod.labels).collect(), always)
    }

    /// Label sets a pod has had.
    pub(crate) fn labels(&self, pod: &str) -> Vec<&Labels> {
        let mut all: Vec<&Labels> = Vec::new();
        for labels in self.states.iter().filter_map(|state| state.pods.get(pod)).map(|pod| &pod.labels) {
            if !all.contains(&labels) {
                all.push(labels);
            }
        }
        all
    }

    /// Whether some mixture of policies and labels that users have asked for allows it.
    ///
    /// Policies and labels reach a node by different ways, so any policies may meet any labels of the window; what may
    /// not be met is half a change.
    pub(crate) fn may_pass(
        &self,
        pod: &str,
        direction: Direction,
        peers: &[Peer<'_>],
        protocol: &str,
        port: u16,
    ) -> bool {
        let subjects = self.labels(pod);
        self.states.iter().any(|state| {
            subjects
                .iter()
                .any(|labels| peers.iter().any(|peer| state.allows(labels, direction, *peer, protocol, port)))
        })
    }

    /// Whether this was a backend of a service with that frontend.
    pub(crate) fn may_serve(&self, frontend: (IpAddr, u16), protocol: &str, backend: (IpAddr, u16)) -> bool {
        let services = self.states.iter().filter_map(|state| state.service(frontend.0, frontend.1, protocol));
        services.into_iter().any(|service| service.serving().contains(&backend))
    }
}

/// The other end of a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Other {
    Pod(String),
    Host,
    Address(IpAddr),
}

/// The protocol's name in policies.
pub(crate) fn protocol_name(number: u8) -> &'static str {
    if number == 6 { "TCP" } else { "UDP" }
}
