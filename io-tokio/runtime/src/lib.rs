//! Drives any [`machine::Machine`] on tokio: one loop, one clock, one place where tasks end.
//!
//! It owns no decision. It hands inputs to the machine in the order they came, wakes it at its deadlines, hands its
//! effects to a [`World`] in the order they were decided, and gives outcomes back before anything that waits outside.
//! Only [`machine::Driven`] calls the machine, as in simulation. A task that ends or panics is noticed
//! ([`Supervisor`]): nothing dies in silence.

mod clock;
mod drive;
mod supervise;

pub use clock::{now, sleep_until};
pub use drive::{Closed, Handle, Queue, World, drive, queue};
pub use supervise::{Ended, Supervisor};

#[cfg(test)]
mod tests;
