//! `measure [--json] [--only WORD] [OBJECT RIG]`: nanoseconds a packet costs in each program, net of the rig that restores it.
//!
//! Rig and target are run in turns on one pinned CPU, many short runs of each; minimum and median of the difference are
//! shown. Events are read between runs, so that every record finds room; for new flows the second pair of columns is that, and the
//! first what they cost while the ring is full. Before the table stands what this machine needs for things that
//! no program can do without: machines differ in it by a factor of four, above all in what a call costs.
//! Needs root. The objects are `cilium` and `rig` of `datapath-ebpf/programs`; of the rows, those whose name contains
//! WORD.
#![allow(clippy::print_stdout, reason = "a command")]

mod outside;

use std::{
    net::{Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
};

use abi::{
    be::Port,
    config::{DEFAULT_LIFETIMES, NODE_ALLOW_LOCALHOST, NODE_HOST_ROUTING, NODE_POLICY_VERDICTS, NODE_TRACK_FRAGMENTS},
    config::{NodeConfig, Runtime},
    endpoint::{DEVICE_ENFORCE_EGRESS, DEVICE_ENFORCE_INGRESS, Device, EndpointInfo, EndpointKey},
    ipcache::{IpcacheEntry, IpcacheKey},
    lb::{LbBackend4, LbBackend6, LbKey4, LbKey6, LbRevNat4, LbRevNat6, LbService},
    policy::{EGRESS, INGRESS, PolicyEntry, PolicyKey},
};
use aya::{
    Ebpf, EbpfLoader, Pod,
    maps::{Array, ProgramArray},
    programs::{Program as AyaProgram, SchedClassifier, TestRun as _, TestRunOptions, Xdp, loaded_programs},
};
use loader::{Datapath, LoaderConfig, Maps, Program, SkBuff};
use zerocopy::IntoBytes as _;

/// Repeats of one run, and runs.
const REPEATS: u32 = 1_000;
const RUNS: usize = 400;

const POD4: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);
const POD6: Ipv6Addr = Ipv6Addr::new(0xfd09, 0, 0, 0, 0, 0, 0, 1);
const PEER4: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 2);
const PEER6: Ipv6Addr = Ipv6Addr::new(0xfd09, 0, 0, 0, 0, 0, 0, 2);
const WORLD4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const WORLD6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
const VIP4: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 1);
const VIP6: Ipv6Addr = Ipv6Addr::new(0xfd96, 0, 0, 0, 0, 0, 0, 1);

/// The rig's template, as the program has it.
#[derive(Clone, Copy)]
#[repr(C)]
struct Template {
    packet: [u8; 128],
    port_at: u32,
    address_at: u32,
    mask: u32,
    start: u32,
}
// SAFETY: plain bytes without padding.
unsafe impl Pod for Template {}

/// A TCP segment from port 40000 to `port`.
fn packet4(src: Ipv4Addr, dst: Ipv4Addr, port: u16, flags: u8) -> [u8; 128] {
    let mut p = [0; 128];
    p[12..14].copy_from_slice(&[8, 0]);
    p[14..24].copy_from_slice(&[0x45, 0, 0, 114, 0, 0, 0, 0, 64, 6]);
    p[26..30].copy_from_slice(&src.octets());
    p[30..34].copy_from_slice(&dst.octets());
    tcp(&mut p[34..], port, flags);
    p
}

fn packet6(src: Ipv6Addr, dst: Ipv6Addr, port: u16, flags: u8) -> [u8; 128] {
    let mut p = [0; 128];
    p[12..14].copy_from_slice(&[0x86, 0xdd]);
    p[14..22].copy_from_slice(&[0x60, 0, 0, 0, 0, 74, 6, 64]);
    p[22..38].copy_from_slice(&src.octets());
    p[38..54].copy_from_slice(&dst.octets());
    tcp(&mut p[54..], port, flags);
    p
}

fn tcp(p: &mut [u8], port: u16, flags: u8) {
    p[..2].copy_from_slice(&40_000_u16.to_be_bytes());
    p[2..4].copy_from_slice(&port.to_be_bytes());
    p[12] = 0x50;
    p[13] = flags;
}

fn node() -> NodeConfig {
    NodeConfig {
        router_ipv4: Ipv4Addr::new(10, 9, 0, 254).into(),
        router_ipv6: Ipv6Addr::new(0xfd09, 0, 0, 0, 0, 0, 0, 0xfe).into(),
        flags: NODE_TRACK_FRAGMENTS | NODE_HOST_ROUTING | NODE_ALLOW_LOCALHOST | NODE_POLICY_VERDICTS,
        world_ipv4: 9,
        world_ipv6: 10,
        monitor_aggregation: 3,
        report_interval: 5,
        report_tcp_flags: 0xff,
        capture_len: 128,
        lifetimes: DEFAULT_LIFETIMES,
        ..NodeConfig::default()
    }
}

/// A pod at the loopback device (where test runs happen) and one at interface 1000, both policed both ways, the world
/// and the peer allowed on port 80; a service with one backend in the world, and one with the peer as backend.
fn fill(maps: &Maps) -> Result<(), loader::MapError> {
    let device = |n: u8, policy| Device {
        identity: 1000 + u32::from(n),
        policy,
        lxc_id: n.into(),
        flags: DEVICE_ENFORCE_EGRESS | DEVICE_ENFORCE_INGRESS,
        ipv4: Ipv4Addr::new(10, 9, 0, n).into(),
        ipv6: Ipv6Addr::new(0xfd09, 0, 0, 0, 0, 0, 0, n.into()).into(),
        ..Device::default()
    };
    for (n, ifindex, ip4, ip6) in [(1, 1, POD4, POD6), (2, 1000, PEER4, PEER6)] {
        maps.devices.insert(&ifindex, &device(n, u32::from(n)))?;
        let info = EndpointInfo { ifindex, lxc_id: n.into(), identity: 1000 + u32::from(n), ..EndpointInfo::default() };
        maps.lxc.insert(&EndpointKey::new(ip4.into()), &info)?;
        maps.lxc.insert(&EndpointKey::new(ip6.into()), &info)?;
        let id = 1000 + u32::from(n);
        let entry = IpcacheEntry { identity: id, class: id, ..IpcacheEntry::default() };
        maps.ipcache.insert(&IpcacheKey::v4(ip4.into(), 32), &entry)?;
        maps.ipcache.insert(&IpcacheKey::v6(ip6.into(), 128), &entry)?;
    }
    let world = |identity| IpcacheEntry { identity, class: 9, ..IpcacheEntry::default() };
    maps.ipcache.insert(&IpcacheKey::v4(abi::be::Addr4::default(), 0), &world(9))?;
    maps.ipcache.insert(&IpcacheKey::v6(abi::be::Addr6::default(), 0), &world(10))?;
    for class in [9, 1001, 1002] {
        for policy in [1, 2] {
            for direction in [INGRESS, EGRESS] {
                for port in [80, 8080] {
                    let key = PolicyKey::entry(policy, class, direction, 6, Port::new(port), 24);
                    maps.policy.insert(&key, &PolicyEntry::default())?;
                }
            }
        }
    }
    for (port, to4, to6) in [(80, WORLD4, WORLD6), (81, PEER4, PEER6)] {
        let (id, rev) = (u32::from(port), Port::new(port));
        let (port, backend_port) = (Port::new(port), Port::new(8080));
        let slot = LbService { backend_id: id, rev_nat_index: rev, ..LbService::default() };
        let frontend = LbService { count: 1, backend_id: 0, ..slot };
        let key4 = LbKey4 { address: VIP4.into(), dport: port, proto: 6, ..LbKey4::default() };
        let key6 = LbKey6 { address: VIP6.into(), dport: port, proto: 6, ..LbKey6::default() };
        maps.lb4_backends
            .insert(&id, &LbBackend4 { address: to4.into(), port: backend_port, ..LbBackend4::default() })?;
        maps.lb6_backends
            .insert(&id, &LbBackend6 { address: to6.into(), port: backend_port, ..LbBackend6::default() })?;
        maps.lb4_reverse_nat.insert(&rev, &LbRevNat4 { address: VIP4.into(), port, ..LbRevNat4::default() })?;
        maps.lb6_reverse_nat.insert(&rev, &LbRevNat6 { address: VIP6.into(), port, ..LbRevNat6::default() })?;
        maps.lb4_services.insert(&LbKey4 { backend_slot: 1, ..key4 }, &slot)?;
        maps.lb6_services.insert(&LbKey6 { backend_slot: 1, ..key6 }, &slot)?;
        maps.lb4_services.insert(&key4, &frontend)?;
        maps.lb6_services.insert(&key6, &frontend)?;
    }
    maps.set_runtime(Runtime::PolicyRevision, 1)?;
    maps.set_runtime(Runtime::LbRevision, 1)
}

struct Rig {
    ebpf: Ebpf,
}

impl Rig {
    fn load(path: &Path) -> anyhow_free::Result<Self> {
        let mut ebpf = EbpfLoader::new().load_file(path)?;
        for map in ["RIG_HASH", "RIG_LRU"] {
            let map = ebpf.map_mut(map).expect("the rig has it");
            aya::maps::HashMap::<_, [u32; 4], [u32; 12]>::try_from(map)?.insert([1, 0, 0, 0], [0; 12], 0)?;
        }
        let map = ebpf.map_mut("RIG_LRU").expect("the rig has it");
        let mut many = aya::maps::HashMap::<_, [u32; 4], [u32; 12]>::try_from(map)?;
        for number in 0..=0xffff {
            many.insert([number, 0, 0, 0], [0; 12], 0)?;
        }
        let map = ebpf.map_mut("RIG_LPM").expect("the rig has it");
        aya::maps::lpm_trie::LpmTrie::<_, [u32; 5], [u32; 4]>::try_from(map)?.insert(
            &aya::maps::lpm_trie::Key::new(64, [0; 5]),
            [0; 4],
            0,
        )?;
        for name in ["rig", "rig_nothing", "rig_call", "rig_hash", "rig_lru", "rig_lru_many", "rig_lpm", "rig_least"] {
            Self::classifier(&mut ebpf, name).load()?;
        }
        Self::classifier(&mut ebpf, "rig_lru_new").load()?;
        for name in ["rig_xdp", "rig_xdp_none", "rig_xdp_grow"] {
            Self::xdp(&mut ebpf, name).load()?;
        }
        Ok(Self { ebpf })
    }

    fn xdp<'a>(ebpf: &'a mut Ebpf, name: &str) -> &'a mut Xdp {
        match ebpf.program_mut(name) {
            Some(AyaProgram::Xdp(program)) => program,
            _ => panic!("the rig has a program {name}"),
        }
    }

    fn classifier<'a>(ebpf: &'a mut Ebpf, name: &str) -> &'a mut SchedClassifier {
        match ebpf.program_mut(name) {
            Some(AyaProgram::SchedClassifier(program)) => program,
            _ => panic!("the rig has a program {name}"),
        }
    }

    fn template(&mut self, template: Template) -> anyhow_free::Result<()> {
        let map = self.ebpf.map_mut("RIG_TEMPLATE").expect("the rig has it");
        Array::<_, Template>::try_from(map)?.set(0, template, 0)?;
        Ok(())
    }

    fn aim(&mut self, id: u32) -> anyhow_free::Result<()> {
        self.aim_at("RIG_TARGET", id)
    }

    fn aim_at(&mut self, map: &str, id: u32) -> anyhow_free::Result<()> {
        let info = loaded_programs().filter_map(Result::ok).find(|p| p.id() == id).expect("it is loaded");
        let fd = info.fd()?;
        let map = self.ebpf.map_mut(map).expect("the rig has it");
        ProgramArray::try_from(map)?.set(0, &fd, 0)?;
        Ok(())
    }

    /// Says what an empty run and some look-ups cost here.
    fn machine(&mut self) -> anyhow_free::Result<String> {
        const NAMES: [(&str, f64); 7] = [
            ("rig_nothing", 1.0),
            ("rig_call", 8.0),
            ("rig_hash", 8.0),
            ("rig_lru", 8.0),
            ("rig_lru_many", 8.0),
            ("rig_lpm", 8.0),
            ("rig_least", 1.0),
        ];
        let mut least = [f64::INFINITY; NAMES.len()];
        for _ in 0..RUNS {
            for ((name, _), least) in NAMES.iter().zip(&mut least) {
                let mut out = [0; 1024];
                let options = TestRunOptions {
                    data_in: Some(&[0; 64]),
                    data_out: Some(&mut out),
                    repeat: REPEATS,
                    ..TestRunOptions::new()
                };
                *least =
                    least.min(Self::classifier(&mut self.ebpf, name).test_run(options)?.duration.as_nanos() as f64);
            }
        }
        let [empty, ..] = least;
        let mut told = format!("this machine, ns: an empty run {empty:.0}; net of it, each:");
        for ((name, times), ns) in NAMES.iter().zip(least).skip(1) {
            let name = name.trim_start_matches("rig_");
            told += &format!(" {name} {:.1}", (ns - empty) / times);
        }
        // What is put into a map that is full and evicts: after as many as it holds.
        let mut ns = f64::INFINITY;
        for run in 0..RUNS {
            let options = TestRunOptions {
                data_in: Some(&[0; 64]),
                repeat: if run == 0 { 100_000 } else { REPEATS },
                ..TestRunOptions::new()
            };
            let took = Self::classifier(&mut self.ebpf, "rig_lru_new").test_run(options)?.duration.as_nanos() as f64;
            ns = if run == 0 { ns } else { ns.min(took) };
        }
        told += &format!(" lru_new {:.1}", (ns - empty) / 8.0);
        told += " (lru_new: put into one that is full; call: a helper; hash, LRU hash of 16-byte keys, LPM: a hit; lru_many: a hit among \
                 64k in turn; least: connection and address looked up, once)";
        Ok(told)
    }

    fn nothing(&mut self) -> anyhow_free::Result<u32> {
        Ok(Self::classifier(&mut self.ebpf, "rig_nothing").info()?.id())
    }

    /// Nanoseconds of one run, and what the program returned last.
    fn run(&mut self, packet: &[u8]) -> anyhow_free::Result<(f64, u32)> {
        self.run_at(packet, 0)
    }

    /// The same at a device of this network namespace.
    fn run_at(&mut self, packet: &[u8], ifindex: u32) -> anyhow_free::Result<(f64, u32)> {
        let ctx = SkBuff { ifindex, ..SkBuff::default() };
        let mut out = [0; 1024];
        let options = TestRunOptions {
            data_in: Some(packet),
            data_out: Some(&mut out),
            ctx_in: Some(ctx.as_bytes()),
            repeat: REPEATS,
            ..TestRunOptions::new()
        };
        let result = Self::classifier(&mut self.ebpf, "rig").test_run(options)?;
        Ok((result.duration.as_nanos() as f64, result.return_value))
    }

    /// The same at the hook of packets without a buffer.
    fn run_xdp(&mut self, packet: &[u8], ifindex: u32, repeat: u32) -> anyhow_free::Result<(f64, u32)> {
        let mut out = [0; 1024];
        let end = packet.len() as u32;
        let ctx: [u32; 6] = [0, end, 0, ifindex, 0, 0];
        let options = TestRunOptions {
            data_in: Some(packet),
            data_out: Some(&mut out),
            ctx_in: Some(ctx.as_bytes()),
            repeat,
            ..TestRunOptions::new()
        };
        let result = Self::xdp(&mut self.ebpf, "rig_xdp").test_run(options)?;
        Ok((result.duration.as_nanos() as f64, result.return_value))
    }

    fn id_of_xdp(&mut self, name: &str) -> anyhow_free::Result<u32> {
        Ok(Self::xdp(&mut self.ebpf, name).info()?.id())
    }
}

/// This example's one error type.
mod anyhow_free {
    pub type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;
}

fn least(values: &[f64]) -> f64 {
    values.iter().copied().fold(f64::INFINITY, f64::min)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Stays on the last CPU: interrupts prefer the first.
fn pin() {
    // SAFETY: an empty set, written within its bounds, read with its size.
    unsafe {
        let mut set = std::mem::zeroed::<libc::cpu_set_t>();
        let cpus = libc::sysconf(libc::_SC_NPROCESSORS_ONLN).max(1) as usize;
        libc::CPU_SET(cpus - 1, &mut set);
        libc::sched_setaffinity(0, size_of_val(&set), &set);
    }
}

fn main() -> anyhow_free::Result<()> {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| PathBuf::from("target"), PathBuf::from);
    let built = target.join("bpf-build/bpfel-unknown-none/release");
    let mut args: Vec<String> = std::env::args().skip(1).collect();
    let json = args.iter().position(|arg| arg == "--json").map(|at| args.remove(at)).is_some();
    let only = args.iter().position(|arg| arg == "--only").map(|at| args.drain(at..args.len().min(at + 2)).nth(1));
    let shown = Shown { json, only: only.flatten().unwrap_or_default() };
    let mut args = args.into_iter().map(PathBuf::from);
    let object = args.next().unwrap_or_else(|| built.join("cilium"));
    let rig = args.next().unwrap_or_else(|| built.join("rig"));
    pin();
    let mount = std::env::temp_dir().join(format!("cilium-measure-{}", std::process::id()));
    loader::ensure_bpffs(&mount)?;
    let measured = measure(&object, &rig, &mount, &shown);
    let path = std::ffi::CString::new(mount.to_string_lossy().into_owned())?;
    // SAFETY: a terminated string.
    unsafe { libc::umount2(path.as_ptr(), libc::MNT_DETACH) };
    std::fs::remove_dir(&mount)?;
    measured
}

/// What is shown, and how.
struct Shown {
    json: bool,
    only: String,
}

/// Nanoseconds of one way in which flows vary.
struct Column {
    /// What it adds to the row's name.
    of: &'static str,
    least: f64,
    median: f64,
}

impl Shown {
    fn wants(&self, name: &str) -> bool {
        name.contains(&self.only)
    }

    /// A line that is no row.
    fn note(&self, text: &str) {
        if !self.json {
            println!("{text}");
        }
    }

    fn row(&self, name: &str, columns: &[Column], returned: u32, rig: f64) {
        if !self.json {
            let columns: String =
                columns.iter().map(|column| format!(" {:8.0} {:8.0}", column.least, column.median)).collect();
            return println!("{name:40}{columns}  {} (rig {rig:.0})", returned.cast_signed());
        }
        for Column { of, least, median } in columns {
            println!("{{\"row\":\"{name}{of}\",\"value\":{least:.1},\"unit\":\"ns\",\"median\":{median:.1}}}");
        }
    }
}

fn measure(object: &Path, rig: &Path, mount: &Path, shown: &Shown) -> anyhow_free::Result<()> {
    let mut config = LoaderConfig::new(object, node());
    config.bpffs = mount.to_owned();
    let datapath = Datapath::open(&config)?;
    fill(datapath.maps())?;
    let mut rig = Rig::load(rig)?;
    shown.note(&rig.machine()?);
    pods(&datapath, &mut rig, shown)?;
    outside::measure(object, &mount.join("outside"), &mut rig, shown)?;
    for stats in datapath.load_stats() {
        shown.note(&format!(
            "{:20} {:7} instructions verified, {:6} bytes of machine code",
            stats.program.name(),
            stats.verified_insns,
            stats.jited_bytes
        ));
    }
    Ok(())
}

/// Rows of what pods send and get.
fn pods(datapath: &Datapath, rig: &mut Rig, shown: &Shown) -> anyhow_free::Result<()> {
    const SYN: u8 = 2;
    const ACK: u8 = 0x10;
    let from = Program::FromContainer;
    let rows = [
        ("pod to world, policy, v4", from, packet4(POD4, WORLD4, 80, ACK), false),
        ("pod to world, policy, v6", from, packet6(POD6, WORLD6, 80, ACK), true),
        ("pod to service in the world, v4", from, packet4(POD4, VIP4, 80, ACK), false),
        ("pod to service in the world, v6", from, packet6(POD6, VIP6, 80, ACK), true),
        ("pod to pod, policy twice, v4", from, packet4(POD4, PEER4, 80, ACK), false),
        ("pod to pod, policy twice, v6", from, packet6(POD6, PEER6, 80, ACK), true),
        ("pod to service on this node, v4", from, packet4(POD4, VIP4, 81, ACK), false),
        ("to pod from the stack, v4", Program::ToContainer, packet4(WORLD4, POD4, 80, ACK), false),
        ("new flow: pod to world, v4", from, packet4(POD4, WORLD4, 80, SYN), false),
        ("new flow: pod to world, v6", from, packet6(POD6, WORLD6, 80, SYN), true),
        ("new flow: pod to service in the world, v4", from, packet4(POD4, VIP4, 80, SYN), false),
        ("new flow: pod to service in the world, v6", from, packet6(POD6, VIP6, 80, SYN), true),
        ("new flow: pod to pod, v4", from, packet4(POD4, PEER4, 80, SYN), false),
    ];
    let (mut events, nothing) = (datapath.events()?, rig.nothing()?);
    let title = "ns a packet, net of the rig";
    shown.note(&format!("{title:40} {:>8} {:>8} {:>8} {:>8}  returns", "1 flow", "median", "16k", "median"));
    for (name, program, packet, v6) in rows.into_iter().filter(|row| shown.wants(row.0)) {
        let id = datapath.load_stats().into_iter().find(|s| s.program == program).expect("it is loaded").id;
        let new = name.starts_with("new");
        // New flows: while the ring of events is full, and while their two events are read.
        let masks =
            if new { [("", u32::MAX), (", events read", u32::MAX)] } else { [("", 0), (", 16k flows", 0x3fff)] };
        let (mut ret, mut base_min, mut columns) = (0, 0.0, vec![]);
        for (at, (of, mask)) in masks.into_iter().enumerate() {
            // New flows to a pod or to a service cannot vary its address.
            let fixed = name.contains("pod to pod") || name.contains("service");
            let template = Template {
                packet,
                port_at: if v6 { 54 } else { 34 },
                address_at: if v6 { 52 } else { 32 },
                mask: if fixed { mask & 0x3fff } else { mask },
                start: at as u32,
            };
            rig.template(template)?;
            let (mut base, mut with) = (vec![], vec![]);
            for _ in 0..RUNS {
                rig.aim(nothing)?;
                base.push(rig.run(&packet)?.0);
                if new {
                    datapath.maps().ct4.clear()?;
                    datapath.maps().ct6.clear()?;
                }
                if !new || at == 1 {
                    events.drain(usize::MAX, |_| ());
                }
                rig.aim(id)?;
                let (ns, returned) = rig.run(&packet)?;
                with.push(ns);
                ret = returned;
            }
            base_min = least(&base);
            columns.push(Column { of, least: least(&with) - base_min, median: median(with) - median(base) });
        }
        shown.row(name, &columns, ret, base_min);
    }
    Ok(())
}
