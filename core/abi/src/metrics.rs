//! `cilium_metrics`: packets and bytes per reason and direction, per CPU.

use crate::shared;

shared! {
    /// Key of `cilium_metrics`.
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

/// Direction not known.
pub const DIR_UNKNOWN: u8 = 0;
/// Towards an endpoint.
pub const DIR_INGRESS: u8 = 1;
/// From an endpoint.
pub const DIR_EGRESS: u8 = 2;
/// Service translation.
pub const DIR_SERVICE: u8 = 3;

/// Under this key the programs count event records for which the ring had no room. User space makes the entry; without
/// one nothing is counted. It is no reason a packet can have: nothing else names this file.
pub const EVENTS_LOST: MetricsKey = MetricsKey { file: EVENTS_LOST_FILE, ..MetricsKey::new(0, DIR_UNKNOWN) };
/// File id of [`EVENTS_LOST`].
pub const EVENTS_LOST_FILE: u8 = u8::MAX;

impl MetricsKey {
    /// The key of a reason and direction, no source line.
    #[inline(always)]
    pub const fn new(reason: u8, dir: u8) -> Self {
        // Two words: field by field, the compiler zeroes the rest by a call in BPF.
        zerocopy::transmute!([u32::from_ne_bytes([reason, dir, 0, 0]), 0])
    }
}
