//! The `hubble` program: arguments and streams of the process, handed to the library.

use hubble_cli::{Io, run, settings::Environment};
use std::io::{self, BufWriter, IsTerminal as _};

fn main() {
    let args: Vec<String> = std::env::args_os().skip(1).map(|arg| arg.to_string_lossy().into_owned()).collect();
    let env = Environment {
        variables: std::env::vars_os()
            .map(|(name, value)| (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned()))
            .collect(),
        directory: std::env::current_dir().unwrap_or_default(),
    };
    let terminal = io::stdout().is_terminal();
    let mut out = BufWriter::with_capacity(1 << 16, io::stdout());
    let mut io = Io { input: &mut io::stdin().lock(), out: &mut out, err: &mut io::stderr(), terminal };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let code = match runtime {
        Ok(runtime) => runtime.block_on(run(&args, &env, &mut io)),
        Err(error) => {
            eprintln!("cannot start: {error}");
            1
        }
    };
    drop(out);
    std::process::exit(code);
}
