//! An allocator that counts what it hands out, thread by thread: what other tests do meanwhile is not counted.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
};

/// The system's allocator, counted. Make it the `#[global_allocator]` of a benchmark or test.
pub struct Counting;

thread_local! {
    static BYTES: Cell<Bytes> = const { Cell::new(Bytes { allocated: 0, peak: 0, kept: 0 }) };
}

/// Bytes, by what became of them.
#[derive(Clone, Copy, Debug, Default)]
pub struct Bytes {
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
        now.allocated += usize::try_from(size).unwrap_or(0);
        now.kept += size;
        now.peak = now.peak.max(now.kept);
        bytes.set(now);
    });
}

// SAFETY: every call is handed to the system allocator unchanged; counting neither allocates nor touches the memory.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        counted(layout.size().cast_signed());
        // SAFETY: the caller's contract is passed on.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        counted(-layout.size().cast_signed());
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
        allocated: before.allocated + used.allocated,
        peak: before.peak.max(before.kept + used.peak),
        kept: before.kept + used.kept,
    });
    (outcome, used)
}
