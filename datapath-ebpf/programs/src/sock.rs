//! The programs of control groups: socket calls through `datapath::sock`.
//!
//! They run in the caller's context and may be interrupted by the packet programs of the same CPU, so nothing here may use
//! the scratch memory those share ([`crate::map::Map::set`]): keys and values are put together on the stack.

use core::ffi::c_void;
use core::ptr;

use abi::be::{Addr4, Port, Wide6};
use abi::endpoint::{EndpointInfo, EndpointKey};
use abi::event::{Prefix, TraceSockNotify, TraceSockRecord};
use abi::ipcache::{IpcacheEntry, IpcacheKey};
use abi::lb::{LbAffinity, LbAffinityMatch, LbService};
use abi::metrics::MetricsKey;
use aya_ebpf::bindings::{bpf_sock, bpf_sock_addr};
use aya_ebpf::helpers::generated as helpers;
use datapath::sock::{self, Outcome, SockEnv, SockFamily, SockMaps, Translation};
use datapath::{End, Family, V4, V6};

use crate::maps;
use crate::packet::ReadOnly;
use crate::words;

/// The call goes on.
const PROCEED: i32 = 1;
/// The call fails, with the error set before, else `EPERM`.
const REJECT: i32 = 0;
/// Error numbers of the kernel.
const ENOMEM: i32 = 12;
const EHOSTUNREACH: i32 = 113;

/// A socket call at a hook.
struct Call {
    ctx: *mut c_void,
    protocol: u8,
}

impl Call {
    #[inline(always)]
    fn of_address(ctx: *mut bpf_sock_addr) -> Self {
        // SAFETY: a field of the context. Volatile, so that it is read at its full width.
        let protocol = unsafe { ptr::read_volatile(&raw const (*ctx).protocol) };
        Self { ctx: ctx.cast(), protocol: protocol as u8 }
    }

    #[inline(always)]
    fn of_socket(ctx: *mut bpf_sock) -> Self {
        // SAFETY: as above.
        let protocol = unsafe { ptr::read_volatile(&raw const (*ctx).protocol) };
        Self { ctx: ctx.cast(), protocol: protocol as u8 }
    }
}

impl SockEnv for Call {
    type Node = ReadOnly;

    #[inline(always)]
    fn node(&self) -> ReadOnly {
        ReadOnly
    }
    #[inline(always)]
    fn protocol(&self) -> u8 {
        self.protocol
    }
    #[inline(always)]
    fn socket_cookie(&self) -> u64 {
        // SAFETY: the context of a hook that has this helper.
        unsafe { helpers::bpf_get_socket_cookie(self.ctx) }
    }
    #[inline(always)]
    fn netns_cookie(&self) -> u64 {
        // SAFETY: as above.
        unsafe { helpers::bpf_get_netns_cookie(self.ctx) }
    }
    #[inline(always)]
    fn cgroup_id(&self) -> u64 {
        // SAFETY: no arguments.
        unsafe { helpers::bpf_get_current_cgroup_id() }
    }
    #[inline(always)]
    fn now_seconds(&self) -> u32 {
        // SAFETY: no arguments.
        (unsafe { helpers::bpf_ktime_get_coarse_ns() } / 1_000_000_000) as u32
    }
    #[inline(always)]
    fn random(&mut self) -> u32 {
        // SAFETY: no arguments.
        unsafe { helpers::bpf_get_prandom_u32() }
    }
    #[inline(always)]
    fn endpoint(&self, key: &EndpointKey) -> Option<&EndpointInfo> {
        maps::LXC.get(key)
    }
    #[inline(always)]
    fn ipcache(&self, key: &IpcacheKey) -> Option<&IpcacheEntry> {
        maps::IPCACHE.get(key)
    }
    #[inline(always)]
    fn affinity_match(&self, key: &LbAffinityMatch) -> bool {
        maps::LB_AFFINITY_MATCH.get(key).is_some()
    }
    #[inline(always)]
    fn count(&mut self, key: &MetricsKey) {
        if let Some(value) = maps::METRICS.get_mut(&key.index()) {
            value.count = value.count.wrapping_add(1);
        }
    }
    #[inline(always)]
    fn event(&mut self, notification: &TraceSockNotify) {
        let Some(mut record) = maps::EVENTS.reserve::<TraceSockRecord>() else { return maps::count_lost_event() };
        // SAFETY: the record has room for prefix and notification, one after the other.
        unsafe {
            let (time_ns, cpu) = (helpers::bpf_ktime_get_ns(), helpers::bpf_get_smp_processor_id());
            ptr::write(record.at(0), Prefix { time_ns, cookie: 0, cpu });
            words::copy(notification, record.at(size_of::<Prefix>()));
        }
        record.submit();
    }
}

/// Implements the maps of one family.
macro_rules! family {
    ($family:ty, $services:ident, $backends:ident, $reverse:ident, $affinity:ident) => {
        impl SockMaps<$family> for Call {
            #[inline(always)]
            fn service(&self, key: &<$family as Family>::LbKey) -> Option<&LbService> {
                maps::$services.get(key)
            }
            #[inline(always)]
            fn backend(&self, id: u32) -> Option<&<$family as Family>::Backend> {
                maps::$backends.get(&id)
            }
            #[inline(always)]
            fn reverse(
                &mut self,
                key: &<$family as SockFamily>::ReverseKey,
            ) -> Option<&<$family as SockFamily>::ReverseEntry> {
                maps::$reverse.get(key)
            }
            #[inline(always)]
            fn remember(
                &mut self,
                key: &<$family as SockFamily>::ReverseKey,
                entry: &<$family as SockFamily>::ReverseEntry,
            ) -> Option<()> {
                maps::$reverse.put(key, entry)
            }
            #[inline(always)]
            fn forget(&mut self, key: &<$family as SockFamily>::ReverseKey) {
                maps::$reverse.remove(key);
            }
            #[inline(always)]
            fn affinity(&mut self, key: &<$family as SockFamily>::AffinityKey) -> Option<&mut LbAffinity> {
                maps::$affinity.get_mut(key)
            }
            #[inline(always)]
            fn keep_affinity(&mut self, key: &<$family as SockFamily>::AffinityKey, entry: &LbAffinity) -> Option<()> {
                maps::$affinity.put(key, entry)
            }
            #[inline(always)]
            fn drop_affinity(&mut self, key: &<$family as SockFamily>::AffinityKey) {
                maps::$affinity.remove(key);
            }
        }
    };
}
family!(V4, LB4_SERVICES, LB4_BACKENDS, LB4_REVERSE_SK, LB4_AFFINITY);
family!(V6, LB6_SERVICES, LB6_BACKENDS, LB6_REVERSE_SK, LB6_AFFINITY);

/// The address and port a call names.
#[inline(always)]
fn end4(ctx: *mut bpf_sock_addr) -> End<Addr4> {
    // SAFETY: fields of the context, read at their full width.
    let (addr, port) =
        unsafe { (ptr::read_volatile(&raw const (*ctx).user_ip4), ptr::read_volatile(&raw const (*ctx).user_port)) };
    End { addr: Addr4::from_raw(addr), port: Port::from_raw(port as u16) }
}

#[inline(always)]
fn end6(ctx: *mut bpf_sock_addr) -> End<Wide6> {
    // SAFETY: as above.
    let port = unsafe { ptr::read_volatile(&raw const (*ctx).user_port) };
    let word = |at: usize| {
        // SAFETY: as above; `at` is below four.
        unsafe { ptr::read_volatile((&raw const (*ctx).user_ip6).cast::<u32>().add(at)) }
    };
    End { addr: wide([word(0), word(1), word(2), word(3)]), port: Port::from_raw(port as u16) }
}

/// Four words of an address as they lie in memory.
#[inline(always)]
fn wide([a, b, c, d]: [u32; 4]) -> Wide6 {
    Wide6 { halves: [a as u64 | (b as u64) << 32, c as u64 | (d as u64) << 32] }
}

#[inline(always)]
fn put4(ctx: *mut bpf_sock_addr, end: &End<Addr4>) {
    // SAFETY: fields of the context that these programs may write, at their full width.
    unsafe {
        ptr::write_volatile(&raw mut (*ctx).user_ip4, end.addr.raw);
        ptr::write_volatile(&raw mut (*ctx).user_port, end.port.raw as u32);
    }
}

#[inline(always)]
fn put6(ctx: *mut bpf_sock_addr, end: &End<Wide6>) {
    let [first, second] = end.addr.halves;
    let put = |at: usize, word: u32| {
        // SAFETY: as above; `at` is below four.
        unsafe { ptr::write_volatile((&raw mut (*ctx).user_ip6).cast::<u32>().add(at), word) }
    };
    put(0, first as u32);
    put(1, (first >> 32) as u32);
    put(2, second as u32);
    put(3, (second >> 32) as u32);
    // SAFETY: as above.
    unsafe { ptr::write_volatile(&raw mut (*ctx).user_port, end.port.raw as u32) };
}

/// What the kernel is told about a call that goes out.
#[inline(always)]
fn answer(outcome: Outcome) -> i32 {
    let error = match outcome {
        Outcome::Untouched | Outcome::Translated => return PROCEED,
        Outcome::Unreachable => EHOSTUNREACH,
        Outcome::NoMemory => ENOMEM,
    };
    // SAFETY: no pointers; the hooks that refuse have this helper.
    unsafe { helpers::bpf_set_retval(-error) };
    REJECT
}

#[inline(always)]
fn outwards4(ctx: *mut bpf_sock_addr) -> i32 {
    let Translation { outcome, to } = sock::outwards4(&mut Call::of_address(ctx), end4(ctx));
    if outcome == Outcome::Translated {
        put4(ctx, &to);
    }
    answer(outcome)
}

#[inline(always)]
fn outwards6(ctx: *mut bpf_sock_addr) -> i32 {
    let Translation { outcome, to } = sock::outwards6(&mut Call::of_address(ctx), end6(ctx));
    if outcome == Outcome::Translated {
        put6(ctx, &to);
    }
    answer(outcome)
}

/// These hooks only rewrite what the caller is told.
#[inline(always)]
fn inwards4(ctx: *mut bpf_sock_addr) -> i32 {
    let Translation { outcome, to } = sock::inwards4(&mut Call::of_address(ctx), end4(ctx));
    if outcome == Outcome::Translated {
        put4(ctx, &to);
    }
    PROCEED
}

#[inline(always)]
fn inwards6(ctx: *mut bpf_sock_addr) -> i32 {
    let Translation { outcome, to } = sock::inwards6(&mut Call::of_address(ctx), end6(ctx));
    if outcome == Outcome::Translated {
        put6(ctx, &to);
    }
    PROCEED
}

/// Declares the programs of one kind of hook.
macro_rules! programs {
    ($($(#[$meta:meta])* $name:ident in $section:literal: $body:ident;)*) => { $(
        $(#[$meta])*
        #[unsafe(no_mangle)]
        #[unsafe(link_section = $section)]
        extern "C" fn $name(ctx: *mut bpf_sock_addr) -> i32 {
            $body(ctx)
        }
    )* };
}
programs! {
    /// An IPv4 socket connects.
    cil_sock4_connect in "cgroup/connect4": outwards4;
    /// An IPv6 socket connects.
    cil_sock6_connect in "cgroup/connect6": outwards6;
    /// An unconnected IPv4 socket sends a datagram.
    cil_sock4_sendmsg in "cgroup/sendmsg4": outwards4;
    /// An unconnected IPv6 socket sends a datagram.
    cil_sock6_sendmsg in "cgroup/sendmsg6": outwards6;
    /// An IPv4 socket asks who sent a datagram.
    cil_sock4_recvmsg in "cgroup/recvmsg4": inwards4;
    /// An IPv6 socket asks who sent a datagram.
    cil_sock6_recvmsg in "cgroup/recvmsg6": inwards6;
    /// An IPv4 socket asks for its peer.
    cil_sock4_getpeername in "cgroup/getpeername4": inwards4;
    /// An IPv6 socket asks for its peer.
    cil_sock6_getpeername in "cgroup/getpeername6": inwards6;
}

/// An IPv4 socket was bound.
#[unsafe(no_mangle)]
#[unsafe(link_section = "cgroup/post_bind4")]
extern "C" fn cil_sock4_post_bind(ctx: *mut bpf_sock) -> i32 {
    // SAFETY: fields of the context, read at their full width.
    let (addr, port) =
        unsafe { (ptr::read_volatile(&raw const (*ctx).src_ip4), ptr::read_volatile(&raw const (*ctx).src_port)) };
    let at = End { addr: Addr4::from_raw(addr), port: Port::new(port as u16) };
    if sock::may_bind4(&mut Call::of_socket(ctx), at) { PROCEED } else { REJECT }
}

/// An IPv6 socket was bound.
#[unsafe(no_mangle)]
#[unsafe(link_section = "cgroup/post_bind6")]
extern "C" fn cil_sock6_post_bind(ctx: *mut bpf_sock) -> i32 {
    // SAFETY: fields of the context, read at their full width.
    let port = unsafe { ptr::read_volatile(&raw const (*ctx).src_port) };
    let word = |at: usize| {
        // SAFETY: as above; `at` is below four.
        unsafe { ptr::read_volatile((&raw const (*ctx).src_ip6).cast::<u32>().add(at)) }
    };
    let at = End { addr: wide([word(0), word(1), word(2), word(3)]), port: Port::new(port as u16) };
    if sock::may_bind6(&mut Call::of_socket(ctx), at) { PROCEED } else { REJECT }
}
