//! After every single write, whatever the history: a packet finds the old service or the new one.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;
use core::net::IpAddr;

use abi::lb;
use abi::write::MapWrite;
use machine::Rng;
use types::Cidr;

use super::{Maps, Seen, addr, assert_same, key};
use crate::maglev::{Seed, TableSize};
use crate::{
    Algorithm, Attributes, Backend, BackendState, Config, Frontend, L4Addr, Node, Scope, ServiceSpec, ServiceType,
    Services, TrafficPolicy, together,
};

const CLIENTS: [[u8; 4]; 4] = [[1, 2, 3, 4], [1, 2, 9, 9], [7, 7, 7, 7], [8, 8, 8, 8]];
const RANGES: [&str; 4] = ["1.2.3.0/24", "1.2.0.0/16", "7.0.0.0/8", "fd00::/64"];

fn config(algorithm: Algorithm) -> Config {
    Config { algorithm, node: Node { name: "here".into(), ..Node::default() }, ..Config::default() }
}

fn maglev() -> Algorithm {
    Algorithm::Maglev { size: TableSize::new(251).expect("allowed"), seed: Seed::default() }
}

/// What a specification says should be found: computed from it alone.
fn wanted(spec: &ServiceSpec) -> BTreeSet<(IpAddr, u16)> {
    let local = match (spec.attributes.kind, spec.scope) {
        (ServiceType::ClusterIp, _) | (_, Scope::Internal) => spec.attributes.internal_policy,
        _ => spec.attributes.external_policy,
    } == TrafficPolicy::Local;
    let here: Vec<&Backend> = spec.backends.iter().filter(|b| !local || &*b.node_name == "here").collect();
    let of =
        |state| here.iter().filter(|b| b.state == state && b.weight != 0).map(|b| (b.addr.ip, b.addr.port)).collect();
    let active: BTreeSet<_> = of(BackendState::Active);
    if active.is_empty() { of(BackendState::Terminating) } else { active }
}

fn let_in(spec: &ServiceSpec, client: [u8; 4]) -> bool {
    let ranges = &spec.attributes.source_ranges;
    ranges.is_empty() || ranges.iter().any(|range| range.contains(IpAddr::from(client)))
}

fn random_spec(rng: &mut Rng) -> ServiceSpec {
    let v4 = rng.chance(2, 3);
    let ip = |n: u64| if v4 { alloc::format!("10.0.1.{n}") } else { alloc::format!("fd00::{n}") };
    let frontend = if v4 { "172.16.0." } else { "fd01::" };
    let frontend = addr(&alloc::format!("{frontend}{}", rng.below(2) + 1), 80);
    let mut members: Vec<u64> = (1..8).filter(|_| rng.chance(1, 2)).collect();
    rng.shuffle(&mut members);
    let states = [
        BackendState::Active,
        BackendState::Active,
        BackendState::Active,
        BackendState::Quarantined,
        BackendState::Terminating,
        BackendState::Maintenance,
    ];
    let backends = members
        .into_iter()
        .map(|n| Backend {
            state: *rng.pick(&states).expect("not empty"),
            weight: *rng.pick(&[100, 100, 100, 1, 7, 0]).expect("not empty"),
            node_name: if rng.chance(1, 2) { "here".into() } else { "there".into() },
            ..Backend::new(addr(&ip(n), 8080))
        })
        .collect();
    let policy = |rng: &mut Rng| if rng.chance(1, 4) { TrafficPolicy::Local } else { TrafficPolicy::Cluster };
    let mut ranges: Vec<Cidr> = Vec::new();
    if rng.chance(1, 3) {
        let text = RANGES[rng.below(4) as usize];
        ranges.push(text.parse().expect("a literal"));
        if rng.chance(1, 2) {
            ranges.push("8.8.8.8/32".parse().expect("a literal"));
        }
    }
    let attributes = Attributes {
        kind: *rng
            .pick(&[ServiceType::ClusterIp, ServiceType::NodePort, ServiceType::LoadBalancer])
            .expect("not empty"),
        external_policy: policy(rng),
        internal_policy: policy(rng),
        affinity_seconds: if rng.chance(1, 3) { 60 } else { 0 },
        source_ranges: ranges,
        ..Attributes::default()
    };
    let scope = if rng.chance(1, 4) { Scope::Internal } else { Scope::External };
    ServiceSpec { scope, attributes, ..ServiceSpec::new(frontend, backends) }
}

/// One frontend, old and new, against what a packet finds now.
fn check(maps: &Maps, key: &Frontend, old: Option<&ServiceSpec>, new: Option<&ServiceSpec>, maglev: bool) {
    let seen = maps.look(key);
    let either: BTreeSet<_> = old.iter().chain(&new).flat_map(|spec| wanted(spec)).collect();
    let Some(Seen { head, backends, table, affine }) = seen else {
        assert!(old.is_none() || new.is_none(), "the service was away");
        return;
    };
    assert!(old.is_some() || new.is_some(), "a service nobody asked for");
    assert!(backends.is_subset(&either), "{backends:?} of {either:?}");
    let sizes: Vec<usize> = old.iter().chain(&new).map(|spec| wanted(spec).len()).collect();
    assert!(sizes.contains(&usize::from(head.count)), "{} backends, neither old nor new: {sizes:?}", head.count);
    if let (Some(old), Some(new)) = (old, new) {
        let (old, new) = (wanted(old), wanted(new));
        let both: BTreeSet<_> = old.intersection(&new).copied().collect();
        assert!(backends.is_superset(&both), "{both:?} stay, {backends:?} are found");
    }
    if maglev && head.flags & lb::SERVICE_ROUTABLE != 0 && head.count > 0 && key.scope == Scope::External {
        let table = table.expect("a service for traffic from outside without a table");
        assert!(table.is_subset(&either), "the table names {table:?} of {either:?}");
    }
    if head.flags & lb::SERVICE_AFFINITY != 0 {
        let stay = |spec: Option<&ServiceSpec>| spec.is_some_and(|spec| spec.attributes.affinity_seconds != 0);
        if stay(old) && stay(new) {
            assert!(affine.is_superset(&backends), "a client of {backends:?} could come back to {affine:?} only");
        }
    }
    if key.addr.ip.is_ipv4() {
        for client in CLIENTS {
            let may: Vec<bool> = old.iter().chain(&new).map(|spec| let_in(spec, client)).collect();
            let is = maps.lets_in(key, client).expect("the service is there");
            assert!(may.contains(&is), "{client:?} is let in: {is}, neither old nor new");
        }
    }
}

fn all_settled(maps: &Maps, now: &BTreeMap<Frontend, ServiceSpec>, but: Option<&Frontend>, maglev: bool) {
    for (key, spec) in now.iter().filter(|(key, _)| Some(*key) != but) {
        assert_eq!(maps.look(key).map(|seen| seen.backends), Some(wanted(spec)), "another service");
        check(maps, key, Some(spec), Some(spec), maglev);
    }
}

fn history(seed: u64, algorithm: Algorithm) {
    let mut rng = Rng::new(seed);
    let is_maglev = algorithm != Algorithm::Random;
    let mut services = Services::new(config(algorithm));
    let mut maps = Maps::default();
    let mut now: BTreeMap<Frontend, ServiceSpec> = BTreeMap::new();
    for _ in 0..40 {
        let spec = random_spec(&mut rng);
        let key = spec.key();
        let old = now.get(&key).cloned();
        let delete = old.is_some() && rng.chance(1, 5);
        let planned = if delete {
            now.remove(&key);
            let id = services.by_key(&key).expect("it is there").id;
            services.delete(id).expect("it is there")
        } else {
            now.insert(key, spec.clone());
            services.put(spec.clone()).expect("valid")
        };
        let new = (!delete).then_some(&spec);
        maps.compute(&planned.tables);
        // Sometimes the agent dies on the way, and another one goes on from what is there.
        let dies_at = rng.chance(1, 6).then(|| rng.below(planned.writes.len() as u64 + 1) as usize);
        for (at, write) in planned.writes.iter().enumerate() {
            if dies_at == Some(at) {
                break;
            }
            maps.apply(*write);
            check(&maps, &key, old.as_ref(), new, is_maglev);
            all_settled(&maps, &now, Some(&key), is_maglev);
        }
        if dies_at.is_some() {
            services = restart(&mut maps, &now, algorithm, |maps| {
                check(maps, &key, old.as_ref(), new, is_maglev);
                all_settled(maps, &now, Some(&key), is_maglev);
            });
        }
        all_settled(&maps, &now, None, is_maglev);
        assert_same(&maps, &services);
    }
}

/// A new life over what an old one left: everything is taken up, then what differs is written, then the rest deleted.
fn restart(
    maps: &mut Maps,
    now: &BTreeMap<Frontend, ServiceSpec>,
    algorithm: Algorithm,
    mut after_each: impl FnMut(&Maps),
) -> Services {
    let mut services = Services::new(config(algorithm));
    services.remember(maps.entries.values());
    for spec in now.values() {
        services.put(spec.clone()).expect("valid");
    }
    maps.forget_numbers();
    maps.compute(&services.tables());
    let writes: Vec<MapWrite> = together([services.entries().collect()]);
    let keep: BTreeSet<MapWrite> = writes.iter().map(MapWrite::deletion).collect();
    let stale: Vec<MapWrite> = maps.entries.keys().filter(|key| !keep.contains(key)).copied().collect();
    for write in writes.into_iter().chain(together([stale])) {
        maps.apply(write);
        after_each(maps);
    }
    services.forget_remembered();
    services
}

#[test]
fn a_packet_finds_the_old_or_the_new_service_after_every_write() {
    for seed in 0..300 {
        history(seed, Algorithm::Random);
    }
}

#[test]
fn and_so_it_does_with_maglev_tables() {
    for seed in 0..60 {
        history(1_000 + seed, maglev());
    }
}

/// Many changes as one: each service is its old or its new self after every write.
#[test]
fn changes_that_are_brought_together_keep_every_service_whole() {
    for seed in 0..150 {
        let mut rng = Rng::new(seed);
        let algorithm = if seed % 5 == 0 { maglev() } else { Algorithm::Random };
        let is_maglev = algorithm != Algorithm::Random;
        let mut services = Services::new(config(algorithm));
        let mut maps = Maps::default();
        let mut now: BTreeMap<Frontend, ServiceSpec> = BTreeMap::new();
        for _ in 0..12 {
            let before = now.clone();
            let mut changes = Vec::new();
            let mut touched = BTreeSet::new();
            for _ in 0..1 + rng.below(4) {
                let spec = random_spec(&mut rng);
                if !touched.insert(spec.key()) {
                    continue;
                }
                let there = services.by_key(&spec.key()).map(|service| service.id);
                let planned = match there.filter(|_| rng.chance(1, 4)) {
                    Some(id) => {
                        now.remove(&spec.key());
                        services.delete(id).expect("it is there")
                    }
                    None => {
                        now.insert(spec.key(), spec.clone());
                        services.put(spec).expect("valid")
                    }
                };
                maps.compute(&planned.tables);
                changes.push(planned.writes);
            }
            for write in together(changes) {
                maps.apply(write);
                for key in before.keys().chain(now.keys()) {
                    check(&maps, key, before.get(key), now.get(key), is_maglev);
                }
            }
            all_settled(&maps, &now, None, is_maglev);
            assert_same(&maps, &services);
        }
    }
}

/// A restart over what is right writes nothing.
#[test]
fn what_is_right_is_not_written_again() {
    for seed in 0..50 {
        let mut rng = Rng::new(seed);
        let mut services = Services::new(config(Algorithm::Random));
        let mut maps = Maps::default();
        let mut now: BTreeMap<Frontend, ServiceSpec> = BTreeMap::new();
        for _ in 0..20 {
            let spec = random_spec(&mut rng);
            maps.carry_out(&services.put(spec.clone()).expect("valid"));
            now.insert(spec.key(), spec);
        }
        let before = maps.clone();
        let again = restart(&mut maps, &now, Algorithm::Random, |maps| assert!(maps.entries == before.entries));
        assert_eq!(again.len(), services.len());
        let one = L4Addr { port: 80, ..addr("172.16.0.1", 80) };
        let number = |services: &Services| services.by_key(&key(&one)).map(|service| service.id);
        assert_eq!(number(&again), number(&services));
    }
}
