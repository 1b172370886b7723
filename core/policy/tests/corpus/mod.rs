//! Published truth tables, evaluated by this engine. Read in place, never copied.
//!
//! Shared by the test of this crate and by its `conformance` example, which prints the numbers.
#![allow(dead_code, missing_docs, reason = "the test and the example each use a part")]
#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    reason = "a corpus of another shape must stop the run"
)]
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_macros,
    reason = "the corpora are files; this is no part of the crate"
)]

pub mod cyclonus;
pub mod labels;
pub mod oracle;

use policy::{Direction, Engine, MatchType, Verdict};
use std::{
    collections::BTreeMap,
    net::IpAddr,
    path::{Path, PathBuf},
};
use types::{EndpointId, NumericIdentity, Protocol};

/// What is asked: may this endpoint talk with that peer?
#[derive(Debug, Clone, Copy)]
pub struct Probe {
    pub endpoint: EndpointId,
    pub direction: Direction,
    /// The peer's identity; 0 where only its address is known.
    pub identity: NumericIdentity,
    pub addr: Option<IpAddr>,
    pub protocol: Protocol,
    /// Destination port, or ICMP type.
    pub port: u16,
}

/// Who is asked: the engine itself, or whoever looks its entries up somewhere else.
pub trait Judge {
    /// An engine is complete and will be asked about.
    fn load(&mut self, engine: &Engine);
    /// The verdict, and what the deciding rule named where that is known.
    fn verdict(&mut self, engine: &Engine, probe: &Probe) -> (Verdict, Option<MatchType>);
}

/// The engine.
pub struct ByEngine;

impl Judge for ByEngine {
    fn load(&mut self, _: &Engine) {}
    fn verdict(&mut self, engine: &Engine, probe: &Probe) -> (Verdict, Option<MatchType>) {
        let class = engine.class_of(probe.identity, probe.addr);
        let Probe { endpoint, direction, protocol, port, .. } = *probe;
        let value = engine.verdict(endpoint, direction, class, protocol.number(), port).expect("the endpoint is there");
        (value.verdict, Some(value.matched))
    }
}

/// Passed and total, over all and per tag, and the first differences.
#[derive(Debug, Default)]
pub struct Score {
    pub name: String,
    pub passed: u64,
    pub total: u64,
    pub tags: BTreeMap<String, (u64, u64)>,
    pub differences: Vec<String>,
    pub difference_count: u64,
}

impl Score {
    pub fn new(name: &str) -> Self {
        Self { name: name.into(), ..Self::default() }
    }

    pub fn count(&mut self, passed: bool, tags: &[&str], describe: impl FnOnce() -> String) {
        self.total += 1;
        self.passed += u64::from(passed);
        for tag in tags {
            let entry = self.tags.entry((*tag).to_string()).or_default();
            entry.0 += u64::from(passed);
            entry.1 += 1;
        }
        if !passed {
            self.difference_count += 1;
            if self.differences.len() < 400 {
                self.differences.push(describe());
            }
        }
    }

    pub fn share(&self) -> f64 {
        if self.total == 0 { 0.0 } else { self.passed as f64 / self.total as f64 }
    }
}

/// The shares that must be reached, by the beginning of a score's name.
const DEMANDED: &[(&str, f64)] = &[
    ("cyclonus", 1.0),
    ("cilium-oracle flows without q:", 1.0),
    ("cilium-oracle flows with q:", 0.995),
    ("cilium-oracle enforcement flags", 1.0),
    ("cilium-oracle rejected policies", 1.0),
    ("cilium-oracle match types", 0.0),
    ("fqdn-labels", 1.0),
];

impl Score {
    /// The share that must be reached.
    pub fn demanded(&self) -> f64 {
        DEMANDED.iter().find(|(name, _)| self.name.starts_with(name)).map_or(1.0, |(_, share)| *share)
    }

    /// Whether enough of what was checked is right; a part of a corpus may hold nothing of a kind.
    pub fn is_reached(&self) -> bool {
        self.total == 0 || self.share() >= self.demanded()
    }
}

/// The files `<name>.<part>.json` of a directory; empty where it is absent.
pub fn corpora(dir: &Path, name: &str) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
    let mut files: Vec<PathBuf> = entries
        .filter_map(|e| Some(e.ok()?.path()))
        .filter(|p| {
            let file = p.file_name().and_then(|f| f.to_str()).unwrap_or_default();
            file.starts_with(&format!("{name}.")) && file.ends_with(".json")
        })
        .collect();
    files.sort();
    files
}

/// Where the corpora are, beside the repository.
pub fn default_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/conformance")
}

pub fn read(path: &Path) -> serde_json::Value {
    let text = std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

pub fn text(value: &serde_json::Value) -> &str {
    value.as_str().unwrap_or_default()
}

pub fn list(value: &serde_json::Value) -> &[serde_json::Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}
