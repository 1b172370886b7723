//! Records from the kernel's ring into a bounded channel.

use std::io;

use loader::Events;
use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::mpsc,
};

/// Records moved with one wake-up at most.
pub const BATCH_RECORDS_MAX: usize = 256;

/// Some records, in the order in which the kernel wrote them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    bytes: Vec<u8>,
    ends: Vec<usize>,
    /// Records that were thrown away just before the first of these, because nobody took earlier batches in time.
    pub lost: u64,
}

impl Batch {
    fn push(&mut self, record: &[u8]) {
        self.bytes.extend_from_slice(record);
        self.ends.push(self.bytes.len());
    }

    /// Number of records.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there is no record.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Each record's bytes (`abi::event`).
    pub fn records(&self) -> impl Iterator<Item = &[u8]> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts.zip(&self.ends).filter_map(|(start, end)| self.bytes.get(start..*end))
    }
}

/// Where records come from: the kernel's ring, or a stand-in.
pub trait EventSource: Send {
    /// Hands up to `most` waiting records to `each`; returns how many there were. Never blocks.
    fn drain(&mut self, most: usize, each: &mut dyn FnMut(&[u8])) -> usize;
}

impl EventSource for Events {
    fn drain(&mut self, most: usize, each: &mut dyn FnMut(&[u8])) -> usize {
        Self::drain(self, most, each)
    }
}

/// Reads the ring until it is dropped.
#[derive(Debug)]
pub struct EventReader {
    ring: AsyncFd<Events>,
    sender: mpsc::Sender<Batch>,
    lost: u64,
}

impl EventReader {
    /// Takes the ring; `batches` is how many may wait before records are thrown away. Needs a tokio runtime with IO.
    pub fn new(ring: Events, batches: usize) -> io::Result<(Self, mpsc::Receiver<Batch>)> {
        let (sender, receiver) = mpsc::channel(batches);
        // SAFETY: the ring owns its descriptor, which is neither replaced nor closed while the `AsyncFd` owns it.
        let ring = unsafe { AsyncFd::register_with_interest(ring, Interest::READABLE) };
        Ok((Self { ring: ring.map_err(io::Error::from)?, sender, lost: 0 }, receiver))
    }

    /// Moves records until the receiver is dropped.
    pub async fn run(mut self) -> io::Result<()> {
        while !self.sender.is_closed() {
            let mut ready = tokio::select! {
                biased;
                () = self.sender.closed() => return Ok(()),
                ready = self.ring.readable_mut() => ready?,
            };
            if pump(ready.get_inner_mut(), &self.sender, &mut self.lost) < BATCH_RECORDS_MAX {
                ready.clear_ready();
            } else {
                drop(ready);
                tokio::task::yield_now().await;
            }
        }
        Ok(())
    }
}

/// Moves one batch; returns how many records were there. What does not fit is counted and told with the next batch.
fn pump(source: &mut dyn EventSource, sender: &mpsc::Sender<Batch>, lost: &mut u64) -> usize {
    let mut batch = Batch { lost: *lost, ..Batch::default() };
    let moved = source.drain(BATCH_RECORDS_MAX, &mut |record| batch.push(record));
    if batch.is_empty() {
        return moved;
    }
    match sender.try_send(batch) {
        Ok(()) => *lost = 0,
        Err(_) => *lost += moved as u64,
    }
    moved
}

#[cfg(test)]
mod tests;
