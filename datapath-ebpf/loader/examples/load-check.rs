//! Loads every program of an object and prints, as JSON, what the kernel's verifier made of each.
//!
//! `load-check OBJECT` attaches nothing and leaves nothing behind. On a refusal it prints the verifier's log and fails.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use aya::programs::{Program, ProgramError, ProgramInfo};
use aya::{EbpfLoader, VerifierLogLevel};
use serde_json::json;

/// Lines of the verifier's log that are shown: the end says what was refused and how it came to it.
const LOG_LINES: usize = 60;

/// Maps that are pinned by name go here, and away again.
struct PinDir(PathBuf);

impl PinDir {
    fn new() -> std::io::Result<Self> {
        let dir = PathBuf::from(format!("/sys/fs/bpf/load-check-{}", std::process::id()));
        std::fs::create_dir_all(&dir)?;
        Ok(Self(dir))
    }
}

impl Drop for PinDir {
    fn drop(&mut self) {
        if let Err(why) = std::fs::remove_dir_all(&self.0) {
            eprintln!("load-check: {} is left behind: {why}", self.0.display());
        }
    }
}

fn load(program: &mut Program) -> Result<ProgramInfo, ProgramError> {
    match program {
        Program::SchedClassifier(program) => program.load().and_then(|()| program.info()),
        Program::Xdp(program) => program.load().and_then(|()| program.info()),
        Program::CgroupSockAddr(program) => program.load().and_then(|()| program.info()),
        Program::CgroupSock(program) => program.load().and_then(|()| program.info()),
        Program::SockOps(program) => program.load().and_then(|()| program.info()),
        _ => Err(ProgramError::UnexpectedProgramType),
    }
}

fn check(object: &Path) -> Result<serde_json::Value, String> {
    let pins = PinDir::new()
        .map_err(|why| format!("no place to pin maps ({why}): is /sys/fs/bpf mounted, and is this root?"))?;
    let bytes = std::fs::read(object).map_err(|why| format!("{}: {why}", object.display()))?;
    let mut ebpf = EbpfLoader::new()
        .default_map_pin_directory(&pins.0)
        .verifier_log_level(VerifierLogLevel::VERBOSE | VerifierLogLevel::STATS)
        .load(&bytes)
        .map_err(|why| format!("{}: {}", object.display(), chain(&why)))?;
    let mut loaded = Vec::new();
    for (name, program) in ebpf.programs_mut() {
        let info = load(program).map_err(|why| format!("{name}: {}", refusal(&why)))?;
        loaded.push(json!({
            "program": name,
            "verified": info.verified_instruction_count(),
            "xlated_bytes": info.size_translated().unwrap_or(0),
        }));
    }
    Ok(loaded.into())
}

/// The error with all its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// The error, with the end of the verifier's log where there is one.
fn refusal(error: &ProgramError) -> String {
    let ProgramError::LoadError { io_error, verifier_log } = error else { return chain(error) };
    let log = verifier_log.to_string();
    let lines: Vec<_> = log.lines().collect();
    let tail = lines.get(lines.len().saturating_sub(LOG_LINES)..).unwrap_or_default();
    format!("the kernel refuses it: {io_error}\n{}", tail.join("\n"))
}

fn main() -> ExitCode {
    let Some(object) = std::env::args_os().nth(1) else {
        eprintln!("usage: load-check OBJECT");
        return ExitCode::from(2);
    };
    match check(Path::new(&object)) {
        Ok(loaded) => {
            println!("{loaded}");
            ExitCode::SUCCESS
        }
        Err(why) => {
            eprintln!("load-check: {why}");
            ExitCode::FAILURE
        }
    }
}
