//! The pipeline's [`Env`] on a socket buffer and kernel helpers.
//!
//! Headers are read and written in place where they lie in the buffer's linear part, which is the usual case, and through
//! helpers where they do not. The kernel makes a shared buffer private before a program that writes in place runs.

use core::arch::asm;
use core::mem::{MaybeUninit, size_of};
use core::ptr;

use abi::Plain;
use abi::config::{NodeConfig, Runtime};
use abi::endpoint::{Device, EndpointInfo, EndpointKey};
use abi::event::{PAYLOAD_LEN, Prefix};
use abi::ipcache::{IpcacheEntry, IpcacheKey};
use abi::lb::{LbAffinityMatch, RateBucket, RateKey};
use abi::metrics::MetricsKey;
use abi::policy::{PolicyEntry, PolicyKey};
use aya_ebpf::bindings::bpf_adj_room_mode::{BPF_ADJ_ROOM_MAC, BPF_ADJ_ROOM_NET};
use aya_ebpf::bindings::{
    __sk_buff, BPF_ADJ_ROOM_ENCAP_L2_SHIFT, BPF_F_ADJ_ROOM_ENCAP_L2_ETH, BPF_F_ADJ_ROOM_ENCAP_L3_IPV4,
    BPF_F_ADJ_ROOM_ENCAP_L3_IPV6, BPF_F_ADJ_ROOM_ENCAP_L4_UDP, BPF_F_ADJ_ROOM_NO_CSUM_RESET, BPF_F_MARK_MANGLED_0,
    BPF_F_PSEUDO_HDR,
};
use aya_ebpf::helpers::generated as helpers;
use datapath::{
    Balanced, End, Env, Hop, Kept, KnownWay, NodeFields, NodeportEnv, Notification, Room, V4, V6, checksum, config,
};

use crate::linear::{Context, place};
use crate::maps;
use crate::route;
use crate::words::{self, OnStack};
use crate::xdp::{cil_find_port4, cil_find_port6};

impl Context for __sk_buff {
    const DATA: i32 = 76;
    const DATA_END: i32 = 80;
}

/// What is carried inside UDP begins with an Ethernet header.
const TUNNEL: u32 = BPF_F_ADJ_ROOM_ENCAP_L4_UDP | BPF_F_ADJ_ROOM_ENCAP_L2_ETH;

/// A packet at a tc hook.
pub struct Packet {
    skb: *mut __sk_buff,
}

/// The sum modulo 65535, which is how checksums are compared.
#[inline(always)]
fn residue(sum: u32) -> u32 {
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    if sum == 0xffff { 0 } else { sum }
}

impl Packet {
    /// [`Env::patch_l4_checksum`] for both differences with one call of the helper.
    ///
    /// Only the kernel knows whether the packet's checksum is yet to be filled in; then it is the pseudo header's sum, to which
    /// a difference is added, while it is taken from a whole checksum, and what the checksum itself covers does not matter. Which of
    /// the two the helper did with `pseudo` shows by the outcome, unless `pseudo` is 0 modulo 65535.
    #[inline(always)]
    fn patch_both(&mut self, offset: u32, pseudo: u32, own: u32, udp: bool) -> Option<()> {
        let mangled = if udp { BPF_F_MARK_MANGLED_0 } else { 0 };
        let before: u16 = self.load(offset)?;
        // SAFETY: the helper changes two bytes inside the packet or fails.
        unsafe {
            let flags = (BPF_F_PSEUDO_HDR | mangled) as u64;
            if helpers::bpf_l4_csum_replace(self.skb, offset, 0, pseudo as u64, flags) != 0 {
                return None;
            }
            if residue(pseudo) == 0 {
                let status = helpers::bpf_l4_csum_replace(self.skb, offset, 0, own as u64, mangled as u64);
                return if status == 0 { Some(()) } else { None };
            }
        }
        let after: u16 = self.load(offset)?;
        // The checksum is the complement of a sum: what was taken from it has become more by it.
        if (udp && before == 0) || residue(after as u32 + residue(pseudo)) != residue(before as u32) {
            return Some(());
        }
        self.store(offset, &checksum::apply(after, own, udp))
    }

    #[inline(always)]
    fn context(&self) -> *mut core::ffi::c_void {
        self.skb.cast()
    }

    /// The packet a program was called for.
    #[inline(always)]
    pub fn new(skb: *mut __sk_buff) -> Self {
        Self { skb }
    }

    /// Makes or takes room in front of the packet.
    #[inline(always)]
    fn adjust(&mut self, by: i32, mode: u32, flags: u64) -> Option<()> {
        // SAFETY: the helper changes the buffer; packet pointers are loaded anew for each access.
        if unsafe { helpers::bpf_skb_adjust_room(self.skb, by, mode, flags) } == 0 { Some(()) } else { None }
    }
}

/// The configuration the loader has put into the programs' read-only data.
#[derive(Clone, Copy)]
pub struct ReadOnly;

impl NodeFields for ReadOnly {
    #[inline(always)]
    fn field<T: Plain>(self, offset: usize) -> T {
        // SAFETY: the pipeline asks for fields of `NodeConfig` by their own offsets and types. Volatile, because
        // the loader replaces the bytes that the compiler sees.
        unsafe { ptr::read_volatile((&raw const maps::NODE_CONFIG).cast::<u8>().add(offset).cast::<T>()) }
    }
}

impl Env for Packet {
    #[inline(always)]
    fn packet_len(&self) -> u32 {
        // SAFETY: a field of the context.
        unsafe { (*self.skb).len }
    }

    #[inline(always)]
    fn ifindex(&self) -> u32 {
        // SAFETY: a field of the context.
        unsafe { (*self.skb).ifindex }
    }

    #[inline(always)]
    fn load<T: Plain>(&self, offset: u32) -> Option<T> {
        if let Some(at) = place::<T, _>(self.skb, offset) {
            // SAFETY: inside the packet. Machines on which these programs run load words from any address.
            return Some(unsafe { words::read(at) });
        }
        let mut value = MaybeUninit::<T>::uninit();
        // SAFETY: the helper fills all of `value` or fails.
        unsafe {
            let status =
                helpers::bpf_skb_load_bytes(self.skb.cast(), offset, value.as_mut_ptr().cast(), size_of::<T>() as u32);
            if status == 0 { Some(value.assume_init()) } else { None }
        }
    }

    #[inline(always)]
    fn store<T: Plain>(&mut self, offset: u32, value: &T) -> Option<()> {
        if let Some(at) = place::<T, _>(self.skb, offset) {
            // SAFETY: inside the packet.
            unsafe { words::copy(value, at) };
            return Some(());
        }
        // SAFETY: the helper reads `value` and writes inside the packet or fails.
        let mut copy = OnStack::new();
        let status = unsafe {
            helpers::bpf_skb_store_bytes(self.skb, offset, copy.fill(value).cast(), size_of::<T>() as u32, 0)
        };
        if status == 0 { Some(()) } else { None }
    }

    #[inline(always)]
    fn resize(&mut self, len: u32) -> Option<()> {
        // SAFETY: the helper changes the buffer; packet pointers are loaded anew for each access.
        if unsafe { helpers::bpf_skb_change_tail(self.skb, len, 0) } == 0 { Some(()) } else { None }
    }

    #[inline(always)]
    fn forget(&self, word: u64) -> u64 {
        let len = self.packet_len() as u64;
        let (unknown, mut word) = (len | len << 32, word);
        // SAFETY: arithmetic on registers only. To the verifier, anything combined with the length of a packet may be anything.
        unsafe {
            asm!("{0} ^= {1}", "{0} ^= {1}", inout(reg) word, in(reg) unknown, options(pure, nomem, nostack));
        }
        word
    }

    #[inline(always)]
    fn set_mark(&mut self, mark: u32) {
        // SAFETY: a field of the context that programs may write.
        unsafe { (*self.skb).mark = mark }
    }

    #[inline(always)]
    fn patch_l4_checksum(&mut self, offset: u32, pseudo: u32, own: u32, udp: bool) -> Option<()> {
        if pseudo != 0 && own != 0 {
            return self.patch_both(offset, pseudo, own, udp);
        }
        let mangled = if udp { BPF_F_MARK_MANGLED_0 } else { 0 };
        // SAFETY: the helper changes two bytes inside the packet or fails.
        unsafe {
            if own != 0 && helpers::bpf_l4_csum_replace(self.skb, offset, 0, own as u64, mangled as u64) != 0 {
                return None;
            }
            if pseudo != 0 {
                let flags = (BPF_F_PSEUDO_HDR | mangled) as u64;
                if helpers::bpf_l4_csum_replace(self.skb, offset, 0, pseudo as u64, flags) != 0 {
                    return None;
                }
            }
        }
        Some(())
    }

    crate::env::maps_and_time!();

    #[inline(always)]
    fn event<N: Notification>(&mut self, cookie: u32, notification: &N) {
        let payload = size_of::<Prefix>() + size_of::<N>();
        let mut captured = notification.captured() as usize;
        let Some(mut record) = maps::EVENTS.reserve::<N::Record>() else {
            return maps::count_lost_event();
        };
        // SAFETY: prefix, notification and payload lie one after the other in every record, and the record has room
        // for all three; `captured` is brought between 1 and `PAYLOAD_LEN` by instructions LLVM cannot reorder.
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
                helpers::bpf_skb_load_bytes(self.skb.cast(), 0, record.at(payload), captured as u32);
            }
        }
        record.submit();
    }
}

impl NodeportEnv for Packet {
    #[inline(always)]
    fn is_early(&self) -> bool {
        false
    }

    #[inline(always)]
    fn next_hop<F: Balanced>(&mut self, src: &F::Addr, dst: &F::Addr, protocol: u8, len: u32) -> Hop {
        route::next_hop::<F>(self.skb.cast(), self.ifindex(), src, dst, protocol, len)
    }

    #[inline(always)]
    fn grow<const LEN: u32>(&mut self, room: Room) -> Option<()> {
        let (mode, flags) = match room {
            Room::TunnelIpv4 => (BPF_ADJ_ROOM_MAC, BPF_F_ADJ_ROOM_ENCAP_L3_IPV4 | TUNNEL),
            Room::TunnelIpv6 => (BPF_ADJ_ROOM_MAC, BPF_F_ADJ_ROOM_ENCAP_L3_IPV6 | TUNNEL),
            Room::OuterIpv4 => (BPF_ADJ_ROOM_MAC, BPF_F_ADJ_ROOM_ENCAP_L3_IPV4),
            Room::OuterIpv6 => (BPF_ADJ_ROOM_MAC, BPF_F_ADJ_ROOM_ENCAP_L3_IPV6),
            Room::Ipv4Options | Room::Ipv6Extension => (BPF_ADJ_ROOM_NET, BPF_F_ADJ_ROOM_NO_CSUM_RESET),
        };
        let frame = if flags & TUNNEL == 0 { 0 } else { (wire::ETHERNET_LEN as u64) << BPF_ADJ_ROOM_ENCAP_L2_SHIFT };
        self.adjust(LEN.cast_signed(), mode, flags as u64 | frame)
    }

    #[inline(always)]
    fn shrink<const LEN: u32>(&mut self, to_ipv6: bool) -> Option<()> {
        if !to_ipv6 {
            return self.adjust(-(LEN.cast_signed()), BPF_ADJ_ROOM_MAC, 0);
        }
        // The helper that knows both families, since one that names what is left after shrinking came only with Linux 6.3. It makes 20
        // bytes of room, for what an IPv6 header is longer.
        // SAFETY: the helper changes the buffer; packet pointers are loaded anew for each access.
        if unsafe { helpers::bpf_skb_change_proto(self.skb, wire::ETHERTYPE_IPV6.to_be(), 0) } != 0 {
            return None;
        }
        self.adjust(-(LEN.cast_signed() + 20), BPF_ADJ_ROOM_MAC, 0)
    }

    #[inline(always)]
    fn mark(&self) -> u32 {
        // SAFETY: a field of the context.
        unsafe { (*self.skb).mark }
    }

    #[inline(always)]
    fn is_aggregate(&self) -> bool {
        // SAFETY: a field of the context.
        unsafe { (*self.skb).gso_size != 0 }
    }

    crate::env::nodeport_maps!();
}

crate::env::family!(Packet, V4, LB4_SERVICES, LB4_BACKENDS, LB4_REVERSE_NAT, CT4, CT_ANY4, FRAG4);
crate::env::family!(Packet, V6, LB6_SERVICES, LB6_BACKENDS, LB6_REVERSE_NAT, CT6, CT_ANY6, FRAG6);
crate::env::nodeport_family!(Packet, V4, cil_find_port4, SNAT4, LB4_MAGLEV, LB4_AFFINITY, LB4_SOURCE_RANGE, IPMASQ4);
crate::env::nodeport_family!(Packet, V6, cil_find_port6, SNAT6, LB6_MAGLEV, LB6_AFFINITY, LB6_SOURCE_RANGE, IPMASQ6);

/// The whole configuration must be where the loader looks for it.
const _: () = assert!(size_of::<NodeConfig>() % 4 == 0);
