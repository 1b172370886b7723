//! Maglev tables: a map whose values are maps, one for each service.
//!
//! A packet reads one place of a table, and a place is a word that is written at one instant: the packet meets the old backend or
//! the new one. So a service's table is changed where it is. A service that had none gets one that is whole. All tables have
//! as many entries as the maps were made for; another number means other maps ([`crate::Datapath::open`] sees to it).
//!
//! The kernel makes whoever puts a table into such a map or takes one out wait, some milliseconds, until no program can
//! have the old one in its hands. Nobody here needs to know that instant (a program that reads a table of a moment ago finds
//! backends of a moment ago), so a thread waits, and the caller goes on as soon as the change is in force.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    sync::{Arc, atomic::Ordering, mpsc},
    thread,
    time::Duration,
};

use abi::{
    be::Port,
    maps::{MapKind, MapSpec},
};
use zerocopy::IntoBytes;

use crate::{
    batch::{self, Sizes},
    error::{MapError, Operation},
    sys,
};

/// How often it is looked whether a change is in force.
const LOOK_EVERY: Duration = Duration::from_micros(30);
/// Threads that wait at once; beyond, the caller does.
const WAITING_MAX: usize = 16;

/// One of the two maps of Maglev tables.
#[derive(Debug)]
pub struct MaglevTables {
    fd: Arc<OwnedFd>,
    spec: &'static MapSpec,
    max_entries: u32,
    size: u32,
}

impl MaglevTables {
    pub(crate) fn new(fd: OwnedFd, spec: &'static MapSpec, size: u32) -> Result<Self, MapError> {
        let info = sys::map_info(fd.as_fd()).map_err(|e| MapError::system(spec, Operation::Inspect, e))?;
        Ok(Self { fd: Arc::new(fd), spec, max_entries: info.max_entries, size })
    }

    /// Entries of a table.
    pub fn size(&self) -> u32 {
        self.size
    }

    /// Makes a service's table this one. `backends` are backend ids, [`Self::size`] of them.
    pub fn insert(&self, index: Port, backends: &[u32]) -> Result<(), MapError> {
        self.insert_all(&[(index, backends)])
    }

    /// Makes many services' tables these: what is there is changed in place, what is not is put there with one system call.
    /// On failure some may be written.
    pub fn insert_all(&self, tables: &[(Port, &[u32])]) -> Result<(), MapError> {
        let mut new = Vec::new();
        for (index, backends) in tables {
            if !self.rewrite(*index, backends)? {
                new.push((*index, self.make(backends)?));
            }
        }
        let Some((last, table)) = new.last() else { return Ok(()) };
        let (last, id) = (*last, sys::map_info(table.as_fd()).map_err(|e| self.write_error(e))?.id);
        self.in_force(move |map| put_all(map, &new), |map| Ok(id_of(map, last)? == Some(id)))
            .map_err(|e| self.write_error(e))
    }

    /// Changes the places of a service's table that are to be others; false: it has none.
    fn rewrite(&self, index: Port, backends: &[u32]) -> Result<bool, MapError> {
        let failed = |e| MapError::system(self.spec, Operation::Write, e);
        if backends.len() != self.size as usize {
            return Err(MapError::TableSize { map: self.spec.name, given: backends.len(), size: self.size });
        }
        let Some(table) = self.table(index).map_err(failed)? else { return Ok(false) };
        let words = sys::Words::of(table.as_fd(), backends.len()).map_err(failed)?;
        for (word, backend) in words.as_slice().iter().zip(backends) {
            if word.load(Ordering::Relaxed) != *backend {
                word.store(*backend, Ordering::Relaxed);
            }
        }
        Ok(true)
    }

    /// Carries out `change` and returns when it failed, or when `is_done` finds it in force. The last thing `change` does is what
    /// `is_done` looks for.
    fn in_force(
        &self,
        change: impl FnOnce(BorrowedFd<'_>) -> io::Result<()> + Send + 'static,
        is_done: impl Fn(BorrowedFd<'_>) -> io::Result<bool>,
    ) -> io::Result<()> {
        if Arc::strong_count(&self.fd) > WAITING_MAX {
            return change(self.fd.as_fd());
        }
        let (map, (done, result)) = (self.fd.clone(), mpsc::channel());
        thread::Builder::new().name("maglev".into()).spawn(move || {
            // Nobody listens any more when it was in force already.
            let _gone = done.send(change(map.as_fd()));
        })?;
        loop {
            // Not without sleeping: the thread may have to run on this very CPU.
            match result.recv_timeout(LOOK_EVERY) {
                Ok(result) => return result,
                Err(mpsc::RecvTimeoutError::Disconnected) => return Err(io::ErrorKind::BrokenPipe.into()),
                Err(mpsc::RecvTimeoutError::Timeout) if is_done(self.fd.as_fd())? => return Ok(()),
                Err(mpsc::RecvTimeoutError::Timeout) => {}
            }
        }
    }

    fn make(&self, backends: &[u32]) -> Result<OwnedFd, MapError> {
        let table = inner(self.size).map_err(|source| MapError::Create {
            map: self.spec.name,
            max_entries: self.size,
            source,
        })?;
        sys::map_update(table.as_fd(), &0_u32.to_ne_bytes(), backends.as_bytes(), sys::ANY)
            .map_err(|e| self.write_error(e))?;
        Ok(table)
    }

    fn write_error(&self, error: io::Error) -> MapError {
        match error.raw_os_error() {
            Some(libc::E2BIG) => MapError::Full { map: self.spec.name, max_entries: self.max_entries },
            _ => MapError::system(self.spec, Operation::Write, error),
        }
    }

    /// A service's table.
    pub fn get(&self, index: Port) -> Result<Option<Vec<u32>>, MapError> {
        let read = |e| MapError::system(self.spec, Operation::Read, e);
        let Some(table) = self.table(index).map_err(read)? else { return Ok(None) };
        let mut backends = vec![0_u32; self.size as usize];
        sys::map_lookup(table.as_fd(), &0_u32.to_ne_bytes(), backends.as_mut_slice().as_mut_bytes()).map_err(read)?;
        Ok(Some(backends))
    }

    fn table(&self, index: Port) -> io::Result<Option<OwnedFd>> {
        loop {
            let Some(id) = id_of(self.fd.as_fd(), index)? else { return Ok(None) };
            match sys::map_by_id(id) {
                // Replaced in between.
                Err(e) if e.raw_os_error() == Some(libc::ENOENT) => {}
                other => return other.map(Some),
            }
        }
    }

    /// Removes a service's table; says whether there was one.
    pub fn remove(&self, index: Port) -> Result<bool, MapError> {
        let failed = |e| MapError::system(self.spec, Operation::Delete, e);
        let is_there = id_of(self.fd.as_fd(), index).map_err(failed)?.is_some();
        self.remove_all(&[index])?;
        Ok(is_there)
    }

    /// Removes many services' tables, those that are there. On failure some may be removed.
    pub fn remove_all(&self, indexes: &[Port]) -> Result<(), MapError> {
        let failed = |e| MapError::system(self.spec, Operation::Delete, e);
        let mut there = Vec::with_capacity(indexes.len());
        for index in indexes {
            if id_of(self.fd.as_fd(), *index).map_err(failed)?.is_some() {
                there.push(*index);
            }
        }
        there.sort_unstable();
        there.dedup();
        let Some(last) = there.last().copied() else { return Ok(()) };
        self.in_force(move |map| delete_all(map, &there), |map| Ok(id_of(map, last)?.is_none())).map_err(failed)
    }

    /// The services that have a table, by reverse NAT index.
    pub fn indexes(&self) -> Result<Vec<Port>, MapError> {
        let entries = ids(&self.fd, self.max_entries).map_err(|e| MapError::system(self.spec, Operation::Read, e))?;
        Ok(entries.into_iter().map(|(index, _)| index).collect())
    }
}

/// A table of `size` entries, all zero: also what the kernel takes as the pattern of all tables of a map.
pub(crate) fn inner(size: u32) -> io::Result<OwnedFd> {
    let value_size = size.checked_mul(4).ok_or(io::ErrorKind::InvalidInput)?;
    let shape = sys::MapShape {
        kind: sys::map_type(MapKind::Array),
        key_size: 4,
        value_size,
        max_entries: 1,
        flags: sys::F_MMAPABLE,
    };
    sys::map_create("cilium_maglev", &shape)
}

/// Copies all tables of one map to another whose tables are as long. Returns how many.
pub(crate) fn copy(from: &OwnedFd, to: &OwnedFd, max_entries: u32, flags: u64) -> io::Result<usize> {
    let mut copied = 0;
    for (index, id) in ids(from, max_entries)? {
        let Ok(table) = sys::map_by_id(id) else { continue }; // Replaced or removed in between.
        let fd = std::os::fd::AsRawFd::as_raw_fd(&table).cast_unsigned();
        match sys::map_update(to.as_fd(), index.as_bytes(), &fd.to_ne_bytes(), flags) {
            Ok(()) => copied += 1,
            Err(e) if e.raw_os_error() == Some(libc::EEXIST) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(copied)
}

/// Puts tables into a map, with one system call where the kernel knows it for such maps (6.1 does not).
fn put_all(map: BorrowedFd<'_>, tables: &[(Port, OwnedFd)]) -> io::Result<()> {
    let keys: Vec<u8> = tables.iter().flat_map(|(index, _)| index.as_bytes().to_vec()).collect();
    let values: Vec<u8> =
        tables.iter().flat_map(|(_, table)| table.as_raw_fd().cast_unsigned().to_ne_bytes()).collect();
    let count = u32::try_from(tables.len()).expect("as many as there are services at most");
    match sys::map_update_batch(map, &keys, &values, count) {
        Err((_, e)) if batch::unsupported(&e) => keys
            .chunks_exact(size_of::<Port>())
            .zip(values.chunks_exact(size_of::<u32>()))
            .try_for_each(|(key, value)| sys::map_update(map, key, value, sys::ANY)),
        other => other.map_err(|(_, e)| e),
    }
}

/// Takes tables that are there out of a map, likewise.
fn delete_all(map: BorrowedFd<'_>, indexes: &[Port]) -> io::Result<()> {
    let keys: Vec<u8> = indexes.iter().flat_map(|index| index.as_bytes().to_vec()).collect();
    let count = u32::try_from(indexes.len()).expect("as many as there are services at most");
    match sys::map_delete_batch(map, &keys, count) {
        Err((_, e)) if batch::unsupported(&e) => {
            indexes.iter().try_for_each(|index| sys::map_delete(map, index.as_bytes()).map(drop))
        }
        other => other.map_err(|(_, e)| e),
    }
}

/// The kernel's number of a service's table.
fn id_of(map: BorrowedFd<'_>, index: Port) -> io::Result<Option<u32>> {
    let mut id = 0_u32;
    Ok(sys::map_lookup(map, index.as_bytes(), id.as_mut_bytes())?.then_some(id))
}

fn ids(map: &OwnedFd, max_entries: u32) -> io::Result<Vec<(Port, u32)>> {
    let dump = batch::read_all(map.as_fd(), Sizes { key: 2, value: 4, max_entries })?;
    let index = |key: &[u8]| Port::from_raw(u16::from_ne_bytes([key[0], key[1]]));
    let id = |value: &[u8]| u32::from_ne_bytes([value[0], value[1], value[2], value[3]]);
    Ok(dump.keys.chunks_exact(2).map(index).zip(dump.values.chunks_exact(4).map(id)).collect())
}
