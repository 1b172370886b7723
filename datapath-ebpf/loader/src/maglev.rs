//! Maglev tables: a map whose values are maps, one for each service.
//!
//! A table is written whole and put in place at one instant: a program sees the old one or the new one. All tables have as
//! many entries as the maps were made for; another number means other maps ([`crate::Datapath::open`] sees to it).

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
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

/// One of the two maps of Maglev tables.
#[derive(Debug)]
pub struct MaglevTables {
    fd: OwnedFd,
    spec: &'static MapSpec,
    max_entries: u32,
    size: u32,
}

impl MaglevTables {
    pub(crate) fn new(fd: OwnedFd, spec: &'static MapSpec, size: u32) -> Result<Self, MapError> {
        let info = sys::map_info(fd.as_fd()).map_err(|e| MapError::system(spec, Operation::Inspect, e))?;
        Ok(Self { fd, spec, max_entries: info.max_entries, size })
    }

    /// Entries of a table.
    pub fn size(&self) -> u32 {
        self.size
    }

    /// Puts a service's table in place of the one it had. `backends` are backend ids, [`Self::size`] of them.
    pub fn insert(&self, index: Port, backends: &[u32]) -> Result<(), MapError> {
        let table = self.make(backends)?;
        put(self.fd.as_fd(), index.as_bytes(), &table).map_err(|e| self.write_error(e))
    }

    /// Puts many services' tables in place, with one system call. The kernel waits after each call until no program can have
    /// an old table in its hands; with many tables it waits once. Returns how many were written; on failure, how many
    /// before the one that failed.
    pub fn insert_all(&self, tables: &[(Port, &[u32])]) -> Result<usize, (usize, MapError)> {
        if let [(index, backends)] = tables {
            return self.insert(*index, backends).map(|()| 1).map_err(|e| (0, e));
        }
        let mut made = Vec::with_capacity(tables.len());
        for (_, backends) in tables {
            made.push(self.make(backends).map_err(|e| (0, e))?);
        }
        let keys: Vec<u8> = tables.iter().flat_map(|(index, _)| index.as_bytes().to_vec()).collect();
        let fds = made.iter().map(|table| std::os::fd::AsRawFd::as_raw_fd(table).cast_unsigned());
        let values: Vec<u8> = fds.flat_map(u32::to_ne_bytes).collect();
        let count = u32::try_from(tables.len()).expect("as many as there are services at most");
        match sys::map_update_batch(self.fd.as_fd(), &keys, &values, count) {
            Ok(()) => Ok(tables.len()),
            Err((_, e)) if batch::unsupported(&e) => {
                for (at, ((index, _), table)) in tables.iter().zip(&made).enumerate() {
                    put(self.fd.as_fd(), index.as_bytes(), table).map_err(|e| (at, self.write_error(e)))?;
                }
                Ok(tables.len())
            }
            Err((done, e)) => Err((done as usize, self.write_error(e))),
        }
    }

    fn make(&self, backends: &[u32]) -> Result<OwnedFd, MapError> {
        if backends.len() != self.size as usize {
            return Err(MapError::TableSize { map: self.spec.name, given: backends.len(), size: self.size });
        }
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
        let mut id = 0_u32;
        if !sys::map_lookup(self.fd.as_fd(), index.as_bytes(), id.as_mut_bytes()).map_err(read)? {
            return Ok(None);
        }
        let table = match sys::map_by_id(id) {
            // Replaced in between.
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => return self.get(index),
            other => other.map_err(read)?,
        };
        let mut backends = vec![0_u32; self.size as usize];
        sys::map_lookup(table.as_fd(), &0_u32.to_ne_bytes(), backends.as_mut_slice().as_mut_bytes()).map_err(read)?;
        Ok(Some(backends))
    }

    /// Removes a service's table; says whether there was one.
    pub fn remove(&self, index: Port) -> Result<bool, MapError> {
        sys::map_delete(self.fd.as_fd(), index.as_bytes())
            .map_err(|e| MapError::system(self.spec, Operation::Delete, e))
    }

    /// Removes many services' tables, those that are there, with as few waits as [`Self::insert_all`]. On failure, how many
    /// were done before the one that failed.
    pub fn remove_all(&self, indexes: &[Port]) -> Result<(), (usize, MapError)> {
        let failed = |e| MapError::system(self.spec, Operation::Delete, e);
        let mut done = 0;
        while let Some(rest) = indexes.get(done..).filter(|rest| !rest.is_empty()) {
            let keys: Vec<u8> = rest.iter().flat_map(|index| index.as_bytes().to_vec()).collect();
            let count = u32::try_from(rest.len()).expect("as many as there are services at most");
            match sys::map_delete_batch(self.fd.as_fd(), &keys, count) {
                Ok(()) => return Ok(()),
                // One is not there: go on behind it.
                Err((before, e)) if e.raw_os_error() == Some(libc::ENOENT) => done += before as usize + 1,
                Err((_, e)) if batch::unsupported(&e) => {
                    for index in rest {
                        self.remove(*index).map_err(|e| (done, e))?;
                        done += 1;
                    }
                }
                Err((before, e)) => return Err((done + before as usize, failed(e))),
            }
        }
        Ok(())
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
    let shape =
        sys::MapShape { kind: sys::map_type(MapKind::Array), key_size: 4, value_size, max_entries: 1, flags: 0 };
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

fn put(map: std::os::fd::BorrowedFd<'_>, index: &[u8], table: &OwnedFd) -> io::Result<()> {
    let fd = std::os::fd::AsRawFd::as_raw_fd(table).cast_unsigned();
    sys::map_update(map, index, &fd.to_ne_bytes(), sys::ANY)
}

fn ids(map: &OwnedFd, max_entries: u32) -> io::Result<Vec<(Port, u32)>> {
    let dump = batch::read_all(map.as_fd(), Sizes { key: 2, value: 4, max_entries })?;
    let index = |key: &[u8]| Port::from_raw(u16::from_ne_bytes([key[0], key[1]]));
    let id = |value: &[u8]| u32::from_ne_bytes([value[0], value[1], value[2], value[3]]);
    Ok(dump.keys.chunks_exact(2).map(index).zip(dump.values.chunks_exact(4).map(id)).collect())
}
