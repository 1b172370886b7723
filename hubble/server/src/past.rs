//! The part of a stream that comes from before the ring. Pages are fetched one at a time on a thread that may block, so
//! that a client that does not read holds no thread.

use crate::tap::{History, Page, Pages, Past};
use hubble_model::Event;
use std::{collections::VecDeque, sync::Arc};

/// A reading of the past, begun at the first question.
pub(crate) enum Earlier {
    NotBegun(Arc<dyn History>, Past),
    Open(Box<dyn Pages>),
    Ended,
}

/// What the past answered.
pub(crate) enum Step {
    /// Some events, perhaps none yet.
    Page(VecDeque<Arc<Event>>, u64),
    /// There is no more.
    Ended,
}

impl Earlier {
    /// The next piece.
    pub async fn step(&mut self) -> Step {
        let this = std::mem::replace(self, Self::Ended);
        let read = move || {
            let mut pages = match this {
                Self::NotBegun(history, past) => history.read(past),
                Self::Open(pages) => pages,
                Self::Ended => return None,
            };
            pages.next_page().map(|page| (pages, page))
        };
        match tokio::task::spawn_blocking(read).await {
            Ok(Some((pages, Page { events, lost }))) => {
                *self = Self::Open(pages);
                Step::Page(events.into(), lost)
            }
            Ok(None) => Step::Ended,
            Err(why) => {
                tracing::error!(%why, "reading history ended before its time");
                Step::Ended
            }
        }
    }
}
