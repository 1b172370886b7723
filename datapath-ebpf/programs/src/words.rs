//! Copies of plain values, word by word.
//!
//! LLVM turns runs of stores at addresses that are not eight-byte aligned into calls of memset and memcpy, which for BPF
//! are loops over bytes. Volatile stores of single words it leaves alone, and what is copied it keeps in registers.

use core::mem::{MaybeUninit, align_of, size_of};
use core::ptr;

use abi::Plain;

/// Writes `value` to `to`, in units of its alignment.
///
/// # Safety
/// `to` must be valid for a write of `T`; its alignment does not matter on the machines these programs run on.
#[inline(always)]
pub unsafe fn copy<T: Plain>(value: &T, to: *mut T) {
    let from = ptr::from_ref(value);
    // SAFETY: every unit lies inside `T`, whose size is a multiple of its alignment, and whose bytes are all initialised.
    unsafe {
        match align_of::<T>() {
            1 => units::<T, u8>(from, to),
            2 => units::<T, u16>(from, to),
            4 => units::<T, u32>(from, to),
            _ => units::<T, u64>(from, to),
        }
    }
}

/// Writes `value` to `to` in words of four bytes.
///
/// # Safety
/// `T` must consist of such words without padding, and `to` be valid for a write of it.
#[inline(always)]
pub unsafe fn copy_words<T>(value: &T, to: *mut T) {
    // SAFETY: the caller's promise.
    unsafe { units::<T, u32>(ptr::from_ref(value), to) }
}

/// # Safety
/// As [`copy`]; `U` must have the alignment of `T`.
#[inline(always)]
unsafe fn units<T, U: Copy>(from: *const T, to: *mut T) {
    let mut unit = 0;
    while unit < size_of::<T>() / size_of::<U>() {
        // SAFETY: see `copy`.
        unsafe { ptr::write_volatile(to.cast::<U>().add(unit), ptr::read(from.cast::<U>().add(unit))) };
        unit += 1;
    }
}

/// Reads a value. Large ones are read unit by unit, or LLVM, which sees them come from one of two places, reads bytes.
///
/// # Safety
/// `from` must be valid for a read of `T`; its alignment does not matter on the machines these programs run on.
#[inline(always)]
pub unsafe fn read<T: Plain>(from: *const T) -> T {
    if size_of::<T>() <= SMALL {
        // SAFETY: the caller's promise.
        return unsafe { ptr::read(from) };
    }
    let mut value = MaybeUninit::<T>::uninit();
    // SAFETY: the units are all of `T`, and any bytes are a `T`.
    unsafe {
        match align_of::<T>() {
            1 => gather::<T, u8>(from, value.as_mut_ptr()),
            2 => gather::<T, u16>(from, value.as_mut_ptr()),
            4 => gather::<T, u32>(from, value.as_mut_ptr()),
            _ => gather::<T, u64>(from, value.as_mut_ptr()),
        }
        value.assume_init()
    }
}

/// Bytes of a value that is read at once, so that parts nobody asks for are not read.
const SMALL: usize = 20;

/// # Safety
/// As [`read`]; `U` must have the alignment of `T`.
#[inline(always)]
unsafe fn gather<T, U: Copy>(from: *const T, to: *mut T) {
    let mut unit = 0;
    while unit < size_of::<T>() / size_of::<U>() {
        // SAFETY: see `read`.
        unsafe { ptr::write(to.cast::<U>().add(unit), ptr::read_volatile(from.cast::<U>().add(unit))) };
        unit += 1;
    }
}

/// A copy of a value on the stack, made by [`copy`].
pub struct OnStack<T> {
    value: MaybeUninit<T>,
}

impl<T: Plain> OnStack<T> {
    /// Room for a copy.
    #[inline(always)]
    pub fn new() -> Self {
        Self { value: MaybeUninit::uninit() }
    }

    /// The address of a copy of `value`.
    #[inline(always)]
    pub fn fill(&mut self, value: &T) -> *const T {
        let to = self.value.as_mut_ptr();
        // SAFETY: the place is ours.
        unsafe { copy(value, to) };
        to
    }
}
