//! How often this text itself was asked for, and how long that took.

use crate::{series::Histogram, text::Writer};
use std::collections::BTreeMap;

/// Scrapes by status code.
#[derive(Debug, Default)]
pub(crate) struct Scrapes(BTreeMap<u16, (u64, Histogram)>);

impl Scrapes {
    /// Codes that are told apart; a client cannot make more of them.
    const CODES_MAX: usize = 16;

    pub fn add(&mut self, code: u16, seconds: f64) {
        if self.0.len() < Self::CODES_MAX || self.0.contains_key(&code) {
            let (count, times) = self.0.entry(code).or_default();
            *count += 1;
            times.observe(seconds);
        }
    }

    pub fn write(&self, out: &mut Writer) {
        if self.0.is_empty() {
            return;
        }
        let label = |code: &u16| format!("code=\"{code}\"");
        const COUNT: &str = "hubble_metrics_http_handler_requests_total";
        out.head(COUNT, "Requests for these metrics", "counter");
        for (code, (count, _)) in &self.0 {
            out.counter(COUNT, &label(code), *count, None);
        }
        const TIME: &str = "hubble_metrics_http_handler_request_duration_seconds";
        out.head(TIME, "Time of requests for these metrics", "histogram");
        for (code, (_, times)) in &self.0 {
            times.write(TIME, &label(code), out);
        }
    }
}
