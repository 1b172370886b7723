//! The cluster-wide allocator: one small protocol for each set of labels in use here.
//!
//! ```text
//!  Idle ─▶ Lock ─▶ List ─┬────────────────▶ Claim ─▶ (Unlock) ─▶ Held
//!            ▲           └─▶ Create(number) ──▲ │                  │ last reference gone
//!            │                  │ taken         │ master is gone   ▼
//!            └──── wait ◀───────┴───────────────┘               Release ─▶ forgotten
//! ```
//! `Lock` keeps two nodes from choosing two numbers for the same labels; it is a courtesy, not what safety rests on:
//! that is `Create`, which makes a master key only where none is. When the labels' number is known from the watch, a
//! claim alone is enough. An outcome nobody knows leads back to the start after a wait; every step may be done twice.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::time::Duration;

use kv::{Entry, Event, Lifetime, Outcome, Request};
use machine::{Effects, Instant, Machine, OpId, OpIds, Rng};
use types::{Labels, NumericIdentity};

use crate::Keys;

mod watch;

use watch::Watch;

/// Ranges, bounds and waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// First number that may be given.
    pub min: NumericIdentity,
    /// Last number that may be given.
    pub max: NumericIdentity,
    /// The node's suffix in keys: its address.
    pub node: String,
    /// Conflicts after which the trouble is told (reference: 16); trying goes on.
    pub attempts: u32,
    /// First wait after a failure or conflict; doubled each time.
    pub retry_first: Duration,
    /// The longest wait.
    pub retry_max: Duration,
    /// A lock of another node is taken away after this time (reference: stale lock timeout, 30 s).
    pub stale_lock: Duration,
    /// Time between two checks that this node's keys are still there (reference: 5 min).
    pub refresh: Duration,
    /// Sets of labels in use on this node at most.
    pub held_max: usize,
}

impl Config {
    /// The reference's values for a node of cluster 0.
    pub fn new(node: &str) -> Self {
        Self {
            min: NumericIdentity::MIN_ALLOCATED,
            max: NumericIdentity::MAX_ALLOCATED,
            node: node.to_string(),
            attempts: 16,
            retry_first: Duration::from_millis(20),
            retry_max: Duration::from_secs(5),
            stale_lock: Duration::from_secs(30),
            refresh: Duration::from_mins(5),
            held_max: 65_536,
        }
    }
}

/// Facts and requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// Begin to watch.
    Start,
    /// One more user of these labels on this node. Answered with [`Effect::Acquired`] when the number is known.
    Acquire(Labels),
    /// One more user of these labels, who had this number in an earlier life. It is used at once and claimed again.
    Restore(Labels, NumericIdentity),
    /// One user less.
    Release(Labels),
    /// The store says something. Events of other operations than this machine's are ignored.
    Kv(Event),
}

/// What is wanted or found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// To the store.
    Kv(OpId, Request),
    /// These labels have this number here, from now on.
    Acquired(Labels, NumericIdentity),
    /// These labels cannot have that number any more: somebody else's took it. A new one is being acquired.
    Lost(Labels, NumericIdentity),
    /// A number of the cluster and its labels.
    Learned(NumericIdentity, Labels),
    /// A number is no longer in use in the cluster.
    Forgotten(NumericIdentity),
    /// All numbers of the cluster are known.
    Synced,
    /// Labels wait for a number longer than usual.
    Waiting(Labels, Trouble),
}

/// Why labels wait for a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Trouble {
    /// Every number that was tried was taken.
    #[error("{0} numbers in a row were taken by others")]
    Conflicts(u32),
    /// No number is free.
    #[error("all identity numbers from {min} to {max} are in use")]
    Exhausted {
        /// First.
        min: NumericIdentity,
        /// Last.
        max: NumericIdentity,
    },
    /// The store does not answer.
    #[error("{0}")]
    Store(kv::Failure),
    /// Too many sets of labels.
    #[error("{max} sets of labels are in use on this node, which is the limit")]
    TooMany {
        /// The bound.
        max: usize,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Something is to be done at the time in `due`.
    Idle,
    Lock,
    Break,
    List,
    Create(NumericIdentity),
    Verify(NumericIdentity),
    Claim(NumericIdentity),
    Overwrite(NumericIdentity),
    Unlock,
    Held,
    Release,
}

#[derive(Debug, Clone)]
struct Slot {
    users: usize,
    phase: Phase,
    op: Option<OpId>,
    due: Option<Instant>,
    /// What users were told.
    number: Option<NumericIdentity>,
    locked: bool,
    lock_seen: Option<Instant>,
    conflicts: u32,
    failures: u32,
}

/// The allocator. See the [module documentation](self).
#[derive(Debug, Clone)]
pub struct Allocator {
    config: Config,
    keys: Keys,
    rng: Rng,
    ops: OpIds,
    slots: BTreeMap<Labels, Slot>,
    ops_of: BTreeMap<OpId, Labels>,
    dues: BTreeSet<(Instant, Labels)>,
    known: BTreeMap<NumericIdentity, Labels>,
    numbers: BTreeMap<Labels, BTreeSet<NumericIdentity>>,
    watch: Watch,
}

impl Allocator {
    /// Nothing known. Operations are numbered by `ops`.
    pub fn new(config: Config, rng: Rng, ops: OpIds) -> Self {
        let keys = Keys::new(&config.node);
        Self {
            config,
            keys,
            rng,
            ops,
            slots: BTreeMap::new(),
            ops_of: BTreeMap::new(),
            dues: BTreeSet::new(),
            known: BTreeMap::new(),
            numbers: BTreeMap::new(),
            watch: Watch::default(),
        }
    }

    /// The labels of a number.
    pub fn labels(&self, number: NumericIdentity) -> Option<&Labels> {
        self.known.get(&number)
    }
    /// All numbers of the cluster that are known.
    pub fn iter(&self) -> impl Iterator<Item = (NumericIdentity, &Labels)> {
        self.known.iter().map(|(number, labels)| (*number, labels))
    }
    /// The number these labels have here.
    pub fn number(&self, labels: &Labels) -> Option<NumericIdentity> {
        self.slots.get(labels).and_then(|slot| slot.number)
    }
    /// Labels in use here with their users.
    pub fn held(&self) -> impl Iterator<Item = (&Labels, Option<NumericIdentity>, usize)> {
        self.slots.iter().filter(|(_, slot)| slot.users > 0).map(|(labels, slot)| (labels, slot.number, slot.users))
    }
    /// Whether all numbers of the cluster have been told at least once.
    pub const fn is_synced(&self) -> bool {
        self.watch.synced_once
    }

    fn acquire(&mut self, now: Instant, labels: Labels, number: Option<NumericIdentity>, fx: &mut Effects<Effect>) {
        if !self.slots.contains_key(&labels) {
            if self.slots.len() >= self.config.held_max {
                fx.push(Effect::Waiting(labels, Trouble::TooMany { max: self.config.held_max }));
                return;
            }
            let slot = Slot {
                users: 0,
                phase: Phase::Idle,
                op: None,
                due: None,
                number: None,
                locked: false,
                lock_seen: None,
                conflicts: 0,
                failures: 0,
            };
            self.slots.insert(labels.clone(), slot);
        }
        let slot = self.slots.get_mut(&labels).expect("inserted above");
        slot.users += 1;
        if slot.number.is_none() {
            slot.number = number;
        }
        if let Some(number) = slot.number {
            fx.push(Effect::Acquired(labels.clone(), number));
        }
        if slot.users == 1 && slot.op.is_none() {
            self.begin(now, labels, fx);
        }
    }

    /// Starts, or starts again, to get a number for labels in use.
    fn begin(&mut self, now: Instant, labels: Labels, fx: &mut Effects<Effect>) {
        let Some(slot) = self.slots.get(&labels) else { return };
        if slot.users == 0 {
            return self.begin_release(now, labels, fx);
        }
        let number = slot.number.or_else(|| self.number_of(&labels));
        let locked = slot.locked;
        match number {
            Some(number) if self.known.get(&number) == Some(&labels) => self.claim(labels, number, fx),
            // An earlier life's number, or one whose master key is gone: make sure the master key is there first.
            Some(number) if self.watch.synced_once => self.create(labels, number, fx),
            _ if !self.watch.synced_once => self.enter(labels, Phase::Idle, None, fx),
            _ if locked => self.list(labels, fx),
            _ => {
                let entry = Entry {
                    key: Keys::lock(&labels),
                    value: self.keys.suffix().as_bytes().to_vec(),
                    lifetime: Lifetime::Leased,
                };
                self.enter(labels, Phase::Lock, Some(Request::Create(entry)), fx);
            }
        }
    }

    fn begin_release(&mut self, _now: Instant, labels: Labels, fx: &mut Effects<Effect>) {
        let request = Request::Delete(self.keys.slave(&labels));
        self.enter(labels, Phase::Release, Some(request), fx);
    }

    fn number_of(&self, labels: &Labels) -> Option<NumericIdentity> {
        self.numbers.get(labels)?.first().copied()
    }

    fn list(&mut self, labels: Labels, fx: &mut Effects<Effect>) {
        let request = Request::List(Keys::slaves(&labels));
        self.enter(labels, Phase::List, Some(request), fx);
    }

    fn create(&mut self, labels: Labels, number: NumericIdentity, fx: &mut Effects<Effect>) {
        let value = labels.identity_key().into_bytes();
        let entry = Entry { key: Keys::master(number), value, lifetime: Lifetime::Kept };
        self.enter(labels, Phase::Create(number), Some(Request::Create(entry)), fx);
    }

    fn slave_entry(&self, labels: &Labels, number: NumericIdentity) -> Entry {
        let value = number.to_string().into_bytes();
        Entry { key: self.keys.slave(labels), value, lifetime: Lifetime::Leased }
    }

    fn claim(&mut self, labels: Labels, number: NumericIdentity, fx: &mut Effects<Effect>) {
        let entry = self.slave_entry(&labels, number);
        let request = Request::CreateIfExists { condition: Keys::master(number), entry };
        self.enter(labels, Phase::Claim(number), Some(request), fx);
    }

    /// Enters a phase and asks the store for what it needs.
    fn enter(&mut self, labels: Labels, phase: Phase, request: Option<Request>, fx: &mut Effects<Effect>) {
        let Some(slot) = self.slots.get_mut(&labels) else { return };
        slot.phase = phase;
        if let Some(due) = slot.due.take() {
            self.dues.remove(&(due, labels.clone()));
        }
        if let Some(request) = request {
            let op = self.ops.fresh();
            slot.op = Some(op);
            self.ops_of.insert(op, labels);
            fx.push(Effect::Kv(op, request));
        }
    }

    /// Waits, then begins again.
    fn wait(&mut self, labels: Labels, until: Instant) {
        let Some(slot) = self.slots.get_mut(&labels) else { return };
        if let Some(due) = slot.due.replace(until) {
            self.dues.remove(&(due, labels.clone()));
        }
        slot.phase = if slot.phase == Phase::Held { Phase::Held } else { Phase::Idle };
        self.dues.insert((until, labels));
    }

    fn backoff(&mut self, now: Instant, failures: u32) -> Instant {
        let factor = 1_u32.checked_shl(failures.min(16)).unwrap_or(u32::MAX);
        let wait = self.config.retry_first.saturating_mul(factor).min(self.config.retry_max);
        // Half of the wait is random, so that nodes that collided do not collide again.
        let nanos = u64::try_from(wait.as_nanos()).unwrap_or(u64::MAX);
        now + Duration::from_nanos(nanos / 2 + self.rng.below(nanos / 2 + 1))
    }

    fn failed(&mut self, now: Instant, labels: Labels, failure: kv::Failure, fx: &mut Effects<Effect>) {
        let Some(slot) = self.slots.get_mut(&labels) else { return };
        slot.failures += 1;
        let failures = slot.failures;
        if slot.users > 0 && slot.number.is_none() {
            fx.push(Effect::Waiting(labels.clone(), Trouble::Store(failure)));
        }
        let until = self.backoff(now, failures);
        self.wait(labels, until);
    }

    fn conflict(&mut self, now: Instant, labels: Labels, fx: &mut Effects<Effect>) {
        let Some(slot) = self.slots.get_mut(&labels) else { return };
        slot.conflicts += 1;
        let conflicts = slot.conflicts;
        if conflicts % self.config.attempts.max(1) == 0 {
            fx.push(Effect::Waiting(labels.clone(), Trouble::Conflicts(conflicts)));
        }
        let until = self.backoff(now, conflicts);
        self.wait(labels, until);
    }

    fn done(&mut self, now: Instant, op: OpId, result: Result<Outcome, kv::Failure>, fx: &mut Effects<Effect>) {
        let Some(labels) = self.ops_of.remove(&op) else { return };
        let Some(slot) = self.slots.get_mut(&labels).filter(|slot| slot.op == Some(op)) else { return };
        slot.op = None;
        let outcome = match result {
            Ok(outcome) => outcome,
            Err(failure) => return self.failed(now, labels, failure, fx),
        };
        slot.failures = 0;
        match (slot.phase, outcome) {
            (Phase::Lock, Outcome::Written) => self.got_lock(labels, fx),
            (Phase::Lock, Outcome::Exists(holder)) if holder == self.keys.suffix().as_bytes() => {
                self.got_lock(labels, fx);
            }
            (Phase::Lock, Outcome::Exists(_)) => self.lock_is_held(now, labels, fx),
            (Phase::Break, _) => self.begin(now, labels, fx),
            (Phase::List, Outcome::Listed(slaves)) => self.listed(now, labels, &slaves, fx),
            (Phase::Create(number), Outcome::Written) => {
                self.learn(number, labels.clone(), fx);
                self.claim(labels, number, fx);
            }
            (Phase::Create(number), Outcome::Exists(value)) => self.master_exists(now, labels, number, &value, fx),
            (Phase::Verify(number), Outcome::Value(Some(value))) if value == labels.identity_key().as_bytes() => {
                self.learn(number, labels.clone(), fx);
                self.claim(labels, number, fx);
            }
            (Phase::Verify(_), Outcome::Value(_)) => self.choose(now, labels, fx),
            (Phase::Claim(number), Outcome::Written) => self.claimed(now, labels, number, fx),
            (Phase::Claim(number), Outcome::Exists(value)) if value == number.to_string().as_bytes() => {
                self.claimed(now, labels, number, fx);
            }
            (Phase::Claim(number), Outcome::Exists(_)) => {
                let entry = self.slave_entry(&labels, number);
                self.enter(labels, Phase::Overwrite(number), Some(Request::Put(entry)), fx);
            }
            (Phase::Claim(number), Outcome::ConditionAbsent) => {
                self.forget(number, fx);
                self.conflict(now, labels, fx);
            }
            (Phase::Overwrite(number), Outcome::Written) => self.claimed(now, labels, number, fx),
            (Phase::Unlock, _) => self.settle(now, labels, fx),
            (Phase::Release, Outcome::Deleted) => self.released(now, labels, fx),
            // An outcome that does not belong to the request: the adapter is wrong; begin again rather than believe it.
            _ => self.failed(now, labels, kv::Failure::Refused, fx),
        }
    }

    fn got_lock(&mut self, labels: Labels, fx: &mut Effects<Effect>) {
        if let Some(slot) = self.slots.get_mut(&labels) {
            slot.locked = true;
            slot.lock_seen = None;
        }
        self.list(labels, fx);
    }

    fn lock_is_held(&mut self, now: Instant, labels: Labels, fx: &mut Effects<Effect>) {
        let Some(slot) = self.slots.get_mut(&labels) else { return };
        let since = *slot.lock_seen.get_or_insert(now);
        if now.since(since) >= self.config.stale_lock {
            slot.lock_seen = None;
            let request = Request::Delete(Keys::lock(&labels));
            return self.enter(labels, Phase::Break, Some(request), fx);
        }
        let until = self.backoff(now, 3);
        self.wait(labels, until);
    }

    fn listed(&mut self, now: Instant, labels: Labels, slaves: &[(String, Vec<u8>)], fx: &mut Effects<Effect>) {
        let prefix = Keys::slaves(&labels);
        let number = slaves
            .iter()
            .filter(|(key, _)| key.strip_prefix(&prefix).is_some_and(|node| !node.contains('/')))
            .filter_map(|(_, value)| core::str::from_utf8(value).ok()?.parse::<u32>().ok())
            .map(NumericIdentity::new)
            .find(|number| (self.config.min..=self.config.max).contains(number));
        match number {
            Some(number) => {
                let request = Request::Get(Keys::master(number));
                self.enter(labels, Phase::Verify(number), Some(request), fx);
            }
            None => self.choose(now, labels, fx),
        }
    }

    /// Tries a random free number.
    fn choose(&mut self, now: Instant, labels: Labels, fx: &mut Effects<Effect>) {
        if let Some(number) = self.number_of(&labels) {
            return self.create(labels, number, fx);
        }
        let (min, max) = (self.config.min.as_u32(), self.config.max.as_u32());
        let start = min + self.rng.below(u64::from(max - min) + 1) as u32;
        let free = |number: &NumericIdentity| !self.known.contains_key(number);
        match (start..=max).chain(min..start).map(NumericIdentity::new).find(free) {
            Some(number) => self.create(labels, number, fx),
            None => {
                let trouble = Trouble::Exhausted { min: self.config.min, max: self.config.max };
                fx.push(Effect::Waiting(labels.clone(), trouble));
                let until = now + self.config.retry_max;
                self.wait(labels, until);
            }
        }
    }

    fn master_exists(
        &mut self,
        now: Instant,
        labels: Labels,
        number: NumericIdentity,
        value: &[u8],
        fx: &mut Effects<Effect>,
    ) {
        if value == labels.identity_key().as_bytes() {
            self.learn(number, labels.clone(), fx);
            return self.claim(labels, number, fx);
        }
        if let Ok(text) = core::str::from_utf8(value) {
            self.learn(number, Labels::from_identity_key(text), fx);
        }
        self.lose(&labels, number, fx);
        self.conflict(now, labels, fx);
    }

    /// Takes a number away that users were told.
    fn lose(&mut self, labels: &Labels, number: NumericIdentity, fx: &mut Effects<Effect>) {
        if let Some(slot) = self.slots.get_mut(labels)
            && slot.number == Some(number)
        {
            slot.number = None;
            fx.push(Effect::Lost(labels.clone(), number));
        }
    }

    fn claimed(&mut self, now: Instant, labels: Labels, number: NumericIdentity, fx: &mut Effects<Effect>) {
        let Some(slot) = self.slots.get_mut(&labels) else { return };
        if slot.number != Some(number) {
            if let Some(old) = slot.number.replace(number) {
                fx.push(Effect::Lost(labels.clone(), old));
            }
            if slot.users > 0 {
                fx.push(Effect::Acquired(labels.clone(), number));
            }
        }
        if slot.locked {
            slot.locked = false;
            let request = Request::Delete(Keys::lock(&labels));
            return self.enter(labels, Phase::Unlock, Some(request), fx);
        }
        self.settle(now, labels, fx);
    }

    fn settle(&mut self, now: Instant, labels: Labels, fx: &mut Effects<Effect>) {
        let Some(slot) = self.slots.get_mut(&labels) else { return };
        slot.conflicts = 0;
        if slot.users == 0 {
            return self.begin_release(now, labels, fx);
        }
        slot.phase = Phase::Held;
        let until = now + self.config.refresh;
        self.wait(labels, until);
    }

    fn released(&mut self, now: Instant, labels: Labels, fx: &mut Effects<Effect>) {
        let Some(slot) = self.slots.get_mut(&labels) else { return };
        if slot.users > 0 {
            return self.begin(now, labels, fx);
        }
        if slot.locked {
            slot.locked = false;
            let request = Request::Delete(Keys::lock(&labels));
            return self.enter(labels, Phase::Unlock, Some(request), fx);
        }
        self.slots.remove(&labels);
    }

    fn release(&mut self, now: Instant, labels: Labels, fx: &mut Effects<Effect>) {
        let Some(slot) = self.slots.get_mut(&labels).filter(|slot| slot.users > 0) else { return };
        slot.users -= 1;
        if slot.users > 0 {
            return;
        }
        slot.number = None;
        if slot.op.is_none() {
            self.begin_release(now, labels, fx);
        }
    }

    /// Begins again unless an operation is under way, whose outcome will lead there.
    fn restart(&mut self, now: Instant, labels: Labels, fx: &mut Effects<Effect>) {
        if self.slots.get(&labels).is_some_and(|slot| slot.op.is_none()) {
            self.begin(now, labels, fx);
        }
    }

    fn lease_lost(&mut self, now: Instant, fx: &mut Effects<Effect>) {
        let held: Vec<Labels> = self.slots.keys().cloned().collect();
        for labels in held {
            if let Some(slot) = self.slots.get_mut(&labels) {
                slot.locked = false;
            }
            self.restart(now, labels, fx);
        }
    }
}

impl Machine for Allocator {
    type Input = Input;
    type Effect = Effect;

    fn handle(&mut self, now: Instant, input: Input, fx: &mut Effects<Effect>) {
        match input {
            Input::Start => self.start_watch(fx),
            Input::Acquire(labels) => self.acquire(now, labels, None, fx),
            Input::Restore(labels, number) => self.acquire(now, labels, Some(number), fx),
            Input::Release(labels) => self.release(now, labels, fx),
            Input::Kv(Event::LeaseLost) => self.lease_lost(now, fx),
            Input::Kv(event) if event.op().is_some() && event.op() == self.watch.op => self.watch_event(now, event, fx),
            Input::Kv(Event::Done(op, result)) => self.done(now, op, result, fx),
            Input::Kv(_) => {}
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        let due = self.dues.first().map(|(at, _)| *at);
        due.into_iter().chain(self.watch.retry).min()
    }

    fn on_deadline(&mut self, now: Instant, fx: &mut Effects<Effect>) {
        if self.watch.retry.is_some_and(|at| at <= now) {
            self.start_watch(fx);
        }
        while let Some((at, _)) = self.dues.first()
            && *at <= now
        {
            let Some((_, labels)) = self.dues.pop_first() else { break };
            if let Some(slot) = self.slots.get_mut(&labels) {
                slot.due = None;
            }
            self.begin(now, labels, fx);
        }
    }
}
