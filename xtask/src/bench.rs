//! `cargo xtask bench`: what is measured, in one table with the aims beside it.
//!
//! Each program that measures load balancing is built for release and run with `--json`; it prints a row a line. The table has
//! the rows that are aimed at, the JSON all of them.

mod aims;
mod table;

use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::shell::{cargo, run, shown};
use crate::toolchain::Toolchain;
use aims::ROWS;
use table::Measured;

/// A program that measures.
struct Program {
    /// As rows name it.
    name: &'static str,
    /// Its package.
    package: &'static str,
    /// The option that names its kind to cargo, and its own name there.
    target: [&'static str; 2],
    /// Whether it takes `--only WORD`; others measure all they have.
    selects: bool,
}

const LOAD_BALANCING: &[Program] = &[
    Program { name: "packets", package: "cilium-datapath-loader", target: ["--example", "measure"], selects: true },
    Program { name: "maglev", package: "cilium-benches", target: ["--bench", "maglev"], selects: false },
    Program { name: "connects", package: "cilium-datapath-loader", target: ["--example", "connects"], selects: true },
    Program { name: "services", package: "cilium-io-bpf", target: ["--example", "load_services"], selects: false },
];

/// How the table is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Output {
    /// For people.
    Table,
    /// For scripts.
    Json,
}

/// What is measured, and how it is shown.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Only rows whose name, such as `connects: socket LB, 1000`, contains this
    #[arg(long, value_name = "WORD", default_value = "")]
    only: String,
    /// How the table is printed
    #[arg(long, value_enum, default_value = "table")]
    output: Output,
    /// Build what measures, and measure nothing
    #[arg(long)]
    build_only: bool,
}

/// Measures load balancing.
pub fn load_balancing(toolchain: &Toolchain, options: &Options) -> Result<()> {
    let wanted: Vec<(&Program, &str)> =
        LOAD_BALANCING.iter().filter_map(|program| Some((program, selection(program, &options.only)?))).collect();
    if wanted.is_empty() {
        let names: Vec<_> = ROWS.iter().map(aims::Row::name).collect();
        bail!("--only {}: no row's name contains it; there are\n  {}", options.only, names.join("\n  "));
    }
    // What the build says would be in the way of a script.
    crate::bpf::build_to(toolchain, &mut std::io::stderr())?;
    for (program, _) in &wanted {
        run(build(program).stdout(Stdio::null()))?;
    }
    if options.build_only {
        return Ok(());
    }
    let (mut measured, mut failed) = (Vec::new(), Vec::new());
    for (program, only) in wanted {
        let began = Instant::now();
        match measure(program, only) {
            Ok(rows) => measured.extend(rows),
            Err(why) => {
                eprintln!("error: {}: {why:#}", program.name);
                failed.push(program.name);
            }
        }
        eprintln!("{}: {:.0} s", program.name, began.elapsed().as_secs_f32());
    }
    let is_wanted = |one: &Measured| format!("{}: {}", one.program, one.told["row"].as_str().unwrap_or_default());
    measured.retain(|one| is_wanted(one).contains(&options.only));
    match options.output {
        Output::Table => print!("{}", table::text(&measured)),
        Output::Json => print!("{}", table::json(&measured)),
    }
    if failed.is_empty() { Ok(()) } else { bail!("not measured: {}", failed.join(", ")) }
}

/// What of this program's rows is wanted, as a word in their own names; `None`: nothing is.
fn selection<'a>(program: &Program, only: &'a str) -> Option<&'a str> {
    let own = |only: &'a str| {
        let mut rows = ROWS.iter().filter(|row| row.from.0 == program.name);
        rows.any(|row| row.from.1.contains(only)).then_some(only)
    };
    let name = format!("{}: ", program.name);
    if name.contains(only) {
        return Some("");
    }
    // From the program's name on, as in `connects: socket LB, 1`, or a part of what follows it.
    own(only.strip_prefix(&name).unwrap_or(only))
}

fn build(program: &Program) -> Command {
    let mut command = cargo();
    match program.target[0] {
        "--bench" => command.args(["bench", "--quiet", "--no-run"]),
        _ => command.args(["build", "--quiet", "--release"]),
    };
    command.args(["--package", program.package]).args(program.target);
    command
}

/// Runs it, with complaints on the terminal; hands back its rows.
fn measure(program: &Program, only: &str) -> Result<Vec<Measured>> {
    let mut command = cargo();
    match program.target[0] {
        "--bench" => command.args(["bench", "--quiet"]),
        _ => command.args(["run", "--quiet", "--release"]),
    };
    command.args(["--package", program.package]).args(program.target).args(["--", "--json"]);
    if program.selects && !only.is_empty() {
        command.args(["--only", only]);
    }
    let line = shown(&command);
    let out = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output();
    let out = out.with_context(|| format!("cannot start `{line}`"))?;
    let text =
        String::from_utf8(out.stdout).with_context(|| format!("`{line}` printed something that is not UTF-8"))?;
    if !out.status.success() {
        bail!("`{line}` failed: {}\n{text}", out.status);
    }
    rows(program.name, &text).with_context(|| format!("`{line}`"))
}

/// Each line is an object with a row's name and its value.
fn rows(program: &'static str, text: &str) -> Result<Vec<Measured>> {
    let row = |line: &str| {
        let told: Value = serde_json::from_str(line).with_context(|| format!("printed {line:?}, which is no row"))?;
        if !told["row"].is_string() || !told["value"].is_number() {
            bail!("printed {line:?}, which has no `row` or no `value`");
        }
        Ok(Measured { program, told })
    };
    text.lines().map(row).collect()
}

#[cfg(test)]
mod tests;
