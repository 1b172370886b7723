//! The loader's tests in guests: their programs, without what a debugger wants, and what they say.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail};

use super::guest::{Answer, File, Guest};
use crate::forward::corpora_dir;
use crate::shell::{cargo, output, root, run, target_dir, which};

const LOADER: &str = "cilium-datapath-loader";
/// The tests try a second loader too, and what that needs is among what setup installs.
const FEATURES: [&str; 2] = ["--features", "libbpf"];

/// What tests are told. Emulation is slow: they compare enough packets to meet every branch, not the full number. With CI set
/// a test that should run and does not has failed.
const ENVIRONMENT: &str = "CI=true CILIUM_BPF_OBJECT=/bin/cilium.o EQUIVALENCE_PACKETS=2000 CORPUS_EVERY=50";

/// Programs of this machine that tests start.
const TOOLS: [&str; 3] = ["ip", "tc", "getent"];

/// The test of published tables, which lie beside the repository, or do not.
const TABLES: &str = "corpora";

/// How a test says that a kernel has not got what it is about.
const LACKING: &str = "skipped: this kernel has no ";

/// Test programs, ready for guests.
pub struct Suite {
    /// `bpf-check`.
    pub checker: PathBuf,
    /// Each of the loader's test programs.
    pub tests: Vec<Test>,
    files: Vec<File>,
    /// What the test [`TABLES`] reads.
    tables: Vec<File>,
    filter: String,
}

/// A test program.
pub struct Test {
    /// Its name in the source.
    pub name: String,
    program: PathBuf,
}

impl Suite {
    /// Builds all of it; keeps the programs that are named, all where none is, and of them what `filter` lets through.
    pub fn build(object: &Path, only: &[String], filter: &str) -> Result<Self> {
        let messages = output(cargo().args(["test", "--quiet", "--package", LOADER]).args(FEATURES).args([
            "--test",
            "*",
            "--no-run",
            "--message-format=json",
        ]))?;
        let dir = target_dir().join("kernels/programs");
        std::fs::create_dir_all(&dir)?;
        let checker = target_dir().join("debug/bpf-check");
        let mut tests = Vec::new();
        for (name, executable) in messages.lines().filter_map(test_program) {
            let program = dir.join(&name);
            strip(&executable, &program)?;
            tests.push(Test { name, program });
        }
        if let Some(unknown) = only.iter().find(|name| tests.iter().all(|test| test.name != **name)) {
            let known: Vec<_> = tests.iter().map(|test| test.name.as_str()).collect();
            bail!("--test {unknown}: {LOADER} has no such test program; there are {}", known.join(", "));
        }
        tests.retain(|test| only.is_empty() || only.contains(&test.name));
        tests.sort_by(|a, b| a.name.cmp(&b.name));
        let small = dir.join("bpf-check");
        strip(&checker, &small)?;
        let mut files = vec![File::in_bin(object)];
        for tool in TOOLS {
            files.push(File::in_bin(&which(tool).with_context(|| format!("{tool} is missing, which tests start"))?));
        }
        // A test starts it where cargo built it.
        files.push(File::at(&small, checker));
        let tables = tables();
        if tables.is_empty() {
            println!("left out: {TABLES}, because there is nothing in {}", corpora_dir().display());
            tests.retain(|test| test.name != TABLES);
        }
        Ok(Self { checker: small, tests, files, tables, filter: filter.to_owned() })
    }

    /// Runs one test program; what the kernel lacks may be left out, and nothing else.
    pub fn run(&self, guest: &Guest<'_>, test: &Test, lacks: &[&str]) -> Result<()> {
        let mut files = self.files.clone();
        files.push(File::in_bin(&test.program));
        if test.name == TABLES {
            files.extend(self.tables.iter().cloned());
        }
        let line = format!("{ENVIRONMENT} {} --test-threads=1 --nocapture '{}' 2>&1", test.name, self.filter);
        println!("  {}", test.name);
        let began = Instant::now();
        let answer = guest.run(&files, &line)?;
        let skipped = skipped(&answer.output);
        for (name, why) in &skipped {
            println!("    {name}: {why}");
        }
        answer.output.lines().filter(|line| line.starts_with("test result")).for_each(|line| println!("    {line}"));
        println!("    {:.0} s with the start of the machine", began.elapsed().as_secs_f32());
        judge(&answer, &skipped, lacks)
    }
}

/// Name and file, where a message of cargo's is about a test program.
fn test_program(message: &str) -> Option<(String, PathBuf)> {
    let message: serde_json::Value = serde_json::from_str(message).ok()?;
    let kind = message["target"]["kind"].as_array()?;
    kind.iter().any(|kind| kind == "test").then_some(())?;
    Some((message["target"]["name"].as_str()?.to_owned(), PathBuf::from(message["executable"].as_str()?)))
}

/// Without what a debugger wants a program is a tenth as large, and starts the sooner in a guest.
fn strip(from: &Path, to: &Path) -> Result<()> {
    run(Command::new("strip").arg("--strip-debug").arg("-o").arg(to).arg(from))
}

/// The published tables, at the place where the test looks for them.
fn tables() -> Vec<File> {
    let sought = root().join("datapath-ebpf/loader/../../../shared/conformance");
    let entries = std::fs::read_dir(corpora_dir()).into_iter().flatten().flatten();
    entries.map(|entry| File::at(&entry.path(), sought.join(entry.file_name()))).collect()
}

/// Tests that did not run, each with its reason.
fn skipped(output: &str) -> Vec<(String, String)> {
    let mut test = "";
    let mut skipped = Vec::new();
    for line in output.lines() {
        if let Some(begun) = line.strip_prefix("test ") {
            test = begun.split(' ').next().unwrap_or_default();
        }
        if let Some(at) = line.find("skipped: ") {
            let one = (test.to_owned(), line[at..].to_owned());
            if !skipped.contains(&one) {
                skipped.push(one);
            }
        }
    }
    skipped
}

fn judge(answer: &Answer, skipped: &[(String, String)], lacks: &[&str]) -> Result<()> {
    if answer.status != 0 {
        bail!("ended with {}:\n{}", answer.status, answer.output);
    }
    if !answer.output.lines().any(|line| line.starts_with("test result: ok")) {
        bail!("it ended without a result:\n{}", answer.output);
    }
    if answer.output.contains("test result: ok. 0 passed") {
        bail!("no test of it ran");
    }
    let is_allowed = |why: &str| why.strip_prefix(LACKING).is_some_and(|what| lacks.contains(&what));
    match skipped.iter().find(|(_, why)| !is_allowed(why)) {
        Some((name, why)) => bail!("{name} must run on Linux {}: {why}", answer.release),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests;
