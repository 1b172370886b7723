//! The agent's command line: what the agent says (REST) and what the kernel holds (maps), for people and for scripts.
//!
//! Commands that show state ask one of the two and never mix them silently: `cilium bpf …` reads the pinned maps and
//! works while the agent is down; it asks the agent only for labels, to be kind, and goes on without. Every command
//! that shows something takes `-o json`. Nothing here decides anything.
//!
//! Exit code: 0 done, 1 refused or failed (and, for `status`, not well), 2 wrong usage, 3 found what the command looks for
//! (`policy preview`: something would newly be denied; `policy lint`: something is suspicious).

mod arguments;
mod bpf;
mod config;
mod endpoint;
mod error;
mod identity;
mod monitor;
mod output;
mod policy;
mod service;
mod status;

use std::io::Write;
use std::time::Duration;

use api::client::Client;
use clap::CommandFactory;

pub use arguments::Arguments;
use arguments::{Command, IpCommand, LrpCommand, MapCommand};
pub use error::CliError;
use output::Screen;

/// How long one call may take unless a command has its own limit.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);

/// Runs one command; what it shows goes to `out`.
///
/// # Errors
/// See [`CliError`]; each says what to do where that is known.
pub fn run(arguments: &Arguments, out: &mut dyn Write) -> Result<(), CliError> {
    let client = Client::new(arguments.socket(), CALL_TIMEOUT);
    let mut screen = Screen::new(out, arguments.output);
    match &arguments.command {
        Command::Status(options) => status::show(arguments, options, &mut screen),
        Command::Endpoint(command) => endpoint::run(&client, command, &mut screen),
        Command::Identity(command) => identity::run(&client, command, &mut screen),
        Command::Policy(command) => policy::run(&client, command, &mut screen),
        Command::Service(command) => service::run(&client, command, &mut screen),
        Command::Lrp(LrpCommand::List) => service::redirects(&client, &mut screen),
        Command::Lb(command) => bpf::lb(arguments, command, &mut screen),
        Command::Ip(IpCommand::List { numeric, verbose }) => {
            identity::ip_list(&client, *numeric, *verbose, &mut screen)
        }
        Command::Bpf(command) => bpf::run(&client, arguments, command, &mut screen),
        Command::Map(MapCommand::List { verbose }) => bpf::map::list(&client, arguments, *verbose, &mut screen),
        Command::Map(MapCommand::Get { name }) => bpf::map::show(&client, name, &mut screen),
        Command::Monitor(options) => monitor::run(&client, arguments, options, &mut screen),
        Command::Config(options) => config::run(&client, options, &mut screen),
        Command::Version => status::version(&client, &mut screen),
        Command::Completion { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(*shell, &mut Arguments::command(), "cilium", &mut script);
            screen.raw(&script)
        }
    }
}

#[cfg(test)]
mod tests;
