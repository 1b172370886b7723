//! `cilium-agent`: see the library.

use std::process::ExitCode;

use anyhow::Context;
use cilium_agent::options::{Options, OptionsError};
use cilium_agent::{process, run, start};

/// Beside the main thread; the core takes one, everything else the other.
const WORKERS: usize = 2;
/// Reading policies is bounded in depth, and so is everything else.
const STACK_BYTES: usize = 1 << 20;

fn main() -> ExitCode {
    let environment = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    let read = match Options::read(std::env::args_os(), &environment) {
        Ok(read) => read,
        Err(OptionsError::Clap(text)) => text.exit(),
        Err(why) => {
            eprintln!("cilium-agent: {why}");
            return ExitCode::from(2);
        }
    };
    if let Err(why) = process::log(read.options.debug, &read.options.log_opt) {
        eprintln!("cilium-agent: {why}");
        return ExitCode::from(2);
    }
    for name in read.unknown {
        tracing::warn!(option = name, "a file in --config-dir is no option of this version; it has no effect");
    }
    match agent(&read.options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            tracing::error!("{}", sentence(&why));
            ExitCode::FAILURE
        }
    }
}

fn agent(options: &Options) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .max_blocking_threads(2)
        .thread_stack_size(STACK_BYTES)
        .thread_name("agent")
        .enable_all()
        .build()
        .context("starting the runtime")?;
    let ended = runtime.block_on(async { run::run(start::start(options)?).await });
    runtime.shutdown_timeout(std::time::Duration::from_secs(2));
    Ok(ended?)
}

/// An error with its causes, each said once: some errors say their cause themselves.
fn sentence(why: &anyhow::Error) -> String {
    why.chain().skip(1).fold(why.to_string(), |text, cause| {
        let cause = cause.to_string();
        if text.contains(&cause) { text } else { format!("{text}: {cause}") }
    })
}
