//! What kernel tests share: a bpffs of their own, network namespaces of their own, and saying why they are skipped.
#![allow(dead_code, reason = "each test file uses a part")]

pub mod netns;

use std::io::Write as _;
use std::{
    collections::BTreeMap,
    ffi::CString,
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
};

/// Says why a test does not run; in CI it must run.
pub fn skip(why: &str) {
    assert!(std::env::var_os("CI").is_none(), "CI must run this: {why}");
    let _shown = writeln!(std::io::stderr(), "skipped: {why}");
}

/// Says what this kernel cannot do, for which there is nothing to test; this may be so in CI, too. `cargo xtask kernels` knows
/// what each of its kernels lacks, and takes any other for a failure.
pub fn kernel_lacks(what: &str) {
    say_skipped(&format!("this kernel has no {what}"));
}

/// Says why nothing is tried; this may be so in CI, too.
pub fn say_skipped(why: &str) {
    let _shown = writeln!(std::io::stderr(), "skipped: {why}");
}

/// Writes one entry into the kernel's maps.
pub fn write(maps: &loader::Maps, write: &abi::write::MapWrite) {
    use abi::write::MapWrite;
    macro_rules! tables {
        ($($variant:ident in $table:ident),*) => {
            match *write {
                $(MapWrite::$variant(key, Some(value)) => maps.$table.insert(&key, &value).map(drop),)*
                $(MapWrite::$variant(key, None) => maps.$table.remove(&key).map(drop),)*
                MapWrite::Maglev4(..) | MapWrite::Maglev6(..) => panic!("the write only names the table"),
            }
        };
    }
    tables!(
        Lxc in lxc, Device in devices, Ipcache in ipcache, Policy in policy, Service4 in lb4_services,
        Service6 in lb6_services, Backend4 in lb4_backends, Backend6 in lb6_backends,
        RevNat4 in lb4_reverse_nat, RevNat6 in lb6_reverse_nat, AffinityMatch in lb_affinity_match,
        SourceRange4 in lb4_source_range, SourceRange6 in lb6_source_range, IpMasq4 in ipmasq4, IpMasq6 in ipmasq6,
        Runtime in runtime
    )
    .unwrap_or_else(|e| panic!("{write:?}: {e}"));
}

/// A directory name nobody else uses.
fn unique(prefix: &str) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!("{prefix}-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

/// A bpffs mounted for one test.
pub struct Bpffs(PathBuf);

impl Bpffs {
    /// Mounts one; `None`, said aloud, where that is not possible.
    pub fn mount() -> Option<Self> {
        if let Err(why) = loader::check_kernel() {
            skip(&why.to_string());
            return None;
        }
        let path = std::env::temp_dir().join(unique("cilium-bpffs"));
        match loader::ensure_bpffs(&path) {
            Ok(()) => Some(Self(path)),
            Err(why) => {
                skip(&why.to_string());
                None
            }
        }
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// An empty directory in it.
    pub fn directory(&self, name: &str) -> PathBuf {
        let path = self.0.join(name);
        fs::create_dir_all(&path).expect("a bpffs takes directories");
        path
    }
}

impl Drop for Bpffs {
    fn drop(&mut self) {
        let path = CString::new(self.0.to_str().expect("a plain path")).expect("no zero bytes");
        // SAFETY: the path is a terminated string.
        unsafe { libc::umount2(path.as_ptr(), libc::MNT_DETACH) };
        let _ = fs::remove_dir(&self.0);
    }
}

/// Sizes that make the maps cheap.
pub fn small() -> BTreeMap<String, u32> {
    abi::maps::ALL
        .iter()
        .filter(|spec| spec.max_entries > 1024 && spec.kind != abi::maps::MapKind::RingBuf)
        .map(|spec| (spec.name.to_owned(), 1024))
        .collect()
}

/// The object file: `CILIUM_BPF_OBJECT`, or where `cargo xtask bpf` puts it.
pub fn object() -> Option<PathBuf> {
    let built = || {
        let target = std::env::var_os("CARGO_TARGET_DIR")
            .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target"), PathBuf::from);
        target.join("bpf/cilium.o")
    };
    let path = std::env::var_os("CILIUM_BPF_OBJECT").map_or_else(built, PathBuf::from);
    if path.exists() {
        return Some(path);
    }
    skip(&format!("no programs at {}: run `cargo xtask bpf`", path.display()));
    None
}

/// Moves the calling thread into a new network namespace with a veth pair `left` and `right`, both up.
pub fn in_new_network_namespace() {
    // SAFETY: unshare(2) takes no pointers; only the calling thread moves.
    assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNET) }, 0, "{}", std::io::Error::last_os_error());
    ip(&["link", "add", "left", "type", "veth", "peer", "name", "right"]);
    ip(&["link", "set", "left", "up"]);
    ip(&["link", "set", "right", "up"]);
}

/// Runs `ip` in the calling thread's namespace.
pub fn ip(args: &[&str]) {
    let out = Command::new("ip").args(args).output().expect("iproute2 is installed");
    assert!(out.status.success(), "ip {args:?}: {}", String::from_utf8_lossy(&out.stderr));
}

/// Pins the calling thread to the CPU it runs on; returns its number.
pub fn stay_on_one_cpu() -> u32 {
    // SAFETY: sched_getcpu(3) takes nothing; the set is zeroed bytes, which is an empty set, then written by CPU_SET
    // within its bounds, and read by the system call with its size.
    unsafe {
        let cpu = libc::sched_getcpu();
        let cpu = usize::try_from(cpu).expect("this system knows its CPU");
        let mut set = std::mem::zeroed::<libc::cpu_set_t>();
        libc::CPU_SET(cpu, &mut set);
        assert_eq!(libc::sched_setaffinity(0, size_of_val(&set), &set), 0, "{}", std::io::Error::last_os_error());
        cpu as u32
    }
}

/// The clock the programs read, in nanoseconds.
pub fn coarse_clock() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is room for one timespec.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC_COARSE, &mut now) };
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// The same, when no turn of a second is near, before or after: what follows is within one second, also by the programs'
/// count, which may be a tick behind.
pub fn coarse_clock_away_from_the_next_second() -> u64 {
    let mut now = coarse_clock();
    while now % SECOND > SECOND - NEAR || now % SECOND < NEAR {
        std::thread::sleep(std::time::Duration::from_nanos(NEAR / 4));
        now = coarse_clock();
    }
    now
}

/// Whether a second may have turned since [`coarse_clock_away_from_the_next_second`] said `then`: for the programs, whose count
/// may be a tick ahead, that is before the clock says so.
pub fn a_second_may_have_turned(then: u64) -> bool {
    then / SECOND != (coarse_clock() + NEAR) / SECOND
}

const SECOND: u64 = 1_000_000_000;
/// Some ticks, at the slowest rate but one.
const NEAR: u64 = 12_000_000;

/// Sends a frame out of an interface again and again until told to stop, and counts.
pub fn send_frames(ifindex: u32, frame: &[u8], stop: &AtomicBool, sent: &AtomicU64) {
    // SAFETY: socket(2) takes no pointers.
    let socket = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
    assert!(socket >= 0, "{}", std::io::Error::last_os_error());
    // SAFETY: the descriptor was just made and nobody else owns it.
    let socket = unsafe { <std::os::fd::OwnedFd as std::os::fd::FromRawFd>::from_raw_fd(socket) };
    // SAFETY: zeroed bytes are a valid sockaddr_ll.
    let mut to = unsafe { std::mem::zeroed::<libc::sockaddr_ll>() };
    to.sll_family = libc::AF_PACKET as u16;
    to.sll_ifindex = ifindex as i32;
    while !stop.load(Ordering::Relaxed) {
        // SAFETY: frame and address are live and as long as said.
        let ret = unsafe {
            libc::sendto(
                std::os::fd::AsRawFd::as_raw_fd(&socket),
                frame.as_ptr().cast(),
                frame.len(),
                0,
                std::ptr::from_ref(&to).cast(),
                size_of_val(&to) as u32,
            )
        };
        sent.fetch_add(u64::from(ret > 0), Ordering::Relaxed);
        std::thread::yield_now();
    }
}
