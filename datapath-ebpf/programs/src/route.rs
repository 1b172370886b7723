//! The kernel's routing and neighbour tables.

use core::ffi::c_void;
use core::ptr;

use aya_ebpf::helpers::generated as helpers;
use datapath::{Balanced, Hop};

use crate::map::PerCpuArray;

/// Address families (linux/socket.h).
const AF_INET: u32 = 2;
const AF_INET6: u32 = 10;

/// `struct bpf_fib_lookup`, as words: family and protocol, ports, length or MTU, interface, traffic class or flow label,
/// source, destination, VLAN, both MAC addresses.
type Lookup = [u32; 16];

/// Where a question to the tables is put together. Not shared with user space.
#[unsafe(link_section = ".maps")]
#[unsafe(export_name = "cilium_fib_scratch")]
static SCRATCH: PerCpuArray<Lookup, 1> = PerCpuArray::new();

/// Answers [`datapath::NodeportEnv::next_hop`]. `context` is that of the running program.
#[inline(always)]
pub fn next_hop<F: Balanced>(
    context: *mut c_void,
    ifindex: u32,
    src: &F::Addr,
    dst: &F::Addr,
    protocol: u8,
    len: u32,
) -> Hop {
    let Some(lookup) = SCRATCH.get_mut(&0) else { return Hop::none(u32::MAX) };
    let lookup: *mut u32 = ptr::from_mut(lookup).cast();
    let ([s0, s1, s2, s3], [d0, d1, d2, d3]) = (F::words(src), F::words(dst));
    let family = if F::IPV6 { AF_INET6 } else { AF_INET };
    // Neither ports nor traffic class take part.
    let words = [family | (protocol as u32) << 8, len << 16, ifindex, 0, s0, s1, s2, s3, d0, d1, d2, d3, 0, 0, 0, 0];
    let mut word = 0;
    while word < words.len() {
        // SAFETY: inside the sixteen words. Volatile, or LLVM makes a call of it.
        unsafe { ptr::write_volatile(lookup.add(word), words[word]) };
        word += 1;
    }
    // SAFETY: the helper reads and writes the structure of the size given.
    let code = unsafe { helpers::bpf_fib_lookup(context, lookup.cast(), size_of::<Lookup>() as i32, 0) };
    // SAFETY: inside the sixteen words. Source comes before destination there, in a packet it is the other way round.
    unsafe {
        let (out, a, b, c) = (*lookup.add(2), *lookup.add(13), *lookup.add(14), *lookup.add(15));
        let macs = [b >> 16 | c << 16, c >> 16 | a << 16, a >> 16 | b << 16];
        // Where it found the length, the kernel leaves the MTU; without one it says nothing of all packets of this way.
        let mtu = if len == 0 { 0 } else { *lookup.add(1) >> 16 };
        Hop { code: code as u32, ifindex: out, macs, mtu }
    }
}
