//! A file that is put aside when it is full. Names of what was put aside, and how much of it stays, are the original's:
//! `events-2026-01-31T23-59-59.000.log`, with `.gz` behind it once it is compressed.

use hubble_api::time::civil;
use std::{
    fs::{self, File, OpenOptions, Permissions},
    io::{self, Write},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    thread::JoinHandle,
};

/// Mode of everything that is written: flows tell who talks to whom.
const MODE: u32 = 0o600;

/// How a file is rotated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rotation {
    /// Bytes of the file (`--hubble-export-file-max-size-mb`).
    pub bytes_max: u64,
    /// Older files that stay; 0: all (`--hubble-export-file-max-backups`).
    pub backups_max: usize,
    /// Whether older files are compressed (`--hubble-export-file-compress`).
    pub compress: bool,
}

impl Default for Rotation {
    fn default() -> Self {
        Self { bytes_max: 10 << 20, backups_max: 5, compress: false }
    }
}

/// A file and those before it.
#[derive(Debug)]
pub(crate) struct Rotating {
    path: PathBuf,
    rotation: Rotation,
    open: Option<(File, u64)>,
    /// Compresses and removes older files, one rotation at a time.
    tidying: Option<JoinHandle<()>>,
}

impl Rotating {
    pub fn new(path: PathBuf, rotation: Rotation) -> Self {
        Self { path, rotation, open: None, tidying: None }
    }

    /// Writes whole lines, all into one file. When that fails none of them are there.
    pub fn write(&mut self, lines: &[u8], now_ns: i64) -> io::Result<()> {
        let length = lines.len() as u64;
        let (mut file, mut size) = match self.open.take() {
            Some(open) => open,
            None => self.open_file()?,
        };
        if size > 0 && size + length > self.rotation.bytes_max {
            drop(file);
            self.put_aside(now_ns)?;
            (file, size) = self.open_file()?;
        }
        if let Err(why) = file.write_all(lines) {
            // Half a line would spoil the file for those who read it.
            let _still_there = file.set_len(size);
            return Err(why);
        }
        self.open = Some((file, size + length));
        Ok(())
    }

    fn open_file(&self) -> io::Result<(File, u64)> {
        if let Some(parent) = self.path.parent().filter(|parent| !parent.exists()) {
            fs::create_dir_all(parent)?;
        }
        let file = OpenOptions::new().create(true).append(true).mode(MODE).open(&self.path)?;
        let size = file.metadata()?.len();
        Ok((file, size))
    }

    fn put_aside(&mut self, now_ns: i64) -> io::Result<()> {
        let mut at_ns = now_ns;
        let mut name = backup_name(&self.path, at_ns);
        while name.exists() || with_gz(&name).exists() {
            at_ns += 1_000_000;
            name = backup_name(&self.path, at_ns);
        }
        fs::rename(&self.path, &name)?;
        self.wait();
        let (path, rotation) = (self.path.clone(), self.rotation.clone());
        let tidy = move || {
            if let Err(why) = tidy(&path, &rotation) {
                tracing::warn!(%why, path = %path.display(), "older files of the export stay as they are");
            }
        };
        self.tidying = Some(std::thread::Builder::new().name("hubble-rotate".into()).spawn(tidy)?);
        Ok(())
    }

    /// Waits until older files are as they should be.
    pub fn wait(&mut self) {
        if let Some(tidying) = self.tidying.take()
            && tidying.join().is_err()
        {
            tracing::error!("compressing an older file ended before its time");
        }
    }
}

impl Drop for Rotating {
    fn drop(&mut self) {
        self.wait();
    }
}

fn with_gz(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".gz");
    name.into()
}

/// Name before the time and behind it.
fn affixes(path: &Path) -> (String, String) {
    let part = |part: Option<&std::ffi::OsStr>| part.map(|part| part.to_string_lossy().into_owned());
    let extension = part(path.extension()).map_or_else(String::new, |extension| format!(".{extension}"));
    (format!("{}-", part(path.file_stem()).unwrap_or_default()), extension)
}

fn backup_name(path: &Path, at_ns: i64) -> PathBuf {
    let (prefix, extension) = affixes(path);
    let at = civil(at_ns.div_euclid(1_000_000_000));
    let millis = at_ns.rem_euclid(1_000_000_000) / 1_000_000;
    path.with_file_name(format!(
        "{prefix}{:04}-{:02}-{:02}T{:02}-{:02}-{:02}.{millis:03}{extension}",
        at.year, at.month, at.day, at.hour, at.minute, at.second
    ))
}

/// Files put aside, oldest first; true: compressed.
fn backups(path: &Path) -> io::Result<Vec<(PathBuf, bool)>> {
    let (prefix, extension) = affixes(path);
    let folder = path.parent().unwrap_or_else(|| Path::new("."));
    let mut all = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        let (plain, compressed) = name.strip_suffix(".gz").map_or((name, false), |plain| (plain, true));
        let stamp = plain.strip_prefix(&prefix).and_then(|rest| rest.strip_suffix(&extension));
        if stamp.is_some_and(is_stamp) {
            all.push((entry.path(), compressed));
        }
    }
    all.sort();
    Ok(all)
}

/// Whether a text is a time as [`backup_name`] writes it.
fn is_stamp(text: &str) -> bool {
    const SHAPE: &[u8] = b"0000-00-00T00-00-00.000";
    let fits = |(have, want): (u8, &u8)| if *want == b'0' { have.is_ascii_digit() } else { have == *want };
    text.len() == SHAPE.len() && text.bytes().zip(SHAPE).all(fits)
}

fn tidy(path: &Path, rotation: &Rotation) -> io::Result<()> {
    let mut all = backups(path)?;
    if rotation.backups_max > 0 && all.len() > rotation.backups_max {
        for (old, _) in all.drain(..all.len() - rotation.backups_max) {
            fs::remove_file(old)?;
        }
    }
    if rotation.compress {
        for (plain, _) in all.iter().filter(|(_, compressed)| !compressed) {
            compress(plain)?;
        }
    }
    Ok(())
}

fn compress(plain: &Path) -> io::Result<()> {
    let target = with_gz(plain);
    let mut unfinished = target.as_os_str().to_owned();
    unfinished.push(".tmp");
    let unfinished = PathBuf::from(unfinished);
    let written = (|| {
        let file = OpenOptions::new().create(true).write(true).truncate(true).mode(MODE).open(&unfinished)?;
        file.set_permissions(Permissions::from_mode(MODE))?;
        let mut encoder = flate2::write::GzEncoder::new(file, flate2::Compression::default());
        io::copy(&mut File::open(plain)?, &mut encoder)?;
        encoder.finish()?.sync_all()?;
        fs::rename(&unfinished, &target)?;
        fs::remove_file(plain)
    })();
    if written.is_err() {
        let _not_there = fs::remove_file(&unfinished);
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;

    #[test]
    fn names_are_the_originals() {
        let path = Path::new("/x/events.log");
        let name = backup_name(path, 1_700_000_000_123_456_789);
        assert_eq!(name, Path::new("/x/events-2023-11-14T22-13-20.123.log"));
        assert_eq!(backup_name(Path::new("/x/flows"), 0), Path::new("/x/flows-1970-01-01T00-00-00.000"));
        assert!(is_stamp("2023-11-14T22-13-20.123") && !is_stamp("2023-11-14T22-13-20.12x") && !is_stamp("old"));
    }

    #[test]
    fn a_write_that_fails_leaves_no_part_of_itself() {
        crate::testing::on_a_small_disk(|disk| {
            let (path, filler) = (disk.join("events.log"), disk.join("filler"));
            fs::write(&filler, vec![7; 1_000 << 10]).unwrap();
            let mut file = Rotating::new(path.clone(), Rotation::default());
            let lines = |letter: &str, kib: usize| format!("{}\n", letter.repeat(1_023)).repeat(kib);
            file.write(lines("a", 1).as_bytes(), 1).unwrap();
            // Some of it finds room.
            let why = file.write(lines("b", 100).as_bytes(), 2).unwrap_err();
            assert_eq!(why.kind(), io::ErrorKind::StorageFull);
            assert_eq!(fs::read_to_string(&path).unwrap(), lines("a", 1));
            fs::remove_file(filler).unwrap();
            file.write(lines("c", 100).as_bytes(), 3).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), lines("a", 1) + &lines("c", 100));
        });
    }

    #[test]
    fn full_files_are_put_aside_compressed_and_in_the_end_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new/events.log");
        let rotation = Rotation { bytes_max: 10, backups_max: 2, compress: true };
        let mut file = Rotating::new(path.clone(), rotation.clone());
        for at in 0..5_i64 {
            file.write(format!("line {at}\n").as_bytes(), at * 1_000_000_000).unwrap();
        }
        // What belongs to others is left alone.
        fs::write(path.with_file_name("events-mine.log"), "x").unwrap();
        file.wait();
        assert_eq!(fs::read_to_string(&path).unwrap(), "line 4\n");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let kept = backups(&path).unwrap();
        assert_eq!(kept.len(), 2, "{kept:?}");
        let mut text = String::new();
        for (path, compressed) in kept {
            assert!(compressed);
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
            flate2::read::GzDecoder::new(File::open(path).unwrap()).read_to_string(&mut text).unwrap();
        }
        assert_eq!(text, "line 2\nline 3\n");
        drop(file);
        // Another life goes on where this one ended.
        let mut file = Rotating::new(path.clone(), Rotation { bytes_max: 100, ..rotation });
        file.write(b"line 5\n", 9).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "line 4\nline 5\n");
    }
}
