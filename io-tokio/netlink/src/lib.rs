//! Links, addresses, routes, neighbours, sysctls and network namespaces.
//!
//! The kernel answers rtnetlink requests on the spot, so [`Netlink`] is a plain blocking socket that a CNI plugin can
//! use without a runtime; the agent calls it from a blocking task. Only [`watch`] is asynchronous. Every change is
//! idempotent: what is already as asked for is left alone. Nothing here decides which address or route to set.
//! Errors name the step, the device and, where one is known, the fix.

mod address;
mod error;
pub mod host;
mod link;
mod namespace;
mod neighbour;
mod route;
pub mod sock_diag;
mod socket;
pub mod sysctl;
mod watch;

pub use error::{NamespaceError, NetlinkError, SysctlError};
pub use link::{End, Link, VethPair};
pub use namespace::Namespace;
pub use route::Route;
pub use socket::Netlink;
pub use watch::{LinkChange, LinkEvent, LinkWatch};
