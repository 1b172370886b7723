//! Prints how the engine fares on the published corpora: `conformance [DIR] [NAME…]`.

#![allow(clippy::disallowed_methods, clippy::disallowed_macros, reason = "a program that reads files and prints")]

#[path = "../tests/corpus/mod.rs"]
mod corpus;

use corpus::Score;
use std::path::PathBuf;

fn print(score: &Score, shown: usize) {
    println!("{}: {}/{} ({:.3} %)", score.name, score.passed, score.total, 100.0 * score.share());
    for (tag, (passed, total)) in score.tags.iter().filter(|(_, (passed, total))| passed != total) {
        println!("    {tag}: {passed}/{total}");
    }
    for difference in score.differences.iter().take(shown) {
        println!("    - {}", difference.chars().take(600).collect::<String>());
    }
}

fn main() {
    let mut args = std::env::args().skip(1);
    let dir = args.next().map_or_else(corpus::default_dir, PathBuf::from);
    let names: Vec<String> = args.collect();
    let wanted = |name: &str| names.is_empty() || names.iter().any(|n| n == name);
    let shown = std::env::var("SHOW").ok().and_then(|s| s.parse().ok()).unwrap_or(5);
    if wanted("cyclonus") {
        for file in corpus::corpora(&dir, "cyclonus") {
            let (cells, marked) = corpus::cyclonus::run(&corpus::read(&file));
            print(&cells, shown);
            print(&marked, shown);
        }
    }
    if wanted("cilium-oracle") {
        for file in corpus::corpora(&dir, "cilium-oracle") {
            let outcome = corpus::oracle::run(&corpus::read(&file));
            for score in [&outcome.plain, &outcome.quirks, &outcome.enforcement, &outcome.matched, &outcome.rejected] {
                print(score, shown);
            }
            println!(
                "    entries where upstream lists them: {} ours, {} upstream's",
                outcome.entries.0, outcome.entries.1
            );
        }
    }
    if wanted("fqdn-labels") {
        for file in corpus::corpora(&dir, "fqdn-labels") {
            print(&corpus::labels::run(&corpus::read(&file)), shown);
        }
    }
}
