//! Exports: flows as lines of JSON in files that are rotated, several at once, changed while the agent runs.

mod config;
mod exporter;
mod rotate;
mod set;

pub use config::{ConfigError, FlowLog, parse, parse_filters};
pub use exporter::{Exporter, Report};
pub use rotate::Rotation;
pub use set::{Change, Exports};
