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

/// One line of `bpf-check`: a program and the instructions the verifier went through.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Loaded {
    /// Program name.
    pub program: String,
    /// As `bpf_prog_info.verified_insns` has it; absent on kernels that do not say.
    pub verified: Option<u32>,
    /// Instructions after the kernel's own rewriting, in bytes.
    pub xlated_bytes: u32,
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

/// The limits by program.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Budget {
    /// Program name to its limits.
    pub programs: BTreeMap<String, Limit>,
}

/// What the programs of an object cost.
#[derive(Debug, PartialEq, Eq)]
pub struct Measured(BTreeMap<String, (Option<u32>, u32)>);

impl Budget {
    /// Reads the committed file.
    pub fn read(file: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(file)
            .with_context(|| format!("{} is missing; `cargo xtask bpf --accept` writes it", file.display()))?;
        serde_json::from_str(&text).with_context(|| format!("{} is not a budget", file.display()))
    }

    /// Limits a little above what was measured: LLVM and kernels differ slightly between versions.
    pub fn from_measured(measured: &Measured) -> Self {
        let limit = |(verified, stack): &(Option<u32>, u32)| {
            let verified = verified.unwrap_or(VERIFIER_LIMIT);
            Limit {
                verified: (verified + verified / 10).next_multiple_of(100).min(VERIFIER_LIMIT),
                stack: stack.next_multiple_of(32).min(STACK_LIMIT),
            }
        };
        Self { programs: measured.0.iter().map(|(name, cost)| (name.clone(), limit(cost))).collect() }
    }

    /// The file's text.
    pub fn to_json(&self) -> Result<String> {
        Ok(serde_json::to_string_pretty(self)? + "\n")
    }
}

impl Measured {
    /// Puts together what the object says and what the kernel said.
    pub fn join(contents: &Contents, loaded: &[Loaded]) -> Result<Self> {
        let mut verified: BTreeMap<_, _> =
            loaded.iter().map(|program| (program.program.as_str(), program.verified)).collect();
        let mut costs = BTreeMap::new();
        for (name, stack) in &contents.programs {
            let Some(count) = verified.remove(name.as_str()) else {
                bail!("`{name}` is in the object and was not loaded");
            };
            costs.insert(name.clone(), (count, *stack));
        }
        Ok(Self(costs))
    }

    /// A table of costs beside their limits.
    pub fn table(&self, budget: &Budget) -> String {
        let mut table =
            format!("{:<32} {:>10} {:>10} {:>6} {:>6}\n", "program", "verified", "budget", "stack", "budget");
        for (name, (verified, stack)) in &self.0 {
            let limit = budget.programs.get(name);
            let shown = |value: Option<u32>| value.map_or_else(|| "-".to_owned(), |value| value.to_string());
            let (of_verified, of_stack) = (limit.map(|limit| limit.verified), limit.map(|limit| limit.stack));
            let (verified, of_verified, of_stack) = (shown(*verified), shown(of_verified), shown(of_stack));
            writeln!(table, "{name:<32} {verified:>10} {of_verified:>10} {stack:>6} {of_stack:>6}")
                .expect("a String takes everything");
        }
        table
    }

    /// What is over its limit, has no limit, or has a limit and is gone.
    pub fn excess(&self, budget: &Budget) -> Vec<String> {
        let mut excess = Vec::new();
        for (name, (verified, stack)) in &self.0 {
            let Some(limit) = budget.programs.get(name) else {
                excess.push(format!("{name} has no budget"));
                continue;
            };
            if verified.is_some_and(|verified| verified > limit.verified) {
                excess.push(format!(
                    "{name}: {} verified instructions, budget {}",
                    verified.unwrap_or(0),
                    limit.verified
                ));
            }
            if *stack > limit.stack {
                excess.push(format!("{name}: {stack} bytes of stack, budget {}", limit.stack));
            }
        }
        let gone = budget.programs.keys().filter(|name| !self.0.contains_key(*name));
        excess.extend(gone.map(|name| format!("{name} has a budget and is not in the object")));
        excess
    }
}

#[cfg(test)]
mod tests;
