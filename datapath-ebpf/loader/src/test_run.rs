//! Running a program on one packet, without a device.

use std::{io, time::Duration};

use aya::programs::{ProgramError, SchedClassifier, TestRun as _, TestRunOptions, Xdp};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes};

use crate::{error::TestRunError, program::Program};

/// Head room and more, for programs that lengthen a packet.
const SPARE: usize = 512;

/// The start of `struct __sk_buff`, as the kernel takes and returns it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub struct SkBuff {
    /// Zero on input; the length on output.
    pub len: u32,
    /// Must be zero on input.
    pub pkt_type: u32,
    /// The mark.
    pub mark: u32,
    /// Must be zero on input.
    pub queue_mapping: u32,
    /// Must be zero on input.
    pub protocol: u32,
    /// Must be zero on input.
    pub vlan: [u32; 3],
    /// Priority.
    pub priority: u32,
    /// Device it came in at (an index in this network namespace).
    pub ingress_ifindex: u32,
    /// Device at which the program runs; 0 on input: the loopback device.
    pub ifindex: u32,
    /// Must be zero on input.
    pub tc_index: u32,
    /// Control buffer.
    pub cb: [u32; 5],
    /// Must be zero on input.
    pub rest: [u32; 31],
}

impl Default for SkBuff {
    fn default() -> Self {
        Self::new_zeroed()
    }
}

/// What a program did to a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TestRun {
    /// What the program returned (`TC_ACT_*`).
    pub ret: i32,
    /// The packet afterwards.
    pub data: Vec<u8>,
    /// The context afterwards.
    pub ctx: SkBuff,
    /// Mean time of a run.
    pub duration: Duration,
}

pub(crate) fn run(
    classifier: &SchedClassifier,
    program: Program,
    packet: &[u8],
    ctx: &SkBuff,
    repeat: u32,
) -> Result<TestRun, TestRunError> {
    let mut data = vec![0; packet.len() + SPARE];
    let mut after = SkBuff::default();
    let result = classifier.test_run(TestRunOptions {
        data_in: Some(packet),
        data_out: Some(&mut data),
        ctx_in: Some(ctx.as_bytes()),
        ctx_out: Some(after.as_mut_bytes()),
        repeat,
        ..TestRunOptions::new()
    });
    match result {
        Ok(out) => {
            data.truncate(out.data_size_out as usize);
            Ok(TestRun { ret: out.return_value.cast_signed(), data, ctx: after, duration: out.duration })
        }
        Err(ProgramError::SyscallError(e)) if refused(&e.io_error) => Err(TestRunError::Refused { source: e.io_error }),
        Err(source) => Err(TestRunError::Failed { program, source: Box::new(source) }),
    }
}

fn refused(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EINVAL)
}

/// `struct xdp_md`, as the kernel takes it: where the packet ends, and where it came in.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct XdpContext {
    data: u32,
    data_end: u32,
    data_meta: u32,
    ingress_ifindex: u32,
    rx_queue_index: u32,
    egress_ifindex: u32,
}

/// What the XDP program did to a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct XdpRun {
    /// What it returned (`XDP_*`).
    pub ret: u32,
    /// The packet afterwards.
    pub data: Vec<u8>,
    /// Mean time of a run.
    pub duration: Duration,
}

pub(crate) fn run_xdp(program: &Xdp, packet: &[u8], ifindex: u32, repeat: u32) -> Result<XdpRun, TestRunError> {
    let mut data = vec![0; packet.len() + SPARE];
    let len = u32::try_from(packet.len()).unwrap_or(u32::MAX);
    let ctx = XdpContext { data_end: len, ingress_ifindex: ifindex, ..XdpContext::default() };
    let mut after = XdpContext::default();
    let result = program.test_run(TestRunOptions {
        data_in: Some(packet),
        data_out: Some(&mut data),
        ctx_in: Some(ctx.as_bytes()),
        ctx_out: Some(after.as_mut_bytes()),
        repeat,
        ..TestRunOptions::new()
    });
    match result {
        Ok(out) => {
            data.truncate(out.data_size_out as usize);
            Ok(XdpRun { ret: out.return_value, data, duration: out.duration })
        }
        Err(ProgramError::SyscallError(e)) if refused(&e.io_error) => Err(TestRunError::Refused { source: e.io_error }),
        Err(source) => Err(TestRunError::FailedXdp { source: Box::new(source) }),
    }
}
