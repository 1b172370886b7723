//! What an agent wants done, and its answers.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use abi::write::{MapWrite, WriteErrorKind};
use endpoint::EndpointName;
use lb::maglev::{Recipe, TableId};
use machine::OpId;
use types::{EndpointId, Labels, NumericIdentity, Revision};

use crate::input::RequestId;

/// Something to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// The one answer to a request.
    Reply(RequestId, Result<Response, Refusal>),
    /// To the key-value store. Outcome: [`crate::Input::Kv`].
    Kv(OpId, kv::Request),
    /// Write these, in this order, up to the first failure. Outcome: [`crate::Input::Wrote`]. There is never more than
    /// one such operation without outcome.
    WriteMaps(OpId, Vec<MapWrite>),
    /// What is in the Maglev tables that the next [`Effect::WriteMaps`] names; those before it are not needed any more.
    Tables(Vec<(TableId, Arc<Recipe>)>),
    /// Forget these connections: what they went to is in no map any more. There is no outcome.
    Purge(Vec<lb::Purge>),
    /// Answer on these ports, and on no others, how many backends a service has on this node.
    HealthPorts(BTreeMap<u16, lb::HealthPort>),
    /// Attach the programs to an endpoint's device (idempotent). Outcome: [`crate::Input::Finished`].
    Attach(OpId, Device),
    /// Detach the programs from an endpoint's device. It may be gone already; there is no outcome.
    Detach(Device),
    /// Keep this content under that name, durably and atomically. Outcome: [`crate::Input::Finished`].
    Save(OpId, StateFile, Vec<u8>),
    /// Remove what was kept under that name. Outcome: [`crate::Input::Finished`].
    Forget(OpId, StateFile),
    /// Something others may want to know (monitor, metrics, logs).
    Notify(AgentEvent),
}

/// A host-side interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// Whose.
    pub endpoint: EndpointId,
    /// Its index.
    pub ifindex: u32,
    /// Its name.
    pub ifname: Box<str>,
}

/// Something the agent keeps over restarts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum StateFile {
    /// One endpoint (`<id>/endpoint.json`).
    Endpoint(EndpointId),
    /// Node-local identities.
    LocalIdentities,
    /// Services that came through the API.
    Services,
    /// Policies that came through the API.
    Policies,
}

impl StateFile {
    /// Its path below the state directory.
    pub fn path(self) -> String {
        match self {
            Self::Endpoint(id) => alloc::format!("{id}/endpoint.json"),
            Self::LocalIdentities => "local_identities.json".into(),
            Self::Services => "services.json".into(),
            Self::Policies => "policies.json".into(),
        }
    }
    /// The file of a path below the state directory.
    pub fn from_path(path: &str) -> Option<Self> {
        match path {
            "local_identities.json" => Some(Self::LocalIdentities),
            "services.json" => Some(Self::Services),
            "policies.json" => Some(Self::Policies),
            _ => path.strip_suffix("/endpoint.json")?.parse().ok().map(Self::Endpoint),
        }
    }
}

/// A positive answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Response {
    /// It holds.
    Done,
    /// Addresses, IPv4 first.
    Allocated(Vec<ipam::Loan>),
    /// The endpoint exists (and, if that was asked for, is ready).
    Endpoint(EndpointId),
    /// These endpoints are gone.
    Deleted(Vec<EndpointId>),
    /// The service is written.
    Service {
        /// Its number.
        id: lb::ServiceId,
        /// Whether it is new.
        created: bool,
    },
    /// The rules are taken up.
    Policy {
        /// The revision from which they hold.
        revision: Revision,
        /// How many rules were added or removed.
        rules: usize,
        /// What the documents ask for that is not enforced.
        notices: Vec<String>,
    },
}

/// A negative answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// About addresses.
    #[error(transparent)]
    Ipam(#[from] ipam::Refusal),
    /// The address belongs to a live endpoint.
    #[error("address {ip} belongs to endpoint {owner}; delete the endpoint")]
    OfEndpoint {
        /// The address.
        ip: core::net::IpAddr,
        /// Whose it is.
        owner: EndpointId,
    },
    /// The request says too little or something impossible about the endpoint.
    #[error(transparent)]
    Endpoint(#[from] endpoint::SpecRefusal),
    /// The endpoint's name, address or number is another's.
    #[error(transparent)]
    Taken(#[from] endpoint::InsertRefusal),
    /// Another endpoint stands behind the interface.
    #[error("endpoint {by} stands behind interface-index {ifindex} already")]
    InterfaceTaken {
        /// Its index.
        ifindex: u32,
        /// Whose it is.
        by: EndpointId,
    },
    /// There is no such endpoint.
    #[error("there is no endpoint {0}")]
    NoEndpoint(EndpointName),
    /// The endpoint is not in a state in which that is possible.
    #[error("endpoint {0} is being deleted")]
    Leaving(EndpointId),
    /// The endpoint was deleted, or its interface vanished, before it was ready.
    #[error("endpoint {0} went away before it was ready")]
    WentAway(EndpointId),
    /// The programs could not be attached.
    #[error("the programs cannot be attached to {ifname}: {why}")]
    Attach {
        /// The interface.
        ifname: Box<str>,
        /// As the adapter says.
        why: Box<str>,
    },
    /// The endpoint was not ready in time; it was undone.
    #[error("endpoint {id} was not ready in time ({waiting_for}); it was removed again")]
    TooSlow {
        /// Which.
        id: EndpointId,
        /// What it was waiting for.
        waiting_for: &'static str,
    },
    /// A map has no room.
    #[error("{map} has no room: {needed} entries are needed beyond its {max}; {consequence}")]
    MapFull {
        /// Name of the map.
        map: &'static str,
        /// Its size.
        max: usize,
        /// How many would not fit.
        needed: usize,
        /// What that means.
        consequence: &'static str,
    },
    /// A map could not be written.
    #[error("{map} cannot be written: {kind}")]
    Write {
        /// Name of the map.
        map: &'static str,
        /// Why.
        kind: WriteErrorKind,
    },
    /// About services.
    #[error(transparent)]
    Service(#[from] lb::Refusal),
    /// The document is no policy. `path` is the place in it.
    #[error("{path}: {why}")]
    Policy {
        /// Path in the document, such as `[0].spec.ingress[1]`; empty: the document.
        path: String,
        /// What is wrong and how to put it right.
        why: String,
    },
    /// No rule has these labels.
    #[error("no imported policy has the labels {0}")]
    NoPolicy(Labels),
    /// It holds now, but would not survive a restart.
    #[error("it holds, but {file} cannot be written, so it would not survive a restart: {why}")]
    NotKept {
        /// The file, below the state directory.
        file: String,
        /// What the disk said.
        why: Box<str>,
    },
    /// Too many requests wait.
    #[error("{max} requests are waiting; try again later")]
    Busy {
        /// The bound.
        max: usize,
    },
    /// The agent has not been told yet what an earlier life left.
    #[error("the agent is starting; try again")]
    Starting,
}

/// Something others may want to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AgentEvent {
    /// An endpoint was taken up.
    EndpointCreated(EndpointId),
    /// An endpoint's policy is enforced at this revision.
    EndpointRegenerated(EndpointId, Revision),
    /// An endpoint's policy could not be brought about.
    EndpointFailed(EndpointId, Refusal),
    /// An endpoint is gone.
    EndpointDeleted(EndpointId),
    /// An endpoint's identity changed.
    EndpointIdentity(EndpointId, NumericIdentity),
    /// A prefix's identity changed; `None`: it has none any more.
    IpcacheChanged(types::Cidr, Option<NumericIdentity>),
    /// The policy rules changed.
    PolicyUpdated {
        /// Revision from which they hold.
        revision: Revision,
        /// How many rules there are.
        rules: usize,
    },
    /// Everything wanted at this revision is in the kernel.
    Realized(Revision),
    /// Writes of these services were decided; what becomes of each is told once they are made.
    ServicesChanging(Vec<lb::ServiceId>),
    /// A new service was written.
    ServiceCreated(lb::ServiceId),
    /// A service was written again.
    ServiceUpdated(lb::ServiceId),
    /// A service was removed.
    ServiceDeleted(lb::ServiceId),
    /// A policy file was not taken up; what it last said stays in force.
    PolicyFileRefused {
        /// Its path.
        path: Box<str>,
        /// What is wrong.
        why: String,
    },
    /// A file of services was not taken up whole; what it last said of the rest stays in force.
    ServiceFileRefused {
        /// Its path.
        path: Box<str>,
        /// What is wrong.
        why: String,
    },
    /// Something of an object does not count.
    ServiceProblem(lb::Problem),
    /// A state file was not usable; what follows from that.
    StateFileUnusable {
        /// Which.
        file: StateFile,
        /// What is wrong.
        why: String,
        /// What is done without it.
        consequence: &'static str,
    },
    /// A map write failed and will be tried again.
    WriteFailed {
        /// Name of the map.
        map: &'static str,
        /// Why.
        kind: WriteErrorKind,
    },
    /// A map has no room for what is wanted.
    MapFull {
        /// Name of the map.
        map: &'static str,
        /// Its size.
        max: usize,
    },
    /// Something is different from what it should be, and nothing else says so.
    Warning(String),
}
