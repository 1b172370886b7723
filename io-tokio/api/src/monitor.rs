//! The live event feed: how the agent hands datapath events to `cilium monitor`.
//!
//! The agent listens on a unix stream socket ([`DEFAULT_SOCKET`]). Whoever connects receives, and never sends:
//!
//! ```text
//! 8 bytes   the greeting, "CILMON1\n"
//! then frames, all numbers little endian:
//!   u32     bytes that follow in this frame (16 + data), at most FRAME_BYTES_MAX
//!   u8      kind: 9 sample, 2 lost (numbers of the reference's payload types)
//!   u8 × 3  zero
//!   u32     CPU
//!   u64     lost: how many records were lost (kind 2), otherwise 0
//!   …       data: one record exactly as it came from the ring buffer (kind 9): abi::event::{Drop,Trace,PolicyVerdict}Record
//! ```
//!
//! A reader that is too slow loses records, and is told how many by a frame of kind 2. The reference sends the same
//! four values as a Go gob stream; a translation can be put in front without touching either end.

use std::io::{self, Read};

/// Where the agent serves the feed unless told otherwise.
pub const DEFAULT_SOCKET: &str = "/var/run/cilium/monitor1_2.sock";
/// What the agent says first.
pub const GREETING: &[u8; 8] = b"CILMON1\n";
/// Fixed bytes of a frame after its length.
const FIXED: usize = 16;
/// A frame's length at most.
pub const FRAME_BYTES_MAX: usize = 64 << 10;

/// What a frame says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Payload {
    /// One record of the ring buffer.
    Sample {
        /// CPU it was read for.
        cpu: u32,
        /// The record.
        data: Vec<u8>,
    },
    /// Records that never arrived.
    Lost {
        /// CPU.
        cpu: u32,
        /// How many.
        count: u64,
    },
}

const KIND_SAMPLE: u8 = 9;
const KIND_LOST: u8 = 2;

impl Payload {
    /// Appends the frame. Data beyond [`FRAME_BYTES_MAX`] is cut: no record is that long.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let (kind, cpu, lost, data): (u8, u32, u64, &[u8]) = match self {
            Self::Sample { cpu, data } => (KIND_SAMPLE, *cpu, 0, &data[..data.len().min(FRAME_BYTES_MAX - FIXED)]),
            Self::Lost { cpu, count } => (KIND_LOST, *cpu, *count, &[]),
        };
        let length = u32::try_from(FIXED + data.len()).expect("cut to FRAME_BYTES_MAX above");
        out.extend_from_slice(&length.to_le_bytes());
        out.extend_from_slice(&[kind, 0, 0, 0]);
        out.extend_from_slice(&cpu.to_le_bytes());
        out.extend_from_slice(&lost.to_le_bytes());
        out.extend_from_slice(data);
    }
    fn decode(frame: &[u8]) -> Result<Self, FeedError> {
        let (fixed, data) = frame.split_first_chunk::<FIXED>().ok_or(FeedError::Frame { length: frame.len() })?;
        let [kind, _, _, _, c0, c1, c2, c3, lost @ ..] = *fixed;
        let cpu = u32::from_le_bytes([c0, c1, c2, c3]);
        match kind {
            KIND_SAMPLE => Ok(Self::Sample { cpu, data: data.to_vec() }),
            KIND_LOST => Ok(Self::Lost { cpu, count: u64::from_le_bytes(lost) }),
            kind => Err(FeedError::Kind { kind }),
        }
    }
}

/// Why the feed cannot be read on.
#[derive(Debug, thiserror::Error)]
pub enum FeedError {
    /// The connection broke.
    #[error("reading the monitor feed: {0}")]
    Io(#[from] io::Error),
    /// It is not this feed.
    #[error("the monitor socket does not speak this feed (is it the agent's, and of this version?)")]
    Greeting,
    /// A frame that cannot be.
    #[error("a frame of {length} bytes in the monitor feed")]
    Frame {
        /// Its length.
        length: usize,
    },
    /// A kind nobody knows.
    #[error("a frame of kind {kind} in the monitor feed")]
    Kind {
        /// The number.
        kind: u8,
    },
}

/// Reads frames.
#[derive(Debug)]
pub struct Feed<R> {
    inner: R,
}

impl<R: Read> Feed<R> {
    /// Takes the greeting.
    ///
    /// # Errors
    /// When it is another one, or none comes.
    pub fn new(mut inner: R) -> Result<Self, FeedError> {
        let mut greeting = [0; GREETING.len()];
        inner.read_exact(&mut greeting)?;
        if &greeting == GREETING { Ok(Self { inner }) } else { Err(FeedError::Greeting) }
    }
    /// The next frame; `None` when the agent closed between two.
    ///
    /// # Errors
    /// When the connection breaks within a frame or the frame makes no sense.
    pub fn next_payload(&mut self) -> Result<Option<Payload>, FeedError> {
        let mut length = [0; 4];
        match self.inner.read_exact(&mut length) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            Err(e) => return Err(e.into()),
        }
        let length = u32::from_le_bytes(length) as usize;
        if !(FIXED..=FRAME_BYTES_MAX).contains(&length) {
            return Err(FeedError::Frame { length });
        }
        let mut frame = vec![0; length];
        self.inner.read_exact(&mut frame)?;
        Payload::decode(&frame).map(Some)
    }
}

#[cfg(test)]
mod tests;
