//! The committed cost of each program: a rise is a decision someone takes, not something that happens.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use super::object::Contents;

/// The kernel refuses programs of more instructions than this after verification.
const VERIFIER_LIMIT: u32 = 1_000_000;
/// The kernel refuses chains of calls with more stack than this.
const STACK_LIMIT: u32 = 512;

/// One entry of what `bpf-check` prints: a program and what the verifier said of it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Loaded {
    /// Program name.
    pub program: String,
    /// Instructions the verifier went through.
    pub verified: u32,
    /// Bytes of stack, subprograms included.
    pub stack: u32,
}

/// What a program may cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limit {
    /// Instructions the verifier may go through.
    pub verified: u32,
    /// Bytes of stack over the deepest chain of calls.
    pub stack: u32,
}

/// What the figures depend on beside the source: another verifier or another LLVM counts differently.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MeasuredWith {
    /// Kernel line, such as `6.18`.
    pub linux: String,
    /// Compiler line, such as `1.96`.
    pub rustc: String,
}

impl MeasuredWith {
    /// From full versions, such as `6.18.44-cloud` and `1.96.0`.
    pub fn new(linux: &str, rustc: &str) -> Self {
        let line = |version: &str| version.split('.').take(2).collect::<Vec<_>>().join(".");
        Self { linux: line(linux.trim()), rustc: line(rustc) }
    }
}

/// The limits by program.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Budget {
    /// The limits hold where these are the same; elsewhere only the stack is held to them.
    pub measured_with: MeasuredWith,
    /// Program name to its limits.
    pub programs: BTreeMap<String, Limit>,
}

/// What the programs of an object cost.
#[derive(Debug, PartialEq, Eq)]
pub struct Measured(BTreeMap<String, Limit>);

impl Budget {
    /// Reads the committed file.
    pub fn read(file: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(file)
            .with_context(|| format!("{} is missing; `cargo xtask bpf --accept` writes it", file.display()))?;
        serde_json::from_str(&text).with_context(|| format!("{} is not a budget", file.display()))
    }

    /// Limits a little above what was measured: LLVM and kernels differ slightly between versions.
    pub fn from_measured(measured: &Measured, measured_with: MeasuredWith) -> Self {
        let limit = |cost: &Limit| Limit {
            verified: (cost.verified + cost.verified / 10).next_multiple_of(100).min(VERIFIER_LIMIT),
            stack: cost.stack.next_multiple_of(32).min(STACK_LIMIT),
        };
        Self { measured_with, programs: measured.0.iter().map(|(name, cost)| (name.clone(), limit(cost))).collect() }
    }

    /// The file's text.
    pub fn to_json(&self) -> Result<String> {
        Ok(serde_json::to_string_pretty(self)? + "\n")
    }
}

impl Measured {
    /// What the kernel said of every program of the object; one it was never shown is an error.
    pub fn new(contents: &Contents, loaded: &[Loaded]) -> Result<Self> {
        let costs = loaded.iter().map(|of| (of.program.clone(), Limit { verified: of.verified, stack: of.stack }));
        let measured = Self(costs.collect());
        if let Some(name) = contents.programs.iter().find(|name| !measured.0.contains_key(*name)) {
            bail!("`{name}` is in the object and was not loaded");
        }
        Ok(measured)
    }

    /// A table of costs beside their limits.
    pub fn table(&self, budget: &Budget) -> String {
        let mut table =
            format!("{:<32} {:>10} {:>10} {:>6} {:>6}\n", "program", "verified", "budget", "stack", "budget");
        for (name, cost) in &self.0 {
            let shown = |value: Option<u32>| value.map_or_else(|| "-".to_owned(), |value| value.to_string());
            let limit = budget.programs.get(name);
            let (verified, stack) = (shown(limit.map(|limit| limit.verified)), shown(limit.map(|limit| limit.stack)));
            writeln!(table, "{name:<32} {:>10} {verified:>10} {:>6} {stack:>6}", cost.verified, cost.stack)
                .expect("a String takes everything");
        }
        table
    }

    /// What is over its limit, has no limit, or has a limit and is gone.
    pub fn excess(&self, budget: &Budget, with: &MeasuredWith) -> Vec<String> {
        let is_comparable = budget.measured_with == *with;
        let mut excess = Vec::new();
        for (name, cost) in &self.0 {
            let Some(limit) = budget.programs.get(name) else {
                excess.push(format!("{name} has no budget"));
                continue;
            };
            if is_comparable && cost.verified > limit.verified {
                excess.push(format!("{name}: {} verified instructions, budget {}", cost.verified, limit.verified));
            }
            if cost.stack > limit.stack {
                excess.push(format!("{name}: {} bytes of stack, budget {}", cost.stack, limit.stack));
            }
        }
        let gone = budget.programs.keys().filter(|name| !self.0.contains_key(*name));
        excess.extend(gone.map(|name| format!("{name} has a budget and is not in the object")));
        excess
    }
}

#[cfg(test)]
mod tests;
