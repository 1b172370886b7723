//! Services at sockets in the real kernel: real sockets in a control group and in network namespaces of the test's own.
//!
//! Programs for control groups have no test runs, so the kernel is compared with the simulator call by call
//! (`compare`): the same services, the same calls, the same addresses, and in the end the same maps.

mod compare;
#[path = "../../../../datapath-sim/tests/support/frontends.rs"]
#[allow(dead_code, reason = "each test file uses a part")]
mod frontends;
mod plain;
#[path = "../support/mod.rs"]
mod support;
mod takeover;
mod world;
