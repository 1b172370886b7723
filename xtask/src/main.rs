//! `cargo xtask`: every developer task of the workspace, so that there is one place to look and no shell to decipher.

mod bpf;
mod setup;
mod shell;
mod toolchain;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", about = "Developer tasks")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Install what building, testing and the lab need; quick when everything is there
    Setup,
    /// Build the eBPF object, print its size, and compare verified instructions and stack with the budget
    Bpf {
        /// Only build it: no root needed, no budget compared
        #[arg(long)]
        build_only: bool,
        /// Take today's cost as the budget
        #[arg(long, conflicts_with = "build_only")]
        accept: bool,
    },
}

fn main() -> ExitCode {
    match perform(Arguments::parse().task) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            // The chain of causes; a backtrace of this program helps nobody.
            eprintln!("error: {why:#}");
            ExitCode::FAILURE
        }
    }
}

fn perform(task: Task) -> Result<()> {
    match task {
        Task::Setup => setup::setup().map(drop),
        Task::Bpf { build_only: true, .. } => bpf::build(&setup::ensure()?).map(drop),
        Task::Bpf { accept, .. } => bpf::check(&setup::ensure()?, accept),
    }
}
