//! The kernel's routing and neighbour tables.

use core::ffi::c_void;
use core::ptr;

use aya_ebpf::helpers::generated as helpers;
use datapath::{Balanced, End, Hop};

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

/// State of a socket that listens (`TCP_LISTEN`).
const LISTENS: u32 = 10;

/// Answers [`datapath::NodeportEnv::has_socket`].
#[inline(always)]
pub fn has_socket<F: Balanced>(
    context: *mut c_void,
    local: &End<F::Addr>,
    remote: &End<F::Addr>,
    protocol: u8,
) -> bool {
    let ([l0, l1, l2, l3], [r0, r1, r2, r3]) = (F::words(&local.addr), F::words(&remote.addr));
    // `struct bpf_sock_tuple`: source and destination of a packet that comes in, then their ports.
    let ports = remote.port.raw as u32 | (local.port.raw as u32) << 16;
    // Without zeros to begin with, which would be a call of memset.
    let mut four = [r0, l0, ports];
    let mut six = [r0, r1, r2, r3, l0, l1, l2, l3, ports];
    let (at, len) = if F::IPV6 { ((&raw mut six).cast(), 36) } else { ((&raw mut four).cast(), 12) };
    // SAFETY: the helpers read a tuple of the length given; what they return is null or a socket, which is given back. The two kinds of
    // sockets are two kinds of pointers to the verifier, so each is read where it was got.
    unsafe {
        match protocol {
            wire::protocol::TCP => {
                let socket = helpers::bpf_skc_lookup_tcp(context, at, len, u64::MAX, 0);
                if socket.is_null() {
                    return false;
                }
                let state = ptr::read_volatile(&raw const (*socket).state);
                helpers::bpf_sk_release(socket.cast());
                state != LISTENS
            }
            wire::protocol::UDP => {
                let socket = helpers::bpf_sk_lookup_udp(context, at, len, u64::MAX, 0);
                if socket.is_null() {
                    return false;
                }
                helpers::bpf_sk_release(socket.cast());
                true
            }
            _ => false,
        }
    }
}
