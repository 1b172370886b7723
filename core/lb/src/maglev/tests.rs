use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;

use machine::Rng;

use super::{Member, Recipe, Seed, TableSize, Way};

fn members(names: &[&str], weights: &[u16], size: TableSize) -> Vec<Member> {
    let mut named: Vec<(&str, u32, u16)> =
        names.iter().zip(1..).zip(weights).map(|((name, id), weight)| (*name, id, *weight)).collect();
    named.sort_unstable();
    let way = |name: &str| Way::of(name.as_bytes(), Seed::default().names, size);
    named.into_iter().map(|(name, id, weight)| Member { id, weight, way: way(name) }).collect()
}

/// The algorithm as it is published: every way is stored, every turn looks for its next free place.
fn naive(size: TableSize, members: &[Member]) -> Vec<u32> {
    let places = size.places() as usize;
    let walk = |way: Way| (0..places).map(move |n| (way.start as usize + n * way.stride as usize) % places);
    let mut ways: Vec<_> = members.iter().map(|member| walk(member.way)).collect();
    let sum: u64 = members.iter().map(|member| u64::from(member.weight)).sum();
    let weighted = sum / members.len() as u64 > 1;
    let mut counter: Vec<f64> = members.iter().map(|member| f64::from(member.weight) / members.len() as f64).collect();
    let mut table = alloc::vec![None; places];
    for n in 0..places {
        let mut who = n % members.len();
        while weighted && (n as u64 + 1) * u64::from(members[who].weight) < counter[who] as u64 {
            who = (who + 1) % members.len();
        }
        counter[who] += sum as f64;
        let at = ways[who].by_ref().find(|at| table[*at].is_none()).expect("a turn has a free place");
        table[at] = Some(members[who].id);
    }
    table.into_iter().map(|id| id.expect("every turn fills one place")).collect()
}

#[test]
fn a_table_is_what_the_published_algorithm_makes() {
    let mut rng = Rng::new(7);
    for round in 0..120 {
        let size = TableSize(TableSize::ALLOWED[rng.below(5) as usize]);
        let count = 1 + rng.below(if round % 4 == 0 { 300 } else { 40 }) as usize;
        let names: Vec<_> = (0..count).map(|n| alloc::format!("[10.0.{round}.{n}:80/TCP,State:active]")).collect();
        let names: Vec<&str> = names.iter().map(|name| &**name).collect();
        let equal = rng.chance(1, 2);
        let weights: Vec<u16> = (0..count).map(|_| if equal { 100 } else { rng.below(8) as u16 }).collect();
        let members = members(&names, &weights, size);
        let table = Recipe::new(size, members.clone()).table();
        assert!(table == naive(size, &members), "round {round}: {size:?} {count} {weights:?}");
    }
}

#[test]
fn nobody_is_no_table_and_one_backend_has_it_all() {
    let size = TableSize::new(251).expect("allowed");
    assert!(Recipe::new(size, Vec::new()).table().is_empty());
    let one = Recipe::new(size, members(&["one"], &[0], size)).table();
    assert_eq!(one, alloc::vec![1; 251]);
}

/// When a backend goes, its own places move, and of the others only a few: what the table is for.
#[test]
fn few_places_move_that_were_not_the_backends_own() {
    let size = TableSize::default();
    for count in [3_usize, 10, 100] {
        let names: Vec<_> = (0..count).map(|n| alloc::format!("[10.0.0.{n}:80/TCP,State:active]")).collect();
        let names: Vec<&str> = names.iter().map(|name| &**name).collect();
        let all = members(&names, &alloc::vec![100; count], size);
        let before = Recipe::new(size, all.clone()).table();
        let gone = all[count / 2].id;
        let rest: Vec<Member> = all.into_iter().filter(|member| member.id != gone).collect();
        let after = Recipe::new(size, rest).table();
        let moved = before.iter().zip(&after).filter(|(was, is)| was != is && **was != gone).count();
        assert!(moved * 50 <= before.len(), "{count} backends: {moved} of {} places moved", before.len());
        assert!(!after.contains(&gone));
    }
}

#[test]
fn places_are_shared_by_weight() {
    let size = TableSize::default();
    let table = Recipe::new(size, members(&["a", "b", "c"], &[1, 2, 5], size)).table();
    let mut share: BTreeMap<u32, usize> = BTreeMap::new();
    table.iter().for_each(|id| *share.entry(*id).or_default() += 1);
    for (id, weight) in [(1, 1), (2, 2), (3, 5)] {
        let want = table.len() * weight / 8;
        assert!(share[&id].abs_diff(want) * 50 <= want, "{share:?}");
    }
}

#[test]
fn only_the_reference_s_sizes_are_allowed() {
    let all: BTreeSet<u32> = TableSize::ALLOWED.into();
    for places in 0..140_000 {
        assert_eq!(TableSize::new(places).is_ok(), all.contains(&places));
    }
    assert_eq!(all.into_iter().collect::<Vec<_>>(), abi::lb::MAGLEV_SIZES);
}
