//! Runs simulated clusters: one seed or many, with everything that happened where one fails.

use std::process::ExitCode;

use clap::Parser;
use sim_tests::{Cluster, Settings};

/// Simulates clusters from seeds and checks that nothing happens that must not.
#[derive(Debug, Parser)]
struct Options {
    /// The first seed.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How many seeds, one after the other.
    #[arg(long, default_value_t = 1)]
    seeds: u64,
    /// Nodes of the cluster.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=16))]
    nodes: u64,
    /// Things users do while there are faults.
    #[arg(long, default_value_t = 60)]
    actions: u32,
    /// Lines of the trace to show where a seed fails.
    #[arg(long, default_value_t = 40)]
    trace: usize,
}

fn main() -> ExitCode {
    let options = Options::parse();
    let mut failed = 0_u64;
    for seed in options.seed..options.seed.saturating_add(options.seeds) {
        let mut settings = Settings::new(seed);
        settings.nodes = options.nodes as usize;
        settings.actions = options.actions;
        if options.seeds == 1 {
            settings.keep_trace = options.trace;
        }
        match Cluster::run(settings) {
            Ok(outcome) if options.seeds == 1 => println!("seed {seed}: {outcome:#?}"),
            Ok(_) => {}
            Err(error) => {
                failed += 1;
                eprintln!("{error}");
                for line in &error.recent {
                    eprintln!("  {line}");
                }
            }
        }
    }
    println!("{} seeds, {failed} failed", options.seeds);
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
