//! Reading a whole map with few system calls, as bytes.

use std::{io, os::fd::BorrowedFd};

use crate::sys;

/// Entries read or written with one system call.
pub const BATCH: u32 = 1024;

/// All keys and all values of a map, end to end in the same order.
#[derive(Debug, Default)]
pub struct Dump {
    pub keys: Vec<u8>,
    pub values: Vec<u8>,
}

/// Sizes of what a map holds, in bytes. `value` is that of all CPUs together in a per-CPU map.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    pub key: usize,
    pub value: usize,
    pub max_entries: u32,
}

/// Everything in a map. What is written meanwhile may or may not be in it.
pub fn read_all(map: BorrowedFd<'_>, sizes: Sizes) -> io::Result<Dump> {
    let mut out = Dump::default();
    visit(map, sizes, |keys, values| {
        out.keys.extend_from_slice(keys);
        out.values.extend_from_slice(values);
    })?;
    Ok(out)
}

/// Hands everything in a map over, keys and values of a batch at a time. Entries may be deleted meanwhile: a batch goes on
/// at the next bucket, not behind a key.
pub fn visit(map: BorrowedFd<'_>, sizes: Sizes, mut each: impl FnMut(&[u8], &[u8])) -> io::Result<()> {
    match in_batches(map, sizes, &mut each) {
        Err(e) if unsupported(&e) => {
            let dump = one_by_one(map, sizes)?;
            each(&dump.keys, &dump.values);
            Ok(())
        }
        other => other,
    }
}

fn in_batches(map: BorrowedFd<'_>, sizes: Sizes, each: &mut impl FnMut(&[u8], &[u8])) -> io::Result<()> {
    let mut position = vec![0; sizes.key.max(4)];
    let (mut first, mut count) = (true, BATCH);
    let (mut keys, mut values) = (Vec::new(), Vec::new());
    loop {
        keys.resize(sizes.key * count as usize, 0);
        values.resize(sizes.value * count as usize, 0);
        match sys::map_lookup_batch(map, &mut position, first, &mut keys, &mut values, count) {
            Ok(read) => {
                let n = read.count.min(count) as usize;
                let (keys, values) = (keys.get(..n * sizes.key), values.get(..n * sizes.value));
                each(keys.unwrap_or_default(), values.unwrap_or_default());
                first = false;
                if read.last {
                    return Ok(());
                }
            }
            // A hash bucket holds more than there is room for.
            Err(e) if e.raw_os_error() == Some(libc::ENOSPC) && count < 1 << 20 => count *= 4,
            Err(e) => return Err(e),
        }
    }
}

/// For maps without batches. Bounded: a hash map that changes under the walk can lead it in a circle.
fn one_by_one(map: BorrowedFd<'_>, sizes: Sizes) -> io::Result<Dump> {
    let mut out = Dump::default();
    let (mut key, mut next, mut value) = (None::<Vec<u8>>, vec![0; sizes.key], vec![0; sizes.value]);
    for _ in 0..=sizes.max_entries {
        if !sys::map_next_key(map, key.as_deref(), &mut next)? {
            break;
        }
        if sys::map_lookup(map, &next, &mut value)? {
            out.keys.extend_from_slice(&next);
            out.values.extend_from_slice(&value);
        }
        key = Some(next.clone());
    }
    Ok(out)
}

/// The kernel does not know this command for this kind of map.
pub fn unsupported(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EOPNOTSUPP | sys::ENOTSUPP))
}
