//! Map writes as values, carried out.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use abi::{
    Plain,
    be::Port,
    lb::MaglevTable,
    write::{MapWrite, WriteError, WriteErrorKind},
};
use lb::maglev::{Recipe, TableId};
use loader::{MaglevTables, MapError, Maps, Table};

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
/// What is in the Maglev tables that writes name.
pub type Tables = BTreeMap<TableId, Arc<Recipe>>;

/// Memory for Maglev tables that are computed at once.
const TABLE_BYTES_MAX: usize = 32 << 20;

/// Carries out writes in order. Runs of upserts to one map are written with few system calls; the Maglev tables of a run are
/// computed at once, on all CPUs.
/// At the first that fails it stops: those before it are in force, those after it were not tried.
pub fn apply(maps: &Maps, writes: &[MapWrite], tables: &Tables) -> Result<(), WriteError> {
    let mut done = 0;
    while let Some(first) = writes.get(done) {
        done += run(maps, first, &writes[done..], tables)
            .map_err(|(before, error)| WriteError { index: done + before, kind: kind(&error) })?;
    }
    Ok(())
}

/// Everything in the maps the agent writes, the runtime configuration included, map by map. Of Maglev tables it says only
/// that they are there.
pub fn dump(maps: &Maps) -> Result<Vec<MapWrite>, MapError> {
    let mut out = Vec::new();
    macro_rules! all {
        ($($variant:ident in $table:ident;)*) => { $(
            out.extend(maps.$table.entries()?.into_iter().map(|(key, value)| MapWrite::$variant(key, Some(value))));
        )* };
    }
    tables!(all);
    let unknown = Some(MaglevTable::default());
    out.extend(maps.lb4_maglev.indexes()?.into_iter().map(|index| MapWrite::Maglev4(index, unknown)));
    out.extend(maps.lb6_maglev.indexes()?.into_iter().map(|index| MapWrite::Maglev6(index, unknown)));
    Ok(out)
}

/// Carries out the writes at the front of `writes` that are of the same kind as `first`; returns how many.
fn run(maps: &Maps, first: &MapWrite, writes: &[MapWrite], tables: &Tables) -> Result<usize, (usize, MapError)> {
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
                MapWrite::Maglev4(_, None) => remove_tables(
                    &maps.lb4_maglev,
                    writes.iter().map_while(|write| match write {
                        MapWrite::Maglev4(index, None) => Some(*index),
                        _ => None,
                    }),
                ),
                MapWrite::Maglev6(_, None) => remove_tables(
                    &maps.lb6_maglev,
                    writes.iter().map_while(|write| match write {
                        MapWrite::Maglev6(index, None) => Some(*index),
                        _ => None,
                    }),
                ),
                MapWrite::Maglev4(_, Some(_)) => put_tables(&maps.lb4_maglev, tables, writes.iter().map_while(|write| match write {
                    MapWrite::Maglev4(index, Some(table)) => Some((*index, *table)),
                    _ => None,
                })),
                MapWrite::Maglev6(_, Some(_)) => put_tables(&maps.lb6_maglev, tables, writes.iter().map_while(|write| match write {
                    MapWrite::Maglev6(index, Some(table)) => Some((*index, *table)),
                    _ => None,
                })),
            }
        };
    }
    tables!(dispatch)
}

fn remove_tables(map: &MaglevTables, indexes: impl Iterator<Item = Port>) -> Result<usize, (usize, MapError)> {
    let indexes: Vec<Port> = indexes.collect();
    map.remove_all(&indexes).map(|()| indexes.len()).map_err(|e| (0, e))
}

/// Computes tables and makes the services' tables these.
fn put_tables(
    map: &MaglevTables,
    tables: &Tables,
    writes: impl Iterator<Item = (Port, MaglevTable)>,
) -> Result<usize, (usize, MapError)> {
    let at_once = (TABLE_BYTES_MAX / (4 * map.size().max(1) as usize)).max(1);
    let writes: Vec<(Port, u64)> = writes.take(at_once).map(|(index, table)| (index, table.id)).collect();
    let named: BTreeSet<TableId> = writes.iter().filter_map(|(_, id)| TableId::new(*id)).collect();
    let computed =
        compute(&named.into_iter().filter_map(|id| Some((id, tables.get(&id)?.as_ref()))).collect::<Vec<_>>());
    // The core says what is in a table before it names it; a table of which it did not is refused as too short.
    let wanted: Vec<(Port, &[u32])> =
        writes.iter().map(|(index, id)| (*index, computed.get(id).map_or(&[][..], Vec::as_slice))).collect();
    // What of them was written before a failure is written again the next time.
    map.insert_all(&wanted).map_err(|e| (0, e))?;
    Ok(writes.len())
}

/// Computes tables on all CPUs.
fn compute(recipes: &[(TableId, &Recipe)]) -> BTreeMap<u64, Vec<u32>> {
    let one = |(id, recipe): &(TableId, &Recipe)| (id.as_u64(), recipe.table());
    let cpus = std::thread::available_parallelism().map_or(1, usize::from).min(recipes.len().max(1));
    if cpus < 2 {
        return recipes.iter().map(one).collect();
    }
    let share = recipes.len().div_ceil(cpus);
    std::thread::scope(|scope| {
        let part = |part: &[(TableId, &Recipe)]| part.iter().map(one).collect::<Vec<_>>();
        let workers: Vec<_> = recipes.chunks(share).map(|chunk| scope.spawn(move || part(chunk))).collect();
        workers.into_iter().flat_map(|worker| worker.join().expect("computing a table cannot fail")).collect()
    })
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
