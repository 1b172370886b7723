//! Random histories of rules, identities, addresses, endpoints and groups, against a naive oracle and a model of the
//! kernel's maps. After every step: the maps give what the oracle says for every probe; they hold exactly what an
//! engine built from scratch wants; and on the way, between any two writes, no probe got a verdict that is neither
//! the old nor the new one.
#![allow(clippy::disallowed_macros, reason = "a test may say what it covered")]

#[path = "model/history.rs"]
mod history;
#[path = "model/maps.rs"]
mod maps;
#[path = "model/oracle.rs"]
mod oracle;

use history::{Bytes, Op, World};
use maps::Maps;
use oracle::{Expect, Probe};
use policy::{Config, Engine, Verdict};
use std::sync::atomic::{AtomicU64, Ordering};
use types::NumericIdentity;

fn config(bytes: &mut Bytes<'_>) -> Config {
    Config {
        allow_localhost: bytes.flag(),
        host_firewall: true,
        enforcement: if bytes.pick(8) == 0 { policy::Enforcement::Always } else { policy::Enforcement::Default },
        ..Config::default()
    }
}

fn apply(engine: &mut Engine, op: &Op) -> policy::Delta {
    match op {
        Op::PutIdentity(id, labels) => engine.upsert_identity(*id, labels).expect("far below the bound"),
        Op::DropIdentity(id) => engine.remove_identity(*id),
        Op::PutAddress(prefix, id, ports) => engine.upsert_address(*prefix, *id, ports).expect("far below the bound"),
        Op::DropAddress(prefix) => engine.remove_address(*prefix),
        Op::PutEndpoint(id, facts) => engine.upsert_endpoint(*id, facts.clone()),
        Op::DropEndpoint(id) => engine.remove_endpoint(*id),
        Op::PutObject(object) => engine.upsert_object(object.clone()).expect("far below the bound"),
        Op::DropObject(key) => engine.remove_object(key),
        Op::ChangeObjects(upsert, remove) => {
            engine.change_objects(upsert.clone(), remove).expect("far below the bound")
        }
        Op::PutGroup(name, members) => engine.upsert_cidr_group(name, members.clone()),
    }
}

/// What a run has covered: histories, steps, writes between which probes were judged, probes that were enforced,
/// those among them that were allowed, and steps that moved a verdict.
#[derive(Default)]
struct Covered {
    histories: AtomicU64,
    steps: AtomicU64,
    writes: AtomicU64,
    enforced: AtomicU64,
    allowed: AtomicU64,
    moved: AtomicU64,
}

static COVERED: Covered = Covered {
    histories: AtomicU64::new(0),
    steps: AtomicU64::new(0),
    writes: AtomicU64::new(0),
    enforced: AtomicU64::new(0),
    allowed: AtomicU64::new(0),
    moved: AtomicU64::new(0),
};

impl Covered {
    fn add(counter: &AtomicU64, by: usize) {
        counter.fetch_add(by as u64, Ordering::Relaxed);
    }
}

fn check(history: &[u8]) {
    Covered::add(&COVERED.histories, 1);
    let mut bytes = Bytes::new(history);
    let config = config(&mut bytes);
    let (mut engine, first) = Engine::new(config.clone());
    let mut world = World::new();
    let mut maps = Maps::default();
    maps.apply_all(&first.writes);
    for id in history::CROWD.map(NumericIdentity::new) {
        maps.apply_all(&engine.upsert_identity(id, &world.identities[&id]).expect("far below the bound").writes);
    }
    let probes = Probe::all();
    let mut step = 0;
    while let Some(op) = Op::read(&mut bytes) {
        step += 1;
        let before: Vec<_> = probes.iter().map(|p| maps.verdict(p)).collect();
        let delta = apply(&mut engine, &op);
        world.apply(&op);
        let mut after = maps.clone();
        after.apply_all(&delta.writes);
        let after: Vec<_> = probes.iter().map(|p| after.verdict(p)).collect();
        for (n, write) in delta.writes.iter().enumerate() {
            assert!(maps.apply(write), "step {step} {op:?}: write {n} changes nothing: {:#?}", delta.writes);
            for (i, probe) in probes.iter().enumerate() {
                let now = maps.verdict(probe);
                assert!(
                    now == before[i] || now == after[i],
                    "step {step} {op:?}\nafter write {n} of {:#?}\n{probe:?} is {now:?}, was {:?}, will be {:?}",
                    delta.writes,
                    before[i],
                    after[i]
                );
            }
        }
        // An endpoint that comes or goes has no flows whose verdict could be kept.
        let moved = before.iter().zip(&after).any(|(b, a)| b.is_some() && a.is_some() && b != a);
        assert!(!moved || delta.revision > world.revision, "step {step} {op:?}: verdicts moved, the revision did not");
        world.revision = delta.revision;
        let enforced: Vec<_> = probes.iter().zip(&after).filter(|(p, _)| maps.enforced(p)).collect();
        Covered::add(&COVERED.steps, 1);
        Covered::add(&COVERED.writes, delta.writes.len());
        Covered::add(&COVERED.enforced, enforced.len());
        Covered::add(&COVERED.allowed, enforced.iter().filter(|(_, v)| **v != Some(Verdict::Deny)).count());
        Covered::add(&COVERED.moved, usize::from(moved));
        check_oracle(&config, &world, &probes, &after, step, &op);
        check_scratch(&config, &engine, &world, &maps, step, &op);
    }
}

fn check_oracle(config: &Config, world: &World, probes: &[Probe], after: &[Option<Verdict>], step: usize, op: &Op) {
    for (probe, found) in probes.iter().zip(after) {
        let want = oracle::judge(config, world, probe);
        let agrees = matches!(
            (&want, found),
            (Expect::NoEndpoint, None)
                | (Expect::Deny, Some(Verdict::Deny))
                | (Expect::Allow, Some(Verdict::Allow))
                | (Expect::Redirect, Some(Verdict::Redirect(_)))
                | (Expect::AllowOrRedirect, Some(Verdict::Allow | Verdict::Redirect(_)))
        );
        assert!(agrees, "step {step} {op:?}\n{probe:?}: the oracle says {want:?}, the maps {found:?}\n{world:#?}");
    }
}

fn check_scratch(config: &Config, engine: &Engine, world: &World, maps: &Maps, step: usize, op: &Op) {
    let mut wanted = Maps::default();
    wanted.apply_all(&engine.desired());
    assert_eq!(*maps, wanted, "step {step} {op:?}: the maps are not what the engine wants");
    let (mut scratch, _) = Engine::new(config.clone());
    for op in world.history() {
        apply(&mut scratch, &op);
    }
    assert_eq!(engine.stats(), scratch.stats(), "step {step} {op:?}: sizes differ from an engine built from scratch");
    let mut fresh = Maps::default();
    fresh.apply_all(&scratch.desired());
    for probe in Probe::all() {
        let same = |v: Option<Verdict>, e: &Engine| match v {
            Some(Verdict::Redirect(id)) => format!("{:?}", e.redirect(id)),
            other => format!("{other:?}"),
        };
        let (have, want) = (same(maps.verdict(&probe), engine), same(fresh.verdict(&probe), &scratch));
        assert_eq!(have, want, "step {step} {op:?}: {probe:?} differs from an engine built from scratch");
    }
}

#[test]
fn every_history_is_judged_as_the_oracle_judges_and_never_otherwise_on_the_way() {
    bolero::check!().with_iterations(150).with_max_len(64).for_each(check);
    let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    println!(
        "{} histories, {} steps ({} moved a verdict), {} writes, {} enforced probes of which {} were allowed",
        of(&COVERED.histories),
        of(&COVERED.steps),
        of(&COVERED.moved),
        of(&COVERED.writes),
        of(&COVERED.enforced),
        of(&COVERED.allowed),
    );
}

#[test]
fn the_checks_bite() {
    // Negative control: a write applied out of order, a write lost, and a wrong value are all seen.
    let caught = |spoil: fn(&mut Vec<policy::Write>)| {
        (0..40u8).any(|seed| {
            let history = [47, seed];
            let mut bytes = Bytes::new(&history);
            let config = config(&mut bytes);
            let (mut engine, first) = Engine::new(config);
            let mut maps = Maps::default();
            maps.apply_all(&first.writes);
            let probes = Probe::all();
            while let Some(op) = Op::read(&mut bytes) {
                let before: Vec<_> = probes.iter().map(|p| maps.verdict(p)).collect();
                let mut writes = apply(&mut engine, &op).writes;
                let mut right = maps.clone();
                right.apply_all(&writes);
                let after: Vec<_> = probes.iter().map(|p| right.verdict(p)).collect();
                spoil(&mut writes);
                for write in &writes {
                    maps.apply(write);
                    let wrong = |(i, p): (usize, &Probe)| {
                        let now = maps.verdict(p);
                        now != before[i] && now != after[i]
                    };
                    if probes.iter().enumerate().any(wrong) {
                        return true;
                    }
                }
                if maps != right {
                    return true;
                }
            }
            false
        })
    };
    assert!(caught(|writes| writes.reverse()), "reversed writes go unnoticed");
    assert!(caught(|writes| writes.truncate(writes.len().saturating_sub(1))), "a lost write goes unnoticed");
    assert!(!caught(|_| {}), "the control is caught without a fault");
}
