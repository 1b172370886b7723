//! Segments: files of blocks. A segment that is finished ends with an index of its blocks; where the index is missing,
//! because the agent was killed, or does not hold, the blocks are looked for one by one.

use super::block::{HEAD, Head};
use std::{
    fs::File,
    io::{self, Read as _, Seek as _, SeekFrom},
    path::Path,
};

const INDEX: [u8; 4] = *b"HIX1";
const END: [u8; 4] = *b"HEND";
/// Length of the index, its checksum, and the mark of the end.
const TRAILER: usize = 12;
/// Bytes of a block in the index: where it is, and its head.
const ENTRY: usize = 8 + HEAD;

/// A block of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Block {
    /// Where its head begins.
    pub offset: u64,
    pub head: Head,
}

impl Block {
    /// The byte behind it.
    pub fn end(&self) -> u64 {
        self.offset + HEAD as u64 + u64::from(self.head.stored)
    }
}

/// Bytes that are no blocks and no index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Damage {
    pub offset: u64,
    pub bytes: u64,
}

/// What a segment holds.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Contents {
    pub blocks: Vec<Block>,
    /// Whether it has its index.
    pub finished: bool,
    /// What cannot be read, in order; at the end: what a crash left half written.
    pub damage: Vec<Damage>,
}

/// The index of a segment's blocks.
pub(crate) fn index(blocks: &[Block]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(4 + blocks.len() * ENTRY + TRAILER);
    bytes.extend(INDEX);
    for block in blocks {
        bytes.extend(block.offset.to_le_bytes());
        bytes.extend(block.head.bytes());
    }
    let (length, sum) = (u32::try_from(bytes.len()).unwrap_or(u32::MAX), crc32fast::hash(&bytes));
    bytes.extend(length.to_le_bytes());
    bytes.extend(sum.to_le_bytes());
    bytes.extend(END);
    bytes
}

/// Reads what a segment holds: its index, else every block.
pub(crate) fn read(path: &Path) -> io::Result<Contents> {
    let mut file = File::open(path)?;
    if let Some(blocks) = read_index(&mut file)? {
        return Ok(Contents { blocks, finished: true, damage: Vec::new() });
    }
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(0))?;
    file.read_to_end(&mut bytes)?;
    Ok(scan(&bytes))
}

fn read_index(file: &mut File) -> io::Result<Option<Vec<Block>>> {
    let size = file.metadata()?.len();
    if size < (4 + TRAILER) as u64 {
        return Ok(None);
    }
    let mut trailer = [0; TRAILER];
    file.seek(SeekFrom::End(-(TRAILER as i64)))?;
    file.read_exact(&mut trailer)?;
    let word = |at: usize| u32::from_le_bytes([trailer[at], trailer[at + 1], trailer[at + 2], trailer[at + 3]]);
    let (length, sum) = (u64::from(word(0)), word(4));
    if trailer[8..] != END || length + TRAILER as u64 > size {
        return Ok(None);
    }
    let begin = size - TRAILER as u64 - length;
    let mut bytes = vec![0; usize::try_from(length).map_err(io::Error::other)?];
    file.seek(SeekFrom::Start(begin))?;
    file.read_exact(&mut bytes)?;
    if crc32fast::hash(&bytes) != sum || !bytes.starts_with(&INDEX) {
        return Ok(None);
    }
    let entry = |entry: &[u8]| {
        let (offset, head) = entry.split_first_chunk::<8>()?;
        let block = Block { offset: u64::from_le_bytes(*offset), head: Head::read(head)? };
        (block.end() <= begin).then_some(block)
    };
    Ok(bytes[4..].chunks(ENTRY).map(entry).collect())
}

/// Looks for blocks, one behind the other, and behind what is none for the next.
pub(crate) fn scan(bytes: &[u8]) -> Contents {
    let mut contents = Contents::default();
    let mut at = 0;
    let mut bad_since = None;
    while at < bytes.len() {
        let rest = &bytes[at..];
        let whole = Head::read(rest).and_then(|head| {
            let payload = rest.get(HEAD..HEAD + usize::try_from(head.stored).ok()?)?;
            head.is_whole(payload).then_some(head)
        });
        match whole {
            Some(head) => {
                contents.note(&mut bad_since, at);
                let block = Block { offset: at as u64, head };
                at = usize::try_from(block.end()).expect("it lies within the bytes");
                contents.blocks.push(block);
            }
            None => {
                bad_since.get_or_insert(at);
                let next = rest[1..].windows(4).position(|four| four == b"HBK1");
                at = next.map_or(bytes.len(), |next| at + 1 + next);
            }
        }
    }
    contents.note(&mut bad_since, bytes.len());
    contents
}

impl Contents {
    fn note(&mut self, bad_since: &mut Option<usize>, until: usize) {
        if let Some(from) = bad_since.take() {
            self.damage.push(Damage { offset: from as u64, bytes: (until - from) as u64 });
        }
    }
}
