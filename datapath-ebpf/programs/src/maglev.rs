//! Maglev tables: a map whose values are maps of one value, the table.

use core::arch::asm;
use core::mem::offset_of;
use core::ptr;

use abi::config::NodeConfig;
use abi::lb::MAGLEV_SIZE_DEFAULT;
use aya_ebpf::bindings::BPF_F_NO_PREALLOC;
use aya_ebpf::helpers::generated as helpers;
use datapath::NodeFields;

use crate::map::Array;
use crate::packet::ReadOnly;
use crate::words::OnStack;

/// `BPF_MAP_TYPE_HASH_OF_MAPS`
const HASH_OF_MAPS: usize = aya_ebpf::bindings::bpf_map_type::BPF_MAP_TYPE_HASH_OF_MAPS as usize;

/// A table of the default size. Loaders make the map for tables of the size in the configuration.
type Table = Array<[u32; MAGLEV_SIZE_DEFAULT as usize], 1>;

/// Tables by reverse NAT index. The field names are what loaders look for.
#[repr(C)]
pub struct Maglev<const ENTRIES: usize> {
    r#type: *const [i32; HASH_OF_MAPS],
    key: *const u16,
    value: *const u32,
    max_entries: *const [i32; ENTRIES],
    map_flags: *const [i32; BPF_F_NO_PREALLOC as usize],
    values: [*const Table; 0],
}

// SAFETY: as for `Map`.
unsafe impl<const ENTRIES: usize> Sync for Maglev<ENTRIES> {}

impl<const ENTRIES: usize> Maglev<ENTRIES> {
    /// The definition.
    pub const fn new() -> Self {
        Self {
            r#type: ptr::null(),
            key: ptr::null(),
            value: ptr::null(),
            max_entries: ptr::null(),
            map_flags: ptr::null(),
            values: [],
        }
    }

    /// Entry `slot` of the table of service `index`.
    #[inline(always)]
    pub fn get(&self, index: &u16, slot: u32) -> Option<u32> {
        // Read anew: the verifier knows the number, and LLVM must not conclude from elsewhere that the slot is below it.
        let size: u32 = ReadOnly.field(offset_of!(NodeConfig, maglev_size));
        let mut at = slot as u64;
        // SAFETY: arithmetic on registers only. No table is longer; the verifier loses the range of a remainder.
        unsafe { asm!("{0} &= 0x1ffff", inout(reg) at, options(pure, nomem, nostack)) };
        if at >= size as u64 {
            return None;
        }
        let (mut outer, mut inner) = (OnStack::new(), OnStack::new());
        let map = ptr::from_ref(self).cast_mut().cast();
        // SAFETY: the kernel returns null or a pointer to a map, and of that null or a pointer to its value, which is `size`
        // words long; the slot is below.
        unsafe {
            let table = helpers::bpf_map_lookup_elem(map, outer.fill(index).cast());
            if table.is_null() {
                return None;
            }
            let words = helpers::bpf_map_lookup_elem(table, inner.fill(&0_u32).cast());
            if words.is_null() {
                return None;
            }
            asm!("{0} <<= 2", "{0} += {1}", inout(reg) at, in(reg) words, options(pure, nomem, nostack));
            Some(ptr::read_volatile(at as *const u32))
        }
    }
}
