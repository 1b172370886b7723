//! Map writes as values, carried out.

use abi::{
    Plain,
    write::{MapWrite, WriteError, WriteErrorKind},
};
use loader::{MapError, Maps, Table};

/// Which table each kind of write goes to.
macro_rules! tables {
    ($each:ident) => {
        $each! {
            Lxc in lxc;
            Device in devices;
            Ipcache in ipcache;
            Policy in policy;
            Service4 in lb4_services;
            Service6 in lb6_services;
            Backend4 in lb4_backends;
            Backend6 in lb6_backends;
            RevNat4 in lb4_reverse_nat;
            RevNat6 in lb6_reverse_nat;
            AffinityMatch in lb_affinity_match;
            SourceRange4 in lb4_source_range;
            SourceRange6 in lb6_source_range;
            IpMasq4 in ipmasq4;
            IpMasq6 in ipmasq6;
            Runtime in runtime;
        }
    };
}
/// Carries out writes in order. Runs of upserts to one map are written with few system calls.
/// At the first that fails it stops: those before it are in force, those after it were not tried.
pub fn apply(maps: &Maps, writes: &[MapWrite]) -> Result<(), WriteError> {
    let mut done = 0;
    while let Some(first) = writes.get(done) {
        done += run(maps, first, &writes[done..])
            .map_err(|(before, error)| WriteError { index: done + before, kind: kind(&error) })?;
    }
    Ok(())
}

/// Everything in the maps the agent writes, the runtime configuration included, map by map.
pub fn dump(maps: &Maps) -> Result<Vec<MapWrite>, MapError> {
    let mut out = Vec::new();
    macro_rules! all {
        ($($variant:ident in $table:ident;)*) => { $(
            out.extend(maps.$table.entries()?.into_iter().map(|(key, value)| MapWrite::$variant(key, Some(value))));
        )* };
    }
    tables!(all);
    Ok(out)
}

/// Carries out the writes at the front of `writes` that are of the same kind as `first`; returns how many.
fn run(maps: &Maps, first: &MapWrite, writes: &[MapWrite]) -> Result<usize, (usize, MapError)> {
    // Slots of an array are not deleted; zero is what an unset value reads as.
    if let MapWrite::Runtime(key, None) = first {
        return maps.runtime.insert(key, &0).map(|()| 1).map_err(|e| (0, e));
    }
    macro_rules! dispatch {
        ($($variant:ident in $table:ident;)*) => {
            match first {
                $(MapWrite::$variant(key, None) => maps.$table.remove(key).map(|_| 1).map_err(|e| (0, e)),)*
                $(MapWrite::$variant(_, Some(_)) => upserts(&maps.$table, writes.iter().map_while(|write| match write {
                    MapWrite::$variant(key, Some(value)) => Some((*key, *value)),
                    _ => None,
                })),)*
            }
        };
    }
    tables!(dispatch)
}

fn upserts<K: Plain, V: Plain>(
    table: &Table<K, V>,
    entries: impl Iterator<Item = (K, V)>,
) -> Result<usize, (usize, MapError)> {
    let entries: Vec<_> = entries.collect();
    match entries.as_slice() {
        [(key, value)] => table.insert(key, value).map(|()| 1).map_err(|e| (0, e)),
        many => table.insert_all(many),
    }
}

fn kind(error: &MapError) -> WriteErrorKind {
    match error {
        MapError::Full { .. } => WriteErrorKind::Full,
        MapError::System { source, .. } => match source.raw_os_error() {
            Some(12) => WriteErrorKind::NoMemory, // ENOMEM
            number => WriteErrorKind::Errno(number.unwrap_or_default()),
        },
        _ => WriteErrorKind::Errno(0),
    }
}
