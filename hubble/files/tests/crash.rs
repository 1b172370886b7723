//! A writer is killed without warning, in the middle of its work; what it said was written is there for the next.

use hubble_api::{Timestamp, flow::Flow};
use hubble_files::history::{Limits, Recorder};
use hubble_model::{Event, FilterList, NodeInfo};
use hubble_server::{History as _, Past, Tap as _};
use std::{
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

/// Names the folder to the child that is killed.
const FOLDER: &str = "HUBBLE_HISTORY_CRASH_FOLDER";

fn open(folder: &Path) -> Recorder {
    let limits = Limits { bytes_max: 64 << 20, age_max: Duration::from_secs(4_000_000_000), ..Limits::default() };
    Recorder::open(folder, limits, NodeInfo::default()).unwrap()
}

/// Writes flows numbered from where it is told, and says how many can be read, until it is killed.
fn write_forever(folder: &Path) {
    let recorder = open(folder);
    let mut out = std::io::stdout();
    for at in 0_u64.. {
        let time = Some(Timestamp { seconds: i64::try_from(at).unwrap(), nanos: 0 });
        let flow = Flow {
            time,
            summary: format!("{:x}", at.wrapping_mul(0x9e37_79b9_7f4a_7c15)).repeat(8),
            ..Flow::default()
        };
        recorder.event(at, &Arc::new(Event::Flow(Box::new(flow))), &NodeInfo::default());
        if at % 500 == 499 {
            assert!(recorder.flush(Duration::from_secs(60)));
            writeln!(out, "written {}", at + 1).unwrap();
            out.flush().unwrap();
        }
    }
}

#[test]
fn what_was_written_survives_a_kill() {
    if let Some(folder) = std::env::var_os(FOLDER) {
        write_forever(Path::new(&folder));
    }
    for round in 1..=4_usize {
        let folder = tempfile::tempdir().unwrap();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["what_was_written_survives_a_kill", "--exact", "--nocapture"])
            .env(FOLDER, folder.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let said = BufReader::new(child.stdout.take().unwrap()).lines();
        let numbers =
            said.map_while(Result::ok).filter_map(|line| line.strip_prefix("written ")?.parse::<usize>().ok());
        let written = numbers.take(round * 3).last().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();

        let recorder = open(folder.path());
        let filters = Arc::new(FilterList::new(&[], &[]).unwrap());
        let mut pages = recorder.read(Past { since_ns: None, until_ns: None, before: 0, last: None, filters });
        let mut seconds = Vec::new();
        while let Some(page) = pages.next_page() {
            assert_eq!(page.lost, 0);
            seconds.extend(page.events.iter().map(|event| event.time_ns() / 1_000_000_000));
        }
        assert!(seconds.len() >= written, "{} of {written} are there", seconds.len());
        assert_eq!(seconds, (0..i64::try_from(seconds.len()).unwrap()).collect::<Vec<_>>(), "none is missing between");
        assert!(recorder.report().damage.len() <= 1, "{:?}", recorder.report());
    }
}
