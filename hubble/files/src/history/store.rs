//! The folder of segments: append, sync, finish, forget.

use super::{
    block::Head,
    segment::{self, Block, Contents, Damage},
};
use nix::fcntl::{Flock, FlockArg};
use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// Bounds of a history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Bytes on disk (`--hubble-history-max-size-mb`).
    pub bytes_max: u64,
    /// Age of the oldest flow (`--hubble-history-max-age`).
    pub age_max: Duration,
    /// How much of the newest a power cut may take.
    pub sync_every: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { bytes_max: 256 << 20, age_max: Duration::from_secs(24 * 3600), sync_every: Duration::from_secs(5) }
    }
}

impl Limits {
    /// A segment is forgotten as a whole, so there are to be some of them.
    fn segment_bytes(&self) -> u64 {
        (self.bytes_max / 16).clamp(256 << 10, 64 << 20)
    }

    fn segment_age_ns(&self) -> i64 {
        i64::try_from(self.age_max.as_nanos() / 8).unwrap_or(i64::MAX)
    }
}

/// Why a history cannot be kept.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The folder or a file in it.
    #[error("history: cannot {step} {}: {source}", path.display())]
    Io {
        /// What was being done.
        step: &'static str,
        /// With what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Somebody else writes it.
    #[error("history: {} is written by another agent: stop it or choose another folder", .0.display())]
    InUse(PathBuf),
}

/// A segment as readers see it.
#[derive(Debug, Clone)]
pub(crate) struct Segment {
    pub number: u64,
    pub path: PathBuf,
    pub bytes: u64,
    pub blocks: Arc<Vec<Block>>,
}

impl Segment {
    /// Times of the oldest and newest flow.
    pub fn span(&self) -> Option<(i64, i64)> {
        let from = self.blocks.iter().map(|block| block.head.from_ns).min()?;
        Some((from, self.blocks.iter().map(|block| block.head.to_ns).max()?))
    }
}

/// The segments, oldest first; shared with readers.
#[derive(Debug, Default)]
pub(crate) struct Segments(Mutex<Vec<Segment>>);

impl Segments {
    pub fn list(&self) -> MutexGuard<'_, Vec<Segment>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A segment that is being written; the last of the list.
#[derive(Debug)]
struct Current {
    file: File,
    size: u64,
    since_ns: i64,
    dirty: bool,
}

/// The writer of a history.
#[derive(Debug)]
pub(crate) struct Store {
    folder: PathBuf,
    limits: Limits,
    segments: Arc<Segments>,
    current: Option<Current>,
    next_number: u64,
    _lock: Flock<File>,
}

/// A place in a file that cannot be read, in words.
pub(crate) fn place(path: &Path, damage: Damage) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    format!("{name}: {} bytes from byte {} on", damage.bytes, damage.offset)
}

impl Store {
    /// Opens or makes the folder. Answers what of earlier lives cannot be read.
    pub fn open(folder: &Path, limits: Limits) -> Result<(Self, Vec<String>), OpenError> {
        let failed = |step, path: &Path| {
            let path = path.to_owned();
            move |source| OpenError::Io { step, path, source }
        };
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(folder);
        made.map_err(failed("make the folder", folder))?;
        let lock = folder.join("lock");
        let file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&lock);
        let file = file.map_err(failed("open", &lock))?;
        let lock =
            Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|_| OpenError::InUse(folder.to_owned()))?;
        let mut numbers = Vec::new();
        for entry in fs::read_dir(folder).map_err(failed("read", folder))? {
            let name = entry.map_err(failed("read", folder))?.file_name();
            numbers.extend(name.to_str().and_then(|name| name.strip_suffix(".seg")?.parse::<u64>().ok()));
        }
        numbers.sort_unstable();
        let mut damage = Vec::new();
        let segments = Segments::default();
        for number in &numbers {
            let path = segment_path(folder, *number);
            match recover(&path, &mut damage) {
                Ok((blocks, bytes)) => {
                    segments.list().push(Segment { number: *number, path, bytes, blocks: Arc::new(blocks) });
                }
                Err(why) => damage.push(format!("{}: {why}", path.file_name().unwrap_or_default().display())),
            }
        }
        let next_number = numbers.last().map_or(1, |last| last + 1);
        let segments = Arc::new(segments);
        let folder = folder.to_owned();
        Ok((Self { folder, limits, segments, current: None, next_number, _lock: lock }, damage))
    }

    pub fn segments(&self) -> &Arc<Segments> {
        &self.segments
    }

    /// Writes a block. When that fails nothing of it is there.
    pub fn append(&mut self, head: Head, bytes: &[u8], now_ns: i64) -> io::Result<()> {
        let length = bytes.len() as u64;
        let full = self.current.as_ref().is_some_and(|current| {
            current.size + length > self.limits.segment_bytes()
                || now_ns.saturating_sub(current.since_ns) > self.limits.segment_age_ns()
        });
        if full {
            self.finish()?;
        }
        if self.current.is_none() {
            self.begin(now_ns)?;
        }
        self.forget(now_ns);
        let Some(current) = &mut self.current else { return Ok(()) };
        if let Err(why) = current.file.write_all(bytes) {
            if current.file.set_len(current.size).is_err() {
                // What is half written stays at the end of this segment, where the next start finds it.
                self.current = None;
            }
            return Err(why);
        }
        let offset = current.size;
        current.size += length;
        current.dirty = true;
        let mut list = self.segments.list();
        if let Some(last) = list.last_mut() {
            last.bytes = current.size;
            Arc::make_mut(&mut last.blocks).push(Block { offset, head });
        }
        Ok(())
    }

    fn begin(&mut self, now_ns: i64) -> io::Result<()> {
        let path = segment_path(&self.folder, self.next_number);
        let file = OpenOptions::new().create_new(true).append(true).mode(0o600).open(&path)?;
        let number = self.next_number;
        self.next_number += 1;
        self.segments.list().push(Segment { number, path, bytes: 0, blocks: Arc::default() });
        self.current = Some(Current { file, size: 0, since_ns: now_ns, dirty: false });
        Ok(())
    }

    /// Ends the segment with its index.
    pub fn finish(&mut self) -> io::Result<()> {
        let Some(mut current) = self.current.take() else { return Ok(()) };
        let blocks = self.segments.list().last().map(|last| last.blocks.clone()).unwrap_or_default();
        let index = segment::index(&blocks);
        current.file.write_all(&index)?;
        current.file.sync_data()?;
        if let Some(last) = self.segments.list().last_mut() {
            last.bytes = current.size + index.len() as u64;
        }
        Ok(())
    }

    /// Makes what was written survive a power cut.
    pub fn sync(&mut self) -> io::Result<()> {
        match &mut self.current {
            Some(current) if current.dirty => {
                current.file.sync_data()?;
                current.dirty = false;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Removes the oldest segments while there are too many bytes, and those that are too old.
    pub fn forget(&mut self, now_ns: i64) {
        let oldest_ns = now_ns.saturating_sub(i64::try_from(self.limits.age_max.as_nanos()).unwrap_or(i64::MAX));
        let writing = usize::from(self.current.is_some());
        loop {
            let mut list = self.segments.list();
            // The one that is written now, full, must fit too.
            let bytes: u64 = list.iter().map(|segment| segment.bytes).sum();
            let too_many = bytes + self.limits.segment_bytes() > self.limits.bytes_max;
            let Some(first) = list.first().filter(|_| list.len() > writing) else { return };
            if !too_many && first.span().is_some_and(|(_, newest_ns)| newest_ns >= oldest_ns) {
                return;
            }
            let first = list.remove(0);
            drop(list);
            if let Err(why) = fs::remove_file(&first.path) {
                tracing::warn!(%why, segment = %first.path.display(), "an old segment of the history stays on disk");
            }
        }
    }
}

fn segment_path(folder: &Path, number: u64) -> PathBuf {
    folder.join(format!("{number:012}.seg"))
}

/// Reads a segment's blocks and gives it the index it lacks. Answers its size.
fn recover(path: &Path, damage: &mut Vec<String>) -> io::Result<(Vec<Block>, u64)> {
    let size = fs::metadata(path)?.len();
    let Contents { blocks, finished, damage: found } = segment::read(path)?;
    damage.extend(found.iter().map(|damage| place(path, *damage)));
    if finished {
        return Ok((blocks, size));
    }
    let whole = found.last().filter(|last| last.offset + last.bytes == size).map_or(size, |torn| torn.offset);
    let index = segment::index(&blocks);
    // Without the index the segment is only slower to open.
    let written = OpenOptions::new().append(true).open(path).and_then(|mut file| {
        file.set_len(whole)?;
        file.write_all(&index)?;
        file.sync_data()
    });
    if let Err(why) = written {
        tracing::warn!(%why, segment = %path.display(), "a segment of the history stays without an index");
    }
    Ok((blocks, whole + index.len() as u64))
}
