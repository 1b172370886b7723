use alloc::collections::{BTreeMap, BTreeSet};
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::time::Duration;

use kv::{Event, Failure, Outcome, Request};
use machine::{Driven, Instant, OpId, OpIds, Rng};
use types::{Labels, NumericIdentity};

use crate::{Allocator, Config, Effect, Input, Keys, Local, LocalRefusal, SavedLocal, Trouble};

fn labels(n: u64) -> Labels {
    Labels::parse([alloc::format!("k8s:app=a{n}").as_str(), "k8s:io.kubernetes.pod.namespace=default"])
}

#[test]
fn keys_are_the_references() {
    let labels = Labels::parse(["k8s:b=2", "k8s:a=1"]);
    assert_eq!(Keys::master(NumericIdentity::new(300)), "cilium/state/identities/v1/id/300");
    assert_eq!(Keys::new("10.0.0.1").slave(&labels), "cilium/state/identities/v1/value/k8s:a=1;k8s:b=2;/10.0.0.1");
    assert_eq!(Keys::number("cilium/state/identities/v1/id/300"), Some(NumericIdentity::new(300)));
    for wrong in ["cilium/state/identities/v1/id/+3", "cilium/state/identities/v1/id/x", "cilium/state/ip/v1/id/3"] {
        assert_eq!(Keys::number(wrong), None, "{wrong}");
    }
}

#[test]
fn reserved_sets_need_no_number_and_others_do() {
    let set = |texts: &[&str]| crate::reserved(&Labels::parse(texts.iter().copied())).map(NumericIdentity::as_u32);
    assert_eq!(set(&["reserved:host"]), Some(1));
    assert_eq!(set(&["reserved:kube-apiserver", "reserved:remote-node"]), Some(7));
    assert_eq!(set(&["reserved:init"]), Some(5));
    assert_eq!(set(&["reserved:init", "k8s:app=a"]), None);
    assert_eq!(set(&["k8s:app=a"]), None);
}

#[test]
fn prefixes_keep_their_numbers_while_anyone_refers_to_them_and_over_a_restart() {
    let net = |text: &str| text.parse::<types::Cidr>().expect("a literal");
    let mut local = Local::new(3, true);
    let a = local.acquire(net("10.0.0.0/8")).expect("room");
    assert_eq!(a, NumericIdentity::new(0x0100_0001));
    assert_eq!(local.acquire(net("10.0.0.0/8")), Ok(a));
    assert_eq!(local.labels(net("fd00::/8")).to_string(), "cidr:fd00--0/8,reserved:world-ipv6");
    let b = local.acquire(net("fd00::/8")).expect("room");
    assert_eq!(local.release(net("10.0.0.0/8")), None);
    let saved = local.save();
    let mut after = Local::new(3, true);
    after.remember(saved);
    after.remember([SavedLocal { prefix: net("1.0.0.0/8"), id: NumericIdentity::HOST }]);
    let other = after.acquire(net("9.0.0.0/8")).expect("room");
    assert!(other != a && other != b, "a remembered number is not given to another prefix");
    assert_eq!(after.acquire(net("fd00::/8")), Ok(b));
    assert_eq!(after.acquire(net("1.0.0.0/8")).map(|id| id.as_u32() >> 24), Ok(1));
    let refused = after.acquire(net("2.0.0.0/8"));
    assert_eq!(refused, Err(LocalRefusal::Exhausted { prefix: net("2.0.0.0/8"), max: 3 }));
    assert_eq!(after.release(net("fd00::/8")), Some(b));
}

/// A store in which operations take effect and answer whenever they like, and some are lost or answered with a failure
/// although they take effect, even later.
struct Store {
    rng: Rng,
    data: BTreeMap<String, (Vec<u8>, Option<usize>)>,
    /// When, whose, which operation, what; `None`: it took effect already and only the answer is due.
    flying: Vec<(Instant, usize, OpId, Step)>,
    watches: Vec<(usize, OpId)>,
    faults: bool,
}

enum Step {
    Do(Request, Report),
    Tell(Event),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Report {
    Truth,
    Failed,
    Nothing,
}

impl Store {
    fn submit(&mut self, now: Instant, node: usize, op: OpId, request: Request) {
        let delay = |rng: &mut Rng| Duration::from_millis(1 + rng.below(300));
        let at = now + delay(&mut self.rng);
        if !self.faults || matches!(request, Request::Watch(_)) || self.rng.chance(4, 5) {
            return self.flying.push((at, node, op, Step::Do(request, Report::Truth)));
        }
        let failed = Event::Done(op, Err(Failure::TimedOut));
        match self.rng.below(3) {
            0 => self.flying.push((at, node, op, Step::Tell(failed))),
            1 => self.flying.push((at, node, op, Step::Do(request, Report::Failed))),
            _ => {
                // Reported as failed now, applied later.
                self.flying.push((at, node, op, Step::Tell(failed)));
                let late = at + Duration::from_millis(self.rng.below(4_000));
                self.flying.push((late, node, op, Step::Do(request, Report::Nothing)));
            }
        }
    }

    fn write(&mut self, now: Instant, key: String, value: Option<Vec<u8>>, node: Option<usize>) {
        match &value {
            Some(value) => self.data.insert(key.clone(), (value.clone(), node)),
            None => self.data.remove(&key),
        };
        if key.starts_with(&Keys::masters()) {
            let at = now + Duration::from_millis(self.rng.below(50));
            for (node, watch) in self.watches.clone() {
                let event = Event::Changed { watch, key: key.clone(), value: value.clone() };
                // A watch keeps its own order.
                let last = self.flying.iter().filter(|(_, to, op, _)| *to == node && *op == watch);
                let at = last.map(|(at, ..)| *at).max().map_or(at, |last| last.max(at));
                self.flying.push((at, node, watch, Step::Tell(event)));
            }
        }
    }

    fn apply(&mut self, now: Instant, node: usize, op: OpId, request: Request) -> Outcome {
        let read = |store: &Self, key: &str| store.data.get(key).map(|(value, _)| value.clone());
        match request {
            Request::Get(key) => Outcome::Value(read(self, &key)),
            Request::List(prefix) => {
                let all = self.data.iter().filter(|(key, _)| key.starts_with(&prefix));
                Outcome::Listed(all.map(|(key, (value, _))| (key.clone(), value.clone())).collect())
            }
            Request::Create(entry) => match read(self, &entry.key) {
                Some(value) => Outcome::Exists(value),
                None => {
                    let lease = (entry.lifetime == kv::Lifetime::Leased).then_some(node);
                    self.write(now, entry.key, Some(entry.value), lease);
                    Outcome::Written
                }
            },
            Request::CreateIfExists { condition, .. } if read(self, &condition).is_none() => Outcome::ConditionAbsent,
            Request::CreateIfExists { entry, .. } => self.apply(now, node, op, Request::Create(entry)),
            Request::Put(entry) => {
                self.write(now, entry.key, Some(entry.value), Some(node));
                Outcome::Written
            }
            Request::Delete(key) => {
                self.write(now, key, None, None);
                Outcome::Deleted
            }
            Request::Watch(prefix) => {
                self.watches.push((node, op));
                let all: Vec<_> = self.data.iter().filter(|(key, _)| key.starts_with(&prefix)).collect();
                for (key, (value, _)) in all {
                    let event = Event::Changed { watch: op, key: key.clone(), value: Some(value.clone()) };
                    self.flying.push((now, node, op, Step::Tell(event)));
                }
                self.flying.push((now, node, op, Step::Tell(Event::Synced(op))));
                Outcome::Watching
            }
        }
    }
}

struct Cluster {
    store: Store,
    nodes: Vec<Driven<Allocator>>,
    told: Vec<BTreeMap<Labels, NumericIdentity>>,
    users: Vec<BTreeMap<Labels, usize>>,
    /// Every number ever told to anyone, with its labels.
    history: BTreeMap<NumericIdentity, BTreeSet<Labels>>,
    troubles: Vec<Trouble>,
    now: Instant,
}

impl Cluster {
    fn new(seed: u64, count: usize, faults: bool) -> Self {
        let mut rng = Rng::new(seed);
        let store =
            Store { rng: rng.split("store"), data: BTreeMap::new(), flying: Vec::new(), watches: Vec::new(), faults };
        let empty = || (0..count).map(|_| BTreeMap::new()).collect();
        let mut cluster = Self {
            store,
            nodes: Vec::new(),
            told: empty(),
            users: (0..count).map(|_| BTreeMap::new()).collect(),
            history: BTreeMap::new(),
            troubles: Vec::new(),
            now: Instant::ZERO,
        };
        for node in 0..count {
            let mut config = Config::new(&alloc::format!("10.0.0.{node}"));
            config.max = NumericIdentity::new(256 + 11);
            cluster.nodes.push(Driven::new(Allocator::new(config, rng.split("node"), OpIds::default())));
            cluster.input(node, Input::Start);
        }
        cluster
    }

    fn input(&mut self, node: usize, input: Input) {
        self.step(node, Some(input));
    }

    fn step(&mut self, node: usize, input: Option<Input>) {
        let mut effects = Vec::new();
        self.nodes[node].step(self.now, input, |effect| effects.push(effect));
        for effect in effects {
            match effect {
                Effect::Kv(op, request) => self.store.submit(self.now, node, op, request),
                Effect::Acquired(labels, number) => {
                    let sets = self.history.entry(number).or_default();
                    sets.insert(labels.clone());
                    self.told[node].insert(labels, number);
                    self.check();
                }
                Effect::Lost(labels, number) => {
                    assert_eq!(self.told[node].remove(&labels), Some(number));
                }
                Effect::Waiting(_, trouble) => self.troubles.push(trouble),
                _ => {}
            }
        }
    }

    /// No number with two sets of labels, among all that are in use anywhere.
    fn check(&self) {
        let mut seen: BTreeMap<NumericIdentity, &Labels> = BTreeMap::new();
        for (node, told) in self.told.iter().enumerate() {
            for (labels, number) in told.iter().filter(|(labels, _)| self.users[node].contains_key(labels)) {
                let other = seen.insert(*number, labels);
                assert!(other.is_none_or(|other| other == labels), "{number} is {labels} and {other:?}");
            }
        }
    }

    fn run_until(&mut self, until: Instant) {
        loop {
            let deadlines = self.nodes.iter().filter_map(Driven::next_deadline);
            let Some(next) = self.store.flying.iter().map(|(at, ..)| *at).chain(deadlines).min() else { break };
            if next > until {
                break;
            }
            self.now = self.now.max(next);
            let due = self.store.flying.iter().position(|(at, ..)| *at <= self.now);
            if let Some(at) = due {
                let (_, node, op, step) = self.store.flying.remove(at);
                match step {
                    Step::Tell(event) => self.input(node, Input::Kv(event)),
                    Step::Do(request, report) => {
                        let outcome = self.store.apply(self.now, node, op, request);
                        let event = match report {
                            Report::Truth => Event::Done(op, Ok(outcome)),
                            Report::Failed => Event::Done(op, Err(Failure::Unavailable)),
                            Report::Nothing => continue,
                        };
                        let delay = Duration::from_millis(self.store.rng.below(200));
                        self.store.flying.push((self.now + delay, node, op, Step::Tell(event)));
                    }
                }
            }
            for node in 0..self.nodes.len() {
                if self.nodes[node].next_deadline().is_some_and(|at| at <= self.now) {
                    self.step(node, None);
                }
            }
        }
        self.now = self.now.max(until);
    }

    fn acquire(&mut self, node: usize, n: u64) {
        *self.users[node].entry(labels(n)).or_default() += 1;
        self.input(node, Input::Acquire(labels(n)));
    }

    fn release(&mut self, node: usize, n: u64) {
        let Some(users) = self.users[node].get_mut(&labels(n)) else { return };
        *users -= 1;
        if *users == 0 {
            self.users[node].remove(&labels(n));
            self.told[node].remove(&labels(n));
        }
        self.input(node, Input::Release(labels(n)));
    }

    /// Everyone who waits has a number, it is the master key's, and it is claimed.
    fn converged(&self) -> Result<(), String> {
        for (node, users) in self.users.iter().enumerate() {
            for labels in users.keys() {
                let number = *self.told[node].get(labels).ok_or(alloc::format!("{node} has no number for {labels}"))?;
                let master = self.store.data.get(&Keys::master(number)).map(|(value, _)| value.clone());
                if master != Some(labels.identity_key().into_bytes()) {
                    return Err(alloc::format!("{node}: the master key of {number} is {master:?}"));
                }
                let key = Keys::new(&alloc::format!("10.0.0.{node}")).slave(labels);
                if self.store.data.get(&key).is_none_or(|(value, _)| *value != number.to_string().into_bytes()) {
                    return Err(alloc::format!("{node}: {key} does not say {number}"));
                }
            }
        }
        Ok(())
    }
}

#[test]
fn without_faults_equal_labels_get_one_number_on_all_nodes() {
    for seed in 0..60 {
        let mut cluster = Cluster::new(seed, 3, false);
        for n in 0..4 {
            for node in 0..3 {
                cluster.acquire(node, n);
            }
        }
        cluster.run_until(Instant::from_secs(60));
        cluster.converged().expect("no faults");
        for n in 0..4 {
            let numbers: BTreeSet<_> = cluster.told.iter().map(|told| told[&labels(n)]).collect();
            assert_eq!(numbers.len(), 1, "seed {seed}");
        }
        assert!(cluster.store.data.keys().all(|key| !key.contains("/locks/")), "seed {seed}: a lock was left");
    }
}

#[test]
fn whatever_the_store_does_no_number_has_two_sets_of_labels_and_it_converges_after() {
    for seed in 0..200 {
        let mut cluster = Cluster::new(seed, 3, true);
        let mut rng = Rng::new(seed ^ 0xfeed);
        for _ in 0..60 {
            let until = cluster.now + Duration::from_millis(rng.below(700));
            cluster.run_until(until);
            let (node, n) = (rng.below(3) as usize, rng.below(7));
            match rng.below(8) {
                0..4 => cluster.acquire(node, n),
                4..7 => cluster.release(node, n),
                _ => {
                    // The node's lease ends: its keys go.
                    let gone: Vec<String> = cluster
                        .store
                        .data
                        .iter()
                        .filter(|(_, (_, lease))| *lease == Some(node))
                        .map(|(key, _)| key.clone())
                        .collect();
                    for key in gone {
                        cluster.store.write(cluster.now, key, None, None);
                    }
                    cluster.input(node, Input::Kv(Event::LeaseLost));
                }
            }
            cluster.check();
        }
        cluster.store.faults = false;
        // Longer than the refresh, which finds what late deletions of an earlier time took away.
        cluster.run_until(cluster.now + Duration::from_secs(400));
        if let Err(why) = cluster.converged() {
            panic!("seed {seed}: {why}");
        }
    }
}

#[test]
fn an_exhausted_range_is_told_and_a_freed_number_is_used() {
    let mut cluster = Cluster::new(1, 1, false);
    for n in 0..12 {
        cluster.acquire(0, n);
    }
    cluster.run_until(Instant::from_secs(30));
    cluster.converged().expect("twelve numbers for twelve sets");
    cluster.acquire(0, 12);
    cluster.run_until(cluster.now + Duration::from_secs(20));
    assert!(!cluster.told[0].contains_key(&labels(12)));
    assert!(cluster.troubles.iter().any(|trouble| matches!(trouble, Trouble::Exhausted { .. })));
    // The operator's garbage collection deletes master keys nobody uses.
    cluster.release(0, 3);
    cluster.run_until(cluster.now + Duration::from_secs(1));
    let free: Vec<String> = cluster
        .store
        .data
        .iter()
        .filter(|(_, (value, _))| *value == labels(3).identity_key().into_bytes())
        .map(|(key, _)| key.clone())
        .collect();
    assert_eq!(free.len(), 1, "the master key stays");
    for key in free {
        cluster.store.write(cluster.now, key, None, None);
    }
    cluster.run_until(cluster.now + Duration::from_secs(30));
    cluster.converged().expect("a number became free");
}

#[test]
fn a_store_that_does_not_answer_is_told_and_a_restored_number_is_used_meanwhile() {
    let mut driven = Driven::new(Allocator::new(Config::new("10.0.0.1"), Rng::new(1), OpIds::default()));
    let mut effects = Vec::new();
    driven.step(Instant::ZERO, Some(Input::Start), |effect| effects.push(effect));
    let number = NumericIdentity::new(4_711);
    effects.clear();
    driven.step(Instant::ZERO, Some(Input::Restore(labels(1), number)), |effect| effects.push(effect));
    assert_eq!(effects, [Effect::Acquired(labels(1), number)]);
    effects.clear();
    let watch = OpId(1);
    driven.step(Instant::ZERO, Some(Input::Kv(Event::Synced(watch))), |effect| effects.push(effect));
    driven.step(Instant::ZERO, Some(Input::Acquire(labels(2))), |effect| effects.push(effect));
    let op = effects
        .iter()
        .find_map(|effect| match effect {
            Effect::Kv(op, Request::Create(entry)) if entry.key.contains("locks") => Some(*op),
            _ => None,
        })
        .expect("the lock is asked for");
    effects.clear();
    let failed = Event::Done(op, Err(Failure::Unavailable));
    driven.step(Instant::ZERO, Some(Input::Kv(failed)), |effect| effects.push(effect));
    assert_eq!(effects, [Effect::Waiting(labels(2), Trouble::Store(Failure::Unavailable))]);
}
