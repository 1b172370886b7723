//! `cargo xtask lab`: one node with real pods on the real kernel, walked through as a tutorial that checks itself.
//!
//! The node, the world outside and every pod are network namespaces; the agent, the CNI plugin and the command lines are
//! the real ones. The lab never decides whether something works by asking the agent alone: traffic is sent, and what
//! arrives counts. Whatever ends it (success, failure, Ctrl-C), everything it made is taken down, unless `--keep` is said.

mod measure;
mod namespace;
mod node;
mod northsouth;
mod outside;
mod place;
mod pod;
mod policies;
mod probe;
mod report;
mod restart;
mod script;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::shell::{cargo, is_root, run, step, target_dir};
use crate::{bpf, setup};

pub use measure::measure;
pub use pod::serve;

use node::Lab;
use place::Place;
use report::Report;

/// What can be asked for.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Leave everything running and say how to enter it
    #[arg(long)]
    keep: bool,
    /// Take down a lab that was kept, and do nothing else
    #[arg(long, conflicts_with = "keep")]
    down: bool,
    /// Name of the lab; labs of different names can run side by side
    #[arg(long, default_value = "lab")]
    name: String,
    /// How often the agent is killed in the restart step
    #[arg(long, default_value_t = 3)]
    restarts: u32,
    /// Run the programs in this folder, and cilium.o in it, instead of building them
    #[arg(long, value_name = "DIR")]
    programs: Option<PathBuf>,
}

/// The programs the lab runs.
#[derive(Clone, Debug)]
pub(crate) struct Programs {
    agent: PathBuf,
    plugin: PathBuf,
    cilium: PathBuf,
    hubble: PathBuf,
    object: PathBuf,
}

/// Runs the lab; an error says which steps failed.
pub fn lab(options: &Options) -> Result<()> {
    if !is_root() {
        bail!("the lab makes network namespaces and loads eBPF programs: run it as root");
    }
    let place = Place::claim(&options.name)?;
    place.take_down();
    if options.down {
        println!("lab {:?} is gone", options.name);
        return Ok(());
    }
    let programs = match &options.programs {
        Some(dir) => Programs::in_folder(dir, dir.join("cilium.o"))?,
        None => build(Profile::Dev)?,
    };
    report::hear_interrupts();
    let mut report = Report::new();
    let mut lab = Lab::new(place, programs, options.keep, options.restarts);
    let outcome = script::walk(&mut lab, &mut report);
    if let Err(why) = &outcome {
        println!("\nThe lab stops here: {why:#}");
    }
    if outcome.is_err() || report.failed() > 0 {
        lab.show_log_tail();
    }
    if options.keep {
        lab.say_how_to_enter();
    } else {
        lab.take_down();
        println!("\nEverything the lab made is taken down.");
    }
    let failed = report.conclude();
    outcome?;
    if failed.is_empty() { Ok(()) } else { bail!("failed: {}", failed.join("; ")) }
}

/// How the programs are built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Profile {
    /// Quickly.
    Dev,
    /// To be measured.
    Release,
}

fn build(profile: Profile) -> Result<Programs> {
    let toolchain = step("setup", setup::ensure)?;
    let object = step("build the eBPF object", || bpf::build(&toolchain))?;
    step("build the programs", || {
        let packages = ["cilium-agent", "cilium-cni", "cilium-cli", "hubble-cli", "hubble-relay"];
        let packages = packages.into_iter().flat_map(|package| ["-p", package]);
        let release = (profile == Profile::Release).then_some("--release");
        run(cargo().arg("build").arg("--quiet").args(release).args(packages))
    })?;
    let folder = if profile == Profile::Release { "release" } else { "debug" };
    Programs::in_folder(&target_dir().join(folder), object)
}

impl Programs {
    fn in_folder(dir: &Path, object: PathBuf) -> Result<Self> {
        let program = |name: &str| {
            let path = dir.join(name);
            path.exists().then_some(path).with_context(|| format!("there is no {name} in {}", dir.display()))
        };
        Ok(Self {
            agent: program("cilium-agent")?,
            plugin: program("cilium-cni")?,
            cilium: program("cilium")?,
            hubble: program("hubble")?,
            object,
        })
    }
}
