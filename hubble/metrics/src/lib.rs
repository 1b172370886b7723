//! Flows counted: the metrics of Hubble, by the plugins and contexts users configure.
//!
//! Names, labels and option syntax are the original's. What it does not have: a bound on the series of each metric,
//! with one named series for what goes beyond it, and refusal of options that mean nothing.
//!
//! A flow is counted in the thread that publishes it. Its labels are written as the text a scrape will show, into a
//! buffer that is kept, and looked up by that text: a series that exists costs no allocation. No clock, no sockets:
//! times are arguments, and whoever serves the text is elsewhere.
//!
//! Invariant: a metric never has more series than its bound and one for the overflow.
#![forbid(unsafe_code)]

pub mod config;
mod context;
mod http;
mod metrics;
pub mod options;
mod plugins;
mod series;
pub mod text;
mod view;

pub use config::{Applied, ConfigError};
pub use context::{Context, Contexts};
pub use metrics::{Metrics, SERIES_MAX};
pub use options::{OptionError, Plugin, PluginConfig};
pub use text::Format;
