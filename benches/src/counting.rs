//! An allocator that counts what it hands out: thread by thread, so that what other tests do meanwhile is not counted, or for all
//! threads together.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    sync::atomic::{AtomicU64, Ordering},
};

/// The system's allocator, counted: for [`count`], or for [`of_all_threads`]. Make it the `#[global_allocator]` of a benchmark
/// or test.
pub struct Counting<const ALL_THREADS: bool = false>;

thread_local! {
    static BYTES: Cell<Bytes> = const { Cell::new(Bytes { calls: 0, allocated: 0, peak: 0, kept: 0 }) };
}
static CALLS: AtomicU64 = AtomicU64::new(0);
static ALLOCATED: AtomicU64 = AtomicU64::new(0);

/// Bytes, by what became of them.
#[derive(Clone, Copy, Debug, Default)]
pub struct Bytes {
    /// How many times some were handed out.
    pub calls: usize,
    /// Handed out, whether given back or not: a measure of work that no clock disturbs.
    pub allocated: usize,
    /// Held at most at one time.
    pub peak: isize,
    /// Held at the end and not at the beginning; negative if less is held.
    pub kept: isize,
}

/// Counts; not at the very end of a thread, when there is nowhere left to count.
fn counted(size: isize) {
    let _ended = BYTES.try_with(|bytes| {
        let mut now = bytes.get();
        if let Ok(size) = usize::try_from(size) {
            now.calls += 1;
            now.allocated += size;
        }
        now.kept += size;
        now.peak = now.peak.max(now.kept);
        bytes.set(now);
    });
}

// SAFETY: every call is handed to the system allocator unchanged; counting neither allocates nor touches the memory.
unsafe impl<const ALL_THREADS: bool> GlobalAlloc for Counting<ALL_THREADS> {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if ALL_THREADS {
            CALLS.fetch_add(1, Ordering::Relaxed);
            ALLOCATED.fetch_add(layout.size() as u64, Ordering::Relaxed);
        } else {
            counted(layout.size().cast_signed());
        }
        // SAFETY: the caller's contract is passed on.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        if !ALL_THREADS {
            counted(-layout.size().cast_signed());
        }
        // SAFETY: the caller's contract is passed on.
        unsafe { System.dealloc(at, layout) }
    }
}

/// What a piece of work takes on this thread.
pub fn count<T>(work: impl FnOnce() -> T) -> (T, Bytes) {
    let before = BYTES.replace(Bytes::default());
    let outcome = work();
    let used = BYTES.get();
    BYTES.set(Bytes {
        calls: before.calls + used.calls,
        allocated: before.allocated + used.allocated,
        peak: before.peak.max(before.kept + used.peak),
        kept: before.kept + used.kept,
    });
    (outcome, used)
}

/// Allocations and bytes of all threads since the program began.
pub fn of_all_threads() -> (u64, u64) {
    (CALLS.load(Ordering::Relaxed), ALLOCATED.load(Ordering::Relaxed))
}
