//! The published corpora, where they are there.

#![allow(clippy::disallowed_macros, reason = "a skipped test says so")]

use std::io::Write as _;

mod corpus;

fn corpus_files(name: &str) -> Vec<std::path::PathBuf> {
    let files = corpus::corpora(&corpus::default_dir(), name);
    if files.is_empty() {
        let _shown =
            writeln!(std::io::stderr(), "skipped: there is no {name}.*.json in {}", corpus::default_dir().display());
    }
    files
}

fn demand(score: &corpus::Score) {
    let first = score.differences.iter().take(5).cloned().collect::<Vec<_>>().join("\n");
    assert!(score.total > 0, "{}: nothing was checked", score.name);
    assert!(score.is_reached(), "{}: {} of {}\n{first}", score.name, score.passed, score.total);
}

#[test]
fn kubernetes_policies_give_the_verdicts_of_cyclonus() {
    for file in corpus_files("cyclonus") {
        let (cells, marked) = corpus::cyclonus::run(&corpus::read(&file));
        demand(&cells);
        demand(&marked);
    }
}

#[test]
fn cilium_policies_give_the_verdicts_of_the_original() {
    for file in corpus_files("cilium-oracle") {
        let outcome = corpus::oracle::run(&corpus::read(&file));
        demand(&outcome.plain);
        demand(&outcome.quirks);
        demand(&outcome.enforcement);
        demand(&outcome.rejected);
    }
}

#[test]
fn labels_selectors_and_exceptions_are_those_of_the_original() {
    for file in corpus_files("fqdn-labels") {
        demand(&corpus::labels::run(&corpus::read(&file)));
    }
}
