//! What an agent is told and asked: facts in the past tense, requests in the imperative.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;
use core::net::IpAddr;

use abi::write::{MapWrite, WriteError};
use endpoint::{EndpointName, EndpointSpec};
use machine::OpId;
use types::{EndpointId, Labels};

use crate::config::{Audit, Enforcement};
use crate::effect::StateFile;

/// Names a request, so that its answer finds whoever asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// A fact or a request.
#[derive(Debug, Clone)]
pub enum Input {
    /// The first input of an agent's life: what an earlier life and the kernel left.
    Restored(Box<Snapshot>),
    /// Somebody asks for something; answered by exactly one [`crate::Effect::Reply`].
    Request(RequestId, Request),
    /// The key-value store says something.
    Kv(kv::Event),
    /// The outcome of [`crate::Effect::WriteMaps`].
    Wrote(OpId, Result<(), WriteError>),
    /// The outcome of [`crate::Effect::Attach`], [`crate::Effect::Save`] or [`crate::Effect::Forget`].
    Finished(OpId, Result<(), Failure>),
    /// A host-side interface of an endpoint is gone.
    LinkVanished(u32),
    /// Files of the watched policy directory changed.
    PolicyFiles(PolicyFiles),
    /// Files of the watched directory of Services, EndpointSlices and Pods changed.
    ServiceFiles(PolicyFiles),
}

/// What went wrong outside, for logs and retries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// For people: which step failed and why.
    pub message: Box<str>,
}

/// What is there when an agent starts.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// State files, as [`crate::Effect::Save`] wrote them. An unreadable one has an error instead.
    pub files: Vec<(StateFile, Result<Vec<u8>, Failure>)>,
    /// Everything in the maps of [`MapWrite::MAPS`], values set. Empty after a reboot.
    pub maps: Vec<MapWrite>,
    /// Interfaces of the host, by index and name: endpoints whose interface is not among them are gone.
    pub links: Vec<(u32, Box<str>)>,
    /// The watched policy directory as it was found, complete; `None`: none is watched.
    pub policy_files: Option<PolicyFiles>,
    /// The watched directory of services, likewise.
    pub service_files: Option<PolicyFiles>,
}

/// Changes of a watched directory.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PolicyFiles {
    /// Each file that appeared, changed or went.
    pub changes: Vec<PolicyFile>,
}

/// One file of a watched directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyFile {
    /// Its path.
    pub path: Box<str>,
    /// Its whole text, YAML or JSON. `Ok(None)`: the file is gone. `Err`: it cannot be read; what it last said stays in
    /// force.
    pub content: Result<Option<String>, Failure>,
}

/// A request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Addresses.
    Ipam(IpamRequest),
    /// Endpoints.
    Endpoint(EndpointRequest),
    /// Services.
    Service(ServiceRequest),
    /// Policy rules.
    Policy(PolicyRequest),
    /// `PATCH /config`: answered with [`crate::Response::Done`] once it holds.
    Config(ConfigChange),
}

/// Requests about addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IpamRequest {
    /// `POST /ipam`: an address of each enabled family, or of one. Answered with [`crate::Response::Allocated`].
    Allocate {
        /// Of one family only.
        family: Option<ipam::Family>,
        /// Who it is for.
        owner: Box<str>,
        /// Whether it ends unless an endpoint confirms it.
        expires: bool,
    },
    /// `POST /ipam/{ip}`: that address. Answered with [`crate::Response::Done`].
    Reserve {
        /// The address.
        ip: IpAddr,
        /// Who it is for.
        owner: Box<str>,
    },
    /// `DELETE /ipam/{ip}`. Answered with [`crate::Response::Done`]. An address of a live endpoint is not released.
    Release(IpAddr),
}

/// Requests about endpoints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EndpointRequest {
    /// `PUT /endpoint/{id}`. Answered with [`crate::Response::Endpoint`].
    Create(Box<CreateEndpoint>),
    /// `PATCH /endpoint/{id}/labels`: the user's labels from now on. Answered with [`crate::Response::Done`].
    SetLabels(EndpointName, Labels),
    /// `DELETE /endpoint/{id}`. Answered with [`crate::Response::Deleted`] once nothing of it is left in the kernel.
    Delete(EndpointName),
    /// `DELETE /endpoint` of a container id: all endpoints of it. Answered likewise.
    DeleteContainer(Box<str>),
}

/// What `PUT /endpoint/{id}` asks for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CreateEndpoint {
    /// The number it must have, if any.
    pub id: Option<EndpointId>,
    /// What it is.
    pub spec: EndpointSpec,
    /// Confirms the loan of its IPv4 address (`ipv4-expiration-uuid`).
    pub ipv4_loan: Option<ipam::LoanId>,
    /// Confirms the loan of its IPv6 address.
    pub ipv6_loan: Option<ipam::LoanId>,
    /// When to answer.
    pub answer: AnswerWhen,
    /// Who manages its addresses.
    pub addresses: AddressOwner,
}

/// When the creation of an endpoint is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AnswerWhen {
    /// When its policy is enforced and its device is attached (`sync-build-endpoint`).
    Ready,
    /// When it is taken up.
    #[default]
    Accepted,
}

/// Who manages an endpoint's addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AddressOwner {
    /// This agent: they must be lent, or can be reserved now.
    #[default]
    Agent,
    /// Somebody else (`external-ipam`).
    External,
}

/// Requests about services.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServiceRequest {
    /// `PUT /service/{id}`. Answered with [`crate::Response::Service`] once it is written.
    Put(Box<lb::ServiceSpec>),
    /// `DELETE /service/{id}`. Answered with [`crate::Response::Done`] once it is written.
    Delete(lb::ServiceId),
}

/// Requests about policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PolicyRequest {
    /// `PUT /policy`. Answered with [`crate::Response::Policy`] once the rules are taken up (not: enforced everywhere).
    Put {
        /// YAML or JSON: a list of rules, or objects of the three kinds.
        text: String,
        /// What it takes the place of.
        replace: Replace,
    },
    /// `DELETE /policy`: all rules that came through this interface and have these labels; no labels: all of them.
    Delete(Labels),
}

/// What imported rules take the place of.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Replace {
    /// Objects of the same kind, namespace and name.
    #[default]
    SameObject,
    /// Everything imported before with the same labels (`replace`).
    SameLabels,
    /// Everything imported before with these labels (`replace-with-labels`).
    Labelled(Labels),
}

/// `PATCH /config`: what is `Some` changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ConfigChange {
    /// `PolicyEnforcement`.
    pub enforcement: Option<Enforcement>,
    /// `PolicyAuditMode`.
    pub audit: Option<Audit>,
}
