//! The few bpf(2) commands that aya does not offer: map elements by their whole key (an LPM key of ours
//! carries its prefix length), batches, and links by id. All `unsafe` of this crate is here and below.

use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

use abi::maps::MapKind;
use zerocopy::{FromBytes, Immutable, IntoBytes};

mod link;
mod words;

pub use link::*;
pub use words::{F_MMAPABLE, Words};

/// bpf(2) command numbers (linux/bpf.h).
mod cmd {
    pub const MAP_CREATE: libc::c_int = 0;
    pub const MAP_LOOKUP_ELEM: libc::c_int = 1;
    pub const MAP_UPDATE_ELEM: libc::c_int = 2;
    pub const MAP_DELETE_ELEM: libc::c_int = 3;
    pub const MAP_GET_NEXT_KEY: libc::c_int = 4;
    pub const PROG_LOAD: libc::c_int = 5;
    pub const OBJ_PIN: libc::c_int = 6;
    pub const OBJ_GET: libc::c_int = 7;
    pub const PROG_TEST_RUN: libc::c_int = 10;
    pub const PROG_GET_NEXT_ID: libc::c_int = 11;
    pub const PROG_GET_FD_BY_ID: libc::c_int = 13;
    pub const MAP_GET_FD_BY_ID: libc::c_int = 14;
    pub const OBJ_GET_INFO_BY_FD: libc::c_int = 15;
    pub const PROG_QUERY: libc::c_int = 16;
    pub const BTF_LOAD: libc::c_int = 18;
    pub const MAP_FREEZE: libc::c_int = 22;
    pub const MAP_LOOKUP_BATCH: libc::c_int = 24;
    pub const MAP_UPDATE_BATCH: libc::c_int = 26;
    pub const MAP_DELETE_BATCH: libc::c_int = 27;
    pub const LINK_CREATE: libc::c_int = 28;
    pub const LINK_UPDATE: libc::c_int = 29;
    pub const LINK_GET_FD_BY_ID: libc::c_int = 30;
    pub const LINK_GET_NEXT_ID: libc::c_int = 31;
    pub const LINK_DETACH: libc::c_int = 34;
}

/// `BPF_TCX_INGRESS` and `BPF_TCX_EGRESS`.
pub const TCX_INGRESS: u32 = 46;
pub const TCX_EGRESS: u32 = 47;
/// `BPF_LINK_TYPE_TCX`.
pub const LINK_TYPE_TCX: u32 = 11;
/// `BPF_LINK_TYPE_CGROUP`.
pub const LINK_TYPE_CGROUP: u32 = 3;
/// `BPF_CGROUP_INET4_CONNECT`.
pub const CGROUP_INET4_CONNECT: u32 = 10;
/// `BPF_ANY` and `BPF_NOEXIST`.
pub const ANY: u64 = 0;
pub const NOEXIST: u64 = 1;
/// The kernel's own "operation not supported", which has no name in libc.
pub const ENOTSUPP: i32 = 524;

const F_NO_PREALLOC: u32 = 1;
const F_RDONLY: u32 = 1 << 3;
/// `BPF_PROG_TYPE_SCHED_CLS` and `BPF_PROG_TYPE_XDP`.
pub const PROG_TYPE_SCHED_CLS: u32 = 3;
pub const PROG_TYPE_XDP: u32 = 6;
/// `BPF_XDP`, and the flags of an XDP link.
pub const XDP: u32 = 37;
pub const XDP_GENERIC: u32 = 1 << 1;
pub const XDP_NATIVE: u32 = 1 << 2;
/// `BPF_LINK_TYPE_XDP`.
pub const LINK_TYPE_XDP: u32 = 6;
/// Program types: tc, sockets of control groups, socket addresses of control groups.
pub const PROG_TYPE_CGROUP_SOCK: u32 = 9;
pub const PROG_TYPE_CGROUP_SOCK_ADDR: u32 = 18;

/// Attributes are plain structures the kernel reads and writes in place; unknown tails count as zero.
trait Attr: FromBytes + IntoBytes + Immutable {}
impl<T: FromBytes + IntoBytes + Immutable> Attr for T {}

fn bpf<A: Attr>(command: libc::c_int, attr: &mut A) -> io::Result<libc::c_long> {
    // SAFETY: `attr` is a live, fully initialised structure of the size given; the kernel reads and writes
    // within that size only, and any bit pattern it leaves is valid. Pointers inside are the callers' concern:
    // each points to a buffer that outlives this call and is as large as the command demands.
    let ret = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<A>()) };
    if ret < 0 { Err(io::Error::last_os_error()) } else { Ok(ret) }
}

fn bpf_fd<A: Attr>(command: libc::c_int, attr: &mut A) -> io::Result<OwnedFd> {
    let fd = bpf(command, attr)?;
    let fd = i32::try_from(fd).map_err(|_| io::Error::other("bpf(2) returned no file descriptor"))?;
    // SAFETY: the command succeeded, so the kernel made this descriptor for us and nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn raw(fd: BorrowedFd<'_>) -> u32 {
    fd.as_raw_fd().cast_unsigned()
}

fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))
}

fn name16(name: &str) -> [u8; 16] {
    let mut out = [0; 16];
    for (to, from) in out.iter_mut().zip(name.bytes().take(15)) {
        *to = if from.is_ascii_alphanumeric() || from == b'_' { from } else { b'_' };
    }
    out
}

/// Kernel number of a map type.
pub const fn map_type(kind: MapKind) -> u32 {
    match kind {
        MapKind::Hash => 1,
        MapKind::Array => 2,
        MapKind::PerCpuArray => 6,
        MapKind::LruHash => 9,
        MapKind::LpmTrie => 11,
        MapKind::HashOfMaps => 13,
        MapKind::RingBuf => 27,
    }
}

/// Flags a map is made with. Only maps whose entries the programs make are allocated beforehand.
pub const fn map_flags(kind: MapKind) -> u32 {
    match kind {
        MapKind::Hash | MapKind::LpmTrie | MapKind::HashOfMaps => F_NO_PREALLOC,
        MapKind::LruHash | MapKind::PerCpuArray | MapKind::Array | MapKind::RingBuf => 0,
    }
}

#[derive(FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct MapCreate {
    kind: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    flags: u32,
    inner_map_fd: u32,
    numa_node: u32,
    name: [u8; 16],
}

/// What a map is made as: the kernel's type number, sizes in bytes, entries, flags.
#[derive(Clone, Copy, Debug)]
pub struct MapShape {
    pub kind: u32,
    pub key_size: u32,
    pub value_size: u32,
    pub max_entries: u32,
    pub flags: u32,
}

pub fn map_create(name: &str, shape: &MapShape) -> io::Result<OwnedFd> {
    create(name, shape, 0)
}

/// Makes a map whose values are maps of the shape of `inner`.
pub fn map_of_maps_create(name: &str, shape: &MapShape, inner: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    create(name, shape, raw(inner))
}

fn create(name: &str, shape: &MapShape, inner_map_fd: u32) -> io::Result<OwnedFd> {
    let MapShape { kind, key_size, value_size, max_entries, flags } = *shape;
    let name = name16(name);
    let attr = &mut MapCreate { kind, key_size, value_size, max_entries, flags, inner_map_fd, numa_node: 0, name };
    bpf_fd(cmd::MAP_CREATE, attr)
}

pub fn map_by_id(id: u32) -> io::Result<OwnedFd> {
    bpf_fd(cmd::MAP_GET_FD_BY_ID, &mut Id { id, next: 0, flags: 0 })
}

#[derive(FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct Element {
    map_fd: u32,
    pad: u32,
    key: u64,
    value_or_next: u64,
    flags: u64,
}

fn element(command: libc::c_int, map: BorrowedFd<'_>, key: u64, value_or_next: u64, flags: u64) -> io::Result<()> {
    bpf(command, &mut Element { map_fd: raw(map), pad: 0, key, value_or_next, flags }).map(drop)
}

fn address(bytes: &[u8]) -> u64 {
    bytes.as_ptr() as u64
}

fn address_mut(bytes: &mut [u8]) -> u64 {
    bytes.as_mut_ptr() as u64
}

/// Copies the value of `key` into `value`; false: there is none. The slices must be as long as the map says.
pub fn map_lookup(map: BorrowedFd<'_>, key: &[u8], value: &mut [u8]) -> io::Result<bool> {
    found(element(cmd::MAP_LOOKUP_ELEM, map, address(key), address_mut(value), 0))
}

pub fn map_update(map: BorrowedFd<'_>, key: &[u8], value: &[u8], flags: u64) -> io::Result<()> {
    element(cmd::MAP_UPDATE_ELEM, map, address(key), address(value), flags)
}

/// Removes `key`; false: it was not there.
pub fn map_delete(map: BorrowedFd<'_>, key: &[u8]) -> io::Result<bool> {
    found(element(cmd::MAP_DELETE_ELEM, map, address(key), 0, 0))
}

/// Writes the key after `key` (`None`: the first) into `next`; false: there is none.
pub fn map_next_key(map: BorrowedFd<'_>, key: Option<&[u8]>, next: &mut [u8]) -> io::Result<bool> {
    found(element(cmd::MAP_GET_NEXT_KEY, map, key.map_or(0, address), address_mut(next), 0))
}

fn found(result: io::Result<()>) -> io::Result<bool> {
    match result {
        Ok(()) => Ok(true),
        Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        Err(e) => Err(e),
    }
}

#[derive(FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct Batch {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

/// What one read of a batch gave.
pub struct BatchRead {
    /// Entries written.
    pub count: u32,
    /// No more entries follow.
    pub last: bool,
}

/// Reads up to `count` entries. `position` holds where to go on (at least four bytes and a key long); `first` starts over.
pub fn map_lookup_batch(
    map: BorrowedFd<'_>,
    position: &mut [u8],
    first: bool,
    keys: &mut [u8],
    values: &mut [u8],
    count: u32,
) -> io::Result<BatchRead> {
    let place = address_mut(position);
    let mut attr = Batch {
        in_batch: if first { 0 } else { place },
        out_batch: place,
        keys: address_mut(keys),
        values: address_mut(values),
        count,
        map_fd: raw(map),
        elem_flags: 0,
        flags: 0,
    };
    match bpf(cmd::MAP_LOOKUP_BATCH, &mut attr) {
        Ok(_) => Ok(BatchRead { count: attr.count, last: false }),
        Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Ok(BatchRead { count: attr.count, last: true }),
        Err(e) => Err(e),
    }
}

/// Writes `count` entries in order; the number that were written comes with the error.
pub fn map_update_batch(map: BorrowedFd<'_>, keys: &[u8], values: &[u8], count: u32) -> Result<(), (u32, io::Error)> {
    let mut attr = Batch {
        in_batch: 0,
        out_batch: 0,
        keys: address(keys),
        values: address(values),
        count,
        map_fd: raw(map),
        elem_flags: ANY,
        flags: 0,
    };
    bpf(cmd::MAP_UPDATE_BATCH, &mut attr).map(drop).map_err(|e| (attr.count.min(count), e))
}

/// Deletes `count` entries in order, up to the first that is not there; the number that were deleted comes with the error.
pub fn map_delete_batch(map: BorrowedFd<'_>, keys: &[u8], count: u32) -> Result<(), (u32, io::Error)> {
    let mut attr = Batch {
        in_batch: 0,
        out_batch: 0,
        keys: address(keys),
        values: 0,
        count,
        map_fd: raw(map),
        elem_flags: ANY,
        flags: 0,
    };
    bpf(cmd::MAP_DELETE_BATCH, &mut attr).map(drop).map_err(|e| (attr.count.min(count), e))
}

#[derive(FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct MapFd {
    map_fd: u32,
}

/// No more writes from user space.
pub fn map_freeze(map: BorrowedFd<'_>) -> io::Result<()> {
    bpf(cmd::MAP_FREEZE, &mut MapFd { map_fd: raw(map) }).map(drop)
}

#[derive(FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct Object {
    path: u64,
    fd: u32,
    flags: u32,
}

pub fn pin(fd: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = c_path(path)?;
    bpf(cmd::OBJ_PIN, &mut Object { path: path.as_ptr() as u64, fd: raw(fd), flags: 0 }).map(drop)
}

pub fn open_pin(path: &Path, read_only: bool) -> io::Result<OwnedFd> {
    let path = c_path(path)?;
    let flags = if read_only { F_RDONLY } else { 0 };
    bpf_fd(cmd::OBJ_GET, &mut Object { path: path.as_ptr() as u64, fd: 0, flags })
}

#[derive(FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct Info {
    fd: u32,
    len: u32,
    info: u64,
}

/// Reads as much of the kernel's information about an object as `T` holds.
fn info<T: FromBytes + IntoBytes>(fd: BorrowedFd<'_>) -> io::Result<T> {
    let mut out = T::new_zeroed();
    let bytes = out.as_mut_bytes();
    let len = u32::try_from(bytes.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    bpf(cmd::OBJ_GET_INFO_BY_FD, &mut Info { fd: raw(fd), len, info: address_mut(bytes) })?;
    Ok(out)
}

/// The head of `struct bpf_map_info`.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes)]
#[repr(C)]
pub struct MapInfo {
    pub kind: u32,
    pub id: u32,
    pub key_size: u32,
    pub value_size: u32,
    pub max_entries: u32,
    pub flags: u32,
}

pub fn map_info(map: BorrowedFd<'_>) -> io::Result<MapInfo> {
    info(map)
}

/// The head of `struct bpf_prog_info`, up to the number of verified instructions.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes)]
#[repr(C)]
pub struct ProgInfo {
    pub kind: u32,
    pub id: u32,
    pub tag: [u8; 8],
    pub jited_len: u32,
    pub xlated_len: u32,
    pub jited: u64,
    pub xlated: u64,
    pub load_time_ns: u64,
    pub created_by_uid: u32,
    pub map_count: u32,
    pub map_ids: u64,
    pub name: [u8; 16],
    pub ifindex: u32,
    pub gpl_compatible: u32,
    pub netns_dev: u64,
    pub netns_ino: u64,
    pub counts: [u32; 2],
    pub addresses: [u64; 2],
    pub btf_id: u32,
    pub func_info_rec_size: u32,
    pub func_info: u64,
    pub func_and_line_info: [u32; 2],
    pub line_info: [u64; 2],
    pub jited_line_infos: u32,
    pub line_info_rec_sizes: [u32; 2],
    pub prog_tag_count: u32,
    pub prog_tags: u64,
    pub run_time_ns: u64,
    pub run_count: u64,
    pub recursion_misses: u64,
    pub verified_insns: u32,
    pub attach_btf_obj_id: u32,
}

pub fn prog_info(id: u32) -> io::Result<ProgInfo> {
    let fd = bpf_fd(cmd::PROG_GET_FD_BY_ID, &mut Id { id, next: 0, flags: 0 })?;
    prog_info_of(fd.as_fd())
}

pub fn prog_info_of(program: BorrowedFd<'_>) -> io::Result<ProgInfo> {
    info(program)
}

/// The program with the next higher id; `None`: there is none.
pub fn prog_next_id(after: u32) -> io::Result<Option<u32>> {
    let mut attr = Id { id: after, next: 0, flags: 0 };
    match bpf(cmd::PROG_GET_NEXT_ID, &mut attr) {
        Ok(_) => Ok(Some(attr.next)),
        Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        Err(e) => Err(e),
    }
}

/// The kernel's name of a program (15 bytes of it at most), and the ids of its maps.
pub fn prog_maps(id: u32) -> io::Result<(Vec<u8>, Vec<u32>)> {
    let fd = bpf_fd(cmd::PROG_GET_FD_BY_ID, &mut Id { id, next: 0, flags: 0 })?;
    let mut maps = vec![0_u32; prog_info_of(fd.as_fd())?.map_count as usize];
    let mut out = <ProgInfo as zerocopy::FromZeros>::new_zeroed();
    out.map_count = maps.len() as u32;
    out.map_ids = address_mut(maps.as_mut_slice().as_mut_bytes());
    let bytes = out.as_mut_bytes();
    let len = u32::try_from(bytes.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    bpf(cmd::OBJ_GET_INFO_BY_FD, &mut Info { fd: raw(fd.as_fd()), len, info: address_mut(bytes) })?;
    Ok((out.name.iter().copied().take_while(|&byte| byte != 0).collect(), maps))
}

/// Waits until every packet that was in a program when this was called has left it (an RCU grace period).
pub fn wait_for_packets_under_way() {
    // SAFETY: membarrier(2) takes numbers only.
    let done = unsafe { libc::syscall(libc::SYS_membarrier, libc::MEMBARRIER_CMD_GLOBAL, 0, 0) };
    if done != 0 {
        // Not there with CPUs that have no tick (nohz_full). A packet is under way for some microseconds.
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
}

#[derive(FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct Id {
    id: u32,
    next: u32,
    flags: u32,
}

#[derive(FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct ProgLoad {
    kind: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    name: [u8; 16],
    prog_ifindex: u32,
    expected_attach_type: u32,
    prog_btf_fd: u32,
    func_info_rec_size: u32,
    func_info: u64,
    func_info_cnt: u32,
    pad: u32,
}

/// Type of a program and the hook it is for (0 where the type says it all).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProgKind {
    pub kind: u32,
    pub attach_type: u32,
}

/// What the kernel is told of a program's functions: without it, each call is walked as if it were not one.
pub struct Functions<'a> {
    pub btf: BorrowedFd<'a>,
    /// Pairs of instruction offset and type.
    pub info: &'a [[u32; 2]],
}

/// A program to load for inspection (aya keeps no log when a load succeeds).
pub struct Code<'a> {
    pub name: &'a str,
    /// Its type and hook.
    pub kind: ProgKind,
    pub insns: &'a [u8],
    pub license: &'a std::ffi::CStr,
    pub functions: Option<Functions<'a>>,
}

/// Loads a program with a log of the given level.
pub fn prog_load(code: &Code<'_>, log_level: u32, log: &mut [u8]) -> io::Result<OwnedFd> {
    let size = |len: usize| u32::try_from(len).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput));
    let (btf, info): (u32, &[[u32; 2]]) =
        code.functions.as_ref().map_or((0, &[]), |functions| (raw(functions.btf), functions.info));
    bpf_fd(
        cmd::PROG_LOAD,
        &mut ProgLoad {
            kind: code.kind.kind,
            insn_cnt: size(code.insns.len() / 8)?,
            insns: address(code.insns),
            license: code.license.as_ptr() as u64,
            log_level,
            log_size: size(log.len())?,
            log_buf: if log.is_empty() { 0 } else { address_mut(log) },
            kern_version: 0,
            prog_flags: 0,
            name: name16(code.name),
            prog_ifindex: 0,
            expected_attach_type: code.kind.attach_type,
            prog_btf_fd: btf,
            func_info_rec_size: if info.is_empty() { 0 } else { 8 },
            func_info: info.as_ptr() as u64,
            func_info_cnt: size(info.len())?,
            pad: 0,
        },
    )
}

#[derive(FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct BtfLoad {
    btf: u64,
    log_buf: u64,
    size: u32,
    log_size: u32,
    log_level: u32,
    pad: u32,
}

/// Hands the kernel the types of an object.
pub fn btf_load(btf: &[u8]) -> io::Result<OwnedFd> {
    let size = u32::try_from(btf.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    bpf_fd(cmd::BTF_LOAD, &mut BtfLoad { btf: address(btf), log_buf: 0, size, log_size: 0, log_level: 0, pad: 0 })
}

/// Loads a program that lets every `connect` pass. `EINVAL`: the kernel runs no programs at control groups.
pub fn probe_sock_addr() -> io::Result<OwnedFd> {
    // r0 = 1; exit
    const PASS: [u8; 16] = [0xb7, 0, 0, 0, 1, 0, 0, 0, 0x95, 0, 0, 0, 0, 0, 0, 0];
    let kind = ProgKind { kind: PROG_TYPE_CGROUP_SOCK_ADDR, attach_type: CGROUP_INET4_CONNECT };
    let code = Code { name: "cilium_probe", kind, insns: &PASS, license: c"GPL", functions: None };
    prog_load(&code, 0, &mut [])
}

/// The head of the attributes of a test run.
#[derive(FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct TestRun {
    prog_fd: u32,
    returned: u32,
    size_in: u32,
    size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
}

/// Runs a program on a packet of zeros; what it returned.
pub fn test_run(program: BorrowedFd<'_>) -> io::Result<u32> {
    let packet = [0_u8; 64];
    let mut attr = TestRun {
        prog_fd: raw(program),
        returned: 0,
        size_in: packet.len() as u32,
        size_out: 0,
        data_in: address(&packet),
        data_out: 0,
        repeat: 1,
        duration: 0,
    };
    bpf(cmd::PROG_TEST_RUN, &mut attr)?;
    Ok(attr.returned)
}

/// The monotonic clock at the last tick, nanoseconds.
pub fn coarse_clock() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is room for one timespec.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC_COARSE, &mut now) };
    now.tv_sec.cast_unsigned() * 1_000_000_000 + now.tv_nsec.cast_unsigned()
}

/// The file system type of `path` (`BPF_FS_MAGIC` for a bpffs).
pub fn filesystem_type(path: &Path) -> io::Result<i64> {
    let path = c_path(path)?;
    let mut out = std::mem::MaybeUninit::<libc::statfs>::uninit();
    // SAFETY: the path is a terminated string and `out` is room for one statfs.
    if unsafe { libc::statfs(path.as_ptr(), out.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: statfs succeeded, so the kernel filled the structure.
    Ok(unsafe { out.assume_init() }.f_type)
}

pub fn mount_bpffs(at: &Path) -> io::Result<()> {
    let at = c_path(at)?;
    // SAFETY: all four strings are terminated and live; bpffs takes no options.
    let ret = unsafe { libc::mount(c"bpf".as_ptr(), at.as_ptr(), c"bpf".as_ptr(), 0, std::ptr::null()) };
    if ret == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The interface's name in this network namespace.
pub fn interface_name(ifindex: u32) -> io::Result<String> {
    let mut buf = [0_u8; libc::IF_NAMESIZE];
    // SAFETY: `buf` has the IF_NAMESIZE bytes the function demands.
    let name = unsafe { libc::if_indextoname(ifindex, buf.as_mut_ptr().cast()) };
    if name.is_null() {
        return Err(io::Error::last_os_error());
    }
    let end = buf.iter().position(|&b| b == 0).unwrap_or(buf.len());
    Ok(String::from_utf8_lossy(buf.get(..end).unwrap_or_default()).into_owned())
}

/// The interface's index in this network namespace.
pub fn interface_index(name: &str) -> io::Result<u32> {
    let name = CString::new(name).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    // SAFETY: the name is a terminated string.
    match unsafe { libc::if_nametoindex(name.as_ptr()) } {
        0 => Err(io::Error::last_os_error()),
        index => Ok(index),
    }
}

/// The running kernel's release, such as `6.12.9-amd64`.
pub fn kernel_release() -> String {
    let mut out = std::mem::MaybeUninit::<libc::utsname>::zeroed();
    // SAFETY: `out` is room for one utsname.
    unsafe { libc::uname(out.as_mut_ptr()) };
    // SAFETY: zeroed bytes are a valid utsname, whether or not the call filled it.
    let out = unsafe { out.assume_init() };
    let bytes: Vec<u8> = out.release.iter().take_while(|&&c| c != 0).map(|&c| c.cast_unsigned()).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}
