//! Where the published corpora are, and how they are read: in place, never copied. The command line's tests read theirs so
//! too.

use serde_json::Value;
use std::io::Write as _;
use std::path::{Path, PathBuf};

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
