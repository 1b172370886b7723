//! The `hubble` command: shows flows and events, and the state of whoever has them.
//!
//! Commands, flags, texts and exit codes are those of the original, so scripts written for it keep working. The
//! library takes arguments, environment and streams from its caller, which is how tests run it without a process.
#![forbid(unsafe_code)]

pub mod commands;
mod config;
pub mod filters;
pub mod flags;
mod graph;
mod list;
mod observe;
mod other;
pub mod printer;
mod record;
mod reflect;
mod remote;
pub mod settings;
mod source;
mod status;
pub mod tabwriter;
mod talk;
pub mod times;
mod tls;
mod top;

pub use observe::DEFAULT_MASK;

use commands::Command;
use flags::Parsed;
use settings::{Environment, Settings};
use std::io::{BufRead, Write};

/// The streams a command reads and writes.
pub struct Io<'a> {
    /// Standard input.
    pub input: &'a mut dyn BufRead,
    /// Standard output.
    pub out: &'a mut dyn Write,
    /// Error output.
    pub err: &'a mut dyn Write,
    /// True when the output is a terminal.
    pub terminal: bool,
}

/// Why a command failed; shown as one line. Empty when whoever read the output has closed it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Failure(pub String);

impl From<String> for Failure {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        let closed = error.kind() == std::io::ErrorKind::BrokenPipe;
        Self(if closed { String::new() } else { error.to_string() })
    }
}

/// Exit code when the output was closed, as of a process that the signal for it ended.
const CLOSED: i32 = 141;

/// Runs the command the arguments name; they begin behind the program's name. Answers the exit code.
pub async fn run(args: &[String], env: &Environment, io: &mut Io<'_>) -> i32 {
    let (command, _) = find(args);
    let ended = tokio::select! {
        ended = dispatch(args, env, io) => ended,
        _ = tokio::signal::ctrl_c(), if !command.ends_itself() => Ok(()),
    };
    match ended {
        Ok(()) => 0,
        Err(Failure(text)) if text.is_empty() => CLOSED,
        Err(Failure(text)) => {
            // Whoever closed the error output does not want to know.
            let _ = writeln!(io.err, "{}", text.trim_end_matches('\n'));
            1
        }
    }
}

/// Finds the command, and the arguments without the words that name it.
fn find(args: &[String]) -> (Command, Vec<String>) {
    let mut command = Command::Root;
    let mut rest = args.to_vec();
    loop {
        let flags = command.flags();
        let first = flags::positions(&rest, &flags).into_iter().next();
        let Some((at, below)) = first.and_then(|(at, word)| Some((at, command.below(word)?))) else { break };
        if below == command {
            // `observe flows` is `observe`.
            rest.remove(at);
            break;
        }
        rest.remove(at);
        command = below;
    }
    (command, rest)
}

async fn dispatch(args: &[String], env: &Environment, io: &mut Io<'_>) -> Result<(), Failure> {
    let (command, rest) = find(args);
    let flags = command.flags();
    let mut filters = filters::Filters::default();
    let parsed: Parsed = flags::parse(&rest, &flags, |name, value| filters.set(name, value))?;
    if parsed.help {
        write!(io.out, "{}", command.help())?;
        return Ok(());
    }
    let settings = Settings::new(&flags, &parsed, env);
    let mut warnings: Vec<String> = unused_word(command, &parsed)?.into_iter().collect();
    if command.asks() {
        remote::validate(&settings)?;
        warnings.extend(settings.warnings());
    }
    if !settings.flag("silent-errors") {
        for warning in warnings {
            writeln!(io.err, "warning: {warning}")?;
        }
    }
    let words = &parsed.words;
    match command {
        Command::Root if parsed.given("version").is_some() => write!(io.out, "hubble {}\r\n", other::VERSION)?,
        Command::Root | Command::List | Command::Watch | Command::Config => write!(io.out, "{}", command.help())?,
        Command::Observe => observe::flows(&settings, &filters, env, io).await?,
        Command::AgentEvents | Command::DebugEvents => observe::events(command, &settings, io).await?,
        Command::Top => top::run(&settings, words, &filters, io).await?,
        Command::Graph => graph::run(&settings, &filters, io).await?,
        Command::Record => record::run(&settings, words, io).await?,
        Command::Reflect => reflect::run(&settings, io).await?,
        Command::Status => status::run(&settings, io).await?,
        Command::ListNodes => list::nodes(&settings, io).await?,
        Command::ListNamespaces => list::namespaces(&settings, io).await?,
        Command::WatchPeers => other::watch_peers(&settings, io).await?,
        Command::ConfigGet | Command::ConfigSet | Command::ConfigReset | Command::ConfigView => {
            config::run(command, &settings, words, io)?;
        }
        Command::Version => writeln!(io.out, "{}", other::version_line())?,
        Command::Completion => other::completion(words, io)?,
        Command::Help => {
            let (about, _) = find(words);
            write!(io.out, "{}", about.help())?;
        }
    }
    io.out.flush()?;
    Ok(())
}

/// Words behind a command that has no use for them are told, and passed over as the original does. Where a command
/// should stand they are refused.
fn unused_word(command: Command, parsed: &Parsed) -> Result<Option<String>, Failure> {
    let Some(word) = parsed.words.first().filter(|_| !command.takes_words()) else { return Ok(None) };
    let path = command.path();
    if command.passes_words_over() {
        return Ok(Some(format!("{path} takes no words: {word:?} is passed over")));
    }
    Err(Failure(format!("unknown command \"{word}\" for \"{path}\"")))
}
