//! A map's value as memory of this process.

use std::{ptr::NonNull, sync::atomic::AtomicU32};

use super::*;

/// `BPF_F_MMAPABLE`.
pub const F_MMAPABLE: u32 = 1 << 10;

/// The words of the only value of an array that was made with [`F_MMAPABLE`], shared with the programs that read it.
pub struct Words {
    start: NonNull<AtomicU32>,
    count: usize,
}

impl Words {
    /// Maps the first `count` words of a map's values.
    pub fn of(map: BorrowedFd<'_>, count: usize) -> io::Result<Self> {
        let (length, access) = (count * size_of::<AtomicU32>(), libc::PROT_READ | libc::PROT_WRITE);
        // SAFETY: the kernel chooses the address, so nothing that is there is replaced; it refuses more than the map has.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), length, access, libc::MAP_SHARED, map.as_raw_fd(), 0) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::InvalidInput)?;
        Ok(Self { start, count })
    }

    pub fn as_slice(&self) -> &[AtomicU32] {
        // SAFETY: so many words are mapped, page-aligned, as long as `self` lives, and only ever used as atomics.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.count) }
    }
}

impl Drop for Words {
    fn drop(&mut self) {
        // SAFETY: exactly what `of` mapped, and nothing borrows it any more.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.count * size_of::<AtomicU32>()) };
    }
}
