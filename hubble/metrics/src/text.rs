//! The text Prometheus scrapes, in both its formats. A library would do, if one wrote both and took labels as they come.

use crate::series::{self, BUCKETS};
use std::fmt::Write as _;

/// Which text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// The format every scraper reads.
    Text,
    /// OpenMetrics 1.0, which has exemplars.
    OpenMetrics,
}

impl Format {
    /// The format to answer an `Accept` header with.
    pub fn accepted(accept: &str) -> Self {
        if accept.contains("application/openmetrics-text") { Self::OpenMetrics } else { Self::Text }
    }

    /// The content type of the text.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// Where a value came from.
#[derive(Debug, Clone, PartialEq)]
pub struct Exemplar {
    /// Trace of the request.
    pub trace_id: String,
    /// What was added.
    pub value: f64,
    /// When, nanoseconds since 1970.
    pub at_ns: i64,
}

/// Writes metrics.
#[derive(Debug)]
pub struct Writer {
    out: String,
    format: Format,
}

impl Writer {
    /// An empty text.
    pub fn new(format: Format) -> Self {
        Self { out: String::new(), format }
    }

    /// The whole text.
    pub fn finish(mut self) -> String {
        if self.format == Format::OpenMetrics {
            self.out.push_str("# EOF\n");
        }
        self.out
    }

    fn put(&mut self, args: std::fmt::Arguments<'_>) {
        self.out.write_fmt(args).expect("a String takes every write");
    }

    /// What a metric is. Counters are named with `_total`.
    pub fn head(&mut self, name: &str, help: &str, kind: &str) {
        let family = match (self.format, kind) {
            (Format::OpenMetrics, "counter") => name.strip_suffix("_total").unwrap_or(name),
            _ => name,
        };
        self.put(format_args!("# HELP {family} {help}\n# TYPE {family} {kind}\n"));
    }

    fn name(&mut self, name: &str, labels: &str) {
        self.out.push_str(name);
        if !labels.is_empty() {
            self.put(format_args!("{{{labels}}}"));
        }
        self.out.push(' ');
    }

    pub(crate) fn counter(&mut self, name: &str, labels: &str, count: u64, exemplar: Option<&Exemplar>) {
        self.name(name, labels);
        match self.format {
            Format::Text => self.put(format_args!("{count}\n")),
            Format::OpenMetrics => {
                self.put(format_args!("{count}.0"));
                self.exemplar(exemplar);
            }
        }
    }

    pub(crate) fn bucket(&mut self, name: &str, labels: &str, bound: f64, count: u64, exemplar: Option<&Exemplar>) {
        let comma = if labels.is_empty() { "" } else { "," };
        self.put(format_args!("{name}_bucket{{{labels}{comma}le=\""));
        self.number(bound);
        self.put(format_args!("\"}} {count}"));
        self.exemplar(exemplar.filter(|_| self.format == Format::OpenMetrics));
    }

    fn exemplar(&mut self, exemplar: Option<&Exemplar>) {
        if let Some(Exemplar { trace_id, value, at_ns }) = exemplar {
            self.out.push_str(" # {traceID=\"");
            let start = self.out.len();
            self.out.push_str(trace_id);
            series::escape_from(&mut self.out, start);
            self.out.push_str("\"} ");
            self.number(*value);
            let (seconds, millis) = (at_ns.div_euclid(1_000_000_000), at_ns.rem_euclid(1_000_000_000) / 1_000_000);
            self.put(format_args!(" {seconds}.{millis:03}"));
        }
        self.out.push('\n');
    }

    /// A number as the format has it: OpenMetrics shows that it is no integer.
    fn number(&mut self, value: f64) {
        match (self.format, value.is_finite()) {
            (_, false) if value.is_nan() => self.out.push_str("NaN"),
            (_, false) => self.out.push_str(if value > 0.0 { "+Inf" } else { "-Inf" }),
            (Format::OpenMetrics, true) if value.fract() == 0.0 => self.put(format_args!("{value:.1}")),
            (_, true) => self.put(format_args!("{value}")),
        }
    }

    pub(crate) fn float(&mut self, name: &str, labels: &str, value: f64) {
        self.name(name, labels);
        self.number(value);
        self.out.push('\n');
    }

    pub(crate) fn integer(&mut self, name: &str, labels: &str, value: u64) {
        self.name(name, labels);
        self.put(format_args!("{value}\n"));
    }
}

/// Takes whole counters and gauges: a text of its own, or a page that has others beside them.
pub trait Values {
    /// A counter, named with `_total`, or a gauge: name, help and kind, and a value for each list of labels.
    fn values<'a>(
        &mut self,
        head: (&'static str, &'static str, &'static str),
        values: impl IntoIterator<Item = (Vec<(&'static str, &'a str)>, f64)>,
    );
}

impl Values for Writer {
    fn values<'a>(
        &mut self,
        (name, help, kind): (&'static str, &'static str, &'static str),
        values: impl IntoIterator<Item = (Vec<(&'static str, &'a str)>, f64)>,
    ) {
        let mut values = values.into_iter().peekable();
        if values.peek().is_none() {
            return;
        }
        self.head(name, help, kind);
        for (labels, value) in values {
            self.float(name, &key(&labels), value);
        }
    }
}

/// Labels as they are written.
fn key(labels: &[(&str, &str)]) -> String {
    let mut key = String::new();
    for (name, value) in labels {
        if !key.is_empty() {
            key.push(',');
        }
        key.push_str(name);
        key.push_str("=\"");
        let start = key.len();
        key.push_str(value);
        series::escape_from(&mut key, start);
        key.push('"');
    }
    key
}

const _: () = assert!(BUCKETS.len() == 11, "the reference's buckets are Prometheus' own");
