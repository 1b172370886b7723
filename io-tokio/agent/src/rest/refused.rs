//! Refusals of the core as answers of the API: the reference's status codes, the core's sentences.

use agent_core::Refusal;
use api::server::Reply;

/// Which call was refused: the same refusal has another code in another call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// `POST /ipam`
    Allocate,
    /// `/ipam/{ip}`
    Address,
    /// Anything else.
    Other,
}

/// The answer to a refused request.
pub fn reply(call: Call, refusal: &Refusal) -> Reply {
    Reply::error(status(call, refusal), refusal.to_string())
}

fn status(call: Call, refusal: &Refusal) -> u16 {
    match refusal {
        Refusal::Ipam(_) if call == Call::Allocate => 502,
        Refusal::Ipam(refusal) => ipam(refusal),
        Refusal::OfEndpoint { .. } => 403,
        Refusal::Endpoint(_) => 400,
        Refusal::Taken(endpoint::InsertRefusal::Taken { .. }) => 409,
        Refusal::NoEndpoint(_) | Refusal::NoPolicy(_) => 404,
        Refusal::Leaving(_) => 409,
        Refusal::Service(refusal) => service(refusal),
        Refusal::Policy { .. } => 460,
        Refusal::Busy { .. } => 429,
        Refusal::Starting => 503,
        Refusal::Taken(endpoint::InsertRefusal::TooMany { .. })
        | Refusal::WentAway(_)
        | Refusal::Attach { .. }
        | Refusal::TooSlow { .. }
        | Refusal::MapFull { .. }
        | Refusal::Write { .. } => 500,
        // The core may learn to refuse for more reasons; an unforeseen one is the agent's failure, not the caller's.
        #[allow(unreachable_patterns)]
        _ => 500,
    }
}

fn ipam(refusal: &ipam::Refusal) -> u16 {
    match refusal {
        ipam::Refusal::InUse(_) => 409,
        ipam::Refusal::NotLent(_) => 404,
        ipam::Refusal::OwnedByNode(_) => 403,
        ipam::Refusal::OutOfRange { .. } | ipam::Refusal::FamilyOff(_) | ipam::Refusal::Expired(_) => 400,
        ipam::Refusal::Exhausted { .. } | ipam::Refusal::TooManyLoans { .. } => 500,
    }
}

fn service(refusal: &lb::Refusal) -> u16 {
    match refusal {
        lb::Refusal::FrontendPort { .. }
        | lb::Refusal::FrontendAddress { .. }
        | lb::Refusal::FrontendTaken { .. }
        | lb::Refusal::FrontendOwned { .. }
        | lb::Refusal::Attribute { .. }
        | lb::Refusal::SourceRange { .. } => 460,
        lb::Refusal::BackendPort { .. }
        | lb::Refusal::BackendAddress { .. }
        | lb::Refusal::BackendFamily { .. }
        | lb::Refusal::BackendProtocol { .. }
        | lb::Refusal::BackendTwice { .. }
        | lb::Refusal::TooManyBackends { .. } => 461,
        lb::Refusal::Owned { .. } => 403,
        lb::Refusal::NotFound(_) => 404,
        _ => 500,
    }
}
