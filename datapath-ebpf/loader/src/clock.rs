//! How the programs tell seconds: from the kernel's count of ticks, which costs them one load, where its relation to the
//! monotonic clock is known; otherwise they ask for that clock, which is a call (some 3 to 18 ns a packet).
//!
//! The count starts five minutes before its low 32 bits run over, and stands still when the monotonic clock does. Ticks a second are a
//! secret of the kernel's configuration, but only one of the usual rates fits count and clock together.

use std::{ffi::CStr, io, os::fd::AsFd};

use abi::config::NodeConfig;

use crate::sys;

/// Usual numbers of ticks a second (Kconfig.hz).
const RATES: [u32; 4] = [100, 250, 300, 1000];
/// How far count and clock may be apart in a kernel that has just booted: the clock runs before the first tick.
const APART_MS: u64 = 2_000;
/// Needs no licence.
const LICENCE: &CStr = c"GPL";

/// The ticks since boot and the rate that fit, as a configuration; zeros where none fits, or several.
pub(crate) fn with_ticks(node: NodeConfig) -> NodeConfig {
    let (hz, base) = read().ok().and_then(|(ticks, ns)| rate(ticks, ns)).unwrap_or_default();
    NodeConfig { ticks_per_second: hz, ticks_base: [base as u32, (base >> 32) as u32], ..node }
}

/// The rate, and the count at which the clock stood at zero.
fn rate(ticks: u64, ns: u64) -> Option<(u32, u64)> {
    let fits = |hz: u32| {
        let start = (1_u64 << 32) - 300 * u64::from(hz);
        let since_ms = ticks.checked_sub(start)? * 1_000 / u64::from(hz);
        (since_ms.abs_diff(ns / 1_000_000) < APART_MS).then_some(hz)
    };
    let mut fitting = RATES.into_iter().filter_map(fits);
    let (hz, another) = (fitting.next()?, fitting.next());
    let since = u64::try_from(u128::from(ns) * u128::from(hz) / 1_000_000_000).ok()?;
    if another.is_some() { None } else { Some((hz, ticks.checked_sub(since)?)) }
}

/// Any kind that has test runs.
const KIND: sys::ProgKind = sys::ProgKind { kind: sys::PROG_TYPE_SCHED_CLS, attach_type: 0 };

/// The count of ticks and the monotonic clock at one tick.
fn read() -> io::Result<(u64, u64)> {
    // call jiffies64; r0 >>= SHIFT; exit
    let program = |shift: i32| {
        let [s0, s1, s2, s3] = shift.to_le_bytes();
        [[0x85, 0, 0, 0, 118, 0, 0, 0], [0x77, 0, 0, 0, s0, s1, s2, s3], [0x95, 0, 0, 0, 0, 0, 0, 0]].concat()
    };
    let load = |shift| {
        let insns = program(shift);
        let (kind, functions) = (KIND, None);
        let code = sys::Code { name: "cilium_ticks", kind, insns: &insns, license: LICENCE, functions };
        sys::prog_load(&code, 0, &mut [])
    };
    let (low, high) = (load(0)?, load(32)?);
    loop {
        let (before, above) = (sys::coarse_clock(), sys::test_run(high.as_fd())?);
        let ticks = u64::from(sys::test_run(low.as_fd())?);
        if sys::coarse_clock() == before && sys::test_run(high.as_fd())? == above {
            return Ok((u64::from(above) << 32 | ticks, before));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_rate_of_the_kernel_fits_and_none_is_taken_where_several_do() {
        let start = |hz: u64| (1 << 32) - 300 * hz;
        let second = 1_000_000_000;
        for hz in RATES {
            let ticks = start(hz.into()) + 1_000 * u64::from(hz) - 3;
            assert_eq!(rate(ticks, 1_000 * second), Some((hz, ticks - 1_000 * u64::from(hz))));
            assert_eq!(rate(start(hz.into()) + 300 * u64::from(hz), 300 * second), None, "all rates meet here");
        }
        assert_eq!(rate(5, second), None, "no kernel counts so");
    }

    #[test]
    fn this_kernel_counts_as_its_clock_goes() {
        if crate::kernel::check().is_err() {
            return;
        }
        let (ticks, ns) = read().expect("such a program loads everywhere");
        let (again, later) = read().expect("it did just now");
        assert!(again >= ticks && later >= ns);
        if let (Some((hz, base)), Some(other)) = (rate(ticks, ns), rate(again, later)) {
            assert!(other.0 == hz && other.1.abs_diff(base) <= 1);
        }
    }
}
