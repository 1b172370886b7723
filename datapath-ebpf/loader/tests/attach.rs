//! Programs at devices: attached, replaced by the next agent, found without their pin, removed with their device.
//! Needs root, bpffs and the object file; prints `skipped: …` without.

mod support;

use std::{
    fs,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use abi::{
    config::NodeConfig,
    metrics::{DIR_EGRESS, MetricsKey},
    stage::Stage,
};
use loader::{
    Attachment, Datapath, Direction, Hook, HookChoice, Interface, LoadError, LoaderConfig, Outcome, Program, SkBuff,
    calls_directory, links_directory, remove_all,
};
use support::{Bpffs, in_new_network_namespace, ip, object, small};

/// A bpffs, a network namespace with two devices, and the object file.
struct Bench {
    fs: Bpffs,
    config: LoaderConfig,
}

impl Bench {
    fn new(hook: HookChoice) -> Option<Self> {
        let object = object()?;
        let fs = Bpffs::mount()?;
        in_new_network_namespace();
        let mut config = LoaderConfig::new(object, NodeConfig::default());
        fs.path().clone_into(&mut config.bpffs);
        config.map_sizes = small();
        config.hook = hook;
        Some(Self { fs, config })
    }

    fn tcx() -> Option<Self> {
        if !loader::has_tcx() {
            support::kernel_lacks("TCX");
            return None;
        }
        Self::new(HookChoice::Only(Hook::Tcx))
    }

    /// What an agent does when it starts.
    fn open(&self) -> Datapath {
        Datapath::open(&self.config).unwrap_or_else(|e| panic!("{e}"))
    }

    fn links(&self) -> std::path::PathBuf {
        links_directory(self.fs.path())
    }
}

const PROGRAM: Program = Program::FromContainer;

fn attach(datapath: &Datapath, device: &str) -> Attachment {
    let interface = Interface::by_name(device).expect("the device is there");
    datapath.attach(PROGRAM, &interface, Direction::Ingress).unwrap_or_else(|e| panic!("{e}"))
}

/// The id of the program that runs at the device, which must be the only one.
fn only_program(datapath: &Datapath, device: &str) -> u32 {
    let interface = Interface::by_name(device).expect("the device is there");
    match datapath.attached(&interface, Direction::Ingress).expect("asking").as_slice() {
        [one] => one.program_id,
        other => panic!("not one program at {device}: {other:?}"),
    }
}

fn id(datapath: &Datapath) -> u32 {
    datapath.load_stats().into_iter().find(|s| s.program == PROGRAM).expect("it is loaded").id
}

#[test]
fn the_next_agent_replaces_the_program_in_the_same_link() {
    let Some(bench) = Bench::tcx() else { return };
    let first = bench.open();
    assert_eq!(attach(&first, "left").outcome, Outcome::Attached);
    assert_eq!(attach(&first, "left").outcome, Outcome::Replaced, "twice is no second copy");
    let (link, old) = (first.links().expect("listing"), id(&first));
    assert_eq!(only_program(&first, "left"), old);
    drop(first);

    let second = bench.open();
    assert_eq!(only_program(&second, "left"), old, "a dead agent changes nothing");
    assert_eq!(attach(&second, "left").outcome, Outcome::Replaced);
    assert_ne!(id(&second), old);
    assert_eq!(only_program(&second, "left"), id(&second));
    let links = second.links().expect("listing");
    assert_eq!(links.iter().map(|l| l.link_id).collect::<Vec<_>>(), link.iter().map(|l| l.link_id).collect::<Vec<_>>());
}

/// An IPv4 packet of a protocol that does not matter: at a device that nobody stands behind, drop 203 in the second stage.
fn packet() -> Vec<u8> {
    let mut packet = vec![0; 64];
    packet[12..14].copy_from_slice(&[8, 0]);
    packet[14] = 0x45;
    packet[23] = 6;
    packet
}

/// The drop reason of that packet, which shows how far it came.
fn reason(datapath: &Datapath) -> u32 {
    let run = datapath.test_run(PROGRAM, &packet(), &SkBuff::default(), 1).expect("it is loaded");
    run.ctx.cb[1]
}

/// Pinned arrays of programs: each load has one of tc and one of XDP.
fn generations(bench: &Bench) -> Vec<std::path::PathBuf> {
    let mut all: Vec<_> = fs::read_dir(calls_directory(bench.fs.path()))
        .expect("it is there")
        .map(|e| e.expect("readable").path())
        .collect();
    all.sort();
    all
}

#[test]
fn stages_outlive_the_agent_and_go_with_the_last_device_that_needs_them() {
    let Some(bench) = Bench::tcx() else { return };
    let first = bench.open();
    attach(&first, "left");
    attach(&first, "right");
    assert_eq!(reason(&first), 203, "the second stage says that it is not ready");
    let one = generations(&bench);
    assert_eq!(one.len(), 2);
    drop(first);

    let second = bench.open();
    assert_eq!(generations(&bench).len(), 4, "each load has stages of its own");
    attach(&second, "left");
    second.settle().expect("settling");
    let both = generations(&bench);
    assert_eq!(both.len(), 3, "the other device still needs the old ones of tc: {both:?}");
    assert_eq!(one.iter().filter(|array| both.contains(array)).count(), 1, "{one:?}, then {both:?}");
    attach(&second, "right");
    second.settle().expect("settling");
    let two = generations(&bench);
    assert!(two.len() == 2 && one.iter().all(|array| !two.contains(array)), "{two:?}, before {one:?}");
    assert_eq!(reason(&second), 203);
    drop(second);
    remove_all(bench.fs.path()).expect("removing");
    assert!(!calls_directory(bench.fs.path()).exists());
}

#[test]
fn a_stage_that_is_missing_is_a_drop_with_a_name_and_counted() {
    let Some(bench) = Bench::tcx() else { return };
    let datapath = bench.open();
    let clear = |pin: &std::path::PathBuf| {
        let map = aya::maps::Map::ProgramArray(aya::maps::MapData::from_pin(pin).expect("it is pinned"));
        let mut calls = aya::maps::ProgramArray::try_from(map).expect("it is one");
        calls.clear_index(&(Stage::PodIpv4 as u32)).is_ok()
    };
    assert_eq!(generations(&bench).iter().filter(|pin| clear(pin)).count(), 1, "it was in that of tc");
    let run = datapath.test_run(PROGRAM, &packet(), &SkBuff::default(), 1).expect("it is loaded");
    assert_eq!((run.ret, run.ctx.cb[1]), (2, 140), "dropped: missed tail call");
    let dropped = MetricsKey::new(140, DIR_EGRESS);
    let sums = datapath.maps().metrics.sums().expect("readable");
    assert!(sums.iter().any(|(key, value)| *key == dropped && value.count == 1), "{sums:?}");
}

#[test]
fn a_link_whose_device_was_renamed_is_found_at_the_device() {
    let Some(bench) = Bench::tcx() else { return };
    let first = bench.open();
    attach(&first, "left");
    ip(&["link", "set", "left", "down"]);
    ip(&["link", "set", "left", "name", "other.7"]);
    drop(first);

    let second = bench.open();
    assert_eq!(attach(&second, "other.7").outcome, Outcome::Replaced);
    assert_eq!(only_program(&second, "other.7"), id(&second));
    assert!(
        second.detach(PROGRAM, &Interface::by_name("other.7").expect("there"), Direction::Ingress).expect("detaching")
    );
    assert!(
        !second.detach(PROGRAM, &Interface::by_name("other.7").expect("there"), Direction::Ingress).expect("again")
    );
}

#[test]
fn the_pin_of_a_device_that_is_gone_does_not_stand_in_the_way_of_its_successor() {
    let Some(bench) = Bench::tcx() else { return };
    let first = bench.open();
    attach(&first, "left");
    attach(&first, "right");
    drop(first);
    ip(&["link", "delete", "left"]);
    ip(&["link", "add", "left", "type", "veth", "peer", "name", "new"]);

    let second = bench.open();
    assert_eq!(attach(&second, "left").outcome, Outcome::Attached);
    assert_eq!(only_program(&second, "left"), id(&second));
    let stale = second.remove_stale_links().expect("removing");
    assert_eq!(stale.len(), 1, "that of right, whose pair went with left: {stale:?}");
    assert!(stale[0].starts_with(bench.links().join("right")));
    let left: Vec<_> = second.links().expect("listing").into_iter().map(|l| l.path).collect();
    assert_eq!(left, [bench.links().join("left/cil_from_container-ingress")]);
    assert!(!bench.links().join("right").exists(), "nor its directory");
}

#[test]
fn both_sides_and_several_devices_are_told_apart() {
    let Some(bench) = Bench::tcx() else { return };
    let datapath = bench.open();
    for device in ["left", "right"] {
        let interface = Interface::by_name(device).expect("there");
        for (program, direction) in
            [(Program::FromContainer, Direction::Ingress), (Program::ToContainer, Direction::Egress)]
        {
            let done = datapath.attach(program, &interface, direction).expect("attaching");
            assert_eq!((done.outcome, done.before.as_slice()), (Outcome::Attached, &[][..]));
        }
    }
    assert_eq!(datapath.links().expect("listing").len(), 4);
    let left = Interface::by_name("left").expect("there");
    assert!(datapath.detach(Program::FromContainer, &left, Direction::Ingress).expect("detaching"));
    assert_eq!(datapath.attached(&left, Direction::Ingress).expect("asking"), []);
    assert_eq!(datapath.attached(&left, Direction::Egress).expect("asking").len(), 1);
    assert_eq!(only_program(&datapath, "right"), id(&datapath));
    remove_all(bench.fs.path()).expect("removing");
    assert!(!bench.links().exists());
    assert_eq!(fs::read_dir(bench.fs.path().join("tc/globals")).expect("it stays").count(), 0);
}

/// The filters `tc` shows at a device's ingress.
fn filters(device: &str) -> Vec<String> {
    let out = std::process::Command::new("tc").args(["filter", "show", "dev", device, "ingress"]).output();
    let text = String::from_utf8(out.expect("iproute2 is installed").stdout).expect("text");
    text.lines().filter(|line| line.contains("handle")).map(str::to_owned).collect()
}

#[test]
fn without_tcx_filters_are_replaced_in_place() {
    let Some(bench) = Bench::new(HookChoice::Only(Hook::Clsact)) else { return };
    let first = bench.open();
    assert_eq!(first.hook(), Hook::Clsact);
    assert_eq!(attach(&first, "left").outcome, Outcome::Attached);
    assert_eq!(attach(&first, "left").outcome, Outcome::Replaced);
    drop(first);
    let before = filters("left");
    assert_eq!(before.len(), 1, "it outlives the agent, once: {before:?}");
    let second = bench.open();
    assert_eq!(attach(&second, "left").outcome, Outcome::Replaced);
    let after = filters("left");
    assert_eq!(after.len(), 1, "{after:?}");
    assert!(after[0].contains(&format!("id {} ", id(&second))), "the new program runs: {after:?}");
    let left = Interface::by_name("left").expect("there");
    assert!(second.detach(PROGRAM, &left, Direction::Ingress).expect("detaching"));
    assert_eq!(filters("left"), [] as [String; 0]);
}

#[test]
fn a_program_attached_soon_runs_at_once_and_becomes_a_link_later() {
    let Some(bench) = Bench::tcx() else { return };
    let first = bench.open();
    let left = Interface::by_name("left").expect("there");
    let soon =
        |datapath: &Datapath| datapath.attach_soon(PROGRAM, &left, Direction::Ingress).expect("attaching").outcome;
    assert_eq!(soon(&first), Outcome::Provisional);
    assert_eq!(filters("left").len(), 1);
    assert_eq!(first.attached(&left, Direction::Ingress).expect("asking"), []);
    drop(first);
    assert_eq!(filters("left").len(), 1, "it outlives the agent");

    let second = bench.open();
    assert_eq!(attach(&second, "left").outcome, Outcome::Attached);
    assert_eq!(filters("left"), [] as [String; 0]);
    assert_eq!(only_program(&second, "left"), id(&second));
    let third = bench.open();
    assert_eq!(soon(&third), Outcome::Replaced, "a link is replaced at once");
    assert_eq!((filters("left"), only_program(&third, "left")), (vec![], id(&third)));
}

#[test]
fn a_kernel_that_gains_tcx_runs_each_program_once() {
    let Some(mut bench) = Bench::tcx() else { return };
    bench.config.hook = HookChoice::Only(Hook::Clsact);
    attach(&bench.open(), "left");
    assert_eq!(filters("left").len(), 1);
    bench.config.hook = HookChoice::Auto;
    let datapath = bench.open();
    attach(&datapath, "left");
    assert_eq!(filters("left"), [] as [String; 0], "the filter is gone");
    assert_eq!(only_program(&datapath, "left"), id(&datapath));
}

#[test]
fn what_is_missing_is_named() {
    let Some(mut bench) = Bench::new(HookChoice::Auto) else { return };
    let error = Interface::by_name("nowhere0").expect_err("there is none");
    assert!(error.to_string().contains("nowhere0"), "{error}");
    let good = std::mem::replace(&mut bench.config.object, "/nowhere/cilium.o".into());
    let error = Datapath::open(&bench.config).expect_err("there is no such file");
    assert!(
        error.to_string().contains("/nowhere/cilium.o") && error.to_string().contains("cargo xtask bpf"),
        "{error}"
    );
    bench.config.object = bench.fs.path().with_extension("o");
    fs::write(&bench.config.object, b"not an object").expect("a temporary file");
    let error = Datapath::open(&bench.config).expect_err("no ELF file");
    fs::remove_file(&bench.config.object).expect("it was written");
    assert!(matches!(error, LoadError::Object { .. }), "{error}");
    bench.config.object = good;
    bench.config.bpffs = Path::new("/proc/version").to_owned();
    let error = Datapath::open(&bench.config).expect_err("a plain file is no bpffs");
    assert!(error.to_string().contains("/proc/version") && error.to_string().contains("mount -t bpf"), "{error}");
}

/// Sends frames out of `right`, which arrive at `left`, for as long as it lives.
struct Stream {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    sender: Option<std::thread::JoinHandle<()>>,
    receiver: std::net::UdpSocket,
}

impl Stream {
    /// Addresses `left` and starts to send to it from an address that no program knows.
    fn start() -> Self {
        ip(&["link", "set", "lo", "up"]);
        ip(&["addr", "add", "10.9.9.1/24", "dev", "left"]);
        for name in ["all", "left"] {
            fs::write(format!("/proc/sys/net/ipv4/conf/{name}/rp_filter"), "0").expect("a sysctl");
        }
        let receiver = std::net::UdpSocket::bind("10.9.9.1:7000").expect("the address is there");
        receiver.set_nonblocking(true).expect("a socket option");
        let frame = frame(mac_of("left"));
        let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (ends, counter, out) = (stop.clone(), sent.clone(), Interface::by_name("right").expect("there").index);
        let sender = std::thread::spawn(move || support::send_frames(out, &frame, &ends, &counter));
        Self { stop, sent, sender: Some(sender), receiver }
    }

    /// Packets that came through since the last call.
    fn received(&self) -> u64 {
        let mut buffer = [0; 64];
        std::iter::from_fn(|| self.receiver.recv(&mut buffer).ok()).count() as u64
    }

    /// Waits until this many more came through.
    fn wait_for(&self, count: u64) {
        let (began, mut seen) = (Instant::now(), 0);
        while seen < count {
            seen += self.received();
            assert!(began.elapsed() < Duration::from_secs(60), "nothing comes through");
        }
    }

    /// Does something again and again until this many more were sent.
    fn while_sending(&self, count: u64, mut work: impl FnMut()) {
        let (began, until) = (Instant::now(), self.sent.load(Relaxed) + count);
        while self.sent.load(Relaxed) < until {
            work();
            assert!(began.elapsed() < Duration::from_secs(60), "nothing is sent");
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        if let Some(sender) = self.sender.take() {
            let _ = sender.join();
        }
    }
}

fn parse_mac(text: &str) -> Option<[u8; 6]> {
    let bytes: Vec<u8> = text.split(':').filter_map(|part| u8::from_str_radix(part, 16).ok()).collect();
    bytes.try_into().ok()
}

/// /sys shows the devices of the namespace it was mounted in; `ip` those of its own.
fn mac_of(device: &str) -> [u8; 6] {
    let out = std::process::Command::new("ip").args(["-o", "link", "show", device]).output().expect("iproute2");
    let text = String::from_utf8(out.stdout).expect("text");
    let mut words = text.split_whitespace().skip_while(|word| *word != "link/ether");
    words.nth(1).and_then(parse_mac).expect("a veth has a MAC address")
}

/// A UDP packet from 10.9.9.2 to 10.9.9.1:7000.
fn frame(to: [u8; 6]) -> Vec<u8> {
    let mut out = to.to_vec();
    out.extend([2, 0, 0, 0, 0, 9, 0x08, 0x00]);
    out.extend([0x45, 0, 0, 36, 0, 0, 0, 0, 64, 17, 0x55, 0xa3, 10, 9, 9, 2, 10, 9, 9, 1]);
    let header = &mut out[14..34];
    header[10..12].fill(0);
    let sum: u32 = header.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
    let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
    header[10..12].copy_from_slice(&sum.to_be_bytes());
    out.extend([0x13, 0x88, 0x1b, 0x58, 0, 16, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8]);
    out
}

#[test]
fn nothing_slips_through_while_programs_are_replaced() {
    let Some(bench) = Bench::tcx() else { return };
    let left = Interface::by_name("left").expect("there");
    let (first, second) = (bench.open(), bench.open());
    // Nobody is behind this device, so the program drops whatever comes.
    attach(&first, "left");
    let stream = Stream::start();
    let mut replaced = 0;
    stream.while_sending(2000, || {
        attach(&second, "left");
        attach(&first, "left");
        replaced += 2;
    });
    drop((first, second));
    let third = bench.open();
    attach(&third, "left");
    assert_eq!(stream.received(), 0, "a packet passed in one of {replaced} replacements, or without an agent");

    assert!(third.detach(PROGRAM, &left, Direction::Ingress).expect("detaching"));
    stream.wait_for(10); // So it was the program that held them back.
    let soon = third.attach_soon(PROGRAM, &left, Direction::Ingress).expect("attaching");
    assert_eq!(soon.outcome, Outcome::Provisional);
    stream.while_sending(20, std::thread::yield_now); // What was under way has arrived.
    stream.received();
    attach(&third, "left");
    stream.while_sending(20, std::thread::yield_now);
    assert_eq!(stream.received(), 0, "a packet passed between filter and link");
}
