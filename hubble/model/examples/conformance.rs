//! Prints how filters fare on the published corpora: `conformance [DIR] [NAME…]`.
#![allow(clippy::print_stdout, reason = "a command")]

#[path = "../tests/corpus/mod.rs"]
mod corpus;

fn main() -> std::process::ExitCode {
    let mut args = std::env::args().skip(1);
    let dir = args.next().map(std::path::PathBuf::from).or_else(|| corpus::shared("conformance")).unwrap_or_default();
    let names: Vec<String> = args.collect();
    let mut failed = false;
    if names.is_empty() || names.iter().any(|name| name == "hubble-filters") {
        for part in corpus::parts(&dir, "hubble-filters") {
            for score in [corpus::single_filters(&part), corpus::lists_of_filters(&part)] {
                println!("hubble-filters: {}: {}/{}", score.name, score.total - score.wrong.len(), score.total);
                score.wrong.iter().take(5).for_each(|difference| println!("    - {difference}"));
                failed |= !score.wrong.is_empty() || score.total == 0;
            }
        }
    }
    if failed { std::process::ExitCode::FAILURE } else { std::process::ExitCode::SUCCESS }
}
