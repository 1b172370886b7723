//! Prometheus metrics with the names users already have dashboards for.
//!
//! Counters and histograms are counted where things happen ([`Metrics`]); what the kernel or the agent's tables know
//! is asked when somebody scrapes ([`Source`]). It never decides anything, and a scrape never changes anything.

mod counted;
mod process;
mod scraped;
mod serve;
mod text;

pub use counted::{ApiCall, Metrics, Outcome};
pub use scraped::{Sample, Sort, Source};
pub use serve::{ListenError, parse_address, serve};
pub use text::{Reading, readings};

#[cfg(test)]
mod tests;
