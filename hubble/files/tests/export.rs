//! Exports as those see them who read the files.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

use hubble_api::{
    Timestamp,
    flow::{AgentEvent, Endpoint, Flow, FlowFilter, LostEvent, Verdict},
    json,
    observer::{ExportEvent, export_event::ResponseTypes},
};
use hubble_files::export::{Exporter, Exports, FlowLog, Rotation};
use hubble_model::{Event, NodeInfo};
use hubble_server::{Config, Extras, Observer};
use std::{
    fs,
    io::{BufRead as _, BufReader},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

const LONG: Duration = Duration::from_secs(60);

fn node() -> NodeInfo {
    NodeInfo { name: "default/node-1".into(), labels: Vec::new() }
}

fn log(path: PathBuf) -> FlowLog {
    FlowLog {
        name: "static".into(),
        path,
        mask: Vec::new(),
        include: Vec::new(),
        exclude: Vec::new(),
        end_ns: None,
        rotation: Rotation::default(),
    }
}

fn flow(at: i64, pod: &str) -> Flow {
    Flow {
        time: Some(Timestamp { seconds: at, nanos: 5_000_000 }),
        node_name: "default/node-1".into(),
        verdict: Verdict::Forwarded.into(),
        source: Some(Endpoint { namespace: "ns".into(), pod_name: pod.into(), ..Endpoint::default() }),
        ..Flow::default()
    }
}

fn event(at: i64, pod: &str) -> Arc<Event> {
    Arc::new(Event::Flow(Box::new(flow(at, pod))))
}

fn lines(path: &Path) -> Vec<String> {
    fs::read_to_string(path).unwrap_or_default().lines().map(str::to_owned).collect()
}

#[test]
fn lines_are_the_originals() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("events.log");
    let exporter = Exporter::start(log(path.clone()), node()).unwrap();
    exporter.offer(&event(1_700_000_000, "a<b"));
    let lost = LostEvent { source: 2, num_events_lost: 3, ..LostEvent::default() };
    exporter.offer(&Arc::new(Event::Lost { time_ns: 1_000_000_000, event: lost }));
    let agent = AgentEvent { r#type: 2, ..AgentEvent::default() };
    exporter.offer(&Arc::new(Event::Agent { time_ns: 1_000_000_000, event: Box::new(agent) }));
    assert!(exporter.flush(LONG));
    assert_eq!(
        lines(&path),
        [
            r#"{"flow":{"time":"2023-11-14T22:13:20.005Z","verdict":"FORWARDED","source":{"namespace":"ns","pod_name":"a\u003cb"},"node_name":"default/node-1"},"node_name":"default/node-1","time":"2023-11-14T22:13:20.005Z"}"#,
            r#"{"lost_events":{"source":"OBSERVER_EVENTS_QUEUE","num_events_lost":"3"},"node_name":"node-1","time":"1970-01-01T00:00:01Z"}"#,
            r#"{"agent_event":{"type":"AGENT_STARTED"},"node_name":"node-1","time":"1970-01-01T00:00:01Z"}"#,
        ]
    );
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn masks_and_filters_thin_flows_and_leave_losses_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("events.log");
    let pod = |name: &str| FlowFilter { source_pod: vec![name.into()], ..FlowFilter::default() };
    let mut thin = log(path.clone());
    thin.mask = vec!["source.pod_name".into(), "verdict".into()];
    thin.include = vec![pod("ns/a"), pod("ns/b")];
    thin.exclude = vec![pod("ns/ab")];
    let exporter = Exporter::start(thin, node()).unwrap();
    for name in ["a", "ab", "b", "c"] {
        exporter.offer(&event(1, name));
    }
    exporter.offer(&Arc::new(Event::Agent { time_ns: 0, event: Box::default() }));
    exporter.offer(&Arc::new(Event::Lost { time_ns: 0, event: LostEvent::default() }));
    assert!(exporter.flush(LONG));
    let flow = |name: &str| format!(r#"{{"flow":{{"verdict":"FORWARDED","source":{{"pod_name":"{name}"}}}}}}"#);
    let lost = r#"{"lost_events":{},"node_name":"node-1","time":"1970-01-01T00:00:00Z"}"#;
    assert_eq!(lines(&path), [flow("a"), flow("b"), lost.to_owned()]);
    let mut wrong = log(path);
    wrong.mask = vec!["source.pod".into()];
    assert!(Exporter::start(wrong, node()).unwrap_err().to_string().contains("source.pod"));
}

#[test]
fn rotated_files_hold_every_line_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("events.log");
    let rotation = Rotation { bytes_max: 20_000, backups_max: 0, compress: false };
    let exporter = Exporter::start(FlowLog { rotation, ..log(path) }, node()).unwrap();
    for at in 0..2_000 {
        exporter.offer(&event(at, "a"));
    }
    assert!(exporter.flush(LONG));
    let mut seconds = Vec::new();
    let mut files = 0;
    for entry in fs::read_dir(folder.path()).unwrap() {
        files += 1;
        let path = entry.unwrap().path();
        assert!(fs::metadata(&path).unwrap().len() <= 20_000, "{}", path.display());
        for line in lines(&path) {
            let event: ExportEvent = json::from_str(&line).unwrap();
            seconds.push(event.time.unwrap().seconds);
        }
    }
    seconds.sort_unstable();
    assert_eq!(seconds, (0..2_000).collect::<Vec<_>>());
    assert!(files > 10, "{files}");
}

#[test]
fn a_disk_that_refuses_is_reported_and_tried_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("is/a/folder");
    fs::create_dir_all(&path).unwrap();
    let exports = Exports::new(node(), Some(log(path.clone())), Rotation::default()).unwrap();
    let observer = observer(exports);
    observer.0.publish_flow(flow(1, "a"));
    assert!(observer.1.flush(LONG));
    let troubles = observer.1.troubles();
    assert!(troubles[0].contains("export static cannot be written") && troubles[0].contains("1 flows"), "{troubles:?}");
    fs::remove_dir(&path).unwrap();
    // The disk is left alone for a second; what comes then is written.
    let until = std::time::Instant::now() + LONG;
    while !observer.1.troubles().is_empty() {
        assert!(std::time::Instant::now() < until);
        observer.0.publish_flow(flow(2, "a"));
        assert!(observer.1.flush(LONG));
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(!lines(&path).is_empty());
    let (_, report) = observer.1.reports().remove(0);
    assert_eq!(report.written, lines(&path).len() as u64);
    assert!(report.failed >= 1 && report.error.is_none());
}

#[test]
fn a_full_disk_costs_lines_and_nothing_else() {
    let exports = Exports::new(node(), Some(log("/dev/full".into())), Rotation::default()).unwrap();
    let observer = observer(exports);
    for at in 0..100 {
        observer.0.publish_flow(flow(at, "a"));
    }
    assert!(observer.1.flush(LONG));
    let (_, report) = observer.1.reports().remove(0);
    assert_eq!((report.written, report.failed), (0, 100));
    assert!(report.error.unwrap().contains("No space left"), "the reason is told");
    assert_eq!(observer.0.seen_flows(), 100);
}

#[test]
fn a_disk_that_hangs_never_holds_up_who_publishes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pipe");
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
    // Opening a pipe nobody reads blocks the thread of the export for good.
    let exports = Exports::new(node(), Some(log(path.clone())), Rotation::default()).unwrap();
    let observer = observer(exports);
    for at in 0..60_000 {
        observer.0.publish_flow(flow(at, "a"));
    }
    let (_, report) = observer.1.reports().remove(0);
    assert!(report.lost >= 60_000 - 2 * 16_384 - 1, "{report:?}");
    assert_eq!(observer.0.seen_flows(), 60_000);
    // Once somebody reads, the file itself says how many are missing.
    let reader = std::thread::spawn(move || {
        let lines = BufReader::new(fs::File::open(path).unwrap()).lines().map(Result::unwrap);
        let lost = lines.filter(|line| line.contains("\"lost_events\"")).map(|line| {
            match json::from_str::<ExportEvent>(&line).unwrap().response_types {
                Some(ResponseTypes::LostEvents(lost)) => lost.num_events_lost,
                other => panic!("{other:?}"),
            }
        });
        lost.sum::<u64>()
    });
    drop(observer);
    assert_eq!(reader.join().unwrap(), report.lost);
}

fn observer(exports: Exports) -> (Observer, Arc<Exports>) {
    let exports = Arc::new(exports);
    let extras = Extras { taps: vec![exports.clone()], ..Extras::default() };
    (Observer::with(Config { node_name: "node-1".into(), ..Config::default() }, extras), exports)
}

#[test]
fn the_file_of_exports_changes_without_loss_for_those_that_stay() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let entry = |name: &str, more: &str| format!("- name: {name}\n  filePath: {}\n{more}", path(name).display());
    let (observer, exports) = observer(Exports::new(node(), None, Rotation::default()).unwrap());
    let text = format!("flowLogs:\n{}{}", entry("a", ""), entry("b", "  end: 2001-01-01T00:00:00Z\n"));
    let change = exports.apply(&text, 5_000_000_000).unwrap();
    assert_eq!((change.added.len(), change.updated.len(), change.removed.len()), (2, 0, 0));
    assert_eq!(exports.apply(&text, 9).unwrap(), Default::default(), "the same text changes nothing");

    // One thread publishes all the time, another changes what is beside `a`.
    let total = 4_000;
    let publisher = std::thread::spawn({
        let observer = observer.clone();
        move || {
            for at in 0..total {
                observer.publish_flow(flow(at, "a"));
                if at % 400 == 399 {
                    std::thread::sleep(Duration::from_millis(5));
                }
            }
        }
    });
    let with_c = format!("flowLogs:\n{}{}", entry("a", ""), entry("c", ""));
    let with_masked_c = format!("flowLogs:\n{}{}", entry("a", ""), entry("c", "  fieldMask: [verdict]\n"));
    let change = exports.apply(&with_c, 6_000_000_000).unwrap();
    assert_eq!((change.added, change.removed), (vec!["c".to_owned()], vec!["b".to_owned()]));
    assert_eq!(exports.apply(&with_masked_c, 7_000_000_000).unwrap().updated, ["c"]);
    exports.apply("flowLogs: [{name: a}]", 8_000_000_000).unwrap_err();
    assert!(exports.troubles()[0].contains("flowLogs[0].filePath"), "{:?}", exports.troubles());
    publisher.join().unwrap();
    assert!(exports.flush(LONG));
    assert_eq!(lines(&path("a")).len(), usize::try_from(total).unwrap(), "`a` did not notice");
    observer.publish_flow(flow(1, "last"));
    assert!(exports.flush(LONG));
    assert_eq!(
        lines(&path("c")).last().unwrap(),
        r#"{"flow":{"verdict":"FORWARDED"}}"#,
        "the refused text changed nothing"
    );

    let mut out = hubble_metrics::text::Writer::new(hubble_metrics::Format::Text);
    exports.metrics(8_000_000_000, &mut out);
    let text = out.finish();
    for line in [
        "hubble_dynamic_exporter_exporters_total{status=\"active\"} 2",
        "hubble_dynamic_exporter_up{source=\"c\"} 1",
        "hubble_dynamic_exporter_reconfigurations_total{op=\"add\"} 3",
        "hubble_dynamic_exporter_reconfigurations_total{op=\"update\"} 1",
        "hubble_dynamic_exporter_reconfigurations_total{op=\"remove\"} 1",
        "hubble_dynamic_exporter_reconfigurations_total{op=\"failure\"} 1",
        "hubble_dynamic_exporter_config_last_applied 7",
        "hubble_exporter_events_total{name=\"a\"} 4001",
    ] {
        assert!(text.lines().any(|have| have == line), "{line} is not in\n{text}");
    }
    // The text of before is good again, also right after a bad one.
    exports.apply(&with_masked_c, 9_000_000_000).unwrap();
    assert_eq!(exports.troubles(), Vec::<String>::new());
}

#[test]
fn exports_end_when_they_should_and_share_no_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("events.log");
    let ends = FlowLog { end_ns: Some(10_000_000_000), ..log(path.clone()) };
    let exports = Exports::new(node(), Some(ends), Rotation::default()).unwrap();
    let twice = format!("flowLogs: [{{name: b, filePath: {}}}]", path.display());
    assert!(exports.apply(&twice, 0).unwrap_err().to_string().contains("--hubble-export-file-path"));
    let (observer, exports) = observer(exports);
    observer.publish_flow(flow(9, "a"));
    observer.publish_flow(flow(10, "a"));
    assert!(exports.flush(LONG));
    assert_eq!(lines(&path).len(), 1);
}

const PIECES: [&str; 30] = [
    "flowLogs",
    ":",
    "\n- ",
    "name: ",
    "filePath: ",
    "/a",
    "stdout",
    "fieldMask: ",
    "includeFilters: ",
    "excludeFilters: ",
    "end: ",
    "\n  ",
    "[",
    "]",
    "{",
    "}",
    ",",
    "\"",
    "source_pod",
    "verdict",
    "DROPPED",
    "2026-01-01T00:00:00Z",
    "&x",
    "*x",
    "null",
    "1",
    "true",
    "fileMaxSizeMb: ",
    "fileCompress: ",
    "---\n",
];

fn try_all(text: &str) {
    match hubble_files::export::parse(text, &Rotation::default()) {
        Ok(logs) => logs.iter().for_each(|log| drop(log.compile().expect("it was checked"))),
        Err(why) => assert!(!why.to_string().is_empty()),
    }
    if let Err(why) = hubble_files::export::parse_filters(text) {
        assert!(!why.to_string().is_empty());
    }
}

/// Any text is read or refused with words. The corpus holds texts that are right.
#[test]
fn any_text_of_exports_is_read_or_refused() {
    bolero::check!().for_each(|bytes: &[u8]| try_all(&String::from_utf8_lossy(bytes)));
}

/// Texts that are nearly right.
#[test]
fn pieces_of_exports_are_read_or_refused() {
    bolero::check!().with_type::<Vec<u8>>().for_each(|choice: &Vec<u8>| {
        try_all(&choice.iter().map(|at| PIECES[usize::from(*at) % PIECES.len()]).collect::<String>());
    });
}
