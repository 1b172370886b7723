//! Tasks whose work lies in another package: built there, run from here, so that nobody has to know where.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use crate::shell::{cargo, root, run};

/// Which package evaluates a corpus; each has an [`example`] that takes a folder and names.
const CORPORA: &[(&str, &str)] = &[
    ("cyclonus", "cilium-policy"),
    ("cilium-oracle", "cilium-policy"),
    ("fqdn-labels", "cilium-policy"),
    ("hubble-filters", "hubble-model"),
    ("hubble-printer", "hubble-cli"),
    ("maglev", "cilium-lb"),
];

/// Runs the cluster simulation with these arguments.
pub fn sim(arguments: &[String]) -> Result<()> {
    run(cargo().args(["run", "--quiet", "--package", "cilium-sim-tests", "--bin", "sim", "--"]).args(arguments))
}

/// Where the published corpora lie when nobody says otherwise.
pub fn corpora_dir() -> PathBuf {
    root().join("../shared/conformance")
}

/// Evaluates corpora from `dir`; without names, each one that some package knows how to evaluate.
pub fn conformance(dir: &Path, names: &[String]) -> Result<()> {
    if !dir.is_dir() {
        bail!("{} is no folder; say with --dir where the corpora are", dir.display());
    }
    let dir = std::fs::canonicalize(dir)?;
    for name in names {
        if !CORPORA.iter().any(|(corpus, _)| corpus == name) {
            let known: Vec<_> = CORPORA.iter().map(|(corpus, _)| *corpus).collect();
            bail!("no corpus is called `{name}`; there are {}", known.join(", "));
        }
    }
    for unknown in corpora_of(&dir)?.into_iter().filter(|found| !CORPORA.iter().any(|(corpus, _)| corpus == found)) {
        println!("skipped: {unknown} (no package evaluates it; CORPORA in xtask/src/forward.rs says which one does)");
    }
    let mut missed = Vec::new();
    let packages: std::collections::BTreeSet<_> = CORPORA.iter().map(|(_, package)| *package).collect();
    for package in packages {
        let asked = |corpus: &str| names.is_empty() || names.iter().any(|name| name == corpus);
        let corpora: Vec<_> =
            CORPORA.iter().filter(|(corpus, of)| *of == package && asked(corpus)).map(|(corpus, _)| *corpus).collect();
        if corpora.is_empty() {
            continue;
        }
        let example = example(package);
        if !has_example(package, &example) {
            if names.is_empty() {
                println!("skipped: {} ({package} has no example `{example}` yet)", corpora.join(", "));
                continue;
            }
            bail!("{package} has no example `{example}` to evaluate {} with", corpora.join(", "));
        }
        let evaluated = run(cargo()
            .args(["run", "--quiet", "--package", package, "--example", &example, "--"])
            .arg(&dir)
            .args(if names.is_empty() { &[] } else { corpora.as_slice() }));
        // One package's miss must not hide how the others fare.
        if let Err(why) = evaluated {
            eprintln!("error: {package}: {why:#}");
            missed.push(corpora.join(", "));
        }
    }
    if !missed.is_empty() {
        bail!("missed: {}", missed.join(", "));
    }
    Ok(())
}

/// Names of the corpora in a folder: each file `<name>.<part>.json` belongs to one.
fn corpora_of(dir: &Path) -> Result<std::collections::BTreeSet<String>> {
    let mut names = std::collections::BTreeSet::new();
    for entry in std::fs::read_dir(dir)? {
        let file = entry?.file_name();
        if let Some((name, _part)) =
            file.to_str().and_then(|f| f.strip_suffix(".json")).and_then(|f| f.rsplit_once('.'))
        {
            names.insert(name.to_owned());
        }
    }
    Ok(names)
}

/// The example that evaluates corpora: named after its package, because all examples of a workspace are built into one folder.
fn example(package: &str) -> String {
    format!("{}_conformance", package.replace('-', "_"))
}

/// Whether the package has that example.
fn has_example(package: &str, example: &str) -> bool {
    let metadata = crate::shell::metadata();
    let targets = metadata.as_ref().ok().and_then(|metadata| {
        let list = metadata["packages"].as_array()?;
        list.iter().find(|found| found["name"] == package)?["targets"].as_array()
    });
    targets.into_iter().flatten().any(|target| target["name"] == example && target["kind"][0] == "example")
}
