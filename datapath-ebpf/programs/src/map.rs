//! BPF maps as the loaders of aya and libbpf know them (BTF definitions in `.maps`), with keys and values of `abi`.
//!
//! A definition is never read or written at run time: its address stands for the map.

use core::arch::asm;
use core::marker::PhantomData;
use core::ptr;

use abi::Plain;
use aya_ebpf::bindings::{BPF_ANY, BPF_F_NO_PREALLOC, BPF_NOEXIST};
use aya_ebpf::helpers::generated as helpers;

use crate::words::{self, OnStack};

/// Kernel map types.
const HASH: usize = aya_ebpf::bindings::bpf_map_type::BPF_MAP_TYPE_HASH as usize;
const ARRAY: usize = aya_ebpf::bindings::bpf_map_type::BPF_MAP_TYPE_ARRAY as usize;
const PER_CPU_ARRAY: usize = aya_ebpf::bindings::bpf_map_type::BPF_MAP_TYPE_PERCPU_ARRAY as usize;
const LRU_HASH: usize = aya_ebpf::bindings::bpf_map_type::BPF_MAP_TYPE_LRU_HASH as usize;
const LPM_TRIE: usize = aya_ebpf::bindings::bpf_map_type::BPF_MAP_TYPE_LPM_TRIE as usize;
const PROG_ARRAY: usize = aya_ebpf::bindings::bpf_map_type::BPF_MAP_TYPE_PROG_ARRAY as usize;
const RINGBUF: usize = aya_ebpf::bindings::bpf_map_type::BPF_MAP_TYPE_RINGBUF as usize;
const NO_PREALLOC: usize = BPF_F_NO_PREALLOC as usize;

/// A map with keys and values. The field names are what loaders look for, the lengths of the arrays are the numbers.
#[repr(C)]
pub struct Map<K, V, const KIND: usize, const ENTRIES: usize, const FLAGS: usize> {
    r#type: *const [i32; KIND],
    key: *const K,
    value: *const V,
    max_entries: *const [i32; ENTRIES],
    map_flags: *const [i32; FLAGS],
}

// SAFETY: the pointers are null and never followed; the kernel synchronises access to the map they stand for.
unsafe impl<K, V, const KIND: usize, const ENTRIES: usize, const FLAGS: usize> Sync
    for Map<K, V, KIND, ENTRIES, FLAGS>
{
}

/// Allocates on insertion.
pub type Hash<K, V, const ENTRIES: usize> = Map<K, V, HASH, ENTRIES, NO_PREALLOC>;
/// Evicts what was least recently used.
pub type LruHash<K, V, const ENTRIES: usize> = Map<K, V, LRU_HASH, ENTRIES, 0>;
/// Longest prefix; the key's first word is the prefix length.
pub type LpmTrie<K, V, const ENTRIES: usize> = Map<K, V, LPM_TRIE, ENTRIES, NO_PREALLOC>;
/// Indexed by u32, one value for each CPU.
pub type PerCpuArray<V, const ENTRIES: usize> = Map<u32, V, PER_CPU_ARRAY, ENTRIES, 0>;
/// Indexed by u32.
pub type Array<V, const ENTRIES: usize> = Map<u32, V, ARRAY, ENTRIES, 0>;

impl<K: Plain, V: Plain, const KIND: usize, const ENTRIES: usize, const FLAGS: usize> Map<K, V, KIND, ENTRIES, FLAGS> {
    /// The definition.
    pub const fn new() -> Self {
        Self {
            r#type: ptr::null(),
            key: ptr::null(),
            value: ptr::null(),
            max_entries: ptr::null(),
            map_flags: ptr::null(),
        }
    }

    /// The value of `key`. It may change, or stand for another key, at any time: other CPUs share the map.
    #[inline(always)]
    pub fn get(&self, key: &K) -> Option<&V> {
        let mut copy = OnStack::new();
        // SAFETY: the kernel returns null or a pointer to a value of this map, which stays mapped while the program runs.
        unsafe { self.look_up(copy.fill(key)).as_ref() }
    }

    /// The value of `key`, to change in place.
    #[allow(clippy::mut_from_ref)]
    #[inline(always)]
    pub fn get_mut(&self, key: &K) -> Option<&mut V> {
        let mut copy = OnStack::new();
        // SAFETY: as above. Values are plain words; a race loses an update of one of them, as the pipeline expects.
        unsafe { self.look_up(copy.fill(key)).as_mut() }
    }

    /// As [`Self::get`], for long keys where the stack has no room for a copy.
    #[inline(always)]
    pub fn get_through_scratch(&self, key: &K) -> Option<&V> {
        const { assert!(size_of::<K>() <= SCRATCH_HALF, "scratch is too small") };
        let scratch: *mut K = ptr::from_mut(SCRATCH.get_mut(&0)?).cast();
        // SAFETY: there is room for a copy, and nothing else uses this CPU's scratch meanwhile (see `set`).
        unsafe {
            words::copy(key, scratch);
            self.look_up(scratch).as_ref()
        }
    }

    /// Writes a value; `None` when the kernel refuses.
    #[inline(always)]
    pub fn set(&self, key: &K, value: &V) -> Option<()> {
        let (key_at, value_at) = self.put_together(key, value)?;
        // SAFETY: both are live: nothing else uses this CPU's scratch until the update is done, since these programs are
        // neither interrupted by each other nor moved to another CPU.
        let status = unsafe { self.update(key_at, value_at) };
        if status == 0 { Some(()) } else { None }
    }

    /// Writes a value unless there is one; `None` when there is, or when the kernel refuses.
    #[inline(always)]
    pub fn set_new(&self, key: &K, value: &V) -> Option<()> {
        let (key_at, value_at) = self.put_together(key, value)?;
        // SAFETY: as above.
        let status = unsafe {
            helpers::bpf_map_update_elem(
                self.address(),
                key_at.cast_mut().cast(),
                value_at.cast_mut().cast(),
                BPF_NOEXIST as u64,
            )
        };
        if status == 0 { Some(()) } else { None }
    }

    /// Copies of key and value in this CPU's scratch memory.
    #[inline(always)]
    fn put_together(&self, key: &K, value: &V) -> Option<(*const K, *const V)> {
        const { assert!(size_of::<K>() <= SCRATCH_HALF && size_of::<V>() <= SCRATCH_HALF, "scratch is too small") };
        let scratch: *mut u8 = ptr::from_mut(SCRATCH.get_mut(&0)?).cast();
        // SAFETY: each half has room for its copy.
        unsafe {
            let (key_at, value_at) = (scratch, scratch.add(SCRATCH_HALF));
            words::copy(key, key_at.cast());
            words::copy(value, value_at.cast());
            Some((key_at.cast_const().cast(), value_at.cast_const().cast()))
        }
    }

    /// Writes a value that, with its key, is put together on the stack: for programs that may be interrupted by
    /// others that use the scratch memory. `None` when the kernel refuses.
    #[inline(always)]
    pub fn put(&self, key: &K, value: &V) -> Option<()> {
        let (mut key_at, mut value_at) = (OnStack::new(), OnStack::new());
        // SAFETY: both copies are live and of the map's own sizes.
        let status = unsafe {
            let (key, value) = (key_at.fill(key), value_at.fill(value));
            self.update(key, value)
        };
        if status == 0 { Some(()) } else { None }
    }

    /// Removes an entry, if it is there.
    #[inline(always)]
    pub fn remove(&self, key: &K) {
        let mut copy = OnStack::new();
        // SAFETY: the copy is live and of the map's own size.
        unsafe { helpers::bpf_map_delete_elem(self.address(), copy.fill(key).cast()) };
    }

    /// What tells the calls for one map from those for another when they are compiled.
    const TAG: i32 = ((ENTRIES ^ size_of::<K>() << 24 ^ size_of::<V>() << 16) & 0x7fff_ffff) as i32;

    /// The helper that looks up.
    ///
    /// In assembly that is another for each map. LLVM would make one call of two for different maps, and the kernel can call
    /// a map's own function, or put it in place of the call, only where it is always the same map's: otherwise a look-up
    /// costs some 20 ns more.
    ///
    /// # Safety
    /// `key` must be a live key.
    #[inline(always)]
    unsafe fn look_up(&self, key: *const K) -> *mut V {
        let found: *mut V;
        // SAFETY: the helper takes a map and a key of its size, and loses registers 1 to 5; it does not look at 5.
        unsafe {
            asm!(
                "r5 = {tag}",
                "call 1",
                tag = const Self::TAG,
                inlateout("r1") self.address() => _,
                inlateout("r2") key => _,
                lateout("r0") found,
                out("r3") _, out("r4") _, out("r5") _,
            );
        }
        found
    }

    /// The helper that writes; see [`Self::look_up`]. Anything but 0: the kernel refuses.
    ///
    /// # Safety
    /// `key` and `value` must be live.
    #[inline(always)]
    unsafe fn update(&self, key: *const K, value: *const V) -> i64 {
        let status: i64;
        // SAFETY: the helper takes a map, a key and a value of its sizes, and flags; it loses registers 1 to 5.
        unsafe {
            asm!(
                "r5 = {tag}",
                "call 2",
                tag = const Self::TAG,
                inlateout("r1") self.address() => _,
                inlateout("r2") key => _,
                inlateout("r3") value => _,
                inlateout("r4") BPF_ANY as u64 => _,
                lateout("r0") status,
                out("r5") _,
            );
        }
        status
    }

    #[inline(always)]
    fn address(&self) -> *mut core::ffi::c_void {
        ptr::from_ref(self).cast_mut().cast()
    }
}

/// Bytes of the scratch memory for a key, and as many for a value.
const SCRATCH_HALF: usize = 64;

/// Where keys and values are put together for insertion: on the stack there is no room for them. Not shared with user space.
#[unsafe(link_section = ".maps")]
#[unsafe(export_name = "cilium_scratch")]
static SCRATCH: PerCpuArray<[u64; 2 * SCRATCH_HALF / 8], 1> = PerCpuArray::new();

/// An array of programs.
#[repr(C)]
pub struct Calls<const ENTRIES: usize> {
    r#type: *const [i32; PROG_ARRAY],
    key: *const u32,
    value: *const u32,
    max_entries: *const [i32; ENTRIES],
}

// SAFETY: as for `Map`.
unsafe impl<const ENTRIES: usize> Sync for Calls<ENTRIES> {}

impl<const ENTRIES: usize> Calls<ENTRIES> {
    /// The definition.
    pub const fn new() -> Self {
        Self { r#type: ptr::null(), key: ptr::null(), value: ptr::null(), max_entries: ptr::null() }
    }

    /// Goes on in the program with this number. Returns only if there is none.
    ///
    /// In assembly, so that each call has its number as a constant: the kernel makes such a call a plain jump.
    #[inline(always)]
    pub fn go_on<const NUMBER: u32>(&self, ctx: *mut core::ffi::c_void) {
        let map = ptr::from_ref(self);
        // SAFETY: the helper takes the context, a map of programs and a number; registers 0 to 5 are lost in a call.
        unsafe {
            asm!(
                "r1 = {ctx}",
                "r2 = {map}",
                "r3 = {number}",
                "call 12",
                ctx = in(reg) ctx,
                map = in(reg) map,
                number = const NUMBER,
                out("r0") _, out("r1") _, out("r2") _, out("r3") _, out("r4") _, out("r5") _,
            );
        }
    }
}

/// The ring buffer of event records. `BYTES` is its size.
#[repr(C)]
pub struct RingBuf<const BYTES: usize> {
    r#type: *const [i32; RINGBUF],
    max_entries: *const [i32; BYTES],
}

// SAFETY: as for `Map`.
unsafe impl<const BYTES: usize> Sync for RingBuf<BYTES> {}

/// A record being written. It must be submitted: the verifier refuses a program that loses one.
pub struct Reserved<T> {
    at: *mut T,
    marker: PhantomData<T>,
}

impl<const BYTES: usize> RingBuf<BYTES> {
    /// The definition.
    pub const fn new() -> Self {
        Self { r#type: ptr::null(), max_entries: ptr::null() }
    }

    /// Room for a record; `None` when the buffer is full.
    #[inline(always)]
    pub fn reserve<T: Plain>(&self) -> Option<Reserved<T>> {
        // SAFETY: the address stands for a ring buffer.
        let at =
            unsafe { helpers::bpf_ringbuf_reserve(ptr::from_ref(self).cast_mut().cast(), size_of::<T>() as u64, 0) };
        if at.is_null() { None } else { Some(Reserved { at: at.cast(), marker: PhantomData }) }
    }
}

impl<T: Plain> Reserved<T> {
    /// Where byte `offset` of the record is to be written.
    #[inline(always)]
    pub fn at<U>(&mut self, offset: usize) -> *mut U {
        self.at.cast::<u8>().wrapping_add(offset).cast()
    }

    /// Hands the record to user space.
    #[inline(always)]
    pub fn submit(self) {
        // SAFETY: the pointer came from a reservation and is given back once, since `self` is consumed.
        unsafe { helpers::bpf_ringbuf_submit(self.at.cast(), 0) }
    }
}
