//! Removes connections that ended. The maps evict by themselves when they are full; this keeps dead entries from
//! pushing out live ones, and lists short.

use abi::{Plain, ct::Connection};
use loader::{MapError, Maps, Table};

/// What a collection did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Collected {
    /// Entries that stay.
    pub alive: usize,
    /// Entries removed.
    pub removed: usize,
}

impl Collected {
    fn and(self, other: Self) -> Self {
        Self { alive: self.alive + other.alive, removed: self.removed + other.removed }
    }
}

/// Removes every connection whose lifetime ended before `now_seconds` (monotonic clock, as the programs keep it).
pub fn collect(maps: &Maps, now_seconds: u32) -> Result<Collected, MapError> {
    Ok(table(&maps.ct4, now_seconds, |e| &e.connection)?
        .and(table(&maps.ct_any4, now_seconds, |e| &e.connection)?)
        .and(table(&maps.ct6, now_seconds, |e| &e.connection)?)
        .and(table(&maps.ct_any6, now_seconds, |e| &e.connection)?))
}

fn table<K: Plain, V: Plain>(
    table: &Table<K, V>,
    now: u32,
    connection: impl Fn(&V) -> &Connection,
) -> Result<Collected, MapError> {
    let mut out = Collected::default();
    for (key, value) in table.entries()? {
        if connection(&value).lifetime >= now {
            out.alive += 1;
            continue;
        }
        // A packet may have revived it since it was read.
        let revived = table.get(&key)?.is_some_and(|value| connection(&value).lifetime >= now);
        if !revived {
            out.removed += usize::from(table.remove(&key)?);
        } else {
            out.alive += 1;
        }
    }
    Ok(out)
}
