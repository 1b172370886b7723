//! The series of one metric: counted, bounded, found by the text of their labels.

use crate::{
    context::{Contexts, Part},
    text::{Exemplar, Writer},
    view::Observed,
};
use std::{collections::HashMap, sync::Arc};

/// Upper bounds of the buckets of a histogram of seconds, with the text they are shown as.
pub(crate) const BUCKETS: [f64; 11] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// Value of every label of the series that takes what has no place.
pub(crate) const OVERFLOW: &str = "overflow";

/// Counter or histogram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sort {
    Counter,
    Histogram,
}

/// Where a label's value comes from.
#[derive(Debug, Clone, Copy)]
enum Value {
    Own(usize),
    Context(Part),
}

/// A value, as of now.
#[derive(Debug, Clone)]
pub(crate) enum Series {
    Counter { count: u64, exemplar: Option<Arc<Exemplar>> },
    Histogram(Box<Histogram>),
}

/// Buckets, not yet added up; the last is for everything above the highest bound.
#[derive(Debug, Clone, Default)]
pub(crate) struct Histogram {
    pub buckets: [u64; BUCKETS.len() + 1],
    pub sum: f64,
    pub exemplars: [Option<Arc<Exemplar>>; BUCKETS.len() + 1],
}

/// A metric with its series.
#[derive(Debug)]
pub(crate) struct Family {
    /// With the prefix; counters with `_total`.
    pub name: &'static str,
    pub help: &'static str,
    pub sort: Sort,
    labels: Vec<(&'static str, Value)>,
    series: HashMap<Arc<str>, Series>,
    overflow: Option<Series>,
    series_max: usize,
    /// What went into the overflow.
    pub overflowed: u64,
    key: String,
}

/// What is added to a series.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Addition<'a> {
    /// Seconds, of histograms.
    pub seconds: f64,
    /// Trace to which an exemplar points, and the flow's time.
    pub trace: Option<(&'a str, i64)>,
}

impl Addition<'_> {
    pub const ONE: Self = Self { seconds: 0.0, trace: None };
}

impl Family {
    /// A metric with labels of its own and those of the contexts.
    pub fn new(
        name: &'static str,
        help: &'static str,
        sort: Sort,
        own: &[&'static str],
        contexts: &Contexts,
        series_max: usize,
    ) -> Self {
        let own = own.iter().enumerate().map(|(at, name)| (*name, Value::Own(at)));
        let context = contexts.parts().into_iter().map(|(name, part)| (name, Value::Context(part)));
        let mut labels: Vec<_> = own.chain(context).collect();
        labels.sort_by_key(|(name, _)| *name);
        Self {
            name,
            help,
            sort,
            labels,
            series: HashMap::new(),
            overflow: None,
            series_max: series_max.max(1),
            overflowed: 0,
            key: String::new(),
        }
    }

    /// Counts a flow. `own` are the values of the metric's own labels, in the order they were given in.
    pub fn add<V: Observed>(&mut self, own: &[&str], contexts: &Contexts, (flow, invert): (&V, bool), what: Addition) {
        let mut key = std::mem::take(&mut self.key);
        key.clear();
        for (name, value) in &self.labels {
            open(&mut key, name);
            let start = key.len();
            match value {
                Value::Own(at) => key.push_str(own.get(*at).copied().unwrap_or_default()),
                Value::Context(part) => contexts.write(*part, flow, invert, &mut key),
            }
            escape_from(&mut key, start);
            key.push('"');
        }
        self.find(&key).add(what);
        self.key = key;
    }

    fn find(&mut self, key: &str) -> &mut Series {
        let known = self.series.contains_key(key);
        if !known && self.series.len() >= self.series_max {
            self.overflowed += 1;
            return self.overflow.get_or_insert_with(|| Series::new(self.sort));
        }
        if !known {
            self.series.insert(key.into(), Series::new(self.sort));
        }
        self.series.get_mut(key).expect("it was found, or put there")
    }

    /// Removes all series that have all of these labels with these values. Answers how many.
    pub fn remove(&mut self, labels: &[(&'static str, String)]) -> usize {
        if labels.is_empty() || labels.iter().any(|(name, _)| self.labels.iter().all(|(have, _)| have != name)) {
            return 0;
        }
        let needles: Vec<String> = labels
            .iter()
            .map(|(name, value)| {
                let mut needle = String::new();
                open(&mut needle, name);
                let start = needle.len();
                needle.push_str(value);
                escape_from(&mut needle, start);
                needle.push('"');
                needle
            })
            .collect();
        let before = self.series.len();
        self.series.retain(|key, _| !needles.iter().all(|needle| has(key, needle)));
        before - self.series.len()
    }

    /// How many series there are.
    pub fn len(&self) -> usize {
        self.series.len() + usize::from(self.overflow.is_some())
    }

    /// The values as they are now, so that they can be written without holding anybody up.
    pub fn snapshot(&self) -> Snapshot {
        let mut series: Vec<_> = self.series.iter().map(|(key, value)| (key.clone(), value.clone())).collect();
        if let Some(overflow) = &self.overflow {
            let mut key = String::new();
            for (name, _) in &self.labels {
                open(&mut key, name);
                key.push_str(OVERFLOW);
                key.push('"');
            }
            series.push((key.into(), overflow.clone()));
        }
        Snapshot { name: self.name, help: self.help, sort: self.sort, series }
    }
}

/// The name of a label and the beginning of its value, behind a comma where one is needed.
fn open(key: &mut String, name: &str) {
    if !key.is_empty() {
        key.push(',');
    }
    key.push_str(name);
    key.push_str("=\"");
}

/// Whether a key has a label with a value, both as they are written. Inside values every quote has a backslash before
/// it, so text of a value cannot be taken for a label.
fn has(key: &str, label: &str) -> bool {
    key.match_indices(label).any(|(at, _)| at == 0 || key.as_bytes().get(at - 1) == Some(&b','))
}

/// Escapes what was written from `start` on.
pub(crate) fn escape_from(text: &mut String, start: usize) {
    let special = |byte: &u8| matches!(byte, b'\\' | b'"' | b'\n');
    let Some(first) = text.as_bytes()[start..].iter().position(special) else { return };
    let tail = text.split_off(start + first);
    for c in tail.chars() {
        match c {
            '\\' => text.push_str("\\\\"),
            '"' => text.push_str("\\\""),
            '\n' => text.push_str("\\n"),
            c => text.push(c),
        }
    }
}

impl Series {
    fn new(sort: Sort) -> Self {
        match sort {
            Sort::Counter => Self::Counter { count: 0, exemplar: None },
            Sort::Histogram => Self::Histogram(Box::default()),
        }
    }

    fn add(&mut self, what: Addition<'_>) {
        let value = if matches!(self, Self::Counter { .. }) { 1.0 } else { what.seconds };
        let trace = what.trace.filter(|(id, _)| !id.is_empty());
        let exemplar = trace.map(|(id, at_ns)| Arc::new(Exemplar { trace_id: id.into(), value, at_ns }));
        match self {
            Self::Counter { count, exemplar: last } => {
                *count += 1;
                *last = exemplar.or_else(|| last.take());
            }
            Self::Histogram(histogram) => {
                let at = histogram.observe(value);
                if exemplar.is_some() {
                    histogram.exemplars[at] = exemplar;
                }
            }
        }
    }
}

/// A metric's values at one moment.
#[derive(Debug)]
pub(crate) struct Snapshot {
    name: &'static str,
    help: &'static str,
    sort: Sort,
    series: Vec<(Arc<str>, Series)>,
}

impl Snapshot {
    /// Writes them, ordered by their labels. A metric without series is not written.
    pub fn write(mut self, out: &mut Writer) {
        if self.series.is_empty() {
            return;
        }
        self.series.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        let kind = if self.sort == Sort::Counter { "counter" } else { "histogram" };
        out.head(self.name, self.help, kind);
        for (key, series) in &self.series {
            match series {
                Series::Counter { count, exemplar } => out.counter(self.name, key, *count, exemplar.as_deref()),
                Series::Histogram(histogram) => histogram.write(self.name, key, out),
            }
        }
    }
}

impl Histogram {
    /// Adds a value and answers its bucket.
    pub fn observe(&mut self, seconds: f64) -> usize {
        let at = BUCKETS.iter().position(|bound| seconds <= *bound).unwrap_or(BUCKETS.len());
        self.buckets[at] += 1;
        self.sum += seconds;
        at
    }

    pub fn write(&self, name: &str, key: &str, out: &mut Writer) {
        let mut total = 0;
        for (at, count) in self.buckets.iter().enumerate() {
            total += count;
            let bound = BUCKETS.get(at).copied().unwrap_or(f64::INFINITY);
            out.bucket(name, key, bound, total, self.exemplars[at].as_deref());
        }
        out.float(&format!("{name}_sum"), key, self.sum);
        out.integer(&format!("{name}_count"), key, total);
    }
}
