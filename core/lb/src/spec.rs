//! Services as they are asked for.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::fmt;
use core::net::IpAddr;

use serde::{Deserialize, Serialize};

/// A service's number: also its reverse NAT index.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ServiceId(u16);

impl ServiceId {
    /// The id of that number; `None` for zero.
    pub const fn new(number: u16) -> Option<Self> {
        if number == 0 { None } else { Some(Self(number)) }
    }
    /// The number, 1..=65535.
    pub const fn as_u16(self) -> u16 {
        self.0
    }
}
impl fmt::Display for ServiceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}
impl fmt::Debug for ServiceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "service {}", self.0)
    }
}

/// A backend's number in the kernel's maps.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BackendId(u32);

impl BackendId {
    /// The id of that number; `None` for zero.
    pub const fn new(number: u32) -> Option<Self> {
        if number == 0 { None } else { Some(Self(number)) }
    }
    /// The number.
    pub const fn as_u32(self) -> u32 {
        self.0
    }
}
impl fmt::Display for BackendId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}
impl fmt::Debug for BackendId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "backend {}", self.0)
    }
}

/// Transport of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Transport {
    /// Any: the reference's services without a protocol (number 0 in the maps).
    Any,
    /// TCP
    Tcp,
    /// UDP
    Udp,
    /// SCTP
    Sctp,
}

impl Transport {
    /// The IP protocol number; 0: any.
    pub const fn number(self) -> u8 {
        match self {
            Self::Any => 0,
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }
    /// The transport of an IP protocol number.
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::Any),
            6 => Some(Self::Tcp),
            17 => Some(Self::Udp),
            132 => Some(Self::Sctp),
            _ => None,
        }
    }
}
impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Any => "ANY",
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
        })
    }
}

/// An address, a port and a transport: a frontend, or where a backend listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct L4Addr {
    /// Address.
    pub ip: IpAddr,
    /// Port, not 0.
    pub port: u16,
    /// Transport.
    pub protocol: Transport,
}
impl fmt::Display for L4Addr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.ip {
            IpAddr::V4(ip) => write!(f, "{ip}:{}/{}", self.port, self.protocol),
            IpAddr::V6(ip) => write!(f, "[{ip}]:{}/{}", self.port, self.protocol),
        }
    }
}

/// Whether a backend takes new connections (names and numbers of the reference).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BackendState {
    /// It does.
    #[default]
    Active,
    /// It finishes what it has.
    Terminating,
    /// Its health checks fail.
    Quarantined,
    /// It was taken out by hand.
    Maintenance,
}

impl BackendState {
    /// The number in the backend map.
    pub const fn number(self) -> u8 {
        match self {
            Self::Active => abi::lb::BACKEND_ACTIVE,
            Self::Terminating => abi::lb::BACKEND_TERMINATING,
            Self::Quarantined => abi::lb::BACKEND_QUARANTINED,
            Self::Maintenance => abi::lb::BACKEND_MAINTENANCE,
        }
    }
}

/// One backend of a service.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Backend {
    /// Where it listens.
    pub addr: L4Addr,
    /// Its state.
    #[serde(default)]
    pub state: BackendState,
    /// Its weight (kept and shown; this form picks backends evenly).
    #[serde(default)]
    pub weight: u16,
    /// Its node, if known.
    #[serde(default)]
    pub node_name: Box<str>,
}

/// A service's name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub struct ServiceName {
    /// Namespace; empty: none.
    pub namespace: Box<str>,
    /// Name; empty: none.
    pub name: Box<str>,
}
impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// A service as it is asked for. Only ClusterIP exists in this form.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceSpec {
    /// Its number; `None`: that of the service with this frontend, or else a free one.
    #[serde(default)]
    pub id: Option<ServiceId>,
    /// Where clients go.
    pub frontend: L4Addr,
    /// Who answers.
    #[serde(default)]
    pub backends: Vec<Backend>,
    /// What it is called.
    #[serde(default)]
    pub name: ServiceName,
}

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
