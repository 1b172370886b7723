//! A simulated host that runs the packet pipeline of the `datapath` crate on plain memory.
//!
//! It exists so that whole clusters, packets included, run in one thread and repeat exactly. It decides nothing: what
//! becomes of a packet is the pipeline's verdict, and what is here has the kernel's semantics ([`map`]) or a
//! router's ([`Host`]). It is also one of the two arms of the equivalence test, whose other arm is the kernel.

mod frame;
mod host;
pub mod map;
mod maps;
mod ring;
mod run;
mod sock;
mod ways;

pub use host::{DropCode, Fate, Host, Interface, Lost};
pub use maps::Maps;
pub use ring::Ring;
pub use run::Run;
pub use sock::{Caller, Refused, Socket};
pub use ways::{Way, Ways};
