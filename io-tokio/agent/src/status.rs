//! What happened last, for `GET /healthz`: counts and sentences no table of the core keeps.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::time::{Instant, SystemTime};

/// Warnings kept.
const WARNINGS_MAX: usize = 32;

/// Shared notes.
#[derive(Debug)]
pub struct Status {
    notes: Mutex<Notes>,
    /// When this agent started.
    pub started: Instant,
    /// Likewise, on the wall.
    pub started_at: SystemTime,
}

#[derive(Debug, Default)]
struct Notes {
    policy_files: BTreeMap<String, String>,
    full: BTreeMap<&'static str, usize>,
    warnings: VecDeque<String>,
    sweep_failures: u64,
    sweeps: u64,
    last_sweep_failure: String,
}

impl Default for Status {
    fn default() -> Self {
        Self { notes: Mutex::default(), started: Instant::now(), started_at: SystemTime::now() }
    }
}

/// What is wrong at the moment.
#[derive(Clone, Debug, Default)]
pub struct Troubles {
    /// Policy files that are not taken up, with why.
    pub policy_files: Vec<(String, String)>,
    /// Maps without room, with their sizes.
    pub full: Vec<(&'static str, usize)>,
    /// Warnings, oldest first.
    pub warnings: Vec<String>,
}

impl Status {
    fn with<T>(&self, look: impl FnOnce(&mut Notes) -> T) -> T {
        look(&mut self.notes.lock().unwrap_or_else(PoisonError::into_inner))
    }
    /// A policy file was not taken up.
    pub fn policy_file_refused(&self, path: &str, why: &str) {
        self.with(|notes| notes.policy_files.insert(path.into(), why.into()));
    }
    /// A policy file changed: what was said about it is out of date.
    pub fn policy_file_changed(&self, path: &str) {
        self.with(|notes| notes.policy_files.remove(path));
    }
    /// A map has no room.
    pub fn map_full(&self, map: &'static str, max: usize) {
        self.with(|notes| notes.full.insert(map, max));
    }
    /// Everything wanted is in the maps.
    pub fn realized(&self) {
        self.with(|notes| notes.full.clear());
    }
    /// Something is not as it should be.
    pub fn warning(&self, text: String) {
        self.with(|notes| {
            if notes.warnings.len() >= WARNINGS_MAX {
                notes.warnings.pop_front();
            }
            notes.warnings.push_back(text);
        });
    }
    /// A sweep of the connection maps ended.
    pub fn swept(&self, failure: Option<String>) {
        self.with(|notes| match failure {
            None => notes.sweeps += 1,
            Some(why) => {
                notes.sweep_failures += 1;
                notes.last_sweep_failure = why;
            }
        });
    }
    /// Sweeps that went well, that failed, and the last failure.
    pub fn sweeps(&self) -> (u64, u64, String) {
        self.with(|notes| (notes.sweeps, notes.sweep_failures, notes.last_sweep_failure.clone()))
    }
    /// What is wrong at the moment.
    pub fn troubles(&self) -> Troubles {
        self.with(|notes| Troubles {
            policy_files: notes.policy_files.iter().map(|(path, why)| (path.clone(), why.clone())).collect(),
            full: notes.full.iter().map(|(map, max)| (*map, *max)).collect(),
            warnings: notes.warnings.iter().cloned().collect(),
        })
    }
}
