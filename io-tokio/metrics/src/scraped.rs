//! What is asked when somebody scrapes.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder};
use prometheus_client::metrics::MetricType;

/// Counter or gauge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sort {
    /// Goes up and down.
    Gauge,
    /// Only goes up; its name is given without `_total`.
    Counter,
}

/// One value.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// Name, with its prefix.
    pub name: &'static str,
    /// What it says.
    pub help: &'static str,
    /// Counter or gauge.
    pub sort: Sort,
    /// Labels with values.
    pub labels: Vec<(&'static str, String)>,
    /// Value.
    pub value: f64,
}

impl Sample {
    /// A gauge.
    pub fn gauge(
        name: &'static str,
        help: &'static str,
        labels: impl IntoIterator<Item = (&'static str, String)>,
        value: f64,
    ) -> Self {
        Self { name, help, sort: Sort::Gauge, labels: labels.into_iter().collect(), value }
    }
    /// A counter.
    pub fn counter(
        name: &'static str,
        help: &'static str,
        labels: impl IntoIterator<Item = (&'static str, String)>,
        value: f64,
    ) -> Self {
        Self { sort: Sort::Counter, ..Self::gauge(name, help, labels, value) }
    }
}

/// Knows values.
pub trait Source: fmt::Debug + Send + Sync {
    /// All values as they are now. Blocks only for as long as a look into memory or a kernel map takes.
    fn samples(&self) -> Vec<Sample>;
}

#[derive(Debug)]
pub(crate) struct Scraped(pub Arc<dyn Source>);

impl Collector for Scraped {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        encode(&self.0.samples(), encoder)
    }
}

/// The library writes label values as they are.
fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

pub(crate) fn encode(samples: &[Sample], mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
    let mut by_name: BTreeMap<&str, Vec<&Sample>> = BTreeMap::new();
    for sample in samples {
        by_name.entry(sample.name).or_default().push(sample);
    }
    for (name, samples) in by_name {
        let [first, ..] = samples.as_slice() else { continue };
        let sort = match first.sort {
            Sort::Gauge => MetricType::Gauge,
            Sort::Counter => MetricType::Counter,
        };
        let mut metric = encoder.encode_descriptor(name, first.help, None, sort)?;
        for sample in samples {
            let labels: Vec<(&str, String)> = sample.labels.iter().map(|(key, value)| (*key, escape(value))).collect();
            if labels.is_empty() {
                write(&mut metric, sample)?;
            } else {
                write(&mut metric.encode_family(&labels)?, sample)?;
            }
        }
    }
    Ok(())
}

fn write(metric: &mut MetricEncoder<'_>, sample: &Sample) -> fmt::Result {
    match sample.sort {
        Sort::Gauge => metric.encode_gauge(&sample.value),
        Sort::Counter => metric.encode_counter::<[(&str, &str); 0], f64, u64>(&sample.value, None),
    }
}
