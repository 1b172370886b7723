//! Requests onto tables of an embedded database, one transaction for a batch.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use kv::{Entry, Event, Failure, Lifetime, Outcome, Request};
use machine::OpId;
use redb::{Builder, Database, DatabaseError, ReadableTable, StorageError, Table, TableDefinition};

/// A key at most, in bytes.
pub const KEY_BYTES_MAX: usize = 16 << 10;
/// A value at most, in bytes.
pub const VALUE_BYTES_MAX: usize = 1 << 20;
/// Memory the database may use for pages.
const CACHE_BYTES: usize = 2 << 20;
/// Layout of the tables below.
const FORMAT: u64 = 1;

/// Key → (lease's holder or "", value).
const KEYS: TableDefinition<&str, (&str, &[u8])> = TableDefinition::new("keys");
/// Lease's holder → when it was last alive, milliseconds of the wall clock.
const LEASES: TableDefinition<&str, u64> = TableDefinition::new("leases");
/// Facts about the file.
const META: TableDefinition<&str, u64> = TableDefinition::new("meta");

/// Why the store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it open.
    #[error("the key-value store {} is open in another process: another agent is running; stop it first", path.display())]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// The file is damaged or is no store.
    #[error(
        "the key-value store {} is damaged ({why}); move the file away and start again: identity numbers are then allocated anew, endpoints are restored from their state files", path.display()
    )]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// A newer version wrote it.
    #[error("the key-value store {} has format {found}, this version reads {FORMAT}; use the version that wrote it, or move the file away", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What it has.
        found: u64,
    },
    /// The system refused.
    #[error("cannot open the key-value store {}: {source}; check that the directory exists and is writable", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

/// The open database with its watches.
pub(crate) struct Engine {
    path: PathBuf,
    /// `None` after a failed commit, until it could be opened again.
    database: Option<Database>,
    holder: String,
    ttl: Duration,
    watches: Vec<(OpId, String)>,
}

type Step<T> = Result<T, redb::Error>;

impl Engine {
    /// Opens or makes the file, and ends leases that ran out while nobody looked.
    pub(crate) fn open(path: &Path, holder: &str, ttl: Duration, unix_ms: u64) -> Result<Self, OpenError> {
        let database = open_database(path)?;
        let mut engine =
            Self { path: path.into(), database: Some(database), holder: holder.into(), ttl, watches: Vec::new() };
        engine.keep_alive(unix_ms).map_err(|why| OpenError::Corrupt { path: path.into(), why: why.to_string() })?;
        Ok(engine)
    }

    /// Notes that the holder lives, and deletes the keys of leases that ended. Says whether our own had ended.
    pub(crate) fn keep_alive(&mut self, unix_ms: u64) -> Step<(bool, Vec<Event>)> {
        let ttl = u64::try_from(self.ttl.as_millis()).unwrap_or(u64::MAX);
        self.reopen();
        let Some(database) = &self.database else { return Ok((false, Vec::new())) };
        let transaction = database.begin_write()?;
        let mut gone = Vec::new();
        let ended: Vec<String>;
        {
            let mut leases = transaction.open_table(LEASES)?;
            let mut found = Vec::new();
            for lease in leases.iter()? {
                let (holder, alive) = lease?;
                // A wall clock that stepped back must not end a lease.
                if alive.value().saturating_add(ttl) < unix_ms {
                    found.push(holder.value().to_owned());
                }
            }
            ended = found;
            let mut keys = transaction.open_table(KEYS)?;
            for holder in &ended {
                leases.remove(holder.as_str())?;
                for key in keys_of(&keys, holder)? {
                    keys.remove(key.as_str())?;
                    gone.push((key, None));
                }
            }
            leases.insert(self.holder.as_str(), unix_ms)?;
        }
        transaction.commit()?;
        let lost = ended.contains(&self.holder);
        Ok((lost, self.told(&gone)))
    }

    /// Serves requests in order, in one transaction; on disk before the first event is told.
    pub(crate) fn serve(&mut self, batch: Vec<(OpId, Request)>) -> Vec<Event> {
        let ops: Vec<OpId> = batch.iter().map(|(op, _)| *op).collect();
        let mut answers = Vec::with_capacity(batch.len());
        self.reopen();
        let served = match &self.database {
            None => Err(Failure::Unavailable),
            Some(database) => transact(database, &self.holder, batch, &mut answers).map_err(|why| failure(&why)),
        };
        match served {
            Ok(()) => answers.into_iter().flat_map(|answer| self.tell(answer)).collect(),
            Err(failure) => {
                // After a failed commit the library takes nothing more until the file is opened again.
                self.database = None;
                ops.into_iter().map(|op| Event::Done(op, Err(failure))).collect()
            }
        }
    }

    fn reopen(&mut self) {
        if self.database.is_none() {
            self.database = open_database(&self.path).ok();
        }
    }

    fn tell(&mut self, answer: Answer) -> Vec<Event> {
        match answer {
            Answer::Done(op, outcome, change) => {
                let mut events = vec![Event::Done(op, outcome)];
                events.extend(self.told(change.as_slice()));
                events
            }
            Answer::Watch(op, prefix, present) => {
                self.watches.push((op, prefix));
                let mut events = vec![Event::Done(op, Ok(Outcome::Watching))];
                events.extend(present.into_iter().map(|(key, value)| Event::Changed {
                    watch: op,
                    key,
                    value: Some(value),
                }));
                events.push(Event::Synced(op));
                events
            }
        }
    }

    fn told(&self, changes: &[(String, Option<Vec<u8>>)]) -> Vec<Event> {
        let mut events = Vec::new();
        for (key, value) in changes {
            for (watch, prefix) in &self.watches {
                if key.starts_with(prefix.as_str()) {
                    events.push(Event::Changed { watch: *watch, key: key.clone(), value: value.clone() });
                }
            }
        }
        events
    }
}

/// What one request came to, once the transaction is on disk.
enum Answer {
    Done(OpId, Result<Outcome, Failure>, Option<(String, Option<Vec<u8>>)>),
    Watch(OpId, String, Vec<(String, Vec<u8>)>),
}

fn transact(database: &Database, holder: &str, batch: Vec<(OpId, Request)>, answers: &mut Vec<Answer>) -> Step<()> {
    let transaction = database.begin_write()?;
    let mut wrote = false;
    {
        let mut keys = transaction.open_table(KEYS)?;
        for (op, request) in batch {
            let answer = one(&mut keys, holder, op, request)?;
            wrote |= matches!(answer, Answer::Done(_, _, Some(_)));
            answers.push(answer);
        }
    }
    if wrote {
        transaction.commit()?
    } else {
        transaction.abort()?
    }
    Ok(())
}

type Keys<'t> = Table<'t, &'static str, (&'static str, &'static [u8])>;

fn one(keys: &mut Keys<'_>, holder: &str, op: OpId, request: Request) -> Step<Answer> {
    let done = |outcome| Answer::Done(op, Ok(outcome), None);
    Ok(match request {
        Request::Get(key) => done(Outcome::Value(value_of(keys, &key)?)),
        Request::List(prefix) => done(Outcome::Listed(list(keys, &prefix)?)),
        Request::Watch(prefix) => {
            let present = list(keys, &prefix)?;
            Answer::Watch(op, prefix, present)
        }
        Request::Create(entry) => match value_of(keys, &entry.key)? {
            Some(value) => done(Outcome::Exists(value)),
            None => write(keys, holder, op, entry)?,
        },
        Request::CreateIfExists { condition, entry } => {
            if value_of(keys, &condition)?.is_none() {
                done(Outcome::ConditionAbsent)
            } else if let Some(value) = value_of(keys, &entry.key)? {
                done(Outcome::Exists(value))
            } else {
                write(keys, holder, op, entry)?
            }
        }
        Request::Put(entry) => write(keys, holder, op, entry)?,
        Request::Delete(key) => {
            let there = keys.remove(key.as_str())?.is_some();
            Answer::Done(op, Ok(Outcome::Deleted), there.then_some((key, None)))
        }
    })
}

fn write(keys: &mut Keys<'_>, holder: &str, op: OpId, entry: Entry) -> Step<Answer> {
    if entry.key.is_empty() || entry.key.len() > KEY_BYTES_MAX || entry.value.len() > VALUE_BYTES_MAX {
        return Ok(Answer::Done(op, Err(Failure::Refused), None));
    }
    let lease = match entry.lifetime {
        Lifetime::Kept => "",
        Lifetime::Leased => holder,
    };
    keys.insert(entry.key.as_str(), (lease, entry.value.as_slice()))?;
    Ok(Answer::Done(op, Ok(Outcome::Written), Some((entry.key, Some(entry.value)))))
}

fn value_of(keys: &Keys<'_>, key: &str) -> Step<Option<Vec<u8>>> {
    Ok(keys.get(key)?.map(|found| found.value().1.to_vec()))
}

fn list(keys: &Keys<'_>, prefix: &str) -> Step<Vec<(String, Vec<u8>)>> {
    let mut found = Vec::new();
    for entry in keys.range(prefix..)? {
        let (key, value) = entry?;
        if !key.value().starts_with(prefix) {
            break;
        }
        found.push((key.value().to_owned(), value.value().1.to_vec()));
    }
    Ok(found)
}

fn keys_of(keys: &Keys<'_>, holder: &str) -> Step<Vec<String>> {
    let mut found = Vec::new();
    for entry in keys.iter()? {
        let (key, value) = entry?;
        if value.value().0 == holder {
            found.push(key.value().to_owned());
        }
    }
    Ok(found)
}

fn failure(why: &redb::Error) -> Failure {
    match why {
        redb::Error::Io(_) | redb::Error::ValueTooLarge(_) => Failure::Refused,
        _ => Failure::Unavailable,
    }
}

fn open_database(path: &Path) -> Result<Database, OpenError> {
    let corrupt = |why: String| OpenError::Corrupt { path: path.into(), why };
    // Damage the library did not foresee shows as a panic; it must name the file like any other damage.
    let opened = std::panic::catch_unwind(|| {
        let mut builder = Builder::new();
        builder.set_cache_size(CACHE_BYTES).set_check_integrity_on_open(true);
        builder.create(path).map(|database| {
            let format = check_format(&database);
            (database, format)
        })
    });
    match opened {
        Err(_) => Err(corrupt("its pages contradict each other".into())),
        Ok(Err(DatabaseError::DatabaseAlreadyOpen | DatabaseError::LockProtocolMismatch)) => {
            Err(OpenError::InUse { path: path.into() })
        }
        Ok(Err(DatabaseError::Storage(StorageError::Io(source)))) if source.kind() != io::ErrorKind::InvalidData => {
            Err(OpenError::Io { path: path.into(), source })
        }
        Ok(Err(why)) => Err(corrupt(why.to_string())),
        Ok(Ok((_, Err(why)))) => Err(corrupt(why.to_string())),
        Ok(Ok((_, Ok(found)))) if found != FORMAT => Err(OpenError::Format { path: path.into(), found }),
        Ok(Ok((database, Ok(_)))) => Ok(database),
    }
}

fn check_format(database: &Database) -> Step<u64> {
    let transaction = database.begin_write()?;
    let found = {
        let mut meta = transaction.open_table(META)?;
        let found = meta.get("format")?.map(|format| format.value());
        match found {
            Some(found) => found,
            None => {
                meta.insert("format", FORMAT)?;
                FORMAT
            }
        }
    };
    transaction.commit()?;
    Ok(found)
}
