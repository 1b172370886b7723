//! `cargo xtask`: every developer task of the workspace, so that there is one place to look and no shell to decipher.

mod bare;
mod bench;
mod bpf;
mod crds;
mod forward;
mod kernels;
mod lab;
mod layers;
mod setup;
mod shell;
mod test;
mod toolchain;

use std::path::PathBuf;
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
    /// One node with real pods on the real kernel, walked through as a tutorial that checks itself
    Lab(lab::Options),
    /// What one node costs: CNI ADD, policy, memory, pod to pod against a bare veth pair
    Measure {
        /// Print the table as JSON
        #[arg(long)]
        json: bool,
    },
    /// Measure what packets, connections and tables cost, beside what is aimed at
    Bench {
        #[command(subcommand)]
        what: Measured,
    },
    /// The servers of one pod of the lab
    #[command(hide = true)]
    LabServe {
        /// Name of the pod
        name: String,
    },
    /// Load the eBPF object on other kernels (6.1, 6.12), each in a virtual machine
    Kernels {
        /// Which ones; all when none is named
        lines: Vec<String>,
        /// Run only this test program of the loader's (may be given again), and load nothing else
        #[arg(long = "test", value_name = "NAME")]
        tests: Vec<String>,
        /// Of these only tests whose name contains this
        #[arg(long, value_name = "WORD", requires = "tests")]
        filter: Option<String>,
    },
    /// Check the dependency law
    Layers,
    /// Build the pure crates for a target without an operating system
    Bare,
    /// Run every test there is, set-up included
    Test,
    /// Check format and lints, then run every test
    Ci,
    /// Run the cluster simulation: `--seed N`, `--seeds K`
    #[command(disable_help_flag = true)]
    Sim {
        /// Handed to the simulation as they are
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Write the custom resource definitions in deploy/crds
    Crds {
        /// Write nothing; fail if one is not current
        #[arg(long)]
        check: bool,
    },
    /// Evaluate published conformance corpora
    Conformance {
        /// The folder that holds them
        #[arg(long)]
        dir: Option<PathBuf>,
        /// Which ones; all when none is named
        names: Vec<String>,
    },
}

#[derive(Debug, Subcommand)]
enum Measured {
    /// Load balancing: packets, Maglev tables, connections, services; minutes
    Lb(bench::Options),
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
        Task::Lab(options) => lab::lab(&options),
        Task::Measure { json } => lab::measure(json),
        Task::Bench { what: Measured::Lb(options) } => bench::load_balancing(&setup::ensure()?, &options),
        Task::LabServe { name } => lab::serve(&name),
        Task::Kernels { lines, tests, filter } => {
            setup::setup_kernels()?;
            kernels::check(&setup::ensure()?, &lines, &tests, filter.as_deref().unwrap_or_default())
        }
        Task::Layers => layers::check(),
        Task::Bare => bare::build(&setup::ensure()?.compiler),
        Task::Test => test::all(),
        Task::Ci => test::ci(),
        Task::Sim { arguments } => forward::sim(&arguments),
        Task::Crds { check } => crds::write(check),
        Task::Conformance { dir, names } => forward::conformance(&dir.unwrap_or_else(forward::corpora_dir), &names),
    }
}
