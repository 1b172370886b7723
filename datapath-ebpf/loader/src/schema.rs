//! Whether pinned maps are the maps this software means, and what is done when they are not.
//!
//! A map that is missing is made. One whose layout differs is refused, never recreated: it may carry the
//! connections of a running node. One that differs only in its number of entries is moved into a new map.

use std::{
    collections::BTreeMap,
    fmt, fs, io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

use abi::{
    config::{MAGLEV_IN_PLACE, Runtime},
    lb::MAGLEV_SIZES,
    maps::{self, MapKind, MapSpec},
};

use crate::{
    batch::{self, Sizes},
    error::{MapError, Operation},
    maglev,
    maps::{Access, Maps, open_checked},
    sys::{self, MapInfo},
};

/// A property in which a map is not what it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mismatch {
    /// Which property.
    pub property: Property,
    /// What the kernel says.
    pub found: u32,
    /// What this software means.
    pub expected: u32,
}

/// Properties of a map that are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Property {
    /// The kernel's map type number.
    Kind,
    /// Bytes of a key.
    KeySize,
    /// Bytes of a value.
    ValueSize,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.property {
            Property::Kind => "map type",
            Property::KeySize => "key size",
            Property::ValueSize => "value size",
        };
        write!(f, "its {what} is {}, expected {}", self.found, self.expected)
    }
}

/// Compares a map with its spec, all but the number of entries.
pub(crate) fn shape(spec: &MapSpec, info: &MapInfo) -> Result<(), Mismatch> {
    let size = |bytes: usize| u32::try_from(bytes).unwrap_or(u32::MAX);
    let check = |property, found, expected| {
        if found == expected { Ok(()) } else { Err(Mismatch { property, found, expected }) }
    };
    check(Property::Kind, info.kind, sys::map_type(spec.kind))?;
    check(Property::KeySize, info.key_size, size(spec.key_size))?;
    check(Property::ValueSize, info.value_size, size(spec.value_size))
}

/// A map whose entries were moved into one of another size. Running programs write the old one until they are
/// replaced, so [`Moved::settle`] copies once more, what is not in the new one yet.
#[derive(Debug)]
pub(crate) struct Moved {
    spec: &'static MapSpec,
    old: OwnedFd,
    new: OwnedFd,
}

impl Moved {
    pub(crate) fn name(&self) -> &'static str {
        self.spec.name
    }

    /// Copies what came in since; call it when no program writes the old map any more.
    pub(crate) fn settle(&self) -> Result<usize, MapError> {
        copy(self.spec, &self.old, &self.new, sys::NOEXIST)
    }
}

/// The maps, and which of them were moved.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) maps: Maps,
    pub(crate) moved: Vec<Moved>,
}

/// Opens, makes or moves every map under `directory`. `sizes` overrides the number of entries by map name; Maglev tables
/// have `maglev_size` entries.
pub(crate) fn prepare(directory: &Path, sizes: &BTreeMap<String, u32>, maglev_size: u32) -> Result<Prepared, MapError> {
    if let Some(name) = sizes.keys().find(|name| !maps::ALL.iter().any(|spec| spec.name == name.as_str())) {
        return Err(MapError::UnknownName { name: name.clone() });
    }
    let mut moved = Vec::new();
    // First the map that holds the version, so that no other map is ever found without one.
    let runtime = version_map(directory)?;
    tables_of_size(directory, &runtime, maglev_size)?;
    drop(runtime);
    let maps = Maps::assemble(directory, |spec| {
        let fixed = matches!(spec.kind, MapKind::Array | MapKind::PerCpuArray);
        let entries = if fixed { spec.max_entries } else { wanted(spec, sizes) };
        one(directory, spec, entries, maglev_size, &mut moved)
    })?;
    one(directory, &maps::EVENTS, wanted(&maps::EVENTS, sizes), maglev_size, &mut moved)?;
    Ok(Prepared { maps, moved })
}

fn wanted(spec: &MapSpec, sizes: &BTreeMap<String, u32>) -> u32 {
    sizes.get(spec.name).copied().unwrap_or(spec.max_entries)
}

/// Opens the runtime configuration and checks the version in it, or makes it if no map is there at all.
fn version_map(directory: &Path) -> Result<OwnedFd, MapError> {
    let spec = &maps::RUNTIME_CONFIG;
    let index = Runtime::SchemaVersion as u32;
    let path = directory.join(spec.name);
    if path.exists() {
        let fd = open_checked(directory, spec, Access::ReadWrite)?;
        let mut found = 0_u64;
        sys::map_lookup(fd.as_fd(), &index.to_ne_bytes(), zerocopy::IntoBytes::as_mut_bytes(&mut found))
            .map_err(|e| MapError::system(spec, Operation::Read, e))?;
        if found != abi::SCHEMA_VERSION {
            return Err(MapError::Version { directory: directory.to_owned(), found, expected: abi::SCHEMA_VERSION });
        }
        return Ok(fd);
    }
    if let Some(other) = maps::ALL.iter().find(|other| directory.join(other.name).exists()) {
        return Err(MapError::Foreign { map: other.name, directory: directory.to_owned() });
    }
    let fd = create(spec, spec.max_entries, 0)?;
    sys::map_update(fd.as_fd(), &index.to_ne_bytes(), &abi::SCHEMA_VERSION.to_ne_bytes(), sys::ANY)
        .map_err(|e| MapError::system(spec, Operation::Write, e))?;
    pin(spec, fd.as_fd(), &path)?;
    Ok(fd)
}

/// Sees to it that pinned maps of Maglev tables are made for tables of `size` entries that can be changed in place. Others lose their pin:
/// the kernel takes no table of another length into them, and the agent computes all tables anew. Programs that
/// run keep the old map until they are replaced; connections keep their backend.
fn tables_of_size(directory: &Path, runtime: &OwnedFd, size: u32) -> Result<(), MapError> {
    if !MAGLEV_SIZES.contains(&size) {
        return Err(MapError::MaglevSize { size });
    }
    let spec = &maps::RUNTIME_CONFIG;
    let index = (Runtime::MaglevSize as u32).to_ne_bytes();
    let mut found = 0_u64;
    sys::map_lookup(runtime.as_fd(), &index, zerocopy::IntoBytes::as_mut_bytes(&mut found))
        .map_err(|e| MapError::system(spec, Operation::Read, e))?;
    let wanted = u64::from(size) | MAGLEV_IN_PLACE;
    if found == wanted {
        return Ok(());
    }
    for spec in [&maps::LB4_MAGLEV, &maps::LB6_MAGLEV] {
        match fs::remove_file(directory.join(spec.name)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(MapError::system(spec, Operation::Pin, e)),
            _ => {}
        }
    }
    sys::map_update(runtime.as_fd(), &index, &wanted.to_ne_bytes(), sys::ANY)
        .map_err(|e| MapError::system(spec, Operation::Write, e))
}

fn one(
    directory: &Path,
    spec: &'static MapSpec,
    entries: u32,
    maglev_size: u32,
    moved: &mut Vec<Moved>,
) -> Result<OwnedFd, MapError> {
    let path = directory.join(spec.name);
    if !path.exists() {
        let fd = create(spec, entries, maglev_size)?;
        pin(spec, fd.as_fd(), &path)?;
        return Ok(fd);
    }
    let fd = open_checked(directory, spec, Access::ReadWrite)?;
    let info = sys::map_info(fd.as_fd()).map_err(|e| MapError::system(spec, Operation::Inspect, e))?;
    if info.max_entries == entries {
        return Ok(fd);
    }
    let new = resize(spec, &fd, entries, maglev_size, &path)?;
    let inspect = |e| MapError::system(spec, Operation::Inspect, e);
    if spec.kind != MapKind::RingBuf {
        moved.push(Moved { spec, old: fd, new: new.try_clone().map_err(inspect)? });
    }
    Ok(new)
}

/// Makes a map of `entries`, fills it from `old` and puts its pin in place of the old one at one instant.
fn resize(
    spec: &'static MapSpec,
    old: &OwnedFd,
    entries: u32,
    maglev_size: u32,
    path: &Path,
) -> Result<OwnedFd, MapError> {
    let new = create(spec, entries, maglev_size)?;
    if spec.kind != MapKind::RingBuf {
        copy(spec, old, &new, sys::ANY)?;
    }
    let beside = path.with_file_name(format!("{}_resizing", spec.name));
    match fs::remove_file(&beside) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(MapError::system(spec, Operation::Pin, e)),
        _ => {}
    }
    pin(spec, new.as_fd(), &beside)?;
    fs::rename(&beside, path).map_err(|e| MapError::system(spec, Operation::Pin, e))?;
    Ok(new)
}

/// Copies all entries; with `NOEXIST` those that are not there yet. Returns how many were written.
fn copy(spec: &'static MapSpec, old: &OwnedFd, new: &OwnedFd, flags: u64) -> Result<usize, MapError> {
    let (from, to) = (old.as_fd(), new.as_fd());
    let cpus = match spec.kind {
        MapKind::PerCpuArray => aya::util::nr_cpus().map_err(|(_, e)| MapError::system(spec, Operation::Inspect, e))?,
        _ => 1,
    };
    let failed = |operation| move |e| MapError::system(spec, operation, e);
    let info = sys::map_info(from).map_err(failed(Operation::Inspect))?;
    if spec.kind == MapKind::HashOfMaps {
        return maglev::copy(old, new, info.max_entries, flags).map_err(failed(Operation::Write));
    }
    let value = if cpus > 1 { spec.value_size.next_multiple_of(8) * cpus } else { spec.value_size };
    let sizes = Sizes { key: spec.key_size, value, max_entries: info.max_entries };
    let dump = batch::read_all(from, sizes).map_err(failed(Operation::Read))?;
    let mut written = 0;
    for (key, value) in dump.keys.chunks_exact(sizes.key).zip(dump.values.chunks_exact(sizes.value)) {
        match sys::map_update(to, key, value, flags) {
            Ok(()) => written += 1,
            Err(e) if e.raw_os_error() == Some(libc::EEXIST) => {}
            Err(e) if matches!(e.raw_os_error(), Some(libc::E2BIG | libc::ENOSPC)) => {
                let max_entries = sys::map_info(to).map_or(0, |info| info.max_entries);
                return Err(MapError::TooSmall { map: spec.name, max_entries });
            }
            Err(e) => return Err(failed(Operation::Write)(e)),
        }
    }
    Ok(written)
}

fn create(spec: &'static MapSpec, entries: u32, maglev_size: u32) -> Result<OwnedFd, MapError> {
    let size = |bytes: usize| u32::try_from(bytes).expect("keys and values are small");
    let shape = sys::MapShape {
        kind: sys::map_type(spec.kind),
        key_size: size(spec.key_size),
        value_size: size(spec.value_size),
        max_entries: entries,
        flags: sys::map_flags(spec.kind),
    };
    let made = match spec.kind {
        MapKind::HashOfMaps => {
            maglev::inner(maglev_size).and_then(|pattern| sys::map_of_maps_create(spec.name, &shape, pattern.as_fd()))
        }
        _ => sys::map_create(spec.name, &shape),
    };
    made.map_err(|source| MapError::Create { map: spec.name, max_entries: entries, source })
}

fn pin(spec: &'static MapSpec, fd: BorrowedFd<'_>, path: &Path) -> Result<(), MapError> {
    sys::pin(fd, path).map_err(|e| MapError::system(spec, Operation::Pin, e))
}

/// Paths of all maps that are pinned under `directory`.
pub(crate) fn pinned(directory: &Path) -> Vec<PathBuf> {
    maps::ALL.iter().map(|spec| directory.join(spec.name)).filter(|path| path.exists()).collect()
}

#[cfg(test)]
mod tests;
