//! The relay and the servers of nodes over a simulated network: the code is the real one, the clock and the wires are not.
//!
//! One seed decides everything. Each run checks what must hold whatever happens: flows in the order of time, as far as
//! the window reaches; no flow lost without a word; nobody delayed by somebody else's fault.

mod cluster;
mod scenarios;
