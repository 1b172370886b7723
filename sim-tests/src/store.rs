//! A key-value store whose answers are late, out of order or lost, as `kv` allows and no worse.

use std::collections::BTreeMap;

use kv::{Entry, Event, Failure, Lifetime, Outcome, Request};
use machine::{OpId, Rng};

/// Who asks: a node, and which of its lives.
pub(crate) type Client = (usize, u32);

/// Something the store will say to a client at a time.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) to: Client,
    pub(crate) delay_ns: u64,
    pub(crate) event: Event,
}

/// How badly the store behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Weather {
    /// Longest delay of an answer.
    pub delay_ms_max: u64,
    /// Of 1000 requests, so many have an outcome nobody learns.
    pub unknown_per_mille: u64,
}

impl Weather {
    /// Answers within a millisecond, and always.
    pub const FAIR: Self = Self { delay_ms_max: 1, unknown_per_mille: 0 };
}

#[derive(Debug)]
struct Watch {
    client: Client,
    op: OpId,
    prefix: String,
}

/// The store. Its operations are atomic; only their answers suffer.
#[derive(Debug)]
pub(crate) struct Store {
    data: BTreeMap<String, (Vec<u8>, Option<usize>)>,
    watches: Vec<Watch>,
    /// Watched changes reach a client in order: none before the one before it.
    ordered_until: BTreeMap<Client, u64>,
    rng: Rng,
    pub(crate) weather: Weather,
    /// Planted bug: creating a key that exists replaces it.
    pub(crate) create_overwrites: bool,
}

impl Store {
    pub(crate) fn new(rng: Rng) -> Self {
        Self {
            data: BTreeMap::new(),
            watches: Vec::new(),
            ordered_until: BTreeMap::new(),
            rng,
            weather: Weather::FAIR,
            create_overwrites: false,
        }
    }

    /// All keys with this prefix.
    pub(crate) fn list<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = (&'a String, &'a [u8])> {
        let from = self.data.range(prefix.to_owned()..);
        from.take_while(move |(key, _)| key.starts_with(prefix)).map(|(key, (value, _))| (key, value.as_slice()))
    }

    /// A client is gone; what it is told from now on nobody hears.
    pub(crate) fn forget(&mut self, client: Client) {
        self.watches.retain(|watch| watch.client != client);
        self.ordered_until.remove(&client);
    }

    /// Ends a node's lease: its leased keys go.
    pub(crate) fn end_lease(&mut self, node: usize, life: u32, now_ns: u64) -> Vec<Said> {
        let held: Vec<String> =
            self.data.iter().filter(|(_, (_, lease))| *lease == Some(node)).map(|(key, _)| key.clone()).collect();
        let mut said = Vec::new();
        for key in held {
            self.data.remove(&key);
            self.tell_watchers(&key, None, now_ns, &mut said);
        }
        said.push(Said { to: (node, life), delay_ns: self.delay(), event: Event::LeaseLost });
        said
    }

    /// Carries a request out.
    pub(crate) fn ask(&mut self, from: Client, op: OpId, request: Request, now_ns: u64) -> Vec<Said> {
        let mut said = Vec::new();
        if self.rng.chance(self.weather.unknown_per_mille, 1000) && !matches!(request, Request::Watch(_)) {
            if self.rng.chance(1, 2) {
                self.apply(from, op, request, now_ns, &mut said);
            }
            let failure = if self.rng.chance(1, 2) { Failure::TimedOut } else { Failure::Unavailable };
            said.push(Said { to: from, delay_ns: self.delay() * 4, event: Event::Done(op, Err(failure)) });
            return said;
        }
        let watch = matches!(request, Request::Watch(_));
        let outcome = self.apply(from, op, request, now_ns, &mut said);
        let delay_ns = if watch { 0 } else { self.delay() };
        said.insert(0, Said { to: from, delay_ns, event: Event::Done(op, Ok(outcome)) });
        said
    }

    fn apply(&mut self, from: Client, op: OpId, request: Request, now_ns: u64, said: &mut Vec<Said>) -> Outcome {
        match request {
            Request::Get(key) => Outcome::Value(self.data.get(&key).map(|(value, _)| value.clone())),
            Request::List(prefix) => {
                Outcome::Listed(self.list(&prefix).map(|(key, value)| (key.clone(), value.to_vec())).collect())
            }
            Request::Create(entry) => self.create(from, entry, now_ns, said),
            Request::CreateIfExists { condition, entry } => {
                if self.data.contains_key(&condition) {
                    self.create(from, entry, now_ns, said)
                } else {
                    Outcome::ConditionAbsent
                }
            }
            Request::Put(entry) => {
                self.set(from, entry, now_ns, said);
                Outcome::Written
            }
            Request::Delete(key) => {
                if self.data.remove(&key).is_some() {
                    self.tell_watchers(&key, None, now_ns, said);
                }
                Outcome::Deleted
            }
            Request::Watch(prefix) => {
                let there: Vec<_> = self.list(&prefix).map(|(key, value)| (key.clone(), value.to_vec())).collect();
                for (key, value) in there {
                    let event = Event::Changed { watch: op, key, value: Some(value) };
                    said.push(self.in_order(from, now_ns, event));
                }
                said.push(self.in_order(from, now_ns, Event::Synced(op)));
                self.watches.push(Watch { client: from, op, prefix });
                Outcome::Watching
            }
        }
    }

    fn create(&mut self, from: Client, entry: Entry, now_ns: u64, said: &mut Vec<Said>) -> Outcome {
        match self.data.get(&entry.key) {
            Some((value, _)) if !self.create_overwrites => Outcome::Exists(value.clone()),
            _ => {
                self.set(from, entry, now_ns, said);
                Outcome::Written
            }
        }
    }

    fn set(&mut self, from: Client, entry: Entry, now_ns: u64, said: &mut Vec<Said>) {
        let lease = (entry.lifetime == Lifetime::Leased).then_some(from.0);
        self.data.insert(entry.key.clone(), (entry.value.clone(), lease));
        self.tell_watchers(&entry.key, Some(entry.value), now_ns, said);
    }

    fn tell_watchers(&mut self, key: &str, value: Option<Vec<u8>>, now_ns: u64, said: &mut Vec<Said>) {
        let watching: Vec<_> = self.watches.iter().filter(|watch| key.starts_with(&watch.prefix)).collect();
        let told: Vec<_> = watching.iter().map(|watch| (watch.client, watch.op)).collect();
        for (client, watch) in told {
            let event = Event::Changed { watch, key: key.to_owned(), value: value.clone() };
            said.push(self.in_order(client, now_ns, event));
        }
    }

    /// Delays an event of a watch, but never past the one before it.
    fn in_order(&mut self, to: Client, now_ns: u64, event: Event) -> Said {
        let at = now_ns + self.delay();
        let last = self.ordered_until.entry(to).or_default();
        *last = at.max(*last + 1);
        Said { to, delay_ns: *last - now_ns, event }
    }

    fn delay(&mut self) -> u64 {
        50_000 + self.rng.below(self.weather.delay_ms_max.max(1) * 1_000_000)
    }
}
