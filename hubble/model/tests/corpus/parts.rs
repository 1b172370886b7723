//! Where the published corpora are, and how they are read: in place, never copied. The command line's tests read theirs so
//! too.

use serde_json::Value;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// A file or folder beside the repository; none, said aloud, where it is absent.
pub fn shared(path: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared").join(path);
    if path.exists() {
        return Some(path);
    }
    let _shown = writeln!(std::io::stderr(), "skipped: {} is absent", path.display());
    None
}

/// The parts `<name>.<part>.json` of a corpus; none, said aloud, where there are none.
pub fn parts(dir: &Path, name: &str) -> Vec<Value> {
    let files = std::fs::read_dir(dir).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path()));
    let is_part = |path: &PathBuf| {
        let file = path.file_name().and_then(|file| file.to_str()).unwrap_or_default();
        file.strip_prefix(name).is_some_and(|rest| rest.starts_with('.')) && file.ends_with(".json")
    };
    let mut files: Vec<_> = files.filter(is_part).collect();
    files.sort();
    if files.is_empty() {
        let _shown = writeln!(std::io::stderr(), "skipped: there is no {name}.*.json in {}", dir.display());
    }
    let read = |path: PathBuf| serde_json::from_str(&std::fs::read_to_string(path).expect("readable")).expect("JSON");
    files.into_iter().map(read).collect()
}

/// How many of a list are as published, and those that are not.
pub struct Score {
    pub name: &'static str,
    pub total: usize,
    pub wrong: Vec<String>,
}

/// The `conformance` examples: prints how a corpus fares, `conformance [DIR] [NAME…]`.
#[allow(clippy::print_stdout, reason = "a command")]
pub fn command(corpus: &str, evaluations: &[fn(&Value) -> Score]) -> ExitCode {
    let mut args = std::env::args().skip(1);
    let dir = args.next().map(PathBuf::from).or_else(|| shared("conformance"));
    let names: Vec<String> = args.collect();
    let wanted = names.is_empty() || names.iter().any(|name| name == corpus);
    let Some(dir) = dir.filter(|_| wanted) else { return ExitCode::SUCCESS };
    let mut code = ExitCode::SUCCESS;
    for part in parts(&dir, corpus) {
        for evaluate in evaluations {
            let Score { name, total, wrong } = evaluate(&part);
            println!("{corpus}: {name}: {}/{total}", total - wrong.len());
            wrong.iter().take(5).for_each(|difference| println!("    - {difference}"));
            if !wrong.is_empty() || total == 0 {
                code = ExitCode::FAILURE;
            }
        }
    }
    code
}
