//! The agent's REST API on its unix socket: what is said ([`models`]), how to ask ([`client`]) and how live
//! events are handed on ([`monitor`]).
//!
//! Models carry the reference's JSON names, because other programs speak them; a field at its zero value is
//! left out, as the reference does. The client is blocking and small: the CNI plugin starts for each pod and must
//! not pay for a runtime. Nothing here decides anything.

pub mod client;
pub mod models;
pub mod monitor;
#[cfg(feature = "server")]
pub mod server;

/// Where the agent listens unless told otherwise (environment: `CILIUM_SOCK`).
pub const DEFAULT_SOCKET: &str = "/var/run/cilium/cilium.sock";
/// Base path of every call.
pub const BASE_PATH: &str = "/v1";
