//! Questions about policy, asked and answered in the API's models.
//!
//! Why: the agent answers them with what it knows and enforces, the command line answers them from files when there is
//! no agent. Both must say the same, so both use this: names become facts, an engine is asked, and its answer becomes
//! names again. Nothing here decides a verdict, and nothing here does IO.

mod documents;
mod explain;
mod flows;
mod lint;
mod preview;
mod show;
mod who;

pub use documents::{object_key, read};
pub use explain::explain;
pub use flows::{FLOWS_MAX, FlowError, Tally, question_of_flow};
pub use lint::lint;
pub use preview::preview;
pub use who::{Known, Nobody, Workloads, party};

/// A question that cannot be answered as it was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {why}")]
pub struct BadQuestion {
    /// The field that is wrong.
    pub field: String,
    /// What is wrong, and what would be right.
    pub why: String,
}

fn bad(field: impl Into<String>, why: impl Into<String>) -> BadQuestion {
    BadQuestion { field: field.into(), why: why.into() }
}

/// The number of a protocol's name.
fn protocol(field: &str, name: &str) -> Result<types::Protocol, BadQuestion> {
    use types::Protocol::{Icmp, Icmpv6, Sctp, Tcp, Udp};
    match name.to_ascii_uppercase().as_str() {
        "" | "TCP" => Ok(Tcp),
        "UDP" => Ok(Udp),
        "SCTP" => Ok(Sctp),
        "ICMP" | "ICMPV4" => Ok(Icmp),
        "ICMPV6" => Ok(Icmpv6),
        _ => Err(bad(field, format!("{name:?} is no protocol; known are TCP, UDP, SCTP, ICMP and ICMPv6"))),
    }
}

/// The directions asked about: both, unless one is named.
fn directions(field: &str, name: &str) -> Result<&'static [policy::Direction], BadQuestion> {
    use policy::Direction::{Egress, Ingress};
    match name.to_ascii_lowercase().as_str() {
        "" => Ok(&[Egress, Ingress]),
        "egress" => Ok(&[Egress]),
        "ingress" => Ok(&[Ingress]),
        _ => Err(bad(field, format!("{name:?} is neither ingress nor egress"))),
    }
}

#[cfg(test)]
mod tests;
