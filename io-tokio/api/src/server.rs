//! The server's side of the REST API: a router on a unix socket that turns HTTP into typed [`Request`]s.
//!
//! It parses, bounds and names what is wrong with a request; it never decides what the agent does. Whoever
//! implements [`Backend`] gets only requests that are well-formed: known fields, numbers in range, endpoint names
//! that make sense. A request that is not gets 400 and a sentence naming the field, and reaches nobody.

mod body;
mod reply;
mod request;
mod router;
mod socket;

pub use body::BODY_BYTES_MAX;
pub use reply::Reply;
pub use request::{EndpointRef, EndpointRefError, Family, Request};
pub use router::{Backend, Pending, router};
pub use socket::{ListenError, SocketOwner, listen, serve};

#[cfg(test)]
mod tests;
