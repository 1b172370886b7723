//! Blocks: some flows together, compressed, with a head that says which times are in it and a checksum over everything.

use hubble_api::flow::Flow;
use prost::{
    Message as _,
    encoding::{decode_varint, encode_varint},
};

/// Bytes of flows after which a block is closed.
pub(crate) const BLOCK: usize = 64 << 10;
/// Bytes of flows no block exceeds; a head that says more is none.
pub(crate) const RAW_MAX: usize = 4 << 20;
const MAGIC: [u8; 4] = *b"HBK1";
/// Bytes of a head.
pub(crate) const HEAD: usize = 52;

/// What a head says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Head {
    /// Compressed bytes behind the head.
    pub stored: u32,
    pub raw: u32,
    pub flows: u32,
    /// Times of the oldest and the newest flow.
    pub from_ns: i64,
    pub to_ns: i64,
    /// Which life of the agent, by a random number.
    pub epoch: u64,
    /// Ring position of the first flow in that life.
    pub first: u64,
    checksum: u32,
}

impl Head {
    /// The head as it stands in files.
    pub fn bytes(&self) -> [u8; HEAD] {
        let mut bytes = [0; HEAD];
        let mut at = 0;
        let mut put = |part: &[u8]| {
            bytes[at..at + part.len()].copy_from_slice(part);
            at += part.len();
        };
        put(&MAGIC);
        put(&self.stored.to_le_bytes());
        put(&self.raw.to_le_bytes());
        put(&self.flows.to_le_bytes());
        put(&self.from_ns.to_le_bytes());
        put(&self.to_ns.to_le_bytes());
        put(&self.epoch.to_le_bytes());
        put(&self.first.to_le_bytes());
        put(&self.checksum.to_le_bytes());
        bytes
    }

    /// Reads a head; none when it is none.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let bytes = bytes.first_chunk::<HEAD>()?;
        let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let long = |at: usize| u64::from(word(at)) | u64::from(word(at + 4)) << 32;
        let head = Self {
            stored: word(4),
            raw: word(8),
            flows: word(12),
            from_ns: long(16).cast_signed(),
            to_ns: long(24).cast_signed(),
            epoch: long(32),
            first: long(40),
            checksum: word(48),
        };
        let raw = usize::try_from(head.raw).ok()?;
        let stored = usize::try_from(head.stored).ok()?;
        let fits =
            bytes.starts_with(&MAGIC) && raw <= RAW_MAX && stored <= lz4_flex::block::get_maximum_output_size(raw);
        fits.then_some(head)
    }

    fn sum(&self, payload: &[u8]) -> u32 {
        let bytes = self.bytes();
        let mut sum = crc32fast::Hasher::new();
        sum.update(&bytes[..HEAD - 4]);
        sum.update(payload);
        sum.finalize()
    }

    /// Whether these are the bytes that were written.
    pub fn is_whole(&self, payload: &[u8]) -> bool {
        self.sum(payload) == self.checksum
    }

    /// The flows with their ring positions; none when the bytes are not what was written.
    pub fn flows(&self, payload: &[u8]) -> Option<Vec<(u64, Flow)>> {
        if !self.is_whole(payload) {
            return None;
        }
        let raw = lz4_flex::block::decompress(payload, usize::try_from(self.raw).ok()?).ok()?;
        let mut rest = raw.as_slice();
        let mut flows = Vec::new();
        while !rest.is_empty() {
            let position = self.first.wrapping_add(decode_varint(&mut rest).ok()?);
            let length = usize::try_from(decode_varint(&mut rest).ok()?).ok()?;
            let (flow, behind) = rest.split_at_checked(length)?;
            flows.push((position, Flow::decode(flow).ok()?));
            rest = behind;
        }
        Some(flows)
    }
}

/// A block that is being filled.
#[derive(Debug, Default)]
pub(crate) struct Filling {
    raw: Vec<u8>,
    pub flows: u32,
    from_ns: i64,
    to_ns: i64,
    first: u64,
}

impl Filling {
    /// Adds a flow. False when no block can hold it.
    pub fn add(&mut self, position: u64, at_ns: i64, flow: &Flow) -> bool {
        if flow.encoded_len() > RAW_MAX - BLOCK - 32 {
            return false;
        }
        if self.flows == 0 {
            (self.from_ns, self.to_ns, self.first) = (at_ns, at_ns, position);
        }
        self.flows += 1;
        self.from_ns = self.from_ns.min(at_ns);
        self.to_ns = self.to_ns.max(at_ns);
        encode_varint(position.wrapping_sub(self.first), &mut self.raw);
        encode_varint(flow.encoded_len() as u64, &mut self.raw);
        flow.encode_raw(&mut self.raw);
        true
    }

    /// Whether it is time to write it.
    pub fn is_full(&self) -> bool {
        self.raw.len() >= BLOCK
    }

    /// The block's bytes; it is empty then.
    pub fn close(&mut self, epoch: u64) -> Option<(Head, Vec<u8>)> {
        if self.flows == 0 {
            return None;
        }
        let mut bytes = vec![0; HEAD + lz4_flex::block::get_maximum_output_size(self.raw.len())];
        let stored = lz4_flex::block::compress_into(&self.raw, &mut bytes[HEAD..])
            .expect("there is room for what compresses worst");
        bytes.truncate(HEAD + stored);
        let number = |length: usize| u32::try_from(length).expect("a block is far below 4 GiB");
        let mut head = Head {
            stored: number(stored),
            raw: number(self.raw.len()),
            flows: std::mem::take(&mut self.flows),
            from_ns: self.from_ns,
            to_ns: self.to_ns,
            epoch,
            first: self.first,
            checksum: 0,
        };
        head.checksum = head.sum(&bytes[HEAD..]);
        bytes[..HEAD].copy_from_slice(&head.bytes());
        self.raw.clear();
        Some((head, bytes))
    }
}
