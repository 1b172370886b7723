//! Writes against kernel maps. Needs root; prints `skipped: …` without.

use std::io::Write as _;
use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::CString,
    fs,
    net::{IpAddr, Ipv4Addr},
    path::PathBuf,
    sync::Arc,
};

use abi::{
    be::{Addr4, Port},
    ct::{CT_NODE_PORT, CT_SERVICE, Connection, CtEntry4, CtKey4},
    endpoint::{Device, EndpointInfo, EndpointKey},
    event::{DropNotify, DropRecord, NOTIFY_DROP, Prefix},
    ipcache::{IpcacheEntry, IpcacheKey},
    lb::{BACKEND_ACTIVE, BACKEND_TERMINATING, LbBackend4, LbRevNat4, LbService},
    maps::MapKind,
    nat::{SNAT_IN, SNAT_NEEDS_CT, SNAT_OUT, SnatEntry4, SnatKey4},
    policy::{EGRESS, PolicyEntry, PolicyKey},
    write::{MapWrite, WriteError, WriteErrorKind},
};
use bpf::{
    Attachments, EventReader,
    sweep::{Found, sweep},
};
use datapath::{Balanced, End, Family, V4};
use loader::{Datapath, Direction, Interface, LoaderConfig, Maps, Outcome, Program, SkBuff};

/// A bpffs mounted for one test.
struct Bpffs(PathBuf);

impl Bpffs {
    fn mount(name: &str) -> Option<Self> {
        let path = std::env::temp_dir().join(format!("cilium-io-bpf-{}-{name}", std::process::id()));
        let ready = loader::check_kernel().map_err(Into::into).and_then(|()| loader::ensure_bpffs(&path));
        match ready {
            Ok(()) => Some(Self(path)),
            Err(why) => {
                assert!(std::env::var_os("CI").is_none(), "CI must run this: {why}");
                let _shown = writeln!(std::io::stderr(), "skipped: {why}");
                None
            }
        }
    }

    fn maps(&self) -> Maps {
        Maps::prepare(&self.0, &sizes()).expect("an empty bpffs")
    }
}

/// Sizes small enough to be filled.
fn sizes() -> BTreeMap<String, u32> {
    abi::maps::ALL
        .iter()
        .filter(|spec| spec.max_entries > 64 && !matches!(spec.kind, MapKind::RingBuf | MapKind::Array))
        .map(|spec| (spec.name.to_owned(), 64))
        .collect()
}

impl Drop for Bpffs {
    fn drop(&mut self) {
        let path = CString::new(self.0.to_str().expect("a plain path")).expect("no zero bytes");
        // SAFETY: the path is a terminated string.
        unsafe { libc::umount2(path.as_ptr(), libc::MNT_DETACH) };
        let _ = fs::remove_dir(&self.0);
    }
}

fn address(n: u32) -> Addr4 {
    Ipv4Addr::from(0x0a00_0000 + n).into()
}

fn endpoint(n: u32) -> MapWrite {
    MapWrite::Lxc(EndpointKey::v4(address(n)), Some(EndpointInfo { identity: n, ..EndpointInfo::default() }))
}

#[test]
fn writes_of_all_kinds_are_applied_and_read_back_as_the_same_values() {
    let Some(fs) = Bpffs::mount("kinds") else { return };
    let maps = fs.maps();
    let writes = [
        endpoint(1),
        endpoint(2),
        MapWrite::Device(7, Some(Device { identity: 9, ..Device::default() })),
        MapWrite::Ipcache(IpcacheKey::v4(address(0), 24), Some(IpcacheEntry { identity: 3, ..Default::default() })),
        MapWrite::Policy(PolicyKey::entry(1, 2, EGRESS, 6, Port::new(80), 24), Some(PolicyEntry::default())),
        MapWrite::RevNat4(Port::new(5), Some(LbRevNat4 { address: address(9), ..Default::default() })),
        MapWrite::Runtime(2, Some(41)),
    ];
    bpf::apply(&maps, &writes, &bpf::Tables::new()).expect("room for all");
    bpf::apply(&maps, &writes, &bpf::Tables::new()).expect("a second time changes nothing");
    let dump = bpf::dump(&maps).expect("reading");
    for write in &writes {
        assert!(dump.contains(write), "{write:?}");
    }
    let of_array = dump.iter().filter(|write| matches!(write, MapWrite::Runtime(..))).count();
    assert_eq!(dump.len() - of_array, writes.len() - 1, "and nothing else");

    let deletions: Vec<_> = writes.iter().map(MapWrite::deletion).collect();
    bpf::apply(&maps, &deletions, &bpf::Tables::new()).expect("all are there");
    bpf::apply(&maps, &deletions, &bpf::Tables::new()).expect("deleting what is not there is no error");
    let left: Vec<_> =
        bpf::dump(&maps).expect("reading").into_iter().filter(|w| !matches!(w, MapWrite::Runtime(..))).collect();
    assert_eq!(left, []);
    assert_eq!(maps.runtime.get(&2).expect("reading"), Some(0));
}

#[test]
fn the_first_write_that_does_not_fit_is_named_and_those_before_it_are_in_force() {
    let Some(fs) = Bpffs::mount("full") else { return };
    let maps = fs.maps();
    let mut writes = vec![MapWrite::Device(1, Some(Device::default()))];
    writes.extend((0..65).map(endpoint));
    writes.push(MapWrite::Device(2, Some(Device::default())));
    let refused = bpf::apply(&maps, &writes, &bpf::Tables::new()).expect_err("the map has room for 64");
    assert_eq!(refused, WriteError { index: 65, kind: WriteErrorKind::Full });
    assert_eq!(maps.lxc.entries().expect("reading").len(), 64);
    assert_eq!(maps.devices.get(&1).expect("reading"), Some(Device::default()));
    assert_eq!(maps.devices.get(&2).expect("reading"), None, "what comes after it is not tried");

    bpf::apply(&maps, &[endpoint(0).deletion(), endpoint(64)], &bpf::Tables::new())
        .expect("deleting makes room, in order");
}

#[test]
fn connections_that_ended_are_removed() {
    let Some(fs) = Bpffs::mount("ended") else { return };
    let maps = fs.maps();
    for n in 0..10 {
        let mut entry = CtEntry4::default();
        entry.connection.lifetime = 100 + n;
        maps.ct4.insert(&CtKey4 { a: address(n), ..CtKey4::default() }, &entry).expect("room");
        maps.ct_any4.insert(&CtKey4 { a: address(n), ..CtKey4::default() }, &entry).expect("room");
    }
    let nobody = BTreeSet::new();
    let first = sweep(&maps, 100, &nobody).expect("reading");
    assert_eq!((first.tcp[0], first.any[0]), (Found { alive: 10, ..Found::default() }, first.tcp[0]));
    let second = sweep(&maps, 103, &nobody).expect("reading");
    assert_eq!((second.tcp[0], second.any[0]), (Found { alive: 7, ended: 3, ..Found::default() }, second.tcp[0]));
    assert_eq!(second.share.thousandths(), 1000 * 3 / 64, "of the map's room");
    assert!(maps.ct4.entries().expect("reading").iter().all(|(_, e)| e.connection.lifetime >= 103));
}

/// Everything a sweep is asked to tell apart, in both families: what a terminating backend still serves stays, what a removed
/// backend or service left goes, and translations go with their connections.
#[test]
fn what_was_left_behind_is_removed_and_what_is_of_use_stays() {
    let Some(fs) = Bpffs::mount("orphans") else { return };
    let maps = fs.maps();
    let (now, later) = (1000, 2000);
    let end = |last: u8, port: u16| End::<Addr4> { addr: Ipv4Addr::new(10, 0, 0, last).into(), port: Port::new(port) };
    let (client, frontend) = (end(1, 40_000), end(100, 80));
    for (id, last, flags) in [(1, 2, BACKEND_ACTIVE), (2, 3, BACKEND_TERMINATING)] {
        let backend = end(last, 8080);
        let value = LbBackend4 { address: backend.addr, port: backend.port, flags, ..LbBackend4::default() };
        maps.lb4_backends.insert(&id, &value).expect("room");
    }
    let reverse = LbRevNat4 { address: frontend.addr, port: frontend.port, pad: 0 };
    maps.lb4_reverse_nat.insert(&Port::new(7), &reverse).expect("room");
    let host = end(200, 9090);
    let value = LbBackend4 { address: host.addr, port: host.port, ..LbBackend4::default() };
    maps.lb4_backends.insert(&5, &value).expect("room");
    for (slot, backend_id) in [(0, 0), (1, 1), (2, 5)] {
        let key = V4::scoped_key(&frontend, 6, slot, 0);
        let count = if slot == 0 { 2 } else { 0 };
        let value = LbService { backend_id, count, rev_nat_index: Port::new(7), ..LbService::default() };
        maps.lb4_services.insert(&key, &value).expect("room");
    }
    // It serves another service, and left this one.
    let left = LbBackend4 { address: end(6, 0).addr, port: Port::new(8080), ..LbBackend4::default() };
    maps.lb4_backends.insert(&4, &left).expect("room");
    let connection = |backend_id, service, flags| Connection {
        lifetime: later,
        backend_id,
        rev_nat_index: Port::new(service),
        flags,
        ..Connection::default()
    };
    let track = |local: &End<Addr4>, remote: &End<Addr4>, connection, nat: &End<Addr4>, snat_port: u16| {
        let entry = CtEntry4 { snat_port: Port::new(snat_port), ..V4::ct_entry(connection, nat) };
        let key = V4::ct_key(local, remote, 6);
        maps.ct4.insert(&key, &entry).expect("room");
        key
    };
    let at = |port| End { port: Port::new(port), ..client };
    let stays = [
        track(&at(1), &frontend, connection(1, 7, CT_SERVICE), &end(2, 8080), 0),
        track(&at(2), &frontend, connection(2, 7, CT_SERVICE), &end(3, 8080), 0),
        track(&at(3), &end(9, 443), connection(0, 0, 0), &end(0, 0), 0),
        track(&frontend, &at(4), connection(1, 7, CT_SERVICE | CT_NODE_PORT), &end(2, 8080), 50_000),
        track(&frontend, &at(9), connection(5, 7, CT_SERVICE | CT_NODE_PORT), &host, 0),
    ];
    track(&at(5), &frontend, connection(3, 7, CT_SERVICE), &end(4, 8080), 0); // no such backend
    track(&at(6), &frontend, connection(1, 7, CT_SERVICE), &end(5, 8080), 0); // its number is another's now
    track(&at(7), &frontend, connection(1, 8, CT_SERVICE), &end(2, 8080), 0); // no such service
    track(&at(8), &frontend, connection(4, 7, CT_SERVICE), &end(6, 8080), 0); // it left that service
    track(&end(66, 1), &end(9, 443), connection(0, 0, 0), &end(0, 0), 0); // its pod is gone

    let snat = |destination: &End<Addr4>, source: &End<Addr4>, flags, to: &End<Addr4>, service: u16, needs_ct, age| {
        let key = SnatKey4 {
            daddr: destination.addr,
            saddr: source.addr,
            dport: destination.port,
            sport: source.port,
            nexthdr: 6,
            flags,
            pad: 0,
        };
        let value = SnatEntry4 {
            created: u64::from(now) - age,
            needs_ct,
            to_addr: to.addr,
            to_port: to.port,
            rev_nat_index: Port::new(service),
            ..SnatEntry4::default()
        };
        maps.snat4.insert(&key, &value).expect("room");
        key
    };
    let (node, far) = (|port| end(200, port), end(9, 443));
    let kept = [
        snat(&node(50_000), &end(2, 8080), SNAT_IN, &at(4), 7, 0, 100), // of the fourth connection
        snat(&far, &at(3), SNAT_OUT, &node(60_000), 0, SNAT_NEEDS_CT, 100), // of the third
        snat(&node(60_000), &far, SNAT_IN, &at(3), 0, SNAT_NEEDS_CT, 100),
        snat(&far, &node(22), SNAT_OUT, &node(22), 0, 0, 100), // the node's own
        snat(&far, &at(30), SNAT_OUT, &node(60_001), 0, SNAT_NEEDS_CT, 1), // just made
        snat(&at(9), &host, SNAT_OUT, &frontend, 7, 0, 100),   // a backend of the host answers the fifth's client
        snat(&at(32), &host, SNAT_OUT, &frontend, 7, 0, 1),    // just made
    ];
    snat(&at(33), &host, SNAT_OUT, &frontend, 7, 0, 100); // that client's connection ended
    snat(&at(4), &host, SNAT_OUT, &frontend, 7, 0, 100); // that client is sent to another backend
    snat(&node(50_001), &end(2, 8080), SNAT_IN, &at(4), 7, 0, 100); // another port than that connection's
    snat(&node(50_002), &end(2, 8080), SNAT_IN, &at(4), 8, 0, 100); // no such service
    snat(&far, &at(31), SNAT_OUT, &node(60_002), 0, SNAT_NEEDS_CT, 100); // no such connection
    snat(&node(60_002), &far, SNAT_IN, &at(31), 0, SNAT_NEEDS_CT, 100);
    snat(&far, &end(66, 1), SNAT_OUT, &node(60_003), 0, SNAT_NEEDS_CT, 1); // its pod is gone

    let gone = BTreeSet::from([IpAddr::from(Ipv4Addr::new(10, 0, 0, 66))]);
    let swept = sweep(&maps, now, &gone).expect("reading");
    assert_eq!(swept.tcp[0], Found { alive: 5, orphaned: 4, departed: 1, ended: 0 });
    assert_eq!(swept.nat[0], Found { alive: 7, orphaned: 6, departed: 1, ended: 0 });
    assert_eq!(swept.busiest, [1, 0], "each far end is spoken to through one port");
    let keys = |entries: Vec<(CtKey4, CtEntry4)>| entries.into_iter().map(|(key, _)| key).collect::<BTreeSet<_>>();
    assert_eq!(keys(maps.ct4.entries().expect("reading")), BTreeSet::from(stays));
    let left: BTreeSet<_> = maps.snat4.entries().expect("reading").into_iter().map(|(key, _)| key).collect();
    assert_eq!(left, BTreeSet::from(kept));
    // Once their connections end, translations go too, in the same sweep.
    let swept = sweep(&maps, later + 1, &BTreeSet::new()).expect("reading");
    assert_eq!((swept.tcp[0].ended, swept.nat[0].alive), (5, 1), "only the node's own is left");
    // Who is in a slot of which service.
    let member = |service, last, port| {
        let backend = (Ipv4Addr::new(10, 0, 0, last), port).into();
        bpf::sweep::serves(&maps, Port::new(service), backend).expect("reading")
    };
    assert!(member(7, 2, 8080) && member(7, 200, 9090));
    assert!(!member(7, 6, 8080) && !member(7, 2, 8081) && !member(8, 2, 8080));
}

/// Programs need the object file; says so where there is none.
fn object() -> Option<PathBuf> {
    let target = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../target"), PathBuf::from);
    let path = std::env::var_os("CILIUM_BPF_OBJECT").map_or_else(|| target.join("bpf/cilium.o"), PathBuf::from);
    if !path.exists() {
        assert!(std::env::var_os("CI").is_none(), "CI must run this: no programs at {}", path.display());
        let _shown = writeln!(std::io::stderr(), "skipped: no programs at {}: run `cargo xtask bpf`", path.display());
        return None;
    }
    Some(path)
}

fn ip(args: &[&str]) {
    let out = std::process::Command::new("ip").args(args).output().expect("iproute2 is installed");
    assert!(out.status.success(), "ip {args:?}: {}", String::from_utf8_lossy(&out.stderr));
}

#[test]
fn programs_run_at_once_and_become_links_in_a_quiet_moment() {
    let Some(object) = object() else { return };
    let Some(fs) = Bpffs::mount("attach") else { return };
    if !loader::has_tcx() {
        let _shown = writeln!(std::io::stderr(), "skipped: this kernel has no TCX, so there is nothing to promote to");
        return;
    }
    // The promoting thread is started inside the namespace and so stays in it.
    // SAFETY: unshare(2) takes no pointers; only this test's thread moves.
    assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNET) }, 0, "{}", std::io::Error::last_os_error());
    ip(&["link", "add", "left", "type", "veth", "peer", "name", "right"]);
    let mut config = LoaderConfig::new(object, abi::config::NodeConfig::default());
    fs.0.clone_into(&mut config.bpffs);
    config.map_sizes = sizes();
    let datapath = Arc::new(Datapath::open(&config).unwrap_or_else(|e| panic!("{e}")));
    let attachments = Attachments::new(datapath.clone()).expect("a thread");
    let (left, right) = (Interface::by_name("left").expect("there"), Interface::by_name("right").expect("there"));
    let program = Program::FromContainer;
    for interface in [&left, &right] {
        let outcome = attachments.attach(program, interface, Direction::Ingress).expect("attaching");
        assert_eq!(outcome, Outcome::Provisional);
    }
    assert!(attachments.detach(program, &right, Direction::Ingress).expect("detaching"), "before it is promoted");
    let links = || datapath.links().expect("listing").into_iter().map(|link| link.ifindex).collect::<Vec<_>>();
    let patience = std::time::Instant::now();
    while links() != [left.index] {
        assert!(patience.elapsed() < std::time::Duration::from_secs(60), "{:?}", links());
        std::thread::yield_now();
    }
    assert_eq!(datapath.attached(&left, Direction::Ingress).expect("asking").len(), 1);
    assert_eq!(datapath.attached(&right, Direction::Ingress).expect("asking"), [], "and it is not brought back");
    assert_eq!((attachments.pending(), attachments.failed()), (0, 0));
    assert_eq!(attachments.attach(program, &left, Direction::Ingress).expect("again"), Outcome::Replaced);
}

#[test]
fn records_of_the_kernel_arrive_in_order_and_whole() {
    let Some(object) = object() else { return };
    let Some(fs) = Bpffs::mount("events") else { return };
    let mut config = LoaderConfig::new(object, abi::config::NodeConfig { capture_len: 64, ..Default::default() });
    fs.0.clone_into(&mut config.bpffs);
    config.map_sizes = sizes();
    let datapath = Datapath::open(&config).unwrap_or_else(|e| panic!("{e}"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let mut seen = Vec::new();
    runtime.block_on(async {
        let (reader, mut batches) =
            EventReader::new(datapath.events().expect("the ring is there"), 16).expect("a runtime with IO");
        let reader = tokio::spawn(reader.run());
        // Nobody is behind the loopback device, so each packet is dropped and reported with its length.
        for length in 60..160_usize {
            datapath
                .test_run(Program::FromContainer, &vec![0; length], &SkBuff::default(), 1)
                .unwrap_or_else(|e| panic!("{e}"));
            if length % 10 == 0 {
                tokio::task::yield_now().await;
            }
        }
        while seen.len() < 100 {
            let patience = std::time::Duration::from_secs(60);
            let batch =
                tokio::time::timeout(patience, batches.recv()).await.expect("in time").expect("the reader lives");
            assert_eq!(batch.lost, 0);
            for record in batch.records() {
                assert_eq!(record.len(), size_of::<DropRecord>());
                let at = size_of::<Prefix>() + std::mem::offset_of!(DropNotify, orig_len);
                let length = u32::from_ne_bytes(record[at..at + 4].try_into().expect("four bytes"));
                seen.push((record[size_of::<Prefix>()], length));
            }
        }
        drop(batches);
        reader.await.expect("no panic").expect("it ends when nobody listens");
    });
    let expected: Vec<_> = (60..160).map(|length| (NOTIFY_DROP, length)).collect();
    assert_eq!(seen, expected);
}

/// Tables are computed where they are written, lie in the kernel as they were computed, and stay where they are right.
#[test]
fn maglev_tables_are_computed_and_put_in_place() {
    use lb::maglev::{Seed, TableSize};
    let Some(fs) = Bpffs::mount("maglev") else { return };
    let maps = fs.maps();
    let algorithm = lb::Algorithm::Maglev { size: TableSize::default(), seed: Seed::default() };
    let mut services = lb::Services::new(lb::Config { algorithm, ..lb::Config::default() });
    let addr = |ip: [u8; 4], port| lb::L4Addr { ip: IpAddr::from(ip), port, protocol: lb::Transport::Tcp };
    let put = |services: &mut lb::Services, frontend: u8, count: u8| {
        let backends = (1..=count).map(|n| lb::Backend::new(addr([10, 0, frontend, n], 8080)));
        let mut spec = lb::ServiceSpec::new(addr([172, 16, 0, frontend], 80), backends.collect());
        spec.attributes.kind = lb::ServiceType::LoadBalancer;
        services.put(spec).expect("valid")
    };
    let planned: Vec<lb::Planned> = (1..=5).map(|frontend| put(&mut services, frontend, frontend)).collect();
    let tables: bpf::Tables = planned.iter().flat_map(|one| one.tables.clone()).collect();
    let writes = lb::together(planned.iter().map(|one| one.writes.clone()));
    bpf::apply(&maps, &writes, &tables).expect("room for all");
    for one in &planned {
        let found = maps.lb4_maglev.get(Port::new(one.id.as_u16())).expect("readable").expect("written");
        assert_eq!(found, one.tables[0].1.table());
    }
    // A later life finds that they are there, not what is in them.
    let dumped = bpf::dump(&maps).expect("readable");
    let unknown = |write: &&MapWrite| matches!(write, MapWrite::Maglev4(_, Some(table)) if table.id == 0);
    assert_eq!(dumped.iter().filter(unknown).count(), 5);
    bpf::apply(&maps, &writes, &tables).expect("what is right stays");
    // A table nobody described is refused, and what comes after it is not written.
    let index = Port::new(9);
    let nameless = MapWrite::Maglev4(index, Some(abi::lb::MaglevTable { id: 77 }));
    let refused = bpf::apply(&maps, &[nameless, endpoint(1)], &tables).expect_err("nobody said what is in it");
    assert_eq!(refused.index, 0);
    assert!(maps.lxc.entries().expect("readable").is_empty());
    // Fewer backends, another table; and none.
    let changed = put(&mut services, 5, 2);
    bpf::apply(&maps, &changed.writes, &changed.tables.iter().cloned().collect()).expect("room");
    let found = maps.lb4_maglev.get(Port::new(changed.id.as_u16())).expect("readable").expect("written");
    assert_eq!(found, changed.tables[0].1.table());
    let gone: Vec<Vec<MapWrite>> =
        planned.iter().map(|one| services.delete(one.id).expect("it is there").writes).collect();
    let gone = lb::together(gone);
    let tables_gone = gone.iter().filter(|write| matches!(write, MapWrite::Maglev4(_, None))).count();
    assert_eq!(tables_gone, 5, "they lie together");
    let mut gone: Vec<MapWrite> = gone;
    let at = gone.iter().position(|write| matches!(write, MapWrite::Maglev4(..))).expect("there are five");
    gone.insert(at + 1, gone[at]);
    gone.insert(at + 3, MapWrite::Maglev4(Port::new(999), None));
    bpf::apply(&maps, &gone, &bpf::Tables::new()).expect("deletions of what is not there succeed too");
    assert!(maps.lb4_maglev.indexes().expect("readable").is_empty());
    assert!(maps.lb4_services.entries().expect("readable").is_empty());
}
