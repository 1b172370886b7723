//! Prints how Maglev tables and hashes fare on the published corpora: `cilium_lb_conformance [DIR] [NAME…]`.

#![allow(clippy::disallowed_methods, clippy::disallowed_macros, reason = "a program that reads files and prints")]

#[path = "../tests/corpus/mod.rs"]
mod corpus;

fn main() -> std::process::ExitCode {
    let mut args = std::env::args().skip(1);
    let dir = args.next().map_or_else(|| corpus::shared().join("conformance"), Into::into);
    let names: Vec<String> = args.collect();
    let mut failed = false;
    if names.is_empty() || names.iter().any(|name| name == "maglev") {
        for file in corpus::corpora(&dir, "maglev") {
            for score in corpus::run(&corpus::read(&file)) {
                println!("maglev: {}: {}/{}", score.name, score.passed, score.total);
                score.differences.iter().take(5).for_each(|difference| println!("    - {difference}"));
                failed |= score.passed != score.total;
            }
        }
    }
    if failed { std::process::ExitCode::FAILURE } else { std::process::ExitCode::SUCCESS }
}
