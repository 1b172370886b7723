//! Why a service is not accepted.

use alloc::boxed::Box;

use types::Cidr;

use crate::{L4Addr, ServiceId, ServiceName, Transport};

/// Why a service is not accepted. Fields are named as the API names them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The frontend's port is 0.
    #[error("service {name} {frontend}: frontend-address.port must be from 1 to 65535")]
    FrontendPort {
        /// The service's name.
        name: ServiceName,
        /// Its frontend.
        frontend: L4Addr,
    },
    /// The frontend's address can be nobody's.
    #[error("service {name} {frontend}: frontend-address.ip must be a unicast address")]
    FrontendAddress {
        /// The service's name.
        name: ServiceName,
        /// Its frontend.
        frontend: L4Addr,
    },
    /// A backend's port is 0.
    #[error("service {name} {frontend}: backend-addresses[{index}].port must be from 1 to 65535")]
    BackendPort {
        /// The service's name.
        name: ServiceName,
        /// Its frontend.
        frontend: L4Addr,
        /// Which backend.
        index: usize,
    },
    /// A backend's address can be nobody's.
    #[error("service {name} {frontend}: backend-addresses[{index}].ip must be a unicast address")]
    BackendAddress {
        /// The service's name.
        name: ServiceName,
        /// Its frontend.
        frontend: L4Addr,
        /// Which backend.
        index: usize,
    },
    /// A backend is of the other address family.
    #[error("service {name} {frontend}: backend-addresses[{index}].ip must be of the frontend's address family")]
    BackendFamily {
        /// The service's name.
        name: ServiceName,
        /// Its frontend.
        frontend: L4Addr,
        /// Which backend.
        index: usize,
    },
    /// A backend speaks another transport.
    #[error(
        "service {name} {frontend}: backend-addresses[{index}].protocol must be the frontend's or left out, not {protocol}"
    )]
    BackendProtocol {
        /// The service's name.
        name: ServiceName,
        /// Its frontend.
        frontend: L4Addr,
        /// Which backend.
        index: usize,
        /// What was given.
        protocol: Transport,
    },
    /// An attribute that makes no sense.
    #[error("service {name} {frontend}: flags.{field} {why}")]
    Attribute {
        /// The service's name.
        name: ServiceName,
        /// Its frontend.
        frontend: L4Addr,
        /// Which attribute, as the API names it.
        field: &'static str,
        /// What is wrong, and what to do.
        why: &'static str,
    },
    /// A range of sources says too little or contradicts itself.
    #[error("service {name} {frontend}: flags.sourceRanges[{index}]: {range} {why}")]
    SourceRange {
        /// The service's name.
        name: ServiceName,
        /// Its frontend.
        frontend: L4Addr,
        /// Which range.
        index: usize,
        /// The range.
        range: Cidr,
        /// What is wrong, and what to do.
        why: &'static str,
    },
    /// A backend is listed twice.
    #[error("service {name} {frontend}: backend-addresses[{index}] is listed twice")]
    BackendTwice {
        /// The service's name.
        name: ServiceName,
        /// Its frontend.
        frontend: L4Addr,
        /// The second one.
        index: usize,
    },
    /// More backends than fit.
    #[error("service {name} {frontend}: {given} backends are more than the limit of {max}")]
    TooManyBackends {
        /// The service's name.
        name: ServiceName,
        /// Its frontend.
        frontend: L4Addr,
        /// How many were given.
        given: usize,
        /// The bound.
        max: usize,
    },
    /// Another service has that frontend.
    #[error("service {name} {frontend}: the frontend belongs to service {owner}")]
    FrontendTaken {
        /// The service's name.
        name: ServiceName,
        /// The frontend.
        frontend: L4Addr,
        /// Who has it.
        owner: ServiceId,
    },
    /// Another object made that service.
    #[error("service {name} {frontend}: the frontend belongs to {owner}; change or delete that")]
    FrontendOwned {
        /// The service's name.
        name: ServiceName,
        /// The frontend.
        frontend: L4Addr,
        /// Who has it.
        owner: Box<str>,
    },
    /// An object made that service.
    #[error("service {id} belongs to {owner}; change or delete that")]
    Owned {
        /// Its number.
        id: ServiceId,
        /// Whose it is.
        owner: Box<str>,
    },
    /// The number belongs to a service with another frontend.
    #[error("service {name} {frontend}: id {id} belongs to the service with frontend {owner}; delete that one first")]
    IdTaken {
        /// The service's name.
        name: ServiceName,
        /// Its frontend.
        frontend: L4Addr,
        /// The number.
        id: ServiceId,
        /// The frontend of the service that has it.
        owner: L4Addr,
    },
    /// The tables are at their bounds.
    #[error("service {name} {frontend}: the {table} table has room for {max} entries, and they are in use")]
    Full {
        /// The service's name.
        name: ServiceName,
        /// The frontend.
        frontend: L4Addr,
        /// `service`, `backend` or `slot`.
        table: &'static str,
        /// The bound.
        max: usize,
    },
    /// There is no such service.
    #[error("there is no service {0}")]
    NotFound(ServiceId),
}
