use super::{
    block::{Filling, HEAD, Head},
    segment::{self, scan},
    *,
};
use crate::testing::on_a_small_disk;
use hubble_api::{
    Timestamp,
    flow::{Flow, FlowFilter, Verdict},
};
use hubble_model::{Event, FilterList, NodeInfo};
use hubble_server::{History as _, Past, Tap as _};
use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

const LONG: Duration = Duration::from_secs(60);

/// The flow of second `at`; every third was dropped.
fn flow(at: i64) -> Flow {
    let verdict = if at % 3 == 0 { Verdict::Dropped } else { Verdict::Forwarded };
    Flow {
        time: Some(Timestamp { seconds: at, nanos: 0 }),
        uuid: format!("flow-{at}"),
        verdict: verdict.into(),
        summary: "a text that makes flows as long as they are in life, more or less".repeat(4),
        ..Flow::default()
    }
}

fn limits() -> Limits {
    Limits { age_max: Duration::from_secs(4_000_000_000), ..Limits::default() }
}

fn open(folder: &Path) -> Recorder {
    Recorder::open(folder, limits(), NodeInfo::default()).unwrap()
}

fn write(recorder: &Recorder, seconds: impl Iterator<Item = i64>) {
    for (at, position) in seconds.zip(0..) {
        recorder.event(position, &Arc::new(Event::Flow(Box::new(flow(at)))), &NodeInfo::default());
        if position % 1_000 == 999 {
            assert!(recorder.flush(LONG));
        }
    }
    assert!(recorder.flush(LONG));
}

fn past() -> Past {
    let filters = Arc::new(FilterList::new(&[], &[]).unwrap());
    Past { since_ns: None, until_ns: None, before: u64::MAX, last: None, filters }
}

/// Seconds of the flows read, and how many were lost.
fn read(recorder: &Recorder, past: Past) -> (Vec<i64>, u64) {
    let mut pages = recorder.read(past);
    let (mut seconds, mut lost) = (Vec::new(), 0);
    while let Some(page) = pages.next_page() {
        seconds.extend(page.events.iter().map(|event| event.time_ns() / 1_000_000_000));
        lost += page.lost;
    }
    (seconds, lost)
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "seg"))
        .collect();
    all.sort();
    all
}

const S: i64 = 1_000_000_000;

#[test]
fn the_past_is_read_by_time_number_and_filter_over_restarts() {
    let folder = tempfile::tempdir().unwrap();
    let first = open(folder.path());
    write(&first, 0..5_000);
    drop(first);
    let second = open(folder.path());
    write(&second, 5_000..6_000);
    assert_eq!(files(folder.path()).len(), 2);
    assert_eq!(read(&second, past()), ((0..6_000).collect(), 0));
    let window = Past { since_ns: Some(4_990 * S), until_ns: Some(5_010 * S), ..past() };
    assert_eq!(read(&second, window).0, (4_990..=5_010).collect::<Vec<_>>());
    for last in [1, 7, 999, 1_001, 5_999, 9_999] {
        let want: Vec<i64> = ((6_000 - i64::try_from(last).unwrap()).max(0)..6_000).collect();
        assert_eq!(read(&second, Past { last: Some(last), ..past() }).0, want, "the last {last}");
    }
    let dropped = FlowFilter { verdict: vec![Verdict::Dropped.into()], ..FlowFilter::default() };
    let dropped = Arc::new(FilterList::new(&[dropped], &[]).unwrap());
    let some = Past { last: Some(700), filters: dropped, ..past() };
    assert_eq!(read(&second, some).0, (0..6_000).filter(|at| at % 3 == 0).skip(1_300).collect::<Vec<_>>());
    // The ring has what this life published from position 400 on, and nothing of the other.
    assert_eq!(read(&second, Past { before: 400, ..past() }).0, (0..5_400).collect::<Vec<_>>());
    assert_eq!(read(&second, Past { since_ns: Some(9_000 * S), ..past() }), (Vec::new(), 0));
}

#[test]
fn bytes_and_age_are_bounded_and_the_newest_stays() {
    let folder = tempfile::tempdir().unwrap();
    let bytes_max = 1 << 20;
    let recorder = Recorder::open(folder.path(), Limits { bytes_max, ..limits() }, NodeInfo::default()).unwrap();
    // Texts that do not compress, so that the bound is met soon.
    for position in 0..20_000_u64 {
        let noise: String =
            (0..8).map(|n| format!("{:016x}", (position * 8 + n).wrapping_mul(0x9e37_79b9_7f4a_7c15))).collect();
        let flow = Flow { uuid: noise, ..flow(i64::try_from(position).unwrap()) };
        recorder.event(position, &Arc::new(Event::Flow(Box::new(flow))), &NodeInfo::default());
        if position % 1_000 == 999 {
            assert!(recorder.flush(LONG));
            let bytes: u64 = files(folder.path()).iter().map(|path| fs::metadata(path).unwrap().len()).sum();
            assert!(bytes <= bytes_max, "{bytes} bytes at {position}");
        }
    }
    let (seconds, lost) = read(&recorder, past());
    assert_eq!((seconds.last(), lost), (Some(&19_999), 0));
    assert!(seconds[0] > 0 && seconds.is_sorted(), "the oldest are gone");
    drop(recorder);
    let aged = Limits { bytes_max, age_max: Duration::from_secs(1), ..Limits::default() };
    let recorder = Recorder::open(folder.path(), aged, NodeInfo::default()).unwrap();
    recorder.event(0, &Arc::new(Event::Flow(Box::new(flow(1)))), &NodeInfo::default());
    assert!(recorder.flush(LONG));
    assert_eq!(read(&recorder, past()).0, [1], "flows of 1970 are older than a second");
}

#[test]
fn a_torn_end_is_cut_off_and_told_and_the_rest_is_there() {
    for keep in [0, 1, HEAD as u64 - 1, HEAD as u64 + 5] {
        let folder = tempfile::tempdir().unwrap();
        let recorder = open(folder.path());
        write(&recorder, 0..1_000);
        let path = files(folder.path()).remove(0);
        let whole = fs::metadata(&path).unwrap().len();
        write(&recorder, 1_000..1_100);
        let bytes = fs::read(&path).unwrap();
        drop(recorder);
        // As a crash leaves it: no index, and a part of the last block.
        fs::write(&path, &bytes[..usize::try_from(whole + keep).unwrap()]).unwrap();
        let recorder = open(folder.path());
        assert_eq!(read(&recorder, past()), ((0..1_000).collect(), 0), "{keep} bytes of the last block");
        let damage = recorder.report().damage;
        if keep == 0 {
            assert_eq!(damage.len(), 0);
        } else {
            assert_eq!(damage, [format!("000000000001.seg: {keep} bytes from byte {whole} on")]);
            assert!(recorder.troubles()[0].contains("000000000001.seg"));
        }
        drop(recorder);
        assert_eq!(open(folder.path()).report().damage.len(), 0, "it was cut off");
    }
}

#[test]
fn a_damaged_block_is_skipped_by_name_and_its_flows_are_counted() {
    let folder = tempfile::tempdir().unwrap();
    let recorder = open(folder.path());
    write(&recorder, 0..3_000);
    drop(recorder);
    let path = files(folder.path()).remove(0);
    let mut bytes = fs::read(&path).unwrap();
    let contents = segment::read(&path).unwrap();
    assert!(contents.finished && contents.blocks.len() > 5, "{}", contents.blocks.len());
    let bad = contents.blocks[2];
    let at = usize::try_from(bad.offset).unwrap() + HEAD + 10;
    bytes[at] ^= 0x40;
    fs::write(&path, &bytes).unwrap();
    let recorder = open(folder.path());
    let (seconds, lost) = read(&recorder, past());
    assert_eq!((lost, seconds.len()), (bad.head.flows.into(), 3_000 - usize::try_from(bad.head.flows).unwrap()));
    let report = recorder.report();
    assert_eq!((report.unreadable, report.damage.len()), (bad.head.flows.into(), 1));
    assert!(report.damage[0].starts_with(&format!(
        "000000000001.seg: {} bytes from byte {} on",
        bad.end() - bad.offset,
        bad.offset
    )));
    drop(recorder);
    // Without its index the segment is searched, and blocks behind the damage are found again.
    let end = usize::try_from(contents.blocks.last().unwrap().end()).unwrap();
    let found = scan(&bytes[..end]);
    assert_eq!((found.blocks.len(), found.damage.len()), (contents.blocks.len() - 1, 1));
}

#[test]
fn two_agents_cannot_write_one_history() {
    let folder = tempfile::tempdir().unwrap();
    let first = open(folder.path());
    let why = Recorder::open(folder.path(), limits(), NodeInfo::default()).unwrap_err();
    assert!(matches!(&why, OpenError::InUse(path) if path == folder.path()), "{why}");
    drop(first);
    open(folder.path());
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    let why = Recorder::open(&file.join("x"), limits(), NodeInfo::default()).unwrap_err().to_string();
    assert!(why.contains("make the folder") && why.contains("file/x"), "{why}");
}

/// Any bytes are searched without a panic, all of them are accounted for, and blocks between garbage are found.
#[test]
fn any_bytes_are_searched() {
    let mut filling = Filling::default();
    assert!(filling.add(7, 9 * S, &flow(9)));
    let (_, block) = filling.close(1).unwrap();
    bolero::check!().with_type::<(Vec<u8>, Vec<u8>, u8)>().for_each(
        |(before, behind, flip): &(Vec<u8>, Vec<u8>, u8)| {
            let bytes = [before.as_slice(), &block, behind].concat();
            let found = scan(&bytes);
            assert!(found.blocks.iter().any(|found| found.offset == before.len() as u64), "the block is found");
            let covered: u64 = found.blocks.iter().map(|block| block.end() - block.offset).sum::<u64>()
                + found.damage.iter().map(|damage| damage.bytes).sum::<u64>();
            assert_eq!(covered, bytes.len() as u64);
            // One bit flipped anywhere is noticed.
            let mut broken = block.clone();
            let at = usize::from(*flip) * broken.len() / 256;
            broken[at] ^= 1 << (flip % 8);
            assert_eq!(scan(&broken).blocks.len(), 0, "byte {at}");
            if let Some(head) = Head::read(&bytes) {
                let _any = head.flows(&bytes[HEAD..]);
            }
        },
    );
}

/// Whoever publishes is faster than the disk: what the queue has no place for is counted, to the last one.
#[test]
fn flows_that_find_the_queue_full_are_counted() {
    let folder = tempfile::tempdir().unwrap();
    let recorder = open(folder.path());
    let event = Arc::new(Event::Flow(Box::new(flow(1))));
    let mut published = 0;
    while recorder.report().lost == 0 {
        assert!(published < 5_000_000, "the queue has no bound");
        (0..50_000).for_each(|at| recorder.event(published + at, &event, &NodeInfo::default()));
        published += 50_000;
    }
    assert!(recorder.flush(LONG));
    let report = recorder.report();
    assert_eq!((report.written + report.lost, report.failed), (published, 0), "{report:?}");
}

#[test]
fn a_full_disk_costs_flows_and_nothing_else() {
    on_a_small_disk(|disk| {
        let filler = disk.join("filler");
        fs::write(&filler, vec![7; 900 << 10]).unwrap();
        let recorder = open(&disk.join("history"));
        // Texts that do not get shorter, ten times what there is room for.
        let event = |at: u64| {
            let noise: String =
                (0..300).map(|n| format!("{:016x}", (at * 300 + n).wrapping_mul(0x9e37_79b9_7f4a_7c15))).collect();
            Arc::new(Event::Flow(Box::new(Flow { summary: noise, ..flow(i64::try_from(at).unwrap()) })))
        };
        for at in 0..300 {
            recorder.event(at, &event(at), &NodeInfo::default());
        }
        assert!(recorder.flush(LONG), "nobody waits for a disk that is full");
        let full = recorder.report();
        assert!(full.failed > 0 && full.written + full.failed == 300, "{full:?}");
        assert!(full.error.as_ref().is_some_and(|why| why.contains("No space left")), "the reason is told: {full:?}");
        let (kept, _) = read(&recorder, past());
        assert_eq!(kept, (0..i64::try_from(full.written).unwrap()).collect::<Vec<_>>(), "what was written is there");

        fs::remove_file(&filler).unwrap();
        let mut at = 300;
        while recorder.report().written == full.written {
            assert!(at < 1_500, "a minute after there is room again nothing was written: {:?}", recorder.report());
            recorder.event(at, &event(at), &NodeInfo::default());
            at += 1;
            recorder.flush(LONG);
            std::thread::sleep(Duration::from_millis(50));
        }
        let (seconds, _) = read(&recorder, past());
        assert_eq!(seconds.last().copied(), i64::try_from(at - 1).ok(), "it goes on when there is room");
        drop(recorder);
    });
}
