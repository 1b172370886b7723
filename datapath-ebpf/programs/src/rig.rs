//! The measuring rig: puts the packet back as it was and tail-calls the program to be measured.
//!
//! A test run with many repeats hands the same buffer to the program again and again, so one that rewrites sees its own
//! output from the second run on. This program restores the first bytes and the context before each
//! run, and can vary ports and destination so that each run, or each of many, is another flow. What it costs itself is
//! measured with `rig_nothing` as the target and subtracted. It is a second object and never loaded in production.
#![no_std]
#![no_main]

use core::cell::UnsafeCell;

use aya_ebpf::EbpfContext;
use aya_ebpf::helpers::generated as helpers;
use aya_ebpf::macros::{classifier, map, xdp};
use aya_ebpf::maps::lpm_trie::{Key, LpmTrie};
use aya_ebpf::maps::{Array, HashMap, LruHashMap, ProgramArray};
use aya_ebpf::programs::{TcContext, XdpContext};

/// Words of the packet that are restored.
const WORDS: usize = 16;

/// What the rig restores and varies.
#[repr(C)]
pub struct Template {
    /// The packet's first bytes.
    words: [u64; WORDS],
    /// Offset of the source port; the destination port follows it.
    port_at: u32,
    /// Offset of the low half of the destination address.
    address_at: u32,
    /// The run's number is masked with this: 0 is one flow, 0x3fff is 16k flows.
    mask: u32,
    /// Added to the run's number.
    start: u32,
}

/// Counts runs. One CPU measures.
#[repr(transparent)]
pub struct Counter(UnsafeCell<u32>);
// SAFETY: only the CPU that measures uses it.
unsafe impl Sync for Counter {}

static RUNS: Counter = Counter(UnsafeCell::new(0));

#[map]
static RIG_TEMPLATE: Array<Template> = Array::with_max_entries(1, 0);

#[map]
static RIG_TARGET: ProgramArray = ProgramArray::with_max_entries(1, 0);

/// Restores, varies, calls.
#[classifier]
pub fn rig(ctx: TcContext) -> i32 {
    let skb = ctx.skb.skb;
    let Some(template) = RIG_TEMPLATE.get(0) else { return -1 };
    // SAFETY: fields of the context; packet bytes after the check against their end.
    unsafe {
        (*skb).mark = 0;
        // Two words are all the programs use; an array at once would be a call.
        (*skb).cb[0] = 0;
        (*skb).cb[1] = 0;
        let (data, end) = ((*skb).data as usize, (*skb).data_end as usize);
        if data + WORDS * 8 > end {
            return -2;
        }
        let words = data as *mut u64;
        let mut word = 0;
        while word < WORDS {
            core::ptr::write_volatile(words.add(word), template.words[word]);
            word += 1;
        }
        if template.mask != 0 {
            let runs = RUNS.0.get();
            *runs = (*runs).wrapping_add(1);
            let number = ((*runs).wrapping_add(template.start)) & template.mask;
            // Ports from 1024 on, 14 bits of them; what is above varies the destination's low half.
            let port = (1024 + (number & 0x3fff) as u16).to_be();
            helpers::bpf_skb_store_bytes(skb, template.port_at, (&raw const port).cast(), 2, 0);
            if template.mask > 0x3fff {
                let low = ((number >> 14) as u16).to_be();
                helpers::bpf_skb_store_bytes(skb, template.address_at, (&raw const low).cast(), 2, 0);
            }
        }
        let _ = RIG_TARGET.tail_call(&TcContext::new(ctx.as_ptr().cast()), 0);
    }
    -3
}

/// Words of a packet without a buffer that are restored: all of the shortest frame.
const XDP_WORDS: usize = 8;

#[map]
static RIG_TARGET_XDP: ProgramArray = ProgramArray::with_max_entries(1, 0);

/// The same at the hook of packets without a buffer. What was put before the packet is taken away again.
#[xdp]
pub fn rig_xdp(ctx: XdpContext) -> u32 {
    let xdp = ctx.ctx;
    let Some(template) = RIG_TEMPLATE.get(0) else { return 0 };
    // SAFETY: fields of the context; packet bytes after the check against their end.
    unsafe {
        let extra = ((*xdp).data_end - (*xdp).data) as i32 - (XDP_WORDS * 8) as i32;
        if extra != 0 && helpers::bpf_xdp_adjust_head(xdp, extra) != 0 {
            return 0;
        }
        let (data, end) = ((*xdp).data as usize, (*xdp).data_end as usize);
        if data + XDP_WORDS * 8 > end {
            return 0;
        }
        let words = data as *mut u64;
        let mut word = 0;
        while word < XDP_WORDS {
            core::ptr::write_volatile(words.add(word), template.words[word]);
            word += 1;
        }
        if template.mask != 0 {
            let runs = RUNS.0.get();
            *runs = (*runs).wrapping_add(1);
            let number = ((*runs).wrapping_add(template.start)) & template.mask;
            // IPv4: the source port, and above that the low half of the source address.
            let port = (1024 + (number & 0x3fff) as u16).to_be();
            core::ptr::write_volatile((data + 34) as *mut u16, port);
            if template.mask > 0x3fff {
                core::ptr::write_volatile((data + 28) as *mut u16, ((number >> 14) as u16).to_be());
            }
        }
        let _ = RIG_TARGET_XDP.tail_call(&ctx, 0);
    }
    0
}

/// The target against which that rig's own cost is measured.
#[xdp]
pub fn rig_xdp_none(_ctx: XdpContext) -> u32 {
    2
}

/// The same with 20 bytes put before the packet, which the rig takes away again.
#[xdp]
pub fn rig_xdp_grow(ctx: XdpContext) -> u32 {
    // SAFETY: the packet is not touched afterwards.
    unsafe { helpers::bpf_xdp_adjust_head(ctx.ctx, -20) as u32 }
}

/// The target against which the rig's own cost is measured.
#[classifier]
pub fn rig_nothing(_ctx: TcContext) -> i32 {
    0
}

/// What a look-up costs here, for comparing machines: a map as large as a connection map.
#[map]
static RIG_LRU: LruHashMap<[u32; 4], [u32; 12]> = LruHashMap::with_max_entries(524_288, 0);

/// The same, to be full.
#[map]
static RIG_LRU_FULL: LruHashMap<[u32; 4], [u32; 12]> = LruHashMap::with_max_entries(524_288, 0);

#[map]
static RIG_HASH: HashMap<[u32; 4], [u32; 12]> = HashMap::with_max_entries(65_535, 1);

#[map]
static RIG_LPM: LpmTrie<[u32; 5], [u32; 4]> = LpmTrie::with_max_entries(65_535, 1);

/// Declares a program that does something eight times.
macro_rules! eight_times {
    ($name:ident, $what:expr) => {
        #[doc = concat!(stringify!($name), ", eight times.")]
        #[classifier]
        pub fn $name(_ctx: TcContext) -> i32 {
            let mut sum = 0;
            for _ in 0..8 {
                sum += $what;
            }
            sum
        }
    };
}

eight_times!(rig_call, {
    // SAFETY: changes nothing but what a packet is redirected to.
    unsafe { helpers::bpf_redirect(1, 0) as i32 }
});
eight_times!(rig_lru_new, {
    // SAFETY: one CPU measures.
    let number = unsafe {
        let runs = RUNS.0.get();
        *runs = (*runs).wrapping_add(1);
        *runs
    };
    RIG_LRU_FULL.insert([number, 2, 0, 0], [0; 12], 0).is_ok() as i32
});
eight_times!(rig_hash, unsafe { RIG_HASH.get(&[1, 0, 0, 0]) }.is_some() as i32);
eight_times!(rig_lru, unsafe { RIG_LRU.get(&[1, 0, 0, 0]) }.is_some() as i32);
eight_times!(rig_lru_many, {
    // SAFETY: one CPU measures, and nobody removes the entries.
    unsafe {
        let runs = RUNS.0.get();
        *runs = (*runs).wrapping_add(1);
        RIG_LRU.get(&[*runs & 0xffff, 0, 0, 0]).is_some() as i32
    }
});
eight_times!(rig_lpm, RIG_LPM.get(&Key::new(160, [0; 5])).is_some() as i32);

/// The least that a packet of a known connection can cost: its connection, and whose its address is.
#[classifier]
pub fn rig_least(_ctx: TcContext) -> i32 {
    // SAFETY: nobody removes the entry.
    let known = unsafe { RIG_LRU.get(&[1, 0, 0, 0]) }.is_some();
    if known && RIG_LPM.get(&Key::new(160, [0; 5])).is_some() { 0 } else { 2 }
}

/// As the programs'.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
pub static LICENSE: [u8; 13] = *b"Dual BSD/GPL\0";

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
