//! `cilium_metrics`: packets and bytes per reason and direction, per CPU.
//!
//! An array, because every packet is counted and a look-up in a hash map would be a good part of what it costs. What
//! people and other programs see is the reference's key; its line and file numbers are always 0.

use crate::shared;

shared! {
    /// What is counted: the index of `cilium_metrics` in words.
    pub struct MetricsKey {
        /// Drop code, or 0 (forwarded), or a forwarding reason (reference: drop codes).
        pub reason: u8,
        /// `DIR_*`.
        pub dir: u8,
        /// Source line, 0: none.
        pub line: u16,
        /// Source file id, 0: none.
        pub file: u8,
        /// Zero.
        pub reserved: u8,
        /// Zero.
        pub reserved2: u16,
    }
    /// Value of `cilium_metrics`, one per CPU.
    pub struct MetricsValue {
        /// Packets.
        pub count: u64,
        /// Bytes.
        pub bytes: u64,
    }
}

/// A service's slot is gone (reference: `LB, sock cgroup: No backend slot entry found`).
pub const REASON_LB_NO_BACKEND_SLOT: u8 = 5;
/// A service's backend is gone.
pub const REASON_LB_NO_BACKEND: u8 = 6;
/// The frontend of a translated socket could not be remembered.
pub const REASON_LB_REVNAT_UPDATE: u8 = 7;
/// The frontend of a translated socket is no longer that service.
pub const REASON_LB_REVNAT_STALE: u8 = 8;
/// Entries of `cilium_metrics`: every reason in each of four directions.
pub const METRICS_ENTRIES: u32 = 4 << 8;

/// Direction not known.
pub const DIR_UNKNOWN: u8 = 0;
/// Towards an endpoint.
pub const DIR_INGRESS: u8 = 1;
/// From an endpoint.
pub const DIR_EGRESS: u8 = 2;
/// Service translation.
pub const DIR_SERVICE: u8 = 3;

/// Under this key, the last of the map, the programs count event records for which the ring had no room. It is no
/// reason a packet can have.
pub const EVENTS_LOST: MetricsKey = MetricsKey::new(u8::MAX, DIR_SERVICE);

impl MetricsKey {
    /// The key of a reason and direction, no source line.
    #[inline(always)]
    pub const fn new(reason: u8, dir: u8) -> Self {
        // Two words: field by field, the compiler zeroes the rest by a call in BPF.
        zerocopy::transmute!([u32::from_ne_bytes([reason, dir, 0, 0]), 0])
    }
    /// Where in the array it is counted.
    #[inline(always)]
    pub const fn index(&self) -> u32 {
        self.reason as u32 | (self.dir as u32) << 8
    }
    /// What is counted at an index; `None`: nothing is.
    pub const fn at(index: u32) -> Option<Self> {
        if index < METRICS_ENTRIES { Some(Self::new(index as u8, (index >> 8) as u8)) } else { None }
    }
}
