//! Pinned maps against the kernel: layouts, sizes, typed access. Needs root; prints `skipped: …` without.

mod support;

use std::{collections::BTreeMap, fs, net::Ipv4Addr};

use abi::{
    be::{Addr4, Port},
    config::Runtime,
    ct::{CtEntry4, CtKey4},
    endpoint::{EndpointInfo, EndpointKey},
    ipcache::{IpcacheEntry, IpcacheKey},
    metrics::{MetricsKey, MetricsValue},
};
use loader::{Access, MapError, Maps, Mismatch, Property};
use support::{Bpffs, small};

fn address(n: u32) -> Addr4 {
    Ipv4Addr::from(0x0a00_0000 + n).into()
}

fn endpoint(n: u32) -> (EndpointKey, EndpointInfo) {
    (EndpointKey::v4(address(n)), EndpointInfo { identity: n, ..EndpointInfo::default() })
}

#[test]
fn maps_are_made_once_and_found_again_with_what_they_hold() {
    let Some(fs) = Bpffs::mount() else { return };
    let pins = fs.directory("globals");
    let (key, value) = endpoint(1);
    {
        let maps = Maps::prepare(&pins, &small()).expect("an empty bpffs");
        assert_eq!(maps.runtime(Runtime::SchemaVersion).expect("reading"), abi::SCHEMA_VERSION);
        maps.lxc.insert(&key, &value).expect("room");
    }
    for spec in abi::maps::ALL {
        assert!(pins.join(spec.name).exists(), "{} is pinned", spec.name);
    }
    let again = Maps::prepare(&pins, &small()).expect("the same maps");
    assert_eq!(again.lxc.get(&key).expect("reading"), Some(value));
    let reader = Maps::open_pinned(&pins, Access::ReadOnly).expect("for the command line");
    assert_eq!(reader.lxc.entries().expect("reading"), [(key, value)]);
    let refused = reader.lxc.insert(&key, &value).expect_err("opened for reading");
    assert!(matches!(refused, MapError::System { .. }), "{refused}");
}

#[test]
fn many_entries_are_written_and_read_in_batches() {
    let Some(fs) = Bpffs::mount() else { return };
    let pins = fs.directory("globals");
    let sizes = BTreeMap::from([("cilium_lxc".to_owned(), 5000)]);
    let maps = Maps::prepare(&pins, &small().into_iter().chain(sizes).collect()).expect("an empty bpffs");
    let entries: Vec<_> = (0..5000).map(endpoint).collect();
    assert_eq!(maps.lxc.insert_all(&entries).map_err(|(_, e)| e).expect("room"), 5000);
    let mut found = maps.lxc.entries().expect("reading");
    found.sort();
    let mut expected = entries.clone();
    expected.sort();
    assert_eq!(found, expected);
    let (written, full) = maps.lxc.insert_all(&[endpoint(0), endpoint(6000), endpoint(6001)]).expect_err("it is full");
    assert_eq!(written, 1, "what is there already fits");
    assert!(matches!(full, MapError::Full { map: "cilium_lxc", max_entries: 5000 }), "{full}");
    assert_eq!(maps.lxc.clear().expect("deleting"), 5000);
    assert_eq!(maps.lxc.entries().expect("reading"), []);
}

#[test]
fn the_longest_prefix_wins_and_new_entries_do_not_replace() {
    let Some(fs) = Bpffs::mount() else { return };
    let maps = Maps::prepare(&fs.directory("globals"), &small()).expect("an empty bpffs");
    let entry = |identity| IpcacheEntry { identity, ..IpcacheEntry::default() };
    let net = |bits| IpcacheKey::v4(address(0), bits);
    maps.ipcache.insert_all(&[(net(8), entry(8)), (net(24), entry(24))]).expect("room");
    let of = |n| maps.ipcache.get(&IpcacheKey::v4(address(n), 32)).expect("reading").map(|e| e.identity);
    assert_eq!((of(5), of(0x100)), (Some(24), Some(8)));
    assert!(maps.ipcache.remove(&net(24)).expect("deleting"));
    assert!(!maps.ipcache.remove(&net(24)).expect("deleting twice is no error"));
    assert_eq!(of(5), Some(8));
    assert_eq!(maps.ipcache.entries().expect("reading"), [(net(8), entry(8))]);
    assert!(maps.lxc.insert_new(&endpoint(1).0, &endpoint(1).1).expect("room"), "there is none yet");
    assert!(!maps.lxc.insert_new(&endpoint(1).0, &endpoint(2).1).expect("reading"), "there is one");
    assert_eq!(maps.lxc.get(&endpoint(1).0).expect("reading"), Some(endpoint(1).1));
}

#[test]
fn counters_are_summed_over_the_cpus() {
    let Some(fs) = Bpffs::mount() else { return };
    let maps = Maps::prepare(&fs.directory("globals"), &small()).expect("an empty bpffs");
    let key = MetricsKey { reason: 133, dir: 2, ..MetricsKey::default() };
    let cpus = maps.metrics.get(&key).expect("reading");
    assert_eq!(cpus, None);
    let value = |count| MetricsValue { count, bytes: count * 100 };
    maps.metrics.insert(&key, &[value(3), value(4)]).expect("room");
    let cpus = maps.metrics.get(&key).expect("reading").expect("it is there").len();
    let expected = if cpus == 1 { value(3) } else { value(7) };
    assert_eq!(maps.metrics.sums().expect("reading"), [(key, expected)]);
}

#[test]
fn maps_of_another_layout_are_refused_by_name() {
    let Some(fs) = Bpffs::mount() else { return };
    let pins = fs.directory("globals");
    drop(Maps::prepare(&pins, &small()).expect("an empty bpffs"));
    // A hash map where the LPM trie should be: its pin under the other name.
    fs::remove_file(pins.join("cilium_ipcache")).expect("it was pinned");
    fs::rename(pins.join("cilium_lxc"), pins.join("cilium_ipcache")).expect("a bpffs can rename");
    let refused = Maps::prepare(&pins, &small()).expect_err("another map");
    let text = refused.to_string();
    assert!(
        matches!(
            refused,
            MapError::Shape { map: "cilium_ipcache", mismatch: Mismatch { property: Property::Kind, .. }, .. }
        ),
        "{text}"
    );
    for part in ["cilium_ipcache", "map type is 1, expected 11", "remove"] {
        assert!(text.contains(part), "{part:?} in {text}");
    }
    assert!(pins.join("cilium_ipcache").exists(), "nothing was recreated");
    let reader = Maps::open_pinned(&pins, Access::ReadOnly).expect_err("for the command line too");
    assert!(matches!(reader, MapError::Open { .. } | MapError::Shape { .. }), "{reader}");
}

#[test]
fn maps_of_another_version_and_of_other_software_are_refused() {
    let Some(fs) = Bpffs::mount() else { return };
    let pins = fs.directory("globals");
    let maps = Maps::prepare(&pins, &small()).expect("an empty bpffs");
    maps.set_runtime(Runtime::SchemaVersion, 4711).expect("writing");
    let refused = Maps::prepare(&pins, &small()).expect_err("another version");
    assert!(matches!(refused, MapError::Version { found: 4711, expected: abi::SCHEMA_VERSION, .. }), "{refused}");
    assert!(Maps::open_pinned(&pins, Access::ReadOnly).is_err_and(|e| e.to_string().contains("4711")));

    fs::remove_file(pins.join("cilium_runtime_config")).expect("it was pinned");
    let refused = Maps::prepare(&pins, &small()).expect_err("nobody says what these maps are");
    assert!(matches!(refused, MapError::Foreign { .. }), "{refused}");
    assert!(refused.to_string().contains("cilium_lxc"), "{refused}");
}

#[test]
fn a_map_of_another_size_is_moved_with_what_it_holds() {
    let Some(fs) = Bpffs::mount() else { return };
    let pins = fs.directory("globals");
    let sized =
        |name: &str, entries| small().into_iter().chain([(name.to_owned(), entries)]).collect::<BTreeMap<_, _>>();
    let maps = Maps::prepare(&pins, &small()).expect("an empty bpffs");
    let connection = |n: u32| {
        let key = CtKey4 { a: address(n), a_port: Port::new(80), ..CtKey4::default() };
        let mut entry = CtEntry4::default();
        entry.connection.lifetime = n;
        (key, entry)
    };
    let connections: Vec<_> = (0..500).map(connection).collect();
    maps.ct4.insert_all(&connections).map_err(|(_, e)| e).expect("room");
    maps.lxc.insert_all(&(0..500).map(endpoint).collect::<Vec<_>>()).map_err(|(_, e)| e).expect("room");

    let larger = Maps::prepare(&pins, &sized("cilium_ct4_global", 4096)).expect("moved");
    assert_eq!(larger.ct4.max_entries(), 4096);
    let mut found = larger.ct4.entries().expect("reading");
    found.sort_by_key(|(_, entry)| entry.connection.lifetime);
    assert_eq!(found, connections);
    assert!(!pins.join("cilium_ct4_global_resizing").exists());

    let refused = Maps::prepare(&pins, &sized("cilium_lxc", 100)).expect_err("too small for what it holds");
    assert!(matches!(refused, MapError::TooSmall { map: "cilium_lxc", max_entries: 100 }), "{refused}");
    let same = Maps::prepare(&pins, &sized("cilium_ct4_global", 4096)).expect("unchanged");
    assert_eq!(same.lxc.entries().expect("reading").len(), 500, "a refusal loses nothing");

    let unknown = Maps::prepare(&pins, &sized("cilium_lcx", 100)).expect_err("no such map");
    assert!(unknown.to_string().contains("cilium_lcx"), "{unknown}");
}

#[test]
fn a_missing_directory_is_named() {
    let Some(fs) = Bpffs::mount() else { return };
    let missing = Maps::open_pinned(&fs.path().join("nowhere"), Access::ReadOnly).expect_err("there is none");
    assert!(missing.to_string().contains("nowhere/cilium_runtime_config"), "{missing}");
    assert!(missing.to_string().contains("is the agent running"), "{missing}");
}

#[test]
fn maglev_tables_are_put_in_place_whole_then_changed_in_place_and_have_one_length() {
    let Some(fs) = Bpffs::mount() else { return };
    let pins = fs.directory("globals");
    let maps = Maps::prepare(&pins, &small()).expect("an empty bpffs");
    let tables = &maps.lb4_maglev;
    assert_eq!(tables.size(), abi::lb::MAGLEV_SIZE_DEFAULT);
    let table = |first: u32| (first..first + tables.size()).collect::<Vec<u32>>();
    let (one, two) = (Port::new(1), Port::new(2));
    assert_eq!(tables.get(one).expect("reading"), None);
    tables.insert(one, &table(7)).expect("room");
    tables.insert(two, &table(9)).expect("room");
    tables.insert(one, &table(8)).expect("in place of the other");
    assert_eq!(tables.get(one).expect("reading"), Some(table(8)));
    let mut indexes = tables.indexes().expect("reading");
    indexes.sort();
    assert_eq!(indexes, [one, two]);
    assert!(tables.remove(two).expect("there") && !tables.remove(two).expect("not there any more"));
    let refused = tables.insert(two, &[1, 2, 3]).expect_err("too short");
    assert!(matches!(refused, MapError::TableSize { given: 3, .. }), "{refused}");
    // Another number of tables keeps them, and who reads finds them.
    let sizes = BTreeMap::from([("cilium_lb4_maglev".to_owned(), 2048)]);
    let more = Maps::prepare(&pins, &small().into_iter().chain(sizes).collect()).expect("moved");
    assert_eq!(more.lb4_maglev.get(one).expect("reading"), Some(table(8)));
    let reader = Maps::open_pinned(&pins, Access::ReadOnly).expect("for the command line");
    assert_eq!(reader.lb4_maglev.get(one).expect("reading"), Some(table(8)));
    // Both maps name the same table, so a change of it where it is shows in both.
    more.lb4_maglev.insert(one, &table(5)).expect("it is there");
    assert_eq!(tables.get(one).expect("reading"), Some(table(5)));
    // Many at once, some there and some not; then more threads wait for the kernel than are allowed to.
    let many: Vec<Vec<u32>> = (0..40).map(table).collect();
    let all: Vec<(Port, &[u32])> = many.iter().enumerate().map(|(n, it)| (Port::new(n as u16), &it[..])).collect();
    more.lb4_maglev.insert_all(&all).expect("room");
    let found = |n: u16| more.lb4_maglev.get(Port::new(n)).expect("reading");
    assert!((0..40).all(|n| found(n) == Some(table(n.into()))));
    for n in 0..40 {
        assert!(more.lb4_maglev.remove(Port::new(n)).expect("it is there"), "table {n}");
        assert_eq!(found(n), None, "what returned is in force");
    }
    // Maps whose tables cannot be changed in place, as they were made once, are made anew.
    maps.set_runtime(Runtime::MaglevSize, tables.size().into()).expect("writing");
    more.lb4_maglev.insert(one, &table(5)).expect("room");
    let anew = Maps::prepare(&pins, &small()).expect("other maps");
    assert_eq!(anew.lb4_maglev.indexes().expect("reading"), []);
    anew.lb4_maglev.insert(one, &table(6)).expect("room");
    assert_eq!(anew.lb4_maglev.get(one).expect("reading"), Some(table(6)));
}
