//! Prints how the engine fares on the published corpora: `cilium_policy_conformance [DIR] [NAME…]`. Fails when a share that is demanded
//! is missed, or when a corpus that is named is not there. `SHOW` (5) differences are shown with all their inputs.

#![allow(clippy::disallowed_methods, clippy::disallowed_macros, reason = "a program that reads files and prints")]

#[path = "../tests/corpus/mod.rs"]
mod corpus;

use corpus::Score;
use std::{path::PathBuf, process::ExitCode};

fn print(score: &Score, shown: usize) -> bool {
    let verdict = if score.is_reached() { "" } else { "  MISSED" };
    let share = 100.0 * score.share();
    println!("{}: {}/{} ({share:.3} %){verdict}", score.name, score.passed, score.total);
    for (tag, (passed, total)) in &score.tags {
        println!("    {tag}: {passed}/{total}");
    }
    for difference in score.differences.iter().take(shown) {
        println!("    - {difference}");
    }
    score.is_reached()
}

/// The scores of a corpus, if it is one of this engine's.
fn scores(name: &str, file: &std::path::Path) -> Vec<Score> {
    let value = corpus::read(file);
    match name {
        "cyclonus" => {
            let (cells, marked) = corpus::cyclonus::run(&value);
            vec![cells, marked]
        }
        "cilium-oracle" => {
            let outcome = corpus::oracle::run(&value);
            let (ours, theirs) = outcome.entries;
            println!("entries where upstream lists them: {ours} ours, {theirs} upstream's");
            vec![outcome.plain, outcome.quirks, outcome.enforcement, outcome.matched, outcome.rejected]
        }
        "fqdn-labels" => vec![corpus::labels::run(&value)],
        _ => Vec::new(),
    }
}

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let dir = args.next().map_or_else(corpus::default_dir, PathBuf::from);
    let named: Vec<String> = args.collect();
    let names: Vec<&str> = match named.as_slice() {
        [] => vec!["cyclonus", "cilium-oracle", "fqdn-labels"],
        names => names.iter().map(String::as_str).collect(),
    };
    let shown = std::env::var("SHOW").ok().and_then(|s| s.parse().ok()).unwrap_or(5);
    let mut reached = true;
    for name in names {
        let files = corpus::corpora(&dir, name);
        if files.is_empty() {
            println!("{name}: there is no {name}.*.json in {}", dir.display());
            reached &= named.is_empty();
        }
        for file in files {
            println!("{}", file.display());
            let scores = scores(name, &file);
            if scores.iter().all(|score| score.total == 0) {
                println!("{name}: nothing was checked; is it a corpus of the policy engine?");
                reached = false;
            }
            for score in scores {
                reached &= print(&score, shown);
            }
        }
    }
    if reached { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
