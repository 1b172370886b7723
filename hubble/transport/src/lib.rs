//! How Hubble's servers and its relay reach each other: addresses, TLS, dialling and accepting.
//!
//! Certificates are read from files and read again when they change, so that nothing restarts when they are renewed. A
//! file that is unreadable, expired or does not fit its key is refused with its name; one that becomes so later leaves
//! the last good one in place.
//!
//! Nothing here knows flows. The network itself is behind [`Dial`], so that a simulation can put its own in its place.
#![forbid(unsafe_code)]

mod address;
mod clock;
mod dial;
mod listen;
pub mod tls;

pub use address::{Address, AddressError, server_name};
pub use clock::Clock;
pub use dial::{BoxIo, ConnectError, Connected, Dial, DialFuture, Io, Network, Secure, connect};
pub use listen::{Accepted, Begun, BindError, bind_tcp, bind_unix, secure};
