//! `cilium-cni`: started by a container runtime for each pod, says its answer on standard output and ends.

use std::io::{Read, Write};
use std::process::ExitCode;

/// A configuration is small; more than this is a mistake of whoever writes to us.
const STDIN_BYTES_MAX: u64 = 1 << 20;

fn main() -> ExitCode {
    // Collected once, here: everything below takes its environment as an argument. Values that are not text cannot be
    // meant for us and count as absent.
    let variables: std::collections::BTreeMap<String, String> =
        std::env::vars_os().filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?))).collect();
    let stdin = || {
        let mut text = Vec::new();
        std::io::stdin().lock().take(STDIN_BYTES_MAX).read_to_end(&mut text).map(|_| text)
    };
    let answer = cilium_cni::run(&|name| variables.get(name).map(String::as_str), stdin);
    let mut stdout = std::io::stdout().lock();
    let said = stdout.write_all(answer.stdout.as_bytes()).and_then(|()| stdout.flush());
    // A runtime that does not read the answer cannot know it was connected: that is a failure.
    if answer.success && said.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
