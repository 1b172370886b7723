use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use kv::{Entry, Event, Failure, Lifetime, Outcome, Request};
use machine::OpId;

use crate::engine::Engine;
use crate::{Config, Embedded, Events, OpenError, Store};

fn entry(key: &str, value: &str, lifetime: Lifetime) -> Entry {
    Entry { key: key.into(), value: value.into(), lifetime }
}
fn kept(key: &str, value: &str) -> Entry {
    entry(key, value, Lifetime::Kept)
}

/// A store with its channel; each request is answered before the next.
struct Asked {
    store: Embedded,
    events: Events,
    ops: u64,
}
impl Asked {
    fn open(path: &Path) -> Self {
        let (store, events) = Embedded::open(&Config::new(path, "node")).unwrap();
        Self { store, events, ops: 0 }
    }
    fn next(&mut self) -> Event {
        self.events.blocking_recv().unwrap()
    }
    fn submit(&mut self, request: Request) -> OpId {
        self.ops += 1;
        self.store.submit(OpId(self.ops), request).unwrap();
        OpId(self.ops)
    }
    fn ask(&mut self, request: Request) -> Result<Outcome, Failure> {
        let op = self.submit(request);
        match self.next() {
            Event::Done(done, outcome) if done == op => outcome,
            other => panic!("{other:?} instead of the outcome of {op:?}"),
        }
    }
}

#[test]
fn each_request_does_what_the_protocol_says_and_outlives_the_store() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("sub/kv.redb");
    let mut kv = Asked::open(&path);
    for (request, want) in [
        (Request::Get("a".into()), Outcome::Value(None)),
        (Request::Create(kept("a", "1")), Outcome::Written),
        (Request::Create(kept("a", "2")), Outcome::Exists(b"1".to_vec())),
        (Request::CreateIfExists { condition: "no".into(), entry: kept("b", "2") }, Outcome::ConditionAbsent),
        (Request::CreateIfExists { condition: "a".into(), entry: kept("b", "2") }, Outcome::Written),
        (Request::CreateIfExists { condition: "a".into(), entry: kept("b", "3") }, Outcome::Exists(b"2".to_vec())),
        (Request::Put(kept("a", "4")), Outcome::Written),
        (Request::Put(kept("ab", "5")), Outcome::Written),
        (Request::Delete("nothing".into()), Outcome::Deleted),
        (Request::List("a".into()), Outcome::Listed(vec![("a".into(), b"4".to_vec()), ("ab".into(), b"5".to_vec())])),
        (Request::Delete("ab".into()), Outcome::Deleted),
    ] {
        assert_eq!(kv.ask(request.clone()), Ok(want), "{request:?}");
    }
    drop(kv);
    let mut kv = Asked::open(&path);
    let all = vec![("a".into(), b"4".to_vec()), ("b".into(), b"2".to_vec())];
    assert_eq!(kv.ask(Request::List(String::new())), Ok(Outcome::Listed(all)));
}

#[test]
fn a_watch_tells_what_there_is_then_synced_then_every_change_under_its_prefix() {
    let dir = tempfile::tempdir().unwrap();
    let mut kv = Asked::open(&dir.path().join("kv"));
    kv.ask(Request::Put(kept("w/1", "x"))).unwrap();
    kv.ask(Request::Put(kept("v/1", "x"))).unwrap();
    let watch = kv.submit(Request::Watch("w/".into()));
    let changed = |key: &str, value: Option<&str>| Event::Changed {
        watch,
        key: key.into(),
        value: value.map(|value| value.as_bytes().to_vec()),
    };
    assert_eq!(kv.next(), Event::Done(watch, Ok(Outcome::Watching)));
    assert_eq!(kv.next(), changed("w/1", Some("x")));
    assert_eq!(kv.next(), Event::Synced(watch));
    for (request, told) in [
        (Request::Put(kept("w/2", "y")), Some(changed("w/2", Some("y")))),
        (Request::Put(kept("v/2", "y")), None),
        (Request::Create(kept("w/2", "z")), None),
        (Request::Delete("w/1".into()), Some(changed("w/1", None))),
        (Request::Delete("w/1".into()), None),
    ] {
        kv.ask(request.clone()).unwrap();
        if let Some(told) = told {
            assert_eq!(kv.next(), told, "{request:?}");
        }
    }
    assert_eq!(kv.ask(Request::Get("w/2".into())), Ok(Outcome::Value(Some(b"y".to_vec()))), "nothing else was told");
}

#[test]
fn leased_keys_end_with_their_holder_and_kept_ones_do_not() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("kv");
    let minutes = |n: u64| n * 60_000;
    let ttl = Duration::from_mins(15);
    let list = |engine: &mut Engine| match engine.serve(vec![(OpId(9), Request::List(String::new()))]).remove(0) {
        Event::Done(_, Ok(Outcome::Listed(all))) => all.into_iter().map(|(key, _)| key).collect::<Vec<_>>(),
        other => panic!("{other:?}"),
    };
    let mut engine = Engine::open(&path, "a", ttl, 0).unwrap();
    engine.serve(vec![
        (OpId(1), Request::Put(kept("kept", "1"))),
        (OpId(2), Request::Put(entry("leased", "1", Lifetime::Leased))),
        (OpId(3), Request::Watch("lea".into())),
    ]);
    assert_eq!(engine.keep_alive(minutes(14)).unwrap(), (false, vec![]));
    assert_eq!(engine.keep_alive(minutes(28)).unwrap(), (false, vec![]), "kept alive at 14");
    drop(engine);
    // Restarted in time: nothing is lost. A clock that stepped back ends nothing either.
    let mut engine = Engine::open(&path, "a", ttl, minutes(40)).unwrap();
    assert_eq!(list(&mut engine), ["kept", "leased"]);
    engine.keep_alive(minutes(1)).unwrap();
    assert_eq!(list(&mut engine), ["kept", "leased"]);
    engine.keep_alive(minutes(2)).unwrap();
    engine.serve(vec![(OpId(3), Request::Watch("lea".into()))]);
    // Suspended for longer than the lease.
    let gone = Event::Changed { watch: OpId(3), key: "leased".into(), value: None };
    assert_eq!(engine.keep_alive(minutes(60)).unwrap(), (true, vec![gone]));
    assert_eq!(list(&mut engine), ["kept"]);
    engine.serve(vec![(OpId(4), Request::Put(entry("leased", "2", Lifetime::Leased)))]);
    drop(engine);
    // Another holder, after the lease of the first has ended.
    let mut engine = Engine::open(&path, "b", ttl, minutes(80)).unwrap();
    assert_eq!(list(&mut engine), ["kept"]);
}

#[test]
fn oversized_and_empty_keys_are_refused_and_change_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut kv = Asked::open(&dir.path().join("kv"));
    for bad in [
        kept("", "x"),
        kept(&"k".repeat(crate::KEY_BYTES_MAX + 1), "x"),
        Entry { value: vec![0; crate::VALUE_BYTES_MAX + 1], ..kept("k", "") },
    ] {
        assert_eq!(kv.ask(Request::Put(bad)), Err(Failure::Refused));
    }
    assert_eq!(kv.ask(Request::List(String::new())), Ok(Outcome::Listed(vec![])));
}

#[test]
fn a_second_opener_and_a_damaged_file_get_an_error_that_names_file_and_remedy() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("kv");
    let kv = Asked::open(&path);
    let busy = Embedded::open(&Config::new(&path, "node")).unwrap_err();
    assert!(matches!(busy, OpenError::InUse { .. }), "{busy}");
    drop(kv);
    for damage in ["header", "text", "empty directory"] {
        match damage {
            "header" => {
                let mut file = std::fs::OpenOptions::new().read(true).write(true).open(&path).unwrap();
                let mut start = [0; 64];
                file.read_exact(&mut start).unwrap();
                file.seek(SeekFrom::Start(0)).unwrap();
                file.write_all(&start.map(|byte| byte ^ 0x5a)).unwrap();
            }
            "text" => std::fs::write(&path, "no database at all\n".repeat(1000)).unwrap(),
            _ => {
                std::fs::remove_file(&path).unwrap();
                std::fs::create_dir(&path).unwrap();
            }
        }
        let error = Embedded::open(&Config::new(&path, "node")).unwrap_err().to_string();
        assert!(error.contains(path.to_str().unwrap()), "{damage}: {error}");
        assert!(error.contains("move the file away") || error.contains("check that"), "{damage}: {error}");
    }
}

#[test]
fn any_damaged_page_is_an_error_or_harmless_but_never_a_panic() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("kv");
    let mut kv = Asked::open(&path);
    for n in 0..200 {
        kv.ask(Request::Put(kept(&format!("key/{n}"), &"v".repeat(100)))).unwrap();
    }
    drop(kv);
    let whole = std::fs::read(&path).unwrap();
    let mut refused = 0;
    for at in (0..whole.len().min(256 << 10)).step_by(4099) {
        let mut damaged = whole.clone();
        damaged[at] ^= 0xff;
        std::fs::write(&path, &damaged).unwrap();
        match Embedded::open(&Config::new(&path, "node")) {
            Ok(_) => {}
            Err(OpenError::Corrupt { .. } | OpenError::Io { .. } | OpenError::Format { .. }) => refused += 1,
            Err(other) => panic!("at {at}: {other}"),
        }
    }
    assert!(refused > 0, "no damage was noticed");
}

const FIRST: &str = "CILIUM_KVSTORE_TEST_FIRST";
const CHILD: &str = "CILIUM_KVSTORE_TEST_WRITER";

/// The writer that is killed: creates pairs, the second only if the first exists, and says what was acknowledged.
#[test]
fn writer_child() {
    let Ok(path) = std::env::var(CHILD) else { return };
    let mut kv = Asked::open(Path::new(&path));
    let first = std::env::var(FIRST).unwrap().parse::<usize>().unwrap();
    for n in first.. {
        let master = kept(&format!("id/{n}"), &"m".repeat(n % 300));
        if kv.ask(Request::Create(master)) == Ok(Outcome::Written) {
            let slave = entry(&format!("value/{n}"), "s", Lifetime::Leased);
            assert_eq!(
                kv.ask(Request::CreateIfExists { condition: format!("id/{n}"), entry: slave }),
                Ok(Outcome::Written)
            );
        }
        println!("\nacked {n}");
    }
}

#[test]
fn what_was_acknowledged_survives_kill_9() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("kv");
    let mut acked = 0;
    for round in 0_usize..6 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["tests::writer_child", "--exact", "--nocapture"])
            .env(CHILD, &path)
            .env(FIRST, (acked + 1).to_string())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut more = 20 + 7 * round;
        for line in BufReader::new(child.stdout.take().unwrap()).lines() {
            if let Some(n) = line.unwrap().strip_prefix("acked ") {
                acked = acked.max(n.parse::<usize>().unwrap());
                more -= 1;
                if more == 0 {
                    break;
                }
            }
        }
        child.kill().unwrap();
        child.wait().unwrap();
        let mut kv = Asked::open(&path);
        for n in 1..=acked {
            let value = kv.ask(Request::Get(format!("id/{n}"))).unwrap();
            assert_eq!(value, Outcome::Value(Some("m".repeat(n % 300).into_bytes())), "round {round}, key {n}");
        }
        let Ok(Outcome::Listed(slaves)) = kv.ask(Request::List("value/".into())) else { panic!("no list") };
        for (key, _) in slaves {
            let master = key.replace("value/", "id/");
            assert_ne!(kv.ask(Request::Get(master)), Ok(Outcome::Value(None)), "{key} without its condition");
        }
    }
    assert!(acked > 100, "only {acked} writes were acknowledged: this proves little");
}
