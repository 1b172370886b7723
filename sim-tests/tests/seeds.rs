//! Many clusters from many seeds; that the simulator repeats itself; that its checkers bite.

use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use sim_tests::{Cluster, Fault, Outcome, Settings, Violation};

const SEEDS: u64 = 200;

/// Runs seeds on all CPUs and returns what each came to, in order.
fn run_all(
    seeds: std::ops::RangeInclusive<u64>,
    settings: impl Fn(u64) -> Settings + Sync,
) -> Vec<Result<Outcome, String>> {
    let next = AtomicU64::new(*seeds.start());
    let work = || {
        let mut done = Vec::new();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if !seeds.contains(&seed) {
                return done;
            }
            done.push((seed, Cluster::run(settings(seed)).map_err(|error| error.to_string())));
        }
    };
    let workers = thread::available_parallelism().map_or(1, usize::from);
    let mut all: Vec<_> = thread::scope(|scope| {
        let handles: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        handles.into_iter().flat_map(|handle| handle.join().expect("a worker does not panic")).collect()
    });
    all.sort_by_key(|(seed, _)| *seed);
    all.into_iter().map(|(_, outcome)| outcome).collect()
}

#[test]
fn two_hundred_clusters_keep_their_promises() {
    let outcomes = run_all(1..=SEEDS, Settings::new);
    let failed: Vec<&String> = outcomes.iter().filter_map(|outcome| outcome.as_ref().err()).collect();
    assert!(failed.is_empty(), "{} of {SEEDS} failed, the first: {}", failed.len(), failed[0]);
    let sum = |field: fn(&Outcome) -> u64| outcomes.iter().flatten().map(field).sum::<u64>();
    let (probes, delivered, services) = (sum(|o| o.probes), sum(|o| o.delivered), sum(|o| o.through_services));
    let (writes, crashes, pods) = (sum(|o| o.writes), sum(|o| o.crashes), sum(|o| o.pods));
    println!(
        "{SEEDS} seeds: {pods} pods, {crashes} crashes, {writes} map writes, {probes} packets, {delivered} delivered, \
         {services} answered through services"
    );
    // A simulation in which little happens proves little.
    assert!(pods > SEEDS && crashes > SEEDS / 2 && writes > SEEDS * 50, "too little happened");
    assert!(delivered > probes / 20 && services > SEEDS, "too little was delivered");
}

#[test]
fn the_same_seed_twice_gives_the_same_trace() {
    let first = run_all(1..=8, Settings::new);
    let second = run_all(1..=8, Settings::new);
    assert_eq!(first, second);
    let hashes: std::collections::BTreeSet<u64> = first.iter().flatten().map(|outcome| outcome.trace_hash).collect();
    assert_eq!(hashes.len(), 8, "different seeds give different traces");
}

#[test]
fn every_planted_bug_is_caught_by_the_checker_it_is_for() {
    for fault in Fault::ALL {
        let caught = (1..=60).find_map(|seed| {
            let settings = Settings { fault: Some(fault), ..Settings::new(seed) };
            Cluster::run(settings).err().map(|failed| (seed, failed.violation))
        });
        let Some((seed, violation)) = caught else { panic!("{fault:?} was not caught in 60 seeds") };
        println!("{fault:?} caught with seed {seed}: {violation}");
        let expected = match fault {
            Fault::LoseDenials | Fault::OpenEarly | Fault::LoseRevision => {
                matches!(violation, Violation::PassedForbidden { .. } | Violation::NotConverged { allowed: false, .. })
            }
            Fault::LoseReverseNat => {
                matches!(violation, Violation::WrongReply { .. } | Violation::NoReply { .. })
            }
            Fault::AddressTwice => matches!(violation, Violation::AddressTwice { .. }),
            Fault::CreateOverwrites => matches!(violation, Violation::IdentityTwice { .. }),
        };
        assert!(expected, "{fault:?} was caught as {violation}");
    }
}
