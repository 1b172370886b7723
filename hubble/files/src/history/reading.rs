//! Reading back: forward in time, block by block; for the last so many flows first backward, counting.

use super::{
    block::HEAD,
    recorder::Notes,
    segment::{Block, Damage},
    store::{Segment, place},
};
use hubble_api::flow::Flow;
use hubble_model::Event;
use hubble_server::{Page, Pages, Past};
use std::{fs::File, io, os::unix::fs::FileExt as _, sync::Arc};

/// Blocks looked at for one page, so that whoever goes away is noticed.
const BLOCKS: usize = 8;

/// A reading under way.
pub(crate) struct Reading {
    segments: Vec<Segment>,
    past: Past,
    /// This life of the agent.
    epoch: u64,
    notes: Arc<Notes>,
    phase: Phase,
    open: Option<(u64, File)>,
}

/// Where a reading is: segment, block in it.
type Place = (usize, usize);

#[derive(Debug, Clone, Copy)]
enum Phase {
    /// Counts matches backward; what is behind the place is counted already.
    Counting { before: Place, matched: u64, last: u64 },
    /// Answers; so many matches are still to be passed over.
    Answering { next: Place, skip: u64 },
}

impl Reading {
    pub fn new(segments: Vec<Segment>, past: Past, epoch: u64, notes: Arc<Notes>) -> Self {
        let phase = match past.last {
            Some(last) => Phase::Counting { before: (segments.len(), 0), matched: 0, last },
            None => Phase::Answering { next: (0, 0), skip: 0 },
        };
        Self { segments, past, epoch, notes, phase, open: None }
    }

    fn block(&self, (segment, block): Place) -> Option<Block> {
        self.segments.get(segment)?.blocks.get(block).copied()
    }

    /// The place of the next block, from a place on.
    fn from(&self, mut place: Place) -> Option<Place> {
        while place.0 < self.segments.len() {
            if self.block(place).is_some() {
                return Some(place);
            }
            place = (place.0 + 1, 0);
        }
        None
    }

    /// The place of the block before a place.
    fn before(&self, (mut segment, mut block): Place) -> Option<Place> {
        while block == 0 {
            segment = segment.checked_sub(1)?;
            block = self.segments[segment].blocks.len();
        }
        Some((segment, block - 1))
    }

    /// Whether a block can hold anything that is wanted.
    fn is_near(&self, block: &Block) -> bool {
        self.past.since_ns.is_none_or(|since_ns| block.head.to_ns >= since_ns)
            && self.past.until_ns.is_none_or(|until_ns| block.head.from_ns <= until_ns)
    }

    /// The wanted flows of a block. What cannot be read is added to `lost`.
    fn flows(&mut self, at: Place, lost: &mut u64) -> Vec<Flow> {
        let Some(block) = self.block(at).filter(|block| self.is_near(block)) else { return Vec::new() };
        let flows = match self.read(at.0, &block) {
            Ok(payload) => block.head.flows(&payload).ok_or("not what was written".to_owned()),
            Err(why) => Err(why.to_string()),
        };
        match flows {
            Ok(flows) => flows.into_iter().filter_map(|(position, flow)| self.wanted(position, flow, &block)).collect(),
            Err(why) => {
                *lost += u64::from(block.head.flows);
                let damage = Damage { offset: block.offset, bytes: HEAD as u64 + u64::from(block.head.stored) };
                self.notes.damaged(format!("{}: {why}", place(&self.segments[at.0].path, damage)), block.head.flows);
                Vec::new()
            }
        }
    }

    fn read(&mut self, segment: usize, block: &Block) -> io::Result<Vec<u8>> {
        let Segment { number, path, .. } = &self.segments[segment];
        let file = match self.open.take() {
            Some((open, file)) if open == *number => file,
            _ => File::open(path)?,
        };
        let mut payload = vec![0; usize::try_from(block.head.stored).map_err(io::Error::other)?];
        let read = file.read_exact_at(&mut payload, block.offset + HEAD as u64);
        self.open = Some((*number, file));
        read.map(|()| payload)
    }

    fn wanted(&self, position: u64, flow: Flow, block: &Block) -> Option<Flow> {
        if block.head.epoch == self.epoch && position >= self.past.before {
            return None;
        }
        let at_ns = flow.time.as_ref().map_or(0, hubble_api::time::nanos);
        let early = self.past.since_ns.is_some_and(|since_ns| at_ns < since_ns.into());
        let late = self.past.until_ns.is_some_and(|until_ns| at_ns > until_ns.into());
        (!early && !late && self.past.filters.matches(&flow)).then_some(flow)
    }
}

impl Pages for Reading {
    fn next_page(&mut self) -> Option<Page> {
        let mut page = Page::default();
        for _ in 0..BLOCKS {
            match self.phase {
                Phase::Counting { before, matched, last } => {
                    let place = if matched < last { self.before(before) } else { None };
                    let Some(place) = place else {
                        self.phase = Phase::Answering { next: before, skip: matched.saturating_sub(last) };
                        continue;
                    };
                    // Losses are told when the block is read again to answer.
                    let found = self.flows(place, &mut 0).len() as u64;
                    self.phase = Phase::Counting { before: place, matched: matched + found, last };
                }
                Phase::Answering { next, skip } => {
                    let Some(place) = self.from(next) else {
                        let empty = page.events.is_empty() && page.lost == 0;
                        return (!empty).then_some(page);
                    };
                    let flows = self.flows(place, &mut page.lost);
                    let passed = usize::try_from(skip).unwrap_or(usize::MAX).min(flows.len());
                    let flows = flows.into_iter().skip(passed).map(|flow| Arc::new(Event::Flow(Box::new(flow))));
                    page.events.extend(flows);
                    self.phase = Phase::Answering { next: (place.0, place.1 + 1), skip: skip - passed as u64 };
                    if !page.events.is_empty() {
                        break;
                    }
                }
            }
        }
        Some(page)
    }
}
