//! The published truth tables through the datapath: entries the policy engine computes, written in the kernel's
//! layouts, found by the packet pipeline's own look-ups.
//!
//! Three ways, each with all the tables where they are there: the look-up alone (address to class, class to entry) on
//! plain maps; whole packets through the pipeline built natively; the same packets through the programs in the kernel
//! (`BPF_PROG_TEST_RUN`), for which root is needed. `CORPUS_EVERY` (default 1) takes every n-th packet only.

#![expect(clippy::print_stdout, reason = "the figures are what the test is for")]

#[path = "../../../../core/policy/tests/corpus/mod.rs"]
mod corpus;
#[path = "../equivalence/packets.rs"]
#[allow(dead_code, reason = "this test needs plain packets only")]
mod packets;
#[path = "../support/mod.rs"]
mod support;

mod lookup;
mod packet;
mod tables;

use corpus::{Judge, Score};
use std::path::PathBuf;

fn files(name: &str) -> Vec<PathBuf> {
    let files = corpus::corpora(&corpus::default_dir(), name);
    if files.is_empty() {
        support::say_skipped(&format!("there is no {name}.*.json in {}", corpus::default_dir().display()));
    }
    files
}

fn demand(score: &Score) {
    println!("{}: {}/{}", score.name, score.passed, score.total);
    let first = score.differences.iter().take(5).cloned().collect::<Vec<_>>().join("\n");
    assert!(score.total > 0, "{}: nothing was checked", score.name);
    assert!(score.is_reached(), "{}: {} of {}\n{first}", score.name, score.passed, score.total);
}

fn all(judge: &mut dyn Judge) {
    for file in files("cyclonus") {
        let (cells, marked) = corpus::cyclonus::run_by(&corpus::read(&file), judge);
        demand(&cells);
        demand(&marked);
    }
    for file in files("cilium-oracle") {
        let outcome = corpus::oracle::run_by(&corpus::read(&file), judge);
        demand(&outcome.plain);
        demand(&outcome.quirks);
    }
}

#[test]
fn the_look_up_finds_the_verdicts_of_the_tables() {
    let mut judge = lookup::Lookup::default();
    all(&mut judge);
    println!("{} look-ups, {} of them by address", judge.asked, judge.by_address);
}

#[test]
fn packets_through_the_native_pipeline_get_the_verdicts_of_the_tables() {
    let mut judge = packet::Packets::native();
    all(&mut judge);
    println!("{} packets, {} questions without one", judge.sent, judge.looked_up);
    assert!(judge.sent == 0 || judge.sent > 200_000, "only {} packets", judge.sent);
}

#[test]
fn packets_through_the_programs_in_the_kernel_get_the_verdicts_of_the_tables() {
    let Some((_fs, mut judge)) = packet::Packets::kernel() else { return };
    all(&mut judge);
    println!("{} packets through the kernel, {} map writes", judge.in_kernel, judge.map_writes);
    assert!(judge.sent == 0 || judge.in_kernel >= 2_000, "only {} packets", judge.in_kernel);
}

/// An entry that is missing must be noticed.
#[test]
fn a_table_with_a_hole_is_found() {
    let Some(file) = files("cilium-oracle").into_iter().next() else { return };
    let mut judge = lookup::Lookup::default();
    judge.holes = true;
    let outcome = corpus::oracle::run_by(&corpus::read(&file), &mut judge);
    assert!(outcome.plain.share() < 0.99, "every third entry was left out, and nothing was noticed");
}
