//! The bytes of a packet in place, whatever kind of hook it is at.

use core::arch::asm;
use core::mem::size_of;

/// Direct access at offsets known only at run time reaches this far. All offsets the pipeline uses often are below.
const REACH: u32 = 0x1ff;

/// A context with a packet in it: where in it the packet's start and end are.
pub trait Context {
    /// Offset of `data`.
    const DATA: i32;
    /// Offset of `data_end`.
    const DATA_END: i32;
}

/// Loads a packet pointer from the context. In assembly, so that LLVM can neither narrow it to the 32 bits the
/// field seems to have nor move it to where the verifier has lost it.
#[inline(always)]
fn pointer<C: Context, const END: bool>(context: *mut C) -> usize {
    let pointer: usize;
    // SAFETY: reads a field of the context; the verifier turns it into a packet pointer.
    unsafe {
        asm!(
            "{0} = *(u32 *)({1} + {2})",
            out(reg) pointer, in(reg) context, const if END { C::DATA_END } else { C::DATA },
            options(pure, readonly, nostack)
        );
    }
    pointer
}

/// Bytes in the linear part.
#[inline(always)]
pub fn len<C: Context>(context: *mut C) -> u32 {
    (pointer::<C, true>(context) - pointer::<C, false>(context)) as u32
}

/// Where `T` lies at `offset` if it lies wholly in the linear part.
///
/// At an offset known only at run time, pointer and end are formed by one instruction each from a masked
/// offset: LLVM would otherwise rewrite the comparison into one that tells the verifier nothing.
#[inline(always)]
pub fn place<T, C: Context>(context: *mut C, offset: u32) -> Option<*mut T> {
    let (data, end) = (pointer::<C, false>(context), pointer::<C, true>(context));
    if core::intrinsics::is_val_statically_known(offset) {
        let at = data + offset as usize;
        return if at + size_of::<T>() > end { None } else { Some(at as *mut T) };
    }
    if offset > REACH {
        return None;
    }
    let mut bounded = offset as usize;
    let mut at = data;
    // SAFETY: arithmetic on registers only.
    unsafe {
        asm!("{0} &= {1}", inout(reg) bounded, const REACH, options(pure, nomem, nostack));
        asm!("{0} += {1}", inout(reg) at, in(reg) bounded, options(pure, nomem, nostack));
    }
    let mut after = at;
    // SAFETY: arithmetic on registers only.
    unsafe {
        asm!("{0} += {1}", inout(reg) after, const size_of::<T>(), options(pure, nomem, nostack));
    }
    if after > end { None } else { Some(at as *mut T) }
}
