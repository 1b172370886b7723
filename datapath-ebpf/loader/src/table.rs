//! One kernel map as a typed table: plain keys and values of `abi`, read and written through a shared reference.
//!
//! The kernel serialises access to a map, so every method takes `&self`. A handle is only made after the map's
//! type and sizes were checked against its [`MapSpec`], which is what makes the byte copies below sound.

use std::{
    io,
    marker::PhantomData,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use abi::{
    Plain,
    maps::MapSpec,
    metrics::{MetricsKey, MetricsValue},
};
use zerocopy::IntoBytes as _;

use crate::{
    batch::{self, BATCH, Sizes, unsupported},
    error::{MapError, Operation},
    sys,
};

/// A map with one value for each key: hash, LRU hash, LPM trie or array.
#[derive(Debug)]
pub struct Table<K, V> {
    fd: OwnedFd,
    spec: &'static MapSpec,
    max_entries: u32,
    types: PhantomData<fn() -> (K, V)>,
}

impl<K: Plain, V: Plain> Table<K, V> {
    /// Takes a map whose shape was checked against `spec`.
    pub(crate) fn new(fd: OwnedFd, spec: &'static MapSpec) -> Result<Self, MapError> {
        assert!(
            size_of::<K>() == spec.key_size && size_of::<V>() == spec.value_size,
            "the types of {} are not those of its spec",
            spec.name
        );
        let info = sys::map_info(fd.as_fd()).map_err(|e| MapError::system(spec, Operation::Inspect, e))?;
        Ok(Self { fd, spec, max_entries: info.max_entries, types: PhantomData })
    }

    /// What the map is by design.
    pub fn spec(&self) -> &'static MapSpec {
        self.spec
    }

    /// Entries at most, as the kernel has it.
    pub fn max_entries(&self) -> u32 {
        self.max_entries
    }

    /// The value of `key`. In an LPM trie: that of the longest prefix that covers it.
    pub fn get(&self, key: &K) -> Result<Option<V>, MapError> {
        let mut value = V::new_zeroed();
        let found = sys::map_lookup(self.fd.as_fd(), key.as_bytes(), value.as_mut_bytes())
            .map_err(|e| self.error(Operation::Read, e))?;
        Ok(found.then_some(value))
    }

    /// Writes an entry, in place of an older one.
    pub fn insert(&self, key: &K, value: &V) -> Result<(), MapError> {
        sys::map_update(self.fd.as_fd(), key.as_bytes(), value.as_bytes(), sys::ANY)
            .map_err(|e| self.error(Operation::Write, e))
    }

    /// Writes an entry unless there is one; says whether it did.
    pub fn insert_new(&self, key: &K, value: &V) -> Result<bool, MapError> {
        match sys::map_update(self.fd.as_fd(), key.as_bytes(), value.as_bytes(), sys::NOEXIST) {
            Ok(()) => Ok(true),
            Err(e) if e.raw_os_error() == Some(libc::EEXIST) => Ok(false),
            Err(e) => Err(self.error(Operation::Write, e)),
        }
    }

    /// Removes an entry; says whether it was there.
    pub fn remove(&self, key: &K) -> Result<bool, MapError> {
        sys::map_delete(self.fd.as_fd(), key.as_bytes()).map_err(|e| self.error(Operation::Delete, e))
    }

    /// Writes many entries with few system calls, in order, stopping at the first that fails.
    /// Returns how many were written.
    pub fn insert_all(&self, entries: &[(K, V)]) -> Result<usize, (usize, MapError)> {
        let mut written = 0;
        for chunk in entries.chunks(BATCH as usize) {
            let mut keys = Vec::with_capacity(size_of_val(chunk));
            let mut values = Vec::with_capacity(size_of_val(chunk));
            for (key, value) in chunk {
                keys.extend_from_slice(key.as_bytes());
                values.extend_from_slice(value.as_bytes());
            }
            let count = u32::try_from(chunk.len()).expect("a chunk is at most BATCH long");
            match sys::map_update_batch(self.fd.as_fd(), &keys, &values, count) {
                Ok(()) => written += chunk.len(),
                Err((_, e)) if unsupported(&e) => {
                    for (key, value) in chunk {
                        self.insert(key, value).map_err(|e| (written, e))?;
                        written += 1;
                    }
                }
                Err((done, e)) => return Err((written + done as usize, self.error(Operation::Write, e))),
            }
        }
        Ok(written)
    }

    /// All entries. What is written meanwhile may or may not be among them.
    pub fn entries(&self) -> Result<Vec<(K, V)>, MapError> {
        let sizes = Sizes { key: size_of::<K>(), value: size_of::<V>(), max_entries: self.max_entries };
        let dump = batch::read_all(self.fd.as_fd(), sizes).map_err(|e| self.error(Operation::Read, e))?;
        let keys = dump.keys.chunks_exact(size_of::<K>()).map(copied::<K>);
        let values = dump.values.chunks_exact(size_of::<V>()).map(copied::<V>);
        Ok(keys.zip(values).collect())
    }

    /// Hands every entry over, with memory for a batch of them whatever the size of the map. Entries may be removed
    /// meanwhile; what is written meanwhile may or may not be seen.
    pub fn visit(&self, mut each: impl FnMut(K, V)) -> Result<(), MapError> {
        let sizes = Sizes { key: size_of::<K>(), value: size_of::<V>(), max_entries: self.max_entries };
        batch::visit(self.fd.as_fd(), sizes, |keys, values| {
            let values = values.chunks_exact(size_of::<V>()).map(copied::<V>);
            keys.chunks_exact(size_of::<K>()).map(copied::<K>).zip(values).for_each(|(key, value)| each(key, value));
        })
        .map_err(|e| self.error(Operation::Read, e))
    }

    /// Removes every entry; returns how many.
    pub fn clear(&self) -> Result<usize, MapError> {
        let mut removed = 0;
        for (key, _) in self.entries()? {
            removed += usize::from(self.remove(&key)?);
        }
        Ok(removed)
    }

    fn error(&self, operation: Operation, source: io::Error) -> MapError {
        match source.raw_os_error() {
            Some(libc::E2BIG | libc::ENOSPC) if operation == Operation::Write => {
                MapError::Full { map: self.spec.name, max_entries: self.max_entries }
            }
            _ => MapError::system(self.spec, operation, source),
        }
    }
}

impl<K, V> AsFd for Table<K, V> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// `cilium_metrics`: an array with one value for each index and CPU. Programs write it; user space reads it.
#[derive(Debug)]
pub struct Counters {
    fd: OwnedFd,
    spec: &'static MapSpec,
    cpus: usize,
}

impl Counters {
    pub(crate) fn new(fd: OwnedFd, spec: &'static MapSpec) -> Result<Self, MapError> {
        // The kernel rounds each CPU's value up to eight bytes: with such a size the values lie side by side.
        const { assert!(size_of::<MetricsValue>().is_multiple_of(8)) };
        let cpus = aya::util::nr_cpus().map_err(|(_, e)| MapError::system(spec, Operation::Inspect, e))?;
        Ok(Self { fd, spec, cpus })
    }

    /// One value for each possible CPU; `None`: nothing was counted.
    pub fn get(&self, key: &MetricsKey) -> Result<Option<Vec<MetricsValue>>, MapError> {
        let mut values = vec![MetricsValue::default(); self.cpus];
        sys::map_lookup(self.fd.as_fd(), key.index().as_bytes(), values.as_mut_slice().as_mut_bytes())
            .map_err(|e| MapError::system(self.spec, Operation::Read, e))?;
        Ok(counted(&values).then_some(values))
    }

    /// Everything that was counted, with the values of all CPUs.
    pub fn entries(&self) -> Result<Vec<(MetricsKey, Vec<MetricsValue>)>, MapError> {
        let value = size_of::<MetricsValue>() * self.cpus;
        let sizes = Sizes { key: size_of::<u32>(), value, max_entries: self.spec.max_entries };
        let dump =
            batch::read_all(self.fd.as_fd(), sizes).map_err(|e| MapError::system(self.spec, Operation::Read, e))?;
        let keys = dump.keys.chunks_exact(sizes.key).map(|key| MetricsKey::at(copied::<u32>(key)));
        let values = dump.values.chunks_exact(sizes.value);
        let values = values.map(|all| all.chunks_exact(size_of::<MetricsValue>()).map(copied).collect::<Vec<_>>());
        Ok(keys.zip(values).filter_map(|(key, all)| Some((key?, all))).filter(|(_, all)| counted(all)).collect())
    }

    /// Writes the values of all CPUs (missing ones count as zero).
    pub fn insert(&self, key: &MetricsKey, values: &[MetricsValue]) -> Result<(), MapError> {
        let mut all = vec![MetricsValue::default(); self.cpus];
        for (to, from) in all.iter_mut().zip(values) {
            *to = *from;
        }
        sys::map_update(self.fd.as_fd(), key.index().as_bytes(), all.as_slice().as_bytes(), sys::ANY)
            .map_err(|e| MapError::system(self.spec, Operation::Write, e))
    }

    /// All counters, summed over the CPUs.
    pub fn sums(&self) -> Result<Vec<(MetricsKey, MetricsValue)>, MapError> {
        let sum = |values: Vec<MetricsValue>| {
            values.into_iter().fold(MetricsValue::default(), |mut total, value| {
                total.count = total.count.wrapping_add(value.count);
                total.bytes = total.bytes.wrapping_add(value.bytes);
                total
            })
        };
        Ok(self.entries()?.into_iter().map(|(key, values)| (key, sum(values))).collect())
    }
}

fn counted(values: &[MetricsValue]) -> bool {
    values.iter().any(|value| *value != MetricsValue::default())
}

fn copied<T: Plain>(bytes: &[u8]) -> T {
    T::read_from_bytes(bytes).expect("the bytes were cut to the type's size")
}
