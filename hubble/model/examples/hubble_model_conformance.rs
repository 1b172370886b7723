//! Prints how filters fare on the published corpora: `hubble_model_conformance [DIR] [NAME…]`.

#[path = "../tests/corpus/mod.rs"]
mod corpus;

fn main() -> std::process::ExitCode {
    corpus::parts::command("hubble-filters", &[corpus::single_filters, corpus::lists_of_filters])
}
