//! The pipeline's [`Env`] on a packet that has no buffer yet (XDP). All of it is linear.

use core::arch::asm;
use core::mem::size_of;
use core::ptr;

use abi::Plain;
use abi::config::Runtime;
use abi::endpoint::{Device, EndpointInfo, EndpointKey};
use abi::event::{PAYLOAD_LEN, Prefix};
use abi::ipcache::{IpcacheEntry, IpcacheKey};
use abi::lb::{LbAffinityMatch, RateBucket, RateKey};
use abi::metrics::MetricsKey;
use abi::policy::{PolicyEntry, PolicyKey};
use aya_ebpf::bindings::xdp_md;
use aya_ebpf::helpers::generated as helpers;
use datapath::{Balanced, End, Env, Hop, Kept, KnownWay, NodeportEnv, Notification, Room, V4, V6, Wish, config};

use crate::linear::{self, Context, place};
use crate::maps;
use crate::packet::ReadOnly;
use crate::route;
use crate::words;

impl Context for xdp_md {
    const DATA: i32 = 0;
    const DATA_END: i32 = 4;
}

/// A packet at an XDP hook.
pub struct Frame {
    xdp: *mut xdp_md,
}

impl Frame {
    /// The packet a program was called for.
    #[inline(always)]
    pub fn new(xdp: *mut xdp_md) -> Self {
        Self { xdp }
    }

    #[inline(always)]
    fn context(&self) -> *mut core::ffi::c_void {
        self.xdp.cast()
    }

    /// Moves the start of the packet by `by` bytes.
    #[inline(always)]
    fn move_start(&mut self, by: i32) -> Option<()> {
        // SAFETY: the helper changes the buffer; packet pointers are loaded anew for each access.
        if unsafe { helpers::bpf_xdp_adjust_head(self.xdp, by) } == 0 { Some(()) } else { None }
    }
}

impl Env for Frame {
    #[inline(always)]
    fn packet_len(&self) -> u32 {
        linear::len(self.xdp)
    }

    #[inline(always)]
    fn ifindex(&self) -> u32 {
        // SAFETY: a field of the context.
        unsafe { (*self.xdp).ingress_ifindex }
    }

    #[inline(always)]
    fn load<T: Plain>(&self, offset: u32) -> Option<T> {
        match place::<T, _>(self.xdp, offset) {
            // SAFETY: inside the packet. Machines on which these programs run load words from any address.
            Some(at) => Some(unsafe { words::read(at) }),
            None => None,
        }
    }

    #[inline(always)]
    fn store<T: Plain>(&mut self, offset: u32, value: &T) -> Option<()> {
        match place::<T, _>(self.xdp, offset) {
            Some(at) => {
                // SAFETY: inside the packet.
                unsafe { words::copy(value, at) };
                Some(())
            }
            None => None,
        }
    }

    #[inline(always)]
    fn resize(&mut self, len: u32) -> Option<()> {
        let by = len.wrapping_sub(self.packet_len()).cast_signed();
        // SAFETY: the helper changes the buffer; packet pointers are loaded anew for each access.
        if unsafe { helpers::bpf_xdp_adjust_tail(self.xdp, by) } == 0 { Some(()) } else { None }
    }

    #[inline(always)]
    fn forget(&self, word: u64) -> u64 {
        // In a function of its own there is no packet, and nothing to forget.
        if self.xdp.is_null() {
            return word;
        }
        let len = self.packet_len() as u64;
        let (unknown, mut word) = (len | len << 32, word);
        // SAFETY: arithmetic on registers only (see `Packet`).
        unsafe {
            asm!("{0} ^= {1}", "{0} ^= {1}", inout(reg) word, in(reg) unknown, options(pure, nomem, nostack));
        }
        word
    }

    /// There is no mark yet.
    #[inline(always)]
    fn set_mark(&mut self, _mark: u32) {}

    crate::env::maps_and_time!();

    #[inline(always)]
    fn event<N: Notification>(&mut self, cookie: u32, notification: &N) {
        let payload = size_of::<Prefix>() + size_of::<N>();
        let mut captured = notification.captured() as usize;
        let Some(mut record) = maps::EVENTS.reserve::<N::Record>() else {
            return maps::count_lost_event();
        };
        // SAFETY: as for `Packet`.
        unsafe {
            let (time_ns, cpu) = (helpers::bpf_ktime_get_ns(), helpers::bpf_get_smp_processor_id());
            ptr::write(record.at(0), Prefix { time_ns, cookie, cpu });
            words::copy(notification, record.at(size_of::<Prefix>()));
            let mut offset = payload;
            while offset < size_of::<N::Record>() {
                ptr::write_volatile(record.at::<u32>(offset), 0);
                offset += 4;
            }
            if captured != 0 {
                asm!("{0} += -1", "{0} &= {1}", "{0} += 1", inout(reg) captured, const PAYLOAD_LEN - 1, options(pure, nomem, nostack));
                helpers::bpf_xdp_load_bytes(self.xdp, 0, record.at(payload), captured as u32);
            }
        }
        record.submit();
    }
}

impl NodeportEnv for Frame {
    #[inline(always)]
    fn is_early(&self) -> bool {
        true
    }

    #[inline(always)]
    fn next_hop<F: Balanced>(&mut self, src: &F::Addr, dst: &F::Addr, protocol: u8, len: u32) -> Hop {
        route::next_hop::<F>(self.xdp.cast(), self.ifindex(), src, dst, protocol, len)
    }

    #[inline(always)]
    fn grow<const LEN: u32>(&mut self, room: Room) -> Option<()> {
        self.move_start(-(LEN.cast_signed()))?;
        // What lies before the room moves to the new start. Of the Ethernet header only the type: whoever sends the packet on from this
        // hook addresses it anew.
        match room {
            Room::OuterIpv4 | Room::OuterIpv6 | Room::TunnelIpv4 | Room::TunnelIpv6 => {
                let ethertype: u16 = self.load(LEN + 12)?;
                self.store(12, &ethertype)
            }
            Room::Ipv4Options => self.lift::<[u16; 17]>(LEN),
            Room::Ipv6Extension => self.lift::<[u16; 27]>(LEN),
        }
    }

    #[inline(always)]
    fn shrink<const LEN: u32>(&mut self, _to_ipv6: bool) -> Option<()> {
        let ethernet: [u16; 7] = self.load(0)?;
        self.move_start(LEN.cast_signed())?;
        self.store(0, &ethernet)
    }

    #[inline(always)]
    fn mark(&self) -> u32 {
        0
    }

    #[inline(always)]
    fn is_aggregate(&self) -> bool {
        false
    }

    crate::env::nodeport_maps!();
}

impl Frame {
    /// Moves the bytes of a `T` from `from` to the start of the packet.
    #[inline(always)]
    fn lift<T: Plain>(&mut self, from: u32) -> Option<()> {
        let bytes: T = self.load(from)?;
        self.store(0, &bytes)
    }
}

crate::env::family!(Frame, V4, LB4_SERVICES, LB4_BACKENDS, LB4_REVERSE_NAT, CT4, CT_ANY4, FRAG4);
crate::env::family!(Frame, V6, LB6_SERVICES, LB6_BACKENDS, LB6_REVERSE_NAT, CT6, CT_ANY6, FRAG6);
crate::env::nodeport_family!(Frame, V4, cil_find_port4, SNAT4, LB4_MAGLEV, LB4_AFFINITY, LB4_SOURCE_RANGE, IPMASQ4);
crate::env::nodeport_family!(Frame, V6, cil_find_port6, SNAT6, LB6_MAGLEV, LB6_AFFINITY, LB6_SOURCE_RANGE, IPMASQ6);

/// [`datapath::find_port`] as a global function, which the verifier walks once , whatever calls it.
///
/// # Safety
/// `wish` must be null or point to a wish.
#[unsafe(no_mangle)]
#[inline(never)]
pub unsafe extern "C" fn cil_find_port4(wish: *const Wish<V4>) -> u32 {
    // SAFETY: the verifier knows the argument's type and makes this check necessary.
    match unsafe { wish.as_ref() } {
        // Only maps are asked.
        Some(wish) => datapath::find_port::<V4, _>(&mut Frame::new(ptr::null_mut()), wish) as u32,
        None => 0,
    }
}

/// The same for IPv6.
///
/// # Safety
/// As [`cil_find_port4`].
#[unsafe(no_mangle)]
#[inline(never)]
pub unsafe extern "C" fn cil_find_port6(wish: *const Wish<V6>) -> u32 {
    // SAFETY: as above.
    match unsafe { wish.as_ref() } {
        Some(wish) => datapath::find_port::<V6, _>(&mut Frame::new(ptr::null_mut()), wish) as u32,
        None => 0,
    }
}

/// A wish fits where it is put together.
const _: () = assert!(size_of::<Wish<V4>>() <= 64 && size_of::<Wish<V6>>() <= 64);
