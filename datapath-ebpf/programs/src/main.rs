//! The eBPF programs. First form: one program that lets every packet pass, which proves the build and the loading.
#![no_std]
#![no_main]

use aya_ebpf::{bindings::TC_ACT_UNSPEC, macros::classifier, programs::TcContext};

/// Lets the packet go on to the next program, or to the stack.
#[classifier]
pub fn pass(_ctx: TcContext) -> i32 {
    TC_ACT_UNSPEC
}

/// The kernel hands GPL-only helpers to programs under a licence compatible with the GPL.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
pub static LICENSE: [u8; 13] = *b"Dual BSD/GPL\0";

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
