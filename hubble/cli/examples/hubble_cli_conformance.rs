//! Prints how the command's output fares on the published corpora: `hubble_cli_conformance [DIR] [NAME…]`.

#[path = "../tests/corpus/mod.rs"]
mod corpus;

fn main() -> std::process::ExitCode {
    corpus::parts::command("hubble-printer", &corpus::EVALUATIONS)
}
