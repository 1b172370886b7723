//! The ring of event records. One reader at a time: what it reads is gone from the ring.

use std::{
    os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd},
    path::Path,
};

use abi::maps;
use aya::maps::{Map, MapData, RingBuf};

use crate::{
    error::{MapError, Operation},
    maps::{Access, open_checked},
};

/// Reads `cilium_events`. Its descriptor is readable when records are waiting.
pub struct Events {
    ring: RingBuf<MapData>,
}

impl Events {
    /// Opens the pinned ring in `directory` (such as `/sys/fs/bpf/tc/globals`).
    pub fn open_pinned(directory: &Path) -> Result<Self, MapError> {
        let spec = &maps::EVENTS;
        let failed = |e| MapError::system(spec, Operation::Inspect, std::io::Error::other(e));
        let fd = open_checked(directory, spec, Access::ReadWrite)?;
        let map = Map::RingBuf(MapData::from_fd(fd).map_err(failed)?);
        Ok(Self { ring: RingBuf::try_from(map).map_err(failed)? })
    }

    /// Hands up to `most` waiting records to `each`; returns how many there were. Never blocks.
    pub fn drain(&mut self, most: usize, mut each: impl FnMut(&[u8])) -> usize {
        for read in 0..most {
            let Some(record) = self.ring.next() else { return read };
            each(&record);
        }
        most
    }
}

impl AsFd for Events {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ring.as_fd()
    }
}

impl AsRawFd for Events {
    fn as_raw_fd(&self) -> RawFd {
        self.ring.as_raw_fd()
    }
}

impl std::fmt::Debug for Events {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Events").field("fd", &self.as_raw_fd()).finish()
    }
}
